//! Opening a session: one try after the other, until the server accepts us or the wait is over.
//!
//! A try goes through the places one by one, and through each one's addresses, as libpq does (manual, "Specifying
//! Multiple Hosts"). What gives no answer, cannot be reached, is starting up, or is not the kind of server that is wanted
//! hands over to the next. Any other answer is final for the list: with different clusters in it, whoever goes on after
//! a wrong password or a bad certificate migrates the wrong one. One thing is more patient than libpq: a connection that
//! breaks before the server has said anything hands over, too; that is what a load balancer without a server does.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use postgres::config::{LoadBalanceHosts, SslMode};

use super::causes;
use super::message::{Message, Slot};
use super::session::{
    Answer, Destination, Event, Listener, Patience, Request, Session, Trouble, log_statements,
    reason,
};
use super::tls::{self, Connector, Outcome};
use super::wait::Wait;
use crate::config::tls::Mode;
use crate::config::{Place, Server, Target};
use crate::error::Error;
use crate::sql::sqlstate;
use crate::text::words::duration;

/// How long one address may take until the session is open, unless the user says otherwise: long enough for a slow link,
/// short enough to get several tries into the default of `DATABASE_WAIT_SECONDS`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the server may leave a session's very first answer open once it is connected. A pooler without a free
/// server connection keeps its clients waiting here.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// An address is not given less time than this, however little is left to wait: the first message may meet a lock, and
/// the server should be able to say so.
const SHORTEST_TRY: Duration = Duration::from_secs(3);

/// How much earlier than ours the client library's deadline is, which is about the network alone: so a time-out of ours
/// means that there is a connection, and no answer.
const HEAD_START: Duration = Duration::from_millis(100);

/// How long a try to connect may be silent before it is said what it waits for.
const SILENCE: Duration = Duration::from_secs(2);

/// Opens a session and sends it its first message, and tries again until the server has answered or `wait` is over. What
/// the server answers to the message is the caller's business.
///
/// # Errors
///
/// [`Error::Unreachable`] at the deadline; [`Error::rejected`] at once if trying again cannot help: credentials, a
/// database that does not exist, no right; [`Error::Stopped`].
pub fn open(
    server: &Server,
    first_message: &Message,
    wait: &mut Wait,
) -> Result<(Session, Result<Answer, Trouble>), Error> {
    let connector = Connector::new(&server.tls).map_err(|cause| cannot_connect(server, cause))?;
    loop {
        let round = Round {
            server,
            connector: connector.as_ref(),
            first_message: &first_message.text(),
            wait,
            session: None,
            causes: Vec::new(),
        };
        let cause = match round.run()? {
            Ok(opened) => return Ok(opened),
            Err(cause) => cause,
        };
        if wait.is_over() {
            return Err(Error::Unreachable {
                server: server.description.clone(),
                waited: wait.elapsed(),
                cause,
            });
        }
        wait.say(|| format!("the database at {}: {cause}", server.description));
        wait.pause(Duration::from_millis(500))?;
    }
}

/// What came of one try: a session, and what the server answered to its first message; or why another try is worth it.
type Tried = Result<(Session, Result<Answer, Trouble>), String>;

/// What came of one address.
enum Step {
    End(Tried),
    /// Why it was nothing.
    GoOn(String),
    /// The same address once more, in another way.
    Instead(SslMode, String),
}

/// One try at all places.
struct Round<'a> {
    server: &'a Server,
    connector: Option<&'a Connector>,
    first_message: &'a str,
    wait: &'a mut Wait,
    /// A thread without a connection, if there is one to be had.
    session: Option<Session>,
    /// Why each place was nothing.
    causes: Vec<String>,
}

impl Round<'_> {
    fn run(mut self) -> Result<Tried, Error> {
        let passes: &[Target] = match self.server.target {
            Target::PreferStandby => &[Target::Standby, Target::Any],
            target => &[target],
        };
        for target in passes {
            for place in shuffled(self.server.places.iter().collect(), self.server.balance) {
                if let Some(end) = self.place(place, *target)? {
                    return Ok(end);
                }
            }
        }
        Ok(Err(self.causes.join("; ")))
    }

    /// None: on to the next.
    fn place(&mut self, place: &Place, target: Target) -> Result<Option<Tried>, Error> {
        let addresses = self.addresses(place)?;
        let first = tls::first_way(self.server.tls.mode, place.is_socket());
        let mut ways: VecDeque<_> = addresses.into_iter().map(|it| (it, first)).collect();
        while let Some((address, way)) = ways.pop_front() {
            match self.address(place, address, way, target)? {
                Step::End(end) => return Ok(Some(end)),
                Step::GoOn(cause) => self.note(place, cause),
                Step::Instead(other, cause) => {
                    if other == SslMode::Disable {
                        let mode = tls::word(self.server.tls.mode);
                        warn!(
                            "the connection to {place} will not be encrypted, as {mode} allows: {cause}"
                        );
                    }
                    ways.push_front((address, other));
                }
            }
        }
        Ok(None)
    }

    /// Where there are several places, each cause needs its name. A second pass adds what the first has not said.
    fn note(&mut self, place: &Place, cause: String) {
        let cause = match self.server.places.len() {
            1 => cause,
            _ => format!("{place}: {cause}"),
        };
        if !self.causes.contains(&cause) {
            self.causes.push(cause);
        }
    }

    /// A socket has one address, which is none; a name that is not resolved has none at all.
    fn addresses(&mut self, place: &Place) -> Result<Vec<Option<IpAddr>>, Error> {
        let known = place.address.or_else(|| place.name.parse().ok());
        if place.is_socket() || known.is_some() {
            return Ok(vec![known]);
        }
        let (mut session, limit) = (self.thread(), self.limit());
        let request = Request::LookUp { name: place.name.clone(), port: place.port };
        let why = "no name server answers";
        let cause = match self.step(&mut session, request, limit, why)? {
            Some(Event::Located(Ok(addresses))) => {
                self.session = Some(session);
                let addresses = shuffled(addresses, self.server.balance);
                return Ok(addresses.into_iter().map(Some).collect());
            }
            Some(Event::Located(Err(error))) => unresolved(&error),
            _ => format!("{why} within {}", duration(limit)),
        };
        self.note(place, format!("the name {} is not resolved: {cause}", place.name));
        Ok(Vec::new())
    }

    /// The one that came to nothing, or a new one.
    fn thread(&mut self) -> Session {
        self.session.take().unwrap_or_else(|| Session::new(self.wait.signals()))
    }

    /// How long one address may take.
    fn limit(&self) -> Duration {
        let limit = self.server.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        self.at_most(limit)
    }

    fn at_most(&self, limit: Duration) -> Duration {
        if self.wait.is_one_try() {
            limit
        } else {
            limit.min(self.wait.remaining().max(SHORTEST_TRY))
        }
    }

    /// One step of connecting: none if it takes longer than that. Says after a while what it waits for.
    fn step(
        &mut self,
        session: &mut Session,
        request: Request,
        limit: Duration,
        why: &str,
    ) -> Result<Option<Event>, Error> {
        let mut aloud = Aloud {
            wait: self.wait,
            why: format!("the database at {}: {why}", self.server.description),
            since: Instant::now(),
        };
        match session.exchange(request, Patience::AtMost(limit), &mut aloud) {
            Ok(event) => Ok(Some(event)),
            Err(trouble @ Trouble::Stopped(_)) => {
                Err(trouble.while_doing("while connecting to the database; nothing was changed"))
            }
            Err(_) => Ok(None),
        }
    }

    fn address(
        &mut self,
        place: &Place,
        address: Option<IpAddr>,
        way: SslMode,
        target: Target,
    ) -> Result<Step, Error> {
        let (mut session, limit) = (self.thread(), self.limit());
        let tls = self.connector.filter(|_| way != SslMode::Disable).map(Connector::afresh);
        let connector = tls.clone();
        let client = self.client(place, address, way, limit);
        let request = Request::Dial(Box::new(Destination { client, tls }));
        let dialled = self.step(&mut session, request, limit, "the server does not answer")?;
        let outcome = connector.map_or(Outcome::Plain, |it| it.outcome());
        match dialled {
            Some(Event::Dialled(Err(error))) => {
                self.session = Some(session);
                return self.refusal(&error, way, outcome);
            }
            Some(_) => {}
            None => return Ok(Step::GoOn(unanswered(limit))),
        }
        self.tell(place, address, outcome);
        if let Some(cause) = self.is_other_than(target, &mut session)? {
            session.close();
            return Ok(Step::GoOn(cause));
        }
        let answer = self.first_answer(&mut session, self.first_message)?;
        Ok(match answer {
            Err(Trouble::Lost(cause)) => Step::End(Err(cause)),
            answer => Step::End(Ok((session, answer))),
        })
    }

    /// Whoever wanted encryption, if it can be had, hears that it could not.
    fn tell(&self, place: &Place, address: Option<IpAddr>, outcome: Outcome) {
        let mode = self.server.tls.mode;
        let is_far = address.is_some_and(|address| !address.is_loopback());
        match outcome {
            Outcome::Encrypted(version) => debug!("connected to {place}: {version}"),
            _ if is_far && mode != Mode::Disable => {
                let mode = tls::word(mode);
                info!("the connection to {place} is not encrypted, as {mode} allows");
            }
            _ => debug!("connected to {place}: not encrypted"),
        }
    }

    /// What a connection answers to one of its first messages.
    fn first_answer(
        &mut self,
        session: &mut Session,
        message: &str,
    ) -> Result<Result<Answer, Trouble>, Error> {
        let started = Instant::now();
        let limit = self.at_most(FIRST_ANSWER_TIMEOUT);
        let request = Request::Ask(message.to_owned());
        let answer = match self.step(session, request, limit, UNANSWERED)? {
            Some(Event::Answer(answer)) => answer,
            _ => Err(Trouble::Lost(unanswered(limit))),
        };
        log_statements(message, started.elapsed(), answer.as_ref().err());
        Ok(answer)
    }

    /// What is wrong with the server, if it is not of the kind that is wanted.
    fn is_other_than(
        &mut self,
        target: Target,
        session: &mut Session,
    ) -> Result<Option<String>, Error> {
        let (query, wanted, otherwise) = match target {
            Target::Any | Target::PreferStandby => return Ok(None),
            Target::ReadWrite => (READ_ONLY, "off", "it cannot be written to"),
            Target::ReadOnly => (READ_ONLY, "on", "it can be written to"),
            Target::Primary => (IN_RECOVERY, "off", "it is a standby"),
            Target::Standby => (IN_RECOVERY, "on", "it is a primary"),
        };
        Ok(match self.first_answer(session, query)? {
            Ok(answer) if answer.row(Slot(0)).and_then(|it| it.get(0)) == Some(wanted) => None,
            Ok(_) => Some(format!("{otherwise}, and target_session_attrs asks for another one")),
            Err(trouble) => Some(trouble.words().1.to_owned()),
        })
    }

    /// What to do about a server that will not have us, or that we will not have.
    fn refusal(
        &self,
        error: &postgres::Error,
        way: SslMode,
        outcome: Outcome,
    ) -> Result<Step, Error> {
        let mode = self.server.tls.mode;
        let cause = reason(error);
        let db = error.as_db_error();
        if let Some(other) = tls::instead(mode, way, outcome, db.map(|db| db.code().code())) {
            return Ok(Step::Instead(other, cause));
        }
        if let Some(db) = db {
            let code = db.code().code();
            if code == sqlstate::CANNOT_CONNECT_NOW {
                return Ok(Step::GoOn(cause));
            }
            let has_network = self.server.places.iter().any(|it| !it.is_socket());
            let hint = match code {
                sqlstate::INVALID_AUTHORIZATION if mode == Mode::Disable && has_network => {
                    Some("encryption was not tried, because sslmode=disable forbids it".to_owned())
                }
                sqlstate::INVALID_CATALOG_NAME => {
                    Some(format!("create it: {}", createdb(self.server)))
                }
                _ => None,
            };
            // Invalid authorization, no such database, one that takes no connections, no right to connect, a setting that
            // does not exist: a person has to act. All else may pass: shutting down, too many clients, and whatever a
            // pooler has to say.
            return match code.get(..2) {
                Some("28" | "3D" | "42" | "22" | "0A" | "55") => {
                    Err(Error::rejected(self.server, cause, hint.as_deref()))
                }
                _ => Ok(Step::End(Err(cause))),
            };
        }
        // What is neither the network's nor the server's is ours: a password that is missing, a certificate that is not
        // good.
        let cause = match (mode, outcome) {
            (Mode::Prefer, Outcome::Unable) => {
                format!("{cause}; without encryption it goes by sslmode=disable")
            }
            _ => cause,
        };
        let is_networks = causes(error).any(|it| it.is::<io::Error>());
        if tls::fault(error).is_none() && (is_networks || error.is_closed()) {
            Ok(Step::GoOn(cause))
        } else {
            Err(cannot_connect(self.server, cause))
        }
    }

    /// The client's settings: who we are, and how soon a dead server or a cut cable is noticed. Keepalives notice it while
    /// we wait for an answer; the user timeout, while what we sent is not acknowledged. Neither alone is enough (measured).
    fn client(
        &self,
        place: &Place,
        address: Option<IpAddr>,
        way: SslMode,
        limit: Duration,
    ) -> postgres::Config {
        let server = self.server;
        let mut client = postgres::Config::new();
        client.host(&place.name).port(place.port);
        if let Some(address) = address {
            client.hostaddr(address);
        }
        client.user(&server.user).dbname(&server.database);
        if let Some(password) = &place.password {
            client.password(password);
        }
        if let Some(options) = &server.options {
            client.options(options);
        }
        client
            .ssl_mode(way)
            .ssl_negotiation(server.tls.negotiation)
            .channel_binding(server.channel_binding)
            .application_name(&application_name(server))
            .connect_timeout(limit.saturating_sub(HEAD_START))
            .keepalives(true)
            .keepalives_idle(Duration::from_secs(5))
            .keepalives_interval(Duration::from_secs(2))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(10));
        client
    }
}

/// What creates the database, to be typed where PostgreSQL's programs are.
fn createdb(server: &Server) -> String {
    let mut command = "createdb".to_owned();
    if let [place] = server.places.as_slice() {
        command.push_str(&format!(" -h {} -p {}", place.name, place.port));
    }
    format!("{command} -U {} {}", server.user, server.database)
}

const READ_ONLY: &str = "SHOW transaction_read_only";
const IN_RECOVERY: &str =
    "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'on' ELSE 'off' END";

/// The resolver's own words; but glibc and musl have none that say what EAI_AGAIN is.
fn unresolved(error: &io::Error) -> String {
    match error.to_string().rsplit(": ").next() {
        Some("Temporary failure in name resolution" | "Try again") => {
            "no name server gives an answer".to_owned()
        }
        last => last.unwrap_or_default().to_owned(),
    }
}

const UNANSWERED: &str = "the server accepts connections but does not answer";

fn unanswered(limit: Duration) -> String {
    format!("{UNANSWERED} within {}", duration(limit))
}

fn cannot_connect(server: &Server, cause: String) -> Error {
    Error::Unusable(format!("cannot connect to {}: {cause}", server.description))
}

/// In the order in which they are to be tried.
fn shuffled<T>(mut items: Vec<T>, balance: LoadBalanceHosts) -> Vec<T> {
    if balance == LoadBalanceHosts::Random {
        items.sort_by_cached_key(|_| RandomState::new().hash_one(()));
    }
    items
}

/// Says that nothing has happened yet.
struct Aloud<'a> {
    wait: &'a mut Wait,
    why: String,
    since: Instant,
}

impl Listener for Aloud<'_> {
    fn tick(&mut self) {
        if self.since.elapsed() > SILENCE {
            self.wait.say_meanwhile(|| self.why.clone());
        }
    }
}

/// The name that a session shows in `pg_stat_activity`, to every role: `lockstep/<version> <host>/<pid>`. The server
/// cuts names at 63 bytes, and a statement's number or a run's token is appended, so the host gives way.
pub fn application_name(server: &Server) -> String {
    const LIMIT: usize = 63 - " -1234567890123456".len();
    let ours = concat!("lockstep/", env!("CARGO_PKG_VERSION"));
    // The server would replace what is not printable ASCII, and nobody would find the session by its name.
    let given = server.application_name.as_deref().unwrap_or(ours).chars();
    let name: String = given.filter(|it| it.is_ascii_graphic() || *it == ' ').take(24).collect();
    let tail = format!("/{}", std::process::id());
    let host = whoami::hostname().unwrap_or_else(|_| "localhost".to_owned());
    let room = LIMIT - name.len() - " ".len() - tail.len();
    let host = host.chars().filter(char::is_ascii_graphic).take(room);
    format!("{name} {}{tail}", host.collect::<String>())
}
