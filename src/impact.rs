//! One statement's text → the table-level locks that it takes, and what about it hurts whoever uses the tables. Pure.
//!
//! The modes are those of PostgreSQL's manual, chapter "Explicit Locking", and of each command's own page, for
//! PostgreSQL 15 to 18; `tests/it/commands/plan.rs` compares them with what a server really takes. Only tables from before the
//! plan are of interest: nobody else can know the others. What the text does not tell is called unknown, never guessed:
//! a `DO` block, a function's body, what a foreign key or a view leads to.

mod alter;
pub mod catalog;
mod create;
mod drop;
mod query;
mod words;
mod world;

use std::fmt;

use self::query::Query;
use self::words::{Parts, Words};
use self::world::Effect;
pub use self::world::{Name, World};
use std::time::Duration;

use crate::sql;
use crate::sql::quote::bare_or_quoted as quoted;

/// How many tokens of a statement are read. All of what matters stands before, unless somebody inserts megabytes.
const TOKENS: usize = 50_000;

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
    let tokens = sql::tokens(statement, TOKENS);
    let mut reader = Reader {
        world,
        impact: Impact::default(),
        effects: Vec::new(),
    };
    reader.statement(Words::new(&tokens));
    if tokens.len() == TOKENS {
        reader.unknown("too long to be read to its end");
    }
    let (impact, effects) = (reader.impact, reader.effects);
    effects.iter().for_each(|effect| world.apply(effect));
    impact
}

struct Reader<'w> {
    world: &'w World,
    impact: Impact,
    effects: Vec<Effect>,
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
            if self.world.parents.contains(name) {
                self.related(below, mode);
            }
        }
        is_old
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

    fn unknown(&mut self, what: impl Into<String>) {
        self.impact.unknown.push(what.into());
    }

    /// Warns; `message` speaks of the table as `{}`.
    fn warn(&mut self, harm: Harm, table: &Name, message: &str, safer: &str) {
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

    /// Warns of a schema that goes, if there are tables in it.
    fn breaks_schema(&mut self, schema: &str) {
        if self.world.tables.iter().any(|table| table.schema == schema) {
            self.breaks(format!(
                "code that uses the schema {} fails",
                quoted(schema)
            ));
        }
    }

    fn breaks(&mut self, message: String) {
        self.impact.warnings.push(Warning {
            harm: Harm::BreaksOldCode,
            table: None,
            message,
            safer: NEW_CODE_FIRST.to_owned(),
        });
    }

    fn creates(&mut self, parts: &Parts) -> Name {
        let name = self.world.resolve_new(parts);
        self.effects.push(Effect::Creates(name.clone()));
        name
    }

    // ---- The commands ----

    fn statement(&mut self, mut words: Words<'_>) {
        let all = words;
        if words.at_symbol("(") {
            return self.query(all);
        }
        match words.word().as_str() {
            "select" | "insert" | "update" | "delete" | "merge" | "with" | "values" | "table" => {
                self.query(all)
            }
            "explain" | "declare" | "prepare" => self.wrapped_query(words),
            "copy" => self.copy(words),
            "lock" => self.lock_table(words),
            "truncate" => self.truncate(words),
            "create" => self.create(words),
            "alter" => self.alter(words),
            "drop" => self.drop(words),
            "comment" => self.comment(words),
            "security" => self.unknown("depends on the label's provider"),
            "analyze" | "analyse" => self.analyze(words),
            "vacuum" => self.vacuum(words),
            "cluster" => self.cluster(words),
            "reindex" => self.reindex(words),
            "refresh" => self.refresh(words),
            "do" | "call" => self.unknown("runs code"),
            "execute" => self.unknown("runs a prepared statement"),
            "import" => self.unknown("creates what it finds on the foreign server"),
            "reassign" => self.related("everything that the role owns", Mode::AccessExclusive),
            "set" => self.set(words),
            "reset" => self.reset(words),
            "grant" | "revoke" | "show" | "begin" | "start" | "commit" | "end" | "rollback"
            | "abort" | "savepoint" | "release" | "notify" | "listen" | "unlisten"
            | "checkpoint" | "discard" | "deallocate" | "close" | "load" => {}
            // The cursor's query is already open.
            "fetch" | "move" => {}
            _ => self.unknown("is a command that Lockstep does not know"),
        }
    }

    fn set(&mut self, mut words: Words<'_>) {
        let _ = words.takes("session") || words.takes("local");
        if !words.takes("search_path") {
            return;
        }
        let _ = words.takes("to") || words.symbol("=");
        let schemas = words.rest().iter().filter(|token| !token.is_symbol(","));
        let path: Vec<String> = schemas
            .map(|token| token.stored_name().trim_matches('\'').to_owned())
            .filter(|schema| {
                !schema.is_empty()
                    && schema != "$user"
                    && schema != "pg_catalog"
                    && schema != "pg_temp"
            })
            .collect();
        let is_default = path == ["default"];
        self.effects.push(match is_default {
            true => Effect::DefaultSearchPath,
            false => Effect::SearchPath(path),
        });
    }

    fn reset(&mut self, mut words: Words<'_>) {
        if words.takes("search_path") || words.takes("all") {
            self.effects.push(Effect::DefaultSearchPath);
        }
    }

    fn query(&mut self, words: Words<'_>) {
        let query = Query::read(words);
        for (parts, mode) in &query.tables {
            self.lock(parts, *mode);
        }
        if let Some(parts) = &query.creates {
            self.creates(parts);
        }
        // pg_dump's way of emptying the path.
        if query.calls.is_empty() && words.rest().iter().any(|token| token.is_word("set_config")) {
            let literals: Vec<&str> = words
                .rest()
                .iter()
                .map(|token| token.text)
                .filter(|it| it.starts_with('\''))
                .collect();
            if let ["'search_path'", path, ..] = literals.as_slice() {
                let schemas = path
                    .trim_matches('\'')
                    .split(',')
                    .map(|it| it.trim().to_owned());
                let path = schemas
                    .filter(|it| !it.is_empty() && it != "pg_catalog")
                    .collect();
                self.effects.push(Effect::SearchPath(path));
            }
        }
        for call in query.calls {
            self.unknown(format!("calls {}()", quoted(&call)));
        }
    }

    /// `EXPLAIN`, `DECLARE c CURSOR FOR` and `PREPARE p AS`: what is behind is locked as if it ran.
    fn wrapped_query(&mut self, words: Words<'_>) {
        let mut behind = words;
        let verbs = [
            "select", "insert", "update", "delete", "merge", "with", "values", "table", "create",
            "refresh", "execute",
        ];
        while !behind.is_over() && !verbs.iter().any(|verb| behind.at_word(verb)) {
            if behind.at_symbol("(") && Words::new(&behind.rest()[1..]).at_word("select") {
                break;
            }
            if behind.group().is_none() {
                behind = Words::new(&behind.rest()[1..]);
            }
        }
        match behind.is_over() {
            true => self.unknown("is a command that Lockstep does not know"),
            false => {
                let effects = self.effects.len();
                self.statement(behind);
                self.effects.truncate(effects);
            }
        }
    }

    fn copy(&mut self, mut words: Words<'_>) {
        let _ = words.takes("binary");
        if let Some(query) = words.group() {
            return self.query(query);
        }
        let Some(table) = words.parts() else { return };
        let _columns = words.group();
        let mode = if words.takes("from") {
            Mode::RowExclusive
        } else {
            Mode::AccessShare
        };
        let _ = words.takes("to");
        if words.takes("program") {
            self.unknown("runs a program on the server");
        }
        self.lock(&table, mode);
    }

    fn lock_table(&mut self, mut words: Words<'_>) {
        let _ = words.takes("table");
        let tables = words.relations();
        let mode = match words.takes("in") {
            true => {
                let found = Mode::ALL
                    .iter()
                    .find(|(_, name)| words.takes(&format!("{} mode", name.to_ascii_lowercase())));
                found.map_or(Mode::AccessExclusive, |(mode, _)| *mode)
            }
            false => Mode::AccessExclusive,
        };
        for table in &tables {
            let Some(name) = self.lock(table, mode) else {
                continue;
            };
            match mode {
                Mode::AccessExclusive => self.warn(
                    Harm::BlocksReads,
                    &name,
                    "keeps readers and writers of {} out",
                    SHORT,
                ),
                Mode::Share | Mode::ShareRowExclusive | Mode::Exclusive => {
                    self.warn(Harm::BlocksWrites, &name, "keeps writers of {} out", SHORT);
                }
                _ => {}
            }
        }
    }

    fn truncate(&mut self, mut words: Words<'_>) {
        let _ = words.takes("table");
        let tables = words.relations();
        for table in &tables {
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

    fn comment(&mut self, mut words: Words<'_>) {
        if !words.takes("on") {
            return;
        }
        if words.takes_one_of(&["table", "materialized view", "foreign table", "view"]) {
            if let Some(table) = words.parts() {
                self.lock(&table, Mode::ShareUpdateExclusive);
            }
        } else if words.takes("column") {
            if let Some(mut column) = words.parts() {
                column.pop();
                self.lock(&column, Mode::ShareUpdateExclusive);
            }
        } else if words.takes_one_of(&["constraint", "trigger", "rule", "policy"])
            && words.name().is_some()
            && words.takes("on")
            && !words.at_word("domain")
            && let Some(table) = words.parts()
        {
            self.lock(&table, Mode::AccessShare);
        }
    }

    fn analyze(&mut self, mut words: Words<'_>) {
        let _ = words.group();
        let _ = words.takes("verbose") || words.takes("skip_locked");
        let tables = words.relations();
        if tables.is_empty() {
            self.related("every table", Mode::ShareUpdateExclusive);
        }
        for table in &tables {
            self.lock(table, Mode::ShareUpdateExclusive);
        }
    }

    fn vacuum(&mut self, mut words: Words<'_>) {
        let mut is_full = words.group().is_some_and(|options| options.has("full"));
        while !words.is_over() {
            if words.takes("full") {
                is_full = true;
            } else if !words.takes_one_of(&["freeze", "verbose", "analyze", "analyse"]) {
                break;
            }
        }
        let mode = if is_full {
            Mode::AccessExclusive
        } else {
            Mode::ShareUpdateExclusive
        };
        let tables = words.relations();
        if tables.is_empty() {
            self.related("every table", mode);
        }
        for table in &tables {
            if let Some(name) = self.lock(table, mode).filter(|_| is_full) {
                self.rewrites(&name, "pg_repack, or VACUUM without FULL");
            }
        }
    }

    fn rewrites(&mut self, table: &Name, safer: &str) {
        let message = "rewrites {}; nobody can read or write it meanwhile";
        self.warn(Harm::Rewrite, table, message, safer);
    }

    fn cluster(&mut self, mut words: Words<'_>) {
        let _ = words.group();
        let _ = words.takes("verbose");
        let Some(first) = words.parts() else {
            return self.related(
                "every table that was clustered before",
                Mode::AccessExclusive,
            );
        };
        // CLUSTER index ON table is the old way to write it.
        let table = if words.takes("on") {
            words.parts().unwrap_or(first)
        } else {
            first
        };
        if let Some(name) = self.lock(&table, Mode::AccessExclusive) {
            self.rewrites(&name, "pg_repack");
        }
    }

    fn reindex(&mut self, mut words: Words<'_>) {
        let options = words.group();
        let kind = words.word();
        let concurrently =
            words.takes("concurrently") || options.is_some_and(|it| it.has("concurrently"));
        let mode = if concurrently {
            Mode::ShareUpdateExclusive
        } else {
            Mode::Share
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
            self.warn(
                Harm::BlocksWrites,
                &name,
                "keeps writers of {} out while the index is built",
                safer,
            );
        }
    }

    fn lock_index(&mut self, index: &Parts, mode: Mode) -> Option<Name> {
        match self.world.table_of_index(index).cloned() {
            Some(table) => self.lock_name(&table, mode).then_some(table),
            None => {
                let index = quoted(index.last().map_or("", String::as_str));
                self.related(format!("the table of index {index}"), mode);
                None
            }
        }
    }

    fn refresh(&mut self, mut words: Words<'_>) {
        let _ = words.takes("materialized view");
        let concurrently = words.takes("concurrently");
        let mode = if concurrently {
            Mode::Exclusive
        } else {
            Mode::AccessExclusive
        };
        let Some(parts) = words.parts() else { return };
        if let Some(name) = self.lock(&parts, mode) {
            self.related("what its query reads", Mode::AccessShare);
            if !concurrently {
                let safer = "REFRESH MATERIALIZED VIEW CONCURRENTLY, which needs a unique index";
                self.warn(
                    Harm::BlocksReads,
                    &name,
                    "keeps readers of {} out while its query runs",
                    safer,
                );
            }
        }
    }
}

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
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// A database with the tables `a`, `b` and `s.c`, and the index `a_x` of `a`.
    fn world() -> World {
        let name = |schema: &str, name: &str| Name {
            schema: schema.to_owned(),
            name: name.to_owned(),
        };
        let tables = [name("public", "a"), name("public", "b"), name("s", "c")];
        World::new(
            vec!["public".to_owned()],
            BTreeSet::from(tables.clone()),
            BTreeMap::from([(name("public", "a_x"), tables[0].clone())]),
            BTreeSet::new(),
        )
    }

    /// Locks, unknowns and kinds of warnings of the last of some statements, in short.
    fn last(statements: &[&str]) -> String {
        let mut world = world();
        let mut found = String::new();
        for statement in statements {
            let impact = read(statement, &mut world);
            let lock = |lock: &Lock| match &lock.on {
                LockedThing::Table(table) => format!("{table} {:?}", lock.mode),
                LockedThing::Related(_) => format!("related {:?}", lock.mode),
            };
            let locks = impact.locks.iter().map(lock);
            let unknown = impact.unknown.iter().map(|it| format!("? {it}"));
            let warnings = impact
                .warnings
                .iter()
                .map(|it| format!("! {}", it.harm.word()));
            let all: Vec<String> = locks.chain(unknown).chain(warnings).collect();
            found = all.join(", ");
        }
        found
    }

    #[test]
    fn names_are_looked_up_as_the_server_does() {
        for (statements, expected) in [
            (
                &["LOCK public.\"a\" IN SHARE MODE"][..],
                "a Share, ! blocks_writes",
            ),
            (
                &["SELECT * FROM A, c, s.C"],
                "a AccessShare, s.c AccessShare",
            ),
            (
                &["SET search_path = s, public", "SELECT FROM c, a"],
                "s.c AccessShare, a AccessShare",
            ),
            (
                &[
                    "SET search_path TO s",
                    "SET search_path TO DEFAULT",
                    "SELECT FROM a",
                ],
                "a AccessShare",
            ),
            (
                &[
                    "SELECT pg_catalog.set_config('search_path', '', false)",
                    "SELECT FROM a",
                ],
                "",
            ),
            (
                &[
                    "SET search_path TO s",
                    "RESET search_path",
                    "SELECT FROM a, c",
                ],
                "a AccessShare",
            ),
            // A name that is given to something new.
            (
                &[
                    "ALTER TABLE a RENAME TO old",
                    "CREATE TABLE a (x int)",
                    "INSERT INTO a TABLE old",
                ],
                "old AccessShare",
            ),
            (
                &["DROP TABLE a", "CREATE TABLE a (x int)", "DROP INDEX a_x"],
                "related AccessExclusive",
            ),
            (
                &["ALTER SCHEMA s RENAME TO t", "TABLE t.c"],
                "t.c AccessShare",
            ),
            (
                &[
                    "CREATE TABLE n (x int)",
                    "CREATE INDEX n_x ON n (x)",
                    "DROP INDEX n_x",
                ],
                "",
            ),
            (
                &["CREATE TABLE IF NOT EXISTS a (x int)", "TABLE a"],
                "a AccessShare",
            ),
            (&["DROP TABLE IF EXISTS nothing"], ""),
        ] {
            assert_eq!(last(statements), expected, "{statements:?}");
        }
    }

    #[test]
    fn a_query_is_known_from_what_looks_like_one() {
        for (statement, expected) in [
            (
                "SELECT 1 FROM (a CROSS JOIN b), LATERAL unnest(ARRAY[1, 2]) AS u (x)",
                "a AccessShare, b AccessShare",
            ),
            (
                "WITH RECURSIVE a (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM a) SELECT * FROM a",
                "",
            ),
            (
                "SELECT trim(BOTH 'x' FROM a), a IS NOT DISTINCT FROM b FROM b",
                "b AccessShare",
            ),
            (
                "DELETE FROM a USING b JOIN s.c USING (id) WHERE true",
                "a RowExclusive, b AccessShare, s.c AccessShare",
            ),
            (
                "INSERT INTO a (b) VALUES ((SELECT max(x) FROM b)) ON CONFLICT (b) DO UPDATE SET b = 1",
                "a RowExclusive, b AccessShare",
            ),
            (
                "SELECT f(x), s.count(y), \"Count\"(z), count(*) FROM ROWS FROM (g(1)) r",
                "? calls f(), ? calls count(), ? calls \"Count\"(), ? calls g()",
            ),
            ("SELECT 'FROM a', $$FROM b$$ -- FROM a", ""),
            ("(SELECT * FROM a FOR UPDATE)", "a RowShare"),
            (
                "EXPLAIN (ANALYZE) WITH w AS (UPDATE a SET x = 1 RETURNING x) SELECT * FROM w, b",
                "a RowExclusive, b AccessShare",
            ),
            ("frobnicate a", "? is a command that Lockstep does not know"),
        ] {
            assert_eq!(last(&[statement]), expected, "{statement}");
        }
    }

    #[test]
    fn set_not_null_is_harmless_once_a_check_proves_it() {
        let (add, validate) = (
            "ALTER TABLE a ADD CONSTRAINT c CHECK (x IS NOT NULL) NOT VALID",
            "ALTER TABLE a VALIDATE CONSTRAINT c",
        );
        let set = "ALTER TABLE a ALTER COLUMN x SET NOT NULL";
        assert_eq!(last(&[add, set]), "a AccessExclusive, ! scan");
        assert_eq!(last(&[add, validate, set]), "a AccessExclusive");
    }

    #[test]
    fn what_old_code_does_not_expect_is_warned_of() {
        for (statement, expected) in [
            (
                "ALTER TABLE a ADD x int NOT NULL",
                "a AccessExclusive, ! breaks_old_code",
            ),
            (
                "ALTER TABLE a ADD x int NOT NULL DEFAULT 1",
                "a AccessExclusive",
            ),
            (
                "ALTER TABLE a ADD x int CHECK (y IS NOT NULL)",
                "a AccessExclusive, ! scan",
            ),
            (
                "ALTER TABLE a ADD x int NOT NULL GENERATED ALWAYS AS (1)",
                "a AccessExclusive",
            ),
            (
                "ALTER TABLE a ENABLE ROW LEVEL SECURITY",
                "a AccessExclusive, ! breaks_old_code",
            ),
            (
                "ALTER TABLE a DISABLE ROW LEVEL SECURITY",
                "a AccessExclusive",
            ),
            (
                "DROP FUNCTION IF EXISTS f(int), s.\"G\" (int, int)",
                "! breaks_old_code, ! breaks_old_code",
            ),
            (
                "DROP TYPE e CASCADE",
                "related AccessExclusive, ! breaks_old_code",
            ),
            (
                "DROP OWNED BY r",
                "related AccessExclusive, ! breaks_old_code",
            ),
        ] {
            assert_eq!(last(&[statement]), expected, "{statement}");
        }
        let new = ["CREATE TABLE n ()", "ALTER TABLE n ADD x int NOT NULL"];
        assert_eq!(last(&new), "");
        assert_eq!(last(&["CREATE TYPE e AS ENUM ()", "DROP TYPE e"]), "");
    }

    /// What is cut short, or wrong, is the server's to complain about.
    #[test]
    fn no_text_is_too_odd_to_be_read() {
        let whole = "ALTER TABLE ONLY (a) ADD CONSTRAINT c CHECK (x IS NOT NULL), ADD y numeric(1, 2) DEFAULT f(1) REFERENCES b (id); \
                     COMMENT ON COLUMN a.b IS 'x'; CREATE TRIGGER t AFTER INSERT ON a FROM b; MERGE INTO a USING b ON true; ) ) ( (";
        for end in 0..whole.len() {
            for start in (0..end).step_by(7) {
                read(&whole[start..end], &mut world());
            }
        }
    }
}
