DECLARE
  the_answer pg_catalog.refcursor := '{cursor}';
  the_part pg_catalog.text[];
  the_codes pg_catalog.text[] := pg_catalog.array_fill(''::pg_catalog.text, ARRAY[{count}]);
  the_words pg_catalog.text[] := the_codes;
  the_codes_again pg_catalog.text[] := the_codes;
  the_places pg_catalog.int4[] := pg_catalog.array_fill(0, ARRAY[{count}]);
  the_place pg_catalog.int4;
  is_over pg_catalog.bool := false;
BEGIN {blocks}
  OPEN the_answer FOR SELECT * FROM ROWS FROM (pg_catalog.unnest(the_codes),
    pg_catalog.unnest(the_words), pg_catalog.unnest(the_places), pg_catalog.unnest(the_codes_again))
    AS t({columns});
END
