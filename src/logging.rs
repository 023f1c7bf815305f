//! The log's two formats, and the query log, on top of `log` and `env_logger`.
//!
//! Everything goes to stderr, because stdout carries a command's answer and nothing else. A record is one write, so
//! that the lines of several processes that share a terminal or a file do not mix. Only our own records are shown: the
//! database driver logs too, and under other names. A log that cannot be written is no reason to stop: nothing here
//! fails or panics.

pub mod live;

use std::io::{self, Write as _};
use std::panic::Location;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use log::kv::{self, Key, Value, VisitSource, VisitValue};
use log::{Level, LevelFilter, Metadata, Record};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::sql::quote::clip;
use crate::text::Format;
use crate::text::json::{self, Json};
use crate::text::terminal::{self, Layout, Tone, hanging, printable};

/// What the user asked of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    pub level: LevelFilter,
    pub format: Format,
    /// Log each statement sent, whatever the level.
    pub queries: bool,
    /// What text is shown on.
    pub layout: Layout,
}

/// Starts the log. A second call changes nothing.
pub fn init(settings: Settings) {
    STARTED.get_or_init(Instant::now);
    SETTINGS.get_or_init(|| settings);
    // The only error is that a logger is there already.
    let _ = builder(settings).try_init();
}

static STARTED: OnceLock<Instant> = OnceLock::new();

/// How long the program has run: since [`init`], with which it begins.
pub fn running() -> Duration {
    STARTED.get_or_init(Instant::now).elapsed()
}

static SETTINGS: OnceLock<Settings> = OnceLock::new();

/// For whom the log is.
pub fn format() -> Format {
    SETTINGS.get().map_or(Format::Text, |it| it.format)
}

/// How wide a column of the log's lines is that people see as this wide: programs need none.
pub fn column(width: usize) -> usize {
    match format() {
        Format::Text => width,
        Format::Json => 0,
    }
}

/// Returns true if and only if [`query`] would log something.
pub fn query_log_enabled() -> bool {
    is_shown(QUERY, Level::Debug)
}

fn is_shown(target: &str, level: Level) -> bool {
    log::logger().enabled(&Metadata::builder().level(level).target(target).build())
}

/// Logs a statement that was sent, if the query log is on: `error` is the SQLSTATE and the message.
#[track_caller]
pub fn query(verb: &str, duration: Duration, sql: &str, error: Option<(&str, &str)>) {
    let sql = shortened(sql);
    let mut fields = vec![
        ("verb", Value::from(verb)),
        ("duration_ms", Value::from(milliseconds(duration))),
        ("sql", Value::from(sql.as_str())),
    ];
    if let Some((sqlstate, message)) = error {
        fields.extend([("error", Value::from(message)), ("sqlstate", Value::from(sqlstate))]);
    }
    send(QUERY, Level::Debug, "query", &fields, Location::caller());
}

/// Reports the error a run ends with, at every level: behind `error: ` in the text format, else as an error line.
///
/// Works before [`init`] too; then the text is written plainly.
#[track_caller]
pub fn report_error(text: &str, fields: &[(&str, Value<'_>)]) {
    if is_shown(REPORT, Level::Error) {
        send(REPORT, Level::Error, text, fields, Location::caller());
    } else {
        let _ = io::stderr().write_all(report(text).as_bytes());
    }
}

/// The targets of the two kinds of records that do not heed the level. Nothing else may use them.
const QUERY: &str = "lockstep::query";
const REPORT: &str = "lockstep::report";

fn builder(settings: Settings) -> env_logger::Builder {
    let queries = if settings.queries { LevelFilter::Debug } else { LevelFilter::Off };
    let mut builder = env_logger::Builder::new();
    builder
        .filter_module("lockstep", settings.level)
        .filter_module(QUERY, queries)
        .filter_module(REPORT, LevelFilter::Error)
        .target(env_logger::Target::Stderr)
        .format(move |buffer, record| buffer.write_all(line(settings, record).as_bytes()));
    builder
}

/// Hands a record to the logger past the macros, whose level check would drop it.
fn send(
    target: &str,
    level: Level,
    message: &str,
    fields: &[(&str, Value<'_>)],
    caller: &Location<'_>,
) {
    log::logger().log(
        &Record::builder()
            .target(target)
            .level(level)
            .args(format_args!("{message}"))
            .key_values(&fields)
            .file(Some(caller.file()))
            .line(Some(caller.line()))
            .build(),
    );
}

/// A record as it is written, with the line break at its end.
fn line(settings: Settings, record: &Record<'_>) -> String {
    let message = record.args().to_string();
    if let (Format::Text, Layout::Terminal { columns, .. }) = (settings.format, settings.layout) {
        return terminal_text(record, &message, settings.layout, columns);
    }
    if settings.format == Format::Text && record.target() == REPORT {
        return report(&message);
    }
    // Formatting fails only for a year that no calendar of ours has.
    let time = OffsetDateTime::now_utc().truncate_to_second().format(&Rfc3339).unwrap_or_default();
    match settings.format {
        Format::Text => text_line(record, &format!("{time} {:<5} ", record.level()), &message),
        Format::Json => json_line(record, &time, &message),
    }
}

/// A record on a terminal, over the live line: whoever sits there needs no time, and of what is as usual no level. It is
/// wrapped at words, but for an excerpt, which a caret stands under: that is cut.
fn terminal_text(record: &Record<'_>, message: &str, layout: Layout, columns: usize) -> String {
    let (word, tone) = match record.level() {
        Level::Error => ("error: ", Tone::Bad),
        Level::Warn => ("warning: ", Tone::Notice),
        Level::Info => ("", Tone::Plain),
        Level::Debug => ("debug: ", Tone::Faint),
        Level::Trace => ("trace: ", Tone::Faint),
    };
    let is_excerpt = |line: &str| {
        let rest = line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit());
        line.starts_with(' ') && rest.starts_with("| ")
    };
    let mut out = String::from(live::before_record());
    let text =
        if record.target() == REPORT { report(message) } else { text_line(record, word, message) };
    for line in text.lines() {
        let rest = line.trim_start_matches(' ');
        if rest.contains('\t') {
            out.push_str(&format!("{line}\n"));
        } else if is_excerpt(line) {
            out.push_str(&format!("{}\n", terminal::shortened(line, columns)));
        } else {
            out.push_str(&hanging(rest, line.len() - rest.len(), columns));
        }
    }
    match word {
        "" => out,
        // The blank behind it may have become the end of a line.
        word => out.replacen(word.trim_end(), &layout.painted(word.trim_end(), tone), 1),
    }
}

fn json_line(record: &Record<'_>, time: &str, message: &str) -> String {
    let level = record.level().as_str().to_ascii_lowercase();
    let fixed = ["level", "time", "caller", "message"];
    let texts = [level.as_str(), time, &caller(record), message].map(json::string);
    let member = |(key, text): (&str, &String)| format!("\"{key}\":{text}");
    let mut members: Vec<String> = fixed.into_iter().zip(&texts).map(member).collect();
    for (mut key, value) in fields(record) {
        if fixed.contains(&key.as_str()) {
            key.push('_');
        }
        members.push(format!("{}:{value}", json::string(&key)));
    }
    format!("{{{}}}\n", members.join(","))
}

/// A message's further lines, and a value of several lines, are indented below the line they belong to.
fn text_line(record: &Record<'_>, head: &str, message: &str) -> String {
    let mut message = message.lines();
    let mut line = head.to_owned() + &visible(message.next().unwrap_or_default());
    let mut blocks = String::new();
    let fields = (record.target() == QUERY).then(|| fields(record));
    for (key, value) in fields.into_iter().flatten() {
        match value {
            Json::Text(text) if text.trim_end().contains('\n') => {
                let lines = indented(text.trim_end().lines(), "    ");
                blocks.push_str(&format!("\n  {key}:{lines}"));
            }
            Json::Text(text) => {
                let text = quoted(text.trim_end_matches(['\r', '\n']));
                line.push_str(&format!(" {key}={text}"));
            }
            value => line.push_str(&format!(" {key}={value}")),
        }
    }
    line + &indented(message, "  ") + &blocks + "\n"
}

/// Where the record was made, relative to the package.
fn caller(record: &Record<'_>) -> String {
    let file = record.file().unwrap_or("?");
    let relative = file.rfind("/src/").map_or(file, |slash| &file[slash + 1..]);
    format!("{relative}:{}", record.line().unwrap_or(0))
}

fn fields(record: &Record<'_>) -> Vec<(String, Json)> {
    struct Collected(Vec<(String, Json)>);

    impl<'kvs> VisitSource<'kvs> for Collected {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
            let mut field = Json::null();
            value.visit(&mut field)?;
            self.0.push((key.as_str().to_owned(), field));
            Ok(())
        }
    }

    let mut collected = Collected(Vec::new());
    // Only our own visitor could fail, and it does not.
    let _ = record.key_values().visit(&mut collected);
    collected.0
}

/// What is neither a number nor a boolean nor null is text.
impl<'v> VisitValue<'v> for Json {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), kv::Error> {
        let is_whole = value.to_u64().is_some() || value.to_i64().is_some();
        *self = match value.to_f64() {
            _ if is_whole || value.to_bool().is_some() => Json::Literal(value.to_string()),
            Some(number) if number.is_finite() => Json::Literal(format!("{number:?}")),
            // JSON has neither NaN nor infinities.
            Some(_) => Json::null(),
            None => Json::Text(value.to_string()),
        };
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        *self = Json::null();
        Ok(())
    }
}

fn indented<'a>(lines: impl Iterator<Item = &'a str>, indent: &str) -> String {
    let indented = lines.map(|line| match line {
        "" => "\n".to_owned(),
        line => format!("\n{indent}{}", visible(line)),
    });
    indented.collect()
}

/// A report's text as it is, lines and all.
fn report(text: &str) -> String {
    format!("error: {}", text.lines().map(|line| visible(line) + "\n").collect::<String>())
}

/// The text without what could steer a terminal; tabs do no harm.
fn visible(text: &str) -> String {
    let pieces: Vec<_> = text.split('\t').map(printable).collect();
    pieces.join("\t")
}

/// In quotes where it would not be told apart from what stands around it.
fn quoted(text: &str) -> String {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '"' && c != '=';
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("{text:?}") }
}

/// Three decimals: microseconds, the clock's honest resolution across a network.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// A statement of ours is far shorter; a migration's file may have megabytes.
const QUERY_LOG_BYTES: usize = 8 * 1024;

fn shortened(sql: &str) -> String {
    let shown = clip(sql, QUERY_LOG_BYTES);
    match sql.len() - shown.len() {
        0 => sql.to_owned(),
        more => format!("{shown}… ({more} bytes more)"),
    }
}

#[cfg(test)]
mod tests;
