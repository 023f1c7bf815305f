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
mod run;
mod script;
mod status;
mod ticker;
mod unlock;
mod up;
mod wait;

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use log::{debug, info, warn};

use crate::baseline::Baseline;
use crate::command::{Command, Format, Planning, Rollback};
use crate::config::{Config, Environment};
use crate::error::Error;
use crate::files::new::Directory;
use crate::migration::Version;
use crate::report::plan::Answer as PlanAnswer;
use crate::rollback::Objection;
use crate::run::FirstLook;
use crate::wait::{Signal, Signals};

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
        | Error::Unanswered { .. }
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

/// Prints an answer that is all there is to the command: if it is lost, nothing was done.
fn answer(text: &str) -> Result<(), Error> {
    print(text).map_err(|cause| Error::Unanswered { cause })
}

/// Prints what a command has done, or found, which the exit code tells, too. Returns true if and only if it was printed.
fn tell(text: &str) -> bool {
    let printed = print(text);
    let is_told = printed.is_ok();
    if let Err(cause) = printed {
        warn!("{}", Error::Unanswered { cause }.brief());
    }
    is_told
}

/// Writes to stdout. Whoever reads it may have read enough and gone away, which is no failure of ours.
fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    written.or_else(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    })
}

/// Applies all that is pending.
fn up(environment: &Environment, signals: &Signals) -> Result<(), Error> {
    let config = config(environment)?;
    let migrations = files::read(&config.migrations_dir)?;
    up::warn_of_odd_versions(&migrations);
    let directory = config.migrations_dir.display().to_string();
    debug!(files = migrations.len(), directory = directory.as_str(); "running migrations on database");
    run::until_settled(&config, signals, |first| {
        up::run(&config, &migrations, first)
    })
}

/// Rolls back what was applied last.
fn down(environment: &Environment, signals: &Signals, which: Rollback) -> Result<(), Error> {
    let config = config(environment)?;
    let (migrations, downs) = files::read_with_downs(&config.migrations_dir)?;
    let files = down::Files { migrations, downs };
    let mut chosen = None;
    run::until_settled(&config, signals, |first| {
        down::run(&config, &files, which, &mut chosen, first)
    })
}

/// Records the files up to `version` as applied.
fn baseline(environment: &Environment, signals: &Signals, version: Version) -> Result<(), Error> {
    let config = config(environment)?;
    let migrations = files::read(&config.migrations_dir)?;
    up::warn_of_odd_versions(&migrations);
    let baseline = Baseline::of(&migrations, version)?;
    run::until_settled(&config, signals, |first| baseline.run(&config, first))
}

/// Shows the lock, or removes a row of it.
fn unlock(environment: &Environment, signals: &Signals, id: Option<i64>) -> Result<(), Error> {
    let config = config(environment)?;
    let mut first = run::look(&config, signals, None)?;
    let (runner, wait) = (&first.runner, &mut first.wait);
    tell(&unlock::run(
        &config,
        first.session,
        &first.observation,
        runner,
        id,
        wait,
    )?);
    Ok(())
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
    let first = run::look(&config, signals, None)?;
    first.session.close();
    let judged = check::judge(&config, &migrations, &first.observation);
    let report = report::check::Report {
        order: config.order,
        entries: &plan::classify(&migrations, &first.observation.history),
        observation: &first.observation,
        judged: judged.as_ref(),
    };
    let is_told = tell(&match format {
        Format::Text => report.text(config::layout(environment)),
        Format::Json => report.json().document(),
    });
    let plan = judged.map_err(|error| match is_told {
        true => Error::Answered(Box::new(error)),
        false => error,
    })?;
    up::warn_of_tolerated(&plan);
    Ok(())
}

/// Waits until the database is where the files are.
fn wait_for_others(environment: &Environment, signals: &Signals) -> Result<(), Error> {
    let config = readers_config(environment)?;
    let migrations = files::read(&config.migrations_dir)?;
    let runner = connect::application_name(&config.server);
    let plan = check::wait(&config, &migrations, &runner, signals)?;
    up::report_up_to_date(&plan, &migrations);
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
    tell(&format!(
        "{}\n{}\n",
        created.up.display(),
        created.down.display()
    ));
    Ok(())
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
    up::warn_of_odd_versions(&migrations);
    let FirstLook {
        mut session,
        observation,
        runner: own_name,
        ..
    } = run::look(&config, signals, None)?;
    let plan = up::plan_for(&config, &migrations, &observation.history)?;
    up::warn_of_tolerated(&plan);
    up::say_ahead(&plan);
    let runner = lock::at_work(&mut session, &observation)?;
    let catalog = catalog::read(&mut session)?;
    let mut shown = PlanAnswer::new(&plan, &migrations, catalog.world(), runner.clone());
    if planning == Planning::Rehearse && !plan.pending.is_empty() {
        run::refuse_what_cannot_be_written_to(&config, &observation, "migrations are pending")?;
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
