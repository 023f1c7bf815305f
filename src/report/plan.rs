//! What `plan` prints: the pending files, their statements, the locks, the warnings.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::impact::{self, Harm, Impact, Locks, Mode, Warning, World};
use crate::migration::Migration;
use crate::plan::Plan;
use crate::sql::{self, Kind, Script};
use crate::text::json::Json;
use crate::text::terminal::{Layout, hanging, shortened};
use crate::text::words::{counted, duration};

/// How many columns a mail has.
const WIDTH: usize = 80;

/// Which warning was said where: its words, the file and the line.
type Told<'a> = HashMap<(&'a String, &'a String), (&'a str, usize)>;

/// So many tables of a list are named to people.
const NAMED: usize = 4;

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
    statements: Vec<Statement>,
}

struct Statement {
    line: usize,
    verb: String,
    /// Its beginning, on one line.
    text: String,
    impact: Impact,
    /// What it did when it was rehearsed.
    measured: Option<Measured>,
}

/// What a statement did in a rehearsal.
#[derive(Default)]
pub struct Measured {
    pub duration: Duration,
    /// The tables from before the rehearsal that it locked, or locked more strongly than those before it.
    pub locks: Locks,
    /// Those that it wrote anew.
    pub rewritten: Vec<String>,
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
            let (mut line, mut behind) = (1, 0);
            let read = |statement: &sql::Statement| {
                let text = &migration.text[statement.range()];
                let start = statement.range().start;
                line += migration.text[behind..start].matches('\n').count();
                behind = start;
                let impact = impact::read(text, &mut world);
                if migration.script.no_transaction {
                    world.commit();
                }
                Statement {
                    line,
                    verb: sql::verb(text),
                    text: beginning(text),
                    impact,
                    measured: None,
                }
            };
            File {
                migration,
                is_out_of_order: plan.out_of_order.contains(&migration.version),
                statements: statements.iter().map(read).collect(),
            }
        });
        Answer { files: files.collect(), of: migrations.len(), runner, is_rehearsed: false }
    }

    /// Adds what a rehearsal has measured, for each statement.
    pub fn add_measurements(&mut self, measured: Vec<Measured>) {
        let statements = self.files.iter_mut().flat_map(|it| &mut it.statements);
        for (statement, measured) in statements.zip(measured) {
            statement.measured = Some(measured);
        }
        self.is_rehearsed = true;
    }

    pub fn text(&self, layout: Layout) -> String {
        let width = layout.columns().unwrap_or(WIDTH);
        let mut out = String::new();
        if let Some(runner) = &self.runner {
            out += &hanging(&format!("a runner is at work: {runner}"), 0, width);
            out.push('\n');
        }
        if self.files.is_empty() {
            let all = counted(self.of, "migration");
            return out + &format!("nothing is pending: the database is up to date: {all}\n");
        }
        let mut told = Told::new();
        for file in &self.files {
            file.write_text(&mut out, width, &mut told);
            out.push('\n');
        }
        out += &hanging(&self.summary(), 0, width);
        for line in self.locks() {
            out += &hanging(&line, 2, width);
        }
        out
    }

    /// The strongest lock on each table.
    fn locks(&self) -> Vec<String> {
        let mut strongest = Locks::new();
        for (table, mode) in self.statements().flat_map(Statement::locks) {
            impact::note(&mut strongest, table.clone(), *mode);
        }
        by_mode(&strongest)
    }

    fn summary(&self) -> String {
        let rehearsed = if self.is_rehearsed { "rehearsed and rolled back: " } else { "" };
        let files = counted(self.files.len(), "migration");
        let statements = counted(self.statements().count(), "statement");
        let warnings = counted(self.warnings(), "warning");
        let unknown = match self.statements().filter(|it| it.impact.unknown.is_some()).count() {
            0 => String::new(),
            count => format!(", {} with unknown effects", counted(count, "statement")),
        };
        format!("{rehearsed}{files} pending, {statements}, {warnings}{unknown}")
    }

    fn statements(&self) -> impl Iterator<Item = &Statement> {
        self.files.iter().flat_map(|file| &file.statements)
    }

    /// How many warnings there are.
    fn warnings(&self) -> usize {
        self.statements().map(|it| it.warnings().count()).sum()
    }

    pub fn json(&self) -> String {
        Json::Object(vec![
            ("runner", self.runner.clone().into()),
            ("rehearsed", self.is_rehearsed.into()),
            ("pending", self.files.len().into()),
            ("warnings", self.warnings().into()),
            ("migrations", self.files.iter().map(File::json).collect()),
        ])
        .document()
    }
}

/// How a file is run: as in the JSON, and in words.
fn runs(script: &Script) -> (&'static str, &'static str) {
    const EITHER: &str = "in a transaction, or outside if the server demands it";
    match script.statements.as_slice() {
        _ if script.no_transaction => ("outside", "outside a transaction"),
        [only] if matches!(only.kind, Kind::Outside(_)) => ("outside", "outside a transaction"),
        [only] if only.kind == Kind::MaybeOutside => ("either", EITHER),
        _ => ("in_transaction", "in a transaction"),
    }
}

impl File<'_> {
    fn write_text<'a>(&'a self, out: &mut String, width: usize, told: &mut Told<'a>) {
        let late = if self.is_out_of_order { ", out-of-order" } else { "" };
        let (name, (_, runs)) = (self.migration.file_name(), runs(&self.migration.script));
        *out += &hanging(&format!("{name}: {runs}{late}"), 0, width);
        for statement in &self.statements {
            statement.write_text(out, width, name, told);
        }
    }

    fn json(&self) -> Json {
        let migration = self.migration;
        Json::Object(vec![
            ("version", migration.version.to_string().into()),
            ("name", migration.file_name().to_owned().into()),
            ("file", migration.path.display().to_string().into()),
            ("out_of_order", self.is_out_of_order.into()),
            ("runs", runs(&migration.script).0.into()),
            ("statements", self.statements.iter().map(Statement::json).collect()),
        ])
    }
}

impl Statement {
    fn write_text<'a>(
        &'a self,
        out: &mut String,
        width: usize,
        file: &'a str,
        told: &mut Told<'a>,
    ) {
        const INDENT: usize = 4;
        let time = self.measured.as_ref().map(|it| format!(", {}", duration(it.duration)));
        let (line, time) = (self.line, time.unwrap_or_default());
        *out += &shortened(&format!("  line {line}{time}: {}", self.text), width);
        out.push('\n');
        for fact in self.facts() {
            *out += &hanging(&fact, INDENT, width);
        }
        for warning in self.warnings() {
            let (message, safer) = (&warning.message, &warning.safer);
            let here = (file, self.line);
            let first = *told.entry((message, safer)).or_insert(here);
            let text = match first {
                (of, line) if of == file && line != self.line => format!("as at line {line}"),
                (of, line) if of != file => format!("as in {of}, line {line}"),
                _ => message.clone(),
            };
            *out += &hanging(&format!("warning: {text}"), INDENT, width);
            if first == here {
                *out += &hanging(&format!("safer: {safer}"), INDENT + 2, width);
            }
        }
    }

    /// What it locks, or has locked, of the tables that it names.
    fn locks(&self) -> &Locks {
        self.measured.as_ref().map_or(&self.impact.locks, |it| &it.locks)
    }

    /// What it locks, and what else is known or not; measured, if it was rehearsed.
    fn facts(&self) -> Vec<String> {
        let mut facts = by_mode(self.locks());
        match &self.measured {
            Some(measured) => {
                let tables: Vec<&String> = measured.rewritten.iter().collect();
                let rewrote = (!tables.is_empty()).then(|| format!("rewrote {}", folded(&tables)));
                facts.extend(rewrote);
            }
            None => {
                let related = self.impact.related.iter();
                facts.extend(related.map(|(what, mode)| format!("{mode} on {what}, if any")));
                facts.extend(self.impact.unknown.iter().map(|what| format!("unknown: {what}")));
            }
        }
        facts
    }

    /// What is to be warned of. A rehearsal that has seen no table rewritten takes back what was said about that; a table
    /// with partitions has no rows of its own, so it matters whether any was, not which.
    fn warnings(&self) -> impl Iterator<Item = &Warning> {
        let is_refuted = self.measured.as_ref().is_some_and(|it| it.rewritten.is_empty());
        let about_rewriting =
            |warning: &Warning| matches!(warning.harm, Harm::Rewrite | Harm::MayRewrite);
        self.impact.warnings.iter().filter(move |warning| !(is_refuted && about_rewriting(warning)))
    }

    fn json(&self) -> Json {
        let impact = &self.impact;
        let lock = |table: Option<&String>, related: Option<&String>, mode: &Mode| {
            Json::Object(vec![
                ("table", table.cloned().into()),
                ("related", related.cloned().into()),
                ("mode", mode.to_string().into()),
            ])
        };
        let named = impact.locks.iter().map(|(it, mode)| lock(Some(it), None, mode));
        let related = impact.related.iter().map(|(it, mode)| lock(None, Some(it), mode));
        Json::Object(vec![
            ("line", self.line.into()),
            ("verb", self.verb.clone().into()),
            ("locks", named.chain(related).collect()),
            ("unknown", impact.unknown.into_iter().collect()),
            ("warnings", self.warnings().map(warning_json).collect()),
            ("measured", self.measured.as_ref().map(measured_json).into()),
        ])
    }
}

/// A statement's beginning on one line, which a password is not in.
fn beginning(text: &str) -> String {
    /// Far more than a line has.
    const LONGEST: usize = 2_000;
    let text = sql::without_comments(text);
    let secret = ["password", "connection", "options"];
    let lower = text.to_lowercase();
    if secret.iter().any(|it| lower.contains(it)) {
        return format!("{} …", sql::verb(&text));
    }
    let line: Vec<&str> = text.split_whitespace().collect();
    line.join(" ").chars().take(LONGEST).collect()
}

/// One line for each mode, the strongest first.
fn by_mode(locks: &Locks) -> Vec<String> {
    let mut modes: BTreeMap<Reverse<Mode>, Vec<&String>> = BTreeMap::new();
    for (table, mode) in locks {
        modes.entry(Reverse(*mode)).or_default().push(table);
    }
    modes.iter().map(|(mode, tables)| format!("{} on {}", mode.0, folded(tables))).collect()
}

/// A list of tables, of which so many are named and the others counted.
fn folded(tables: &[&String]) -> String {
    let named: Vec<&str> = tables.iter().take(NAMED).map(|it| it.as_str()).collect();
    match tables.len() - named.len() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

fn measured_json(measured: &Measured) -> Json {
    let lock = |(table, mode): (&String, &Mode)| {
        Json::Object(vec![("table", table.clone().into()), ("mode", mode.to_string().into())])
    };
    let microseconds = i64::try_from(measured.duration.as_micros()).unwrap_or(i64::MAX);
    Json::Object(vec![
        ("duration_us", microseconds.into()),
        ("locks", measured.locks.iter().map(lock).collect()),
        ("rewritten", measured.rewritten.clone().into()),
    ])
}

fn warning_json(warning: &Warning) -> Json {
    Json::Object(vec![
        ("kind", warning.harm.word().into()),
        ("table", warning.table.clone().into()),
        ("message", warning.message.clone().into()),
        ("safer", warning.safer.clone().into()),
    ])
}
