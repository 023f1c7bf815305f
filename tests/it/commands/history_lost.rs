//! What would make a file run twice: a history that the `search_path` does not lead to any more, and a file that was
//! renamed. Nothing of it runs, from whichever command, and each says what to type.

use crate::support::pgbouncer::{Mode, PgBouncer};
use crate::support::steps::{file, version};
use crate::support::{Scratch, text};

const COMMANDS: [&[&str]; 9] = [
    &["up"],
    &["down"],
    &["status"],
    &["check"],
    &["wait"],
    &["plan"],
    &["baseline", "latest"],
    &["unlock"],
    &["forget", "20230101000001"],
];

/// Counts how often it runs.
const COUNTED: &str =
    "CREATE TABLE IF NOT EXISTS public.ran (a int); INSERT INTO public.ran VALUES (1)";

fn times(scratch: &Scratch) -> String {
    scratch.value("SELECT count(*) FROM public.ran")
}

#[test]
fn a_history_that_the_search_path_does_not_lead_to_is_not_begun_anew() {
    let change = format!(
        "{COUNTED}; CREATE SCHEMA IF NOT EXISTS app; DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = app', \
         current_database()); END $$"
    );
    let scratch = Scratch::with([(file(1), change)]);
    scratch.up().code(0);
    for command in COMMANDS {
        let outcome = scratch.lockstep(command).run();
        outcome.code(5);
        // What `check` finds is its answer.
        let error = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(error.contains("MIGRATIONS_TABLE=public.bun_migrations"), "{error}");
        assert!(error.contains("MIGRATIONS_TABLE=SCHEMA.bun_migrations"), "{error}");
    }
    assert_eq!(times(&scratch), "1");
    assert_eq!(
        scratch.value("SELECT count(*) FROM pg_class WHERE relname LIKE 'bun%' AND relkind = 'r'"),
        "3"
    );
    let qualified = |table: &str| {
        let up = scratch.lockstep(&["up"]);
        up.env("MIGRATIONS_TABLE", table).run()
    };
    qualified("public.bun_migrations").code(0).is_up_to_date(1);
    assert_eq!(times(&scratch), "1");
    // A schema a tenant: a history of its own.
    qualified("app.bun_migrations").code(0);
    assert_eq!(times(&scratch), "2");
}

/// A history of other files is nobody's business.
#[test]
fn whatever_sets_the_path_and_only_for_our_files() {
    let scratch = Scratch::with([(file(1), COUNTED)]);
    scratch.up().code(0);
    let role = scratch.role("set", "LOGIN SUPERUSER");
    let name = &role.name;
    scratch.sql(&format!("CREATE SCHEMA app; ALTER ROLE {name} SET search_path = app"));
    let service = scratch.directory.join("services");
    let options = "options=-c search_path=app";
    std::fs::write(&service, format!("[it]\n{options}\n")).expect("a service file");
    let url = scratch.url();
    let pgbouncer = PgBouncer::start(&scratch, Mode::Transaction, 2);
    let up = || scratch.lockstep(&["up"]);
    let of_url = || up().env("DATABASE_URL", format!("{url}?options=-c%20search_path%3Dapp"));
    let ways = [
        of_url(),
        up().env("PGOPTIONS", "-c search_path=app"),
        up().env("DATABASE_URL", role.url()),
        up().env("PGSERVICEFILE", text(&service)).env("PGSERVICE", "it"),
    ];
    for way in ways {
        way.run().code(5).says("public.bun_migrations");
    }
    let database = &scratch.database;
    scratch.sql(&format!("ALTER DATABASE {database} SET search_path = app"));
    for url in [&url, &pgbouncer.url()] {
        up().env("DATABASE_URL", url).run().code(5);
    }
    scratch.sql("UPDATE public.bun_migrations SET name = '20200101000000'");
    of_url().run().code(0);
    assert_eq!(times(&scratch), "2");
}

#[test]
fn a_renamed_file_is_not_run_again() {
    // Oldest, in the middle, newest; to an older place and to a newer one.
    for (from, to) in [(2, 9), (4, 9), (6, 9), (6, 1), (6, 3), (4, 5), (2, 5)] {
        let scratch =
            Scratch::with([2, 4, 6].map(|it| (file(it), format!("{COUNTED}; SELECT {it}"))));
        scratch.up().code(0);
        let path = |number| scratch.migrations().join(file(number));
        std::fs::rename(path(from), path(to)).expect("a file");
        let (old, new) = (version(from), version(to));
        let said = format!("{new} renamed");
        scratch.up().code(5).says(&said).says(&old);
        let check = scratch.lockstep(&["check", "--json"]).run();
        assert_eq!(check.code(5).json_value("divergences[].renamed_from"), old);
        scratch.lockstep(&["plan"]).run().code(5);
        let status = scratch.lockstep(&["status"]).run();
        let note = format!("{new} was applied as {old}, whose file is gone");
        assert!(status.code(0).stdout.contains(&note), "{status}");
        let warned = scratch.lockstep(&["up"]).env("MIGRATION_DIVERGENCE", "warn");
        warned.run().code(0).says(&said);
        assert_eq!(times(&scratch), "3", "{from} to {to}");
        let status = scratch.lockstep(&["status", "--json"]).run();
        let status = &status.code(0).stdout;
        assert!(status.contains(&format!("\"renamed_from\": \"{old}\"")), "{status}");
        scratch.lockstep(&["baseline", &new]).run().code(0);
        scratch.up().code(0).is_up_to_date(3);
        assert_eq!(times(&scratch), "3", "{from} to {to}");
    }
}

/// Two that were renamed at once, and a file that does nothing, which could be any.
#[test]
fn several_renamed_files_and_empty_ones() {
    let scratch = Scratch::with([
        (file(2), format!("{COUNTED}; SELECT 2")),
        (file(4), format!("{COUNTED}; SELECT 4")),
        (file(6), "-- nothing".to_owned()),
    ]);
    scratch.up().code(0);
    for number in [2, 4, 6] {
        let path = |number| scratch.migrations().join(file(number));
        std::fs::rename(path(number), path(number + 10)).expect("a file");
    }
    let error = scratch.up().code(5).error();
    assert!(error.contains(&format!("{} renamed", version(12))), "{error}");
    assert!(error.contains(&format!("{} renamed", version(14))), "{error}");
    assert!(!error.contains(&version(16)), "{error}");
    assert_eq!(times(&scratch), "2");
}

#[test]
fn a_file_that_was_mended_is_recorded_as_it_is_now() {
    let scratch = Scratch::with([1, 2].map(|it| (file(it), format!("{COUNTED}; SELECT {it}"))));
    scratch.up().code(0);
    scratch.file(&file(1), "SELECT 'mended'");
    scratch.up().code(5);
    // Of exactly that file: another one is beyond, as ever.
    scratch.lockstep(&["baseline", &version(1)]).run().code(0);
    scratch.up().code(0).is_up_to_date(2);
    scratch.lockstep(&["baseline", &version(1)]).run().code(5);
    assert_eq!(times(&scratch), "2");
}

/// With the file of its way back, and where the statement runs outside a transaction.
#[test]
fn a_renamed_file_takes_its_way_back_along() {
    let (up, down) =
        (|it| format!("{}_i.up.sql", version(it)), |it| format!("{}_i.down.sql", version(it)));
    let scratch = Scratch::with([
        (file(1), "CREATE TABLE t (a int)"),
        (up(2), "CREATE INDEX CONCURRENTLY t_a ON t (a)"),
        (down(2), "DROP INDEX CONCURRENTLY t_a"),
    ]);
    scratch.up().code(0);
    for name in [&up, &down as &dyn Fn(usize) -> String] {
        let path = |number| scratch.migrations().join(name(number));
        std::fs::rename(path(2), path(3)).expect("a file");
    }
    scratch.up().code(5);
    scratch.lockstep(&["baseline", &version(3)]).run().code(0);
    scratch.up().code(0).is_up_to_date(2);
    scratch.lockstep(&["down", "1"]).run().code(0);
    assert_eq!(scratch.value("SELECT to_regclass('t_a') IS NULL"), "t");
    scratch.up().code(0).applied_now(1);
}

/// Rows that row-level security hides would make everything pending.
#[test]
fn hidden_rows_are_an_error_and_not_an_empty_history() {
    let scratch = Scratch::with([(file(1), COUNTED)]);
    scratch.up().code(0);
    let reader = scratch.role("reader", "LOGIN");
    let name = &reader.name;
    scratch.sql(&format!(
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}; ALTER TABLE bun_migrations ENABLE ROW LEVEL SECURITY"
    ));
    let url = scratch.url().replace("postgres@", &format!("{name}@"));
    for command in [&["check"][..], &["status"], &["up"]] {
        let outcome = scratch.lockstep(command).env("DATABASE_URL", &url).run();
        outcome.code(2).says("row-level security may hide rows of public.bun_migrations");
    }
}
