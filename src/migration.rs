//! The nouns: version, migration, applied record, state. Values only: nothing here reads, writes or decides.

use std::fmt;
use std::path::PathBuf;

use crate::script::{Checksum, Script};

/// A migration's version: the 14 digits its file name begins with, as `date '+%Y%m%d%H%M%S'` prints them.
///
/// The history stores it in `name`, as bun does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Version(u64);

impl Version {
    pub const FIRST: Version = Version(0);

    /// Returns the version that `text` spells, if it is exactly 14 ASCII digits.
    pub fn parse(text: &str) -> Option<Version> {
        if text.len() != 14 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        text.parse().ok().map(Version)
    }

    /// The next version: the next second, if the digits are a date and time, else the next number. None after the last.
    pub fn next(self) -> Option<Version> {
        const END: u64 = 10u64.pow(14);
        let plain = Version(self.0 + 1);
        if !self.is_date() {
            return Some(plain).filter(|next| next.0 < END);
        }
        // The second, the minute, the hour, the day and the month: where each begins, and what it begins with.
        let mut next = plain;
        for (unit, first) in [
            (1, 0),
            (100, 0),
            (10_000, 0),
            (1_000_000, 1),
            (100_000_000, 1),
        ] {
            let is_leap_second = next.0 % 100 == 60;
            if next.is_date() && !is_leap_second {
                return Some(next);
            }
            let above = unit * 100;
            let below = next.0 % unit;
            next = Version((next.0 / above + 1) * above + first * unit + below);
        }
        // Past the last day of the year 9999 there is no date of 14 digits.
        Some(if next.0 < END { next } else { plain })
    }

    /// Returns true if and only if the digits are a date and time of the Gregorian calendar.
    pub fn is_date(self) -> bool {
        let field = |from: u32, digits: u32| (self.0 / 10u64.pow(from) % 10u64.pow(digits)) as u32;
        let (year, month, day) = (field(10, 4), field(8, 2), field(6, 2));
        let leap =
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let days = match month {
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            1..=12 => 31,
            _ => 0,
        };
        // `date` prints a leap second as 60.
        (1..=days).contains(&day) && field(4, 2) < 24 && field(2, 2) < 60 && field(0, 2) <= 60
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:014}", self.0)
    }
}

/// One migration file, read and understood.
pub struct Migration {
    pub version: Version,
    /// Where the file is: the migrations directory as it was given, and the path below it.
    pub path: PathBuf,
    /// The file's name, as the log and the journal show it.
    pub file_name: String,
    /// The file's text, without a byte-order mark.
    pub text: String,
    pub script: Script,
}

/// What the history says: a row of bun's table, and what our journal knows of it.
pub struct Applied {
    pub version: Version,
    /// Unknown for what bun applied.
    pub checksum: Option<Checksum>,
}

/// A migration that a run started outside a transaction, and did not finish.
pub struct Interrupted {
    pub version: Version,
    /// The application name of the session that ran it.
    pub runner: String,
    /// Of the file as that run knew it.
    pub checksum: Option<Checksum>,
    /// The index that it was to build, and its table.
    pub index: Option<(String, String)>,
}

/// All that the database knows about migrations, read in one snapshot.
#[derive(Default)]
pub struct History {
    pub applied: Vec<Applied>,
    /// Names in bun's table that are no version, so that no file can ever match them.
    pub foreign: Vec<String>,
    /// What was started outside a transaction and not finished.
    pub interrupted: Vec<Interrupted>,
    /// The newest group in use; 0 if there is none.
    pub last_group: i64,
}

impl History {
    /// The newest version that is recorded.
    pub fn newest(&self) -> Option<Version> {
        self.applied.iter().map(|it| it.version).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_fourteen_digits() {
        for (text, is_version) in [
            ("20230314095813", true),
            ("00000000000001", true),
            ("99999999999999", true),
            ("2023031409581", false),
            ("202303140958130", false),
            ("2023031409581a", false),
            ("+2023031409581", false),
            ("２０２３", false),
            ("", false),
        ] {
            let version = Version::parse(text);
            assert_eq!(version.is_some(), is_version, "{text}");
            assert!(version.is_none_or(|version| version.to_string() == text));
        }
    }

    #[test]
    fn the_next_version_is_the_next_second() {
        for (text, next) in [
            ("20230314095813", Some("20230314095814")),
            ("20230314095859", Some("20230314095900")),
            ("20230314095860", Some("20230314095900")),
            ("20230314095959", Some("20230314100000")),
            ("20230314235959", Some("20230315000000")),
            ("20230228235959", Some("20230301000000")),
            ("20240228235959", Some("20240229000000")),
            ("20240229235959", Some("20240301000000")),
            ("20231231235959", Some("20240101000000")),
            ("20231231235960", Some("20240101000000")),
            ("99991231235959", Some("99991231235960")),
            // No dates.
            ("00000000000001", Some("00000000000002")),
            ("00000000000099", Some("00000000000100")),
            ("20231301000000", Some("20231301000001")),
            ("99991231235960", Some("99991231235961")),
            ("99999999999999", None),
        ] {
            let version = Version::parse(text).expect("fourteen digits");
            let next = next.map(|next| Version::parse(next).expect("fourteen digits"));
            assert_eq!(version.next(), next, "{text}");
            assert!(next.is_none_or(|next| next > version));
        }
    }

    #[test]
    fn knows_a_date_from_other_digits() {
        for (text, is_date) in [
            ("20230314095813", true),
            ("20240229235960", true),
            ("20000229000000", true),
            ("19000229000000", false),
            ("20230229000000", false),
            ("20231301000000", false),
            ("20230431000000", false),
            ("20230100000000", false),
            ("20230101240000", false),
            ("20230101006000", false),
            ("20230101000061", false),
            ("00000000000001", false),
        ] {
            let version = Version::parse(text).expect("fourteen digits");
            assert_eq!(version.is_date(), is_date, "{text}");
        }
    }
}
