//! `lockstep up`: applies all that is pending, and says what it found.

use std::time::Duration;

use log::{debug, info, warn};

use super::run::warn_of_tolerated;
use super::run::{FirstLook, Held, Obtained, obtain, plan_for, read_files};
use super::run::{report_up_to_date, say_ahead, warn_of_enum_use, warn_of_foreign};
use super::{Answer, Context};
use crate::apply::outside::partitioned;
use crate::apply::{self, Way};
use crate::config::Config;
use crate::error::Error;
use crate::lock::row::remove_dead;
use crate::logging;
use crate::migration::Migration;
use crate::server::wait::Wait;
use crate::text::words::{counted, duration};

pub fn run(context: &Context<'_>) -> Result<Answer, Error> {
    let (config, signals) = (&context.config()?, context.signals);
    let migrations = read_files(config)?;
    let directory = config.migrations_dir.display().to_string();
    debug!(files = migrations.len(), directory = directory.as_str(); "running migrations on database");
    let errand = ("migrations are pending", "pending");
    let obtained = obtain(config, signals, &migrations, errand, |history, session| {
        let plan = plan_for(config, &migrations, history)?;
        if let Some(session) = session {
            partitioned::refuse(session, &plan.pending)?;
        }
        Ok(plan.pending.len())
    })?;
    match obtained {
        Obtained::NothingToDo(mut first) => {
            tidy_up(config, &mut first)?;
            first.session.close();
            let plan = plan_for(config, &migrations, &first.observation.history)?;
            report_up_to_date(&plan, &migrations);
        }
        Obtained::NothingLeft => report_applied(0, &migrations),
        Obtained::Lock(held) => {
            let applied = held.work(|held| migrate(context, config, &migrations, held))?;
            report_applied(applied, &migrations);
        }
    }
    // A signal is never 0, though there was nothing left to stop.
    signals.check("all that was pending had been applied")?;
    Ok(Answer::Logged)
}

/// Removes the row of a run that died between its last commit and its release: nobody but bun would mind it, but bun is
/// shut out by it. It is a courtesy, so it neither waits nor fails the run.
fn tidy_up(config: &Config, first: &mut FirstLook) -> Result<(), Error> {
    let (session, seen) = (&mut first.session, &first.observation);
    let (Some(id), Some(tables)) = (seen.removable_row(), &seen.tables) else {
        return Ok(());
    };
    let mut once = Wait::new(first.wait.signals(), Duration::ZERO);
    let row = format!("row {id} of {}, of a runner that is gone", tables.locks);
    match remove_dead(config, session, seen, tables, id, &mut once) {
        Ok(true) => info!("removed {row}"),
        Ok(false) => {}
        Err(error @ Error::Stopped(_)) => return Err(error),
        Err(error) => warn!("{row}, stays: {}", error.brief()),
    }
    Ok(())
}

/// The lock is ours: plans again, on what is certain now, and applies.
fn migrate(
    context: &Context<'_>,
    config: &Config,
    migrations: &[Migration],
    held: &mut Held,
) -> Result<usize, Error> {
    let plan = plan_for(config, migrations, &held.history)?;
    warn_of_tolerated(&plan);
    say_ahead(&plan);
    for version in &plan.out_of_order {
        warn!(version:%; "{version} is out-of-order: older than what is applied; it is applied now");
    }
    warn_of_foreign(&held.history);
    warn_of_enum_use(&plan.pending, &held.history);
    let group = held.history.last_group + 1;
    let known = (&held.history, held.observation.counts_bytes);
    let (signals, way) = (context.signals, Way::Up { group });
    apply::run(config, signals, &mut held.locked, way, &plan.pending, known)
}

fn report_applied(applied: usize, migrations: &[Migration]) {
    let all = counted(migrations.len(), "migration");
    let running = logging::running();
    match applied {
        0 => {
            info!("the database is up to date: {all}; another runner has applied what was pending")
        }
        applied => info!(
            applied, total = migrations.len(), duration_ms = logging::milliseconds(running);
            "the database is up to date: {all}, {applied} applied in {}", duration(running)
        ),
    }
}
