//! `CREATE …`: what a new thing locks of what is there already.

use super::query::Query;
use super::words::{Parts, Words};
use super::world::Effect;
use super::{Harm, Mode, Name, Reader, SHORT, TOKENS};
use crate::sql;

impl Reader<'_> {
    pub(super) fn create(&mut self, mut words: Words<'_>) {
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
            "schema" if words.has("create") => self.unknown("creates what stands in it"),
            "type" => self.create_type(words),
            "domain" => self.create_domain(words),
            _ => {}
        }
    }

    fn create_type(&mut self, mut words: Words<'_>) {
        let name = words.parts().and_then(|mut parts| parts.pop());
        self.effects.extend(name.map(Effect::CreatesType));
    }

    fn create_domain(&mut self, mut words: Words<'_>) {
        let name = words.parts().and_then(|mut parts| parts.pop());
        if words.has("check") || words.has("not null") {
            self.effects.extend(name.map(Effect::CreatesCheckedDomain));
        }
    }

    pub(super) fn create_table(&mut self, mut words: Words<'_>) {
        let is_optional = words.takes("if not exists");
        let Some(parts) = words.parts() else { return };
        if is_optional && self.world.exists(&parts) {
            return;
        }
        let table = self.creates(&parts);
        if words.takes("partition of")
            && let Some(parent) = words.parts()
            && self.lock(&parent, Mode::AccessExclusive).is_some()
        {
            self.related(
                "its default partition, and what its foreign keys link it to",
                Mode::AccessExclusive,
            );
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
    pub(super) fn references(&mut self, table: &Name, target: &Parts) {
        let target = self.world.resolve(target);
        if target != *table && self.lock_name(&target, Mode::ShareRowExclusive) {
            let message = "keeps writers of {} out";
            self.warn(Harm::BlocksWrites, &target, message, SHORT);
        }
    }

    pub(super) fn create_view(&mut self, mut words: Words<'_>, replaces: bool) {
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

    pub(super) fn create_index(&mut self, mut words: Words<'_>) {
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

    pub(super) fn create_trigger(&mut self, mut words: Words<'_>) {
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

    pub(super) fn create_rule(&mut self, mut words: Words<'_>) {
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

    pub(super) fn query_of_new_and_old(&mut self, words: Words<'_>) {
        for (parts, mode) in Query::read(words).tables {
            self.lock(&parts, mode);
        }
    }

    /// What stands in the parentheses of an expression.
    pub(super) fn subqueries(&mut self, words: Words<'_>) {
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

    pub(super) fn owned_by(&mut self, mut words: Words<'_>) {
        if words.seek("owned by")
            && !words.takes("none")
            && let Some(mut column) = words.parts()
        {
            column.pop();
            self.lock(&column, Mode::AccessShare);
        }
    }

    pub(super) fn publication(&mut self, mut words: Words<'_>) {
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
    pub(super) fn routine(&mut self, mut words: Words<'_>) {
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
            let tokens = sql::tokens(&inside, TOKENS);
            self.query_of_new_and_old(Words::new(&tokens));
        }
    }
}
