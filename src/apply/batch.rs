//! Which files share a message: small ones, of which each leaves nothing to the next but what it defines.
//!
//! The first file of a run goes alone; where files are quick, ever more share a message. None of their statements may take
//! longer than a second: what does is rolled back and run alone, in full view and for as long as it takes, like all that
//! fails.

use std::time::Duration;

use log::debug;

use super::message::{FileMessage, Marking};
use super::{Run, Way};
use crate::error::Error;
use crate::lock::Locked;
use crate::lock::batch::Member;
use crate::logging;
use crate::migration::Migration;
use crate::server::progress::Watch;
use crate::server::settings::Settings;
use crate::sql::{self, Kind};

/// The most files of a message, and the most bytes of them.
const MOST: usize = 256;
const BYTES: usize = 64 * 1024;

/// How many times as many files the next message holds, at most.
const GROWTH: usize = 64;

/// The longest that a statement of a batch may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a message should take.
const QUICK: Duration = Duration::from_millis(250);

/// What such a file consists of. It returns no rows, makes no setting, prepares nothing, and rarely asks for the time, which
/// is the same for all transactions of a message.
const COMMANDS: [&str; 6] = ["CREATE", "ALTER", "DROP", "COMMENT", "GRANT", "REVOKE"];

/// How many files may share the next message; 0: each goes alone from now on.
#[derive(Clone, Copy)]
pub(super) struct Size(usize);

impl Size {
    pub(super) fn first() -> Size {
        // The query log tells of each statement.
        Size(usize::from(!logging::query_log_enabled()))
    }

    /// The size behind a file that went alone, and took so long, with the way there and back.
    pub(super) fn after_one(self, took: Duration) -> Size {
        Size(if took <= STATEMENT_TIMEOUT { (GROWTH * self.0).min(MOST) } else { self.0.min(1) })
    }

    /// The size behind a message of so many files, of which these are done, and took so long on the server.
    pub(super) fn after(self, sent: usize, done: &[Duration]) -> Size {
        let took: Duration = done.iter().sum();
        let fit = QUICK.as_micros() * done.len() as u128 / took.as_micros().max(1);
        let fit = usize::try_from(fit).unwrap_or(MOST).clamp(1, MOST);
        Size(match done.len() {
            0 => 0,
            some if some < sent => self.0.min(1),
            _ => (GROWTH * self.0).min(fit),
        })
    }
}

/// Files that share a message, two at least. Only up files do.
pub(super) struct Batch<'a> {
    members: Vec<Member<'a>>,
    group: i64,
}

impl<'a> Batch<'a> {
    /// Of the files at the beginning of these; none if the first goes alone.
    pub(super) fn of(run: &Run<'_>, migrations: &[&'a Migration], size: Size) -> Option<Batch<'a>> {
        let Way::Up { group } = run.way else {
            return None;
        };
        let mut room = BYTES;
        let fits = |migration: &&&Migration| {
            let length = migration.text.len();
            let fits = length <= room && may_share(run, migration);
            room = room.saturating_sub(length);
            fits
        };
        let files = migrations.iter().take(size.0).take_while(fits);
        let members: Vec<Member<'a>> = files.map(|it| member(it)).collect();
        (members.len() > 1).then_some(Batch { members, group })
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }
}

impl Run<'_> {
    /// Runs files that share a message, and says so; `number` is the first one's. Returns what the first took, which are
    /// done: what failed is rolled back, and is to be run alone.
    pub(super) fn migrate_together(
        &mut self,
        locked: &mut Locked,
        batch: &Batch<'_>,
        number: usize,
    ) -> Result<Vec<Duration>, Error> {
        let files: Vec<&Migration> = batch.members.iter().map(|it| it.migration).collect();
        for (number, migration) in (number..).zip(&files) {
            self.announce(migration, number);
        }
        let (last, of) = (number + batch.len() - 1, self.migrations.len());
        let position = format!("{number}-{last}/{of}");
        let mut watch = Watch::start(files[0], files.last().copied(), position, None, self.signals);
        let doing = format!("{} {}", self.way.doing(), watch.name());
        let (members, group) = (&batch.members, batch.group);
        let settings = settings(self.settings());
        let mut wait = self.lock_retry();
        let awaited = (doing.as_str(), &mut wait);
        let outcome = locked.run_batch(members, group, settings, awaited, &mut watch);
        drop(watch);
        let outcome = outcome.map_err(|it| it.after(self.before()))?;
        for ((number, migration), took) in (number..).zip(&files).zip(&outcome.applied) {
            self.done += 1;
            self.tell(migration, number, *took);
        }
        let next = files.get(outcome.applied.len());
        if let (Some(failed), Some(next)) = (outcome.failed, next) {
            debug!("{}: once more, alone ({failed})", next.file_name());
        }
        Ok(outcome.applied)
    }
}

fn may_share(run: &Run<'_>, migration: &Migration) -> bool {
    let script = &migration.script;
    let is_plain = |text: &str| {
        let verb = sql::verb(text);
        COMMANDS.contains(&verb.split(' ').next().unwrap_or_default())
    };
    // If another file of the message fails, the server's log holds the message.
    let is_secret = |text: &str| sql::identifiers(text).iter().any(|it| it == "password");
    !script.statements.is_empty()
        && !script.no_transaction
        && run.history.unfinished(migration.version).is_none()
        && script.statements.iter().all(|it| it.kind == Kind::Plain)
        && migration.statements().all(is_plain)
        && !migration.statements().any(is_secret)
}

fn member(migration: &Migration) -> Member<'_> {
    let message = FileMessage::new(migration, &Marking::None, 0, "");
    Member { migration, text: message.parts().map(|it| it.text).collect() }
}

/// The settings of its transactions.
fn settings(of_files: Settings) -> Settings {
    let timeout = of_files.statement_timeout;
    Settings {
        statement_timeout: if timeout.is_zero() {
            STATEMENT_TIMEOUT
        } else {
            timeout.min(STATEMENT_TIMEOUT)
        },
        ..of_files
    }
}
