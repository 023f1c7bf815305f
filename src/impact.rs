//! One statement's text → the table-level locks that it takes, and what about it hurts whoever uses the tables. Pure.
//!
//! It reads what people act on: commands that define things, and what they lock and rewrite. The modes are those of
//! PostgreSQL's manual, chapter "Explicit Locking", and of each command's own page, for PostgreSQL 15 to 18;
//! `tests/it/commands/plan.rs` compares them with what a server really takes. Only tables from before the plan are of
//! interest: nobody else can know the others. What reads and what functions lock is not guessed: a rehearsal measures it.

mod alter;
pub mod catalog;
mod relations;
mod types;
mod world;

use std::fmt;
use std::time::Duration;

pub use self::world::{Name, World};
use crate::sql::quote::bare_or_quoted;
use crate::sql::{Cursor, Parts};

/// Table-level lock modes, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    AccessShare,
    RowShare,
    RowExclusive,
    ShareUpdateExclusive,
    Share,
    ShareRowExclusive,
    Exclusive,
    AccessExclusive,
}

impl Mode {
    pub const ALL: [(Mode, &'static str); 8] = [
        (Mode::AccessShare, "ACCESS SHARE"),
        (Mode::RowShare, "ROW SHARE"),
        (Mode::RowExclusive, "ROW EXCLUSIVE"),
        (Mode::ShareUpdateExclusive, "SHARE UPDATE EXCLUSIVE"),
        (Mode::Share, "SHARE"),
        (Mode::ShareRowExclusive, "SHARE ROW EXCLUSIVE"),
        (Mode::Exclusive, "EXCLUSIVE"),
        (Mode::AccessExclusive, "ACCESS EXCLUSIVE"),
    ];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Mode::ALL.iter().find(|(mode, _)| mode == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

/// A lock on a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    pub on: LockedThing,
    pub mode: Mode,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockedThing {
    /// A table, as a session with the role's `search_path` may write it.
    Table(String),
    /// Tables that the text does not name, if there are any, in words.
    Related(String),
}

/// What kind of harm a warning is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// The table is written anew.
    Rewrite,
    /// The same, unless something that only the catalog knows.
    MayRewrite,
    /// The table is read from end to end under a lock that keeps others out.
    Scan,
    /// Nobody can write meanwhile.
    BlocksWrites,
    /// Nobody can even read meanwhile.
    BlocksReads,
    /// Code that is running now may fail afterwards.
    BreaksOldCode,
}

impl Harm {
    /// As in the JSON.
    pub fn word(self) -> &'static str {
        match self {
            Harm::Rewrite => "rewrite",
            Harm::MayRewrite => "may_rewrite",
            Harm::Scan => "scan",
            Harm::BlocksWrites => "blocks_writes",
            Harm::BlocksReads => "blocks_reads",
            Harm::BreaksOldCode => "breaks_old_code",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub harm: Harm,
    pub table: Option<String>,
    pub message: String,
    /// What to do instead.
    pub safer: String,
}

/// What is to be known of a statement before it runs.
#[derive(Debug, Default)]
pub struct Impact {
    /// The strongest on each table from before the plan.
    pub locks: Vec<Lock>,
    pub warnings: Vec<Warning>,
    /// What cannot be known from the text, in words.
    pub unknown: Vec<String>,
}

/// Reads a statement, and changes the world as the statement would.
pub fn read(statement: &str, world: &mut World) -> Impact {
    let impact = Impact::default();
    let mut reader = Reader { world, impact };
    reader.statement(Cursor::new(statement));
    reader.impact
}

struct Reader<'w> {
    world: &'w mut World,
    impact: Impact,
}

const SHORT: &str = "keep the file short: the lock lasts until it commits";
const NEW_CODE_FIRST: &str = "first release code that does without it";

impl Reader<'_> {
    // ---- What is found ----

    /// Notes a lock, if the table is from before the plan, and returns its name then.
    fn lock(&mut self, parts: &Parts, mode: Mode) -> Option<Name> {
        let name = self.world.resolve(parts);
        self.lock_name(&name, mode).then_some(name)
    }

    fn lock_name(&mut self, name: &Name, mode: Mode) -> bool {
        let is_old = self.world.is_old(name);
        if is_old {
            let shown = self.world.shown(name);
            let below = format!("partitions and children of {shown}");
            self.note(LockedThing::Table(shown), mode);
            self.world.hold(name, mode);
            if self.world.children.iter().any(|it| it.parent == *name) {
                self.related(below, mode);
            }
        }
        is_old
    }

    fn lock_all(&mut self, names: Vec<Name>, mode: Mode) {
        for name in names {
            self.lock_name(&name, mode);
        }
    }

    /// Notes that tables which the text does not name may be locked too.
    fn related(&mut self, what: impl Into<String>, mode: Mode) {
        self.note(LockedThing::Related(what.into()), mode);
    }

    fn note(&mut self, on: LockedThing, mode: Mode) {
        match self.impact.locks.iter_mut().find(|lock| lock.on == on) {
            Some(lock) => lock.mode = lock.mode.max(mode),
            None => self.impact.locks.push(Lock { on, mode }),
        }
    }

    fn unknown(&mut self, what: &str) {
        self.impact.unknown.push(what.to_owned());
    }

    /// Warns, if the table is from before the plan; `message` speaks of it as `{}`.
    fn warn(&mut self, harm: Harm, table: &Name, message: &str, safer: &str) {
        if !self.world.is_old(table) {
            return;
        }
        let table = self.world.shown(table);
        let warning = Warning {
            harm,
            message: message.replace("{}", &table),
            table: Some(table),
            safer: safer.to_owned(),
        };
        // One for two columns whose type changes.
        if !self.impact.warnings.contains(&warning) {
            self.impact.warnings.push(warning);
        }
    }

    fn rewrites(&mut self, table: &Name, safer: &str) {
        let message = "rewrites {}; nobody can read or write it meanwhile";
        self.warn(Harm::Rewrite, table, message, safer);
    }

    fn breaks(&mut self, message: String) {
        self.impact.warnings.push(Warning {
            harm: Harm::BreaksOldCode,
            table: None,
            message,
            safer: NEW_CODE_FIRST.to_owned(),
        });
    }

    // ---- The commands ----

    fn statement(&mut self, mut words: Cursor<'_>) {
        match words.lower_word().as_str() {
            "insert" | "merge" => {
                let _ = words.takes("into");
                self.writes(words);
            }
            "update" => self.writes_all(words),
            "delete" => {
                let _ = words.takes("from");
                self.writes_all(words);
            }
            "with" => self.with(words),
            "copy" => self.copy(words),
            "lock" => self.lock_table(words),
            "truncate" => self.truncate(words),
            "create" => self.create(words),
            "alter" => self.alter(words),
            "drop" => self.drop(words),
            "vacuum" => self.vacuum(words),
            "cluster" => self.cluster(words),
            "reindex" => self.reindex(words),
            "refresh" => self.refresh(words),
            "do" | "call" => self.unknown("runs code"),
            "execute" => self.unknown("runs a prepared statement"),
            "reassign" => self.related("everything that the role owns", Mode::AccessExclusive),
            "set" => self.set(words),
            "reset" if words.takes("search_path") || words.takes("all") => self.set_default_path(),
            _ => {}
        }
    }

    fn set(&mut self, mut words: Cursor<'_>) {
        let _ = words.takes("session") || words.takes("local");
        if !words.takes("search_path") {
            return;
        }
        let _ = words.takes("to") || words.symbol("=");
        if words.at_word("default") {
            return self.set_default_path();
        }
        let schemas = words.elements().into_iter();
        let schemas = schemas.filter_map(|mut it| it.name().or_else(|| it.literal()));
        let ours = |schema: &String| !["", "$user", "pg_catalog", "pg_temp"].contains(&&**schema);
        self.world.search_path = schemas.filter(ours).collect();
    }

    fn set_default_path(&mut self) {
        self.world.reset_search_path();
    }

    /// `INSERT`, `MERGE`: other writers go on.
    fn writes(&mut self, mut words: Cursor<'_>) -> Option<Name> {
        let table = words.table()?;
        self.lock(&table, Mode::RowExclusive)
    }

    /// `UPDATE`, `DELETE`: without `WHERE` it takes as long as the table is big, and a lock that the file has lasts as
    /// long.
    fn writes_all(&mut self, words: Cursor<'_>) {
        let is_all = !words.has("where");
        let Some(table) = self.writes(words).filter(|_| is_all) else {
            return;
        };
        let harm = match self.world.held(&table) {
            Some(Mode::AccessExclusive) => Harm::BlocksReads,
            Some(mode) if mode >= Mode::Share => Harm::BlocksWrites,
            _ => return,
        };
        let who = match harm {
            Harm::BlocksReads => "readers and writers",
            _ => "writers",
        };
        let message = format!(
            "goes through all rows of {{}}, and an earlier statement of the file keeps {who} of it out meanwhile"
        );
        let safer = "do it in a file of its own, or in batches outside of migrations";
        self.warn(harm, &table, &message, safer);
    }

    /// `WITH … INSERT`: what is behind the common table expressions.
    fn with(&mut self, mut words: Cursor<'_>) {
        let verbs = ["insert", "update", "delete", "merge"];
        while !words.is_over() && !verbs.iter().any(|verb| words.at_word(verb)) {
            if !words.skip_group() {
                words.advance();
            }
        }
        self.statement(words);
    }

    fn copy(&mut self, mut words: Cursor<'_>) {
        let _ = words.takes("binary");
        let Some(table) = words.parts() else { return };
        words.skip_group();
        if words.takes("from") {
            self.lock(&table, Mode::RowExclusive);
        }
    }

    fn lock_table(&mut self, mut words: Cursor<'_>) {
        let _ = words.takes("table");
        let tables = words.tables();
        let is_mode = |words: &mut Cursor<'_>, name: &str| {
            words.takes(&format!("in {} mode", name.to_ascii_lowercase()))
        };
        let mut modes = Mode::ALL.iter();
        let mode = modes.find(|(_, name)| is_mode(&mut words, name));
        let mode = mode.map_or(Mode::AccessExclusive, |(mode, _)| *mode);
        for table in &tables {
            let Some(name) = self.lock(table, mode) else {
                continue;
            };
            let (blocks_reads, blocks_writes) = (Harm::BlocksReads, Harm::BlocksWrites);
            match mode {
                Mode::AccessExclusive => self.warn(blocks_reads, &name, KEEPS_ALL_OUT, SHORT),
                Mode::Share | Mode::ShareRowExclusive | Mode::Exclusive => {
                    self.warn(blocks_writes, &name, KEEPS_WRITERS_OUT, SHORT);
                }
                _ => {}
            }
        }
    }

    fn truncate(&mut self, mut words: Cursor<'_>) {
        let _ = words.takes("table");
        for table in &words.tables() {
            if let Some(name) = self.lock(table, Mode::AccessExclusive) {
                self.warn(
                    Harm::BreaksOldCode,
                    &name,
                    "empties {}, also for those who began to read before",
                    "DELETE in batches, if anybody still reads it",
                );
            }
        }
        if words.has("cascade") {
            self.related("tables that reference them", Mode::AccessExclusive);
        }
    }

    fn vacuum(&mut self, mut words: Cursor<'_>) {
        let mut is_full = words.options().is_on("full");
        while let Some(option) =
            words.first_of(&["full", "freeze", "verbose", "analyze", "analyse"])
        {
            is_full |= option == "full";
        }
        let mode = match is_full {
            true => Mode::AccessExclusive,
            false => Mode::ShareUpdateExclusive,
        };
        let tables = words.tables();
        if tables.is_empty() {
            self.related("every table", mode);
        }
        for table in &tables {
            if let Some(name) = self.lock(table, mode).filter(|_| is_full) {
                self.rewrites(&name, "pg_repack, or VACUUM without FULL");
            }
        }
    }

    fn cluster(&mut self, mut words: Cursor<'_>) {
        let _ = words.skip_group() || words.takes("verbose");
        let Some(first) = words.parts() else {
            let what = "every table that was clustered before";
            return self.related(what, Mode::AccessExclusive);
        };
        // CLUSTER index ON table is the old way to write it.
        let table = match words.takes("on") {
            true => words.parts().unwrap_or(first),
            false => first,
        };
        if let Some(name) = self.lock(&table, Mode::AccessExclusive) {
            self.rewrites(&name, "pg_repack");
        }
    }

    fn reindex(&mut self, mut words: Cursor<'_>) {
        let option = words.options().is_on("concurrently");
        let kind = words.lower_word();
        let concurrently = words.takes("concurrently") || option;
        let mode = match concurrently {
            true => Mode::ShareUpdateExclusive,
            false => Mode::Share,
        };
        let Some(parts) = words.parts() else {
            return self.related("every table", mode);
        };
        let name = match kind.as_str() {
            "table" => self.lock(&parts, mode),
            "index" => self.lock_index(&parts, mode),
            _ => return self.related("every table in it", mode),
        };
        if let Some(name) = name.filter(|_| !concurrently) {
            let safer = "REINDEX … CONCURRENTLY, alone in its file";
            self.warn(Harm::BlocksWrites, &name, BUILDS_INDEX, safer);
        }
    }

    fn lock_index(&mut self, index: &Parts, mode: Mode) -> Option<Name> {
        match self.world.table_of_index(index) {
            Some(table) => self.lock_name(&table, mode).then_some(table),
            None => {
                let index = bare_or_quoted(index.last().map_or("", String::as_str));
                self.related(format!("the table of index {index}"), mode);
                None
            }
        }
    }

    fn refresh(&mut self, mut words: Cursor<'_>) {
        let _ = words.takes("materialized view");
        let concurrently = words.takes("concurrently");
        let mode = match concurrently {
            true => Mode::Exclusive,
            false => Mode::AccessExclusive,
        };
        let Some(view) = words.parts() else { return };
        if let Some(name) = self.lock(&view, mode).filter(|_| !concurrently) {
            let message = "keeps readers of {} out while its query runs";
            let safer = "REFRESH MATERIALIZED VIEW CONCURRENTLY, which needs a unique index";
            self.warn(Harm::BlocksReads, &name, message, safer);
        }
    }
}

const KEEPS_ALL_OUT: &str = "keeps readers and writers of {} out";
const KEEPS_WRITERS_OUT: &str = "keeps writers of {} out";
const BUILDS_INDEX: &str = "keeps writers of {} out while the index is built";

/// What a statement did in a rehearsal.
pub struct Measured {
    pub duration: Duration,
    /// The tables from before the rehearsal that it locked, or locked more strongly than those before it: the strongest
    /// mode on each.
    pub locks: Vec<(String, Mode)>,
    /// Those that it wrote anew.
    pub rewritten: Vec<String>,
}

#[cfg(test)]
mod tests;
