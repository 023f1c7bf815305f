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

use std::collections::BTreeMap;
use std::fmt;

use self::relations::names;
use self::world::{Link, LinkKind};
pub use self::world::{Name, World};
use crate::sql::quote::bare_or_quoted;
use crate::sql::{self, Cursor, Parts, ReindexTarget};

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
    /// In order.
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
        if concurrently { Mode::ShareUpdateExclusive } else { self }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Mode::ALL[*self as usize].1)
    }
}

/// What is locked, and the strongest mode of it.
pub type Locks = BTreeMap<String, Mode>;

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
    /// Those on tables from before the plan, by the name that a session with the role's `search_path` may write.
    pub locks: Locks,
    /// Those on tables that the text does not name, if there are any: which, in words.
    pub related: Locks,
    pub warnings: Vec<Warning>,
    /// Why not all can be known from the text, in words.
    pub unknown: Option<&'static str>,
}

/// Reads a statement, and changes the world as the statement would.
pub fn read(statement: &str, world: &mut World) -> Impact {
    let impact = Impact::default();
    let mut reader = Reader { world, impact };
    reader.statement(Cursor::new(statement));
    reader.impact
}

/// Notes a lock.
pub fn note(locks: &mut Locks, on: String, mode: Mode) {
    let strongest = locks.entry(on).or_insert(mode);
    *strongest = mode.max(*strongest);
}

struct Reader<'w> {
    world: &'w mut World,
    impact: Impact,
}

/// In the order in which they are looked for: the first two may hold the others.
const WRITES: [&str; 4] = ["merge", "insert", "update", "delete"];

/// What is set, or reset.
const PATH: &str = "search_path|session search_path|local search_path|all";

const SHORT: &str = "keep the file short: the lock lasts until it commits";
const IN_BATCHES: &str = "DELETE in batches, if anybody still reads it";
const NEW_CODE_FIRST: &str = "first release code that does without it";

impl Reader<'_> {
    // ---- What is found ----

    /// Notes a lock on the table that is named here, if it is from before the plan, and returns its name.
    fn lock_here(&mut self, words: &mut Cursor<'_>, mode: Mode) -> Name {
        let name = self.world.resolve(&words.table().unwrap_or_default());
        self.lock_name(&name, mode);
        name
    }

    /// The same of each table of a list.
    fn lock_each(&mut self, words: Cursor<'_>, mode: Mode) -> Vec<Name> {
        let mut elements = words.elements();
        elements.iter_mut().map(|it| self.lock_here(it, mode)).collect()
    }

    /// The same of the table that stands behind a word.
    fn lock_behind(&mut self, word: &str, mut words: Cursor<'_>, mode: Mode) -> Name {
        words.seek(word);
        self.lock_here(&mut words, mode)
    }

    fn lock_name(&mut self, name: &Name, mode: Mode) {
        let relation = self.world.relations.get_mut(name);
        let Some(relation) = relation.filter(|it| it.is_old) else {
            return;
        };
        relation.held = relation.held.max(Some(mode));
        let shown = self.world.shown(name);
        let parts = [LinkKind::Partition, LinkKind::Child];
        let is_above = |it: &Link| it.target == *name && parts.contains(&it.kind);
        if self.world.links.iter().any(is_above) {
            self.related(&format!("partitions and children of {shown}"), mode);
        }
        note(&mut self.impact.locks, shown, mode);
    }

    /// Notes locks on the tables at the other end of those links that are asked for.
    fn lock_linked(&mut self, table: &Name, mode: Mode, asked: impl Fn(&Link) -> bool) {
        let links = self.world.links.iter().filter(|it| asked(it));
        let ends = links.flat_map(|it| [it.table.clone(), it.target.clone()]);
        let others: Vec<Name> = ends.filter(|it| it != table).collect();
        others.iter().for_each(|it| self.lock_name(it, mode));
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

    /// Warns, if the table is from before the plan; `message` speaks of it as `{}`.
    fn warn(&mut self, harm: Harm, table: &Name, message: &str, safer: &str) {
        let shown = self.world.shown(table);
        let warning = Warning {
            harm,
            message: message.replace("{}", &shown),
            table: shown,
            safer: safer.to_owned(),
        };
        // One for two columns whose type changes.
        if self.world.is_old(table) && !self.impact.warnings.contains(&warning) {
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
            "copy" if words.has("from") => drop(self.lock_here(&mut words, Mode::RowExclusive)),
            "lock" => self.lock_table(words),
            "truncate" => self.truncate(words),
            verb @ ("create" | "alter" | "drop") => self.define(verb, words),
            "vacuum" if words.has("full") || words.clone().options().get("full") == Some(&true) => {
                self.rewrites_each(words, "pg_repack, or VACUUM without FULL");
            }
            "cluster" => self.rewrites_each(words, "pg_repack"),
            "reindex" => self.reindex(words),
            "refresh" => self.refresh(words),
            "do" | "call" => self.impact.unknown = Some("runs code"),
            "execute" => self.impact.unknown = Some("runs a prepared statement"),
            "set" | "reset" if words.first_of(PATH).is_some() => self.set_search_path(words),
            _ => {}
        }
    }

    fn set_search_path(&mut self, mut words: Cursor<'_>) {
        let _ = words.takes("to") || words.symbol("=");
        if words.is_over() || words.at_word("default") {
            return self.world.reset_search_path();
        }
        self.world.search_path = names(words.elements());
    }

    /// `INSERT`, `UPDATE` and their like: other writers go on. But what writes all rows takes as long as the table is big,
    /// and so long lasts a stronger lock that the file has already.
    fn writes(&mut self, mut words: Cursor<'_>) {
        let is_new_row = words.takes("into");
        let deletes = words.takes("from");
        let table = self.lock_here(&mut words, Mode::RowExclusive);
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
        let is_meant = |name: &str| words.has(&format!("in {} mode", name.to_lowercase()));
        let mode = Mode::ALL.into_iter().find(|(_, name)| is_meant(name));
        self.lock_each(words, mode.map_or(Mode::AccessExclusive, |it| it.0));
    }

    fn truncate(&mut self, mut words: Cursor<'_>) {
        let _ = words.takes("table");
        if words.has("cascade") {
            self.related("tables that reference them", Mode::AccessExclusive);
        }
        for name in self.lock_each(words, Mode::AccessExclusive) {
            let message = "empties {}, also for those who began to read before";
            self.warn(Harm::BreaksOldCode, &name, message, IN_BATCHES);
        }
    }

    fn rewrites_each(&mut self, mut words: Cursor<'_>, safer: &str) {
        words.skip_group();
        words.skip("full|freeze|verbose|analyze");
        if words.is_over() {
            self.related("every table", Mode::AccessExclusive);
        }
        for name in self.lock_each(words, Mode::AccessExclusive) {
            self.rewrites(&name, safer);
        }
    }

    fn reindex(&mut self, words: Cursor<'_>) {
        let Some(reindex) = sql::reindex(words) else {
            return;
        };
        let mode = Mode::Share.or_gentle(reindex.concurrently);
        let mut name = Cursor::new(reindex.name.as_deref().unwrap_or_default());
        let table = match reindex.target {
            ReindexTarget::Table => Some(self.lock_here(&mut name, mode)),
            ReindexTarget::Index => self.lock_index(&name.parts().unwrap_or_default(), mode),
            _ => return self.related("every table in it", mode),
        };
        if let Some(name) = table.filter(|_| !reindex.concurrently) {
            let safer = "REINDEX … CONCURRENTLY, alone in its file";
            self.warn(Harm::BlocksWrites, &name, BUILDS_INDEX, safer);
        }
    }

    fn lock_index(&mut self, index: &Parts, mode: Mode) -> Option<Name> {
        let Some(table) = self.world.table_of_index(index) else {
            let index = bare_or_quoted(index.last().map_or("", String::as_str));
            self.related(&format!("the table of index {index}"), mode);
            return None;
        };
        self.lock_name(&table, mode);
        Some(table)
    }

    fn refresh(&mut self, mut words: Cursor<'_>) {
        let _ = words.takes("materialized view");
        if words.takes("concurrently") {
            self.lock_here(&mut words, Mode::Exclusive);
        } else {
            let name = self.lock_here(&mut words, Mode::AccessExclusive);
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
#[cfg(test)]
mod tests;
