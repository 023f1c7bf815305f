//! The lock: nobody ever has to delete it, and two never work at once.
//!
//! # The protocol
//!
//! Two connections while there is work. **G** (guard) says that the run lives, **W** (work) runs the migrations.
//!
//! 1. *Guard.* G opens a transaction and tries to take an advisory lock of that transaction, keyed by the history
//!    table's oid. If it gets the lock it stays idle in the transaction until the run ends. If not, it rolls back, and
//!    polls. It never blocks in the lock: a blocked waiter keeps a snapshot, and the holder's CONCURRENTLY would
//!    deadlock with it.
//! 2. *Row.* Under the guard, W writes our row into bun's locks table, with a negative id from the table's own sequence:
//!    this run's token, never used before, never again. It commits, to the disk, if G still holds the guard then. A negative row that is already there belongs to
//!    a dead run, for whoever has the guard knows that its owner has it no more, and is taken over. A positive row is
//!    bun's: we wait.
//! 3. *History.* It is read again, after the row is ours, in a snapshot that is younger than the row.
//! 4. *Fence.* Every transaction of W begins by locking our row `FOR UPDATE`, by its token, and by making sure that its
//!    version is not recorded, or, if it is to be rolled back, that it is, in the row that was read. The row lock is held
//!    to the commit. The row is found by the name that bun's configuration gives the history; where two runners are
//!    configured to call it differently, or to use different locks tables, they have different rows. So the transaction
//!    also holds, or does not begin without, a second advisory lock with the history's oid.
//! 5. *Release.* W deletes the row with a durable commit, which flushes every commit before it; G rolls back.
//!
//! A run that has nothing to do takes no lock. But if a row of ours stands there and nobody has the guard, it removes
//! the row, if it may: a run that died between its last commit and its release left it, and it would shut bun out.
//!
//! # Invariants
//!
//! * A. *At most one token is in the table* (the column is unique), and only the guard's holder writes one.
//! * B. *A transaction that commits migration work held its token's row from its first statement to its commit.* So
//!   two such transactions never overlap, and none commits after its token is gone.
//! * C. *A record commits with its migration*, or, outside a transaction, after it; it goes with the rollback, or, outside
//!   a transaction, before it.
//!
//! # Why nothing is applied twice, skipped, or left locked
//!
//! * *The runner is killed.* G's connection ends, so the guard is free. W may still be executing what it was sent, and
//!   may commit. The successor's takeover updates the row that W's transaction has locked, so it waits for the orphan
//!   (in short tries, aloud), and only then reads the history: B and 3.
//! * *G alone is killed.* As above, but our client lives on: its next transaction finds its token gone and ends before
//!   the first statement of the file. If nobody took over, the token still stands and the work is still ours alone.
//! * *W is killed.* Its transaction is rolled back, or was committed: the client cannot tell and does not guess. It
//!   ends; the next run reads the history.
//! * *An operator deletes the row.* The DELETE waits for the transaction that has it locked; the next one finds it gone
//!   and stops. Whoever inserts a row meanwhile (bun, say) works alone.
//! * *The server crashes.* Commits are deferred, but the takeover and the release flush all that came before them, so a
//!   run reports its own work as done only when it is on disk. What is lost is a suffix, and the next run applies it.
//! * *The network is cut.* Keepalives and `client_connection_check_interval` end both sessions within seconds; then as
//!   above.
//! * *bun comes.* Its INSERT meets our committed row and fails at once, without waiting. When our row is gone it gets
//!   in; what we committed it finds in its history.
//! * *The server restarts.* Both sessions are gone, and with them the guard. The row stays, or not, with whatever
//!   suffix of the commits was lost; a negative row is taken over. A runner that was waiting has lost its sessions, too.
//!   It has changed nothing that a new run would not take over, so it begins anew, as one.
//! * *G and W reach different servers* (several hosts in the URL, or a standby, where advisory locks are granted too).
//!   W sees that G's lock is not in its own `pg_locks`, and writes nothing. On a standby it cannot write at all.
//!
//! A statement outside a transaction (CREATE INDEX CONCURRENTLY) is not fenced. In its stead `apply` makes sure that
//! the session which ran it before us has ended, and the table's own lock keeps two builds apart.
//!
//! Under REPEATABLE READ the history read under the row would be older than the row, and G would keep a snapshot for
//! which every CONCURRENTLY waits. So the isolation level is always written out, whatever the role's default is.
//!
//! `tests/it/lock/model.rs` goes through every interleaving of two and three runs, bun, an operator and all these
//! deaths, and shows for each step what breaks without it.

mod holder;
pub mod state;

use std::time::Duration;

use log::{debug, info, warn};
use postgres::error::DbError;

use crate::config::Config;
use crate::error::{Error, SqlError};
use crate::history::guard::{KEY, guard_lock};
use crate::history::{self, Names, Observation, Tables};
use crate::migration::{History, Version};
use crate::server::session::{Commit, Results, Session, Settings, Trouble, literal};
use crate::server::wait::Wait;
use crate::sql::sqlstate;

pub use holder::Holder;

/// The first half of the key that a fenced transaction holds: "work" in ASCII.
const WORK_KEY: i32 = 0x776f_726b;

/// How long a takeover waits for an orphan's transaction before it says so and tries again.
const ROW_LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a runner that has one connection waits for its second, before it gives the first back.
const SECOND_CONNECTION: Duration = Duration::from_secs(5);

/// How often a waiter looks, at most. Twenty waiters poll a guard a hundred times a second at no cost that can be
/// measured.
const POLL: Duration = Duration::from_millis(250);

/// The lock, held. Whatever writes takes it by `&mut`, so that writing without the lock cannot be written down.
pub struct Locked {
    pub work: Session,
    guard: Session,
    /// G's process id, as long as its transaction lasts.
    guard_pid: i32,
    /// This run's id in the locks table.
    token: i64,
    pub tables: Tables,
    /// What the locks table calls our history: what bun writes there.
    table_name: String,
    /// Our application name, by which others see who holds the lock.
    pub runner: String,
}

/// What came of trying the guard once.
enum Attempted {
    /// It is ours as long as this session's transaction lasts.
    Granted(Box<Session>),
    Held,
}

/// Tries the guard, once: for whoever wants to know whether a runner lives.
fn try_guard(
    config: &Config,
    tables: &Tables,
    runner: &str,
    wait: &mut Wait,
) -> Result<Attempted, Error> {
    let (guard, results) = open_guard(config, tables, runner, wait)?;
    match read_guard(&results)? {
        (_, true) => Ok(Attempted::Granted(Box::new(guard))),
        (_, false) => {
            release_guard(guard);
            Ok(Attempted::Held)
        }
    }
}

/// Ends the guard's transaction, and with it the lock, and closes its session.
fn release_guard(mut guard: Session) {
    if let Err(trouble) = guard.execute("ROLLBACK") {
        warn!("the guard was already gone: {}", trouble.words().1);
    }
    guard.close();
}

/// What came of trying to get the lock.
pub enum Acquired {
    Locked(Box<Locked>, History),
    /// While we waited, somebody else did all there was to do.
    NothingLeft(Box<Session>),
    /// There was no second connection to be had, for this reason. The first has been given back, for runners that want
    /// two each from a pool would else starve each other.
    NoConnection(String),
}

/// Takes the lock. `work` becomes W; `settled` tells from a history read without the lock whether there is nothing left
/// to do, or fails if what it finds must be refused.
///
/// # Errors
///
/// [`Error::RunnerWait`], [`Error::BunRowWait`] or [`Error::TableWait`] at the deadline of
/// `MIGRATION_LOCK_WAIT_SECONDS`; what `settled` says; [`Error::Stopped`]; what the connections meet.
pub fn acquire(
    config: &Config,
    mut work: Session,
    tables: Tables,
    runner: &str,
    wait: &mut Wait,
    mut settled: impl FnMut(&Observation) -> Result<bool, Error>,
) -> Result<Acquired, Error> {
    let mut patience = Wait::new(wait.signals(), config.database_wait.min(SECOND_CONNECTION));
    let (mut guard, mut results) = match open_guard(config, &tables, runner, &mut patience) {
        Ok(opened) => opened,
        Err(Error::Unreachable { cause, .. }) => {
            work.close();
            return Ok(Acquired::NoConnection(cause));
        }
        Err(error) => return Err(error),
    };
    let guard_pid = loop {
        let (pid, granted) = read_guard(&results)?;
        if granted {
            break pid;
        }
        let doing = "polling the migration lock";
        guard
            .execute("ROLLBACK")
            .map_err(|trouble| trouble.while_doing(doing))?;
        if settled(&look(config, &mut work, wait)?)? {
            guard.close();
            return Ok(Acquired::NothingLeft(Box::new(work)));
        }
        if wait.is_over() {
            let holder = describe_holder(&mut work, &tables)?;
            return Err(Error::RunnerWait {
                holder,
                waited: wait.elapsed(),
            });
        }
        say_holder(&mut work, &tables, wait)?;
        wait.pause(POLL)?;
        results = guard
            .query(&guard_message(&tables))
            .map_err(|trouble| trouble.while_doing(doing))?;
    };
    debug!(pid = guard_pid; "the guard is ours");

    // Behind a pooler, W may have no connection to the server any more now that G has one.
    match work.ping() {
        Ok(()) => {}
        Err(Trouble::Lost(cause)) => {
            release_guard(guard);
            return Ok(Acquired::NoConnection(cause));
        }
        Err(trouble) => return Err(trouble.while_doing("taking the migration lock")),
    }
    let (token, history) = put_row(config, &mut work, &tables, guard_pid, wait)?;
    debug!(token; "the row in {} is ours", tables.locks);
    let table_name = config.history_table.setting.clone();
    let runner = runner.to_owned();
    let locked = Locked {
        work,
        guard,
        guard_pid,
        token,
        tables,
        table_name,
        runner,
    };
    Ok(Acquired::Locked(Box::new(locked), history))
}

fn open_guard(
    config: &Config,
    tables: &Tables,
    runner: &str,
    patience: &mut Wait,
) -> Result<(Session, Results), Error> {
    let message = guard_message(tables);
    let (session, answer) = Session::open(&config.server, runner, &message, patience)?;
    let results = answer.map_err(|trouble| trouble.while_doing("taking the migration lock"))?;
    Ok((session, results))
}

/// Takes the guard, or does not: never blocks, and never fails while the history table is there.
fn guard_message(tables: &Tables) -> String {
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; {settings} \
         SELECT pg_catalog.pg_backend_pid() AS pid, pg_catalog.pg_try_advisory_xact_lock({KEY}, {oid}) AS granted",
        settings = Settings::of_catalog(),
        oid = key(tables),
    )
}

/// The second half of the key: the history table's oid, however the table is spelled.
fn key(tables: &Tables) -> String {
    format!(
        "{}::pg_catalog.regclass::pg_catalog.oid::pg_catalog.int4",
        literal(&tables.history)
    )
}

fn read_guard(results: &Results) -> Result<(i32, bool), Error> {
    let row = results.get(2).and_then(|rows| rows.first());
    row.and_then(|row| Some((row.get("pid")?.parse().ok()?, row.get("granted")? == "t")))
        .ok_or_else(|| unexpected("taking the migration lock"))
}

fn unexpected(doing: &str) -> Error {
    Error::ConnectionLost {
        doing: doing.to_owned(),
        cause: "the server's answer is not what was asked for".to_owned(),
    }
}

/// Removes a row of ours if nobody has the guard, which proves that its owner is dead. Returns false if somebody has it,
/// or the row is gone.
pub fn remove_dead_row(
    config: &Config,
    session: &mut Session,
    tables: &Tables,
    runner: &str,
    id: i64,
    wait: &mut Wait,
) -> Result<bool, Error> {
    let Attempted::Granted(guard) = try_guard(config, tables, runner, wait)? else {
        return Ok(false);
    };
    let removed = delete_row(config, session, &tables.locks, id, wait);
    release_guard(*guard);
    removed
}

/// Looks at the database, without the lock.
///
/// # Errors
///
/// [`Error::TableWait`] if somebody keeps a table locked against readers until the wait is over.
pub fn look(config: &Config, session: &mut Session, wait: &mut Wait) -> Result<Observation, Error> {
    let answer = session.query(&history::observe(config));
    understand(config, session, answer, wait)
}

/// Reads the answer to [`history::observe`], and looks again while a table is locked.
///
/// # Errors
///
/// Like [`look`].
pub fn understand(
    config: &Config,
    session: &mut Session,
    answer: Result<Results, Trouble>,
    wait: &mut Wait,
) -> Result<Observation, Error> {
    let results = read(config, session, &history::observe(config), answer, wait)?;
    observation(&results)
}

/// The observation in the answer to [`history::observe`] or [`history::observe_in_detail`].
pub fn observation(results: &Results) -> Result<Observation, Error> {
    history::observed(results, 2).ok_or_else(|| unexpected(READING))
}

/// The answer to a message that only reads the tables, which is sent again while one of them is locked.
///
/// # Errors
///
/// Like [`look`]; it names who has the table locked.
pub fn read(
    config: &Config,
    session: &mut Session,
    message: &str,
    mut answer: Result<Results, Trouble>,
    wait: &mut Wait,
) -> Result<Results, Error> {
    loop {
        match answer {
            Ok(results) => return Ok(results),
            Err(trouble) => match retry_lock_timeout(session, trouble, READING, wait) {
                Ok(()) => {}
                Err(error) => return Err(blamed(config, session, error)),
            },
        }
        answer = session.query(message);
    }
}

/// The error with the sessions that keep readers out of our tables, as far as they can be found; or with the rights that
/// our role lacks.
fn blamed(config: &Config, session: &mut Session, mut error: Error) -> Error {
    if let Error::TableWait { blockers, .. } = &mut error
        && let Ok(results) = session.query(&history::lockers(config))
    {
        let rows = results.iter().flatten();
        blockers.extend(rows.filter_map(|row| row.get("locker").map(str::to_owned)));
    }
    if let Error::Database { cause, .. } = &mut error
        && cause.sqlstate == sqlstate::INSUFFICIENT_PRIVILEGE
    {
        cause.lacks_right_to_read();
    }
    error
}

/// What an observation is for, in errors.
const READING: &str = "reading the history";

/// After a lock timeout of one of our own statements: rolls back and waits a little, aloud. Any other trouble is an
/// error.
pub fn retry_lock_timeout(
    session: &mut Session,
    trouble: Trouble,
    doing: &str,
    wait: &mut Wait,
) -> Result<(), Error> {
    let Trouble::Sql(error) = &trouble else {
        return Err(trouble.while_doing(doing));
    };
    let rolled_back = session.execute("ROLLBACK");
    if error.code().code() != sqlstate::LOCK_NOT_AVAILABLE {
        return Err(trouble.while_doing(doing));
    }
    rolled_back.map_err(|trouble| trouble.while_doing(doing))?;
    if wait.is_over() {
        // The statement is our own, which nobody needs to see.
        let cause = Box::new(SqlError {
            query: None,
            context: None,
            ..SqlError::from(&**error)
        });
        let (doing, waited) = (doing.to_owned(), wait.elapsed());
        return Err(Error::TableWait {
            doing,
            cause,
            blockers: Vec::new(),
            waited,
            before: None,
        });
    }
    wait.say(|| format!("a lock while {doing}: {}", error.message()));
    wait.pause(POLL)
}

/// Puts our row into the locks table, or takes a dead runner's over, and reads the history behind it.
fn put_row(
    config: &Config,
    work: &mut Session,
    tables: &Tables,
    guard_pid: i32,
    wait: &mut Wait,
) -> Result<(i64, History), Error> {
    let doing = "taking the migration lock";
    let message = row_message(config, tables, guard_pid);
    loop {
        let results = match work.query(&message) {
            Ok(results) => results,
            // An orphan's transaction still has the row; it ends with it.
            Err(trouble) => {
                retry_lock_timeout(work, trouble, doing, wait)?;
                continue;
            }
        };
        let observation = history::observed(&results, 4).ok_or_else(|| unexpected(doing))?;
        let token = results[2]
            .first()
            .and_then(|row| row.get("id")?.parse().ok());
        if let Some(token) = token {
            return Ok((token, observation.history));
        }
        wait_for_bun(&observation, wait)?;
    }
}

/// The guard is asserted once the row is written, and so locked: an orphan that asserted it before could take the row of
/// a successor over, who got the guard in between.
fn row_message(config: &Config, tables: &Tables, guard_pid: i32) -> String {
    let settings = Settings {
        lock_timeout: ROW_LOCK_TIMEOUT,
        commit: Commit::Local,
        ..Settings::of_catalog()
    };
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {settings}
         INSERT INTO {locks} AS l (id, table_name)
         VALUES (-COALESCE(pg_catalog.nextval(pg_catalog.pg_get_serial_sequence({locks_literal}, 'id')),
           (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::pg_catalog.int8), {name})
         ON CONFLICT (table_name) DO UPDATE SET id = EXCLUDED.id WHERE l.id < 0 RETURNING id;
         {assert_guard} {look}; COMMIT",
        assert_guard = assert_guard(tables, guard_pid),
        locks = tables.locks,
        locks_literal = literal(&tables.locks),
        name = literal(&config.history_table.setting),
        look = history::look(config, Names::Known(tables)),
    )
}

/// A statement that fails unless this server sees that G holds the guard.
fn assert_guard(tables: &Tables, guard_pid: i32) -> String {
    format!(
        "DO LANGUAGE plpgsql $lockstep$ BEGIN
           IF NOT EXISTS (SELECT FROM pg_catalog.pg_locks g WHERE {guard_lock} AND g.pid = {guard_pid}) THEN
             RAISE EXCEPTION USING ERRCODE = '{OTHER_SERVER}',
               MESSAGE = 'the two connections reached different servers, or the guard is gone';
           END IF;
         END $lockstep$;",
        guard_lock = guard_lock("g", &key(tables)),
        OTHER_SERVER = sqlstate::OTHER_SERVER,
    )
}

/// One turn of waiting for a row of bun's.
///
/// # Errors
///
/// [`Error::BunRowWait`] at the deadline.
pub fn wait_for_bun(observation: &Observation, wait: &mut Wait) -> Result<(), Error> {
    // It may have gone between two statements; then it is only a matter of trying again.
    let Some((locks, id)) = observation.bun_row() else {
        return wait.pause(POLL);
    };
    if wait.is_over() {
        let newest = observation.history.newest();
        let (locks, waited) = (locks.to_owned(), wait.elapsed());
        return Err(Error::BunRowWait {
            locks,
            id,
            newest,
            waited,
        });
    }
    wait.say(|| {
        format!("bun's lock, row {id} of {locks}: its owner is a bun process, alive or dead")
    });
    wait.pause(POLL)
}

/// Says who is in the way, when it is time to say something.
fn say_holder(work: &mut Session, tables: &Tables, wait: &mut Wait) -> Result<(), Error> {
    let mut found = Ok(());
    wait.say(|| match describe_holder(work, tables) {
        Ok(holder) => format!("another runner: {holder}"),
        Err(error) => {
            found = Err(error);
            "another runner".to_owned()
        }
    });
    found
}

fn describe_holder(work: &mut Session, tables: &Tables) -> Result<String, Error> {
    Ok(find_holder(work, tables)?.unwrap_or_else(|| "it has just ended".to_owned()))
}

/// Who holds the guard and what it is doing, in words; none if nobody does.
pub fn find_holder(session: &mut Session, tables: &Tables) -> Result<Option<String>, Error> {
    Ok(holder(session, tables)?.map(|holder| holder.to_string()))
}

/// Like [`find_holder`], part by part.
pub fn holder(session: &mut Session, tables: &Tables) -> Result<Option<Holder>, Error> {
    let found = holder::find(session, tables);
    found.map_err(|trouble| trouble.while_doing("asking who holds the lock"))
}

/// Who is at work or may be, in words: a runner, or whoever left a row of bun's; none if nobody is.
pub fn at_work(session: &mut Session, observation: &Observation) -> Result<Option<String>, Error> {
    if let Some((locks, id)) = observation.bun_row() {
        return Ok(Some(format!("bun, alive or dead: row {id} of {locks}")));
    }
    match &observation.tables {
        Some(tables) => find_holder(session, tables),
        None => Ok(None),
    }
}

/// The sessions on this database that may be a bun process's, in words: all that are not ours.
pub fn other_sessions(session: &mut Session) -> Result<Vec<String>, Error> {
    let found = holder::other_sessions(session);
    found.map_err(|trouble| trouble.while_doing("asking who else is connected"))
}

/// Deletes the row with this id and tells whether it was there. While a transaction has it locked, it waits,
/// aloud.
pub fn delete_row(
    config: &Config,
    session: &mut Session,
    locks: &str,
    id: i64,
    wait: &mut Wait,
) -> Result<bool, Error> {
    let message = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {settings} \
         DELETE FROM {locks} WHERE table_name = {name} AND id = {id} RETURNING id; COMMIT",
        settings = Settings {
            lock_timeout: ROW_LOCK_TIMEOUT,
            commit: Commit::Local,
            ..Settings::of_catalog()
        },
        name = literal(&config.history_table.setting),
    );
    loop {
        match session.query(&message) {
            Ok(results) => return Ok(results.get(2).is_some_and(|rows| !rows.is_empty())),
            Err(trouble) => retry_lock_timeout(session, trouble, "removing the lock's row", wait)?,
        }
    }
}

/// What a transaction of W must find in the history.
#[derive(Clone, Copy)]
pub enum Expected<'a> {
    /// No record of any of these versions.
    NoneOf(&'a [Version]),
    /// This record of this version, by its id.
    Record(Version, i64),
}

impl Locked {
    /// The statement that every transaction of W begins with: it fails unless our row is there, and keeps it until the
    /// transaction ends; it fails if the history is not as expected.
    pub fn fence(&self, expected: Expected<'_>) -> String {
        let (otherwise, sqlstate, message) = match expected {
            Expected::NoneOf(versions) => (
                format!(
                    "EXISTS (SELECT FROM {} WHERE {})",
                    self.tables.history,
                    is_one_of(versions)
                ),
                sqlstate::ALREADY_RECORDED,
                "already recorded",
            ),
            Expected::Record(version, id) => (
                format!(
                    "NOT EXISTS (SELECT FROM {} WHERE name OPERATOR(pg_catalog.=) '{version}' AND id OPERATOR(pg_catalog.=) {id})",
                    self.tables.history
                ),
                sqlstate::NO_LONGER_RECORDED,
                "no longer recorded",
            ),
        };
        format!(
            "DO LANGUAGE plpgsql $lockstep$ BEGIN
               IF NOT pg_catalog.pg_try_advisory_xact_lock({WORK_KEY}, {key}) THEN
                 RAISE EXCEPTION USING ERRCODE = '55P03', MESSAGE = 'another migration of this history is running';
               END IF;
               PERFORM FROM {locks} WHERE table_name OPERATOR(pg_catalog.=) {name} AND id OPERATOR(pg_catalog.=) {token}
                 FOR UPDATE;
               IF NOT FOUND THEN
                 RAISE EXCEPTION USING ERRCODE = '{LOCK_LOST}', MESSAGE = 'the migration lock was lost', {ours};
               END IF;
               IF {otherwise} THEN
                 RAISE EXCEPTION USING ERRCODE = '{sqlstate}', MESSAGE = '{message}', {ours};
               END IF;
             END $lockstep$;",
            key = key(&self.tables),
            locks = self.tables.locks,
            name = literal(&self.table_name),
            token = self.token,
            ours = self.signature(),
            LOCK_LOST = sqlstate::LOCK_LOST,
        )
    }

    /// The statement that tells, at the end of a transaction, that it is still the one that the fence began: the row
    /// lock names the transaction that holds it. A setting of the transaction would do as well, but for files that say
    /// `RESET ALL`. If the row is gone and the fence's advisory lock is not, the file took the row away. It wants a
    /// `search_path` of `pg_catalog`.
    pub fn still_fenced(&self) -> String {
        format!(
            "DO LANGUAGE plpgsql $lockstep$ BEGIN
               PERFORM FROM {locks} WHERE table_name = {name} AND id = {token}
                 AND xmax = pg_current_xact_id_if_assigned()::xid;
               IF FOUND THEN RETURN; END IF;
               IF EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2
                 AND classid::int4 = {WORK_KEY} AND pid = pg_backend_pid()) THEN
                 RAISE EXCEPTION USING ERRCODE = '{ROW_TAKEN}',
                   MESSAGE = 'the file took the row of the migration lock away', {ours};
               END IF;
               RAISE EXCEPTION USING ERRCODE = '{TRANSACTION_ENDED}',
                 MESSAGE = 'the file ended its transaction', {ours};
             END $lockstep$;",
            locks = self.tables.locks,
            name = literal(&self.table_name),
            token = self.token,
            ours = self.signature(),
            ROW_TAKEN = sqlstate::ROW_TAKEN,
            TRANSACTION_ENDED = sqlstate::TRANSACTION_ENDED,
        )
    }

    /// The statement that fails unless the version is recorded: a trigger or a rule may have swallowed the record. It
    /// wants a `search_path` of `pg_catalog`.
    pub fn assert_recorded(&self, version: Version) -> String {
        format!(
            "DO LANGUAGE plpgsql $lockstep$ BEGIN
               IF NOT EXISTS (SELECT FROM {history} WHERE name = '{version}') THEN
                 RAISE EXCEPTION USING ERRCODE = '{NOT_RECORDED}',
                   MESSAGE = 'the record did not stay in {history_name}', {ours};
               END IF;
             END $lockstep$;",
            history = self.tables.history,
            history_name = self.tables.history.replace('\'', "''"),
            ours = self.signature(),
            NOT_RECORDED = sqlstate::NOT_RECORDED,
        )
    }

    /// The statement that fails if the version is still recorded, like [`Locked::assert_recorded`].
    pub fn assert_erased(&self, version: Version) -> String {
        format!(
            "DO LANGUAGE plpgsql $lockstep$ BEGIN
               IF EXISTS (SELECT FROM {history} WHERE {is_recorded}) THEN
                 RAISE EXCEPTION USING ERRCODE = '{STILL_RECORDED}',
                   MESSAGE = 'the record did not go from {history_name}', {ours};
               END IF;
             END $lockstep$;",
            history = self.tables.history,
            is_recorded = is_one_of(&[version]),
            history_name = self.tables.history.replace('\'', "''"),
            ours = self.signature(),
            STILL_RECORDED = sqlstate::STILL_RECORDED,
        )
    }

    /// What our own statements sign their errors with, so that a file which raises an error with one of our SQLSTATEs
    /// is not taken for one of them.
    fn signature(&self) -> String {
        format!("DETAIL = {}", literal(&self.detail()))
    }

    fn detail(&self) -> String {
        format!("lockstep, run {}", self.token)
    }

    /// Returns true if and only if one of our own statements raised this error.
    pub fn raised(&self, error: &DbError) -> bool {
        error.detail() == Some(self.detail().as_str())
    }

    /// This run's id in the locks table.
    pub fn token(&self) -> i64 {
        self.token
    }

    /// The statement that fails unless G still holds the guard: for what the fence cannot protect.
    pub fn assert_guard(&self) -> String {
        assert_guard(&self.tables, self.guard_pid)
    }

    /// Makes sure that G answers.
    pub fn ping_guard(&mut self) -> Result<(), Error> {
        self.guard
            .ping()
            .map_err(|trouble| trouble.while_doing("asking the guard for a sign of life"))
    }

    /// G's process id.
    pub fn guard_pid(&self) -> i32 {
        self.guard_pid
    }

    /// The error for [`sqlstate::LOCK_LOST`].
    pub fn lost(&self) -> Error {
        Error::LockLost {
            locks: self.tables.locks.clone(),
            token: self.token,
        }
    }

    /// Gives the lock back. Every commit of this run is on disk afterwards, so only now is success to be reported.
    ///
    /// # Errors
    ///
    /// The run's work is done when this fails, and the next run takes the row over: whoever has an error of its own to
    /// report reports that one.
    pub fn release(mut self) -> Result<(), Error> {
        let message = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {settings} \
             DELETE FROM {locks} WHERE table_name = {name} AND id = {token}; COMMIT",
            settings = Settings {
                lock_timeout: Duration::from_secs(5),
                commit: Commit::Durable,
                ..Settings::of_catalog()
            },
            locks = self.tables.locks,
            name = literal(&self.table_name),
            token = self.token,
        );
        let released = self
            .work
            .execute(&message)
            .map_err(|trouble| trouble.while_doing("releasing the lock"));
        release_guard(self.guard);
        self.work.close();
        released
    }
}

/// The condition under which a row of the history records one of these versions.
fn is_one_of(versions: &[Version]) -> String {
    let versions: Vec<String> = versions.iter().map(|it| format!("'{it}'")).collect();
    format!(
        "name::pg_catalog.text OPERATOR(pg_catalog.=) ANY (ARRAY[{}]::pg_catalog.text[])",
        versions.join(", ")
    )
}

/// Creates whichever of the tables are absent.
pub fn create_tables(
    config: &Config,
    session: &mut Session,
    wait: &mut Wait,
) -> Result<Tables, Error> {
    loop {
        match session.execute(&history::create_tables(config)) {
            Ok(()) => {}
            Err(trouble) => {
                retry_lock_timeout(session, trouble, "creating the history tables", wait)?;
                continue;
            }
        }
        let observation = look(config, session, wait)?;
        if let Some(tables) = observation.tables {
            info!(
                "the history is {}, created where it was absent",
                tables.history
            );
            return Ok(tables);
        }
        // Somebody dropped one of them in between.
        wait.pause(POLL)?;
        if wait.is_over() {
            return Err(unexpected("creating the history tables"));
        }
    }
}
