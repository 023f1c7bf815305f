//! Lockstep applies PostgreSQL schema migrations: exactly once, one at a time, and with no lock to delete.
//!
//! The story, in order: the environment becomes a [`config::Config`]; the directory becomes sorted migrations; a session reads
//! what the database knows. If nothing is to be done, that is all. Else the lock is taken, the history is read again
//! under it, the plan is made and applied, the lock is released; and the exit code says what happened.

mod apply;
mod cli;
mod commands;
mod config;
mod error;
mod files;
mod history;
mod impact;
mod import;
mod lock;
mod logging;
mod migration;
mod plan;
mod report;
mod server;
mod signals;
mod sql;
mod text;

use std::env;
use std::io::{self, Write};
use std::panic;
use std::process::{self, ExitCode};

use log::{info, warn};

use crate::cli::Command;
use crate::commands::{Answer, Context};
use crate::config::Environment;
use crate::error::Error;
use crate::logging::Settings;
use crate::plan::refusal::{Objection, WayBack};
use crate::signals::{Signal, Signals};
use crate::text::Format;

/// The exit code of a fault of our own: Rust's.
const CRASHED: i32 = 101;

fn main() -> ExitCode {
    panic::set_hook(Box::new(|crash| {
        logging::report_error(&format!("Lockstep crashed; please report it: {crash}"), &[]);
        process::exit(CRASHED);
    }));
    let signals = Signals::handle();
    let environment = Environment::read();
    let command = cli::parse(env::args_os().skip(1));
    logging::init(match &command {
        Ok(Command::Start) => config::service_logging(&environment),
        Ok(_) => config::logging(&environment),
        // Whoever writes command lines reads what is wrong with them.
        Err(_) => Settings { format: Format::Text, ..config::logging(&environment) },
    });
    let ended = command
        .map_err(Error::Unusable)
        .and_then(|command| run(command, &environment, signals))
        .and_then(tell);
    ended.unwrap_or_else(|error| {
        logging::report_error(&error.to_string(), &error.fields());
        ExitCode::from(exit_code(&error))
    })
}

fn run(
    command: Command,
    environment: &Environment,
    signals: io::Result<Signals>,
) -> Result<Answer, Error> {
    let signals =
        &signals.map_err(|error| Error::Unusable(format!("signals cannot be handled: {error}")))?;
    let context = &Context { environment, signals };
    match command {
        Command::Help(page) => Ok(Answer::Asked(page)),
        Command::Version => {
            let version = concat!("lockstep ", env!("CARGO_PKG_VERSION"), "\n");
            Ok(Answer::Asked(version.to_owned()))
        }
        Command::Unlock(id) => commands::unlock::run(context, id),
        Command::Down(which) => commands::down::run(context, which),
        Command::Baseline(version) => commands::baseline::run(context, version),
        Command::Forget(version) => commands::forget::run(context, version),
        Command::Status(format) => commands::status::run(context, format),
        Command::Check(format) => commands::check::run(context, format),
        Command::Wait => commands::wait::run(context),
        Command::Import(directory) => commands::import::run(context, &directory),
        Command::New(wish) => commands::new::run(context, &wish.to_string_lossy()),
        Command::Plan(format, planning) => commands::plan::run(context, format, planning),
        // Of a switch that is neither on nor off `up` complains, together with all else.
        Command::Start if config::switch(environment) == Ok(false) => {
            let instead = if environment.has_terminal() {
                "; `lockstep up` applies them, `lockstep help` shows what else there is"
            } else {
                ""
            };
            info!("migrations are switched off: RUN_DATABASE_MIGRATIONS is not true{instead}");
            Ok(Answer::Logged)
        }
        Command::Start | Command::Up => commands::up::run(context),
    }
}

/// Prints the answer, and chooses the exit code.
fn tell(answer: Answer) -> Result<ExitCode, Error> {
    let unanswered = |cause| format!("the answer could not be written to stdout: {cause}");
    let (text, found) = match answer {
        Answer::Logged => return Ok(ExitCode::SUCCESS),
        Answer::Asked(text) => {
            print(&text).map_err(|cause| Error::Unusable(unanswered(cause)))?;
            return Ok(ExitCode::SUCCESS);
        }
        Answer::Done(text) => (text, None),
        Answer::Found(text, error) => (text, Some(error)),
    };
    let printed = print(&text).map_err(|cause| warn!("{}", unanswered(cause)));
    match found {
        None => Ok(ExitCode::SUCCESS),
        Some(error) if printed.is_ok() => Ok(ExitCode::from(exit_code(&error))),
        Some(error) => Err(*error),
    }
}

/// Writes to stdout. Whoever reads it may have read enough and gone away, which is no failure of ours.
fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    let written = stdout.write_all(text.as_bytes());
    written.and_then(|()| stdout.flush()).or_else(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    })
}

/// The number of each error, as the manual's table has it. There is no `_` arm: a new kind of error must choose its number.
fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Migration(_) => 1,
        Error::Unusable(_) | Error::Environment(_) | Error::Files(_) => 2,
        Error::Database { cause, .. } => {
            if cause.is_transient() {
                3
            } else {
                2
            }
        }
        Error::NoConnection(_) | Error::Unreachable { .. } | Error::ConnectionLost { .. } => 3,
        Error::NoLock(_) | Error::SessionWait { .. } | Error::TableWait { .. } => 4,
        Error::Refused(refusal) => {
            if refusal.divergences.is_empty() {
                2
            } else {
                5
            }
        }
        Error::NoWayBack(WayBack::None(objections)) => {
            if objections.iter().any(Objection::is_disagreement) { 5 } else { 2 }
        }
        Error::NoWayBack(WayBack::TooFew { .. }) => 2,
        Error::NoWayBack(WayBack::NewerApplied(_)) | Error::Disagreement(_) => 5,
        Error::Pending { .. } => 6,
        Error::Stopped(stopped) => match stopped.signal {
            Signal::Interrupt => 130,
            Signal::Terminate => 143,
        },
    }
}
