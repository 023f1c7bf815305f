//! One statement's text → the table-level locks that it takes, and what about it hurts whoever uses the tables. Pure.
//!
//! The modes are those of PostgreSQL's manual, chapter "Explicit Locking", and of each command's own page, for
//! PostgreSQL 15 to 18; `tests/it/plan.rs` compares them with what a server really takes. Only tables from before the
//! plan are of interest: nobody else can know the others. What the text does not tell is called unknown, never guessed:
//! a `DO` block, a function's body, what a foreign key or a view leads to.

mod alter;
mod query;
mod words;
mod world;

use std::fmt;

use self::query::Query;
use self::words::{Parts, Words};
use self::world::Effect;
pub use self::world::{Name, World, quoted};
use crate::script;

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
    let tokens = script::tokens(statement, TOKENS);
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
            self.note(LockedThing::Table(self.world.shown(name)), mode);
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
        self.impact.warnings.push(Warning {
            harm,
            message: message.replace("{}", &table),
            table: Some(table),
            safer: safer.to_owned(),
        });
    }

    fn breaks(&mut self, message: String, safer: &str) {
        self.impact.warnings.push(Warning {
            harm: Harm::BreaksOldCode,
            table: None,
            message,
            safer: safer.to_owned(),
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
            "set" | "reset" => self.set(words),
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
        if path != ["default"] {
            self.effects.push(Effect::SearchPath(path));
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
        {
            if words.takes("on")
                && !words.at_word("domain")
                && let Some(table) = words.parts()
            {
                self.lock(&table, Mode::AccessShare);
            }
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

    // ---- CREATE ----

    fn create(&mut self, mut words: Words<'_>) {
        let replaces = words.takes("or replace");
        while words.takes_one_of(&[
            "global",
            "local",
            "temporary",
            "temp",
            "unlogged",
            "recursive",
            "trusted",
            "procedural",
        ]) {}
        if words.takes("table") {
            return self.create_table(words);
        }
        if words.takes("materialized view") || words.takes("view") {
            return self.create_view(words, replaces);
        }
        if words.takes("unique index") || words.takes("index") {
            return self.create_index(words);
        }
        if words.takes("constraint trigger") || words.takes("trigger") {
            return self.create_trigger(words);
        }
        match words.word().as_str() {
            "rule" => self.create_rule(words),
            "policy" => {
                if words.name().is_some()
                    && words.takes("on")
                    && let Some(table) = words.parts()
                {
                    self.lock(&table, Mode::AccessExclusive);
                    self.subqueries(words);
                }
            }
            "statistics" => {
                if words.seek("from")
                    && let Some(table) = words.parts()
                {
                    self.lock(&table, Mode::ShareUpdateExclusive);
                }
            }
            "foreign" if words.takes("table") => {
                let _ = words.takes("if not exists");
                if let Some(table) = words.parts() {
                    self.creates(&table);
                }
            }
            "sequence" => self.owned_by(words),
            "publication" => self.publication(words),
            "function" | "procedure" => self.routine(words),
            "extension" => self.unknown("runs the extension's script"),
            "schema" => {
                if words.has("create") {
                    self.unknown("creates what stands in it");
                }
            }
            "type" | "domain" => self.create_type(words),
            _ => {}
        }
    }

    fn create_type(&mut self, mut words: Words<'_>) {
        let name = words.name();
        if words.takes("as enum")
            || words.takes("as range")
            || words.takes("as") && words.at_symbol("(")
        {
            self.effects.extend(name.map(Effect::CreatesType));
        }
    }

    fn create_table(&mut self, mut words: Words<'_>) {
        let is_optional = words.takes("if not exists");
        let Some(parts) = words.parts() else { return };
        if is_optional && self.world.exists(&parts) {
            return;
        }
        let table = self.creates(&parts);
        if words.takes("partition of") {
            if let Some(parent) = words.parts()
                && self.lock(&parent, Mode::AccessExclusive).is_some()
            {
                self.related(
                    "its default partition, and what its foreign keys link it to",
                    Mode::AccessExclusive,
                );
            }
        }
        let columns = words.group();
        if words.takes("inherits") {
            let parents = words.group().map(|mut it| it.relations());
            for parent in parents.unwrap_or_default() {
                self.lock(&parent, Mode::ShareUpdateExclusive);
            }
        }
        if words.seek("as") {
            match words.at_word("execute") {
                true => self.unknown("runs a prepared statement"),
                false => self.query(words),
            }
            return;
        }
        for mut element in columns.map(Words::elements).unwrap_or_default() {
            if element.takes("like") {
                if let Some(source) = element.parts() {
                    self.lock(&source, Mode::AccessShare);
                }
                continue;
            }
            while element.seek("references") {
                if let Some(target) = element.parts() {
                    self.references(&table, &target);
                }
            }
        }
    }

    /// A foreign key takes the same lock on both tables.
    fn references(&mut self, table: &Name, target: &Parts) {
        let target = self.world.resolve(target);
        if target != *table && self.lock_name(&target, Mode::ShareRowExclusive) {
            let message = "keeps writers of {} out";
            self.warn(Harm::BlocksWrites, &target, message, SHORT);
        }
    }

    fn create_view(&mut self, mut words: Words<'_>, replaces: bool) {
        let is_optional = words.takes("if not exists");
        let Some(parts) = words.parts() else { return };
        let exists = self.world.exists(&parts);
        if exists && is_optional {
            return;
        }
        if exists && replaces {
            self.lock(&parts, Mode::AccessExclusive);
        } else {
            self.creates(&parts);
        }
        if words.seek("as") {
            self.query(words);
        }
    }

    fn create_index(&mut self, mut words: Words<'_>) {
        let concurrently = words.takes("concurrently");
        let _ = words.takes("if not exists");
        let index = if words.at_word("on") {
            None
        } else {
            words.name()
        };
        let mode = if concurrently {
            Mode::ShareUpdateExclusive
        } else {
            Mode::Share
        };
        if !words.takes("on") {
            return;
        }
        let Some(table) = words.relation() else {
            return;
        };
        let found = self.world.resolve(&table);
        if let Some(name) = index {
            let schema = found.schema.clone();
            self.effects
                .push(Effect::CreatesIndex(Name { schema, name }, found));
        }
        if let Some(name) = self.lock(&table, mode).filter(|_| !concurrently) {
            let safer = "CREATE INDEX CONCURRENTLY, alone in its file";
            self.warn(
                Harm::BlocksWrites,
                &name,
                "keeps writers of {} out while the index is built",
                safer,
            );
        }
    }

    fn create_trigger(&mut self, mut words: Words<'_>) {
        if !words.seek("on") {
            return;
        }
        let Some(table) = words.parts() else { return };
        if words.takes("from")
            && let Some(referenced) = words.parts()
        {
            self.lock(&referenced, Mode::AccessShare);
        }
        if let Some(name) = self.lock(&table, Mode::ShareRowExclusive) {
            self.warn(Harm::BlocksWrites, &name, "keeps writers of {} out", SHORT);
        }
    }

    fn create_rule(&mut self, mut words: Words<'_>) {
        if !words.seek("to") {
            return;
        }
        let Some(table) = words.parts() else { return };
        self.lock(&table, Mode::AccessExclusive);
        if words.seek("do") {
            let _ = words.takes("also") || words.takes("instead");
            if !words.takes("nothing") {
                let action = words.group().unwrap_or(words);
                self.query_of_new_and_old(action);
            }
        }
    }

    fn query_of_new_and_old(&mut self, words: Words<'_>) {
        for (parts, mode) in Query::read(words).tables {
            self.lock(&parts, mode);
        }
    }

    /// What stands in the parentheses of an expression.
    fn subqueries(&mut self, words: Words<'_>) {
        let rest = words.rest();
        let start = rest
            .iter()
            .position(|token| token.is_word("using") || token.is_word("with"));
        if let Some(start) = start {
            for (parts, mode) in Query::read(Words::new(&rest[start..])).tables {
                self.lock(&parts, mode);
            }
        }
    }

    fn owned_by(&mut self, mut words: Words<'_>) {
        if words.seek("owned by")
            && !words.takes("none")
            && let Some(mut column) = words.parts()
        {
            column.pop();
            self.lock(&column, Mode::AccessShare);
        }
    }

    fn publication(&mut self, mut words: Words<'_>) {
        let _name = words.name();
        if words.seek("table") {
            loop {
                let _ = words.takes("table");
                let Some(table) = words.relation() else {
                    return;
                };
                self.lock(&table, Mode::ShareUpdateExclusive);
                let _ = words.group();
                if words.takes("where") {
                    let _ = words.group();
                }
                if !words.symbol(",") {
                    return;
                }
            }
        }
    }

    /// The server reads the body of a function in SQL when it is created, and locks what it names.
    fn routine(&mut self, mut words: Words<'_>) {
        let _name = words.parts();
        let _arguments = words.group();
        let mut language = words;
        let is_sql = language.seek("language") && {
            let name = language
                .rest()
                .first()
                .map(|token| token.text.trim_matches('\'').to_ascii_lowercase());
            name.as_deref() == Some("sql")
        };
        let has_own_body = words.has("begin atomic") || words.has("return");
        if has_own_body {
            let _ = words.seek("begin atomic") || words.seek("return");
            return self.query_of_new_and_old(words);
        }
        if is_sql
            && words.seek("as")
            && let Some(body) = words.rest().first()
        {
            let text = body.text;
            let inside = match text.strip_prefix('$').and_then(|rest| rest.split_once('$')) {
                Some((tag, rest)) => rest
                    .strip_suffix(&format!("${tag}$"))
                    .unwrap_or(rest)
                    .to_owned(),
                None => text.trim_matches('\'').replace("''", "'"),
            };
            let tokens = script::tokens(&inside, TOKENS);
            self.query_of_new_and_old(Words::new(&tokens));
        }
    }

    // ---- DROP ----

    fn drop(&mut self, mut words: Words<'_>) {
        if words.takes("owned") {
            return self.related("everything that the role owns", Mode::AccessExclusive);
        }
        let cascades = words.has("cascade");
        for (kind, what) in [
            ("table", "table"),
            ("foreign table", "table"),
            ("materialized view", "materialized view"),
            ("view", "view"),
        ] {
            if words.takes(kind) {
                return self.drop_relations(words, what, cascades);
            }
        }
        if words.takes("index") {
            return self.drop_index(words);
        }
        let kind = words.word();
        let _ = words.takes("if exists");
        match kind.as_str() {
            "trigger" | "rule" | "policy" => {
                if words.name().is_some()
                    && words.takes("on")
                    && let Some(table) = words.parts()
                {
                    self.lock(&table, Mode::AccessExclusive);
                }
            }
            "statistics" => self.related("the table of the statistics", Mode::ShareUpdateExclusive),
            "extension" => self.related(
                "the extension's tables, and what depends on them",
                Mode::AccessExclusive,
            ),
            "publication" => self.related("its tables", Mode::ShareUpdateExclusive),
            "schema" => {
                if cascades {
                    self.related(
                        "every table in it, and what depends on it",
                        Mode::AccessExclusive,
                    );
                }
                let name = words.name().unwrap_or_default();
                self.breaks(
                    format!("code that uses the schema {} fails", quoted(&name)),
                    NEW_CODE_FIRST,
                );
            }
            _ if cascades => self.related("tables that depend on it", Mode::AccessExclusive),
            _ => {}
        }
    }

    fn drop_relations(&mut self, mut words: Words<'_>, kind: &str, cascades: bool) {
        let _ = words.takes("if exists");
        let mut is_old = false;
        for parts in words.relations() {
            let name = self.world.resolve(&parts);
            self.effects.push(Effect::Drops(name.clone()));
            if self.lock_name(&name, Mode::AccessExclusive) {
                is_old = true;
                self.warn(
                    Harm::BreaksOldCode,
                    &name,
                    "code that uses {} fails",
                    NEW_CODE_FIRST,
                );
            }
        }
        if is_old && kind == "table" {
            let others = "its parent, and what foreign keys link it to";
            self.related(others, Mode::AccessExclusive);
        }
        if is_old && cascades {
            self.related("views and tables that depend on it", Mode::AccessExclusive);
        }
    }

    fn drop_index(&mut self, mut words: Words<'_>) {
        let concurrently = words.takes("concurrently");
        let is_optional = words.takes("if exists");
        let mode = if concurrently {
            Mode::ShareUpdateExclusive
        } else {
            Mode::AccessExclusive
        };
        for index in words.relations() {
            if is_optional && self.world.table_of_index(&index).is_none() {
                continue;
            }
            if let Some(name) = self.lock_index(&index, mode).filter(|_| !concurrently) {
                let safer = "DROP INDEX CONCURRENTLY, alone in its file";
                self.warn(
                    Harm::BlocksReads,
                    &name,
                    "keeps readers and writers of {} out",
                    safer,
                );
            }
        }
    }
}
