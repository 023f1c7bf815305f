//! What counts as a migration file, what its text may look like, and when it counts as changed.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::{Outcome, Scratch};

// Which files.

#[test]
fn files_of_all_subdirectories_are_applied_in_the_order_of_their_versions() {
    let scratch = Scratch::new();
    scratch.file("20240101000003_d.up.sql", note(3));
    scratch.file("a/20240101000002_c.up.sql", note(2));
    scratch.file("b/b/b/20240101000001_b.up.sql", note(1));
    scratch.file("z/20240101000000_a.up.sql", format!("CREATE TABLE notes (n int); {}", note(0)));
    scratch.up().code(0);
    assert_eq!(scratch.sql("SELECT n FROM notes"), ["0", "1", "2", "3"]);
    let expected = ["20240101000000", "20240101000001", "20240101000002", "20240101000003"];
    assert_eq!(scratch.history(), expected);
}

#[test]
fn buns_spelling_with_tx_means_the_same() {
    let scratch = Scratch::with([
        ("20240101000000_a.tx.up.sql", "CREATE TABLE a ();"),
        ("20240101000000_a.tx.down.sql", "DROP TABLE a;"),
        ("20240101000001_b.up.sql", "CREATE TABLE b ();"),
        ("20240101000001_b.down.sql", "DROP TABLE b;"),
        ("20240101000002_C-3_.tx.up.sql", "CREATE TABLE c ();"),
    ]);
    // An up and a down file of one migration need not be spelled alike.
    scratch.file("20240101000002_C-3_.down.sql", "DROP TABLE c;");
    scratch.up().code(0);
    assert_eq!(
        scratch.sql("SELECT version, file_name FROM bun_migrations_journal ORDER BY version"),
        [
            "20240101000000|20240101000000_a.tx.up.sql",
            "20240101000001|20240101000001_b.up.sql",
            "20240101000002|20240101000002_C-3_.tx.up.sql"
        ]
    );
    assert_eq!(scratch.history(), ["20240101000000", "20240101000001", "20240101000002"]);
    scratch.up().code(0);
}

#[test]
fn other_files_and_hidden_ones_are_ignored() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "CREATE TABLE a ();")]);
    let others = [
        "README.md",
        "20240101000001_b.up.sql.bak",
        "20240101000001_b.up.sql~",
        "#20240101000001_b.up.sql#",
        "20240101000001_b.up.sqlx",
        "20240101000001_b.go",
        "sql",
        ".20240101000001_b.up.sql.swp",
        ".20240101000001_b.up.sql",
        ".sql",
        ".git/hooks/bad name.sql",
        "a/.hidden/20240101000001_b.up.sql",
        "lost+found/20240101000001_b.up.sql",
    ];
    others.iter().for_each(|name| {
        scratch.file(name, "CREATE TABLE b ();");
    });
    scratch.up().code(0);
    assert_eq!(scratch.history(), ["20240101000000"]);
}

#[test]
fn links_to_files_and_directories_are_followed() {
    let scratch = Scratch::new();
    let elsewhere = scratch.directory.join("elsewhere");
    fs::create_dir_all(elsewhere.join("below")).expect("a directory");
    fs::write(elsewhere.join("real name"), "CREATE TABLE a ();").expect("a file");
    fs::write(elsewhere.join("below/20240101000001_b.up.sql"), "CREATE TABLE b ();")
        .expect("a file");
    symlink("../elsewhere/real name", scratch.migrations().join("20240101000000_a.up.sql"))
        .expect("a link");
    symlink(elsewhere.join("below"), scratch.migrations().join("linked")).expect("a link");
    // Round and round.
    symlink(scratch.migrations(), scratch.migrations().join("self")).expect("a link");
    symlink("..", elsewhere.join("below/up")).expect("a link");
    // What leads nowhere and is no migration by its name does not matter.
    symlink("gone", scratch.migrations().join("README.md")).expect("a link");
    scratch.up().code(0);
    assert_eq!(scratch.history(), ["20240101000000", "20240101000001"]);
}

#[test]
fn the_directory_itself_may_be_a_link() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "CREATE TABLE a ();")]);
    symlink("migrations", scratch.directory.join("linked")).expect("a link");
    scratch.lockstep(&["up"]).env("MIGRATIONS_DIR", "linked").run().code(0);
    assert_eq!(scratch.history(), ["20240101000000"]);
}

/// Kubernetes keeps a volume's real files in a hidden directory, and exchanges that by a link `..data`.
#[test]
fn a_config_map_is_read_as_kubernetes_lays_it_out() {
    let scratch = Scratch::new();
    let lay_out = |generation: &str, files: &[(&str, &str)]| {
        for (name, text) in files {
            scratch.file(&format!("{generation}/{name}"), text);
            let link = scratch.migrations().join(name);
            if fs::symlink_metadata(&link).is_err() {
                symlink(format!("..data/{name}"), link).expect("a link");
            }
        }
        let data = scratch.migrations().join("..data");
        let _ = fs::remove_file(&data);
        symlink(generation, data).expect("a link");
    };
    let first = ("20240101000000_a.up.sql", "CREATE TABLE a ();");
    lay_out("..2024_01_01_00_00_00.123456789", &[first]);
    scratch.up().code(0);
    let second = ("20240101000001_b.up.sql", "CREATE TABLE b ();");
    lay_out("..2024_01_02_00_00_00.987654321", &[first, second]);
    scratch.up().code(0);
    assert_eq!(scratch.history(), ["20240101000000", "20240101000001"]);
}

#[test]
fn a_version_that_is_no_date_is_applied_in_its_place_and_warned_of_unless_it_is_a_counter() {
    let scratch = Scratch::with([("00000000000001_first.up.sql", "CREATE TABLE notes (n int);")]);
    scratch.file("00001510262030_seconds.up.sql", note(1));
    scratch.file("20240230000000_february.up.sql", note(2));
    scratch.file("20240231000000_february.up.sql", note(3));
    let up = scratch.up();
    // One warning, however many there are.
    let [warning] = warnings(&up).try_into().expect("one warning");
    assert!(
        warning.starts_with("20240230000000_february.up.sql: its digits are no date and time"),
        "{warning}"
    );
    up.code(0);
    assert_eq!(
        scratch.history(),
        ["00000000000001", "00001510262030", "20240230000000", "20240231000000"]
    );
}

// What is in them.

/// The error of a second file shows that places are counted as an editor counts them.
#[test]
fn a_byte_order_mark_and_windows_line_ends_are_fine() {
    let scratch = Scratch::migrated([(
        "20240101000000_a.up.sql",
        "\u{feff}CREATE TABLE a (\r\n  b text\r\n);\r\n-- done\r\nINSERT INTO a\r\nVALUES ('x');\r\n",
    )]);
    assert_eq!(scratch.sql("SELECT b FROM a"), ["x"]);
    scratch.file("20240101000001_b.up.sql", "\u{feff}SELECT 1;\r\nSELECT\tnothing;\r\n");
    let error = scratch.up().code(1).error();
    assert!(
        error.contains("20240101000001_b.up.sql:2:8: column \"nothing\" does not exist"),
        "{error}"
    );
    assert!(error.contains("\n  2 | SELECT\tnothing;\n    |       \t^\n"), "{error}");
    scratch.file("20240101000001_b.up.sql", "\u{feff}SELECT nothing;\r\n");
    let error = scratch.up().code(1).error();
    assert!(
        error.contains("20240101000001_b.up.sql:1:8: column \"nothing\" does not exist"),
        "{error}"
    );
}

/// bun would send the parts one by one; here the file is one transaction all the same.
#[test]
fn buns_split_lines_are_comments() {
    let scratch = Scratch::with([(
        "20240101000000_a.up.sql",
        "CREATE TABLE a ();\n\n--bun:split\n\nCREATE TABLE b ()\n;--bun:split\nSELECT 1 / 0;",
    )]);
    scratch.up().code(1);
    assert_eq!(scratch.value("SELECT to_regclass('a') IS NULL AND to_regclass('b') IS NULL"), "t");
    scratch.file(
        "20240101000000_a.up.sql",
        "CREATE TABLE a ();\n\n--bun:split\n\nCREATE TABLE b ()\n;--bun:split\nSELECT 1;",
    );
    scratch.up().code(0);
    assert_eq!(
        scratch.value("SELECT to_regclass('a') IS NOT NULL AND to_regclass('b') IS NOT NULL"),
        "t"
    );
}

#[test]
fn a_line_of_a_mebibyte_is_fine() {
    let scratch = Scratch::new();
    let long = "ก".repeat(1 << 20);
    scratch.file(
        "20240101000000_a.up.sql",
        format!("CREATE TABLE a AS SELECT length('{long}') AS l; SELECT 1"),
    );
    scratch.up().code(0);
    assert_eq!(scratch.value("SELECT l FROM a"), "1048576");
    scratch.file("20240101000001_b.up.sql", format!("SELECT '{long}'; SELECT nothing;"));
    let error = scratch.up().code(1).error();
    assert!(
        error.contains("20240101000001_b.up.sql:1:1048595: column \"nothing\" does not exist"),
        "{error:.500}"
    );
    // The excerpt is a window, not the whole line.
    assert!(error.chars().count() < 1000, "{error:.500}");
}

#[test]
fn a_file_without_statements_is_recorded_like_any_other() {
    let scratch = Scratch::migrated([
        ("20240101000000_empty.up.sql", ""),
        ("20240101000001_comments.up.sql", "-- nothing\n/* at\n/* all */ */\n"),
        ("20240101000002_semicolons.up.sql", " ;; ;\n;"),
        ("20240101000003_mark.up.sql", "\u{feff}"),
        ("20240101000004_open_comment.up.sql", "--"),
    ]);
    assert_eq!(scratch.history().len(), 5);
}

#[test]
fn the_last_semicolon_may_be_missing_and_a_comment_may_come_last() {
    let scratch = Scratch::new();
    let texts = [
        "CREATE TABLE notes (n int)",
        "INSERT INTO notes VALUES (1) -- no semicolon, no line break",
        "INSERT INTO notes VALUES (2); -- no line break",
        "INSERT INTO notes VALUES (3) /* ; */",
        "INSERT INTO notes VALUES (4); INSERT INTO notes VALUES (5) --",
        "INSERT INTO notes VALUES (6);;\n\n-- the end\n",
        "DO $$ BEGIN INSERT INTO notes VALUES (7); END $$",
    ];
    for (number, text) in texts.iter().enumerate() {
        scratch.file(&format!("2024010100000{number}_x.up.sql"), text);
    }
    scratch.file(
        "20240101000007_index.up.sql",
        "CREATE INDEX CONCURRENTLY notes_idx ON notes (n) -- no semicolon",
    );
    scratch.up().code(0);
    assert_eq!(scratch.sql("SELECT n FROM notes ORDER BY n"), ["1", "2", "3", "4", "5", "6", "7"]);
    assert_eq!(scratch.history().len(), 8);
}

// Older, newer, gone.

#[test]
fn an_older_file_that_was_merged_late_is_applied_with_a_warning() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "CREATE TABLE notes (n int);")]);
    scratch.file("20240103000000_c.up.sql", note(3));
    scratch.up().code(0);
    scratch.file("20240102000000_late.up.sql", note(2));
    scratch.file("20240104000000_d.up.sql", note(4));
    let up = scratch.up();
    let expected = "20240102000000 is out-of-order: older than what is applied; it is applied now";
    assert_eq!(warnings(&up), [expected]);
    up.code(0).applied_now(2);
    assert_eq!(scratch.sql("SELECT n FROM notes"), ["3", "2", "4"]);
    assert_eq!(
        scratch.history(),
        ["20240101000000", "20240103000000", "20240102000000", "20240104000000"]
    );
    assert_eq!(warnings(&scratch.up()), [""; 0]);
}

/// An older image meets a database that a newer one has migrated.
#[test]
fn a_database_that_is_ahead_of_the_files_is_fine_and_said_once() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "CREATE TABLE a ();")]);
    let newer = ["20240102000000_b.up.sql", "20240103000000_c.up.sql"];
    let newer = newer.map(|name| scratch.file(name, format!("SELECT '{name}'")));
    scratch.up().code(0);
    newer.iter().for_each(|path| fs::remove_file(path).expect("a file"));
    let ahead = "the database is ahead of the files by 2, up to 20240103000000";
    let up = scratch.up();
    assert_eq!(up.code(0).stderr.matches(ahead).count(), 1, "{up}");
    // Also when there is something to do.
    scratch.file("20231231000000_late.up.sql", "SELECT 1;");
    let up = scratch.up();
    assert_eq!(up.code(0).applied_now(1).stderr.matches(ahead).count(), 1, "{up}");
}

#[test]
fn old_files_may_be_archived() {
    let scratch = Scratch::new();
    let old = scratch.file("20240101000000_a.up.sql", "CREATE TABLE a ();");
    scratch.file("20240102000000_b.up.sql", "CREATE TABLE b ();");
    scratch.up().code(0);
    fs::remove_file(old).expect("a file");
    let up = scratch.up();
    up.code(0).is_silent_about("20240101000000");
    scratch.file("20240103000000_c.up.sql", "CREATE TABLE c ();");
    scratch.up().code(0).is_silent_about("20240101000000");
    assert_eq!(scratch.history().len(), 3);
}

// When a file counts as changed.

const TEXT: &str =
    "CREATE TABLE a (\n  b text DEFAULT 'One  two'\n);\nINSERT INTO a VALUES ('Three');\n";

#[test]
fn reformatting_an_applied_file_does_not_count() {
    let scratch = applied(TEXT);
    let texts = [
        TEXT.replace('\n', "\r\n"),
        format!("\u{feff}{TEXT}"),
        format!("-- Copyright 2024\n-- SPDX-License-Identifier: MIT\n\n{TEXT}\n\n/* end */"),
        TEXT.replace("\n  b", " -- a column\n\tb").replace("(\n", "(\n\n"),
        TEXT.replace(";\nINSERT", "\n;\n--bun:split\n;;INSERT"),
        TEXT.trim_end().trim_end_matches(';').to_owned(),
        TEXT.replace("CREATE TABLE", "create Table").replace("INSERT INTO", "insert into"),
    ];
    for text in texts {
        scratch.file(FILE, &text);
        let up = scratch.up();
        assert_eq!((up.code, warnings(&up)), (Some(0), Vec::new()), "{text}\n{up}");
    }
}

#[test]
fn changing_a_statement_of_an_applied_file_counts() {
    let scratch = applied(TEXT);
    let texts = [
        TEXT.replace("One  two", "One two"),
        TEXT.replace("Three", "three"),
        TEXT.replace("Three", "Three "),
        TEXT.replace("a (", "\"A\" ("),
        TEXT.replace("text", "varchar"),
        TEXT.replace("DEFAULT", "NOT NULL DEFAULT"),
        TEXT.replace("INSERT", "SELECT 1; INSERT"),
        TEXT.replace("INSERT INTO a VALUES ('Three');", ""),
        TEXT.replace("INSERT", "-- INSERT"),
        format!("{TEXT}SELECT 1;"),
        String::new(),
    ];
    for text in texts {
        scratch.file(FILE, &text);
        let up = scratch.up();
        assert_eq!(up.code, Some(5), "{text}\n{up}");
    }
    scratch.file(FILE, TEXT);
    scratch.up().code(0);
}

#[test]
fn renaming_or_moving_an_applied_file_does_not_count() {
    let scratch = applied(TEXT);
    fs::remove_file(scratch.migrations().join(FILE)).expect("a file");
    scratch.file("archive/20240101000000_another_name.tx.up.sql", TEXT);
    let up = scratch.up();
    up.code(0);
    assert_eq!(warnings(&up), [""; 0]);
}

#[test]
fn of_what_bun_applied_no_checksum_is_known_and_editing_it_does_not_count() {
    let scratch = applied(TEXT);
    scratch.sql("INSERT INTO bun_migrations (name, group_id) VALUES ('20240102000000', 2)");
    scratch.file("20240102000000_by_bun.up.sql", "SELECT 'whatever';");
    scratch.up().code(0);
    scratch.file("20240102000000_by_bun.up.sql", "SELECT 'something else';");
    scratch.up().code(0);
    // Nor when something is pending; and no checksum is made up.
    scratch.file("20240103000000_c.up.sql", "SELECT 1;");
    scratch.up().code(0);
    let journal = "SELECT version FROM bun_migrations_journal ORDER BY version";
    assert_eq!(scratch.sql(journal), ["20240101000000", "20240103000000"]);
}

/// bun deletes the history row when it rolls back, and writes a new one when it applies the edited file; the journal is
/// not its business.
#[test]
fn what_bun_rolled_back_and_applied_anew_is_buns() {
    let scratch = applied(TEXT);
    scratch.sql(
        "DELETE FROM bun_migrations WHERE name = '20240101000000'; \
         INSERT INTO bun_migrations (name, group_id) VALUES ('20240101000000', 1)",
    );
    scratch.file(FILE, "SELECT 'edited';");
    scratch.up().code(0);
}

/// It was never run as it stands now, so it is run.
#[test]
fn what_was_rolled_back_behind_our_back_is_pending_again() {
    let scratch = applied(TEXT);
    scratch.sql("DROP TABLE a; DELETE FROM bun_migrations WHERE name = '20240101000000'");
    scratch.file(FILE, "CREATE TABLE a (b int);");
    scratch.up().code(0);
    assert_eq!(scratch.history(), ["20240101000000"]);
    scratch.file(FILE, TEXT);
    scratch.up().code(5);
}

// What the tests above are made of.

const FILE: &str = "20240101000000_a.up.sql";

/// A database that has applied one file of that text.
fn applied(text: &str) -> Scratch {
    let scratch = Scratch::new();
    scratch.file(FILE, text);
    scratch.up().code(0);
    scratch
}

/// A migration that shows in table `notes` when it ran.
fn note(number: u32) -> String {
    format!("INSERT INTO notes VALUES ({number});")
}

fn warnings(outcome: &Outcome) -> Vec<String> {
    let warnings = outcome.lines().into_iter().filter(|line| line.field("level") == Some("warn"));
    warnings.map(|line| line.field("message").expect("a message").to_owned()).collect()
}
