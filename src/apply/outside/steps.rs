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

use super::{Alone, Step, Written};
use crate::apply::Run;
use crate::error::{Error, FailureOutcome, SqlError};
use crate::history::record::{Done, Started};
use crate::lock::fence::{Fenced, Ran, Verdict};
use crate::migration::{Interrupted, Migration};
use crate::server::progress::Part;
use crate::server::session::Trouble;
use crate::server::settings::Settings;
use crate::server::wait::Wait;
use crate::sql::{self, Kind, sqlstate};
use crate::text::words::counted;

/// Counts the statement of this number as done, or makes the record if it is the last.
pub(super) fn settle(run: &Run<'_>, fenced: &mut Fenced<'_>, migration: &Migration, number: usize) {
    match number + 1 < migration.script.statements.len() {
        true => fenced.count(migration.version, done(migration, number + 1)),
        false => run.settle_record(fenced, migration, Started::InJournal),
    }
}

/// What the first statements of the file are, if they are done.
pub(super) fn done(migration: &Migration, count: usize) -> Done {
    let script = &migration.script;
    let last = count.checked_sub(1).and_then(|it| script.checksums.get(it));
    let checksum = *last.unwrap_or(&script.checksum);
    Done { count, checksum }
}

/// The `SET`s and `RESET`s of the session among the first statements.
pub(super) fn settings_before(migration: &Migration, number: usize) -> Vec<String> {
    let before = migration.script.statements.iter().take(number);
    let texts = before.map(|it| &migration.text[it.range()]);
    texts
        .filter(|it| is_setting(it))
        .map(str::to_owned)
        .collect()
}

fn is_setting(statement: &str) -> bool {
    let of_transaction = ["local", "transaction", "constraints"];
    let words = sql::identifiers(statement);
    matches!(words.first().map(String::as_str), Some("set" | "reset"))
        && !words
            .get(1)
            .is_some_and(|it| of_transaction.contains(&it.as_str()))
}

/// What came of a statement in a transaction of its own.
enum Inside {
    Done,
    DoneByOthers,
    /// A lock is in the way.
    Locked(SqlError),
    /// The server will not run it in a transaction.
    Outside,
}

impl Alone<'_, '_, '_> {
    /// Runs the file's statements that are not done yet.
    pub(in crate::apply) fn run_each(mut self, wait: &mut Wait) -> Result<Step, Error> {
        let done = self.done_before()?;
        let first = self.migration.script.statements.first();
        // A statement outside a transaction is noted by itself.
        if done == 0 && first.is_some_and(|it| !matches!(it.kind, Kind::Outside(_))) {
            let expected = self.run.expected(self.migration.version);
            if let Written::NoMore(step) = self.begin(Some(None), &expected)? {
                return Ok(step);
            }
        }
        let migration = self.migration;
        self.sets = settings_before(migration, done);
        for (number, statement) in migration.script.statements.iter().enumerate().skip(done) {
            self.number = number;
            let step = match &statement.kind {
                Kind::Outside(what) => {
                    let expected = match number {
                        0 => self.run.expected(self.migration.version),
                        _ => self.unrecorded(),
                    };
                    self.run(Some(what), expected, wait)?
                }
                Kind::Plain | Kind::MaybeOutside => self.run_inside(wait)?,
            };
            if step == Step::DoneByOthers {
                return Ok(step);
            }
            let text = self.text();
            if is_setting(&text) {
                self.sets.push(text);
            }
        }
        Ok(Step::Done)
    }

    /// How many statements an earlier run has done for good.
    fn done_before(&self) -> Result<usize, Error> {
        let begun = self.run.unfinished(self.migration);
        let of_this_way =
            |it: &&Interrupted| it.rollback.is_some() == (self.run.way == super::Way::Down);
        let Some(noted) = begun.filter(of_this_way) else {
            return Ok(0);
        };
        let count = noted.done.unwrap_or(0);
        if count == 0 {
            return Ok(0);
        }
        let ran = counted(count, "statement");
        let fits = count < self.migration.script.statements.len();
        if !fits || noted.checksum != Some(done(self.migration, count).checksum) {
            let message = format!("an earlier run did {ran} of this file, which were edited since");
            let hint = "Bring them back as they were and run again; or do what is left by hand, and record it with \
                        `lockstep baseline`.";
            let cause = self.stopped_half_way(message, hint);
            return Err(self.failure(cause, None, FailureOutcome::NotBegun));
        }
        log::info!("{}: an earlier run did {ran}; going on behind", self.name());
        Ok(count)
    }

    /// The error of a migration that can go neither on nor back.
    pub(super) fn stopped_half_way(&self, message: String, hint: &str) -> SqlError {
        SqlError {
            message,
            hint: Some(hint.to_owned()),
            ..SqlError::ours(sqlstate::HALF_WAY, "")
        }
    }

    /// Runs the statement in a transaction of its own, and again while a lock is in the way.
    fn run_inside(&mut self, wait: &mut Wait) -> Result<Step, Error> {
        loop {
            let cause = match self.attempt_inside()? {
                Inside::Done => return Ok(Step::Done),
                Inside::DoneByOthers => return Ok(Step::DoneByOthers),
                Inside::Outside => {
                    let expected = self.unrecorded();
                    return self.run(None, expected, wait);
                }
                Inside::Locked(cause) => cause,
            };
            let doing = self.migration.path.display().to_string();
            self.try_again(&doing, cause, wait)?;
        }
    }

    fn attempt_inside(&mut self) -> Result<Inside, Error> {
        let sets = self.sets.iter().map(|it| format!("{it};\n"));
        let sets: String = sets.collect();
        let part = Part {
            text: format!("{sets}{}", self.text()),
            statement: Some(self.number),
            ..Part::default()
        };
        let settings = Settings {
            lock_timeout: self.run.config.ddl_lock_timeout,
            statement_timeout: self.run.config.statement_timeout,
            ..Settings::default()
        };
        let expected = self.unrecorded();
        let mut fenced = self.locked.transaction(&expected, settings);
        settle(self.run, &mut fenced, self.migration, self.number);
        let failed = match fenced.run([part], self.watch) {
            Ran::Committed => return Ok(Inside::Done),
            Ran::Failed(failed) => failed,
            Ran::NotReset(trouble) | Ran::Lost(trouble) => return Err(self.lost(trouble)),
        };
        let outcome = FailureOutcome::OutsideTransaction { left: false };
        let cause = failed.error(&self.locked.tables().history);
        match failed.verdict() {
            Verdict::DoneByOthers => Ok(Inside::DoneByOthers),
            Verdict::LockLost => Err(self.locked.lost()),
            Verdict::TryAgain => Ok(Inside::Locked(cause)),
            Verdict::NotInTransaction => Ok(Inside::Outside),
            Verdict::Refused if failed.ours.is_some() => Err(self.failure(cause, None, outcome)),
            Verdict::Refused => {
                let prefix = format!("{}{sets}", failed.prefix);
                Err(self.statement_failure(&failed.cause, &prefix, outcome))
            }
        }
    }

    fn lost(&self, trouble: Trouble) -> Error {
        let number = self.number + 1;
        let doing = format!(
            "running statement {number} of {}, which may or may not be done; the next run finds out",
            self.name()
        );
        trouble.while_doing(&doing)
    }
}
