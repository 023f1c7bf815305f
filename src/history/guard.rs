//! How the lock shows in SQL: the row in the locks table, the guard in `pg_locks`, and the errors that our own statements
//! raise.

use postgres::error::DbError;

use super::Tables;
use crate::config::Config;
use crate::sql::quote::literal;
use crate::sql::sqlstate;

/// The first half of the guard's key: "lock" in ASCII. The second half is the history table's oid.
pub const GUARD_KEY: i32 = 0x6c6f_636b;

/// The first half of the key that a fenced transaction holds: "work" in ASCII.
pub const WORK_KEY: i32 = 0x776f_726b;

/// The second half of both keys: the history table's oid, however the table is spelled.
pub fn key(tables: &Tables) -> String {
    format!("{}::pg_catalog.regclass::pg_catalog.oid::pg_catalog.int4", literal(&tables.history))
}

/// An SQL expression, of type text: the query for our row in the locks table `the_locks`. It runs with a `search_path` of
/// `pg_catalog`.
pub fn row_query(config: &Config) -> String {
    let name = literal(&config.history_table.setting);
    format!("pg_catalog.format('SELECT id FROM %s WHERE table_name = %L', the_locks, {name})")
}

/// The condition under which the row `g` of `pg_locks` is the guard; `key` is the key's second half.
pub fn guard_lock(key: &str) -> String {
    format!(
        "g.locktype = 'advisory' AND g.granted AND g.objsubid = 2 \
         AND g.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) \
         AND g.classid::pg_catalog.int4 = {GUARD_KEY} AND g.objid::pg_catalog.int4 = {key}"
    )
}

/// The condition that the guard's session does not hold it.
pub fn not_held(tables: &Tables, guard_pid: i32) -> String {
    let guard = guard_lock(&key(tables));
    format!("NOT EXISTS (SELECT FROM pg_locks g WHERE {guard} AND g.pid = {guard_pid})")
}

/// The statement that fails if one of these cases holds: `WHEN condition THEN words`, where [`words`] stand for an SQLSTATE
/// of ours. A block of PL/pgSQL could raise that itself, but is compiled anew each time, which costs more than most
/// migrations. So a text that is no number is cast to one: the server quotes it in its error, whatever language it speaks.
/// At least one condition must be none that the planner knows the value of, or it would fail before its time.
pub fn fail(cases: &str) -> String {
    format!("SELECT {}", failing(cases))
}

/// The expression that fails so.
pub fn failing(cases: &str) -> String {
    format!("(CASE {cases} END)::pg_catalog.int4")
}

/// What [`fail`] fails with. `signature` is this run's, so that nothing that a file says is taken for it.
pub fn words(code: &str, signature: i64) -> String {
    literal(&said(code, signature))
}

/// What the server quotes.
fn said(code: &str, signature: i64) -> String {
    format!("lockstep {code}, run {signature}.")
}

/// The SQLSTATE of ours that an error stands for, if a statement of this run raised it.
pub fn raised(error: &DbError, signature: i64) -> Option<&'static str> {
    if error.code().code() != sqlstate::INVALID_TEXT_REPRESENTATION {
        return None;
    }
    let mut all = sqlstate::OURS.iter().map(|(code, _)| *code);
    all.find(|code| error.message().contains(&said(code, signature)))
}
