//! The log's two formats, and the query log, on top of `log` and `env_logger`.
//!
//! Everything goes to stderr, because stdout carries a command's answer and nothing else. A record is one write, so
//! that the lines of several processes that share a terminal or a file do not mix. Only our own records are shown: the
//! database driver logs too, and under other names. A log that cannot be written is no reason to stop: nothing here
//! fails or panics.

pub mod live;

use std::fmt;
use std::io::{self, Write as _};
use std::panic::Location;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use log::kv::{self, Key, Value, VisitSource, VisitValue};
use log::{Level, LevelFilter, Metadata, Record};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::text::json;
use crate::text::terminal::{Layout, Tone, printable};

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

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// For people: `time LEVEL message`; the fields are for machines, but for those of the query log.
    Text,
    /// For machines: one object a line.
    Json,
}

/// Starts the log. A second call changes nothing.
pub fn init(settings: Settings) {
    STARTED.get_or_init(Instant::now);
    if let Layout::Terminal { columns, .. } = settings.layout
        && settings.format == Format::Text
        && settings.level >= LevelFilter::Info
    {
        live::allow(columns);
    }
    // The only error is that a logger is there already.
    let _ = builder(settings).try_init();
}

static STARTED: OnceLock<Instant> = OnceLock::new();

/// How long the program has run, in milliseconds: since [`init`], with which it begins.
pub fn running_ms() -> f64 {
    milliseconds(STARTED.get_or_init(Instant::now).elapsed())
}

/// Returns true if and only if [`query`] would log something.
pub fn query_log_enabled() -> bool {
    is_shown(QUERY, Level::Debug)
}

fn is_shown(target: &str, level: Level) -> bool {
    let metadata = Metadata::builder().level(level).target(target).build();
    log::logger().enabled(&metadata)
}

/// Logs a statement that was sent, if the query log is on: `error` is the SQLSTATE and the message.
#[track_caller]
pub fn query(verb: &str, duration: Duration, sql: &str, error: Option<(&str, &str)>) {
    if !query_log_enabled() {
        return;
    }
    let sql = shortened(sql);
    let mut fields = vec![
        ("verb", Value::from(verb)),
        ("duration_ms", Value::from(milliseconds(duration))),
        ("sql", Value::from(sql.as_str())),
    ];
    if let Some((sqlstate, message)) = error {
        fields.extend([
            ("error", Value::from(message)),
            ("sqlstate", Value::from(sqlstate)),
        ]);
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
    let queries = match settings.queries {
        true => LevelFilter::Debug,
        false => LevelFilter::Off,
    };
    let mut builder = env_logger::Builder::new();
    builder
        .filter_module("lockstep", settings.level)
        .filter_module(QUERY, queries)
        .filter_module(REPORT, LevelFilter::Error)
        .target(env_logger::Target::Stderr)
        .format(move |buffer, record| {
            let mut text = line(settings.format, record);
            if settings.format == Format::Text && settings.layout != Layout::Plain {
                text = coloured(&text, record.level(), settings.layout);
                text.insert_str(0, live::before_record());
            }
            buffer.write_all(text.as_bytes())
        });
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
fn line(format: Format, record: &Record<'_>) -> String {
    const RFC_3339_SECONDS: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    let message = record.args().to_string();
    if format == Format::Text && record.target() == REPORT {
        return report(&message);
    }
    // Formatting fails only for a component the value lacks, and this one has them all.
    let time = OffsetDateTime::now_utc()
        .format(RFC_3339_SECONDS)
        .unwrap_or_default();
    match format {
        Format::Text => text_line(record, &time, &message),
        Format::Json => json_line(record, &time, &message),
    }
}

/// The word that says how bad it is, in colour: warnings yellow, errors red.
fn coloured(text: &str, level: Level, layout: Layout) -> String {
    let (word, tone) = match level {
        Level::Warn => (" WARN ", Tone::Notice),
        Level::Error if text.starts_with("error:") => ("error:", Tone::Bad),
        Level::Error => (" ERROR ", Tone::Bad),
        Level::Info | Level::Debug | Level::Trace => return text.to_owned(),
    };
    text.replacen(word, &layout.painted(word, tone), 1)
}

fn json_line(record: &Record<'_>, time: &str, message: &str) -> String {
    const FIXED_KEYS: [&str; 4] = ["level", "time", "caller", "message"];
    let mut line = String::from("{\"level\":");
    json::push_string(&mut line, &record.level().as_str().to_ascii_lowercase());
    line.push_str(",\"time\":");
    json::push_string(&mut line, time);
    line.push_str(",\"caller\":");
    json::push_string(&mut line, &caller(record));
    line.push_str(",\"message\":");
    json::push_string(&mut line, message);
    for (mut key, value) in fields(record) {
        if FIXED_KEYS.contains(&key.as_str()) {
            key.push('_');
        }
        line.push(',');
        json::push_string(&mut line, &key);
        line.push(':');
        match value {
            Field::Bare(literal) => line.push_str(&literal),
            Field::Text(text) => json::push_string(&mut line, &text),
        }
    }
    line.push_str("}\n");
    line
}

/// A message's further lines, and a value of several lines, are indented below the line they belong to.
fn text_line(record: &Record<'_>, time: &str, message: &str) -> String {
    let mut line = format!("{time} {:<5} ", record.level());
    let (mut blocks, mut message_lines) = (String::new(), message.lines());
    push_visible(&mut line, message_lines.next().unwrap_or_default());
    let fields = match record.target() == QUERY {
        true => fields(record),
        false => Vec::new(),
    };
    for (key, value) in fields {
        match value {
            Field::Bare(literal) => line.push_str(&format!(" {key}={literal}")),
            Field::Text(text) if text.trim_end().contains('\n') => {
                blocks.push_str(&format!("\n  {key}:"));
                push_indented(&mut blocks, text.trim_end().lines(), "    ");
            }
            Field::Text(text) => {
                line.push_str(&format!(" {key}="));
                push_text_value(&mut line, text.trim_end_matches(['\r', '\n']));
            }
        }
    }
    push_indented(&mut line, message_lines, "  ");
    line + &blocks + "\n"
}

/// Where the record was made, relative to the package.
fn caller(record: &Record<'_>) -> String {
    let file = record.file().unwrap_or("?");
    let relative = file.rfind("/src/").map_or(file, |slash| &file[slash + 1..]);
    format!("{relative}:{}", record.line().unwrap_or(0))
}

/// A value, ready for both formats.
enum Field {
    /// A number, a boolean or null.
    Bare(String),
    Text(String),
}

fn fields(record: &Record<'_>) -> Vec<(String, Field)> {
    struct Collected(Vec<(String, Field)>);

    impl<'kvs> VisitSource<'kvs> for Collected {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
            let mut field = Field::Bare(String::from("null"));
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

/// What is not told apart here is text.
impl<'v> VisitValue<'v> for Field {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), kv::Error> {
        *self = Field::Text(value.to_string());
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        self.set_bare("null")
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        self.set_bare(value)
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        self.set_bare(value)
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        // JSON has neither NaN nor infinities.
        match value.is_finite() {
            true => self.set_bare(format_args!("{value:?}")),
            false => self.visit_null(),
        }
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        self.set_bare(value)
    }
}

impl Field {
    fn set_bare(&mut self, value: impl fmt::Display) -> Result<(), kv::Error> {
        *self = Field::Bare(value.to_string());
        Ok(())
    }
}

fn push_indented<'a>(out: &mut String, lines: impl Iterator<Item = &'a str>, indent: &str) {
    for line in lines {
        out.push('\n');
        if !line.is_empty() {
            out.push_str(indent);
            push_visible(out, line);
        }
    }
}

/// A report's text as it is, lines and all.
fn report(text: &str) -> String {
    let mut out = String::from("error: ");
    for line in text.lines() {
        push_visible(&mut out, line);
        out.push('\n');
    }
    out
}

/// Appends text that cannot steer a terminal; tabs do no harm.
fn push_visible(out: &mut String, text: &str) {
    for (number, piece) in text.split('\t').enumerate() {
        if number > 0 {
            out.push('\t');
        }
        out.push_str(&printable(piece));
    }
}

/// In quotes where it would not be told apart from what stands around it.
fn push_text_value(out: &mut String, text: &str) {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '"' && c != '=';
    match !text.is_empty() && text.chars().all(plain) {
        true => out.push_str(text),
        false => out.push_str(&format!("{text:?}")),
    }
}

/// Three decimals: microseconds, the clock's honest resolution across a network.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// A statement of ours is far shorter; a migration's file may have megabytes.
const QUERY_LOG_BYTES: usize = 8 * 1024;

fn shortened(sql: &str) -> String {
    if sql.len() <= QUERY_LOG_BYTES {
        return sql.to_owned();
    }
    let mut end = QUERY_LOG_BYTES;
    while !sql.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}… ({} bytes more)", &sql[..end], sql.len() - end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::terminal::Paint;
    use log::Log;
    use std::sync::{Arc, Mutex};

    const TIME: &str = "2023-10-17T20:46:17Z";

    fn rendered(
        format: Format,
        level: Level,
        message: &str,
        fields: &[(&str, Value<'_>)],
    ) -> String {
        let record = |args| {
            let record = Record::builder()
                .target(QUERY)
                .level(level)
                .args(args)
                .key_values(&fields)
                .file(Some("src/apply.rs"))
                .line(Some(155))
                .build();
            match format {
                Format::Text => text_line(&record, TIME, message),
                Format::Json => json_line(&record, TIME, message),
            }
        };
        record(format_args!("{message}"))
    }

    #[test]
    fn json_has_the_services_shape() {
        assert_eq!(
            rendered(
                Format::Json,
                Level::Debug,
                "running migrations on database",
                &[]
            ),
            "{\"level\":\"debug\",\"time\":\"2023-10-17T20:46:17Z\",\"caller\":\"src/apply.rs:155\",\
             \"message\":\"running migrations on database\"}\n"
        );
    }

    #[test]
    fn json_values_keep_their_types() {
        let displayed = String::from("a \"b\"");
        let table: [(Value<'_>, &str); 16] = [
            (Value::from(7_u64), "7"),
            (Value::from(u64::MAX), "18446744073709551615"),
            (Value::from(-7_i64), "-7"),
            (Value::from(-7_i32), "-7"),
            (Value::from(3_usize), "3"),
            (Value::from(0.412), "0.412"),
            (Value::from(12.0), "12.0"),
            (Value::from(f64::NAN), "null"),
            (Value::from(f64::INFINITY), "null"),
            (Value::from(f64::NEG_INFINITY), "null"),
            (Value::from(true), "true"),
            (Value::from('x'), "\"x\""),
            (Value::from("7"), "\"7\""),
            (Value::from(""), "\"\""),
            (Value::null(), "null"),
            (Value::from_display(&displayed), "\"a \\\"b\\\"\""),
        ];
        for (value, expected) in table {
            let line = rendered(Format::Json, Level::Info, "m", &[("k", value)]);
            assert!(
                line.ends_with(&format!("\"message\":\"m\",\"k\":{expected}}}\n")),
                "{line}"
            );
        }
    }

    #[test]
    fn json_escapes_every_control_character_and_stays_one_line() {
        for code in 0..0x250_u32 {
            let c = char::from_u32(code).expect("no surrogate is below U+0250");
            let mut out = String::new();
            json::push_string(&mut out, &c.to_string());
            assert!(
                !out.chars().any(char::is_control),
                "U+{code:04X} came out as it is"
            );
            let expected = match c {
                '"' => "\"\\\"\"".to_owned(),
                '\\' => "\"\\\\\"".to_owned(),
                '\n' => "\"\\n\"".to_owned(),
                '\r' => "\"\\r\"".to_owned(),
                '\t' => "\"\\t\"".to_owned(),
                c if c.is_control() => format!("\"\\u{code:04x}\""),
                c => format!("\"{c}\""),
            };
            assert_eq!(out, expected);
        }
        let mut out = String::new();
        json::push_string(&mut out, "ไทย 🐘 \u{2028}\u{2029}");
        assert_eq!(out, "\"ไทย 🐘 \\u2028\\u2029\"");
        let line = rendered(
            Format::Json,
            Level::Info,
            "a\r\nb",
            &[("sq\"l\n", Value::from("x\ny"))],
        );
        assert!(
            line.ends_with("\"message\":\"a\\r\\nb\",\"sq\\\"l\\n\":\"x\\ny\"}\n"),
            "{line}"
        );
    }

    #[test]
    fn a_field_named_like_a_fixed_key_does_not_collide() {
        for key in ["level", "time", "caller", "message"] {
            let line = rendered(Format::Json, Level::Info, "m", &[(key, Value::from(1))]);
            assert_eq!(line.matches(&format!("\"{key}\":")).count(), 1, "{line}");
            assert!(line.ends_with(&format!(",\"{key}_\":1}}\n")), "{line}");
        }
    }

    #[test]
    fn the_caller_is_relative_to_the_package() {
        for (file, expected) in [
            (Some("src/apply.rs"), "src/apply.rs:3"),
            (Some("/build/lockstep/src/apply.rs"), "src/apply.rs:3"),
            (
                Some("/src/lockstep/src/config/conninfo.rs"),
                "src/config/conninfo.rs:3",
            ),
            (None, "?:3"),
        ] {
            assert_eq!(
                caller(&Record::builder().file(file).line(Some(3)).build()),
                expected
            );
        }
    }

    #[test]
    fn text_is_one_line_with_quotes_where_needed() {
        let fields = [
            ("version", Value::from("20230320161721")),
            ("n", Value::from(3)),
            ("ok", Value::from(true)),
            ("space", Value::from("a b")),
            ("empty", Value::from("")),
            ("quote", Value::from("a\"b\\")),
            ("equals", Value::from("a=b")),
            ("tab", Value::from("a\tb")),
            ("escape", Value::from("\u{1b}[31m")),
            ("end", Value::from("SELECT\n")),
        ];
        assert_eq!(
            rendered(Format::Text, Level::Info, "applied", &fields),
            "2023-10-17T20:46:17Z INFO  applied version=20230320161721 n=3 ok=true space=\"a b\" empty=\"\" \
             quote=\"a\\\"b\\\\\" equals=\"a=b\" tab=\"a\\tb\" escape=\"\\u{1b}[31m\" end=SELECT\n"
        );
        assert_eq!(
            rendered(Format::Text, Level::Error, "m", &[]),
            "2023-10-17T20:46:17Z ERROR m\n"
        );
    }

    #[test]
    fn text_of_several_lines_stays_readable() {
        assert_eq!(
            rendered(
                Format::Text,
                Level::Debug,
                "first\r\n\nthird \u{1b}[2J\tx",
                &[
                    ("sql", Value::from("SELECT 1\n  FROM x\n")),
                    ("verb", Value::from("SELECT"))
                ]
            ),
            "2023-10-17T20:46:17Z DEBUG first verb=SELECT\n\n  third \\u{1b}[2J\tx\n  sql:\n    SELECT 1\n      FROM x\n"
        );
    }

    #[test]
    fn long_sql_is_cut_at_a_character() {
        assert_eq!(shortened(&"x".repeat(8192)), "x".repeat(8192));
        assert_eq!(
            shortened(&"x".repeat(8200)),
            format!("{}… (8 bytes more)", "x".repeat(8192))
        );
        // Three bytes a letter, and 8192 is no multiple of three.
        assert_eq!(
            shortened(&"ก".repeat(2731)),
            format!("{}… (3 bytes more)", "ก".repeat(2730))
        );
    }

    #[test]
    fn durations_have_three_decimals() {
        assert_eq!(
            milliseconds(Duration::from_nanos(1_234_567)).to_string(),
            "1.234"
        );
        assert_eq!(milliseconds(Duration::from_secs(61)).to_string(), "61000");
    }

    /// What a logger with these settings writes of one record a level, of a foreign one, a query and a report.
    fn written(settings: Settings) -> String {
        #[derive(Clone, Default)]
        struct Shared(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0
                    .lock()
                    .expect("no test panics while it writes")
                    .extend(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let shared = Shared::default();
        let logger = builder(settings)
            .target(env_logger::Target::Pipe(Box::new(shared.clone())))
            .build();
        let log = |target, level, message: &str| {
            logger.log(
                &Record::builder()
                    .target(target)
                    .level(level)
                    .args(format_args!("{message}"))
                    .build(),
            );
        };
        for level in Level::iter() {
            log("lockstep::apply", level, &format!("at {level}"));
            log("postgres::config", level, "foreign");
        }
        log(QUERY, Level::Debug, "query");
        log(REPORT, Level::Error, "the end\n  hint: none");
        let bytes = shared.0.lock().expect("nothing writes any more").clone();
        String::from_utf8(bytes).expect("the log is UTF-8")
    }

    #[test]
    fn levels_hold_for_our_records_and_neither_for_queries_nor_for_the_report() {
        for (level, shown) in [
            (LevelFilter::Error, 1),
            (LevelFilter::Warn, 2),
            (LevelFilter::Info, 3),
            (LevelFilter::Debug, 4),
            (LevelFilter::Trace, 5),
        ] {
            for queries in [true, false] {
                let text = written(Settings {
                    level,
                    format: Format::Text,
                    queries,
                    layout: Layout::Plain,
                });
                assert_eq!(text.matches(" at ").count(), shown, "{text}");
                assert_eq!(text.contains(" DEBUG query\n"), queries, "{text}");
                assert!(!text.contains("foreign"), "{text}");
                assert!(text.ends_with("\nerror: the end\n  hint: none\n"), "{text}");

                let json = written(Settings {
                    level,
                    format: Format::Json,
                    queries,
                    layout: Layout::Plain,
                });
                assert_eq!(
                    json.lines().count(),
                    shown + 1 + usize::from(queries),
                    "{json}"
                );
                assert!(
                    json.ends_with("\"message\":\"the end\\n  hint: none\"}\n"),
                    "{json}"
                );
            }
        }
    }

    #[test]
    fn only_the_word_that_says_how_bad_it_is_gets_a_colour() {
        let warning = "2023-10-17T20:46:17Z WARN  a WARN b\n".to_owned();
        let error = "error: error: x\n".to_owned();
        let info = "2023-10-17T20:46:17Z INFO  WARN\n".to_owned();
        for (text, level, expected) in [
            (
                &warning,
                Level::Warn,
                "2023-10-17T20:46:17Z\u{1b}[33m WARN \u{1b}[0m a WARN b\n",
            ),
            (&error, Level::Error, "\u{1b}[31merror:\u{1b}[0m error: x\n"),
            (&info, Level::Info, info.as_str()),
        ] {
            let terminal = |paint| Layout::Terminal { columns: 80, paint };
            assert_eq!(coloured(text, level, terminal(Paint::Ansi)), expected);
            assert_eq!(coloured(text, level, terminal(Paint::None)), *text);
        }
    }
}
