IF {exists} IS NULL THEN
  BEGIN
    IF {is_usual} THEN
      BEGIN
        EXECUTE 'CREATE SEQUENCE ' OPERATOR(pg_catalog.||) {sequence};
        {create_with_sequence}
        EXECUTE pg_catalog.format('ALTER TABLE %s ALTER id SET DEFAULT pg_catalog.nextval(%L)', {target}, {sequence});
        EXECUTE pg_catalog.format('ALTER SEQUENCE %s OWNED BY %s.id', {sequence}, {target});
      -- An event trigger has given the table to another owner, say.
      EXCEPTION WHEN object_not_in_prerequisite_state OR insufficient_privilege THEN
        {create_serial}
      END;
    ELSE
      {create_serial}
    END IF;
  EXCEPTION WHEN unique_violation OR duplicate_table OR duplicate_object THEN NULL;
  END;
END IF;
