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
use crate::text::words::{counted, duration};

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
        let mut out = labelled(&self.head(), layout);
        out.push('\n');
        out.push_str(&self.table().text(layout));
        let notes: String = self
            .notes()
            .iter()
            .map(|note| paragraph(note, layout))
            .collect();
        if !notes.is_empty() {
            out.push('\n');
            out.push_str(&notes);
        }
        out.push('\n');
        out.push_str(&paragraph(&self.summary(), layout));
        out
    }

    /// Where we are, and who has the lock.
    fn head(&self) -> Vec<(&'static str, String)> {
        let seen = &self.facts.observation;
        let places = self.config.server.places.iter();
        let places: Vec<String> = places.map(Place::to_string).collect();
        let standby = match seen.in_recovery {
            true => ", a standby",
            false => "",
        };
        let history = match &seen.history_table {
            Some(table) => table.clone(),
            None => format!(
                "none: {} is not there yet",
                self.config.history_table.setting
            ),
        };
        let server = format!(
            "{}, PostgreSQL {}{standby}",
            places.join(", "),
            seen.server_version
        );
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
            let ((state, tone), record) = (self.state(entry), self.recorded(entry));
            let when = record.and_then(|it| it.applied_at.as_deref().map(time));
            let group = record.and_then(|it| it.group.map(|it| it.to_string()));
            let took = match self.running() {
                Some((version, work)) if version == entry.version => work.running_for.clone(),
                _ => record.and_then(|it| it.duration_ms.map(milliseconds)),
            };
            let known = |text: Option<String>| {
                let text = text.unwrap_or_else(|| "-".to_owned());
                (text, Tone::Plain)
            };
            table.push(vec![
                known(Some(entry.version.to_string())),
                known(self.name(entry)),
                (state, tone),
                known(when),
                known(group),
                known(took),
            ]);
        }
        table
    }

    /// What an entry is, as far as it matters now.
    fn state(&self, entry: &Entry<'_>) -> (String, Tone) {
        let running = self
            .running()
            .filter(|(version, _)| *version == entry.version);
        let way = running.and_then(|(_, work)| name::parse(work.migration.as_deref()?));
        match way {
            Some((_, _, Direction::Up)) => ("running".to_owned(), Tone::Notice),
            Some((_, _, Direction::Down)) => ("rolling back".to_owned(), Tone::Notice),
            None if self.refused.contains_key(&entry.version) => ("refused".to_owned(), Tone::Bad),
            None => (entry.state.to_string(), tone(entry.state)),
        }
    }

    /// What a runner works at.
    fn running(&self) -> Option<(Version, &Work)> {
        let LockState::Held { holder, .. } = &self.facts.lock else {
            return None;
        };
        let work = holder.work.as_ref()?;
        Some((name::version(work.migration.as_deref()?)?, work))
    }

    /// What the history and the journal say of an entry, if it is recorded: a start that is not finished is no record.
    fn recorded(&self, entry: &Entry<'_>) -> Option<&Record> {
        let is_applied = !matches!(
            entry.state,
            State::Pending | State::OutOfOrder | State::Renamed
        );
        let record = self.facts.records.get(&entry.version);
        record.filter(|_| is_applied)
    }

    /// What the version is called: its file's name without the version, or that of the file that was applied.
    fn name(&self, entry: &Entry<'_>) -> Option<String> {
        let file_name = match entry.migration {
            Some(migration) => &migration.file_name,
            None => self.facts.records.get(&entry.version)?.file_name.as_ref()?,
        };
        let (_, name, _) = name::parse(file_name)?;
        Some(name.to_owned())
    }

    /// What does not fit the table.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for interrupted in &self.facts.observation.history.interrupted {
            notes.push(self.note_of_unfinished(interrupted));
        }
        for obstruction in self.refused.values().flatten() {
            notes.push(format!("up refuses {obstruction}"));
        }
        for name in &self.facts.observation.history.foreign {
            let what = migration::foreign(name);
            notes.push(format!("the history also holds {name:?}, {what}"));
        }
        for entry in self.entries {
            if let Some(from) = entry.renamed_from {
                let version = entry.version;
                notes.push(format!(
                    "{version} was applied as {from}, whose file is gone"
                ));
            }
        }
        notes
    }

    fn note_of_unfinished(&self, interrupted: &Interrupted) -> String {
        let version = interrupted.version;
        let started = self.start_of(version);
        let mut files = self.entries.iter().filter(|it| it.migration.is_some());
        let has_file = files.any(|it| it.version == version);
        match (self.is_running(version), &interrupted.rollback) {
            (true, None) => format!("{version} runs outside a transaction, {started}"),
            (true, Some(_)) => {
                format!("{version} is rolled back outside a transaction, {started}")
            }
            (false, _) if !has_file => format!(
                "{version} was {started}, outside a transaction, and not finished: its files are gone, and what it left \
                 stays until they are back"
            ),
            (false, None) => format!(
                "{version} was {started}, outside a transaction, and not finished: the next `lockstep up` looks at what \
                 it left, and finishes it"
            ),
            (false, Some(_)) => format!(
                "the rollback of {version} was {started}, outside a transaction, and not finished: the next \
                 `lockstep down` finishes it, the next `lockstep up` brings {version} back"
            ),
        }
    }

    fn start_of(&self, version: Version) -> String {
        let record = self.facts.records.get(&version);
        let at = record.and_then(|it| Some(format!(" at {}", time(it.started_at.as_deref()?))));
        let by = record.and_then(|it| Some(format!(" by {}", it.runner.as_deref()?)));
        format!(
            "started{}{}",
            at.unwrap_or_default(),
            by.unwrap_or_default()
        )
    }

    /// Returns true if and only if the runner that has the lock is the one that started this version outside a
    /// transaction: its session is called as the runner is, and by the run's token.
    fn is_running(&self, version: Version) -> bool {
        let LockState::Held { holder, .. } = &self.facts.lock else {
            return false;
        };
        let record = self.facts.records.get(&version);
        let session = record.and_then(|it| it.runner.as_deref());
        match (session, holder.application.as_deref()) {
            (Some(session), Some(runner)) => session
                .strip_prefix(runner)
                .is_some_and(|rest| rest.starts_with(' ')),
            _ => false,
        }
    }

    fn counts(&self) -> BTreeMap<State, usize> {
        let mut counts = BTreeMap::new();
        for entry in self.entries {
            *counts.entry(entry.state).or_insert(0) += 1;
        }
        counts
    }

    /// How many there are of each state, and the lock: of a long table one sees the end.
    fn summary(&self) -> String {
        let mut counts: BTreeMap<(State, String), usize> = BTreeMap::new();
        for entry in self.entries {
            let shown = self.state(entry).0;
            *counts.entry((entry.state, shown)).or_insert(0) += 1;
        }
        let parts = counts
            .iter()
            .map(|((_, shown), count)| format!("{count} {shown}"));
        let counts = match self.entries {
            [] => "no migrations".to_owned(),
            _ => parts.collect::<Vec<_>>().join(", "),
        };
        let lock = match &self.facts.lock {
            LockState::Free | LockState::Stale { .. } => "the lock is free".to_owned(),
            LockState::Held { holder, .. } => format!("the lock is held by {}", holder.who()),
            LockState::Elsewhere { .. } => "only the primary knows who has the lock".to_owned(),
            LockState::Bun { .. } => "the lock is bun's".to_owned(),
        };
        format!("{counts}; {lock}")
    }

    pub fn json(&self) -> Json {
        let seen = &self.facts.observation;
        let places = self.config.server.places.iter();
        let places = places.map(|place| {
            Json::Object(vec![
                ("host", place.name.as_str().into()),
                ("port", i64::from(place.port).into()),
            ])
        });
        let counts = self.counts();
        let count = |state: State| {
            let count = counts.get(&state).copied().unwrap_or(0);
            (state_field(state), count.into())
        };
        Json::Object(vec![
            ("hosts", places.collect()),
            ("database", seen.database.as_str().into()),
            ("user", seen.user.as_str().into()),
            ("server_version", seen.server_version.as_str().into()),
            ("standby", seen.in_recovery.into()),
            ("history_table", seen.history_table.clone().into()),
            ("lock", lock_json(&self.facts.lock, seen)),
            (
                "migrations",
                self.entries.iter().map(|it| self.entry_json(it)).collect(),
            ),
            ("counts", Json::Object(State::ALL.map(count).to_vec())),
            ("foreign_names", seen.history.foreign.clone().into()),
        ])
    }

    fn entry_json(&self, entry: &Entry<'_>) -> Json {
        // A start that is not finished has a time and a runner, too.
        let told = self.facts.records.get(&entry.version);
        let text =
            |of: fn(&Record) -> &Option<String>| Json::from(told.and_then(|it| of(it).clone()));
        let file = entry.migration.map(|it| it.path.display().to_string());
        Json::Object(vec![
            ("version", entry.version.to_string().into()),
            ("name", self.name(entry).into()),
            ("file", file.into()),
            ("state", entry.state.to_string().into()),
            ("unfinished", entry.is_unfinished.into()),
            (
                "renamed_from",
                entry.renamed_from.map(|it| it.to_string()).into(),
            ),
            ("applied_at", text(|it| &it.applied_at)),
            ("group", told.and_then(|it| it.group).into()),
            ("started_at", text(|it| &it.started_at)),
            ("finished_at", text(|it| &it.finished_at)),
            ("duration_ms", told.and_then(|it| it.duration_ms).into()),
            ("runner", text(|it| &it.runner)),
        ])
    }
}

fn lock_lines(lock: &LockState, seen: &Observation) -> Vec<(&'static str, String)> {
    let locks = seen.locks.as_deref().unwrap_or("the locks table");
    let state = match lock {
        LockState::Held { holder, .. } => return holder_lines("lock", "held by", holder),
        LockState::Free => "free".to_owned(),
        LockState::Stale { id } => format!(
            "free: row {id} of {locks} is of a runner that is gone; the next run takes it over"
        ),
        LockState::Elsewhere { id } => {
            format!("row {id} of {locks} is a runner's; only the primary knows whether that lives")
        }
        LockState::Bun { id, .. } => {
            format!("row {id} of {locks} {IS_BUNS}")
        }
    };
    let mut lines = vec![("lock", state)];
    if let LockState::Bun {
        id,
        suspects,
        waiting,
    } = lock
    {
        lines.extend(suspect_lines(suspects));
        let doubt = seen.bun_row().and_then(|it| it.doubt());
        let hint = format!("if you know that no bun process is at work: lockstep unlock {id}");
        lines.extend(doubt.into_iter().chain([hint]).map(|it| ("", it)));
        let waiting = waiting.iter();
        lines.extend(waiting.flat_map(|it| holder_lines("waiting", "for that row:", it)));
    }
    lines
}

fn suspect_lines(suspects: &[String]) -> Vec<(&'static str, String)> {
    if suspects.is_empty() {
        let nobody = "no session of another program is connected to this database now";
        return vec![("", nobody.to_owned())];
    }
    let shown = suspects.iter().take(SUSPECTS);
    let mut lines: Vec<_> = shown
        .map(|it| ("", format!("its owner may be {it}")))
        .collect();
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
    let mut lines = vec![(label, joined(parts))];
    if holder.since.is_none() {
        lines.push((
            "",
            "more of it is shown to members of pg_read_all_stats".to_owned(),
        ));
    }
    let Some(work) = &holder.work else {
        return lines;
    };
    let running = joined([
        work.migration.clone(),
        work.statement.as_ref().map(|it| format!("statement {it}")),
        work.sql.clone(),
        since(&work.since),
    ]);
    if !running.is_empty() {
        lines.push(("running", running));
    }
    if let Some(build) = &work.index_build {
        lines.push(("progress", build.to_string()));
    }
    if let Some(blocker) = &work.waits_for {
        lines.push(("blocked", format!("by {blocker}")));
    }
    lines
}

fn since(moment: &Option<String>) -> Option<String> {
    let moment = moment.as_ref()?;
    Some(format!("since {}", time(moment)))
}

fn joined<const N: usize>(parts: [Option<String>; N]) -> String {
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn lock_json(lock: &LockState, seen: &Observation) -> Json {
    let (state, id, holder, suspects) = match lock {
        LockState::Free => ("free", None, None, &[] as &[String]),
        LockState::Held { id, holder } => ("held", *id, Some(holder), &[] as &[String]),
        LockState::Bun {
            id,
            suspects,
            waiting,
        } => ("bun", Some(*id), waiting.as_ref(), suspects.as_slice()),
        LockState::Stale { id } => ("stale", Some(*id), None, &[] as &[String]),
        LockState::Elsewhere { id } => ("elsewhere", Some(*id), None, &[] as &[String]),
    };
    Json::Object(vec![
        ("state", state.into()),
        ("table", seen.locks.clone().into()),
        ("row_id", id.into()),
        ("holder", holder.map(holder_json).into()),
        ("suspects", suspects.to_vec().into()),
    ])
}

fn holder_json(holder: &Holder) -> Json {
    let work = holder.work.clone().unwrap_or_default();
    let statement = work.statement.as_deref().and_then(|it| it.split_once('/'));
    let statement =
        statement.and_then(|(k, n)| Some((k.parse::<i64>().ok()?, n.parse::<i64>().ok()?)));
    let build = work.index_build.as_ref();
    Json::Object(vec![
        ("pid", number(&holder.pid)),
        ("application", holder.application.clone().into()),
        ("address", holder.address.clone().into()),
        ("since", holder.since.clone().into()),
        ("working_pid", number(&work.pid)),
        ("migration", work.migration.into()),
        ("statement", statement.map(|it| it.0).into()),
        ("statements", statement.map(|it| it.1).into()),
        ("sql", work.sql.into()),
        ("running_since", work.since.into()),
        ("index_build_phase", build.map(|it| it.phase.clone()).into()),
        (
            "index_build_percent",
            build.and_then(|it| it.percent).into(),
        ),
        ("waits_for", work.waits_for.into()),
    ])
}

fn number(text: &str) -> Json {
    text.parse::<i64>().ok().into()
}

/// The state as the name of a field.
fn state_field(state: State) -> &'static str {
    match state {
        State::OutOfOrder => "out_of_order",
        state => state.name(),
    }
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

fn milliseconds(count: i64) -> String {
    duration(Duration::from_millis(count.unsigned_abs()))
}
