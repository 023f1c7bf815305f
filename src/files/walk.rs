//! What is below a directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Problem, unreadable};

/// The files below a directory. Names that begin with a dot are nobody's: a Kubernetes volume keeps the real files in
/// `..data` and its like, and links to them from beside it. What a file system keeps at its root is nobody's either, and
/// readable by root alone.
#[derive(Default)]
pub(super) struct Walk {
    pub files: Vec<PathBuf>,
    /// Directories that could not be read, so that nothing is known of what is in them.
    pub problems: Vec<Problem>,
    /// If set, it is a problem if a link leads out of this directory, or round.
    within: Option<PathBuf>,
    /// The real paths of the directories we are in, so that a link to one of them is not followed round and round.
    above: Vec<PathBuf>,
}

const OF_FILE_SYSTEMS: [&str; 4] =
    ["lost+found", "System Volume Information", "$RECYCLE.BIN", "@eaDir"];

impl Walk {
    /// Looks at all that is below a directory, wherever links lead; or no further than below `within`, a real path.
    pub fn new(directory: &Path, within: Option<PathBuf>) -> Walk {
        let mut walk = Walk { within, ..Walk::default() };
        walk.enter(directory);
        walk
    }

    fn enter(&mut self, directory: &Path) {
        let opened = directory.canonicalize().and_then(|real| Ok((real, fs::read_dir(directory)?)));
        let (real, entries) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.complain(directory, &error),
        };
        let goes_round = self.above.contains(&real);
        match &self.within {
            Some(root) if goes_round || !real.starts_with(root) => {
                let why = "a symbolic link leads out of the directory, or goes round";
                return self.complain(directory, &io::Error::other(why));
            }
            _ if goes_round => return,
            _ => self.above.push(real),
        }
        for entry in entries {
            match entry {
                Ok(entry) => self.visit(entry.path()),
                Err(error) => self.complain(directory, &error),
            }
        }
        self.above.pop();
    }

    fn visit(&mut self, path: PathBuf) {
        let name = path.file_name().unwrap_or_default();
        let is_hidden = name.as_encoded_bytes().starts_with(b".");
        if is_hidden || OF_FILE_SYSTEMS.iter().any(|it| name == *it) {
            return;
        }
        // Follows symbolic links.
        if path.is_dir() { self.enter(&path) } else { self.files.push(path) }
    }

    fn complain(&mut self, directory: &Path, error: &io::Error) {
        let problem = match self.within {
            Some(_) => format!("cannot be read: {error}"),
            None => unreadable("directory", error),
        };
        self.problems.push(Problem::new(directory, problem));
    }
}
