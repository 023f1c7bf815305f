//! Whether an index that is there may be taken for a statement's own, and the words if it may not.
//!
//! Where the server cannot make the comparison, each kind of index has its safe side: a valid one is believed, since
//! PostgreSQL itself asks for no more than the name, and a refusal would break a file that it takes; an INVALID one is
//! left alone, since what is dropped is gone.

use log::warn;

use super::definition::{self, Comparison};
use super::{Found, LOCK_TIMEOUT, Run};
use crate::error::{Error, FailureOutcome, SqlError};
use crate::lock::{self, Locked};
use crate::migration::Migration;
use crate::server::session::Settings;
use crate::server::wait::Wait;
use crate::sql::{quote, sqlstate};

impl Run<'_> {
    /// Compares the index of this name, in the table's schema, with what the statement would build.
    pub(super) fn compare(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        statement: &str,
        index: &str,
        table: &str,
    ) -> Result<Comparison, Error> {
        let settings = Settings {
            lock_timeout: LOCK_TIMEOUT,
            ..Settings::default()
        };
        let message = self
            .relation(locked, migration, table)?
            .and_then(|table| definition::message(settings, statement, index, &table));
        let Some(message) = message else {
            return Ok(definition::unknown(
                "the table is not there, or the statement is not understood",
            ));
        };
        let doing = format!(
            "comparing the index \"{index}\" with that of {}",
            migration.file_name
        );
        let mut wait = Wait::new(self.signals, self.config.ddl_lock_retry);
        loop {
            match locked.work.query(&message) {
                Ok(results) => return Ok(definition::read(results)),
                Err(trouble) => {
                    lock::retry_lock_timeout(&mut locked.work, trouble, &doing, &mut wait)
                        .map_err(|error| error.after(self.before()))?;
                }
            }
        }
    }

    /// Refuses an INVALID index that is not provably what an unfinished run of this statement left.
    pub(super) fn check_invalid(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        index: &str,
        table: &str,
        was_started: bool,
    ) -> Result<(), Error> {
        let name = self.index_name(locked, migration, index, table)?;
        let drop =
            format!("so it is not ours to remove: DROP INDEX CONCURRENTLY {name}; then run again.");
        let (message, detail, hint) = if was_started {
            match self.compare(locked, migration, migration.statement(), index, table)? {
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
        Err(self.outside_failure(migration, cause, None, FailureOutcome::NotBegun))
    }

    /// Refuses a valid index under the statement's name that is another one than the statement's.
    pub(super) fn check_valid(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        index: &str,
        table: &str,
        found: Found,
    ) -> Result<(), Error> {
        let statement = migration.statement();
        let (present, wanted) = match self.compare(locked, migration, statement, index, table)? {
            Comparison::Same => return Ok(()),
            Comparison::Differs { present, wanted } => (present, wanted),
            Comparison::Unknown { present, .. } if found == Found::IndexElsewhere => {
                (present, statement.to_owned())
            }
            Comparison::Unknown { why, .. } => {
                warn!(
                    "{}: the index \"{index}\" on {table} is there and valid; whether it is what the file builds \
                     cannot be found out: {why}",
                    migration.file_name
                );
                return Ok(());
            }
        };
        let name = self.index_name(locked, migration, index, table)?;
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
        Err(self.outside_failure(migration, cause, None, FailureOutcome::NotBegun))
    }

    /// The qualified and quoted name of an index: it lives in its table's schema.
    pub(super) fn index_name(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        index: &str,
        table: &str,
    ) -> Result<String, Error> {
        let table = self.relation(locked, migration, table)?;
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
