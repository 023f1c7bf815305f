//! Every statement about the history and the journal.
//!
//! The history is bun's table, to the letter. The journal stands beside it, `<history table>_journal`; bun never sees
//! it. A journal row belongs to the history row whose id it holds, so that what bun rolls back or applies anew behind
//! our back leaves no stale checksum. A history row without a journal row was written by bun.
//!
//! A journal row without `finished_at` and without a history row is of a statement outside a transaction that a run
//! started, and did not finish, as far as is known. If that was the rollback of a migration, `history_id` is the group
//! that its record had, negated, and tells both that it was one and to which group it belongs.

pub mod guard;
pub mod record;
pub mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use postgres::SimpleQueryRow;

use crate::config::Config;
use crate::error::{BunRow, Error};
use crate::migration::{Applied, History, Interrupted, Migration, Version};
use crate::server::blocker;
use crate::server::message::{Access, Message, Slot};
use crate::server::session::{Answer, Session, Trouble};
use crate::server::settings::{Dialect, Settings};
use crate::server::wait::Wait;
use crate::sql::Checksum;
use crate::sql::quote::literal;
use crate::sql::sqlstate;
use crate::text::words::below;

/// The tables as the server knows them: schema-qualified and quoted.
#[derive(Clone)]
pub struct Tables {
    pub history: String,
    pub journal: String,
    pub locks: String,
}

/// What one look at the database tells, in one snapshot.
pub struct Observation {
    pub database: String,
    pub user: String,
    /// As in `server_version`.
    pub server_version: String,
    /// A standby, which cannot be written to.
    pub in_recovery: bool,
    /// Whether the server counts an error's position in bytes: it does so in an SQL_ASCII database, and in characters
    /// in every other.
    pub counts_bytes: bool,
    /// Whether `'\'` is a complete literal. Our lexer relies on it.
    pub standard_strings: bool,
    /// None unless all three exist. bun makes two of them.
    pub tables: Option<Tables>,
    /// The locks table, if it exists.
    pub locks: Option<String>,
    /// The history table, if it exists.
    pub history_table: Option<String>,
    pub history: History,
    /// The id in the locks table's row for our history: positive if it is bun's, negative if it is ours.
    pub lock_row: Option<i64>,
    /// Whether nobody holds the guard, though a row of ours is there.
    is_ownerless: bool,
    /// Whether our role may delete rows of the locks table.
    may_remove_row: bool,
    /// The rights on the tables that our role lacks to apply anything.
    pub lacks: Option<String>,
    /// What the server knows.
    pub dialect: Dialect,
    /// The tables whose rows are hidden from our role by row-level security.
    pub hidden: Option<String>,
    /// The columns that tables of our names lack to be ours.
    pub shapeless: Option<String>,
    /// As it is set.
    pub search_path: String,
    /// None while a transaction that writes was under way.
    moment: Option<Moment>,
    /// The history takes a message of its own.
    is_long: bool,
    /// Where the history's name, which has no schema, leads to no table: tables of that name and shape elsewhere, qualified
    /// and quoted, each with the names that it holds.
    pub elsewhere: BTreeMap<String, Vec<String>>,
}

impl Observation {
    /// bun's row, if bun has the lock.
    pub fn bun_row(&self) -> Option<BunRow> {
        BunRow::of(self.lock_row, self.locks.as_ref()?, &self.history)
    }

    /// Fails if the name of the history leads to no table, and one elsewhere holds versions of our files: with another
    /// `search_path` that was ours, and all would be applied again.
    ///
    /// # Errors
    ///
    /// [`Error::Disagreement`].
    pub fn refuse_if_lost(&self, config: &Config, migrations: &[Migration]) -> Result<(), Error> {
        if self.history_table.is_some() {
            return Ok(());
        }
        let versions: BTreeSet<Version> = migrations.iter().map(|it| it.version).collect();
        let is_file = |name: &String| Version::parse(name).is_some_and(|it| versions.contains(&it));
        let places = self.elsewhere.iter().filter(|(_, names)| names.iter().any(is_file));
        let places: Vec<String> = places.map(|(place, _)| place.clone()).collect();
        if places.is_empty() {
            return Ok(());
        }
        let (table, found) = (&config.history_table.name, places.join(", "));
        let hint = |it| format!("hint: to go on with that one: MIGRATIONS_TABLE={it}");
        Err(Error::Disagreement(format!(
            "the history is lost sight of: the search_path leads to no {table}, and {found} holds \
             versions of these files; nothing was changed\n  search_path: {}{}\n  \
             hint: for a history of its own: MIGRATIONS_TABLE=SCHEMA.{table}, with the schema to create it in",
            self.search_path,
            below(places.iter().map(hint))
        )))
    }

    /// The id of a row of ours whose owner is dead. On a standby nobody is seen.
    pub fn dead_row(&self) -> Option<i64> {
        let is_dead = self.is_ownerless && !self.in_recovery;
        self.lock_row.filter(|&id| id < 0 && is_dead)
    }

    /// The same, if we may remove it.
    pub fn removable_row(&self) -> Option<i64> {
        self.dead_row().filter(|_| self.may_remove_row)
    }
}

/// A message that observes, and where in its answer is what: one round trip, reading only.
pub struct Observe {
    pub message: Message,
    look: Look,
}

impl Observe {
    /// One snapshot for all of it: bun's row and its history must be of the same moment.
    pub fn new(config: &Config, columns: Columns) -> Observe {
        let mut message = Message::begin(Access::Snapshot, &Settings::default().retried());
        let look = Look::add(&mut message, config, columns);
        message.add("COMMIT");
        Observe { message, look }
    }

    /// What the answer to the message tells, which is sent again while one of the tables is locked; and the answer itself.
    ///
    /// # Errors
    ///
    /// [`Error::TableWait`] if somebody keeps a table locked against readers until the wait is over; it names who.
    /// [`Error::rejected`] if the tables are another program's, or if rows may be hidden from our role: all would seem
    /// pending. [`Error::NoConnection`].
    pub fn read(
        &self,
        config: &Config,
        session: &mut Session,
        answer: Result<Answer, Trouble>,
        wait: &mut Wait,
    ) -> Result<(Observation, Answer), Error> {
        let answer = session.settle(&self.message, answer, READING, wait);
        let answer = answer.map_err(|error| blamed(config, session, error))?;
        let observed = self.look.read(&answer).ok_or(Trouble::Unexpected);
        let mut observed = observed.map_err(|it| it.while_doing(READING))?;
        if let (true, Some(tables)) = (observed.is_long, &observed.tables) {
            let (message, look) = PlainLook::asking(config, tables);
            let answer = session.send_patiently(&message, READING, wait);
            let answer = answer.map_err(|error| blamed(config, session, error))?;
            let read = look.read(&answer, None).map_err(|it| it.while_doing(READING))?;
            (observed.history, observed.lock_row) = (read.history, read.lock_row);
            observed.moment = read.moment;
        }
        let (cause, hint) = match (&observed.shapeless, &observed.hidden) {
            (Some(lacks), _) => (
                format!("{lacks}: the name is another program's table's"),
                "MIGRATIONS_TABLE and MIGRATION_LOCKS_TABLE choose other names",
            ),
            (None, Some(tables)) => (
                format!(
                    "row-level security may hide rows of {tables} from the role {}",
                    observed.user
                ),
                "run as the tables' owner, or give the role BYPASSRLS, or switch row-level security off",
            ),
            (None, None) => return Ok((observed, answer)),
        };
        Err(Error::rejected(&config.server, cause, Some(hint)))
    }
}

/// Looks at the database, without the lock.
///
/// # Errors
///
/// Like [`Observe::read`].
pub fn look(config: &Config, session: &mut Session, wait: &mut Wait) -> Result<Observation, Error> {
    let observe = Observe::new(config, Columns::ToPlan);
    let answer = session.send(&observe.message);
    Ok(observe.read(config, session, answer, wait)?.0)
}

/// The error with the sessions that keep readers out of our tables, as far as they can be found; or with the rights that
/// our role lacks.
fn blamed(config: &Config, session: &mut Session, mut error: Error) -> Error {
    if let Error::TableWait { blockers, .. } = &mut error
        && let Ok(rows) = session.ask_as_set(&[], &lockers(config), READING)
    {
        blockers.extend(rows.iter().filter_map(|row| row.get("locker")).map(str::to_owned));
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

/// The query for whoever has one of the tables locked against readers. The tables are found as the role's settings say.
fn lockers(config: &Config) -> String {
    let tables = tables::expressions(config);
    let oids = tables.map(|it| format!("{it}::pg_catalog.regclass::pg_catalog.oid"));
    format!(
        "SELECT {} AS locker FROM {}
         WHERE l.granted AND l.mode OPERATOR(pg_catalog.=) 'AccessExclusiveLock'
           AND l.relation OPERATOR(pg_catalog.=) ANY (ARRAY[{}])",
        blocker::words(),
        blocker::FROM,
        oids.join(", ")
    )
}

/// Where in an answer is what a look returned.
struct Look {
    facts: Slot,
    rows: Rows,
    elsewhere: Slot,
}

/// Where in an answer are the rows of history and journal.
struct Rows {
    records: Slot,
    checksums: Slot,
    interrupted: Slot,
}

impl Look {
    /// Reads what a look returned; none if it returned something else.
    fn read(&self, answer: &Answer) -> Option<Observation> {
        let fact = answer.row(self.facts)?;
        let flag = |name: &str| fact.get(name) == Some("t");
        let text = |name: &str| fact.get(name).map(str::to_owned);
        let mut history = self.rows.read(answer);
        history.last_id = number(fact, "last_id");
        Some(Observation {
            database: text("database")?,
            user: text("role")?,
            server_version: text("server_version")?,
            in_recovery: flag("in_recovery"),
            counts_bytes: fact.get("encoding") == Some("SQL_ASCII"),
            standard_strings: fact.get("standard_strings") == Some("on"),
            tables: tables::named(fact),
            locks: text("locks"),
            history_table: text("history"),
            history,
            lock_row: number(fact, "lock_row"),
            is_ownerless: flag("is_ownerless"),
            may_remove_row: flag("may_remove_row"),
            lacks: text("lacks"),
            hidden: text("hidden"),
            shapeless: text("shapeless"),
            search_path: text("search_path")?,
            moment: Moment::read(fact),
            is_long: flag("is_long"),
            elsewhere: elsewhere(answer.rows(self.elsewhere)),
            dialect: Dialect {
                transaction_timeout: flag("has_transaction_timeout"),
                check_interval: flag("has_check_interval"),
            },
        })
    }
}

fn elsewhere<'a>(rows: impl Iterator<Item = &'a SimpleQueryRow>) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        if let (Some(place), Some(name)) = (row.get("place"), row.get("name")) {
            (found.entry(place.to_owned()).or_default()).push(name.to_owned());
        }
    }
    found
}

fn number<T: FromStr>(row: &SimpleQueryRow, column: &str) -> Option<T> {
    row.get(column)?.parse().ok()
}

impl Rows {
    fn read(&self, answer: &Answer) -> History {
        let checksum = |row: &SimpleQueryRow| Checksum::parse_hex(row.get("checksum")?);
        let (mut history, mut records) = (History::default(), Vec::new());
        for row in answer.rows(self.records) {
            let (id, group) = (number(row, "id"), number(row, "group_id").unwrap_or(0));
            history.last_group = history.last_group.max(group);
            history.newest_record = history.newest_record.max(id);
            let name = row.get("name").unwrap_or_default();
            match Version::parse(name) {
                Some(version) => {
                    records.push(Applied { version, id: id.unwrap_or(0), group, checksum: None })
                }
                None => history.foreign.push(name.to_owned()),
            }
        }
        for row in answer.rows(self.checksums) {
            let Some(id) = number::<i64>(row, "history_id") else { continue };
            // The records came in the order of their ids.
            let found = records.binary_search_by_key(&id, |it| it.id);
            let recorded = found.ok().map(|at| &mut records[at]);
            let version = row.get("version").and_then(Version::parse);
            if let Some(recorded) = recorded.filter(|it| Some(it.version) == version) {
                recorded.checksum = checksum(row);
            }
        }
        let interrupted = answer.rows(self.interrupted).filter_map(|row| {
            let negated: Option<i64> = number(row, "history_id");
            Some(Interrupted {
                version: Version::parse(row.get("version")?)?,
                runner: row.get("runner")?.to_owned(),
                checksum: checksum(row),
                statement: row.get("statement").map(str::to_owned),
                done: number(row, "done"),
                rollback: negated.map(i64::saturating_neg),
            })
        });
        // What bun applied since is done.
        let is_recorded = |version| records.iter().any(|it| it.version == version);
        history.interrupted = interrupted.filter(|it| !is_recorded(it.version)).collect();
        history.applied = records.into();
        // A group whose rollback was begun goes on under its number, so no other run gets that.
        let begun = history.interrupted.iter().filter_map(|it| it.rollback);
        history.last_group = begun.fold(history.last_group, i64::max);
        history
    }
}

/// A history of more bytes on the server's disk is read by plain queries, of tables that are known by then: some 8,000
/// records.
const LONG: u64 = 500_000;

/// When the history was read, as the server counts.
struct Moment {
    /// The number of the next one.
    next: u64,
    /// The server's session that read: its process id, and when it began, in seconds.
    session: (i32, String),
}

impl Moment {
    /// An SQL expression for it; NULL if such a transaction is under way.
    const SQL: &str = "CASE pg_snapshot_xmin(pg_current_snapshot()) WHEN pg_snapshot_xmax(pg_current_snapshot()) \
         THEN (SELECT concat_ws(' ', pg_snapshot_xmax(pg_current_snapshot()), pid, extract(epoch FROM backend_start)) \
           FROM pg_stat_get_activity(pg_backend_pid())) END";

    fn read(row: &SimpleQueryRow) -> Option<Moment> {
        let mut words = row.get("moment")?.split(' ');
        let (next, pid) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let began = words.next()?.to_owned();
        Some(Moment { next, session: (pid, began) })
    }

    /// The condition that something may have been written between it and this transaction, which has a number: others have
    /// numbers, too, or the server crashed meanwhile, which ends all its sessions, and numbers anew what it has lost.
    fn is_past(&self) -> String {
        let (next, (pid, began)) = (self.next, &self.session);
        let began = literal(began);
        format!(
            "(pg_current_xact_id() <> '{next}' OR pg_snapshot_xmax(pg_current_snapshot()) <> '{next}' OR NOT EXISTS \
             (SELECT FROM pg_stat_get_activity({pid}) WHERE extract(epoch FROM backend_start) = {began}))"
        )
    }
}

/// The last id that the sequence of a table gave, or NULL; the table's name is an SQL expression.
fn last_id(table: &str) -> String {
    format!(
        "(SELECT CASE WHEN has_sequence_privilege(s, 'USAGE, SELECT') THEN pg_sequence_last_value(s::regclass) END \
         FROM pg_get_serial_sequence({table}, 'id') s)"
    )
}

/// A look at tables that are there: at the row of the lock, and at the history, unless it is proved to be what it was.
pub struct PlainLook {
    facts: Slot,
    rows: Rows,
}

/// What was read of tables that are there.
pub struct Read {
    pub history: History,
    /// The id in the row of the lock.
    pub lock_row: Option<i64>,
    moment: Option<Moment>,
}

impl PlainLook {
    /// A message that reads, in one snapshot.
    fn asking(config: &Config, tables: &Tables) -> (Message, PlainLook) {
        let mut message = Message::begin(Access::Snapshot, &Settings::of_catalog().retried());
        let look = PlainLook::add(&mut message, tables, &config.history_table.setting, "true");
        message.add("COMMIT");
        (message, look)
    }

    /// Reads in a transaction that has written, with a `search_path` of `pg_catalog`.
    ///
    /// The server numbers the transactions that write, whatever they write. If none was under way when the history was
    /// observed, and the next number is this transaction's, nothing has been written between.
    pub fn again(
        message: &mut Message,
        tables: &Tables,
        table_name: &str,
        observed: &Observation,
    ) -> PlainLook {
        let moment = observed.moment.as_ref();
        let unless_same = moment.map_or("true".to_owned(), Moment::is_past);
        PlainLook::add(message, tables, table_name, &unless_same)
    }

    fn add(message: &mut Message, tables: &Tables, table_name: &str, only_if: &str) -> PlainLook {
        let Tables { history, journal, locks } = tables;
        let facts = format!(
            "SELECT (SELECT id FROM {locks} WHERE table_name = {}) AS lock_row, {} AS last_id, \
             {only_if} AS is_read, {} AS moment",
            literal(table_name),
            last_id(&literal(history)),
            Moment::SQL
        );
        let columns = Columns::ToPlan;
        PlainLook {
            facts: message.add(facts),
            rows: Rows {
                records: message.add(columns.records(history, only_if)),
                checksums: message.add(columns.checksums(journal, only_if)),
                interrupted: message.add(columns.interrupted(journal, only_if)),
            },
        }
    }

    /// What was read, or, where it was proved to be the same, is known.
    ///
    /// # Errors
    ///
    /// [`Trouble::Unexpected`] if the answer is another one's.
    pub fn read(&self, answer: &Answer, known: Option<&History>) -> Result<Read, Trouble> {
        let facts = answer.row(self.facts).ok_or(Trouble::Unexpected)?;
        let mut history = match (facts.get("is_read"), known) {
            (Some("f"), Some(known)) => known.clone(),
            _ => self.rows.read(answer),
        };
        history.last_id = number(facts, "last_id");
        Ok(Read { history, lock_row: number(facts, "lock_row"), moment: Moment::read(facts) })
    }
}

/// What the tables tell of one version beside its state; nothing where they do not know. Times are RFC 3339, in UTC.
#[derive(Clone, Default)]
pub struct Record {
    pub applied_at: Option<String>,
    pub group: Option<i64>,
    pub file_name: Option<String>,
    pub started_at: Option<String>,
    pub finished_at: Option<String>,
    pub duration_ms: Option<i64>,
    /// The application name of the session that ran it.
    pub runner: Option<String>,
}

/// What is told of a version by one row, and by what the journal has noted of it.
fn read(
    version: &str,
    row: &SimpleQueryRow,
    noted: Option<&SimpleQueryRow>,
) -> Option<(Version, Record)> {
    // Not every row has every column: what is not finished has no group, say.
    let text = |name: &str| {
        let mut rows = [Some(row), noted].into_iter().flatten();
        let value = rows.find_map(|row| row.try_get(name).ok().flatten());
        value.filter(|it| !it.is_empty()).map(str::to_owned)
    };
    let number = |name: &str| text(name)?.parse().ok();
    let record = Record {
        applied_at: text("applied_at"),
        group: number("group_id"),
        file_name: text("file_name"),
        started_at: text("started_at"),
        finished_at: text("finished_at"),
        duration_ms: number("duration_ms"),
        runner: text("runner"),
    };
    Some((Version::parse(version)?, record))
}

impl Observe {
    /// What the answer tells, if it is [`Columns::InDetail`], of each version that is recorded, or started and not finished.
    pub fn records(&self, answer: &Answer) -> BTreeMap<Version, Record> {
        let Rows { records, checksums, interrupted } = self.look.rows;
        let key = |row: &SimpleQueryRow, id: &str, version: &str| {
            Some((row.get(id)?.to_owned(), row.get(version)?.to_owned()))
        };
        let noted = answer.rows(checksums);
        let noted = noted.filter_map(|it| Some((key(it, "history_id", "version")?, it)));
        let noted: BTreeMap<(String, String), &SimpleQueryRow> = noted.collect();
        // What is recorded says more than what was started.
        let started = answer.rows(interrupted);
        let started = started.filter_map(|it| read(it.get("version")?, it, None));
        let recorded = answer.rows(records).filter_map(|it| {
            let noted = key(it, "id", "name").and_then(|key| noted.get(&key));
            read(it.get("name")?, it, noted.copied())
        });
        started.chain(recorded).collect()
    }
}

/// Which columns a look reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Columns {
    ToPlan,
    /// Those of [`Record`], too.
    InDetail,
}

impl Columns {
    /// The query for all records of this history, if this holds. A server takes longer to join the journal than to send
    /// both.
    fn records(self, history: &str, only_if: &str) -> String {
        let [of_history, ..] = self.selected();
        format!(
            "SELECT h.id, h.name, h.group_id{of_history} FROM {history} h WHERE {only_if} ORDER BY h.id"
        )
    }

    /// The query for what this journal calls finished.
    fn checksums(self, journal: &str, only_if: &str) -> String {
        let [_, of_journal, runner, _] = self.selected();
        format!(
            "SELECT j.history_id, j.version, j.checksum{of_journal}{runner} FROM {journal} j \
             WHERE j.finished_at IS NOT NULL AND {only_if}"
        )
    }

    /// The query for what this journal does not call finished. An early one has no column for the statement, which is why
    /// the row is asked for it as JSON.
    fn interrupted(self, journal: &str, only_if: &str) -> String {
        let [_, of_journal, _, _] = self.selected();
        format!(
            "SELECT j.version, j.runner, j.checksum, j.history_id, to_jsonb(j) ->> 'statement' AS statement, \
             to_jsonb(j) ->> 'done' AS done{of_journal} FROM {journal} j WHERE j.finished_at IS NULL AND {only_if}"
        )
    }

    /// What a look selects of the history, which is `h`, beside the name and the group; of the journal, which is `j`, beside
    /// the checksum; of what is not finished; and what it runs before.
    fn selected(self) -> [String; 4] {
        match self {
            Columns::ToPlan => Default::default(),
            Columns::InDetail => [
                format!(", {} AS applied_at", rfc3339("h.migrated_at")),
                format!(
                    ", j.file_name, {} AS started_at, {} AS finished_at, j.duration_ms",
                    rfc3339("j.started_at"),
                    rfc3339("j.finished_at")
                ),
                ", j.runner".to_owned(),
                "PERFORM pg_catalog.set_config('TimeZone', 'UTC', true);".to_owned(),
            ],
        }
    }
}

/// An SQL expression for a time. The session's time zone is UTC while it is evaluated. What is no moment of ours
/// (`infinity`) is NULL.
fn rfc3339(time: &str) -> String {
    format!("pg_catalog.to_char({time}, 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')")
}

impl Look {
    /// The statements that read all there is to know, whichever of the tables exist: a DO block opens cursors over what it
    /// finds, and the message fetches them. A plain SELECT would fail where a table is missing, and leave an ERROR in the
    /// server's log; asking first would take a second round trip.
    fn add(message: &mut Message, config: &Config, columns: Columns) -> Look {
        let [history, journal, locks] = tables::expressions(config);
        let [.., utc] = columns.selected();
        message.add(format!(
            include_str!("history/look.sql"),
            history = history,
            journal = journal,
            locks = locks,
            utc = utc,
            records = literal(&columns.records("%s", "true")),
            checksums = literal(&columns.checksums("%s", "true")),
            interrupted = literal(&columns.interrupted("%s", "true")),
            sought = match &config.history_table.schema {
                Some(_) => "false".to_owned(),
                None => format!("c.relname = {}", literal(&config.history_table.name)),
            },
            row = guard::row_query(config),
            last_id = last_id("the_history"),
            moment = Moment::SQL,
            may_be_long = columns == Columns::ToPlan,
            long = LONG,
            guard = guard::guard_lock(
                "the_history::pg_catalog.regclass::pg_catalog.oid::pg_catalog.int4"
            ),
        ));
        Look {
            facts: message.add("FETCH ALL FROM lockstep_facts"),
            rows: Rows {
                records: message.add("FETCH ALL FROM lockstep_records"),
                checksums: message.add("FETCH ALL FROM lockstep_checksums"),
                interrupted: message.add("FETCH ALL FROM lockstep_interrupted"),
            },
            elsewhere: message.add("FETCH ALL FROM lockstep_elsewhere"),
        }
    }
}
