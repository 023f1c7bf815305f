//! A look at a statement that runs, by a short-lived connection beside the two that work.
//!
//! Neither of them can tell what a statement does: one executes it, and a snapshot in the other, the guard's, would make
//! CONCURRENTLY wait for ever. So a third one is opened after a while, asked once, and closed; as long as the statement
//! runs, again and again. Nothing waits for it: while there is no answer, nothing is known. If there is no connection to
//! be had, nothing is shown and nothing fails.

use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use postgres::SimpleQueryRow;

use super::message::{Message, Slot};
use super::session::{Destination, Event, ask_aside, log_statements};

/// A statement that takes longer is looked at.
const FIRST_AFTER: Duration = Duration::from_secs(2);

/// The shortest and the longest time between two looks; between them it is a tenth of the statement's time.
const PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// What these connections are called. A runner's sessions are known by its name, which this is not the beginning of.
const APPLICATION: &str = concat!("lockstep/", env!("CARGO_PKG_VERSION"), " look");

/// What a look has found.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// How far an index build is.
    pub progress: Option<String>,
    pub blocked_by: Option<String>,
}

/// Looks from time to time.
pub struct Glance {
    destination: Destination,
    message: Message,
    asked: Slot,
    read: fn(&SimpleQueryRow) -> Seen,
    /// The statement that is looked at, by the time at which it began.
    of: Option<Instant>,
    due: Instant,
    /// What is being asked, and since when.
    asking: Option<(Receiver<Event>, Instant)>,
    seen: Seen,
}

impl Glance {
    /// Asks this query of that server; `read` understands its row.
    pub(super) fn new(
        mut destination: Destination,
        query: &str,
        read: fn(&SimpleQueryRow) -> Seen,
    ) -> Glance {
        destination.client.application_name(APPLICATION);
        let (message, asked) = Message::asking(query);
        Glance {
            destination,
            message,
            asked,
            read,
            of: None,
            due: Instant::now(),
            asking: None,
            seen: Seen::default(),
        }
    }

    /// What is known of the statement that began then. It takes no time.
    pub fn look(&mut self, of: Instant) -> &Seen {
        let now = Instant::now();
        if self.of != Some(of) {
            self.of = Some(of);
            self.due = of + FIRST_AFTER;
            // What has not been answered was asked about another statement.
            self.asking = None;
            self.seen = Seen::default();
        }
        if self.asking.is_none() && now >= self.due {
            let answers = ask_aside(self.destination.again(), self.message.text());
            self.asking = Some((answers, now));
        }
        if let Some(seen) = self.answer() {
            self.seen = seen;
            self.asking = None;
            self.due = now + ((now - of) / 10).clamp(PAUSES.0, PAUSES.1);
        }
        &self.seen
    }

    /// None as long as there may be an answer yet.
    fn answer(&self) -> Option<Seen> {
        let (answers, asked) = self.asking.as_ref()?;
        let answer = loop {
            match answers.try_recv() {
                Ok(Event::Answer(answer)) => break answer,
                Ok(_) => {}
                Err(TryRecvError::Disconnected) => return Some(Seen::default()),
                Err(TryRecvError::Empty) => return None,
            }
        };
        log_statements(&self.message.text(), asked.elapsed(), answer.as_ref().err());
        let row = answer.as_ref().ok().and_then(|it| it.row(self.asked));
        Some(row.map(self.read).unwrap_or_default())
    }
}
