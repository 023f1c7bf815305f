//! The real bun, killed in the middle of ten kinds of migration: what `unlock` says of it, and that what its answers end
//! with leads to the right schema and history. `tests/bun` is the program; it needs Go, and the module proxy once.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::support::proxy::{Seen, Side};
use crate::support::site::{Moment, Site, in_parallel, moments};
use crate::support::{Gate, Scratch, is_soak, server, tell, text, wait_until};

const SETUP: (&str, &str) = (
    "20230101000001_setup.up.sql",
    "CREATE TABLE t (x int); CREATE TABLE d (); CREATE INDEX j ON t (x); CREATE TABLE log (x int)",
);
const VERSION: &str = "20230101000002";

/// At how many points of each kind of migration bun is killed, in a soak; else at two, and at each in one kind or another.
const POINTS: usize = 10;

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
    kind("create, tx", "tx.up", "CREATE TABLE n (); @", [NEVER, NEVER]),
    kind("create", "up", "CREATE TABLE n (); @", [RAN, NEVER]),
    kind("add column", "up", "@ ALTER TABLE t ADD COLUMN y int", [RAN, NEVER]),
    kind("rename", "up", "ALTER TABLE t RENAME TO u; @", [RAN, NEVER]),
    kind(
        "split",
        "up",
        "CREATE TABLE n ();\n--bun:split\n@ CREATE TABLE m ();",
        [RAN, "in part: 1 of its 2"],
    ),
    kind("split, tx", "tx.up", "DROP TABLE d;\n--bun:split\n@ CREATE TABLE e ();", [NEVER, NEVER]),
    kind("type", "up", "CREATE TYPE e AS ENUM ('a'); @", [RAN, NEVER]),
    kind("insert", "up", "INSERT INTO log VALUES (1); @", [UNKNOWN, UNKNOWN]),
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
        ..kind("drop index", "up", "DROP INDEX CONCURRENTLY j", [RAN, NEVER])
    },
];

const fn kind(
    name: &'static str,
    suffix: &'static str,
    text: &'static str,
    [finished, ended]: [&'static str; 2],
) -> Kind {
    let held = Held::Gate;
    Kind { name, suffix, text, held, finished, ended }
}

#[test]
fn what_bun_left_when_it_was_killed_is_told_and_mended_by_what_is_told_to_be_typed() {
    let Some(bun) = real_bun("go.mod") else {
        return;
    };
    in_parallel(KINDS.iter(), |kind| {
        let end = with_it(kind);
        held(&bun, kind, true, &end);
        held(&bun, kind, false, &end);
    });
}

#[test]
fn wherever_bun_is_killed_what_is_told_to_be_typed_leads_to_the_same_end() {
    let Some(bun) = real_bun("go.mod") else {
        return;
    };
    in_parallel(KINDS.iter().enumerate(), |(number, kind)| {
        struck(&bun, kind, &with_it(kind), number);
    });
}

/// The program, if it can be built here, of the bun that this module file asks for. One after the other: of two tests that
/// built it at once, each would do all the work, and the slower one would replace what the other runs.
pub fn real_bun(module: &str) -> Option<PathBuf> {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bun = root.join("target/tmp").join(module.replace(".mod", "-bun"));
    let local = "/usr/local/go/bin/go";
    let go = if Path::new(local).exists() { local } else { "go" };
    let build = Command::new(go)
        .args(["build", "-modfile", module, "-o", &text(&bun), "."])
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

/// A database in which bun has applied the first file, and has the second one to do.
fn stage(bun: &Path, kind: &Kind) -> Site {
    let site = Site::with([SETUP]);
    assert!(start(bun, &site.scratch, server().port).wait().expect("bun").success());
    add(&site.scratch, kind);
    site
}

pub fn start(bun: &Path, scratch: &Scratch, port: u16) -> Child {
    let url = format!("postgres://postgres@127.0.0.1:{port}/{}?sslmode=disable", scratch.database);
    let mut command = Command::new(bun);
    command.args([&url, &text(&scratch.migrations())]);
    command.stdout(Stdio::null()).spawn().expect("bun")
}

/// Its statement waits when it is killed, and then ends in one way or the other.
fn held(bun: &Path, kind: &Kind, finishes: bool, end: &[String]) {
    let Site { scratch, .. } = &stage(bun, kind);
    let mut gate = Gate::closed(scratch);
    let mut writer = scratch.client();
    if kind.held == Held::Writer {
        writer.batch_execute("BEGIN; INSERT INTO t VALUES (1)").expect("a row");
    }
    let mut child = start(bun, scratch, server().port);
    let waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let mut pid = Vec::new();
    wait_until("bun's statement waits", || {
        pid = scratch.sql(waiting);
        !pid.is_empty()
    });
    child.kill().expect("killed");
    child.wait().expect("gone");
    scratch.lockstep(&["unlock"]).run().code(4).says("it stays while these are at work:");
    if !finishes {
        scratch.sql(&format!("SELECT pg_terminate_backend({}, 10000)", pid[0]));
    }
    drop(writer);
    gate.open();
    drop(gate);
    let said = mend(scratch, kind, end);
    let expected = if finishes { kind.finished } else { kind.ended };
    assert!(said.contains(expected), "{}: {said}", kind.name);
    tell(&format!("bun, {}: {said}", kind.name));
}

/// It is killed at so many of its messages, before and after the server has them, beginning with this one.
fn struck(bun: &Path, kind: &Kind, end: &[String], first: usize) {
    let site = stage(bun, kind);
    let proxy = site.proxy(None);
    let undisturbed = start(bun, &site.scratch, proxy.port).wait();
    assert!(undisturbed.expect("bun").success());
    let seen = proxy.seen();
    let locks = |it: &Seen| it.query.starts_with("INSERT INTO bun_migration_locks");
    let begin = seen.iter().position(locks).expect("bun's lock");
    let mut moments = moments(&seen);
    let counts = |number: usize| number >= begin && seen[number].from == Side::Client;
    moments.retain(|it| counts(it.0));
    let step = if is_soak() { 1 } else { 5 };
    for point in (first % step..POINTS).step_by(step) {
        let (message, moment) = moments[point * moments.len() / POINTS];
        let Site { scratch, .. } = &stage(bun, kind);
        let proxy = site.proxy(Some(message));
        let mut child = start(bun, scratch, proxy.port);
        let is_over = || child.try_wait().expect("bun").is_some();
        assert!(proxy.wait_for_hold(is_over), "{}: {}", kind.name, seen[message]);
        if moment != Moment::Before {
            proxy.pass();
        }
        child.kill().expect("killed");
        child.wait().expect("gone");
        proxy.close();
        let said = mend(scratch, kind, end);
        tell(&format!("bun, {}, {moment:?} {}: {said}", kind.name, seen[message]));
    }
}

/// Types what it is told to, and comes to the end that an undisturbed run comes to. Returns what was said.
fn mend(scratch: &Scratch, kind: &Kind, end: &[String]) -> String {
    wait_until("nobody is at work", || {
        scratch.value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'") == "1"
    });
    let is_recorded = scratch.history().len() == 2;
    let done = work(scratch);
    let mut said = "no row".to_owned();
    if scratch.value("SELECT count(*) FROM bun_migration_locks") == "1" {
        let unlock =
            |arguments: &[&str]| scratch.lockstep(&[&["unlock"], arguments].concat()).run();
        let outcome = unlock(&[]);
        outcome.code(4);
        let error = outcome.error();
        let (_, id) = error.rsplit_once("lockstep unlock ").expect("an id");
        let outcome = unlock(&[id]);
        outcome.code(0);
        let lines: Vec<&str> = outcome.stdout.lines().collect();
        said = lines[1..].join("; ");
        let doubt = lines[1..].iter().find(|it| it.contains(VERSION));
        assert_eq!(doubt.is_some(), is_recorded, "{}: {outcome}", kind.name);
        if is_recorded {
            assert!(error.contains(lines[1]), "{}: {error}", kind.name);
            assert!(!said.contains(RAN) || done == end, "{}: {said}", kind.name);
            assert!(!said.contains(NEVER) || done != end, "{}: {said}", kind.name);
            obey(scratch, &said, done == end);
        }
    }
    scratch.up().code(0).is_up_to_date(2);
    assert_eq!(work(scratch), end, "{}: {said}", kind.name);
    assert_eq!(scratch.history()[1..], [VERSION], "{}: {said}", kind.name);
    scratch.assert_unlocked();
    said
}

/// Does what the answer ends with. Where it asks a person to look, that person sees whether all of the work is there.
fn obey(scratch: &Scratch, said: &str, is_there: bool) {
    let asks = said.contains(UNKNOWN);
    if said.contains("run the rest of it by hand") {
        scratch.sql("CREATE TABLE m ()");
    } else if said.contains("INVALID") {
        scratch.sql("DROP INDEX i");
    }
    if said.ends_with(&format!("lockstep forget {VERSION}")) {
        if !(asks && is_there) {
            scratch.lockstep(&["forget", VERSION]).run().code(0);
        }
    } else {
        assert!(said.ends_with("lockstep up"), "{said}");
    }
}

fn add(scratch: &Scratch, kind: &Kind) {
    let text = kind.text.replace('@', Gate::SQL);
    scratch.file(&format!("{VERSION}_x.{}.sql", kind.suffix), text);
}

/// What there is with the migration.
fn with_it(kind: &Kind) -> Vec<String> {
    let scratch = Scratch::migrated([SETUP]);
    add(&scratch, kind);
    scratch.up().code(0);
    work(&scratch)
}

/// Schema and rows, but for those of the history.
fn work(scratch: &Scratch) -> Vec<String> {
    scratch.sql(
        "SELECT c.relname, c.relkind, i.indisvalid, ARRAY(SELECT attname FROM pg_attribute a WHERE a.attrelid = c.oid AND attnum > 0) \
         FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid \
         WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'bun_%' ORDER BY 1; \
         SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typname NOT LIKE '%bun_%' ORDER BY 1; \
         SELECT count(*) FROM log",
    )
}
