//! What goes over the wire, seen by a proxy that understands enough of PostgreSQL's protocol to take the messages
//! apart: how many round trips there are, that none of them is of the extended protocol, and what becomes of a run
//! whose answers get lost.
//!
//! A *round trip* is one burst of messages from the client that the server answers. What nobody waits for (the
//! client's good-bye) is none.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::words::{DROPS_THE_INVALID_INDEX, LEAVES_THE_LOCK};
use crate::support::{Gate, Lockstep, Scratch, server, wait_until};

/// The connection's start-up.
const CONNECT: usize = 1;

/// What a run with work costs beside its migrations: two start-ups; the look at the history; the guard, and giving it
/// back; the row together with the definitive history, and its deletion.
const CONSTANT: usize = 2 * CONNECT + 5;

/// Where the history tables are absent: their creation, together with another look.
const FIRST_TIME: usize = 1;

#[test]
fn nothing_to_do_costs_the_connection_and_one_query() {
    let scratch = Scratch::new();
    let proxy = Proxy::start();
    steps(&scratch, 3);
    scratch.up().code(0);
    through(&proxy, &scratch).run().code(0);
    // The process may be gone before the proxy has passed its good-bye on.
    wait_until("the good-bye came", || proxy.seen().messages.contains_key(&b'X'));
    let seen = proxy.seen();
    assert_eq!(seen.connections, 1);
    assert_eq!(seen.round_trips, CONNECT + 1, "{seen:?}");
    assert_eq!(seen.messages, BTreeMap::from([(b'Q', 1), (b'X', 1)]));
}

#[test]
fn each_pending_migration_costs_one_round_trip_and_the_rest_is_a_constant() {
    for pending in [1, 101] {
        let scratch = Scratch::new();
        let proxy = Proxy::start();
        steps(&scratch, 1);
        scratch.up().code(0);
        steps(&scratch, 1 + pending);
        through(&proxy, &scratch).run().code(0);
        assert_eq!(scratch.history().len(), 1 + pending);
        let seen = proxy.seen();
        assert_eq!(seen.round_trips, CONSTANT + pending, "{pending} pending: {seen:?}");
        assert_eq!(seen.connections, 2);
        seen.assert_simple();
    }
}

#[test]
fn a_first_run_creates_its_tables_in_one_more_round_trip() {
    let scratch = Scratch::new();
    let proxy = Proxy::start();
    steps(&scratch, 2);
    through(&proxy, &scratch).run().code(0);
    let seen = proxy.seen();
    assert_eq!(seen.round_trips, CONSTANT + FIRST_TIME + 2, "{seen:?}");
}

/// Everything that has a path of its own: waiting, a file of several statements, a failure, a statement outside a
/// transaction and the repair of what an interrupted one left.
#[test]
fn no_path_uses_the_extended_protocol() {
    let scratch = Scratch::new();
    let proxy = Proxy::start();
    let mut gate = Gate::closed(&scratch);
    scratch.file(
        "20230101000001_t.up.sql",
        format!("CREATE TABLE t (c int); {} INSERT INTO t VALUES (1), (1)", Gate::SQL),
    );
    scratch.file("20230101000002_i.up.sql", "CREATE UNIQUE INDEX CONCURRENTLY t_c_idx ON t (c)");
    let up = through(&proxy, &scratch)
        .env("DDL_LOCK_TIMEOUT_SECONDS", "0")
        .env("DATABASE_QUERY_LOGGING_ENABLED", "true");
    let (run, waiter) = gate.queue(&up, &up);
    gate.open();
    run.wait().code(1);
    waiter.wait().code(1);
    scratch.sql("DELETE FROM t");
    scratch.file("20230101000003_bad.up.sql", "SELECT 1; SELECT oops");
    up.run().code(1).says(DROPS_THE_INVALID_INDEX);
    let seen = proxy.seen();
    assert!(seen.messages[&b'Q'] > 20, "{seen:?}");
    seen.assert_simple();
}

// -------------------------------------------------------------------------------------------- lost answers

/// The server has committed, and its answer gets lost: the client cannot know, and the next run finds out.
#[test]
fn a_lost_answer_to_a_commit_is_exit_3_and_the_migration_is_not_repeated() {
    let scratch = Scratch::new();
    let proxy = Proxy::losing("-- step 2", Lose::Answer);
    steps(&scratch, 3);
    through(&proxy, &scratch)
        .run()
        .code(3)
        .says("the connection was lost: applying 20230101000002_step.up.sql, which may or may not be committed");
    assert_eq!(scratch.history().len(), 2);
    scratch.up().code(0);
    assert_eq!(scratch.sql("SELECT step FROM ran ORDER BY 1"), ["1", "2", "3"]);
    assert_eq!(scratch.history().len(), 3);
}

/// The server has never seen the message.
#[test]
fn a_lost_migration_is_exit_3_and_the_next_run_applies_it() {
    let scratch = Scratch::new();
    let proxy = Proxy::losing("-- step 2", Lose::Message);
    steps(&scratch, 3);
    through(&proxy, &scratch).run().code(3);
    assert_eq!(scratch.history().len(), 1);
    scratch.up().code(0);
    assert_eq!(scratch.sql("SELECT step FROM ran ORDER BY 1"), ["1", "2", "3"]);
}

/// Nothing is wrong with the database then, but its promise could not be had: so it is no 0.
#[test]
fn a_lost_release_is_exit_3_and_the_next_run_has_nothing_to_do() {
    let scratch = Scratch::new();
    let proxy = Proxy::losing("DELETE FROM", Lose::Message);
    steps(&scratch, 2);
    through(&proxy, &scratch).run().code(3).says(LEAVES_THE_LOCK);
    assert_eq!(scratch.history().len(), 2);
    scratch.up().code(0).is_up_to_date(2);
    steps(&scratch, 3);
    scratch.up().code(0);
    assert_eq!(scratch.sql("SELECT step FROM ran ORDER BY 1"), ["1", "2", "3"]);
    assert_eq!(scratch.sql("SELECT id FROM bun_migration_locks"), [""; 0]);
}

/// A failure to clean up never hides what went wrong before it.
#[test]
fn a_lost_release_does_not_hide_the_error_of_the_migration() {
    let scratch = Scratch::new();
    let proxy = Proxy::losing("DELETE FROM", Lose::Message);
    steps(&scratch, 1);
    scratch.file("20230101000002_bad.up.sql", "SELECT oops");
    let outcome = through(&proxy, &scratch).run();
    outcome.code(1).says(LEAVES_THE_LOCK);
    assert!(outcome.error().contains("column \"oops\" does not exist"), "{outcome}");
}

// -------------------------------------------------------------------------------------------- what it takes

/// Single-message migrations up to this number; those that are there already are written again as they were.
fn steps(scratch: &Scratch, count: usize) {
    for number in 1..=count {
        let text = match number {
            1 => "CREATE TABLE ran AS SELECT 1 AS step".to_owned(),
            _ => format!("INSERT INTO ran VALUES ({number}) -- step {number}"),
        };
        scratch.file(&format!("2023010100{:02}{:02}_step.up.sql", number / 60, number % 60), text);
    }
}

fn through<'a>(proxy: &Proxy, scratch: &'a Scratch) -> Lockstep<'a> {
    let url = format!(
        "postgres://postgres@127.0.0.1:{}/{}?sslmode=disable",
        proxy.port, scratch.database
    );
    scratch.lockstep(&["up"]).env("DATABASE_URL", url)
}

/// What the proxy has seen, over all connections.
#[derive(Clone, Default, Debug)]
struct Seen {
    connections: usize,
    round_trips: usize,
    /// How many messages of each type the client has sent; a connection's first message has none.
    messages: BTreeMap<u8, usize>,
}

impl Seen {
    /// Nothing but queries and good-byes: no Parse, Bind, Describe, Execute, Sync, Close, Flush, no function call.
    #[track_caller]
    fn assert_simple(&self) {
        assert_eq!(self.messages.keys().copied().collect::<Vec<u8>>(), [b'Q', b'X'], "{self:?}");
    }
}

/// What gets lost, with the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lose {
    /// The client's message: the server never sees it.
    Message,
    /// The server's answer to it, all of it.
    Answer,
}

/// Stands between the client and the test server.
struct Proxy {
    port: u16,
    seen: Arc<Mutex<Seen>>,
}

impl Proxy {
    fn start() -> Proxy {
        Proxy::listen(None)
    }

    /// Cuts the connection on which a message with this text comes.
    fn losing(text: &'static str, what: Lose) -> Proxy {
        Proxy::listen(Some((text, what)))
    }

    fn listen(loss: Option<(&'static str, Lose)>) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        // Ends with the test's process; so do the threads of its connections, if not with these.
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("a connection");
                shared.lock().expect("no panic while locked").connections += 1;
                let upstream = TcpStream::connect((server().host.as_str(), server().port))
                    .expect("the test server");
                let relay = Relay {
                    client,
                    upstream,
                    seen: Arc::clone(&shared),
                    is_unanswered: Arc::new(Mutex::new(false)),
                    is_mute: Arc::new(Mutex::new(false)),
                };
                let back = relay.clone();
                thread::spawn(move || back.answers());
                thread::spawn(move || relay.messages(loss));
            }
        });
        Proxy { port, seen }
    }

    fn seen(&self) -> Seen {
        self.seen.lock().expect("no panic while locked").clone()
    }
}

/// One connection.
struct Relay {
    client: TcpStream,
    upstream: TcpStream,
    seen: Arc<Mutex<Seen>>,
    /// Whether the client has said something that the server has not answered yet.
    is_unanswered: Arc<Mutex<bool>>,
    /// Whether the server's answers get lost.
    is_mute: Arc<Mutex<bool>>,
}

impl Clone for Relay {
    fn clone(&self) -> Relay {
        Relay {
            client: self.client.try_clone().expect("a socket"),
            upstream: self.upstream.try_clone().expect("a socket"),
            seen: Arc::clone(&self.seen),
            is_unanswered: Arc::clone(&self.is_unanswered),
            is_mute: Arc::clone(&self.is_mute),
        }
    }
}

impl Relay {
    /// From the client to the server, message by message.
    fn messages(mut self, loss: Option<(&str, Lose)>) {
        let mut is_first = true;
        while let Ok((kind, message)) = read_message(&mut self.client, is_first) {
            is_first = false;
            if let Some(kind) = kind {
                *self
                    .seen
                    .lock()
                    .expect("no panic while locked")
                    .messages
                    .entry(kind)
                    .or_default() += 1;
            }
            let lost = loss.filter(|(text, _)| String::from_utf8_lossy(&message).contains(text));
            match lost {
                Some((_, Lose::Message)) => break,
                Some((_, Lose::Answer)) => {
                    *self.is_mute.lock().expect("no panic while locked") = true
                }
                None => {}
            }
            *self.is_unanswered.lock().expect("no panic while locked") = true;
            if self.upstream.write_all(&message).is_err() {
                break;
            }
        }
        let _ = self.upstream.shutdown(Shutdown::Both);
        let _ = self.client.shutdown(Shutdown::Both);
    }

    /// From the server to the client, as it comes. A lost answer is swallowed up to its end, which is the message
    /// ReadyForQuery: so the server was done with it.
    fn answers(mut self) {
        while let Ok((kind, message)) = read_message(&mut self.upstream, false) {
            // A notice is no answer: it comes while the server is still at work, and nobody replies to it.
            let is_answer = kind != Some(b'N');
            if is_answer
                && std::mem::take(&mut *self.is_unanswered.lock().expect("no panic while locked"))
            {
                self.seen.lock().expect("no panic while locked").round_trips += 1;
            }
            match *self.is_mute.lock().expect("no panic while locked") {
                true if kind == Some(b'Z') => break,
                true => {}
                false if self.client.write_all(&message).is_err() => break,
                false => {}
            }
        }
        let _ = self.upstream.shutdown(Shutdown::Both);
        let _ = self.client.shutdown(Shutdown::Both);
    }
}

/// Reads a message: its type, and all of its bytes. A connection's first message has no type.
fn read_message(stream: &mut TcpStream, is_first: bool) -> io::Result<(Option<u8>, Vec<u8>)> {
    let mut header = vec![0; if is_first { 4 } else { 5 }];
    stream.read_exact(&mut header)?;
    let kind = (!is_first).then(|| header[0]);
    let length: [u8; 4] = header[header.len() - 4..].try_into().expect("four bytes");
    let mut message = header;
    let start = message.len();
    message.resize(start + u32::from_be_bytes(length) as usize - 4, 0);
    stream.read_exact(&mut message[start..])?;
    Ok((kind, message))
}
