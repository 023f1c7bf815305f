DECLARE
  the_answer pg_catalog.refcursor := '{cursor}';
  the_trouble pg_catalog.text;
BEGIN
  BEGIN
    EXECUTE {create_table};
    EXECUTE {create_index};
  EXCEPTION
    WHEN lock_not_available OR deadlock_detected OR serialization_failure THEN RAISE;
    WHEN OTHERS THEN the_trouble := SQLERRM;
  END;
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  OPEN the_answer FOR
    WITH p AS (SELECT i.indrelid, {shape} AS shape, pg_get_indexdef(i.indexrelid) AS definition
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid AND c.relname = {index}
          JOIN pg_class t ON t.oid = {table} AND t.relnamespace = c.relnamespace),
      w AS (SELECT {shape} AS shape,
          replace(pg_get_indexdef(i.indexrelid), {on_copy}, format('INDEX %I ON ', {index}::text) || {on_table}) AS definition
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = to_regclass({copy}))
    SELECT CASE WHEN the_trouble IS NOT NULL THEN the_trouble
        WHEN p.shape IS NULL OR w.shape IS NULL THEN 'there is nothing to compare'
        WHEN strpos(w.shape, {own_type}) > 0 THEN 'it speaks of the table''s own type' END AS trouble,
      p.shape = w.shape AND p.indrelid = {table} AS same,
      p.definition AS present, w.definition AS wanted
    FROM (SELECT) one LEFT JOIN p ON true LEFT JOIN w ON true;
END
