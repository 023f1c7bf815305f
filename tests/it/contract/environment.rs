//! Each environment variable, through the real binary: unset, empty, wrong, and that it has its effect.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use crate::support::words::WAITS_FOR_BUN;
use crate::support::{Lockstep, Outcome, Scratch, server, text};

const FILE: &str = "20240101000000_a.up.sql";
const OTHER_FILE: &str = "20240102000000_b.up.sql";

const BOOLEAN: &str = "is not a boolean: use one of 1 t T true TRUE True, 0 f F false FALSE False";
const WAIT: &str =
    "is not a number of seconds: use a decimal from 0 to 315360000, such as 30 or 0.5";
const TIMEOUT: &str =
    "is not a number of seconds: use a decimal from 0 to 2147483.647, such as 30 or 0.5";
const TABLE: &str = "is not a table's name: use table or schema.table, each a plain identifier or one in double \
                     quotes, the table's with at most";
const NO_TLS: &str = "but there is none in this release; use";

/// Every variable that `lockstep` and `up` heed, but those of libpq.
const OURS: [&str; 23] = [
    "RUN_DATABASE_MIGRATIONS",
    "DATABASE_URL",
    "DATABASE_URL_FILE",
    "DATABASE_ENDPOINT_URL",
    "DATABASE_NAME",
    "DATABASE_USERNAME",
    "DATABASE_PASSWORD",
    "DATABASE_PASSWORD_FILE",
    "DATABASE_SSL_ENABLED",
    "MIGRATIONS_DIR",
    "MIGRATIONS_TABLE",
    "MIGRATION_LOCKS_TABLE",
    "DATABASE_WAIT_SECONDS",
    "MIGRATION_LOCK_WAIT_SECONDS",
    "MIGRATION_WAIT_SECONDS",
    "DDL_LOCK_TIMEOUT_SECONDS",
    "DDL_LOCK_RETRY_SECONDS",
    "STATEMENT_TIMEOUT_SECONDS",
    "MIGRATION_ORDER",
    "MIGRATION_DIVERGENCE",
    "LOG_LEVEL",
    "LOG_FORMAT",
    "DATABASE_QUERY_LOGGING_ENABLED",
];

const LIBPQS: [&str; 10] = [
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGUSER",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGDATABASE",
    "PGSSLMODE",
    "PGCONNECT_TIMEOUT",
    "PGAPPNAME",
];

/// A scratch with one migration, which notes who and where it was and with which settings it ran.
fn scratch() -> Scratch {
    Scratch::with([(FILE, "CREATE TABLE noted AS SELECT session_user AS who, application_name AS application,
           current_setting('lock_timeout') AS lock_timeout, current_setting('statement_timeout') AS statement_timeout,
           client_addr IS NULL AS by_socket FROM pg_stat_activity WHERE pid = pg_backend_pid()")])
}

impl Scratch {
    fn noted(&self, column: &str) -> String {
        self.value(&format!("SELECT {column} FROM noted"))
    }

    /// `lockstep up` that is not told where the server is.
    fn lost(&self) -> Lockstep<'_> {
        self.lockstep(&["up"]).without("DATABASE_URL")
    }
}

/// A run with these variables, and what it complains of.
#[track_caller]
fn complaints(run: Lockstep<'_>, variables: &[(&str, &str)]) -> Vec<String> {
    let run = variables
        .iter()
        .fold(run, |run, (name, value)| run.env(name, *value));
    let outcome = run.run();
    outcome.code(2);
    assert_eq!(outcome.stdout, "", "{outcome}");
    let error = outcome.error();
    let (first, rest) = error.split_once('\n').unwrap_or((&error, ""));
    assert_eq!(
        first, "the environment cannot be used; nothing was changed",
        "{outcome}"
    );
    rest.lines()
        .map(|line| line.trim_start().to_owned())
        .collect()
}

/// The deadline of a wait, from its first line in the log: what it has waited and what remains.
fn deadline_ms(outcome: &Outcome) -> f64 {
    let lines = outcome.lines();
    let said = lines
        .iter()
        .find(|line| line.field("remaining_ms").is_some());
    let said = said.unwrap_or_else(|| panic!("no line says what it waits for\n{outcome}"));
    let number = |name| {
        said.field(name)
            .and_then(|value| value.parse::<f64>().ok())
            .expect(name)
    };
    number("waited_ms") + number("remaining_ms")
}

/// Asserts that it is `seconds`, give or take the moment between two looks at the clock.
#[track_caller]
fn assert_deadline(outcome: &Outcome, seconds: f64) {
    let told = deadline_ms(outcome);
    assert!(
        (told - seconds * 1000.0).abs() < 500.0,
        "{told} ms, not {seconds} s\n{outcome}"
    );
}

#[test]
fn a_wrong_value_is_named_with_what_would_do() {
    let scratch = scratch();
    for (variable, value, problem) in [
        ("RUN_DATABASE_MIGRATIONS", "yes", format!("\"yes\" {BOOLEAN}")),
        ("RUN_DATABASE_MIGRATIONS", " true", format!("\" true\" {BOOLEAN}")),
        ("DATABASE_QUERY_LOGGING_ENABLED", "on", format!("\"on\" {BOOLEAN}")),
        ("DATABASE_SSL_ENABLED", "tRUE", format!("\"tRUE\" {BOOLEAN}")),
        ("DATABASE_WAIT_SECONDS", "-1", format!("\"-1\" {WAIT}")),
        ("DATABASE_WAIT_SECONDS", "1m", format!("\"1m\" {WAIT}")),
        ("MIGRATION_LOCK_WAIT_SECONDS", "inf", format!("\"inf\" {WAIT}")),
        ("MIGRATION_WAIT_SECONDS", "5m", format!("\"5m\" {WAIT}")),
        ("DDL_LOCK_RETRY_SECONDS", "1e3", format!("\"1e3\" {WAIT}")),
        ("DDL_LOCK_RETRY_SECONDS", "315360001", format!("\"315360001\" {WAIT}")),
        ("DDL_LOCK_TIMEOUT_SECONDS", "NaN", format!("\"NaN\" {TIMEOUT}")),
        ("STATEMENT_TIMEOUT_SECONDS", "2147483.648", format!("\"2147483.648\" {TIMEOUT}")),
        ("MIGRATION_ORDER", "Strict", "\"Strict\" is not one of any, strict".to_owned()),
        ("MIGRATION_DIVERGENCE", "ignore", "\"ignore\" is not one of refuse, warn".to_owned()),
        (
            "LOG_LEVEL",
            "LOUD",
            "\"LOUD\" is not one of TRACE, DEBUG, INFO, WARN, ERROR (in any case)".to_owned(),
        ),
        ("LOG_FORMAT", "xml", "\"xml\" is not one of text, json".to_owned()),
        ("MIGRATIONS_TABLE", "a b", format!("\"a b\" {TABLE} 55 bytes")),
        ("MIGRATION_LOCKS_TABLE", "a.b.c", format!("\"a.b.c\" {TABLE} 63 bytes")),
        (
            "MIGRATION_LOCKS_TABLE",
            "bun_migrations",
            "\"bun_migrations\" is the history's table or its journal's: give the locks their own".to_owned(),
        ),
        (
            "DATABASE_URL",
            "localhost",
            "is neither a URL that begins with postgres:// or postgresql:// nor key=value pairs".to_owned(),
        ),
        ("DATABASE_URL", "hots=h", "unknown parameter \"hots\"".to_owned()),
        (
            "DATABASE_URL",
            "postgres://h:port/d",
            "port is not a number from 1 to 65535, or several with commas".to_owned(),
        ),
        (
            "DATABASE_URL",
            "host=h connect_timeout=soon",
            "connect_timeout is not a whole number of seconds".to_owned(),
        ),
        (
            "DATABASE_URL_FILE",
            "/nowhere/url",
            "is set, and so is DATABASE_URL: set one of them".to_owned(),
        ),
        (
            "DATABASE_PASSWORD_FILE",
            "/nowhere/password",
            "cannot read /nowhere/password: No such file or directory (os error 2)".to_owned(),
        ),
        ("DATABASE_PASSWORD_FILE", "/dev/null", "/dev/null is empty".to_owned()),
        (
            "DATABASE_ENDPOINT_URL",
            "host:port",
            "its port is not a number from 1 to 65535: use host:port, host, [::1]:port or a socket directory"
                .to_owned(),
        ),
        (
            "DATABASE_ENDPOINT_URL",
            "postgres://h/d",
            "is a URL, which belongs into DATABASE_URL: use host:port, host, [::1]:port or a socket directory"
                .to_owned(),
        ),
    ] {
        let told = complaints(scratch.lockstep(&["up"]), &[(variable, value)]);
        assert_eq!(told, [format!("{variable}: {problem}")], "{variable}={value}");
    }
    assert_eq!(scratch.history(), [""; 0]);
}

#[test]
fn a_wrong_value_of_libpqs_variables_is_named() {
    let scratch = scratch();
    for (variable, value, problem) in [
        (
            "PGPORT",
            "0",
            "\"0\" is not a number from 1 to 65535, or several with commas",
        ),
        (
            "PGHOST",
            "a b",
            "\"a b\" is not a host's name, an address or a socket directory, or several with commas",
        ),
        (
            "PGHOSTADDR",
            "localhost",
            "\"localhost\" is not a numeric address, or several with commas",
        ),
        (
            "PGSSLMODE",
            "maybe",
            "\"maybe\" is not one of disable, allow, prefer, require, verify-ca, verify-full",
        ),
        (
            "PGCONNECT_TIMEOUT",
            "1.5",
            "\"1.5\" is not a whole number of seconds",
        ),
        (
            "PGSERVICE",
            "x",
            "is not supported: say in DATABASE_URL, as key=value pairs, what the service file says",
        ),
    ] {
        let told = complaints(scratch.lost(), &[(variable, value)]);
        assert_eq!(
            told,
            [format!("{variable}: {problem}")],
            "{variable}={value}"
        );
    }
}

#[test]
fn all_complaints_come_at_once_in_the_readmes_order() {
    let scratch = scratch();
    let wrong = [
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "LOUD"),
        ("DATABASE_QUERY_LOGGING_ENABLED", "on"),
        ("MIGRATION_DIVERGENCE", "ignore"),
        ("MIGRATION_ORDER", "Strict"),
        ("STATEMENT_TIMEOUT_SECONDS", "1h"),
        ("DDL_LOCK_RETRY_SECONDS", "1e3"),
        ("DDL_LOCK_TIMEOUT_SECONDS", "NaN"),
        ("MIGRATION_WAIT_SECONDS", "5m"),
        ("MIGRATION_LOCK_WAIT_SECONDS", "inf"),
        ("DATABASE_WAIT_SECONDS", "-1"),
        ("MIGRATION_LOCKS_TABLE", "a.b.c"),
        ("MIGRATIONS_TABLE", "a b"),
        ("PGPORT", "0"),
        ("DATABASE_SSL_ENABLED", "yes"),
        ("DATABASE_PASSWORD_FILE", "/nowhere"),
        ("DATABASE_URL", "hots=h"),
        ("RUN_DATABASE_MIGRATIONS", "yes"),
    ];
    let expected = [
        format!("RUN_DATABASE_MIGRATIONS: \"yes\" {BOOLEAN}"),
        "DATABASE_URL: unknown parameter \"hots\"".to_owned(),
        "DATABASE_PASSWORD_FILE: cannot read /nowhere: No such file or directory (os error 2)"
            .to_owned(),
        format!("DATABASE_SSL_ENABLED: \"yes\" {BOOLEAN}"),
        "PGPORT: \"0\" is not a number from 1 to 65535, or several with commas".to_owned(),
        format!("MIGRATIONS_TABLE: \"a b\" {TABLE} 55 bytes"),
        format!("MIGRATION_LOCKS_TABLE: \"a.b.c\" {TABLE} 63 bytes"),
        format!("DATABASE_WAIT_SECONDS: \"-1\" {WAIT}"),
        format!("MIGRATION_LOCK_WAIT_SECONDS: \"inf\" {WAIT}"),
        format!("MIGRATION_WAIT_SECONDS: \"5m\" {WAIT}"),
        format!("DDL_LOCK_TIMEOUT_SECONDS: \"NaN\" {TIMEOUT}"),
        format!("DDL_LOCK_RETRY_SECONDS: \"1e3\" {WAIT}"),
        format!("STATEMENT_TIMEOUT_SECONDS: \"1h\" {TIMEOUT}"),
        "MIGRATION_ORDER: \"Strict\" is not one of any, strict".to_owned(),
        "MIGRATION_DIVERGENCE: \"ignore\" is not one of refuse, warn".to_owned(),
        "LOG_LEVEL: \"LOUD\" is not one of TRACE, DEBUG, INFO, WARN, ERROR (in any case)"
            .to_owned(),
        "LOG_FORMAT: \"xml\" is not one of text, json".to_owned(),
        format!("DATABASE_QUERY_LOGGING_ENABLED: \"on\" {BOOLEAN}"),
    ];
    assert_eq!(complaints(scratch.lockstep(&["up"]), &wrong), expected);
    // The bare command, too, judges all of it once its own switch is unusable.
    assert_eq!(complaints(scratch.lockstep(&[]), &wrong), expected);
}

#[test]
fn a_variable_that_is_empty_counts_as_unset() {
    let scratch = scratch();
    let (url, directory) = (scratch.url(), text(&scratch.migrations()));
    let run = OURS
        .iter()
        .chain(&LIBPQS)
        .fold(scratch.lockstep(&["up"]), |run, name| run.env(name, ""));
    let outcome = run
        .env("DATABASE_URL", url)
        .env("MIGRATIONS_DIR", directory)
        .run();
    outcome.code(0);
    assert_eq!(scratch.history().len(), 1, "{outcome}");
    assert_eq!(scratch.noted("lock_timeout"), "5s");
    assert_eq!(scratch.noted("statement_timeout"), "0");
    assert_eq!(scratch.noted("split_part(application, '/', 1)"), "lockstep");
    assert_eq!(
        scratch.value("SELECT count(*) FROM bun_migration_locks"),
        "0"
    );
    // Not a line below INFO, and JSON although nobody asked for it.
    assert_eq!(
        outcome.lines().len(),
        outcome.stderr.lines().count(),
        "{outcome}"
    );
    assert!(
        outcome
            .lines()
            .iter()
            .all(|line| line.field("level") == Some("info")),
        "{outcome}"
    );
}

#[test]
fn migrations_are_switched_off_unless_the_variable_is_true() {
    let scratch = scratch();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    listener.set_nonblocking(true).expect("a socket");
    let port = listener.local_addr().expect("an address").port();
    let url = format!("postgres://postgres@127.0.0.1:{port}/{}", scratch.database);
    for value in [
        None,
        Some(""),
        Some("0"),
        Some("f"),
        Some("F"),
        Some("false"),
        Some("FALSE"),
        Some("False"),
    ] {
        let run = scratch.lockstep(&[]).env("DATABASE_URL", &url);
        let run = value
            .into_iter()
            .fold(run, |run, value| run.env("RUN_DATABASE_MIGRATIONS", value));
        let outcome = run.run();
        outcome.code(0);
        let lines = outcome.lines();
        let told: Vec<_> = lines
            .iter()
            .map(|line| (line.field("level"), line.field("message")))
            .collect();
        let message = "migrations are switched off: RUN_DATABASE_MIGRATIONS is not true";
        assert_eq!(told, [(Some("info"), Some(message))], "{outcome}");
        assert_eq!(outcome.stdout, "");
    }
    let connection = listener.accept().map_err(|error| error.kind());
    assert!(
        matches!(connection, Err(ErrorKind::WouldBlock)),
        "it connected: {connection:?}"
    );
}

/// The same listener does see a connection when migrations are switched on, so the test above could have failed.
#[test]
fn migrations_that_are_switched_on_connect() {
    let scratch = scratch();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let url = format!("postgres://postgres@127.0.0.1:{port}/{}", scratch.database);
    let run = scratch
        .lockstep(&[])
        .env("RUN_DATABASE_MIGRATIONS", "true")
        .env("DATABASE_URL", url);
    let running = run.spawn();
    listener.accept().expect("a connection");
    drop(running);
}

#[test]
fn where_migrations_are_switched_off_nothing_else_is_judged() {
    let scratch = Scratch::new();
    let wrong = |name: &&str| *name != "RUN_DATABASE_MIGRATIONS";
    let names = OURS.iter().chain(&LIBPQS).filter(|name| wrong(name));
    let run = names.fold(scratch.lockstep(&[]), |run, name| {
        run.env(name, "/\u{7f} wrong")
    });
    let outcome = run.run();
    outcome.code(0).says("RUN_DATABASE_MIGRATIONS is not true");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
}

#[test]
fn every_spelling_of_true_switches_migrations_on() {
    let scratch = scratch();
    let values = ["1", "t", "T", "true", "TRUE", "True"];
    for value in values {
        let outcome = scratch
            .lockstep(&[])
            .env("RUN_DATABASE_MIGRATIONS", value)
            .run();
        outcome.code(0).is_up_to_date(1);
    }
    assert_eq!(scratch.history().len(), 1);
}

#[test]
fn what_is_asked_for_by_name_needs_no_switch() {
    let scratch = scratch();
    scratch
        .lockstep(&["up"])
        .env("RUN_DATABASE_MIGRATIONS", "false")
        .run()
        .code(0);
    assert_eq!(scratch.history().len(), 1);
}

#[test]
fn the_url_has_both_of_libpqs_forms() {
    let (host, port) = (&server().host, server().port);
    let forms: [fn(&str, u16, &str) -> String; 6] = [
        |host, port, database| format!("postgres://postgres@{host}:{port}/{database}"),
        |host, port, database| {
            format!("postgresql://postgres@{host}:{port}/{database}?sslmode=prefer")
        },
        |host, port, database| {
            format!("postgres://%70ostgres:@{host}:{port}/%74{}", &database[1..])
        },
        |host, port, database| {
            format!("postgres:///?host={host}&port={port}&user=postgres&dbname={database}")
        },
        |host, port, database| format!("host={host} port={port} user=postgres dbname={database}"),
        |host, port, database| {
            format!(" host = '{host}'\n port='{port}' user=postgr\\es dbname='{database}' ")
        },
    ];
    let scratch = scratch();
    for form in forms {
        let url = form(host, port, &scratch.database);
        let outcome = scratch.lockstep(&["up"]).env("DATABASE_URL", &url).run();
        outcome.code(0);
        assert_eq!(scratch.history().len(), 1, "{url}\n{outcome}");
        scratch.sql("DROP TABLE noted; TRUNCATE bun_migrations, bun_migrations_journal");
    }
}

#[test]
fn the_url_may_stand_in_a_file() {
    let scratch = scratch();
    let file = scratch.directory.join("url");
    fs::write(&file, format!("{}\n", scratch.url())).expect("a file");
    scratch
        .lost()
        .env("DATABASE_URL_FILE", text(&file))
        .run()
        .code(0);
    assert_eq!(scratch.history().len(), 1);

    let told = complaints(scratch.lost(), &[("DATABASE_URL_FILE", "/nowhere/url")]);
    assert_eq!(
        told,
        ["DATABASE_URL_FILE: cannot read /nowhere/url: No such file or directory (os error 2)"]
    );
    fs::write(&file, "\n").expect("a file");
    let told = complaints(scratch.lost(), &[("DATABASE_URL_FILE", &text(&file))]);
    assert_eq!(
        told,
        [format!("DATABASE_URL_FILE: {} is empty", file.display())]
    );
    let told = complaints(
        scratch.lockstep(&["up"]),
        &[
            ("DATABASE_URL_FILE", "/x"),
            ("DATABASE_PASSWORD", "x"),
            ("DATABASE_PASSWORD_FILE", "/x"),
        ],
    );
    assert_eq!(
        told,
        [
            "DATABASE_URL_FILE: is set, and so is DATABASE_URL: set one of them",
            "DATABASE_PASSWORD_FILE: is set, and so is DATABASE_PASSWORD: set one of them"
        ]
    );
}

#[test]
fn the_parts_name_the_server() {
    let (host, port) = (&server().host, server().port);
    for (endpoint, more) in [(format!("{host}:{port}"), None), (host.clone(), Some(port))] {
        let scratch = scratch();
        let run = scratch
            .lost()
            .env("DATABASE_ENDPOINT_URL", endpoint)
            .env("DATABASE_NAME", &scratch.database)
            .env("DATABASE_USERNAME", "postgres");
        // A host without its port leaves the port to libpq's variable.
        let run = more
            .into_iter()
            .fold(run, |run, port| run.env("PGPORT", port.to_string()));
        run.run().code(0);
        assert_eq!(scratch.noted("by_socket"), "f");
    }
}

#[test]
fn libpqs_variables_name_the_server() {
    let scratch = scratch();
    let run = scratch
        .lost()
        .env("PGHOST", &server().host)
        .env("PGPORT", server().port.to_string());
    run.env("PGUSER", "postgres")
        .env("PGDATABASE", &scratch.database)
        .run()
        .code(0);
    assert_eq!(scratch.history().len(), 1);
}

#[test]
fn a_socket_directory_is_a_host_too() {
    let directory = Scratch::new().value("SHOW unix_socket_directories");
    let port = server().port.to_string();
    for (variable, value) in [
        ("DATABASE_ENDPOINT_URL", directory.clone()),
        ("PGHOST", directory.clone()),
        ("DATABASE_URL", format!("host={directory}")),
        (
            "DATABASE_URL",
            format!("postgres://{}", directory.replace('/', "%2F")),
        ),
    ] {
        let scratch = scratch();
        let run = scratch
            .lost()
            .env("PGUSER", "postgres")
            .env("PGDATABASE", &scratch.database)
            .env("PGPORT", &port);
        run.env(variable, &value).run().code(0);
        assert_eq!(scratch.noted("by_socket"), "t", "{variable}={value}");
        // A local socket needs no encryption, as with libpq.
        let run = scratch
            .lost()
            .env("PGUSER", "postgres")
            .env("PGDATABASE", &scratch.database)
            .env("PGPORT", &port);
        run.env(variable, &value)
            .env("PGSSLMODE", "require")
            .run()
            .code(0);
    }
}

/// Each source names all it can; what the later ones name would lead nowhere.
#[test]
fn the_url_goes_before_the_parts_and_they_before_libpqs() {
    let (host, port) = (&server().host, server().port.to_string());
    let parts = [
        ("DATABASE_ENDPOINT_URL", "/nowhere"),
        ("DATABASE_NAME", "nowhere"),
        ("DATABASE_USERNAME", "nobody"),
        ("DATABASE_SSL_ENABLED", "true"),
    ];
    let libpqs = [
        ("PGHOST", "/nowhere"),
        ("PGPORT", "1"),
        ("PGUSER", "nobody"),
        ("PGDATABASE", "nowhere"),
        ("PGSSLMODE", "verify-full"),
        ("PGAPPNAME", "last"),
    ];
    let scratch_with = |variables: &[(&str, &str)]| {
        let scratch = scratch();
        let run = variables
            .iter()
            .chain(&libpqs)
            .fold(scratch.lost(), |run, (name, value)| run.env(name, *value));
        (scratch.database.clone(), run.command(), scratch)
    };

    let (database, mut run, scratch) = scratch_with(&parts);
    let url = format!(
        "postgres://postgres@{host}:{port}/{database}?sslmode=disable&application_name=first"
    );
    let output = run.env("DATABASE_URL", url).output().expect("it runs");
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(scratch.noted("split_part(application, ' ', 1)"), "first");

    let (database, mut run, scratch) = scratch_with(&[("DATABASE_SSL_ENABLED", "false")]);
    run.env("DATABASE_ENDPOINT_URL", format!("{host}:{port}"))
        .env("DATABASE_NAME", database);
    let output = run
        .env("DATABASE_USERNAME", "postgres")
        .output()
        .expect("it runs");
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(scratch.noted("split_part(application, ' ', 1)"), "last");
}

#[test]
fn the_later_sources_say_what_the_earlier_leave_open() {
    let scratch = scratch();
    let run = scratch
        .lost()
        .env("DATABASE_URL", format!("dbname={}", scratch.database));
    let run = run.env("DATABASE_USERNAME", "postgres");
    run.env("PGHOST", &server().host)
        .env("PGPORT", server().port.to_string())
        .run()
        .code(0);
    assert_eq!(scratch.history().len(), 1);
}

/// Nothing listens in a scratch directory, so each run ends at once and says where it looked.
#[test]
fn libpqs_defaults_say_the_rest() {
    let scratch = scratch();
    let nowhere = text(&scratch.directory);
    let user = std::process::Command::new("id")
        .arg("-un")
        .output()
        .expect("id")
        .stdout;
    let user = String::from_utf8(user)
        .expect("a name")
        .trim_end()
        .to_owned();
    let once = |run: Lockstep<'_>| run.env("DATABASE_WAIT_SECONDS", "0").run();

    let outcome = once(scratch.lost().env("PGHOST", &nowhere));
    outcome
        .code(3)
        .says(&format!("{nowhere}:5432/{user} as {user}: "));
    // The database is called like the user.
    let outcome = once(
        scratch
            .lost()
            .env("PGHOST", &nowhere)
            .env("PGUSER", "somebody"),
    );
    outcome
        .code(3)
        .says(&format!("{nowhere}:5432/somebody as somebody: "));
    // Port 1: neither a socket in one of the usual directories, nor anybody who listens.
    let outcome = once(scratch.lost().env("PGPORT", "1").env("PGUSER", "somebody"));
    outcome.code(3).says("localhost:1/somebody as somebody: ");
}

#[test]
fn a_password_is_taken_from_wherever_it_is_given() {
    let scratch = scratch();
    let password = "p@ss:w/o?r#d%41 '\"\\ =&é🐘";
    let role = scratch.passworded("w", password);
    let encoded: String = password
        .bytes()
        .map(|byte| format!("%{byte:02X}"))
        .collect();
    let (host, port, database, user) =
        (&server().host, server().port, &scratch.database, &role.name);
    let url = format!("postgres://{user}@{host}:{port}/{database}");
    let file = |name: &str, content: String| {
        let path = scratch.directory.join(name);
        fs::write(&path, content).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        text(&path)
    };
    let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
    let pgpass = format!(
        "# ours\nelsewhere:1:x:y:no\n{host}:{port}:{database}:{user}:{escaped}\n*:*:*:*:no\n"
    );
    let quoted = password.replace('\\', "\\\\").replace('\'', "\\'");
    let pgpass_file = file("pgpass", pgpass.clone());
    let ways: [(&str, String); 9] = [
        ("DATABASE_URL", url.replace('@', &format!(":{encoded}@"))),
        ("DATABASE_URL", format!("{url}?password={encoded}")),
        (
            "DATABASE_URL",
            format!("host={host} port={port} dbname={database} user={user} password='{quoted}'"),
        ),
        ("DATABASE_URL", format!("{url}?passfile={pgpass_file}")),
        ("DATABASE_PASSWORD", password.to_owned()),
        (
            "DATABASE_PASSWORD_FILE",
            file("password", password.to_owned()),
        ),
        (
            "DATABASE_PASSWORD_FILE",
            file("password-line", format!("{password}\n")),
        ),
        ("PGPASSWORD", password.to_owned()),
        ("PGPASSFILE", pgpass_file.clone()),
    ];
    for (variable, value) in &ways {
        let run = scratch
            .lockstep(&["up"])
            .env("DATABASE_URL", &url)
            .env(variable, value);
        run.run().code(0);
        assert_eq!(
            scratch.value("SELECT string_agg(who, '') FROM noted"),
            role.name,
            "{variable}={value}"
        );
        scratch.sql("DROP TABLE noted; TRUNCATE bun_migrations, bun_migrations_journal");
    }

    let refused = scratch.lockstep(&["up"]).env("DATABASE_URL", &url).run();
    refused.code(2).says("the server refused: ");
    file(".pgpass", pgpass);
    scratch
        .lockstep(&["up"])
        .env("DATABASE_URL", &url)
        .run()
        .code(0);
}

/// A second line break at its end is a part of the secret.
#[test]
fn only_one_line_break_is_not_a_part_of_a_password_file() {
    let scratch = scratch();
    let role = scratch.passworded("w", "secret");
    let file = scratch.directory.join("password");
    for (content, code) in [("secret\r\n", 0), ("secret\n\n", 2), (" secret", 2)] {
        fs::write(&file, content).expect("a file");
        let run = scratch.lockstep(&["up"]).env("DATABASE_URL", role.url());
        run.env("DATABASE_PASSWORD_FILE", text(&file))
            .run()
            .code(code);
    }
}

#[test]
fn a_wrong_password_is_refused_at_once_by_the_servers_words() {
    let scratch = scratch();
    let role = scratch.passworded("w", "right");
    let outcome = scratch
        .lockstep(&["up"])
        .env("DATABASE_URL", role.url())
        .env("PGPASSWORD", "wrong")
        .run();
    outcome.code(2);
    assert_eq!(
        outcome.error(),
        format!(
            "the server refused: {}:{}/{} as {}: password authentication failed for user \"{}\" (SQLSTATE 28P01)",
            server().host,
            server().port,
            scratch.database,
            role.name,
            role.name
        )
    );
    assert_eq!(scratch.history(), [""; 0]);
}

#[test]
fn the_first_password_wins() {
    let scratch = scratch();
    let role = scratch.passworded("w", "right");
    let file = scratch.directory.join(".pgpass");
    fs::write(&file, "*:*:*:*:wrong").expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    let with_password = role.url().replace('@', ":right@");
    for (url, part, pg, code) in [
        (with_password.as_str(), "wrong", "wrong", 0),
        (&role.url(), "right", "wrong", 0),
        (&role.url(), "", "right", 0),
        (&role.url(), "wrong", "right", 2),
        (&role.url(), "", "", 2),
    ] {
        let run = scratch.lockstep(&["up"]).env("DATABASE_URL", url);
        run.env("DATABASE_PASSWORD", part)
            .env("PGPASSWORD", pg)
            .run()
            .code(code);
    }
}

#[test]
fn a_password_file_that_others_can_read_is_not_used() {
    let scratch = scratch();
    let role = scratch.passworded("w", "right");
    let file = scratch.directory.join(".pgpass");
    fs::write(&file, "*:*:*:*:right").expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("the file is ours");
    let outcome = scratch
        .lockstep(&["up"])
        .env("DATABASE_URL", role.url())
        .run();
    outcome.code(2).says(&format!(
        "the password file {} is ignored: group or others have access to it; its mode should be 0600",
        file.display()
    ));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    scratch
        .lockstep(&["up"])
        .env("DATABASE_URL", role.url())
        .run()
        .code(0);
}

#[test]
fn others_see_the_application_name() {
    for (name, expected) in [
        (None, concat!("lockstep/", env!("CARGO_PKG_VERSION"))),
        (Some("the-app"), "the-app"),
    ] {
        let scratch = scratch();
        // What a file resets is set again for the next one.
        scratch.file(
            "20231231000000_reset.up.sql",
            "RESET ALL; SET application_name = 'mine'",
        );
        let run = scratch.lockstep(&["up"]);
        let running = name
            .into_iter()
            .fold(run, |run, name| run.env("PGAPPNAME", name))
            .spawn();
        let pid = running.pid();
        running.wait().code(0);
        let noted = scratch.noted("application");
        let (first, rest) = noted.split_once(' ').expect("a name, a host");
        assert_eq!(first, expected);
        assert_eq!(
            rest.rsplit_once('/').map(|(_, number)| number),
            Some(pid.to_string().as_str()),
            "{noted}"
        );
    }
}

#[test]
fn a_demand_for_tls_is_refused() {
    let scratch = scratch();
    let url = scratch.url();
    for mode in ["require", "verify-ca", "verify-full"] {
        let problem = format!(
            "TLS was asked for (sslmode={mode}), {NO_TLS} sslmode=disable only where the network is trusted"
        );
        let told = complaints(
            scratch.lockstep(&["up"]),
            &[("DATABASE_URL", &format!("{url}?sslmode={mode}"))],
        );
        assert_eq!(told, [format!("DATABASE_URL: {problem}")]);
        let pairs = format!("host=127.0.0.1 sslmode={mode}");
        assert_eq!(
            complaints(scratch.lost(), &[("DATABASE_URL", &pairs)]),
            [format!("DATABASE_URL: {problem}")]
        );
        let told = complaints(scratch.lockstep(&["up"]), &[("PGSSLMODE", mode)]);
        assert_eq!(told, [format!("PGSSLMODE: {problem}")]);
    }
    let told = complaints(
        scratch.lockstep(&["up"]),
        &[("DATABASE_SSL_ENABLED", "true")],
    );
    let problem =
        format!("TLS was asked for (true), {NO_TLS} false only where the network is trusted");
    assert_eq!(told, [format!("DATABASE_SSL_ENABLED: {problem}")]);
    assert_eq!(scratch.history(), [""; 0]);

    for mode in ["disable", "allow", "prefer"] {
        scratch
            .lockstep(&["up"])
            .env("PGSSLMODE", mode)
            .run()
            .code(0);
    }
    scratch
        .lockstep(&["up"])
        .env("DATABASE_SSL_ENABLED", "false")
        .env("PGSSLMODE", "require")
        .run()
        .code(0);
}

/// The listener takes connections and never says a word; unless told otherwise, a try would take 20 seconds.
#[test]
fn the_connect_timeout_ends_a_try() {
    let scratch = scratch();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let run = scratch
        .lost()
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", port.to_string())
        .env("PGUSER", "u");
    let started = Instant::now();
    let outcome = run
        .env("PGCONNECT_TIMEOUT", "1")
        .env("DATABASE_WAIT_SECONDS", "0")
        .run();
    outcome
        .code(3)
        .says("the server accepts connections but does not answer");
    assert!(started.elapsed().as_secs() < 18, "{:?}", started.elapsed());
}

#[test]
fn waits_for_the_server_as_long_as_it_is_told() {
    let scratch = scratch();
    let place = format!("host={} user=u dbname=d", text(&scratch.directory));
    let nobody = || scratch.lockstep(&["up"]).env("DATABASE_URL", &place);
    let outcome = nobody().env("DATABASE_WAIT_SECONDS", "0").run();
    outcome.code(3).is_silent_about("waiting for");
    assert!(
        outcome
            .error()
            .starts_with("the database could not be reached within 0 s: "),
        "{outcome}"
    );

    let outcome = nobody().env("DATABASE_WAIT_SECONDS", "3").run();
    outcome.code(3).says("waiting for the database at ");
    assert_deadline(&outcome, 3.0);

    for unset in [None, Some("")] {
        let run = nobody();
        let mut running = unset
            .into_iter()
            .fold(run, |run, it| run.env("DATABASE_WAIT_SECONDS", it))
            .spawn();
        running.wait_for_log("waiting for the database at ");
        assert_deadline(&running.kill(), 60.0);
    }
}

#[test]
fn goes_on_when_the_server_accepts_us() {
    let scratch = scratch();
    let role = scratch.role("limited", "LOGIN CONNECTION LIMIT 0");
    scratch.sql(&format!("GRANT ALL ON SCHEMA public TO {}", role.name));
    let mut running = scratch
        .lockstep(&["up"])
        .env("DATABASE_URL", role.url())
        .spawn();
    running.wait_for_log("too many connections for role");
    scratch.sql(&format!("ALTER ROLE {} CONNECTION LIMIT -1", role.name));
    running.wait().code(0);
    assert_eq!(scratch.history().len(), 1);
}

#[test]
fn waits_for_another_runner_as_long_as_it_is_told() {
    let scratch = scratch();
    scratch.up().code(0);
    scratch.file(OTHER_FILE, "SELECT 1");
    scratch.sql("INSERT INTO bun_migration_locks (table_name) VALUES ('bun_migrations')");

    let outcome = scratch
        .lockstep(&["up"])
        .env("MIGRATION_LOCK_WAIT_SECONDS", "0")
        .run();
    outcome.code(4).is_silent_about("waiting for");
    let outcome = scratch
        .lockstep(&["up"])
        .env("MIGRATION_LOCK_WAIT_SECONDS", "3")
        .run();
    outcome.code(4);
    assert_deadline(&outcome, 3.0);

    let mut running = scratch.lockstep(&["up"]).spawn();
    running.wait_for_log(WAITS_FOR_BUN);
    scratch.sql("DELETE FROM bun_migration_locks");
    let outcome = running.wait();
    outcome.code(0);
    assert_deadline(&outcome, 300.0);
    assert_eq!(scratch.history().len(), 2);
}

#[test]
fn a_migration_has_the_timeouts_it_is_told_whatever_the_database_says() {
    for (lock, statement, expected) in [
        (None, None, "5s|0"),
        (Some(""), Some(""), "5s|0"),
        (Some("0"), Some("0"), "0|0"),
        (Some("0.25"), Some("90"), "250ms|90s"),
    ] {
        let scratch = scratch();
        scratch.sql(&format!(
            "ALTER DATABASE {0} SET lock_timeout = '7s'; ALTER DATABASE {0} SET statement_timeout = '8s'",
            scratch.database
        ));
        let run = scratch.lockstep(&["up"]);
        let run = lock
            .into_iter()
            .fold(run, |run, value| run.env("DDL_LOCK_TIMEOUT_SECONDS", value));
        let run = statement.into_iter().fold(run, |run, value| {
            run.env("STATEMENT_TIMEOUT_SECONDS", value)
        });
        run.run().code(0);
        assert_eq!(scratch.noted("lock_timeout, statement_timeout"), expected);
    }
}

#[test]
fn a_locked_table_is_tried_again_as_long_as_it_is_told() {
    let scratch = Scratch::new();
    scratch.sql("CREATE TABLE t (a int)");
    scratch.file(FILE, "ALTER TABLE t ADD b int");
    let mut client = scratch.client();
    client.batch_execute("BEGIN; LOCK TABLE t").expect("a lock");
    let up = || {
        scratch
            .lockstep(&["up"])
            .env("DDL_LOCK_TIMEOUT_SECONDS", "0.05")
    };

    let outcome = up().env("DDL_LOCK_RETRY_SECONDS", "0").run();
    outcome.code(4).is_silent_about("waiting for");
    let outcome = up().env("DDL_LOCK_RETRY_SECONDS", "3").run();
    outcome.code(4);
    assert_deadline(&outcome, 3.0);

    let mut running = up().spawn();
    running.wait_for_log("waiting for a lock: ");
    client.batch_execute("COMMIT").expect("the lock is gone");
    let outcome = running.wait();
    outcome.code(0);
    assert_deadline(&outcome, 120.0);
}

#[test]
fn the_statement_timeout_stops_a_statement() {
    let scratch = Scratch::with([(FILE, "CREATE TABLE t ();\nSELECT pg_sleep(600);")]);
    // What is finer than the server's millisecond does not become none.
    for timeout in ["0.2", "0.0001"] {
        let outcome = scratch
            .lockstep(&["up"])
            .env("STATEMENT_TIMEOUT_SECONDS", timeout)
            .run();
        // Under load the server may take it for a cancel request, and words it so.
        outcome.code(1).says("(SQLSTATE 57014)");
        assert_eq!(scratch.history(), [""; 0]);
    }
}

#[test]
fn migrations_are_where_the_variable_says_or_in_migrations() {
    let scratch = Scratch::with([(FILE, "SELECT 1")]);
    scratch
        .lockstep(&["up"])
        .without("MIGRATIONS_DIR")
        .run()
        .code(0);
    assert_eq!(scratch.history(), ["20240101000000"]);

    let elsewhere = scratch.directory.join("else where/deep");
    fs::create_dir_all(&elsewhere).expect("a directory");
    fs::write(elsewhere.join(OTHER_FILE), "SELECT 1").expect("a file");
    scratch
        .lockstep(&["up"])
        .env("MIGRATIONS_DIR", "else where")
        .run()
        .code(0);
    assert_eq!(scratch.history(), ["20240101000000", "20240102000000"]);

    let outcome = scratch
        .lockstep(&["up"])
        .env("MIGRATIONS_DIR", "nowhere")
        .run();
    outcome.code(2);
    assert_eq!(
        outcome.error(),
        "the migration files cannot be used; nothing was changed\n  \
         nowhere: no such directory (MIGRATIONS_DIR says where migrations are)"
    );
}

#[test]
fn the_tables_are_called_what_the_variables_say() {
    let scratch = scratch();
    scratch.sql("CREATE SCHEMA meta");
    let run = scratch
        .lockstep(&["up"])
        .env("MIGRATIONS_TABLE", "Meta.History");
    run.env("MIGRATION_LOCKS_TABLE", "\"meta\".\"The Locks\"")
        .run()
        .code(0);
    let tables =
        "SELECT string_agg(format('%s.%s', schemaname, tablename), ', ' ORDER BY tablename)
                  FROM pg_tables WHERE schemaname IN ('meta', 'public')";
    assert_eq!(
        scratch.value(tables),
        "meta.The Locks, meta.history, meta.history_journal, public.noted"
    );
    assert_eq!(
        scratch.sql("SELECT name FROM meta.history"),
        ["20240101000000"]
    );

    // The row of another runner counts in that table only, and under that name.
    scratch.file(OTHER_FILE, "SELECT 1");
    scratch.sql("INSERT INTO meta.\"The Locks\" (table_name) VALUES ('Meta.History')");
    let run = scratch
        .lockstep(&["up"])
        .env("MIGRATIONS_TABLE", "Meta.History");
    let run = run.env("MIGRATION_LOCKS_TABLE", "\"meta\".\"The Locks\"");
    run.env("MIGRATION_LOCK_WAIT_SECONDS", "0").run().code(4);
}

#[test]
fn older_files_are_applied_with_a_warning_unless_the_order_is_strict() {
    for (order, code) in [
        (None, 0),
        (Some(""), 0),
        (Some("any"), 0),
        (Some("strict"), 5),
    ] {
        let scratch = Scratch::migrated([(OTHER_FILE, "SELECT 1")]);
        scratch.file(FILE, "CREATE TABLE late ()");
        let run = scratch.lockstep(&["up"]);
        let run = order
            .into_iter()
            .fold(run, |run, order| run.env("MIGRATION_ORDER", order));
        let outcome = run.run();
        outcome.code(code);
        let applied = scratch.value("SELECT to_regclass('late') IS NOT NULL");
        assert_eq!(applied, if code == 0 { "t" } else { "f" }, "{outcome}");
        let lines = outcome.lines();
        let warned = lines.iter().any(|line| {
            line.field("level") == Some("warn") && line.field("version") == Some("20240101000000")
        });
        assert_eq!(warned, code == 0, "{outcome}");
    }
}

#[test]
fn a_divergence_is_refused_unless_it_is_only_to_be_warned_of() {
    for (policy, code) in [
        (None, 5),
        (Some(""), 5),
        (Some("refuse"), 5),
        (Some("warn"), 0),
    ] {
        let scratch = scratch();
        scratch.up().code(0);
        scratch.file(FILE, "SELECT 'edited'");
        scratch.file(OTHER_FILE, "CREATE TABLE next ()");
        let run = scratch.lockstep(&["up"]);
        let run = policy
            .into_iter()
            .fold(run, |run, policy| run.env("MIGRATION_DIVERGENCE", policy));
        let outcome = run.run();
        outcome.code(code).says("20240101000000 modified");
        assert_eq!(
            scratch.history().len(),
            if code == 0 { 2 } else { 1 },
            "{outcome}"
        );
        let lines = outcome.lines();
        assert_eq!(
            lines.iter().any(|line| line.field("level") == Some("warn")),
            code == 0,
            "{outcome}"
        );
    }
}
