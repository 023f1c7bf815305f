SELECT g.pid, a.application_name, a.client_addr, {held_for} AS held_for, {held_since} AS held_since,
  w.pid AS work_pid,
  pg_catalog.substring(w.query, '^/\* lockstep (\S+[.]sql) \*/') AS migration,
  pg_catalog.substring(w.query, '^/\* lockstep \S+ \*/ (?!BEGIN )\s*(.{{1,80}})') AS sql,
  pg_catalog.substring(w.application_name, ' ([0-9]+/[0-9]+)$') AS statement,
  {running_for} AS running_for, {running_since} AS running_since, w.phase, w.percent, w.waits_for
FROM pg_catalog.pg_locks g
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = g.pid
LEFT JOIN LATERAL (
  SELECT s.pid, s.query, s.application_name, s.query_start,
    i.phase, i.percent,
    (SELECT pg_catalog.string_agg(blocking.holder, ', ') FROM (
       SELECT pg_catalog.concat_ws(' ', 'pid', b.pid, NULLIF(b.application_name, ''),
         '(' || COALESCE(b.state, b.backend_type) || pg_catalog.concat(' for ' || {blocking_for}) || ')') AS holder
       FROM pg_catalog.pg_stat_activity b WHERE b.pid = ANY (pg_catalog.pg_blocking_pids(s.pid))
       UNION SELECT {prepared}
       FROM {locks} JOIN pg_catalog.pg_locks n ON n.pid = s.pid AND NOT n.granted AND n.locktype = l.locktype
         AND (n.relation, n.transactionid) IS NOT DISTINCT FROM (l.relation, l.transactionid)
       WHERE l.granted AND l.pid IS NULL AND 0 = ANY (pg_catalog.pg_blocking_pids(s.pid))) blocking) AS waits_for
  FROM pg_catalog.pg_stat_activity s
  LEFT JOIN LATERAL (
    SELECT p.phase, pg_catalog.round(100.0 * CASE
         WHEN p.phase LIKE 'waiting%' THEN NULL
         WHEN p.blocks_total > 0 THEN p.blocks_done::pg_catalog.numeric / p.blocks_total
         WHEN p.tuples_total > 0 THEN p.tuples_done::pg_catalog.numeric / p.tuples_total END) AS percent
    FROM pg_catalog.pg_stat_progress_create_index p WHERE p.pid = s.pid) i ON true
  WHERE s.pid <> g.pid AND s.datid = a.datid AND s.state IS DISTINCT FROM 'idle'
    AND (s.application_name = a.application_name
      OR pg_catalog.starts_with(s.application_name, a.application_name || ' '))
  LIMIT 1) w ON true
WHERE {guard_lock}
