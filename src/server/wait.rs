//! Waiting with a deadline, aloud, and ready to stop: nothing in this program waits in any other way.

use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::{Duration, Instant};

use log::info;

use crate::error::Error;
use crate::logging::live;
use crate::signals::Signals;
use crate::text::words::duration;

/// One wait: for how long at most, and what it said last.
#[derive(Clone)]
pub struct Wait {
    signals: Signals,
    started: Instant,
    limit: Duration,
    /// Whether it says from time to time that it still waits; else it speaks when it waits for something else.
    is_regular: bool,
    said: Option<(Instant, Awaited)>,
}

/// What is waited for.
#[derive(Clone, PartialEq, Eq)]
pub struct Awaited {
    pub whom: String,
    /// What of it changes from moment to moment; empty: nothing.
    pub now: String,
}

impl From<String> for Awaited {
    fn from(whom: String) -> Awaited {
        let now = String::new();
        Awaited { whom, now }
    }
}

/// How often a wait says what it waits for.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// How often it redraws a terminal's last line: each time costs a query.
const REDRAW_EVERY: Duration = Duration::from_secs(1);

/// How soon a signal is seen.
const SLICE: Duration = Duration::from_millis(20);

impl Wait {
    /// A wait of at most `limit`; zero means that there is one try.
    pub fn new(signals: &Signals, limit: Duration) -> Wait {
        Wait {
            signals: signals.clone(),
            started: Instant::now(),
            limit,
            is_regular: true,
            said: None,
        }
    }

    /// Like [`Wait::new`], but it says what it waits for only when that changes: for whoever waits for somebody else's
    /// work, and would fill the log with one line.
    pub fn on_change(signals: &Signals, limit: Duration) -> Wait {
        Wait { is_regular: false, ..Wait::new(signals, limit) }
    }

    pub fn signals(&self) -> &Signals {
        &self.signals
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn remaining(&self) -> Duration {
        self.limit.saturating_sub(self.elapsed())
    }

    /// Returns true if and only if there is to be one try.
    pub fn is_one_try(&self) -> bool {
        self.limit.is_zero()
    }

    /// Returns true if and only if the deadline has passed.
    pub fn is_over(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Says what is waited for: at once and when it is something else; and, every five seconds or in a terminal's last line,
    /// that it still is, and what has changed about it.
    pub fn say<A: Into<Awaited>>(&mut self, awaited: impl FnOnce() -> A) {
        let columns = live::columns();
        let pause = match columns {
            Some(_) => REDRAW_EVERY,
            None => SAY_EVERY,
        };
        let is_early = |(at, _): &(Instant, Awaited)| self.is_regular && at.elapsed() < pause;
        if self.said.as_ref().is_some_and(is_early) {
            return;
        }
        let awaited: Awaited = awaited().into();
        let said = self.said.replace((Instant::now(), awaited.clone()));
        let said = said.map(|(_, said)| said).filter(|it| it.whom == awaited.whom);
        let (waited, remaining) = (self.elapsed(), self.remaining());
        let left = duration(Duration::from_secs(remaining.as_secs_f64().ceil() as u64));
        let told = |now: &str| match now {
            "" => String::new(),
            now => format!(": {now}"),
        };
        let still = |now| format!("still waiting, gives up in {left}{}", told(now));
        let text = match (said, columns) {
            (None, _) => {
                let Awaited { whom, now } = &awaited;
                format!("waiting for {whom}{}; gives up in {left}", told(now))
            }
            (Some(_), Some(_)) => return live::draw(&still(&awaited.now)),
            (Some(said), None) if self.is_regular && said.now == awaited.now => still(""),
            (Some(_), None) if self.is_regular => still(&awaited.now),
            (Some(_), None) => return,
        };
        info!(
            waited_ms = waited.as_millis() as u64, remaining_ms = remaining.as_millis() as u64;
            "{text}"
        );
    }

    /// Says, in the midst of a try whose outcome will be told, what is waited for: not if only changes are said.
    pub fn say_meanwhile(&mut self, waiting_for: impl FnOnce() -> String) {
        if self.is_regular {
            self.say(waiting_for);
        }
    }

    /// Sleeps for between half of `longest` and all of it, so that waiters do not march in step, but never beyond the
    /// deadline.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`] as soon as a signal comes.
    pub fn pause(&self, longest: Duration) -> Result<(), Error> {
        let random = RandomState::new().hash_one(self.started) % 1024;
        let nap = longest.mul_f64(0.5 + random as f64 / 2048.0);
        let end = Instant::now() + nap.min(self.remaining());
        loop {
            self.signals.check(&format!(
                "nothing was left half done after waiting {}",
                duration(self.elapsed())
            ))?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(SLICE));
        }
    }
}
