//! Who the server is: what is given of each parameter, and libpq's defaults for the rest → [`Server`].

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use postgres::config::{ChannelBinding, LoadBalanceHosts};

use super::parameters::{PARAMETERS, Treatment};
use super::places::{DEFAULT_PORT, PORT_NUMBER, Place, is_host, port_number};
use super::sources::Layer;
use super::tls::{Mode, Tls};
use super::values::{chosen, shown};
use super::variables;
use super::{Inquiry, pgpass};
use crate::text::words::{counted, joined};

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

impl Inquiry<'_> {
    /// Says who the server is, or complains; what is returned after a complaint counts for nothing.
    pub(super) fn server(&mut self) -> Option<Server> {
        let given = self.given_parameters()?;
        let inquiry = self;
        Resolution { inquiry, given }.server()
    }
}

/// All that is given; the rest is up to defaults.
pub(super) struct Resolution<'r, 'a> {
    pub inquiry: &'r mut Inquiry<'a>,
    pub given: Layer,
}

impl Resolution<'_, '_> {
    fn server(mut self) -> Option<Server> {
        let places = self.places();
        let user = self.user();
        let database = self.text("dbname").or(user.clone());
        let application_name =
            self.text("application_name").or_else(|| self.text("fallback_application_name"));
        let connect_timeout = self.connect_timeout();
        let tls = self.tls(places.as_deref());
        let channel_binding = self.channel_binding(&tls, places.as_deref());
        let target = self.choice("target_session_attrs", Target::Any, &TARGETS);
        let balance = self.choice("load_balance_hosts", LoadBalanceHosts::Disable, &BALANCES);
        let options = self.text("options");
        self.judge_what_is_not_used(places.as_deref());
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
        text.map_err(|_| self.complain(key, "is not valid UTF-8")).ok()
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
        let is_one = |text: &str| values.split('|').any(|it| it.eq_ignore_ascii_case(text));
        self.parsed(key, accepted, |text| is_one(text).then_some(()));
    }

    /// Several of the kind, with commas between.
    fn list<T>(
        &mut self,
        key: &str,
        accepted: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<T>> {
        let accepted = format!("{accepted}, or several with commas");
        self.parsed(key, &accepted, |text| text.split(',').map(&parse).collect())
    }

    pub(super) fn choice<T: Copy>(&mut self, key: &str, default: T, choices: &[(&str, T)]) -> T {
        let Some(text) = self.text(key) else {
            return default;
        };
        let choice = chosen(&text, choices);
        let choice = choice.map_err(|expected| self.complain(key, &format!("is not {expected}")));
        choice.unwrap_or(default)
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
        if ports.len() == 1 {
            ports = vec![ports[0]; count];
        }
        let mut complain = |key, has: String| {
            let hosts = counted(count, "host");
            self.complain(key, &format!("has {has} for {hosts}: give one for each"));
        };
        match addresses.len() {
            given if given == 0 || given == count => {}
            1 => complain("hostaddr", "1 address".to_owned()),
            several => complain("hostaddr", format!("{several} addresses")),
        }
        if ports.len() != count {
            complain("port", counted(ports.len(), "port"));
        }
        let places = hosts.into_iter().zip(ports).enumerate().map(|(index, (name, port))| Place {
            name,
            address: addresses.get(index).copied(),
            port,
            password: None,
        });
        Some(places.collect())
    }

    /// libpq has one socket directory built in. We cannot know which it would be, so we look for the socket itself.
    fn default_host(&self, port: u16) -> String {
        let socket = format!(".s.PGSQL.{port}");
        let directories = self.inquiry.environment.socket_directories.iter();
        let mut found = directories.filter(|directory| directory.join(&socket).exists());
        found.find_map(|it| it.to_str()).unwrap_or("localhost").to_owned()
    }

    fn user(&mut self) -> Option<String> {
        if self.given.contains_key("user") {
            return self.text("user");
        }
        let user = self.inquiry.environment.user.clone();
        if user.is_none() {
            let problem = "is needed: no user is given, and the one that runs this has no name";
            self.inquiry.complain(&variables::USERNAME.variable, problem);
        }
        user
    }

    fn connect_timeout(&mut self) -> Option<Duration> {
        let seconds = self.parsed("connect_timeout", "a whole number of seconds", |text| {
            text.trim().parse::<i32>().ok()
        })?;
        u64::try_from(seconds).ok().filter(|it| *it > 0).map(Duration::from_secs)
    }

    fn channel_binding(&mut self, tls: &Tls, places: Option<&[Place]>) -> ChannelBinding {
        let binding = self.choice("channel_binding", ChannelBinding::Prefer, &BINDINGS);
        let by_network = places.is_some_and(|places| !places.iter().all(Place::is_socket));
        if binding == ChannelBinding::Require && by_network {
            if cfg!(not(feature = "tls")) {
                self.refuse_one("channel_binding", super::tls::WITHOUT_TLS);
            } else if tls.mode == Mode::Disable {
                let problem = "channel_binding=require needs TLS, and sslmode=disable forbids it";
                self.refuse_one("channel_binding", problem);
            }
        }
        binding
    }

    /// Complains of a parameter in words that do not follow its name.
    pub(super) fn refuse_one(&mut self, key: &str, problem: &str) {
        if let Some(given) = self.given.get(key) {
            self.inquiry.complain(given.variable, problem);
        }
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
        if self.choice("gssencmode", false, &modes) {
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
        self.accept("max_protocol_version", "3.0|3.2|latest", "one of 3.0, 3.2, latest");
        if places.is_none_or(|places| places.iter().any(Place::is_socket)) {
            let problem = "requirepeer is not supported for a socket: leave it out";
            self.refuse_one("requirepeer", problem);
        }
        // In a connection string the parser refuses them.
        for parameter in &PARAMETERS {
            if let Treatment::Refused(_, why) = parameter.treatment {
                self.refuse_one(parameter.key, why);
            }
        }
    }

    /// The one that is given is for all places; else each may have its own in the password file.
    fn passwords(&mut self, places: &mut [Place], database: &str, user: &str) {
        let given = self.given.get("password").map(|given| given.value.clone());
        let path = self.file("passfile", ".pgpass").filter(|_| given.is_none());
        let file = path.and_then(|it| pgpass::read(&it, &mut self.inquiry.warnings));
        for place in places {
            let found = file.as_ref().and_then(|it| pgpass::find(it, place, database, user));
            place.password = given.clone().or(found);
        }
    }

    /// The file that the parameter names, or the default one.
    pub(super) fn file(&self, key: &str, default: &str) -> Option<PathBuf> {
        let given = self.given.get(key).map(|it| it.value.clone());
        self.inquiry.environment.file(given, default)
    }
}

/// The words of the values.
const TARGETS: [(&str, Target); 6] = [
    ("any", Target::Any),
    ("read-write", Target::ReadWrite),
    ("read-only", Target::ReadOnly),
    ("primary", Target::Primary),
    ("standby", Target::Standby),
    ("prefer-standby", Target::PreferStandby),
];
const BALANCES: [(&str, LoadBalanceHosts); 2] =
    [("disable", LoadBalanceHosts::Disable), ("random", LoadBalanceHosts::Random)];
const BINDINGS: [(&str, ChannelBinding); 3] = [
    ("disable", ChannelBinding::Disable),
    ("prefer", ChannelBinding::Prefer),
    ("require", ChannelBinding::Require),
];

/// On one line, whatever the names hold.
fn description(places: &[Place], database: &str, user: &str) -> String {
    let text = format!("{user}@{}/{database}", joined(places, ","));
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests;
