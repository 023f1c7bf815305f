//! Who was in the way of a statement that gave up waiting for a lock.
//!
//! The server does not tell, and the connection could not ask while it waited. So it is looked for afterwards: who holds
//! locks on the tables that the statement names; if nobody does, on tables that hang on these; else whoever holds any lock
//! that is not a mere reader's.

use crate::error::Error;
use crate::server::blocker;
use crate::sql;
use crate::sql::quote::literal;
use postgres::SimpleQueryRow;

/// Who was in the way of this text, in words, the oldest transaction first; `guard` is the session of our own that does not
/// count.
///
/// # Errors
///
/// What asking meets.
pub fn blockers(
    text: &str,
    guard: i32,
    ask: impl FnOnce(&str, &str) -> Result<Vec<SimpleQueryRow>, Error>,
) -> Result<Vec<String>, Error> {
    let names = sql::identifiers(text);
    let names: Vec<String> = names.iter().map(|name| literal(name)).collect();
    let query = format!(
        "WITH RECURSIVE links (a, b) AS (
             SELECT indexrelid, indrelid FROM pg_index
             UNION ALL SELECT inhparent, inhrelid FROM pg_inherits UNION ALL SELECT inhrelid, inhparent FROM pg_inherits
             UNION ALL SELECT conrelid, confrelid FROM pg_constraint WHERE contype = 'f'
             UNION ALL SELECT confrelid, conrelid FROM pg_constraint WHERE contype = 'f'
             UNION ALL SELECT r.ev_class, d.refobjid FROM pg_rewrite r JOIN pg_depend d
               ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass),
           near (oid, distance) AS (
             SELECT oid, 0 FROM pg_class WHERE relname = ANY (ARRAY[{names}]::name[])
             UNION SELECT links.b, near.distance + 1 FROM near JOIN links ON links.a = near.oid WHERE near.distance < 2),
           held AS (
             SELECT l.pid, {words} AS holder, COALESCE(a.xact_start, x.prepared) AS since,
               l.mode || ' on ' || COALESCE(c.relname, l.locktype) AS lock,
               COALESCE((SELECT min(distance) FROM near WHERE near.oid = l.relation), {ANYTHING}) AS distance
             FROM {from} LEFT JOIN pg_class c ON c.oid = l.relation AND l.database <> 0
             WHERE l.granted AND COALESCE(l.pid, 0) NOT IN (pg_backend_pid(), {guard})
               AND l.locktype NOT IN ('virtualxid', 'transactionid')
               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())),
           nearest AS (
             SELECT * FROM held WHERE distance = (SELECT min(distance) FROM held)
               AND (distance < {ANYTHING} OR lock NOT LIKE 'AccessShareLock on %'))
         SELECT holder || ' (' || string_agg(DISTINCT lock, ', ') || ')' AS blocker, min(distance) = {ANYTHING} AS perhaps
         FROM nearest GROUP BY holder ORDER BY min(since) LIMIT 5",
        names = names.join(", "),
        words = blocker::words(),
        from = blocker::FROM,
    );
    let rows = ask(&query, "asking who is in the way")?;
    let words = |row: &SimpleQueryRow| {
        let perhaps = match row.get("perhaps") {
            Some("t") => "perhaps ",
            _ => "",
        };
        Some(format!("{perhaps}{}", row.get("blocker")?))
    };
    Ok(rows.iter().filter_map(words).collect())
}

/// As far as any lock is that has nothing to do with the statement, as far as is known.
const ANYTHING: usize = 9;
