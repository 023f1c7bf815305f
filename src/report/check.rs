//! The answer of `lockstep check`, as text for people or JSON for programs. the manual (`logs`) has the fields; they stay.

use crate::config::Order;
use crate::error::Error;
use crate::history::Observation;
use crate::migration::State;
use crate::plan::{self, Entry, Obstruction, Plan};
use crate::text::json::Json;
use crate::text::terminal::{Layout, Tone, printable};
use crate::text::words::counted;

/// What `check` found.
pub struct Report<'a> {
    pub order: Order,
    pub entries: &'a [Entry<'a>],
    pub observation: &'a Observation,
    pub judged: Result<&'a Plan<'a>, &'a Error>,
}

impl Report<'_> {
    pub fn text(&self, layout: Layout) -> String {
        let (text, tone) = match self.judged {
            Ok(_) => (self.up_to_date(), Tone::Good),
            Err(error @ Error::Pending { .. }) => (error.to_string(), Tone::Notice),
            Err(error) => (error.to_string(), Tone::Bad),
        };
        let line = |(number, line): (usize, &str)| {
            let line = printable(line);
            let tone = if number == 0 { tone } else { Tone::Plain };
            layout.painted(&line, tone) + "\n"
        };
        text.lines().enumerate().map(line).collect()
    }

    fn up_to_date(&self) -> String {
        let files = self.entries.iter().filter(|it| it.migration.is_some());
        let ahead = self.entries.iter().filter(|it| it.state == State::Ahead);
        let files = counted(files.count(), "migration");
        let ahead = match ahead.count() {
            0 => String::new(),
            count => format!(", and {count} of a newer release"),
        };
        format!("the database is up to date: {files}{ahead}")
    }

    pub fn json(&self) -> Json {
        let obstructions: &[Obstruction] = match self.judged {
            Err(Error::Refused(refusal)) => &refusal.obstructions,
            _ => &[],
        };
        let divergences = plan::divergences(self.entries, self.order);
        let tolerated = self.judged.is_ok() || matches!(self.judged, Err(Error::Pending { .. }));
        let verdict = match self.judged {
            Ok(_) => "up_to_date",
            Err(Error::Refused(refusal)) if refusal.divergences.is_empty() => "obstructed",
            Err(Error::Refused(_)) => "diverged",
            Err(_) => "pending",
        };
        let pending = self.entries.iter().filter_map(|entry| {
            let migration = entry.migration.filter(|_| entry.state.is_to_run())?;
            Some(Json::Object(vec![
                ("version", entry.version.to_string().into()),
                ("file", migration.path.display().to_string().into()),
                ("state", entry.state.to_string().into()),
                ("unfinished", entry.is_unfinished.into()),
            ]))
        });
        let divergences = divergences.iter().map(|divergence| {
            Json::Object(vec![
                ("version", divergence.version.to_string().into()),
                ("file", divergence.file.clone().into()),
                ("state", divergence.state.to_string().into()),
                ("renamed_from", divergence.renamed_from.map(|it| it.to_string()).into()),
                ("tolerated", tolerated.into()),
            ])
        });
        let obstructions = obstructions.iter().map(|obstruction| {
            Json::Object(vec![
                ("file", obstruction.file.as_str().into()),
                ("line", obstruction.line.into()),
                ("column", obstruction.column.into()),
                ("problem", obstruction.kind.to_string().into()),
            ])
        });
        let bun_row = self.observation.bun_row().map(|it| it.id);
        Json::Object(vec![
            ("verdict", verdict.into()),
            ("pending", pending.collect()),
            ("divergences", divergences.collect()),
            ("obstructions", obstructions.collect()),
            ("bun_row_id", bun_row.into()),
        ])
    }
}
