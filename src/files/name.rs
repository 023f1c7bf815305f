//! The grammar of file names, here and nowhere else: `YYYYMMDDHHMMSS_name.up.sql` and `.down.sql`, and with `.tx` before
//! that, bun's spelling of "in a transaction", which every file of ours is.

use crate::migration::{Direction, Version};

const EXTENSIONS: [(&str, Direction); 4] = [
    (".tx.up.sql", Direction::Up),
    (".up.sql", Direction::Up),
    (".tx.down.sql", Direction::Down),
    (".down.sql", Direction::Down),
];

/// A migration's version, its name and its direction; none if it is no migration's file name.
pub fn parse(file_name: &str) -> Option<(Version, &str, Direction)> {
    let (stem, direction) = EXTENSIONS.iter().find_map(|(extension, direction)| {
        Some((file_name.strip_suffix(extension)?, *direction))
    })?;
    let (digits, name) = stem.split_once('_')?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let version = Version::parse(digits)?;
    (!name.is_empty() && name.bytes().all(plain)).then_some((version, name, direction))
}

/// How the right name is made of a wrong one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mend {
    /// It is the directory's.
    Directory,
    /// Zeros fill up the digits.
    Pad,
    /// It lacks `.up`.
    Up,
}

/// The name that a file was meant to have, where that is certain: 14 digits and no `.up`; a directory with digits and a
/// name, as diesel and Prisma make; fewer digits than 14, which zeros fill up. `above` is the directory that it is in.
pub fn proposed(above: &str, file_name: &str) -> Option<(Mend, String)> {
    let digits = file_name.bytes().take_while(u8::is_ascii_digit).count();
    let (mend, stem, end) = match file_name {
        "migration.sql" | "up.sql" => (Mend::Directory, without_dashes(above), ".up.sql"),
        "down.sql" => (Mend::Directory, without_dashes(above), ".down.sql"),
        // A counter, or seconds since 1970; more digits are a date that is not whole, or one with a digit lost.
        _ if (1..=10).contains(&digits) => (Mend::Pad, "0".repeat(14 - digits), file_name),
        _ => (Mend::Up, file_name.strip_suffix(".sql")?.to_owned(), ".up.sql"),
    };
    let name = stem + end;
    parse(&name).is_some().then_some((mend, name))
}

/// diesel's `2024-01-31-235959_name` with the digits together.
fn without_dashes(directory: &str) -> String {
    match directory.split_once('_') {
        Some((digits, name)) => format!("{}_{name}", digits.replace('-', "")),
        None => String::new(),
    }
}

/// The version that the name begins with, also if the rest is wrong.
pub fn version(file_name: &str) -> Option<Version> {
    file_name.get(..14).and_then(Version::parse)
}

/// The file name of a migration.
pub fn of(version: Version, name: &str, direction: Direction) -> String {
    let way = match direction {
        Direction::Up => "up",
        Direction::Down => "down",
    };
    format!("{version}_{name}.{way}.sql")
}

/// The migration's name, and its version behind it.
pub fn title(file_name: &str) -> String {
    match parse(file_name) {
        Some((version, name, _)) => format!("{name} {version}"),
        None => file_name.to_owned(),
    }
}

/// The migration's name alone.
pub fn bare(file_name: &str) -> &str {
    parse(file_name).map_or(file_name, |(_, name, _)| name)
}

/// Returns true if and only if somebody means it to be a migration; other files are nobody's business.
pub fn is_sql(file_name: &str) -> bool {
    file_name.to_ascii_lowercase().ends_with(".sql")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_name_is_proposed_where_it_is_certain() {
        for (above, file_name, proposal) in [
            ("m", "20240101000000_x.sql", Some("20240101000000_x.up.sql")),
            ("20240101000009_y", "migration.sql", Some("20240101000009_y.up.sql")),
            ("2024-01-01-000000_x", "up.sql", Some("20240101000000_x.up.sql")),
            ("2024-01-01-000000_x", "down.sql", Some("20240101000000_x.down.sql")),
            ("m", "1510262030_x.up.sql", Some("00001510262030_x.up.sql")),
            ("m", "0001_x.down.sql", Some("00000000000001_x.down.sql")),
            ("m", "001_x.sql", None),
            ("m", "20240101000000.sql", None),
            ("m", "20240101000000123_x.up.sql", None),
            ("m", "20240101000000_a.b.up.sql", None),
            ("m", "V1__x.sql", None),
            ("m", "up.sql", None),
        ] {
            assert_eq!(
                proposed(above, file_name).map(|(_, name)| name).as_deref(),
                proposal,
                "{file_name}"
            );
        }
    }

    #[test]
    fn a_name_is_read_as_it_is_written() {
        let version = Version::parse("20240131235959").expect("fourteen digits");
        for direction in [Direction::Up, Direction::Down] {
            let written = of(version, "a_b-C9", direction);
            assert_eq!(parse(&written), Some((version, "a_b-C9", direction)));
        }
        let tx = "20240131235959_a.tx.down.sql";
        assert_eq!(parse(tx), Some((version, "a", Direction::Down)));
        for wrong in [
            "20240131235959.up.sql",
            "20240131235959_.up.sql",
            "2024013123595_a.up.sql",
            "20240131235959_a b.up.sql",
            "20240131235959_a.sql",
            "20240131235959_a.UP.sql",
            "a_20240131235959.up.sql",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
