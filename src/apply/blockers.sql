WITH RECURSIVE links (a, b) AS (
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
      COALESCE((SELECT min(distance) FROM near WHERE near.oid = l.relation), {anything}) AS distance
    FROM {from} LEFT JOIN pg_class c ON c.oid = l.relation AND l.database <> 0
    WHERE l.granted AND COALESCE(l.pid, 0) NOT IN (pg_backend_pid(), {guard})
      AND l.locktype NOT IN ('virtualxid', 'transactionid')
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())),
  nearest AS (
    SELECT * FROM held WHERE distance = (SELECT min(distance) FROM held)
      AND (distance < {anything} OR lock NOT LIKE 'AccessShareLock on %'))
SELECT holder || ' (' || string_agg(DISTINCT lock, ', ') || ')' AS blocker, min(distance) = {anything} AS perhaps
FROM nearest GROUP BY holder ORDER BY min(since) LIMIT 5
