//! A run that may write: a look at the database, the lock, the work under it, and the lock given back.
//!
//! `up`, `down` and `baseline` are such runs; they bring the work, and say when there is none. The commands that only read
//! take the look, and no more.

use std::time::Duration;

use log::{debug, info, warn};

use crate::config::Config;
use crate::error::{BunRow, Error};
use crate::history::{self, Observation, Tables};
use crate::lock::{self, Acquired, Locked};
use crate::migration::{History, Migration};
use crate::plan::{self, Plan};
use crate::server::session::{self, Session};
use crate::server::wait::Wait;
use crate::signals::Signals;
use crate::text::words::counted;

/// Looks at the database and does what is to be done, again and again while that finds no second connection.
///
/// Until it has the lock a run has changed nothing that the next one would not take over. So if it loses its connections
/// before, because the server restarts while it waits for another runner, say, it begins anew; after that, it ends.
pub fn until_settled(
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

/// What came of a look at the database and all that followed from it.
pub enum Outcome {
    Settled,
    /// There was no second connection to be had, for this reason.
    NoConnection(String),
    /// The run ended under the lock, or in giving it back. What fails before that is an error of its own.
    Failed(Error),
}

/// A session, and what the first look at the database told.
pub struct FirstLook {
    pub session: Session,
    pub observation: Observation,
    /// Our application name.
    pub runner: String,
    /// For other runners and for locked tables; the database is there.
    pub wait: Wait,
}

/// Connects, waiting for the server, and looks at the database: one round trip beside the connection's own. `waited` is
/// the wait of a run that begins anew.
pub fn look(config: &Config, signals: &Signals, waited: Option<Wait>) -> Result<FirstLook, Error> {
    let runner = session::application_name(&config.server);
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

impl FirstLook {
    /// Where there seems to be nothing to do while a row of bun's is there: one turn of waiting, and another look. bun
    /// records a migration before it runs it, so the history may promise too much.
    ///
    /// # Errors
    ///
    /// Like [`lock::wait_for_bun`] and [`lock::look`].
    pub fn look_again_after_bun(&mut self, config: &Config) -> Result<(), Error> {
        lock::wait_for_bun(&self.observation, &mut self.wait)?;
        self.observation = lock::look(config, &mut self.session, &mut self.wait)?;
        Ok(())
    }
}

/// What came of wanting the lock.
pub enum Held<T> {
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
pub fn under_lock<T>(
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
pub fn refuse_what_cannot_be_written_to(
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
pub fn lacking(config: &Config, why: &str, user: &str, lacks: &str) -> Error {
    Error::Rejected {
        server: config.server.description.clone(),
        cause: format!("{why}, and the role {user} lacks {lacks}"),
        hint: Some("grant what is lacking, or run as the tables' owner"),
    }
}

/// Judges what was observed.
///
/// # Errors
///
/// [`Error::Refused`] for what `up` would refuse; [`Error::Pending`] if there is something to run, or if bun's row stands
/// in the locks table: bun records a migration before it runs it, so the history may promise too much.
pub fn judge<'a>(
    config: &Config,
    migrations: &'a [Migration],
    observation: &Observation,
) -> Result<Plan<'a>, Error> {
    let plan = plan_for(config, migrations, &observation.history)?;
    let bun_row = observation.bun_row().map(|(locks, id)| BunRow {
        locks: locks.to_owned(),
        id,
        newest: observation.history.newest(),
    });
    if plan.pending.is_empty() && bun_row.is_none() {
        return Ok(plan);
    }
    let pending = plan.pending.iter().map(|it| it.file_name.clone());
    Err(Error::Pending {
        pending: pending.collect(),
        bun_row,
        waited: None,
    })
}

pub fn plan_for<'a>(
    config: &Config,
    migrations: &'a [Migration],
    history: &History,
) -> Result<Plan<'a>, Error> {
    Ok(plan::make(
        migrations,
        history,
        config.order,
        config.divergence,
    )?)
}

pub fn report_up_to_date(plan: &Plan<'_>, migrations: &[Migration]) {
    warn_of_tolerated(plan);
    say_ahead(plan);
    info!(
        "the database is up to date: {}",
        counted(migrations.len(), "migration")
    );
}

/// Warns of names in the history that are no version.
pub fn warn_of_foreign(history: &History) {
    for name in &history.foreign {
        warn!(name = name.as_str(); "the history holds {name:?}, which is no version of 14 digits; it is left alone");
    }
}

pub fn warn_of_tolerated(plan: &Plan<'_>) {
    for divergence in &plan.tolerated {
        warn!(version = divergence.version.to_string().as_str(); "{divergence} (MIGRATION_DIVERGENCE=warn)");
    }
}

pub fn say_ahead(plan: &Plan<'_>) {
    if let Some(newest) = plan.ahead.last() {
        let count = plan.ahead.len();
        info!(ahead = count; "the database is ahead of the files by {count}, up to {newest}: they are of an older release");
    }
}

pub fn warn_of_odd_versions(migrations: &[Migration]) {
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
