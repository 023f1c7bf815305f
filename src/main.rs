//! Lockstep applies PostgreSQL schema migrations: exactly once, one at a time, and with no lock to delete.
//!
//! The story, in order: the environment becomes a [`Config`]; the directory becomes sorted migrations; a session reads
//! what the database knows. If nothing is to be done, that is all. Else the lock is taken, the history is read again
//! under it, the plan is made and applied, the lock is released; and the exit code says what happened.

mod apply;
mod catalog;
mod command;
mod config;
mod connect;
mod error;
mod files;
mod history;
mod impact;
mod json;
mod lock;
mod logging;
mod migration;
mod plan;
mod progress;
mod rehearse;
mod report;
mod script;
mod unlock;
mod wait;

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use log::{debug, info, warn};

use crate::command::{Command, Format, Planning};
use crate::config::{Config, Environment};
use crate::connect::Session;
use crate::error::{Error, counted};
use crate::history::{Observation, Tables};
use crate::lock::{Acquired, Locked};
use crate::migration::{History, Migration};
use crate::plan::Plan;
use crate::report::plan::Answer as PlanAnswer;
use crate::wait::{Signal, Signals, Wait};

fn main() -> ExitCode {
    let signals = Signals::handle();
    let environment = Environment::read();
    logging::init(config::logging(&environment));
    match run(&environment, signals) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::report_error(&error.to_string(), &error.fields());
            ExitCode::from(exit_code(&error))
        }
    }
}

/// The number of each error, as README's table has it. There is no `_` arm: a new kind of error must choose its number.
fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Migration(_) => 1,
        Error::Usage(_)
        | Error::Environment(_)
        | Error::Files(_)
        | Error::NoSuchRow { .. }
        | Error::CannotRehearse { .. }
        | Error::Rejected { .. } => 2,
        Error::Database { cause, .. } => match cause.is_transient() {
            true => 3,
            false => 2,
        },
        Error::Unreachable { .. } | Error::ConnectionLost { .. } => 3,
        Error::RunnerWait { .. }
        | Error::BunRowWait { .. }
        | Error::Held { .. }
        | Error::BunRow { .. }
        | Error::LockLost { .. }
        | Error::RunnerAtWork { .. }
        | Error::TableWait { .. } => 4,
        Error::Refused { divergences, .. } => match divergences.is_empty() {
            true => 2,
            false => 5,
        },
        Error::Stopped {
            signal: Signal::Interrupt,
            ..
        } => 130,
        Error::Stopped {
            signal: Signal::Terminate,
            ..
        } => 143,
    }
}

fn run(environment: &Environment, signals: io::Result<Signals>) -> Result<(), Error> {
    let signals =
        signals.map_err(|error| Error::Usage(format!("signals cannot be handled: {error}")))?;
    let signals = &signals;
    match command::parse(env::args_os().skip(1)).map_err(Error::Usage)? {
        Command::Help(_) => answer(command::help()),
        Command::Version => answer(concat!("lockstep ", env!("CARGO_PKG_VERSION"), "\n")),
        Command::Up => up(environment, signals),
        Command::Unlock(id) => unlock(environment, signals, id),
        Command::Plan(format, planning) => show_plan(environment, signals, format, planning),
        command @ (Command::Down(_)
        | Command::Status(_)
        | Command::Check(_)
        | Command::Wait
        | Command::New(_)
        | Command::Baseline(_)) => Err(Error::Usage(format!("{command:?} is not there yet"))),
        Command::Start => match config::switch(environment) {
            Ok(true) => up(environment, signals),
            Ok(false) => {
                info!("migrations are switched off: RUN_DATABASE_MIGRATIONS is not true");
                Ok(())
            }
            // All complaints come together.
            Err(complaint) => Err(config::load(environment)
                .map_or_else(Error::Environment, |_| Error::Environment(vec![complaint]))),
        },
    }
}

/// Prints a command's answer. Whoever reads it may have gone away, which is no failure of ours.
fn answer(text: &str) -> Result<(), Error> {
    if let Err(error) = io::stdout().write_all(text.as_bytes()) {
        debug!("writing the answer: {error}");
    }
    Ok(())
}

/// Applies all that is pending.
fn up(environment: &Environment, signals: &Signals) -> Result<(), Error> {
    let config = config(environment)?;
    let migrations = files::read(&config.migrations_dir)?;
    warn_of_odd_versions(&migrations);
    let directory = config.migrations_dir.display().to_string();
    debug!(files = migrations.len(), directory = directory.as_str(); "running migrations on database");
    let mut second = Wait::new(signals, config.database_wait);
    loop {
        let first = look(&config, signals)?;
        let Outcome::NoConnection(cause) = work_off(&config, &migrations, first)? else {
            return Ok(());
        };
        let doing = "waiting for a second connection (a pool must have two for a runner)";
        if second.is_over() {
            return Err(Error::ConnectionLost {
                doing: doing.to_owned(),
                cause,
            });
        }
        second.say(|| format!("a second connection: {cause}"));
        second.pause(Duration::from_secs(2))?;
    }
}

/// Shows the lock, or removes a row of it.
fn unlock(environment: &Environment, signals: &Signals, id: Option<i64>) -> Result<(), Error> {
    let config = config(environment)?;
    let mut first = look(&config, signals)?;
    let (runner, wait) = (&first.runner, &mut first.wait);
    answer(&unlock::run(
        &config,
        first.session,
        &first.observation,
        runner,
        id,
        wait,
    )?)
}

/// Tells what `up` would do.
fn show_plan(
    environment: &Environment,
    signals: &Signals,
    format: Format,
    planning: Planning,
) -> Result<(), Error> {
    let config = config(environment)?;
    let migrations = files::read(&config.migrations_dir)?;
    warn_of_odd_versions(&migrations);
    let FirstLook {
        mut session,
        observation,
        runner: own_name,
        ..
    } = look(&config, signals)?;
    let plan = plan_for(&config, &migrations, &observation.history)?;
    warn_of_tolerated(&plan);
    say_ahead(&plan);
    let runner = lock::at_work(&mut session, &observation)?;
    let catalog = catalog::read(&mut session)?;
    let mut shown = PlanAnswer::new(&plan, &migrations, catalog.world(), runner.clone());
    if planning == Planning::Rehearse && !plan.pending.is_empty() {
        refuse_what_cannot_be_written_to(&config, &observation)?;
        if let Some(runner) = runner {
            return Err(Error::RunnerAtWork { runner });
        }
        let counts_bytes = observation.counts_bytes;
        let measured = rehearse::run(
            &config,
            signals,
            &mut session,
            &plan,
            &catalog,
            &own_name,
            counts_bytes,
        )?;
        shown.add_measurements(measured);
    }
    session.close();
    answer(&match format {
        Format::Text => shown.text(),
        Format::Json => shown.json(),
    })?;
    signals.check("the plan was shown")
}

fn config(environment: &Environment) -> Result<Config, Error> {
    let config = config::load(environment).map_err(Error::Environment)?;
    config
        .warnings
        .iter()
        .for_each(|warning| warn!("{warning}"));
    Ok(config)
}

/// A session, and what the first look at the database told.
struct FirstLook {
    session: Session,
    observation: Observation,
    /// Our application name.
    runner: String,
    /// For other runners and for locked tables; the database is there.
    wait: Wait,
}

/// Connects, waiting for the server, and looks at the database: one round trip beside the connection's own.
fn look(config: &Config, signals: &Signals) -> Result<FirstLook, Error> {
    let runner = connect::application_name(&config.server);
    let mut patience = Wait::new(signals, config.database_wait);
    let message = history::observe(config);
    let (mut session, answer) = Session::open(&config.server, &runner, &message, &mut patience)?;
    let mut wait = Wait::new(signals, config.lock_wait);
    let observation = lock::understand(config, &mut session, answer, &mut wait)?;
    debug!(
        version = observation.server_version.as_str(), database = observation.database.as_str(),
        user = observation.user.as_str();
        "connected to {}, PostgreSQL {}", config.server.description, observation.server_version
    );
    Ok(FirstLook {
        session,
        observation,
        runner,
        wait,
    })
}

/// What came of a look at the database and all that followed from it.
enum Outcome {
    UpToDate,
    /// There was no second connection to be had, for this reason.
    NoConnection(String),
}

/// Everything after the first look: waits for whoever is at work, takes the lock if there is work, does the work.
fn work_off(config: &Config, migrations: &[Migration], first: FirstLook) -> Result<Outcome, Error> {
    let FirstLook {
        mut session,
        mut observation,
        runner,
        mut wait,
    } = first;
    let (runner, wait) = (runner.as_str(), &mut wait);
    let settled = |observation: &Observation| {
        let plan = plan_for(config, migrations, &observation.history)?;
        Ok(plan.pending.is_empty() && observation.bun_row().is_none())
    };
    // What is read before the lock is only a hint, but enough to refuse, or to have nothing to do.
    loop {
        let plan = plan_for(config, migrations, &observation.history)?;
        if !plan.pending.is_empty() {
            break;
        }
        if observation.bun_row().is_none() {
            tidy_up(config, &mut session, &observation, runner, wait.signals())?;
            session.close();
            report_up_to_date(&plan, migrations);
            wait.signals().check("there was nothing to apply")?;
            return Ok(Outcome::UpToDate);
        }
        // bun records a migration before it runs it, so the history may promise too much.
        lock::wait_for_bun(&observation, wait)?;
        observation = lock::look(config, &mut session, wait)?;
    }
    refuse_what_cannot_be_written_to(config, &observation)?;

    let tables = tables(config, &mut session, &observation, wait)?;
    if !observation.standard_strings {
        let on = "SET standard_conforming_strings TO on";
        session
            .execute(on)
            .map_err(|trouble| trouble.while_doing("preparing the session"))?;
    }
    let counts_bytes = observation.counts_bytes;
    match lock::acquire(config, session, tables, runner, wait, settled)? {
        Acquired::NothingLeft(session) => {
            session.close();
            info!("the database is up to date: another runner has applied what was pending");
            wait.signals()
                .check("another runner had applied all that was pending")?;
            Ok(Outcome::UpToDate)
        }
        Acquired::NoConnection(cause) => Ok(Outcome::NoConnection(cause)),
        Acquired::Locked(mut locked, history) => {
            let outcome = migrate(
                config,
                wait.signals(),
                migrations,
                &mut locked,
                &history,
                counts_bytes,
            );
            let released = locked.release();
            conclude(outcome, released, migrations)?;
            // A signal is never 0, though there was nothing left to stop.
            wait.signals()
                .check("all that was pending had been applied")?;
            Ok(Outcome::UpToDate)
        }
    }
}

/// Removes the row of a run that died between its last commit and its release: nobody but bun would mind it, but bun is
/// shut out by it. It is a courtesy, so it neither waits nor fails the run.
fn tidy_up(
    config: &Config,
    session: &mut Session,
    observation: &Observation,
    runner: &str,
    signals: &Signals,
) -> Result<(), Error> {
    let (Some(id), Some(tables)) = (observation.dead_row(), &observation.tables) else {
        return Ok(());
    };
    let mut once = Wait::new(signals, Duration::ZERO);
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

/// The run's own error comes first; success is only told once the release has made it durable.
fn conclude(
    outcome: Result<usize, Error>,
    released: Result<(), Error>,
    migrations: &[Migration],
) -> Result<(), Error> {
    if let Err(error) = &released {
        warn!("{}; the next run takes the lock over", error.brief());
    }
    let applied = outcome?;
    released?;
    let all = counted(migrations.len(), "migration");
    match applied {
        0 => info!("the database is up to date: {all}"),
        applied => info!(applied; "the database is up to date: {all}, {applied} applied now"),
    }
    Ok(())
}

fn plan_for<'a>(
    config: &Config,
    migrations: &'a [Migration],
    history: &History,
) -> Result<Plan<'a>, Error> {
    plan::make(migrations, history, config.order, config.divergence)
}

fn tables(
    config: &Config,
    session: &mut Session,
    observation: &Observation,
    wait: &mut Wait,
) -> Result<Tables, Error> {
    match &observation.tables {
        Some(tables) => Ok(tables.clone()),
        None => lock::create_tables(config, session, wait),
    }
}

/// Refuses a standby, and a role that lacks a right, before anything is tried.
fn refuse_what_cannot_be_written_to(
    config: &Config,
    observation: &Observation,
) -> Result<(), Error> {
    let rejected = |cause, hint| {
        let server = config.server.description.clone();
        Err(Error::Rejected {
            server,
            cause,
            hint: Some(hint),
        })
    };
    if observation.in_recovery {
        let cause =
            "migrations are pending, and this server is a standby, which cannot be written to";
        return rejected(cause.to_owned(), "point Lockstep at the primary");
    }
    match &observation.lacks {
        Some(lacks) => rejected(
            format!(
                "migrations are pending, and the role {} lacks {lacks}",
                observation.user
            ),
            "grant what is lacking, or run as the tables' owner",
        ),
        None => Ok(()),
    }
}

fn report_up_to_date(plan: &Plan<'_>, migrations: &[Migration]) {
    warn_of_tolerated(plan);
    say_ahead(plan);
    info!(
        "the database is up to date: {}",
        counted(migrations.len(), "migration")
    );
}

fn warn_about(plan: &Plan<'_>, history: &History) {
    warn_of_tolerated(plan);
    say_ahead(plan);
    for version in &plan.out_of_order {
        warn!(version = version.to_string().as_str(); "{version} is out-of-order: older than what is applied; it is applied now");
    }
    for name in &history.foreign {
        warn!(name = name.as_str(); "the history holds {name:?}, which is no version of 14 digits; it is left alone");
    }
}

fn warn_of_tolerated(plan: &Plan<'_>) {
    for divergence in &plan.tolerated {
        warn!(version = divergence.version.to_string().as_str(); "{divergence} (MIGRATION_DIVERGENCE=warn)");
    }
}

fn say_ahead(plan: &Plan<'_>) {
    if let Some(newest) = plan.ahead.last() {
        let count = plan.ahead.len();
        info!(ahead = count; "the database is ahead of the files by {count}, up to {newest}: they are of an older release");
    }
}

fn warn_of_odd_versions(migrations: &[Migration]) {
    let odd: Vec<&Migration> = migrations
        .iter()
        .filter(|it| !it.version.is_date())
        .collect();
    if let [first, others @ ..] = odd.as_slice() {
        let version = first.version.to_string();
        let more = match others.len() {
            0 => String::new(),
            count => format!(" (nor are those of {count} other files)"),
        };
        warn!(version = version.as_str(); "{}: its digits are no date and time{more}", first.file_name);
    }
}
