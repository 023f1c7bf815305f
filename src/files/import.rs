//! Another tool's directory, as it stands on the disk, and the directory that is made of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::new::write_new;
use super::{MAX_FILE_BYTES, Problem, read_text};
use crate::text::terminal::printable;

/// A file of another tool's.
#[derive(Debug)]
pub struct Found {
    /// Below the directory, with slashes.
    pub path: String,
    /// Of what we may read: SQL, and settings beside it.
    text: Option<String>,
}

impl Found {
    /// For tests of those who understand it.
    #[cfg(test)]
    pub fn new(path: &str, text: &str) -> Found {
        let (path, text) = (path.to_owned(), Some(text.to_owned()));
        Found { path, text }
    }

    pub fn text(&self) -> &str {
        self.text.as_deref().unwrap_or_default()
    }
}

/// Reads every file below a directory; names that begin with a dot are nobody's. Nothing outside of it is read.
///
/// # Errors
///
/// All that cannot be read, leads out of the directory, or cannot be shown.
pub fn read(directory: &Path) -> Result<Vec<Found>, Vec<Problem>> {
    let mut reader = Reader {
        root: match directory.canonicalize() {
            Ok(root) => root,
            Err(error) => return Err(vec![Problem::new(directory, describe(&error))]),
        },
        found: Vec::new(),
        problems: Vec::new(),
    };
    reader.walk(directory, "", 0);
    let Reader {
        mut found,
        mut problems,
        ..
    } = reader;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    problems.sort_by(|a, b| a.path.cmp(&b.path));
    match problems.is_empty() {
        true => Ok(found),
        false => Err(problems),
    }
}

/// Deeper than any tool's directories; a symbolic link to a directory above ends here.
const DEEPEST: usize = 16;

struct Reader {
    root: PathBuf,
    found: Vec<Found>,
    problems: Vec<Problem>,
}

impl Reader {
    fn walk(&mut self, directory: &Path, below: &str, depth: usize) {
        let entries = match fs::read_dir(directory) {
            Ok(entries) if depth < DEEPEST => entries,
            Ok(_) => {
                let why = "directories lead deeper than 16 levels: a symbolic link goes round?";
                return self.problems.push(Problem::new(directory, why));
            }
            Err(error) => {
                return self
                    .problems
                    .push(Problem::new(directory, describe(&error)));
            }
        };
        for entry in entries {
            match entry {
                Ok(entry) => self.visit(directory, &entry, below, depth),
                Err(error) => self
                    .problems
                    .push(Problem::new(directory, describe(&error))),
            }
        }
    }

    fn visit(&mut self, directory: &Path, entry: &fs::DirEntry, below: &str, depth: usize) {
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            return;
        }
        let Some(name) = name.to_str().filter(|it| printable(it) == *it) else {
            let why = format!("the name {name:?} holds what cannot be shown: rename it");
            return self.problems.push(Problem::new(directory, why));
        };
        let path = directory.join(name);
        let outcome = entry.file_type().and_then(|kind| {
            let is_within = !kind.is_symlink() || path.canonicalize()?.starts_with(&self.root);
            Ok((is_within, fs::metadata(&path)?))
        });
        let below = match below {
            "" => name.to_owned(),
            below => format!("{below}/{name}"),
        };
        match outcome {
            Err(error) => self.problems.push(Problem::new(&path, describe(&error))),
            Ok((false, metadata)) if metadata.is_dir() || is_read(&below) => {
                let why = "a symbolic link out of the directory: put the file itself here";
                self.problems.push(Problem::new(&path, why));
            }
            Ok((true, metadata)) if metadata.is_dir() => self.walk(&path, &below, depth + 1),
            Ok((_, metadata)) => self.take(&path, below, &metadata),
        }
    }

    fn take(&mut self, path: &Path, below: String, metadata: &fs::Metadata) {
        if !is_read(&below) {
            let text = None;
            return self.found.push(Found { path: below, text });
        }
        if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
            let why = "no file, or one above 512 MiB";
            return self.problems.push(Problem::new(path, why));
        }
        match read_text(path) {
            Ok(text) => {
                let text = Some(text);
                self.found.push(Found { path: below, text });
            }
            Err(why) => self.problems.push(Problem::new(path, why)),
        }
    }
}

/// Returns true if and only if the text of such a file is of interest.
fn is_read(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    [".sql", ".sql.conf", "metadata.toml"]
        .iter()
        .any(|end| path.ends_with(end))
}

fn describe(error: &io::Error) -> String {
    format!("cannot be read: {error}")
}

/// Looks whether files may be written into the directory: it is absent, or empty.
///
/// # Errors
///
/// It is not.
pub fn is_free(directory: &Path) -> Result<(), Vec<Problem>> {
    let mut entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(vec![Problem::new(directory, describe(&error))]),
    };
    match entries.next() {
        None => Ok(()),
        Some(_) => {
            let why = "not empty: MIGRATIONS_DIR is where the migrations are written to, and must be absent or empty";
            Err(vec![Problem::new(directory, why)])
        }
    }
}

/// Writes the files into the directory, which is free; all of them, or none. They are written beside it and then moved to
/// their place at once; if that cannot be (the directory is a mount point, say), into it, one after the other.
///
/// # Errors
///
/// What cannot be created; then nothing stays.
pub fn write(directory: &Path, files: &[(String, &str)]) -> Result<(), Vec<Problem>> {
    is_free(directory)?;
    let refused = |path: &Path, error: &io::Error| {
        vec![Problem::new(path, format!("cannot be created: {error}"))]
    };
    // A symbolic link to an empty directory stays one.
    let target = directory.canonicalize();
    let is_there = target.is_ok();
    let target = target.unwrap_or_else(|_| directory.to_owned());
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let beside = target.with_file_name(format!(".{name}.import-{}", std::process::id()));
    let parent = target.parent().filter(|it| !it.as_os_str().is_empty());
    if let Some(parent) = parent {
        fs::create_dir_all(parent).map_err(|error| refused(parent, &error))?;
    }
    let moved = fs::create_dir(&beside)
        .map_err(|error| (beside.clone(), error))
        .and_then(|()| fill(&beside, files))
        .and_then(|()| fs::rename(&beside, &target).map_err(|error| (target.clone(), error)))
        .inspect_err(|_| {
            let _ = fs::remove_dir_all(&beside);
        });
    match moved {
        Err(_) if is_there => fill(&target, files),
        moved => moved,
    }
    .map_err(|(path, error)| refused(&path, &error))
}

/// Writes all files into a directory, or leaves it as it was.
fn fill(directory: &Path, files: &[(String, &str)]) -> Result<(), (PathBuf, io::Error)> {
    let mut written = Vec::new();
    for (name, text) in files {
        let path = directory.join(name);
        if let Err(error) = write_new(&path, text) {
            for path in &written {
                let _ = fs::remove_file(path);
            }
            return Err((path, error));
        }
        written.push(path);
    }
    Ok(())
}
