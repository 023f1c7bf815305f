//! What a person sees while `up` works: on a terminal a line that is rewritten in place, elsewhere lines that stay, or
//! events. The terminal is a pseudo-terminal of util-linux's `script`, and a screen that does what a terminal would.

use std::process::Command;

use crate::support::{Gate, Lockstep, Outcome, Scratch, send_signal, wait_until};

/// Where these tests cannot be made, they say so.
pub fn has_script() -> bool {
    let version = Command::new("script").arg("--version").output();
    let found = version.is_ok_and(|it| String::from_utf8_lossy(&it.stdout).contains("util-linux"));
    if !found {
        eprintln!("skipped: there is no `script` of util-linux to make a terminal with");
    }
    found
}

/// `lockstep up` on a terminal; what that gets is in the outcome's stderr.
fn on_a_terminal(scratch: &Scratch) -> Lockstep<'_> {
    command_on_a_terminal(scratch, "up")
}

fn command_on_a_terminal<'a>(scratch: &'a Scratch, command: &str) -> Lockstep<'a> {
    let wrapper = ["/bin/sh", "-c", r#"exec script -qec "'$1' '$2'" /dev/null >&2"#, "sh"];
    scratch
        .lockstep(&[command])
        .env("DDL_LOCK_TIMEOUT_SECONDS", "0")
        .under(&wrapper.map(str::to_owned))
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("TERM", "xterm")
        .without("LOG_FORMAT")
}

/// A terminal's screen: what stands on it in the end, and what stood in its last line meanwhile.
#[derive(Default)]
pub struct Screen {
    pub lines: Vec<String>,
    pub frames: Vec<String>,
}

impl Screen {
    /// Shows it all. A sequence that no terminal of this test knows fails it.
    #[track_caller]
    pub fn of(output: &str) -> Screen {
        let mut screen = Screen::default();
        let (mut line, mut column) = (Vec::new(), 0);
        let mut characters = output.chars();
        while let Some(character) = characters.next() {
            match character {
                '\r' => {
                    screen.frames.push(line.iter().collect());
                    column = 0;
                }
                '\n' => {
                    screen.lines.push(line.iter().collect());
                    line.clear();
                }
                '\u{1b}' => {
                    let sequence: String =
                        characters.by_ref().take_while(|c| !c.is_ascii_alphabetic()).collect();
                    // It took the letter, too: erasing has no number, wrapping has this, and the rest are colours.
                    match sequence.as_str() {
                        "[" => line.truncate(column),
                        "[?7" | "[0" | "[31" | "[33" => {}
                        other => panic!("{other:?} in {output:?}"),
                    }
                }
                character => {
                    line.truncate(line.len().max(column));
                    match line.get_mut(column) {
                        Some(place) => *place = character,
                        None => line.push(character),
                    }
                    column += 1;
                }
            }
        }
        screen.frames.push(line.iter().collect());
        screen.lines.push(line.into_iter().collect());
        screen
    }

    /// The lines, with the target as `TARGET` and every duration at the end of a line as `T`.
    fn masked(&self) -> Vec<String> {
        let mask = |line: &String| match line.split_once(", PostgreSQL ") {
            Some((_, rest)) => {
                format!("TARGET: {}", rest.split_once(": ").expect("what is to be done").1)
            }
            None => match line.strip_suffix(" ms").or(line.strip_suffix(" s")) {
                Some(line) => {
                    let before = line.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
                    format!("{} T", before.trim_end())
                }
                None => line.clone(),
            },
        };
        self.lines.iter().map(mask).collect()
    }

    #[track_caller]
    fn assert_frame(&self, frame: &str) {
        let found = self.frames.iter().any(|it| it.starts_with(frame));
        assert!(found, "{frame:?} is none of {:#?}", self.frames);
    }
}

const SLOW: &str = "20240101000002_slow.up.sql";

/// Three migrations, the second of which stops at a gate, after a warning.
fn migrations(scratch: &Scratch) {
    scratch.file("20240101000001_fast.up.sql", "CREATE TABLE a ()");
    let warning = "DO $$ BEGIN RAISE WARNING 'mind'; END $$;";
    scratch.file(SLOW, format!("{warning}\n{}\nCREATE TABLE b ();", Gate::SQL));
    scratch.file("20240101000003_last.up.sql", "CREATE TABLE c ()");
}

const LEFT: [&str; 7] = [
    "TARGET: 3 of 3 pending",
    "1/3 applied fast 20240101000001 T",
    "warning: 20240101000002_slow.up.sql: WARNING: mind",
    "2/3 applied slow 20240101000002 T",
    "3/3 applied last 20240101000003 T",
    "the database is up to date: 3 migrations, 3 applied in T",
    "",
];

#[test]
fn a_terminal_shows_what_runs_and_keeps_one_line_for_each_migration() {
    if !has_script() {
        return;
    }
    let scratch = Scratch::new();
    migrations(&scratch);
    let mut gate = Gate::closed(&scratch);
    let mut run = on_a_terminal(&scratch).spawn();
    run.wait_for_log("for 3 s");
    gate.open();
    let outcome = run.wait();
    outcome.code(0);
    let screen = Screen::of(&outcome.stderr);
    assert_eq!(screen.masked(), LEFT, "{outcome}");
    for frame in [
        "1/3 fast …",
        "2/3 slow …",
        "2/3 slow: statement 2/3, SELECT, for 2 s",
        "2/3 slow: statement 2/3, SELECT, for 3 s",
        "3/3 last …",
    ] {
        screen.assert_frame(frame);
    }
    let too_soon = screen.frames.iter().any(|it| it.contains("for 1 s"));
    assert!(!too_soon, "{:#?}", screen.frames);
}

#[test]
fn colours_are_for_a_terminal_that_wants_them() {
    if !has_script() {
        return;
    }
    let scratch = Scratch::new();
    migrations(&scratch);
    for (no_color, has_colours) in [("", true), ("1", false)] {
        let outcome = on_a_terminal(&scratch).env("NO_COLOR", no_color).run();
        outcome.code(0);
        assert_eq!(Screen::of(&outcome.stderr).masked(), LEFT, "{outcome}");
        let warning = "\u{1b}[33mwarning:\u{1b}[0m ";
        assert_eq!(outcome.stderr.contains(warning), has_colours, "{outcome}");
        let colour = outcome.stderr.contains("\u{1b}[0m");
        assert_eq!(colour, has_colours, "{outcome}");
        scratch
            .sql("DROP TABLE a, b, c, bun_migrations, bun_migrations_journal, bun_migration_locks");
    }
}

/// Longer than a terminal is wide, the name gives way to what changes.
#[test]
fn a_live_line_is_no_wider_than_the_terminal() {
    if !has_script() {
        return;
    }
    let scratch = Scratch::new();
    let name = format!("20240101000001_{}.up.sql", "long_".repeat(40));
    scratch.file(&name, Gate::SQL);
    let mut gate = Gate::closed(&scratch);
    let mut run = on_a_terminal(&scratch).env("COLUMNS", "50").spawn();
    run.wait_for_log("SELECT, for 2 s");
    gate.open();
    let outcome = run.wait();
    outcome.code(0);
    let screen = Screen::of(&outcome.stderr);
    let live = screen.frames.iter().filter(|it| it.contains("SELECT"));
    let widths: Vec<usize> = live.map(|it| it.chars().count()).collect();
    assert!(!widths.is_empty() && widths.iter().all(|it| *it == 49), "{outcome}");
}

#[test]
fn a_statement_outside_a_transaction_shows_its_time_too() {
    if !has_script() {
        return;
    }
    let scratch = Scratch::new();
    scratch.sql("CREATE TABLE t (a int)");
    let mut older = scratch.client();
    older.batch_execute("BEGIN; INSERT INTO t VALUES (1)").expect("an older transaction");
    let file = "20240101000001_index.up.sql";
    scratch.file(file, "CREATE INDEX CONCURRENTLY i ON t (a)");
    let mut run = on_a_terminal(&scratch).spawn();
    run.wait_for_log("1/1 index: CREATE INDEX CONCURRENTLY, for 2 s");
    older.batch_execute("COMMIT").expect("its end");
    let outcome = run.wait();
    outcome.code(0);
    let screen = Screen::of(&outcome.stderr);
    let lines = screen.masked();
    assert!(lines.contains(&"1/1 applied index 20240101000001 T".to_owned()), "{outcome}");
    assert!(!lines.iter().any(|line| line.contains("for 2 s")), "{outcome}");
}

/// The first signal lets the migration end; the second does not, and nothing is left of the live line then.
#[test]
fn a_second_signal_leaves_no_line_half_written() {
    if !has_script() {
        return;
    }
    let scratch = Scratch::with([("20240101000001_slow.up.sql", Gate::SQL)]);
    let _gate = Gate::closed(&scratch);
    let mut run = on_a_terminal(&scratch).spawn();
    run.wait_for_log("SELECT, for 2 s");
    let pid = scratch.value(
        "SELECT min(substring(application_name FROM '/([0-9]+)( .*)?$')) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name LIKE 'lockstep/%'",
    );
    let interrupt = || send_signal("INT", &pid);
    interrupt();
    run.wait_for_log("a second signal stops at once");
    interrupt();
    let outcome = run.wait();
    outcome.code(130);
    let screen = Screen::of(&outcome.stderr);
    assert_eq!(
        screen.masked()[1..],
        ["SIGINT: stopping when 1/1 slow is done; a second signal stops at once", "",],
        "{outcome}"
    );
}

#[test]
fn an_error_stands_on_lines_of_its_own() {
    if !has_script() {
        return;
    }
    let scratch = Scratch::with([("20240101000001_a.up.sql", "CREATE TABLE a ();")]);
    let path = scratch.file("20240101000002_b.up.sql", "SELECT 1;\nSELECT 1/0;");
    let outcome = on_a_terminal(&scratch).env("COLUMNS", "200").run();
    outcome.code(1);
    assert_eq!(
        Screen::of(&outcome.stderr).masked(),
        [
            "TARGET: 2 of 2 pending",
            "1/2 applied a 20240101000001 T",
            &format!("error: {}:2:1: division by zero (SQLSTATE 22012)", path.display()),
            "  2 | SELECT 1/0;",
            "  statement 2 of 2: SELECT",
            "  rolled back; 1 migration before it stays applied; fix the file and run again",
            "",
        ],
        "{outcome}"
    );
    assert!(outcome.stderr.contains("\u{1b}[31merror:\u{1b}[0m "), "{outcome}");
}

/// What cannot move a cursor, or need not, gets lines: nothing is rewritten, nothing coloured, nothing left out.
#[test]
fn without_a_terminal_that_can_there_are_lines_only() {
    let scratch = Scratch::with([("20240101000001_a.up.sql", "CREATE TABLE a ();")]);
    let check = |outcome: &Outcome| {
        outcome.code(0);
        assert!(!outcome.stderr.contains('\u{1b}'), "{outcome}");
        outcome.applied_one(1, 1);
        scratch.sql("DROP TABLE a; TRUNCATE bun_migrations, bun_migrations_journal");
    };
    check(&scratch.lockstep(&["up"]).env("LOG_FORMAT", "text").run());
    check(&scratch.up());
    if has_script() {
        check(&on_a_terminal(&scratch).env("TERM", "dumb").run());
        check(&on_a_terminal(&scratch).env("LOG_FORMAT", "json").run());
    }
}

#[test]
fn the_way_back_is_shown_as_the_way_up_is() {
    if !has_script() {
        return;
    }
    let scratch = Scratch::migrated([
        ("20240101000001_a.up.sql", "CREATE TABLE a ();"),
        ("20240101000001_a.down.sql", "DROP TABLE a;"),
    ]);
    let outcome = command_on_a_terminal(&scratch, "down").run();
    outcome.code(0);
    let screen = Screen::of(&outcome.stderr);
    screen.assert_frame("1/1 a …");
    let lines = screen.masked();
    let left = "1/1 rolled back a 20240101000001 T";
    assert!(lines.iter().any(|line| line == left), "{outcome}");
    assert!(!lines.iter().any(|line| line.contains('…')), "{outcome}");
}

/// Who wants warnings only gets no more for having a terminal.
#[test]
fn a_quiet_log_has_no_live_line() {
    if !has_script() {
        return;
    }
    let scratch = Scratch::new();
    migrations(&scratch);
    let outcome = on_a_terminal(&scratch).env("LOG_LEVEL", "WARN").run();
    outcome.code(0);
    assert_eq!(Screen::of(&outcome.stderr).masked(), [LEFT[2], ""], "{outcome}");
    assert!(!outcome.stderr.contains('…'), "{outcome}");
}

/// The same as events: the start, a sign of life of what takes long, the end, the summary.
#[test]
fn a_program_gets_events() {
    let scratch = Scratch::new();
    migrations(&scratch);
    let mut gate = Gate::closed(&scratch);
    let run = scratch.patient_up().spawn();
    gate.wait_for_visitor();
    wait_until("it tells that it still runs", || run.log().contains("still running"));
    gate.open();
    let outcome = run.wait();
    outcome.code(0);
    let lines = outcome.lines();
    let about = |version: &str| -> Vec<&str> {
        let lines = lines.iter().filter(|line| line.field("version") == Some(version));
        lines.filter_map(|line| line.field("message")).collect()
    };
    let slow = about("20240101000002");
    let [start, warning, running, applied] = slow[..] else {
        panic!("four events of one migration: {slow:#?}\n{outcome}")
    };
    assert_eq!(start, format!("2/3 applying {SLOW}"));
    assert_eq!(warning, format!("{SLOW}: WARNING: mind"));
    assert!(running.starts_with("2/3 slow is still running: statement 2/3, SELECT, for "));
    assert!(applied.starts_with("2/3 applied slow 20240101000002 "));
    assert_eq!(about("20240101000001").len(), 2, "{outcome}");

    let event = lines.iter().find(|line| line.field("running_ms").is_some());
    let event = event.expect("an event");
    for (name, value) in [("level", "info"), ("statement", "2"), ("of", "3"), ("verb", "SELECT")] {
        assert_eq!(event.field(name), Some(value), "{outcome}");
    }
    let number = |line: &crate::support::Line, name: &str| -> f64 {
        let value = line.field(name).unwrap_or_else(|| panic!("{name}\n{outcome}"));
        value.parse().expect("a number")
    };
    assert!(number(event, "running_ms") >= 2000.0, "{outcome}");
    let summary = lines.last().expect("a summary");
    assert_eq!(number(summary, "applied"), 3.0);
    assert_eq!(number(summary, "total"), 3.0);
    assert!(number(summary, "duration_ms") > number(event, "running_ms"), "{outcome}");
}
