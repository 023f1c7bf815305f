//! `CREATE …` and `DROP …`: what a new thing locks of what is there already, and what hangs on a thing that goes.

use super::world::{Link, LinkKind};
use super::{
    BUILDS_INDEX, DEFAULT_AND_LINKED, Harm, KEEPS_ALL_OUT, KEEPS_WRITERS_OUT, Mode, NEW_CODE_FIRST,
    Name, Reader, SHORT,
};
use crate::sql::Cursor;

/// What stands between `CREATE`, `ALTER` or `DROP` and the kind of thing.
const MODIFIERS: &str =
    "global|local|temporary|temp|unlogged|recursive|constraint|unique|materialized|foreign";

const EXTENSION: &str = "the extension's tables, and those that depend on it";

impl Reader<'_> {
    /// What defines things, or what they are called.
    pub(super) fn define(&mut self, verb: &str, mut words: Cursor<'_>) {
        let (replaces, cascades) = (words.takes("or replace"), words.has("cascade"));
        words.skip(MODIFIERS);
        match (verb, words.lower_word().as_str()) {
            ("create", "table") => self.create_table(words),
            ("create", "index") => self.create_index(words),
            ("create", "view") if replaces => {
                drop(self.lock_here(&mut words, Mode::AccessExclusive))
            }
            ("create", "function") if !words.has("immutable") && !words.has("stable") => {
                let name = words.parts().unwrap_or_default().pop();
                self.world.volatile.extend(name);
            }
            ("create", "trigger") => {
                let table = self.lock_behind("on", words, Mode::ShareRowExclusive);
                self.warn(Harm::BlocksWrites, &table, KEEPS_WRITERS_OUT, SHORT);
            }
            ("create", "rule") => drop(self.lock_behind("to", words, Mode::AccessExclusive)),
            (_, "trigger" | "rule" | "policy") => {
                self.lock_behind("on", words, Mode::AccessExclusive);
            }
            ("alter", "table" | "view") => self.alter_table(words),
            ("alter", "domain") if !words.has("default") => {
                self.related("tables that use the domain", Mode::Share);
            }
            ("drop", "table" | "view") => self.drop_tables(words, cascades),
            ("drop", "index") => self.drop_indexes(words),
            ("drop", "extension") => self.related(EXTENSION, Mode::AccessExclusive),
            ("drop", _) if cascades => {
                self.related("tables that depend on it", Mode::AccessExclusive);
            }
            (_, "extension") => self.impact.unknown = Some("runs the extension's script"),
            _ => {}
        }
    }

    fn create_table(&mut self, mut words: Cursor<'_>) {
        let is_optional = words.takes("if not exists");
        let table = self.world.new_name(&words.parts().unwrap_or_default());
        if is_optional && self.world.relations.contains_key(&table) {
            return;
        }
        self.world.relations.entry(table.clone()).or_default();
        if words.takes("partition of") {
            let parent = self.lock_here(&mut words, Mode::AccessExclusive);
            self.related_to(&parent, DEFAULT_AND_LINKED, Mode::AccessExclusive);
            self.link(LinkKind::Partition, table.clone(), &parent);
        }
        let columns = words.list();
        let parents = words.takes("inherits").then(|| words.group()).flatten();
        let parents = parents.map(|it| self.lock_each(it, Mode::ShareUpdateExclusive));
        for parent in parents.unwrap_or_default() {
            self.link(LinkKind::Child, table.clone(), &parent);
        }
        for element in columns {
            self.add(&table, element);
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
            table: table.clone(),
            target,
            name,
            columns,
            target_columns: names(words.list()),
            ..Link::default()
        });
    }

    pub(super) fn link(&mut self, kind: LinkKind, table: Name, target: &Name) {
        self.world.links.push(Link { kind, table, target: target.clone(), ..Link::default() });
    }

    fn create_index(&mut self, mut words: Cursor<'_>) {
        let concurrently = words.takes("concurrently");
        let _ = words.takes("if not exists");
        // Of one without a name it is "on", which no index is called.
        let index = words.clone().name().unwrap_or_default();
        let table = self.lock_behind("on", words, Mode::Share.or_gentle(concurrently));
        if !concurrently {
            let safer = "CREATE INDEX CONCURRENTLY, alone in its file";
            self.warn(Harm::BlocksWrites, &table, BUILDS_INDEX, safer);
        }
        self.link(LinkKind::Index, Name::new(&table.schema, &index), &table);
    }

    fn drop_tables(&mut self, mut words: Cursor<'_>, cascades: bool) {
        let _ = words.takes("if exists");
        for name in self.lock_each(words, Mode::AccessExclusive) {
            self.warn(Harm::BreaksOldCode, &name, "code that uses {} fails", NEW_CODE_FIRST);
            if cascades {
                self.related_to(&name, "views that depend on it", Mode::AccessExclusive);
            }
            self.lock_linked(&name, Mode::AccessExclusive, |it| {
                if it.table == name {
                    it.kind != LinkKind::Child
                } else {
                    it.target == name && it.kind == LinkKind::ForeignKey && cascades
                }
            });
            self.world.drop(&name);
        }
    }

    fn drop_indexes(&mut self, mut words: Cursor<'_>) {
        let concurrently = words.takes("concurrently");
        let _ = words.takes("if exists");
        let mode = Mode::AccessExclusive.or_gentle(concurrently);
        for index in words.tables() {
            if let Some(name) = self.lock_index(&index, mode).filter(|_| !concurrently) {
                let safer = "DROP INDEX CONCURRENTLY, alone in its file";
                self.warn(Harm::BlocksReads, &name, KEEPS_ALL_OUT, safer);
            }
        }
    }
}

/// The names in a list; of schemas, they may be literals.
pub(super) fn names(mut list: Vec<Cursor<'_>>) -> Vec<String> {
    list.iter_mut().filter_map(|it| it.name().or_else(|| it.literal())).collect()
}
