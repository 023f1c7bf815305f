//! `ALTER …`: which lock each form takes (`AlterTableGetLockLevel` in the server's `commands/tablecmds.c`, and the
//! manual's page on ALTER TABLE), and what it does to the rows.

use super::relations::names;
use super::types::Type;
use super::world::{Link, LinkKind};
use super::{
    DEFAULT_AND_LINKED, Harm, KEEPS_ALL_OUT, KEEPS_WRITERS_OUT, Mode, NEW_CODE_FIRST, Name, Reader,
    SHORT,
};
use crate::sql::Cursor;
use crate::sql::quote::bare_or_quoted;

/// The forms that no others can stand beside in a list.
const ALONE: &str =
    "rename to|rename constraint|rename column|rename|set schema|attach partition|detach partition";

/// What a constraint of a table begins with.
const CONSTRAINTS: &str = "check|foreign key|primary key|unique|exclude|not null";

/// The forms of `ALTER COLUMN` that are of interest.
const COLUMN_FORMS: &str =
    "set statistics|reset|set data type|type|set not null|drop not null|set expression|set";

const IDLE: &str = "do it while nobody needs the table";
const BATCHES: &str = "add the column plain, fill it in batches, and then set its default";
const PLAIN: &str = "add the column plain, and fill it in batches, before it gets the rest";
const NOT_VALID: &str = "add it NOT VALID, and VALIDATE CONSTRAINT in a file of its own";
const UNDER_INDEX: &str =
    "CREATE UNIQUE INDEX CONCURRENTLY in a file of its own, then ADD … USING INDEX";
const BOTH_NAMES: &str = "let both names live (a view, or a second column) until all code is new";
const POLICIES_FIRST: &str = "create the policies before, in the same file";
const HIDES_ROWS: &str =
    "hides every row of {} that no policy shows from code that is not its owner's";
const READS_AND_BLOCKS: &str = "reads all of {} while nobody can write to it";
const NO_VALUE: &str = "fails if {} has rows; if not, code that inserts without this column fails";
const VALUE_FIRST: &str =
    "add it with a DEFAULT, or without NOT NULL until all code gives it a value";
const CHECK_AFTER: &str = "add the column first, and its CHECK after it, NOT VALID";
const READS_ALL: &str = "reads all of {} while nobody else can read or write it";
const BUILDS: &str = "builds an index on {} while nobody else can read or write it";

impl Reader<'_> {
    /// `ALTER TABLE`, and what has the same forms.
    pub(super) fn alter_table(&mut self, mut words: Cursor<'_>) {
        let _ = words.takes("if exists");
        let table = self.world.resolve(&words.table().unwrap_or_default());
        let alone = words.first_of(ALONE);
        let name = words.clone().name().unwrap_or_default();
        match alone {
            Some("rename to") => self.move_table(&table, Name::new(&table.schema, &name)),
            Some("set schema") => self.move_table(&table, Name::new(&name, &table.name)),
            Some("rename constraint") => self.lock_name(&table, Mode::AccessExclusive),
            Some("attach partition") => self.attach(&table, words),
            Some("detach partition") => self.detach(&table, words),
            Some(_) => {
                self.lock_name(&table, Mode::AccessExclusive);
                self.lose_column(&table, &name, BOTH_NAMES);
            }
            None => words.elements().into_iter().for_each(|it| self.form(&table, it)),
        }
    }

    fn move_table(&mut self, table: &Name, to: Name) {
        self.lock_name(table, Mode::AccessExclusive);
        self.warn(Harm::BreaksOldCode, table, "code that uses {} by this name fails", BOTH_NAMES);
        self.world.rename(table, to);
    }

    /// A column has gone, or is called otherwise.
    fn lose_column(&mut self, table: &Name, column: &str, safer: &str) {
        if let Some(relation) = self.world.relations.get_mut(table) {
            relation.columns.remove(column);
        }
        let column = bare_or_quoted(column);
        let message = format!("code that uses column {column} of {{}} fails");
        self.warn(Harm::BreaksOldCode, table, &message, safer);
    }

    fn attach(&mut self, parent: &Name, mut words: Cursor<'_>) {
        let partition = self.lock_here(&mut words, Mode::AccessExclusive);
        self.lock_name(parent, Mode::ShareUpdateExclusive);
        self.related_to(parent, DEFAULT_AND_LINKED, Mode::AccessExclusive);
        let message = "reads all of {} while nobody else can, unless a CHECK proves its bounds";
        let safer = "first add a CHECK that implies the bounds, NOT VALID, and VALIDATE it";
        self.warn(Harm::Scan, &partition, message, safer);
        self.link(LinkKind::Partition, partition, parent);
    }

    fn detach(&mut self, parent: &Name, mut words: Cursor<'_>) {
        let partition = self.lock_here(&mut words, Mode::AccessExclusive);
        let is_gentle = words.takes("concurrently") || words.takes("finalize");
        let mode = Mode::AccessExclusive.or_gentle(is_gentle);
        self.lock_name(parent, mode);
        self.related_to(parent, DEFAULT_AND_LINKED, mode);
        if !is_gentle {
            let safer = "DETACH PARTITION … CONCURRENTLY, alone in its file";
            self.warn(Harm::BlocksReads, parent, KEEPS_ALL_OUT, safer);
        }
        let links = &mut self.world.links;
        links.retain(|it| it.table != partition || it.target != *parent);
    }

    /// One form of those that can be listed.
    fn form(&mut self, table: &Name, mut words: Cursor<'_>) {
        let mode = match words.lower_word().as_str() {
            "add" => self.add(table, words),
            "alter" => self.alter_column(table, words),
            "drop" => self.drop_form(table, words),
            "validate" => self.validate(table, words),
            "set" => self.set_form(table, words),
            "reset" | "cluster" => Mode::ShareUpdateExclusive,
            "enable" if words.takes("row level security") => {
                self.warn(Harm::BreaksOldCode, table, HIDES_ROWS, POLICIES_FIRST);
                Mode::AccessExclusive
            }
            "enable" | "disable" if words.has("trigger") => Mode::ShareRowExclusive,
            "inherit" => {
                self.lock_here(&mut words, Mode::ShareUpdateExclusive);
                Mode::AccessExclusive
            }
            // OWNER TO, REPLICA IDENTITY, FORCE ROW LEVEL SECURITY, OF type, OPTIONS (…), …
            _ => Mode::AccessExclusive,
        };
        self.lock_name(table, mode);
    }

    fn validate(&mut self, table: &Name, mut words: Cursor<'_>) -> Mode {
        let _ = words.takes("constraint");
        let constraint = words.name().unwrap_or_default();
        let is_meant = |it: &Link| it.table == *table && it.name == constraint;
        self.lock_linked(table, Mode::RowShare, is_meant);
        for link in self.world.links.iter_mut().filter(|it| is_meant(it)) {
            link.is_not_valid = false;
        }
        Mode::ShareUpdateExclusive
    }

    fn set_form(&mut self, table: &Name, mut words: Cursor<'_>) -> Mode {
        // Those of a view are changed under a stronger lock.
        let is_view = names(words.clone().list()).iter().any(|it| it.starts_with("security_"));
        if words.at_symbol("(") && !is_view || words.takes("without cluster") {
            return Mode::ShareUpdateExclusive;
        }
        if words.first_of("logged|unlogged|tablespace|access method").is_some() {
            self.rewrites(table, IDLE);
        }
        Mode::AccessExclusive
    }

    // ---- ADD ----

    pub(super) fn add(&mut self, table: &Name, mut words: Cursor<'_>) -> Mode {
        let name = words.takes("constraint").then(|| words.name()).flatten();
        let Some(kind) = words.first_of(CONSTRAINTS) else {
            return self.add_column(table, words);
        };
        let is_valid = !words.has("not valid");
        match kind {
            "foreign key" => {
                if is_valid {
                    self.warn(Harm::Scan, table, READS_AND_BLOCKS, NOT_VALID)
                } else {
                    self.warn(Harm::BlocksWrites, table, KEEPS_WRITERS_OUT, SHORT)
                }
                let columns = names(words.list());
                self.references(table, name, columns, words);
                return Mode::ShareRowExclusive;
            }
            "primary key" | "unique" if !words.has("using index") => {
                self.warn(Harm::Scan, table, BUILDS, UNDER_INDEX);
            }
            "exclude" => self.warn(Harm::Scan, table, BUILDS, IDLE),
            "check" | "not null" => {
                if is_valid {
                    self.warn(Harm::Scan, table, READS_ALL, NOT_VALID);
                }
                if let Some(column) = words.group().and_then(not_null_of) {
                    self.world.links.push(Link {
                        kind: LinkKind::NotNull,
                        table: table.clone(),
                        name: name.unwrap_or_else(|| format!("{}_{column}_check", table.name)),
                        columns: vec![column],
                        is_not_valid: !is_valid,
                        ..Link::default()
                    });
                }
            }
            _ => {}
        }
        Mode::AccessExclusive
    }

    fn add_column(&mut self, table: &Name, mut words: Cursor<'_>) -> Mode {
        words.skip("column|if not exists");
        let column = words.name().unwrap_or_default();
        let of = Type::read(&mut words);
        let is_computed = words.has("stored") || words.has("as identity");
        // A domain's check is made for each row, also where the value is NULL.
        let is_checked = self.world.volatile.contains(&of.name);
        // serial, bigserial, serial8, …
        let kind = of.name.trim_end_matches(['2', '4', '8']);
        if kind.ends_with("serial") || is_computed || is_checked {
            self.rewrites(table, PLAIN);
        } else if words.has("default") {
            // One that is the same for all rows is kept in the catalog; one that is not is computed for each.
            let mut default = words.clone();
            default.seek("default");
            let volatile = &self.world.volatile;
            if default.calls().any(|name| volatile.contains(&name)) {
                self.rewrites(table, BATCHES);
            }
        } else if words.has("not null") && !words.has("generated") {
            self.warn(Harm::BreaksOldCode, table, NO_VALUE, VALUE_FIRST);
        }
        if words.has("check") {
            self.warn(Harm::Scan, table, READS_ALL, CHECK_AFTER);
        }
        if words.has("unique") || words.has("primary key") {
            self.warn(Harm::Scan, table, BUILDS, UNDER_INDEX);
        }
        if let Some(relation) = self.world.relations.get_mut(table) {
            relation.columns.insert(column.clone(), of);
        }
        self.references(table, None, vec![column], words);
        Mode::AccessExclusive
    }

    // ---- ALTER COLUMN, DROP ----

    fn alter_column(&mut self, table: &Name, mut words: Cursor<'_>) -> Mode {
        let _ = words.takes("column");
        let column = words.name().unwrap_or_default();
        let proves = |it: &Link| {
            it.kind == LinkKind::NotNull && it.table == *table && it.columns.contains(&column)
        };
        let links = &mut self.world.links;
        match words.first_of(COLUMN_FORMS) {
            Some("set statistics" | "reset") => return Mode::ShareUpdateExclusive,
            Some("set") if words.at_symbol("(") => return Mode::ShareUpdateExclusive,
            Some("set data type" | "type") => self.type_change(table, column, words),
            Some("set expression") => self.rewrites(table, IDLE),
            Some("set not null") if !links.iter().any(|it| proves(it) && !it.is_not_valid) => {
                let column = bare_or_quoted(&column);
                let safer = format!(
                    "ADD CHECK ({column} IS NOT NULL) NOT VALID; VALIDATE it in a file of its own; then this"
                );
                self.warn(Harm::Scan, table, READS_ALL, &safer);
            }
            Some("drop not null") => links.retain(|it| !proves(it) || !it.name.is_empty()),
            _ => {}
        }
        Mode::AccessExclusive
    }

    /// Foreign keys that the column is part of, at either end, are made anew.
    fn type_change(&mut self, table: &Name, column: String, mut words: Cursor<'_>) {
        let is_meant = |it: &Link| {
            if it.table == *table {
                it.columns.contains(&column)
            } else {
                it.target == *table && it.target_columns.contains(&column)
            }
        };
        self.lock_linked(table, Mode::AccessExclusive, is_meant);

        let new = Type::read(&mut words);
        let is_plain = !words.seek("using") || is_cast_of(words, &column, &new);
        let relation = self.world.relations.get_mut(table);
        let old = relation.and_then(|it| it.columns.insert(column, new.clone()));
        let safer = "add a second column, copy in batches, and switch";
        let is_domain = |it: &Type| self.world.domains.contains(&it.name);
        match old.map(|old| (old.is_kept_by(&new, &self.world.coercible), is_domain(&old))) {
            Some((false, false)) if !is_domain(&new) => self.rewrites(table, safer),
            Some((true, _)) if is_plain => {}
            _ => {
                let message = "rewrites {} unless the values stay as they are";
                self.warn(Harm::MayRewrite, table, message, safer);
            }
        }
    }

    fn drop_form(&mut self, table: &Name, mut words: Cursor<'_>) -> Mode {
        let cascades = words.has("cascade");
        let is_constraint = words.takes("constraint");
        words.skip("column|if exists");
        let name = words.name().unwrap_or_default();
        let is_meant = |it: &Link| {
            if is_constraint {
                it.table == *table && it.name == name
            } else {
                it.table == *table && it.columns.contains(&name)
            }
        };
        self.lock_linked(table, Mode::AccessExclusive, is_meant);
        self.world.links.retain(|it| !is_meant(it));
        if !is_constraint {
            self.lose_column(table, &name, NEW_CODE_FIRST);
        }
        if cascades {
            self.related_to(table, "views and tables that depend on it", Mode::AccessExclusive);
        }
        Mode::AccessExclusive
    }
}

/// The column of `column IS NOT NULL`, if that is all there is.
fn not_null_of(mut inside: Cursor<'_>) -> Option<String> {
    let column = inside.name()?;
    (inside.takes("is not null") && inside.is_over()).then_some(column)
}

/// Returns true if and only if the expression is the column, or a cast of it to the type.
fn is_cast_of(mut expression: Cursor<'_>, column: &str, to: &Type) -> bool {
    expression.name().as_deref() == Some(column)
        && (!expression.symbol("::") || Type::read(&mut expression) == *to)
        && expression.is_over()
}
