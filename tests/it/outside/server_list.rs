//! Every command that the server refuses in a transaction block (`PreventInTransactionBlock` in its source), with its
//! variants: alone in a file it runs, next to another statement it is refused by name and line before anything runs,
//! and what only looks like it is not.
//!
//! PostgreSQL 15 is asked here; what only newer servers have is in the unit tests of `src/sql/kinds.rs`. No publisher with
//! `wal_level = logical` is at hand: so of subscriptions it is shown that they come as far as to their publisher, which
//! is beyond the refusal.

use crate::support::Scratch;

const OBJECTS: &str = "
CREATE TABLE t (a int, b text);
CREATE INDEX t_a ON t (a);
CREATE TABLE p (a int) PARTITION BY LIST (a);
CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);
CREATE INDEX p_a ON p (a);
";

/// In an order in which all of them can run; `{db}` is the scratch database's name. And how messages call it.
const LIST: [(&str, &str); 36] = [
    // Before all that waits for older transactions, for that is what these are.
    ("COMMIT PREPARED '{db}_commit'", "COMMIT PREPARED"),
    ("rollback /* */ prepared '{db}_rollback'", "ROLLBACK PREPARED"),
    ("VACUUM t", "VACUUM"),
    ("VACUUM FULL t", "VACUUM"),
    ("vacuum (analyze, verbose) t, p1", "VACUUM"),
    ("CREATE INDEX CONCURRENTLY i ON t (b)", "CREATE INDEX CONCURRENTLY"),
    (
        "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS \"I;\" ON public.t USING btree (a)",
        "CREATE INDEX CONCURRENTLY",
    ),
    ("CREATE INDEX CONCURRENTLY i1 ON ONLY p1 (a) WHERE a > 0", "CREATE INDEX CONCURRENTLY"),
    ("REINDEX INDEX CONCURRENTLY i", "REINDEX CONCURRENTLY"),
    ("REINDEX TABLE CONCURRENTLY t", "REINDEX CONCURRENTLY"),
    ("REINDEX (CONCURRENTLY, VERBOSE) TABLE t", "REINDEX CONCURRENTLY"),
    ("REINDEX (CONCURRENTLY on) INDEX public.\"I;\"", "REINDEX CONCURRENTLY"),
    ("REINDEX TABLE CONCURRENTLY p", "REINDEX CONCURRENTLY"),
    ("REINDEX SCHEMA CONCURRENTLY public", "REINDEX CONCURRENTLY"),
    ("REINDEX (CONCURRENTLY) DATABASE {db}", "REINDEX CONCURRENTLY"),
    ("REINDEX SCHEMA public", "REINDEX"),
    // No REINDEX SYSTEM, nor DATABASE without CONCURRENTLY: that locks the catalogs that all databases share, and so every
    // other test out.
    ("CLUSTER", "CLUSTER"),
    ("CLUSTER VERBOSE", "CLUSTER"),
    ("ALTER TABLE p DETACH PARTITION p2 CONCURRENTLY", "DETACH PARTITION CONCURRENTLY"),
    (
        "alter table if exists public.p detach partition public.p1 concurrently",
        "DETACH PARTITION CONCURRENTLY",
    ),
    ("DROP INDEX CONCURRENTLY i", "DROP INDEX CONCURRENTLY"),
    ("DROP INDEX CONCURRENTLY IF EXISTS public.\"I;\"", "DROP INDEX CONCURRENTLY"),
    ("DROP INDEX CONCURRENTLY i1 RESTRICT", "DROP INDEX CONCURRENTLY"),
    ("CREATE TABLESPACE {db}_space LOCATION ''", "CREATE TABLESPACE"),
    ("CREATE DATABASE {db}_new TEMPLATE template0", "CREATE DATABASE"),
    ("ALTER DATABASE {db}_new SET TABLESPACE {db}_space", "ALTER DATABASE"),
    ("ALTER DATABASE {db}_new WITH TABLESPACE pg_default", "ALTER DATABASE"),
    ("ALTER DATABASE {db}_new TABLESPACE = {db}_space", "ALTER DATABASE"),
    ("ALTER DATABASE {db}_new WITH \"tablespace\" pg_default", "ALTER DATABASE"),
    ("DROP DATABASE {db}_new WITH (FORCE)", "DROP DATABASE"),
    ("DROP DATABASE IF EXISTS {db}_new", "DROP DATABASE"),
    ("DROP TABLESPACE {db}_space", "DROP TABLESPACE"),
    ("DROP TABLESPACE IF EXISTS {db}_space", "DROP TABLESPACE"),
    ("ALTER SYSTEM SET vacuum_cost_page_miss = 3", "ALTER SYSTEM"),
    ("ALTER SYSTEM RESET vacuum_cost_page_miss", "ALTER SYSTEM"),
    ("DISCARD ALL", "DISCARD ALL"),
];

#[test]
fn every_command_of_the_servers_list_runs_alone_in_its_file() {
    let scratch = with_objects();
    let mut client = scratch.client();
    for what in ["commit", "rollback"] {
        let gid = format!("{}_{what}", scratch.database);
        scratch
            .sql(&format!("BEGIN; CREATE TABLE prepared_{what} (); PREPARE TRANSACTION '{gid}'"));
    }
    for (number, statement) in statements(&scratch).iter().enumerate() {
        client.batch_execute("BEGIN").expect("BEGIN");
        let refused = client.batch_execute(statement).expect_err(statement);
        let code = refused.code().map_or("", |code| code.code()).to_owned();
        assert_eq!(code, "25001", "{statement}: {refused:?}");
        client.batch_execute("ROLLBACK").expect("ROLLBACK");
        let text = format!("-- alone\n{statement}; -- but for comments\n;");
        scratch.file(&file(number), text);
    }
    drop(client);
    scratch.up().code(0);
    assert_eq!(scratch.history().len(), LIST.len());
    assert_eq!(
        scratch.sql("SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'p'::regclass"),
        [""; 0]
    );
}

/// All at once, each with its line, and nothing is run.
#[test]
fn every_command_of_the_servers_list_is_refused_next_to_another_statement_with_its_line() {
    let scratch = Scratch::new();
    for (number, statement) in statements(&scratch).iter().enumerate() {
        let text = match number % 2 {
            0 => format!("SELECT 1;\n{statement};"),
            _ => format!("-- first\n{statement};\nSELECT ';'"),
        };
        scratch.file(&file(number), text);
    }
    let outcome = scratch.up();
    outcome.code(2);
    for (number, (_, command)) in LIST.iter().enumerate() {
        outcome.says(&format!("{}:2:1: {command} cannot share a file", file(number)));
    }
    assert_eq!(scratch.history(), [""; 0]);
}

/// The text does not tell: it depends on what the name stands for. So it is tried in a transaction first, and then, if
/// it is alone in its file, without.
#[test]
fn what_is_on_the_list_for_partitioned_tables_only_runs_alone_for_them_and_in_company_for_others() {
    let scratch = with_objects();
    let partitioned = [
        "REINDEX TABLE p",
        "REINDEX INDEX p_a",
        "REINDEX (VERBOSE) TABLE public.p",
        "CLUSTER p USING p_a",
    ];
    for (number, statement) in partitioned.iter().enumerate() {
        scratch.file(&file(number), statement);
    }
    let ordinary = "REINDEX TABLE t; REINDEX INDEX t_a; CLUSTER t USING t_a; CLUSTER VERBOSE t; CLUSTER (VERBOSE) t";
    scratch.file(&file(partitioned.len()), ordinary);
    scratch.up().code(0);
    assert_eq!(scratch.history().len(), partitioned.len() + 1);

    let number = partitioned.len() + 1;
    for statement in partitioned {
        scratch.file(&file(number), format!("CREATE TABLE half ();\n{statement};"));
        let outcome = scratch.up();
        outcome.code(2).says(&format!("{}:2", file(number))).says(" is partitioned, ");
        assert_eq!(scratch.value("SELECT to_regclass('half') IS NULL"), "t");
    }
}

#[test]
fn a_subscription_runs_in_company_unless_it_has_to_do_with_a_slot() {
    let scratch = Scratch::new();
    let name = format!("{}_s", scratch.database);
    let create =
        format!("CREATE SUBSCRIPTION {name} CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p");
    scratch.file(
        &file(0),
        format!(
            "SELECT 1; {create} WITH (connect = false, slot_name = NONE); \
             ALTER SUBSCRIPTION {name} SET PUBLICATION q WITH (refresh = false); \
             ALTER SUBSCRIPTION {name} ADD PUBLICATION p WITH (refresh = off); \
             ALTER SUBSCRIPTION {name} SET (binary = true); \
             ALTER SUBSCRIPTION {name} RENAME TO {name}_refresh; \
             DROP SUBSCRIPTION {name}_refresh; {create} WITH (create_slot = 'off', slot_name = NONE, connect = 0)"
        ),
    );
    scratch.up().code(0);

    // With a slot: refused in company, and alone it comes as far as to its publisher.
    let slotted = [
        (create.clone(), "CREATE SUBSCRIPTION"),
        (format!("{create} WITH (create_slot, connect = true)"), "CREATE SUBSCRIPTION"),
        (format!("ALTER SUBSCRIPTION {name} REFRESH PUBLICATION"), "ALTER SUBSCRIPTION"),
        (format!("ALTER SUBSCRIPTION {name} SET PUBLICATION r"), "ALTER SUBSCRIPTION"),
        (
            format!("ALTER SUBSCRIPTION {name} ADD PUBLICATION r WITH (refresh)"),
            "ALTER SUBSCRIPTION",
        ),
        (
            format!("ALTER SUBSCRIPTION {name} DROP PUBLICATION p WITH (copy_data = off)"),
            "ALTER SUBSCRIPTION",
        ),
    ];
    for (statement, command) in &slotted {
        scratch.file(&file(1), format!("SELECT 1;\n{statement}"));
        scratch.up().code(2).says(&format!("{}:2:1: {command} cannot share a file", file(1)));
        scratch.file(&file(1), statement);
        scratch.up().code(1).is_silent_about("25001").is_silent_about("transaction block");
    }
    scratch.file(&file(1), format!("ALTER SUBSCRIPTION {name} SET (slot_name = 'x')"));
    scratch.up().code(0);
    scratch.file(&file(2), format!("DROP SUBSCRIPTION {name}"));
    scratch.up().code(1).says("could not connect to publisher");
    scratch.file(
        &file(2),
        format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE); DROP SUBSCRIPTION {name}"),
    );
    scratch.up().code(0);
}

/// All in one file, in one transaction.
#[test]
fn what_only_looks_like_a_command_of_the_list_is_none() {
    let scratch = with_objects();
    scratch.file(&file(0), LOOKS);
    scratch.up().code(0);
    assert_eq!(scratch.history().len(), 1);
}

const LOOKS: &str = r#"
-- VACUUM; CREATE INDEX CONCURRENTLY i ON t (a);
/* DROP DATABASE x; /* REINDEX SYSTEM x; */ ALTER SYSTEM RESET ALL; */
SELECT 'VACUUM;', $$CREATE DATABASE x;$$, E'\';DISCARD ALL;', 1 AS "VACUUM;";
CREATE TABLE vacuum (vacuum int, "concurrently" int, cluster int, reindex int, "CONCURRENTLY" int);
CREATE INDEX "concurrently" ON vacuum ("concurrently");
CREATE INDEX ON vacuum ("CONCURRENTLY");
CREATE INDEX vacuum_cluster ON vacuum (cluster);
CLUSTER vacuum USING vacuum_cluster;
REINDEX INDEX "concurrently";
REINDEX (CONCURRENTLY off) TABLE vacuum;
REINDEX (CONCURRENTLY, CONCURRENTLY false) INDEX vacuum_cluster;
ALTER TABLE vacuum ADD database int, ADD tablespace int, ADD detach int, ADD partition_concurrently int;
ALTER TABLE vacuum RENAME reindex TO discard;
INSERT INTO vacuum (vacuum) VALUES (1);
ANALYZE vacuum;
CREATE FUNCTION concurrently() RETURNS text LANGUAGE plpgsql AS $$ BEGIN VACUUM t; DISCARD ALL; END $$;
CREATE FUNCTION reindex() RETURNS text RETURN 'REINDEX DATABASE x;';
CREATE PROCEDURE vacuum() BEGIN ATOMIC INSERT INTO vacuum (vacuum) VALUES (2); DELETE FROM vacuum; END;
CREATE RULE vacuum AS ON UPDATE TO vacuum DO ALSO (SELECT 1; DELETE FROM vacuum);
CREATE TABLE "CREATE DATABASE x;" (a int) PARTITION BY LIST (a);
CREATE TABLE concurrently_ PARTITION OF "CREATE DATABASE x;" DEFAULT;
ALTER TABLE "CREATE DATABASE x;" DETACH PARTITION concurrently_;
ALTER TABLE "CREATE DATABASE x;" ATTACH PARTITION concurrently_ DEFAULT;
ALTER TABLE concurrently_ RENAME TO "concurrently_;";
ALTER TABLE "CREATE DATABASE x;" DETACH PARTITION "concurrently_;";
CREATE MATERIALIZED VIEW system AS SELECT 1 AS a;
CREATE UNIQUE INDEX ON system (a);
REFRESH MATERIALIZED VIEW CONCURRENTLY system;
ALTER MATERIALIZED VIEW system RENAME TO subscription;
CREATE TYPE database AS ENUM ('VACUUM');
ALTER TYPE database ADD VALUE 'DISCARD ALL';
PREPARE discard AS SELECT 1;
DISCARD PLANS;
DEALLOCATE discard;
DISCARD SEQUENCES;
DISCARD TEMP;
SET LOCAL vacuum_cost_delay = 1;
COMMENT ON TABLE vacuum IS 'ALTER SYSTEM';
PREPARE prepared AS SELECT 'COMMIT PREPARED';
DROP INDEX "concurrently";
DROP TABLE vacuum, t CASCADE;
"#;

fn statements(scratch: &Scratch) -> Vec<String> {
    LIST.iter().map(|(statement, _)| statement.replace("{db}", &scratch.database)).collect()
}

fn file(number: usize) -> String {
    format!("202401010000{number:02}_x.up.sql")
}

/// With tablespaces that need no directory of their own.
fn with_objects() -> Scratch {
    let scratch = Scratch::new();
    let database = &scratch.database;
    scratch.sql(OBJECTS);
    scratch.sql(&format!("ALTER DATABASE {database} SET allow_in_place_tablespaces = on"));
    scratch
}
