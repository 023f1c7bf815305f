//! What people see, as they see it: each screen on terminals of 80 and of 120 columns and in a pipe, word for word, so that
//! a change of looks is a change here. What differs from run to run is masked: durations as `T`, process ids as `N`.

use postgres::Client;

use super::terminal::{Screen, has_script};
use crate::support::{Gate, Lockstep, Outcome, Running, Scratch, server};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Surface {
    Terminal(usize),
    Pipe,
}

const SURFACES: [Surface; 3] = [Surface::Terminal(80), Surface::Terminal(120), Surface::Pipe];

/// An invocation whose stdout and stderr go there.
fn on<'a>(surface: Surface, scratch: &'a Scratch, arguments: &[&str]) -> Lockstep<'a> {
    let script = match surface {
        Surface::Terminal(columns) => {
            format!("exec script -qec \"stty rows 40 cols {columns}; $*\" /dev/null >&2")
        }
        Surface::Pipe => "exec \"$@\" >&2".to_owned(),
    };
    let wrapper = ["/bin/sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()];
    let run = scratch.lockstep(arguments).without("LOG_FORMAT").under(&wrapper);
    run.env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("TERM", "xterm")
        .env("NO_COLOR", "1")
        .env("MIGRATIONS_DIR", "migrations")
        .env("DDL_LOCK_TIMEOUT_SECONDS", "0")
}

/// What stands there in the end, and what stood in a terminal's last line meanwhile.
fn shown(surface: Surface, scratch: &Scratch, outcome: &Outcome) -> (String, Vec<String>) {
    match surface {
        Surface::Pipe => (masked(scratch, &outcome.stderr), Vec::new()),
        Surface::Terminal(_) => {
            let screen = Screen::of(&outcome.stderr);
            let frames = screen.frames.iter().map(|it| masked(scratch, it));
            (masked(scratch, &screen.lines.join("\n")), frames.collect())
        }
    }
}

/// Masks what differs from run to run.
fn masked(scratch: &Scratch, text: &str) -> String {
    let (host, port) = (&server().host, server().port);
    let version = scratch.value("SHOW server_version");
    let short = version.split(' ').next().unwrap_or_default();
    let text = text
        .replace(&format!("{host}:{port}"), "db:5432")
        .replace(&scratch.database, "app")
        .replace(&format!("PostgreSQL {version}"), "PostgreSQL V")
        .replace(&format!("PostgreSQL {short}"), "PostgreSQL V");
    let lines = text.lines().map(masked_line);
    lines.collect::<Vec<_>>().join("\n")
}

/// Times of day, durations, process ids, hosts.
fn masked_line(line: &str) -> String {
    let is_log = line.get(4..5) == Some("-") && line.get(19..21) == Some("Z ");
    let line = if is_log { format!("TIME {}", &line[21..]) } else { line.to_owned() };
    let words: Vec<&str> = line.split(' ').collect();
    let number =
        |word: &str| word.starts_with(|c: char| c.is_ascii_digit()) && word.parse::<f64>().is_ok();
    let (mut out, mut at) = (Vec::<String>::new(), 0);
    while at < words.len() {
        let (word, next) = (words[at], words.get(at + 1).copied().unwrap_or_default());
        let unit = next.trim_end_matches([',', ';', ':', ')']);
        if number(word) && matches!(unit, "ms" | "s") {
            // A duration that is aligned has blanks before it, as many as it leaves.
            while out.last().is_some_and(String::is_empty) && out.iter().any(|it| !it.is_empty()) {
                out.pop();
            }
            out.push(format!("T{}", &next[unit.len()..]));
            at += 2;
            continue;
        }
        let bare = word.trim_end_matches([',', ';', ':']);
        let is_pid = out.last().is_some_and(|it| it == "pid") && number(bare);
        let is_host = out.last().is_some_and(|it| it.starts_with("lockstep/"));
        out.push(match (is_pid, is_host) {
            (true, _) => format!("N{}", &word[bare.len()..]),
            (_, true) => format!("HOST{}", &word[bare.len()..]),
            _ => word.to_owned(),
        });
        at += 1;
    }
    out.join(" ")
}

/// Compares; what a terminal of 120 columns and a pipe show is given as what differs from the first, or as a whole.
#[track_caller]
fn assert_picture(surface: Surface, shown: &str, at_80: &str, at_120: &str, piped: &str) {
    let (what, expected) = match surface {
        Surface::Terminal(80) => ("80 columns", at_80),
        Surface::Terminal(_) => ("120 columns", at_120),
        Surface::Pipe => ("a pipe", piped),
    };
    assert!(shown.trim_end() == expected.trim_end(), "{what}:\n{shown}");
}

/// Calls with each surface that can be had.
fn each(picture: impl Fn(Surface)) {
    let terminals = has_script();
    let surfaces = SURFACES.into_iter().filter(|it| terminals || *it == Surface::Pipe);
    surfaces.for_each(picture);
}

fn finished(run: Running, code: i32) -> Outcome {
    let outcome = run.wait();
    outcome.code(code);
    outcome
}

/// A session called `report` that holds a lock on the table, in a transaction.
fn holder(scratch: &Scratch, lock: &str) -> Client {
    let mut client = scratch.client();
    let begin = format!("SET application_name = report; BEGIN; LOCK TABLE t IN {lock} MODE");
    client.batch_execute(&begin).expect("the lock");
    client
}

const MIGRATIONS: [(&str, &str); 3] = [
    ("20240102030405_create_notes.up.sql", "CREATE TABLE notes (id int, text varchar(10));"),
    ("20240103101500_fill.up.sql", "INSERT INTO notes VALUES (1);"),
    ("20240104081200_count_by_response_backend_and_route.up.sql", "CREATE INDEX ON notes (text);"),
];

#[test]
fn up() {
    each(|surface| {
        let scratch = Scratch::with(MIGRATIONS);
        let outcome = finished(on(surface, &scratch, &["up"]).spawn(), 0);
        let terminal = "\
postgres@db:5432/app, PostgreSQL V: 3 of 3 pending
1/3 applied create_notes                        20240102030405 T
2/3 applied fill                                20240103101500 T
3/3 applied count_by_response_backend_and_route 20240104081200 T
the database is up to date: 3 migrations, 3 applied in T";
        let piped = "\
TIME INFO  postgres@db:5432/app, PostgreSQL V: 3 of 3 pending
TIME INFO  1/3 applied create_notes                        20240102030405 T
TIME INFO  2/3 applied fill                                20240103101500 T
TIME INFO  3/3 applied count_by_response_backend_and_route 20240104081200 T
TIME INFO  the database is up to date: 3 migrations, 3 applied in T";
        let (lines, _) = shown(surface, &scratch, &outcome);
        assert_picture(surface, &lines, terminal, terminal, piped);
    });
}

#[test]
fn an_error() {
    each(|surface| {
        let scratch = Scratch::migrated(MIGRATIONS);
        let wrong = "-- Who wrote it.\nALTER TABLE notes ADD COLUMN author varchr, ADD COLUMN written_at timestamptz;\n";
        scratch.file("20240105090000_add_author.up.sql", wrong);
        let outcome = finished(on(surface, &scratch, &["up"]).spawn(), 1);
        let (lines, _) = shown(surface, &scratch, &outcome);
        let at_80 = "\
postgres@db:5432/app, PostgreSQL V: 1 of 4 pending
error: migrations/20240105090000_add_author.up.sql:2:37: type \"varchr\" does not
  exist (SQLSTATE 42704)
  2 | ALTER TABLE notes ADD COLUMN author varchr, ADD COLUMN written_at timest…
    |                                     ^
  rolled back; this run applied nothing before it; fix the file and run again";
        let wide = "\
postgres@db:5432/app, PostgreSQL V: 1 of 4 pending
error: migrations/20240105090000_add_author.up.sql:2:37: type \"varchr\" does not exist (SQLSTATE 42704)
  2 | ALTER TABLE notes ADD COLUMN author varchr, ADD COLUMN written_at timest…
    |                                     ^
  rolled back; this run applied nothing before it; fix the file and run again";
        assert_picture(surface, &lines, at_80, wide, &format!("TIME INFO  {wide}"));
    });
}

#[test]
fn waiting() {
    each(|surface| {
        let scratch = Scratch::with([("20240107000000_backfill.up.sql", Gate::SQL)]);
        let mut gate = Gate::closed(&scratch);
        let first = scratch.patient_up().spawn();
        gate.wait_for_visitor();
        let mut second = on(surface, &scratch, &["up"]).spawn();
        second.wait_for_log("still waiting, gives up in 29");
        gate.open();
        first.wait().code(0);
        let (lines, frames) = shown(surface, &scratch, &finished(second, 0));
        let (running, blocked) =
            ("running backfill 20240107000000, for T", "blocked by pid N (idle)");
        let from = &server().host;
        let whom = format!(
            "waiting for another runner: pid N, lockstep/{} HOST, from {from}",
            env!("CARGO_PKG_VERSION")
        );
        let first = format!("{whom}: {running}, {blocked}; gives up in T");
        // A number and its unit may have stood on two lines.
        let joined = lines.replace("\n  ", " ");
        let joined: Vec<String> = joined.lines().map(masked_line).collect();
        let joined = joined.join("\n");
        let still = format!("still waiting, gives up in T: {running}, {blocked}");
        let target = "postgres@db:5432/app, PostgreSQL V: 1 of 1 pending";
        let last =
            "the database is up to date: 1 migration; another runner has applied what was pending";
        let terminal = format!("{target}\n{first}\n{last}");
        let piped = format!(
            "TIME INFO  {target}\nTIME INFO  {first}\nTIME INFO  {still}\nTIME INFO  {last}"
        );
        assert_picture(surface, &joined, &terminal, &terminal, &piped);
        let live = frames
            .iter()
            .any(|it| it.starts_with("still waiting, gives up in T: running backfill"));
        assert_eq!(live, surface != Surface::Pipe, "{frames:#?}");
    });
}

#[test]
fn a_long_build() {
    each(|surface| {
        let scratch = Scratch::with([(
            "20240107000000_index.up.sql",
            "CREATE INDEX CONCURRENTLY i ON t (a)",
        )]);
        scratch.sql("CREATE TABLE t (a int)");
        let mut writer = holder(&scratch, "ROW EXCLUSIVE");
        let mut run = on(surface, &scratch, &["up"]).spawn();
        run.wait_for_log("CREATE INDEX CONCURRENTLY, for 2 s, blocked by pid ");
        writer.batch_execute("COMMIT").expect("its end");
        assert_watched(
            surface,
            &shown(surface, &scratch, &finished(run, 0)),
            [
                "CREATE INDEX CONCURRENTLY, for T, blocked by pid N report",
                " (idle in transaction for T)",
                ", waiting for writers before build",
            ],
            "index",
        );
    });
}

/// The screen of a run of one migration that took long: what was said of it meanwhile, in its last line or as one of its
/// own; and what is left in the end. A terminal that is too narrow lacks the last pieces.
#[track_caller]
fn assert_watched(
    surface: Surface,
    (lines, frames): &(String, Vec<String>),
    told: [&str; 3],
    name: &str,
) {
    let told = match surface {
        Surface::Terminal(80) => told[0].to_owned(),
        Surface::Terminal(_) => told[..2].concat(),
        Surface::Pipe => told.concat(),
    };
    let at_the_end = format!(
        "\
postgres@db:5432/app, PostgreSQL V: 1 of 1 pending
1/1 applied {name} 20240107000000 T
the database is up to date: 1 migration, 1 applied in T"
    );
    let piped = format!(
        "\
TIME INFO  postgres@db:5432/app, PostgreSQL V: 1 of 1 pending
TIME INFO  1/1 {name} is still running: {told}
TIME INFO  1/1 applied {name} 20240107000000 T
TIME INFO  the database is up to date: 1 migration, 1 applied in T"
    );
    // On a busy machine it is said once more.
    let mut lines: Vec<&str> = lines.lines().collect();
    lines.dedup();
    let lines = lines.join("\n");
    assert_picture(surface, &lines, &at_the_end, &at_the_end, &piped);
    if surface != Surface::Pipe {
        let live = format!("1/1 {name}: {told}");
        let found = frames.iter().any(|it| it.starts_with(&live));
        assert!(found, "{live:?} begins none of {frames:#?}");
    }
}

#[test]
fn a_blocked_statement() {
    each(|surface| {
        let scratch = Scratch::with([("20240107000000_add.up.sql", "ALTER TABLE t ADD b int")]);
        scratch.sql("CREATE TABLE t (a int)");
        let mut reader = holder(&scratch, "ACCESS SHARE");
        let mut run = on(surface, &scratch, &["up"]).spawn();
        run.wait_for_log("blocked by pid ");
        reader.batch_execute("COMMIT").expect("its end");
        assert_watched(
            surface,
            &shown(surface, &scratch, &finished(run, 0)),
            ["ALTER TABLE, for T, blocked by pid N report", " (idle in transaction for T)", ""],
            "add",
        );
    });
}

#[test]
fn unlock() {
    each(|surface| {
        let scratch = Scratch::migrated(MIGRATIONS);
        let outcome = finished(on(surface, &scratch, &["unlock"]).spawn(), 0);
        let text = "the migration lock is free: there is no row in public.bun_migration_locks";
        let target = "postgres@db:5432/app, PostgreSQL V: the migration lock";
        let terminal = format!("{target}\n{text}");
        let piped = format!("TIME INFO  {target}\n{text}");
        let (lines, _) = shown(surface, &scratch, &outcome);
        assert_picture(surface, &lines, &terminal, &terminal, &piped);
    });
}

#[test]
fn status() {
    each(|surface| {
        let scratch = Scratch::with(MIGRATIONS);
        let outcome = finished(on(surface, &scratch, &["status"]).spawn(), 0);
        let (lines, _) = shown(surface, &scratch, &outcome);
        let head = "\
server    db:5432, PostgreSQL V
database  app as postgres
history   none: bun_migrations is not there yet
lock      free
";
        let wide = format!(
            "{head}
version         name                                 state    when  group  took
20240102030405  create_notes                         pending  -         -     -
20240103101500  fill                                 pending  -         -     -
20240104081200  count_by_response_backend_and_route  pending  -         -     -

3 pending; the lock is free"
        );
        assert_picture(surface, &lines, &wide, &wide, &wide);
    });
}

#[test]
fn plan() {
    each(|surface| {
        let scratch = Scratch::migrated([MIGRATIONS[0]]);
        scratch.file(
            "20240108000000_wide.up.sql",
            "ALTER TABLE notes ADD COLUMN token uuid NOT NULL DEFAULT gen_random_uuid();\nDELETE FROM notes;\n",
        );
        let outcome = finished(on(surface, &scratch, &["plan"]).spawn(), 0);
        let (lines, _) = shown(surface, &scratch, &outcome);
        let with = |statement: &str| {
            format!(
                "20240108000000_wide.up.sql: in a transaction
  line 1: {statement}
    ACCESS EXCLUSIVE on notes
    warning: rewrites notes; nobody can read or write it meanwhile
      safer: add the column plain, fill it in batches, and then set its default
  line 2: DELETE FROM notes
    ROW EXCLUSIVE on notes
    warning: empties notes
      safer: DELETE in batches, if anybody still reads it"
            )
        };
        let narrow = with("ALTER TABLE notes ADD COLUMN token uuid NOT NULL DEFAULT gen_random_u…");
        let wide =
            with("ALTER TABLE notes ADD COLUMN token uuid NOT NULL DEFAULT gen_random_uuid()");
        let shown = lines.split("\n    warning: goes through").next().unwrap_or_default();
        assert_picture(surface, shown, &narrow, &wide, &narrow);
        assert!(
            lines.ends_with(
                "1 migration pending, 2 statements, 3 warnings\n  ACCESS EXCLUSIVE on notes"
            ),
            "{lines}"
        );
    });
}

#[test]
fn import() {
    each(|surface| {
        let scratch = Scratch::new();
        let from = scratch.directory.join("old");
        std::fs::create_dir(&from).expect("a directory");
        std::fs::write(from.join("000001_init.up.sql"), "CREATE TABLE a ();").expect("a file");
        std::fs::write(from.join("000001_init.down.sql"), "DROP TABLE a;").expect("a file");
        let run = on(surface, &scratch, &["import", "old"]).without("DATABASE_URL");
        let (lines, _) = shown(surface, &scratch, &finished(run.spawn(), 0));
        let head = "\
1 migration of golang-migrate or sqlx or bun, from old to migrations:
  000001_init.up.sql → 00000000000001_init.up.sql
  000001_init.down.sql → 00000000000001_init.down.sql

next:";
        let narrow = format!(
            "{head}
  on a database that golang-migrate or sqlx or bun has migrated, look in
    schema_migrations or _sqlx_migrations or bun_migrations for the newest
    version there,
  and record all up to its new name: lockstep baseline VERSION
  (with DATABASE_URL set, `lockstep import` reads that table and names the
    version)"
        );
        let wide = format!(
            "{head}
  on a database that golang-migrate or sqlx or bun has migrated, look in schema_migrations or _sqlx_migrations or
    bun_migrations for the newest version there,
  and record all up to its new name: lockstep baseline VERSION
  (with DATABASE_URL set, `lockstep import` reads that table and names the version)"
        );
        let piped = wide.replace("or\n    bun", "or bun");
        let written = "2 files written into migrations";
        assert_picture(
            surface,
            &lines,
            &format!("{written}\n{narrow}"),
            &format!("{written}\n{wide}"),
            &format!("TIME INFO  {written}\n{piped}"),
        );
    });
}
