//! Who the server is: the connection string, the parts, libpq's variables and libpq's defaults → [`Server`].
//!
//! Each parameter is taken from the first of these that names it. A host goes with its address and its port: a source
//! whose host is not taken does not give a port to another's host, except `PGPORT`, as with libpq.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use postgres::config::{ChannelBinding, LoadBalanceHosts, SslMode, TargetSessionAttrs};

use super::{Inquiry, boolean, conninfo, pgpass, shown};

/// The server, the database and the user.
#[derive(Clone)]
pub struct Server {
    /// All the user said but the application's name and the connect timeout. Keepalives are for whoever connects to
    /// set.
    pub client: postgres::Config,
    /// Only if the user gave one.
    pub application_name: Option<String>,
    /// For one try; none, or libpq's 0: whatever `connect` thinks right.
    pub connect_timeout: Option<Duration>,
    /// What messages call the server: `host:port/database as user`, several hosts with commas between.
    pub description: String,
    /// Where it may be: names, addresses or socket directories, each with its port.
    pub places: Vec<(String, u16)>,
}

/// Written by hand, so that no future field of the driver's can show a secret.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("description", &self.description)
            .field("application_name", &self.application_name)
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}

/// A value, and where it stands.
#[derive(Clone)]
struct Given {
    variable: &'static str,
    form: Form,
    value: Vec<u8>,
}

/// How a variable names a parameter, and so how a complaint does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// It is one of a connection string's parameters. Its value is not repeated.
    Url,
    /// It is the whole variable.
    Whole,
    /// `true` or `false` stand for it.
    Switch,
}

/// What one source says: parameter → value. Nothing in it is empty.
type Layer = BTreeMap<&'static str, Given>;

const URL: &str = "DATABASE_URL";
const URL_FILE: &str = "DATABASE_URL_FILE";
const ENDPOINT: &str = "DATABASE_ENDPOINT_URL";
const USERNAME: &str = "DATABASE_USERNAME";
const PASSWORD: &str = "DATABASE_PASSWORD";
const PASSWORD_FILE: &str = "DATABASE_PASSWORD_FILE";
const SSL: &str = "DATABASE_SSL_ENABLED";

/// libpq's variables, and the parameters they stand for. Those about things we ignore are not read, nor is
/// `PGCLIENTENCODING`, since we speak UTF-8 only.
const PG_VARIABLES: [(&str, &str); 19] = [
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("dbname", "PGDATABASE"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("application_name", "PGAPPNAME"),
    ("options", "PGOPTIONS"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    ("sslmode", "PGSSLMODE"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("gssencmode", "PGGSSENCMODE"),
    ("service", "PGSERVICE"),
    ("require_auth", "PGREQUIREAUTH"),
    ("requirepeer", "PGREQUIREPEER"),
];

const DEFAULT_PORT: u16 = 5432;

impl Inquiry<'_> {
    /// Says who the server is, or complains.
    pub(super) fn server(&mut self) -> Option<Server> {
        let url = self.url_layer();
        let mut parts = self.parts_layer();
        // Without the connection string nobody can say which of libpq's variables matter.
        let url = url?;
        let mut pg = self.pg_layer();
        let names_host =
            |layer: &Layer| layer.contains_key("host") || layer.contains_key("hostaddr");
        if names_host(&url) {
            parts.retain(|key, _| !["host", "port"].contains(key));
        }
        if names_host(&url) || names_host(&parts) {
            pg.retain(|key, _| !["host", "hostaddr", "service"].contains(key));
        }
        // The later ones give way to the earlier ones.
        let mut given = pg;
        given.extend(parts);
        given.extend(url);
        Resolution {
            inquiry: self,
            given,
        }
        .server()
    }

    /// The connection string's parameters; none at all if it is unusable.
    fn url_layer(&mut self) -> Option<Layer> {
        let (variable, text) = match self.value_or_file(URL, URL_FILE)? {
            (_, None) => return Some(Layer::new()),
            (variable, Some(text)) => (variable, text),
        };
        let Ok(text) = String::from_utf8(text) else {
            self.complain(variable, "is not valid UTF-8");
            return None;
        };
        let parsed = conninfo::parse(&text)
            .map_err(|problem| self.complain(variable, problem))
            .ok()?;
        for problem in parsed.problems {
            self.complain(variable, problem);
        }
        let mut layer = Layer::new();
        for (key, value) in parsed.parameters {
            if value.is_empty() {
                layer.remove(key);
            } else {
                layer.insert(
                    key,
                    Given {
                        variable,
                        form: Form::Url,
                        value,
                    },
                );
            }
        }
        Some(layer)
    }

    fn parts_layer(&mut self) -> Layer {
        let mut layer = Layer::new();
        let mut add = |key, variable, form, value| {
            layer.insert(
                key,
                Given {
                    variable,
                    form,
                    value,
                },
            )
        };
        if let Some((host, port)) = self.setting(ENDPOINT, None, |text| endpoint(text).map(Some)) {
            add("host", ENDPOINT, Form::Whole, host.into_bytes());
            port.map(|port| add("port", ENDPOINT, Form::Whole, port.to_string().into_bytes()));
        }
        for (key, variable) in [("dbname", "DATABASE_NAME"), ("user", USERNAME)] {
            if let Some(text) = self.setting(variable, None, |text| Ok(Some(text.to_owned()))) {
                add(key, variable, Form::Whole, text.into_bytes());
            }
        }
        if let Some((variable, Some(password))) = self.value_or_file(PASSWORD, PASSWORD_FILE) {
            if password.contains(&0) {
                self.complain(variable, "holds a NUL, which PostgreSQL cannot take");
            }
            add("password", variable, Form::Whole, password);
        }
        if let Some(enabled) = self.setting(SSL, None, |text| boolean(text).map(Some)) {
            let mode = if enabled { "verify-full" } else { "disable" };
            add("sslmode", SSL, Form::Switch, mode.as_bytes().to_vec());
        }
        layer
    }

    fn pg_layer(&self) -> Layer {
        let values = PG_VARIABLES.iter().filter_map(|(key, variable)| {
            let value = self.environment.get(variable)?.as_encoded_bytes().to_vec();
            Some((
                *key,
                Given {
                    variable,
                    form: Form::Whole,
                    value,
                },
            ))
        });
        values.collect()
    }

    /// The value of the one that is set of a variable and its `_FILE` variant; none after a complaint.
    fn value_or_file(
        &mut self,
        variable: &'static str,
        file_variable: &'static str,
    ) -> Option<(&'static str, Option<Vec<u8>>)> {
        let value = self
            .environment
            .get(variable)
            .map(|value| value.as_encoded_bytes().to_vec());
        let Some(path) = self.environment.get(file_variable) else {
            return Some((variable, value));
        };
        if value.is_some() {
            self.complain(
                file_variable,
                format!("is set, and so is {variable}: set one of them"),
            );
            return None;
        }
        let text = secret_file(Path::new(path))
            .map_err(|problem| self.complain(file_variable, problem))
            .ok()?;
        Some((file_variable, Some(text)))
    }
}

/// Reads a file whose whole text, without one line break at its end, is a value.
fn secret_file(path: &Path) -> Result<Vec<u8>, String> {
    /// Far more than any connection string or password; a wrong path, such as a device, must not fill the memory.
    const LARGEST: u64 = 64 * 1024;
    let shown = path.display();
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut text))
        .map_err(|error| format!("cannot read {shown}: {error}"))?;
    if text.len() as u64 > LARGEST {
        return Err(format!("{shown} is larger than {LARGEST} bytes"));
    }
    if text.ends_with(b"\n") {
        text.pop();
        text.pop_if(|byte| *byte == b'\r');
    }
    if text.is_empty() {
        Err(format!("{shown} is empty"))
    } else {
        Ok(text)
    }
}

/// Reads `host:port`, `host`, `[::1]:port`, an address, or a socket directory. Its text is not repeated: who took it
/// for a URL may have put a password into it.
fn endpoint(text: &str) -> Result<(String, Option<u16>), String> {
    const FORMS: &str = "host:port, host, [::1]:port or a socket directory";
    if text.contains("://") {
        return Err(format!(
            "is a URL, which belongs into DATABASE_URL: use {FORMS}"
        ));
    }
    let whole = text.starts_with('/') || text.parse::<Ipv6Addr>().is_ok();
    let (host, port) = match text.strip_prefix('[') {
        _ if whole => (text, None),
        Some(bracketed) => match bracketed.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, rest)) => (host, Some(rest.strip_prefix(':').unwrap_or_default())),
            None => (text, None),
        },
        None => text
            .split_once(':')
            .map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if !is_host(host) || host.contains(',') {
        return Err(format!("is not {FORMS}"));
    }
    let port = port
        .map(|text| port_number(text).ok_or(format!("its port is not {PORT_NUMBER}: use {FORMS}")));
    Ok((host.to_owned(), port.transpose()?))
}

const PORT_NUMBER: &str = "a number from 1 to 65535";

fn port_number(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}

/// Returns true if and only if the text can be a host's name or address, or a directory with sockets.
fn is_host(text: &str) -> bool {
    if text.starts_with('/') {
        return true;
    }
    if text.contains(':') {
        let (address, _zone) = text.split_once('%').unwrap_or((text, ""));
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let belongs = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    !text.is_empty() && text.chars().all(belongs)
}

/// All that is given; the rest is up to defaults.
struct Resolution<'r, 'a> {
    inquiry: &'r mut Inquiry<'a>,
    given: Layer,
}

/// Where the server may be: as many names, addresses and ports as there are places, but either names or addresses may
/// be missing.
struct Places {
    hosts: Vec<String>,
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
}

impl Places {
    /// What messages call each of them.
    fn names(&self) -> Vec<String> {
        let addresses = self.addresses.iter().map(IpAddr::to_string);
        if self.hosts.is_empty() {
            addresses.collect()
        } else {
            self.hosts.clone()
        }
    }

    fn all_are_sockets(&self) -> bool {
        self.addresses.is_empty() && self.hosts.iter().all(|host| host.starts_with('/'))
    }
}

impl Resolution<'_, '_> {
    fn server(mut self) -> Option<Server> {
        let complaints_before = self.inquiry.complaints.len();
        let places = self.places();
        let user = self.user();
        let database = self.text("dbname").or(user.clone());
        let application_name = self
            .text("application_name")
            .or_else(|| self.text("fallback_application_name"));
        let connect_timeout = self.connect_timeout();
        let mut client = postgres::Config::new();
        self.encryption(places.as_ref(), &mut client);
        self.session(&mut client);
        let password = self.given.get("password").map(|given| given.value.clone());
        if self.inquiry.complaints.len() > complaints_before {
            return None;
        }
        let (places, user, database) = (places?, user?, database?);

        for host in &places.hosts {
            client.host(host);
        }
        for address in &places.addresses {
            client.hostaddr(*address);
        }
        for port in &places.ports {
            client.port(*port);
        }
        client.user(&user).dbname(&database);
        if let Some(password) = password.or_else(|| self.filed_password(&places, &database, &user))
        {
            client.password(password);
        }
        let description = description(&places, &database, &user);
        let names = places.names().into_iter();
        let places = names.zip(places.ports.iter().copied()).collect();
        Some(Server {
            client,
            application_name,
            connect_timeout,
            description,
            places,
        })
    }

    /// The parameter's text; none if it is not given or, after a complaint, is no text.
    fn text(&mut self, key: &str) -> Option<String> {
        let given = self.given.get(key)?.clone();
        let text = String::from_utf8(given.value.clone());
        text.map_err(|_| self.complain(key, &given, "is not valid UTF-8"))
            .ok()
    }

    /// Complains of a value with words that follow its name.
    fn complain(&mut self, key: &str, given: &Given, problem: &str) {
        let problem = match (given.form, std::str::from_utf8(&given.value)) {
            (Form::Url, _) => format!("{key} {problem}"),
            (_, Ok(value)) => format!("{} {problem}", shown(value)),
            (_, Err(_)) => problem.to_owned(),
        };
        self.inquiry.complain(given.variable, problem);
    }

    /// The parameter's value as `parse` reads it; none if it is not given or, after a complaint, not of the kind that
    /// `accepted` describes.
    fn parsed<T>(
        &mut self,
        key: &str,
        accepted: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(key)?;
        let parsed = parse(&text);
        if let (None, Some(given)) = (&parsed, self.given.get(key).cloned()) {
            self.complain(key, &given, &format!("is not {accepted}"));
        }
        parsed
    }

    fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.parsed(key, &format!("one of {}", names.join(", ")), |text| {
            choices
                .iter()
                .find(|(name, _)| *name == text)
                .map(|(_, value)| *value)
        })
    }

    /// None after a complaint.
    fn places(&mut self) -> Option<Places> {
        let gives_place = self.given.contains_key("host") || self.given.contains_key("hostaddr");
        let gives_ports = self.given.contains_key("port");
        let hosts = self.parsed(
            "host",
            "a host's name, an address or a socket directory, or several with commas",
            |text| {
                let hosts = text
                    .split(',')
                    .map(|host| is_host(host).then(|| host.to_owned()));
                hosts.collect::<Option<Vec<_>>>()
            },
        );
        let addresses = self.parsed(
            "hostaddr",
            "a numeric address, or several with commas",
            |text| {
                text.split(',')
                    .map(|address| address.parse().ok())
                    .collect::<Option<Vec<IpAddr>>>()
            },
        );
        let ports = self.parsed(
            "port",
            &format!("{PORT_NUMBER}, or several with commas"),
            |text| {
                let one = |port: &str| {
                    if port.is_empty() {
                        Some(DEFAULT_PORT)
                    } else {
                        port_number(port)
                    }
                };
                text.split(',').map(one).collect::<Option<Vec<u16>>>()
            },
        );
        if gives_ports && ports.is_none() || gives_place && hosts.is_none() && addresses.is_none() {
            return None;
        }
        let mut ports = ports.unwrap_or(vec![DEFAULT_PORT]);
        let (mut hosts, addresses) = (hosts.unwrap_or_default(), addresses.unwrap_or_default());
        if !gives_place {
            hosts.push(self.default_host(ports[0]));
        }
        let count = hosts.len().max(addresses.len());
        if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
            self.complain_of_count(
                "hostaddr",
                count_of(addresses.len(), "address", "addresses"),
                hosts.len(),
            );
        }
        if ports.len() == 1 {
            ports = vec![ports[0]; count];
        } else if ports.len() != count {
            self.complain_of_count("port", count_of(ports.len(), "port", "ports"), count);
        }
        Some(Places {
            hosts,
            addresses,
            ports,
        })
    }

    fn complain_of_count(&mut self, key: &str, has: String, hosts: usize) {
        if let Some(given) = self.given.get(key).cloned() {
            let problem = format!(
                "has {has} for {}: give one for each",
                count_of(hosts, "host", "hosts")
            );
            self.complain(key, &given, &problem);
        }
    }

    /// libpq has one socket directory built in. We cannot know which it would be, so we look for the socket itself.
    fn default_host(&self, port: u16) -> String {
        let socket = format!(".s.PGSQL.{port}");
        let directories = &self.inquiry.environment.socket_directories;
        let directory = directories
            .iter()
            .filter(|directory| directory.join(&socket).exists())
            .find_map(|it| it.to_str());
        directory.unwrap_or("localhost").to_owned()
    }

    fn user(&mut self) -> Option<String> {
        if self.given.contains_key("user") {
            return self.text("user");
        }
        let user = self.inquiry.environment.user.clone();
        if user.is_none() {
            self.inquiry.complain(
                USERNAME,
                "is needed: no user is given, and the one that runs this has no name",
            );
        }
        user
    }

    fn connect_timeout(&mut self) -> Option<Duration> {
        let seconds = self.parsed("connect_timeout", "a whole number of seconds", |text| {
            text.trim().parse::<i32>().ok()
        })?;
        u64::try_from(seconds)
            .ok()
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs)
    }

    /// Refuses whatever asks for an encrypted connection. A connection by a local socket needs none, and gets none from
    /// libpq either.
    fn encryption(&mut self, places: Option<&Places>, client: &mut postgres::Config) {
        const MODES: [(&str, bool); 6] = [
            ("disable", false),
            ("allow", false),
            ("prefer", false),
            ("require", true),
            ("verify-ca", true),
            ("verify-full", true),
        ];
        client.ssl_mode(SslMode::Disable);
        if self.choice("sslmode", &MODES) == Some(true)
            && !places.is_some_and(Places::all_are_sockets)
        {
            self.complain_of_tls("sslmode");
        }
        if self.choice("sslnegotiation", &[("postgres", false), ("direct", true)]) == Some(true) {
            self.complain_of_tls("sslnegotiation");
        }
        let bindings = [
            ("disable", ChannelBinding::Disable),
            ("prefer", ChannelBinding::Prefer),
            ("require", ChannelBinding::Require),
        ];
        match self.choice("channel_binding", &bindings) {
            Some(ChannelBinding::Require) => self.complain_of_tls("channel_binding"),
            Some(binding) => drop(client.channel_binding(binding)),
            None => {}
        }
        let modes = [("disable", false), ("prefer", false), ("require", true)];
        if let (Some(true), Some(given)) = (
            self.choice("gssencmode", &modes),
            self.given.get("gssencmode"),
        ) {
            let problem =
                "GSSAPI encryption was asked for (gssencmode=require), but Lockstep has none";
            self.inquiry.complain(given.variable, problem);
        }
    }

    fn complain_of_tls(&mut self, key: &str) {
        let Some(given) = self.given.get(key) else {
            return;
        };
        let value = String::from_utf8_lossy(&given.value);
        let (asked, instead) = match given.form {
            Form::Switch => ("true".to_owned(), "false"),
            Form::Url | Form::Whole => (format!("{key}={value}"), "sslmode=disable"),
        };
        let problem = format!(
            "TLS was asked for ({asked}), but there is none in this release; \
             use {instead} only where the network is trusted"
        );
        self.inquiry.complain(given.variable, problem);
    }

    /// What concerns the session, and what would be wrong to ignore.
    fn session(&mut self, client: &mut postgres::Config) {
        let encodings = ["utf8", "utf-8", "unicode", "auto"];
        self.parsed(
            "client_encoding",
            "UTF8 or auto: migrations are UTF-8",
            |text| {
                encodings
                    .contains(&text.to_ascii_lowercase().as_str())
                    .then_some(())
            },
        );
        let attributes = [
            ("any", TargetSessionAttrs::Any),
            ("read-write", TargetSessionAttrs::ReadWrite),
            ("read-only", TargetSessionAttrs::ReadOnly),
        ];
        if let Some(attributes) = self.choice("target_session_attrs", &attributes) {
            client.target_session_attrs(attributes);
        }
        let balances = [
            ("disable", LoadBalanceHosts::Disable),
            ("random", LoadBalanceHosts::Random),
        ];
        if let Some(balance) = self.choice("load_balance_hosts", &balances) {
            client.load_balance_hosts(balance);
        }
        if let Some(options) = self.text("options") {
            client.options(&options);
        }
        // In a connection string the parser refuses these.
        for (key, why) in [
            ("service", conninfo::SERVICE),
            ("require_auth", "is not supported: unset it"),
            ("requirepeer", "is not supported: unset it"),
        ] {
            if let Some(given) = self.given.get(key) {
                self.inquiry.complain(given.variable, why);
            }
        }
    }

    /// The password file's. The driver has one password for all hosts, so the first host that has one decides.
    fn filed_password(&mut self, places: &Places, database: &str, user: &str) -> Option<Vec<u8>> {
        let path = match self.given.get("passfile").map(|given| given.value.clone()) {
            // It came from a variable or from a text, so it is one again.
            Some(path) => PathBuf::from(os_string(path)?),
            None => self.inquiry.environment.home.as_ref()?.join(".pgpass"),
        };
        let file = pgpass::read(&path, &mut self.inquiry.warnings)?;
        let names = places.names();
        let passwords: Vec<_> = names
            .iter()
            .zip(&places.ports)
            .filter_map(|(name, port)| {
                let local = name.starts_with('/').then_some("localhost");
                let hosts = std::iter::once(name.as_str()).chain(local).collect();
                pgpass::find(
                    &file,
                    &pgpass::Wanted {
                        hosts,
                        port: *port,
                        database,
                        user,
                    },
                )
            })
            .collect();
        if passwords
            .iter()
            .any(|password| Some(password) != passwords.first())
        {
            let path = path.display();
            self.inquiry.warnings.push(format!(
                "the password file {path} has different passwords for the hosts; only the first is used"
            ));
        }
        passwords.into_iter().next()
    }
}

#[cfg(unix)]
fn os_string(bytes: Vec<u8>) -> Option<std::ffi::OsString> {
    use std::os::unix::ffi::OsStrExt as _;
    Some(OsStr::from_bytes(&bytes).to_owned())
}

#[cfg(not(unix))]
fn os_string(bytes: Vec<u8>) -> Option<std::ffi::OsString> {
    String::from_utf8(bytes).ok().map(Into::into)
}

fn count_of(count: usize, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

/// On one line, whatever the names hold.
fn description(places: &Places, database: &str, user: &str) -> String {
    let hosts: Vec<String> = places
        .names()
        .iter()
        .zip(&places.ports)
        .map(|(name, &port)| place(name, port))
        .collect();
    let text = format!("{}/{database} as {user}", hosts.join(","));
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A host and its port in one word.
pub fn place(name: &str, port: u16) -> String {
    match name.contains(':') && !name.starts_with('/') {
        true => format!("[{name}]:{port}"),
        false => format!("{name}:{port}"),
    }
}
