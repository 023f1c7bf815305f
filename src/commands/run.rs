//! What the commands share that look at the database, and what those share that may write.
//!
//! `up`, `down`, `baseline` and `forget` look, take the lock, work under it, and give it back; each says whether there is
//! work. The commands that only read take the look, and no more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use log::{info, warn};

use crate::apply::outside::partitioned;
use crate::config::{Config, TableName};
use crate::error::{Before, Error};
use crate::files;
use crate::history::{self, Columns, Observation, Observe, tables};
use crate::lock::fence::{Expected, Fault, Fenced};
use crate::lock::row::{create_tables, wait_for_bun};
use crate::lock::{self, Acquired, Locked};
use crate::migration::{self, History, Migration, Version};
use crate::plan::{self, Plan, Rules, doubt};
use crate::server::open::{self, application_name};
use crate::server::session::Session;
use crate::server::settings::Settings;
use crate::server::wait::{Awaited, Wait};
use crate::signals::Signals;
use crate::sql::Checksum;
use crate::text::words::{counted, duration, joined};

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
    let mut patience = Wait::new(signals, config.database_wait);
    let observe = Observe::new(config, Columns::ToPlan);
    let (mut session, answer) = open::open(&config.server, &observe.message, &mut patience)?;
    let again = waited.is_some();
    let mut wait = waited.unwrap_or_else(|| Wait::new(signals, config.lock_wait));
    let (observation, _) = observe.read(config, &mut session, answer, &mut wait)?;
    let version = &observation.server_version;
    let major = version.split(|c: char| !c.is_ascii_digit()).next();
    let major = major.and_then(|it| it.parse::<u32>().ok());
    if !again && major.is_some_and(|it| it < OLDEST_SERVER) {
        warn!(
            "the server is PostgreSQL {version}; Lockstep is made for {OLDEST_SERVER} and later, and not tested with this one"
        );
    }
    Ok(FirstLook { session, observation, runner: application_name(&config.server), wait })
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

impl Obtained {
    /// The lock, for whoever does not mind why there is nothing to do.
    pub fn lock(self) -> Option<Held> {
        match self {
            Obtained::Lock(held) => Some(held),
            Obtained::NothingLeft => None,
            Obtained::NothingToDo(first) => {
                first.session.close();
                None
            }
        }
    }
}

/// The lock, and what was found under it.
pub struct Held {
    pub locked: Box<Locked>,
    pub history: History,
    pub observation: Observation,
    signals: Signals,
}

impl Held {
    /// Does the work, and gives the lock back. The work's own error comes first; success is only told once the release has
    /// made it durable.
    ///
    /// # Errors
    ///
    /// The work's; else what releasing the lock met.
    pub fn work<T>(mut self, work: impl FnOnce(&mut Held) -> Result<T, Error>) -> Result<T, Error> {
        let outcome = work(&mut self);
        let released = self.locked.release(outcome.is_ok());
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
            let sums = self.history.applied.iter().map(|it| (it.version, it.checksum));
            let sums: BTreeMap<Version, Option<Checksum>> = sums.collect();
            let is_open = |it: &&Migration| sums.get(&it.version).is_none_or(Option::is_none);
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
                whom: format!("a session that runs {}", migration.file_name()),
                now: session.to_string(),
            });
            self.locked.pause(wait, POLL)?;
        }
    }

    /// Refuses a role that could run the files, but not take the records back; `why` says what it is for.
    ///
    /// # Errors
    ///
    /// [`Error::rejected`]; what the connection meets.
    pub fn refuse_unless_erasable(&mut self, config: &Config, why: &str) -> Result<(), Error> {
        let query = tables::lacks_to_erase(self.locked.tables());
        let rows = self.locked.ask(&query, "asking for the rights on the history")?;
        let lacks = rows.iter().find_map(|row| row.get("lacks"));
        refuse_lack(config, why, &self.observation.user, lacks)
    }

    /// Writes to history and journal in one transaction, without running a file: what `write` says, if what is `expected` is
    /// there.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`] before; [`Error::NoLock`]; [`Error::Database`] if it is refused; what the connection meets.
    pub fn write(
        &mut self,
        config: &Config,
        expected: &Expected,
        doing: &str,
        write: impl FnOnce(&mut Fenced<'_>),
    ) -> Result<(), Error> {
        // On disk: unlike a migration's, not every such record is looked for again before the lock is released.
        let settings = Settings::of_catalog().retried().on_disk();
        self.signals.check("nothing had been written yet")?;
        let mut wait = Wait::new(&self.signals, config.lock_wait);
        let lost = self.locked.lost();
        let mut fenced = self.locked.transaction(expected, settings);
        write(&mut fenced);
        fenced.commit(doing, &mut wait).map_err(|fault| match fault {
            Fault::DoneByOthers => lost,
            Fault::Refused(cause) => Error::Database { doing: doing.to_owned(), cause },
            Fault::Error(error) => error,
        })
    }
}

/// No file has this version; the nearest is named.
pub fn no_such_version(migrations: &[Migration], version: Version) -> Error {
    let nearest = migrations.iter().min_by_key(|it| it.version.distance(version));
    let nearest = nearest.map(|it| it.path.display().to_string()).unwrap_or_default();
    Error::Unusable(format!(
        "no file has the version {version}; nothing was changed; the nearest is {nearest}"
    ))
}

/// Refuses a version that is older than these, which are recorded.
pub fn refuse_beyond(version: Version, newer: impl Iterator<Item = Version>) -> Result<(), Error> {
    // A version may be recorded twice.
    let newer = newer.collect::<BTreeSet<Version>>();
    if newer.is_empty() {
        return Ok(());
    }
    let newer = joined(newer, ", ");
    Err(Error::Disagreement(format!(
        "the history is beyond {version} already; nothing was changed; newer and recorded: {newer}"
    )))
}

/// Says which server, database and user it is about, and what is to be done there.
pub fn say_target(config: &Config, seen: &Observation, what: &str) {
    let server = &config.server.description;
    let (version, database, user) = (&*seen.server_version, &*seen.database, &*seen.user);
    let short = version.split(' ').next().unwrap_or_default();
    info!(version, database, user; "{server}, PostgreSQL {short}: {what}");
}

/// Looks at the database and takes the lock, if `decide` says that there is work, for how many of the migrations; again and
/// again while there is no second connection to be had. With the session `decide` may ask whether the database is such that
/// the work would fail. A history that is lost sight of is refused whatever it says. `why` stands behind "the server refused:
/// … ", `what` tells what is to be done to some of the migrations.
///
/// Until it has the lock a run has changed nothing that the next one would not take over. So if it loses its connections
/// before, because the server restarts while it waits for another runner, say, it begins anew.
///
/// # Errors
///
/// What `decide` says; what looking and taking the lock may meet.
pub fn obtain(
    config: &Config,
    signals: &Signals,
    migrations: &[Migration],
    (why, what): (&str, &str),
    mut decide: impl FnMut(&History, Option<&mut Session>) -> Result<usize, Error>,
) -> Result<Obtained, Error> {
    let mut patience = Wait::new(signals, config.database_wait);
    let (mut waited, mut is_said) = (None, false);
    loop {
        let first = look(config, signals, waited.take())?;
        let mut wait = first.wait.clone();
        let mut decide = |observation: &Observation, session: Option<&mut Session>| {
            observation.refuse_if_lost(config, migrations)?;
            let count = decide(&observation.history, session)?;
            if !is_said {
                let of = migrations.len();
                say_target(config, observation, &format!("{count} of {of} {what}"));
                is_said = true;
            }
            Ok(count > 0)
        };
        match attempt(config, first, (migrations, why), &mut wait, &mut patience, &mut decide) {
            Ok(Some(obtained)) => return Ok(obtained),
            Ok(None) => {}
            Err(error @ Error::ConnectionLost { .. }) if !wait.is_over() => {
                warn!("{}; nothing was begun, so once more from the start", error.brief());
                wait.pause(Duration::from_secs(1))?;
                patience = Wait::new(signals, config.database_wait);
            }
            Err(error) => return Err(error),
        }
        waited = Some(wait);
    }
}

/// One look and all that follows from it. None if it has waited for a second connection, for a standby to be promoted or
/// the name to lead to another server, or for another runner that needs our connection.
fn attempt(
    config: &Config,
    mut first: FirstLook,
    (migrations, why): (&[Migration], &str),
    wait: &mut Wait,
    patience: &mut Wait,
    decide: &mut impl FnMut(&Observation, Option<&mut Session>) -> Result<bool, Error>,
) -> Result<Option<Obtained>, Error> {
    // What is read before the lock is only a hint, but enough to refuse, or to have nothing to do.
    while !decide(&first.observation, Some(&mut first.session))? {
        if first.observation.bun_row().is_none() {
            return Ok(Some(Obtained::NothingToDo(first)));
        }
        // bun records a migration before it runs it, so the history may promise too much.
        wait_for_bun(first.observation.bun_row(), wait)?;
        first.observation = history::look(config, &mut first.session, wait)?;
    }
    match refuse_what_cannot_be_written_to(config, &first.observation, why) {
        Err(error) if first.observation.in_recovery => {
            let primary = format!("the primary: {} is a standby", config.server.description);
            return not_yet(patience, primary, error);
        }
        refused => refused?,
    }
    let tables = match first.observation.tables.clone() {
        Some(tables) => tables,
        None => create_tables(config, &mut first.session, wait)?,
    };
    let (session, seen) = (first.session, first.observation);
    let settled = |now: &Observation| Ok(!decide(now, None)? && now.bun_row().is_none());
    match lock::acquire(config, session, &seen, tables, wait, settled)? {
        Acquired::Locked(locked, history) => {
            let mut held =
                Held { locked, history, observation: seen, signals: wait.signals().clone() };
            match held.wait_for_bun(migrations, wait) {
                Ok(()) => Ok(Some(Obtained::Lock(held))),
                Err(error) => held.work(|_| Err(error)),
            }
        }
        Acquired::NothingLeft => Ok(Some(Obtained::NothingLeft)),
        Acquired::NoConnection(cause) => {
            let waited = duration(patience.elapsed());
            let second = format!("a second connection: {cause}");
            let error = Error::NoConnection(format!(
                "no second connection within {waited}: {cause}\n  \
                 hint: run again; a pool must have two for a runner"
            ));
            not_yet(patience, second, error)
        }
        Acquired::SteppedAside => {
            wait.pause(Duration::from_secs(1))?;
            Ok(None)
        }
    }
}

/// One turn of waiting; at the deadline it is the error.
fn not_yet(patience: &mut Wait, what: String, error: Error) -> Result<Option<Obtained>, Error> {
    if patience.is_over() {
        return Err(error);
    }
    patience.say(|| what);
    patience.pause(Duration::from_secs(2))?;
    Ok(None)
}

/// Refuses a standby, and a role that lacks a right, before anything is tried; `why` says what is to be written.
pub fn refuse_what_cannot_be_written_to(
    config: &Config,
    observation: &Observation,
    why: &str,
) -> Result<(), Error> {
    if observation.in_recovery {
        let cause = format!("{why}, and this server is a standby, which cannot be written to");
        return Err(Error::rejected(&config.server, cause, Some("point Lockstep at the primary")));
    }
    refuse_lack(config, why, &observation.user, observation.lacks.as_deref())
}

/// Refuses a role that lacks a right on our tables.
fn refuse_lack(config: &Config, why: &str, user: &str, lacks: Option<&str>) -> Result<(), Error> {
    let Some(lacks) = lacks else { return Ok(()) };
    let cause = format!("{why}, and the role {user} lacks {lacks}");
    let hint = "grant what is lacking, or run as the tables' owner";
    Err(Error::rejected(&config.server, cause, Some(hint)))
}

/// Judges what was observed by whoever has waited for so long, if it did.
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
    waited: Option<Duration>,
) -> Result<Plan<'a>, Error> {
    observation.refuse_if_lost(config, migrations)?;
    let plan = plan_for(config, migrations, &observation.history)?;
    partitioned::refuse(session, &plan.pending)?;
    let bun_row = observation.bun_row();
    if plan.pending.is_empty() && bun_row.is_none() {
        return Ok(plan);
    }
    let pending = plan.pending.iter().map(|it| it.file_name().to_owned());
    Err(Error::Pending { pending: pending.collect(), bun_row, waited })
}

pub fn plan_for<'a>(
    config: &Config,
    migrations: &'a [Migration],
    history: &History,
) -> Result<Plan<'a>, Error> {
    let rules =
        Rules { order: config.order, policy: config.divergence, own_tables: own_tables(config) };
    plan::make(migrations, history, &rules).map_err(Error::Refused)
}

/// What our own tables are called.
pub fn own_tables(config: &Config) -> Vec<&TableName> {
    let (history, journal) = (&config.history_table, &config.journal_table);
    vec![history, journal, &config.locks_table]
}

pub fn report_up_to_date(plan: &Plan<'_>, migrations: &[Migration]) {
    warn_of_tolerated(plan);
    say_ahead(plan);
    let all = counted(migrations.len(), "migration");
    info!("the database is up to date: {all}");
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
            warn!(version:% = migration.version; "{warning}");
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
        warn!(version:% = divergence.version; "{divergence} (MIGRATION_DIVERGENCE=warn)");
    }
}

pub fn say_ahead(plan: &Plan<'_>) {
    if let Some(newest) = plan.ahead.last() {
        let count = plan.ahead.len();
        info!(ahead = count; "the database is ahead of the files by {count}, up to {newest}: they are of an older release");
    }
}

/// Reads the files, and warns of those whose version is odd.
///
/// # Errors
///
/// [`Error::Files`] with every complaint.
pub fn read_files(config: &Config) -> Result<Vec<Migration>, Error> {
    let migrations = files::read(&config.migrations_dir).map_err(Error::Files)?;
    let is_odd = |it: &&Migration| !it.version.is_date() && !it.version.is_counter();
    let odd: Vec<&Migration> = migrations.iter().filter(is_odd).collect();
    if let [first, others @ ..] = odd.as_slice() {
        let more = match others.len() {
            0 => String::new(),
            count => format!(" (nor are those of {})", counted(count, "other file")),
        };
        warn!(version:% = first.version; "{}: its digits are no date and time{more}", first.file_name());
    }
    Ok(migrations)
}
