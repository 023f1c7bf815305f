SELECT CASE WHEN c.relispartition THEN 'partition' ELSE 'child' END AS kind,
    c.oid::regclass AS table, i.inhparent::regclass AS target,
    '' AS name, '' AS column, '' AS target_column, true AS is_valid
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relkind IN ('r', 'p', 'f')
UNION ALL SELECT 'index', indexrelid::regclass, indrelid::regclass, '', '', '', true FROM pg_index
UNION ALL SELECT 'key', conrelid::regclass, confrelid::regclass, conname, a.attname, b.attname, convalidated
  FROM pg_constraint o CROSS JOIN unnest(o.conkey, o.confkey) AS k (own, other)
    JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.own
    JOIN pg_attribute b ON b.attrelid = o.confrelid AND b.attnum = k.other
  WHERE o.contype = 'f'
UNION ALL SELECT 'not null', attrelid::regclass, attrelid::regclass, '', attname, '', true
  FROM pg_attribute WHERE attnotnull AND attnum > 0 AND attname = {mentioned}
UNION ALL SELECT 'not null', conrelid::regclass, conrelid::regclass, conname, attname, '', convalidated
  FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND conkey = ARRAY[attnum]
  WHERE contype = 'c' AND attname = {mentioned} AND pg_get_expr(conbin, conrelid) = format('(%I IS NOT NULL)', attname)
