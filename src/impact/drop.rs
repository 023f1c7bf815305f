//! `DROP …`: what goes, and what hangs on it.

use super::words::Words;
use super::world::Effect;
use super::{Harm, Mode, NEW_CODE_FIRST, Reader, quoted};

impl Reader<'_> {
    pub(super) fn drop(&mut self, mut words: Words<'_>) {
        if words.takes("owned") {
            self.breaks("code that uses what the role owns fails".to_owned());
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
                self.breaks_schema(&name);
            }
            "function" | "procedure" | "routine" | "aggregate" | "type" | "domain" | "sequence" => {
                self.drop_what_code_calls(words);
                if cascades {
                    self.related("tables that depend on it", Mode::AccessExclusive);
                }
            }
            _ if cascades => self.related("tables that depend on it", Mode::AccessExclusive),
            _ => {}
        }
    }

    fn drop_what_code_calls(&mut self, mut words: Words<'_>) {
        while let Some(name) = words.parts().and_then(|mut parts| parts.pop()) {
            if !self.world.new_types.contains(&name) {
                let name = quoted(&name);
                self.breaks(format!(
                    "code that uses {name} fails, unless it is created again"
                ));
            }
            let _arguments = words.group();
            if !words.symbol(",") {
                return;
            }
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
