//! A migration while it runs: what the server says of it, and what we say meanwhile.
//!
//! A *marker* is an INFO message with an SQLSTATE of our own, which reaches us whatever `client_min_messages` is. It tells
//! which statement of the file is about to run. Notices and warnings go into the log as they arrive. Between them it is
//! said what runs, what of it, and for how long.
//!
//! On a terminal one line is rewritten. Elsewhere, where every line stays, little is said: a first time after five seconds
//! of a statement, then after twice as long each, up to once a minute. Once a signal has come, a terminal has no line that
//! is rewritten either: a second signal ends the process at once, and would leave it there.

use std::ops::Range;
use std::time::{Duration, Instant};

use log::{Level, debug, info, log};
use postgres::error::{DbError, Severity};

use super::glance::{Glance, Seen};
use super::session::{Listener, Trouble};
use crate::files::name;
use crate::logging;
use crate::logging::live;
use crate::migration::Migration;
use crate::signals::Signals;
use crate::sql;
use crate::sql::sqlstate::MARKER;
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

/// Who listens while a migration runs.
pub struct Watch<'a> {
    migration: &'a Migration,
    /// Of several that share a message.
    last: Option<&'a Migration>,
    /// Which of how many.
    position: String,
    /// By which it is known what takes long.
    glance: Option<&'a mut Glance>,
    signals: &'a Signals,
    /// What a message of the migration's does, while there is one.
    running: Option<Running>,
    ticked: Instant,
    reminder: Reminder,
    /// The statement that was told to be blocked, by its beginning.
    blocked: Option<Instant>,
    /// Whether it was said why nothing seems to happen after a signal.
    is_explained: bool,
}

/// A message that is being run.
struct Running {
    /// What a marker's message begins with.
    signature: String,
    /// The statement behind the last one that has a marker, counted from 0.
    behind: usize,
    /// What the message holds before the file's own text, and after it.
    frame: (String, String),
    stage: Stage,
    since: Instant,
    /// The statement, counted from 0, that was about to run when the last marker arrived; one past the last means that all
    /// had run.
    reached: Option<usize>,
}

/// The part of a message that is running.
#[derive(Clone, Copy)]
enum Stage {
    Before,
    /// These statements, counted from 0: one, or a stretch of small ones.
    Statements(usize),
    /// All of the file, which nothing tells apart.
    Whole,
    After,
}

/// A part of a file, which is sent as one message.
#[derive(Default)]
pub struct Part {
    pub text: String,
    /// The statements that have markers; none if nothing has.
    pub marked: Option<Range<usize>>,
    /// The marker that follows the last statement, if there is one.
    pub end_marker: String,
    /// Which statement it is, if it is one of a file that runs outside a transaction.
    pub statement: Option<usize>,
}

impl<'a> Watch<'a> {
    /// For the migration at this position among all, which begins now, or for it and those up to `last`, which share a
    /// message.
    pub fn start(
        migration: &'a Migration,
        last: Option<&'a Migration>,
        position: String,
        glance: Option<&'a mut Glance>,
        signals: &'a Signals,
    ) -> Watch<'a> {
        let watch = Watch {
            migration,
            last,
            position,
            glance,
            signals,
            running: None,
            ticked: Instant::now(),
            reminder: Reminder::default(),
            blocked: None,
            is_explained: false,
        };
        if let Some(columns) = live::columns() {
            live::draw(&watch.line(&Seen::default(), columns));
        }
        watch
    }

    /// The name of the migration's file.
    pub fn file_name(&self) -> &str {
        self.migration.file_name()
    }

    /// From now on notices belong to the message of this part, whose markers are known by the run's token. The frame is what
    /// it holds before the file's own text, and after it.
    pub fn begin(&mut self, token: i64, part: &Part, frame: (String, String)) {
        let is_single = self.migration.script.statements.len() == 1;
        self.running = Some(Running {
            signature: format!("{token} "),
            behind: part.marked.as_ref().map_or(0, |it| it.end),
            frame,
            stage: match (&part.marked, part.statement) {
                (Some(_), _) => Stage::Before,
                (None, Some(number)) => Stage::Statements(number),
                (None, None) if is_single => Stage::Statements(0),
                (None, None) => Stage::Whole,
            },
            since: Instant::now(),
            reached: None,
        });
    }

    /// The message is over. Returns the statement, counted from 0, that was about to run when its last marker arrived; one
    /// past the last means that all had run.
    pub fn end(&mut self, trouble: Option<&Trouble>) -> Option<usize> {
        let running = self.running.take()?;
        running.tell(self.migration, trouble.map(Trouble::words));
        running.reached
    }

    fn marker(&mut self, message: &str) {
        let Some(running) = &mut self.running else {
            return;
        };
        running.tell(self.migration, None);
        running.since = Instant::now();
        let Ok(next) = message.parse::<usize>() else {
            return;
        };
        running.reached = Some(next);
        running.stage = Stage::After;
        if next < running.behind {
            running.stage = Stage::Statements(next);
            let verb = running.verb(self.migration);
            let all = self.migration.script.statements.len();
            debug!(version:% = self.migration.version; "{}: statement {}/{all}: {verb}", self.file_name(), next + 1);
        }
    }

    /// The migration's version; none if there are several.
    fn version(&self) -> Option<String> {
        self.last.is_none().then_some(self.migration).map(|it| it.version.to_string())
    }

    fn say(&self, notice: &DbError) {
        let level = match notice.parsed_severity() {
            Some(Severity::Warning) => Level::Warn,
            Some(Severity::Debug | Severity::Log) => Level::Debug,
            _ => Level::Info,
        };
        let detail = notice.detail().map(|detail| format!(" ({detail})"));
        let (severity, message) = (notice.severity(), notice.message());
        let whose = match self.last {
            None => self.file_name().to_owned(),
            Some(_) => self.name(),
        };
        log!(
            level, version = self.version(), sqlstate = notice.code().code();
            "{whose}: {severity}: {message}{}", detail.unwrap_or_default()
        );
    }
}

/// As time passes.
impl Watch<'_> {
    /// Says why nothing seems to happen after a signal.
    fn explain(&mut self) {
        if let Some(signal) = self.signals.received().filter(|_| !self.is_explained) {
            self.is_explained = true;
            live::clear();
            info!(
                version = self.version();
                "{signal}: stopping when {} {} is done; a second signal stops at once", self.position, self.name()
            );
        }
    }

    /// What is known of what runs, by a look from beside it, and whether that it is blocked is news.
    fn look(&mut self) -> (Seen, bool) {
        let since = self.running.as_ref().map(|it| it.since);
        let seen = match (since, &mut self.glance) {
            (Some(since), Some(glance)) => glance.look(since).clone(),
            _ => Seen::default(),
        };
        let blocked = seen.blocked_by.as_ref().and(since);
        let is_news = blocked.is_some() && self.blocked != blocked;
        self.blocked = blocked.or(self.blocked);
        (seen, is_news)
    }

    fn remind(&self, running: &Running, seen: &Seen) {
        info!(
            version:% = self.migration.version, statement = running.statement().map(|it| it + 1),
            of = self.migration.script.statements.len(), verb = running.verb(self.migration).as_str(),
            running_ms = running.since.elapsed().as_millis() as u64;
            "{} {} is still running: {}", self.position, self.name(), self.described(running, seen)
        );
    }

    /// What the file is called, or the first and the last of them.
    pub fn name(&self) -> String {
        let last = self.last.map(|it| format!(" … {}", name::bare(it.file_name())));
        name::bare(self.migration.file_name()).to_owned() + &last.unwrap_or_default()
    }

    /// The live line: at most one column less than there are, because a full line moves the cursor on.
    fn line(&self, seen: &Seen, columns: usize) -> String {
        let rest = match &self.running {
            Some(running) if running.since.elapsed() >= SHOWN_AFTER => {
                format!(": {}", self.described(running, seen))
            }
            _ => " …".to_owned(),
        };
        fitted(&format!("{} ", self.position), &self.name(), &rest, columns - 1)
    }

    fn described(&self, running: &Running, seen: &Seen) -> String {
        let time = duration(Duration::from_secs(running.since.elapsed().as_secs()));
        let of = self.migration.script.statements.len();
        let mut text = format!("{}, for {time}", running.verb(self.migration));
        if let Some(number) = running.statement().filter(|_| of > 1) {
            text = format!("statement {}/{of}, {text}", number + 1);
        }
        if let Some(session) = &seen.blocked_by {
            text.push_str(&format!(", blocked by {session}"));
        }
        if let Some(progress) = &seen.progress {
            text.push_str(&format!(", {progress}"));
        }
        text
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        live::clear();
    }
}

impl Running {
    /// The statement that runs, or the first of a stretch, counted from 0.
    fn statement(&self) -> Option<usize> {
        match self.stage {
            Stage::Statements(number) => Some(number),
            Stage::Before | Stage::Whole | Stage::After => None,
        }
    }

    /// What is being run.
    fn text<'r>(&'r self, migration: &'r Migration) -> &'r str {
        match self.stage {
            Stage::Before => &self.frame.0,
            Stage::Statements(number) => migration.statement(number).unwrap_or_default(),
            Stage::Whole => &migration.text,
            Stage::After => &self.frame.1,
        }
    }

    fn verb(&self, migration: &Migration) -> String {
        match self.stage {
            // The checks before it are nothing that anybody waits for.
            Stage::After => "COMMIT".to_owned(),
            _ => sql::verb(self.text(migration)),
        }
    }

    /// Tells the query log what the part took that is over.
    fn tell(&self, migration: &Migration, error: Option<(&str, &str)>) {
        if logging::query_log_enabled() {
            let (verb, text) = (self.verb(migration), self.text(migration));
            logging::query(&verb, self.since.elapsed(), text, error);
        }
    }
}

impl Listener for Watch<'_> {
    fn notice(&mut self, notice: &DbError) {
        let running = self.running.as_ref();
        let marker = running.and_then(|it| notice.message().strip_prefix(&it.signature));
        match marker.filter(|_| notice.code().code() == MARKER) {
            Some(marker) => self.marker(marker),
            None => self.say(notice),
        }
    }

    fn tick(&mut self) {
        if self.ticked.elapsed() < TICK {
            return;
        }
        self.ticked = Instant::now();
        self.explain();
        let (seen, is_news) = self.look();
        let columns = live::columns();
        if let Some(columns) = columns.filter(|_| !self.is_explained) {
            live::draw(&self.line(&seen, columns));
        } else if let Some(running) = &self.running
            && (self.reminder.is_due(running.since, running.since.elapsed())
                || is_news && columns.is_none())
        {
            self.remind(running, &seen);
        }
    }
}

/// After what time the statement that began then is to be told of.
#[derive(Default)]
struct Reminder(Option<(Instant, Duration)>);

impl Reminder {
    /// Returns true if and only if the statement that began at `since` and has run for `elapsed` is to be told of now.
    fn is_due(&mut self, since: Instant, elapsed: Duration) -> bool {
        let mut due = self.0.filter(|(of, _)| *of == since).map_or(TOLD_AFTER, |(_, due)| due);
        let is_due = elapsed >= due;
        // A machine that slept does not make up for what it has missed.
        while elapsed >= due {
            due += due.min(LONGEST_SILENCE);
        }
        self.0 = Some((since, due));
        is_due
    }
}

/// The three in so many columns, at the cost of the name's middle first, as far as it can be told from others without.
fn fitted(before: &str, name: &str, after: &str, columns: usize) -> String {
    let length = |text: &str| text.chars().count();
    let room = columns.saturating_sub(length(before) + length(after)).max(NAMED);
    let name = if length(name) > room {
        let kept = room.saturating_sub(1);
        let head = name.chars().take(kept - kept / 2);
        let tail = name.chars().skip(length(name) - kept / 2);
        head.chain(['…']).chain(tail).collect()
    } else {
        name.to_owned()
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
        let mut reminder = Reminder::default();
        let told: Vec<u64> = (0..400).filter(|at| reminder.is_due(start, secs(*at))).collect();
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
