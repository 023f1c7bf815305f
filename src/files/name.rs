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

/// The file name without what goes without saying.
pub fn short(file_name: &str) -> &str {
    let name = file_name.strip_suffix(".sql").unwrap_or(file_name);
    name.strip_suffix(".up").unwrap_or(name)
}

/// Returns true if and only if somebody means it to be a migration; other files are nobody's business.
pub fn is_sql(file_name: &str) -> bool {
    file_name.len() >= 4
        && file_name.as_bytes()[file_name.len() - 4..].eq_ignore_ascii_case(b".sql")
}

#[cfg(test)]
mod tests {
    use super::*;

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
