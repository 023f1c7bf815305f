//! Every variable unset, empty and wrong; precedence; every complaint to the letter; no secret in anything.

use super::*;
use postgres::config::{Host, TargetSessionAttrs};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

impl Environment {
    /// These variables, on a machine without sockets where the user is called `tester` and has no home.
    fn of<V: Into<OsString> + Clone>(variables: &[(&str, V)]) -> Environment {
        Environment {
            variables: variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone().into()))
                .collect(),
            stderr_is_terminal: false,
            stdout_is_terminal: false,
            user: Some("tester".to_owned()),
            home: None,
            socket_directories: Vec::new(),
        }
    }

    fn none() -> Environment {
        Environment::of::<&str>(&[])
    }
}

fn loaded(variables: &[(&str, &str)]) -> Config {
    load(&Environment::of(variables))
        .unwrap_or_else(|complaints| panic!("{variables:?}: {complaints:?}"))
}

fn refused(variables: &[(&str, &str)]) -> Vec<String> {
    match load(&Environment::of(variables)) {
        Ok(config) => panic!("{variables:?}: {config:?}"),
        Err(complaints) => complaints.iter().map(Complaint::to_string).collect(),
    }
}

fn described(variables: &[(&str, &str)]) -> String {
    loaded(variables).server.description
}

fn password(variables: &[(&str, &str)]) -> Option<String> {
    loaded(variables)
        .server
        .client
        .get_password()
        .map(|bytes| bytes.escape_ascii().to_string())
}

/// A directory that is gone when the test ends.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "lockstep-config-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let path = env::temp_dir().join(name);
        fs::create_dir(&path).expect("the name is new");
        Directory(path)
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.0.join(name);
        fs::write(&path, content).expect("the directory is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(path: &Path) -> &str {
    path.to_str()
        .expect("the temporary directory's name is UTF-8")
}

const ALL: [&str; 23] = [
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

const PG_ALL: [&str; 10] = [
    "PGHOST",
    "PGPORT",
    "PGUSER",
    "PGPASSWORD",
    "PGDATABASE",
    "PGSSLMODE",
    "PGCONNECT_TIMEOUT",
    "PGAPPNAME",
    "PGPASSFILE",
    "PGSERVICE",
];

#[test]
fn unset_and_empty_are_the_defaults() {
    let empty: Vec<(&str, &str)> = ALL.iter().chain(&PG_ALL).map(|name| (*name, "")).collect();
    for environment in [Environment::none(), Environment::of(&empty)] {
        assert_eq!(switch(&environment), Ok(false));
        let settings = logging(&environment);
        let default = logging::Settings {
            level: LevelFilter::Info,
            format: logging::Format::Json,
            queries: false,
            screen: logging::Screen::Lines,
        };
        assert_eq!(settings, default);

        let config = load(&environment).expect("nothing is wrong");
        assert_eq!(config.server.description, "localhost:5432/tester as tester");
        assert_eq!(config.server.application_name, None);
        assert_eq!(config.server.connect_timeout, None);
        assert_eq!(config.server.client.get_password(), None);
        assert_eq!(config.migrations_dir, Path::new("migrations"));
        assert_eq!(config.history_table.quoted(), "\"bun_migrations\"");
        assert_eq!(config.history_table.setting, "bun_migrations");
        assert_eq!(config.locks_table.quoted(), "\"bun_migration_locks\"");
        assert_eq!(config.database_wait, secs(60));
        assert_eq!(config.lock_wait, secs(300));
        assert_eq!(config.migration_wait, secs(300));
        assert_eq!(config.ddl_lock_timeout, secs(5));
        assert_eq!(config.ddl_lock_retry, secs(120));
        assert_eq!(config.statement_timeout, Duration::ZERO);
        assert_eq!(
            (config.order, config.divergence),
            (Order::Any, DivergencePolicy::Refuse)
        );
        assert_eq!(config.warnings, Vec::<String>::new());
    }
}

#[test]
fn every_variable_is_heard() {
    let config = loaded(&[
        ("MIGRATIONS_DIR", "/srv/sql"),
        ("MIGRATIONS_TABLE", "Meta.History"),
        ("MIGRATION_LOCKS_TABLE", "meta.\"Locks\""),
        ("DATABASE_WAIT_SECONDS", "0"),
        ("MIGRATION_LOCK_WAIT_SECONDS", "0.25"),
        ("MIGRATION_WAIT_SECONDS", "1200"),
        ("DDL_LOCK_TIMEOUT_SECONDS", "1.5"),
        ("DDL_LOCK_RETRY_SECONDS", "7"),
        ("STATEMENT_TIMEOUT_SECONDS", "0.0001"),
        ("MIGRATION_ORDER", "strict"),
        ("MIGRATION_DIVERGENCE", "warn"),
    ]);
    assert_eq!(config.migrations_dir, Path::new("/srv/sql"));
    assert_eq!(config.history_table.quoted(), "\"meta\".\"history\"");
    assert_eq!(config.history_table.setting, "Meta.History");
    assert_eq!(config.locks_table.quoted(), "\"meta\".\"Locks\"");
    assert_eq!(config.database_wait, Duration::ZERO);
    assert_eq!(config.lock_wait, Duration::from_millis(250));
    assert_eq!(config.migration_wait, secs(1200));
    assert_eq!(config.ddl_lock_timeout, Duration::from_millis(1500));
    assert_eq!(config.ddl_lock_retry, secs(7));
    assert_eq!(config.statement_timeout, Duration::from_millis(1));
    assert_eq!(
        (config.order, config.divergence),
        (Order::Strict, DivergencePolicy::Warn)
    );
}

#[test]
fn all_complaints_come_at_once_in_the_tables_order() {
    let not_a_boolean =
        "is not a boolean: use one of 1 t T true TRUE True, 0 f F false FALSE False";
    let wait = "is not a number of seconds: use a decimal from 0 to 315360000, such as 30 or 0.5";
    let timeout =
        "is not a number of seconds: use a decimal from 0 to 2147483.647, such as 30 or 0.5";
    let table = "is not a table's name: use table or schema.table, each a plain identifier or one in double quotes, \
                 the table's with at most";
    let wrong = [
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "LOUD"),
        ("DATABASE_QUERY_LOGGING_ENABLED", "on"),
        ("MIGRATION_DIVERGENCE", "ignore"),
        ("MIGRATION_ORDER", "Strict"),
        ("STATEMENT_TIMEOUT_SECONDS", "2147483.648"),
        ("DDL_LOCK_RETRY_SECONDS", "1e3"),
        ("DDL_LOCK_TIMEOUT_SECONDS", "NaN"),
        ("MIGRATION_WAIT_SECONDS", "5m"),
        ("MIGRATION_LOCK_WAIT_SECONDS", "inf"),
        ("DATABASE_WAIT_SECONDS", "-1"),
        ("MIGRATION_LOCKS_TABLE", "a.b.c"),
        ("MIGRATIONS_TABLE", "a b"),
        ("PGSSLMODE", "maybe"),
        ("PGPORT", "0"),
        ("DATABASE_SSL_ENABLED", "yes"),
        ("DATABASE_PASSWORD_FILE", "/nowhere/password"),
        ("DATABASE_ENDPOINT_URL", "host:port:more"),
        ("DATABASE_URL", "hots=h"),
        ("RUN_DATABASE_MIGRATIONS", "yes"),
    ];
    let expected = [
        format!("RUN_DATABASE_MIGRATIONS: \"yes\" {not_a_boolean}"),
        "DATABASE_URL: unknown parameter \"hots\"".to_owned(),
        "DATABASE_ENDPOINT_URL: its port is not a number from 1 to 65535: \
         use host:port, host, [::1]:port or a socket directory"
            .to_owned(),
        "DATABASE_PASSWORD_FILE: cannot read /nowhere/password: No such file or directory (os error 2)".to_owned(),
        format!("DATABASE_SSL_ENABLED: \"yes\" {not_a_boolean}"),
        "PGPORT: \"0\" is not a number from 1 to 65535, or several with commas".to_owned(),
        "PGSSLMODE: \"maybe\" is not one of disable, allow, prefer, require, verify-ca, verify-full".to_owned(),
        format!("MIGRATIONS_TABLE: \"a b\" {table} 55 bytes"),
        format!("MIGRATION_LOCKS_TABLE: \"a.b.c\" {table} 63 bytes"),
        format!("DATABASE_WAIT_SECONDS: \"-1\" {wait}"),
        format!("MIGRATION_LOCK_WAIT_SECONDS: \"inf\" {wait}"),
        format!("MIGRATION_WAIT_SECONDS: \"5m\" {wait}"),
        format!("DDL_LOCK_TIMEOUT_SECONDS: \"NaN\" {timeout}"),
        format!("DDL_LOCK_RETRY_SECONDS: \"1e3\" {wait}"),
        format!("STATEMENT_TIMEOUT_SECONDS: \"2147483.648\" {timeout}"),
        "MIGRATION_ORDER: \"Strict\" is not one of any, strict".to_owned(),
        "MIGRATION_DIVERGENCE: \"ignore\" is not one of refuse, warn".to_owned(),
        "LOG_LEVEL: \"LOUD\" is not one of TRACE, DEBUG, INFO, WARN, ERROR (in any case)".to_owned(),
        "LOG_FORMAT: \"xml\" is not one of text, json".to_owned(),
        format!("DATABASE_QUERY_LOGGING_ENABLED: \"on\" {not_a_boolean}"),
    ];
    assert_eq!(refused(&wrong), expected);
}

#[test]
fn each_complaint_comes_alone_too() {
    for (variable, value, problem) in [
        ("MIGRATIONS_TABLE", "", None),
        (
            "MIGRATION_LOCKS_TABLE",
            "bun_migrations",
            Some(
                "\"bun_migrations\" is the history's table or its journal's: give the locks their own",
            ),
        ),
        (
            "MIGRATION_LOCKS_TABLE",
            "BUN_migrations_journal",
            Some(
                "\"BUN_migrations_journal\" is the history's table or its journal's: give the locks their own",
            ),
        ),
        (
            "DATABASE_URL_FILE",
            "/nowhere/url",
            Some("cannot read /nowhere/url: No such file or directory (os error 2)"),
        ),
        (
            "DATABASE_URL_FILE",
            "/",
            Some("cannot read /: Is a directory (os error 21)"),
        ),
        (
            "DATABASE_PASSWORD_FILE",
            "/dev/null",
            Some("/dev/null is empty"),
        ),
        (
            "DATABASE_PASSWORD_FILE",
            "/dev/zero",
            Some("/dev/zero is larger than 65536 bytes"),
        ),
        (
            "PGHOST",
            "a b",
            Some(
                "\"a b\" is not a host's name, an address or a socket directory, or several with commas",
            ),
        ),
        (
            "PGHOST",
            "a,,b",
            Some(
                "\"a,,b\" is not a host's name, an address or a socket directory, or several with commas",
            ),
        ),
        (
            "PGHOST",
            "h:5432",
            Some(
                "\"h:5432\" is not a host's name, an address or a socket directory, or several with commas",
            ),
        ),
        (
            "PGHOSTADDR",
            "localhost",
            Some("\"localhost\" is not a numeric address, or several with commas"),
        ),
        (
            "PGPORT",
            "65536",
            Some("\"65536\" is not a number from 1 to 65535, or several with commas"),
        ),
        (
            "PGPORT",
            "+1",
            Some("\"+1\" is not a number from 1 to 65535, or several with commas"),
        ),
        (
            "PGPORT",
            "1,2",
            Some("\"1,2\" has 2 ports for 1 host: give one for each"),
        ),
        (
            "PGCONNECT_TIMEOUT",
            "1.5",
            Some("\"1.5\" is not a whole number of seconds"),
        ),
        (
            "PGSERVICE",
            "x",
            Some(
                "is not supported: say in DATABASE_URL, as key=value pairs, what the service file says",
            ),
        ),
        ("PGREQUIREAUTH", "md5", Some("is not supported: unset it")),
        ("PGREQUIREPEER", "x", Some("is not supported: unset it")),
        (
            "PGTARGETSESSIONATTRS",
            "primary",
            Some("\"primary\" is not one of any, read-write, read-only"),
        ),
        (
            "PGLOADBALANCEHOSTS",
            "x",
            Some("\"x\" is not one of disable, random"),
        ),
        (
            "PGGSSENCMODE",
            "require",
            Some("GSSAPI encryption was asked for (gssencmode=require), but Lockstep has none"),
        ),
        (
            "DATABASE_URL",
            "secret",
            Some(
                "is neither a URL that begins with postgres:// or postgresql:// nor key=value pairs",
            ),
        ),
        (
            "DATABASE_URL",
            "postgres://h:secret/d",
            Some("port is not a number from 1 to 65535, or several with commas"),
        ),
        (
            "DATABASE_URL",
            "postgres://sec,r%20et/d",
            Some(
                "host is not a host's name, an address or a socket directory, or several with commas",
            ),
        ),
        (
            "DATABASE_URL",
            "postgres://h/%ff",
            Some("dbname is not valid UTF-8"),
        ),
        (
            "DATABASE_URL",
            "host=a,b hostaddr=::1",
            Some("hostaddr has 1 address for 2 hosts: give one for each"),
        ),
        (
            "DATABASE_URL",
            "host=a,b,c port=1,2",
            Some("port has 2 ports for 3 hosts: give one for each"),
        ),
        (
            "DATABASE_URL",
            "host=@abstract",
            Some(
                "host is not a host's name, an address or a socket directory, or several with commas",
            ),
        ),
        (
            "DATABASE_URL",
            "client_encoding=LATIN1",
            Some("client_encoding is not UTF8 or auto: migrations are UTF-8"),
        ),
        (
            "DATABASE_URL",
            "connect_timeout=soon",
            Some("connect_timeout is not a whole number of seconds"),
        ),
        (
            "DATABASE_URL",
            "target_session_attrs=standby",
            Some("target_session_attrs is not one of any, read-write, read-only"),
        ),
        (
            "DATABASE_URL",
            "sslmode=full",
            Some("sslmode is not one of disable, allow, prefer, require, verify-ca, verify-full"),
        ),
        (
            "DATABASE_ENDPOINT_URL",
            "postgres://u:secret@h:1",
            Some(
                "is a URL, which belongs into DATABASE_URL: use host:port, host, [::1]:port or a socket directory",
            ),
        ),
        (
            "DATABASE_ENDPOINT_URL",
            "u:secret@h",
            Some(
                "its port is not a number from 1 to 65535: use host:port, host, [::1]:port or a socket directory",
            ),
        ),
        (
            "DATABASE_ENDPOINT_URL",
            "h:",
            Some(
                "its port is not a number from 1 to 65535: use host:port, host, [::1]:port or a socket directory",
            ),
        ),
        (
            "DATABASE_ENDPOINT_URL",
            ":5432",
            Some("is not host:port, host, [::1]:port or a socket directory"),
        ),
        (
            "DATABASE_ENDPOINT_URL",
            "a,b",
            Some("is not host:port, host, [::1]:port or a socket directory"),
        ),
        (
            "DATABASE_ENDPOINT_URL",
            "[::1",
            Some("is not host:port, host, [::1]:port or a socket directory"),
        ),
        (
            "DATABASE_ENDPOINT_URL",
            "[::1]5",
            Some(
                "its port is not a number from 1 to 65535: use host:port, host, [::1]:port or a socket directory",
            ),
        ),
    ] {
        match problem {
            Some(problem) => assert_eq!(
                refused(&[(variable, value)]),
                [format!("{variable}: {problem}")]
            ),
            None => drop(loaded(&[(variable, value)])),
        }
    }
}

#[cfg(unix)]
#[test]
fn what_is_not_utf8_is_named_except_in_passwords() {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = || OsString::from_vec(vec![b'a', 0xff]);
    for name in ALL
        .iter()
        .filter(|name| !name.contains("PASSWORD") && **name != "DATABASE_URL_FILE")
    {
        let complaints = load(&Environment::of(&[(name, bytes())])).expect_err(name);
        assert_eq!(complaints, [complaint(name, "is not valid UTF-8")]);
    }
    for name in [
        "PGHOST",
        "PGUSER",
        "PGDATABASE",
        "PGPORT",
        "PGAPPNAME",
        "PGOPTIONS",
        "PGSSLMODE",
        "PGCONNECT_TIMEOUT",
    ] {
        let complaints = load(&Environment::of(&[(name, bytes())])).expect_err(name);
        assert_eq!(complaints, [complaint(name, "is not valid UTF-8")]);
    }
    for name in ["DATABASE_PASSWORD", "PGPASSWORD"] {
        let config =
            load(&Environment::of(&[(name, bytes())])).expect("a password may be any bytes");
        assert_eq!(config.server.client.get_password(), Some(&[b'a', 0xff][..]));
    }
    assert_eq!(
        load(&Environment::of(&[(
            "DATABASE_PASSWORD_FILE",
            OsString::from_vec(vec![b'/', 0xff])
        )]))
        .expect_err("absent")[0]
            .to_string(),
        "DATABASE_PASSWORD_FILE: cannot read /\u{fffd}: No such file or directory (os error 2)"
    );
}

#[test]
fn the_switch_judges_nothing_else() {
    let wrong = [
        ("DATABASE_PASSWORD_FILE", "/nowhere"),
        ("DATABASE_URL", "x"),
        ("LOG_LEVEL", "x"),
        ("PGPORT", "x"),
    ];
    assert_eq!(switch(&Environment::of(&wrong)), Ok(false));
    for (value, expected) in [("true", Ok(true)), ("0", Ok(false))] {
        assert_eq!(switch(&Environment::of(&[(RUN, value)])), expected);
    }
    let problem =
        "\"yes\" is not a boolean: use one of 1 t T true TRUE True, 0 f F false FALSE False";
    assert_eq!(
        switch(&Environment::of(&[(RUN, "yes")])),
        Err(complaint(RUN, problem))
    );
}

#[test]
fn booleans_are_gos() {
    for text in ["1", "t", "T", "true", "TRUE", "True"] {
        assert_eq!(boolean(text), Ok(true));
    }
    for text in ["0", "f", "F", "false", "FALSE", "False"] {
        assert_eq!(boolean(text), Ok(false));
    }
    for text in [
        "yes", "no", "on", "off", "tRUE", "TrUe", " true", "true ", "2", "01", "truetrue", "è",
    ] {
        assert!(boolean(text).is_err(), "{text}");
    }
}

#[test]
fn seconds_may_have_a_fraction() {
    for (text, nanos) in [
        ("0", 0),
        ("0.0", 0),
        ("5", 5_000_000_000),
        ("005", 5_000_000_000),
        ("0.5", 500_000_000),
        ("1.000000001", 1_000_000_001),
        ("0.0000000001", 1),
        ("1.9999999999", 2_000_000_000),
        ("315360000", 315_360_000_000_000_000),
    ] {
        assert_eq!(wait(text), Ok(Duration::from_nanos(nanos)), "{text}");
    }
    for text in [
        "x",
        "-1",
        "-0",
        "+1",
        "1.",
        ".5",
        ".",
        "1.2.3",
        "1e3",
        "1,5",
        "NaN",
        "inf",
        "infinity",
        "0x10",
        " 1",
        "1 ",
        "1s",
        "1_0",
        "315360000.1",
        "315360001",
        "18446744073709551616",
        "99999999999999999999999999",
        "٣",
    ] {
        assert!(wait(text).is_err(), "{text}");
    }
    for (text, millis) in [
        ("0", 0),
        ("0.000", 0),
        ("0.0000000000000001", 1),
        ("0.0004", 1),
        ("0.001", 1),
        ("0.0011", 2),
        ("5", 5000),
        ("2147483.647", 2_147_483_647),
    ] {
        assert_eq!(
            server_timeout(text),
            Ok(Duration::from_millis(millis)),
            "{text}"
        );
    }
    for text in ["2147483.6471", "2147483.648", "2147484", "-1"] {
        assert!(server_timeout(text).is_err(), "{text}");
    }
}

#[test]
fn long_values_are_shown_in_part_and_on_one_line() {
    assert_eq!(shown("a\nb\u{1b}"), "\"a\\nb\\u{1b}\"");
    assert_eq!(shown(&"x".repeat(80)), format!("\"{}\"", "x".repeat(80)));
    assert_eq!(shown(&"é".repeat(81)), format!("\"{}\"…", "é".repeat(80)));
}

#[test]
fn a_terminal_that_can_has_a_live_line_and_colours() {
    use logging::{Colours, Screen};
    let terminal = |columns, colours| Screen::Terminal { columns, colours };
    for (variables, screen) in [
        (&[][..], terminal(80, Colours::Ansi)),
        (&[("TERM", "xterm")], terminal(80, Colours::Ansi)),
        (&[("TERM", "dumb")], Screen::Lines),
        (&[("NO_COLOR", "0")], terminal(80, Colours::None)),
        (&[("NO_COLOR", "")], terminal(80, Colours::Ansi)),
        (&[("COLUMNS", "132")], terminal(132, Colours::Ansi)),
        (&[("COLUMNS", "0")], terminal(80, Colours::Ansi)),
        (&[("COLUMNS", "wide")], terminal(80, Colours::Ansi)),
    ] {
        for (stderr_is_terminal, screen) in [(true, screen), (false, Screen::Lines)] {
            let settings = logging(&Environment {
                stderr_is_terminal,
                ..Environment::of(variables)
            });
            assert_eq!(settings.screen, screen, "{variables:?}");
        }
    }
}

#[test]
fn an_answer_is_laid_out_for_the_terminal_that_there_is() {
    use crate::text::terminal::{Layout, Paint};
    let layout = |variables: &[(&str, &str)], terminal| {
        super::layout(&Environment {
            stdout_is_terminal: terminal,
            ..Environment::of(variables)
        })
    };
    let terminal = |columns, paint| Layout::Terminal { columns, paint };
    for (variables, expected) in [
        (&[] as &[_], terminal(80, Paint::Ansi)),
        (&[("COLUMNS", "132")], terminal(132, Paint::Ansi)),
        (&[("COLUMNS", "0")], terminal(80, Paint::Ansi)),
        (&[("COLUMNS", "wide")], terminal(80, Paint::Ansi)),
        (&[("NO_COLOR", "0")], terminal(80, Paint::None)),
        (&[("NO_COLOR", "")], terminal(80, Paint::Ansi)),
        (&[("TERM", "dumb")], terminal(80, Paint::None)),
        (&[("TERM", "xterm")], terminal(80, Paint::Ansi)),
    ] {
        assert_eq!(layout(variables, true), expected, "{variables:?}");
        assert_eq!(layout(variables, false), Layout::Plain, "{variables:?}");
    }
}

#[test]
fn logging_has_defaults_where_a_value_is_unusable() {
    let settings = |variables: &[(&str, &str)], terminal| {
        logging(&Environment {
            stderr_is_terminal: terminal,
            ..Environment::of(variables)
        })
    };
    assert_eq!(settings(&[], true).format, logging::Format::Text);
    assert_eq!(
        settings(&[("LOG_FORMAT", "json")], true).format,
        logging::Format::Json
    );
    assert_eq!(
        settings(&[("LOG_FORMAT", "text")], false).format,
        logging::Format::Text
    );
    assert_eq!(
        settings(&[("LOG_FORMAT", "xml")], true).format,
        logging::Format::Text
    );
    assert_eq!(
        settings(&[("LOG_FORMAT", "xml")], false).format,
        logging::Format::Json
    );
    for (text, level) in [
        ("trace", LevelFilter::Trace),
        ("DEBUG", LevelFilter::Debug),
        ("Info", LevelFilter::Info),
        ("wArN", LevelFilter::Warn),
        ("ERROR", LevelFilter::Error),
        ("off", LevelFilter::Info),
        ("warning", LevelFilter::Info),
    ] {
        assert_eq!(
            settings(&[("LOG_LEVEL", text)], false).level,
            level,
            "{text}"
        );
    }
    assert!(settings(&[("DATABASE_QUERY_LOGGING_ENABLED", "1")], false).queries);
    assert!(!settings(&[("DATABASE_QUERY_LOGGING_ENABLED", "x")], false).queries);
}

#[test]
fn the_first_source_that_names_something_wins() {
    let url = ("DATABASE_URL", "postgres://url:urlpw@url.example:1/urldb");
    let parts = [
        ("DATABASE_ENDPOINT_URL", "part.example:2"),
        ("DATABASE_NAME", "partdb"),
        ("DATABASE_USERNAME", "part"),
        ("DATABASE_PASSWORD", "partpw"),
    ];
    let pg = [
        ("PGHOST", "pg.example"),
        ("PGPORT", "3"),
        ("PGDATABASE", "pgdb"),
        ("PGUSER", "pg"),
        ("PGPASSWORD", "pgpw"),
        ("PGAPPNAME", "pgapp"),
        ("PGCONNECT_TIMEOUT", "9"),
    ];
    let with = |extra: &[(&'static str, &'static str)]| [extra, &parts, &pg].concat();

    assert_eq!(described(&with(&[url])), "url.example:1/urldb as url");
    assert_eq!(password(&with(&[url])).as_deref(), Some("urlpw"));
    assert_eq!(described(&with(&[])), "part.example:2/partdb as part");
    assert_eq!(password(&with(&[])).as_deref(), Some("partpw"));
    assert_eq!(described(&pg), "pg.example:3/pgdb as pg");
    assert_eq!(password(&pg).as_deref(), Some("pgpw"));

    // What the URL leaves open, the parts say, and then libpq's variables; but a host's port is not another host's.
    for (text, expected) in [
        ("postgres://", "part.example:2/partdb as part"),
        ("postgres://url@", "part.example:2/partdb as url"),
        ("postgres://url.example", "url.example:3/partdb as part"),
        (
            "postgres://url.example/urldb",
            "url.example:3/urldb as part",
        ),
        ("postgres://:7/urldb", "part.example:7/urldb as part"),
        ("hostaddr=::1", "[::1]:3/partdb as part"),
        ("host='' port=7", "part.example:7/partdb as part"),
    ] {
        assert_eq!(
            described(&with(&[("DATABASE_URL", text)])),
            expected,
            "{text}"
        );
    }
    let config = loaded(&with(&[(
        "DATABASE_URL",
        "application_name=mine connect_timeout=4",
    )]));
    assert_eq!(config.server.application_name.as_deref(), Some("mine"));
    assert_eq!(config.server.connect_timeout, Some(secs(4)));
    let config = loaded(&with(&[(
        "DATABASE_URL",
        "fallback_application_name=mine connect_timeout=0",
    )]));
    assert_eq!(config.server.application_name.as_deref(), Some("pgapp"));
    assert_eq!(config.server.connect_timeout, None);
    let config = loaded(&[(
        "DATABASE_URL",
        "fallback_application_name=mine connect_timeout=-1",
    )]);
    assert_eq!(config.server.application_name.as_deref(), Some("mine"));
    assert_eq!(config.server.connect_timeout, None);
    // An endpoint without a port is completed by PGPORT; a service is no matter if a host is named.
    assert_eq!(
        described(&[("DATABASE_ENDPOINT_URL", "h"), ("PGPORT", "3")]),
        "h:3/tester as tester"
    );
    assert_eq!(
        described(&[("DATABASE_ENDPOINT_URL", "h"), ("PGSERVICE", "x")]),
        "h:5432/tester as tester"
    );
    // libpq's variables that are not used are not judged.
    assert_eq!(
        described(&[url, ("PGPORT", "x"), ("PGHOST", " "), ("PGHOSTADDR", "x")]),
        "url.example:1/urldb as url"
    );
}

#[test]
fn endpoints() {
    for (text, expected) in [
        ("h", "h:5432"),
        ("h.example:6", "h.example:6"),
        ("10.0.0.1:6", "10.0.0.1:6"),
        ("[::1]:6", "[::1]:6"),
        ("[::1]", "[::1]:5432"),
        ("::1", "[::1]:5432"),
        ("/run/postgresql", "/run/postgresql:5432"),
        ("/odd:dir", "/odd:dir:5432"),
        ("bücher.example", "bücher.example:5432"),
    ] {
        assert_eq!(
            described(&[("DATABASE_ENDPOINT_URL", text)]),
            format!("{expected}/tester as tester"),
            "{text}"
        );
    }
}

#[test]
fn the_driver_gets_what_was_said() {
    let config = loaded(&[
        (
            "DATABASE_URL",
            "postgres://u%40x:p%ff@a:1,[::1],%2Frun%2Fpg:3/d%2Fe?target_session_attrs=read-write&options=-c%20a%3Db",
        ),
        ("PGLOADBALANCEHOSTS", "random"),
    ]);
    let client = &config.server.client;
    let hosts = [
        Host::Tcp("a".to_owned()),
        Host::Tcp("::1".to_owned()),
        Host::Unix("/run/pg".into()),
    ];
    assert_eq!(client.get_hosts(), hosts);
    assert_eq!(client.get_ports(), [1, 5432, 3]);
    assert_eq!(
        (client.get_user(), client.get_dbname()),
        (Some("u@x"), Some("d/e"))
    );
    assert_eq!(client.get_password(), Some(&[b'p', 0xff][..]));
    assert_eq!(client.get_options(), Some("-c a=b"));
    assert_eq!(
        client.get_target_session_attrs(),
        TargetSessionAttrs::ReadWrite
    );
    assert_eq!(client.get_ssl_mode(), postgres::config::SslMode::Disable);
    assert_eq!(
        (client.get_application_name(), client.get_connect_timeout()),
        (None, None)
    );
    assert_eq!(
        config.server.description,
        "a:1,[::1]:5432,/run/pg:3/d/e as u@x"
    );
    assert_eq!(
        format!("{:?}", config.server),
        "Server { description: \"a:1,[::1]:5432,/run/pg:3/d/e as u@x\", application_name: None, connect_timeout: None, .. }"
    );

    let config = loaded(&[(
        "DATABASE_URL",
        "hostaddr=127.0.0.1,::1 host=a,b port=6 user='x\ny'",
    )]);
    assert_eq!(config.server.client.get_hostaddrs().len(), 2);
    assert_eq!(config.server.client.get_ports(), [6, 6]);
    assert_eq!(
        config.server.description,
        "a:6,b:6/x\u{fffd}y as x\u{fffd}y"
    );
}

#[test]
fn without_tls_a_demand_for_it_is_refused() {
    let tls = |asked: &str, instead: &str| {
        format!(
            "TLS was asked for ({asked}), but there is none in this release; \
             use {instead} only where the network is trusted"
        )
    };
    for mode in ["disable", "allow", "prefer"] {
        assert_eq!(
            described(&[("DATABASE_URL", &format!("host=h sslmode={mode}"))]),
            "h:5432/tester as tester"
        );
        assert_eq!(
            described(&[("PGSSLMODE", mode)]),
            "localhost:5432/tester as tester"
        );
    }
    for mode in ["require", "verify-ca", "verify-full"] {
        let problem = tls(&format!("sslmode={mode}"), "sslmode=disable");
        let url = format!("postgres://h/d?sslmode={mode}");
        assert_eq!(
            refused(&[("DATABASE_URL", &url)]),
            [format!("DATABASE_URL: {problem}")]
        );
        assert_eq!(
            refused(&[("PGSSLMODE", mode)]),
            [format!("PGSSLMODE: {problem}")]
        );
        assert_eq!(
            described(&[("PGSSLMODE", mode), ("DATABASE_SSL_ENABLED", "false")]),
            "localhost:5432/tester as tester"
        );
        assert_eq!(
            described(&[("PGSSLMODE", mode), ("DATABASE_URL", "sslmode=allow")]),
            "localhost:5432/tester as tester"
        );
        // A local socket is never encrypted, whatever is asked for.
        assert_eq!(
            described(&[("PGSSLMODE", mode), ("PGHOST", "/run")]),
            "/run:5432/tester as tester"
        );
    }
    let problem = tls("true", "false");
    assert_eq!(
        refused(&[("DATABASE_SSL_ENABLED", "true")]),
        [format!("DATABASE_SSL_ENABLED: {problem}")]
    );
    assert_eq!(
        refused(&[("DATABASE_SSL_ENABLED", "true"), ("PGSSLMODE", "disable")]),
        [format!("DATABASE_SSL_ENABLED: {problem}")]
    );
    let over = [
        ("DATABASE_SSL_ENABLED", "true"),
        ("DATABASE_URL", "sslmode=disable"),
    ];
    assert_eq!(described(&over), "localhost:5432/tester as tester");
    for (text, asked) in [
        ("channel_binding=require", "channel_binding=require"),
        ("sslnegotiation=direct", "sslnegotiation=direct"),
        ("postgres://?ssl=true", "sslmode=require"),
    ] {
        assert_eq!(
            refused(&[("DATABASE_URL", text)]),
            [format!("DATABASE_URL: {}", tls(asked, "sslmode=disable"))]
        );
    }
}

#[test]
fn secrets_may_stand_in_files() {
    let directory = Directory::new();
    for (name, content, expected) in [
        ("plain", &b"p w"[..], Some("p w")),
        ("newline", b"pw\n", Some("pw")),
        ("crlf", b"pw\r\n", Some("pw")),
        ("two", b"pw\n\n", Some("pw\\n")),
        ("cr", b"pw\r", Some("pw\\r")),
        ("bytes", b"\xff\xfe", Some("\\xff\\xfe")),
        ("nul", b"p\0w", None),
        ("empty", b"", None),
        ("only", b"\n", None),
    ] {
        let path = directory.file(name, content);
        let variables = [("DATABASE_PASSWORD_FILE", text(&path))];
        match expected {
            Some(expected) => assert_eq!(password(&variables).as_deref(), Some(expected), "{name}"),
            None if name == "nul" => {
                assert_eq!(
                    refused(&variables),
                    ["DATABASE_PASSWORD_FILE: holds a NUL, which PostgreSQL cannot take"]
                )
            }
            None => assert_eq!(
                refused(&variables),
                [format!(
                    "DATABASE_PASSWORD_FILE: {} is empty",
                    path.display()
                )]
            ),
        }
    }
    let url = directory.file("url", b"postgres://u:p@h/d\n");
    assert_eq!(
        described(&[("DATABASE_URL_FILE", text(&url))]),
        "h:5432/d as u"
    );
    assert_eq!(
        refused(&[
            ("DATABASE_URL_FILE", text(&url)),
            ("DATABASE_URL", "host=h"),
            ("DATABASE_PASSWORD_FILE", text(&url)),
            ("DATABASE_PASSWORD", "x"),
        ]),
        [
            "DATABASE_URL_FILE: is set, and so is DATABASE_URL: set one of them",
            "DATABASE_PASSWORD_FILE: is set, and so is DATABASE_PASSWORD: set one of them"
        ]
    );
    let bytes = directory.file("bytes", b"postgres://u:\xff@h/d");
    assert_eq!(
        refused(&[("DATABASE_URL_FILE", text(&bytes))]),
        ["DATABASE_URL_FILE: is not valid UTF-8"]
    );
}

#[test]
fn the_password_file_is_the_last_resort() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = Directory::new();
    let file = directory.file(
        ".pgpass",
        b"a:1:d:u:one\nb:2:d:u:two\nlocalhost:*:*:*:local\n",
    );
    let file = text(&file);
    let from = |url| loaded(&[("DATABASE_URL", url), ("PGPASSFILE", file)]);
    let found = |config: &Config| {
        config
            .server
            .client
            .get_password()
            .map(|bytes| bytes.escape_ascii().to_string())
    };

    assert_eq!(found(&from("postgres://u@a:1/d")).as_deref(), Some("one"));
    assert_eq!(found(&from("postgres://u@a:2/d")), None);
    assert_eq!(
        found(&from("postgres://u:own@a:1/d")).as_deref(),
        Some("own")
    );
    assert_eq!(
        found(&from("postgres://u@%2Fsome%2Fsocket/d")).as_deref(),
        Some("local")
    );
    assert_eq!(found(&from("postgres://u@c,b:2/d")).as_deref(), Some("two"));
    assert_eq!(from("postgres://u@c,b:2/d").warnings, Vec::<String>::new());
    let several = from("postgres://u@a:1,b:2/d");
    assert_eq!(found(&several).as_deref(), Some("one"));
    assert_eq!(
        several.warnings,
        [format!(
            "the password file {file} has different passwords for the hosts; only the first is used"
        )]
    );
    assert_eq!(
        password(&[(
            "DATABASE_URL",
            &format!("host=a port=1 user=u dbname=d passfile={file}")
        )])
        .as_deref(),
        Some("one")
    );

    let home = |variables: &[(&str, &str)]| {
        let home = Some(directory.0.clone());
        load(&Environment {
            user: None,
            home,
            ..Environment::of(variables)
        })
        .expect("nothing is wrong")
    };
    assert_eq!(found(&home(&[("PGUSER", "x")])).as_deref(), Some("local"));
    assert_eq!(
        found(&home(&[("PGUSER", "x"), ("PGPASSFILE", "/nowhere")])),
        None
    );
    assert_eq!(
        found(&home(&[("PGUSER", "x"), ("PGPASSWORD", "pg")])).as_deref(),
        Some("pg")
    );

    for mode in [0o640, 0o604] {
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).expect("the file is ours");
        let open = from("postgres://u@a:1/d");
        assert_eq!(found(&open), None);
        assert_eq!(
            open.warnings,
            [format!(
                "the password file {file} is ignored: group or others have access to it; its mode should be 0600"
            )]
        );
    }
    let config = loaded(&[("PGPASSFILE", text(&directory.0))]);
    assert_eq!(
        config.warnings,
        [format!(
            "the password file {} is ignored: it is not a plain file",
            text(&directory.0)
        )]
    );
}

#[test]
fn a_local_socket_is_found_and_the_user_is_the_systems() {
    let directory = Directory::new();
    directory.file(".s.PGSQL.6000", b"");
    let environment = |variables: &[(&str, &str)]| Environment {
        socket_directories: vec!["/nowhere".into(), directory.0.clone()],
        ..Environment::of(variables)
    };
    let described = |variables| {
        load(&environment(variables))
            .expect("nothing is wrong")
            .server
            .description
    };
    assert_eq!(described(&[]), "localhost:5432/tester as tester");
    assert_eq!(
        described(&[("PGPORT", "6000")]),
        format!("{}:6000/tester as tester", text(&directory.0))
    );
    assert_eq!(
        described(&[("PGPORT", "6000"), ("PGHOST", "h")]),
        "h:6000/tester as tester"
    );

    let nobody = |variables: &[(&str, &str)]| {
        load(&Environment {
            user: None,
            ..Environment::of(variables)
        })
    };
    let problem = "is needed: no user is given, and the one that runs this has no name";
    assert_eq!(
        nobody(&[]).expect_err("no user"),
        [complaint("DATABASE_USERNAME", problem)]
    );
    assert_eq!(
        nobody(&[("PGUSER", "u")])
            .expect("there is a user")
            .server
            .description,
        "localhost:5432/u as u"
    );
}

#[test]
fn no_text_ever_shows_a_part_of_a_password() {
    let directory = Directory::new();
    let mut separators: Vec<String> = (1..=0x7f_u8)
        .map(|byte| char::from(byte).to_string())
        .collect();
    separators.extend(
        [
            "%zz",
            "%4",
            "%41",
            "%00",
            "%ff",
            "@@",
            "@/",
            "/@",
            "@1/",
            "/1?",
            "?a=b&",
            "&a=b",
            "&a=",
            "=&",
            " = ",
            "= ",
            " =",
            " a=b ",
            "a b=",
            "' ",
            "'='",
            "\\' ",
            "\\",
            "\\\\",
            "://",
            "@[",
            "]:",
            "@[::1]:",
            ":1,",
            ",",
            "@h:1/d?x=",
            "1/",
            "é",
            "ไ",
            "postgres://",
            "\r\n",
            "::",
            "@:1/?",
            "/?",
            "?/",
            "#@",
            "@#",
            "?#",
            "%40",
            "&ssl=",
            "?ssl=",
            "' x='",
            "\\'",
            "*:*",
        ]
        .map(str::to_owned),
    );
    let encoded = |text: &str| {
        text.bytes()
            .map(|byte| format!("%{byte:02x}"))
            .collect::<String>()
    };
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let (mut taken, mut refused) = (0, 0);
    for separator in &separators {
        for password in [
            format!("qzx{separator}qzx"),
            format!("{separator}qzx{separator}qzx{separator}"),
            format!("1{separator}qzx{separator}1"),
        ] {
            let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
            let file = directory.file("password", password.as_bytes());
            let pgpass = directory.file("pgpass", format!("*:*:*:*:{escaped}").as_bytes());
            let url_file = directory.file("url", format!("postgres://u:{password}@h/d").as_bytes());
            let whole: [(&str, String); 6] = [
                ("DATABASE_PASSWORD", password.clone()),
                ("PGPASSWORD", password.clone()),
                ("DATABASE_PASSWORD_FILE", text(&file).to_owned()),
                ("PGPASSFILE", text(&pgpass).to_owned()),
                (
                    "DATABASE_URL",
                    format!("postgres://u:{}@h/d", encoded(&password)),
                ),
                (
                    "DATABASE_URL",
                    format!("user=u password={} host=h", quoted(&password)),
                ),
            ];
            // Without an `@` what stands here is a host and its port, and only what cannot be a port can be noticed.
            let hostless = if password.starts_with("qzx") {
                password.replace('@', "")
            } else {
                "qzx".to_owned()
            };
            let raw: [(&str, String); 13] = [
                (
                    "DATABASE_URL",
                    format!("postgres://u:{password}@h:1/d?application_name=a"),
                ),
                ("DATABASE_URL", format!("postgres://u:{password}@/d?hots=h")),
                ("DATABASE_URL", format!("postgres://u:{password}@h")),
                ("DATABASE_URL", format!("postgres://:{password}@h")),
                ("DATABASE_URL", format!("postgres://u:{hostless}")),
                (
                    "DATABASE_URL",
                    format!("postgres://h/d?password={password}"),
                ),
                (
                    "DATABASE_URL",
                    format!("postgres://h/d?password={password}&sslmode=require"),
                ),
                ("DATABASE_URL", format!("mysql://u:{password}@h")),
                ("DATABASE_URL", format!("password={password}")),
                ("DATABASE_URL", format!("host=h password={password} user=u")),
                (
                    "DATABASE_URL",
                    format!("host=h password='{password}' user=u"),
                ),
                ("DATABASE_URL_FILE", text(&url_file).to_owned()),
                ("DATABASE_ENDPOINT_URL", format!("u:{password}@h:5432")),
            ];
            for (index, (variable, value)) in whole.iter().chain(&raw).enumerate() {
                let trailing = variable.ends_with("FILE") && password.contains(['\r', '\n']);
                // A second wrong variable, so that the complaints' path is walked too.
                for more in [
                    ("LOG_LEVEL", "INFO"),
                    ("LOG_LEVEL", "LOUD"),
                    ("PGSSLMODE", "require"),
                ] {
                    let environment = Environment::of(&[(*variable, value.as_str()), more]);
                    let texts = match load(&environment) {
                        Ok(config) => {
                            let got = config.server.client.get_password().unwrap_or_default();
                            if index < whole.len() && !trailing {
                                assert_eq!(got, password.as_bytes(), "{variable}={value}");
                            }
                            taken += 1;
                            format!(
                                "{config:?} {} {:?}",
                                config.server.description, config.server.client
                            )
                        }
                        Err(complaints) => {
                            assert!(
                                index >= whole.len() || more.1 != "INFO",
                                "{variable}={value:?}: {complaints:?}"
                            );
                            refused += 1;
                            complaints
                                .iter()
                                .map(|complaint| format!("{complaint} {complaint:?}"))
                                .collect()
                        }
                    };
                    assert!(!texts.contains("qzx"), "{variable}={value:?} shows {texts}");
                }
            }
        }
    }
    assert!(
        taken > 5000 && refused > 5000,
        "{taken} taken, {refused} refused"
    );
}
