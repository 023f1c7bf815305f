//! `lockstep wait`: waits until the database is where the files are. It only reads, takes no lock, and judges as `up`
//! would: what it would refuse is refused, what it would run is pending.

use std::time::Duration;

use super::run::{judge, report_up_to_date, say_target, warn_of_dead_row};
use super::{Answer, Context};
use crate::config::Config;
use crate::error::{BunRow, Error};
use crate::files;
use crate::history::{Columns, Observation, Observe};
use crate::migration::Migration;
use crate::plan::Plan;
use crate::server::open;
use crate::server::session::Session;
use crate::server::wait::Wait;
use crate::signals::Signals;
use crate::sql::sqlstate;
use crate::text::words::counted;

/// How often `wait` looks, at most.
const POLL: Duration = Duration::from_secs(1);

pub fn run(context: &Context<'_>) -> Result<Answer, Error> {
    let config = context.readers_config()?;
    let migrations = files::read(&config.migrations_dir).map_err(Error::Files)?;
    let plan = wait(&config, &migrations, context.signals)?;
    report_up_to_date(&plan, &migrations);
    context.signals.check("the database is up to date")?;
    Ok(Answer::Logged)
}

/// Looks about once a second until [`judge`] is content, however often the connection is lost meanwhile. Returns the
/// plan of nothing to run.
///
/// # Errors
///
/// At once what no waiting cures: [`Error::Refused`], [`Error::rejected`], [`Error::Stopped`]. At the deadline of
/// `MIGRATION_WAIT_SECONDS`: [`Error::Pending`]; [`Error::Unreachable`] if the server does not answer then;
/// [`Error::TableWait`] if a table of ours is locked against readers; [`Error::Database`] if a right is lacking.
fn wait<'a>(
    config: &Config,
    migrations: &'a [Migration],
    signals: &Signals,
) -> Result<Plan<'a>, Error> {
    let mut wait = Wait::on_change(signals, config.migration_wait);
    let (mut session, mut told, mut is_said) = (None, false, false);
    loop {
        match look(config, session.take(), &mut wait) {
            Ok((mut open, seen)) => {
                let judged = judge(config, migrations, &mut open, &seen, Some(wait.elapsed()));
                // If the connection is lost meanwhile, the next look says so.
                told =
                    told || warn_of_dead_row(config, &mut open, &seen, &mut wait).unwrap_or(false);
                let Err(error @ Error::Pending { .. }) = judged else {
                    open.close();
                    return judged;
                };
                if let (Error::Pending { pending, .. }, false) = (&error, is_said) {
                    let (count, of) = (pending.len(), migrations.len());
                    say_target(config, &seen, &format!("{count} of {of} pending"));
                    is_said = true;
                }
                not_yet(error, &mut wait)?;
                session = Some(open);
            }
            Err(error) if may_pass(&error) => not_yet(error, &mut wait)?,
            Err(error) => return Err(error),
        }
        wait.pause(POLL)?;
    }
}

/// Looks once, on the session that there is, or on a new one. After any trouble the session is left.
fn look(
    config: &Config,
    session: Option<Session>,
    wait: &mut Wait,
) -> Result<(Session, Observation), Error> {
    let observe = Observe::new(config, Columns::ToPlan);
    let (mut open, answer) = match session {
        Some(mut open) => {
            let answer = open.send(&observe.message);
            (open, answer)
        }
        None => open::open(&config.server, &observe.message, wait)?,
    };
    let (observation, _) = observe.read(config, &mut open, answer, wait)?;
    Ok((open, observation))
}

/// Returns true if and only if the next look may fare better: the connection was lost, the server is shutting down or
/// starting up, or our role does not have its rights yet, which a migration may grant.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::ConnectionLost { .. } => true,
        Error::Database { cause, .. } => {
            cause.is_transient() || cause.sqlstate == sqlstate::INSUFFICIENT_PRIVILEGE
        }
        _ => false,
    }
}

/// One turn of waiting: what is in the way is said if it is new, and at the deadline it is the error.
fn not_yet(error: Error, wait: &mut Wait) -> Result<(), Error> {
    if wait.is_over() {
        return Err(error);
    }
    wait.say(|| match &error {
        Error::Pending { pending, bun_row, .. } => awaited(pending, bun_row.as_ref()),
        error => format!("the database: {}", error.brief()),
    });
    Ok(())
}

/// What is waited for while migrations are pending.
fn awaited(pending: &[String], bun_row: Option<&BunRow>) -> String {
    let next = pending.first().map(|next| {
        let count = counted(pending.len(), "migration");
        format!("{count} to be applied by another runner, next {next}")
    });
    let bun_row = bun_row.map(|row| format!("bun's lock, row {} of {}", row.id, row.locks));
    let parts: Vec<String> = next.into_iter().chain(bun_row).collect();
    parts.join(", and for ")
}
