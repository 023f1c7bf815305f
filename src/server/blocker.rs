//! Who holds a lock: a session of any kind, or a prepared transaction, which has none. As SQL, for queries about locks;
//! whatever could be found elsewhere on a role's `search_path` is written out.

/// Each lock `l` with the session `a` or the prepared transaction `x` that holds it.
pub const FROM: &str = "pg_catalog.pg_locks l \
     LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid OPERATOR(pg_catalog.=) l.pid \
     LEFT JOIN pg_catalog.pg_locks lx ON l.pid IS NULL AND lx.locktype OPERATOR(pg_catalog.=) 'transactionid' \
       AND lx.granted AND lx.virtualtransaction OPERATOR(pg_catalog.=) l.virtualtransaction \
     LEFT JOIN pg_catalog.pg_prepared_xacts x ON x.transaction OPERATOR(pg_catalog.=) lx.transactionid";

/// The holder in words, without a last bracket: `pid 7 psql, idle in transaction for 60 s`.
pub fn words() -> String {
    format!(
        "pg_catalog.concat(\
           COALESCE('pid ' OPERATOR(pg_catalog.||) l.pid::pg_catalog.text, \
             'prepared transaction ' OPERATOR(pg_catalog.||) pg_catalog.quote_literal(x.gid) \
               OPERATOR(pg_catalog.||) ' of ' OPERATOR(pg_catalog.||) x.owner::pg_catalog.text), \
           ' ' OPERATOR(pg_catalog.||) NULLIF(a.application_name, ''), \
           ', ' OPERATOR(pg_catalog.||) NULLIF(a.backend_type, 'client backend'), \
           ', ' OPERATOR(pg_catalog.||) a.state, \
           ' for ' OPERATOR(pg_catalog.||) {})",
        age("COALESCE(a.xact_start, x.prepared)")
    )
}

/// How long ago that was, as [`crate::text::words::duration`] says it.
pub fn age(since: &str) -> String {
    let age = format!(
        "pg_catalog.floor(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) {since}))\
         ::pg_catalog.int8"
    );
    let (seconds, minutes, hours) = (
        format!("pg_catalog.mod({age}, 60)"),
        format!("pg_catalog.mod(pg_catalog.int8div({age}, 60), 60)"),
        format!("pg_catalog.int8div({age}, 3600)"),
    );
    format!(
        "CASE WHEN {age} OPERATOR(pg_catalog.<) 600 THEN pg_catalog.concat({age}, ' s') \
           WHEN {age} OPERATOR(pg_catalog.<) 3600 THEN pg_catalog.concat({minutes}, ' min ', {seconds}, ' s') \
           WHEN {age} OPERATOR(pg_catalog.>=) 3600 THEN pg_catalog.concat({hours}, ' h ', {minutes}, ' min') END"
    )
}
