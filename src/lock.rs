//! The lock: nobody ever has to delete it, and two never work at once.
//!
//! # The protocol
//!
//! Two connections while there is work. **G** (guard) says that the run lives, **W** (work) runs the migrations. A run
//! that waits has one.
//!
//! 1. *Guard.* G opens a transaction and tries to take an advisory lock of that transaction, keyed by the history
//!    table's oid. If it gets the lock it stays idle in the transaction until the run ends. If not, it rolls back, and
//!    polls. It never blocks in the lock: a blocked waiter keeps a snapshot, and the holder's CONCURRENTLY would
//!    deadlock with it. Only the holder of the guard asks for a second connection; a waiter that sees a holder without
//!    one gives its own back for a while. So a pool of two is enough for any number of runners.
//! 2. *Row.* Under the guard, W writes our row into bun's locks table, with a negative id from the table's own sequence:
//!    this run's token, never used before, never again. It commits, to the disk, if G still holds the guard then. A
//!    negative row that is already there belongs to a dead run, since the guard is free only when its holder has ended,
//!    and is taken over. A positive row is bun's: we wait.
//! 3. *History.* It is read again, after the row is ours, in a snapshot that is younger than the row; but if the server has
//!    numbered no transaction between the snapshot in which it was read before, when none was under way, and the one that
//!    wrote the row, nothing has been written between, and behind the row nobody else writes. A server that crashed numbers
//!    anew what it lost, so this counts only while the server's session in which it was read before lives.
//! 4. *Fence.* Every transaction of W begins by locking our row `FOR UPDATE`, by its token, and by making sure that its
//!    version is not recorded, or, if it is to be rolled back, that it is, in the row that was read. The row lock is held
//!    to the commit. The row is found by the name that bun's configuration gives the history; where two runners are
//!    configured to call it differently, or to use different locks tables, they have different rows. So the transaction
//!    also holds, or does not begin without, a second advisory lock with the history's oid. Transactions that share a
//!    message ([`batch`]) are fenced one by one: between two of them a successor may take the row, and the next one ends
//!    the message.
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
//!   Behind a pooler W may outlive the crash, and what it sends next would come behind what was lost. So each message of
//!   W's, and the release, makes sure that what this run committed last is still there.
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
//! the session which ran it before us has ended, and the table's own lock keeps two builds apart. Whoever waits for such a
//! session may be what that waits for: it waits for every transaction whose snapshot it met, to its end, and that may have
//! been the one in which G took the guard. So a run that waits holding the lock takes the guard anew if anybody waits for G.
//!
//! Under REPEATABLE READ the history read under the row would be older than the row, and G would keep a snapshot for
//! which every CONCURRENTLY waits. So the isolation level is always written out, whatever the role's default is.
//!
//! `tests/it/lock/model.rs` goes through every interleaving of two and three runs, bun, an operator and all these
//! deaths, and shows for each step what breaks without it.

pub mod batch;
pub mod fence;
mod holder;
pub mod row;
pub mod state;

use std::time::Duration;

use log::{debug, warn};
use postgres::SimpleQueryRow;

use crate::config::Config;
use crate::error::Error;
use crate::history::guard::{self, GUARD_KEY, guard_lock, key};
use crate::history::{self, Observation, Tables};
use crate::migration::History;
use crate::server::glance::Glance;
use crate::server::message::{Access, Message};
use crate::server::open;
use crate::server::session::{Session, Trouble};
use crate::server::settings::{self, Dialect, Settings, Span};
use crate::server::wait::{Awaited, Wait};
use crate::text::words::duration;

pub use holder::{Holder, Stranger, Work, find as holder, strangers};

/// How long the holder of the guard waits for its second connection, before it gives the guard back.
const SECOND_CONNECTION: Duration = Duration::from_secs(10);

/// How often a waiter looks, at most. Twenty waiters poll a guard a hundred times a second at no cost that can be
/// measured.
const POLL: Duration = Duration::from_millis(250);

/// The lock, held. All that writes history, journal or a file's work begins with [`Locked::transaction`],
/// [`Locked::run_batch`] or [`Locked::alone`]: the sessions are private, so nothing can be written without the fence.
///
/// ```compile_fail
/// fn write(locked: &mut Locked) {
///     let _ = locked.work.roll_back(); // the field is private
/// }
/// ```
pub struct Locked {
    work: Session,
    guard: Session,
    /// G's process id, as long as its transaction lasts.
    guard_pid: i32,
    /// This run's id in the locks table.
    token: i64,
    tables: Tables,
    /// What the locks table calls our history: what bun writes there.
    table_name: String,
    /// Our application name, by which others see who holds the lock.
    runner: String,
    dialect: Dialect,
    /// The newest id in the history when it was read under the lock.
    newest: i64,
    /// How many records this run has made since.
    recorded: i64,
    /// What is true as long as the server has not lost what this run committed last.
    kept: Option<String>,
    /// Who else was connected then, until somebody wants to know.
    strangers: Option<Vec<Stranger>>,
}

/// What came of trying to get the lock.
pub enum Acquired {
    Locked(Box<Locked>, History),
    /// While we waited, somebody else did all there was to do.
    NothingLeft,
    /// There was no second connection to be had, for this reason; the first has been given back.
    NoConnection(String),
    /// Another runner has the lock, and no second connection: ours has been given back for it.
    SteppedAside,
}

/// Takes the lock. `guard` becomes G; `settled` tells from a history read without the lock whether there is nothing left
/// to do, or fails if what it finds must be refused.
///
/// # Errors
///
/// [`Error::NoLock`] or [`Error::TableWait`] at the deadline of
/// `MIGRATION_LOCK_WAIT_SECONDS`; what `settled` says; [`Error::Stopped`]; what the connections meet.
pub fn acquire(
    config: &Config,
    mut guard: Session,
    observed: &Observation,
    tables: Tables,
    wait: &mut Wait,
    mut settled: impl FnMut(&Observation) -> Result<bool, Error>,
) -> Result<Acquired, Error> {
    let guard_pid = loop {
        let tried = try_guard(&mut guard, &tables, observed.dialect)?;
        if tried.is_granted {
            break tried.pid;
        }
        if settled(&history::look(config, &mut guard, wait)?)? {
            guard.close();
            return Ok(Acquired::NothingLeft);
        }
        if wait.is_over() {
            let holder = holder::find(&mut guard, Some(&tables))?;
            let holder = holder.map_or("it has just ended".to_owned(), |it| it.to_string());
            let waited = duration(wait.elapsed());
            return Err(Error::NoLock(format!(
                "another runner still holds the migration lock after {waited}: {holder}\n  \
                 hint: run again; the lock is gone the moment its holder is"
            )));
        }
        say_holder(&mut guard, &tables, wait)?;
        if holder_is_alone(&mut guard, &tables)? {
            guard.close();
            return Ok(Acquired::SteppedAside);
        }
        wait.pause(POLL)?;
    };
    debug!(pid = guard_pid; "the guard is ours");

    let row = row::Write::new(config, &tables, guard_pid, observed);
    let mut patience = Wait::new(wait.signals(), config.database_wait.min(SECOND_CONNECTION));
    let (mut work, answer) = match open::open(&config.server, &row.message, &mut patience) {
        Ok(opened) => opened,
        Err(Error::Unreachable { cause, .. }) => {
            release_guard(guard);
            return Ok(Acquired::NoConnection(cause));
        }
        Err(error) => return Err(error),
    };
    let (token, history, strangers) = row.settle(&observed.history, &mut work, answer, wait)?;
    debug!(token; "the row in {} is ours", tables.locks);
    let locked = Locked {
        work,
        guard,
        guard_pid,
        token,
        tables,
        table_name: config.history_table.setting.clone(),
        runner: open::application_name(&config.server),
        dialect: observed.dialect,
        newest: history.newest_id(),
        recorded: 0,
        kept: None,
        strangers: Some(strangers),
    };
    Ok(Acquired::Locked(Box::new(locked), history))
}

/// What came of trying the guard once.
struct Tried {
    pid: i32,
    is_granted: bool,
}

/// Tries the guard, once. If it is granted, it is ours as long as this session's transaction lasts; else there is no
/// transaction any more. The statement never blocks, and never fails while the history table is there.
fn try_guard(guard: &mut Session, tables: &Tables, dialect: Dialect) -> Result<Tried, Error> {
    let doing = "taking the migration lock";
    let settings = Settings { span: Span::Idle, ..Settings::of_catalog() };
    let mut message = Message::begin(Access::Read, &settings.on(dialect));
    let asked = message.add(format!(
        "SELECT pg_backend_pid() AS pid, pg_try_advisory_xact_lock({GUARD_KEY}, {}) AS granted",
        key(tables)
    ));
    let answer = guard.send(&message).map_err(|it| it.while_doing(doing))?;
    let read = |row: &SimpleQueryRow| {
        Some(Tried { pid: row.get("pid")?.parse().ok()?, is_granted: row.get("granted")? == "t" })
    };
    let tried = answer.row(asked).and_then(read);
    let tried = tried.ok_or_else(|| Trouble::Unexpected.while_doing(doing))?;
    if !tried.is_granted {
        guard.roll_back().map_err(|it| it.while_doing(doing))?;
    }
    Ok(tried)
}

/// Returns true if and only if somebody has the guard, and no second connection.
fn holder_is_alone(session: &mut Session, tables: &Tables) -> Result<bool, Error> {
    let alone = format!(
        "SELECT FROM pg_locks g JOIN pg_stat_activity a ON a.pid = g.pid AND a.application_name <> ''
         WHERE {} AND NOT EXISTS (SELECT FROM pg_stat_activity w WHERE w.pid <> a.pid AND w.datid = a.datid
           AND (w.application_name = a.application_name
             OR starts_with(w.application_name, a.application_name || ' ')))",
        guard_lock(&key(tables))
    );
    let rows = session.ask(&alone, "taking the migration lock")?;
    Ok(!rows.is_empty())
}

/// Ends the guard's transaction, and with it the lock, and closes its session. Behind a pooler the session alone would
/// not end the transaction.
fn release_guard(mut guard: Session) {
    if let Err(trouble) = guard.roll_back() {
        warn!("the guard was already gone: {}", trouble.words().1);
    }
    guard.close();
}

/// Says who is in the way, when it is time to say something.
fn say_holder(session: &mut Session, tables: &Tables, wait: &mut Wait) -> Result<(), Error> {
    let mut found = Ok(());
    wait.say(|| match holder::find(session, Some(tables)) {
        Ok(Some(holder)) => {
            Awaited { whom: format!("another runner: {}", holder.who()), now: holder.now() }
        }
        Ok(None) => Awaited::from("another runner, which has just ended".to_owned()),
        Err(error) => {
            found = Err(error);
            Awaited::from("another runner".to_owned())
        }
    });
    found
}

/// Who is at work or may be, in words: a runner, or whoever left a row of bun's; none if nobody is.
///
/// # Errors
///
/// What the connection meets.
pub fn at_work(session: &mut Session, observation: &Observation) -> Result<Option<String>, Error> {
    if let Some(row) = observation.bun_row() {
        let (id, locks) = (row.id, row.locks);
        return Ok(Some(format!("bun, alive or dead: row {id} of {locks}")));
    }
    Ok(holder::find(session, observation.tables.as_ref())?.map(|it| it.to_string()))
}

/// The error for [`crate::sql::sqlstate::OTHER_SERVER`].
fn other_server() -> Error {
    Error::NoConnection(
        "the two connections reached different servers, or the first was cut; nothing was begun\n  \
         hint: run again; if it stays so, name one server"
            .to_owned(),
    )
}

impl Locked {
    /// Asks the catalog one thing.
    ///
    /// # Errors
    ///
    /// What the connection meets, while doing this.
    pub fn ask(&mut self, query: &str, doing: &str) -> Result<Vec<SimpleQueryRow>, Error> {
        self.work.ask(query, doing)
    }

    /// The sessions of other programs: first as they were when the lock was taken, which costs no round trip.
    ///
    /// # Errors
    ///
    /// What the connection meets.
    pub fn strangers(&mut self) -> Result<Vec<Stranger>, Error> {
        match self.strangers.take() {
            Some(strangers) => Ok(strangers),
            None => strangers(&mut self.work),
        }
    }

    /// Like [`Locked::ask`], but tables are found as the role's settings say, and then those of a file.
    ///
    /// # Errors
    ///
    /// Like [`Locked::ask`].
    pub fn ask_as_set(
        &mut self,
        sets: &[String],
        query: &str,
        doing: &str,
    ) -> Result<Vec<SimpleQueryRow>, Error> {
        self.work.ask_as_set(sets, query, doing)
    }

    /// Tries something out, in a transaction that is rolled back, and again while a lock is in the way. Returns the rows of
    /// the last statement.
    ///
    /// # Errors
    ///
    /// [`Error::TableWait`] at the deadline; what the connection meets.
    pub fn try_out(
        &mut self,
        settings: Settings,
        statements: &[String],
        doing: &str,
        wait: &mut Wait,
    ) -> Result<Vec<SimpleQueryRow>, Error> {
        let mut message = Message::begin(Access::Write, &settings.on(self.dialect));
        let last = statements.iter().map(|it| message.add(it)).last();
        message.add("ROLLBACK");
        message.extend(&settings::reset(&self.runner));
        let answer = self.work.send_patiently(&message, doing, wait)?;
        Ok(last.map_or(Vec::new(), |it| answer.into_rows(it)))
    }

    /// Makes sure that G answers.
    ///
    /// # Errors
    ///
    /// [`Error::ConnectionLost`] if it does not.
    pub fn ping_guard(&mut self) -> Result<(), Error> {
        self.guard.ping().map_err(|it| it.while_doing("asking the guard for a sign of life"))
    }

    /// A turn of waiting that holds the lock. Those who wait for the end of the guard's transaction may be what is waited
    /// for, so they are let pass first.
    ///
    /// # Errors
    ///
    /// What [`Wait::pause`] says; the lock is lost, if somebody else has the guard; what the connection meets.
    pub fn pause(&mut self, wait: &mut Wait, pause: Duration) -> Result<(), Error> {
        self.let_pass()?;
        wait.pause(pause)
    }

    /// Takes the guard anew if anybody waits for the end of its transaction, as a statement CONCURRENTLY does if it met the
    /// snapshot in which we took the guard. If somebody is quicker, that is as if G alone had been killed: our next
    /// transaction finds out whether our token is still there.
    fn let_pass(&mut self) -> Result<(), Error> {
        let waiting = format!(
            "SELECT FROM pg_locks w JOIN pg_locks g ON g.virtualtransaction = w.virtualxid \
             WHERE NOT w.granted AND g.pid = {}",
            self.guard_pid
        );
        if self.ask(&waiting, "looking for who waits for the guard")?.is_empty() {
            return Ok(());
        }
        self.guard.roll_back().map_err(|trouble| trouble.while_doing("letting go of the guard"))?;
        let tried = try_guard(&mut self.guard, &self.tables, self.dialect)?;
        self.guard_pid = tried.pid;
        if tried.is_granted { Ok(()) } else { Err(self.lost()) }
    }

    /// Looks at what this run executes, as whoever waits for it does.
    pub fn glance(&self) -> Option<Glance> {
        self.work.glance(&holder::query(&self.tables), holder::seen)
    }

    /// This run's id in the locks table.
    pub fn token(&self) -> i64 {
        self.token
    }

    /// G's process id.
    pub fn guard_pid(&self) -> i32 {
        self.guard_pid
    }

    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Our application name.
    pub fn runner(&self) -> &str {
        &self.runner
    }

    /// The error for [`crate::sql::sqlstate::LOCK_LOST`].
    pub fn lost(&self) -> Error {
        let (token, locks) = (self.token, &self.tables.locks);
        Error::NoLock(format!(
            "the migration lock was lost: row {token} is gone from {locks}: somebody deleted \
             it, or another runner took over\n  nothing ran without the lock; what was \
             committed before stays\n  hint: run again"
        ))
    }

    /// The error for [`crate::sql::sqlstate::COMMIT_LOST`].
    fn commit_lost(&self) -> Error {
        let history = &self.tables.history;
        Error::NoConnection(format!(
            "what this run committed last is gone from {history}: the server crashed and lost it, or somebody took it \
             back\n  nothing was begun since\n  hint: run again"
        ))
    }

    /// Gives the lock back. Every commit of this run is on disk afterwards, so only now is success to be reported.
    ///
    /// # Errors
    ///
    /// [`Locked::commit_lost`]; what the connection meets.
    ///
    /// The run's work is done when this fails, and the next run takes the row over: whoever has an error of its own to
    /// report reports that one. So it is only of a run that succeeded that anything is demanded.
    pub fn release(mut self, has_succeeded: bool) -> Result<(), Error> {
        self.kept = self.kept.filter(|_| has_succeeded);
        let message = self.releasing();
        let released = match self.work.send(&message) {
            Ok(_) => Ok(()),
            Err(Trouble::Sql(error)) if guard::raised(&error, self.token).is_some() => {
                // Behind a pooler the transaction would stay.
                let _ = self.work.roll_back();
                Err(self.commit_lost())
            }
            Err(trouble) => Err(trouble.while_doing("releasing the lock")),
        };
        release_guard(self.guard);
        self.work.close();
        released
    }
}
