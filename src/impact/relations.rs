//! `CREATE …` and `DROP …`: what a new thing locks of what is there already, and what hangs on a thing that goes.

use super::world::{Child, ForeignKey};
use super::{
    BUILDS_INDEX, DEFAULT_AND_LINKED, Harm, KEEPS_ALL_OUT, KEEPS_WRITERS_OUT, Mode, NEW_CODE_FIRST,
    Name, Reader, SHORT,
};
use crate::sql::Cursor;

/// What stands between `CREATE` and what is created.
const MODIFIERS: [&str; 7] = [
    "global",
    "local",
    "temporary",
    "temp",
    "unlogged",
    "recursive",
    "constraint",
];

impl Reader<'_> {
    pub(super) fn create(&mut self, mut words: Cursor<'_>) {
        let replaces = words.takes("or replace");
        while words.first_of(&MODIFIERS).is_some() {}
        let _ = words.takes("unique") || words.takes("materialized") || words.takes("foreign");
        match words.lower_word().as_str() {
            "table" => self.create_table(words),
            "view" => self.create_view(words, replaces),
            "index" => self.create_index(words),
            "trigger" => {
                if let Some(table) = words.seek("on").then(|| words.parts()).flatten() {
                    let name = self.lock(&table, Mode::ShareRowExclusive);
                    self.warn(Harm::BlocksWrites, &name, KEEPS_WRITERS_OUT, SHORT);
                }
            }
            "rule" | "policy" => {
                let is_found = words.seek("to") || words.seek("on");
                if let Some(table) = words.parts().filter(|_| is_found) {
                    self.lock(&table, Mode::AccessExclusive);
                }
            }
            "function" if !words.has("immutable") && !words.has("stable") => {
                let name = words.parts().and_then(|mut parts| parts.pop());
                self.world.volatile.extend(name);
            }
            "extension" => self.unknown("runs the extension's script"),
            _ => {}
        }
    }

    fn create_table(&mut self, mut words: Cursor<'_>) {
        let is_optional = words.takes("if not exists");
        let Some(parts) = words.parts() else { return };
        if is_optional && self.world.exists(&parts) {
            return;
        }
        let table = self.world.create(&parts);
        if words.takes("partition of")
            && let Some(parent) = words.parts()
        {
            let parent = self.world.resolve(&parent);
            self.lock_name(&parent, Mode::AccessExclusive);
            self.related_to(&parent, DEFAULT_AND_LINKED, Mode::AccessExclusive);
            self.adopt(&table, parent, true);
        }
        let columns = words.group();
        if words.takes("inherits") {
            let parents = words.group().map(|mut it| it.tables());
            for parent in parents.unwrap_or_default() {
                let parent = self.world.resolve(&parent);
                self.lock_name(&parent, Mode::ShareUpdateExclusive);
                self.adopt(&table, parent, false);
            }
        }
        for mut element in columns.map(Cursor::elements).unwrap_or_default() {
            let constraint = element.takes("constraint").then(|| element.name());
            if element.takes("foreign key") {
                self.foreign_key(&table, constraint.flatten(), element);
            } else if constraint.is_none()
                && let Some(column) = element.name()
            {
                self.references(&table, None, vec![column], element);
            }
        }
    }

    pub(super) fn adopt(&mut self, table: &Name, parent: Name, is_partition: bool) {
        self.world.children.push(Child {
            table: table.clone(),
            parent,
            is_partition,
        });
    }

    /// What stands behind `FOREIGN KEY`.
    pub(super) fn foreign_key(
        &mut self,
        table: &Name,
        name: Option<String>,
        mut words: Cursor<'_>,
    ) {
        let columns = names(words.group());
        self.references(table, name, columns, words);
    }

    /// A foreign key takes the same lock on both tables.
    pub(super) fn references(
        &mut self,
        table: &Name,
        name: Option<String>,
        columns: Vec<String>,
        mut words: Cursor<'_>,
    ) {
        if !words.seek("references") {
            return;
        }
        let Some(target) = words.parts() else { return };
        let target = self.world.resolve(&target);
        if target != *table {
            self.lock_name(&target, Mode::ShareRowExclusive);
            self.warn(Harm::BlocksWrites, &target, KEEPS_WRITERS_OUT, SHORT);
        }
        let usual = format!("{}_{}_fkey", table.name, columns.join("_"));
        let mut target_columns = names(words.group()).into_iter();
        for column in columns {
            self.world.foreign_keys.push(ForeignKey {
                name: name.clone().unwrap_or_else(|| usual.clone()),
                table: table.clone(),
                column,
                target: target.clone(),
                target_column: target_columns.next(),
            });
        }
    }

    fn create_view(&mut self, mut words: Cursor<'_>, replaces: bool) {
        let _ = words.takes("if not exists");
        let Some(parts) = words.parts() else { return };
        if !self.world.exists(&parts) {
            self.world.create(&parts);
        } else if replaces {
            self.lock(&parts, Mode::AccessExclusive);
        }
    }

    fn create_index(&mut self, mut words: Cursor<'_>) {
        let concurrently = words.takes("concurrently");
        let _ = words.takes("if not exists");
        let index = match words.at_word("on") {
            true => None,
            false => words.name(),
        };
        let table = words.takes("on").then(|| words.table()).flatten();
        let Some(table) = table.map(|parts| self.world.resolve(&parts)) else {
            return;
        };
        if let Some(name) = index {
            let index = Name::new(&table.schema, &name);
            self.world.indexes.insert(index, table.clone());
        }
        self.lock_name(&table, Mode::Share.or_gentle(concurrently));
        if !concurrently {
            let safer = "CREATE INDEX CONCURRENTLY, alone in its file";
            self.warn(Harm::BlocksWrites, &table, BUILDS_INDEX, safer);
        }
    }

    // ---- DROP ----

    pub(super) fn drop(&mut self, mut words: Cursor<'_>) {
        let cascades = words.has("cascade");
        let _ = words.takes("materialized") || words.takes("foreign");
        let kind = words.lower_word();
        let concurrently = words.takes("concurrently");
        let is_optional = words.takes("if exists");
        match kind.as_str() {
            "table" | "view" => return self.drop_tables(words, cascades),
            "index" => return self.drop_indexes(words, concurrently, is_optional),
            "trigger" | "rule" | "policy" => return self.lock_behind_on(words),
            "extension" => self.related("the extension's tables", Mode::AccessExclusive),
            _ => {}
        }
        if cascades {
            self.related("tables that depend on it", Mode::AccessExclusive);
        }
    }

    /// `name ON table`, of a trigger, a rule or a policy.
    pub(super) fn lock_behind_on(&mut self, mut words: Cursor<'_>) {
        if words.name().is_some()
            && words.takes("on")
            && let Some(table) = words.parts()
        {
            self.lock(&table, Mode::AccessExclusive);
        }
    }

    fn drop_tables(&mut self, mut words: Cursor<'_>, cascades: bool) {
        for parts in words.tables() {
            let name = self.world.resolve(&parts);
            self.lock_name(&name, Mode::AccessExclusive);
            let message = "code that uses {} fails";
            self.warn(Harm::BreaksOldCode, &name, message, NEW_CODE_FIRST);
            if cascades {
                self.related_to(&name, "views that depend on it", Mode::AccessExclusive);
            }
            let children = self.world.children.iter();
            let parents = children.filter(|it| it.table == name && it.is_partition);
            let parents: Vec<Name> = parents.map(|it| it.parent.clone()).collect();
            let mut linked = self.world.targets(&name, |_| true);
            if cascades {
                let keys = self.world.foreign_keys.iter();
                linked.extend(
                    keys.filter(|it| it.target == name)
                        .map(|it| it.table.clone()),
                );
            }
            self.world.drop(&name);
            self.lock_all(parents, Mode::AccessExclusive);
            self.lock_all(linked, Mode::AccessExclusive);
        }
    }

    fn drop_indexes(&mut self, mut words: Cursor<'_>, concurrently: bool, is_optional: bool) {
        let mode = Mode::AccessExclusive.or_gentle(concurrently);
        for index in words.tables() {
            if is_optional && self.world.table_of_index(&index).is_none() {
                continue;
            }
            if let Some(name) = self.lock_index(&index, mode).filter(|_| !concurrently) {
                let safer = "DROP INDEX CONCURRENTLY, alone in its file";
                self.warn(Harm::BlocksReads, &name, KEEPS_ALL_OUT, safer);
            }
        }
    }
}

/// The names in a list, if there is one.
fn names(list: Option<Cursor<'_>>) -> Vec<String> {
    let elements = list.map(Cursor::elements).unwrap_or_default().into_iter();
    elements.filter_map(|mut it| it.name()).collect()
}
