//! The statements that write history and journal. They are for fenced transactions only, which `lock` begins, with a
//! `search_path` of `pg_catalog`.

use super::Tables;
use crate::migration::{Migration, Version};
use crate::sql::quote::literal;

/// What a record says of a migration, as SQL expressions.
pub struct Entry {
    pub version: String,
    pub file_name: String,
    pub checksum: String,
}

impl Entry {
    /// Of this migration.
    pub fn of(migration: &Migration) -> Entry {
        Entry {
            version: literal(&migration.version.to_string()),
            file_name: literal(migration.file_name()),
            checksum: literal(&migration.script.checksum.to_string()),
        }
    }

    /// Of any: the parameters of a statement that is prepared, in this order.
    pub fn of_parameters() -> Entry {
        Entry { version: "$1".to_owned(), file_name: "$2".to_owned(), checksum: "$3".to_owned() }
    }
}

/// The condition under which a row of the history records the version, an SQL expression.
pub fn records(version: &str) -> String {
    format!("name OPERATOR(pg_catalog.=) {version}")
}

/// The condition under which a row of the history records one of these versions.
pub fn records_one_of(versions: &[Version]) -> String {
    match versions {
        [version] => records(&format!("'{version}'")),
        several => format!(
            "name::pg_catalog.text OPERATOR(pg_catalog.=) ANY ({}::pg_catalog.text[])",
            array(several.iter())
        ),
    }
}

/// What goes into the journal again where the version is there: what bun rolled back leaves its row.
const ANEW: &str = "ON CONFLICT (version) DO UPDATE SET file_name = EXCLUDED.file_name, checksum = EXCLUDED.checksum, \
    started_at = EXCLUDED.started_at, finished_at = EXCLUDED.finished_at, duration_ms = EXCLUDED.duration_ms, \
    runner = EXCLUDED.runner, history_id = EXCLUDED.history_id";

/// Since when a migration has been running.
pub enum Started {
    /// Its statements and its record are one transaction.
    WithTransaction,
    /// It ran outside, and [`start`] noted when, if there was anything to do.
    InJournal,
    /// It shares its message with others, and [`BEGINS`] noted when. There is no record unless this condition holds.
    InBatch(String),
}

/// The statement that announces the file that a transaction of a batch runs.
pub fn announce(version: Version) -> String {
    format!("SET LOCAL lockstep.file TO '{version}'")
}

/// The expression that notes when a migration begins: to a transaction that is not the first of its message,
/// `transaction_timestamp()` is when the message came.
pub const BEGINS: &str = "pg_catalog.set_config('lockstep.begun', extract(epoch FROM pg_catalog.clock_timestamp())::pg_catalog.text, true)";

/// One statement that records the migration as applied, in the history and in the journal.
pub fn record(
    tables: &Tables,
    entry: &Entry,
    group: i64,
    runner: &str,
    started: &Started,
) -> String {
    let Entry { version, file_name, checksum } = entry;
    let (started, condition) = match started {
        Started::WithTransaction => ("transaction_timestamp()".to_owned(), String::new()),
        Started::InJournal => (
            format!(
                "COALESCE((SELECT started_at FROM {} WHERE version = {version} AND finished_at IS NULL), \
                 transaction_timestamp())",
                tables.journal
            ),
            String::new(),
        ),
        // Where another file was announced, the server took a text for one that is two.
        Started::InBatch(condition) => (
            "to_timestamp(current_setting('lockstep.begun')::float8)".to_owned(),
            format!(" WHERE current_setting('lockstep.file') = {version} AND {condition}"),
        ),
    };
    format!(
        "WITH h AS (INSERT INTO {history} (name, group_id) SELECT {version}, {group}{condition} RETURNING id) \
         INSERT INTO {journal} (version, file_name, checksum, started_at, finished_at, duration_ms, runner, history_id) \
         SELECT {version}, {file_name}, {checksum}, {started}, clock_timestamp(), \
         extract(epoch FROM clock_timestamp() - {started}) * 1000, {runner}, id FROM h {ANEW}",
        history = tables.history,
        journal = tables.journal,
        runner = literal(runner),
    )
}

/// One statement that records migrations as applied now, without their having run, in their order.
pub fn record_unrun(tables: &Tables, files: &[&Migration], group: i64, runner: &str) -> String {
    let versions = array(files.iter().map(|it| it.version));
    let names = array(files.iter().map(|it| it.file_name()));
    let checksums = array(files.iter().map(|it| it.script.checksum));
    format!(
        "WITH f AS (SELECT * FROM unnest({versions}::text[], {names}::text[], {checksums}::text[]) \
           WITH ORDINALITY f(version, file_name, checksum, number)), \
         h AS (INSERT INTO {history} (name, group_id) SELECT version, {group} FROM f ORDER BY number RETURNING id, name) \
         INSERT INTO {journal} (version, file_name, checksum, started_at, finished_at, duration_ms, runner, history_id) \
         SELECT f.version, f.file_name, f.checksum, transaction_timestamp(), transaction_timestamp(), 0, {runner}, h.id \
         FROM f JOIN h ON h.name = f.version {ANEW}",
        history = tables.history,
        journal = tables.journal,
        runner = literal(runner),
    )
}

/// Statements that note in the journal that a migration is about to run outside a transaction, or goes on to do so, when so
/// many of its statements are done; and the statement itself, if what it leaves has to be known by that. Other
/// statements are not noted: there may be a password in them.
///
/// An early journal has no columns for the two. It gets them, or, if the table is not our role's to alter, does without:
/// then what an interruption leaves is known by the file alone.
pub fn start(
    tables: &Tables,
    migration: &Migration,
    runner: &str,
    done: usize,
    statement: Option<&str>,
) -> [String; 2] {
    let (journal, version) = (&tables.journal, migration.version);
    let checksum = migration.checksum_of(done);
    let note = format!(
        "INSERT INTO {journal} AS j (version, file_name, checksum, started_at, runner) \
         VALUES ('{version}', {file_name}, '{checksum}', clock_timestamp(), {runner}) \
         ON CONFLICT (version) DO UPDATE SET file_name = EXCLUDED.file_name, checksum = EXCLUDED.checksum, \
         started_at = CASE WHEN {done} > 0 THEN j.started_at ELSE EXCLUDED.started_at END, finished_at = NULL, duration_ms = NULL, runner = EXCLUDED.runner, \
         history_id = NULL",
        file_name = literal(migration.file_name()),
        runner = literal(runner),
    );
    let with_columns = format!(
        "BEGIN
           IF (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = {regclass}::regclass
               AND a.attname IN ('statement', 'done') AND NOT a.attisdropped) < 2 THEN
             ALTER TABLE {journal} ADD COLUMN IF NOT EXISTS statement VARCHAR, ADD COLUMN IF NOT EXISTS done BIGINT;
           END IF;
           UPDATE {journal} SET statement = {statement}, done = {done} WHERE version = '{version}';
         EXCEPTION WHEN insufficient_privilege THEN NULL;
         END",
        regclass = literal(journal),
        statement = statement.map_or("NULL".to_owned(), literal),
    );
    let with_columns = format!("DO LANGUAGE plpgsql {}", literal(&with_columns));
    [note, with_columns]
}

/// The statement that takes records back, which are these rows.
pub fn take_back(tables: &Tables, which: &str) -> String {
    format!("DELETE FROM {history} WHERE {which}", history = tables.history)
}

/// The statement that makes of the note of a start that of a rollback, of a migration that was of this group.
pub fn note_rollback(tables: &Tables, version: Version, group: i64) -> String {
    format!(
        "UPDATE {journal} SET history_id = {} WHERE version = '{version}'",
        group.saturating_neg(),
        journal = tables.journal
    )
}

/// The statement that records the checksum of a file as it is now.
pub fn mend(tables: &Tables, migration: &Migration) -> String {
    format!(
        "UPDATE {journal} SET checksum = '{}', file_name = {} WHERE version = '{}'",
        migration.script.checksum,
        literal(migration.file_name()),
        migration.version,
        journal = tables.journal,
    )
}

/// Statements that take the record with this id, of the version `from`, along to that of the file.
pub fn rename(tables: &Tables, migration: &Migration, from: Version, id: i64) -> [String; 3] {
    let (to, file_name) = (migration.version, literal(migration.file_name()));
    let Tables { history, journal, .. } = tables;
    [
        format!("DELETE FROM {journal} WHERE version = '{to}'"),
        format!("UPDATE {history} SET name = '{to}' WHERE id = {id}"),
        format!(
            "UPDATE {journal} SET version = '{to}', file_name = {file_name} WHERE version = '{from}'"
        ),
    ]
}

/// Statements that leave no trace of a migration in history and journal; `which` are its records.
pub fn erase(tables: &Tables, version: Version, which: &str) -> [String; 2] {
    let journal = &tables.journal;
    [take_back(tables, which), format!("DELETE FROM {journal} WHERE version = '{version}'")]
}

/// The statement that counts, in the journal, how many of a file's statements are done.
pub fn count(tables: &Tables, migration: &Migration, done: usize) -> String {
    format!(
        "UPDATE {journal} SET done = {done}, checksum = '{}', statement = NULL WHERE version = '{}'",
        migration.checksum_of(done),
        migration.version,
        journal = tables.journal
    )
}

/// An array as a literal. Nothing in it is NULL.
fn array(items: impl Iterator<Item = impl std::fmt::Display>) -> String {
    let quoted = items.map(|it| {
        let text = it.to_string().replace('\\', "\\\\").replace('"', "\\\"");
        format!("\"{text}\"")
    });
    let items: Vec<String> = quoted.collect();
    literal(&format!("{{{}}}", items.join(",")))
}
