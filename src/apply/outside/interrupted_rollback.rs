//! The rollback of a migration by a statement outside a transaction, and what `up` makes of one that was cut short.
//!
//! The record must never claim more than there is. So it is written after the work on the way there, and taken back
//! before it on the way back: the fenced transaction that notes the start in the journal deletes the history row, and
//! the one that completes the rollback deletes the note. In between the history says "not applied" and the journal
//! "started, not finished": exactly what they say of an `up` that was cut short. The note keeps the group of the record,
//! by which `down` knows that a rollback was begun, and to which group it belongs.
//!
//! Wherever the run dies,
//!
//! * *before the note*: nothing has happened, and the migration is recorded;
//! * *after the note*: the next `down` finds the note and goes on. It waits for the session that ran the statement,
//!   looks at the catalog, and runs the statement again unless its work is there: `DROP INDEX CONCURRENTLY` removes an
//!   INVALID index just as well, and an INVALID index that was to be built is dropped first. It rolls back no group that
//!   nobody asked for, since what was begun still counts as the newest.
//!   If an `up` comes first, the migration is pending. It waits for the session as well, and finishes what is half done:
//!   an index that is INVALID because it was being dropped or built is dropped, a pending detach is finished. Then an up
//!   file that runs outside a transaction runs as ever: if all of its work is there, and is what the file says now, it is
//!   recorded. Any other file could not run twice. So if the catalog says that nothing of the rollback has happened, the
//!   migration is as it was, and is recorded again; else the file runs;
//! * *after the completion*: there is no trace of the migration, as if it had never been applied.
//!
//! A crash of the server loses a suffix of what was committed, so the statement's work never stays without its note.
//!
//! A note is only written for work that is not there yet. So a `DROP INDEX CONCURRENTLY` of an index that does not exist
//! fails with its record in place, as often as it is tried, and is not taken for one whose work had been done.

use log::{info, warn};

use super::{Current, Found, only_statement};
use crate::apply::{Run, Way};
use crate::lock::fence::{Fault, Fenced};
use crate::migration::{Interrupted, Migration};
use crate::sql::{self, Outside, sqlstate};
use crate::text::words::counted;

impl Run<'_> {
    /// What a fenced transaction does before the statement runs: it notes the start, and on the way back deletes the
    /// record. So many statements are done; `text` is what is noted of the next one.
    pub(super) fn note(
        &self,
        fenced: &mut Fenced<'_>,
        migration: &Migration,
        done: usize,
        text: Option<&str>,
    ) {
        let version = migration.version;
        let Way::Down = self.way else {
            return fenced.note(migration, done, text);
        };
        let mut begun = self.history.interrupted.iter();
        let begun = || begun.find(|it| it.version == version)?.rollback;
        let group = self.history.record(version).map(|it| it.group).or_else(begun).unwrap_or(0);
        fenced.take_back(migration, (&self.history.ids(version), group), done, text);
    }
}

impl Current<'_> {
    /// Returns true if and only if the file's work, where all of it is found, can be that of the run which left this
    /// note: because it ran the same text, or because it was rolling back what had been applied.
    pub(super) fn may_be_work_of(&self, noted: &Interrupted) -> bool {
        let same_text = match (&noted.statement, noted.done) {
            (Some(noted), Some(1..)) => {
                noted.is_empty() || *noted == sql::without_comments(self.text())
            }
            _ => noted.checksum == Some(self.migration.script.checksum),
        };
        same_text || self.run.way != Way::Down && noted.rollback.is_some()
    }

    /// On the way up, after a rollback that was begun and not finished, whose session has ended and whose INVALID index
    /// is gone: finishes what it had begun, or records the migration again if nothing of it has happened. Returns true if
    /// and only if it is recorded.
    pub(super) fn settle_rollback(&mut self, noted: &Interrupted) -> Result<bool, Fault> {
        if let Some(done) = noted.done.filter(|it| *it > 0) {
            let done = counted(done, "statement");
            let message = format!("its rollback was begun, and {done} of the down file ran");
            let hint = "Finish the rollback with `lockstep down`.".to_owned();
            return Err(self.refuse(sqlstate::HALF_WAY, message, None, Some(hint)));
        }
        if !noted.had_started(0) {
            return self.record_again();
        }
        let text = noted.statement.as_deref().unwrap_or_default();
        let Some(statement) = only_statement(text) else {
            return Ok(false);
        };
        let found = self.find(text, &statement)?;
        if let Found::InvalidIndex | Found::PendingDetach = found {
            let leave = self.begin(None)?;
            match &statement {
                Outside::DropIndex { indexes } => {
                    let (name, indexes) = (self.name(), indexes.join(", "));
                    warn!("{name}: dropping the index {indexes}, as its rollback had begun to");
                    let doing = format!("finishing the rollback of {name}");
                    let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {indexes}");
                    self.repair(&leave, &drop, &doing)?;
                }
                Outside::DetachPartition { table, partition } => {
                    self.finalize_detach(&leave, table, partition)?;
                }
                // An INVALID index that is not provably what the rollback built.
                _ => {}
            }
            return Ok(false);
        }
        // What runs outside a transaction tells by itself whether its work is there, and is what the file says.
        if found == Found::Done || only_statement(&self.migration.text).is_some() {
            return Ok(false);
        }
        self.record_again()
    }

    /// Nothing of the rollback has happened: the migration is as it was.
    fn record_again(&mut self) -> Result<bool, Fault> {
        info!("{}: nothing of its rollback had happened; it is recorded again", self.name());
        self.number = self.migration.script.statements.len().saturating_sub(1);
        self.finish(&Outside::Other)?;
        Ok(true)
    }
}
