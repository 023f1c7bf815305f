//! The two files of a new migration: `lockstep new`.
//!
//! Several may be made at once, by several people or a script, under different names and so in different files; yet no
//! two may get one version. So a version is reserved first, by a file that is called after nothing else, and only
//! then looked at: whoever holds the reservation and finds no file of that version, or a later one, has it. A name that
//! begins with a dot is skipped by all that reads migrations. If we die meanwhile the reservation stays, and costs no
//! more than that second.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use time::UtcDateTime;

use super::walk::Walk;
use super::{Problem, name, refuse, unreadable};
use crate::migration::{Direction, Version};

/// What was made.
pub struct Created {
    /// The up file and the down file.
    pub files: [PathBuf; 2],
    /// Whether the directory was not there before.
    pub with_directory: bool,
}

/// What `wish` becomes as a migration's name: small letters, digits and dashes as they are, whatever else stands between
/// them as one underscore. None if nothing is left.
pub fn name_for(wish: &str) -> Option<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let words = wish.split(|c| !is_plain(c)).map(|word| word.trim_matches('-'));
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    (!words.is_empty()).then(|| words.join("_").to_ascii_lowercase())
}

/// Creates both files of a migration with this name, later than every other below `directory`, which is created if it is
/// not there. Nothing is overwritten, and there are both files afterwards or neither.
///
/// # Errors
///
/// A directory that cannot be read or written, a name that the system refuses.
pub fn create(directory: &Path, name: &str) -> Result<Created, Vec<Problem>> {
    let with_directory = matches!(directory.try_exists(), Ok(false));
    if with_directory {
        fs::create_dir_all(directory).map_err(|error| refused(directory, "directory", &error))?;
    }
    let mut version = following(directory, newest(directory)?, now())?;
    loop {
        let reservation = directory.join(format!(".{version}.new"));
        match write_new(&reservation, "") {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                version = following(directory, Some(version), version)?;
                continue;
            }
            Err(error) => return Err(refused(&reservation, "file", &error).into()),
        }
        let created = create_at(directory, version, name);
        // It has done its work, and would only ever cost one second.
        let _ = fs::remove_file(&reservation);
        if let Some(files) = created? {
            return Ok(Created { files, with_directory });
        }
        version = following(directory, newest(directory)?, version)?;
    }
}

/// Creates the files of this version, which is reserved, unless a file of it or of a later one has come meanwhile.
fn create_at(
    directory: &Path,
    version: Version,
    title: &str,
) -> Result<Option<[PathBuf; 2]>, Vec<Problem>> {
    if newest(directory)?.is_some_and(|newest| newest >= version) {
        return Ok(None);
    }
    let [up, down] =
        [Direction::Up, Direction::Down].map(|way| directory.join(name::of(version, title, way)));
    write_new(&up, UP_COMMENT).map_err(|error| refused(&up, "file", &error))?;
    write_new(&down, DOWN_COMMENT).map_err(|error| {
        let _ = fs::remove_file(&up);
        refused(&down, "file", &error)
    })?;
    Ok(Some([up, down]))
}

const UP_COMMENT: &str = "-- Runs in one transaction: no BEGIN, no COMMIT. CREATE INDEX CONCURRENTLY and its like stand alone in a file.\n";

const DOWN_COMMENT: &str =
    "-- Undoes what the .up.sql file beside it does, in reverse order, for `lockstep down`.\n";

/// The newest version that any `.sql` file below the directory begins with, also if the rest of its name is wrong.
fn newest(directory: &Path) -> Result<Option<Version>, Vec<Problem>> {
    let walk = Walk::new(directory, None);
    refuse(walk.problems)?;
    let names = walk.files.iter().filter_map(|it| it.file_name()).map(|it| it.to_string_lossy());
    Ok(names.filter(|it| name::is_sql(it)).filter_map(|it| name::version(&it)).max())
}

/// The version to take: that of `at_least`, or the one after the newest if that is later.
fn following(
    directory: &Path,
    newest: Option<Version>,
    at_least: Version,
) -> Result<Version, Problem> {
    match newest {
        Some(newest) if newest >= at_least => newest
            .next()
            .ok_or_else(|| Problem::new(directory, format!("no version comes after {newest}"))),
        _ => Ok(at_least),
    }
}

fn now() -> Version {
    // A clock beyond the year 9999 is as good as none: then the newest file decides.
    Version::at(UtcDateTime::now()).unwrap_or(Version::FIRST)
}

/// Writes a file that must not be there yet; leaves none if it cannot.
pub(super) fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes()).inspect_err(|_| {
        let _ = fs::remove_file(path);
    })
}

pub(super) fn refused(path: &Path, what: &str, error: &io::Error) -> Problem {
    let problem = match error.kind() {
        io::ErrorKind::NotADirectory => unreadable(what, error),
        _ => format!("the {what} cannot be created: {error}"),
    };
    Problem::new(path, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_becomes_a_name() {
        for (wish, name) in [
            ("add_author", Some("add_author")),
            ("Add Column é", Some("add_column")),
            ("  add   author to notes ", Some("add_author_to_notes")),
            ("add-author", Some("add-author")),
            ("-5", Some("5")),
            ("__a__b__", Some("a_b")),
            ("a/../../b", Some("a_b")),
            ("x\u{0}y\nz", Some("x_y_z")),
            ("ไทย 2", Some("2")),
            ("Ticket #12: Drop!", Some("ticket_12_drop")),
            ("ไทย", None),
            ("", None),
            ("_-_ -", None),
        ] {
            assert_eq!(name_for(wish).as_deref(), name, "{wish:?}");
        }
    }
}
