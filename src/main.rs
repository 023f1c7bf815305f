//! Lockstep applies PostgreSQL schema migrations: exactly once, one at a time, and with no lock to delete.
//!
//! The story, in order: the environment becomes a [`Config`]; the directory becomes sorted migrations; a session reads
//! what the database knows. If nothing is to be done, that is all. Else the lock is taken, the history is read again
//! under it, the plan is made and applied, the lock is released; and the exit code says what happened.

mod apply;
mod baseline;
mod catalog;
mod check;
mod command;
mod config;
mod connect;
mod down;
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
mod rollback;
mod script;
mod status;
mod ticker;
mod unlock;
mod wait;

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use log::{debug, info, warn};

use crate::baseline::Baseline;
use crate::command::{Command, Format, Planning, Rollback};
use crate::config::{Config, Environment};
use crate::connect::Session;
use crate::error::{Error, counted};
use crate::files::new::Directory;
use crate::history::{Observation, Tables};
use crate::lock::{Acquired, Locked};
use crate::migration::{History, Migration, Version};
use crate::plan::Plan;
use crate::report::plan::Answer as PlanAnswer;
use crate::rollback::Objection;
use crate::wait::{Signal, Signals, Wait};

fn main() -> ExitCode {
    let signals = Signals::handle();
    let environment = Environment::read();
    logging::init(config::logging(&environment));
    match run(&environment, signals) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error, Error::Answered(_)) {
                logging::report_error(&error.to_string(), &error.fields());
            }
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
        | Error::TooFew { .. }
        | Error::NoSuchVersion { .. }
        | Error::CannotRehearse { .. }
        | Error::Rejected { .. } => 2,
        Error::Database { cause, .. } => match cause.is_transient() {
            true => 3,
            false => 2,
        },
        Error::Unreachable { .. } | Error::ConnectionLost { .. } | Error::RollbackLost { .. } => 3,
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
        Error::NoWayBack(objections) => match objections.iter().any(Objection::is_disagreement) {
            true => 5,
            false => 2,
        },
        Error::NewerApplied(_) | Error::RecordedBeyond { .. } => 5,
        Error::Pending { .. } => 6,
        Error::Answered(error) => exit_code(error),
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
        Command::Help(topic) => answer(command::help(topic)),
        Command::Version => answer(concat!("lockstep ", env!("CARGO_PKG_VERSION"), "\n")),
        Command::Up => up(environment, signals),
        Command::Unlock(id) => unlock(environment, signals, id),
        Command::Down(which) => down(environment, signals, which),
        Command::Baseline(version) => baseline(environment, signals, version),
        Command::Status(format) => status(environment, signals, format),
        Command::Check(format) => check(environment, signals, format),
        Command::Wait => wait_for_others(environment, signals),
        Command::New(wish) => new(environment, &wish.to_string_lossy()),
        Command::Plan(format, planning) => show_plan(environment, signals, format, planning),
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
    until_settled(&config, signals, |first| {
        work_off(&config, &migrations, first)
    })
}

/// Rolls back what was applied last.
fn down(environment: &Environment, signals: &Signals, which: Rollback) -> Result<(), Error> {
    let config = config(environment)?;
    let (migrations, downs) = files::read_with_downs(&config.migrations_dir)?;
    let files = down::Files { migrations, downs };
    let mut chosen = None;
    until_settled(&config, signals, |first| {
        down::run(&config, &files, which, &mut chosen, first)
    })
}

/// Records the files up to `version` as applied.
fn baseline(environment: &Environment, signals: &Signals, version: Version) -> Result<(), Error> {
    let config = config(environment)?;
    let migrations = files::read(&config.migrations_dir)?;
    warn_of_odd_versions(&migrations);
    let baseline = Baseline::of(&migrations, version)?;
    until_settled(&config, signals, |first| baseline.run(&config, first))
}

/// Looks at the database and does what is to be done, again and again while that finds no second connection.
///
/// Until it has the lock a run has changed nothing that the next one would not take over. So if it loses its connections
/// before, because the server restarts while it waits for another runner, say, it begins anew; after that, it ends.
fn until_settled(
    config: &Config,
    signals: &Signals,
    mut run: impl FnMut(FirstLook) -> Result<Outcome, Error>,
) -> Result<(), Error> {
    let mut second = Wait::new(signals, config.database_wait);
    let mut waited = None;
    loop {
        let first = look(config, signals, waited.take())?;
        let wait = first.wait.clone();
        match run(first) {
            Ok(Outcome::Settled) => return Ok(()),
            Ok(Outcome::Failed(error)) => return Err(error),
            Ok(Outcome::NoConnection(cause)) => {
                if second.is_over() {
                    let doing =
                        "waiting for a second connection (a pool must have two for a runner)"
                            .to_owned();
                    return Err(Error::ConnectionLost { doing, cause });
                }
                second.say(|| format!("a second connection: {cause}"));
                second.pause(Duration::from_secs(2))?;
            }
            Err(error @ Error::ConnectionLost { .. }) if !wait.is_over() => {
                warn!(
                    "{}; nothing was begun, so once more from the start",
                    error.brief()
                );
                wait.pause(Duration::from_secs(1))?;
                second = Wait::new(signals, config.database_wait);
                waited = Some(wait);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Shows the lock, or removes a row of it.
fn unlock(environment: &Environment, signals: &Signals, id: Option<i64>) -> Result<(), Error> {
    let config = config(environment)?;
    let mut first = look(&config, signals, None)?;
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

/// Shows the database, the lock, and every migration.
fn status(environment: &Environment, signals: &Signals, format: Format) -> Result<(), Error> {
    let config = readers_config(environment)?;
    let migrations = files::read(&config.migrations_dir)?;
    let runner = connect::application_name(&config.server);
    let facts = status::ask(&config, &runner, signals)?;
    let entries = plan::classify(&migrations, &facts.observation.history);
    let report = report::status::Report {
        config: &config,
        facts: &facts,
        entries: &entries,
    };
    answer(&match format {
        Format::Text => report.text(config::layout(environment)),
        Format::Json => report.json().document(),
    })
}

/// Tells whether the database is where the files are. The answer is the whole of it, so the log adds nothing.
fn check(environment: &Environment, signals: &Signals, format: Format) -> Result<(), Error> {
    let config = readers_config(environment)?;
    let migrations = files::read(&config.migrations_dir)?;
    let first = look(&config, signals, None)?;
    first.session.close();
    let judged = check::judge(&config, &migrations, &first.observation);
    let report = report::check::Report {
        order: config.order,
        entries: &plan::classify(&migrations, &first.observation.history),
        observation: &first.observation,
        judged: judged.as_ref(),
    };
    answer(&match format {
        Format::Text => report.text(config::layout(environment)),
        Format::Json => report.json().document(),
    })?;
    let plan = judged.map_err(|error| Error::Answered(Box::new(error)))?;
    warn_of_tolerated(&plan);
    Ok(())
}

/// Waits until the database is where the files are.
fn wait_for_others(environment: &Environment, signals: &Signals) -> Result<(), Error> {
    let config = readers_config(environment)?;
    let migrations = files::read(&config.migrations_dir)?;
    let runner = connect::application_name(&config.server);
    let plan = check::wait(&config, &migrations, &runner, signals)?;
    report_up_to_date(&plan, &migrations);
    signals.check("the database is up to date")
}

/// The configuration of a command that only reads: it does not wait for a locked history for as long as one that has
/// work to do.
fn readers_config(environment: &Environment) -> Result<Config, Error> {
    const LONGEST: Duration = Duration::from_secs(10);
    let mut config = config(environment)?;
    config.lock_wait = config.lock_wait.min(LONGEST);
    Ok(config)
}

/// Creates the files of a migration, and answers with their paths.
fn new(environment: &Environment, wish: &str) -> Result<(), Error> {
    let directory = config::migrations_dir(environment).map_err(Error::Environment)?;
    let name = files::new::name_for(wish).ok_or_else(|| {
        Error::Usage(format!(
            "unusable argument {wish:?} after \"new\": a NAME needs a letter or a digit (see `lockstep help new`)"
        ))
    })?;
    let created = files::new::create(&directory, &name)?;
    if created.directory == Directory::Created {
        info!("created the directory {}", directory.display());
    }
    if name != wish {
        info!("the name is {name}, made of {wish:?}");
    }
    answer(&format!(
        "{}\n{}\n",
        created.up.display(),
        created.down.display()
    ))
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
    } = look(&config, signals, None)?;
    let plan = plan_for(&config, &migrations, &observation.history)?;
    warn_of_tolerated(&plan);
    say_ahead(&plan);
    let runner = lock::at_work(&mut session, &observation)?;
    let catalog = catalog::read(&mut session)?;
    let mut shown = PlanAnswer::new(&plan, &migrations, catalog.world(), runner.clone());
    if planning == Planning::Rehearse && !plan.pending.is_empty() {
        refuse_what_cannot_be_written_to(&config, &observation, "migrations are pending")?;
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

/// Connects, waiting for the server, and looks at the database: one round trip beside the connection's own. `waited` is
/// the wait of a run that begins anew.
fn look(config: &Config, signals: &Signals, waited: Option<Wait>) -> Result<FirstLook, Error> {
    let runner = connect::application_name(&config.server);
    let mut patience = Wait::new(signals, config.database_wait);
    let message = history::observe(config);
    let (mut session, answer) = Session::open(&config.server, &runner, &message, &mut patience)?;
    let mut wait = waited.unwrap_or_else(|| Wait::new(signals, config.lock_wait));
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
    Settled,
    /// There was no second connection to be had, for this reason.
    NoConnection(String),
    /// The run ended under the lock, or in giving it back. What fails before that is an error of its own.
    Failed(Error),
}

/// Everything after the first look: waits for whoever is at work, takes the lock if there is work, does the work.
fn work_off(
    config: &Config,
    migrations: &[Migration],
    mut first: FirstLook,
) -> Result<Outcome, Error> {
    // What is read before the lock is only a hint, but enough to refuse, or to have nothing to do.
    loop {
        let FirstLook {
            session,
            observation,
            runner,
            wait,
        } = &mut first;
        let plan = plan_for(config, migrations, &observation.history)?;
        if !plan.pending.is_empty() {
            break;
        }
        if observation.bun_row().is_none() {
            tidy_up(config, session, observation, runner, wait.signals())?;
            first.session.close();
            report_up_to_date(&plan, migrations);
            first.wait.signals().check("there was nothing to apply")?;
            return Ok(Outcome::Settled);
        }
        // bun records a migration before it runs it, so the history may promise too much.
        lock::wait_for_bun(observation, wait)?;
        *observation = lock::look(config, session, wait)?;
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

/// What came of wanting the lock.
enum Held<T> {
    Done(T),
    /// While we waited for it, somebody else did all there was to do.
    NothingLeft,
    /// There was no second connection to be had, for this reason.
    NoConnection(String),
    /// The work failed, or giving the lock back.
    Failed(Error),
}

/// Takes the lock, does the work under it, and gives it back. `settled` tells whether there is nothing left to do. The
/// work's own error comes first; success is only told once the release has made it durable.
fn under_lock<T>(
    config: &Config,
    first: FirstLook,
    settled: impl FnMut(&Observation) -> Result<bool, Error>,
    work: impl FnOnce(&mut Locked, &History) -> Result<T, Error>,
) -> Result<Held<T>, Error> {
    let FirstLook {
        mut session,
        observation,
        runner,
        mut wait,
    } = first;
    let tables = tables(config, &mut session, &observation, &mut wait)?;
    if !observation.standard_strings {
        let on = "SET standard_conforming_strings TO on";
        session
            .execute(on)
            .map_err(|trouble| trouble.while_doing("preparing the session"))?;
    }
    match lock::acquire(config, session, tables, &runner, &mut wait, settled)? {
        Acquired::NothingLeft(session) => {
            session.close();
            Ok(Held::NothingLeft)
        }
        Acquired::NoConnection(cause) => Ok(Held::NoConnection(cause)),
        Acquired::Locked(mut locked, history) => {
            let outcome = work(&mut locked, &history);
            let released = locked.release();
            if let Err(error) = &released {
                warn!("{}; the next run takes the lock over", error.brief());
            }
            Ok(match outcome.and_then(|done| released.map(|()| done)) {
                Ok(done) => Held::Done(done),
                Err(error) => Held::Failed(error),
            })
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

/// Refuses a standby, and a role that lacks a right, before anything is tried; `why` says what is to be written.
fn refuse_what_cannot_be_written_to(
    config: &Config,
    observation: &Observation,
    why: &str,
) -> Result<(), Error> {
    if observation.in_recovery {
        return Err(Error::Rejected {
            server: config.server.description.clone(),
            cause: format!("{why}, and this server is a standby, which cannot be written to"),
            hint: Some("point Lockstep at the primary"),
        });
    }
    match &observation.lacks {
        Some(lacks) => Err(lacking(config, why, &observation.user, lacks)),
        None => Ok(()),
    }
}

/// The error for a role that lacks a right on our tables.
fn lacking(config: &Config, why: &str, user: &str, lacks: &str) -> Error {
    Error::Rejected {
        server: config.server.description.clone(),
        cause: format!("{why}, and the role {user} lacks {lacks}"),
        hint: Some("grant what is lacking, or run as the tables' owner"),
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
