//! TLS, against servers that have it: psql is the judge of whether a connection is to be had, and the server's log of
//! whether it was encrypted.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use postgres::{Client, NoTls};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber, date_time_ymd,
};

use crate::support::cluster::{Cluster, in_another_process};
use crate::support::{Gate, Lockstep, Outcome, Scratch, rows, server, text, wait_until};

/// Which way a connection was made, as the server saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Encrypted,
    Plain,
    None,
}

// -------------------------------------------------------------------------------------------- against psql

/// Every kind of certificate, with and without a root file, in every mode: like psql.
#[test]
fn certificates_are_judged_as_psql_does() {
    let secure = Secure::start("certificates");
    let scratch = with_one_file();
    let mut cells = 0;
    let mut wrong = Vec::new();
    for name in Pki::SERVERS {
        secure.show(name);
        for root in [None, Some("root"), Some("other"), Some(name)] {
            for mode in ["prefer", "require", "verify-ca", "verify-full"] {
                let mut url = secure.url("localhost", "postgres", mode);
                if let Some(root) = root {
                    url += &format!(" sslrootcert={}", text(&secure.pki.file(root, "crt")));
                }
                let (psql, ours) = secure.both(&scratch, &url);
                cells += 1;
                if psql != ours {
                    wrong.push(format!("{name}, {root:?}, {mode}: psql {psql:?}, ours {ours:?}"));
                }
            }
        }
    }
    assert_eq!(wrong, [""; 0], "of {cells}");
}

/// Who may come in, and whether encrypted, is up to `pg_hba.conf`.
#[test]
fn modes_fall_back_as_psqls_do() {
    let secure = secure();
    let scratch = with_one_file();
    for (user, ways) in [
        ("tls_only", [Way::None, Way::Encrypted, Way::Encrypted, Way::Encrypted]),
        ("plain_only", [Way::Plain, Way::Plain, Way::Plain, Way::None]),
        ("postgres", [Way::Plain, Way::Plain, Way::Encrypted, Way::Encrypted]),
    ] {
        for (mode, expected) in ["disable", "allow", "prefer", "require"].into_iter().zip(ways) {
            let url = secure.url("localhost", user, mode);
            let seen = secure.both(&scratch, &url);
            assert_eq!(seen, (expected, expected), "{user}, {mode}");
        }
    }
    // Who says nothing about it gets it where it is to be had.
    let url = secure.url("127.0.0.1", "tls_only", "").replace("sslmode=", "");
    assert_eq!(secure.both(&scratch, &url), (Way::Encrypted, Way::Encrypted));
    let refused = secure.ours(&scratch, &secure.url("127.0.0.1", "tls_only", "disable"));
    refused.code(2).says("encryption was not tried, because sslmode=disable forbids it");
}

// -------------------------------------------------------------------------------------------- what is said

#[test]
fn what_is_wrong_with_a_certificate_is_told_once() {
    let secure = Secure::start("words");
    let scratch = with_one_file();
    for (name, root, host, words) in [
        ("expired", "root", "localhost", "the server's certificate has expired on 2021-01-01"),
        ("wrong", "root", "localhost", "is made out to \"other.example\", not to \"localhost\""),
        ("san", "other", "localhost", "is signed by \"Test Root\""),
        ("self", "root", "localhost", "is signed by itself"),
        // The next host, for which it would do, is not asked.
        (
            "name",
            "root",
            "127.0.0.1,localhost",
            "is made out to \"localhost\", not to \"127.0.0.1\"",
        ),
        ("san", "root", "::1", "is made out to \"localhost\", 127.0.0.1, not to \"::1\""),
    ] {
        secure.show(name);
        let root = secure.pki.file(root, "crt");
        let url = secure
            .url(host, "postgres", "verify-full")
            .replace("host=::1", "host=::1 hostaddr=127.0.0.1");
        let outcome = secure.ours(&scratch, &format!("{url} sslrootcert={}", text(&root)));
        outcome.code(2).waits_for_nothing();
        assert!(outcome.error().contains(words), "{words}\n{outcome}");
    }
    // A root file without a certificate is no reason to go in clear.
    const NO_CERTIFICATE: &str =
        "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n";
    for (holds, words) in
        [("", "there is no certificate in the file"), (NO_CERTIFICATE, "none of them can be read")]
    {
        let root = scratch.directory.join("none.crt");
        fs::write(&root, holds).expect("a file");
        let url = secure.url("localhost", "postgres", "prefer");
        let outcome = secure.ours(&scratch, &format!("{url} sslrootcert={}", text(&root)));
        outcome.code(2).says(words);
    }
    // What psql can encrypt and we cannot does not go in clear instead.
    let mut admin = secure.admin();
    for statement in ["ALTER SYSTEM SET ssl_ecdh_curve = 'secp521r1'", "SELECT pg_reload_conf()"] {
        admin.batch_execute(statement).expect(statement);
    }
    wait_until("the server has another curve", || {
        rows(&mut secure.admin(), "SHOW ssl_ecdh_curve") == ["secp521r1"]
    });
    let url = secure.url("localhost", "postgres", "prefer");
    assert_eq!(secure.both(&scratch, &url), (Way::Encrypted, Way::None));
    let outcome = secure.ours(&scratch, &url);
    outcome.code(2).says("have no way of encryption in common");
}

/// Without the request before it, which spares a round trip.
#[test]
fn tls_begins_at_once_where_the_server_knows_that() {
    let secure = secure();
    let scratch = with_one_file();
    let url = secure.url("localhost", "tls_only", "require");
    let outcome = secure.ours(&scratch, &format!("{url} sslnegotiation=direct"));
    let version = rows(&mut secure.admin(), "SHOW server_version_num").remove(0);
    match version.as_str() < "170000" {
        true => outcome.code(3).says("needs PostgreSQL 17 or later"),
        false => outcome.code(0),
    };
}

#[test]
fn prefer_says_why_it_ended_in_clear() {
    let secure = secure();
    let scratch = with_one_file();
    let root = secure.pki.file("other", "crt");
    let url =
        format!("{} sslrootcert={}", secure.url("localhost", "postgres", "prefer"), text(&root));
    let outcome = secure.ours(&scratch, &url);
    outcome.code(0).says(
        "will not be encrypted, as sslmode=prefer allows: the server's certificate is signed by",
    );
}

#[test]
fn the_systems_certificates_are_those_of_a_file_or_there_are_none() {
    let secure = secure();
    let scratch = with_one_file();
    let with = |file: &Path| {
        let run = scratch.lockstep(&["status"]).env("SSL_CERT_FILE", text(file));
        run.env("DATABASE_WAIT_SECONDS", "0")
    };
    let (root, other) = (secure.pki.file("root", "crt"), secure.pki.file("other", "crt"));
    let url = secure.url("localhost", "postgres", "verify-full");
    let system = format!("{url} sslrootcert=system");
    with(&root).env("DATABASE_URL", &system).run().code(0);
    with(&other).env("DATABASE_URL", &system).run().code(2);
    let nowhere = scratch.directory.join("nowhere");
    let none = with(&nowhere).env("DATABASE_URL", &system).run();
    none.code(2).says("the system has no root certificates");
    // The service's own switch means the same.
    let switched = url.replace("sslmode=verify-full", "");
    let on = with(&root).env("DATABASE_SSL_ENABLED", "true");
    on.env("DATABASE_URL", &switched).run().code(0);
    let on = with(&other).env("DATABASE_SSL_ENABLED", "true");
    on.env("DATABASE_URL", &switched).run().code(2);
}

// -------------------------------------------------------------------------------------------- who we are

#[test]
fn a_password_is_bound_to_the_connection() {
    let secure = secure();
    let scratch = with_one_file();
    let url = secure.url("localhost", "scram", "require");
    for (more, code) in [
        ("password=right channel_binding=require", 0),
        ("password=right channel_binding=disable", 0),
        ("password=wrong channel_binding=require", 2),
    ] {
        secure.ours(&scratch, &format!("{url} {more}")).code(code);
    }
    // Whoever asks for no password binds nothing.
    let url = secure.url("localhost", "postgres", "require");
    let outcome = secure.ours(&scratch, &format!("{url} channel_binding=require"));
    outcome.code(2).says("channel binding");
}

#[test]
fn a_client_shows_its_certificate() {
    let secure = secure();
    let scratch = with_one_file();
    let url = secure.url("localhost", "certified", "require");
    let shown = |name: &str, more: &str| {
        let (certificate, key) = (secure.pki.file(name, "crt"), secure.pki.file(name, "key"));
        let files = format!("sslcert={} sslkey={}", text(&certificate), text(&key));
        secure.ours(&scratch, &format!("{url} {files} {more}"))
    };
    shown("certified", "").code(0);
    shown("certified", "sslcertmode=require").code(0);
    shown("certified", "sslcertmode=disable").code(2);
    shown("stranger", "").code(2).says("the server does not take the client's certificate");
    secure.ours(&scratch, &url).code(2);
    let other = secure.pki.file("stranger", "key");
    let mixed = shown("certified", &format!("sslkey={}", text(&other)));
    mixed.code(2).says("does not belong to the certificate");
}

#[test]
fn what_is_revoked_is_refused() {
    let secure = Secure::start("revoked");
    let scratch = with_one_file();
    let (root, list) = (secure.pki.file("root", "crt"), secure.pki.file("root", "crl"));
    for (name, code) in [("san", 0), ("revoked", 2)] {
        secure.show(name);
        let url = secure.url("localhost", "postgres", "verify-full");
        let url = format!("{url} sslrootcert={} sslcrl={}", text(&root), text(&list));
        let outcome = secure.ours(&scratch, &url);
        outcome.code(code);
        if code != 0 {
            outcome.says("is revoked");
        }
    }
}

// -------------------------------------------------------------------------------------------- all the rest

/// Both connections, the one that looks, and whoever waits; a death, and what follows. In a process of its own, whose test
/// server is one with TLS.
#[test]
fn over_tls_a_run_that_is_killed_is_followed_as_without() {
    let test = "over_tls_a_run_that_is_killed_is_followed_as_without";
    if Cluster::of_this_process().is_none() {
        let secure = Secure::start("killed");
        in_another_process(module_path!(), test, &secure.cluster, &[]);
        return;
    }
    let root = Cluster::of_this_process().expect("a cluster").directory.join("pki/root.crt");
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    scratch.file("20240101000000_a.up.sql", "CREATE TABLE a (c int)");
    scratch.file("20240101000001_b.up.sql", Gate::SQL);
    let up = scratch
        .patient_up()
        .env("PGSSLMODE", "verify-full")
        .env("PGSSLROOTCERT", text(&root))
        .env("PGHOST", "localhost")
        .env("DATABASE_URL", scratch.url().replace("127.0.0.1", "localhost"));
    let (first, second) = gate.queue(&up, &up);
    let encrypted = scratch.sql(
        "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
         WHERE datname = current_database() AND application_name LIKE 'lockstep/%'",
    );
    assert_eq!(encrypted, ["t"; 3], "the work, the guard, and the one that waits");
    first.kill();
    gate.open();
    second.wait().code(0);
    assert_eq!(scratch.history().len(), 2);
    scratch.assert_unlocked();
}

// -------------------------------------------------------------------------------------------- what it takes

/// A server with TLS, and its certificates. Some of its users may come in in one way only.
pub struct Secure {
    pub cluster: Cluster,
    pki: Pki,
}

/// One for all tests that are content with its certificate.
fn secure() -> &'static Secure {
    static SECURE: OnceLock<Secure> = OnceLock::new();
    SECURE.get_or_init(|| Secure::start("secure"))
}

const HBA: [&str; 9] = [
    "local all all trust",
    "hostssl all tls_only all trust",
    "host all tls_only all reject",
    "hostnossl all plain_only all trust",
    "host all plain_only all reject",
    "hostssl all scram all scram-sha-256",
    "hostssl all certified all cert",
    "host all certified all reject",
    "host all all all trust",
];

impl Secure {
    pub fn start(label: &str) -> Secure {
        let cluster = Cluster::start(label);
        let pki = Pki::make(cluster.directory.join("pki"));
        let data = cluster.data();
        let owner = fs::metadata(&data).expect("the server's data");
        for entry in fs::read_dir(&pki.directory).expect("a directory") {
            let path = entry.expect("a file").path();
            let copy = data.join(path.file_name().expect("a name"));
            fs::copy(&path, &copy).expect("a file");
            chown(&copy, Some(owner.uid()), Some(owner.gid())).expect("chown");
        }
        let secure = Secure { cluster, pki };
        let mut admin = secure.admin();
        let hba = rows(&mut admin, "SHOW hba_file").remove(0);
        let users = ["tls_only", "plain_only", "scram", "certified"];
        let users = users.map(|user| format!("CREATE ROLE {user} LOGIN PASSWORD 'right'; "));
        admin.batch_execute(&users.concat()).expect("users");
        for statement in [
            "ALTER SYSTEM SET ssl = on",
            "ALTER SYSTEM SET ssl_ca_file = 'root.crt'",
            "ALTER SYSTEM SET log_connections = on",
            &format!("COPY (SELECT unnest(string_to_array('{}', ';'))) TO '{hba}'", HBA.join(";")),
        ] {
            admin.batch_execute(statement).expect(statement);
        }
        secure.show("san");
        secure
    }

    fn admin(&self) -> Client {
        Client::connect(&self.cluster.url, NoTls).expect("a connection")
    }

    /// The server shows this certificate to whoever comes from now on.
    fn show(&self, name: &str) {
        let mut admin = self.admin();
        for (setting, ending) in [("ssl_cert_file", "crt"), ("ssl_key_file", "key")] {
            let set = format!("ALTER SYSTEM SET {setting} = '{name}.{ending}'");
            admin.batch_execute(&set).expect("a setting");
        }
        admin.batch_execute("SELECT pg_reload_conf()").expect("a reload");
        let expected = format!("{name}.crt");
        wait_until("the server shows its certificate", || {
            rows(&mut self.admin(), "SHOW ssl_cert_file") == [expected.as_str()]
        });
    }

    fn url(&self, host: &str, user: &str, mode: &str) -> String {
        let port = self.cluster.url.split([':', '/']).nth(4).expect("a port");
        format!("host={host} port={port} user={user} dbname=postgres sslmode={mode}")
    }

    fn ours(&self, scratch: &Scratch, url: &str) -> Outcome {
        status(scratch, url).run()
    }

    /// What comes of it with psql, and with us.
    fn both(&self, scratch: &Scratch, url: &str) -> (Way, Way) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (psql, ours) = (format!("psql-{number}-"), format!("ours-{number}-"));
        let psql_came = Command::new(server().bindir.join("psql"))
            .args(["-X", "-w", "-c", "select 1", "-d", url])
            .env_clear()
            .env("HOME", &scratch.directory)
            .env("PGAPPNAME", &psql)
            .stdin(Stdio::null())
            .output()
            .expect("psql")
            .status
            .success();
        let ours_came = status(scratch, url).env("PGAPPNAME", &ours).run().code == Some(0);
        (self.way(&psql, psql_came), self.way(&ours, ours_came))
    }

    /// How the server saw a connection of this name that was there.
    fn way(&self, application: &str, came: bool) -> Way {
        if !came {
            return Way::None;
        }
        let mut way = Way::None;
        wait_until("the server has logged the connection", || {
            let log = fs::read(self.cluster.directory.join("log")).expect("the server's log");
            let log = String::from_utf8_lossy(&log);
            let mut lines = log.lines().rev();
            let name = format!("application_name={application}");
            let line = lines.find(|it| it.contains("connection authorized") && it.contains(&name));
            way = match line {
                Some(line) if line.contains("SSL enabled") => Way::Encrypted,
                Some(_) => Way::Plain,
                None => Way::None,
            };
            way != Way::None
        });
        way
    }
}

/// For `status` to look at.
fn with_one_file() -> Scratch {
    Scratch::with([("20240101000000_a.up.sql", "SELECT 1")])
}

fn status<'a>(scratch: &'a Scratch, url: &str) -> Lockstep<'a> {
    let run = scratch.lockstep(&["status"]).env("DATABASE_URL", url);
    run.env("DATABASE_WAIT_SECONDS", "0")
}

/// Certificates, each with its key, in a directory.
struct Pki {
    directory: PathBuf,
}

impl Pki {
    /// What a server may show.
    const SERVERS: [&str; 8] =
        ["san", "name", "wrong", "both", "expired", "self", "chain", "client"];

    fn make(directory: PathBuf) -> Pki {
        fs::create_dir(&directory).expect("a directory");
        let pki = Pki { directory };
        let (root, other) = (authority("Test Root"), authority("Other Root"));
        let between = {
            let params = ca("Test Intermediate");
            CertifiedIssuer::signed_by(params, key(), &root).expect("a certificate")
        };
        pki.write("root", root.pem(), None);
        pki.write("other", other.pem(), None);
        let local = ["localhost", "127.0.0.1"];
        let server =
            |common: &str, names: &[&str]| leaf(common, names, ExtendedKeyUsagePurpose::ServerAuth);
        let signed = |name: &str, params: CertificateParams| pki.sign(name, params, &root);
        signed("san", server("db", &local));
        signed("name", server("localhost", &[]));
        signed("wrong", server("other.example", &["other.example"]));
        // The common name does not count beside another name.
        signed("both", server("localhost", &["other.example"]));
        let mut expired = server("db", &local);
        expired.not_before = date_time_ymd(2020, 1, 1);
        expired.not_after = date_time_ymd(2021, 1, 1);
        signed("expired", expired);
        let mut revoked = server("db", &local);
        revoked.serial_number = Some(SerialNumber::from(REVOKED));
        signed("revoked", revoked);
        signed("client", leaf("db", &local, ExtendedKeyUsagePurpose::ClientAuth));
        signed("certified", leaf("certified", &[], ExtendedKeyUsagePurpose::ClientAuth));
        let stranger = leaf("certified", &[], ExtendedKeyUsagePurpose::ClientAuth);
        pki.sign("stranger", stranger, &other);
        pki.sign("chain", server("db", &local), &between);
        let chain = pki.file("chain", "crt");
        let text = fs::read_to_string(&chain).expect("a certificate");
        fs::write(&chain, text + &between.pem()).expect("a file");
        // What PostgreSQL's manual tells people to make.
        let own = key();
        let certificate = ca("localhost").self_signed(&own).expect("a certificate");
        pki.write("self", certificate.pem(), Some(&own));
        fs::write(pki.file("root", "crl"), revocations(&root)).expect("a file");
        pki
    }

    fn sign(&self, name: &str, params: CertificateParams, issuer: &CertifiedIssuer<'_, KeyPair>) {
        let own = key();
        let certificate = params.signed_by(&own, issuer).expect("a certificate");
        self.write(name, certificate.pem(), Some(&own));
    }

    fn write(&self, name: &str, certificate: String, key: Option<&KeyPair>) {
        fs::write(self.file(name, "crt"), certificate).expect("a file");
        if let Some(key) = key {
            let file = self.file(name, "key");
            fs::write(&file, key.serialize_pem()).expect("a file");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("our file");
        }
    }

    fn file(&self, name: &str, ending: &str) -> PathBuf {
        self.directory.join(format!("{name}.{ending}"))
    }
}

/// The serial number of the certificate that is revoked.
const REVOKED: u64 = 4711;

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn named(common: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common);
    params
}

fn ca(common: &str) -> CertificateParams {
    let mut params = named(common, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
}

fn leaf(common: &str, names: &[&str], purpose: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = named(common, names);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params
}

fn authority(common: &str) -> CertifiedIssuer<'static, KeyPair> {
    CertifiedIssuer::self_signed(ca(common), key()).expect("a certificate")
}

fn revocations(root: &CertifiedIssuer<'_, KeyPair>) -> String {
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(2100, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(REVOKED),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(root).expect("a list").pem().expect("a list")
}
