//! `CREATE …` and `DROP …`: what a new thing locks of what is there already, and what hangs on a thing that goes.

use super::world::{Link, LinkKind};
use super::{
    BUILDS_INDEX, DEFAULT_AND_LINKED, Harm, KEEPS_ALL_OUT, KEEPS_WRITERS_OUT, Mode, NEW_CODE_FIRST,
    Name, Reader, SHORT,
};
use crate::sql::Cursor;

/// What stands between `CREATE` and what is created.
const MODIFIERS: &str =
    "global|local|temporary|temp|unlogged|recursive|constraint|unique|materialized|foreign";

impl Reader<'_> {
    pub(super) fn create(&mut self, mut words: Cursor<'_>) {
        let replaces = words.takes("or replace");
        while words.first_of(MODIFIERS).is_some() {}
        match words.lower_word().as_str() {
            "table" => self.create_table(words),
            "view" if replaces => drop(self.lock_here(&mut words, Mode::AccessExclusive)),
            "index" => self.create_index(words),
            "trigger" => {
                if let Some(table) = self.lock_behind("on", words, Mode::ShareRowExclusive) {
                    self.warn(Harm::BlocksWrites, &table, KEEPS_WRITERS_OUT, SHORT);
                }
            }
            "rule" => drop(self.lock_behind("to", words, Mode::AccessExclusive)),
            "policy" => drop(self.lock_behind("on", words, Mode::AccessExclusive)),
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
        let there = self.world.resolve(&parts);
        if is_optional && self.world.relations.contains_key(&there) {
            return;
        }
        let table = self.world.create(&parts);
        if words.takes("partition of")
            && let Some(parent) = self.lock_here(&mut words, Mode::AccessExclusive)
        {
            self.related_to(&parent, DEFAULT_AND_LINKED, Mode::AccessExclusive);
            self.link(&table, parent, LinkKind::Partition);
        }
        let columns = words.group();
        let parents = words.takes("inherits").then(|| words.group()).flatten();
        for parent in parents.map(|mut it| it.tables()).unwrap_or_default() {
            let parent = self.lock(&parent, Mode::ShareUpdateExclusive);
            self.link(&table, parent, LinkKind::Child);
        }
        for mut element in columns.map(Cursor::elements).unwrap_or_default() {
            let constraint = element.takes("constraint").then(|| element.name());
            if element.takes("foreign key") {
                let columns = names(element.group());
                self.references(&table, constraint.flatten(), columns, element);
            } else if constraint.is_none()
                && let Some(column) = element.name()
            {
                self.references(&table, None, vec![column], element);
            }
        }
    }

    /// A foreign key takes the same lock on both tables.
    pub(super) fn references(
        &mut self,
        table: &Name,
        name: Option<String>,
        columns: Vec<String>,
        mut words: Cursor<'_>,
    ) {
        let Some(target) = words.seek("references").then(|| words.parts()).flatten() else {
            return;
        };
        let target = self.world.resolve(&target);
        if target != *table {
            self.lock_name(&target, Mode::ShareRowExclusive);
            self.warn(Harm::BlocksWrites, &target, KEEPS_WRITERS_OUT, SHORT);
        }
        let name = name.unwrap_or_else(|| format!("{}_{}_fkey", table.name, columns.join("_")));
        self.world.links.push(Link {
            kind: LinkKind::ForeignKey,
            table: table.clone(),
            target,
            name,
            columns,
            target_columns: names(words.group()),
        });
    }

    pub(super) fn link(&mut self, table: &Name, target: Name, kind: LinkKind) {
        self.world.links.push(Link {
            kind,
            table: table.clone(),
            target,
            ..Link::default()
        });
    }

    fn create_index(&mut self, mut words: Cursor<'_>) {
        let concurrently = words.takes("concurrently");
        let _ = words.takes("if not exists");
        let index = (!words.at_word("on")).then(|| words.name()).flatten();
        let Some(table) = words.takes("on").then(|| words.table()).flatten() else {
            return;
        };
        let table = self.lock(&table, Mode::Share.or_gentle(concurrently));
        if !concurrently {
            let safer = "CREATE INDEX CONCURRENTLY, alone in its file";
            self.warn(Harm::BlocksWrites, &table, BUILDS_INDEX, safer);
        }
        if let Some(name) = index {
            let index = Name::new(&table.schema, &name);
            self.world.indexes.insert(index, table);
        }
    }

    // ---- DROP ----

    pub(super) fn drop(&mut self, mut words: Cursor<'_>) {
        let cascades = words.has("cascade");
        let _ = words.takes("materialized") || words.takes("foreign");
        let kind = words.lower_word();
        let concurrently = words.takes("concurrently");
        let _ = words.takes("if exists");
        match kind.as_str() {
            "table" | "view" => return self.drop_tables(words, cascades),
            "index" => return self.drop_indexes(words, concurrently),
            "trigger" | "rule" | "policy" => {
                self.lock_behind("on", words, Mode::AccessExclusive);
                return;
            }
            "extension" => self.related("the extension's tables", Mode::AccessExclusive),
            _ => {}
        }
        if cascades {
            self.related("tables that depend on it", Mode::AccessExclusive);
        }
    }

    fn drop_tables(&mut self, mut words: Cursor<'_>, cascades: bool) {
        for parts in words.tables() {
            let name = self.lock(&parts, Mode::AccessExclusive);
            let message = "code that uses {} fails";
            self.warn(Harm::BreaksOldCode, &name, message, NEW_CODE_FIRST);
            if cascades {
                self.related_to(&name, "views that depend on it", Mode::AccessExclusive);
            }
            let linked = self.world.linked(&name, |it| match it.table == name {
                true => it.kind != LinkKind::Child,
                false => it.target == name && it.kind == LinkKind::ForeignKey && cascades,
            });
            self.world.drop(&name);
            self.lock_all(linked, Mode::AccessExclusive);
        }
    }

    fn drop_indexes(&mut self, mut words: Cursor<'_>, concurrently: bool) {
        let mode = Mode::AccessExclusive.or_gentle(concurrently);
        for index in words.tables() {
            if let Some(name) = self.lock_index(&index, mode).filter(|_| !concurrently) {
                let safer = "DROP INDEX CONCURRENTLY, alone in its file";
                self.warn(Harm::BlocksReads, &name, KEEPS_ALL_OUT, safer);
            }
        }
    }
}

/// The names in a list, if there is one.
pub(super) fn names(list: Option<Cursor<'_>>) -> Vec<String> {
    let elements = list.map(Cursor::elements).unwrap_or_default().into_iter();
    elements.filter_map(|mut it| it.name()).collect()
}
