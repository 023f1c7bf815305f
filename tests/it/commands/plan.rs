//! `lockstep plan`: what it says of pending files, that it changes nothing, and that it is right: what it reads from a
//! statement's text is compared with what a rehearsal measures.

use crate::commands::status::assert_documented;
use crate::support::{Gate, Outcome, Scratch, text};

/// Asks the server for parts of a JSON document, which it also checks.
fn ask(scratch: &Scratch, document: &str, query: &str) -> Vec<String> {
    let sql = format!("WITH d AS (SELECT $json${document}$json$::jsonb AS d) {query}");
    scratch.sql(&sql)
}

/// A database with a table, and files that meet it in many ways.
fn with_pending_files() -> Scratch {
    let scratch = Scratch::migrated([
        (
            "20240101000000_people.up.sql",
            "CREATE TABLE people (id bigint PRIMARY KEY, name varchar(10)); CREATE VIEW \"All\" AS SELECT * FROM people;",
        ),
        ("20240105000000_last.up.sql", "SELECT 1"),
    ]);
    scratch.file(
        "20240102000000_late.up.sql",
        "-- A column.\nALTER TABLE people\n  ADD token uuid DEFAULT gen_random_uuid();\n\nDO $$ BEGIN END $$;\n",
    );
    scratch.file(
        "20240106000000_many.up.sql",
        "CREATE TABLE pets (id bigint PRIMARY KEY, owner bigint REFERENCES people);
         CREATE INDEX pets_owner ON pets (owner);
         ALTER TABLE pets ALTER owner SET NOT NULL, ADD x uuid DEFAULT gen_random_uuid();
         UPDATE people SET name = quote_of(id) FROM \"All\";
         ALTER TABLE people RENAME name TO full_name;
         DROP VIEW \"All\";",
    );
    scratch.file(
        "20240107000000_index.up.sql",
        "CREATE INDEX CONCURRENTLY people_name ON people (full_name)",
    );
    scratch
}

#[test]
fn the_text_tells_file_for_file_what_runs_and_what_it_locks() {
    let scratch = with_pending_files();
    let outcome = scratch.lockstep(&["plan"]).env("NO_COLOR", "1").run();
    outcome.code(0);
    let expected = "\
20240102000000_late.up.sql: in a transaction, out-of-order
  line 2: ALTER TABLE people ADD token uuid DEFAULT gen_random_uuid()
    ACCESS EXCLUSIVE on people
    warning: rewrites people; nobody can read or write it meanwhile
      safer: add the column plain, fill it in batches, and then set its default
  line 5: DO $$ BEGIN END $$
    unknown: runs code

20240106000000_many.up.sql: in a transaction
  line 1: CREATE TABLE pets (id bigint PRIMARY KEY, owner bigint REFERENCES peo…
    SHARE ROW EXCLUSIVE on people
    warning: keeps writers of people out
      safer: keep the file short: the lock lasts until it commits
  line 2: CREATE INDEX pets_owner ON pets (owner)
  line 3: ALTER TABLE pets ALTER owner SET NOT NULL, ADD x uuid DEFAULT gen_ran…
  line 4: UPDATE people SET name = quote_of(id) FROM \"All\"
    ROW EXCLUSIVE on people
    warning: goes through all rows of people, and an earlier statement of the
      file keeps writers of it out meanwhile
      safer: do it in a file of its own, or in batches outside of migrations
  line 5: ALTER TABLE people RENAME name TO full_name
    ACCESS EXCLUSIVE on people
    warning: code that uses column name of people fails
      safer: let both names live (a view, or a second column) until all code is
        new
  line 6: DROP VIEW \"All\"
    ACCESS EXCLUSIVE on \"All\"
    warning: code that uses \"All\" fails
      safer: first release code that does without it

20240107000000_index.up.sql: outside a transaction
  line 1: CREATE INDEX CONCURRENTLY people_name ON people (full_name)
    SHARE UPDATE EXCLUSIVE on people

3 migrations pending, 9 statements, 5 warnings, 1 statement with unknown effects
  ACCESS EXCLUSIVE on \"All\", people
";
    assert_eq!(outcome.stdout, expected);
}

/// Each statement's locks end with it.
#[test]
fn a_backfill_outside_a_transaction_is_not_behind_the_locks_of_its_file() {
    let text = "ALTER TABLE t ADD b int;\nUPDATE t SET b = a;\n";
    for (annotation, warns) in [("", true), ("-- lockstep: no-transaction\n", false)] {
        let scratch = Scratch::with([("20240101000000_b.up.sql", format!("{annotation}{text}"))]);
        scratch.sql("CREATE TABLE t (a int)");
        let outcome = scratch.lockstep(&["plan"]).run();
        outcome.code(0);
        assert_eq!(outcome.stdout.contains("goes through all rows of t"), warns, "{outcome}");
    }
}

#[test]
fn the_json_tells_the_same() {
    let scratch = with_pending_files();
    let outcome = scratch.lockstep(&["plan", "--json"]).run();
    outcome.code(0);
    let json = outcome.stdout.replace(&text(&scratch.migrations()), "DIR");
    let expected = r#"{
  "runner": null,
  "rehearsed": false,
  "pending": 3,
  "warnings": 5,
  "migrations": [
    {
      "version": "20240102000000",
      "name": "20240102000000_late.up.sql",
      "file": "DIR/20240102000000_late.up.sql",
      "out_of_order": true,
      "runs": "in_transaction",
      "statements": [
        {
          "line": 2,
          "verb": "ALTER TABLE",
          "locks": [
            {
              "table": "people",
              "related": null,
              "mode": "ACCESS EXCLUSIVE"
            }
          ],
          "unknown": [],
          "warnings": [
            {
              "kind": "rewrite",
              "table": "people",
              "message": "rewrites people; nobody can read or write it meanwhile",
              "safer": "add the column plain, fill it in batches, and then set its default"
            }
          ],
          "measured": null
        },
        {
          "line": 5,
          "verb": "DO",
          "locks": [],
          "unknown": [
            "runs code"
          ],
          "warnings": [],
          "measured": null
        }
      ]
    },
"#;
    assert!(json.starts_with(expected), "{json}");
    assert_follows_the_schema(&scratch, &outcome.stdout);
}

#[test]
fn the_fields_and_their_types_are_those_of_the_manual() {
    let scratch = with_pending_files();
    let read = scratch.lockstep(&["plan", "--json"]).run();
    for cannot_run in ["20240106000000_many.up.sql", "20240107000000_index.up.sql"] {
        scratch.file(cannot_run, "SELECT 1");
    }
    let rehearsed = scratch.lockstep(&["plan", "--rehearse", "--json"]).run();
    assert_documented("plan", &[read.code(0), rehearsed.code(0)]);
}

/// Every object has these members and no others, of these types: as the manual's table, object for object.
fn assert_follows_the_schema(scratch: &Scratch, document: &str) {
    let members = |object: &str, path: &str| {
        let query = format!(
            "SELECT DISTINCT string_agg(key || ' ' || jsonb_typeof(value), ', ' ORDER BY key) FROM d,
             jsonb_path_query(d, '{path}') WITH ORDINALITY o(object, number), jsonb_each(object) GROUP BY number"
        );
        let found = ask(scratch, document, &query);
        assert!(!found.is_empty() || !object.starts_with("the"), "{object}: none");
        found
    };
    let document_members = members("the document", "$");
    let runner = if document_members[0].contains("runner null") { "null" } else { "string" };
    assert_eq!(
        document_members,
        [format!(
            "migrations array, pending number, rehearsed boolean, runner {runner}, warnings number"
        )]
    );
    for found in members("migrations", "$.migrations[*]") {
        let all = "file string, name string, out_of_order boolean, runs string, statements array, version string";
        assert_eq!(found, all);
    }
    for found in members("statements", "$.migrations[*].statements[*]") {
        let measured = if found.contains("measured null") { "null" } else { "object" };
        assert_eq!(
            found,
            format!(
                "line number, locks array, measured {measured}, unknown array, verb string, warnings array"
            )
        );
    }
    for found in members("locks", "$.migrations[*].statements[*].locks[*]") {
        assert!(
            found == "mode string, related null, table string"
                || found == "mode string, related string, table null",
            "{found}"
        );
    }
    for found in members("warnings", "$.migrations[*].statements[*].warnings[*]") {
        let table = if found.contains("table null") { "null" } else { "string" };
        assert_eq!(found, format!("kind string, message string, safer string, table {table}"));
    }
    let measured = "$.migrations[*].statements[*].measured ? (@ != null)";
    for found in members("measurements", measured) {
        assert_eq!(found, "duration_us number, locks array, rewritten array");
    }
    for found in members("measured locks", "$.migrations[*].statements[*].measured.locks[*]") {
        assert_eq!(found, "mode string, table string");
    }
}

#[test]
fn lines_stay_within_80_columns_whatever_the_names() {
    let scratch = Scratch::new();
    let (wide, long) = ("ตาราง🐘", "l".repeat(60));
    scratch.sql(&format!("CREATE TABLE \"{wide}\" (a int); CREATE TABLE {long} (a int)"));
    scratch.file(
        "20240101000000_names.up.sql",
        format!("ALTER TABLE \"{wide}\" RENAME a TO b;\nALTER TABLE {long} ALTER a TYPE text, ADD UNIQUE (a), ALTER a SET NOT NULL"),
    );
    let outcome = scratch.lockstep(&["plan"]).run();
    outcome.code(0);
    assert!(outcome.stdout.contains(&format!("ACCESS EXCLUSIVE on \"{wide}\"")), "{outcome}");
    assert!(outcome.stdout.contains(&long), "{outcome}");
    let widest = outcome.stdout.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(80), "{outcome}");
}

#[test]
fn says_that_nothing_is_pending() {
    let scratch = Scratch::migrated([("20240101000000_one.up.sql", "SELECT 1")]);
    for arguments in [&["plan"][..], &["plan", "--rehearse"]] {
        let outcome = scratch.lockstep(arguments).run();
        outcome.code(0);
        assert_eq!(outcome.stdout, "nothing is pending: the database is up to date: 1 migration\n");
    }
    let outcome = scratch.lockstep(&["plan", "--json"]).run();
    outcome.code(0);
    let pending = ask(&scratch, &outcome.stdout, "SELECT d->'pending', d->'migrations' FROM d");
    assert_eq!(pending, ["0|[]"]);
}

#[test]
fn refuses_what_up_refuses_in_the_same_words() {
    for (file, code) in [("20240102000000_two.up.sql", 2), ("20240101000000_one.up.sql", 5)] {
        let scratch = Scratch::migrated([("20240101000000_one.up.sql", "SELECT 1")]);
        scratch.file(file, "SELECT 2; ROLLBACK;");
        let refused = scratch.up();
        refused.code(code);
        for arguments in [&["plan"][..], &["plan", "--json"], &["plan", "--rehearse"]] {
            let outcome = scratch.lockstep(arguments).run();
            outcome.code(code);
            assert_eq!(outcome.error(), refused.error());
            assert_eq!(outcome.stdout, "");
        }
    }
}

#[test]
fn a_role_that_may_only_select_gets_an_answer_and_changes_nothing() {
    let fresh = Scratch::new();
    fresh.file("20240101000000_one.up.sql", "CREATE TABLE t (a int)");
    for scratch in [fresh, with_pending_files()] {
        let role = scratch.role("reader", "LOGIN");
        scratch.sql(&format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}", role.name));
        let before = scratch.schema();
        for arguments in [&["plan"][..], &["plan", "--json"]] {
            let outcome = scratch.lockstep(arguments).env("DATABASE_URL", role.url()).run();
            outcome.code(0);
            assert!(outcome.stdout.contains("pending"), "{outcome}");
        }
        assert_eq!(scratch.schema(), before);
    }
}

#[test]
fn answers_while_a_runner_is_at_work_and_names_it() {
    let scratch = Scratch::migrated([("20240101000000_table.up.sql", "CREATE TABLE t (a int)")]);
    scratch.file("20240102000000_gate.up.sql", format!("LOCK TABLE t; {}", Gate::SQL));
    let mut gate = Gate::closed(&scratch);
    let mut running = scratch.patient_up().spawn();
    gate.wait_for_visitor();

    let outcome = scratch.lockstep(&["plan"]).run();
    outcome.code(0);
    let flat = outcome.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.starts_with("a runner is at work: pid "), "{outcome}");
    assert!(flat.contains("running gate 20240102000000, statement 2/2"), "{outcome}");
    assert!(flat.contains("20240102000000_gate.up.sql: in a transaction"), "{outcome}");
    let outcome = scratch.lockstep(&["plan", "--json"]).run();
    outcome.code(0);
    assert_follows_the_schema(&scratch, &outcome.stdout);
    assert_ne!(ask(&scratch, &outcome.stdout, "SELECT d->>'runner' FROM d"), ["∅"]);

    let outcome = scratch.lockstep(&["plan", "--rehearse"]).run();
    outcome.code(4);
    assert!(outcome.error().contains("the way of another runner: pid "), "{outcome}");
    assert!(!running.has_ended());
    gate.open();
    running.wait().code(0);
}

// The rehearsal.

#[test]
fn a_rehearsal_tells_what_was_locked_and_rewritten_and_leaves_nothing() {
    let scratch = Scratch::new();
    scratch.sql("CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    scratch.file(
        "20240101000000_one.up.sql",
        "CREATE TABLE u (a int);\nALTER TABLE t ADD b uuid DEFAULT gen_random_uuid();\nSAVEPOINT s; ROLLBACK TO s;\nSELECT a INTO v FROM t;",
    );
    scratch.file(
        "20240102000000_two.up.sql",
        "TRUNCATE u, v; ALTER TABLE t ALTER a TYPE bigint, ALTER b TYPE uuid; UPDATE t SET a = 2",
    );
    let before = scratch.schema();
    let outcome = scratch.lockstep(&["plan", "--rehearse"]).run();
    outcome.code(0);
    let masked: Vec<String> = outcome.stdout.lines().map(without_durations).collect();
    let expected = "\
20240101000000_one.up.sql: in a transaction
  line 1, …: CREATE TABLE u (a int)
  line 2, …: ALTER TABLE t ADD b uuid DEFAULT gen_random_uuid()
    ACCESS EXCLUSIVE on t
    rewrote t
    warning: rewrites t; nobody can read or write it meanwhile
      safer: add the column plain, fill it in batches, and then set its default
  line 3, …: SAVEPOINT s
  line 3, …: ROLLBACK TO s
  line 4, …: SELECT a INTO v FROM t

20240102000000_two.up.sql: in a transaction
  line 1, …: TRUNCATE u, v
  line 1, …: ALTER TABLE t ALTER a TYPE bigint, ALTER b TYPE uuid
    rewrote t
    warning: rewrites t; nobody can read or write it meanwhile
      safer: add a second column, copy in batches, and switch
  line 1, …: UPDATE t SET a = 2
    warning: goes through all rows of t, and an earlier statement of the file
      keeps readers and writers of it out meanwhile
      safer: do it in a file of its own, or in batches outside of migrations

rehearsed and rolled back: 2 migrations pending, 8 statements, 3 warnings
  ACCESS EXCLUSIVE on t";
    assert_eq!(masked.join("\n"), expected);
    let outcome = scratch.lockstep(&["plan", "--rehearse", "--json"]).run();
    outcome.code(0);
    assert_follows_the_schema(&scratch, &outcome.stdout);
    assert_eq!(scratch.schema(), before);
    assert_eq!(scratch.sql("SELECT * FROM t"), ["1"]);
}

fn without_durations(line: &str) -> String {
    match line.split_once(", ").zip(line.split_once(": ")) {
        Some(((head, _), (_, statement))) if line.starts_with("  line ") => {
            format!("{head}, …: {statement}")
        }
        _ => line.to_owned(),
    }
}

#[test]
fn many_tables_are_counted_and_odd_names_keep_their_line() {
    let scratch = Scratch::new();
    let tables: Vec<String> = (10..25).map(|it| format!("t{it}")).collect();
    let create = tables.iter().map(|it| format!("CREATE TABLE {it} (a int); "));
    scratch.sql(&create.collect::<String>());
    scratch.sql("CREATE TABLE \"a\nb\u{1b}[31m\u{202e}\" (a int); CREATE TABLE \"日本語日本語日本語日本語日本語\" (a int)");
    let list = tables.join(", ");
    scratch.file(
        "20240101000000_many.up.sql",
        format!("LOCK t11, t12, t13, t14 IN SHARE MODE;\nLOCK TABLE {list}"),
    );
    scratch.file(
        "20240102000000_odd.up.sql",
        "COMMENT ON TABLE \"a\nb\u{1b}[31m\u{202e}\" IS 'x';\nTRUNCATE \"日本語日本語日本語日本語日本語\"",
    );
    let outcome = scratch.lockstep(&["plan", "--rehearse"]).run();
    outcome.code(0);
    let masked: Vec<String> = outcome.stdout.lines().map(without_durations).collect();
    let locks = |line: &str| masked.iter().any(|it| it.trim_start() == line);
    assert!(locks("SHARE on t11, t12, t13, t14"), "{outcome}");
    assert!(locks("ACCESS EXCLUSIVE on t10, t11, t12, t13 and 11 more"), "{outcome}");
    assert!(locks("SHARE UPDATE EXCLUSIVE on \"a\\nb\\u{1b}[31m\\u{202e}\""), "{outcome}");
    // As wide as the terminal shows it.
    assert!(
        locks("warning: empties \"日本語日本語日本語日本語日本語\", also for those who began")
            && locks("to read before"),
        "{outcome}"
    );
    let json = scratch.lockstep(&["plan", "--rehearse", "--json"]).run();
    let all = "SELECT count(*) FROM d, jsonb_path_query(d, '$.migrations[0].statements[*].measured.locks[*]')";
    assert_eq!(ask(&scratch, &json.stdout, all), ["19"]);
}

#[test]
fn what_a_savepoint_gives_back_is_locked_and_rewritten_anew() {
    let scratch = Scratch::new();
    scratch.sql("CREATE TABLE t (a int); CREATE TABLE p (a int) PARTITION BY LIST (a); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)");
    scratch.file(
        "20240101000000_back.up.sql",
        "SAVEPOINT s;
ALTER TABLE t ALTER a TYPE bigint;
ROLLBACK TO s;
SELECT FROM t;
ALTER TABLE t ADD b int;
SAVEPOINT s;
ALTER TABLE t ALTER a TYPE bigint;
ROLLBACK TO s;
ALTER TABLE p ADD u uuid DEFAULT gen_random_uuid();
ALTER TABLE p ALTER u TYPE uuid;",
    );
    let outcome = scratch.lockstep(&["plan", "--rehearse", "--json"]).run();
    outcome.code(0);
    let measured = "SELECT (s->>'line') || coalesce((SELECT string_agg(' ' || (l->>'mode') || ' ' || (l->>'table'), '') FROM jsonb_array_elements(s->'measured'->'locks') l), '')
          || coalesce((SELECT string_agg(' rewrote ' || r, '') FROM jsonb_array_elements_text(s->'measured'->'rewritten') r), '')
        FROM d, jsonb_array_elements(d->'migrations'->0->'statements') s";
    assert_eq!(
        ask(&scratch, &outcome.stdout, measured),
        [
            "1",
            "2 ACCESS EXCLUSIVE t rewrote t",
            "3",
            "4 ACCESS SHARE t",
            "5 ACCESS EXCLUSIVE t",
            "6",
            "7 rewrote t",
            "8",
            "9 ACCESS EXCLUSIVE p ACCESS EXCLUSIVE p1 rewrote p1",
            "10",
        ]
    );

    // The rows of a table with partitions are theirs: what is said of it holds if they were rewritten.
    let outcome = scratch.lockstep(&["plan", "--rehearse"]).run();
    let warnings = outcome.stdout.lines().filter(|it| it.contains("warning: "));
    let warnings: Vec<&str> = warnings.map(str::trim_start).collect();
    assert_eq!(
        warnings[1..],
        ["warning: rewrites p; nobody can read or write it meanwhile"],
        "{outcome}"
    );
    assert!(outcome.stdout.contains(" 10 statements, 2 warnings\n"));
}

#[test]
fn a_rehearsal_takes_back_in_both_formats_what_it_has_not_seen() {
    let scratch = Scratch::new();
    scratch.sql("CREATE DOMAIN short AS varchar(10); CREATE TABLE t (a varchar(10))");
    scratch.file("20240101000000_type.up.sql", "ALTER TABLE t ALTER a TYPE short");
    let warnings = "SELECT d->'warnings', d#>'{migrations,0,statements,0,warnings,0,kind}' FROM d";
    for (arguments, expected) in
        [(&["plan", "--json"][..], "1|\"may_rewrite\""), (&["plan", "--rehearse", "--json"], "0|∅")]
    {
        let outcome = scratch.lockstep(arguments).run();
        outcome.code(0);
        assert_eq!(ask(&scratch, &outcome.stdout, warnings), [expected]);
    }
    let outcome = scratch.lockstep(&["plan", "--rehearse"]).run();
    outcome.code(0);
    assert!(outcome.stdout.contains(" 0 warnings\n"), "{outcome}");
}

#[test]
fn a_rehearsal_does_not_blame_a_file_for_an_enum_value_that_is_not_committed() {
    let scratch = Scratch::new();
    scratch.sql("CREATE TYPE mood AS ENUM ('calm'); CREATE TABLE t (m mood)");
    scratch.file("20240101000000_add.up.sql", "ALTER TYPE mood ADD VALUE 'glad'");
    let file =
        scratch.file("20240102000000_use.up.sql", "SELECT 1;\nINSERT INTO t VALUES ('glad')");
    let outcome = scratch.lockstep(&["plan", "--rehearse"]).run();
    outcome.code(2);
    let told = format!(
        "{}:2: INSERT uses an enum value that an earlier file has to commit first",
        text(&file)
    );
    assert!(outcome.error().ends_with(&told), "{outcome}");
    scratch.up().code(0);
}

#[test]
fn a_rehearsal_refuses_what_has_to_run_outside_a_transaction() {
    let scratch = with_pending_files();
    let outcome = scratch.lockstep(&["plan", "--rehearse"]).run();
    outcome.code(2);
    let index = scratch.migrations().join("20240107000000_index.up.sql");
    assert!(
        outcome.error().ends_with(&format!("\n  {}:1: CREATE INDEX CONCURRENTLY", text(&index))),
        "{outcome}"
    );

    // What the text does not tell, the server does.
    let scratch = Scratch::new();
    scratch.sql("CREATE TABLE p (a int) PARTITION BY LIST (a)");
    let file = scratch.file("20240101000000_maybe.up.sql", "\nREINDEX TABLE p");
    let outcome = scratch.lockstep(&["plan", "--rehearse"]).run();
    outcome.code(2);
    assert!(outcome.error().ends_with(&format!("\n  {}:2: REINDEX", text(&file))), "{outcome}");
}

#[test]
fn an_error_in_a_rehearsal_is_the_one_that_up_would_show() {
    for (sql, notable) in [
        ("SELECT 1;\n/* é */ ALTER TABLE t ADD y varchr;", "\n    |                             ^"),
        ("SELECT * FORM t;", "syntax error"),
        ("SELECT 'it''s';\nINSERT INTO t VALUES (1, 2, 3)", "more expressions"),
        (
            "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1/0; END'; SELECT f();",
            "CONTEXT: ",
        ),
        ("SELECT 1; SELECT 1/0 FROM t", "division by zero"),
        ("CREATE TABLE x AS SELECT 1/0", "division by zero"),
        ("SELECT 1; SELECT nothing INTO x", "^"),
    ] {
        let scratch = Scratch::new();
        scratch.sql("CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
        scratch.file("20240101000000_wrong.up.sql", sql);
        let rehearsed = scratch.lockstep(&["plan", "--rehearse"]).run();
        rehearsed.code(1);
        let shown = scratch.up();
        assert_eq!(rehearsed.error(), shown.error());
        assert!(shown.error().contains(notable), "{shown}");
    }
}

/// With `standard_conforming_strings` off the server reads another statement than our lexer does: a COMMIT.
#[test]
fn a_rehearsal_cannot_be_made_to_commit() {
    for sql in [
        "CREATE TABLE leak (a int);\nSET standard_conforming_strings TO off;\nSELECT '\\'' ; COMMIT; --';",
        "CREATE TABLE leak (a int);\nDO $$ BEGIN COMMIT; END $$;",
        "CREATE TABLE leak (a int);\nCREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN COMMIT; END';\nCALL p();",
    ] {
        let scratch = Scratch::new();
        scratch.file("20240101000000_commit.up.sql", sql);
        let outcome = scratch.lockstep(&["plan", "--rehearse"]).run();
        outcome.code(1);
        assert_eq!(scratch.sql("SELECT to_regclass('leak')"), ["∅"], "{outcome}");
    }
}

#[test]
fn a_rehearsed_file_is_judged_at_its_end_and_leaves_the_next_nothing() {
    let scratch = Scratch::new();
    let twice = "INSERT INTO t VALUES (1); INSERT INTO t VALUES (1);";
    let deferred = "CREATE TABLE t (a int UNIQUE DEFERRABLE INITIALLY DEFERRED);";
    scratch.file("20240101000000_deferred.up.sql", format!("{deferred}\n{twice}"));
    let outcome = scratch.lockstep(&["plan", "--rehearse"]).run();
    outcome.code(1);
    assert!(outcome.error().contains("\n  the file's deferred constraints\n"), "{outcome}");

    // And not before its end, whatever stood before it.
    scratch.file("20240101000000_deferred.up.sql", deferred);
    scratch.file(
        "20240102000000_next.up.sql",
        format!("{twice} DELETE FROM t; CREATE TABLE u (a int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO u VALUES (1), (1); DELETE FROM u"),
    );
    scratch.lockstep(&["plan", "--rehearse"]).run().code(0);

    scratch.file(
        "20240101000000_deferred.up.sql",
        "CREATE SCHEMA s; CREATE TABLE t (a int); CREATE TEMP TABLE gone (a int); PREPARE p AS SELECT 1; SET search_path TO s; SET ROLE pg_monitor; SET statement_timeout TO '1min'",
    );
    scratch.file(
        "20240102000000_next.up.sql",
        "DO $$ BEGIN ASSERT current_user = session_user; ASSERT to_regclass('gone') IS NULL; ASSERT to_regclass('t') IS NOT NULL;
         ASSERT current_setting('statement_timeout') = '0'; ASSERT NOT EXISTS (SELECT FROM pg_prepared_statements); END $$",
    );
    scratch.lockstep(&["plan", "--rehearse"]).run().code(0);
}

/// What is deferred in a schema that is closed to the role is none of its business; `up` does not stumble over it either.
#[test]
fn a_rehearsal_needs_no_right_that_up_does_not_need() {
    let scratch = Scratch::new();
    let role = scratch.role("modest", "LOGIN");
    scratch.sql(&format!(
        "CREATE SCHEMA closed CREATE TABLE t (a int UNIQUE DEFERRABLE INITIALLY DEFERRED);
         GRANT CREATE ON SCHEMA public TO {0}; GRANT CREATE ON DATABASE {1} TO {0}",
        role.name, scratch.database
    ));
    scratch.file(
        "20240101000000_a.up.sql",
        "CREATE TABLE t (a int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO t VALUES (1)",
    );
    for arguments in [&["plan", "--rehearse"][..], &["up"]] {
        let run = scratch.lockstep(arguments).env("DATABASE_URL", role.url());
        run.run().code(0);
    }
}

#[test]
fn a_rehearsal_stops_at_a_signal() {
    let scratch = Scratch::with([(
        "20240101000000_gate.up.sql",
        &format!("CREATE TABLE t (a int); {}", Gate::SQL),
    )]);
    let mut gate = Gate::closed(&scratch);
    let running =
        scratch.lockstep(&["plan", "--rehearse"]).env("DDL_LOCK_TIMEOUT_SECONDS", "0").spawn();
    gate.wait_for_visitor();
    running.signal("TERM");
    running.wait().code(143).says("nothing stays");
    assert_eq!(scratch.sql("SELECT to_regclass('t')"), ["∅"]);
}

#[test]
fn a_rehearsal_that_meets_a_lock_names_who_holds_it() {
    let scratch = Scratch::new();
    scratch.sql("CREATE TABLE t (a int)");
    scratch.file("20240101000000_table.up.sql", "SELECT 1; ALTER TABLE t ADD b int");
    let mut reader = scratch.client();
    reader.batch_execute("BEGIN; SELECT * FROM t").expect("a reader");
    let outcome =
        scratch.lockstep(&["plan", "--rehearse"]).env("DDL_LOCK_TIMEOUT_SECONDS", "0.1").run();
    outcome.code(4);
    assert!(outcome.error().contains("blocked by pid "), "{outcome}");
    assert!(outcome.error().contains("AccessShareLock on t"), "{outcome}");
}

// The static statement of locks against the measured one.

/// What every statement of [`STATEMENTS`] finds: `{a}` and `{b}` are tables of its own, filled, with an index on x.
const TABLES: &str = "CREATE TABLE {a} (id int PRIMARY KEY, x int, y varchar(10), CONSTRAINT {a}_positive CHECK (id > 0));
    CREATE TABLE {b} (id int PRIMARY KEY, x int, y varchar(10));
    INSERT INTO {a} SELECT n, n, n FROM generate_series(1, 5) n;
    INSERT INTO {b} SELECT n, n, n FROM generate_series(1, 5) n;
    CREATE INDEX {a}_x ON {a} (x);";

/// A statement, and what it needs beside the two tables.
const STATEMENTS: &[(&str, &str)] = &[
    // ACCESS SHARE
    ("SELECT * FROM {a}", ""),
    ("TABLE {a}", ""),
    ("EXPLAIN (COSTS off) DELETE FROM {a}", ""),
    ("LOCK TABLE {a} IN ACCESS SHARE MODE", ""),
    // ROW SHARE
    ("SELECT * FROM {a} FOR UPDATE", ""),
    ("LOCK TABLE {a} IN ROW SHARE MODE", ""),
    // ROW EXCLUSIVE
    ("INSERT INTO {a} VALUES (9, 9, '9')", ""),
    ("INSERT INTO {a} (id) SELECT id + 10 FROM {b} ON CONFLICT DO NOTHING", ""),
    (
        "INSERT INTO {a} AS t VALUES (1, 2, '3') ON CONFLICT (id) DO UPDATE SET x = t.x + 1 RETURNING *",
        "",
    ),
    ("UPDATE {a} SET x = 1", ""),
    ("UPDATE ONLY {a} AS t SET x = o.x FROM {b} o WHERE o.id = t.id", ""),
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
    ("ALTER TABLE {a} SET (autovacuum_enabled = off, toast_tuple_target = 200)", ""),
    ("ALTER TABLE {a} RESET (fillfactor)", ""),
    ("ALTER TABLE {a} CLUSTER ON {a}_x", ""),
    ("ALTER TABLE {a} SET WITHOUT CLUSTER", ""),
    (
        "ALTER TABLE {a}_parent ATTACH PARTITION {b} FOR VALUES IN (1, 2, 3, 4, 5)",
        "ALTER TABLE {b} DROP CONSTRAINT {b}_pkey; CREATE TABLE {a}_parent (LIKE {b}) PARTITION BY LIST (id)",
    ),
    ("CREATE TABLE {a}_child () INHERITS ({a}, {b})", "ALTER TABLE {a} ALTER y DROP DEFAULT"),
    ("LOCK TABLE {a} IN SHARE UPDATE EXCLUSIVE MODE", ""),
    // SHARE
    ("CREATE INDEX ON {a} (y)", ""),
    ("CREATE UNIQUE INDEX {a}_unique ON ONLY {a} USING btree (lower(y)) WHERE id > 3", ""),
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
    ("ALTER TABLE {a} ADD CONSTRAINT f FOREIGN KEY (x) REFERENCES {b} (id)", ""),
    ("ALTER TABLE {a} ADD FOREIGN KEY (x) REFERENCES {b} NOT VALID", ""),
    ("CREATE TABLE {a}_new (x int REFERENCES {a}, y int, FOREIGN KEY (y) REFERENCES {b} (id))", ""),
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
    ("ALTER TABLE {a} ADD c timestamptz DEFAULT now(), ADD d text[] DEFAULT ARRAY['x', 'y']", ""),
    ("ALTER TABLE {a} ADD c uuid DEFAULT gen_random_uuid()", ""),
    ("ALTER TABLE {a} ADD c float8 DEFAULT round(random()::numeric, 2)", ""),
    ("ALTER TABLE {a} ADD c serial", ""),
    ("ALTER TABLE {a} ADD c int GENERATED ALWAYS AS (x + 1) STORED", ""),
    ("ALTER TABLE {a} ADD c int GENERATED BY DEFAULT AS IDENTITY", ""),
    ("ALTER TABLE {a} ADD c int CHECK (c > 0) UNIQUE REFERENCES {b}", ""),
    ("ALTER TABLE {a} ADD c {a}_domain", "CREATE DOMAIN {a}_domain AS int CHECK (VALUE > 0)"),
    (
        "ALTER TABLE {a} ADD c {a}_domain DEFAULT 3",
        "CREATE DOMAIN {a}_domain AS int CHECK (VALUE > 0)",
    ),
    ("ALTER TABLE {a} ADD c {a}_domain", "CREATE DOMAIN {a}_domain AS int DEFAULT 3"),
    ("ALTER TABLE {a} ADD c {a}_enum DEFAULT 'x'", "CREATE TYPE {a}_enum AS ENUM ('x')"),
    ("ALTER TABLE {a} DROP COLUMN x", ""),
    ("ALTER TABLE {a} DROP COLUMN x", "ALTER TABLE {a} ADD FOREIGN KEY (x) REFERENCES {b}"),
    ("ALTER TABLE {a} ALTER COLUMN x TYPE bigint", ""),
    ("ALTER TABLE {a} ALTER id TYPE bigint", "ALTER TABLE {b} ADD FOREIGN KEY (x) REFERENCES {a}"),
    (
        "ALTER TABLE {a} ALTER id TYPE bigint",
        "ALTER TABLE {a} ADD FOREIGN KEY (x) REFERENCES {a}; ALTER TABLE {a} ADD FOREIGN KEY (x) REFERENCES {b}",
    ),
    ("ALTER TABLE {a} ALTER x TYPE bigint", "ALTER TABLE {a} ADD FOREIGN KEY (x) REFERENCES {b}"),
    ("ALTER TABLE {a} ALTER y TYPE text", ""),
    ("ALTER TABLE {a} ALTER y TYPE varchar(5)", ""),
    ("ALTER TABLE {a} ALTER y TYPE text COLLATE \"C\" USING y", ""),
    ("ALTER TABLE {a} ALTER x TYPE int4 USING x::int", ""),
    (
        "ALTER TABLE {a} ALTER n TYPE decimal(12, 2), ALTER t TYPE timestamp(4), ALTER i TYPE inet",
        "ALTER TABLE {a} ADD n numeric(9, 2), ADD t timestamp(3), ADD i cidr",
    ),
    ("ALTER TABLE {a} ALTER n TYPE numeric(12, 3)", "ALTER TABLE {a} ADD n numeric(9, 2)"),
    ("ALTER TABLE {a} ALTER t TYPE timestamp(2)", "ALTER TABLE {a} ADD t timestamp(3)"),
    ("ALTER TABLE {a} ALTER j TYPE jsonb", "ALTER TABLE {a} ADD j json"),
    ("ALTER TABLE {a} ALTER y TYPE {a}_domain", "CREATE DOMAIN {a}_domain AS varchar(10)"),
    (
        "ALTER TABLE {a} ADD c text DEFAULT regexp_replace(host('::1'), 'x', jsonb_array_length('[]')::text)",
        "",
    ),
    (
        "ALTER TABLE {a} ADD c int DEFAULT {a}_one()",
        "CREATE FUNCTION {a}_one() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'",
    ),
    ("DROP TABLE {a}", "ALTER TABLE {a} ADD FOREIGN KEY (x) REFERENCES {b}"),
    ("ALTER TABLE {a} ALTER y SET DATA TYPE varchar(20)", ""),
    ("ALTER TABLE {a} ALTER y TYPE text USING y || 'x'", ""),
    ("ALTER TABLE {a} ALTER x SET DEFAULT 3", ""),
    ("ALTER TABLE {a} ALTER x DROP DEFAULT", ""),
    ("ALTER TABLE {a} ALTER x SET NOT NULL", ""),
    ("ALTER TABLE {a} ALTER x DROP NOT NULL", ""),
    ("ALTER TABLE {a} ALTER y SET STORAGE EXTERNAL", ""),
    ("ALTER TABLE {a} ALTER y SET COMPRESSION pglz", ""),
    ("ALTER TABLE {a} ALTER id ADD GENERATED ALWAYS AS IDENTITY", ""),
    (
        "ALTER TABLE {a} ALTER c DROP EXPRESSION",
        "ALTER TABLE {a} ADD c int GENERATED ALWAYS AS (x + 1) STORED",
    ),
    ("ALTER TABLE {a} ADD CONSTRAINT c CHECK (x > 0)", ""),
    ("ALTER TABLE {a} ADD CHECK (x > 0) NOT VALID", ""),
    ("ALTER TABLE {a} ADD UNIQUE (x)", ""),
    ("ALTER TABLE {a} ADD CONSTRAINT {a}_c EXCLUDE USING btree (x WITH =)", ""),
    (
        "ALTER TABLE {a} ADD CONSTRAINT {a}_c UNIQUE USING INDEX {a}_unique",
        "CREATE UNIQUE INDEX {a}_unique ON {a} (x)",
    ),
    ("ALTER TABLE {b} DROP CONSTRAINT {b}_pkey, ADD PRIMARY KEY (id)", ""),
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
    ("ALTER TABLE {a} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY", ""),
    ("ALTER TABLE {a} OWNER TO CURRENT_USER", ""),
    ("ALTER TABLE {a} REPLICA IDENTITY FULL", ""),
    ("ALTER TABLE {a} INHERIT {b}", ""),
    ("ALTER TABLE {a} NO INHERIT {b}", "ALTER TABLE {a} INHERIT {b}"),
    ("ALTER TABLE {a} RENAME TO {a}_renamed", ""),
    ("ALTER TABLE {a} RENAME x TO z", ""),
    ("ALTER TABLE {a} RENAME CONSTRAINT {a}_positive TO z", ""),
    ("ALTER TABLE {a} SET SCHEMA elsewhere", ""),
    ("ALTER TABLE {a} DISABLE RULE r", "CREATE RULE r AS ON INSERT TO {a} DO NOTHING"),
    (
        "ALTER TABLE {a}_parent DETACH PARTITION {b}",
        "CREATE TABLE {a}_parent (LIKE {b}) PARTITION BY LIST (id); ALTER TABLE {a}_parent ATTACH PARTITION {b} DEFAULT",
    ),
    ("ALTER VIEW {a}_view SET (security_barrier)", "CREATE VIEW {a}_view AS SELECT * FROM {a}"),
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
    ("CREATE RULE r AS ON INSERT TO {a} DO ALSO DELETE FROM {b}", ""),
    ("DROP RULE r ON {a}", "CREATE RULE r AS ON INSERT TO {a} DO NOTHING"),
    ("CREATE POLICY p ON {a} USING (x IN (SELECT x FROM {b}))", ""),
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
    ("DROP TABLE {b}, {a} CASCADE", "CREATE TABLE {a}_child (x int REFERENCES {a})"),
    // Partitions
    (
        "SELECT * FROM {a}_parent",
        "CREATE TABLE {a}_parent (LIKE {b}) PARTITION BY LIST (id); CREATE TABLE {a}_rest PARTITION OF {a}_parent DEFAULT",
    ),
    (
        "INSERT INTO {a}_parent SELECT * FROM {b}",
        "CREATE TABLE {a}_parent (LIKE {b}) PARTITION BY LIST (id); CREATE TABLE {a}_rest PARTITION OF {a}_parent DEFAULT",
    ),
    (
        "ALTER TABLE {a}_parent ADD z int",
        "CREATE TABLE {a}_parent (LIKE {b}) PARTITION BY LIST (id); CREATE TABLE {a}_rest PARTITION OF {a}_parent DEFAULT",
    ),
    (
        "CREATE INDEX ON {a}_parent (id)",
        "CREATE TABLE {a}_parent (LIKE {b}) PARTITION BY LIST (id); CREATE TABLE {a}_rest PARTITION OF {a}_parent DEFAULT",
    ),
    (
        "TRUNCATE {a}_parent",
        "CREATE TABLE {a}_parent (LIKE {b}) PARTITION BY LIST (id); CREATE TABLE {a}_rest PARTITION OF {a}_parent DEFAULT",
    ),
    (
        "LOCK {a}_parent IN SHARE MODE",
        "CREATE TABLE {a}_parent (LIKE {b}) PARTITION BY LIST (id); CREATE TABLE {a}_rest PARTITION OF {a}_parent DEFAULT",
    ),
    (
        "DROP TABLE {a}_parent",
        "CREATE TABLE {a}_parent (LIKE {b}) PARTITION BY LIST (id); CREATE TABLE {a}_rest PARTITION OF {a}_parent DEFAULT",
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
            text.replace("{a}", &format!("a{number}")).replace("{b}", &format!("b{number}"))
        };
        setup.push_str(&format!("{} {};", named(TABLES), named(needs)));
        file.push_str(&format!("{};\n", named(statement)));
    }
    scratch.sql(&setup);
    let before = scratch.schema();
    scratch.file("20240101000000_all.up.sql", &file);
    let read = scratch.lockstep(&["plan", "--json"]).run();
    let rehearsed = scratch.lockstep(&["plan", "--rehearse", "--json"]).run();
    rehearsed.code(0);
    assert_eq!(scratch.schema(), before, "everything was rolled back");

    let disagreements = disagreements(&scratch, read.code(0), &rehearsed);
    println!("{} statements, {} disagreements", STATEMENTS.len(), disagreements.len());
    let told: Vec<String> = disagreements
        .iter()
        .map(|(line, told)| format!("{}: {told}", file.lines().nth(line - 1).expect("a line")))
        .collect();
    assert!(told.is_empty(), "{} disagreements\n{}", told.len(), told.join("\n"));
}

/// Line and words of each difference between what was read and what was measured.
fn disagreements(scratch: &Scratch, read: &Outcome, rehearsed: &Outcome) -> Vec<(usize, String)> {
    let statements = "FROM d, jsonb_array_elements(d->'migrations'->0->'statements') s";
    let locks = |path: &str| {
        format!(
            "(SELECT string_agg(l->>'table' || '=' || (l->>'mode'), ',' ORDER BY l->>'table') FROM jsonb_array_elements({path}) l WHERE l->>'table' IS NOT NULL)"
        )
    };
    let query = format!("SELECT s->>'line', {},
          (SELECT string_agg(l->>'mode', ',') FROM jsonb_array_elements(s->'locks') l WHERE l->>'related' IS NOT NULL),
          jsonb_array_length(s->'unknown'),
          (SELECT string_agg(w->>'table', ',' ORDER BY 1) FROM jsonb_array_elements(s->'warnings') w WHERE w->>'kind' = 'rewrite'),
          (SELECT string_agg(w->>'table', ',' ORDER BY 1) FROM jsonb_array_elements(s->'warnings') w WHERE w->>'kind' = 'may_rewrite'),
          s->>'verb' {statements}", locks("s->'locks'"));
    let mut rows = ask(scratch, &read.stdout, &query);
    // What a rehearsal takes back is to be found here.
    let query = format!(
        "SELECT {}, (SELECT string_agg(r, ',' ORDER BY r) FROM jsonb_array_elements_text(s->'measured'->'rewritten') r) {statements}",
        locks("s->'measured'->'locks'")
    );
    let measured = ask(scratch, &rehearsed.stdout, &query);
    assert_eq!((rows.len(), measured.len()), (STATEMENTS.len(), STATEMENTS.len()));
    for (row, measured) in rows.iter_mut().zip(measured) {
        row.push_str(&format!("|{measured}"));
    }
    let mut found = Vec::new();
    for row in &rows {
        let columns: Vec<&str> = row.split('|').collect();
        let list = |index: usize| -> Vec<&str> {
            columns[index].split(',').filter(|it| *it != "∅").collect()
        };
        let (named, related, measured) = (list(1), list(2), list(7));
        // What reads is left to the rehearsal, and so is what keeps nobody but other DDL out, but for these commands.
        let writes = ["INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "ALTER TABLE"];
        let weakest = match writes.contains(&columns[6]) {
            true => "ROW EXCLUSIVE",
            false => "SHARE",
        };
        let line = columns[0].parse().expect("a line");
        let mut differ = |what: String| found.push((line, what));
        for lock in named.iter().filter(|lock| !measured.contains(lock)) {
            differ(format!("read {lock}, measured {measured:?}"));
        }
        for lock in measured.iter().filter(|lock| !named.contains(lock)) {
            let (table, mode) = lock.split_once('=').expect("table and mode");
            let is_named =
                named.iter().any(|it| it.split_once('=').expect("table and mode").0 == table);
            let may_be =
                columns[3] != "0" || related.iter().any(|it| strength(it) >= strength(mode));
            if !is_named && !may_be && strength(mode) >= strength(weakest) {
                differ(format!("measured {lock}, read {named:?}"));
            }
        }
        let (rewrites, may_rewrite, rewritten) = (list(4), list(5), list(8));
        // A materialized view is always written anew; that is no news.
        let is_refresh = columns[6] == "REFRESH MATERIALIZED VIEW";
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
