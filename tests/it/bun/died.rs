//! The real bun, killed in the middle of ten kinds of migration: what `unlock` says of it, and that what its answers end
//! with leads to the right schema and history. `tests/bun` is the program; it needs Go, and the module proxy once.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::support::{Gate, Scratch, tell, text, wait_until};

const SETUP: &str =
    "CREATE TABLE t (x int); CREATE TABLE d (); CREATE INDEX j ON t (x); CREATE TABLE log (x int)";
const VERSION: &str = "20230101000002";

/// What the server is waiting for when bun is killed.
#[derive(Clone, Copy, PartialEq)]
enum Held {
    Gate,
    /// A transaction that has written to `t`.
    Writer,
}

/// A kind of migration, and what is said of it if the server goes on with what it was sent, and if it does not.
struct Kind {
    name: &'static str,
    suffix: &'static str,
    text: &'static str,
    held: Held,
    finished: &'static str,
    ended: &'static str,
}

const NEVER: &str = "it most likely never did";
const RAN: &str = "it most likely ran";
const UNKNOWN: &str = "cannot be told";

const KINDS: [Kind; 10] = [
    kind(
        "create, tx",
        "tx.up",
        "CREATE TABLE n (); @",
        [NEVER, NEVER],
    ),
    kind("create", "up", "CREATE TABLE n (); @", [RAN, NEVER]),
    kind(
        "add column",
        "up",
        "@ ALTER TABLE t ADD COLUMN y int",
        [RAN, NEVER],
    ),
    kind("rename", "up", "ALTER TABLE t RENAME TO u; @", [RAN, NEVER]),
    kind(
        "split",
        "up",
        "CREATE TABLE n ();\n--bun:split\n@ CREATE TABLE m ();",
        [RAN, "in part: 1 of its 2"],
    ),
    kind(
        "split, tx",
        "tx.up",
        "DROP TABLE d;\n--bun:split\n@ CREATE TABLE e ();",
        [NEVER, NEVER],
    ),
    kind("type", "up", "CREATE TYPE e AS ENUM ('a'); @", [RAN, NEVER]),
    kind(
        "insert",
        "up",
        "INSERT INTO log VALUES (1); @",
        [UNKNOWN, UNKNOWN],
    ),
    Kind {
        held: Held::Writer,
        ..kind(
            "index",
            "up",
            "CREATE INDEX CONCURRENTLY i ON t (x)",
            [RAN, "index \"i\" is INVALID"],
        )
    },
    Kind {
        held: Held::Writer,
        ..kind(
            "drop index",
            "up",
            "DROP INDEX CONCURRENTLY j",
            [RAN, NEVER],
        )
    },
];

const fn kind(
    name: &'static str,
    suffix: &'static str,
    text: &'static str,
    [finished, ended]: [&'static str; 2],
) -> Kind {
    let held = Held::Gate;
    Kind {
        name,
        suffix,
        text,
        held,
        finished,
        ended,
    }
}

#[test]
fn what_bun_left_when_it_was_killed_is_told_and_mended_by_what_is_told_to_be_typed() {
    let Some(bun) = real_bun() else {
        return;
    };
    thread::scope(|scope| {
        for kind in &KINDS {
            let bun = &bun;
            scope.spawn(move || {
                for finishes in [true, false] {
                    play(bun, kind, finishes);
                }
            });
        }
    });
}

/// The program, if it can be built here.
fn real_bun() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bun = root.join("target/tmp/bun");
    let local = "/usr/local/go/bin/go";
    let go = if Path::new(local).exists() {
        local
    } else {
        "go"
    };
    let build = Command::new(go)
        .args(["build", "-o", &text(&bun), "."])
        .current_dir(root.join("tests/bun"))
        .output();
    match build {
        Ok(built) if built.status.success() => Some(bun),
        Ok(built) => {
            tell(&format!(
                "skipped: bun cannot be built: {}",
                String::from_utf8_lossy(&built.stderr)
            ));
            None
        }
        Err(error) => {
            tell(&format!("skipped: no Go to build bun with: {error}"));
            None
        }
    }
}

fn play(bun: &Path, kind: &Kind, finishes: bool) {
    let scratch = Scratch::with([("20230101000001_setup.up.sql", SETUP)]);
    let start = || {
        let mut command = Command::new(bun);
        let directory = scratch.migrations();
        command.args([
            &format!("{}?sslmode=disable", scratch.url()),
            &text(&directory),
        ]);
        command.stdout(Stdio::null()).spawn().expect("bun")
    };
    assert!(start().wait().expect("bun").success());
    add(&scratch, kind);
    let mut gate = Gate::closed(&scratch);
    let mut writer = scratch.client();
    if kind.held == Held::Writer {
        writer
            .batch_execute("BEGIN; INSERT INTO t VALUES (1)")
            .expect("a row");
    }
    let mut child = start();
    let waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let mut pid = Vec::new();
    wait_until("bun's statement waits", || {
        pid = scratch.sql(waiting);
        !pid.is_empty()
    });
    child.kill().expect("killed");
    child.wait().expect("gone");
    let unlock = |arguments: &[&str]| scratch.lockstep(&[&["unlock"], arguments].concat()).run();
    unlock(&[])
        .code(4)
        .says("it stays while these are at work:");
    if !finishes {
        scratch.sql(&format!("SELECT pg_terminate_backend({}, 10000)", pid[0]));
    }
    drop(writer);
    gate.open();
    drop(gate);
    wait_until("nobody is at work", || {
        scratch.value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'") == "1"
    });

    let said = if finishes { kind.finished } else { kind.ended };
    let outcome = unlock(&[]);
    outcome.code(4);
    assert!(outcome.error().contains(said), "{}: {outcome}", kind.name);
    let error = outcome.error();
    let (_, id) = error.rsplit_once("lockstep unlock ").expect("an id");
    let outcome = unlock(&[id]);
    outcome.code(0);
    assert!(outcome.stdout.contains(said), "{}: {outcome}", kind.name);
    let last = outcome
        .stdout
        .lines()
        .last()
        .expect("what to type")
        .to_owned();
    if said == UNKNOWN {
        // A person looks.
        let is_there = scratch.value("SELECT count(*) FROM log") == "1";
        assert_eq!(is_there, finishes, "{}", kind.name);
    } else if last.starts_with("run the rest of it by hand") {
        scratch.sql("CREATE TABLE m ()");
    } else if said.ends_with("INVALID") {
        scratch.sql("DROP INDEX i");
    }
    let forget = format!("lockstep forget {VERSION}");
    if last.ends_with(&forget) && !(said == UNKNOWN && finishes) {
        scratch.lockstep(&["forget", VERSION]).run().code(0);
    } else {
        assert!(
            last.ends_with("lockstep up") || said == UNKNOWN,
            "{}: {outcome}",
            kind.name
        );
    }
    scratch.up().code(0).is_up_to_date(2);
    let undisturbed = Scratch::with([("20230101000001_setup.up.sql", SETUP)]);
    add(&undisturbed, kind);
    undisturbed.up().code(0);
    assert_eq!(
        state(&scratch),
        state(&undisturbed),
        "{}, {finishes}",
        kind.name
    );
    tell(&format!("bun, {}: {last}", kind.name));
}

fn add(scratch: &Scratch, kind: &Kind) {
    let text = kind.text.replace('@', Gate::SQL);
    scratch.file(&format!("{VERSION}_x.{}.sql", kind.suffix), text);
}

/// History, schema and rows, but for the journal, which bun does not have.
fn state(scratch: &Scratch) -> Vec<String> {
    scratch.sql(
        "SELECT name FROM bun_migrations ORDER BY id; \
         SELECT c.relname, c.relkind, i.indisvalid, ARRAY(SELECT attname FROM pg_attribute a WHERE a.attrelid = c.oid AND attnum > 0) \
         FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid \
         WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'bun_%' ORDER BY 1; \
         SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typname NOT LIKE '%bun_%' ORDER BY 1; \
         SELECT count(*) FROM log",
    )
}
