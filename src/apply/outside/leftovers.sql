SELECT DISTINCT format('%I.%I', n.nspname, c.relname) AS name, {busy} AS busy
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i'
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_index s ON s.indrelid = i.indrelid AND s.indexrelid <> i.indexrelid
JOIN pg_class sc ON sc.oid = s.indexrelid
JOIN pg_class t ON i.indrelid IN (t.oid, t.reltoastrelid)
WHERE NOT i.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$'
  AND starts_with(sc.relname::text, regexp_replace(c.relname::text, '_cc(new|old)[0-9]*$', ''))
  AND (sc.relname::text = regexp_replace(c.relname::text, '_cc(new|old)[0-9]*$', '')
    OR octet_length(c.relname::text) >= {cut_bytes})
  AND {copy} = {original}
  AND t.relkind IN ('r', 'm') AND t.relpersistence <> 't' AND pg_has_role(c.relowner, 'USAGE')
  AND {rebuilt}
ORDER BY 1
