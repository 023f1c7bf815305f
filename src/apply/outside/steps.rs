//! A file that its author wants outside a transaction: its statements run one after the other, each exactly once.
//!
//! The journal counts how many are done. A statement that can run in a transaction runs fenced in its own, together with
//! the count; so it is done and counted, or neither. One that cannot runs as the only statement of a file does (see
//! [`super`]): the note of its start holds the count, and so does the transaction that checks its work. The last one's
//! transaction makes the record instead. A run that dies goes on at the statement that is not counted; what that statement
//! may have left is found as that of a lone one.
//!
//! Each statement begins in a clean session, in which the file's `SET`s before it are repeated: so a run that goes on, and
//! one behind a pooler, find what the file has set. What else a statement leaves in its session goes with it.

use log::info;

use super::Current;
use crate::apply::{Attempt, Run, Way};
use crate::error::FailureOutcome;
use crate::history::record::Started;
use crate::lock::fence::{Fault, Fenced};
use crate::migration::Migration;
use crate::server::progress::Part;
use crate::server::wait::Wait;
use crate::sql::{self, Kind, sqlstate};
use crate::text::words::counted;

/// Counts the statement of this number as done, or makes the record if it is the last. The start of a file whose first
/// statement found nothing to do is noted here.
pub(super) fn settle(
    run: &Run<'_>,
    fenced: &mut Fenced<'_>,
    migration: &Migration,
    (number, is_noted): (usize, bool),
) {
    match number + 1 < migration.script.statements.len() {
        true if is_noted => fenced.count(migration, number + 1),
        true => run.note(fenced, migration, number + 1, None),
        false => run.settle_record(fenced, migration, Started::InJournal),
    }
}

/// The `SET`s and `RESET`s of the session among the first statements.
pub(super) fn settings_before(migration: &Migration, number: usize) -> Vec<String> {
    migration.statements().take(number).filter(|it| is_setting(it)).map(str::to_owned).collect()
}

fn is_setting(statement: &str) -> bool {
    let words = sql::identifiers(statement);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["set" | "reset", "local" | "transaction" | "constraints", ..] => false,
        ["set" | "reset", ..] => true,
        _ => false,
    }
}

impl<'r> Current<'r> {
    /// Runs the file's statements that are not done yet.
    pub(in crate::apply) fn run_each(&mut self, wait: &mut Wait) -> Result<(), Fault> {
        let statements = &self.migration.script.statements;
        let done = self.done_before()?;
        self.is_noted = done > 0;
        // A statement outside a transaction is noted by itself, or when it is counted.
        if done == 0 && !matches!(statements[0].kind, Kind::Outside(_)) {
            self.begin(Some(None))?;
        }
        self.sets = settings_before(self.migration, done);
        for (number, statement) in statements.iter().enumerate().skip(done) {
            self.number = number;
            match &statement.kind {
                Kind::Outside(what) => self.run_outside(what, wait)?,
                _ => self.run_inside(Self::attempt_statement, wait)?,
            }
            if is_setting(self.text()) {
                self.sets.push(self.text().to_owned());
            }
        }
        Ok(())
    }

    /// How many statements an earlier run has done for good.
    fn done_before(&self) -> Result<usize, Fault> {
        let (unfinished, is_down) = (self.unfinished(), self.run.way == Way::Down);
        let noted = unfinished.filter(|it| it.rollback.is_some() == is_down);
        let count = noted.and_then(|it| it.done).unwrap_or(0);
        if count == 0 {
            return Ok(0);
        }
        let ran = counted(count, "statement");
        let fits = count < self.migration.script.statements.len();
        let checksum = noted.and_then(|it| it.checksum);
        if !fits || checksum != Some(self.migration.checksum_of(count)) {
            let message = format!("an earlier run did {ran} of this file, which were edited since");
            let hint = "Bring them back as they were and run again; or do what is left by hand, and record it with \
                        `lockstep baseline`.";
            return Err(self.refuse(sqlstate::HALF_WAY, message, None, Some(hint.to_owned())));
        }
        info!("{}: an earlier run did {ran}; going on behind", self.name());
        Ok(count)
    }

    /// Sends the statement in a transaction of its own.
    fn attempt_statement(&mut self) -> Result<Attempt<'r>, Fault> {
        let (run, text) = (self.run, self.text());
        let sets: String = self.sets.iter().map(|it| format!("{it};\n")).collect();
        let part =
            Part { text: format!("{sets}{text}"), statement: Some(self.number), ..Part::default() };
        let doing = format!("running statement {} of {}", self.number + 1, self.name());
        let mut fenced = self.locked.transaction(&self.expected(), run.settings());
        settle(run, &mut fenced, self.migration, (self.number, true));
        let Err(failed) = fenced.run([part], &doing, &mut self.watch)? else {
            return Ok(Attempt::Done);
        };
        let outcome = FailureOutcome::OutsideTransaction { left: false };
        if failed.may_pass() {
            Ok(Attempt::Locked(failed.error, text))
        } else if failed.needs_no_transaction() {
            Ok(Attempt::NeedsNoTransaction)
        } else if failed.ours.is_some() {
            Err(self.failure(failed.error, None, None, outcome))
        } else {
            Err(self.statement_failure(&failed.cause, &format!("{}{sets}", failed.prefix), outcome))
        }
    }
}
