//! A proxy that knows where a message of PostgreSQL's protocol begins and ends, for whoever wants to know, or to decide,
//! at which message a run ends.
//!
//! It numbers the messages of a run, from the client and from the server, over all connections, from 0, in the order in
//! which they come. A runner sends a message and waits for the answer, and only then the next, on whichever connection:
//! so the numbers of two runs that do the same are the same, but for the last good-byes, for which nobody waits.
//!
//! The message at which it shall hold stays unread in the socket, and its receiver waits, until the test has done what
//! it wants to do there and says how to go on.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use crate::support::DEADLINE;

/// Stands between the runner and a server. All its connections end when it is dropped.
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

/// One message that came by.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Connections are numbered in the order in which they are opened.
    pub connection: usize,
    pub from: Side,
    /// The protocol's letter; `None` for a connection's first message, which has none.
    pub kind: Option<u8>,
    /// The text of a query; empty for all else.
    pub query: String,
    /// The bytes of all of it.
    pub length: usize,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.map_or("start-up".to_owned(), |it| char::from(it).to_string());
        let words: Vec<&str> = self.query.split_whitespace().take(6).collect();
        write!(
            f,
            "{kind} from the {:?} on connection {} {}",
            self.from,
            self.connection,
            words.join(" ")
        )
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Client,
    Server,
}

impl Proxy {
    /// Listens at an address, and holds the message with the number `hold`, if such a one comes.
    pub fn start(address: Ipv4Addr, upstream: SocketAddr, hold: Option<usize>) -> Proxy {
        let listener = TcpListener::bind((address, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared { hold, state: Mutex::default(), changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accepting.accept(&listener, upstream));
        Proxy { port, shared }
    }

    /// What has come by so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// Waits until the message is held, and returns true; or false when `is_over` says that it will not come any more.
    pub fn wait_for_hold(&self, mut is_over: impl FnMut() -> bool) -> bool {
        loop {
            let state = self.shared.state();
            let (state, _) = self
                .shared
                .changed
                .wait_timeout_while(state, POLL, |state| state.mode != Mode::Holding)
                .expect("no panic while locked");
            if state.mode == Mode::Holding {
                return true;
            }
            drop(state);
            if is_over() {
                return self.shared.state().mode == Mode::Holding;
            }
        }
    }

    /// Lets the held message go on, and all that come after it. It is with its receiver's kernel when this returns, if
    /// there is still a receiver. Nothing happens if the message never came.
    pub fn pass(&self) {
        if self.shared.state().mode != Mode::Holding {
            return;
        }
        self.shared.enter(Mode::Passing);
        let state = self.shared.state();
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, DEADLINE, |state| !state.has_passed)
            .expect("no panic while locked");
        assert!(state.has_passed, "the held message never passed");
    }

    /// A black hole: nothing is forwarded any more, no end of a connection either, and all connections stay open.
    pub fn swallow(&self) {
        self.shared.enter(Mode::Swallowing);
    }

    /// Ends all connections as a kernel does for a process that has died.
    pub fn close(&self) {
        let connections = self.shared.enter(Mode::Closed);
        for connection in connections {
            connection.end();
        }
    }

    /// Ends all connections without a good-bye. A socket that is closed while there is something unread in it resets its
    /// connection, so whoever has sent the held message gets a RST; everybody else sees the connection end.
    pub fn reset(&self) {
        // The threads let go of their sockets one after the other; the last reference closes.
        self.shared.enter(Mode::Closed);
    }

    /// The server's process id for a connection, once the server has told it.
    pub fn backend(&self, connection: usize) -> Option<i32> {
        self.shared.state().backends.get(connection).copied().flatten()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.close();
        // Wakes the listener.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

/// A client's wish for encryption, which the server grants with one byte.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// How soon a thread that waits for data notices that it is all over. There are dozens of them at once.
const POLL: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Mode {
    #[default]
    Passing,
    Holding,
    Swallowing,
    Closed,
}

#[derive(Default)]
struct State {
    mode: Mode,
    /// Whether the message that was held has been forwarded.
    has_passed: bool,
    seen: Vec<Seen>,
    connections: Vec<Arc<Connection>>,
    backends: Vec<Option<i32>>,
}

struct Shared {
    hold: Option<usize>,
    state: Mutex<State>,
    changed: Condvar,
}

struct Connection {
    number: usize,
    client: TcpStream,
    server: TcpStream,
    /// Whether it is encrypted: then a record of TLS counts as a message.
    is_opaque: AtomicBool,
}

impl Connection {
    fn end(&self) {
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }

    /// Changes the mode, and returns the connections that were to be ended by it.
    fn enter(&self, mode: Mode) -> Vec<Arc<Connection>> {
        let mut state = self.state();
        state.mode = mode;
        self.changed.notify_all();
        match mode {
            Mode::Closed => std::mem::take(&mut state.connections),
            _ => Vec::new(),
        }
    }

    fn accept(self: Arc<Self>, listener: &TcpListener, upstream: SocketAddr) {
        for client in listener.incoming() {
            let Ok(client) = client else { return };
            // A server that is not there refuses, which the client sees as a connection that ends.
            let Ok(server) = TcpStream::connect(upstream) else {
                continue;
            };
            for stream in [&client, &server] {
                stream.set_nodelay(true).expect("a socket");
                stream.set_read_timeout(Some(POLL)).expect("a socket");
            }
            let mut state = self.state();
            if state.mode == Mode::Closed {
                return;
            }
            let number = state.backends.len();
            let connection =
                Arc::new(Connection { number, client, server, is_opaque: AtomicBool::new(false) });
            state.connections.push(Arc::clone(&connection));
            state.backends.push(None);
            drop(state);
            for from in [Side::Client, Side::Server] {
                let (shared, connection) = (Arc::clone(&self), Arc::clone(&connection));
                thread::spawn(move || {
                    let _ = shared.relay(&connection, from);
                    shared.hang_up(&connection);
                });
            }
        }
    }

    /// Forwards in one direction until the connection ends, in whatever way.
    fn relay(&self, connection: &Connection, from: Side) -> io::Result<()> {
        let (mut source, mut sink) = match from {
            Side::Client => (&connection.client, &connection.server),
            Side::Server => (&connection.server, &connection.client),
        };
        let mut is_first = from == Side::Client;
        loop {
            let letter = self.peek(source)?;
            let is_opaque = connection.is_opaque.load(Ordering::SeqCst);
            let kind = (!is_first && !is_opaque).then_some(letter);
            let number = self.admit(connection, from, kind)?;
            let message = match is_opaque {
                true => self.read_record(&mut source, letter),
                false => self.read_message(&mut source, is_first),
            };
            let forwarded = message.and_then(|message| {
                if is_first && message == SSL_REQUEST {
                    connection.is_opaque.store(true, Ordering::SeqCst);
                }
                self.note(connection, from, number, kind, &message);
                sink.write_all(&message)
            });
            is_first = false;
            if self.hold == Some(number) {
                self.state().has_passed = true;
                self.changed.notify_all();
            }
            forwarded?;
        }
    }

    /// The end of one direction is the end of the connection; in a black hole nobody hears of it.
    fn hang_up(&self, connection: &Connection) {
        let state = self.state();
        let state = self
            .changed
            .wait_while(state, |state| state.mode == Mode::Swallowing)
            .expect("no panic while locked");
        if state.mode != Mode::Closed {
            connection.end();
        }
    }

    /// Waits until something can be read, and returns its first byte without reading it.
    fn peek(&self, source: &TcpStream) -> io::Result<u8> {
        let mut byte = [0];
        loop {
            match source.peek(&mut byte) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Ok(byte[0]),
                Err(error) => self.unless_closed(error)?,
            }
        }
    }

    /// The server's one byte that grants encryption, or a record, whose length stands behind its type and version. What
    /// is read at once would be another count in each run.
    fn read_record(&self, source: &mut &TcpStream, letter: u8) -> io::Result<Vec<u8>> {
        let mut record = vec![0; if letter == b'S' { 1 } else { 5 }];
        self.fill(source, &mut record)?;
        if let [_, _, _, high, low] = record[..] {
            record.resize(5 + usize::from(u16::from_be_bytes([high, low])), 0);
            self.fill(source, &mut record[5..])?;
        }
        Ok(record)
    }

    fn read_message(&self, source: &mut &TcpStream, is_first: bool) -> io::Result<Vec<u8>> {
        let mut message = vec![0; if is_first { 4 } else { 5 }];
        self.fill(source, &mut message)?;
        let start = message.len();
        let length: [u8; 4] = message[start - 4..].try_into().expect("four bytes");
        message.resize(start + u32::from_be_bytes(length) as usize - 4, 0);
        self.fill(source, &mut message[start..])?;
        Ok(message)
    }

    fn fill(&self, source: &mut &TcpStream, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match source.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => buffer = &mut buffer[count..],
                Err(error) => self.unless_closed(error)?,
            }
        }
        Ok(())
    }

    /// Nothing is wrong if there was merely nothing to read, unless it is all over.
    fn unless_closed(&self, error: io::Error) -> io::Result<()> {
        let is_idle = matches!(
            error.kind(),
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
        );
        match is_idle && self.state().mode != Mode::Closed {
            true => Ok(()),
            false => Err(error),
        }
    }

    /// Numbers a message and waits until it may go on.
    fn admit(&self, connection: &Connection, from: Side, kind: Option<u8>) -> io::Result<usize> {
        let mut state = self.state();
        let number = state.seen.len();
        state.seen.push(Seen {
            connection: connection.number,
            from,
            kind,
            query: String::new(),
            length: 0,
        });
        let is_held = self.hold == Some(number) && state.mode == Mode::Passing;
        if is_held {
            state.mode = Mode::Holding;
            self.changed.notify_all();
        }
        let state = self
            .changed
            .wait_while(state, |state| match state.mode {
                Mode::Holding => is_held,
                Mode::Swallowing => true,
                Mode::Passing | Mode::Closed => false,
            })
            .expect("no panic while locked");
        match state.mode {
            Mode::Closed => Err(ErrorKind::ConnectionAborted.into()),
            _ => Ok(number),
        }
    }

    fn note(
        &self,
        connection: &Connection,
        from: Side,
        number: usize,
        kind: Option<u8>,
        message: &[u8],
    ) {
        let mut state = self.state();
        state.seen[number].length = message.len();
        match (from, kind) {
            (Side::Client, Some(b'Q')) => {
                state.seen[number].query = String::from_utf8_lossy(&message[5..]).into_owned();
            }
            // BackendKeyData: the process id, then the secret.
            (Side::Server, Some(b'K')) => {
                let pid: [u8; 4] = message[5..9].try_into().expect("four bytes");
                state.backends[connection.number] = Some(i32::from_be_bytes(pid));
            }
            _ => {}
        }
    }
}
