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

use std::collections::BTreeMap;

use postgres::SimpleQueryRow;

use crate::config::{Config, TableName};
use crate::migration::{Applied, History, Interrupted, Migration, Version};
use crate::server::session::{Results, Settings, literal};
use crate::sql::Checksum;

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
    /// Whether nobody holds the guard, and our role may delete rows of the locks table.
    may_remove_row: bool,
    /// The rights on the tables that our role lacks to apply anything.
    pub lacks: Option<String>,
}

impl Observation {
    /// Where bun's row is and what its id is, if bun has the lock.
    pub fn bun_row(&self) -> Option<(&str, i64)> {
        let id = self.lock_row.filter(|&id| id > 0)?;
        Some((self.locks.as_deref()?, id))
    }

    /// The id of a row of ours whose owner is dead, if we may remove it.
    pub fn dead_row(&self) -> Option<i64> {
        let is_removable = self.may_remove_row && !self.in_recovery;
        self.lock_row.filter(|&id| id < 0 && is_removable)
    }
}

/// The message that observes: one round trip, reading only.
///
/// One snapshot for all of it: bun's row and its history must be of the same moment.
pub fn observe(config: &Config) -> String {
    observe_columns(config, Columns::ToPlan)
}

/// Like [`observe`], with all that [`records`] reads.
pub fn observe_in_detail(config: &Config) -> String {
    observe_columns(config, Columns::InDetail)
}

fn observe_columns(config: &Config, columns: Columns) -> String {
    let settings = Settings {
        lock_timeout: OBSERVE_LOCK_TIMEOUT,
        ..Settings::default()
    };
    format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {settings} {}; COMMIT",
        look_at(config, Names::Configured, columns) // results 2 to 5
    )
}

/// The query for the sessions that have one of the tables locked against readers. The tables are found as the role's
/// settings say, so all else is qualified.
pub fn lockers(config: &Config) -> String {
    let tables = Names::Configured.expressions(config);
    let oids = tables.map(|it| format!("{it}::pg_catalog.regclass::pg_catalog.oid"));
    format!(
        "SELECT pg_catalog.concat_ws(' ', 'pid', a.pid,
           CASE WHEN pg_catalog.length(a.application_name) OPERATOR(pg_catalog.>) 0 THEN a.application_name END, a.state)
           AS locker FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid OPERATOR(pg_catalog.=) l.pid
         WHERE l.granted AND l.mode OPERATOR(pg_catalog.=) 'AccessExclusiveLock'
           AND l.relation OPERATOR(pg_catalog.=) ANY (ARRAY[{}])",
        oids.join(", ")
    )
}

/// How long an observation waits for a table that somebody has locked against readers, before it says so and tries
/// again.
const OBSERVE_LOCK_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// Reads the results of [`look`], the first of which is `results[from]`.
pub fn observed(results: &Results, from: usize) -> Option<Observation> {
    let [_, facts, records, interrupted] = results.get(from..from + 4)? else {
        return None;
    };
    let fact = facts.first()?;
    let flag = |name: &str| fact.get(name) == Some("t");
    let text = |name: &str| fact.get(name).map(str::to_owned);
    let (locks, history_table) = (text("locks"), text("history"));
    let tables = match (history_table.clone(), text("journal"), locks.clone()) {
        (Some(history), Some(journal), Some(locks)) => Some(Tables {
            history,
            journal,
            locks,
        }),
        _ => None,
    };
    Some(Observation {
        database: text("database")?,
        user: text("role")?,
        server_version: text("server_version")?,
        in_recovery: flag("in_recovery"),
        counts_bytes: fact.get("encoding") == Some("SQL_ASCII"),
        standard_strings: fact.get("standard_strings") == Some("on"),
        tables,
        locks,
        history_table,
        history: read_history(records, interrupted),
        lock_row: fact.get("lock_row").and_then(|id| id.parse().ok()),
        may_remove_row: flag("may_remove_row"),
        lacks: text("lacks"),
    })
}

fn read_history(records: &[SimpleQueryRow], interrupted: &[SimpleQueryRow]) -> History {
    let mut history = History::default();
    for row in records {
        let group = row
            .get("group_id")
            .and_then(|group| group.parse().ok())
            .unwrap_or(0);
        history.last_group = history.last_group.max(group);
        let name = row.get("name").unwrap_or_default();
        match Version::parse(name) {
            Some(version) => {
                let checksum = row.get("checksum").and_then(Checksum::parse_hex);
                let id = row.get("id").and_then(|id| id.parse().ok()).unwrap_or(0);
                history.applied.push(Applied {
                    version,
                    id,
                    group,
                    checksum,
                });
            }
            None => history.foreign.push(name.to_owned()),
        }
    }
    history
        .interrupted
        .extend(interrupted.iter().filter_map(|row| {
            let negated = row.get("history_id").and_then(|id| id.parse::<i64>().ok());
            Some(Interrupted {
                version: Version::parse(row.get("version")?)?,
                runner: row.get("runner")?.to_owned(),
                checksum: row.get("checksum").and_then(Checksum::parse_hex),
                statement: row.get("statement").map(str::to_owned),
                rollback: negated.map(i64::saturating_neg),
            })
        }));
    // A group whose rollback was begun goes on under its number, so no other run gets that.
    let begun = history.interrupted.iter().filter_map(|it| it.rollback);
    history.last_group = begun.fold(history.last_group, i64::max);
    history
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

/// Reads what the answer to [`observe_in_detail`] tells of each version that is recorded, or started and not finished.
pub fn records(results: &Results) -> BTreeMap<Version, Record> {
    let rows = |at: usize| results.get(at).into_iter().flatten();
    let read = |row: &SimpleQueryRow, version: &str| {
        // Not every row has every column: what is not finished has no group, say.
        let text = |name: &str| {
            let value = row.try_get(name).ok().flatten();
            value.filter(|it| !it.is_empty()).map(str::to_owned)
        };
        let number = |name: &str| text(name).and_then(|it| it.parse().ok());
        let record = Record {
            applied_at: text("applied_at"),
            group: number("group_id"),
            file_name: text("file_name"),
            started_at: text("started_at"),
            finished_at: text("finished_at"),
            duration_ms: number("duration_ms"),
            runner: text("runner"),
        };
        Some((Version::parse(&text(version)?)?, record))
    };
    let recorded = rows(4).filter_map(|row| read(row, "name"));
    let started = rows(5).filter_map(|row| read(row, "version"));
    recorded.chain(started).collect()
}

/// Which columns a look reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Columns {
    ToPlan,
    /// Those of [`Record`], too.
    InDetail,
}

impl Columns {
    /// What a look selects of the history, which is `h`, beside the name and the group.
    fn of_history(self) -> String {
        match self {
            Columns::ToPlan => String::new(),
            Columns::InDetail => format!(", {} AS applied_at", rfc3339("h.migrated_at")),
        }
    }

    /// What it selects of the journal, which is `j`, beside the checksum and the runner of what is not finished.
    fn of_journal(self) -> String {
        match self {
            Columns::ToPlan => String::new(),
            Columns::InDetail => format!(
                ", j.file_name, {} AS started_at, {} AS finished_at, j.duration_ms",
                rfc3339("j.started_at"),
                rfc3339("j.finished_at")
            ),
        }
    }

    fn in_utc(self) -> &'static str {
        match self {
            Columns::ToPlan => "",
            Columns::InDetail => {
                "
  PERFORM pg_catalog.set_config('TimeZone', 'UTC', true);"
            }
        }
    }

    fn runner(self) -> &'static str {
        match self {
            Columns::ToPlan => "",
            Columns::InDetail => ", j.runner",
        }
    }
}

/// An SQL expression for a time. The session's time zone is UTC while it is evaluated. What is no moment of ours
/// (`infinity`) is NULL.
fn rfc3339(time: &str) -> String {
    format!("pg_catalog.to_char({time}, 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')")
}

/// Four statements that read all there is to know, whichever of the tables exist: a DO block opens cursors over what it
/// finds, and the message fetches them. A plain SELECT would fail where a table is missing, and leave an ERROR in the
/// server's log; asking first would take a second round trip. An early journal has no column for the statement, which is
/// why the row is asked for it as JSON.
pub fn look(config: &Config, names: Names<'_>) -> String {
    look_at(config, names, Columns::ToPlan)
}

fn look_at(config: &Config, names: Names<'_>, columns: Columns) -> String {
    let [history, journal, locks] = names.expressions(config);
    // They become part of a literal.
    let [of_history, of_journal] =
        [columns.of_history(), columns.of_journal()].map(|it| it.replace('\'', "''"));
    let (runner, utc) = (columns.runner(), columns.in_utc());
    format!(
        "DO LANGUAGE plpgsql $lockstep$
DECLARE
  the_facts pg_catalog.refcursor := 'lockstep_facts';
  the_records pg_catalog.refcursor := 'lockstep_records';
  the_interrupted pg_catalog.refcursor := 'lockstep_interrupted';
  the_history pg_catalog.text := {history};
  the_journal pg_catalog.text := {journal};
  the_locks pg_catalog.text := {locks};
  the_row pg_catalog.int8;
  may_remove_row pg_catalog.bool := false;
  the_lacks pg_catalog.text;
BEGIN
  -- What the tables are called is found as the role's settings say; all else is the catalog's.
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);{utc}
  {LACKS}
  IF the_locks IS NOT NULL THEN
    EXECUTE {row} INTO the_row;
  END IF;
  IF the_row < 0 AND the_history IS NOT NULL THEN
    may_remove_row := pg_catalog.has_table_privilege(the_locks, 'DELETE')
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks g WHERE {guard});
  END IF;
  OPEN the_facts FOR SELECT pg_catalog.current_database() AS database, current_user AS role,
    pg_catalog.current_setting('server_version') AS server_version, pg_catalog.pg_is_in_recovery() AS in_recovery,
    pg_catalog.getdatabaseencoding() AS encoding,
    pg_catalog.current_setting('standard_conforming_strings') AS standard_strings,
    the_history AS history, the_journal AS journal, the_locks AS locks, the_row AS lock_row,
    may_remove_row AS may_remove_row, the_lacks AS lacks;
  IF the_history IS NULL THEN
    OPEN the_records FOR SELECT NULL AS id, NULL AS name, NULL AS group_id, NULL AS checksum WHERE false;
  ELSIF the_journal IS NULL THEN
    OPEN the_records FOR EXECUTE pg_catalog.format(
      'SELECT h.id, h.name, h.group_id, NULL AS checksum{of_history} FROM %s h ORDER BY h.id', the_history);
  ELSE
    OPEN the_records FOR EXECUTE pg_catalog.format(
      'SELECT h.id, h.name, h.group_id, j.checksum{of_history}{of_journal}{runner} FROM %s h LEFT JOIN %s j ON j.version = h.name AND j.history_id = h.id
       ORDER BY h.id', the_history, the_journal);
  END IF;
  IF the_history IS NULL OR the_journal IS NULL THEN
    OPEN the_interrupted FOR SELECT NULL AS version, NULL AS runner, NULL AS checksum,
      NULL AS history_id, NULL AS statement WHERE false;
  ELSE
    OPEN the_interrupted FOR EXECUTE pg_catalog.format(
      'SELECT j.version, j.runner, j.checksum, j.history_id, to_jsonb(j) ->> ''statement'' AS statement{of_journal} FROM %s j WHERE j.finished_at IS NULL
       AND NOT EXISTS (SELECT FROM %s h WHERE h.name = j.version)', the_journal, the_history);
  END IF;
END $lockstep$;
FETCH ALL FROM lockstep_facts; FETCH ALL FROM lockstep_records; FETCH ALL FROM lockstep_interrupted",
        row = guard::row_query(config),
        guard = guard::guard_lock("g", "the_history::pg_catalog.regclass::pg_catalog.oid::pg_catalog.int4"),
    )
}

/// Finds the rights that our role lacks to apply anything.
const LACKS: &str = "SELECT string_agg(format('%s on %s', p, t), ', ') INTO the_lacks
    FROM (VALUES (the_history, 'INSERT'), (the_journal, 'INSERT'), (the_journal, 'UPDATE'), (the_locks, 'INSERT'),
      (the_locks, 'UPDATE'), (the_locks, 'DELETE'), (pg_get_serial_sequence(the_history, 'id'), 'USAGE'),
      (pg_get_serial_sequence(the_locks, 'id'), 'USAGE')) r(t, p)
    WHERE NOT CASE p WHEN 'USAGE' THEN has_sequence_privilege(t, p) ELSE has_table_privilege(t, p) END;";

/// How the tables are found.
#[derive(Clone, Copy)]
pub enum Names<'a> {
    /// As the configuration calls them.
    Configured,
    /// As the server called them when they were found before.
    Known(&'a Tables),
}

impl Names<'_> {
    /// SQL expressions for history, journal and locks table: their quoted names, or NULL.
    fn expressions(self, config: &Config) -> [String; 3] {
        match self {
            Names::Configured => [
                qualified(&config.history_table, ""),
                qualified(&config.history_table, JOURNAL_SUFFIX),
                qualified(&config.locks_table, ""),
            ],
            Names::Known(tables) => {
                [&tables.history, &tables.journal, &tables.locks].map(|it| literal(it))
            }
        }
    }
}

const JOURNAL_SUFFIX: &str = "_journal";

/// An SQL expression: the table's qualified and quoted name, or NULL if it does not exist. A name without a schema is
/// found as in any statement; where the role's `search_path` selects no schema at all, `public` is meant.
fn qualified(table: &TableName, suffix: &str) -> String {
    let table = suffixed(table, suffix);
    let mut found = format!("pg_catalog.to_regclass({})", literal(&table.quoted()));
    if table.schema.is_none() {
        let public = TableName {
            schema: Some("public".to_owned()),
            ..table
        };
        found = format!(
            "COALESCE({found}, CASE WHEN pg_catalog.current_schema() IS NULL THEN pg_catalog.to_regclass({}) END)",
            literal(&public.quoted())
        );
    }
    format!(
        "(SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace WHERE c.oid OPERATOR(pg_catalog.=) {found})"
    )
}

fn suffixed(table: &TableName, suffix: &str) -> TableName {
    let name = format!("{}{suffix}", table.name);
    TableName {
        setting: name.clone(),
        schema: table.schema.clone(),
        name,
    }
}

/// The message that creates whichever tables are absent: bun's two exactly as bun does, and the journal.
///
/// Any number of runners may do so at once, without a lock. `CREATE TABLE IF NOT EXISTS` fails in such a race, so a
/// failure is caught (and so never reaches the server's log) and whatever the winner created is taken.
pub fn create_tables(config: &Config) -> String {
    let settings = Settings {
        lock_timeout: OBSERVE_LOCK_TIMEOUT,
        ..Settings::default()
    };
    let journal = suffixed(&config.history_table, JOURNAL_SUFFIX);
    let tables = [
        (
            &config.history_table,
            "{id}, name VARCHAR, group_id BIGINT, \
             migrated_at TIMESTAMPTZ NOT NULL DEFAULT current_timestamp, PRIMARY KEY (id)",
        ),
        (
            &config.locks_table,
            "{id}, table_name VARCHAR, PRIMARY KEY (id), UNIQUE (table_name)",
        ),
        (
            &journal,
            "version VARCHAR NOT NULL PRIMARY KEY, file_name VARCHAR NOT NULL, checksum VARCHAR NOT NULL, \
             started_at TIMESTAMPTZ NOT NULL, finished_at TIMESTAMPTZ, duration_ms BIGINT, runner VARCHAR NOT NULL, \
             history_id BIGINT, statement VARCHAR",
        ),
    ];
    let blocks: String = tables
        .iter()
        .map(|(table, columns)| create_table(table, columns))
        .collect();
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {settings} \
         DO LANGUAGE plpgsql $lockstep$ BEGIN {blocks} END $lockstep$; COMMIT"
    )
}

/// `{id}` in `columns` stands for a serial column. Such a column is its own sequence and a default, and that is how it
/// is written here: of a `BIGSERIAL` the server chooses the sequence's name, and avoids the names that it sees at that
/// moment, also those of somebody who is about to give up. That name is chosen by the server where the usual one is
/// taken, or would be too long.
fn create_table(table: &TableName, columns: &str) -> String {
    let sequence = suffixed(table, "_id_seq");
    let is_usual = match columns.contains("{id}") && sequence.name.len() <= LONGEST_NAME {
        true => format!("{} IS NULL", qualified(&sequence, "")),
        false => "false".to_owned(),
    };
    let target = in_schema(table);
    let create = |id: &str| {
        let columns = literal(&format!(" ({})", columns.replace("{id}", id)));
        format!(
            "EXECUTE 'CREATE TABLE ' OPERATOR(pg_catalog.||) {target} OPERATOR(pg_catalog.||) {columns};"
        )
    };
    format!(
        "IF {exists} IS NULL THEN
           BEGIN
             IF {is_usual} THEN
               EXECUTE 'CREATE SEQUENCE ' OPERATOR(pg_catalog.||) {sequence};
               {create_with_sequence}
               EXECUTE pg_catalog.format('ALTER TABLE %s ALTER id SET DEFAULT pg_catalog.nextval(%L)', {target}, {sequence});
               EXECUTE pg_catalog.format('ALTER SEQUENCE %s OWNED BY %s.id', {sequence}, {target});
             ELSE
               {create_serial}
             END IF;
           EXCEPTION WHEN unique_violation OR duplicate_table OR duplicate_object THEN NULL;
           END;
         END IF;
        ",
        exists = qualified(table, ""),
        sequence = in_schema(&sequence),
        create_with_sequence = create("id BIGINT NOT NULL"),
        create_serial = create("id BIGSERIAL NOT NULL"),
    )
}

/// The longest name that the server does not cut short, in bytes.
const LONGEST_NAME: usize = 63;

/// An SQL expression: the quoted name under which to create something. Where the role's `search_path` selects no schema
/// at all, `public` is meant.
fn in_schema(table: &TableName) -> String {
    let name = literal(&table.quoted());
    if table.schema.is_some() {
        return name;
    }
    let public = TableName {
        setting: String::new(),
        schema: Some("public".to_owned()),
        name: table.name.clone(),
    };
    format!(
        "CASE WHEN pg_catalog.current_schema() IS NULL THEN {} ELSE {name} END",
        literal(&public.quoted())
    )
}

/// One statement that records the migration as applied, in the history and in the journal. It must run in the
/// migration's own transaction, with a `search_path` of `pg_catalog`.
pub fn record(
    tables: &Tables,
    migration: &Migration,
    group: i64,
    runner: &str,
    started_at: Started,
) -> String {
    let version = migration.version;
    let started_at = match started_at {
        Started::WithTransaction => "transaction_timestamp()".to_owned(),
        Started::InJournal => format!(
            "COALESCE((SELECT started_at FROM {} WHERE version = '{version}' AND finished_at IS NULL), \
             transaction_timestamp())",
            tables.journal
        ),
    };
    format!(
        "WITH h AS (INSERT INTO {history} (name, group_id) VALUES ('{version}', {group}) RETURNING id), \
         s AS (SELECT {started_at} AS at) \
         INSERT INTO {journal} AS j (version, file_name, checksum, started_at, finished_at, duration_ms, runner, history_id) \
         SELECT '{version}', {file_name}, '{checksum}', s.at, clock_timestamp(), \
         extract(epoch FROM clock_timestamp() - s.at) * 1000, {runner}, h.id FROM h, s \
         ON CONFLICT (version) DO UPDATE SET file_name = EXCLUDED.file_name, checksum = EXCLUDED.checksum, \
         started_at = EXCLUDED.started_at, finished_at = EXCLUDED.finished_at, duration_ms = EXCLUDED.duration_ms, \
         runner = EXCLUDED.runner, history_id = EXCLUDED.history_id;",
        history = tables.history,
        journal = tables.journal,
        file_name = literal(&migration.file_name),
        checksum = migration.script.checksum,
        runner = literal(runner),
    )
}

/// Since when a migration has been running.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// Its statements and its record are one transaction.
    WithTransaction,
    /// It ran outside, and [`start`] noted when, if there was anything to do.
    InJournal,
}

/// Statements that note in the journal that a migration is about to run outside a transaction, and the statement itself,
/// if what it leaves has to be known by that. Other statements are not noted: there may be a password in them.
///
/// An early journal has no column for the statement. It gets one, or, if the table is not our role's to alter, does
/// without: then what an interruption leaves is known by the file alone.
pub fn start(
    tables: &Tables,
    migration: &Migration,
    runner: &str,
    statement: Option<&str>,
) -> String {
    let (journal, version) = (&tables.journal, migration.version);
    let note_statement = format!(
        "BEGIN
           IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = {regclass}::pg_catalog.regclass
               AND a.attname = 'statement' AND NOT a.attisdropped) THEN
             ALTER TABLE {journal} ADD COLUMN statement VARCHAR;
           END IF;
           UPDATE {journal} SET statement = {statement} WHERE version = '{version}';
         EXCEPTION WHEN insufficient_privilege THEN NULL;
         END",
        regclass = literal(journal),
        statement = statement.map_or("NULL".to_owned(), literal),
    );
    format!(
        "INSERT INTO {journal} (version, file_name, checksum, started_at, runner) \
         VALUES ('{version}', {file_name}, '{checksum}', pg_catalog.clock_timestamp(), {runner}) \
         ON CONFLICT (version) DO UPDATE SET file_name = EXCLUDED.file_name, checksum = EXCLUDED.checksum, \
         started_at = EXCLUDED.started_at, finished_at = NULL, duration_ms = NULL, runner = EXCLUDED.runner, \
         history_id = NULL; \
         DO LANGUAGE plpgsql {note_statement};",
        file_name = literal(&migration.file_name),
        checksum = migration.script.checksum,
        runner = literal(runner),
        note_statement = literal(&note_statement),
    )
}

/// Statements that take the record of a migration back, and note in the journal that its rollback is about to run
/// outside a transaction; `note` is [`start`]'s.
pub fn take_back(tables: &Tables, version: Version, group: i64, note: &str) -> String {
    format!(
        "DELETE FROM {history} WHERE name OPERATOR(pg_catalog.=) '{version}'; {note} \
         UPDATE {journal} SET history_id = {negated} WHERE version OPERATOR(pg_catalog.=) '{version}';",
        history = tables.history,
        journal = tables.journal,
        negated = group.saturating_neg(),
    )
}

/// Statements that leave no trace of a migration in history and journal.
pub fn erase(tables: &Tables, version: Version) -> String {
    let Tables {
        history, journal, ..
    } = tables;
    format!(
        "DELETE FROM {history} WHERE name OPERATOR(pg_catalog.=) '{version}'; \
         DELETE FROM {journal} WHERE version OPERATOR(pg_catalog.=) '{version}';"
    )
}

/// One statement that records migrations as applied now, without their having run, in their order. It must run with a
/// `search_path` of `pg_catalog`.
pub fn record_unrun(tables: &Tables, files: &[&Migration], group: i64, runner: &str) -> String {
    let value = |(number, file): (usize, &&Migration)| {
        let (name, checksum) = (literal(&file.file_name), file.script.checksum);
        format!("({number}, '{}', {name}, '{checksum}')", file.version)
    };
    let values: Vec<String> = files.iter().enumerate().map(value).collect();
    format!(
        "WITH f (number, version, file_name, checksum) AS (VALUES {values}), \
         h AS (INSERT INTO {history} (name, group_id) SELECT version, {group} FROM f ORDER BY number RETURNING id, name) \
         INSERT INTO {journal} AS j (version, file_name, checksum, started_at, finished_at, duration_ms, runner, history_id) \
         SELECT f.version, f.file_name, f.checksum, transaction_timestamp(), transaction_timestamp(), 0, {runner}, h.id \
         FROM f JOIN h ON h.name = f.version \
         ON CONFLICT (version) DO UPDATE SET file_name = EXCLUDED.file_name, checksum = EXCLUDED.checksum, \
         started_at = EXCLUDED.started_at, finished_at = EXCLUDED.finished_at, duration_ms = EXCLUDED.duration_ms, \
         runner = EXCLUDED.runner, history_id = EXCLUDED.history_id;",
        values = values.join(", "),
        history = tables.history,
        journal = tables.journal,
        runner = literal(runner),
    )
}

/// The query for the rights on history and journal that our role lacks to roll anything back, beside those that it needs
/// to apply.
pub fn lacks_to_erase(tables: &Tables) -> String {
    let (history, journal) = (literal(&tables.history), literal(&tables.journal));
    format!(
        "SELECT string_agg(format('DELETE on %s', t), ', ') AS lacks FROM (VALUES ({history}), ({journal})) r(t) \
         WHERE NOT has_table_privilege(t, 'DELETE')"
    )
}
