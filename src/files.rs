//! The migrations directory → sorted migrations, or every complaint about it at once.
//!
//! Files are read before connecting, because a bad file name should fail without a database. Each file is read, lexed
//! and hashed once. Down files are only looked at by name, until somebody rolls back: [`Downs`].

pub mod import;
pub mod name;
pub mod new;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::migration::{Direction, Migration, Version};
use crate::sql;

/// A file that cannot be used, and why.
#[derive(Debug)]
pub struct Problem {
    pub path: PathBuf,
    pub problem: String,
}

impl Problem {
    pub fn new(path: impl Into<PathBuf>, problem: impl Into<String>) -> Problem {
        let (path, problem) = (path.into(), problem.into());
        Problem { path, problem }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.problem)
    }
}

/// Reads every migration below `directory`, sorted by version.
///
/// # Errors
///
/// All that is wrong: a directory that cannot be read or has no migration, names that are no
/// migration's, two files of one version, a down file without its up file, text that is not UTF-8 or holds a NUL.
pub fn read(directory: &Path) -> Result<Vec<Migration>, Vec<Problem>> {
    read_with_downs(directory).map(|(migrations, _)| migrations)
}

/// Like [`read`], with the way to the down files.
///
/// # Errors
///
/// Like [`read`].
pub fn read_with_downs(directory: &Path) -> Result<(Vec<Migration>, Downs), Vec<Problem>> {
    let mut search = Search::default();
    search.walk(directory, &mut Vec::new());
    search.complain_of_names(directory);
    let downs = search.pair_downs();

    let mut migrations = Vec::with_capacity(search.ups.len());
    for (version, files) in std::mem::take(&mut search.ups) {
        match files.as_slice() {
            [file] => migrations.extend(search.load(version, file)),
            several => search.complain_of_duplicates(version, several, "up"),
        }
    }
    search.problems.append(&mut search.unreadable);
    if migrations.is_empty() && search.problems.is_empty() {
        search.complain(
            directory,
            "holds no migration: YYYYMMDDHHMMSS_name.up.sql is expected here or below",
        );
    }
    if search.problems.is_empty() {
        return Ok((migrations, downs));
    }
    search.problems.sort_by(|a, b| a.path.cmp(&b.path));
    Err(search.problems)
}

/// The down files, by the versions of their up files; nobody has read them yet.
pub struct Downs(BTreeMap<Version, Vec<Named>>);

impl Downs {
    /// Reads the down file of a version; none if there is none.
    ///
    /// # Errors
    ///
    /// What is wrong with it, or that there are several.
    pub fn read(&self, version: Version) -> Result<Option<Migration>, Problem> {
        let mut search = Search::default();
        let down = match self.0.get(&version).map(Vec::as_slice) {
            None => return Ok(None),
            Some([file]) => search.load(version, file),
            Some(several) => {
                search.complain_of_duplicates(version, several, "down");
                None
            }
        };
        match search.problems.pop() {
            Some(problem) => Err(problem),
            None => Ok(down),
        }
    }
}

/// A file whose name is a migration's.
struct Named {
    path: PathBuf,
    file_name: String,
    /// What stands between the version and the extension.
    name: String,
}

#[derive(Default)]
struct Search {
    ups: BTreeMap<Version, Vec<Named>>,
    downs: Vec<(Version, Named)>,
    /// The newest version that any name begins with, also if the rest of that name is wrong.
    newest: Option<Version>,
    /// Directories that could not be read, so that nothing is known of what is in them.
    unreadable: Vec<Problem>,
    /// All else that is wrong.
    problems: Vec<Problem>,
    /// The names that are no migration's, by how the right one is made of them, with the right one.
    misnamed: BTreeMap<Option<name::Mend>, Vec<(PathBuf, Option<String>)>>,
}

impl Search {
    fn complain(&mut self, path: &Path, problem: impl Into<String>) {
        self.problems.push(Problem::new(path, problem));
    }

    /// Collects the files below `directory`. `above` holds the real paths of the directories we are in, so that a
    /// symbolic link to one of them is not followed round and round.
    fn walk(&mut self, directory: &Path, above: &mut Vec<PathBuf>) {
        let entries = directory
            .canonicalize()
            .and_then(|real| Ok((real, fs::read_dir(directory)?)));
        let (real, entries) = match entries {
            Ok(entries) => entries,
            Err(error) => return self.complain_of_directory(directory, &error),
        };
        if above.contains(&real) {
            return;
        }
        above.push(real);
        for entry in entries {
            match entry {
                Ok(entry) => self.visit(&entry.path(), above),
                Err(error) => self.complain_of_directory(directory, &error),
            }
        }
        above.pop();
    }

    /// Complains of the names that are no migration's. A directory that holds another tool's files needs one answer a kind
    /// of name, not one a file.
    fn complain_of_names(&mut self, directory: &Path) {
        const FEW: usize = 3;
        let none_is_named = self.ups.is_empty() && self.downs.is_empty();
        for mut files in std::mem::take(&mut self.misnamed).into_values() {
            if !none_is_named || files.len() <= FEW {
                for (path, proposal) in files {
                    let proposal = proposal.map_or(String::new(), |it| format!("; call it {it}"));
                    self.complain(&path, format!("{BAD_NAME}{proposal}"));
                }
                continue;
            }
            files.sort();
            let (first, proposal) = &files[0];
            let proposal = proposal.as_ref();
            let proposal = proposal.map_or(String::new(), |it| format!(", to be called {it}"));
            let problem = format!(
                "holds {} SQL files without a migration's name ({} is the first{proposal}): \
                 YYYYMMDDHHMMSS_name.up.sql is expected; `lockstep import` brings another tool's files",
                files.len(),
                first.display()
            );
            self.complain(directory, problem);
        }
    }

    fn complain_of_directory(&mut self, directory: &Path, error: &io::Error) {
        let problem = unreadable("directory", error);
        self.unreadable.push(Problem::new(directory, problem));
    }

    fn visit(&mut self, path: &Path, above: &mut Vec<PathBuf>) {
        let Some(name) = path.file_name() else { return };
        // A Kubernetes volume keeps the real files in `..data` and its like, and links to them from beside it.
        if name.as_encoded_bytes().starts_with(b".") {
            return;
        }
        // What a file system keeps at its root is nobody's migration, and readable by root alone.
        if OF_FILE_SYSTEMS.iter().any(|it| name == *it) {
            return;
        }
        // Follows symbolic links.
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => self.walk(path, above),
            Ok(metadata) => self.take(path, &name.to_string_lossy(), &metadata),
            Err(error) if name::is_sql(&name.to_string_lossy()) => {
                self.complain(path, unreadable("file", &error));
            }
            Err(_) => {}
        }
    }

    /// Sorts the file in by its name; names that do not end in `.sql` are nobody's business.
    fn take(&mut self, path: &Path, file_name: &str, metadata: &fs::Metadata) {
        if !name::is_sql(file_name) {
            return;
        }
        self.newest = self.newest.max(name::version(file_name));
        if !metadata.is_file() {
            return self.complain(path, "neither a file nor a directory");
        }
        if metadata.len() > MAX_FILE_BYTES {
            let limit = MAX_FILE_BYTES >> 20;
            return self.complain(path, format!("is larger than {limit} MiB"));
        }
        let Some((version, name, direction)) = name::parse(file_name) else {
            let above = path.parent().and_then(Path::file_name).unwrap_or_default();
            let (mend, proposal) = name::proposed(&above.to_string_lossy(), file_name).unzip();
            let files = self.misnamed.entry(mend).or_default();
            return files.push((path.to_owned(), proposal));
        };
        let file = Named {
            path: path.to_owned(),
            file_name: file_name.to_owned(),
            name: name.to_owned(),
        };
        match direction {
            Direction::Up => self.ups.entry(version).or_default().push(file),
            Direction::Down => self.downs.push((version, file)),
        }
    }

    fn pair_downs(&mut self) -> Downs {
        let mut paired: BTreeMap<Version, Vec<Named>> = BTreeMap::new();
        for (version, down) in std::mem::take(&mut self.downs) {
            let ups = self.ups.get(&version).map_or(&[][..], Vec::as_slice);
            if ups.iter().any(|up| up.name == down.name) {
                paired.entry(version).or_default().push(down);
            } else {
                let expected = name::of(version, &down.name, Direction::Up);
                self.complain(
                    &down.path,
                    format!("a down file without its up file: {expected} is missing"),
                );
            }
        }
        Downs(paired)
    }

    fn complain_of_duplicates(&mut self, version: Version, files: &[Named], which: &str) {
        let mut paths: Vec<&Path> = files.iter().map(|it| it.path.as_path()).collect();
        paths.sort();
        let shown: Vec<String> = paths.iter().map(|it| it.display().to_string()).collect();
        let (count, shown) = (paths.len(), shown.join(", "));
        let problem = format!("version {version} has {count} {which} files: {shown}");
        self.complain(paths.first().unwrap_or(&Path::new("")), problem);
    }

    fn load(&mut self, version: Version, file: &Named) -> Option<Migration> {
        let mut text = match read_text(&file.path) {
            Ok(text) => text,
            Err(problem) => {
                self.complain(&file.path, problem);
                return None;
            }
        };
        if text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        text.shrink_to_fit();
        let script = sql::parse(&text).unwrapped(&text);
        Some(Migration {
            version,
            path: file.path.clone(),
            file_name: file.file_name.clone(),
            text,
            script,
        })
    }
}

const BAD_NAME: &str = "not a migration's name: YYYYMMDDHHMMSS_name.up.sql or .down.sql is expected, \
                        with 14 digits and a name of letters, digits, _ and -";

const OF_FILE_SYSTEMS: [&str; 4] = [
    "lost+found",
    "System Volume Information",
    "$RECYCLE.BIN",
    "@eaDir",
];

/// A file's text, or why it is none.
fn read_text(path: &Path) -> Result<String, String> {
    let line = |bytes: &[u8]| bytes.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let bytes = fs::read(path).map_err(|error| unreadable("file", &error))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = line(&error.as_bytes()[..at]);
        format!("line {line}: not UTF-8 (byte {} of the file)", at + 1)
    })?;
    match text.find('\0') {
        Some(at) => {
            let line = line(&text.as_bytes()[..at]);
            Err(format!("line {line}: a NUL, which PostgreSQL cannot take"))
        }
        None => Ok(text),
    }
}

/// A message of the protocol counts its length in 31 bits, and the server takes no statement above 1 GB.
const MAX_FILE_BYTES: u64 = 512 << 20;

fn unreadable(what: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!("no such {what} (MIGRATIONS_DIR says where migrations are)")
        }
        io::ErrorKind::NotADirectory => {
            "not a directory (MIGRATIONS_DIR says where migrations are)".to_owned()
        }
        _ if what == "directory" => format!(
            "the directory cannot be read: {error}; if it holds no migrations, set MIGRATIONS_DIR to what does"
        ),
        _ => format!("the {what} cannot be read: {error}"),
    }
}
