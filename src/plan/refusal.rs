//! Why nothing is run: what history and files disagree about, what cannot be run from a file, what has no way back.

use std::fmt;

use super::split::Remedy;
use crate::files::Problem;
use crate::migration::{State, Version};
use crate::sql::{Annotation, ObstacleKind, Partitioned};

/// Every reason not to run what is pending.
#[derive(Debug)]
pub struct Refusal {
    pub divergences: Vec<Divergence>,
    pub obstructions: Vec<Obstruction>,
}

/// Why nothing is rolled back.
#[derive(Debug)]
pub enum WayBack {
    /// More was asked for than there is.
    TooFew { asked: usize, recorded: usize },
    /// While `down` waited for the lock, these were applied, and nobody has asked to roll them back.
    NewerApplied(Vec<Version>),
    /// What is to be rolled back cannot be: every complaint at once.
    None(Vec<Objection>),
}

/// A disagreement between history and files: a version that is modified, renamed, missing, or, under
/// `MIGRATION_ORDER=strict`, out-of-order.
#[derive(Debug, PartialEq, Eq)]
pub struct Divergence {
    pub version: Version,
    pub state: State,
    /// The version that a renamed file was applied under.
    pub renamed_from: Option<Version>,
    /// Where the file is, unless it is missing.
    pub file: Option<String>,
}

/// Something in a pending file that cannot be run from a file, by place.
#[derive(Debug)]
pub struct Obstruction {
    pub file: String,
    pub line: usize,
    pub column: usize,
    pub kind: ObstacleKind,
    /// What to do, if it takes more than a word; once a file.
    pub remedy: Option<Remedy>,
}

/// Why a migration cannot be rolled back.
#[derive(Debug)]
pub enum Objection {
    /// There is no file of this version, neither up nor down.
    NoFile(Version),
    /// Where the down file would be.
    NoDownFile(String),
    Unusable(Problem),
    /// Something in the down file cannot be run.
    Obstructed(Obstruction),
}

impl Objection {
    /// Returns true if and only if history and files disagree.
    pub fn is_disagreement(&self) -> bool {
        matches!(self, Objection::NoFile(_))
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Objection::NoFile(version) => {
                write!(f, "{version} missing: applied, but its files are gone")
            }
            Objection::NoDownFile(path) => write!(f, "{path} is missing"),
            Objection::Unusable(it) => it.fmt(f),
            Objection::Obstructed(obstruction) => write!(f, "{obstruction}"),
        }
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.version, self.state)?;
        if let Some(file) = &self.file {
            write!(f, "{file}: ")?;
        }
        match (self.state, self.renamed_from) {
            (_, Some(from)) => write!(f, "applied as {from}, whose file is gone"),
            (State::Missing, _) => f.write_str("applied, but its file is gone"),
            (State::OutOfOrder, _) => {
                f.write_str("older than what is applied (MIGRATION_ORDER=strict)")
            }
            _ => f.write_str("edited after it was applied"),
        }
    }
}

impl fmt::Display for Obstruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = (self.line, self.column);
        write!(f, "{}:{line}:{column}: {}", self.file, self.kind)
    }
}

/// What is wrong, and what to do.
impl fmt::Display for ObstacleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = match self {
            ObstacleKind::TransactionControl(command) => command,
            ObstacleKind::CopyFromStdin => "COPY … FROM STDIN",
            ObstacleKind::CopyToStdout => "COPY … TO STDOUT",
            ObstacleKind::UnnamedConcurrentIndex => "CREATE INDEX CONCURRENTLY",
            ObstacleKind::SetTransaction => "SET TRANSACTION",
            ObstacleKind::Template => "{{",
            ObstacleKind::PsqlCommand(text)
            | ObstacleKind::Annotation(_, text)
            | ObstacleKind::OwnTable(text)
            | ObstacleKind::Partitioned(_, text)
            | ObstacleKind::SharedFile { command: text } => text,
        };
        let words = match self {
            ObstacleKind::TransactionControl(_) => {
                "cannot stand in a migration: each file is one transaction already; remove it"
            }
            ObstacleKind::CopyFromStdin => {
                "cannot stand in a migration: there is no input; use INSERT"
            }
            ObstacleKind::CopyToStdout => {
                "cannot stand in a migration: nobody reads the output; remove it"
            }
            ObstacleKind::PsqlCommand(_) => {
                "is a command of psql, not of the server; remove it, or write it in SQL"
            }
            ObstacleKind::UnnamedConcurrentIndex => {
                "needs a name, or it cannot be found again; for example <table>_<column>_idx"
            }
            ObstacleKind::SetTransaction => {
                "cannot stand in a migration: the fence of the lock holds in a READ COMMITTED, READ WRITE transaction; \
                 remove it"
            }
            ObstacleKind::Annotation(what, _) => of_annotation(what),
            ObstacleKind::Template => {
                "is a template's, which nothing fills in here; write the values into the file"
            }
            ObstacleKind::OwnTable(table) => &format!(
                "is a table of Lockstep's own, which a migration must not create or drop; leave it out of a dump with \
                 pg_dump --exclude-table='{table}*'"
            ),
            ObstacleKind::Partitioned(what, _) => of_partitioned(*what),
            ObstacleKind::SharedFile { .. } => "cannot share a file: give each its own",
        };
        // A comment, which is quoted.
        let quote = if subject.starts_with("--") { "\"" } else { "" };
        write!(f, "{quote}{subject}{quote} {words}")
    }
}

/// Why a comment that speaks to a migration tool is not heeded, and what to do.
fn of_annotation(what: &Annotation) -> &'static str {
    match what {
        Annotation::NoTransaction => "must stand before the first statement",
        Annotation::Unknown => "is not understood: there is \"-- lockstep: no-transaction\"",
        Annotation::Unsupported => {
            "asks for what Lockstep does not do: write the values into the file"
        }
        Annotation::Down => {
            "begins another tool's way back, which would be run right behind the way there; move it to the \
             .down.sql file, or let `lockstep import` do so"
        }
    }
}

/// Why the server refuses it of a partitioned table, and what to do.
fn of_partitioned(what: Partitioned) -> &'static str {
    match what {
        Partitioned::Build => {
            "is partitioned, and no index is built on it concurrently; do it in several files: CREATE INDEX … \
                         ON ONLY the table, CREATE INDEX CONCURRENTLY on each partition, and ALTER INDEX … ATTACH \
                         PARTITION with each of these"
        }
        Partitioned::Drop => {
            "is the index of a partitioned table, and is not dropped concurrently; leave CONCURRENTLY out"
        }
        Partitioned::Detach => {
            "has a default partition, and nothing is detached from it concurrently; leave CONCURRENTLY out, or \
                         detach the default partition first"
        }
        Partitioned::Rebuild => {
            "is partitioned, and so is rebuilt outside a transaction; give the statement a file of its own, \
                         or put `-- lockstep: no-transaction` on the file's first line"
        }
    }
}
