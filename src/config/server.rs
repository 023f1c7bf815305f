//! Who the server is: what is given of each parameter, and libpq's defaults for the rest → [`Server`].

use std::ffi::OsStr;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use postgres::config::{ChannelBinding, LoadBalanceHosts, SslMode, TargetSessionAttrs};

use super::parameters::{PARAMETERS, Treatment};
use super::places::{DEFAULT_PORT, PORT_NUMBER, Places, is_host, place, port_number};
use super::sources::Layer;
use super::values::shown;
use super::variables;
use super::{Inquiry, pgpass};

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

impl Inquiry<'_> {
    /// Says who the server is, or complains.
    pub(super) fn server(&mut self) -> Option<Server> {
        let given = self.given_parameters()?;
        let inquiry = self;
        Resolution { inquiry, given }.server()
    }
}

/// All that is given; the rest is up to defaults.
struct Resolution<'r, 'a> {
    inquiry: &'r mut Inquiry<'a>,
    given: Layer,
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
        self.refuse();
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
        Some(Server {
            client,
            application_name,
            connect_timeout,
            description: description(&places, &database, &user),
            places: places.named().collect(),
        })
    }

    /// The parameter's text; none if it is not given or, after a complaint, is no text.
    fn text(&mut self, key: &str) -> Option<String> {
        let text = String::from_utf8(self.given.get(key)?.value.clone());
        text.map_err(|_| self.complain(key, "is not valid UTF-8"))
            .ok()
    }

    /// Complains of a value with words that follow its name.
    fn complain(&mut self, key: &str, problem: &str) {
        let Some(given) = self.given.get(key) else {
            return;
        };
        let problem = match std::str::from_utf8(&given.value) {
            _ if given.in_string => format!("{key} {problem}"),
            Ok(value) => format!("{} {problem}", shown(value)),
            Err(_) => problem.to_owned(),
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
        let parsed = parse(&self.text(key)?);
        if parsed.is_none() {
            self.complain(key, &format!("is not {accepted}"));
        }
        parsed
    }

    /// Several of the kind, with commas between.
    fn list<T>(
        &mut self,
        key: &str,
        accepted: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.parsed(
            key,
            &format!("{accepted}, or several with commas"),
            |text| text.split(',').map(&parse).collect(),
        )
    }

    fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.parsed(key, &format!("one of {}", names.join(", ")), |text| {
            let choice = choices.iter().find(|(name, _)| *name == text);
            choice.map(|(_, value)| *value)
        })
    }

    /// None after a complaint.
    fn places(&mut self) -> Option<Places> {
        let gives_place = self.given.contains_key("host") || self.given.contains_key("hostaddr");
        let hosts = self.list(
            "host",
            "a host's name, an address or a socket directory",
            |host| is_host(host).then(|| host.to_owned()),
        );
        let addresses: Option<Vec<IpAddr>> =
            self.list("hostaddr", "a numeric address", |address| {
                address.parse().ok()
            });
        let ports = self.list("port", PORT_NUMBER, |port| match port {
            "" => Some(DEFAULT_PORT),
            port => port_number(port),
        });
        if self.given.contains_key("port") && ports.is_none()
            || gives_place && hosts.is_none() && addresses.is_none()
        {
            return None;
        }
        let mut ports = ports.unwrap_or(vec![DEFAULT_PORT]);
        let (mut hosts, addresses) = (hosts.unwrap_or_default(), addresses.unwrap_or_default());
        if !gives_place {
            hosts.push(self.default_host(ports[0]));
        }
        let count = hosts.len().max(addresses.len());
        if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
            let has = count_of(addresses.len(), "address", "addresses");
            self.complain_of_count("hostaddr", &has, hosts.len());
        }
        if ports.len() == 1 {
            ports = vec![ports[0]; count];
        } else if ports.len() != count {
            let has = count_of(ports.len(), "port", "ports");
            self.complain_of_count("port", &has, count);
        }
        Some(Places {
            hosts,
            addresses,
            ports,
        })
    }

    fn complain_of_count(&mut self, key: &str, has: &str, hosts: usize) {
        let hosts = count_of(hosts, "host", "hosts");
        self.complain(key, &format!("has {has} for {hosts}: give one for each"));
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
                &variables::USERNAME.variable,
                "is needed: no user is given, and the one that runs this has no name",
            );
        }
        user
    }

    fn connect_timeout(&mut self) -> Option<Duration> {
        let seconds = self.parsed("connect_timeout", "a whole number of seconds", |text| {
            text.trim().parse::<i32>().ok()
        })?;
        let seconds = u64::try_from(seconds).ok().filter(|it| *it > 0);
        seconds.map(Duration::from_secs)
    }

    /// Refuses whatever asks for an encrypted connection. A connection by a local socket needs none, and gets none from
    /// libpq either.
    fn encryption(&mut self, places: Option<&Places>, client: &mut postgres::Config) {
        let modes = [
            ("disable", false),
            ("allow", false),
            ("prefer", false),
            ("require", true),
            ("verify-ca", true),
            ("verify-full", true),
        ];
        client.ssl_mode(SslMode::Disable);
        if self.choice("sslmode", &modes) == Some(true)
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
        if self.choice("gssencmode", &modes) == Some(true) {
            self.refuse_one(
                "gssencmode",
                "GSSAPI encryption was asked for (gssencmode=require), but Lockstep has none",
            );
        }
    }

    fn complain_of_tls(&mut self, key: &str) {
        let Some(given) = self.given.get(key) else {
            return;
        };
        let (asked, instead) = match given.variable.name == variables::SSL.variable.name {
            true => ("true".to_owned(), "false"),
            false => {
                let value = String::from_utf8_lossy(&given.value);
                (format!("{key}={value}"), "sslmode=disable")
            }
        };
        let problem = format!(
            "TLS was asked for ({asked}), but there is none in this release; \
             use {instead} only where the network is trusted"
        );
        self.refuse_one(key, &problem);
    }

    /// Complains of a parameter in words that do not follow its name.
    fn refuse_one(&mut self, key: &str, problem: &str) {
        if let Some(given) = self.given.get(key) {
            self.inquiry.complain(given.variable, problem);
        }
    }

    /// Refuses what would be wrong to ignore. In a connection string the parser does.
    fn refuse(&mut self) {
        for parameter in &PARAMETERS {
            if let Treatment::Refused(_, why) = parameter.treatment {
                self.refuse_one(parameter.key, why);
            }
        }
    }

    /// What concerns the session.
    fn session(&mut self, client: &mut postgres::Config) {
        let encodings = ["utf8", "utf-8", "unicode", "auto"];
        let encoding = "UTF8 or auto: migrations are UTF-8";
        self.parsed("client_encoding", encoding, |text| {
            let text = text.to_ascii_lowercase();
            encodings.contains(&text.as_str()).then_some(())
        });
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
    }

    /// The password file's. The driver has one password for all hosts, so the first host that has one decides.
    fn filed_password(&mut self, places: &Places, database: &str, user: &str) -> Option<Vec<u8>> {
        let path = match self.given.get("passfile") {
            // It came from a variable or from a text, so it is one again.
            Some(given) => PathBuf::from(os_string(given.value.clone())?),
            None => self.inquiry.environment.home.as_ref()?.join(".pgpass"),
        };
        let file = pgpass::read(&path, &mut self.inquiry.warnings)?;
        let passwords = places.named().filter_map(|(name, port)| {
            let local = name.starts_with('/').then_some("localhost");
            let wanted = pgpass::Wanted {
                hosts: std::iter::once(name.as_str()).chain(local).collect(),
                port,
                database,
                user,
            };
            pgpass::find(&file, &wanted)
        });
        let mut passwords: Vec<_> = passwords.collect();
        passwords.dedup();
        if passwords.len() > 1 {
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
        .named()
        .map(|(name, port)| place(&name, port))
        .collect();
    let text = format!("{}/{database} as {user}", hosts.join(","));
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests;
