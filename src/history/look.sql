DO LANGUAGE plpgsql $lockstep$
DECLARE
  the_facts pg_catalog.refcursor := 'lockstep_facts';
  the_records pg_catalog.refcursor := 'lockstep_records';
  the_checksums pg_catalog.refcursor := 'lockstep_checksums';
  the_interrupted pg_catalog.refcursor := 'lockstep_interrupted';
  the_history pg_catalog.text := {history};
  the_journal pg_catalog.text := {journal};
  the_locks pg_catalog.text := {locks};
  the_row pg_catalog.int8;
  is_ownerless pg_catalog.bool := false;
  the_lacks pg_catalog.text;
  the_elsewhere pg_catalog.refcursor := 'lockstep_elsewhere';
  the_path pg_catalog.text := pg_catalog.current_setting('search_path');
  the_hidden pg_catalog.text;
  the_shapeless pg_catalog.text;
  the_others pg_catalog.text;
  the_last pg_catalog.int8;
  is_long pg_catalog.bool := false;
BEGIN
  -- What the tables are called is found as the role's settings say; all else is the catalog's.
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);{utc}
  -- All rows are fetched at once.
  PERFORM pg_catalog.set_config('cursor_tuple_fraction', '1', true);
  IF concat(the_history, the_journal, the_locks) <> '' THEN
    -- Another program's table may have the name of one of ours.
    SELECT string_agg(lacks, '; ') INTO the_shapeless
      FROM (SELECT format('%s has no column %s', t, string_agg(c, ', ')) AS lacks
        FROM (VALUES (the_history, 'id'), (the_history, 'name'), (the_history, 'group_id'), (the_history, 'migrated_at'),
          (the_locks, 'id'), (the_locks, 'table_name'), (the_journal, 'version'), (the_journal, 'history_id')) w(t, c)
        WHERE t IS NOT NULL AND NOT EXISTS (SELECT FROM pg_attribute
          WHERE attrelid = t::regclass AND attname = c AND NOT attisdropped)
        GROUP BY t) tables;
    IF the_shapeless IS NOT NULL THEN
      the_history := NULL;
      the_journal := NULL;
      the_locks := NULL;
    END IF;
    -- The rights that our role lacks to apply anything.
    SELECT string_agg(format('%s on %s', p, t), ', ') INTO the_lacks
      FROM (VALUES (the_history, 'INSERT'), (the_journal, 'INSERT'), (the_journal, 'UPDATE'), (the_locks, 'INSERT'),
        (the_locks, 'UPDATE'), (the_locks, 'DELETE'), (pg_get_serial_sequence(the_history, 'id'), 'USAGE'),
        (pg_get_serial_sequence(the_locks, 'id'), 'USAGE')) r(t, p)
      WHERE NOT CASE p WHEN 'USAGE' THEN has_sequence_privilege(t, p) ELSE has_table_privilege(t, p) END;
    SELECT string_agg(t, ', ') INTO the_hidden FROM unnest(ARRAY[the_history, the_journal, the_locks]) t
      WHERE row_security_active(t);
  END IF;
  IF the_history IS NULL AND EXISTS (SELECT FROM pg_class c WHERE {sought}) THEN
    SELECT string_agg(format('SELECT %L AS place, name::text FROM %s', t, t), ' UNION ALL ') INTO the_others
      FROM (SELECT format('%I.%I', n.nspname, c.relname) AS t FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {sought} AND c.relkind IN ('r', 'p') AND n.nspname <> 'pg_toast' AND NOT starts_with(n.nspname, 'pg_temp')
          AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AND NOT row_security_active(c.oid)
          AND (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped
            AND a.attname IN ('id', 'name', 'group_id', 'migrated_at')) = 4 LIMIT 10) tables;
  END IF;
  OPEN the_elsewhere FOR EXECUTE COALESCE(the_others, 'SELECT NULL AS place, NULL AS name WHERE false');
  IF the_locks IS NOT NULL THEN
    EXECUTE {row} INTO the_row;
  END IF;
  IF the_row < 0 AND the_history IS NOT NULL THEN
    is_ownerless := NOT EXISTS (SELECT FROM pg_catalog.pg_locks g WHERE {guard});
  END IF;
  IF the_history IS NOT NULL THEN
    the_last := {last_id};
  END IF;
  -- A cursor's rows are copied once more, which takes as long as to read them.
  IF {may_be_long} AND the_history IS NOT NULL AND the_journal IS NOT NULL AND the_locks IS NOT NULL THEN
    is_long := pg_relation_size(the_history::regclass) > {long};
  END IF;
  OPEN the_facts FOR SELECT pg_catalog.current_database() AS database, current_user AS role,
    pg_catalog.current_setting('server_version') AS server_version, pg_catalog.pg_is_in_recovery() AS in_recovery,
    pg_catalog.getdatabaseencoding() AS encoding,
    pg_catalog.current_setting('standard_conforming_strings') AS standard_strings,
    the_history AS history, the_journal AS journal, the_locks AS locks, the_row AS lock_row,
    is_ownerless AS is_ownerless, pg_catalog.has_table_privilege(the_locks, 'DELETE') AS may_remove_row, the_lacks AS lacks, the_last AS last_id,
    the_hidden AS hidden, the_shapeless AS shapeless, the_path AS search_path,
    {moment} AS moment, is_long AS is_long,
    pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL AS has_transaction_timeout,
    pg_catalog.current_setting('client_connection_check_interval', true) IS NOT NULL
      AND pg_catalog.version() !~* 'windows|visual c' AS has_check_interval;
  IF the_history IS NULL OR is_long THEN
    OPEN the_records FOR SELECT NULL AS id, NULL AS name, NULL AS group_id WHERE false;
  ELSE
    OPEN the_records FOR EXECUTE pg_catalog.format({records}, the_history);
  END IF;
  IF the_history IS NULL OR the_journal IS NULL OR is_long THEN
    OPEN the_interrupted FOR SELECT NULL AS version, NULL AS runner, NULL AS checksum,
      NULL AS history_id, NULL AS statement, NULL AS done WHERE false;
    OPEN the_checksums FOR SELECT NULL AS history_id, NULL AS version, NULL AS checksum WHERE false;
  ELSE
    OPEN the_checksums FOR EXECUTE pg_catalog.format({checksums}, the_journal);
    OPEN the_interrupted FOR EXECUTE pg_catalog.format({interrupted}, the_journal);
  END IF;
END $lockstep$
