//! Who is asked first; what the driver gets; encryption, the password file, libpq's defaults.

use std::fs;

use postgres::config::{Host, TargetSessionAttrs};

use crate::config::tests::{Directory, described, loaded, password, refused, text};
use crate::config::values::secs;
use crate::config::{Config, Environment, complaint, load, variables};

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
        [complaint(&variables::USERNAME.variable, problem)]
    );
    assert_eq!(
        nobody(&[("PGUSER", "u")])
            .expect("there is a user")
            .server
            .description,
        "localhost:5432/u as u"
    );
}
