//! The formats, to the letter.

use super::*;
use log::Log;
use std::sync::{Arc, Mutex};

const TIME: &str = "2023-10-17T20:46:17Z";

fn rendered(format: Format, level: Level, message: &str, fields: &[(&str, Value<'_>)]) -> String {
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
            Format::Text => text_line(&record, &format!("{TIME} {:<5} ", record.level()), message),
            Format::Json => json_line(&record, TIME, message),
        }
    };
    record(format_args!("{message}"))
}

#[test]
fn json_has_the_services_shape() {
    assert_eq!(
        rendered(Format::Json, Level::Debug, "running migrations on database", &[]),
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
        assert!(line.ends_with(&format!("\"message\":\"m\",\"k\":{expected}}}\n")), "{line}");
    }
}

#[test]
fn json_escapes_every_control_character_and_stays_one_line() {
    for code in 0..0x250_u32 {
        let c = char::from_u32(code).expect("no surrogate is below U+0250");
        let out = json::string(&c.to_string());
        assert!(!out.chars().any(char::is_control), "U+{code:04X} came out as it is");
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
    let out = json::string("ไทย 🐘 \u{2028}\u{2029}");
    assert_eq!(out, "\"ไทย 🐘 \\u2028\\u2029\"");
    let line = rendered(Format::Json, Level::Info, "a\r\nb", &[("sq\"l\n", Value::from("x\ny"))]);
    assert!(line.ends_with("\"message\":\"a\\r\\nb\",\"sq\\\"l\\n\":\"x\\ny\"}\n"), "{line}");
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
        (Some("/src/lockstep/src/config/conninfo.rs"), "src/config/conninfo.rs:3"),
        (None, "?:3"),
    ] {
        assert_eq!(caller(&Record::builder().file(file).line(Some(3)).build()), expected);
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
    assert_eq!(rendered(Format::Text, Level::Error, "m", &[]), "2023-10-17T20:46:17Z ERROR m\n");
}

#[test]
fn text_of_several_lines_stays_readable() {
    assert_eq!(
        rendered(
            Format::Text,
            Level::Debug,
            "first\r\n\nthird \u{1b}[2J\tx",
            &[("sql", Value::from("SELECT 1\n  FROM x\n")), ("verb", Value::from("SELECT"))]
        ),
        "2023-10-17T20:46:17Z DEBUG first verb=SELECT\n\n  third \\u{1b}[2J\tx\n  sql:\n    SELECT 1\n      FROM x\n"
    );
}

#[test]
fn long_sql_is_cut_at_a_character() {
    assert_eq!(shortened(&"x".repeat(8192)), "x".repeat(8192));
    assert_eq!(shortened(&"x".repeat(8200)), format!("{}… (8 bytes more)", "x".repeat(8192)));
    // Three bytes a letter, and 8192 is no multiple of three.
    assert_eq!(shortened(&"ก".repeat(2731)), format!("{}… (3 bytes more)", "ก".repeat(2730)));
}

#[test]
fn durations_have_three_decimals() {
    assert_eq!(milliseconds(Duration::from_nanos(1_234_567)).to_string(), "1.234");
    assert_eq!(milliseconds(Duration::from_secs(61)).to_string(), "61000");
}

/// What a logger with these settings writes of one record a level, of a foreign one, a query and a report.
fn written(settings: Settings) -> String {
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no test panics while it writes").extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let shared = Shared::default();
    let logger =
        builder(settings).target(env_logger::Target::Pipe(Box::new(shared.clone()))).build();
    let log = |target, level, message: &str| {
        logger.log(
            &Record::builder().target(target).level(level).args(format_args!("{message}")).build(),
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
            let text =
                written(Settings { level, format: Format::Text, queries, layout: Layout::Plain });
            assert_eq!(text.matches(" at ").count(), shown, "{text}");
            assert_eq!(text.contains(" DEBUG query\n"), queries, "{text}");
            assert!(!text.contains("foreign"), "{text}");
            assert!(text.ends_with("\nerror: the end\n  hint: none\n"), "{text}");

            let json =
                written(Settings { level, format: Format::Json, queries, layout: Layout::Plain });
            assert_eq!(json.lines().count(), shown + 1 + usize::from(queries), "{json}");
            assert!(json.ends_with("\"message\":\"the end\\n  hint: none\"}\n"), "{json}");
        }
    }
}

#[test]
fn a_terminal_gets_short_lines_and_a_colour_where_something_is_wrong() {
    let shown = |target, level, message: &str, has_colours| {
        let (columns, fields) = (24, [("k", Value::from(1))]);
        let record = |args| {
            let mut record = Record::builder();
            let record = record.target(target).level(level).key_values(&fields).args(args);
            terminal_text(
                &record.build(),
                message,
                Layout::Terminal { columns, has_colours },
                columns,
            )
        };
        record(format_args!("{message}"))
    };
    for (target, level, message, expected) in [
        ("lockstep", Level::Info, "a WARN", "a WARN\n"),
        ("lockstep", Level::Warn, "a warning: b", "\u{1b}[33mwarning:\u{1b}[0m a warning: b\n"),
        ("lockstep", Level::Info, "a message of many words", "a message of many words\n"),
        ("lockstep", Level::Info, "a message of many words x", "a message of many words\n  x\n"),
        (
            REPORT,
            Level::Error,
            "x\n  12 | SELECT one, two, three\n     |        ^\n  hint: neither one nor two",
            "\u{1b}[31merror:\u{1b}[0m x\n  12 | SELECT one, two,…\n     |        ^\n  hint: neither one nor\n    two\n",
        ),
    ] {
        assert_eq!(shown(target, level, message, true), expected);
        let plain = ["\u{1b}[33m", "\u{1b}[31m", "\u{1b}[0m"].iter();
        let plain = plain.fold(expected.to_owned(), |text, code| text.replace(code, ""));
        assert_eq!(shown(target, level, message, false), plain);
    }
}
