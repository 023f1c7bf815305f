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

use super::message::Message;
use super::session::{Answer, Destination, Moment, Session, Trouble, log_statements, reason};
use super::tls::{self, Connector, Outcome, Way};
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
/// [`Error::Unreachable`] at the deadline; [`Error::Rejected`] at once if trying again cannot help: credentials, a
/// database that does not exist, no right; [`Error::Stopped`].
pub fn open(
    server: &Server,
    application_name: &str,
    first_message: &Message,
    wait: &mut Wait,
) -> Result<(Session, Result<Answer, Trouble>), Error> {
    let cannot = |cause| Error::CannotConnect {
        server: server.description.clone(),
        cause,
    };
    let connector = Connector::new(&server.tls).map_err(cannot)?;
    loop {
        let round = Round {
            server,
            application_name,
            connector: connector.as_ref(),
            first_message: first_message.text(),
            wait,
            session: None,
            causes: Vec::new(),
        };
        let cause = match round.run()? {
            Verdict::Opened(session, answer) => return Ok((*session, answer)),
            Verdict::NotYet(cause) => cause,
            Verdict::Never(cause) => return Err(cannot(cause)),
            Verdict::Rejected(cause, hint) => {
                return Err(Error::Rejected {
                    server: server.description.clone(),
                    cause,
                    hint,
                });
            }
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

/// What came of one try.
enum Verdict {
    Opened(Box<Session>, Result<Answer, Trouble>),
    /// Worth another try.
    NotYet(String),
    /// No try will ever succeed, for a reason that is not the server's.
    Never(String),
    /// The server's last word: why, and what may help.
    Rejected(String, Option<String>),
}

/// What came of one address.
enum Step {
    End(Verdict),
    /// Why it was nothing.
    GoOn(String),
    /// The same address once more, in another way.
    Instead(Way, String),
}

/// One try at all places.
struct Round<'a> {
    server: &'a Server,
    application_name: &'a str,
    connector: Option<&'a Connector>,
    first_message: &'a str,
    wait: &'a mut Wait,
    /// A thread without a connection, if there is one to be had.
    session: Option<Session>,
    /// Why each place was nothing.
    causes: Vec<String>,
}

impl Round<'_> {
    fn run(mut self) -> Result<Verdict, Error> {
        let passes: &[Target] = match self.server.target {
            Target::PreferStandby => &[Target::Standby, Target::Any],
            target => &[target],
        };
        for target in passes {
            for place in shuffled(self.server.places.iter().collect(), self.server.balance) {
                if let Some(verdict) = self.place(place, *target)? {
                    return Ok(verdict);
                }
            }
        }
        self.causes.dedup();
        Ok(Verdict::NotYet(self.causes.join("; ")))
    }

    /// None: on to the next.
    fn place(&mut self, place: &Place, target: Target) -> Result<Option<Verdict>, Error> {
        let addresses = match self.addresses(place)? {
            Ok(addresses) => addresses,
            Err(cause) => {
                self.note(place, cause);
                return Ok(None);
            }
        };
        let first = tls::first_way(self.server.tls.mode, place.is_socket());
        let mut ways: VecDeque<_> = addresses.into_iter().map(|it| (it, first)).collect();
        while let Some((address, way)) = ways.pop_front() {
            match self.address(place, address, way, target)? {
                Step::End(verdict) => return Ok(Some(verdict)),
                Step::GoOn(cause) => self.note(place, cause),
                Step::Instead(other, cause) => {
                    if other == Way::Plain {
                        warn!(
                            "the connection to {place} will not be encrypted, as {} allows: {cause}",
                            tls::word(self.server.tls.mode)
                        );
                    }
                    ways.push_front((address, other));
                }
            }
        }
        Ok(None)
    }

    /// Where there are several places, each cause needs its name.
    fn note(&mut self, place: &Place, cause: String) {
        self.causes.push(match self.server.places.len() {
            1 => cause,
            _ => format!("{place}: {cause}"),
        });
    }

    /// A socket has one address, which is none.
    fn addresses(&mut self, place: &Place) -> Result<Result<Vec<Option<IpAddr>>, String>, Error> {
        let known = place.address.or_else(|| place.name.parse().ok());
        if place.is_socket() || known.is_some() {
            return Ok(Ok(vec![known]));
        }
        let mut session = self.thread();
        let limit = self.limit();
        let moment = moment(self.wait, self.server, limit, "no name server answers");
        let found = session.look_up(&place.name, place.port, moment)?;
        let why = match found {
            Some(Ok(addresses)) => {
                self.session = Some(session);
                let addresses = shuffled(addresses, self.server.balance).into_iter();
                return Ok(Ok(addresses.map(Some).collect()));
            }
            Some(Err(error)) => {
                self.session = Some(session);
                unresolved(&error)
            }
            None => format!("no name server answers within {}", duration(limit)),
        };
        Ok(Err(format!(
            "the name {} is not resolved: {why}",
            place.name
        )))
    }

    /// The one that came to nothing, or a new one.
    fn thread(&mut self) -> Session {
        let old = self.session.take();
        old.unwrap_or_else(|| Session::new(self.wait.signals()))
    }

    /// How long one address may take.
    fn limit(&self) -> Duration {
        let limit = self.server.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        self.at_most(limit)
    }

    fn at_most(&self, limit: Duration) -> Duration {
        match self.wait.is_one_try() {
            true => limit,
            false => limit.min(self.wait.remaining().max(SHORTEST_TRY)),
        }
    }

    fn address(
        &mut self,
        place: &Place,
        address: Option<IpAddr>,
        way: Way,
        target: Target,
    ) -> Result<Step, Error> {
        let limit = self.limit();
        let mut session = self.thread();
        let connector = self
            .connector
            .filter(|_| way != Way::Plain)
            .map(Connector::afresh);
        let witness = connector.as_ref().map(Connector::witness);
        let client = self.client(place, address, way, limit);
        let destination = Destination {
            client,
            tls: connector,
        };
        let moment = moment(self.wait, self.server, limit, "the server does not answer");
        let dialled = session.dial(destination, moment)?;
        let outcome = witness.map_or(Outcome::Plain, |it| it.outcome());
        match dialled {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                self.session = Some(session);
                return Ok(self.refusal(&error, way, outcome));
            }
            None => return Ok(Step::GoOn(unanswered(limit))),
        }
        self.tell(place, address, outcome);
        if let Some(cause) = self.is_other_than(target, &mut session)? {
            session.close();
            return Ok(Step::GoOn(cause));
        }
        self.first_answer(session).map(Step::End)
    }

    /// Whoever wanted encryption, if it can be had, hears that it could not.
    fn tell(&self, place: &Place, address: Option<IpAddr>, outcome: Outcome) {
        let mode = self.server.tls.mode;
        let is_far = address.is_some_and(|address| !address.is_loopback());
        match outcome {
            Outcome::Plain if is_far && mode != Mode::Disable => {
                info!(
                    "the connection to {place} is not encrypted, as {} allows",
                    tls::word(mode)
                );
            }
            _ => debug!("connected to {place}: {outcome}"),
        }
    }

    /// Sends the first message.
    fn first_answer(&mut self, mut session: Session) -> Result<Verdict, Error> {
        let started = Instant::now();
        let limit = self.at_most(FIRST_ANSWER_TIMEOUT);
        let why = "the server accepts connections but does not answer";
        let moment = moment(self.wait, self.server, limit, why);
        let answer = session.first_answer(self.first_message, moment)?;
        let Some(answer) = answer else {
            return Ok(Verdict::NotYet(unanswered(limit)));
        };
        log_statements(self.first_message, started.elapsed(), answer.as_ref().err());
        Ok(match answer {
            Err(Trouble::Lost(cause)) => Verdict::NotYet(cause),
            answer => Verdict::Opened(Box::new(session), answer),
        })
    }

    /// What is wrong with the server, if it is not of the kind that is wanted.
    fn is_other_than(
        &mut self,
        target: Target,
        session: &mut Session,
    ) -> Result<Option<String>, Error> {
        let (query, wanted, otherwise) = match target {
            Target::Any | Target::PreferStandby => return Ok(None),
            Target::ReadWrite => (
                "SHOW transaction_read_only",
                "off",
                "it cannot be written to",
            ),
            Target::ReadOnly => ("SHOW transaction_read_only", "on", "it can be written to"),
            Target::Primary => (IN_RECOVERY, "off", "it is a standby"),
            Target::Standby => (IN_RECOVERY, "on", "it is a primary"),
        };
        let started = Instant::now();
        let limit = self.at_most(FIRST_ANSWER_TIMEOUT);
        let why = "the server accepts connections but does not answer";
        let moment = moment(self.wait, self.server, limit, why);
        let answer = session.first_answer(query, moment)?;
        let Some(answer) = answer else {
            return Ok(Some(unanswered(limit)));
        };
        log_statements(query, started.elapsed(), answer.as_ref().err());
        Ok(match answer {
            Ok(answer) if answer.first_value() == Some(wanted) => None,
            Ok(_) => Some(format!(
                "{otherwise}, and target_session_attrs asks for another one"
            )),
            Err(trouble) => Some(trouble.words().1.to_owned()),
        })
    }

    /// What to do about a server that will not have us, or that we will not have.
    fn refusal(&self, error: &postgres::Error, way: Way, outcome: Outcome) -> Step {
        let mode = self.server.tls.mode;
        let cause = reason(error);
        let db = error.as_db_error();
        if let Some(other) = tls::instead(mode, way, outcome, db.map(|db| db.code().code())) {
            return Step::Instead(other, cause);
        }
        if let Some(db) = db {
            let code = db.code().code();
            if code == sqlstate::CANNOT_CONNECT_NOW {
                return Step::GoOn(cause);
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
            return Step::End(match code.get(..2) {
                Some("28" | "3D" | "42" | "22" | "0A" | "55") => Verdict::Rejected(cause, hint),
                _ => Verdict::NotYet(cause),
            });
        }
        // What is neither the network's nor the server's is ours: a password that is missing, a certificate that is not
        // good.
        let cause = match (mode, outcome) {
            (Mode::Prefer, Outcome::Unable) => {
                format!("{cause}; without encryption it goes by sslmode=disable")
            }
            _ => cause,
        };
        match tls::fault(error).is_none() && (is_networks(error) || error.is_closed()) {
            true => Step::GoOn(cause),
            false => Step::End(Verdict::Never(cause)),
        }
    }

    /// The client's settings: who we are, and how soon a dead server or a cut cable is noticed. Keepalives notice it while
    /// we wait for an answer; the user timeout, while what we sent is not acknowledged. Neither alone is enough (measured).
    fn client(
        &self,
        place: &Place,
        address: Option<IpAddr>,
        way: Way,
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
            .ssl_mode(match way {
                Way::Plain => SslMode::Disable,
                Way::TlsIfOffered => SslMode::Prefer,
                Way::Tls => SslMode::Require,
            })
            .ssl_negotiation(server.tls.negotiation)
            .channel_binding(server.channel_binding)
            .application_name(self.application_name)
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

const IN_RECOVERY: &str =
    "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'on' ELSE 'off' END";

/// The resolver's own words; but glibc and musl have none that say what EAI_AGAIN is.
fn unresolved(error: &io::Error) -> String {
    let words = error.to_string();
    match words.rsplit(": ").next() {
        Some("Temporary failure in name resolution" | "Try again") => {
            "no name server gives an answer".to_owned()
        }
        last => last.unwrap_or_default().to_owned(),
    }
}

fn unanswered(limit: Duration) -> String {
    let limit = duration(limit);
    format!("the server accepts connections but does not answer within {limit}")
}

fn is_networks(error: &postgres::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if inner.is::<io::Error>() {
            return true;
        }
        source = inner.source();
    }
    false
}

/// In the order in which they are to be tried.
fn shuffled<T>(mut items: Vec<T>, balance: LoadBalanceHosts) -> Vec<T> {
    if balance == LoadBalanceHosts::Random {
        for end in (1..items.len()).rev() {
            let random = RandomState::new().hash_one(end);
            items.swap(end, (random % (end as u64 + 1)) as usize);
        }
    }
    items
}

/// Gives a step its time, and says after a while what it waits for.
fn moment<'a>(wait: &'a mut Wait, server: &'a Server, limit: Duration, why: &'a str) -> Moment<'a> {
    let started = Instant::now();
    let tick = move || {
        let signals = wait.signals();
        signals.check("while connecting to the database; nothing was changed")?;
        if started.elapsed() > SILENCE {
            wait.say_meanwhile(|| format!("the database at {}: {why}", server.description));
        }
        Ok(())
    };
    Moment {
        deadline: started + limit,
        tick: Box::new(tick),
    }
}

/// The name that a session shows in `pg_stat_activity`, to every role: `lockstep/<version> <host>/<pid>`. The server
/// cuts names at 63 bytes, and a statement's number or a run's token is appended, so the host gives way.
pub fn application_name(server: &Server) -> String {
    const LIMIT: usize = 63 - " -1234567890123456".len();
    let ours = concat!("lockstep/", env!("CARGO_PKG_VERSION"));
    // The server would replace what is not printable ASCII, and nobody would find the session by its name.
    let given = server.application_name.as_deref().unwrap_or(ours).chars();
    let printable = given.filter(|it| it.is_ascii_graphic() || *it == ' ');
    let mut name: String = printable.take(24).collect();
    let tail = format!("/{}", std::process::id());
    name.push(' ');
    let host = whoami::hostname().unwrap_or_else(|_| "localhost".to_owned());
    for character in host.chars().filter(char::is_ascii_graphic) {
        if name.len() + 1 + tail.len() > LIMIT {
            break;
        }
        name.push(character);
    }
    name + &tail
}
