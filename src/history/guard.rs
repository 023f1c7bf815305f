//! How the lock shows in SQL: the row in the locks table, the guard in `pg_locks`.

use crate::config::Config;
use crate::server::session::literal;

/// The first half of the advisory lock's key: "lock" in ASCII. The second half is the history table's oid.
pub const KEY: i32 = 0x6c6f_636b;

/// An SQL expression, of type text: the query for our row in the locks table `the_locks`. It runs with a `search_path` of
/// `pg_catalog`.
pub fn row_query(config: &Config) -> String {
    let name = literal(&config.history_table.setting);
    format!("pg_catalog.format('SELECT id FROM %s WHERE table_name = %L', the_locks, {name})")
}

/// The condition under which a row of `pg_locks` is the guard; `key` is the key's second half.
pub fn guard_lock(row: &str, key: &str) -> String {
    format!(
        "{row}.locktype = 'advisory' AND {row}.granted AND {row}.objsubid = 2 \
         AND {row}.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) \
         AND {row}.classid::pg_catalog.int4 = {KEY} AND {row}.objid::pg_catalog.int4 = {key}"
    )
}
