//! The migrations directory → sorted migrations, or every complaint about it at once.
//!
//! Files are read before connecting, because a bad file name should fail without a database. Each file is read, lexed
//! and hashed once. Down files are only looked at by name, until somebody rolls back: [`Downs`].

pub mod import;
pub mod name;
pub mod new;
mod walk;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};

use self::walk::Walk;
use crate::migration::{Direction, Migration, Version, file_name};
use crate::sql;
use crate::text::words::joined;

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

impl From<Problem> for Vec<Problem> {
    fn from(only: Problem) -> Vec<Problem> {
        vec![only]
    }
}

/// Fails if there are problems: with all of them, sorted by path.
pub fn refuse(problems: impl IntoIterator<Item = Problem>) -> Result<(), Vec<Problem>> {
    let mut problems: Vec<Problem> = problems.into_iter().collect();
    problems.sort_by(|a, b| a.path.cmp(&b.path));
    if problems.is_empty() { Ok(()) } else { Err(problems) }
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
    let walk = Walk::new(directory, None);
    let mut search = Search { problems: walk.problems, ..Search::default() };
    walk.files.into_iter().for_each(|path| search.take(path));
    search.complain_of_names(directory);
    let downs = search.pair_downs();
    let Search { ups, mut problems, .. } = search;
    let same = |a: &Named, b: &Named| a.version == b.version;
    problems.extend(ups.chunk_by(same).filter_map(|files| clash(files, "up")));
    let read = ups.into_iter().map(read_one);
    let good = read.filter_map(|it| it.map_err(|problem| problems.push(problem)).ok());
    let migrations: Vec<Migration> = good.collect();
    if migrations.is_empty() && problems.is_empty() {
        let none = "holds no migration: YYYYMMDDHHMMSS_name.up.sql is expected here or below";
        problems.push(Problem::new(directory, none));
    }
    refuse(problems)?;
    Ok((migrations, downs))
}

/// The down files, sorted; nobody has read them yet.
pub struct Downs(Vec<Named>);

impl Downs {
    /// Reads the down file of a version; none if there is none.
    ///
    /// # Errors
    ///
    /// What is wrong with it, or that there are several.
    pub fn read(&self, version: Version) -> Result<Option<Migration>, Problem> {
        let files = of(&self.0, version);
        match clash(files, "down") {
            Some(problem) => Err(problem),
            None => files.first().cloned().map(read_one).transpose(),
        }
    }
}

/// A file whose name is a migration's.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    version: Version,
    path: PathBuf,
}

impl Named {
    /// What stands between the version and the extension.
    fn name(&self) -> &str {
        name::bare(file_name(&self.path))
    }
}

/// Those of a version, among sorted ones.
fn of(files: &[Named], version: Version) -> &[Named] {
    let rest = &files[files.partition_point(|it| it.version < version)..];
    &rest[..rest.partition_point(|it| it.version == version)]
}

#[derive(Default)]
struct Search {
    ups: Vec<Named>,
    downs: Vec<Named>,
    problems: Vec<Problem>,
    /// The names that are no migration's, by how the right one is made of them, with the right one.
    misnamed: BTreeMap<Option<name::Mend>, Vec<(PathBuf, Option<String>)>>,
}

impl Search {
    /// Sorts the file in by its name; names that do not end in `.sql` are nobody's business.
    fn take(&mut self, path: PathBuf) {
        let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name::is_sql(&file_name) {
            return;
        }
        let Some((version, _, direction)) = name::parse(&file_name) else {
            let above = path.parent().and_then(Path::file_name).unwrap_or_default();
            let (mend, proposal) = name::proposed(&above.to_string_lossy(), &file_name).unzip();
            return self.misnamed.entry(mend).or_default().push((path, proposal));
        };
        let file = Named { version, path };
        match direction {
            Direction::Up => self.ups.push(file),
            Direction::Down => self.downs.push(file),
        }
    }

    /// Complains of the names that are no migration's. A directory that holds another tool's files needs one answer a kind
    /// of name, not one a file.
    fn complain_of_names(&mut self, directory: &Path) {
        const FEW: usize = 3;
        let none_is_named = self.ups.is_empty() && self.downs.is_empty();
        let told = |proposal: &Option<String>, words: &str| match proposal {
            Some(proposal) => format!("{words} {proposal}"),
            None => String::new(),
        };
        for mut files in mem::take(&mut self.misnamed).into_values() {
            if !none_is_named || files.len() <= FEW {
                self.problems.extend(files.iter().map(|(path, proposal)| {
                    let proposal = told(proposal, "; call it");
                    Problem::new(path, format!("{BAD_NAME}{proposal}"))
                }));
                continue;
            }
            files.sort();
            let (first, proposal) = &files[0];
            let problem = format!(
                "holds {} SQL files without a migration's name ({} is the first{}): \
                 YYYYMMDDHHMMSS_name.up.sql is expected; `lockstep import` brings another tool's files",
                files.len(),
                first.display(),
                told(proposal, ", to be called")
            );
            self.problems.push(Problem::new(directory, problem));
        }
    }

    /// Sorts up and down files, and lets go, with a complaint, of those down that have no file up.
    fn pair_downs(&mut self) -> Downs {
        self.ups.sort();
        self.downs.sort();
        let is_paired =
            |down: &Named| of(&self.ups, down.version).iter().any(|up| up.name() == down.name());
        let (paired, single): (Vec<Named>, Vec<Named>) =
            mem::take(&mut self.downs).into_iter().partition(is_paired);
        self.problems.extend(single.into_iter().map(|down| {
            let expected = name::of(down.version, down.name(), Direction::Up);
            let problem = format!("a down file without its up file: {expected} is missing");
            Problem::new(down.path, problem)
        }));
        Downs(paired)
    }
}

/// Complains of several files of one version.
fn clash(files: &[Named], which: &str) -> Option<Problem> {
    let [first, _, ..] = files else { return None };
    let shown = joined(files.iter().map(|it| it.path.display()), ", ");
    let (version, count) = (first.version, files.len());
    Some(Problem::new(&first.path, format!("version {version} has {count} {which} files: {shown}")))
}

fn read_one(file: Named) -> Result<Migration, Problem> {
    let Named { version, mut path } = file;
    let mut text = read_text(&path).map_err(|problem| Problem::new(&path, problem))?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    // A migration is kept as long as the run takes.
    text.shrink_to_fit();
    path.shrink_to_fit();
    let script = sql::parse(&text).unwrapped(&text);
    Ok(Migration { version, path, text, script })
}

const BAD_NAME: &str = "not a migration's name: YYYYMMDDHHMMSS_name.up.sql or .down.sql is expected, \
                        with 14 digits and a name of letters, digits, _ and -";

/// A file's text, or why it is none.
fn read_text(path: &Path) -> Result<String, String> {
    let failed = |error: io::Error| unreadable("file", &error);
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err("neither a file nor a directory".to_owned());
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(format!("is larger than {} MiB", MAX_FILE_BYTES >> 20));
    }
    let line = |bytes: &[u8]| bytes.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let text = String::from_utf8(fs::read(path).map_err(failed)?).map_err(|error| {
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
