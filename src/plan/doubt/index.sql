DECLARE the_schema pg_catalog.text := (SELECT n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n
  ON n.oid OPERATOR(pg_catalog.=) c.relnamespace WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({table})::pg_catalog.oid);
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_index WHERE NOT indisvalid AND indexrelid OPERATOR(pg_catalog.=)
    pg_catalog.to_regclass(pg_catalog.format('%I.%I', the_schema, {name}))::pg_catalog.oid) THEN
    RAISE EXCEPTION USING ERRCODE = '{invalid}', MESSAGE = pg_catalog.format('index "%s" is INVALID', {name});
  END IF;
  EXECUTE pg_catalog.format('CREATE SEQUENCE %I.%I', the_schema, {name});
END
