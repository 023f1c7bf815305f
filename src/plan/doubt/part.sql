IF NOT is_over THEN
  the_part := ARRAY[{texts}]::pg_catalog.text[];
  BEGIN
    FOR i IN 1..{count} LOOP the_place := i; EXECUTE the_part[i]; END LOOP;
  EXCEPTION WHEN OTHERS OR query_canceled THEN
    the_codes[{number}] := SQLSTATE; the_words[{number}] := SQLERRM; the_places[{number}] := the_place;
    is_over := SQLSTATE OPERATOR(pg_catalog.=) '{canceled}';
  END;
  BEGIN
    IF is_over THEN
      FOR i IN 1..the_place OPERATOR(pg_catalog.-) 1 LOOP EXECUTE the_part[i]; END LOOP;
      FOR i IN 1..the_place OPERATOR(pg_catalog.-) 1 LOOP EXECUTE the_part[i]; END LOOP;
    ELSIF the_codes[{number}] OPERATOR(pg_catalog.=) '' THEN
      FOR i IN 1..{count} LOOP EXECUTE the_part[i]; END LOOP;
    END IF;
  EXCEPTION WHEN OTHERS THEN the_codes_again[{number}] := SQLSTATE;
  END;
END IF;
