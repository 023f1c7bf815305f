//! Who the server is, through the real binary: the connection string, the parts, libpq's variables and its defaults, and
//! the password from wherever it is given.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use crate::contract::environment::scratch;
use crate::support::{Lockstep, Scratch, server, text};

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
    scratch.lost().env("DATABASE_URL_FILE", text(&file)).run().code(0);
    assert_eq!(scratch.history().len(), 1);
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
        let run = more.into_iter().fold(run, |run, port| run.env("PGPORT", port.to_string()));
        run.run().code(0);
        assert_eq!(scratch.noted("by_socket"), "f");
    }
}

#[test]
fn libpqs_variables_name_the_server() {
    let scratch = scratch();
    let run = scratch.lost().env("PGHOST", &server().host).env("PGPORT", server().port.to_string());
    run.env("PGUSER", "postgres").env("PGDATABASE", &scratch.database).run().code(0);
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
        ("DATABASE_URL", format!("postgres://{}", directory.replace('/', "%2F"))),
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
        run.env(variable, &value).env("PGSSLMODE", "require").run().code(0);
    }
}

/// Nothing listens in a scratch directory, so each run ends at once and says where it looked.
#[test]
fn libpqs_defaults_say_the_rest() {
    let scratch = scratch();
    let nowhere = text(&scratch.directory);
    let user = std::process::Command::new("id").arg("-un").output().expect("id").stdout;
    let user = String::from_utf8(user).expect("a name").trim_end().to_owned();
    let once = |run: Lockstep<'_>| run.env("DATABASE_WAIT_SECONDS", "0").run();

    let outcome = once(scratch.lost().env("PGHOST", &nowhere));
    outcome.code(3).says(&format!("{user}@{nowhere}:5432/{user}: "));
    // The database is called like the user.
    let outcome = once(scratch.lost().env("PGHOST", &nowhere).env("PGUSER", "somebody"));
    outcome.code(3).says(&format!("somebody@{nowhere}:5432/somebody: "));
    // Port 1: neither a socket in one of the usual directories, nor anybody who listens.
    // What only reads takes that default; see the exit codes for what writes.
    let run = scratch.lockstep(&["status"]).without("DATABASE_URL");
    let outcome = once(run.env("PGPORT", "1").env("PGUSER", "somebody"));
    outcome.code(3).says("somebody@localhost:1/somebody: ");
}

#[test]
fn a_password_is_taken_from_wherever_it_is_given() {
    let scratch = scratch();
    let password = "p@ss:w/o?r#d%41 '\"\\ =&é🐘";
    let role = scratch.passworded("w", password);
    let encoded: String = password.bytes().map(|byte| format!("%{byte:02X}")).collect();
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
        ("DATABASE_PASSWORD_FILE", file("password", password.to_owned())),
        ("DATABASE_PASSWORD_FILE", file("password-line", format!("{password}\n"))),
        ("PGPASSWORD", password.to_owned()),
        ("PGPASSFILE", pgpass_file.clone()),
    ];
    for (variable, value) in &ways {
        let run = scratch.lockstep(&["up"]).env("DATABASE_URL", &url).env(variable, value);
        run.run().code(0);
        assert_eq!(
            scratch.value("SELECT string_agg(who, '') FROM noted"),
            role.name,
            "{variable}={value}"
        );
        scratch.sql("DROP TABLE noted; TRUNCATE bun_migrations, bun_migrations_journal");
    }

    let refused = scratch.lockstep(&["up"]).env("DATABASE_URL", &url).run();
    refused.code(2).says("password missing");
    file(".pgpass", pgpass);
    scratch.lockstep(&["up"]).env("DATABASE_URL", &url).run().code(0);
}

#[test]
fn a_wrong_password_is_refused_at_once_by_the_servers_words() {
    let scratch = scratch();
    let role = scratch.passworded("w", "right");
    let outcome =
        scratch.lockstep(&["up"]).env("DATABASE_URL", role.url()).env("PGPASSWORD", "wrong").run();
    outcome.code(2);
    assert_eq!(
        outcome.error(),
        format!(
            "the server refused: {}@{}:{}/{}: password authentication failed for user \"{}\" (SQLSTATE 28P01)",
            role.name,
            server().host,
            server().port,
            scratch.database,
            role.name
        )
    );
    assert_eq!(scratch.history(), [""; 0]);
}

/// What libpq refuses as a value, or would enforce and we cannot, is refused before anything is connected to.
#[test]
fn no_parameter_is_ignored_that_libpq_heeds() {
    let scratch = scratch();
    let database = &scratch.database;
    let connections = || {
        let log = scratch.server_log();
        log.iter().filter(|it| it.contains("connection")).count()
    };
    let before = connections();
    for parameter in [
        "sslcertmode=require",
        "sslcertmode=bogus",
        "ssl_min_protocol_version=TLSv9",
        "ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2",
        "max_protocol_version=bogus",
        "min_protocol_version=3.2",
        "keepalives_idle=abc",
        "keepalives=yes",
        "tcp_user_timeout=abc",
        "require_auth=scram-sha-256",
        "sslkeylogfile=%2Ftmp%2Fkeys",
        "sslmode=no-verify",
        "replication=database",
    ] {
        let run = scratch.lockstep(&["up"]);
        let run = run.env("DATABASE_URL", format!("{}?{parameter}", scratch.url()));
        let outcome = run.run();
        let name = parameter.split('=').next().expect("a name");
        outcome.code(2).says("the environment cannot be used").says(name);
    }
    assert_eq!(connections(), before, "of {database}");
    assert_eq!(scratch.history(), [""; 0]);
}

/// What libpq takes is taken.
#[test]
fn what_libpq_takes_is_taken() {
    let directory = Scratch::new().value("SHOW unix_socket_directories");
    let directory = directory.split(',').next().expect("a directory").to_owned();
    let port = server().port;
    let url = |scratch: &Scratch, parameter: &str| format!("{}?{parameter}", scratch.url());
    for way in 0..7 {
        let scratch = scratch();
        let up = scratch.lockstep(&["up"]);
        let up = match way {
            0 => up.env("DATABASE_URL", format!("{}\n", scratch.url())),
            1 => up.env("DATABASE_URL", url(&scratch, "replication=false")),
            2 => up.env("DATABASE_URL", url(&scratch, "target_session_attrs=primary")),
            3 => up.env("PGREQUIREPEER", "postgres"),
            4 => up.env("DATABASE_URL", url(&scratch, "requiressl=0&min_protocol_version=3.0")),
            5 => up.env("DATABASE_URL", url(&scratch, "require_auth=&sslcompression=1&keepalives_idle=5")),
            _ => up.env(
                "DATABASE_URL",
                format!(
                    "host={directory} port={port} user=postgres dbname={} sslnegotiation=direct sslmode=require",
                    scratch.database
                ),
            ),
        };
        up.run().code(0);
    }
    // As the word that it is older than.
    let scratch = scratch();
    let up = scratch.lockstep(&["up"]).env("DATABASE_URL", url(&scratch, "requiressl=1"));
    up.run().code(2).says("TLS");
}

/// The tests' server has no TLS.
#[test]
fn a_demand_for_tls_that_the_server_cannot_meet_is_refused() {
    let scratch = scratch();
    for mode in ["require", "verify-full"] {
        let root = scratch.directory.join("root.crt");
        fs::write(&root, "").expect("a file");
        let run = scratch.lockstep(&["up"]).env("PGSSLMODE", mode);
        let run = match mode {
            "require" => run,
            _ => run.env("PGSSLROOTCERT", text(&root)),
        };
        run.run().code(2);
    }
    assert_eq!(scratch.history(), [""; 0]);
    for mode in ["disable", "allow", "prefer"] {
        scratch.lockstep(&["up"]).env("PGSSLMODE", mode).run().code(0);
    }
}

#[test]
fn others_see_the_application_name() {
    for (name, expected) in
        [(None, concat!("lockstep/", env!("CARGO_PKG_VERSION"))), (Some("the-app"), "the-app")]
    {
        let scratch = scratch();
        // What a file resets is set again for the next one.
        scratch.file("20231231000000_reset.up.sql", "RESET ALL; SET application_name = 'mine'");
        let run = scratch.lockstep(&["up"]);
        let running = name.into_iter().fold(run, |run, name| run.env("PGAPPNAME", name)).spawn();
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
    let outcome = run.env("PGCONNECT_TIMEOUT", "1").env("DATABASE_WAIT_SECONDS", "0").run();
    outcome.code(3).says("the server accepts connections but does not answer");
    assert!(started.elapsed().as_secs() < 18, "{:?}", started.elapsed());
}

#[test]
fn goes_on_when_the_server_accepts_us() {
    let scratch = scratch();
    let role = scratch.role("limited", "LOGIN CONNECTION LIMIT 0");
    scratch.sql(&format!("GRANT ALL ON SCHEMA public TO {}", role.name));
    let mut running = scratch.lockstep(&["up"]).env("DATABASE_URL", role.url()).spawn();
    running.wait_for_log("too many connections for role");
    scratch.sql(&format!("ALTER ROLE {} CONNECTION LIMIT -1", role.name));
    running.wait().code(0);
    assert_eq!(scratch.history().len(), 1);
}
