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

use self::world::{Link, LinkKind};
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

    /// The lock of what is done `CONCURRENTLY`, where it is.
    fn or_gentle(self, concurrently: bool) -> Mode {
        match concurrently {
            true => Mode::ShareUpdateExclusive,
            false => self,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Mode::ALL.iter().find(|(mode, _)| mode == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

/// A lock, and on what.
pub type Lock = (String, Mode);

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
    pub table: String,
    pub message: String,
    /// What to do instead.
    pub safer: String,
}

/// What is to be known of a statement before it runs.
#[derive(Debug, Default)]
pub struct Impact {
    /// The strongest on each table from before the plan, by the name that a session with the role's `search_path` may write.
    pub locks: Vec<Lock>,
    /// Those on tables that the text does not name, if there are any: which, in words.
    pub related: Vec<Lock>,
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

fn note(locks: &mut Vec<Lock>, on: String, mode: Mode) {
    match locks.iter_mut().find(|lock| lock.0 == on) {
        Some(lock) => lock.1 = lock.1.max(mode),
        None => locks.push((on, mode)),
    }
}

struct Reader<'w> {
    world: &'w mut World,
    impact: Impact,
}

/// In the order in which they are looked for: the first two may hold the others.
const WRITES: [&str; 4] = ["merge", "insert", "update", "delete"];

const SHORT: &str = "keep the file short: the lock lasts until it commits";
const IN_BATCHES: &str = "DELETE in batches, if anybody still reads it";
const NEW_CODE_FIRST: &str = "first release code that does without it";

impl Reader<'_> {
    // ---- What is found ----

    /// Notes a lock, if the table is from before the plan, and returns its name.
    fn lock(&mut self, parts: &Parts, mode: Mode) -> Name {
        let name = self.world.resolve(parts);
        self.lock_name(&name, mode);
        name
    }

    /// The same of the table that is named here.
    fn lock_here(&mut self, words: &mut Cursor<'_>, mode: Mode) -> Option<Name> {
        let parts = words.parts()?;
        Some(self.lock(&parts, mode))
    }

    /// The same of the table that stands behind a word.
    fn lock_behind(&mut self, word: &str, mut words: Cursor<'_>, mode: Mode) -> Option<Name> {
        let found = words.seek(word);
        found.then(|| self.lock_here(&mut words, mode)).flatten()
    }

    fn lock_name(&mut self, name: &Name, mode: Mode) {
        let relation = self.world.relations.get_mut(name);
        let Some(relation) = relation.filter(|it| it.is_old) else {
            return;
        };
        relation.held = relation.held.max(Some(mode));
        let shown = self.world.shown(name);
        let is_above = |it: &Link| it.target == *name && it.kind != LinkKind::ForeignKey;
        if self.world.links.iter().any(is_above) {
            self.related(&format!("partitions and children of {shown}"), mode);
        }
        note(&mut self.impact.locks, shown, mode);
    }

    fn lock_all(&mut self, names: Vec<Name>, mode: Mode) {
        for name in names {
            self.lock_name(&name, mode);
        }
    }

    /// Notes what hangs on a table and may be locked too, if the table is from before the plan.
    fn related_to(&mut self, table: &Name, what: &str, mode: Mode) {
        if self.world.is_old(table) {
            self.related(what, mode);
        }
    }

    /// Notes that tables which the text does not name may be locked too.
    fn related(&mut self, what: &str, mode: Mode) {
        note(&mut self.impact.related, what.to_owned(), mode);
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
            table,
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

    // ---- The commands ----

    fn statement(&mut self, mut words: Cursor<'_>) {
        match words.lower_word().as_str() {
            verb if WRITES.contains(&verb) => self.writes(words),
            "with" if WRITES.iter().any(|verb| words.seek(verb)) => self.writes(words),
            "copy" => {
                let _ = words.takes("binary");
                if let Some(table) = words.tables().first().filter(|_| words.takes("from")) {
                    self.lock(table, Mode::RowExclusive);
                }
            }
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
            "set" => self.set(words),
            "reset" if words.takes("search_path") || words.takes("all") => {
                self.world.reset_search_path();
            }
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
            return self.world.reset_search_path();
        }
        let schemas = words.elements().into_iter();
        let schemas = schemas.filter_map(|mut it| it.name().or_else(|| it.literal()));
        self.world.search_path = schemas.collect();
    }

    /// `INSERT`, `UPDATE` and their like: other writers go on. But what writes all rows takes as long as the table is big,
    /// and so long lasts a stronger lock that the file has already.
    fn writes(&mut self, mut words: Cursor<'_>) {
        let is_new_row = words.takes("into");
        let deletes = words.takes("from");
        let Some(parts) = words.table() else { return };
        let table = self.lock(&parts, Mode::RowExclusive);
        if is_new_row || words.has("where") {
            return;
        }
        if deletes {
            self.warn(Harm::BreaksOldCode, &table, "empties {}", IN_BATCHES);
        }
        let (harm, who) = match self.world.relations.get(&table).and_then(|it| it.held) {
            Some(Mode::AccessExclusive) => (Harm::BlocksReads, "readers and writers"),
            Some(mode) if mode >= Mode::Share => (Harm::BlocksWrites, "writers"),
            _ => return,
        };
        let message = format!(
            "goes through all rows of {{}}, and an earlier statement of the file keeps {who} of it out meanwhile"
        );
        let safer = "do it in a file of its own, or in batches outside of migrations";
        self.warn(harm, &table, &message, safer);
    }

    fn lock_table(&mut self, mut words: Cursor<'_>) {
        let _ = words.takes("table");
        let tables = words.tables();
        let is_meant = |name: &str| words.has(&format!("in {} mode", name.to_lowercase()));
        let mode = Mode::ALL.iter().find(|(_, name)| is_meant(name));
        let mode = mode.map_or(Mode::AccessExclusive, |(mode, _)| *mode);
        for table in &tables {
            self.lock(table, mode);
        }
    }

    fn truncate(&mut self, mut words: Cursor<'_>) {
        let _ = words.takes("table");
        for table in &words.tables() {
            let name = self.lock(table, Mode::AccessExclusive);
            let message = "empties {}, also for those who began to read before";
            self.warn(Harm::BreaksOldCode, &name, message, IN_BATCHES);
        }
        if words.has("cascade") {
            self.related("tables that reference them", Mode::AccessExclusive);
        }
    }

    fn vacuum(&mut self, mut words: Cursor<'_>) {
        let is_full = words.options().get("full") == Some(true) || words.takes("full");
        while words.first_of("freeze|verbose|analyze").is_some() {}
        if is_full {
            self.rewrites_each(words.tables(), "pg_repack, or VACUUM without FULL");
        }
    }

    fn cluster(&mut self, mut words: Cursor<'_>) {
        let _ = words.skip_group() || words.takes("verbose");
        self.rewrites_each(words.parts().into_iter().collect(), "pg_repack");
    }

    fn rewrites_each(&mut self, tables: Vec<Parts>, safer: &str) {
        if tables.is_empty() {
            self.related("every table", Mode::AccessExclusive);
        }
        for table in &tables {
            let name = self.lock(table, Mode::AccessExclusive);
            self.rewrites(&name, safer);
        }
    }

    fn reindex(&mut self, mut words: Cursor<'_>) {
        let option = words.options().get("concurrently") == Some(true);
        let kind = words.lower_word();
        let concurrently = words.takes("concurrently") || option;
        let mode = Mode::Share.or_gentle(concurrently);
        let parts = words.parts().unwrap_or_default();
        let name = match kind.as_str() {
            "table" => Some(self.lock(&parts, mode)),
            "index" => self.lock_index(&parts, mode),
            _ => return self.related("every table in it", mode),
        };
        if let Some(name) = name.filter(|_| !concurrently) {
            let safer = "REINDEX … CONCURRENTLY, alone in its file";
            self.warn(Harm::BlocksWrites, &name, BUILDS_INDEX, safer);
        }
    }

    fn lock_index(&mut self, index: &Parts, mode: Mode) -> Option<Name> {
        let table = self.world.table_of_index(index);
        match &table {
            Some(table) => self.lock_name(table, mode),
            None => {
                let index = bare_or_quoted(index.last().map_or("", String::as_str));
                self.related(&format!("the table of index {index}"), mode);
            }
        }
        table
    }

    fn refresh(&mut self, mut words: Cursor<'_>) {
        let _ = words.takes("materialized view");
        if words.takes("concurrently") {
            self.lock_here(&mut words, Mode::Exclusive);
        } else if let Some(name) = self.lock_here(&mut words, Mode::AccessExclusive) {
            let message = "keeps readers of {} out while its query runs";
            let safer = "REFRESH MATERIALIZED VIEW CONCURRENTLY, which needs a unique index";
            self.warn(Harm::BlocksReads, &name, message, safer);
        }
    }
}

const KEEPS_ALL_OUT: &str = "keeps readers and writers of {} out";
const KEEPS_WRITERS_OUT: &str = "keeps writers of {} out";
const DEFAULT_AND_LINKED: &str = "its default partition, and what foreign keys link it to";
const BUILDS_INDEX: &str = "keeps writers of {} out while the index is built";

/// What a statement did in a rehearsal.
pub struct Measured {
    pub duration: Duration,
    /// The tables from before the rehearsal that it locked, or locked more strongly than those before it: the strongest
    /// mode on each.
    pub locks: Vec<Lock>,
    /// Those that it wrote anew.
    pub rewritten: Vec<String>,
}

#[cfg(test)]
mod tests;
