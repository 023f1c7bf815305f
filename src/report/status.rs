//! The answer of `lockstep status`, as text for people or JSON for programs. the manual (`logs`) has the fields; they stay.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::{Config, Place};
use crate::error::IS_BUNS;
use crate::files::name;
use crate::history::{Observation, Record};
use crate::lock::state::{Facts, LockState};
use crate::lock::{Holder, Work};
use crate::migration::{self, Direction, Interrupted, State, Version};
use crate::plan::{Entry, Obstruction};
use crate::text::json::Json;
use crate::text::terminal::{Align, Layout, Table, Tone, labelled, paragraph};
use crate::text::words::{counted, duration, listed};

/// All that `status` tells.
pub struct Report<'a> {
    pub config: &'a Config,
    pub facts: &'a Facts,
    pub entries: &'a [Entry<'a>],
    /// What `up` would refuse of the pending files.
    pub refused: &'a BTreeMap<Version, Vec<Obstruction>>,
}

/// So many sessions of other programs are shown to people.
const SUSPECTS: usize = 5;

impl Report<'_> {
    pub fn text(&self, layout: Layout) -> String {
        let notes = self.notes();
        let notes = notes.iter().map(|note| paragraph(note, layout));
        let mut parts = vec![
            labelled(&self.head(), layout),
            self.table().text(layout),
            notes.collect(),
            paragraph(&self.summary(), layout),
        ];
        parts.retain(|part| !part.is_empty());
        parts.join("\n")
    }

    /// Where we are, and who has the lock.
    fn head(&self) -> Vec<(&'static str, String)> {
        let seen = &self.facts.observation;
        let places: Vec<String> = self.config.server.places.iter().map(Place::to_string).collect();
        let standby = if seen.in_recovery { ", a standby" } else { "" };
        let name = &self.config.history_table.setting;
        let none = || format!("none: {name} is not there yet");
        let history = seen.history_table.clone().unwrap_or_else(none);
        let (places, version) = (places.join(", "), &seen.server_version);
        let server = format!("{places}, PostgreSQL {version}{standby}");
        let mut head = vec![
            ("server", server),
            ("database", format!("{} as {}", seen.database, seen.user)),
            ("history", history),
        ];
        head.extend(lock_lines(&self.facts.lock, seen));
        head
    }

    fn table(&self) -> Table {
        let columns = [
            ("version", Align::Left),
            ("name", Align::Wrapping),
            ("state", Align::Left),
            ("when", Align::Left),
            ("group", Align::Right),
            ("took", Align::Right),
        ];
        let mut table = Table::new(&columns);
        for entry in self.entries {
            let (state, tone) = self.state(entry);
            // A start that is not finished is no record.
            let record = match entry.state {
                State::Pending | State::OutOfOrder | State::Renamed => Record::default(),
                _ => self.record(entry.version),
            };
            let took = match (self.running(entry), record.duration_ms) {
                (Some((work, _)), _) => work.running_for.clone(),
                (None, took) => took.map(|it| duration(Duration::from_millis(it.unsigned_abs()))),
            };
            let known = |text: Option<String>| (text.unwrap_or("-".to_owned()), Tone::Plain);
            table.push(vec![
                known(Some(entry.version.to_string())),
                known(self.name(entry)),
                (state.to_owned(), tone),
                known(record.applied_at.as_deref().map(time)),
                known(record.group.map(|it| it.to_string())),
                known(took),
            ]);
        }
        table
    }

    /// What an entry is, as far as it matters now.
    fn state(&self, entry: &Entry<'_>) -> (&'static str, Tone) {
        match self.running(entry) {
            Some((_, Direction::Up)) => ("running", Tone::Notice),
            Some((_, Direction::Down)) => ("rolling back", Tone::Notice),
            None if self.refused.contains_key(&entry.version) => ("refused", Tone::Bad),
            None => (entry.state.name(), tone(entry.state)),
        }
    }

    fn holder(&self) -> Option<&Holder> {
        match &self.facts.lock {
            LockState::Held { holder } => Some(holder),
            _ => None,
        }
    }

    /// What a runner does, if it works at this one, and which way.
    fn running(&self, entry: &Entry<'_>) -> Option<(&Work, Direction)> {
        let work = self.holder()?.work.as_ref()?;
        let (version, _, way) = name::parse(work.migration.as_deref()?)?;
        (version == entry.version).then_some((work, way))
    }

    /// What the history and the journal say of a version.
    fn record(&self, version: Version) -> Record {
        self.facts.records.get(&version).cloned().unwrap_or_default()
    }

    /// What the version is called: its file's name without the version, or that of the file that was applied.
    fn name(&self, entry: &Entry<'_>) -> Option<String> {
        let file_name = match entry.migration {
            Some(migration) => migration.file_name(),
            None => self.facts.records.get(&entry.version)?.file_name.as_ref()?,
        };
        let (_, name, _) = name::parse(file_name)?;
        Some(name.to_owned())
    }

    /// What does not fit the table.
    fn notes(&self) -> Vec<String> {
        let history = &self.facts.observation.history;
        let unfinished = history.interrupted.iter();
        let mut notes: Vec<String> = unfinished.map(|it| self.note_of_unfinished(it)).collect();
        notes.extend(self.refused.values().flatten().map(|it| format!("up refuses {it}")));
        notes.extend(history.foreign.iter().map(|name| {
            let what = migration::foreign(name);
            format!("the history also holds {name:?}, {what}")
        }));
        notes.extend(self.entries.iter().filter_map(|entry| {
            let (version, from) = (entry.version, entry.renamed_from?);
            Some(format!("{version} was applied as {from}, whose file is gone"))
        }));
        notes
    }

    fn note_of_unfinished(&self, interrupted: &Interrupted) -> String {
        let version = interrupted.version;
        let record = self.record(version);
        let at = record.started_at.map(|it| format!(" at {}", time(&it)));
        let by = record.runner.map(|it| format!(" by {it}"));
        let (at, by) = (at.unwrap_or_default(), by.unwrap_or_default());
        let started = format!("started{at}{by}");
        let (what, runs) = match interrupted.rollback {
            None => ("", "runs"),
            Some(_) => ("the rollback of ", "is rolled back"),
        };
        if self.is_running(version) {
            return format!("{version} {runs} outside a transaction, {started}");
        }
        let mut entries = self.entries.iter();
        let has_file = entries.any(|it| it.version == version && it.migration.is_some());
        let next = match interrupted.rollback {
            _ if !has_file => "its files are gone, and what it left stays until they are back",
            None => "the next `lockstep up` looks at what it left, and finishes it",
            Some(_) => &format!(
                "the next `lockstep down` finishes it, the next `lockstep up` brings {version} back"
            ),
        };
        format!("{what}{version} was {started}, outside a transaction, and not finished: {next}")
    }

    /// Returns true if and only if the runner that has the lock is the one that started this version outside a
    /// transaction: its session is called as the runner is, and by the run's token.
    fn is_running(&self, version: Version) -> bool {
        let runner = self.holder().and_then(|it| it.application.as_ref());
        let session = self.record(version).runner;
        let names = session.as_ref().zip(runner);
        let token = names.and_then(|(session, runner)| session.strip_prefix(runner.as_str()));
        token.is_some_and(|it| it.starts_with(' '))
    }

    /// How many there are of each state, and the lock: of a long table one sees the end.
    fn summary(&self) -> String {
        let mut counts: BTreeMap<(State, &str), usize> = BTreeMap::new();
        for entry in self.entries {
            let shown = (entry.state, self.state(entry).0);
            *counts.entry(shown).or_default() += 1;
        }
        let parts = counts.iter().map(|((_, shown), count)| format!("{count} {shown}"));
        let counts = match self.entries {
            [] => "no migrations".to_owned(),
            _ => parts.collect::<Vec<_>>().join(", "),
        };
        let lock = match &self.facts.lock {
            LockState::Free | LockState::Stale { .. } => "the lock is free".to_owned(),
            LockState::Held { holder } => format!("the lock is held by {}", holder.who()),
            LockState::Elsewhere { .. } => "only the primary knows who has the lock".to_owned(),
            LockState::Bun { .. } => "the lock is bun's".to_owned(),
        };
        format!("{counts}; {lock}")
    }

    pub fn json(&self) -> Json {
        let seen = &self.facts.observation;
        let places = self.config.server.places.iter().map(|place| {
            Json::Object(vec![
                ("host", place.name.as_str().into()),
                ("port", i64::from(place.port).into()),
            ])
        });
        let count = |state: State| {
            let field = match state {
                State::OutOfOrder => "out_of_order",
                state => state.name(),
            };
            (field, self.entries.iter().filter(|it| it.state == state).count().into())
        };
        Json::Object(vec![
            ("hosts", places.collect()),
            ("database", seen.database.as_str().into()),
            ("user", seen.user.as_str().into()),
            ("server_version", seen.server_version.as_str().into()),
            ("standby", seen.in_recovery.into()),
            ("history_table", seen.history_table.clone().into()),
            ("lock", lock_json(&self.facts.lock, seen)),
            ("migrations", self.entries.iter().map(|it| self.entry_json(it)).collect()),
            ("counts", Json::Object(State::ALL.map(count).to_vec())),
            ("foreign_names", seen.history.foreign.clone().into()),
        ])
    }

    fn entry_json(&self, entry: &Entry<'_>) -> Json {
        // A start that is not finished has a time and a runner, too.
        let told = self.record(entry.version);
        let file = entry.migration.map(|it| it.path.display().to_string());
        Json::Object(vec![
            ("version", entry.version.to_string().into()),
            ("name", self.name(entry).into()),
            ("file", file.into()),
            ("state", entry.state.to_string().into()),
            ("unfinished", entry.is_unfinished.into()),
            ("renamed_from", entry.renamed_from.map(|it| it.to_string()).into()),
            ("applied_at", told.applied_at.into()),
            ("group", told.group.into()),
            ("started_at", told.started_at.into()),
            ("finished_at", told.finished_at.into()),
            ("duration_ms", told.duration_ms.into()),
            ("runner", told.runner.into()),
        ])
    }
}

fn lock_lines(lock: &LockState, seen: &Observation) -> Vec<(&'static str, String)> {
    let locks = seen.locks.as_deref().unwrap_or("the locks table");
    let row = |id: i64, words: &str| vec![("lock", format!("row {id} of {locks} {words}"))];
    match lock {
        LockState::Free => vec![("lock", "free".to_owned())],
        LockState::Held { holder } => holder_lines("lock", "held by", holder),
        LockState::Stale { id } => {
            let gone = "is of a runner that is gone; the next run takes it over";
            vec![("lock", format!("free: row {id} of {locks} {gone}"))]
        }
        LockState::Elsewhere { id } => {
            row(*id, "is a runner's; only the primary knows whether that lives")
        }
        LockState::Bun { id, suspects, waiting } => {
            let mut lines = row(*id, IS_BUNS);
            lines.extend(suspect_lines(suspects));
            let doubt = seen.bun_row().and_then(|it| it.doubt());
            let hint = format!("if you know that no bun process is at work: lockstep unlock {id}");
            lines.extend(doubt.into_iter().chain([hint]).map(|it| ("", it)));
            let waiting = waiting.iter();
            lines.extend(waiting.flat_map(|it| holder_lines("waiting", "for that row:", it)));
            lines
        }
    }
}

fn suspect_lines(suspects: &[String]) -> Vec<(&'static str, String)> {
    if suspects.is_empty() {
        let nobody = "no session of another program is connected to this database now";
        return vec![("", nobody.to_owned())];
    }
    let shown = suspects.iter().take(SUSPECTS);
    let mut lines: Vec<_> = shown.map(|it| ("", format!("its owner may be {it}"))).collect();
    if let Some(more @ 1..) = suspects.len().checked_sub(SUSPECTS) {
        lines.push(("", format!("or one of {} more", counted(more, "session"))));
    }
    lines
}

/// Who has the guard, what it runs, and who is in its way.
fn holder_lines(label: &'static str, what: &str, holder: &Holder) -> Vec<(&'static str, String)> {
    let parts = [
        Some(format!("{what} pid {}", holder.pid)),
        holder.application.clone(),
        holder.address.as_ref().map(|it| format!("from {it}")),
        since(&holder.since),
    ];
    let hidden = "more of it is shown to members of pg_read_all_stats";
    let work = holder.work.clone().unwrap_or_default();
    let running = listed([
        work.migration,
        work.statement.map(|it| format!("statement {it}")),
        work.sql,
        since(&work.since),
    ]);
    let lines = [
        (label, Some(listed(parts))),
        ("", holder.since.is_none().then(|| hidden.to_owned())),
        ("running", Some(running).filter(|it| !it.is_empty())),
        ("progress", work.index_build.map(|it| it.to_string())),
        ("blocked", work.waits_for.map(|it| format!("by {it}"))),
    ];
    lines.into_iter().filter_map(|(label, text)| Some((label, text?))).collect()
}

fn since(moment: &Option<String>) -> Option<String> {
    let moment = moment.as_ref()?;
    Some(format!("since {}", time(moment)))
}

fn lock_json(lock: &LockState, seen: &Observation) -> Json {
    let (state, holder) = match lock {
        LockState::Free => ("free", None),
        LockState::Held { holder } => ("held", Some(holder)),
        LockState::Bun { waiting, .. } => ("bun", waiting.as_ref()),
        LockState::Stale { .. } => ("stale", None),
        LockState::Elsewhere { .. } => ("elsewhere", None),
    };
    let suspects = match lock {
        LockState::Bun { suspects, .. } => suspects.clone(),
        _ => Vec::new(),
    };
    Json::Object(vec![
        ("state", state.into()),
        ("table", seen.locks.clone().into()),
        ("row_id", seen.lock_row.into()),
        ("holder", holder.map(holder_json).into()),
        ("suspects", suspects.into()),
    ])
}

fn holder_json(holder: &Holder) -> Json {
    let work = holder.work.clone().unwrap_or_default();
    let statement = work.statement.as_deref().unwrap_or_default();
    let (statement, statements) = statement.split_once('/').unwrap_or_default();
    let build = work.index_build.as_ref();
    Json::Object(vec![
        ("pid", number(&holder.pid)),
        ("application", holder.application.clone().into()),
        ("address", holder.address.clone().into()),
        ("since", holder.since.clone().into()),
        ("working_pid", number(&work.pid)),
        ("migration", work.migration.into()),
        ("statement", number(statement)),
        ("statements", number(statements)),
        ("sql", work.sql.into()),
        ("running_since", work.since.into()),
        ("index_build_phase", build.map(|it| it.phase.clone()).into()),
        ("index_build_percent", build.and_then(|it| it.percent).into()),
        ("waits_for", work.waits_for.into()),
    ])
}

fn number(text: &str) -> Json {
    text.parse::<i64>().ok().into()
}

fn tone(state: State) -> Tone {
    match state {
        State::Applied => Tone::Good,
        State::Pending | State::OutOfOrder => Tone::Notice,
        State::Modified | State::Renamed | State::Missing => Tone::Bad,
        State::Ahead | State::Archived => Tone::Faint,
    }
}

/// A time of RFC 3339 for people: `2026-11-22 20:15:03Z`.
fn time(rfc3339: &str) -> String {
    rfc3339.replacen('T', " ", 1)
}
