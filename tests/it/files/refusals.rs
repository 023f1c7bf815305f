//! Every refusal: its text to the letter, its exit code, and that nothing has changed.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use crate::support::{Lockstep, Scratch};

// The migrations directory. No server is asked: it could not answer.

#[test]
fn refuses_a_directory_that_does_not_exist() {
    let scratch = Scratch::new();
    fs::remove_dir(scratch.migrations()).expect("an empty directory");
    refuses_files(
        &scratch,
        "migrations: no such directory (MIGRATIONS_DIR says where migrations are)",
    );
}

#[test]
fn refuses_a_directory_that_is_a_file() {
    let scratch = Scratch::new();
    fs::remove_dir(scratch.migrations()).expect("an empty directory");
    fs::write(scratch.migrations(), "").expect("a file");
    refuses_files(
        &scratch,
        "migrations: not a directory (MIGRATIONS_DIR says where migrations are)",
    );
}

/// A wrong path must not look like a database that is up to date.
#[test]
fn refuses_a_directory_without_migrations() {
    let scratch = Scratch::new();
    let text =
        "migrations: holds no migration: YYYYMMDDHHMMSS_name.up.sql is expected here or below";
    refuses_files(&scratch, text);
    scratch.file("below/README.md", "no migration");
    scratch.file(".hidden/20240101000000_a.up.sql", "SELECT 1;");
    refuses_files(&scratch, text);
}

#[test]
fn refuses_every_sql_file_whose_name_is_no_migrations() {
    let scratch = Scratch::new();
    let names = [
        "2024010100000_thirteen.up.sql",
        "202401010000000_fifteen.up.sql",
        "20240101000000.up.sql",
        "20240101000000_.up.sql",
        "20240101000000_a b.up.sql",
        "20240101000000_a.b.up.sql",
        "20240101000000_a.sql",
        "20240101000000_a.up.SQL",
        "20240101000000_naïve.up.sql",
        "20240101000000_a.UP.sql",
        "20240101000000_a.tx.sql",
        "20240101000000_a.up.down.sql",
        "20240101000000-a.up.sql",
        "2024-01-01_a.up.sql",
        "below/seed.sql",
        "v1_a.down.sql",
    ];
    names.iter().for_each(|name| {
        scratch.file(name, "SELECT 1;");
    });
    refuses_files(
        &scratch,
        "migrations: holds 14 SQL files without a migration's name (migrations/2024-01-01_a.up.sql is the first): \
         YYYYMMDDHHMMSS_name.up.sql is expected; `lockstep import` brings another tool's files
  migrations/20240101000000_a.sql: not a migration's name: YYYYMMDDHHMMSS_name.up.sql or .down.sql is expected, with 14 \
         digits and a name of letters, digits, _ and -; call it 20240101000000_a.up.sql
  migrations/20240101000000_a.tx.sql: not a migration's name: YYYYMMDDHHMMSS_name.up.sql or .down.sql is expected, with \
         14 digits and a name of letters, digits, _ and -; call it 20240101000000_a.tx.up.sql",
    );
    scratch.file("20230101000000_good.up.sql", "SELECT 1;");
    let mut complaints = names.map(|name| {
        let proposal = match name {
            "20240101000000_a.sql" => "; call it 20240101000000_a.up.sql",
            "20240101000000_a.tx.sql" => "; call it 20240101000000_a.tx.up.sql",
            _ => "",
        };
        format!(
            "migrations/{name}: not a migration's name: YYYYMMDDHHMMSS_name.up.sql or .down.sql is expected, with 14 \
             digits and a name of letters, digits, _ and -{proposal}"
        )
    });
    complaints.sort();
    refuses_files(&scratch, &complaints.join("\n  "));
}

#[test]
fn refuses_a_name_that_is_not_utf_8() {
    let scratch = Scratch::new();
    let name = std::ffi::OsStr::from_bytes(b"20240101000000_\xff.up.sql");
    // Some file systems take no such name, so that there is nothing to refuse.
    if fs::write(scratch.migrations().join(name), "SELECT 1;").is_ok() {
        let outcome = unreachable(&scratch).run();
        let error = outcome.code(2).error();
        assert!(
            error.contains("20240101000000_\u{fffd}.up.sql: not a migration's name: "),
            "{error}"
        );
    }
}

#[test]
fn refuses_two_files_of_one_version() {
    let scratch = Scratch::with([
        ("20240101000000_a.up.sql", "SELECT 1;"),
        ("20240101000000_b.up.sql", "SELECT 1;"),
        ("old/20240101000001_c.up.sql", "SELECT 1;"),
        ("new/20240101000001_c.up.sql", "SELECT 1;"),
        ("20240101000002_d.tx.up.sql", "SELECT 1;"),
        ("20240101000002_d.up.sql", "SELECT 1;"),
    ]);
    refuses_files(
        &scratch,
        "migrations/20240101000000_a.up.sql: version 20240101000000 has 2 up files: \
         migrations/20240101000000_a.up.sql, migrations/20240101000000_b.up.sql
  migrations/20240101000002_d.tx.up.sql: version 20240101000002 has 2 up files: \
         migrations/20240101000002_d.tx.up.sql, migrations/20240101000002_d.up.sql
  migrations/new/20240101000001_c.up.sql: version 20240101000001 has 2 up files: \
         migrations/new/20240101000001_c.up.sql, migrations/old/20240101000001_c.up.sql",
    );
}

#[test]
fn refuses_a_down_file_without_its_up_file() {
    let scratch = Scratch::with([
        ("20240101000000_a.up.sql", "SELECT 1;"),
        ("20240101000000_renamed.down.sql", "SELECT 1;"),
        ("20240101000001_b.down.sql", "SELECT 1;"),
        ("20240101000002_c.tx.down.sql", "SELECT 1;"),
    ]);
    refuses_files(
        &scratch,
        "migrations/20240101000000_renamed.down.sql: a down file without its up file: \
         20240101000000_renamed.up.sql is missing
  migrations/20240101000001_b.down.sql: a down file without its up file: 20240101000001_b.up.sql is missing
  migrations/20240101000002_c.tx.down.sql: a down file without its up file: 20240101000002_c.up.sql is missing",
    );
}

#[test]
fn refuses_text_that_postgresql_cannot_take() {
    let scratch = Scratch::new();
    scratch.file("20240101000000_latin.up.sql", b"SELECT 1;\n-- caf\xe9\n");
    scratch.file("20240101000001_nul.up.sql", b"SELECT 1;\n\nSELECT '\0';");
    scratch.file("20240101000002_utf16.up.sql", b"\xff\xfeS\0E\0L\0E\0C\0T\0 \x001\0;\0");
    scratch.file("20240101000003_cut.up.sql", b"SELECT '\xe0\xb8");
    refuses_files(
        &scratch,
        "migrations/20240101000000_latin.up.sql: line 2: not UTF-8 (byte 17 of the file)
  migrations/20240101000001_nul.up.sql: line 3: a NUL, which PostgreSQL cannot take
  migrations/20240101000002_utf16.up.sql: line 1: not UTF-8 (byte 1 of the file)
  migrations/20240101000003_cut.up.sql: line 1: not UTF-8 (byte 9 of the file)",
    );
}

#[test]
fn refuses_a_link_that_leads_nowhere() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "SELECT 1;")]);
    std::os::unix::fs::symlink("gone", scratch.migrations().join("20240101000001_b.up.sql"))
        .expect("a link");
    refuses_files(
        &scratch,
        "migrations/20240101000001_b.up.sql: no such file (MIGRATIONS_DIR says where migrations are)",
    );
}

#[test]
fn names_every_problem_of_every_file_at_once() {
    let scratch = Scratch::new();
    scratch.file("20240101000000_a.up.sql", b"\xff");
    scratch.file("20240101000001_b.down.sql", "SELECT 1;");
    scratch.file("20240101000002_c.up.sql", "SELECT 1;");
    scratch.file("20240101000002_d.up.sql", "SELECT 1;");
    scratch.file("e.sql", "SELECT 1;");
    refuses_files(
        &scratch,
        "migrations/20240101000000_a.up.sql: line 1: not UTF-8 (byte 1 of the file)
  migrations/20240101000001_b.down.sql: a down file without its up file: 20240101000001_b.up.sql is missing
  migrations/20240101000002_c.up.sql: version 20240101000002 has 2 up files: \
         migrations/20240101000002_c.up.sql, migrations/20240101000002_d.up.sql
  migrations/e.sql: not a migration's name: YYYYMMDDHHMMSS_name.up.sql or .down.sql is expected, with 14 digits and a \
         name of letters, digits, _ and -",
    );
}

// What stands in pending files.

#[test]
fn refuses_what_would_begin_or_end_a_transaction() {
    let scratch = with_history();
    let cases = [
        ("begin", "BEGIN"),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", "BEGIN"),
        ("Start Transaction READ ONLY", "START TRANSACTION"),
        ("COMMIT", "COMMIT"),
        ("/* … */ commit AND CHAIN", "COMMIT"),
        ("END", "END"),
        ("END WORK", "END"),
        ("ROLLBACK", "ROLLBACK"),
        ("rollback work", "ROLLBACK"),
        ("ABORT", "ABORT"),
        ("PREPARE TRANSACTION 'a'", "PREPARE TRANSACTION"),
    ];
    let mut complaints = Vec::new();
    for (number, (statement, named)) in cases.iter().enumerate() {
        let name = format!("202401020000{number:02}_x.up.sql");
        scratch.file(
            &name,
            format!("CREATE TABLE x{number} ();\nSELECT 'ก'; {statement};\nSELECT 1;"),
        );
        let column = if statement.starts_with("/*") { 21 } else { 13 };
        complaints.push(format!(
            "migrations/{name}:2:{column}: {named} cannot stand in a migration: each file is one transaction already; \
             remove it"
        ));
    }
    refuses_pending(&scratch, &complaints.join("\n  "));
}

#[test]
fn refuses_copy_from_and_to_a_client_that_is_not_there() {
    let scratch = with_history();
    let from = "COPY … FROM STDIN cannot stand in a migration: there is no input; use INSERT";
    let to = "COPY … TO STDOUT cannot stand in a migration: nobody reads the output; remove it";
    scratch.file(
        "20240102000000_pg_dump.up.sql",
        "CREATE TABLE x (a text);\nCOPY public.x (a) FROM stdin;\nCOMMIT;\n\\N\n\\.\n\nCOPY x TO STDOUT (FORMAT csv);\n",
    );
    scratch.file("20240102000001_query.up.sql", "  COPY (SELECT 1; ) TO STDOUT");
    scratch.file("20240102000002_select.up.sql", "COPY (SELECT 'COPY x FROM STDIN') TO STDOUT");
    refuses_pending(
        &scratch,
        &format!(
            "migrations/20240102000000_pg_dump.up.sql:2:1: {from}
  migrations/20240102000000_pg_dump.up.sql:7:1: {to}
  migrations/20240102000001_query.up.sql:1:3: {to}
  migrations/20240102000002_select.up.sql:1:1: {to}"
        ),
    );
}

#[test]
fn refuses_commands_of_psql() {
    let scratch = with_history();
    scratch.file(
        "20240102000000_x.up.sql",
        "\\set ON_ERROR_STOP on\nCREATE TABLE x ();\n  \\i other.sql\nSELECT 1 \\gset\n\\restrict key\n\\connect \"a b\"\n",
    );
    let is = |place: &str, command: &str| {
        format!(
            "migrations/20240102000000_x.up.sql:{place}: {command} is a command of psql, not of the server; remove it, \
             or write it in SQL"
        )
    };
    let complaints =
        [is("1:1", "\\set"), is("3:3", "\\i"), is("4:10", "\\gset"), is("6:1", "\\connect")];
    refuses_pending(&scratch, &complaints.join("\n  "));
}

#[test]
fn refuses_company_for_a_statement_that_cannot_run_in_a_transaction() {
    let scratch = with_history();
    scratch.file(
        "20240102000000_a.up.sql",
        "CREATE TABLE x (a int);\n\nCREATE INDEX CONCURRENTLY x_idx ON x (a);",
    );
    scratch
        .file("20240102000001_b.up.sql", "DROP INDEX CONCURRENTLY i; DROP INDEX CONCURRENTLY j;");
    scratch.file("20240102000002_c.up.sql", "VACUUM applied;\nSELECT 1;");
    scratch.file("20240102000003_d.up.sql", "SELECT 1;\nREINDEX (CONCURRENTLY) TABLE applied;");
    scratch.file(
        "20240102000004_e.up.sql",
        "SELECT 1;\nALTER TABLE a DETACH PARTITION b CONCURRENTLY;",
    );
    scratch
        .file("20240102000005_f.up.sql", "CREATE DATABASE x;\nALTER SYSTEM SET work_mem = '1GB';");
    refuses_pending(
        &scratch,
        "migrations/20240102000000_a.up.sql:3:1: CREATE INDEX CONCURRENTLY cannot share a file: give each its own
  migrations/20240102000001_b.up.sql:1:1: DROP INDEX CONCURRENTLY cannot share a file: give each its own
  migrations/20240102000001_b.up.sql:1:28: DROP INDEX CONCURRENTLY cannot share a file: give each its own
  migrations/20240102000002_c.up.sql:1:1: VACUUM cannot share a file: give each its own
  migrations/20240102000003_d.up.sql:2:1: REINDEX CONCURRENTLY cannot share a file: give each its own
  migrations/20240102000004_e.up.sql:2:1: DETACH PARTITION CONCURRENTLY cannot share a file: give each its own
  migrations/20240102000005_f.up.sql:1:1: CREATE DATABASE cannot share a file: give each its own
  migrations/20240102000005_f.up.sql:2:1: ALTER SYSTEM cannot share a file: give each its own
  hint: split 20240102000000_a.up.sql into, in this order:
    20240102000000_a_1.up.sql: CREATE TABLE
    20240102000006_a_2.up.sql: CREATE INDEX CONCURRENTLY
    (all but the first then run after 20240102000001, which has no room before it)
  hint: or leave it one file, whose statements run one by one, each exactly once: put `-- lockstep: no-transaction` on its first line
  hint: split 20240102000001_b.up.sql into, in this order:
    20240102000001_b_1.up.sql: DROP INDEX CONCURRENTLY
    20240102000007_b_2.up.sql: DROP INDEX CONCURRENTLY
    (all but the first then run after 20240102000002, which has no room before it)
  hint: or leave it one file, whose statements run one by one, each exactly once: put `-- lockstep: no-transaction` on its first line
  hint: split 20240102000002_c.up.sql into, in this order:
    20240102000002_c_1.up.sql: VACUUM
    20240102000008_c_2.up.sql: SELECT
    (all but the first then run after 20240102000003, which has no room before it)
  hint: or leave it one file, whose statements run one by one, each exactly once: put `-- lockstep: no-transaction` on its first line
  hint: split 20240102000003_d.up.sql into, in this order:
    20240102000003_d_1.up.sql: SELECT
    20240102000009_d_2.up.sql: REINDEX CONCURRENTLY
    (all but the first then run after 20240102000004, which has no room before it)
  hint: or leave it one file, whose statements run one by one, each exactly once: put `-- lockstep: no-transaction` on its first line
  hint: split 20240102000004_e.up.sql into, in this order:
    20240102000004_e_1.up.sql: SELECT
    20240102000010_e_2.up.sql: DETACH PARTITION CONCURRENTLY
    (all but the first then run after 20240102000005, which has no room before it)
  hint: or leave it one file, whose statements run one by one, each exactly once: put `-- lockstep: no-transaction` on its first line
  hint: split 20240102000005_f.up.sql into, in this order:
    20240102000005_f_1.up.sql: CREATE DATABASE
    20240102000011_f_2.up.sql: ALTER SYSTEM
    (all but the first then run after 20240102000006, which has no room before it)
  hint: or leave it one file, whose statements run one by one, each exactly once: put `-- lockstep: no-transaction` on its first line",
    );
}

#[test]
fn refuses_a_concurrent_index_without_a_name() {
    let scratch = with_history();
    scratch.file(
        "20240102000000_a.up.sql",
        "CREATE UNIQUE INDEX CONCURRENTLY ON public.applied (a, lower(b));",
    );
    scratch.file(
        "20240102000001_b.up.sql",
        "create index concurrently on only \"Other\" using btree (\"A\")",
    );
    refuses_pending(
        &scratch,
        "migrations/20240102000000_a.up.sql:1:1: CREATE INDEX CONCURRENTLY needs a name, or it cannot be found again; \
         for example <table>_<column>_idx
  migrations/20240102000001_b.up.sql:1:1: CREATE INDEX CONCURRENTLY needs a name, or it cannot be found again; for \
         example <table>_<column>_idx",
    );
}

/// What once ran, however it did, cannot be run again, so it need not be fit to.
#[test]
fn what_would_be_refused_in_a_pending_file_is_no_matter_in_an_applied_one() {
    let scratch = with_history();
    let unfit = [
        "BEGIN; SELECT 1; COMMIT;",
        "COPY x FROM STDIN;\n\\.\n",
        "\\i other.sql",
        "CREATE INDEX CONCURRENTLY ON x (a);",
        "SELECT 1; CREATE INDEX CONCURRENTLY i ON x (a);",
        "no SQL at all; 'and not even closed",
    ];
    for (number, text) in unfit.iter().enumerate() {
        scratch.file(&format!("2024010200000{number}_x.up.sql"), text);
        scratch.sql(&format!(
            "INSERT INTO bun_migrations (name, group_id) VALUES ('2024010200000{number}', 2)"
        ));
    }
    scratch.up().code(0).is_up_to_date(7);
    scratch.file("20240103000000_pending.up.sql", "CREATE TABLE pending ();");
    scratch.up().code(0);
}

#[test]
fn what_only_looks_like_something_to_refuse_is_not() {
    let scratch = Scratch::migrated([
        ("20240101000000_words.up.sql", WORDS),
        ("20240101000001_savepoints.up.sql", SAVEPOINTS),
        ("20240101000002_dump.up.sql", "\\restrict Ab1\n\nSELECT 1;\n\\unrestrict Ab1\n"),
        (
            "20240101000003_server_side_copy.up.sql",
            "COPY words TO PROGRAM 'cat >/dev/null'; COPY words FROM PROGRAM 'true'; COPY words FROM '/dev/null';",
        ),
        ("20240101000004_prepare.up.sql", "PREPARE transaction AS SELECT 1; EXECUTE transaction;"),
    ]);
    assert_eq!(
        scratch.sql("SELECT w FROM words ORDER BY w"),
        ["COMMIT;", "\\d words\nROLLBACK;\n\\q", "kept", "tail"]
    );
}

const WORDS: &str = r#"
-- COMMIT; \d
/* ROLLBACK; /* COPY words FROM STDIN; */ \q */
CREATE TABLE words (w text, "COMMIT;" text, "end" int);
INSERT INTO words VALUES ('COMMIT;'), ('\d words
ROLLBACK;
\q');
DO $$
BEGIN
  PERFORM CASE WHEN true THEN 1 END;
END
$$;
CREATE PROCEDURE commits() LANGUAGE plpgsql AS $body$
BEGIN
  COMMIT;
  ROLLBACK;
END;
$body$;
CREATE FUNCTION atomic() RETURNS int LANGUAGE SQL BEGIN ATOMIC
  SELECT 1;
  SELECT CASE WHEN true THEN 2 END;
END;
CREATE RULE nothing AS ON DELETE TO words DO INSTEAD (SELECT 1; SELECT 2);
CREATE VIEW conc AS SELECT 'CREATE INDEX CONCURRENTLY ON x (a)' AS vacuum;
INSERT INTO words VALUES ('tail')"#;

const SAVEPOINTS: &str = "
SAVEPOINT one;
INSERT INTO words VALUES ('undone');
ROLLBACK TO SAVEPOINT one;
ROLLBACK WORK TO one;
INSERT INTO words VALUES ('kept');
RELEASE one;
";

// Divergence.

#[test]
fn refuses_when_an_applied_file_was_edited() {
    let scratch = with_history();
    scratch.file(APPLIED, "CREATE TABLE applied (a int, b varchar);");
    refuses_divergence(
        &scratch,
        Policy::Mended,
        "20240101000000 modified: migrations/20240101000000_applied.up.sql: edited after it was applied",
    );
}

#[test]
fn refuses_when_the_file_of_an_applied_migration_is_gone() {
    let scratch = with_history();
    scratch.file("20240101000001_b.up.sql", "CREATE TABLE b ();");
    scratch.file("20240101000002_c.up.sql", "CREATE TABLE c ();");
    scratch.up().code(0);
    fs::remove_file(scratch.migrations().join("20240101000001_b.up.sql")).expect("a file");
    refuses_divergence(
        &scratch,
        Policy::Default,
        "20240101000001 missing: applied, but its file is gone",
    );
}

#[test]
fn refuses_an_older_file_where_order_is_strict() {
    let scratch = with_history();
    scratch.file("20231231000000_late.up.sql", "CREATE TABLE late ();");
    refuses_divergence(
        &scratch,
        Policy::StrictOrder,
        "20231231000000 out-of-order: migrations/20231231000000_late.up.sql: older than what is applied \
         (MIGRATION_ORDER=strict)",
    );
}

#[test]
fn names_every_divergence_and_every_obstacle_at_once() {
    let scratch = with_history();
    scratch.file("20240101000001_b.up.sql", "CREATE TABLE b ();");
    scratch.file("20240101000002_c.up.sql", "CREATE TABLE c ();");
    scratch.up().code(0);
    fs::remove_file(scratch.migrations().join("20240101000001_b.up.sql")).expect("a file");
    scratch.file(APPLIED, "CREATE TABLE applied ();");
    scratch.file("20240101000002_c.up.sql", "CREATE TABLE d ();");
    scratch.file("20231231000000_late.up.sql", "CREATE TABLE late ();\nROLLBACK;");
    scratch.file("20240103000000_new.up.sql", "CREATE TABLE new ();\n\\q");
    let text = format!(
        "history and files disagree, and pending migrations cannot be run; nothing was run
  20231231000000 out-of-order: migrations/20231231000000_late.up.sql: older than what is applied (MIGRATION_ORDER=strict)
  20240101000000 modified: migrations/20240101000000_applied.up.sql: edited after it was applied
  20240101000001 missing: applied, but its file is gone
  20240101000002 modified: migrations/20240101000002_c.up.sql: edited after it was applied
  migrations/20231231000000_late.up.sql:2:1: ROLLBACK cannot stand in a migration: each file is one transaction already; \
         remove it
  migrations/20240103000000_new.up.sql:2:1: \\q is a command of psql, not of the server; remove it, or write it in SQL
  {LATE_HINT}
  {DIVERGENCE_HINT}
  {MENDED_HINT}"
    );
    refuses(&scratch, &up(&scratch).env("MIGRATION_ORDER", "strict"), 5, &text);
}

#[test]
fn with_the_policy_to_warn_a_divergence_is_a_warning_and_what_is_pending_runs() {
    let scratch = with_history();
    scratch.file("20240101000001_b.up.sql", "CREATE TABLE b ();");
    scratch.file("20240101000002_c.up.sql", "CREATE TABLE c ();");
    scratch.up().code(0);
    fs::remove_file(scratch.migrations().join("20240101000001_b.up.sql")).expect("a file");
    scratch.file(APPLIED, "CREATE TABLE applied ();");
    scratch.file("20231231000000_late.up.sql", "CREATE TABLE late ();");
    scratch.file("20240103000000_new.up.sql", "CREATE TABLE new ();");
    let up = up(&scratch).env("MIGRATION_ORDER", "strict").env("MIGRATION_DIVERGENCE", "warn");
    let first = up.run();
    let warnings = warnings(&first);
    for text in [
        "20231231000000 out-of-order: migrations/20231231000000_late.up.sql: older than what is applied \
         (MIGRATION_ORDER=strict) (MIGRATION_DIVERGENCE=warn)",
        "20240101000000 modified: migrations/20240101000000_applied.up.sql: edited after it was applied \
         (MIGRATION_DIVERGENCE=warn)",
        "20240101000001 missing: applied, but its file is gone (MIGRATION_DIVERGENCE=warn)",
    ] {
        assert!(warnings.iter().any(|it| it == text), "{text}: {warnings:#?}");
    }
    first.code(0).applied_now(2);
    assert_eq!(
        scratch.value("SELECT to_regclass('late') IS NOT NULL AND to_regclass('new') IS NOT NULL"),
        "t"
    );
    // Also when nothing is pending.
    up.run()
        .code(0)
        .says("20240101000001 missing: applied, but its file is gone (MIGRATION_DIVERGENCE=warn)");
}

/// The policy is about history and files; what cannot run cannot run.
#[test]
fn with_the_policy_to_warn_an_obstacle_is_refused_all_the_same() {
    let scratch = with_history();
    scratch.file(APPLIED, "CREATE TABLE applied ();");
    scratch.file("20240102000000_x.up.sql", "COMMIT;");
    let up = up(&scratch).env("MIGRATION_DIVERGENCE", "warn");
    let text = "pending migrations cannot be run; nothing was run
  migrations/20240102000000_x.up.sql:1:1: COMMIT cannot stand in a migration: each file is one transaction already; \
                remove it";
    refuses(&scratch, &up, 2, text);
}

// What the tests above are made of.

const APPLIED: &str = "20240101000000_applied.up.sql";

const DIVERGENCE_HINT: &str = "hint: bring back the files that were applied, or, if the difference is meant, run with \
                               MIGRATION_DIVERGENCE=warn";

const MENDED_HINT: &str = "hint: or record a file that was mended as it is now: lockstep baseline VERSION, with its version";

const LATE_HINT: &str = "hint: give the late files a newer version, or, if they may run late, run with MIGRATION_ORDER=any";

/// A database that has one migration applied and one row in its table.
fn with_history() -> Scratch {
    Scratch::migrated([(
        APPLIED,
        "CREATE TABLE applied (a int, b text);\nINSERT INTO applied VALUES (1, 'x');",
    )])
}

/// `up` with a relative directory, so that texts can be compared to the letter.
fn up(scratch: &Scratch) -> Lockstep<'_> {
    scratch.lockstep(&["up"]).env("MIGRATIONS_DIR", "migrations")
}

/// The same, with a server that is not there: whoever wants to connect fails with another code.
fn unreachable(scratch: &Scratch) -> Lockstep<'_> {
    let url = "postgres://postgres@127.0.0.1:1/nowhere";
    up(scratch).env("DATABASE_URL", url).env("DATABASE_WAIT_SECONDS", "0")
}

#[track_caller]
fn refuses_files(scratch: &Scratch, complaints: &str) {
    let outcome = unreachable(scratch).run();
    let expected =
        format!("the migration files cannot be used; nothing was changed\n  {complaints}");
    assert_eq!(outcome.code(2).error(), expected, "\n{outcome}");
}

#[track_caller]
fn refuses_pending(scratch: &Scratch, complaints: &str) {
    let text = format!("pending migrations cannot be run; nothing was run\n  {complaints}");
    refuses(scratch, &up(scratch), 2, &text);
}

enum Policy {
    Default,
    /// The same, of a file that may have been mended.
    Mended,
    StrictOrder,
}

/// Whether there is something to run besides or not, it is refused; and nothing of it runs.
#[track_caller]
fn refuses_divergence(scratch: &Scratch, policy: Policy, divergence: &str) {
    let (up, hint) = match policy {
        Policy::Default => (up(scratch), DIVERGENCE_HINT.to_owned()),
        Policy::Mended => (up(scratch), format!("{DIVERGENCE_HINT}\n  {MENDED_HINT}")),
        Policy::StrictOrder => (up(scratch).env("MIGRATION_ORDER", "strict"), LATE_HINT.to_owned()),
    };
    let text = format!("history and files disagree; nothing was run\n  {divergence}\n  {hint}");
    refuses(scratch, &up, 5, &text);
    scratch.file("20250101000000_fine.up.sql", "CREATE TABLE fine ();");
    refuses(scratch, &up, 5, &text);
}

/// Runs it, and compares code, text, the schema, and every row of every table that there is.
#[track_caller]
fn refuses(scratch: &Scratch, up: &Lockstep<'_>, code: i32, text: &str) {
    let state = || (scratch.schema(), scratch.sql(ROWS));
    let before = state();
    let outcome = up.run();
    assert_eq!(outcome.code(code).error(), text, "\n{outcome}");
    assert_eq!(outcome.stdout, "");
    assert_eq!(state(), before);
}

const ROWS: &str = "SELECT ctid, xmin, xmax, t FROM bun_migrations t; SELECT ctid, xmin, xmax, t FROM bun_migrations_journal t; \
                    SELECT ctid, t FROM bun_migration_locks t; SELECT ctid, xmin, xmax, t FROM applied t";

fn warnings(outcome: &crate::support::Outcome) -> Vec<String> {
    let warnings = outcome.lines().into_iter().filter(|line| line.field("level") == Some("warn"));
    warnings.map(|line| line.field("message").expect("a message").to_owned()).collect()
}

// ---------------------------------------------------------------------------- other tools' files, and our own tables

#[test]
fn refuses_another_tools_way_back_in_an_up_file() {
    for (comment, tool) in [
        ("-- +goose Down", "goose"),
        ("--  +GOOSE  DOWN", "goose, spaced"),
        ("-- +migrate Down", "sql-migrate"),
        ("-- migrate:down", "dbmate"),
        ("--//@UNDO", "MyBatis"),
    ] {
        let text = format!("-- up\nCREATE TABLE made (a int);\n{comment}\nDROP TABLE made;\n");
        let scratch = with_history();
        scratch.file("20240102000000_made.up.sql", text);
        refuses_pending(
            &scratch,
            &format!(
                "migrations/20240102000000_made.up.sql:3:1: \"{comment}\" begins another tool's way back, which would be run \
                 right behind the way there; move it to the .down.sql file, or let `lockstep import` do so"
            ),
        );
        assert!(!scratch.history().is_empty(), "{tool}");
    }
}

#[test]
fn refuses_what_would_change_the_transaction() {
    let scratch = with_history();
    scratch.file(
        "20240102000000_level.up.sql",
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;\nSET TRANSACTION ISOLATION LEVEL SERIALIZABLE;\nSET LOCAL work_mem TO '8MB'",
    );
    refuses_pending(
        &scratch,
        "migrations/20240102000000_level.up.sql:2:1: SET TRANSACTION cannot stand in a migration: the fence of the lock holds \
         in a READ COMMITTED, READ WRITE transaction; remove it",
    );
}

#[test]
fn refuses_comments_that_speak_to_us_and_are_not_understood() {
    let scratch = with_history();
    scratch.file(
        "20240102000000_spelt.up.sql",
        "-- lockstep: no-transactions\nSELECT 1;\n-- lockstep: no-transaction\n-- +goose ENVSUB ON\nSELECT {{ a }}, {{ b }}",
    );
    let at = "migrations/20240102000000_spelt.up.sql";
    refuses_pending(
        &scratch,
        &format!(
            "{at}:1:1: \"-- lockstep: no-transactions\" is not understood: there is \"-- lockstep: no-transaction\"\n  \
             {at}:3:1: \"-- lockstep: no-transaction\" must stand before the first statement\n  \
             {at}:4:1: \"-- +goose ENVSUB ON\" asks for what Lockstep does not do: write the values into the file\n  \
             {at}:5:8: {{{{ is a template's, which nothing fills in here; write the values into the file"
        ),
    );
}

#[test]
fn refuses_a_file_that_creates_or_drops_our_tables() {
    let scratch = with_history();
    scratch.file(
        "20240102000000_dump.up.sql",
        "CREATE TABLE public.bun_migrations (id bigint);\nDROP TABLE IF EXISTS \"bun_migrations_journal\";\n\
         CREATE TEMP TABLE bun_migration_locks (a int)",
    );
    let words = |table: &str| {
        format!(
            "{table} is a table of Lockstep's own, which a migration must not create or drop; leave it out of a dump with \
             pg_dump --exclude-table='{table}*'"
        )
    };
    refuses_pending(
        &scratch,
        &format!(
            "migrations/20240102000000_dump.up.sql:1:1: {}\n  migrations/20240102000000_dump.up.sql:2:1: {}",
            words("bun_migrations"),
            words("bun_migrations_journal")
        ),
    );
}

/// The pair is not sent, and positions stay right; whatever else is of the kind is refused as ever.
#[test]
fn a_begin_and_commit_around_a_whole_file_are_not_sent() {
    let scratch = Scratch::with([
        ("20240101000001_a.up.sql", "BEGIN;\nCREATE TABLE a ();\nCOMMIT;\n"),
        (
            "20240101000002_b.up.sql",
            "-- wrapped\nstart transaction; CREATE TABLE b (); SAVEPOINT s; ROLLBACK TO s; end work",
        ),
        ("20240101000003_c.up.sql", "CREATE TABLE c ();\nCOMMIT"),
    ]);
    scratch.up().code(0).applied_now(3);
    scratch.file("20240101000004_d.up.sql", "BEGIN;\nCREATE TABLE d ();\nSELECT é;\nCOMMIT;");
    let error = scratch.up().code(1).error();
    assert!(error.contains("20240101000004_d.up.sql:3:8: "), "{error}");
    assert_eq!(scratch.value("SELECT to_regclass('d')"), "∅");
    for text in [
        "BEGIN; COMMIT; BEGIN; COMMIT",
        "SELECT 1; BEGIN; SELECT 2; COMMIT",
        "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; COMMIT",
        "BEGIN; SELECT 1",
        "BEGIN; SELECT 1; ROLLBACK",
        "BEGIN; SELECT 1; COMMIT AND CHAIN",
        "BEGIN; CREATE INDEX CONCURRENTLY a_idx ON a (b); COMMIT",
    ] {
        scratch.file("20240101000004_d.up.sql", text);
        scratch.up().code(2).is_silent_about("split ");
    }
}
