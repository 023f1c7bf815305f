//! `lockstep status`: every state and every kind of lock, as text and JSON, in a pipe and on a terminal; and that it only
//! reads, and answers whatever runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, fs};

use crate::support::words::WAITS_FOR_BUN;
use crate::support::{Gate, Lockstep, Outcome, Scratch, rows, server, wait_until};

// --------------------------------------------------------------------------------------------- goldens

const TABLE: &str = "\
version         name                          state         when                  group   took
20230101000000  -                             archived      2023-01-01 12:00:00Z      1      -
20230102000000  an_edited_file                modified      2023-01-02 12:00:00Z      2   7 ms
20230103000000  applied_by_bun                applied       2023-01-03 12:00:00Z      2      -
20230104000000  merged_late                   out-of-order  -                         -      -
20230105000000  gone                          missing       2023-01-05 12:00:00Z      3  1.6 s
20230106000000  applied                       applied       2023-01-06 12:00:00Z      3  200 s
20230107000000  a_name_that-is_rather_LONG_1  pending       -                         -      -
";

#[test]
fn every_state_is_shown_in_a_table_of_which_nothing_is_cut_off_in_a_pipe() {
    let scratch = every_state();
    let outcome = scratch.lockstep(&["status"]).run();
    outcome.code(0);
    assert_eq!(outcome.stderr, "", "{outcome}");
    // Ahead and pending exclude each other: what is older than something applied is out-of-order.
    let expected = format!(
        "{}\n{TABLE}\n\
         20230107000000 was started at 2023-01-07 12:00:00Z by lockstep/0.2.0 ไทย/7 -9, outside a transaction, and not \
         finished: the next `lockstep up` looks at what it left, and finishes it\n\
         the history also holds \"no\\u{{1b}}version\", which is no version of 14 digits\n\
         \n\
         2 applied, 1 pending, 1 out-of-order, 1 modified, 1 missing, 1 archived; the lock is free\n",
        head(&scratch, "free")
    );
    assert_eq!(outcome.stdout, expected);

    scratch.sql("INSERT INTO bun_migrations (name, group_id, migrated_at) VALUES ('20230108000000', 4, 'infinity')");
    let outcome = scratch.lockstep(&["status"]).run();
    outcome.code(0);
    assert!(
        outcome.stdout.contains("\n20230107000000  a_name_that-is_rather_LONG_1  out-of-order  ")
    );
    assert!(
        outcome.stdout.contains("\n20230108000000  -                             ahead         ")
    );
    assert!(outcome.stdout.ends_with(
        "2 out-of-order, 1 modified, 1 missing, 1 ahead, 1 archived; the lock is free\n"
    ));
}

#[test]
fn on_a_terminal_of_80_columns_names_are_wrapped_and_states_have_colours() {
    let scratch = every_state();
    let status = scratch.lockstep(&["status"]);
    let Some(shown) = on_a_terminal(status) else {
        return;
    };
    for line in shown.lines() {
        let visible = without_colours(line);
        assert!(visible.chars().count() <= 80, "{visible}\n{shown}");
    }
    for expected in [
        "\u{1b}[1mversion\u{1b}[0m  ",
        "\u{1b}[32mapplied\u{1b}[0m ",
        "\u{1b}[33mpending\u{1b}[0m ",
        "\u{1b}[33mout-of-order\u{1b}[0m ",
        "\u{1b}[31mmodified\u{1b}[0m ",
        "\u{1b}[31mmissing\u{1b}[0m ",
        "\u{1b}[2marchived\u{1b}[0m ",
    ] {
        assert!(shown.contains(expected), "{expected:?}\n{shown}");
    }
    let wrapped = "\
20230106000000  applied         applied       2023-01-06 12:00:00Z      3  200 s
20230107000000  a_name_that-    pending       -                         -      -
                is_rather_
                LONG_1
";
    assert!(without_colours(&shown).contains(wrapped), "{shown}");

    // Nothing is wrapped where there is room, and without colours it is what a pipe gets.
    let wide = scratch.lockstep(&["status"]).env("COLUMNS", "300");
    let piped = scratch.lockstep(&["status"]).run().stdout;
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let wide = wide.clone().env(name, value);
        assert_eq!(on_a_terminal(wide).as_ref(), Some(&piped), "{name}");
    }
    assert_ne!(on_a_terminal(wide), Some(piped));
}

#[test]
fn the_json_document_has_all_of_it() {
    let scratch = every_state();
    let outcome = scratch.lockstep(&["status", "--json"]).run();
    outcome.code(0);
    assert_eq!(outcome.stderr, "");
    let golden = r#"{
  "hosts": [
    {
      "host": "<host>",
      "port": 0
    }
  ],
  "database": "<database>",
  "user": "postgres",
  "server_version": "<version>",
  "standby": false,
  "history_table": "public.bun_migrations",
  "lock": {
    "state": "free",
    "table": "public.bun_migration_locks",
    "row_id": null,
    "holder": null,
    "suspects": []
  },
  "migrations": [
    {
      "version": "20230101000000",
      "name": null,
      "file": null,
      "state": "archived",
      "unfinished": false,
      "renamed_from": null,
      "applied_at": "2023-01-01T12:00:00Z",
      "group": 1,
      "started_at": null,
      "finished_at": null,
      "duration_ms": null,
      "runner": null
    },
"#;
    let (host, port) = (&server().host, server().port);
    let version = scratch.value("SHOW server_version");
    let masked = outcome
        .stdout
        .replace(&format!("\"host\": \"{host}\""), "\"host\": \"<host>\"")
        .replace(&format!("\"port\": {port}"), "\"port\": 0")
        .replace(&scratch.database, "<database>")
        .replace(&format!("\"{version}\""), "\"<version>\"");
    assert!(masked.starts_with(golden), "{masked}");
    let golden = r#"    {
      "version": "20230107000000",
      "name": "a_name_that-is_rather_LONG_1",
      "file": "<directory>/20230107000000_a_name_that-is_rather_LONG_1.up.sql",
      "state": "pending",
      "unfinished": true,
      "renamed_from": null,
      "applied_at": null,
      "group": null,
      "started_at": "2023-01-07T12:00:00Z",
      "finished_at": null,
      "duration_ms": null,
      "runner": "lockstep/0.2.0 ไทย/7 -9"
    }
  ],
  "counts": {
    "applied": 2,
    "pending": 1,
    "out_of_order": 1,
    "modified": 1,
    "renamed": 0,
    "missing": 1,
    "ahead": 0,
    "archived": 1
  },
  "foreign_names": [
    "no\u001bversion"
  ]
}
"#;
    let directory = scratch.migrations().display().to_string();
    let directory = directory.replace(&scratch.database, "<database>");
    let masked = masked.replace(&directory, "<directory>");
    assert!(masked.ends_with(golden), "{masked}");
    let paths = outcome.json_paths();
    assert_eq!(paths["migrations[].duration_ms"], ["integer", "null"]);
}

// ------------------------------------------------------------------------------------------------ the lock

/// Answers while somebody else's migration runs, which holds a table against all others.
#[test]
fn a_runner_in_a_long_statement_is_shown_and_nobody_waits_for_it() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    scratch.file("20240101000000_a.up.sql", "CREATE TABLE a ();");
    scratch.up().code(0);
    scratch.file("20240101000001_long.up.sql", format!("LOCK TABLE a; {}", Gate::SQL));
    let run = scratch.patient_up().spawn();
    let working = gate.wait_for_visitor();
    let guard = scratch.guard().expect("a guard");

    let outcome = scratch.lockstep(&["status"]).run();
    outcome.code(0).waits_for_nothing();
    let lines = head_of(&outcome);
    let own_pid = gate.pid();
    assert_eq!(
        lines[3..],
        [
            &format!(
                "lock      held by pid {guard}, lockstep/0.2.0 <host>/<pid>, from <address>, since <time>"
            ),
            "running   20240101000001_long.up.sql, statement 2/2, since <time>",
            &format!("blocked   by pid {own_pid} (idle)"),
        ],
        "{outcome}"
    );
    let sum = format!("\n1 applied, 1 running; the lock is held by pid {guard}, lockstep/0.2.0 ");
    assert!(outcome.stdout.contains(&sum), "{outcome}");
    let running = outcome.stdout.lines().find(|it| it.contains("  running  "));
    let running = running.expect("the migration's line");
    assert!(running.starts_with("20240101000001  long  running"), "{outcome}");
    assert!(running.ends_with("s"), "{outcome}");
    let json = scratch.lockstep(&["status", "--json"]).run();
    json.code(0);
    for (path, value) in [
        ("lock.state", "held"),
        ("lock.holder.pid", &guard.to_string()),
        ("lock.holder.working_pid", &working.to_string()),
        ("lock.holder.migration", "20240101000001_long.up.sql"),
        ("lock.holder.statement", "2"),
        ("lock.holder.statements", "2"),
    ] {
        assert_eq!(json.json_value(path), value, "{path}\n{json}");
    }
    assert!(json.json_value("lock.row_id").starts_with('-'), "{json}");

    // The others see it, too, and do not wait.
    scratch.lockstep(&["check"]).run().code(6);
    scratch.lockstep(&["wait"]).env("MIGRATION_WAIT_SECONDS", "0").run().code(6);

    // Of another role's sessions the server shows little: no times, no statement.
    let role = scratch.reader();
    let outcome = scratch.lockstep(&["status"]).env("DATABASE_URL", role.url()).run();
    outcome.code(0);
    let lines = head_of(&outcome);
    assert_eq!(
        lines[3..],
        [
            &format!("lock      held by pid {guard}, lockstep/0.2.0 <host>/<pid>") as &str,
            "          more of it is shown to members of pg_read_all_stats",
            "running   statement 2/2",
            &format!("blocked   by pid {own_pid}"),
        ],
        "{outcome}"
    );
    gate.open();
    run.wait().code(0);
    let outcome = scratch.lockstep(&["status"]).run();
    assert_eq!(head_of(&outcome)[3..], ["lock      free"]);
}

#[test]
fn an_index_build_is_shown_with_its_phase_and_as_running_not_as_left_behind() {
    let scratch = Scratch::migrated([("20240101000000_a.up.sql", "CREATE TABLE a (c int);")]);
    scratch.file("20240101000001_i.up.sql", "CREATE INDEX CONCURRENTLY a_c_idx ON a (c)");
    let mut old = scratch.client();
    old.batch_execute("BEGIN; SELECT FROM a; LOCK TABLE a IN ROW EXCLUSIVE MODE")
        .expect("an old transaction");
    let run = scratch.lockstep(&["up"]).spawn();
    wait_until("the index is being built", || {
        scratch.value("SELECT count(*) FROM pg_stat_progress_create_index WHERE datname = current_database() AND phase LIKE 'waiting%'") == "1"
    });
    let outcome = scratch.lockstep(&["status"]).run();
    outcome.code(0);
    let lines = head_of(&outcome);
    assert_eq!(
        lines[4..6],
        [
            "running   20240101000001_i.up.sql, CREATE INDEX CONCURRENTLY a_c_idx ON a (c), since <time>",
            "progress  waiting for writers before build",
        ],
        "{outcome}"
    );
    assert!(lines[6].starts_with("blocked   by pid "), "{outcome}");
    assert!(
        outcome.stdout.contains("\n20240101000001 runs outside a transaction, started at "),
        "{outcome}"
    );
    let json = scratch.lockstep(&["status", "--json"]).run();
    assert_eq!(
        json.json_value("lock.holder.index_build_phase"),
        "waiting for writers before build"
    );
    assert_eq!(json.json_value("lock.holder.index_build_percent"), "null");
    // What is being built is not there yet.
    scratch.lockstep(&["check"]).run().code(6);
    run.kill();
    old.batch_execute("ROLLBACK").expect("a rollback");
    wait_until("the guard is free", || scratch.guard().is_none());
    let outcome = scratch.lockstep(&["status"]).run();
    assert!(
        outcome.stdout.contains("lock      free: row -")
            && outcome.stdout.contains("\n20240101000001 was started at ")
            && outcome.stdout.contains("and finishes it\n"),
        "{outcome}"
    );
    let outcome = scratch.lockstep(&["check"]).run();
    outcome.code(6);
    assert_eq!(outcome.stdout, "1 migration is pending\n  20240101000001_i.up.sql\n");
}

#[test]
fn a_row_of_buns_is_shown_with_its_doubts_and_whose_it_may_be() {
    let scratch = migrated();
    let row = scratch.value(
        "INSERT INTO bun_migration_locks (table_name) VALUES ('bun_migrations') RETURNING id",
    );
    let mut bun = scratch.client();
    bun.batch_execute("SET application_name = 'bun ไทย'").expect("a session");
    let pid = rows(&mut bun, "SELECT pg_backend_pid()").remove(0);
    let outcome = scratch.lockstep(&["status"]).run();
    outcome.code(0);
    let lines = head_of(&outcome);
    assert_eq!(
        lines[3],
        format!(
            "lock      row {row} of public.bun_migration_locks is bun's, whose owner may be alive or dead"
        )
    );
    let suspect = format!("          its owner may be pid {pid}, ");
    assert!(lines[4..].iter().any(|it| it.starts_with(&suspect)), "{outcome}");
    assert_eq!(
        lines[lines.len() - 2..],
        [
            "          bun records a migration before it runs it: 20240101000000, the newest record, may be running, or \
             may never have run",
            &format!("          if you know that no bun process is at work: lockstep unlock {row}"),
        ]
    );
    let json = scratch.lockstep(&["status", "--json"]).run();
    assert_eq!(json.json_value("lock.state"), "bun");
    assert_eq!(json.json_value("lock.row_id"), row);

    // A runner of ours that waits for the row is shown beside it.
    scratch.file("20240101000001_b.up.sql", "CREATE TABLE b ();");
    let mut run = scratch.lockstep(&["up"]).spawn();
    run.wait_for_log(WAITS_FOR_BUN);
    let outcome = scratch.lockstep(&["status"]).run();
    let guard = scratch.guard().expect("a guard");
    // Whether its other session asks for the row just then, and so is running, is a matter of time.
    let waiting = format!(
        "waiting   for that row: pid {guard}, lockstep/0.2.0 <host>/<pid>, from <address>, since <time>"
    );
    assert!(head_of(&outcome).contains(&waiting), "{outcome}");
    scratch.sql("DELETE FROM bun_migration_locks");
    run.wait().code(0);
}

#[test]
fn the_row_of_a_dead_runner_is_shown_as_no_obstacle() {
    let scratch = migrated();
    scratch.sql("INSERT INTO bun_migration_locks (id, table_name) VALUES (-7, 'bun_migrations')");
    let outcome = scratch.lockstep(&["status"]).run();
    outcome.code(0);
    assert_eq!(
        head_of(&outcome)[3..],
        [
            "lock      free: row -7 of public.bun_migration_locks is of a runner that is gone; the next run takes it over"
        ]
    );
    let json = scratch.lockstep(&["status", "--json"]).run();
    assert_eq!(json.json_value("lock.state"), "stale");
    assert_eq!(scratch.sql("SELECT id FROM bun_migration_locks"), ["-7"], "status removes nothing");
}

// ------------------------------------------------------------------------------------------------ reading only

/// All three commands, for a role that may do nothing else, on a database with and without our tables.
#[test]
fn a_role_that_may_only_select_suffices_and_nothing_is_changed() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "CREATE TABLE a ();")]);
    let role = scratch.reader();
    let all = |code: i32| {
        let before = scratch.schema();
        for arguments in [
            &["status"] as &[&str],
            &["status", "--json"],
            &["check"],
            &["check", "--json"],
            &["wait"],
        ] {
            let run = scratch
                .lockstep(arguments)
                .env("DATABASE_URL", role.url())
                .env("MIGRATION_WAIT_SECONDS", "0")
                .run();
            let expected = if arguments[0] == "status" { 0 } else { code };
            assert_eq!(run.code, Some(expected), "{run}");
        }
        assert_eq!(scratch.schema(), before);
    };
    all(6);
    let absent = scratch.lockstep(&["status"]).run();
    assert_eq!(head_of(&absent)[2], "history   none: bun_migrations is not there yet");
    scratch.up().code(0);
    all(0);
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = \
                 (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(scratch.value(locks), "0");
    let errors: Vec<String> = scratch.server_log();
    let errors: Vec<&String> = errors.iter().filter(|it| it.contains("ERROR:")).collect();
    assert_eq!(errors, [""; 0]);
}

/// bun has made two of the three tables, the journal is not there.
#[test]
fn a_history_of_buns_is_shown_before_lockstep_has_ever_run() {
    let scratch = migrated();
    scratch.sql("DROP TABLE bun_migrations_journal; UPDATE bun_migrations SET migrated_at = '2023-04-05 06:07:08+02'");
    let outcome = scratch.lockstep(&["status"]).run();
    outcome.code(0);
    assert_eq!(head_of(&outcome)[2], "history   public.bun_migrations");
    assert!(
        outcome
            .stdout
            .contains("\n20240101000000  a     applied  2023-04-05 04:07:08Z      1     -\n"),
        "{outcome}"
    );
}

/// The table's own lock is the only thing that can hold a reader up.
#[test]
fn a_history_that_is_locked_against_readers_is_named_and_the_wait_for_it_ends() {
    let scratch = migrated();
    let mut locker = scratch.client();
    locker.batch_execute("BEGIN; LOCK TABLE bun_migrations").expect("a lock");
    let pid = rows(&mut locker, "SELECT pg_backend_pid()").remove(0);
    let runs = ["status", "check", "wait"].map(|command| {
        scratch
            .lockstep(&[command])
            .env("MIGRATION_LOCK_WAIT_SECONDS", "0")
            .env("MIGRATION_WAIT_SECONDS", "0")
            .spawn()
    });
    for run in runs {
        let outcome = run.wait();
        outcome.code(4);
        assert!(outcome.error().starts_with("reading the history: gave up after "), "{outcome}");
        assert!(outcome.error().contains("lock timeout (SQLSTATE 55P03)"), "{outcome}");
        let blocked = format!("\n  blocked by pid {pid}, idle in transaction for ");
        assert!(outcome.error().contains(&blocked), "{outcome}");
    }
}

#[test]
fn what_is_unusable_is_told_before_connecting() {
    let scratch = Scratch::with([("notes.sql", "")]);
    for command in ["status", "check", "wait"] {
        let run =
            scratch.lockstep(&[command]).env("DATABASE_URL", "postgres://postgres@127.0.0.1:1/x");
        run.run().code(2).says("not a migration's name");
    }
}

// ----------------------------------------------------------------------------------------------- the schema

/// The manual's table is the schema: each document holds these fields, of these types, and no other.
#[test]
fn the_fields_and_their_types_are_those_of_the_manual() {
    let scratch = every_state();
    let mut gate = Gate::closed(&scratch);
    let plain = scratch.lockstep(&["status", "--json"]).run();
    scratch.sql("INSERT INTO bun_migration_locks (table_name) VALUES ('bun_migrations')");
    let bun = scratch.lockstep(&["status", "--json"]).run();
    scratch.sql("DELETE FROM bun_migration_locks");
    scratch.file("20240101000000_x.up.sql", format!("SELECT 1; {}", Gate::SQL));
    let mut up = scratch.patient_up().env("MIGRATION_DIVERGENCE", "warn").spawn();
    up.wait_for_log("applying 20240101000000");
    gate.wait_for_visitor();
    let held = scratch.lockstep(&["status", "--json"]).run();
    gate.open();
    drop(up);

    assert_documented("status", &[&plain, &bun, &held]);

    scratch.file("20240102000000_c.up.sql", "COMMIT");
    let [refuse, warn] = ["refuse", "warn"].map(|policy| {
        let check = scratch.lockstep(&["check", "--json"]);
        check.env("MIGRATION_DIVERGENCE", policy).run()
    });
    assert_documented("check", &[&refuse, &warn]);
}

/// Path → types, of the manual's table about a command's document.
fn documented(command: &str) -> BTreeMap<String, Vec<String>> {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/manual/logs.md");
    let manual = fs::read_to_string(manual).expect("the manual");
    let header = format!("| field of `{command} --json` | type | meaning |");
    let mut lines = manual.lines().skip_while(|line| *line != header);
    assert!(lines.next().is_some(), "the manual has no table {header}");
    let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
    let rows = rows.flat_map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let types: Vec<String> = cells[2].split(" or ").map(str::to_owned).collect();
        let names: Vec<String> =
            cells[1].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        names.into_iter().map(move |name| (name, types.clone()))
    });
    rows.collect()
}

/// The fields of these documents, taken together, are those of the manual's table about the command's document, and so are
/// their types.
#[track_caller]
pub fn assert_documented(command: &str, documents: &[&Outcome]) {
    let documented = documented(command);
    let mut seen: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (path, types) in documents.iter().flat_map(|it| it.json_paths()) {
        seen.entry(path).or_default().extend(types);
    }
    let names = |it: Vec<&String>| it.into_iter().cloned().collect::<Vec<String>>();
    assert_eq!(
        names(documented.keys().collect()),
        names(seen.keys().collect()),
        "the manual (left), the documents (right)"
    );
    for (path, types) in &seen {
        for kind in types {
            assert!(
                documented[path].iter().any(|it| it == kind),
                "{path} is {kind}, the manual says {:?}",
                documented[path]
            );
        }
    }
}

// ------------------------------------------------------------------------------------------- what it takes

/// One file, applied.
fn migrated() -> Scratch {
    Scratch::migrated([("20240101000000_a.up.sql", "CREATE TABLE a ();")])
}

/// A history with all that there can be, at times that do not depend on now.
fn every_state() -> Scratch {
    let scratch = migrated();
    fs::remove_file(scratch.migrations().join("20240101000000_a.up.sql")).expect("a file");
    for (version, name) in [
        ("20230102000000", "an_edited_file.up.sql"),
        ("20230103000000", "applied_by_bun.tx.up.sql"),
        ("20230104000000", "merged_late.up.sql"),
        ("20230106000000", "applied.up.sql"),
        ("20230107000000", "a_name_that-is_rather_LONG_1.up.sql"),
    ] {
        scratch.file(&format!("{version}_{name}"), "SELECT 1");
    }
    let checksum = "DELETE FROM bun_migrations; UPDATE bun_migrations_journal SET version = 'x'";
    scratch.sql(checksum);
    scratch.sql(
        "SET TimeZone = 'Asia/Bangkok';
         INSERT INTO bun_migrations (id, name, group_id, migrated_at) VALUES
           (101, '20230101000000', 1, '2023-01-01 12:00Z'), (102, '20230102000000', 2, '2023-01-02 12:00Z'),
           (103, '20230103000000', 2, '2023-01-03 12:00Z'), (105, '20230105000000', 3, '2023-01-05 12:00Z'),
           (106, '20230106000000', 3, '2023-01-06 12:00Z'), (107, E'no\\x1bversion', 3, '2023-01-06 12:00Z');
         INSERT INTO bun_migrations_journal
           (version, file_name, checksum, started_at, finished_at, duration_ms, runner, history_id) VALUES
           ('20230102000000', '20230102000000_as_it_was.up.sql', repeat('0', 64), '2023-01-02 12:00Z',
             '2023-01-02 12:00Z', 7, 'r', 102),
           ('20230105000000', '20230105000000_gone.up.sql', repeat('0', 64), '2023-01-05 12:00Z',
             '2023-01-05 12:00Z', 1640, 'r', 105),
           ('20230107000000', '20230107000000_a.up.sql', repeat('0', 64), '2023-01-07 12:00Z', NULL, NULL,
             'lockstep/0.2.0 ไทย/7 -9', NULL);
         DELETE FROM bun_migrations_journal WHERE version = 'x'",
    );
    // Of what was applied as it is, the journal knows the right checksum.
    scratch.sql(&format!(
        "INSERT INTO bun_migrations_journal
           (version, file_name, checksum, started_at, finished_at, duration_ms, runner, history_id)
         VALUES ('20230106000000', '20230106000000_applied.up.sql', '{}', now(), now(), 200000, 'r', 106)",
        checksum_of("SELECT 1")
    ));
    scratch
}

/// The checksum that Lockstep itself notes for a file.
fn checksum_of(text: &str) -> String {
    let scratch = Scratch::new();
    scratch.file("20240101000000_x.up.sql", text);
    scratch.up().code(0);
    scratch.value("SELECT checksum FROM bun_migrations_journal")
}

/// What stands above the table in a pipe.
fn head(scratch: &Scratch, lock: &str) -> String {
    let (host, port) = (&server().host, server().port);
    let version = scratch.value("SHOW server_version");
    format!(
        "server    {host}:{port}, PostgreSQL {version}\n\
         database  {} as postgres\n\
         history   public.bun_migrations\n\
         lock      {lock}\n",
        scratch.database
    )
}

/// The lines above the table, with what varies masked.
fn head_of(outcome: &Outcome) -> Vec<String> {
    let head = outcome.stdout.split("\n\n").next().unwrap_or_default();
    head.lines().map(masked).collect()
}

/// Masks times, hosts and process ids of runners, and addresses.
fn masked(line: &str) -> String {
    let mut words = Vec::new();
    let mut rest = line.split(' ').peekable();
    while let Some(word) = rest.next() {
        let bare = word.trim_end_matches(',');
        let comma = &word[bare.len()..];
        let is_date = bare.len() == 10 && bare.as_bytes()[4] == b'-' && bare.starts_with("20");
        if is_date && rest.peek().is_some_and(|it| it.contains(':')) {
            let clock = rest.next().expect("a time of day");
            words.push(format!("<time>{}", if clock.ends_with(',') { "," } else { "" }));
        } else if word.starts_with("lockstep/") {
            words.push(word.to_owned());
            let runner = rest.next().unwrap_or_default();
            words.push(format!("<host>/<pid>{}", if runner.ends_with(',') { "," } else { "" }));
        } else if words.last().is_some_and(|it| it == "from") {
            words.push(format!("<address>{comma}"));
        } else {
            words.push(word.to_owned());
        }
    }
    words.join(" ")
}

/// What the command writes to a pseudo-terminal; none, with a printed reason, if the system has no `script` of util-linux.
fn on_a_terminal(command: Lockstep<'_>) -> Option<String> {
    let version = Command::new("script").arg("--version").output();
    if !version.is_ok_and(|it| String::from_utf8_lossy(&it.stdout).contains("util-linux")) {
        eprintln!("skipped: there is no `script` of util-linux to make a terminal with");
        return None;
    }
    let binary = env!("CARGO_BIN_EXE_lockstep");
    let inner = command.command();
    let arguments: Vec<String> =
        inner.get_args().map(|it| it.to_string_lossy().into_owned()).collect();
    let mut outer = Command::new("script");
    outer.args(["-qec", &format!("'{binary}' {}", arguments.join(" ")), "/dev/null"]).env_clear();
    for (name, value) in inner.get_envs() {
        outer.env(name, value.unwrap_or_default());
    }
    let output = outer
        .env("PATH", env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .output()
        .expect("script");
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n"))
}

fn without_colours(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| plain + part.split_once('m').map_or(part, |(_, rest)| rest))
}
