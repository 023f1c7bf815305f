//! Whether an index that is there may be taken for a statement's own, and the words if it may not.
//!
//! Where the server cannot make the comparison, each kind of index has its safe side: a valid one is believed, since
//! PostgreSQL itself asks for no more than the name, and a refusal would break a file that it takes; an INVALID one is
//! left alone, since what is dropped is gone.

use log::warn;

use super::definition::{self, Comparison};
use super::{Alone, Found};
use crate::error::{Error, FailureOutcome, SqlError};
use crate::server::settings::{LOCK_TIMEOUT, Settings};
use crate::server::wait::Wait;
use crate::sql::{quote, sqlstate};

impl Alone<'_, '_, '_> {
    /// Compares the index of this name, in the table's schema, with what the statement would build.
    pub(super) fn compare(
        &mut self,
        statement: &str,
        index: &str,
        table: &str,
    ) -> Result<Comparison, Error> {
        let settings = Settings {
            lock_timeout: LOCK_TIMEOUT,
            ..Settings::default()
        };
        let table = self.relation(table)?;
        let compared = table.and_then(|table| definition::statements(statement, index, &table));
        let Some(compared) = compared else {
            return Ok(definition::unknown(
                "the table is not there, or the statement is not understood",
            ));
        };
        let statements: Vec<String> = self.sets.iter().cloned().chain(compared).collect();
        let doing = format!(
            "comparing the index \"{index}\" with that of {}",
            self.name()
        );
        let mut wait = Wait::new(self.run.signals, self.run.config.ddl_lock_retry);
        let rows = self
            .locked
            .try_out(settings, &statements, &doing, &mut wait)
            .map_err(|error| error.after(self.run.before()))?;
        Ok(definition::read(&rows))
    }

    /// Refuses an INVALID index that is not provably what an unfinished run of this statement left.
    pub(super) fn check_invalid(
        &mut self,
        index: &str,
        table: &str,
        was_started: bool,
    ) -> Result<(), Error> {
        let name = self.index_name(index, table)?;
        let drop =
            format!("so it is not ours to remove: DROP INDEX CONCURRENTLY {name}; then run again.");
        let (message, detail, hint) = if was_started {
            match self.compare(&self.text(), index, table)? {
                Comparison::Same => return Ok(()),
                Comparison::Differs { present, wanted } => (
                    "is INVALID, and another one than this file builds".to_owned(),
                    Some(definitions(&present, &wanted)),
                    format!("No run of this file left it, {drop}"),
                ),
                Comparison::Unknown { why, present } => (
                    "is INVALID, and whether this file's statement left it cannot be found out"
                        .to_owned(),
                    Some(format!("{why}\nthe index that is there: {present}")),
                    format!("It may be somebody else's, {drop}"),
                ),
            }
        } else {
            (
                "was there before, and is INVALID".to_owned(),
                None,
                format!("This migration did not leave it, {drop}"),
            )
        };
        let cause = SqlError {
            sqlstate: sqlstate::INVALID_INDEX.to_owned(),
            message: format!("index \"{index}\" on {table} {message}"),
            detail,
            hint: Some(hint),
            query: None,
            context: None,
        };
        Err(self.failure(cause, None, FailureOutcome::NotBegun))
    }

    /// Refuses a valid index under the statement's name that is another one than the statement's.
    pub(super) fn check_valid(
        &mut self,
        index: &str,
        table: &str,
        found: Found,
    ) -> Result<(), Error> {
        let statement = &self.text();
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
        let name = self.index_name(index, table)?;
        let cause = SqlError {
            sqlstate: sqlstate::OTHER_INDEX.to_owned(),
            message: format!(
                "index \"{index}\" is there already, and is another one than this file builds"
            ),
            detail: Some(definitions(&present, &wanted)),
            hint: Some(format!(
                "Give the file's index a name of its own; or, if nobody needs the one that is there: \
                 DROP INDEX CONCURRENTLY {name}; then run again."
            )),
            query: None,
            context: None,
        };
        Err(self.failure(cause, None, FailureOutcome::NotBegun))
    }

    /// The qualified and quoted name of an index: it lives in its table's schema.
    pub(super) fn index_name(&mut self, index: &str, table: &str) -> Result<String, Error> {
        let table = self.relation(table)?;
        Ok(match table {
            // Behind a schema, a keyword is a name like any other.
            Some(table) => format!("{}.{}", table.schema, quote::bare_or_quoted(index)),
            None => quote::identifier(index),
        })
    }
}

fn definitions(present: &str, wanted: &str) -> String {
    format!("there:    {present}\nthe file: {wanted}")
}
