//! `lockstep up`: applies all that is pending, and says what it found.

use std::time::Duration;

use log::{debug, info, warn};

use super::run::{
    Errand, FirstLook, Held, Obtained, obtain, plan_for, report_up_to_date, say_ahead,
};
use super::run::{warn_of_enum_use, warn_of_foreign, warn_of_odd_versions, warn_of_tolerated};
use super::{Answer, Context};
use crate::apply::outside::partitioned;
use crate::apply::{self, Way};
use crate::config::Config;
use crate::error::Error;
use crate::files;
use crate::lock::row::remove_dead;
use crate::logging;
use crate::migration::{History, Migration};
use crate::plan::Plan;
use crate::server::wait::Wait;
use crate::text::words::{counted, duration};

pub fn run(context: &Context<'_>) -> Result<Answer, Error> {
    let (config, signals) = (&context.config()?, context.signals);
    let migrations = files::read(&config.migrations_dir).map_err(Error::Files)?;
    warn_of_odd_versions(&migrations);
    let directory = config.migrations_dir.display().to_string();
    debug!(files = migrations.len(), directory = directory.as_str(); "running migrations on database");
    let errand = Errand {
        why: "migrations are pending",
        what: "pending",
        migrations: &migrations,
    };
    let obtained = obtain(
        config,
        signals,
        &errand,
        |history| Ok(plan_for(config, &migrations, history)?.pending.len()),
        |session, observation| {
            let plan = plan_for(config, &migrations, &observation.history)?;
            partitioned::refuse(session, &plan.pending)
        },
    )?;
    match obtained {
        Obtained::NothingToDo(mut first) => {
            tidy_up(config, &mut first)?;
            first.session.close();
            let plan = plan_for(config, &migrations, &first.observation.history)?;
            report_up_to_date(&plan, &migrations);
            signals.check("there was nothing to apply")?;
        }
        Obtained::NothingLeft => {
            report_applied(0, &migrations);
            signals.check("another runner had applied all that was pending")?;
        }
        Obtained::Lock(mut held) => {
            let outcome = migrate(context, config, &migrations, &mut held);
            let applied = held.release(outcome)?;
            report_applied(applied, &migrations);
            // A signal is never 0, though there was nothing left to stop.
            signals.check("all that was pending had been applied")?;
        }
    }
    Ok(Answer::Logged)
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
    let (Some(id), Some(tables)) = (observation.removable_row(), &observation.tables) else {
        return Ok(());
    };
    let mut once = Wait::new(wait.signals(), Duration::ZERO);
    let row = format!("row {id} of {}, of a runner that is gone", tables.locks);
    match remove_dead(config, session, observation, tables, runner, id, &mut once) {
        Ok(true) => info!("removed {row}"),
        Ok(false) => {}
        Err(error @ Error::Stopped { .. }) => return Err(error),
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
    warn_about(&plan, &held.history);
    let group = held.history.last_group + 1;
    let known = (&held.history, held.observation.counts_bytes);
    let (signals, way) = (context.signals, Way::Up { group });
    apply::run(config, signals, &mut held.locked, way, &plan.pending, known)
}

fn report_applied(applied: usize, migrations: &[Migration]) {
    let all = counted(migrations.len(), "migration");
    match applied {
        0 => {
            info!("the database is up to date: {all}; another runner has applied what was pending")
        }
        applied => info!(
            applied, total = migrations.len(), duration_ms = logging::milliseconds(logging::running());
            "the database is up to date: {all}, {applied} applied in {}", duration(logging::running())
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
    warn_of_enum_use(&plan.pending, history);
}
