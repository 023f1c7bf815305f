//! While a migration runs: which, what of it, and for how long.
//!
//! On a terminal one line is rewritten. Elsewhere, where every line stays, little is said: a first time after five seconds
//! of a statement, then after twice as long each, up to once a minute. Once a signal has come, a terminal has no line that
//! is rewritten either: a second signal ends the process at once, and would leave it there.

use std::time::{Duration, Instant};

use log::info;
use log::kv::Value;

use super::glance::{Glance, Seen};
use crate::files::name;
use crate::logging::live;
use crate::migration::Migration;
use crate::signals::{Signal, Signals};
use crate::text::terminal::shortened;
use crate::text::words::duration;

/// How often the line is rewritten.
const TICK: Duration = Duration::from_millis(250);

/// A statement that takes longer is shown in the live line, with its time.
const SHOWN_AFTER: Duration = Duration::from_secs(2);

/// A statement that takes longer is told of in the log.
const TOLD_AFTER: Duration = Duration::from_secs(5);

/// The longest silence of the log about a statement that runs.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);

/// So much of a name is always shown.
const NAMED: usize = 20;

/// What of a migration is running.
pub struct Now<'a> {
    /// Counted from 1; none before the first and after the last.
    pub statement: Option<usize>,
    pub of: usize,
    pub verb: &'a str,
    pub since: Instant,
}

/// Tells how a migration goes, as time passes.
pub struct Ticker<'a> {
    /// Which of how many.
    position: String,
    version: String,
    name: String,
    reminder: Reminder,
    /// By which it is known what takes long.
    glance: Option<&'a mut Glance>,
    /// The statement that was told to be blocked, by its beginning.
    blocked: Option<Instant>,
    /// The signal that was explained.
    explained: Option<Signal>,
    ticked: Instant,
}

impl<'a> Ticker<'a> {
    /// For the `number`th migration of `of`, which begins now.
    pub fn start(
        migration: &Migration,
        number: usize,
        of: usize,
        glance: Option<&'a mut Glance>,
    ) -> Ticker<'a> {
        let ticker = Ticker {
            position: format!("{number}/{of}"),
            version: migration.version.to_string(),
            name: name::bare(&migration.file_name).to_owned(),
            reminder: Reminder::new(),
            glance,
            blocked: None,
            explained: None,
            ticked: Instant::now(),
        };
        if let Some(columns) = live::columns() {
            live::draw(&ticker.line(None, &Seen::default(), columns));
        }
        ticker
    }

    /// Tells how it goes, if it is time to.
    pub fn tick(&mut self, now: Option<&Now<'_>>, signals: &Signals) {
        if self.ticked.elapsed() < TICK {
            return;
        }
        self.ticked = Instant::now();
        if self.explained.is_none() {
            self.explained = signals.received();
            self.explained.iter().for_each(|it| self.explain(*it));
        }
        let seen = match (now, &mut self.glance) {
            (Some(now), Some(glance)) => glance.look(now.since).clone(),
            _ => Seen::default(),
        };
        let blocked = now
            .map(|now| now.since)
            .filter(|_| seen.blocked_by.is_some());
        let is_news = live::columns().is_none() && blocked.is_some() && self.blocked != blocked;
        self.blocked = blocked.or(self.blocked);
        match (live::columns().filter(|_| self.explained.is_none()), now) {
            (Some(columns), now) => live::draw(&self.line(now, &seen, columns)),
            (None, Some(now)) => {
                if self.reminder.is_due(now.since, now.since.elapsed()) || is_news {
                    self.remind(now, &seen);
                }
            }
            (None, None) => {}
        }
    }

    /// Says why nothing seems to happen after a signal.
    fn explain(&self, signal: Signal) {
        live::clear();
        let version = self.version.as_str();
        info!(
            version;
            "{signal}: stopping when {} {} is done; a second signal stops at once", self.position, self.name
        );
    }

    fn remind(&self, now: &Now<'_>, seen: &Seen) {
        let elapsed = now.since.elapsed();
        let (version, verb) = (self.version.as_str(), now.verb);
        let (statement, of) = (now.statement.map_or(Value::null(), Value::from), now.of);
        info!(
            version, statement, of, verb, running_ms = elapsed.as_millis() as u64;
            "{} {} is still running: {}", self.position, self.name, described(now, seen, elapsed)
        );
    }

    /// The live line: at most one column less than there are, because a full line moves the cursor on.
    fn line(&self, now: Option<&Now<'_>>, seen: &Seen, columns: usize) -> String {
        let elapsed = now.map_or(Duration::ZERO, |now| now.since.elapsed());
        let rest = match now {
            Some(now) if elapsed >= SHOWN_AFTER => format!(": {}", described(now, seen, elapsed)),
            _ => " …".to_owned(),
        };
        fitted(
            &format!("{} ", self.position),
            &self.name,
            &rest,
            columns - 1,
        )
    }
}

impl Drop for Ticker<'_> {
    fn drop(&mut self) {
        live::clear();
    }
}

/// When a statement that runs is to be told of.
struct Reminder {
    since: Option<Instant>,
    due: Duration,
}

impl Reminder {
    fn new() -> Reminder {
        Reminder {
            since: None,
            due: TOLD_AFTER,
        }
    }

    /// Returns true if and only if the statement that began at `since` and has run for `elapsed` is to be told of now.
    fn is_due(&mut self, since: Instant, elapsed: Duration) -> bool {
        if self.since != Some(since) {
            *self = Reminder::new();
            self.since = Some(since);
        }
        let is_due = elapsed >= self.due;
        // A machine that slept does not make up for what it has missed.
        while elapsed >= self.due {
            self.due += self.due.min(LONGEST_SILENCE);
        }
        is_due
    }
}

fn described(now: &Now<'_>, seen: &Seen, elapsed: Duration) -> String {
    let time = duration(Duration::from_secs(elapsed.as_secs()));
    let mut text = match now.statement {
        Some(statement) if now.of > 1 => {
            format!("statement {statement}/{}, {}, for {time}", now.of, now.verb)
        }
        _ => format!("{}, for {time}", now.verb),
    };
    if let Some(session) = &seen.blocked_by {
        text.push_str(&format!(", blocked by {session}"));
    }
    if let Some(progress) = &seen.progress {
        text.push_str(&format!(", {progress}"));
    }
    text
}

/// The three in so many columns, at the cost of the name's middle first, as far as it can be told from others without.
fn fitted(before: &str, name: &str, after: &str, columns: usize) -> String {
    let length = |text: &str| text.chars().count();
    let room = columns
        .saturating_sub(length(before) + length(after))
        .max(NAMED);
    let name = match length(name) > room {
        false => name.to_owned(),
        true => {
            let kept = room.saturating_sub(1);
            let head = name.chars().take(kept - kept / 2);
            let tail = name.chars().skip(length(name) - kept / 2);
            head.chain(['…']).chain(tail).collect()
        }
    };
    shortened(&format!("{before}{name}{after}"), columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_long_statement_is_told_of_ever_more_rarely_down_to_once_a_minute() {
        let start = Instant::now();
        let mut reminder = Reminder::new();
        let told: Vec<u64> = (0..400)
            .filter(|at| reminder.is_due(start, secs(*at)))
            .collect();
        assert_eq!(told, [5, 10, 20, 40, 80, 140, 200, 260, 320, 380]);
        // The next statement begins anew, and what was slept through is not made up for.
        let next = start + secs(1);
        assert!(!reminder.is_due(next, secs(4)));
        assert!(reminder.is_due(next, secs(100)));
        assert!(!reminder.is_due(next, secs(101)));
    }

    #[test]
    fn a_line_fits_whatever_it_holds() {
        let after = ": statement 2/3, CREATE INDEX, for 12 s";
        let short = fitted("[3/13] ", "20230320161721_add_ip", after, 79);
        assert_eq!(short, format!("[3/13] 20230320161721_add_ip{after}"));
        let long = format!("20230320161721_{}", "x".repeat(200));
        let cut = fitted("[3/13] ", &long, after, 79);
        assert_eq!(cut.chars().count(), 79);
        assert!(cut.starts_with("[3/13] 202303201617") && cut.ends_with(&format!("x{after}")));
        assert!(cut.contains("…x"));
        for columns in 2..79 {
            let line = fitted("[3/13] ", &long, after, columns);
            assert_eq!(line.chars().count(), columns, "{line}");
        }
    }
}
