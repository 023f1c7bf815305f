//! Whether an index that is there may be taken for a statement's own, and the words if it may not.
//!
//! Where the server cannot make the comparison, each kind of index has its safe side: a valid one is believed, since
//! PostgreSQL itself asks for no more than the name, and a refusal would break a file that it takes; an INVALID one is
//! left alone, since what is dropped is gone.

use log::warn;

use super::definition::{self, Comparison};
use super::{Current, Found};
use crate::error::Error;
use crate::lock::fence::Fault;
use crate::server::settings::Settings;
use crate::sql::{quote, sqlstate};

impl Current<'_> {
    /// Compares the index of this name, in the table's schema, with what the statement would build.
    pub(super) fn compare(
        &mut self,
        statement: &str,
        index: &str,
        table: &str,
    ) -> Result<Comparison, Error> {
        let relation = self.relation(table)?;
        let compared = relation.and_then(|it| definition::statements(statement, index, &it));
        let Some(compared) = compared else {
            return Ok(definition::unknown(
                "the table is not there, or the statement is not understood",
            ));
        };
        let statements: Vec<String> = self.sets.iter().cloned().chain(compared).collect();
        let name = self.name();
        let doing = format!("comparing the index \"{index}\" with that of {name}");
        let settings = Settings::default().retried();
        let mut wait = self.run.lock_retry();
        let rows = self.locked.try_out(settings, &statements, &doing, &mut wait)?;
        Ok(definition::read(&rows))
    }

    /// Refuses an INVALID index that is not provably what an unfinished run of this statement left.
    pub(super) fn check_invalid(
        &mut self,
        index: &str,
        table: &str,
        was_started: bool,
    ) -> Result<(), Fault> {
        let name = self.index_name(index, table)?;
        let (what, detail, whose) = if was_started {
            match self.compare(self.text(), index, table)? {
                Comparison::Same => return Ok(()),
                Comparison::Differs { present, wanted } => (
                    "is INVALID, and another one than this file builds",
                    Some(definitions(&present, &wanted)),
                    "No run of this file left it",
                ),
                Comparison::Unknown { why, present } => (
                    "is INVALID, and whether this file's statement left it cannot be found out",
                    Some(format!("{why}\nthe index that is there: {present}")),
                    "It may be somebody else's",
                ),
            }
        } else {
            ("was there before, and is INVALID", None, "This migration did not leave it")
        };
        let message = format!("index \"{index}\" on {table} {what}");
        let hint = format!(
            "{whose}, so it is not ours to remove: DROP INDEX CONCURRENTLY {name}; then run again."
        );
        Err(self.refuse(sqlstate::INVALID_INDEX, message, detail, Some(hint)))
    }

    /// Refuses a valid index under the statement's name that is another one than the statement's.
    pub(super) fn check_valid(
        &mut self,
        index: &str,
        table: &str,
        found: Found,
    ) -> Result<(), Fault> {
        let statement = self.text();
        let (present, wanted) = match self.compare(statement, index, table)? {
            Comparison::Same => return Ok(()),
            Comparison::Differs { present, wanted } => (present, wanted),
            Comparison::Unknown { present, .. } if found == Found::IndexElsewhere => {
                (present, statement.to_owned())
            }
            Comparison::Unknown { why, .. } => {
                warn!(
                    "{}: the index \"{index}\" on {table} is there and valid; whether it is what the file builds \
                     cannot be found out: {why}",
                    self.name()
                );
                return Ok(());
            }
        };
        let message =
            format!("index \"{index}\" is there already, and is another one than this file builds");
        let hint = format!(
            "Give the file's index a name of its own; or, if nobody needs the one that is there: \
             DROP INDEX CONCURRENTLY {}; then run again.",
            self.index_name(index, table)?
        );
        let detail = definitions(&present, &wanted);
        Err(self.refuse(sqlstate::OTHER_INDEX, message, Some(detail), Some(hint)))
    }

    /// The qualified and quoted name of an index: it lives in its table's schema.
    pub(super) fn index_name(&mut self, index: &str, table: &str) -> Result<String, Error> {
        Ok(match self.relation(table)? {
            // Behind a schema, a keyword is a name like any other.
            Some(table) => format!("{}.{}", table.schema, quote::bare_or_quoted(index)),
            None => quote::identifier(index),
        })
    }
}

fn definitions(present: &str, wanted: &str) -> String {
    format!("there:    {present}\nthe file: {wanted}")
}
