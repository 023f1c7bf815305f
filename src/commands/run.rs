//! What the commands share that look at the database, and what those share that may write.
//!
//! `up`, `down`, `baseline` and `forget` look, take the lock, work under it, and give it back; each says whether there is
//! work. The commands that only read take the look, and no more.

use std::collections::BTreeMap;
use std::time::Duration;

use log::{debug, info, warn};

use crate::apply::outside::partitioned;
use crate::config::{Config, TableName};
use crate::error::{Before, Error};
use crate::history::{self, Observation, Observe, tables};
use crate::lock::fence::{Expected, Fault, Fenced};
use crate::lock::row::{create_tables, wait_for_bun};
use crate::lock::{self, Acquired, Locked};
use crate::migration::{self, Applied, History, Migration, Version};
use crate::plan::{self, Plan, Rules, doubt};
use crate::server::open::{self, application_name};
use crate::server::session::Session;
use crate::server::settings::{LOCK_TIMEOUT, Settings};
use crate::server::wait::{Awaited, Wait};
use crate::signals::Signals;
use crate::text::words::counted;

/// How often we look whether a session is done, at most.
const POLL: Duration = Duration::from_millis(250);

/// The oldest major version that we are tested with; one before it may do.
const OLDEST_SERVER: u32 = 15;

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
///
/// # Errors
///
/// What connecting and reading the history may meet.
pub fn look(config: &Config, signals: &Signals, waited: Option<Wait>) -> Result<FirstLook, Error> {
    let runner = application_name(&config.server);
    let mut patience = Wait::new(signals, config.database_wait);
    let observe = Observe::new(config);
    let (mut session, answer) =
        open::open(&config.server, &runner, &observe.message, &mut patience)?;
    let again = waited.is_some();
    let mut wait = waited.unwrap_or_else(|| Wait::new(signals, config.lock_wait));
    let answer = observe.read(config, &mut session, answer, &mut wait)?;
    let observation = observe.observation(config, &answer)?;
    let version = &observation.server_version;
    let major = version.split(|c: char| !c.is_ascii_digit()).next();
    let major = major.and_then(|it| it.parse::<u32>().ok());
    if !again && major.is_some_and(|it| it < OLDEST_SERVER) {
        warn!(
            "the server is PostgreSQL {version}; Lockstep is made for {OLDEST_SERVER} and later, and not tested with this one"
        );
    }
    Ok(FirstLook {
        session,
        observation,
        runner,
        wait,
    })
}

/// What came of wanting the lock.
pub enum Obtained {
    /// It is held, and this is the history under it.
    Lock(Held),
    /// There is nothing to do, as this look tells.
    NothingToDo(FirstLook),
    /// While we waited for the lock, somebody else did all there was to do.
    NothingLeft,
}

/// The lock, and what was found under it.
pub struct Held {
    pub locked: Box<Locked>,
    pub history: History,
    pub observation: Observation,
}

impl Held {
    /// Gives the lock back after the work. The work's own error comes first; success is only told once the release has
    /// made it durable.
    ///
    /// # Errors
    ///
    /// The work's; else what releasing the lock met.
    pub fn release<T>(self, outcome: Result<T, Error>) -> Result<T, Error> {
        let released = self.locked.release();
        if let Err(error) = &released {
            warn!("{error}; the next run takes the lock over");
        }
        outcome.and_then(|done| released.map(|()| done))
    }

    /// Waits while a session of another program runs what bun sends to run a migration that may not be done: bun died, or
    /// its row was removed, and the server goes on with what it was sent.
    ///
    /// # Errors
    ///
    /// [`Error::SessionWait`] at the deadline.
    fn wait_for_bun(&mut self, migrations: &[Migration], wait: &mut Wait) -> Result<(), Error> {
        loop {
            let mut strangers = self.locked.strangers()?;
            strangers.retain(|it| it.transaction.is_some());
            if strangers.is_empty() {
                return Ok(());
            }
            let applied = self.history.applied.iter();
            let records: BTreeMap<Version, &Applied> = applied.map(|it| (it.version, it)).collect();
            let is_open = |it: &&Migration| {
                let record = records.get(&it.version);
                record.is_none_or(|record| record.checksum.is_none())
            };
            let found = migrations.iter().filter(is_open).find_map(|migration| {
                let texts = doubt::sent_by_bun(migration);
                let session = strangers.iter().find(|it| it.is_at_one_of(&texts))?;
                Some((migration, session))
            });
            let Some((migration, session)) = found else {
                return Ok(());
            };
            if wait.is_over() {
                return Err(Error::SessionWait {
                    doing: migration.path.display().to_string(),
                    session: format!("a session that runs it: {session}"),
                    waited: wait.elapsed(),
                    before: Before::nothing(),
                });
            }
            wait.say(|| Awaited {
                whom: format!("a session that runs {}", migration.file_name),
                now: session.to_string(),
            });
            self.locked.pause(wait, POLL)?;
        }
    }

    /// Refuses a role that could run the files, but not take the records back; `why` says what it is for.
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`]; what the connection meets.
    pub fn refuse_unless_erasable(&mut self, config: &Config, why: &str) -> Result<(), Error> {
        let query = tables::lacks_to_erase(self.locked.tables());
        let rows = self.locked.ask(&query);
        let rows = rows.map_err(|it| it.while_doing("asking for the rights on the history"))?;
        match rows.iter().find_map(|row| row.get("lacks")) {
            Some(lacks) => Err(lacking(config, why, &self.observation.user, lacks)),
            None => Ok(()),
        }
    }

    /// Writes to history and journal in one transaction, without running a file: what `write` says, if what is `expected` is
    /// there.
    ///
    /// # Errors
    ///
    /// [`Error::LockLost`]; [`Error::Database`] if it is refused; what the connection meets.
    pub fn write(
        &mut self,
        expected: &Expected,
        doing: &str,
        wait: &mut Wait,
        write: impl FnOnce(&mut Fenced<'_>),
    ) -> Result<(), Error> {
        let settings = Settings {
            lock_timeout: LOCK_TIMEOUT,
            ..Settings::of_catalog()
        };
        let lost = self.locked.lost();
        let mut fenced = self.locked.transaction(expected, settings);
        write(&mut fenced);
        fenced.commit(doing, wait).map_err(|fault| match fault {
            Fault::DoneByOthers => lost,
            Fault::Refused(cause) => Error::Database {
                doing: doing.to_owned(),
                cause,
            },
            Fault::Error(error) => error,
        })
    }
}

/// No file has this version; the nearest is named.
pub fn no_such_version(migrations: &[Migration], version: Version) -> Error {
    let migrations = migrations.iter();
    let nearest = migrations.min_by_key(|it| it.version.distance(version));
    let nearest = nearest.map(|it| it.path.display().to_string());
    Error::NoSuchVersion {
        version,
        nearest: nearest.unwrap_or_default(),
    }
}

/// What a command wants to write.
pub struct Errand<'a> {
    /// Behind "the server refused: … ".
    pub why: &'a str,
    /// What is to be done to some of these.
    pub what: &'a str,
    pub migrations: &'a [Migration],
}

/// Says which server, database and user it is about, and what is to be done there.
pub fn say_target(config: &Config, observation: &Observation, what: &str) {
    let (server, version) = (
        &config.server.description,
        observation.server_version.as_str(),
    );
    let (database, user) = (observation.database.as_str(), observation.user.as_str());
    let short = version.split(' ').next().unwrap_or_default();
    info!(version, database, user; "{server}, PostgreSQL {short}: {what}");
}

/// Looks at the database and takes the lock, if `decide` says that there is work, for how many migrations; again and again
/// while there is no second connection to be had. `refuse` asks whether the database is such that the work would fail. A
/// history that is lost sight of is refused whatever they say.
///
/// Until it has the lock a run has changed nothing that the next one would not take over. So if it loses its connections
/// before, because the server restarts while it waits for another runner, say, it begins anew.
///
/// # Errors
///
/// What `decide` and `refuse` say; what looking and taking the lock may meet.
pub fn obtain(
    config: &Config,
    signals: &Signals,
    errand: &Errand<'_>,
    mut decide: impl FnMut(&History) -> Result<usize, Error>,
    mut refuse: impl FnMut(&mut Session, &Observation) -> Result<(), Error>,
) -> Result<Obtained, Error> {
    let mut second = Wait::new(signals, config.database_wait);
    let mut standby = second.clone();
    let mut waited = None;
    let mut is_said = false;
    loop {
        let first = look(config, signals, waited.take())?;
        let mut wait = first.wait.clone();
        let mut decide = |observation: &Observation| {
            observation.refuse_if_lost(config, errand.migrations)?;
            let count = decide(&observation.history)?;
            if !is_said {
                let (of, what) = (errand.migrations.len(), errand.what);
                say_target(config, observation, &format!("{count} of {of} {what}"));
                is_said = true;
            }
            Ok(count > 0)
        };
        match attempt(config, first, errand, &mut wait, &mut decide, &mut refuse) {
            Ok(Attempt::Obtained(obtained)) => return Ok(*obtained),
            Ok(Attempt::NoConnection(cause)) => {
                if second.is_over() {
                    let waited = second.elapsed();
                    return Err(Error::NoSecondConnection { waited, cause });
                }
                second.say(|| format!("a second connection: {cause}"));
                second.pause(Duration::from_secs(2))?;
                waited = Some(wait);
            }
            Ok(Attempt::Standby(error)) => {
                if standby.is_over() {
                    return Err(error);
                }
                standby.say(|| format!("the primary: {} is a standby", config.server.description));
                standby.pause(Duration::from_secs(1))?;
                waited = Some(wait);
            }
            Ok(Attempt::SteppedAside) => {
                wait.pause(Duration::from_secs(1))?;
                waited = Some(wait);
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

/// What came of one look and all that followed from it.
enum Attempt {
    Obtained(Box<Obtained>),
    /// There was no second connection to be had, for this reason.
    NoConnection(String),
    /// The server is a standby, which may be promoted, or the name may come to lead to another: the error if it stays so.
    Standby(Error),
    /// Another runner needs our connection.
    SteppedAside,
}

fn attempt(
    config: &Config,
    mut first: FirstLook,
    errand: &Errand<'_>,
    wait: &mut Wait,
    decide: &mut impl FnMut(&Observation) -> Result<bool, Error>,
    refuse: &mut impl FnMut(&mut Session, &Observation) -> Result<(), Error>,
) -> Result<Attempt, Error> {
    // What is read before the lock is only a hint, but enough to refuse, or to have nothing to do.
    while !decide(&first.observation)? {
        if first.observation.bun_row().is_none() {
            return Ok(Attempt::Obtained(Box::new(Obtained::NothingToDo(first))));
        }
        // bun records a migration before it runs it, so the history may promise too much.
        wait_for_bun(&first.observation, wait)?;
        first.observation = history::look(config, &mut first.session, wait)?;
    }
    match refuse_what_cannot_be_written_to(config, &first.observation, errand.why) {
        Err(error) if first.observation.in_recovery => return Ok(Attempt::Standby(error)),
        refused => refused?,
    }
    refuse(&mut first.session, &first.observation)?;
    let FirstLook {
        mut session,
        mut observation,
        runner,
        ..
    } = first;
    if observation.tables.is_none() {
        observation = create_tables(config, &mut session, wait)?;
        if let Some(tables) = &observation.tables {
            debug!("created the history, {}", tables.history);
        }
    }
    let doing = "creating the history tables".to_owned();
    let tables = observation.tables.clone();
    let tables = tables.ok_or(Error::UnexpectedAnswer { doing })?;
    let settled = |now: &Observation| Ok(!decide(now)? && now.bun_row().is_none());
    let acquired = lock::acquire(
        config,
        session,
        &observation,
        tables,
        &runner,
        wait,
        settled,
    )?;
    Ok(match acquired {
        Acquired::Locked(locked, history) => {
            let mut held = Held {
                locked,
                history,
                observation,
            };
            if let Err(error) = held.wait_for_bun(errand.migrations, wait) {
                return held.release(Err(error));
            }
            Attempt::Obtained(Box::new(Obtained::Lock(held)))
        }
        Acquired::NothingLeft(session) => {
            session.close();
            Attempt::Obtained(Box::new(Obtained::NothingLeft))
        }
        Acquired::NoConnection(cause) => Attempt::NoConnection(cause),
        Acquired::SteppedAside => Attempt::SteppedAside,
    })
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
            hint: Some("point Lockstep at the primary".to_owned()),
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
        hint: Some("grant what is lacking, or run as the tables' owner".to_owned()),
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
    session: &mut Session,
    observation: &Observation,
) -> Result<Plan<'a>, Error> {
    observation.refuse_if_lost(config, migrations)?;
    let plan = plan_for(config, migrations, &observation.history)?;
    partitioned::refuse(session, &plan.pending)?;
    let bun_row = observation.bun_row();
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
    Ok(plan::make(migrations, history, &rules(config))?)
}

/// By what the configuration decides.
fn rules(config: &Config) -> Rules<'_> {
    Rules {
        order: config.order,
        policy: config.divergence,
        own_tables: own_tables(config),
    }
}

/// What our own tables are called.
pub fn own_tables(config: &Config) -> Vec<&TableName> {
    let (history, journal) = (&config.history_table, &config.journal_table);
    vec![history, journal, &config.locks_table]
}

pub fn report_up_to_date(plan: &Plan<'_>, migrations: &[Migration]) {
    warn_of_tolerated(plan);
    say_ahead(plan);
    info!(
        "the database is up to date: {}",
        counted(migrations.len(), "migration")
    );
}

/// Warns, for whoever only reads, of a row of ours whose run died: nobody but bun minds it. A run that has just ended has
/// taken its row along, so there is a second look.
///
/// # Errors
///
/// What looking may meet.
pub fn warn_of_dead_row(
    config: &Config,
    session: &mut Session,
    seen: &Observation,
    wait: &mut Wait,
) -> Result<bool, Error> {
    let Some(id) = seen.dead_row() else {
        return Ok(false);
    };
    let is_still = history::look(config, session, wait)?.dead_row() == Some(id);
    if let (true, Some(locks)) = (is_still, &seen.locks) {
        warn!(id; "row {id} of {locks} is of a run of Lockstep's that died: bun waits for it; the next `lockstep up` takes it away");
    }
    Ok(is_still)
}

/// Warns of pending files that seem to use an enum value which they add.
pub fn warn_of_enum_use(pending: &[&Migration], history: &History) {
    let mut taken = plan::known_versions(pending.iter().copied(), history);
    for migration in pending {
        if let Some(warning) = plan::split::enum_warning(migration, &mut taken) {
            warn!(version = migration.version.to_string().as_str(); "{warning}");
        }
    }
}

/// Warns of names in the history that are no version.
pub fn warn_of_foreign(history: &History) {
    for name in &history.foreign {
        warn!(name = name.as_str(); "the history holds {name:?}, {}; it is left alone", migration::foreign(name));
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
    let is_odd = |it: &&Migration| !it.version.is_date() && !it.version.is_counter();
    let odd: Vec<&Migration> = migrations.iter().filter(is_odd).collect();
    if let [first, others @ ..] = odd.as_slice() {
        let version = first.version.to_string();
        let more = match others.len() {
            0 => String::new(),
            count => format!(" (nor are those of {})", counted(count, "other file")),
        };
        warn!(version = version.as_str(); "{}: its digits are no date and time{more}", first.file_name);
    }
}
