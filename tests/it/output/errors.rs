//! The words of an error: the place, the excerpt with its caret, what the server adds, and what stays applied.

use std::process::Command;

use crate::support::words::CLEANS_UP;
use crate::support::{Lockstep, Outcome, Scratch, admin};

const VERSION: &str = "20240101000000";
const FILE: &str = "20240101000000_a.up.sql";
const PATH: &str = "migrations/20240101000000_a.up.sql";
const ROLLED_BACK: &str =
    "  rolled back; this run applied nothing before it; fix the file and run again";

impl Scratch {
    /// `lockstep up` from the directory above the migrations, so that paths are short.
    fn up_here(&self) -> Lockstep<'_> {
        self.lockstep(&["up"]).env("MIGRATIONS_DIR", "migrations")
    }
}

/// The error of a run with this one migration, which fails and leaves nothing behind.
#[track_caller]
fn error_of(scratch: &Scratch, text: impl AsRef<[u8]>) -> String {
    scratch.file(FILE, text);
    let outcome = scratch.up_here().run();
    outcome.code(1);
    assert_eq!(scratch.history(), [""; 0], "{outcome}");
    outcome.error()
}

/// Asserts that the migration's error is `<path>:` and then these lines, rolled back.
#[track_caller]
fn assert_error(text: impl AsRef<[u8]>, lines: &[&str]) {
    assert_error_in(&Scratch::new(), text, lines);
}

#[track_caller]
fn assert_error_in(scratch: &Scratch, text: impl AsRef<[u8]>, lines: &[&str]) {
    let error = error_of(scratch, text);
    let expected = format!("{PATH}:{}\n{ROLLED_BACK}", lines.join("\n"));
    assert!(error == expected, "\n--- expected\n{expected}\n--- got\n{error}");
}

fn fields(outcome: &Outcome, names: &[&str]) -> Vec<Option<String>> {
    let lines = outcome.lines();
    let error = lines.iter().find(|line| line.field("level") == Some("error")).expect("an error");
    names.iter().map(|name| error.field(name).map(str::to_owned)).collect()
}

/// A migration that waits for what a test holds must not be left behind by its panic: all of these end by themselves.
fn database_with(encoding: &str) -> Scratch {
    let scratch = Scratch::new();
    let name = &scratch.database;
    let mut admin = admin();
    admin.batch_execute(&format!("DROP DATABASE {name}")).expect("it is not in use");
    let create =
        format!("CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
    admin.batch_execute(&create).expect("a database");
    scratch
}

#[test]
fn the_text_format_shows_the_error_plainly() {
    let scratch = Scratch::with([
        ("20230314095813_create.up.sql", "CREATE TABLE proxied_request_metrics (id bigserial);"),
        ("20230314101402_b.up.sql", "SELECT 1"),
        ("20230314101527_c.up.sql", "SELECT 1"),
        ("20230314101528_d.up.sql", "SELECT 1"),
        (
            "20230320161721_add_ip.up.sql",
            "-- the client's address\n\nALTER TABLE proxied_request_metrics ADD request_ip varchr;\n",
        ),
    ]);
    let outcome = scratch.up_here().env("LOG_FORMAT", "text").run();
    outcome.code(1);
    let expected = "\
error: migrations/20230320161721_add_ip.up.sql:3:52: type \"varchr\" does not exist (SQLSTATE 42704)
  3 | ALTER TABLE proxied_request_metrics ADD request_ip varchr;
    |                                                    ^
  rolled back; 4 migrations before it stay applied; fix the file and run again
";
    assert!(outcome.stderr.ends_with(expected), "{outcome}");
    assert_eq!(scratch.history().len(), 4);
}

#[test]
fn json_carries_the_same_in_fields() {
    let scratch = Scratch::with([(FILE, "SELECT 1;\n\n  SELECT nosuch;")]);
    let outcome = scratch.up_here().run();
    outcome.code(1);
    let told = fields(&outcome, &["file", "line", "column", "sqlstate", "applied_before"]);
    let expected = [PATH, "3", "10", "42703", "0"].map(|value| Some(value.to_owned()));
    assert_eq!(told, expected, "{outcome}");
}

#[test]
fn points_at_a_syntax_error() {
    assert_error(
        "CREATE TABLE t (a int);\nSELEC 1;\n",
        &["2:1: syntax error at or near \"SELEC\" (SQLSTATE 42601)", "  2 | SELEC 1;", "    | ^"],
    );
}

/// Nothing of a message with a syntax error runs, so what stands before it must not have run either.
#[test]
fn nothing_of_a_file_with_a_syntax_error_runs() {
    let scratch = Scratch::new();
    error_of(&scratch, "CREATE SEQUENCE s;\nSELECT nextval('s');\nSELECT 1 1;");
    assert_eq!(scratch.value("SELECT to_regclass('s') IS NULL"), "t");
}

#[test]
fn counts_characters_not_bytes() {
    assert_error(
        "-- ตาราง\nSELECT 'สวัสดีชาวโลก 🐘👩‍👩‍👧 é', 1::nosuch;",
        &[
            "2:36: type \"nosuch\" does not exist (SQLSTATE 42704)",
            "  2 | SELECT 'สวัสดีชาวโลก 🐘👩‍👩‍👧 é', 1::nosuch;",
            "    |                                    ^",
        ],
    );
}

#[test]
fn points_into_the_right_statement_of_several() {
    assert_error(
        "-- é\nCREATE TABLE ตาราง (a int); INSERT INTO ตาราง VALUES (1);\n/* 🐘 */ INSERT INTO ตาราง VALUES (1), (nosuch);\nSELECT 1;",
        &[
            "3:40: column \"nosuch\" does not exist (SQLSTATE 42703)",
            "  3 | /* 🐘 */ INSERT INTO ตาราง VALUES (1), (nosuch);",
            "    |                                         ^",
            "  statement 3 of 4: INSERT",
        ],
    );
}

#[test]
fn shows_the_middle_of_a_line_of_a_mebibyte() {
    let half = 512 * 1024;
    let list = |from: usize| {
        (0..half / 8).map(|number| format!("{},", 1_000_000 + from + number)).collect::<String>()
    };
    let before = format!("SELECT '{}', ARRAY[{}", "ก".repeat(100), list(0));
    let text = format!("SELECT 1;\n{before}nosuch,{}0];\n", list(half));
    assert!(text.len() > 1024 * 1024);
    let column = before.chars().count() + 1;

    let scratch = Scratch::new();
    let error = error_of(&scratch, &text);
    let lines: Vec<&str> = error.lines().collect();
    let [first, excerpt, caret, statement, outcome] = lines[..] else { panic!("{error}") };
    assert_eq!(
        first,
        format!("{PATH}:2:{column}: column \"nosuch\" does not exist (SQLSTATE 42703)")
    );
    assert_eq!((statement, outcome), ("  statement 2 of 2: SELECT", ROLLED_BACK));
    let excerpt = excerpt
        .strip_prefix("  2 | …")
        .and_then(|it| it.strip_suffix('…'))
        .expect("what is left out");
    assert!(excerpt.chars().count() < 80, "{error}");
    let shown = excerpt.find("nosuch,").unwrap_or_else(|| panic!("{error}"));
    assert_eq!(caret, format!("    | {}^", " ".repeat(shown + 1)));
}

#[test]
fn a_carriage_return_is_no_part_of_a_line() {
    assert_error(
        "SELECT 1;\r\n-- two\r\nSELECT nosuch;\r\n",
        &[
            "3:8: column \"nosuch\" does not exist (SQLSTATE 42703)",
            "  3 | SELECT nosuch;",
            "    |        ^",
            "  statement 2 of 2: SELECT",
        ],
    );
}

#[test]
fn a_byte_order_mark_takes_no_place() {
    assert_error(
        "\u{feff}SELECT nosuch;",
        &[
            "1:8: column \"nosuch\" does not exist (SQLSTATE 42703)",
            "  1 | SELECT nosuch;",
            "    |        ^",
        ],
    );
}

#[test]
fn a_tab_is_one_column_and_stays_a_tab_above_the_caret() {
    assert_error(
        "SELECT\n\t1,\té\tAS x;",
        &[
            "2:5: column \"é\" does not exist (SQLSTATE 42703)",
            "  2 | \t1,\té\tAS x;",
            "    | \t  \t^",
        ],
    );
}

#[test]
fn line_numbers_of_several_digits_keep_the_caret_in_place() {
    assert_error(
        format!("{}SELECT nosuch", "\n".repeat(99)),
        &[
            "100:8: column \"nosuch\" does not exist (SQLSTATE 42703)",
            "  100 | SELECT nosuch",
            "      |        ^",
        ],
    );
}

#[test]
fn an_error_without_a_position_names_its_statement_and_detail() {
    assert_error(
        "CREATE TABLE t (a int PRIMARY KEY);\nINSERT INTO t VALUES (1);\n\n  INSERT INTO t\n  VALUES (2), (1);\nSELECT 1;",
        &[
            "4:3: duplicate key value violates unique constraint \"t_pkey\" (SQLSTATE 23505)",
            "  4 |   INSERT INTO t",
            "  statement 3 of 4: INSERT",
            "  DETAIL: Key (a)=(1) already exists.",
        ],
    );
}

#[test]
fn the_servers_hint_is_shown() {
    assert_error(
        "CREATE TABLE t (amount int);\nSELECT t.amont FROM t;",
        &[
            "2:8: column t.amont does not exist (SQLSTATE 42703)",
            "  2 | SELECT t.amont FROM t;",
            "    |        ^",
            "  statement 2 of 2: SELECT",
            "  HINT: Perhaps you meant to reference the column \"t.amount\".",
        ],
    );
}

#[test]
fn an_error_inside_a_block_has_its_context() {
    assert_error(
        "SELECT 1;\nDO $$\nBEGIN\n  PERFORM 1 / 0;\nEND $$;",
        &[
            "4:3: division by zero (SQLSTATE 22012)",
            "  4 |   PERFORM 1 / 0;",
            "  statement 2 of 2: DO",
            "  CONTEXT: SQL statement \"SELECT 1 / 0\"",
            "    PL/pgSQL function inline_code_block line 3 at PERFORM",
        ],
    );
}

#[test]
fn an_error_inside_a_function_has_its_context() {
    let scratch = Scratch::new();
    let text = "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN\n  RETURN nosuch;\nEND $$;\nSELECT f();";
    let error = error_of(&scratch, text);
    let start = format!(
        "{PATH}:2:10: column \"nosuch\" does not exist (SQLSTATE 42703)\n  2 |   RETURN nosuch;\n    |          ^\n  statement 2 of 2: SELECT\n"
    );
    assert!(error.starts_with(&start), "{error}");
    // What the position is in that the server gave.
    assert!(error.contains("QUERY: nosuch\n"), "{error}");
    let end = format!("PL/pgSQL function f() line 2 at RETURN\n{ROLLED_BACK}");
    assert!(error.contains("\n  CONTEXT: ") && error.ends_with(&end), "{error}");
}

#[test]
fn points_into_a_functions_body() {
    assert_error(
        "SELECT 1;\nCREATE FUNCTION f() RETURNS int LANGUAGE sql AS $ไทย$\n  SELECT 1 + nosuch;\n$ไทย$;",
        &[
            "3:14: column \"nosuch\" does not exist (SQLSTATE 42703)",
            "  3 |   SELECT 1 + nosuch;",
            "    |              ^",
            "  statement 2 of 2: CREATE FUNCTION",
        ],
    );
}

#[test]
fn an_open_quote_at_the_end_of_the_file() {
    for text in
        ["SELECT 1;\nSELECT 'it\n\n", "SELECT 1;\nSELECT \"it\n\n", "SELECT 1;\nSELECT E'it\\'\n"]
    {
        let scratch = Scratch::new();
        let error = error_of(&scratch, text);
        let first = error.lines().next().unwrap_or_default();
        assert!(
            first.starts_with(&format!("{PATH}:2:")) && first.ends_with(" (SQLSTATE 42601)"),
            "{text}\n{error}"
        );
        let says = ["unterminated quoted", "syntax error at the end of the file"];
        assert!(says.iter().any(|words| first.contains(words)), "{text}\n{error}");
        // Nothing that stands behind the file in the message is of any use to the reader.
        for ours in ["lockstep", "bun_", "COMMIT", "CONSTRAINTS", "pg_catalog"] {
            assert!(!error.contains(ours), "{text}\n{error}");
        }
        assert!(error.ends_with(ROLLED_BACK), "{text}\n{error}");
    }
}

#[test]
fn an_open_dollar_quote_at_the_end_of_the_file() {
    assert_error(
        "SELECT 1;\nDO $$ BEGIN NULL; END $;\n",
        &[
            "2:4: unterminated dollar-quoted string (SQLSTATE 42601)",
            "  2 | DO $$ BEGIN NULL; END $;",
            "    |    ^",
        ],
    );
}

/// Our own tag, too: what stands behind the file must not run as a part of it.
#[test]
fn an_open_dollar_quote_with_our_own_tag() {
    let scratch = Scratch::new();
    let error = error_of(&scratch, "CREATE TABLE t ();\nSELECT $lockstep$ it\n");
    assert!(error.starts_with(&format!("{PATH}:2:")), "{error}");
    assert_eq!(scratch.value("SELECT to_regclass('t') IS NULL"), "t");
}

#[test]
fn an_open_comment_at_the_end_of_the_file() {
    assert_error(
        "SELECT 1;\n/* outer /* inner */\nSELECT 2;\n",
        &["2:1: unterminated /* comment (SQLSTATE 42601)", "  2 | /* outer /* inner */", "    | ^"],
    );
}

#[test]
fn an_open_parenthesis_at_the_end_of_the_file() {
    assert_error(
        "SELECT 1;\nCREATE TABLE t (\n  a int\n\n",
        &[
            "3:8: syntax error at the end of the file: a statement is incomplete, or a quote is still open (SQLSTATE 42601)",
            "  3 |   a int",
            "    |        ^ the end of the file",
        ],
    );
}

#[test]
fn a_deferred_constraint_that_is_violated_at_the_end() {
    for (text, more) in [
        (
            "CREATE TABLE p (a int PRIMARY KEY); CREATE TABLE c (a int REFERENCES p DEFERRABLE INITIALLY DEFERRED);\nINSERT INTO c VALUES (7);",
            "",
        ),
        (
            "INSERT INTO c VALUES (7);",
            "CREATE TABLE p (a int PRIMARY KEY); CREATE TABLE c (a int REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
        ),
    ] {
        let scratch = Scratch::new();
        scratch.sql(more);
        let error = error_of(&scratch, text);
        let words = "insert or update on table \"c\" violates foreign key constraint \"c_a_fkey\" (SQLSTATE 23503)";
        assert!(error.starts_with(&format!("{PATH}: {words}")), "{error}");
        let at_end =
            "\n  CONTEXT: at the end of the file, where its deferred constraints are checked\n";
        assert!(error.contains(at_end), "{error}");
        assert!(
            error.contains("\n  DETAIL: Key (a)=(7) is not present in table \"p\".\n"),
            "{error}"
        );
        assert!(error.ends_with(ROLLED_BACK), "{error}");
    }
}

/// Inside a body that stands in the file, the place is the file's own.
#[test]
fn an_error_in_a_body_is_shown_where_it_stands() {
    for (text, place) in [
        (
            "DO $$\nBEGIN\n  DELETE FROM nosuch;\nEND $$;\nSELECT 2",
            ":3:15: relation \"nosuch\" does not exist (SQLSTATE 42P01)\n  3 |   DELETE FROM nosuch;\n    |               ^\n",
        ),
        (
            "-- lockstep: no-transaction\nDO $$ BEGIN\n  COMMIT;\n  RAISE 'boom';\nEND $$",
            ":4:3: boom (SQLSTATE P0001)\n  4 |   RAISE 'boom';\n",
        ),
    ] {
        let scratch = Scratch::with([(FILE, text)]);
        let outcome = scratch.up_here().run();
        let error = outcome.code(1).error();
        assert!(error.starts_with(&format!("{PATH}{place}")), "{error}");
    }
}

#[test]
fn a_character_that_nobody_sees_is_named() {
    for (text, said) in [
        ("SELECT 1;\nSELECT\u{a0}1", "a no-break space (U+00A0) in this word"),
        ("SELECT 1 AS a\u{a0}int)", "a no-break space (U+00A0) in this line"),
        ("SELECT 1;\n\u{feff}SELECT 1", "a byte-order mark (U+FEFF) in this word"),
        ("SELECT relname\u{200b} FROM pg_class", "an invisible character (U+200B) in this word"),
        (
            "-- lockstep: no-transaction\nSELECT 1;\nVACUUM\u{a0}x",
            "a no-break space (U+00A0) in this word",
        ),
    ] {
        let scratch = Scratch::with([(FILE, text)]);
        let outcome = scratch.up_here().run();
        outcome.code(1).says(&format!("DETAIL: there is {said}"));
    }
}

#[test]
fn a_statement_timeout_names_its_statement() {
    let scratch = Scratch::with([(FILE, "SELECT 1;\nSELECT pg_sleep(600);\nSELECT 3;")]);
    let outcome = scratch.up_here().env("STATEMENT_TIMEOUT_SECONDS", "1").run();
    outcome.code(1);
    let expected = format!(
        "{PATH}:2:1: canceling statement due to statement timeout (SQLSTATE 57014)\n  2 | SELECT pg_sleep(600);\n  \
         statement 2 of 3: SELECT\n{}",
        ROLLED_BACK.replace("fix the file", "remove the cause")
    );
    // Under load the server may take it for a cancel request, and words it so.
    let error = outcome.error().replace("user request", "statement timeout");
    assert_eq!(error, expected);
}

/// Such a server counts bytes.
#[test]
fn positions_are_right_in_a_database_without_an_encoding() {
    assert_error_in(
        &database_with("SQL_ASCII"),
        "SELECT 1;\nSELECT 'สวัสดี 🐘', 1::nosuch, 'é';",
        &[
            "2:23: type \"nosuch\" does not exist (SQLSTATE 42704)",
            "  2 | SELECT 'สวัสดี 🐘', 1::nosuch, 'é';",
            "    |                      ^",
            "  statement 2 of 2: SELECT",
        ],
    );
}

#[test]
fn positions_are_right_in_a_database_of_another_encoding() {
    assert_error_in(
        &database_with("LATIN1"),
        "SELECT 1;\nSELECT 'éèê', 1::nosuch;",
        &[
            "2:18: type \"nosuch\" does not exist (SQLSTATE 42704)",
            "  2 | SELECT 'éèê', 1::nosuch;",
            "    |                  ^",
            "  statement 2 of 2: SELECT",
        ],
    );
}

#[test]
fn a_character_that_the_database_cannot_hold_is_named() {
    let scratch = database_with("LATIN1");
    let error = error_of(&scratch, "SELECT 1;\nSELECT 'ก'");
    let words = "character with byte sequence 0xe0 0xb8 0x81 in encoding \"UTF8\" has no equivalent in encoding \"LATIN1\" \
                 (SQLSTATE 22P05)";
    assert_eq!(error, format!("{PATH}: {words}\n{ROLLED_BACK}"));
}

#[test]
fn says_how_much_stays_applied() {
    for (count, words) in [
        (0, "this run applied nothing before it"),
        (1, "1 migration before it stays applied"),
        (2, "2 migrations before it stay applied"),
    ] {
        let scratch = Scratch::new();
        for number in 0..count {
            scratch.file(&format!("2023010100000{number}_a.up.sql"), "SELECT 1");
        }
        scratch.file(FILE, "SELECT nosuch");
        scratch.file("20250101000000_z.up.sql", "SELECT 1");
        let outcome = scratch.up_here().run();
        outcome.code(1);
        let expected = format!("\n  rolled back; {words}; fix the file and run again");
        assert!(outcome.error().ends_with(&expected), "{outcome}");
        assert_eq!(scratch.history().len(), count, "{outcome}");
        assert_eq!(fields(&outcome, &["applied_before"]), [Some(count.to_string())]);
    }
}

/// What an earlier run applied is not "before it": only this run's own.
#[test]
fn what_earlier_runs_applied_is_not_counted() {
    let scratch = Scratch::migrated([("20230101000000_a.up.sql", "SELECT 1")]);
    scratch.file(FILE, "SELECT nosuch");
    let outcome = scratch.up_here().run();
    outcome.code(1).says("this run applied nothing before it");
}

#[test]
fn a_failed_concurrent_index_has_its_detail_and_says_what_next() {
    let scratch = Scratch::new();
    scratch.sql("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2), (1)");
    scratch.file(FILE, "-- unique\nCREATE UNIQUE INDEX CONCURRENTLY i ON t (a);\n");
    let outcome = scratch.up_here().run();
    outcome.code(1);
    assert_eq!(
        outcome.error(),
        format!(
            "{PATH}:2:34: could not create unique index \"i\" (SQLSTATE 23505)\n  \
             2 | CREATE UNIQUE INDEX CONCURRENTLY i ON t (a);\n    \
             |                                  ^\n  \
             DETAIL: Key (a)=(1) is duplicated.\n  \
             not recorded; this run applied nothing before it; remove the cause and run again: \
             {CLEANS_UP}"
        )
    );
    assert_eq!(scratch.history(), [""; 0]);
    // As it says.
    scratch.sql("DELETE FROM t WHERE a = 1");
    scratch.up_here().run().code(0);
    assert_eq!(scratch.history(), [VERSION]);
    assert_eq!(
        scratch.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass"),
        "t"
    );
}

#[test]
fn a_concurrent_index_on_what_is_not_there_is_pointed_at() {
    let scratch = Scratch::new();
    scratch.sql("CREATE TABLE t (a int)");
    scratch.file(FILE, "/* é */ CREATE INDEX CONCURRENTLY i ON t (a, nosuch);");
    let outcome = scratch.up_here().run();
    outcome.code(1);
    let error = outcome.error();
    assert!(error.starts_with(&format!("{PATH}:1:")), "{error}");
    assert!(error.contains("column \"nosuch\" does not exist (SQLSTATE 42703)"), "{error}");
}

#[test]
fn a_lock_timeout_names_who_is_in_the_way() {
    let scratch = Scratch::new();
    scratch.sql("CREATE TABLE t (a int)");
    scratch.file("20230101000000_a.up.sql", "SELECT 1");
    scratch.file(FILE, "SELECT 1;\nALTER TABLE t ADD b int;");
    let mut client = scratch.client();
    client
        .batch_execute(
            "SET application_name = 'the report'; BEGIN; LOCK TABLE t IN ACCESS SHARE MODE",
        )
        .expect("a lock");
    let pid = client.simple_query("SELECT pg_backend_pid()").expect("a pid");
    let pid = pid.iter().find_map(|message| match message {
        postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    let pid = pid.expect("a pid");
    let run = scratch.up_here().env("DDL_LOCK_TIMEOUT_SECONDS", "0.05");
    let outcome = run.env("DDL_LOCK_RETRY_SECONDS", "3").run();
    outcome.code(4);
    let error = outcome.error();
    let lines: Vec<&str> = error.lines().collect();
    assert!(lines[0].starts_with(&format!("{PATH}: gave up after ")), "{error}");
    assert!(
        lines[0].ends_with(": canceling statement due to lock timeout (SQLSTATE 55P03)"),
        "{error}"
    );
    let blocked = format!("  blocked by pid {pid} the report, idle in transaction for ");
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with(&blocked) && line.ends_with("(AccessShareLock on t)")),
        "{error}"
    );
    assert_eq!(
        lines.last(),
        Some(&"  rolled back; 1 migration before it stays applied; run again")
    );
    // While it tried again, too.
    outcome.says(&format!(
        "waiting for a lock: {FILE}: canceling statement due to lock timeout (SQLSTATE 55P03): "
    ));
    outcome.says(&format!("blocked by pid {pid} the report"));
}

#[test]
fn a_file_that_ends_in_a_comment_or_without_a_semicolon_is_whole() {
    let scratch = Scratch::migrated([
        ("20240101000000_a.up.sql", "CREATE TABLE a ()"),
        ("20240102000000_b.up.sql", "CREATE TABLE b (); -- done"),
        ("20240103000000_c.up.sql", "CREATE TABLE c () -- done"),
        ("20240104000000_d.up.sql", "CREATE TABLE d () /* done */"),
    ]);
    assert_eq!(scratch.history().len(), 4);
    assert_eq!(
        scratch.value("SELECT count(*) FROM pg_tables WHERE tablename IN ('a', 'b', 'c', 'd')"),
        "4"
    );
}

/// Whatever the reader's terminal is: what a server or a file says must not steer it.
#[test]
fn control_characters_do_not_reach_the_terminal() {
    let scratch = Scratch::with([(
        FILE,
        "DO $$ BEGIN RAISE EXCEPTION E'red \\x1b[31m and bell \\x07'; END $$",
    )]);
    let outcome = scratch.up_here().env("LOG_FORMAT", "text").run();
    outcome.code(1);
    let control = |c: char| c.is_control() && c != '\n' && c != '\t';
    assert!(!outcome.stderr.contains(control), "{:?}", outcome.stderr);
}

#[test]
fn an_error_of_another_server_locale_keeps_its_words() {
    // Only to see that the run does not depend on the reader's own locale.
    let scratch = Scratch::with([(FILE, "SELECT nosuch")]);
    let mut command: Command = scratch.up_here().command();
    let output =
        command.env("LC_ALL", "th_TH.UTF-8").env("LANG", "de_DE").output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("column \\\"nosuch\\\" does not exist")
    );
}
