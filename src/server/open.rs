//! Opening a session: one try after the other, until the server accepts us or the wait is over.

use std::io;
use std::time::{Duration, Instant};

use super::message::Message;
use super::session::{Answer, First, Session, Trouble, log_statements, reason};
use super::wait::Wait;
use crate::config::Server;
use crate::error::Error;
use crate::text::words::seconds;

/// How long one try to connect may take, unless the user says otherwise: long enough for a slow link, short enough to
/// get several tries into the default of `DATABASE_WAIT_SECONDS`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the server may leave a session's very first answer open once it is connected. A pooler without a free
/// server connection keeps its clients waiting here.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A try to connect is not cut shorter than this, however little is left to wait: the first message may meet a lock,
/// and the server should be able to say so.
const SHORTEST_TRY: Duration = Duration::from_secs(3);

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
    loop {
        let cause = match attempt(server, application_name, first_message.text(), wait)? {
            Attempt::Opened(session, answer) => return Ok((*session, answer)),
            Attempt::NotYet(cause) => cause,
            Attempt::Never(cause) => {
                return Err(Error::Rejected {
                    server: server.description.clone(),
                    cause,
                    hint: None,
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
enum Attempt {
    Opened(Box<Session>, Result<Answer, Trouble>),
    /// Worth another try.
    NotYet(String),
    /// No try will ever succeed.
    Never(String),
}

/// One try. The client library bounds the TCP connect, but neither the look-up of the name nor the wait for the server's
/// answers; we do, and leave a session that takes too long.
fn attempt(
    server: &Server,
    application_name: &str,
    first_message: &str,
    wait: &mut Wait,
) -> Result<Attempt, Error> {
    let timeout = server.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
    let started = Instant::now();
    let client = client(server, application_name, timeout);
    let mut session = Session::dial(client, first_message, wait.signals());
    let mut limit = timeout + FIRST_ANSWER_TIMEOUT;
    if !wait.is_one_try() {
        limit = limit.min(wait.remaining().max(SHORTEST_TRY));
    }
    let silence = |connected| match connected {
        true => "the server accepts connections but does not answer",
        false => "no connection: the name is not resolved, or the server does not answer",
    };
    let first = session.first_answer(started + limit, |connected| {
        let signals = wait.signals();
        signals.check("while connecting to the database; nothing was changed")?;
        if started.elapsed() > SILENCE {
            let why = silence(connected);
            wait.say_meanwhile(|| format!("the database at {}: {why}", server.description));
        }
        Ok(())
    })?;
    let answer = match first {
        First::Answered(answer) => answer,
        First::Refused(error) => return Ok(refusal(&error)),
        First::Nothing { connected } => {
            let (why, limit) = (silence(connected), seconds(limit));
            return Ok(Attempt::NotYet(format!("{why} within {limit}")));
        }
    };
    log_statements(first_message, started.elapsed(), answer.as_ref().err());
    Ok(match answer {
        Err(Trouble::Lost(cause)) => Attempt::NotYet(cause),
        answer => Attempt::Opened(Box::new(session), answer),
    })
}

/// Tells whether it is worth trying again to connect.
fn refusal(error: &postgres::Error) -> Attempt {
    let cause = reason(error);
    if let Some(db) = error.as_db_error() {
        // Invalid authorization, no such database, no right to connect, a setting that does not exist: a person has to
        // act. All else may pass: starting up, shutting down, too many clients, and whatever a pooler has to say.
        return match db.code().code().get(..2) {
            Some("28" | "3D" | "42" | "22" | "0A") => Attempt::Never(cause),
            _ => Attempt::NotYet(cause),
        };
    }
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if inner.is::<io::Error>() {
            return Attempt::NotYet(cause);
        }
        source = inner.source();
    }
    // What is neither the network's nor the server's is ours: a password that is missing, say.
    if error.is_closed() {
        Attempt::NotYet(cause)
    } else {
        Attempt::Never(cause)
    }
}

/// The client's settings: who we are, and how soon a dead server or a cut cable is noticed. Keepalives notice it while
/// we wait for an answer; the user timeout, while what we sent is not acknowledged. Neither alone is enough (measured).
fn client(server: &Server, application_name: &str, timeout: Duration) -> postgres::Config {
    let mut client = server.client.clone();
    client
        .application_name(application_name)
        .connect_timeout(timeout)
        .keepalives(true)
        .keepalives_idle(Duration::from_secs(5))
        .keepalives_interval(Duration::from_secs(2))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_secs(10));
    client
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
