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
//!   If an `up` comes first, the migration is pending. It waits for the session as well. Then an index that was to be
//!   dropped is valid (nothing has happened, so the migration is as it was: recorded again), INVALID (dropped, and the
//!   file runs), or absent (the file runs); of one that was to be built the opposite holds. Of the other statements the
//!   file's own work tells: if all of it is there, it is recorded;
//! * *after the completion*: there is no trace of the migration, as if it had never been applied.
//!
//! A note is only written for work that is not there yet. So a `DROP INDEX CONCURRENTLY` of an index that does not exist
//! fails with its record in place, as often as it is tried, and is not taken for one whose work had been done.

use log::{info, warn};

use super::{Found, Run};
use crate::apply::{Step, Way};
use crate::connect::literal;
use crate::error::Error;
use crate::history;
use crate::lock::{Expected, Locked};
use crate::migration::{Interrupted, Migration, TakenBack};
use crate::script::Outside;

impl Run<'_> {
    /// What a fenced transaction does before the statement runs: it notes the start, and on the way back deletes the
    /// record. `start` is the note.
    pub(super) fn note(
        &self,
        locked: &Locked,
        migration: &Migration,
        statement: Option<&Outside>,
        start: String,
    ) -> String {
        if let Way::Up { .. } = self.way {
            return start;
        }
        let version = migration.version;
        let begun = || self.unfinished(migration)?.rollback.as_ref();
        let recorded = self.history.record(version).map(|it| it.group);
        let group = recorded.or_else(|| Some(begun()?.group)).unwrap_or(0);
        let dropped = match statement {
            Some(Outside::DropIndex { indexes, .. }) => indexes.first().map(String::as_str),
            _ => None,
        };
        let taken_back = history::take_back(&locked.tables, version, group, &start, dropped);
        format!("{taken_back} {}", locked.assert_erased(version))
    }

    /// Returns true if and only if the file's work, where all of it is found, can be that of the run which left this
    /// note: because it ran the same text, or because it was rolling back what had been applied.
    pub(super) fn may_be_work_of(&self, noted: &Interrupted, migration: &Migration) -> bool {
        let same_text = noted.checksum == Some(migration.script.checksum);
        same_text || self.way != Way::Down && noted.rollback.is_some()
    }

    /// On the way up, after a rollback that was begun and not finished, whose session has ended and whose INVALID index
    /// is gone: records the migration again if it stands as it was. Returns a step if it needs no more.
    pub(super) fn settle_rollback(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        noted: &Interrupted,
        taken_back: &TakenBack,
    ) -> Result<Option<Step>, Error> {
        let stands = match (&taken_back.dropped_index, &noted.index) {
            (Some(index), _) => match self.ask(locked, migration, &dropped_index_query(index))? {
                Found::Nothing => false,
                Found::Done => true,
                _ => {
                    let unrecorded = Expected::NoneOf(&[migration.version]);
                    if let Some(step) = self.begin_outside(locked, migration, None, unrecorded)? {
                        return Ok(Some(step));
                    }
                    warn!(
                        "{}: dropping the index {index}, as its rollback had begun to",
                        migration.file_name
                    );
                    let doing = format!("finishing the rollback of {}", migration.file_name);
                    let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {index}");
                    self.session_statement(locked, migration, &drop, &doing)?;
                    false
                }
            },
            (None, Some((index, table))) => {
                self.find_index(locked, migration, index, table)? != Found::Done
            }
            (None, None) => false,
        };
        if !stands {
            return Ok(None);
        }
        let name = &migration.file_name;
        info!("{name}: nothing of its rollback had happened; it is recorded again");
        let unrecorded = Expected::NoneOf(&[migration.version]);
        self.finish(locked, migration, None, unrecorded).map(Some)
    }
}

/// The state of the index that a rollback was to drop.
fn dropped_index_query(index: &str) -> String {
    format!(
        "SELECT CASE WHEN i.indisvalid THEN 'done' ELSE 'invalid' END AS found FROM pg_catalog.pg_index i \
         WHERE i.indexrelid = pg_catalog.to_regclass({})",
        literal(index)
    )
}
