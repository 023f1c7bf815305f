SELECT pg_catalog.string_agg(name, ', ') AS all,
  pg_catalog.string_agg(name, ', ') FILTER (WHERE condeferred) AS deferred
FROM (
  SELECT c.condeferred, pg_catalog.format('%I.%I', n.nspname, c.conname) AS name
  FROM pg_catalog.pg_constraint c
  JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.connamespace
  WHERE c.condeferrable AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_constraint o
    WHERE o.conname OPERATOR(pg_catalog.=) c.conname
      AND o.connamespace OPERATOR(pg_catalog.=) c.connamespace AND NOT o.condeferrable)) constraints
