//! A session: a connection, the thread that owns its blocking client, and two channels.
//!
//! The client library blocks without a deadline, and so does the system's look-up of names. So each connection has a
//! thread, for as long as the connection lives, and that thread does nothing but call these: requests go in by one
//! channel, notices and answers come out by the other, in order. It decides nothing and logs nothing. The program's one
//! other thread, which does both, waits for those events with a timeout; so the wait for an answer, the live line, the
//! look for a signal and the deadline are one wait. A session that is left is not waited for: its thread ends with its
//! socket.
//!
//! A client library with deadlines (`tokio-postgres`, with a runtime of our own) would do with one thread; `postgres` is
//! what this project was asked to build on.
//!
//! Everything is sent by the simple-query protocol: behind a transaction pooler, what one message prepares is not there for
//! the next, and start-up `options` are refused or, worse, silently dropped. So settings are made inside transactions, see
//! [`super::settings`].

use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use log::debug;
use postgres::error::{DbError, Severity};
use postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

use super::causes;
use super::glance::{Glance, Seen};
use super::message::{Access, Message, Slot};
use super::settings::{self, Settings};
use super::tls::{self, Connector};
use super::wait::Wait;
use crate::error::{Error, SqlError, is_about_statement_pooling};
use crate::logging;
use crate::signals::{Signal, Signals, Stopped};
use crate::sql;
use crate::sql::sqlstate;
use crate::text::words::duration;

/// How long the server may leave a statement of our own open. None of them waits for a lock for more than a few
/// seconds, so one that takes longer waits for something that no setting bounds: a pooler without a free connection, a
/// frozen server, a synchronous standby that is not there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the server may leave a ping open.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer may take before a signal is heeded while we wait for it.
const SIGNAL_PATIENCE: Duration = Duration::from_millis(500);

/// How long a session that is closed may take to say good-bye.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long to pause after a lock timeout of a statement of our own, at most.
const LOCKED_PAUSE: Duration = Duration::from_millis(250);

/// How often whoever waits for an event looks up.
const TICK: Duration = Duration::from_millis(20);

/// A connection that logs every statement, and tells a server's refusal from a connection that is gone.
pub struct Session {
    /// None once the session was left.
    line: Option<Line>,
    /// Where it leads to.
    destination: Option<Box<Destination>>,
    signals: Signals,
}

/// The two channels of a connection's thread.
struct Line {
    requests: Sender<Request>,
    events: Receiver<Event>,
}

impl Line {
    fn new() -> Line {
        let (requests, asked) = mpsc::channel();
        let (teller, events) = mpsc::channel();
        thread::spawn(move || serve(&asked, &teller));
        Line { requests, events }
    }
}

/// Asks one question over a connection of its own, which nobody waits for.
pub(super) fn ask_aside(destination: Destination, text: String) -> Receiver<Event> {
    let Line { requests, events } = Line::new();
    // If the thread is gone, there will be no answer. When it has done both, it hangs up.
    let _ = requests.send(Request::Dial(Box::new(destination)));
    let _ = requests.send(Request::Ask(text));
    events
}

/// What a connection's thread is asked for.
pub(super) enum Request {
    LookUp {
        name: String,
        port: u16,
    },
    Dial(Box<Destination>),
    Ask(String),
    /// Like `Ask`, but the rows are dropped: however many there are, they take no memory.
    Run(String),
}

/// Whom to connect to, by which address, and how.
pub(super) struct Destination {
    pub client: postgres::Config,
    /// None: without TLS.
    pub tls: Option<Connector>,
}

impl Destination {
    /// The same for another connection.
    pub(super) fn again(&self) -> Destination {
        Destination { client: self.client.clone(), tls: self.tls.as_ref().map(Connector::afresh) }
    }
}

/// What a connection's thread tells.
pub(super) enum Event {
    Located(io::Result<Vec<IpAddr>>),
    Dialled(Result<(), postgres::Error>),
    Notice(Box<DbError>),
    Answer(Result<Answer, Trouble>),
}

/// Hears what happens while an answer is awaited.
pub trait Listener {
    /// The server said something: of a statement of our own, which knows what it does.
    fn notice(&mut self, notice: &DbError) {
        debug!(sqlstate = notice.code().code(); "{}: {}", notice.severity(), notice.message());
    }

    /// Time passes.
    fn tick(&mut self) {}
}

/// Hears nothing but what the server says.
pub struct Quiet;

impl Listener for Quiet {}

/// For how long an answer is awaited.
#[derive(Clone, Copy)]
pub(super) enum Patience {
    /// So long, or until a signal comes.
    AtMost(Duration),
    /// As long as it takes, or until a signal comes.
    UntilSignal,
    /// As long as it takes, whatever signals come.
    Endless,
}

/// Why a message to the server failed.
#[derive(Debug)]
pub enum Trouble {
    /// The server said so; the session is still there.
    Sql(Box<DbError>),
    /// The session is gone.
    Lost(String),
    /// A signal came while the answer did not; the session was left.
    Stopped(Signal),
    /// The answer is not what was asked for.
    Unexpected,
}

impl Trouble {
    /// SQLSTATE and message. A connection that is gone has the standard's "connection failure".
    pub fn words(&self) -> (&str, &str) {
        match self {
            Trouble::Sql(error) => (error.code().code(), error.message()),
            Trouble::Lost(cause) => ("08006", cause),
            Trouble::Stopped(_) => ("57014", "stopped by a signal"),
            Trouble::Unexpected => ("08P01", "the answer is not what was asked for"),
        }
    }

    /// The error of a statement of our own: `doing` is what it was for.
    pub fn while_doing(self, doing: &str) -> Error {
        let doing = doing.to_owned();
        match self {
            Trouble::Sql(error) => {
                Error::Database { doing, cause: Box::new(SqlError::from(&*error)) }
            }
            Trouble::Lost(cause) => Error::ConnectionLost { doing, cause },
            Trouble::Stopped(signal) => Error::Stopped(Stopped { signal, doing }),
            Trouble::Unexpected => Error::NoConnection(format!(
                "{doing}: the server's answer is not what was asked for\n  \
                 hint: run again; nothing is half done"
            )),
        }
    }
}

impl From<postgres::Error> for Trouble {
    fn from(error: postgres::Error) -> Trouble {
        match error.as_db_error() {
            Some(db) if !ends_session(db) => Trouble::Sql(Box::new(db.clone())),
            _ => Trouble::Lost(reason(&error)),
        }
    }
}

/// FATAL and PANIC end the session, whatever their SQLSTATE. PgBouncer knows only the field for that which a server
/// translates; and that its mode is the wrong one it would say again on the next session.
fn ends_session(error: &DbError) -> bool {
    match error.parsed_severity() {
        Some(severity) => matches!(severity, Severity::Fatal | Severity::Panic),
        None => error.severity() == "FATAL" && !is_about_statement_pooling(error),
    }
}

/// The words of an error of the client library; its own `Display` stops at "db error".
pub(super) fn reason(error: &postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return SqlError::from(db).to_string();
    }
    if let Some(fault) = tls::fault(error) {
        return fault;
    }
    let causes: Vec<String> = causes(error).map(ToString::to_string).collect();
    if causes.is_empty() { error.to_string() } else { causes.join(": ") }
}

/// What a message was answered, as it came: the rows of a statement, and behind them the word that it is complete. It is
/// not sorted into rows of each statement, which would hold a long history twice.
pub struct Answer(Vec<SimpleQueryMessage>);

impl Answer {
    /// What a statement returned; nothing, if it has not been answered.
    pub fn rows(&self, of: Slot) -> impl Iterator<Item = &SimpleQueryRow> {
        let is_end = |it: &SimpleQueryMessage| matches!(it, SimpleQueryMessage::CommandComplete(_));
        self.0.split(is_end).nth(of.0).into_iter().flatten().filter_map(as_row)
    }

    /// What all statements returned.
    pub fn all_rows(&self) -> impl Iterator<Item = &SimpleQueryRow> {
        self.0.iter().filter_map(as_row)
    }

    /// Like [`Answer::rows`], to keep.
    pub fn into_rows(self, of: Slot) -> Vec<SimpleQueryRow> {
        let mut number = 0;
        let of_statement = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row).filter(|_| number == of.0),
            SimpleQueryMessage::CommandComplete(_) => {
                number += 1;
                None
            }
            _ => None,
        };
        self.0.into_iter().filter_map(of_statement).collect()
    }

    /// The first row of what a statement returned.
    pub fn row(&self, of: Slot) -> Option<&SimpleQueryRow> {
        self.rows(of).next()
    }
}

fn as_row(message: &SimpleQueryMessage) -> Option<&SimpleQueryRow> {
    match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    }
}

impl Session {
    /// A thread that has no connection yet.
    pub(super) fn new(signals: &Signals) -> Session {
        Session { line: Some(Line::new()), destination: None, signals: signals.clone() }
    }

    /// Looks at what this session executes, by another connection to the same place, which asks this query.
    pub fn glance(&self, query: &str, read: fn(&SimpleQueryRow) -> Seen) -> Option<Glance> {
        let destination = self.destination.as_ref()?;
        Some(Glance::new(destination.again(), query, read))
    }

    /// Sends a message of our own and returns what its statements returned.
    pub fn send(&mut self, message: &Message) -> Result<Answer, Trouble> {
        self.command(&message.text())
    }

    /// Sends a message of our own, again and again while a lock is in its way.
    ///
    /// # Errors
    ///
    /// Like [`Session::settle`].
    pub fn send_patiently(
        &mut self,
        message: &Message,
        doing: &str,
        wait: &mut Wait,
    ) -> Result<Answer, Error> {
        let answer = self.send(message);
        self.settle(message, answer, doing, wait)
    }

    /// Returns what the message was answered at last: it is sent again while a lock is in its way.
    ///
    /// # Errors
    ///
    /// [`Error::TableWait`] at the deadline; what the connection meets.
    pub fn settle(
        &mut self,
        message: &Message,
        mut answer: Result<Answer, Trouble>,
        doing: &str,
        wait: &mut Wait,
    ) -> Result<Answer, Error> {
        loop {
            match answer {
                Ok(answer) => return Ok(answer),
                Err(trouble) => self.after_lock_timeout(trouble, doing, wait)?,
            }
            answer = self.send(message);
        }
    }

    /// Asks one thing, in a transaction that only reads, and returns the rows.
    ///
    /// # Errors
    ///
    /// What the connection meets.
    pub fn ask(&mut self, query: &str, doing: &str) -> Result<Vec<SimpleQueryRow>, Error> {
        let (message, asked) = Message::asking(query);
        Ok(self.send(&message).map_err(|it| it.while_doing(doing))?.into_rows(asked))
    }

    /// Like [`Session::ask`], but tables are found as the role's settings say, and then these, which do not stay.
    ///
    /// # Errors
    ///
    /// Like [`Session::ask`].
    pub fn ask_as_set(
        &mut self,
        sets: &[String],
        query: &str,
        doing: &str,
    ) -> Result<Vec<SimpleQueryRow>, Error> {
        let mut message = Message::begin(Access::Read, &Settings::default());
        message.extend(sets);
        let asked = message.add(query);
        message.add("ROLLBACK");
        Ok(self.send(&message).map_err(|it| it.while_doing(doing))?.into_rows(asked))
    }

    /// After a lock timeout of one of our own statements: rolls back and waits a little, aloud. Any other trouble is an
    /// error.
    ///
    /// # Errors
    ///
    /// [`Error::TableWait`] at the deadline.
    pub fn after_lock_timeout(
        &mut self,
        trouble: Trouble,
        doing: &str,
        wait: &mut Wait,
    ) -> Result<(), Error> {
        match &trouble {
            Trouble::Sql(error) if error.code().code() == sqlstate::LOCK_NOT_AVAILABLE => {
                return self.roll_back_and_wait(SqlError::from(&**error), doing, wait);
            }
            // The first error is the one that counts.
            Trouble::Sql(_) => drop(self.roll_back()),
            _ => {}
        }
        Err(trouble.while_doing(doing))
    }

    /// Rolls back because of a lock, and waits a little, aloud.
    ///
    /// # Errors
    ///
    /// [`Error::TableWait`] at the deadline.
    pub fn roll_back_and_wait(
        &mut self,
        cause: SqlError,
        doing: &str,
        wait: &mut Wait,
    ) -> Result<(), Error> {
        self.roll_back().map_err(|trouble| trouble.while_doing(doing))?;
        if wait.is_over() {
            // The statement is our own, which nobody needs to see.
            let cause = Box::new(SqlError { query: None, context: None, ..cause });
            return Err(Error::TableWait {
                doing: doing.to_owned(),
                cause,
                blockers: Vec::new(),
                waited: wait.elapsed(),
                before: None,
            });
        }
        wait.say(|| format!("a lock while {doing}: {}", cause.message));
        wait.pause(LOCKED_PAUSE)
    }

    /// Ends the transaction, if there is one.
    pub fn roll_back(&mut self) -> Result<(), Trouble> {
        self.command("ROLLBACK").map(drop)
    }

    /// Undoes what a user's statements may have left in the session.
    pub fn reset(&mut self, runner: &str) -> Result<(), Trouble> {
        let reset = settings::reset(runner).join("; ");
        self.command(&reset).map(drop)
    }

    /// Makes the session fit for a user's statement that runs outside a transaction, and calls it so.
    pub fn prepare_alone(&mut self, name: &str) -> Result<(), Trouble> {
        self.command(&settings::of_session(name)).map(drop)
    }

    /// There is no such text but those above: all else is a [`Message`], which has our timeouts, or a user's.
    fn command(&mut self, command: &str) -> Result<Answer, Trouble> {
        self.ours(command, Patience::AtMost(ANSWER_TIMEOUT))
    }

    /// Sends a user's statement for as long as it takes, or until a signal comes; then the session is left, and the server
    /// rolls back.
    pub fn execute_interruptibly(&mut self, message: &str) -> Result<(), Trouble> {
        self.ours(message, Patience::UntilSignal).map(drop)
    }

    /// Sends a message of a user's statements, for as long as it takes, whatever signals come. Whoever sends it logs its
    /// statements; nobody wants its rows.
    pub fn execute_patiently(
        &mut self,
        text: String,
        listener: &mut dyn Listener,
    ) -> Result<(), Trouble> {
        self.answer(Request::Run(text), Patience::Endless, listener).map(drop)
    }

    /// The same of statements that return few rows, which are wanted.
    pub fn ask_patiently(
        &mut self,
        text: String,
        listener: &mut dyn Listener,
    ) -> Result<Answer, Trouble> {
        self.answer(Request::Ask(text), Patience::Endless, listener)
    }

    /// Asks for a sign of life. It fails no transaction and takes no snapshot.
    pub fn ping(&mut self) -> Result<(), Trouble> {
        let nothing = Request::Ask(String::new());
        self.answer(nothing, Patience::AtMost(PING_TIMEOUT), &mut Quiet).map(drop)
    }

    /// A message of our own goes into the query log as one entry, since it is one round trip; its verb is that of its
    /// first statement.
    fn ours(&mut self, message: &str, patience: Patience) -> Result<Answer, Trouble> {
        let sent = Instant::now();
        let answer = self.answer(Request::Ask(message.to_owned()), patience, &mut Quiet);
        log_statements(message, sent.elapsed(), answer.as_ref().err());
        answer
    }

    fn answer(
        &mut self,
        request: Request,
        patience: Patience,
        listener: &mut dyn Listener,
    ) -> Result<Answer, Trouble> {
        match self.exchange(request, patience, listener)? {
            Event::Answer(answer) => answer,
            _ => Err(Trouble::Unexpected),
        }
    }

    /// Sends a request, and returns what it comes to. A session whose patience ends is left.
    pub(super) fn exchange(
        &mut self,
        request: Request,
        patience: Patience,
        listener: &mut dyn Listener,
    ) -> Result<Event, Trouble> {
        if let Request::Dial(destination) = &request {
            self.destination = Some(Box::new(destination.again()));
        }
        let started = Instant::now();
        let line = self.line.as_ref().ok_or_else(gone)?;
        line.requests.send(request).map_err(|_| gone())?;
        let trouble = loop {
            match line.events.recv_timeout(TICK) {
                Ok(Event::Notice(notice)) => listener.notice(&notice),
                Ok(event) => return Ok(event),
                Err(RecvTimeoutError::Disconnected) => return Err(gone()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            listener.tick();
            let waited = started.elapsed();
            match (patience, self.signals.received()) {
                (Patience::Endless, _) => {}
                (_, Some(signal)) if waited > SIGNAL_PATIENCE => break Trouble::Stopped(signal),
                (Patience::AtMost(limit), _) if waited > limit => {
                    break Trouble::Lost(format!("no answer within {}", duration(limit)));
                }
                _ => {}
            }
        };
        self.line = None;
        Err(trouble)
    }

    /// Says good-bye to the server; a failure here is of no interest any more.
    pub fn close(mut self) {
        if let Some(line) = self.line.take() {
            drop(line.requests);
            // The thread tells nothing more but a late notice, and lets go of its channel when it is done.
            while line.events.recv_timeout(FAREWELL).is_ok() {}
        }
    }
}

/// The life of a connection's thread: it does what it is asked for, and closes the connection when nobody can ask any
/// more.
fn serve(asked: &Receiver<Request>, teller: &Sender<Event>) {
    let mut client = None;
    for request in asked {
        let event = match request {
            Request::LookUp { name, port } => Event::Located(look_up(&name, port)),
            Request::Dial(destination) => Event::Dialled(
                dial(*destination, teller.clone()).map(|connected| client = Some(connected)),
            ),
            Request::Ask(text) => {
                let Some(client) = &mut client else { break };
                let answer = client.simple_query(&text).map(Answer);
                Event::Answer(answer.map_err(Trouble::from))
            }
            Request::Run(text) => {
                let Some(client) = &mut client else { break };
                let answer = client.batch_execute(&text).map(|()| Answer(Vec::new()));
                Event::Answer(answer.map_err(Trouble::from))
            }
        };
        if teller.send(event).is_err() {
            break;
        }
    }
    // A failure is of no interest any more.
    let _ = client.map(Client::close);
}

/// The client library would start a thread for this.
fn look_up(name: &str, port: u16) -> io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<IpAddr> = (name, port).to_socket_addrs()?.map(|it| it.ip()).collect();
    addresses.dedup();
    Ok(addresses)
}

fn dial(destination: Destination, teller: Sender<Event>) -> Result<Client, postgres::Error> {
    let Destination { mut client, tls } = destination;
    client.notice_callback(move |notice| {
        // Nobody listens any more to a session that was left.
        let _ = teller.send(Event::Notice(Box::new(notice)));
    });
    match tls {
        Some(connector) => connector.dial(&client),
        None => client.connect(NoTls),
    }
}

fn gone() -> Trouble {
    Trouble::Lost("the session is gone".to_owned())
}

pub(super) fn log_statements(message: &str, took: Duration, trouble: Option<&Trouble>) {
    if !logging::query_log_enabled() {
        return;
    }
    let error = trouble.map(Trouble::words);
    logging::query(&sql::verb(message), took, message, error);
}
