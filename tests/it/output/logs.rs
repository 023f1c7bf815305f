//! The log: its two formats, its levels, what is told while a migration runs, the query log, and that no secret is in
//! any of it; and what goes to stdout instead.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::{Gate, Line, Lockstep, Outcome, Scratch, server, text};

const FILE: &str = "20240101000000_a.up.sql";
const VERSION: &str = "20240101000000";

/// The log's lines whose message begins so.
fn about<'a>(lines: &'a [Line], message: &str) -> Vec<&'a Line> {
    let begins = |line: &&Line| line.field("message").is_some_and(|text| text.starts_with(message));
    lines.iter().filter(begins).collect()
}

/// The query log: verb, SQL and error of each statement.
fn queries(outcome: &Outcome) -> Vec<(String, String, Option<String>)> {
    let lines = outcome.lines();
    let entry = |line: &&Line| {
        let text = |name| line.field(name).map(str::to_owned);
        let duration: f64 = text("duration_ms").expect("a duration").parse().expect("a number");
        assert!(duration >= 0.0, "{outcome}");
        assert_eq!(line.field("level"), Some("debug"), "{outcome}");
        let error =
            text("error").map(|error| format!("{error} {}", text("sqlstate").unwrap_or_default()));
        (text("verb").expect("a verb"), text("sql").expect("the SQL"), error)
    };
    lines
        .iter()
        .filter(|line| line.field("verb").is_some())
        .collect::<Vec<_>>()
        .iter()
        .map(entry)
        .collect()
}

#[test]
fn a_json_line_has_level_time_caller_and_message_in_this_order() {
    let scratch = Scratch::with([
        (FILE, "DO $$ BEGIN RAISE NOTICE 'x'; END $$; SELECT 1"),
        ("20240102000000_b.up.sql", "SELECT nosuch"),
    ]);
    let run = scratch
        .lockstep(&["up"])
        .env("LOG_LEVEL", "TRACE")
        .env("DATABASE_QUERY_LOGGING_ENABLED", "true");
    let outcome = run.run();
    outcome.code(1);
    let lines = outcome.lines();
    assert_eq!(lines.len(), outcome.stderr.lines().count(), "every line is an object\n{outcome}");
    assert!(lines.len() > 10, "{outcome}");
    for line in lines {
        let names: Vec<&str> = line.0.iter().take(4).map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["level", "time", "caller", "message"], "{outcome}");
        let level = line.field("level").unwrap_or_default();
        assert!(["trace", "debug", "info", "warn", "error"].contains(&level), "{level}\n{outcome}");
        let time = line.field("time").unwrap_or_default();
        let shape: String =
            time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00Z", "{outcome}");
        let caller = line.field("caller").unwrap_or_default();
        let (file, number) =
            caller.split_once(':').unwrap_or_else(|| panic!("{caller}\n{outcome}"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let source = fs::read_to_string(source).unwrap_or_else(|error| panic!("{caller}: {error}"));
        let number: usize = number.parse().expect("a line's number");
        assert!(
            file.starts_with("src/") && (1..=source.lines().count()).contains(&number),
            "{caller}\n{outcome}"
        );
        let mut names: Vec<&String> = line.0.iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), line.0.len(), "a field twice\n{outcome}");
    }
}

/// [`Outcome::lines`] parses strictly, so what is no JSON fails here.
#[test]
fn nasty_content_stays_one_line_of_json() {
    let nasty = "\"quotes\" \\back\\slash\\ \r\n\t{\"a\":1} \u{1}\u{1b}[31m\u{7f}\u{85}\u{2028}\u{2029}\u{feff} ไทย 🐘 </script>";
    let scratch = Scratch::new();
    let file = format!(
        "DO $$ BEGIN RAISE NOTICE USING MESSAGE = '{nasty}'; END $$;\nSELECT '{nasty}';\nSELECT 1/0 /* {nasty} */"
    );
    scratch.file(FILE, file);
    let outcome = scratch.lockstep(&["up"]).env("DATABASE_QUERY_LOGGING_ENABLED", "true").run();
    outcome.code(1);
    let lines = outcome.lines();
    assert_eq!(lines.len(), outcome.stderr.lines().count(), "{outcome}");
    assert!(
        lines.iter().any(|line| line.field("message").is_some_and(|text| text.contains(nasty))),
        "{outcome}"
    );
    assert!(
        queries(&outcome).iter().any(|(_, sql, _)| *sql == format!("SELECT '{nasty}'")),
        "{outcome}"
    );
    let control = |c: char| (c.is_control() && c != '\n') || c == '\u{2028}';
    assert!(!outcome.stderr.contains(control), "{:?}", outcome.stderr);
}

#[test]
fn says_that_it_is_running_migrations() {
    let scratch = Scratch::with([(FILE, "SELECT 1")]);
    let run =
        scratch.lockstep(&[]).env("RUN_DATABASE_MIGRATIONS", "true").env("LOG_LEVEL", "DEBUG");
    let outcome = run.without("LOG_FORMAT").run();
    outcome.code(0);
    let lines = outcome.lines();
    let exact = |line: &&Line| line.field("message") == Some("running migrations on database");
    let found: Vec<&Line> = lines.iter().filter(exact).collect();
    assert_eq!(found.len(), 1, "{outcome}");
    assert_eq!(found[0].field("level"), Some("debug"));
    // As the service's own log has it, to the letter.
    let raw = outcome.stderr.lines().find(|line| line.contains("running migrations on database"));
    let raw = raw.expect("it was just found");
    assert!(raw.starts_with("{\"level\":\"debug\",\"time\":\"20"), "{raw}");
    assert!(raw.contains("Z\",\"caller\":\"src/"), "{raw}");
    assert!(raw.contains("\",\"message\":\"running migrations on database\""), "{raw}");
}

#[test]
fn each_migration_is_told_at_its_start_and_when_it_is_applied() {
    let scratch = Scratch::new();
    let names: Vec<String> =
        (1..=13).map(|number| format!("202401010000{number:02}_step.up.sql")).collect();
    for name in &names {
        scratch.file(name, "SELECT 1");
    }
    let outcome = scratch.up();
    outcome.code(0);
    assert_eq!(outcome.stdout, "");
    let lines = outcome.lines();
    let mut rest = lines.iter().filter(|line| line.field("number").is_some());
    for (number, name) in (1..).zip(&names) {
        let (start, applied) = (rest.next().expect("a start"), rest.next().expect("an end"));
        assert_eq!(
            start.field("message"),
            Some(format!("{number}/13 applying {name}").as_str()),
            "{outcome}"
        );
        let message = applied.field("message").unwrap_or_default();
        assert!(
            message.starts_with(&format!("{number}/13 applied step {} ", &name[..14])),
            "{message}\n{outcome}"
        );
        let duration = applied.field("duration_ms").and_then(|it| it.parse::<f64>().ok());
        assert!(duration.is_some_and(|it| it > 0.0), "{outcome}");
        for line in [start, applied] {
            assert_eq!(line.field("level"), Some("info"));
            assert_eq!(line.field("version"), Some(&name[..14]));
            assert_eq!(line.field("name"), Some(name.as_str()));
            assert_eq!(line.field("number"), Some(number.to_string().as_str()));
            assert_eq!(line.field("of"), Some("13"));
        }
    }
    assert!(rest.next().is_none(), "{outcome}");
    let last = lines.last().and_then(|line| line.field("message"));
    let sum = "the database is up to date: 13 migrations, 13 applied in ";
    assert!(last.is_some_and(|it| it.starts_with(sum)), "{outcome}");
}

/// A migration that failed is not told to be applied.
#[test]
fn applied_is_said_after_the_commit_only() {
    let scratch = Scratch::with([(
        FILE,
        "CREATE TABLE p (a int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED); INSERT INTO p VALUES (1), (1)",
    )]);
    let outcome = scratch.up();
    outcome
        .code(1)
        .says("1/1 applying")
        .is_silent_about("1/1 applied")
        .is_silent_about("up to date");
}

/// The test holds a lock that the migration comes to; what it said before is in the log while it stands there.
#[test]
fn notices_are_in_the_log_while_the_migration_still_runs() {
    let notice = "RAISE NOTICE 'half of it'; RAISE WARNING 'odd: %', 7; RAISE INFO 'for you'";
    for file in [
        format!("DO $$ BEGIN {notice}; END $$;\n{}\nSELECT 1;", Gate::SQL),
        // One statement, so without a single marker of ours.
        format!(
            "DO $$ BEGIN {notice}; PERFORM {}; END $$",
            Gate::SQL.trim_start_matches("SELECT ").trim_end_matches(';')
        ),
    ] {
        let scratch = Scratch::new();
        scratch.file(FILE, &file);
        let mut gate = Gate::closed(&scratch);
        let mut running = scratch.lockstep(&["up"]).env("DDL_LOCK_TIMEOUT_SECONDS", "0").spawn();
        gate.wait_for_visitor();
        running.wait_for_log("for you");
        assert!(gate.visitor().is_some(), "it still stands there\n{}", running.log());
        assert_eq!(scratch.history(), [""; 0]);
        gate.open();
        let outcome = running.wait();
        outcome.code(0);
        let lines = outcome.lines();
        for (message, level, sqlstate) in [
            ("NOTICE: half of it", "info", "00000"),
            ("WARNING: odd: 7", "warn", "01000"),
            ("INFO: for you", "info", "00000"),
        ] {
            let found = about(&lines, &format!("{FILE}: {message}"));
            assert_eq!(found.len(), 1, "{message}\n{outcome}");
            let told = ["level", "version", "sqlstate"].map(|name| found[0].field(name));
            assert_eq!(told, [Some(level), Some(VERSION), Some(sqlstate)], "{outcome}");
        }
        assert_eq!(scratch.history(), [VERSION]);
    }
}

/// With statements before and behind it, the one that runs is named while it runs.
#[test]
fn the_statement_that_runs_is_in_the_log_while_it_runs() {
    let scratch = Scratch::with([(
        FILE,
        &format!("CREATE TABLE t ();\n{}\nINSERT INTO t DEFAULT VALUES;", Gate::SQL),
    )]);
    let mut gate = Gate::closed(&scratch);
    let run =
        scratch.lockstep(&["up"]).env("DDL_LOCK_TIMEOUT_SECONDS", "0").env("LOG_LEVEL", "debug");
    let mut running = run.spawn();
    gate.wait_for_visitor();
    running.wait_for_log(&format!("{FILE}: statement 2/3: SELECT"));
    assert!(!running.log().contains("statement 3/3"), "{}", running.log());
    gate.open();
    running.wait().code(0).says("statement 3/3: INSERT");
}

#[test]
fn notices_of_a_statement_outside_a_transaction_are_logged() {
    let scratch = Scratch::new();
    scratch.sql("CREATE TABLE t (a int); CREATE INDEX i ON t (a)");
    scratch.file(FILE, "CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (a)");
    let outcome = scratch.up();
    outcome.code(0);
    let lines = outcome.lines();
    let found = about(&lines, &format!("{FILE}: NOTICE: relation \"i\" already exists, skipping"));
    assert_eq!(found.len(), 1, "{outcome}");
    assert_eq!(found[0].field("version"), Some(VERSION));
}

#[test]
fn the_level_filters() {
    let scratch = Scratch::new();
    let file = "DO $$ BEGIN RAISE NOTICE 'n'; RAISE WARNING 'w'; END $$; SELECT 1/0;";
    scratch.file(FILE, file);
    for (level, shown) in [
        ("ERROR", &["error"][..]),
        ("error", &["error"]),
        ("Warn", &["error", "warn"]),
        ("INFO", &["error", "info", "warn"]),
        ("", &["error", "info", "warn"]),
        ("DEBUG", &["debug", "error", "info", "warn"]),
        ("tRACE", &["debug", "error", "info", "warn"]),
    ] {
        let outcome = scratch.lockstep(&["up"]).env("LOG_LEVEL", level).run();
        outcome.code(1);
        let lines = outcome.lines();
        let mut levels: Vec<&str> = lines.iter().filter_map(|line| line.field("level")).collect();
        levels.sort_unstable();
        levels.dedup();
        levels.retain(|it| *it != "trace");
        assert_eq!(levels, shown, "{level}\n{outcome}");
        assert!(queries(&outcome).is_empty(), "no query log unless it is asked for\n{outcome}");
    }
}

#[test]
fn the_query_log_has_each_statement_whatever_the_level() {
    let file = "CREATE TABLE t (a int); -- first\nINSERT INTO t\n  VALUES (1);\n/* wait */ SELECT pg_sleep(0.3);";
    for level in ["ERROR", "INFO", "TRACE"] {
        let scratch = Scratch::new();
        scratch.file(FILE, file);
        let run = scratch
            .lockstep(&["up"])
            .env("LOG_LEVEL", level)
            .env("DATABASE_QUERY_LOGGING_ENABLED", "true");
        let outcome = run.run();
        outcome.code(0);
        let told = queries(&outcome);
        let at = told
            .iter()
            .position(|(verb, ..)| verb == "CREATE TABLE")
            .unwrap_or_else(|| panic!("{outcome}"));
        let entry = |verb: &str, sql: &str| (verb.to_owned(), sql.to_owned(), None);
        assert_eq!(
            told[at..at + 3],
            [
                entry("CREATE TABLE", "CREATE TABLE t (a int)"),
                entry("INSERT", "INSERT INTO t\n  VALUES (1)"),
                entry("SELECT", "SELECT pg_sleep(0.3)"),
            ],
            "{outcome}"
        );
        // Ours are there, too, and none of them failed.
        assert!(at > 0 && told.len() > at + 3, "{outcome}");
        assert!(told.iter().all(|(.., error)| error.is_none()), "{outcome}");
        assert!(
            told.iter().any(|(_, sql, _)| sql.contains("pg_try_advisory_xact_lock")),
            "{outcome}"
        );

        let lines = outcome.lines();
        let duration = |sql: &str| {
            let line = lines.iter().find(|line| line.field("sql") == Some(sql));
            let duration = line.and_then(|it| it.field("duration_ms")?.parse::<f64>().ok());
            duration.unwrap_or_else(|| panic!("{sql}\n{outcome}"))
        };
        // Each its own: the sleep's time is the sleep's. A busy machine may hear late that it has begun, so not to the
        // millisecond.
        let slept = duration("SELECT pg_sleep(0.3)");
        assert!(slept >= 150.0, "{outcome}");
        assert!(duration("CREATE TABLE t (a int)") < slept, "{outcome}");
        let others = lines.iter().any(|line| line.field("level") == Some("info"));
        assert_eq!(others, level != "ERROR", "{outcome}");
    }
}

#[test]
fn the_query_log_has_the_error_of_the_statement_that_failed() {
    for (file, verbs) in [
        (
            "CREATE TABLE t (a int UNIQUE); INSERT INTO t VALUES (1);\nINSERT INTO t VALUES (1); DROP TABLE t;",
            3,
        ),
        ("INSERT INTO it VALUES (1)", 1),
    ] {
        let scratch = Scratch::new();
        scratch.sql("CREATE TABLE it (a int UNIQUE); INSERT INTO it VALUES (1)");
        scratch.file(FILE, file);
        let run = scratch
            .lockstep(&["up"])
            .env("LOG_LEVEL", "ERROR")
            .env("DATABASE_QUERY_LOGGING_ENABLED", "true");
        let outcome = run.run();
        outcome.code(1);
        let told = queries(&outcome);
        let failed: Vec<_> = told.iter().filter(|(.., error)| error.is_some()).collect();
        let [(verb, sql, Some(error))] = failed[..] else { panic!("one failed\n{outcome}") };
        assert_eq!(verb, "INSERT");
        assert!(sql.ends_with("VALUES (1)"), "{outcome}");
        assert!(error.starts_with("duplicate key value violates unique constraint "), "{outcome}");
        assert!(error.ends_with(" 23505"), "{outcome}");
        let ours = ["CREATE TABLE t", "INSERT INTO", "DROP TABLE t"];
        let of_the_file =
            told.iter().filter(|(_, sql, _)| ours.iter().any(|start| sql.starts_with(start)));
        assert_eq!(of_the_file.count(), verbs, "what did not run is not told\n{outcome}");
    }
}

#[test]
fn the_query_log_has_a_statement_outside_a_transaction() {
    let scratch = Scratch::new();
    scratch.sql("CREATE TABLE t (a int)");
    scratch.file(FILE, "-- i\nCREATE INDEX CONCURRENTLY i ON t (a);");
    let run = scratch
        .lockstep(&["up"])
        .env("LOG_LEVEL", "ERROR")
        .env("DATABASE_QUERY_LOGGING_ENABLED", "1");
    let outcome = run.run();
    outcome.code(0);
    let told = queries(&outcome);
    let found: Vec<_> = told
        .iter()
        .filter(|(_, sql, _)| sql.contains("INDEX CONCURRENTLY i ON t (a)"))
        // The note of the start holds it, too.
        .filter(|(_, sql, _)| !sql.contains("bun_migrations_journal"))
        .collect();
    assert_eq!(found.len(), 1, "{outcome}");
    assert_eq!(found[0].0, "CREATE INDEX CONCURRENTLY", "{outcome}");
}

#[test]
fn the_text_format_is_for_people() {
    let scratch = Scratch::with([(FILE, "DO $$ BEGIN RAISE WARNING 'two\nlines'; END $$")]);
    let outcome = scratch.lockstep(&["up"]).env("LOG_FORMAT", "text").run();
    outcome.code(0);
    assert_eq!(outcome.stdout, "");
    assert!(!outcome.stderr.contains('{'), "{outcome}");
    let line = |text: &str| {
        let found = outcome.stderr.lines().find(|line| line.contains(text));
        found.unwrap_or_else(|| panic!("no line has {text:?}\n{outcome}")).to_owned()
    };
    let start = line("1/1 applied");
    let (time, rest) = start.split_once(' ').expect("a time");
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00Z", "{outcome}");
    assert!(rest.starts_with(&format!("INFO  1/1 applied a {} ", &FILE[..14])), "{outcome}");
    assert!(line("WARNING: two").contains(&format!("Z WARN  {FILE}: WARNING: two")), "{outcome}");
    assert!(outcome.stderr.contains("\n  lines\n"), "further lines are indented\n{outcome}");
}

/// Whoever types a command reads what it says, by whatever pipe. The caret stands under the right character there.
#[test]
fn a_command_speaks_to_people_also_in_a_pipe() {
    let scratch = Scratch::with([(FILE, "SELECT 1;\nSELECT wrong;")]);
    let outcome = scratch.lockstep(&["up"]).without("LOG_FORMAT").run();
    outcome.code(1);
    let excerpt = "\n  2 | SELECT wrong;\n    |        ^\n";
    assert!(outcome.stderr.contains(excerpt), "{outcome}");
}

#[test]
fn the_answer_of_up_is_empty_whatever_happens() {
    let scratch = Scratch::new();
    for (file, code) in [("SELECT 1", 0), ("SELECT 1", 0), ("SELECT 2", 5)] {
        scratch.file(FILE, file);
        let run = scratch
            .lockstep(&["up"])
            .env("LOG_LEVEL", "TRACE")
            .env("DATABASE_QUERY_LOGGING_ENABLED", "true");
        let outcome = run.run();
        assert_eq!(outcome.code(code).stdout, "", "{outcome}");
    }
}

#[test]
fn help_and_version_go_to_stdout_whatever_the_environment_is() {
    let scratch = Scratch::new();
    for (arguments, begins) in [
        (&["help"][..], "Lockstep applies PostgreSQL schema migrations."),
        (&["--help"], "Lockstep applies PostgreSQL schema migrations."),
        (&["-h"], "Lockstep applies PostgreSQL schema migrations."),
        (&["help", "up"], "usage: lockstep up\n"),
        (&["up", "--help"], "usage: lockstep up\n"),
        (&["--version"], concat!("lockstep ", env!("CARGO_PKG_VERSION"), "\n")),
        (&["-V"], concat!("lockstep ", env!("CARGO_PKG_VERSION"), "\n")),
    ] {
        let run =
            scratch.lockstep(arguments).env("DATABASE_URL", "wrong").env("LOG_LEVEL", "wrong");
        let outcome = run.env("RUN_DATABASE_MIGRATIONS", "wrong").run();
        outcome.code(0);
        assert!(outcome.stdout.starts_with(begins), "{outcome}");
        assert_eq!(outcome.stderr, "", "{outcome}");
    }
}

#[test]
fn what_is_unknown_gets_one_line() {
    let scratch = Scratch::new();
    for (arguments, complaint) in [
        (&["upp"][..], "unknown command \"upp\": "),
        (&["--hepl"], "unknown option \"--hepl\": "),
        (&["a\nb\u{1b}\"x"], "unknown command \"a\\nb\\u{1b}\\\"x\": "),
        (&["up", "now"], "unexpected argument \"now\" after \"up\""),
    ] {
        for format in ["text", "json"] {
            let outcome = scratch.lockstep(arguments).env("LOG_FORMAT", format).run();
            outcome.code(2);
            assert_eq!(outcome.stdout, "");
            assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
            assert!(outcome.error().starts_with(complaint), "{outcome}");
            assert!(outcome.stderr.starts_with("error: un"), "{outcome}");
        }
    }
    assert_eq!(scratch.history(), [""; 0]);
}

/// Stands in each part of each password below, and nowhere else.
const SECRET: &str = "qzx";

/// What breaks a URL, a `key=value` pair, a line of a file or a log's line apart.
const NASTY: [&str; 10] = [
    "qzx",
    "qzx@qzx",
    "qzx/qzx?qzx#qzx",
    "qzx:qzx@qzx:1/qzx",
    "qzx qzx=qzx",
    "qzx'qzx\\qzx\"qzx",
    "qzx%zzqzx%41qzx%",
    "qzx&qzx=qzx&qzx",
    "1qzx,qzx]qzx[qzx",
    "qzxéไทย🐘\tqzx",
];

/// Every way to give a password, the wrong ones, too. `place` is `host:port`.
fn ways(
    scratch: &Scratch,
    place: &str,
    user: &str,
    password: &str,
) -> Vec<Vec<(&'static str, String)>> {
    let (host, port) = place.rsplit_once(':').expect("host:port");
    let database = &scratch.database;
    let file = |name: &str, content: &str| {
        let path = scratch.directory.join(name);
        fs::write(&path, content).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        text(&path)
    };
    let encoded: String =
        password
            .bytes()
            .map(|it| {
                if it.is_ascii_alphanumeric() {
                    char::from(it).into()
                } else {
                    format!("%{it:02X}")
                }
            })
            .collect();
    let quoted = password.replace('\\', "\\\\").replace('\'', "\\'");
    let pgpass = password.replace('\\', "\\\\").replace(':', "\\:");
    let url = format!("postgres://{user}@{place}/{database}");
    let with =
        |variable, value: &str| vec![("DATABASE_URL", url.clone()), (variable, value.to_owned())];
    let raw = format!("postgres://{user}:{password}@{place}/{database}");
    vec![
        vec![("DATABASE_URL", format!("postgres://{user}:{encoded}@{place}/{database}"))],
        vec![("DATABASE_URL", format!("{url}?password={encoded}"))],
        vec![(
            "DATABASE_URL",
            format!("host={host} port={port} user={user} password='{quoted}' dbname={database}"),
        )],
        vec![(
            "DATABASE_URL_FILE",
            file("url", &format!("postgres://{user}:{encoded}@{place}/{database}\n")),
        )],
        with("DATABASE_PASSWORD", password),
        with("DATABASE_PASSWORD_FILE", &file("password", password)),
        with("PGPASSWORD", password),
        with("PGPASSFILE", &file("pgpass", &format!("*:*:*:*:{pgpass}\n"))),
        // As people write it who have not read the manual.
        vec![("DATABASE_URL", raw.clone())],
        vec![("DATABASE_URL_FILE", file("raw-url", &raw))],
        vec![("DATABASE_URL", format!("{url}?password={password}"))],
        vec![(
            "DATABASE_URL",
            format!("host={host} port={port} user={user} password={password} dbname={database}"),
        )],
        vec![("DATABASE_URL", format!("mysql://{user}:{password}@{place}/{database}"))],
        vec![("DATABASE_URL", format!("postgres://{user}:{password}@{host}:port/{database}"))],
        vec![("DATABASE_URL", format!("{raw}?sslmode=require"))],
        vec![("DATABASE_ENDPOINT_URL", format!("{user}:{password}@{place}"))],
    ]
}

/// How many of them must reach the server: they are correct, whatever the password is.
const RIGHT_WAYS: usize = 8;

fn loud<'a>(scratch: &'a Scratch, variables: &[(&str, String)]) -> Lockstep<'a> {
    let run = scratch.lockstep(&["up"]).without("DATABASE_URL");
    let run = run.env("LOG_LEVEL", "TRACE").env("DATABASE_QUERY_LOGGING_ENABLED", "true");
    let run = run.env("DATABASE_WAIT_SECONDS", "0");
    variables.iter().fold(run, |run, (name, value)| run.env(name, value))
}

/// Asserts that no part of a password is in what was written, encoded or not.
#[track_caller]
fn assert_secret(outcome: &Outcome, way: &[(&str, String)]) {
    for stream in [&outcome.stdout, &outcome.stderr] {
        assert!(!stream.to_lowercase().contains(SECRET), "{way:?} shows it\n{outcome}");
    }
}

#[test]
fn no_password_is_shown_when_all_goes_well() {
    for password in [NASTY[3], NASTY[5], NASTY[9]] {
        let scratch = Scratch::with([(FILE, "SELECT 1")]);
        let role = scratch.passworded("w", password);
        let place = format!("{}:{}", server().host, server().port);
        for way in &ways(&scratch, &place, &role.name, password)[..RIGHT_WAYS] {
            let outcome = loud(&scratch, way).run();
            outcome.code(0).says("up to date");
            assert_secret(&outcome, way);
        }
    }
}

#[test]
fn no_password_is_shown_when_it_is_wrong_or_how_it_is_given() {
    let scratch = Scratch::with([(FILE, "SELECT 1")]);
    let role = scratch.passworded("w", "another");
    let place = format!("{}:{}", server().host, server().port);
    for password in [NASTY[0], NASTY[3], NASTY[6]] {
        for (number, way) in ways(&scratch, &place, &role.name, password).iter().enumerate() {
            let outcome = loud(&scratch, way).run();
            assert_secret(&outcome, way);
            if number < RIGHT_WAYS {
                outcome.code(2).says("password authentication failed");
            } else {
                assert!(matches!(outcome.code, Some(2 | 3)), "{outcome}");
            }
        }
    }
}

#[test]
fn no_password_is_shown_when_nobody_answers_or_the_environment_is_wrong() {
    let scratch = Scratch::with([(FILE, "SELECT 1")]);
    for password in NASTY {
        // Nobody listens at port 1.
        for (number, way) in ways(&scratch, "127.0.0.1:1", "u", password).iter().enumerate() {
            let outcome = loud(&scratch, way).run();
            assert_secret(&outcome, way);
            if number < RIGHT_WAYS {
                outcome.code(3).says("the database could not be reached");
            } else {
                assert!(matches!(outcome.code, Some(2 | 3)), "{outcome}");
            }
            let outcome =
                loud(&scratch, way).env("PGCONNECT_TIMEOUT", "x").env("LOG_LEVEL", "LOUD").run();
            outcome.code(2);
            assert_secret(&outcome, way);
        }
        for way in ways(&scratch, "127.0.0.1:99999", "u", password) {
            let outcome = loud(&scratch, &way).env("LOG_FORMAT", "text").run();
            outcome.code(2);
            assert_secret(&outcome, &way);
        }
    }
}

/// The migration's own failure goes through other words than the connection's.
#[test]
fn no_password_is_shown_when_a_migration_fails() {
    let scratch = Scratch::new();
    let role = scratch.passworded("w", NASTY[3]);
    scratch.file(FILE, "SELECT 1; SELECT nosuch");
    for format in ["text", "json"] {
        let way = [("DATABASE_URL", role.url()), ("PGPASSWORD", NASTY[3].to_owned())];
        let outcome = loud(&scratch, &way).env("LOG_FORMAT", format).run();
        outcome.code(1).says("nosuch");
        assert_secret(&outcome, &way);
    }
}

/// No older server is refused; `make matrix` has one.
#[test]
fn a_server_older_than_those_tested_is_named_once() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "SELECT 1;")]);
    let old = scratch.value("SELECT current_setting('server_version_num')::int < 150000");
    let outcome = scratch.up();
    outcome.code(0);
    let said = outcome.stderr.matches("not tested with this one").count();
    assert_eq!(said, usize::from(old == "t"), "{}", outcome.stderr);
}
