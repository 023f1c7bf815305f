SELECT 'volatile' AS kind, proname AS name, '' AS target FROM pg_proc WHERE provolatile = 'v' AND proname = {mentioned}
UNION ALL SELECT 'volatile', t.typname, '' FROM pg_type t
  WHERE t.typtype = 'd' AND (t.typnotnull OR EXISTS (SELECT FROM pg_constraint o WHERE o.contypid = t.oid)
    OR EXISTS (SELECT FROM pg_type b WHERE b.oid = t.typbasetype AND b.typtype = 'd'))
UNION ALL SELECT 'domain', typname, '' FROM pg_type WHERE typtype = 'd'
UNION ALL SELECT 'cast', format_type(castsource, NULL), format_type(casttarget, NULL)
  FROM pg_cast WHERE castmethod = 'b'
UNION ALL SELECT 'cast', format_type(t.typbasetype, NULL), t.typname FROM pg_type t
  WHERE t.typtype = 'd' AND t.typtypmod = -1 AND NOT t.typnotnull
    AND NOT EXISTS (SELECT FROM pg_constraint o WHERE o.contypid = t.oid)
