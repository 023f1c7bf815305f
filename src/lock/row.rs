//! Our row in bun's locks table: written under the guard, taken over from a dead run, deleted at the end; and bun's, which
//! we wait for.

use std::time::Duration;

use log::debug;

use super::holder::{self, Stranger};
use super::{Locked, POLL, other_server, release_guard, try_guard};
use crate::config::Config;
use crate::error::{BunRow, Error};
use crate::history::{Observation, PlainLook, Read, Tables, guard, tables};
use crate::migration::History;
use crate::server::message::{Access, Message, Slot};
use crate::server::open;
use crate::server::session::{Answer, Session, Trouble};
use crate::server::settings::{Commit, Settings};
use crate::server::wait::Wait;
use crate::sql::quote::{bare_or_quoted, literal};
use crate::sql::sqlstate;
use crate::text::words::duration;

/// How long a takeover waits for an orphan's transaction before it says so and tries again.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the release waits for a lock on its own row.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

fn settings(lock_timeout: Duration, commit: Commit) -> Settings {
    Settings { lock_timeout, commit, ..Settings::of_catalog() }
}

/// The message that writes our row, or takes a dead run's over, and reads the history behind it.
pub(super) struct Write {
    pub message: Message,
    guard_pid: i32,
    row: Slot,
    look: PlainLook,
    strangers: Slot,
    /// What the locks table is called.
    locks: String,
}

impl Write {
    /// The guard is asserted once the row is written, and so locked: an orphan that asserted it before could take the row
    /// of a successor over, who got the guard in between.
    pub fn new(config: &Config, tables: &Tables, guard_pid: i32, observed: &Observation) -> Write {
        let settings = settings(ORPHAN_TIMEOUT, Commit::Local).on(observed.dialect);
        let mut message = Message::begin(Access::Write, &settings);
        if !observed.standard_strings {
            // For the session: our lexer relies on it.
            message.add("SET standard_conforming_strings TO on");
        }
        let row = message.add(format!(
            "INSERT INTO {locks} AS l (id, table_name)
             VALUES (-COALESCE(nextval(pg_get_serial_sequence({locks_literal}, 'id')),
               (extract(epoch FROM clock_timestamp()) * 1000000)::int8), {name})
             ON CONFLICT (table_name) DO UPDATE SET id = EXCLUDED.id WHERE l.id < 0 RETURNING id",
            locks = tables.locks,
            locks_literal = literal(&tables.locks),
            name = literal(&config.history_table.setting),
        ));
        message.add(guard::fail(&format!(
            "WHEN {} THEN {}",
            guard::not_held(tables, guard_pid),
            guard::words(sqlstate::OTHER_SERVER, guard_pid.into()),
        )));
        // Where rows are hidden from our role by now, it fails.
        message.add("SET LOCAL row_security TO off");
        let look = PlainLook::again(&mut message, tables, &config.history_table.setting, observed);
        let strangers = message.add(holder::strangers_query());
        message.add("COMMIT");
        Write { message, guard_pid, row, look, strangers, locks: tables.locks.clone() }
    }

    /// Waits until the row is ours; returns its id, the history behind it, and who else is connected.
    ///
    /// # Errors
    ///
    /// [`Error::NoLock`] or [`Error::TableWait`] at the deadline; what the connection meets.
    pub fn settle(
        &self,
        known: &History,
        work: &mut Session,
        mut answer: Result<Answer, Trouble>,
        wait: &mut Wait,
    ) -> Result<(i64, History, Vec<Stranger>), Error> {
        let (doing, signature) = ("taking the migration lock", self.guard_pid.into());
        loop {
            match answer {
                Ok(answer) => {
                    let read = self.look.read(&answer, Some(known));
                    let Read { history, lock_row, .. } =
                        read.map_err(|it| it.while_doing(doing))?;
                    let row = answer.row(self.row);
                    if let Some(token) = row.and_then(|row| row.get("id")?.parse().ok()) {
                        let strangers = answer.rows(self.strangers);
                        let strangers = strangers.map(Stranger::read).collect();
                        return Ok((token, history, strangers));
                    }
                    wait_for_bun(BunRow::of(lock_row, &self.locks, &history), wait)?;
                }
                // The message raises nothing else.
                Err(Trouble::Sql(error)) if guard::raised(&error, signature).is_some() => {
                    return Err(other_server());
                }
                // An orphan's transaction still has the row; it ends with it.
                Err(trouble) => work.after_lock_timeout(trouble, doing, wait)?,
            }
            answer = work.send(&self.message);
        }
    }
}

impl Locked {
    /// The message that deletes our row, with a commit that is on disk when it returns.
    pub(super) fn releasing(&self) -> Message {
        let settings = settings(RELEASE_TIMEOUT, Commit::Durable).on(self.dialect);
        let mut message = Message::begin(Access::Write, &settings);
        message.extend(&self.fail_unless_kept());
        message.add(format!(
            "DELETE FROM {} WHERE table_name = {} AND id = {}",
            self.tables.locks,
            literal(&self.table_name),
            self.token
        ));
        message.add("COMMIT");
        message
    }
}

/// Removes a row of ours if nobody has the guard, which proves that its owner is dead. Returns false if somebody has it,
/// or the row is gone.
///
/// # Errors
///
/// What the connection meets; what [`delete`] says.
pub fn remove_dead(
    config: &Config,
    session: &mut Session,
    observed: &Observation,
    tables: &Tables,
    id: i64,
    wait: &mut Wait,
) -> Result<bool, Error> {
    let (ping, _) = Message::asking("SELECT");
    let (mut guard, answer) = open::open(&config.server, &ping, wait)?;
    answer.map_err(|trouble| trouble.while_doing("taking the migration lock"))?;
    if !try_guard(&mut guard, tables, observed.dialect)?.is_granted {
        guard.close();
        return Ok(false);
    }
    let removed = delete(config, session, &tables.locks, id, wait);
    release_guard(guard);
    removed
}

/// Deletes the row with this id and tells whether it was there. While a transaction has it locked, it waits, aloud.
///
/// # Errors
///
/// [`Error::TableWait`] at the deadline; what the connection meets.
pub fn delete(
    config: &Config,
    session: &mut Session,
    locks: &str,
    id: i64,
    wait: &mut Wait,
) -> Result<bool, Error> {
    let settings = settings(ORPHAN_TIMEOUT, Commit::Local);
    let mut message = Message::begin(Access::Write, &settings);
    let deleted = message.add(format!(
        "DELETE FROM {locks} WHERE table_name = {} AND id = {id} RETURNING id",
        literal(&config.history_table.setting)
    ));
    message.add("COMMIT");
    Ok(session.send_patiently(&message, "removing the lock's row", wait)?.row(deleted).is_some())
}

/// One turn of waiting for a row of bun's.
///
/// # Errors
///
/// [`Error::NoLock`] at the deadline.
pub fn wait_for_bun(row: Option<BunRow>, wait: &mut Wait) -> Result<(), Error> {
    // It may have gone between two statements; then it is only a matter of trying again.
    let Some(row) = row else {
        return wait.pause(POLL);
    };
    if wait.is_over() {
        let (waited, id) = (duration(wait.elapsed()), row.id);
        return Err(Error::NoLock(format!(
            "bun's lock is still there after {waited}: {row}\n  \
             hint: run again if a bun process is at work; if you know that none is: lockstep unlock {id}"
        )));
    }
    let (id, locks) = (row.id, row.locks);
    wait.say(|| {
        format!("bun's lock, row {id} of {locks}: its owner is a bun process, alive or dead")
    });
    wait.pause(POLL)
}

/// Creates whichever of the tables are absent, and tells what all are called.
///
/// # Errors
///
/// What the connection meets.
pub fn create_tables(
    config: &Config,
    session: &mut Session,
    wait: &mut Wait,
) -> Result<Tables, Error> {
    let doing = "creating the history tables";
    let (message, names) = tables::create(config);
    loop {
        let answer = session.send_patiently(&message, doing, wait);
        let answer = answer.map_err(|error| not_created(config, error))?;
        if let Some(tables) = answer.row(names).and_then(tables::named) {
            debug!("created the history, {}", tables.history);
            return Ok(tables);
        }
        // Somebody dropped one of them in between.
        wait.pause(POLL)?;
        if wait.is_over() {
            return Err(Trouble::Unexpected.while_doing(doing));
        }
    }
}

/// Says what our role lacks to create the tables; the statements are ours, and nobody's business.
fn not_created(config: &Config, error: Error) -> Error {
    let Error::Database { doing, mut cause } = error else {
        return error;
    };
    let hint = match cause.sqlstate.as_str() {
        sqlstate::INSUFFICIENT_PRIVILEGE => {
            // The server's message ends with it, if it speaks English.
            let said = cause.message.rsplit_once("for schema ").map(|(_, it)| it);
            let schema = config.history_table.schema.as_deref().or(said);
            format!(
                "GRANT CREATE ON SCHEMA {} TO this role; or let a role that may create tables there run `lockstep up` once",
                schema.map_or("of the history".to_owned(), bare_or_quoted)
            )
        }
        sqlstate::INVALID_SCHEMA_NAME => {
            "no schema of the search_path is there for this role: GRANT USAGE, CREATE ON SCHEMA, or set the search_path, \
             or name the schema: MIGRATIONS_TABLE=schema.table, MIGRATION_LOCKS_TABLE=schema.table"
                .to_owned()
        }
        _ => {
            (cause.query, cause.context) = (None, None);
            return Error::Database { doing, cause };
        }
    };
    Error::rejected(&config.server, format!("{doing}: {cause}"), Some(&hint))
}
