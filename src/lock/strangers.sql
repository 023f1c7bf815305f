SELECT concat_ws(', ', 'pid ' || a.pid, NULLIF(a.application_name, ''), 'user ' || pg_get_userbyid(a.usesysid),
  'from ' || host(a.client_addr), a.state || COALESCE(CASE WHEN a.state <> 'idle' THEN ' for ' || {age} END, ''),
  'connected since ' || date_trunc('second', a.backend_start)) AS words, l.virtualxid, a.query,
  octet_length(a.query) + 4 >= pg_size_bytes(current_setting('track_activity_query_size')) AS cut
FROM pg_stat_get_activity(NULL) a
LEFT JOIN pg_lock_status() l ON l.pid = a.pid AND l.locktype = 'virtualxid' AND l.granted AND l.mode = 'ExclusiveLock'
WHERE a.datid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND a.pid <> pg_backend_pid()
  AND COALESCE(a.backend_type, 'client backend') = 'client backend'
  AND a.application_name NOT LIKE 'lockstep/%'
ORDER BY a.backend_start
