//! A message of our own: its statements, numbered, so that what each returns is found by what was kept when it was added.

use std::fmt;

use super::settings::Settings;

/// Statements that are sent together, in one round trip.
pub struct Message(Vec<String>);

/// Which statement of a message: what reads its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot(pub(super) usize);

/// What a transaction may do. The isolation level is always written out, whatever the role's default is: see `lock`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read the newest, and write.
    Write,
    /// Read the newest.
    Read,
    /// Read all in one snapshot.
    Snapshot,
}

impl Message {
    /// A message that begins a transaction, under these settings.
    pub fn begin(access: Access, settings: &Settings) -> Message {
        let mut message = Message::begin_as_set(access);
        message.extend(&settings.statements());
        message
    }

    /// A message that begins a transaction, under the session's settings.
    pub fn begin_as_set(access: Access) -> Message {
        let begin = match access {
            Access::Write => "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
            Access::Read => "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY",
            Access::Snapshot => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        };
        Message(vec![begin.to_owned()])
    }

    /// One query of the catalog, in a transaction that only reads.
    pub fn asking(query: &str) -> (Message, Slot) {
        Message::asking_under(&Settings::of_catalog(), query)
    }

    /// One query, in a transaction that only reads, under these settings. Where rows are hidden from our role, it fails.
    pub fn asking_under(settings: &Settings, query: &str) -> (Message, Slot) {
        let mut message = Message::begin(Access::Read, settings);
        message.add("SET LOCAL row_security TO off");
        let asked = message.add(query);
        message.add("COMMIT");
        (message, asked)
    }

    /// A message behind a user's statements: first what still belongs to them or undoes what they set, then ours, under
    /// these timeouts.
    pub fn behind(first: &[impl fmt::Display], settings: &Settings) -> Message {
        let mut message = Message(Vec::new());
        message.extend(first);
        message.extend(&settings.timeouts());
        message
    }

    /// One query amid a transaction of a user's statements, which leaves no trace in it.
    pub fn aside(query: &str) -> (Message, Slot) {
        let first = ["SAVEPOINT lockstep_aside"];
        let mut message = Message::behind(&first, &Settings::default());
        let asked = message.add(query);
        message.add("ROLLBACK TO lockstep_aside");
        message.add("RELEASE lockstep_aside");
        (message, asked)
    }

    /// Adds one statement, which has no semicolon at its end.
    pub fn add(&mut self, statement: impl fmt::Display) -> Slot {
        self.0.push(statement.to_string());
        Slot(self.0.len() - 1)
    }

    /// Adds statements whose answers nobody reads.
    pub fn extend(&mut self, statements: &[impl fmt::Display]) {
        self.0.extend(statements.iter().map(ToString::to_string));
    }

    pub fn text(&self) -> String {
        self.0.join("; ")
    }
}
