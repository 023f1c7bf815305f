//! Waiting with a deadline, aloud, and ready to stop: nothing in this program waits in any other way.

use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::{Duration, Instant};

use log::info;

use crate::error::Error;
use crate::signals::Signals;
use crate::text::words::seconds;

/// One wait: for how long at most, and when it last said so.
#[derive(Clone)]
pub struct Wait {
    signals: Signals,
    started: Instant,
    limit: Duration,
    speech: Speech,
}

/// When a wait says what it waits for.
#[derive(Clone)]
enum Speech {
    /// At once, and then every five seconds. It holds when it last did.
    Regular(Option<Instant>),
    /// When that is something else than before. It holds what was said last.
    OnChange(Option<String>),
}

/// How often a wait says what it waits for.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// How soon a signal is seen.
const SLICE: Duration = Duration::from_millis(20);

impl Wait {
    /// A wait of at most `limit`; zero means that there is one try.
    pub fn new(signals: &Signals, limit: Duration) -> Wait {
        Wait {
            signals: signals.clone(),
            started: Instant::now(),
            limit,
            speech: Speech::Regular(None),
        }
    }

    /// Like [`Wait::new`], but it says what it waits for only when that changes: for whoever waits for somebody else's
    /// work, and would fill the log with one line.
    pub fn on_change(signals: &Signals, limit: Duration) -> Wait {
        Wait {
            speech: Speech::OnChange(None),
            ..Wait::new(signals, limit)
        }
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

    /// Says what is waited for: at once, then every five seconds, or when it is something else.
    pub fn say(&mut self, waiting_for: impl FnOnce() -> String) {
        let (waited, remaining) = (self.elapsed(), self.remaining());
        let waiting_for = match &mut self.speech {
            Speech::Regular(Some(said)) if said.elapsed() < SAY_EVERY => return,
            Speech::Regular(said) => {
                *said = Some(Instant::now());
                waiting_for()
            }
            Speech::OnChange(said) => {
                let waiting_for = waiting_for();
                if said.as_ref() == Some(&waiting_for) {
                    return;
                }
                said.insert(waiting_for).clone()
            }
        };
        let left = remaining.as_secs_f64().ceil();
        info!(
            waited_ms = waited.as_millis() as u64, remaining_ms = remaining.as_millis() as u64;
            "waiting for {waiting_for} ({left} s left)"
        );
    }

    /// Says, in the midst of a try whose outcome will be told, what is waited for: not if only changes are said.
    pub fn say_meanwhile(&mut self, waiting_for: impl FnOnce() -> String) {
        if matches!(self.speech, Speech::Regular(_)) {
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
        let nap = longest
            .mul_f64(0.5 + random as f64 / 2048.0)
            .min(self.remaining());
        self.pause_until(Instant::now() + nap, || false)
    }

    /// Sleeps until `end`, or until `done` says so, which is asked every few milliseconds.
    ///
    /// # Errors
    ///
    /// Like [`Wait::pause`].
    pub fn pause_until(&self, end: Instant, mut done: impl FnMut() -> bool) -> Result<(), Error> {
        while !done() {
            self.signals.check(&format!(
                "nothing was left half done after waiting {}",
                seconds(self.elapsed())
            ))?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            thread::sleep(left.min(SLICE));
        }
        Ok(())
    }
}
