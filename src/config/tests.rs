//! Every variable unset, empty and wrong; every complaint to the letter. What tests of the connection share.

use super::*;
use log::LevelFilter;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

impl Environment {
    /// These variables, on a machine without sockets where the user is called `tester` and has no home.
    pub(super) fn of<V: Into<OsString> + Clone>(variables: &[(&str, V)]) -> Environment {
        Environment {
            variables: variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone().into()))
                .collect(),
            stderr_columns: None,
            stdout_columns: None,
            user: Some("tester".to_owned()),
            home: None,
            socket_directories: Vec::new(),
        }
    }

    fn none() -> Environment {
        Environment::of::<&str>(&[])
    }
}

pub(super) fn loaded(variables: &[(&str, &str)]) -> Config {
    load(&Environment::of(variables))
        .unwrap_or_else(|complaints| panic!("{variables:?}: {complaints:?}"))
}

pub(super) fn refused(variables: &[(&str, &str)]) -> Vec<String> {
    match load(&Environment::of(variables)) {
        Ok(_) => panic!("{variables:?} are taken"),
        Err(complaints) => complaints.iter().map(Complaint::to_string).collect(),
    }
}

pub(super) fn described(variables: &[(&str, &str)]) -> String {
    loaded(variables).server.description
}

pub(super) fn password(variables: &[(&str, &str)]) -> Option<String> {
    let place = loaded(variables).server.places.swap_remove(0);
    place.password.map(|bytes| bytes.escape_ascii().to_string())
}

/// A directory that is gone when the test ends.
pub(super) struct Directory(pub PathBuf);

impl Directory {
    pub(super) fn new() -> Directory {
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

    pub(super) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
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

pub(super) fn text(path: &Path) -> &str {
    path.to_str().expect("the temporary directory's name is UTF-8")
}

/// Every variable whose value is judged.
fn judged() -> impl Iterator<Item = &'static str> {
    let surroundings = ["HOME", "COLUMNS", "NO_COLOR", "TERM"];
    let names = variables::all().map(|it| it.name);
    names.filter(move |name| !surroundings.contains(name))
}

#[test]
fn unset_and_empty_are_the_defaults() {
    let empty: Vec<(&str, &str)> = variables::all().map(|it| (it.name, "")).collect();
    for environment in [Environment::none(), Environment::of(&empty)] {
        assert_eq!(switch(&environment), Ok(false));
        let settings = logging(&environment);
        let default = logging::Settings {
            level: LevelFilter::Info,
            format: Format::Text,
            queries: false,
            layout: Layout::Plain,
        };
        assert_eq!(settings, default);

        let config = load(&environment).expect("nothing is wrong");
        assert_eq!(config.server.description, "tester@localhost:5432/tester");
        assert_eq!(config.server.application_name, None);
        assert_eq!(config.server.connect_timeout, None);
        assert_eq!(config.server.places[0].password, None);
        assert_eq!(config.migrations_dir, Path::new("migrations"));
        assert_eq!(config.history_table.quoted(), "\"bun_migrations\"");
        assert_eq!(config.history_table.setting, "bun_migrations");
        assert_eq!(config.locks_table.quoted(), "\"bun_migration_locks\"");
        assert_eq!(config.database_wait, Duration::from_secs(60));
        assert_eq!(config.lock_wait, Duration::from_secs(300));
        assert_eq!(config.migration_wait, Duration::from_secs(300));
        assert_eq!(config.ddl_lock_timeout, Duration::from_secs(5));
        assert_eq!(config.ddl_lock_retry, Duration::from_secs(120));
        assert_eq!(config.statement_timeout, Duration::ZERO);
        assert_eq!((config.order, config.divergence), (Order::Any, DivergencePolicy::Refuse));
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
    assert_eq!(config.migration_wait, Duration::from_secs(1200));
    assert_eq!(config.ddl_lock_timeout, Duration::from_millis(1500));
    assert_eq!(config.ddl_lock_retry, Duration::from_secs(7));
    assert_eq!(config.statement_timeout, Duration::from_millis(1));
    assert_eq!((config.order, config.divergence), (Order::Strict, DivergencePolicy::Warn));
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
        "MIGRATION_ORDER: \"Strict\" is not one of any, strict; did you mean strict?".to_owned(),
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
        ("DATABASE_URL_FILE", "/", Some("cannot read /: Is a directory (os error 21)")),
        ("DATABASE_PASSWORD_FILE", "/dev/null", Some("/dev/null is empty")),
        ("DATABASE_PASSWORD_FILE", "/dev/zero", Some("/dev/zero is larger than 65536 bytes")),
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
        ("PGPORT", "+1", Some("\"+1\" is not a number from 1 to 65535, or several with commas")),
        ("PGPORT", "1,2", Some("\"1,2\" has 2 ports for 1 host: give one for each")),
        ("PGCONNECT_TIMEOUT", "1.5", Some("\"1.5\" is not a whole number of seconds")),
        (
            "PGSERVICE",
            "x",
            Some("there is no service \"x\" in /etc/postgresql-common/pg_service.conf"),
        ),
        (
            "PGREQUIREAUTH",
            "md5",
            Some(
                "is not supported: unset it; PGCHANNELBINDING=require lets nothing but SCRAM pass",
            ),
        ),
        ("PGREQUIREPEER", "x", None),
        (
            "PGTARGETSESSIONATTRS",
            "master",
            Some(
                "\"master\" is not one of any, read-write, read-only, primary, standby, prefer-standby",
            ),
        ),
        ("PGLOADBALANCEHOSTS", "x", Some("\"x\" is not one of disable, random")),
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
        ("DATABASE_URL", "postgres://h/%ff", Some("dbname is not valid UTF-8")),
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
            "target_session_attrs=slave",
            Some(
                "target_session_attrs is not one of any, read-write, read-only, primary, standby, prefer-standby",
            ),
        ),
        (
            "DATABASE_URL",
            "sslmode=full",
            Some(
                "sslmode is not one of disable, allow, prefer, require, verify-ca, verify-full; did you mean verify-full?",
            ),
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
            Some(problem) => {
                assert_eq!(refused(&[(variable, value)]), [format!("{variable}: {problem}")])
            }
            None => drop(loaded(&[(variable, value)])),
        }
    }
}

#[cfg(unix)]
#[test]
fn what_is_not_utf8_is_named_except_in_passwords() {
    let bytes = || OsString::from_vec(vec![b'a', 0xff]);
    // A path may be any bytes, and what is refused is not looked at.
    let others = [
        "PASSWORD",
        "PGPASSFILE",
        "DATABASE_URL_FILE",
        "PGSERVICE",
        "PGREQUIRE",
        "PGSYSCONFDIR",
        "PGSSLROOTCERT",
        "PGSSLCERT",
        "PGSSLKEY",
        "PGSSLCRL",
    ];
    for name in judged().filter(|name| !others.iter().any(|it| name.contains(it))) {
        let complaints = load(&Environment::of(&[(name, bytes())])).map(drop).expect_err(name);
        let told: Vec<String> = complaints.iter().map(Complaint::to_string).collect();
        assert_eq!(told, [format!("{name}: is not valid UTF-8")]);
    }
    for name in ["DATABASE_PASSWORD", "PGPASSWORD"] {
        let config =
            load(&Environment::of(&[(name, bytes())])).expect("a password may be any bytes");
        assert_eq!(config.server.places[0].password, Some(vec![b'a', 0xff]));
    }
    assert_eq!(
        load(&Environment::of(&[("DATABASE_PASSWORD_FILE", OsString::from_vec(vec![b'/', 0xff]))]))
            .map(drop)
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
        assert_eq!(switch(&Environment::of(&[("RUN_DATABASE_MIGRATIONS", value)])), expected);
    }
    assert!(switch(&Environment::of(&[("RUN_DATABASE_MIGRATIONS", "yes")])).is_err());
}

#[test]
fn a_terminal_that_can_has_a_live_line_and_colours() {
    let terminal = |columns, has_colours| Layout::Terminal { columns, has_colours };
    for (variables, screen) in [
        (&[][..], terminal(80, true)),
        (&[("TERM", "xterm")], terminal(80, true)),
        (&[("TERM", "dumb")], Layout::Plain),
        (&[("NO_COLOR", "0")], terminal(80, false)),
        (&[("NO_COLOR", "")], terminal(80, true)),
        (&[("COLUMNS", "132")], terminal(132, true)),
        (&[("COLUMNS", "0")], terminal(80, true)),
        (&[("COLUMNS", "wide")], terminal(80, true)),
    ] {
        for (stderr_columns, screen) in [(Some(80), screen), (None, Layout::Plain)] {
            let settings = logging(&Environment { stderr_columns, ..Environment::of(variables) });
            assert_eq!(settings.layout, screen, "{variables:?}");
        }
    }
}

#[test]
fn an_answer_is_laid_out_for_the_terminal_that_there_is() {
    let layout = |variables: &[(&str, &str)], terminal: bool| {
        super::layout(&Environment {
            stdout_columns: terminal.then_some(80),
            ..Environment::of(variables)
        })
    };
    let terminal = |columns, has_colours| Layout::Terminal { columns, has_colours };
    for (variables, expected) in [
        (&[] as &[_], terminal(80, true)),
        (&[("COLUMNS", "132")], terminal(132, true)),
        (&[("COLUMNS", "0")], terminal(80, true)),
        (&[("COLUMNS", "wide")], terminal(80, true)),
        (&[("NO_COLOR", "0")], terminal(80, false)),
        (&[("NO_COLOR", "")], terminal(80, true)),
        (&[("TERM", "dumb")], terminal(80, false)),
        (&[("TERM", "xterm")], terminal(80, true)),
    ] {
        assert_eq!(layout(variables, true), expected, "{variables:?}");
        assert_eq!(layout(variables, false), Layout::Plain, "{variables:?}");
    }
}

#[test]
fn logging_has_defaults_where_a_value_is_unusable() {
    let settings = |variables: &[(&str, &str)], terminal: bool| {
        let stderr_columns = terminal.then_some(80);
        Environment { stderr_columns, ..Environment::of(variables) }
    };
    let (text, json) = (Format::Text, Format::Json);
    for (variables, terminal, command, service) in [
        (&[][..], true, text, text),
        (&[], false, text, json),
        (&[("LOG_FORMAT", "json")], true, json, json),
        (&[("LOG_FORMAT", "text")], false, text, text),
        (&[("LOG_FORMAT", "xml")], true, text, text),
        (&[("LOG_FORMAT", "xml")], false, text, json),
    ] {
        let environment = settings(variables, terminal);
        assert_eq!(logging(&environment).format, command, "{variables:?}");
        let bare = service_logging(&environment).format;
        assert_eq!(bare, service, "{variables:?}");
    }
    let settings = |variables: &[(&str, &str)]| logging(&settings(variables, false));
    for (text, level) in [
        ("trace", LevelFilter::Trace),
        ("DEBUG", LevelFilter::Debug),
        ("Info", LevelFilter::Info),
        ("wArN", LevelFilter::Warn),
        ("ERROR", LevelFilter::Error),
        ("off", LevelFilter::Info),
        ("warning", LevelFilter::Info),
    ] {
        assert_eq!(settings(&[("LOG_LEVEL", text)]).level, level, "{text}");
    }
    assert!(settings(&[("DATABASE_QUERY_LOGGING_ENABLED", "1")]).queries);
    assert!(!settings(&[("DATABASE_QUERY_LOGGING_ENABLED", "x")]).queries);
}
