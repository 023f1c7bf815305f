//! Another tool's directory, as it stands on the disk, and the directory that is made of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::new::{refused, write_new};
use super::walk::Walk;
use super::{Problem, read_text, refuse};
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
    let root =
        directory.canonicalize().map_err(|error| Problem::new(directory, describe(&error)))?;
    let mut walk = Walk::new(directory, Some(root.clone()));
    let taken = walk.files.iter().map(|path| take(path, directory, &root));
    let good = taken.filter_map(|it| it.map_err(|why| walk.problems.push(why)).ok());
    let mut found: Vec<Found> = good.collect();
    refuse(walk.problems)?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn take(file: &Path, directory: &Path, root: &Path) -> Result<Found, Problem> {
    let names = file.strip_prefix(directory).into_iter().flatten();
    let names: Vec<&str> = names.map(|it| it.to_str().unwrap_or("\0")).collect();
    let path = names.join("/");
    if printable(&path) != path {
        let name = file.file_name().unwrap_or_default();
        let why = format!("the name {name:?} holds what cannot be shown: rename it");
        return Err(Problem::new(directory, why));
    }
    if !is_read(&path) {
        return Ok(Found { path, text: None });
    }
    let text = match file.canonicalize() {
        Ok(real) if !real.starts_with(root) => {
            Err("a symbolic link out of the directory: put the file itself here".to_owned())
        }
        Ok(_) => read_text(file),
        Err(error) => Err(describe(&error)),
    };
    let text = text.map_err(|why| Problem::new(file, why))?;
    Ok(Found { path, text: Some(text) })
}

/// Returns true if and only if the text of such a file is of interest.
fn is_read(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    [".sql", ".sql.conf", "metadata.toml"].iter().any(|end| path.ends_with(end))
}

fn describe(error: &io::Error) -> String {
    format!("cannot be read: {error}")
}

/// Looks whether files may be written into the directory: it is absent, or empty.
///
/// # Errors
///
/// It is not.
pub fn is_free(directory: &Path) -> Result<(), Problem> {
    let why = match fs::read_dir(directory).map(|mut entries| entries.next().is_none()) {
        Ok(true) => return Ok(()),
        Ok(false) => {
            "not empty: MIGRATIONS_DIR is where the migrations are written to, and must be absent or empty".to_owned()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => describe(&error),
    };
    Err(Problem::new(directory, why))
}

/// Writes the files into the directory, which is free; all of them, or none. They are written beside it and then moved to
/// their place at once; if that cannot be (the directory is a mount point, say), into it, one after the other.
///
/// # Errors
///
/// What cannot be created; then nothing stays.
pub fn write(directory: &Path, files: &[(String, &str)]) -> Result<(), Vec<Problem>> {
    is_free(directory)?;
    // A symbolic link to an empty directory stays one.
    let target = directory.canonicalize();
    let is_there = target.is_ok();
    let target = target.unwrap_or_else(|_| directory.to_owned());
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let beside = target.with_file_name(format!(".{name}.import-{}", std::process::id()));
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(|error| refused(parent, "directory", &error))?;
    }
    let moved = fs::create_dir(&beside)
        .map_err(|error| refused(&beside, "directory", &error))
        .and_then(|()| fill(&beside, files))
        .and_then(|()| {
            fs::rename(&beside, &target).map_err(|error| refused(&target, "directory", &error))
        })
        .inspect_err(|_| {
            let _ = fs::remove_dir_all(&beside);
        });
    match moved {
        Err(_) if is_there => Ok(fill(&target, files)?),
        moved => Ok(moved?),
    }
}

/// Writes all files into a directory, or leaves it as it was.
fn fill(directory: &Path, files: &[(String, &str)]) -> Result<(), Problem> {
    let paths: Vec<PathBuf> = files.iter().map(|(name, _)| directory.join(name)).collect();
    for (number, (path, (_, text))) in paths.iter().zip(files).enumerate() {
        write_new(path, text).map_err(|error| {
            for written in &paths[..number] {
                let _ = fs::remove_file(written);
            }
            refused(path, "file", &error)
        })?;
    }
    Ok(())
}
