//! `lockstep up`: applies all that is pending, and says what it found.

use std::time::Duration;

use log::{debug, info, warn};

use super::run::{self, FirstLook, Held, Outcome, plan_for, report_up_to_date, say_ahead};
use super::run::{refuse_what_cannot_be_written_to, under_lock, warn_of_foreign};
use super::run::{warn_of_odd_versions, warn_of_tolerated};
use super::{Answer, Context};
use crate::apply;
use crate::config::Config;
use crate::error::Error;
use crate::files;
use crate::history::Observation;
use crate::lock::{self, Locked};
use crate::logging;
use crate::migration::{History, Migration};
use crate::plan::Plan;
use crate::server::wait::Wait;
use crate::signals::Signals;
use crate::text::words::counted;

pub fn run(context: &Context<'_>) -> Result<Answer, Error> {
    let config = context.config()?;
    let migrations = files::read(&config.migrations_dir).map_err(Error::Files)?;
    warn_of_odd_versions(&migrations);
    let directory = config.migrations_dir.display().to_string();
    debug!(files = migrations.len(), directory = directory.as_str(); "running migrations on database");
    run::until_settled(&config, context.signals, |first| {
        attempt(&config, &migrations, first)
    })?;
    Ok(Answer::Logged)
}

/// Everything after the first look: waits for whoever is at work, takes the lock if there is work, does the work.
fn attempt(
    config: &Config,
    migrations: &[Migration],
    mut first: FirstLook,
) -> Result<Outcome, Error> {
    // What is read before the lock is only a hint, but enough to refuse, or to have nothing to do.
    loop {
        let plan = plan_for(config, migrations, &first.observation.history)?;
        if !plan.pending.is_empty() {
            break;
        }
        if first.observation.bun_row().is_none() {
            tidy_up(config, &mut first)?;
            first.session.close();
            report_up_to_date(&plan, migrations);
            first.wait.signals().check("there was nothing to apply")?;
            return Ok(Outcome::Settled);
        }
        first.look_again_after_bun(config)?;
    }
    refuse_what_cannot_be_written_to(config, &first.observation, "migrations are pending")?;

    let counts_bytes = first.observation.counts_bytes;
    let signals = first.wait.signals().clone();
    let settled = |observation: &Observation| {
        let plan = plan_for(config, migrations, &observation.history)?;
        Ok(plan.pending.is_empty() && observation.bun_row().is_none())
    };
    let held = under_lock(config, first, settled, |locked, history| {
        migrate(config, &signals, migrations, locked, history, counts_bytes)
    })?;
    match held {
        Held::NoConnection(cause) => return Ok(Outcome::NoConnection(cause)),
        Held::Failed(error) => return Ok(Outcome::Failed(error)),
        Held::NothingLeft => {
            info!("the database is up to date: another runner has applied what was pending");
            signals.check("another runner had applied all that was pending")?;
        }
        Held::Done(applied) => {
            report_applied(applied, migrations);
            // A signal is never 0, though there was nothing left to stop.
            signals.check("all that was pending had been applied")?;
        }
    }
    Ok(Outcome::Settled)
}

/// Removes the row of a run that died between its last commit and its release: nobody but bun would mind it, but bun is
/// shut out by it. It is a courtesy, so it neither waits nor fails the run.
fn tidy_up(config: &Config, first: &mut FirstLook) -> Result<(), Error> {
    let FirstLook {
        session,
        observation,
        runner,
        wait,
    } = first;
    let (Some(id), Some(tables)) = (observation.dead_row(), &observation.tables) else {
        return Ok(());
    };
    let mut once = Wait::new(wait.signals(), Duration::ZERO);
    match lock::remove_dead_row(config, session, tables, runner, id, &mut once) {
        Ok(true) => info!(
            "removed row {id} of {}, of a runner that is gone",
            tables.locks
        ),
        Ok(false) => {}
        Err(error @ Error::Stopped { .. }) => return Err(error),
        Err(error) => warn!(
            "row {id} of {}, of a runner that is gone, stays: {}",
            tables.locks,
            error.brief()
        ),
    }
    Ok(())
}

/// The lock is ours: plans again, on what is certain now, and applies.
fn migrate(
    config: &Config,
    signals: &Signals,
    migrations: &[Migration],
    locked: &mut Locked,
    history: &History,
    counts_bytes: bool,
) -> Result<usize, Error> {
    let plan = plan_for(config, migrations, history)?;
    warn_about(&plan, history);
    apply::run(config, signals, locked, &plan, history, counts_bytes)
}

fn report_applied(applied: usize, migrations: &[Migration]) {
    let all = counted(migrations.len(), "migration");
    match applied {
        0 => info!("the database is up to date: {all}"),
        applied => info!(
            applied, total = migrations.len(), duration_ms = logging::running_ms();
            "the database is up to date: {all}, {applied} applied now"
        ),
    }
}

fn warn_about(plan: &Plan<'_>, history: &History) {
    warn_of_tolerated(plan);
    say_ahead(plan);
    for version in &plan.out_of_order {
        warn!(version = version.to_string().as_str(); "{version} is out-of-order: older than what is applied; it is applied now");
    }
    warn_of_foreign(history);
}
