//! Who the server is: what is given of each parameter, and libpq's defaults for the rest → [`Server`].

use std::ffi::OsStr;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use postgres::config::{ChannelBinding, LoadBalanceHosts};

use super::parameters::{PARAMETERS, Treatment};
use super::places::{DEFAULT_PORT, PORT_NUMBER, Place, is_host, port_number};
use super::sources::Layer;
use super::tls::{Mode, Tls};
use super::values::shown;
use super::variables;
use super::{Inquiry, pgpass};
use crate::text::words::counted;

/// The server, the database and the user.
#[derive(Clone)]
pub struct Server {
    /// Where it may be. They are tried one by one.
    pub places: Vec<Place>,
    pub balance: LoadBalanceHosts,
    pub target: Target,
    pub tls: Tls,
    pub channel_binding: ChannelBinding,
    pub user: String,
    pub database: String,
    pub options: Option<String>,
    /// Only if the user gave one.
    pub application_name: Option<String>,
    /// For one address; none, or libpq's 0: whatever `open` thinks right.
    pub connect_timeout: Option<Duration>,
    /// What messages call the server: `user@host:port/database`, several hosts with commas between.
    pub description: String,
}

/// Which of several servers is wanted: libpq's `target_session_attrs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// Written by hand, so that nothing shows a secret.
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
        let resolution = Resolution {
            inquiry,
            given,
            trust_the_system: false,
        };
        resolution.server()
    }
}

/// All that is given; the rest is up to defaults.
pub(super) struct Resolution<'r, 'a> {
    pub inquiry: &'r mut Inquiry<'a>,
    pub given: Layer,
    /// Whoever the system trusts may have signed the server's certificate.
    pub trust_the_system: bool,
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
        let tls = self.tls(places.as_deref());
        let channel_binding = self.channel_binding(&tls, places.as_deref());
        let target = self.target();
        let balance = self.balance();
        let options = self.text("options");
        self.judge_what_is_not_used(places.as_deref());
        self.refuse();
        if self.inquiry.complaints.len() > complaints_before {
            return None;
        }
        let (mut places, user, database) = (places?, user?, database?);
        self.passwords(&mut places, &database, &user);
        Some(Server {
            balance,
            target,
            tls,
            channel_binding,
            options,
            application_name,
            connect_timeout,
            description: description(&places, &database, &user),
            places,
            user,
            database,
        })
    }

    /// The parameter's text; none if it is not given or, after a complaint, is no text.
    fn text(&mut self, key: &str) -> Option<String> {
        let text = String::from_utf8(self.given.get(key)?.value.clone());
        text.map_err(|_| self.complain(key, "is not valid UTF-8"))
            .ok()
    }

    /// Complains of a value with words that follow its name.
    pub(super) fn complain(&mut self, key: &str, problem: &str) {
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
    pub(super) fn parsed<T>(
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

    /// Complains of a value that is none of these, in any case.
    fn accept(&mut self, key: &str, values: &str, accepted: &str) {
        self.parsed(key, accepted, |text| {
            let mut values = values.split('|');
            values.find(|it| it.eq_ignore_ascii_case(text)).map(drop)
        });
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

    pub(super) fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let expected = super::foreign::one_of(&names, &self.text(key)?);
        self.parsed(key, &expected, |text| {
            let choice = choices.iter().find(|(name, _)| *name == text);
            choice.map(|(_, value)| *value)
        })
    }

    /// None after a complaint.
    fn places(&mut self) -> Option<Vec<Place>> {
        let gives_place = self.given.contains_key("host") || self.given.contains_key("hostaddr");
        let kind = "a host's name, an address or a socket directory";
        let hosts = self.list("host", kind, |it| is_host(it).then(|| it.to_owned()));
        let address = |it: &str| it.parse::<IpAddr>().ok();
        let addresses = self.list("hostaddr", "a numeric address", address);
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
        if hosts.is_empty() {
            hosts.extend(addresses.iter().map(IpAddr::to_string));
        }
        let count = hosts.len();
        if !addresses.is_empty() && addresses.len() != count {
            let has = match addresses.len() {
                1 => "1 address".to_owned(),
                several => format!("{several} addresses"),
            };
            self.complain_of_count("hostaddr", &has, count);
        }
        if ports.len() == 1 {
            ports = vec![ports[0]; count];
        } else if ports.len() != count {
            self.complain_of_count("port", &counted(ports.len(), "port"), count);
        }
        let places = hosts.into_iter().zip(ports).enumerate();
        let places = places.map(|(index, (name, port))| Place {
            name,
            address: addresses.get(index).copied(),
            port,
            password: None,
        });
        Some(places.collect())
    }

    fn complain_of_count(&mut self, key: &str, has: &str, hosts: usize) {
        let hosts = counted(hosts, "host");
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

    fn channel_binding(&mut self, tls: &Tls, places: Option<&[Place]>) -> ChannelBinding {
        let bindings = [
            ("disable", ChannelBinding::Disable),
            ("prefer", ChannelBinding::Prefer),
            ("require", ChannelBinding::Require),
        ];
        let binding = self.choice("channel_binding", &bindings);
        let by_network = places.is_some_and(|places| !places.iter().all(Place::is_socket));
        if binding == Some(ChannelBinding::Require) && by_network {
            if cfg!(not(feature = "tls")) {
                self.refuse_one("channel_binding", super::tls::WITHOUT_TLS);
            } else if tls.mode == Mode::Disable {
                let problem = "channel_binding=require needs TLS, and sslmode=disable forbids it";
                self.refuse_one("channel_binding", problem);
            }
        }
        binding.unwrap_or(ChannelBinding::Prefer)
    }

    /// Complains of a parameter in words that do not follow its name.
    pub(super) fn refuse_one(&mut self, key: &str, problem: &str) {
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

    fn target(&mut self) -> Target {
        let targets = [
            ("any", Target::Any),
            ("read-write", Target::ReadWrite),
            ("read-only", Target::ReadOnly),
            ("primary", Target::Primary),
            ("standby", Target::Standby),
            ("prefer-standby", Target::PreferStandby),
        ];
        let target = self.choice("target_session_attrs", &targets);
        target.unwrap_or(Target::Any)
    }

    fn balance(&mut self) -> LoadBalanceHosts {
        let balances = [
            ("disable", LoadBalanceHosts::Disable),
            ("random", LoadBalanceHosts::Random),
        ];
        let balance = self.choice("load_balance_hosts", &balances);
        balance.unwrap_or(LoadBalanceHosts::Disable)
    }

    /// What changes nothing may have its harmless values, and no others.
    fn judge_what_is_not_used(&mut self, places: Option<&[Place]>) {
        // The lock's promises rest on keepalives, so we set them ourselves.
        let ours =
            "keepalives|keepalives_idle|keepalives_interval|keepalives_count|tcp_user_timeout";
        let whole = |text: &str| text.trim().parse::<i32>().ok();
        for key in ours.split('|') {
            self.parsed(key, "a whole number", whole);
        }
        let modes = [("disable", false), ("prefer", false), ("require", true)];
        if self.choice("gssencmode", &modes) == Some(true) {
            let problem =
                "GSSAPI encryption was asked for (gssencmode=require), but Lockstep has none";
            self.refuse_one("gssencmode", problem);
        }
        let encoding = "UTF8 or auto: migrations are UTF-8";
        self.accept("client_encoding", "utf8|utf-8|unicode|auto", encoding);
        let off = "false: migrations are no replication";
        self.accept("replication", "false|off|no|0", off);
        let newest = "3.0: Lockstep speaks that version of PostgreSQL's protocol";
        self.accept("min_protocol_version", "3.0", newest);
        let versions = "one of 3.0, 3.2, latest";
        self.accept("max_protocol_version", "3.0|3.2|latest", versions);
        if places.is_none_or(|places| places.iter().any(Place::is_socket)) {
            let problem = "requirepeer is not supported for a socket: leave it out";
            self.refuse_one("requirepeer", problem);
        }
    }

    /// The one that is given is for all places; else each may have its own in the password file.
    fn passwords(&mut self, places: &mut [Place], database: &str, user: &str) {
        let given = self.given.get("password").map(|given| given.value.clone());
        if given.is_some() {
            for place in places {
                place.password.clone_from(&given);
            }
            return;
        }
        let path = match self.given.get("passfile") {
            // It came from a variable or from a text, so it is one again.
            Some(given) => os_string(given.value.clone()).map(PathBuf::from),
            None => {
                let home = self.inquiry.environment.home.as_ref();
                home.map(|home| home.join(".pgpass"))
            }
        };
        let file = path.and_then(|path| pgpass::read(&path, &mut self.inquiry.warnings));
        let Some(file) = file else {
            return;
        };
        for place in places {
            let local = place.is_socket().then_some("localhost");
            let wanted = pgpass::Wanted {
                hosts: std::iter::once(place.name.as_str()).chain(local).collect(),
                port: place.port,
                database,
                user,
            };
            place.password = pgpass::find(&file, &wanted);
        }
    }
}

#[cfg(unix)]
pub(super) fn os_string(bytes: Vec<u8>) -> Option<std::ffi::OsString> {
    use std::os::unix::ffi::OsStrExt as _;
    Some(OsStr::from_bytes(&bytes).to_owned())
}

#[cfg(not(unix))]
pub(super) fn os_string(bytes: Vec<u8>) -> Option<std::ffi::OsString> {
    String::from_utf8(bytes).ok().map(Into::into)
}

/// On one line, whatever the names hold.
fn description(places: &[Place], database: &str, user: &str) -> String {
    let hosts: Vec<String> = places.iter().map(Place::to_string).collect();
    let text = format!("{user}@{}/{database}", hosts.join(","));
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests;
