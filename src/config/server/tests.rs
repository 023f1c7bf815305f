//! Who is asked first; what the driver gets; encryption, the password file, libpq's defaults.

use std::fs;
use std::time::Duration;

use postgres::config::LoadBalanceHosts;

use crate::config::tests::{Directory, described, loaded, password, refused, text};
use crate::config::tls::{Mode, Roots, Tls};
use crate::config::{Config, Environment, Place, Target, complaint, load, variables};

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

    assert_eq!(described(&with(&[url])), "url@url.example:1/urldb");
    assert_eq!(password(&with(&[url])).as_deref(), Some("urlpw"));
    assert_eq!(described(&with(&[])), "part@part.example:2/partdb");
    assert_eq!(password(&with(&[])).as_deref(), Some("partpw"));
    assert_eq!(described(&pg), "pg@pg.example:3/pgdb");
    assert_eq!(password(&pg).as_deref(), Some("pgpw"));

    // What the URL leaves open, the parts say, and then libpq's variables; but a host's port is not another host's.
    for (text, expected) in [
        ("postgres://", "part@part.example:2/partdb"),
        ("postgres://url@", "url@part.example:2/partdb"),
        ("postgres://url.example", "part@url.example:3/partdb"),
        ("postgres://url.example/urldb", "part@url.example:3/urldb"),
        ("postgres://:7/urldb", "part@part.example:7/urldb"),
        ("hostaddr=::1", "part@[::1]:3/partdb"),
        ("host='' port=7", "part@part.example:7/partdb"),
    ] {
        assert_eq!(described(&with(&[("DATABASE_URL", text)])), expected, "{text}");
    }
    let config = loaded(&with(&[("DATABASE_URL", "application_name=mine connect_timeout=4")]));
    assert_eq!(config.server.application_name.as_deref(), Some("mine"));
    assert_eq!(config.server.connect_timeout, Some(Duration::from_secs(4)));
    let config =
        loaded(&with(&[("DATABASE_URL", "fallback_application_name=mine connect_timeout=0")]));
    assert_eq!(config.server.application_name.as_deref(), Some("pgapp"));
    assert_eq!(config.server.connect_timeout, None);
    let config = loaded(&[("DATABASE_URL", "fallback_application_name=mine connect_timeout=-1")]);
    assert_eq!(config.server.application_name.as_deref(), Some("mine"));
    assert_eq!(config.server.connect_timeout, None);
    // An endpoint without a port is completed by PGPORT.
    assert_eq!(described(&[("DATABASE_ENDPOINT_URL", "h"), ("PGPORT", "3")]), "tester@h:3/tester");
    // libpq's variables that are not used are not judged.
    assert_eq!(
        described(&[url, ("PGPORT", "x"), ("PGHOST", " "), ("PGHOSTADDR", "x")]),
        "url@url.example:1/urldb"
    );
}

#[test]
fn a_service_stands_between_the_parts_and_libpqs_variables() {
    let directory = Directory::new();
    let file = directory.file(
        "services",
        b"[a]\nhost=service.example\nport=4\nuser=service\npassword=servicepw\n[b]\nhots=x\n",
    );
    let service = [("PGSERVICE", "a"), ("PGSERVICEFILE", text(&file))];
    let with = |extra: &[(&'static str, &'static str)]| [extra, &service].concat();
    let pg = [("PGHOST", "pg"), ("PGUSER", "pg"), ("PGDATABASE", "pgdb")];
    assert_eq!(described(&with(&pg)), "service@service.example:4/pgdb");
    assert_eq!(password(&with(&pg)).as_deref(), Some("servicepw"));
    let part = ("DATABASE_ENDPOINT_URL", "part:5");
    assert_eq!(described(&with(&[part])), "service@part:5/service");
    let url = ("DATABASE_URL", "postgres://u@url");
    assert_eq!(described(&with(&[url])), "u@url:5432/u");
    let named = format!("service=a servicefile={}", text(&file));
    let named = [("DATABASE_URL", named.as_str())];
    assert_eq!(described(&named), "service@service.example:4/service");

    let missing = [("PGSERVICE", "c"), service[1]];
    let told = refused(&missing);
    assert!(told[0].starts_with("PGSERVICE: there is no service \"c\" in "), "{told:?}");
    let wrong = [("PGSERVICE", "b"), service[1]];
    assert_eq!(refused(&wrong), ["PGSERVICE: unknown parameter \"hots\""]);
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
            format!("tester@{expected}/tester"),
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
    let server = &config.server;
    let places: Vec<String> = server.places.iter().map(Place::to_string).collect();
    assert_eq!(places, ["a:1", "[::1]:5432", "/run/pg:3"]);
    assert_eq!((&*server.user, &*server.database), ("u@x", "d/e"));
    for place in &server.places {
        assert_eq!(place.password, Some(vec![b'p', 0xff]));
        assert_eq!(place.address, None);
    }
    assert_eq!(server.options.as_deref(), Some("-c a=b"));
    assert_eq!(server.target, Target::ReadWrite);
    assert_eq!(server.balance, LoadBalanceHosts::Random);
    assert_eq!(config.server.description, "u@x@a:1,[::1]:5432,/run/pg:3/d/e");

    let config = loaded(&[("DATABASE_URL", "hostaddr=127.0.0.1,::1 host=a,b port=6 user='x\ny'")]);
    let addresses: Vec<_> = config.server.places.iter().map(|it| it.address).collect();
    assert_eq!(addresses, [Some([127, 0, 0, 1].into()), Some("::1".parse().expect("an address"))]);
    assert_eq!(config.server.description, "x\u{fffd}y@a:6,b:6/x\u{fffd}y");
}

fn tls(variables: &[(&str, &str)]) -> Tls {
    loaded(variables).server.tls
}

#[cfg(feature = "tls")]
#[test]
fn the_mode_is_libpqs() {
    let directory = Directory::new();
    let file = directory.file("root.crt", b"x");
    let root = ("PGSSLROOTCERT", text(&file));
    for (word, mode) in [
        ("disable", Mode::Disable),
        ("allow", Mode::Allow),
        ("prefer", Mode::Prefer),
        ("require", Mode::Require),
        ("verify-ca", Mode::VerifyCa),
        ("verify-full", Mode::VerifyFull),
    ] {
        let url = format!("postgres://h/d?sslmode={word}");
        assert_eq!(tls(&[("DATABASE_URL", &url), root]).mode, mode);
        assert_eq!(tls(&[("PGSSLMODE", word), root]).mode, mode);
        // A local socket is never encrypted, whatever is asked for, and no file is missed.
        let socket = tls(&[("PGSSLMODE", word), ("PGHOST", "/run")]);
        assert_eq!(socket.mode, Mode::Disable);
        let over = [("PGSSLMODE", word), ("DATABASE_SSL_ENABLED", "false")];
        assert_eq!(tls(&over).mode, Mode::Disable);
        let over = [("PGSSLMODE", word), ("DATABASE_URL", "sslmode=allow")];
        assert_eq!(tls(&over).mode, Mode::Allow);
    }
    for (variables, mode) in [
        (("DATABASE_URL", "host=h"), Mode::Prefer),
        (("DATABASE_URL", "postgres://h?ssl=true"), Mode::Require),
        (("DATABASE_URL", "requiressl=1 host=h"), Mode::Require),
        (("DATABASE_URL", "requiressl=0 host=h"), Mode::Prefer),
        (("PGREQUIRESSL", "1"), Mode::Require),
        (("PGREQUIRESSL", "0"), Mode::Prefer),
        (("PGSSLROOTCERT", "system"), Mode::VerifyFull),
        (("DATABASE_SSL_ENABLED", "true"), Mode::VerifyFull),
        (("DATABASE_SSL_ENABLED", "false"), Mode::Disable),
    ] {
        assert_eq!(tls(&[variables]).mode, mode, "{variables:?}");
    }
    let both = [("PGREQUIRESSL", "1"), ("PGSSLMODE", "allow")];
    assert_eq!(tls(&both).mode, Mode::Allow);
    // The switch means the system's certificates, unless others are named.
    let switch = ("DATABASE_SSL_ENABLED", "true");
    assert!(matches!(tls(&[switch]).roots, Roots::System));
    assert!(matches!(tls(&[switch, root]).roots, Roots::File(_)));
    let url = ("DATABASE_URL", "sslmode=disable");
    assert_eq!(tls(&[switch, url]).mode, Mode::Disable);
}

#[cfg(feature = "tls")]
#[test]
fn what_cannot_be_kept_is_refused() {
    let directory = Directory::new();
    let missing = directory.0.join("missing");
    let missing = text(&missing);
    let root = directory.file("root.crt", b"x");
    let root = text(&root);
    for (url, problem) in [
        (
            "sslmode=verify-full",
            "the server's certificate is to be verified, but it is not said by whom it may be signed: \
          name a file by sslrootcert, or write sslrootcert=system for the authorities that the system trusts",
        ),
        (
            "sslrootcert=system sslmode=require",
            "sslrootcert=system needs sslmode=verify-full, which it is without any sslmode: \
          anybody can have a certificate from one of the system's authorities",
        ),
        ("sslnegotiation=direct", "sslnegotiation=direct needs sslmode=require or a stronger one"),
        ("sslcertmode=require", "sslcertmode=require needs sslmode=require or a stronger one"),
        (
            "sslcertmode=require sslmode=require",
            "sslcertmode=require, but there is no client certificate: name its file by sslcert",
        ),
        (
            "channel_binding=require sslmode=disable",
            "channel_binding=require needs TLS, and sslmode=disable forbids it",
        ),
        ("sslcertmode=bogus", "sslcertmode is not one of disable, allow, require"),
        ("sslsni=yes", "sslsni is not one of 1, 0"),
        (
            "ssl_min_protocol_version=TLSv9",
            "ssl_min_protocol_version is not one of TLSv1, TLSv1.1, TLSv1.2, TLSv1.3",
        ),
        (
            "ssl_max_protocol_version=TLSv1.1",
            "ssl_max_protocol_version is too old: TLSv1.2 is the oldest there is",
        ),
        (
            "ssl_max_protocol_version=TLSv1.2 ssl_min_protocol_version=tlsv1.3",
            "ssl_max_protocol_version is older than ssl_min_protocol_version",
        ),
        (
            "sslcrldir=/x",
            "sslcrldir is not supported: put the lists into one file and name it by sslcrl",
        ),
        ("keepalives_idle=abc", "keepalives_idle is not a whole number"),
        ("tcp_user_timeout=abc", "tcp_user_timeout is not a whole number"),
        ("max_protocol_version=bogus", "max_protocol_version is not one of 3.0, 3.2, latest"),
        (
            "min_protocol_version=3.2",
            "min_protocol_version is not 3.0: Lockstep speaks that version of PostgreSQL's protocol",
        ),
        ("replication=true", "replication is not false: migrations are no replication"),
    ] {
        let told = refused(&[("DATABASE_URL", &format!("host=h {url}"))]);
        assert_eq!(told, [format!("DATABASE_URL: {problem}")], "{url}");
    }
    // Even where nothing would be encrypted.
    let told = refused(&[("DATABASE_URL", "host=/run sslcertmode=bogus")]);
    assert_eq!(told.len(), 1);
    for mode in ["prefer", "require", "verify-full"] {
        let told = refused(&[("PGSSLMODE", mode), ("PGSSLROOTCERT", missing)]);
        assert_eq!(
            told,
            [format!(
                "PGSSLROOTCERT: cannot read {missing}: No such file or directory (os error 2)"
            )]
        );
    }
    let url = format!("hostaddr=::1 sslmode=verify-full sslrootcert={root}");
    let nameless =
        "verify-full needs the name that the certificate is made out to: give the host, too";
    assert_eq!(refused(&[("DATABASE_URL", &url)]), [format!("DATABASE_URL: {nameless}")]);
    let peer = ("PGREQUIREPEER", "postgres");
    assert_eq!(
        refused(&[("PGHOST", "/run"), peer]),
        ["PGREQUIREPEER: requirepeer is not supported for a socket: leave it out"]
    );
    for harmless in [
        peer,
        (
            "DATABASE_URL",
            "replication=false min_protocol_version=3.0 max_protocol_version=latest keepalives_idle=30",
        ),
        ("DATABASE_URL", "sslnegotiation=direct channel_binding=require host=/run"),
        ("DATABASE_URL", "postgres://h/d\n"),
        ("DATABASE_URL", "postgres://h/d\r\n"),
    ] {
        loaded(&[harmless]);
    }
}

#[cfg(feature = "tls")]
#[test]
fn the_clients_certificate_needs_a_key_of_its_own() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = Directory::new();
    let certificate = directory.file("c", b"certificate");
    let key = directory.file("k", b"key");
    let encrypted = directory.file("e", b"-----BEGIN ENCRYPTED PRIVATE KEY-----");
    let given = |key| [("PGHOST", "h"), ("PGSSLCERT", text(&certificate)), ("PGSSLKEY", key)];
    let identity = tls(&given(text(&key))).identity.expect("a certificate");
    assert_eq!(
        (&*identity.certificate.text, &*identity.key.text),
        (&b"certificate"[..], &b"key"[..])
    );
    let disabled = [&given("/nowhere")[..], &[("PGSSLCERTMODE", "disable")]].concat();
    assert!(tls(&disabled).identity.is_none());
    let absent = [("PGHOST", "h"), ("PGSSLCERT", "/nowhere")];
    assert!(tls(&absent).identity.is_none());

    let path = text(&encrypted);
    let problem = format!(
        "PGSSLKEY: the client's key {path} is encrypted, which is not supported: \
         openssl pkey -in {path} -out NEW writes it without a password; keep NEW at mode 0600"
    );
    assert_eq!(refused(&given(path)), [problem]);
    let path = text(&key);
    for (mode, is_good) in [(0o640, true), (0o644, false), (0o660, false)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the file is ours");
        // The tests' user may be root, whose key a group may read, or another one, whose key it may not.
        let is_roots =
            std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).expect("a file")) == 0;
        if is_good && is_roots {
            assert!(tls(&given(path)).identity.is_some());
            continue;
        }
        let problem = format!(
            "PGSSLKEY: the client's key {path} cannot be used: \
             group or others have access to it; its mode should be 0600, or 0640 if it is root's"
        );
        assert_eq!(refused(&given(path)), [problem], "{mode:o}");
    }
}

/// libpq's files in the home directory count where none is named.
#[cfg(feature = "tls")]
#[test]
fn files_in_the_home_directory_are_the_last_resort() {
    let directory = Directory::new();
    fs::create_dir(directory.0.join(".postgresql")).expect("the directory is ours");
    let home = |variables: &[(&str, &str)]| {
        let environment =
            Environment { home: Some(directory.0.clone()), ..Environment::of(variables) };
        load(&environment).map(|config| config.server.tls)
    };
    let host = ("PGHOST", "h");
    assert!(home(&[host, ("PGSSLMODE", "verify-ca")]).is_err());
    let tls = home(&[host]).expect("nothing is wrong");
    assert!(matches!(tls.roots, Roots::Anybody) && tls.identity.is_none() && tls.revoked.is_none());
    for name in ["root.crt", "root.crl", "postgresql.crt", "postgresql.key"] {
        directory.file(&format!(".postgresql/{name}"), name.as_bytes());
    }
    let tls = home(&[host, ("PGSSLMODE", "verify-ca")]).expect("nothing is wrong");
    assert!(matches!(tls.roots, Roots::File(file) if file.text == b"root.crt"));
    assert_eq!(tls.revoked.expect("a list").text, b"root.crl");
    assert_eq!(tls.identity.expect("a certificate").key.text, b"postgresql.key");
}

#[cfg(not(feature = "tls"))]
#[test]
fn without_tls_a_demand_for_it_is_refused() {
    let problem = "TLS was asked for, but this build of Lockstep has none: build it with the cargo feature `tls`";
    for (name, value) in [
        ("PGSSLMODE", "require"),
        ("PGSSLMODE", "verify-full"),
        ("DATABASE_SSL_ENABLED", "true"),
        ("PGCHANNELBINDING", "require"),
    ] {
        let told = refused(&[("PGHOST", "h"), (name, value)]);
        assert_eq!(told, [format!("{name}: {problem}")]);
    }
    for mode in ["disable", "allow", "prefer"] {
        assert!(tls(&[("PGSSLMODE", mode), ("PGHOST", "h")]).mode <= Mode::Prefer);
    }
}

#[test]
fn the_password_file_is_the_last_resort() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = Directory::new();
    let file = directory.file(".pgpass", b"a:1:d:u:one\nb:2:d:u:two\nlocalhost:*:*:*:local\n");
    let file = text(&file);
    let from = |url| loaded(&[("DATABASE_URL", url), ("PGPASSFILE", file)]);
    let all = |config: &Config| {
        let places = config.server.places.iter();
        let shown = |it: &Place| Some(it.password.as_ref()?.escape_ascii().to_string());
        places.map(shown).collect::<Vec<_>>()
    };
    let found = |config: &Config| all(config).swap_remove(0);

    assert_eq!(found(&from("postgres://u@a:1/d")).as_deref(), Some("one"));
    assert_eq!(found(&from("postgres://u@a:2/d")), None);
    assert_eq!(found(&from("postgres://u:own@a:1/d")).as_deref(), Some("own"));
    assert_eq!(found(&from("postgres://u@%2Fsome%2Fsocket/d")).as_deref(), Some("local"));
    // Each place has its own.
    let several = from("postgres://u@c,b:2,a:1/d");
    let expected = [None, Some("two".to_owned()), Some("one".to_owned())];
    assert_eq!(all(&several), expected);
    assert_eq!(several.warnings, Vec::<String>::new());
    assert_eq!(
        password(&[("DATABASE_URL", &format!("host=a port=1 user=u dbname=d passfile={file}"))])
            .as_deref(),
        Some("one")
    );

    let home = |variables: &[(&str, &str)]| {
        let home = Some(directory.0.clone());
        load(&Environment { user: None, home, ..Environment::of(variables) })
            .expect("nothing is wrong")
    };
    assert_eq!(found(&home(&[("PGUSER", "x")])).as_deref(), Some("local"));
    assert_eq!(found(&home(&[("PGUSER", "x"), ("PGPASSFILE", "/nowhere")])), None);
    assert_eq!(found(&home(&[("PGUSER", "x"), ("PGPASSWORD", "pg")])).as_deref(), Some("pg"));

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
        [format!("the password file {} is ignored: it is not a plain file", text(&directory.0))]
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
    let described =
        |variables| load(&environment(variables)).expect("nothing is wrong").server.description;
    assert_eq!(described(&[]), "tester@localhost:5432/tester");
    assert_eq!(
        described(&[("PGPORT", "6000")]),
        format!("tester@{}:6000/tester", text(&directory.0))
    );
    assert_eq!(described(&[("PGPORT", "6000"), ("PGHOST", "h")]), "tester@h:6000/tester");

    let nobody = |variables: &[(&str, &str)]| {
        load(&Environment { user: None, ..Environment::of(variables) })
    };
    let problem = "is needed: no user is given, and the one that runs this has no name";
    assert_eq!(
        nobody(&[]).map(drop).expect_err("no user"),
        [complaint(&variables::USERNAME.variable, problem)]
    );
    assert_eq!(
        nobody(&[("PGUSER", "u")]).expect("there is a user").server.description,
        "u@localhost:5432/u"
    );
}
