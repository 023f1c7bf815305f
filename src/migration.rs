//! The nouns: version, migration, applied record, state. Values only: nothing here reads, writes or decides.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{Date, Duration, Month, Time, UtcDateTime};

use crate::sql::{Checksum, Script};

/// How a moment becomes a version.
const DIGITS: &[BorrowedFormatItem<'_>] =
    format_description!("[year][month][day][hour][minute][second]");

/// A migration's version: the 14 digits its file name begins with, as `date '+%Y%m%d%H%M%S'` prints them.
///
/// The history stores it in `name`, as bun does. There it may have fewer digits, as bun takes since 1.3.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Version {
    number: u64,
    digits: usize,
}

impl Version {
    pub const FIRST: Version = Version { number: 0, digits: 14 };

    /// The number with zeros in front; none if it has more digits.
    pub fn padded(number: u64) -> Option<Version> {
        Version::parse(&format!("{number:014}"))
    }

    /// Returns the version that `text` spells, if it is exactly 14 ASCII digits.
    pub fn parse(text: &str) -> Option<Version> {
        Version::read(text).filter(|it| !it.is_short())
    }

    /// Returns the version that `text` spells with fewer digits, which no file of ours has.
    pub fn short(text: &str) -> Option<Version> {
        Version::read(text).filter(|it| it.is_short())
    }

    fn read(text: &str) -> Option<Version> {
        let digits = text.len();
        let is_one = (1..=14).contains(&digits) && text.bytes().all(|it| it.is_ascii_digit());
        let number = text.parse().ok().filter(|_| is_one)?;
        Some(Version { number, digits })
    }

    pub fn is_short(self) -> bool {
        self.digits < 14
    }

    /// Returns true if and only if this is a short version, and its file would be called so here: zeros are put in front,
    /// or, of a date, behind.
    pub fn is_short_for(self, full: Version) -> bool {
        let filled = || self.number * 10u64.pow(14 - self.digits as u32);
        let is_date = self.digits >= 8 && full.is_date();
        self.is_short() && (self.number == full.number || is_date && filled() == full.number)
    }

    /// How far apart the digits are.
    pub fn distance(self, other: Version) -> u64 {
        self.number.abs_diff(other.number)
    }

    /// The version of a moment; none beyond the year 9999.
    pub fn at(moment: UtcDateTime) -> Option<Version> {
        Version::parse(&moment.format(DIGITS).ok()?)
    }

    /// Returns true if and only if the digits are a date and time of the Gregorian calendar.
    pub fn is_date(self) -> bool {
        self.moment().is_some()
    }

    fn moment(self) -> Option<UtcDateTime> {
        let field = |place: u32| (self.number / 10u64.pow(place) % 100) as u8;
        let year = i32::try_from(self.number / 10u64.pow(10)).ok()?;
        let date = Date::from_calendar_date(year, Month::try_from(field(8)).ok()?, field(6));
        // `date` prints a leap second as 60; here it is the second before it.
        let second = match field(0) {
            60 => 59,
            second => second,
        };
        Some(UtcDateTime::new(date.ok()?, Time::from_hms(field(4), field(2), second).ok()?))
    }

    /// Returns true if and only if it is a small number, or seconds since 1970, which zeros have filled up: no date of this
    /// era has so many zeros.
    pub fn is_counter(self) -> bool {
        self.number < 10_000_000_000
    }

    /// The next version: of a date, one second later; of other digits, the next number. None after the last.
    pub fn next(self) -> Option<Version> {
        match self.moment() {
            Some(moment) => Version::at(moment.checked_add(Duration::SECOND)?),
            None => Version::padded(self.number + 1),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:0width$}", self.number, width = self.digits)
    }
}

/// What a name in the history is that no file of ours can have.
pub fn foreign(name: &str) -> &'static str {
    match Version::short(name) {
        Some(_) => "a version of fewer than 14 digits, as bun takes since 1.3",
        None => "which is no version of 14 digits",
    }
}

/// Which way a migration is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// By its up file, and then it is recorded.
    Up,
    /// By its down file, and with it the record goes.
    Down,
}

impl Direction {
    /// What has been done to a migration.
    pub fn done(self) -> &'static str {
        match self {
            Direction::Up => "applied",
            Direction::Down => "rolled back",
        }
    }
}

/// The last part of a path, which is UTF-8 where it is a migration's name.
pub fn file_name(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or_default()
}

/// One migration file, read and understood: an up file, or, for whoever rolls back, a down file.
pub struct Migration {
    pub version: Version,
    /// Where the file is: the migrations directory as it was given, and the path below it.
    pub path: PathBuf,
    /// The file's text, without a byte-order mark.
    pub text: String,
    pub script: Script,
}

impl Migration {
    /// The file's name, as the log and the journal show it.
    pub fn file_name(&self) -> &str {
        file_name(&self.path)
    }

    /// The statements' texts.
    pub fn statements(&self) -> impl Iterator<Item = &str> {
        self.script.statements.iter().map(|it| &self.text[it.range()])
    }

    /// The text of the statement with this number, counted from 0.
    pub fn statement(&self, number: usize) -> Option<&str> {
        let statement = self.script.statements.get(number)?;
        Some(&self.text[statement.range()])
    }

    /// The checksum of the first statements, of a file that runs outside a transaction; of the whole file, if there are none.
    pub fn checksum_of(&self, count: usize) -> Checksum {
        let checksum = count.checked_sub(1).and_then(|it| self.script.checksums.get(it));
        *checksum.unwrap_or(&self.script.checksum)
    }
}

/// What a version is, judged by the files and the history.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum State {
    /// In the history and on disk, and unchanged as far as we know.
    Applied,
    /// On disk, not in the history, newer than all that is applied.
    Pending,
    /// On disk, not in the history, older than something applied.
    OutOfOrder,
    /// The file was edited after it was applied.
    Modified,
    /// Applied under another version, whose file is gone: somebody renamed it.
    Renamed,
    /// Applied, but its file is gone, though older and newer ones are there.
    Missing,
    /// Applied, and newer than every file: an older image meets a newer database.
    Ahead,
    /// Applied, and older than every file: squashed.
    Archived,
}

impl State {
    /// Every state, in the order of the enumeration.
    pub const ALL: [State; 8] = [
        State::Applied,
        State::Pending,
        State::OutOfOrder,
        State::Modified,
        State::Renamed,
        State::Missing,
        State::Ahead,
        State::Archived,
    ];

    /// Returns true if and only if it is to be run, if nothing forbids it.
    pub fn is_to_run(self) -> bool {
        matches!(self, State::Pending | State::OutOfOrder)
    }

    pub fn name(self) -> &'static str {
        match self {
            State::Applied => "applied",
            State::Pending => "pending",
            State::OutOfOrder => "out-of-order",
            State::Modified => "modified",
            State::Renamed => "renamed",
            State::Missing => "missing",
            State::Ahead => "ahead",
            State::Archived => "archived",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What the history says: a row of bun's table, and what our journal knows of it.
#[derive(Clone)]
pub struct Applied {
    pub version: Version,
    /// The row's, which tells the order in which migrations were applied.
    pub id: i64,
    /// What one run applied has one group; 0 if the row has none.
    pub group: i64,
    /// Unknown for what bun applied.
    pub checksum: Option<Checksum>,
}

/// A migration that a run started outside a transaction, and did not finish.
#[derive(Clone)]
pub struct Interrupted {
    pub version: Version,
    /// The application name of the session that ran it.
    pub runner: String,
    /// Of the file as that run knew it.
    pub checksum: Option<Checksum>,
    /// What it ran, without comments, if what it left is known by that; else empty.
    pub statement: Option<String>,
    /// How many of its statements were done before, for good. None if the journal does not tell, as an early one.
    pub done: Option<usize>,
    /// If it was the rollback of the migration that was started: the group that the record had, which it took back
    /// before it began.
    pub rollback: Option<i64>,
}

impl Interrupted {
    /// Returns true if and only if the statement with this number was started, as far as is known.
    pub fn had_started(&self, number: usize) -> bool {
        match self.done {
            Some(done) => done == number && self.statement.is_some(),
            None => number == 0,
        }
    }
}

/// All that the database knows about migrations, read in one snapshot.
#[derive(Clone, Default)]
pub struct History {
    /// In the order of their ids; shared, since a second look mostly finds the same.
    pub applied: Rc<[Applied]>,
    /// Names in bun's table that are no version, so that no file can ever match them.
    pub foreign: Vec<String>,
    /// What was started outside a transaction and not finished.
    pub interrupted: Vec<Interrupted>,
    /// The newest group in use; 0 if there is none.
    pub last_group: i64,
    /// The newest record's id, also of a name that is no version.
    pub newest_record: Option<i64>,
    /// The last id that the history's sequence gave; None if there is none, or it is not ours to see.
    pub last_id: Option<i64>,
}

impl History {
    /// The newest version that is recorded.
    pub fn newest(&self) -> Option<Version> {
        self.applied.iter().map(|it| it.version).max()
    }

    /// An id that every record which is made from now on exceeds: the newest record's, unless the sequence lags behind it,
    /// as it does where records were written with ids of their own.
    pub fn newest_id(&self) -> i64 {
        match (self.newest_record, self.last_id) {
            (None, last) => last.unwrap_or(0),
            (Some(newest), Some(last)) if last >= newest => newest,
            (Some(_), _) => i64::MIN,
        }
    }

    /// The ids of all records of a version.
    pub fn ids(&self, version: Version) -> Vec<i64> {
        self.applied.iter().filter(|it| it.version == version).map(|it| it.id).collect()
    }

    /// What was started of a version, and not finished.
    pub fn unfinished(&self, version: Version) -> Option<&Interrupted> {
        let mut interrupted = self.interrupted.iter();
        interrupted.find(|it| it.version == version)
    }

    /// The newest record of a version.
    pub fn record(&self, version: Version) -> Option<&Applied> {
        let mut records = self.applied.iter().rev();
        records.find(|it| it.version == version)
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
    fn a_short_version_stands_for_the_one_that_zeros_make_of_it() {
        for (short, full, stands) in [
            ("1", "00000000000001", true),
            ("0002", "00000000000002", true),
            ("2", "00000000000020", false),
            ("20240101", "00000020240101", true),
            ("20240101", "20240101000000", true),
            ("202401011530", "20240101153000", true),
            ("2024", "20240000000000", false),
            ("20241301", "20241301000000", false),
        ] {
            let version = Version::short(short).expect("fewer digits");
            assert_eq!(version.to_string(), short);
            let full = Version::parse(full).expect("fourteen digits");
            assert_eq!(version.is_short_for(full), stands, "{short} {full}");
            assert!(!full.is_short_for(full));
        }
        for text in ["20230314095813", "", "1a", "+1"] {
            assert_eq!(Version::short(text), None, "{text}");
        }
    }

    #[test]
    fn the_next_version_is_a_second_later() {
        for (version, next) in [
            ("20230320161721", Some("20230320161722")),
            ("20230320161759", Some("20230320161800")),
            ("20230320165959", Some("20230320170000")),
            ("20230320235959", Some("20230321000000")),
            ("20230228235959", Some("20230301000000")),
            ("20240228235959", Some("20240229000000")),
            ("20231231235959", Some("20240101000000")),
            ("20231231235960", Some("20240101000000")),
            ("99991231235959", None),
            ("00000000000001", Some("00000000000002")),
            ("20230320169999", Some("20230320170000")),
            ("99999999999999", None),
        ] {
            let version = Version::parse(version).expect("fourteen digits");
            let found = version.next().map(|it| it.to_string());
            assert_eq!(found.as_deref(), next, "{version}");
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
