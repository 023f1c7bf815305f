//! A migration that failed: where, why, and what it left.

use std::fmt;

use log::kv::Value;

use super::SqlError;
use crate::migration::Direction;
use crate::sql::place::{Place, Precision};
use crate::text::words::{below, counted};

/// A migration that failed: where, and what became of it.
#[derive(Debug)]
pub struct Failure {
    pub file: String,
    pub place: Option<Place>,
    pub cause: SqlError,
    /// What the statement was, if the file has several: `statement 2 of 5, CREATE TABLE`.
    pub statement: Option<String>,
    pub outcome: FailureOutcome,
    pub before: Before,
}

impl Failure {
    /// What the log's structured line carries.
    pub(super) fn fields(&self) -> Vec<(&'static str, Value<'_>)> {
        let mut fields = vec![
            ("file", Value::from(self.file.as_str())),
            self.cause.field(),
            self.before.field(),
        ];
        if let Some(place) = &self.place {
            fields
                .extend([("line", Value::from(place.line)), ("column", Value::from(place.column))]);
        }
        fields
    }
}

/// How many migrations this run had done before the one that failed, and which way.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    pub direction: Direction,
    pub count: usize,
}

impl Before {
    /// For what fails before the first migration.
    pub fn nothing() -> Before {
        Before { direction: Direction::Up, count: 0 }
    }

    /// What the log's structured line carries.
    pub(super) fn field(self) -> (&'static str, Value<'static>) {
        let name = match self.direction {
            Direction::Up => "applied_before",
            Direction::Down => "rolled_back_before",
        };
        (name, Value::from(self.count))
    }
}

/// What a failed migration left behind.
#[derive(Debug)]
pub enum FailureOutcome {
    RolledBack,
    /// It was not even begun.
    NotBegun,
    /// The file ended the transaction that it ran in; what stood before that is committed.
    TransactionEnded,
    /// It ran outside a transaction; the next run finishes or removes what it left, if it left anything.
    OutsideTransaction {
        left: bool,
    },
    /// So many of its statements are done, each for good.
    Partly {
        done: usize,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(place) = &self.place {
            write!(f, ":{}:{}", place.line, place.column)?;
        }
        write!(f, ": {}", self.cause)?;
        if let Some(place) = &self.place {
            write!(f, "\n{}", place.excerpt())?;
            if place.precision == Precision::EndOfFile {
                write!(f, " the end of the file")?;
            }
        }
        write!(f, "{}{}", below(&self.statement), self.cause.notes())?;
        let (stays, remedy) = self.aftermath();
        write!(f, "\n  {stays}")?;
        if let FailureOutcome::Partly { done } = self.outcome {
            write!(f, "; {} of the file stay done", counted(done, "statement"))?;
        }
        write!(f, "; {}; {remedy}", self.before)
    }
}

impl Failure {
    /// What the failure leaves, and what to do about it.
    fn aftermath(&self) -> (&'static str, &'static str) {
        use Direction::{Down, Up};
        use FailureOutcome::{NotBegun, OutsideTransaction, Partly, RolledBack, TransactionEnded};
        let way = self.before.direction;
        let stays = match (way, &self.outcome) {
            (Up, RolledBack) => "rolled back",
            (Up, NotBegun) => "not run",
            (Down, RolledBack | NotBegun) => "it stays applied, whole",
            (Up, TransactionEnded) => {
                "not recorded; if the file ended its transaction, what stands before that is committed"
            }
            (Down, TransactionEnded) => {
                "it stays recorded; if the file ended its transaction, what stands before that is committed"
            }
            (Up, OutsideTransaction { .. } | Partly { .. }) => "not recorded",
            (Down, OutsideTransaction { .. } | Partly { .. }) => "not rolled back",
        };
        const REMOVE: &str = "remove the cause and run again";
        let remedy = match (&self.outcome, way) {
            // A disk that is full, a timeout, a server's own trouble: the file is as it should be.
            (RolledBack | TransactionEnded, _) => match self.cause.sqlstate.get(..2) {
                Some("53" | "57" | "58" | "XX") => REMOVE,
                _ => "fix the file and run again",
            },
            (NotBegun, _) => "run again when that is done",
            (OutsideTransaction { left: false }, Up) => REMOVE,
            (OutsideTransaction { left: true }, Up) => {
                "remove the cause and run again: the next run cleans up what this one left"
            }
            (OutsideTransaction { .. }, Down) => {
                "remove the cause and run again: the next down goes on with it, the next up brings it back"
            }
            (Partly { .. }, Up) => "fix the statement and run again: it goes on there",
            (Partly { .. }, Down) => "fix the statement and run down again: it goes on there",
        };
        (stays, remedy)
    }
}

impl fmt::Display for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = self.direction.done();
        match self.count {
            0 => write!(f, "this run {done} nothing before it"),
            1 => write!(f, "1 migration before it stays {done}"),
            count => write!(f, "{count} migrations before it stay {done}"),
        }
    }
}
