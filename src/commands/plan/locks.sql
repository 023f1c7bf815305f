SELECT coalesce(l.relation, c.oid) AS oid, l.mode, n.nspname AS schema, c.relname AS name,
  CASE WHEN c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'm']::pg_catalog."char"[])
    THEN pg_catalog.pg_relation_filenode(c.oid) END AS filenode
FROM (
  SELECT relation, mode FROM pg_catalog.pg_locks
  WHERE granted AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
    AND locktype OPERATOR(pg_catalog.=) 'relation') l
{join} JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) l.relation
LEFT JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
