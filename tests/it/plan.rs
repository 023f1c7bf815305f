//! `lockstep plan`: what it says of pending files, that it changes nothing, and that it is right: what it reads from a
//! statement's text is compared with what a rehearsal measures.

use crate::support::{Outcome, Scratch};

/// Asks the server for parts of a JSON document, which it also checks.
fn ask(scratch: &Scratch, document: &str, query: &str) -> Vec<String> {
    let sql = format!("WITH d AS (SELECT $json${document}$json$::jsonb AS d) {query}");
    scratch.sql(&sql)
}

// The static statement of locks against the measured one.

/// What every statement of [`STATEMENTS`] finds: `{a}` and `{b}` are tables of its own, filled, with an index on x.
const TABLES: &str = "CREATE TABLE {a} (id int PRIMARY KEY, x int, y varchar(10), CONSTRAINT {a}_positive CHECK (id > 0));
    CREATE TABLE {b} (id int PRIMARY KEY, x int, y varchar(10));
    INSERT INTO {a} SELECT n, n, n FROM generate_series(1, 5) n;
    INSERT INTO {b} SELECT n, n, n FROM generate_series(1, 5) n;
    CREATE INDEX {a}_x ON {a} (x);";

/// A statement, and what it needs beside the two tables.
const STATEMENTS: [(&str, &str); 148] = [
    // ACCESS SHARE
    ("SELECT * FROM {a}", ""),
    ("SELECT count(*) FROM {a} JOIN {b} USING (id)", ""),
    ("TABLE {a}", ""),
    (
        "WITH w AS (SELECT * FROM {a}) SELECT * FROM w, LATERAL (SELECT * FROM {b} WHERE {b}.id = w.id) l",
        "",
    ),
    (
        "SELECT extract(year FROM now()), substring('abc' FROM 2) FROM {a} WHERE x IS DISTINCT FROM 3",
        "",
    ),
    (
        "SELECT * FROM generate_series(1, 2) g, ({a} JOIN {b} ON true)",
        "",
    ),
    (
        "SELECT x FROM {a} UNION ALL SELECT x FROM ONLY {b} ORDER BY 1",
        "",
    ),
    (
        "SELECT (SELECT max(id) FROM {b}) FROM {a} WHERE EXISTS (SELECT FROM {b} WHERE true)",
        "",
    ),
    ("COPY {a} TO '/dev/null'", ""),
    ("COPY (SELECT * FROM {a}) TO '/dev/null'", ""),
    ("EXPLAIN SELECT * FROM {a}", ""),
    ("EXPLAIN (COSTS off) DELETE FROM {a}", ""),
    ("DECLARE c{a} CURSOR FOR SELECT * FROM {a}", ""),
    ("PREPARE p{a} AS SELECT * FROM {a}", ""),
    ("CREATE TABLE {a}_copy AS SELECT * FROM {a}", ""),
    ("SELECT * INTO {a}_copy FROM {a}", ""),
    ("CREATE TABLE {a}_like (LIKE {a} INCLUDING ALL, z int)", ""),
    ("CREATE VIEW {a}_view AS SELECT * FROM {a}", ""),
    ("CREATE MATERIALIZED VIEW {a}_view AS SELECT * FROM {a}", ""),
    (
        "CREATE FUNCTION {a}_count() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM {a}'",
        "",
    ),
    (
        "CREATE FUNCTION {a}_count() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM {a}; END",
        "",
    ),
    (
        "CREATE FUNCTION {a}_count() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN DELETE FROM {a}; RETURN NULL; END'",
        "",
    ),
    ("CREATE SEQUENCE {a}_seq OWNED BY {a}.x", ""),
    (
        "ALTER SEQUENCE {a}_seq OWNED BY {a}.x",
        "CREATE SEQUENCE {a}_seq",
    ),
    ("ALTER SEQUENCE {a}_seq RESTART", "CREATE SEQUENCE {a}_seq"),
    ("LOCK TABLE {a} IN ACCESS SHARE MODE", ""),
    // ROW SHARE
    ("SELECT * FROM {a} FOR UPDATE", ""),
    ("SELECT * FROM {a} FOR NO KEY UPDATE", ""),
    ("SELECT * FROM {a} FOR SHARE", ""),
    (
        "SELECT * FROM {a} one JOIN {b} two USING (id) FOR KEY SHARE OF two SKIP LOCKED",
        "",
    ),
    ("SELECT * FROM (SELECT * FROM {a}) s, {b} FOR UPDATE", ""),
    ("LOCK TABLE {a} IN ROW SHARE MODE", ""),
    // ROW EXCLUSIVE
    ("INSERT INTO {a} VALUES (9, 9, '9')", ""),
    (
        "INSERT INTO {a} (id) SELECT id + 10 FROM {b} ON CONFLICT DO NOTHING",
        "",
    ),
    (
        "INSERT INTO {a} AS t VALUES (1, 2, '3') ON CONFLICT (id) DO UPDATE SET x = t.x + 1 RETURNING *",
        "",
    ),
    ("UPDATE {a} SET x = 1", ""),
    (
        "UPDATE ONLY {a} AS t SET x = o.x FROM {b} o WHERE o.id = t.id",
        "",
    ),
    ("DELETE FROM {a} WHERE id IN (SELECT id FROM {b})", ""),
    ("DELETE FROM {a} USING {b} WHERE {a}.id = {b}.id", ""),
    (
        "MERGE INTO {a} t USING {b} s ON t.id = s.id WHEN MATCHED THEN UPDATE SET x = s.x WHEN NOT MATCHED THEN INSERT VALUES (s.id)",
        "",
    ),
    (
        "WITH gone AS (DELETE FROM {a} RETURNING id) INSERT INTO {b} (id) SELECT id + 100 FROM gone",
        "",
    ),
    ("COPY {a} FROM '/dev/null'", ""),
    ("LOCK TABLE {a} IN ROW EXCLUSIVE MODE", ""),
    // SHARE UPDATE EXCLUSIVE
    ("ANALYZE {a}", ""),
    ("ANALYZE {a} (x), {b}", ""),
    ("COMMENT ON TABLE {a} IS 'x'", ""),
    ("COMMENT ON COLUMN {a}.x IS 'x'", ""),
    (
        "COMMENT ON VIEW {a}_view IS 'x'",
        "CREATE VIEW {a}_view AS SELECT 1",
    ),
    ("COMMENT ON INDEX {a}_x IS 'x'", ""),
    ("COMMENT ON CONSTRAINT {a}_positive ON {a} IS 'x'", ""),
    ("CREATE STATISTICS {a}_stat ON x, y FROM {a}", ""),
    (
        "DROP STATISTICS {a}_stat",
        "CREATE STATISTICS {a}_stat ON x, y FROM {a}",
    ),
    (
        "ALTER STATISTICS {a}_stat SET STATISTICS 10",
        "CREATE STATISTICS {a}_stat ON x, y FROM {a}",
    ),
    (
        "ALTER TABLE {a} VALIDATE CONSTRAINT c",
        "ALTER TABLE {a} ADD CONSTRAINT c CHECK (x > 0) NOT VALID",
    ),
    (
        "ALTER TABLE {a} VALIDATE CONSTRAINT c",
        "ALTER TABLE {a} ADD CONSTRAINT c FOREIGN KEY (x) REFERENCES {b} NOT VALID",
    ),
    ("ALTER TABLE {a} ALTER COLUMN x SET STATISTICS 100", ""),
    ("ALTER TABLE {a} ALTER x SET (n_distinct = 5)", ""),
    ("ALTER TABLE {a} ALTER x RESET (n_distinct)", ""),
    ("ALTER TABLE {a} SET (fillfactor = 70)", ""),
    (
        "ALTER TABLE {a} SET (autovacuum_enabled = off, toast_tuple_target = 200)",
        "",
    ),
    ("ALTER TABLE {a} RESET (fillfactor)", ""),
    ("ALTER TABLE {a} CLUSTER ON {a}_x", ""),
    ("ALTER TABLE {a} SET WITHOUT CLUSTER", ""),
    (
        "ALTER TABLE {a}_parent ATTACH PARTITION {b} FOR VALUES IN (1, 2, 3, 4, 5)",
        "ALTER TABLE {b} DROP CONSTRAINT {b}_pkey; CREATE TABLE {a}_parent (LIKE {b}) PARTITION BY LIST (id)",
    ),
    (
        "CREATE TABLE {a}_child () INHERITS ({a}, {b})",
        "ALTER TABLE {a} ALTER y DROP DEFAULT",
    ),
    ("CREATE PUBLICATION {a}_pub FOR TABLE {a}, {b} (id, x)", ""),
    (
        "ALTER PUBLICATION {a}_pub ADD TABLE {a}",
        "CREATE PUBLICATION {a}_pub",
    ),
    (
        "ALTER PUBLICATION {a}_pub DROP TABLE {a}",
        "CREATE PUBLICATION {a}_pub FOR TABLE {a}",
    ),
    (
        "DROP PUBLICATION {a}_pub",
        "CREATE PUBLICATION {a}_pub FOR TABLE {a}",
    ),
    ("LOCK TABLE {a} IN SHARE UPDATE EXCLUSIVE MODE", ""),
    // SHARE
    ("CREATE INDEX ON {a} (y)", ""),
    (
        "CREATE UNIQUE INDEX {a}_unique ON ONLY {a} USING btree (lower(y)) WHERE id > 3",
        "",
    ),
    ("REINDEX TABLE {a}", ""),
    ("REINDEX INDEX {a}_x", ""),
    (
        "ALTER DOMAIN {a}_domain ADD CHECK (VALUE > 0)",
        "CREATE DOMAIN {a}_domain AS int; ALTER TABLE {a} ADD d {a}_domain",
    ),
    (
        "ALTER DOMAIN {a}_domain SET NOT NULL",
        "CREATE DOMAIN {a}_domain AS int; ALTER TABLE {a} ADD d {a}_domain; UPDATE {a} SET d = 1",
    ),
    (
        "ALTER DOMAIN {a}_domain SET DEFAULT 3",
        "CREATE DOMAIN {a}_domain AS int; ALTER TABLE {a} ADD d {a}_domain",
    ),
    ("LOCK TABLE {a} IN SHARE MODE", ""),
    // SHARE ROW EXCLUSIVE
    (
        "CREATE TRIGGER t BEFORE UPDATE OF x, y ON {a} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "",
    ),
    (
        "CREATE CONSTRAINT TRIGGER t AFTER UPDATE ON {a} FROM {b} DEFERRABLE FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "",
    ),
    ("ALTER TABLE {a} DISABLE TRIGGER ALL", ""),
    ("ALTER TABLE {a} ENABLE TRIGGER USER", ""),
    (
        "ALTER TABLE {a} ADD CONSTRAINT f FOREIGN KEY (x) REFERENCES {b} (id)",
        "",
    ),
    (
        "ALTER TABLE {a} ADD FOREIGN KEY (x) REFERENCES {b} NOT VALID",
        "",
    ),
    (
        "CREATE TABLE {a}_new (x int REFERENCES {a}, y int, FOREIGN KEY (y) REFERENCES {b} (id))",
        "",
    ),
    ("LOCK TABLE {a} IN SHARE ROW EXCLUSIVE MODE", ""),
    // EXCLUSIVE
    (
        "REFRESH MATERIALIZED VIEW CONCURRENTLY {a}_view",
        "CREATE MATERIALIZED VIEW {a}_view AS SELECT * FROM {a}; CREATE UNIQUE INDEX ON {a}_view (id)",
    ),
    ("LOCK TABLE {a}, {b} IN EXCLUSIVE MODE", ""),
    // ACCESS EXCLUSIVE: ALTER TABLE
    ("ALTER TABLE {a} ADD COLUMN c int", ""),
    ("ALTER TABLE {a} ADD c int NOT NULL DEFAULT 3", ""),
    (
        "ALTER TABLE {a} ADD c timestamptz DEFAULT now(), ADD d text[] DEFAULT ARRAY['x', 'y']",
        "",
    ),
    ("ALTER TABLE {a} ADD c uuid DEFAULT gen_random_uuid()", ""),
    (
        "ALTER TABLE {a} ADD c float8 DEFAULT round(random()::numeric, 2)",
        "",
    ),
    ("ALTER TABLE {a} ADD c serial", ""),
    (
        "ALTER TABLE {a} ADD c int GENERATED ALWAYS AS (x + 1) STORED",
        "",
    ),
    (
        "ALTER TABLE {a} ADD c int GENERATED BY DEFAULT AS IDENTITY",
        "",
    ),
    (
        "ALTER TABLE {a} ADD c int CHECK (c > 0) UNIQUE REFERENCES {b}",
        "",
    ),
    (
        "ALTER TABLE {a} ADD c {a}_domain",
        "CREATE DOMAIN {a}_domain AS int CHECK (VALUE > 0)",
    ),
    (
        "ALTER TABLE {a} ADD c {a}_enum DEFAULT 'x'",
        "CREATE TYPE {a}_enum AS ENUM ('x')",
    ),
    ("ALTER TABLE {a} DROP COLUMN x", ""),
    (
        "ALTER TABLE {a} DROP COLUMN x",
        "ALTER TABLE {a} ADD FOREIGN KEY (x) REFERENCES {b}",
    ),
    ("ALTER TABLE {a} ALTER COLUMN x TYPE bigint", ""),
    ("ALTER TABLE {a} ALTER y SET DATA TYPE varchar(20)", ""),
    ("ALTER TABLE {a} ALTER y TYPE text USING y || 'x'", ""),
    ("ALTER TABLE {a} ALTER x SET DEFAULT 3", ""),
    ("ALTER TABLE {a} ALTER x DROP DEFAULT", ""),
    ("ALTER TABLE {a} ALTER x SET NOT NULL", ""),
    ("ALTER TABLE {a} ALTER x DROP NOT NULL", ""),
    ("ALTER TABLE {a} ALTER y SET STORAGE EXTERNAL", ""),
    ("ALTER TABLE {a} ALTER y SET COMPRESSION pglz", ""),
    (
        "ALTER TABLE {a} ALTER id ADD GENERATED ALWAYS AS IDENTITY",
        "",
    ),
    (
        "ALTER TABLE {a} ALTER c DROP EXPRESSION",
        "ALTER TABLE {a} ADD c int GENERATED ALWAYS AS (x + 1) STORED",
    ),
    ("ALTER TABLE {a} ADD CONSTRAINT c CHECK (x > 0)", ""),
    ("ALTER TABLE {a} ADD CHECK (x > 0) NOT VALID", ""),
    ("ALTER TABLE {a} ADD UNIQUE (x)", ""),
    (
        "ALTER TABLE {a} ADD CONSTRAINT {a}_c EXCLUDE USING btree (x WITH =)",
        "",
    ),
    (
        "ALTER TABLE {a} ADD CONSTRAINT {a}_c UNIQUE USING INDEX {a}_unique",
        "CREATE UNIQUE INDEX {a}_unique ON {a} (x)",
    ),
    (
        "ALTER TABLE {b} DROP CONSTRAINT {b}_pkey, ADD PRIMARY KEY (id)",
        "",
    ),
    (
        "ALTER TABLE {a} ALTER CONSTRAINT f DEFERRABLE",
        "ALTER TABLE {a} ADD CONSTRAINT f FOREIGN KEY (x) REFERENCES {b}",
    ),
    (
        "ALTER TABLE {a} DROP CONSTRAINT f",
        "ALTER TABLE {a} ADD CONSTRAINT f FOREIGN KEY (x) REFERENCES {b}",
    ),
    ("ALTER TABLE {a} SET UNLOGGED", ""),
    ("ALTER TABLE {b} SET LOGGED", "ALTER TABLE {b} SET UNLOGGED"),
    ("ALTER TABLE {a} SET ACCESS METHOD heap_two", ""),
    (
        "ALTER TABLE {a} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "",
    ),
    ("ALTER TABLE {a} OWNER TO CURRENT_USER", ""),
    ("ALTER TABLE {a} REPLICA IDENTITY FULL", ""),
    ("ALTER TABLE {a} INHERIT {b}", ""),
    (
        "ALTER TABLE {a} NO INHERIT {b}",
        "ALTER TABLE {a} INHERIT {b}",
    ),
    ("ALTER TABLE {a} RENAME TO {a}_renamed", ""),
    ("ALTER TABLE {a} RENAME x TO z", ""),
    ("ALTER TABLE {a} RENAME CONSTRAINT {a}_positive TO z", ""),
    ("ALTER TABLE {a} SET SCHEMA elsewhere", ""),
    (
        "ALTER TABLE {a} DISABLE RULE r",
        "CREATE RULE r AS ON INSERT TO {a} DO NOTHING",
    ),
    (
        "ALTER TABLE {a}_parent DETACH PARTITION {b}",
        "CREATE TABLE {a}_parent (LIKE {b}) PARTITION BY LIST (id); ALTER TABLE {a}_parent ATTACH PARTITION {b} DEFAULT",
    ),
    (
        "ALTER VIEW {a}_view SET (security_barrier)",
        "CREATE VIEW {a}_view AS SELECT * FROM {a}",
    ),
    (
        "ALTER MATERIALIZED VIEW {a}_view RENAME TO {a}_renamed",
        "CREATE MATERIALIZED VIEW {a}_view AS SELECT * FROM {a}",
    ),
    // ACCESS EXCLUSIVE: all else
    (
        "CREATE TABLE {a}_part PARTITION OF {a}_parent FOR VALUES IN (1)",
        "CREATE TABLE {a}_parent (LIKE {b}) PARTITION BY LIST (id); CREATE TABLE {a}_rest PARTITION OF {a}_parent DEFAULT",
    ),
    (
        "CREATE OR REPLACE VIEW {a}_view AS SELECT id FROM {a}",
        "CREATE VIEW {a}_view AS SELECT id FROM {a}",
    ),
    (
        "CREATE RULE r AS ON INSERT TO {a} DO ALSO DELETE FROM {b}",
        "",
    ),
    (
        "DROP RULE r ON {a}",
        "CREATE RULE r AS ON INSERT TO {a} DO NOTHING",
    ),
    (
        "CREATE POLICY p ON {a} USING (x IN (SELECT x FROM {b}))",
        "",
    ),
    (
        "ALTER TRIGGER t ON {a} RENAME TO u",
        "CREATE TRIGGER t BEFORE UPDATE ON {a} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    ),
    (
        "DROP TRIGGER t ON {a}",
        "CREATE TRIGGER t BEFORE UPDATE ON {a} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    ),
    ("CLUSTER {a} USING {a}_x", ""),
    (
        "REFRESH MATERIALIZED VIEW {a}_view",
        "CREATE MATERIALIZED VIEW {a}_view AS SELECT * FROM {a}",
    ),
    ("TRUNCATE {a}, ONLY {b}", ""),
    (
        "DROP TABLE {b}, {a} CASCADE",
        "CREATE TABLE {a}_child (x int REFERENCES {a})",
    ),
    ("DROP INDEX {a}_x", ""),
];

#[test]
fn what_is_read_from_the_text_is_what_the_server_does() {
    let scratch = Scratch::new();
    let mut setup = "CREATE SCHEMA elsewhere; CREATE ACCESS METHOD heap_two TYPE TABLE HANDLER heap_tableam_handler;".to_owned();
    let mut file = String::new();
    for (number, (statement, needs)) in STATEMENTS.iter().enumerate() {
        let named = |text: &str| {
            text.replace("{a}", &format!("a{number}"))
                .replace("{b}", &format!("b{number}"))
        };
        setup.push_str(&format!("{} {};", named(TABLES), named(needs)));
        file.push_str(&format!("{};\n", named(statement)));
    }
    scratch.sql(&setup);
    let before = scratch.schema();
    scratch.file("20240101000000_all.up.sql", &file);
    let outcome = scratch.lockstep(&["plan", "--rehearse", "--json"]).run();
    outcome.code(0);
    assert_eq!(scratch.schema(), before, "everything was rolled back");

    let disagreements = disagreements(&scratch, &outcome);
    println!(
        "{} statements, {} disagreements",
        STATEMENTS.len(),
        disagreements.len()
    );
    let told: Vec<String> = disagreements
        .iter()
        .map(|(line, told)| format!("{}: {told}", file.lines().nth(line - 1).expect("a line")))
        .collect();
    assert!(
        told.is_empty(),
        "{} disagreements\n{}",
        told.len(),
        told.join("\n")
    );
}

/// Line and words of each difference between what was read and what was measured.
fn disagreements(scratch: &Scratch, outcome: &Outcome) -> Vec<(usize, String)> {
    let query = "SELECT s->>'line',
          (SELECT string_agg(l->>'table' || '=' || (l->>'mode'), ',' ORDER BY l->>'table') FROM jsonb_array_elements(s->'locks') l WHERE l->>'table' IS NOT NULL),
          (SELECT string_agg(l->>'mode', ',') FROM jsonb_array_elements(s->'locks') l WHERE l->>'related' IS NOT NULL),
          jsonb_array_length(s->'unknown'),
          (SELECT string_agg(l->>'table' || '=' || (l->>'mode'), ',' ORDER BY l->>'table') FROM jsonb_array_elements(s->'measured'->'locks') l),
          (SELECT string_agg(w->>'table', ',' ORDER BY 1) FROM jsonb_array_elements(s->'warnings') w WHERE w->>'kind' = 'rewrite'),
          (SELECT string_agg(w->>'table', ',' ORDER BY 1) FROM jsonb_array_elements(s->'warnings') w WHERE w->>'kind' = 'may_rewrite'),
          (SELECT string_agg(r, ',' ORDER BY r) FROM jsonb_array_elements_text(s->'measured'->'rewritten') r),
          s->>'verb'
        FROM d, jsonb_array_elements(d->'migrations'->0->'statements') s";
    let rows = ask(scratch, &outcome.stdout, query);
    assert_eq!(rows.len(), STATEMENTS.len());
    let mut found = Vec::new();
    for row in &rows {
        let columns: Vec<&str> = row.split('|').collect();
        let list = |index: usize| -> Vec<&str> {
            columns[index].split(',').filter(|it| *it != "∅").collect()
        };
        let (named, related, measured) = (list(1), list(2), list(4));
        let line = columns[0].parse().expect("a line");
        let mut differ = |what: String| found.push((line, what));
        for lock in named.iter().filter(|lock| !measured.contains(lock)) {
            differ(format!("read {lock}, measured {measured:?}"));
        }
        for lock in measured.iter().filter(|lock| !named.contains(lock)) {
            let (table, mode) = lock.split_once('=').expect("table and mode");
            let is_named = named
                .iter()
                .any(|it| it.split_once('=').expect("table and mode").0 == table);
            let may_be =
                columns[3] != "0" || related.iter().any(|it| strength(it) >= strength(mode));
            if !is_named && !may_be {
                differ(format!("measured {lock}, read {named:?}"));
            }
        }
        let (rewrites, may_rewrite, rewritten) = (list(5), list(6), list(7));
        // A materialized view is always written anew; that is no news.
        let is_refresh = columns[8] == "REFRESH MATERIALIZED VIEW";
        let is_right = rewrites.iter().all(|table| rewritten.contains(table))
            && rewritten
                .iter()
                .all(|table| rewrites.contains(table) || may_rewrite.contains(table) || is_refresh);
        if !is_right {
            differ(format!(
                "read that it rewrites {rewrites:?}, or may {may_rewrite:?}, measured {rewritten:?}"
            ));
        }
    }
    found
}

fn strength(mode: &str) -> usize {
    let modes = [
        "ACCESS SHARE",
        "ROW SHARE",
        "ROW EXCLUSIVE",
        "SHARE UPDATE EXCLUSIVE",
        "SHARE",
        "SHARE ROW EXCLUSIVE",
        "EXCLUSIVE",
        "ACCESS EXCLUSIVE",
    ];
    modes.iter().position(|it| *it == mode).expect("a mode")
}
