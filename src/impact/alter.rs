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

/// What a constraint of a table begins with.
const CONSTRAINTS: &str = "check|foreign key|primary key|unique|exclude|not null";

const IDLE: &str = "do it while nobody needs the table";
const BATCHES: &str = "add the column plain, fill it in batches, and then set its default";
const PLAIN: &str = "add the column plain, and fill it in batches, before it gets the rest";
const NOT_VALID: &str = "add it NOT VALID, and VALIDATE CONSTRAINT in a file of its own";
const UNDER_INDEX: &str =
    "CREATE UNIQUE INDEX CONCURRENTLY in a file of its own, then ADD … USING INDEX";
const BOTH_NAMES: &str = "let both names live (a view, or a second column) until all code is new";
const READS_AND_BLOCKS: &str = "reads all of {} while nobody can write to it";
const READS_ALL: &str = "reads all of {} while nobody else can read or write it";
const BUILDS: &str = "builds an index on {} while nobody else can read or write it";

impl Reader<'_> {
    pub(super) fn alter(&mut self, mut words: Cursor<'_>) {
        let _ = words.takes("materialized") || words.takes("foreign");
        match words.lower_word().as_str() {
            "table" | "view" => self.alter_table(words),
            "policy" | "rule" | "trigger" => {
                self.lock_behind("on", words, Mode::AccessExclusive);
            }
            "domain" if !words.has("default") => {
                self.related("tables that use the domain", Mode::Share);
            }
            "extension" => self.unknown("runs the extension's script"),
            _ => {}
        }
    }

    /// `ALTER TABLE`, and what has the same forms.
    fn alter_table(&mut self, mut words: Cursor<'_>) {
        let _ = words.takes("if exists");
        let Some(parts) = words.table() else { return };
        let table = self.world.resolve(&parts);
        let named = |words: &mut Cursor<'_>, phrase| words.takes(phrase).then(|| words.name());
        if let Some(Some(name)) = named(&mut words, "rename to") {
            self.move_table(&table, Name::new(&table.schema, &name));
        } else if let Some(Some(schema)) = named(&mut words, "set schema") {
            self.move_table(&table, Name::new(&schema, &table.name));
        } else if words.takes("rename") {
            self.rename(&table, words);
        } else if words.takes("attach partition") {
            self.attach(&table, words);
        } else if words.takes("detach partition") {
            self.detach(&table, words);
        } else {
            for form in words.elements() {
                self.form(&table, form);
            }
        }
    }

    fn move_table(&mut self, table: &Name, to: Name) {
        self.lock_name(table, Mode::AccessExclusive);
        let message = "code that uses {} by this name fails";
        self.warn(Harm::BreaksOldCode, table, message, BOTH_NAMES);
        self.world.rename(table, to);
    }

    /// Of a column or a constraint.
    fn rename(&mut self, table: &Name, mut words: Cursor<'_>) {
        self.lock_name(table, Mode::AccessExclusive);
        if words.takes("constraint") {
            return;
        }
        let _ = words.takes("column");
        let column = words.name().unwrap_or_default();
        self.lose_column(table, &column, BOTH_NAMES);
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
        let Some(parts) = words.parts() else { return };
        self.lock_name(parent, Mode::ShareUpdateExclusive);
        self.related_to(parent, DEFAULT_AND_LINKED, Mode::AccessExclusive);
        let partition = self.lock(&parts, Mode::AccessExclusive);
        let message = "reads all of {} while nobody else can, unless a CHECK proves its bounds";
        let safer = "first add a CHECK that implies the bounds, NOT VALID, and VALIDATE it";
        self.warn(Harm::Scan, &partition, message, safer);
        self.link(&partition, parent.clone(), LinkKind::Partition);
    }

    fn detach(&mut self, parent: &Name, mut words: Cursor<'_>) {
        let Some(partition) = words.parts() else {
            return;
        };
        let is_gentle = words.takes("concurrently") || words.takes("finalize");
        let mode = Mode::AccessExclusive.or_gentle(is_gentle);
        self.lock_name(parent, mode);
        self.related_to(parent, DEFAULT_AND_LINKED, mode);
        if !is_gentle {
            let safer = "DETACH PARTITION … CONCURRENTLY, alone in its file";
            self.warn(Harm::BlocksReads, parent, KEEPS_ALL_OUT, safer);
        }
        let partition = self.lock(&partition, Mode::AccessExclusive);
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
                let message =
                    "hides every row of {} that no policy shows from code that is not its owner's";
                let safer = "create the policies before, in the same file";
                self.warn(Harm::BreaksOldCode, table, message, safer);
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
        let targets = self.world.linked(table, is_meant);
        self.lock_all(targets, Mode::RowShare);
        for proofs in self.world.proofs(table) {
            proofs.entry(constraint.clone()).and_modify(|it| *it = true);
        }
        Mode::ShareUpdateExclusive
    }

    fn set_form(&mut self, table: &Name, mut words: Cursor<'_>) -> Mode {
        // Those of a view are changed under a stronger lock.
        let options = words.clone().options();
        let is_view =
            options.get("security_barrier").is_some() || options.get("security_invoker").is_some();
        if words.at_symbol("(") && !is_view || words.takes("without cluster") {
            return Mode::ShareUpdateExclusive;
        }
        let copies = "logged|unlogged|tablespace|access method";
        if words.first_of(copies).is_some() {
            self.rewrites(table, IDLE);
        }
        Mode::AccessExclusive
    }

    // ---- ADD ----

    fn add(&mut self, table: &Name, mut words: Cursor<'_>) -> Mode {
        let name = words.takes("constraint").then(|| words.name()).flatten();
        let Some(kind) = words.first_of(CONSTRAINTS) else {
            return self.add_column(table, words);
        };
        let is_valid = !words.has("not valid");
        match kind {
            "foreign key" => {
                match is_valid {
                    true => self.warn(Harm::Scan, table, READS_AND_BLOCKS, NOT_VALID),
                    false => self.warn(Harm::BlocksWrites, table, KEEPS_WRITERS_OUT, SHORT),
                }
                let columns = names(words.group());
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
                if kind == "check"
                    && let Some(column) = words.group().and_then(not_null_of)
                    && let Some(known) = self.world.column(table, &column)
                {
                    let name = name.unwrap_or_else(|| format!("{}_{column}_check", table.name));
                    known.proofs.insert(name, is_valid);
                }
            }
            _ => {}
        }
        Mode::AccessExclusive
    }

    fn add_column(&mut self, table: &Name, mut words: Cursor<'_>) -> Mode {
        let _ = words.takes("column");
        let _ = words.takes("if not exists");
        let Some(column) = words.name() else {
            return Mode::AccessExclusive;
        };
        let column_type = Type::read(&mut words);
        let type_name = column_type.as_ref().map_or("", |it| it.name.as_str());
        let is_computed = words.has("generated") && words.has("stored");
        let is_identity = words.has("as identity");
        // A domain's check is made for each row, also where the value is NULL.
        let is_checked = self.world.volatile.contains(type_name);
        // serial, bigserial, serial8, …
        let is_serial = type_name
            .trim_end_matches(['2', '4', '8'])
            .ends_with("serial");
        if is_serial || is_computed || is_identity || is_checked {
            self.rewrites(table, PLAIN);
        } else if words.has("default") {
            // One that is the same for all rows is kept in the catalog; one that is not is computed for each.
            let mut default = words.clone();
            default.seek("default");
            let mut calls = default.calls().into_iter();
            if calls.any(|name| self.world.volatile.contains(&name)) {
                self.rewrites(table, BATCHES);
            }
        } else if words.has("not null") && !words.has("generated") {
            let message =
                "fails if {} has rows; if not, code that inserts without this column fails";
            let safer =
                "add it with a DEFAULT, or without NOT NULL until all code gives it a value";
            self.warn(Harm::BreaksOldCode, table, message, safer);
        }
        if words.has("check") {
            let safer = "add the column first, and its CHECK after it, NOT VALID";
            self.warn(Harm::Scan, table, READS_ALL, safer);
        }
        if words.has("unique") || words.has("primary key") {
            self.warn(Harm::Scan, table, BUILDS, UNDER_INDEX);
        }
        if let Some(known) = self.world.column(table, &column) {
            known.of = column_type;
        }
        self.references(table, None, vec![column], words);
        Mode::AccessExclusive
    }

    // ---- ALTER COLUMN, DROP ----

    fn alter_column(&mut self, table: &Name, mut words: Cursor<'_>) -> Mode {
        if words.takes("constraint") {
            return Mode::AccessExclusive;
        }
        let _ = words.takes("column");
        let column = words.name().unwrap_or_default();
        if words.takes("set statistics") || words.takes("reset") {
            return Mode::ShareUpdateExclusive;
        }
        if words.takes("set data type") || words.takes("type") {
            self.type_change(table, &column, words);
        } else if words.takes("set not null") {
            let known = self.world.column(table, &column);
            if !known.is_some_and(|it| it.proofs.values().any(|is_valid| *is_valid)) {
                let column = bare_or_quoted(&column);
                let safer = format!(
                    "ADD CHECK ({column} IS NOT NULL) NOT VALID; VALIDATE it in a file of its own; then this"
                );
                self.warn(Harm::Scan, table, READS_ALL, &safer);
            }
        } else if words.takes("drop not null") {
            let known = self.world.column(table, &column);
            known.and_then(|it| it.proofs.remove(""));
        } else if words.takes("set expression") {
            self.rewrites(table, IDLE);
        } else if words.takes("set") && words.at_symbol("(") {
            return Mode::ShareUpdateExclusive;
        }
        Mode::AccessExclusive
    }

    /// Foreign keys that the column is part of, at either end, are made anew.
    fn type_change(&mut self, table: &Name, column: &str, mut words: Cursor<'_>) {
        let linked = self.world.linked(table, |it| match it.table == *table {
            true => it.columns.iter().any(|it| it == column),
            false => it.target == *table && it.target_columns.iter().any(|it| it == column),
        });
        self.lock_all(linked, Mode::AccessExclusive);

        let Some(new) = Type::read(&mut words) else {
            return;
        };
        let known = self.world.column(table, column);
        let old = known.and_then(|it| it.of.replace(new.clone()));
        let is_plain = !words.seek("using") || is_cast_of(words, column, &new);
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
        let _ = words.takes("column");
        let _ = words.takes("if exists");
        let name = words.name().unwrap_or_default();
        let is_meant = |it: &Link| match is_constraint {
            true => it.table == *table && it.name == name,
            false => it.table == *table && it.columns.contains(&name),
        };
        let targets = self.world.linked(table, is_meant);
        self.world.links.retain(|it| !is_meant(it));
        self.lock_all(targets, Mode::AccessExclusive);
        if is_constraint {
            for proofs in self.world.proofs(table) {
                proofs.remove(&name);
            }
        } else {
            self.lose_column(table, &name, NEW_CODE_FIRST);
        }
        if cascades {
            let what = "views and tables that depend on it";
            self.related_to(table, what, Mode::AccessExclusive);
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
        && (!expression.symbol("::") || Type::read(&mut expression).as_ref() == Some(to))
        && expression.is_over()
}
