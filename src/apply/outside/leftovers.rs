//! What a `REINDEX … CONCURRENTLY` that was cut short leaves: INVALID copies of the indexes that it rebuilt.
//!
//! PostgreSQL calls them `<index>_ccnew` and `<index>_ccold`, with a number if that name is taken (its manual, "REINDEX",
//! "Rebuilding Indexes Concurrently"). A name proves nothing. So one counts only if the index that it is a copy of stands
//! beside it, on the same table, with the same definition, and is one of those that the statement rebuilds. Pure.

use super::definition::shape;
use crate::sql::ReindexTarget;
use crate::sql::quote::literal;

/// The query for the leftovers: their qualified and quoted names, and whether another session is at work on the table.
/// `relation` is the oid of the table or the index that the statement names, `schema` the schema's name as written.
pub(super) fn query(target: ReindexTarget, relation: &str, schema: &str) -> String {
    format!(
        include_str!("leftovers.sql"),
        cut_bytes = CUT_BYTES,
        busy = at_work_on("i.indrelid"),
        copy = shape("i", "c"),
        original = shape("s", "sc"),
        rebuilt = rebuilt(target, relation, schema),
    )
}

/// A name that has been cut to make room for `_ccnew` is as long as a name can be, give or take a character's bytes.
const CUT_BYTES: usize = 63 - 3;

/// The condition under which the statement rebuilds the index `s` of the table `t`.
fn rebuilt(target: ReindexTarget, relation: &str, schema: &str) -> String {
    let or_part = |oid: &str| {
        format!(
            "({oid} = {relation} OR {oid} IN (SELECT relid FROM pg_partition_tree({relation})))"
        )
    };
    match target {
        ReindexTarget::Table => or_part("t.oid"),
        ReindexTarget::Index => or_part("s.indexrelid"),
        ReindexTarget::Schema => format!("t.relnamespace = to_regnamespace({})", literal(schema)),
        // That includes the tables of information_schema.
        ReindexTarget::Database => "t.relnamespace <> 'pg_catalog'::regnamespace".to_owned(),
        // The server refuses to do so concurrently.
        ReindexTarget::System => "false".to_owned(),
    }
}

/// The condition under which another session may be building, rebuilding or dropping an index of the table: all of that
/// takes this lock, and so do VACUUM and ANALYZE, which do none of it.
pub(super) fn at_work_on(table: &str) -> String {
    format!(
        "EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'relation' AND l.granted AND l.relation = {table} \
         AND l.mode = 'ShareUpdateExclusiveLock' AND l.pid <> pg_backend_pid() \
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND l.pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum UNION ALL SELECT pid FROM pg_stat_progress_analyze))"
    )
}
