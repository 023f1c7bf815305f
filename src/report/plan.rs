//! What `plan` prints: the pending files, their statements, the locks, the warnings.

use std::fmt::Write as _;

use crate::error::{Place, Precision, counted};
use crate::impact::{self, Harm, Impact, Lock, LockedThing, Mode, Warning, World};
use crate::json::Json;
use crate::migration::Migration;
use crate::plan::Plan;
use crate::rehearse::Measured;
use crate::script::{self, Kind};

/// How many columns a terminal or a mail has.
const WIDTH: usize = 80;

/// The answer of `plan`.
pub struct Answer<'a> {
    files: Vec<File<'a>>,
    /// How many migrations there are.
    of: usize,
    /// Who is at work now, in words.
    runner: Option<String>,
    is_rehearsed: bool,
}

struct File<'a> {
    migration: &'a Migration,
    is_out_of_order: bool,
    runs: Runs,
    statements: Vec<Statement>,
}

/// How a file is run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Runs {
    InTransaction,
    Outside,
    /// In a transaction, and outside if the server refuses it there.
    Either,
}

struct Statement {
    line: usize,
    verb: String,
    impact: Impact,
    /// What it did when it was rehearsed.
    measured: Option<Measured>,
}

impl<'a> Answer<'a> {
    /// Reads the statements of all that is pending, one after the other.
    pub fn new(
        plan: &Plan<'a>,
        migrations: &[Migration],
        mut world: World,
        runner: Option<String>,
    ) -> Answer<'a> {
        let files = plan.pending.iter().map(|migration| {
            world.begin_file();
            let statements = &migration.script.statements;
            let read = |statement: &script::Statement| {
                let text = &migration.text[statement.range()];
                let start = statement.range().start;
                Statement {
                    line: Place::of(&migration.text, start, Precision::Exact).line,
                    verb: script::verb(text),
                    impact: impact::read(text, &mut world),
                    measured: None,
                }
            };
            File {
                migration,
                is_out_of_order: plan.out_of_order.contains(&migration.version),
                runs: Runs::of(statements),
                statements: statements.iter().map(read).collect(),
            }
        });
        Answer {
            files: files.collect(),
            of: migrations.len(),
            runner,
            is_rehearsed: false,
        }
    }

    /// Adds what a rehearsal has measured: for each file, for each statement.
    pub fn add_measurements(&mut self, measured: Vec<Vec<Measured>>) {
        for (file, measured) in self.files.iter_mut().zip(measured) {
            for (statement, measured) in file.statements.iter_mut().zip(measured) {
                statement.measured = Some(measured);
            }
        }
        self.is_rehearsed = true;
    }

    pub fn text(&self) -> String {
        let mut out = String::new();
        if let Some(runner) = &self.runner {
            push_wrapped(&mut out, 0, &format!("a runner is at work: {runner}"));
            out.push('\n');
        }
        if self.files.is_empty() {
            let all = counted(self.of, "migration");
            out.push_str(&format!(
                "nothing is pending: the database is up to date: {all}\n"
            ));
            return out;
        }
        for file in &self.files {
            file.write_text(&mut out);
            out.push('\n');
        }
        push_wrapped(&mut out, 0, &self.summary());
        out
    }

    fn summary(&self) -> String {
        let statements = self.files.iter().map(|file| file.statements.len()).sum();
        let mut summary = format!(
            "{}{} pending, {}, {}",
            if self.is_rehearsed {
                "rehearsed and rolled back: "
            } else {
                ""
            },
            counted(self.files.len(), "migration"),
            counted(statements, "statement"),
            counted(self.warnings(), "warning"),
        );
        let unknown = self
            .impacts()
            .filter(|impact| !impact.unknown.is_empty())
            .count();
        if unknown > 0 {
            summary.push_str(&format!(
                ", {} with unknown effects",
                counted(unknown, "statement")
            ));
        }
        summary
    }

    fn impacts(&self) -> impl Iterator<Item = &Impact> {
        self.files
            .iter()
            .flat_map(|file| &file.statements)
            .map(|statement| &statement.impact)
    }

    fn warnings(&self) -> usize {
        self.impacts().map(|impact| impact.warnings.len()).sum()
    }

    pub fn json(&self) -> String {
        Json::Object(vec![
            ("runner", Json::from(self.runner.clone())),
            ("rehearsed", Json::from(self.is_rehearsed)),
            ("pending", json_of(self.files.len())),
            ("warnings", json_of(self.warnings())),
            (
                "migrations",
                Json::List(self.files.iter().map(File::json).collect()),
            ),
        ])
        .document()
    }
}

impl Runs {
    fn of(statements: &[script::Statement]) -> Runs {
        match statements {
            [statement] => match statement.kind {
                Kind::Plain => Runs::InTransaction,
                Kind::Outside(_) => Runs::Outside,
                Kind::MaybeOutside => Runs::Either,
            },
            _ => Runs::InTransaction,
        }
    }

    fn phrase(self) -> &'static str {
        match self {
            Runs::InTransaction => "in a transaction",
            Runs::Outside => "outside a transaction",
            Runs::Either => "in a transaction, or outside if the server demands it",
        }
    }

    /// As in the JSON.
    fn word(self) -> &'static str {
        match self {
            Runs::InTransaction => "in_transaction",
            Runs::Outside => "outside",
            Runs::Either => "either",
        }
    }
}

impl File<'_> {
    fn write_text(&self, out: &mut String) {
        let late = if self.is_out_of_order {
            ", out-of-order"
        } else {
            ""
        };
        let head = format!("{}: {}{late}", self.migration.file_name, self.runs.phrase());
        push_wrapped(out, 0, &head);
        let last = self.statements.last().map_or(0, |statement| statement.line);
        let width = last.to_string().len();
        for statement in &self.statements {
            statement.write_text(out, width);
        }
    }

    fn json(&self) -> Json {
        let migration = self.migration;
        Json::Object(vec![
            ("version", Json::from(migration.version.to_string())),
            ("name", Json::from(migration.file_name.clone())),
            ("file", Json::from(migration.path.display().to_string())),
            ("out_of_order", Json::from(self.is_out_of_order)),
            ("runs", Json::from(self.runs.word())),
            (
                "statements",
                Json::List(self.statements.iter().map(Statement::json).collect()),
            ),
        ])
    }
}

impl Statement {
    fn write_text(&self, out: &mut String, width: usize) {
        let indent = 2 + width + 2;
        let mut head = format!("{:>width$}  {}", self.line, self.verb);
        if let Some(measured) = &self.measured {
            let milliseconds = measured.duration.as_secs_f64() * 1000.0;
            head.push_str(&format!(": {milliseconds:.1} ms"));
        }
        push_wrapped(out, 2, &head);
        for fact in self.facts() {
            push_wrapped(out, indent, &fact);
        }
        for warning in &self.impact.warnings {
            if self.is_refuted(warning) {
                continue;
            }
            push_wrapped(out, indent, &format!("warning: {}", warning.message));
            push_wrapped(out, indent + 2, &format!("safer: {}", warning.safer));
        }
    }

    /// What it locks, and what else is known or not; measured, if it was rehearsed.
    fn facts(&self) -> Vec<String> {
        let Some(measured) = &self.measured else {
            let locks = self.impact.locks.iter().map(phrase);
            let unknown = self.impact.unknown.iter();
            return locks
                .chain(unknown.map(|what| format!("unknown: {what}")))
                .collect();
        };
        let locks = measured
            .locks
            .iter()
            .map(|(table, mode)| format!("{mode} on {table}"));
        let rewritten = measured.rewritten.iter();
        locks
            .chain(rewritten.map(|table| format!("rewrote {table}")))
            .collect()
    }

    /// Returns true if and only if the rehearsal has shown that a table is not rewritten.
    fn is_refuted(&self, warning: &Warning) -> bool {
        let is_about_rewriting = matches!(warning.harm, Harm::Rewrite | Harm::MayRewrite);
        is_about_rewriting
            && self.measured.as_ref().is_some_and(|measured| {
                !warning
                    .table
                    .as_ref()
                    .is_some_and(|table| measured.rewritten.contains(table))
            })
    }

    fn json(&self) -> Json {
        let impact = &self.impact;
        Json::Object(vec![
            ("line", json_of(self.line)),
            ("verb", Json::from(self.verb.clone())),
            (
                "locks",
                Json::List(impact.locks.iter().map(lock_json).collect()),
            ),
            ("unknown", Json::from(impact.unknown.clone())),
            (
                "warnings",
                Json::List(impact.warnings.iter().map(warning_json).collect()),
            ),
            (
                "measured",
                self.measured.as_ref().map_or(Json::Null, measured_json),
            ),
        ])
    }
}

fn phrase(lock: &Lock) -> String {
    match &lock.on {
        LockedThing::Table(table) => format!("{} on {table}", lock.mode),
        LockedThing::Related(what) => format!("{} on {what}, if any", lock.mode),
    }
}

fn lock_json(lock: &Lock) -> Json {
    let (table, related) = match &lock.on {
        LockedThing::Table(table) => (Some(table.clone()), None),
        LockedThing::Related(what) => (None, Some(what.clone())),
    };
    Json::Object(vec![
        ("table", Json::from(table)),
        ("related", Json::from(related)),
        ("mode", Json::from(lock.mode.to_string())),
    ])
}

fn measured_json(measured: &Measured) -> Json {
    let lock = |(table, mode): &(String, Mode)| {
        Json::Object(vec![
            ("table", Json::from(table.clone())),
            ("mode", Json::from(mode.to_string())),
        ])
    };
    let microseconds = i64::try_from(measured.duration.as_micros()).unwrap_or(i64::MAX);
    Json::Object(vec![
        ("duration_us", Json::from(microseconds)),
        (
            "locks",
            Json::List(measured.locks.iter().map(lock).collect()),
        ),
        ("rewritten", Json::from(measured.rewritten.clone())),
    ])
}

fn warning_json(warning: &Warning) -> Json {
    Json::Object(vec![
        ("kind", Json::from(warning.harm.word())),
        ("table", Json::from(warning.table.clone())),
        ("message", Json::from(warning.message.clone())),
        ("safer", Json::from(warning.safer.clone())),
    ])
}

fn json_of(count: usize) -> Json {
    Json::from(i64::try_from(count).unwrap_or(i64::MAX))
}

/// Appends a paragraph: broken between words at [`WIDTH`] columns, its first line indented by `indent` blanks, the
/// others by two more. What has no blank is not broken.
fn push_wrapped(out: &mut String, indent: usize, text: &str) {
    let mut column = indent;
    out.push_str(&" ".repeat(indent));
    let lead = text.len() - text.trim_start().len();
    out.push_str(&text[..lead]);
    column += lead;
    let mut is_first = true;
    for word in text[lead..].split(' ') {
        let length = word.chars().count();
        if !is_first && column + 1 + length > WIDTH && length > 0 {
            // Writing to a String cannot fail.
            let _ = write!(out, "\n{}", " ".repeat(indent + 2));
            column = indent + 2;
        } else if !is_first {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
        is_first = false;
    }
    out.push('\n');
}
