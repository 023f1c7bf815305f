//! A database that bun has migrated goes on where bun stopped; and what Lockstep recorded, bun takes for its own.

use std::fs;
use std::path::PathBuf;

use crate::support::words::WAITS_FOR_BUN;
use crate::support::{Scratch, text};

#[test]
fn a_database_that_bun_migrated_up_to_the_sixth_file_is_continued_at_the_seventh() {
    let scratch = Scratch::new();
    as_bun_leaves_it(&scratch, 6);
    // Rows of before: the migrations that follow carry them over.
    scratch.sql(
        "INSERT INTO proxied_request_metrics (method_name, request_time) \
         SELECT 'eth_call', timestamp '2023-09-20' + n * interval '1 day' FROM generate_series(1, 10) n",
    );
    let first = scratch.sql("SELECT * FROM bun_migrations ORDER BY id");
    let up = scratch.lockstep(&["up"]).env("MIGRATIONS_DIR", text(&repository())).run();
    up.code(0)
        .says("1/7 applying 20230413090544_add_origin.up.sql")
        .is_up_to_date(13)
        .applied_now(7);

    let versions: Vec<String> = files().iter().map(|path| version(path)).collect();
    assert_eq!(scratch.history(), versions);
    // bun's rows are as they were, and what is new is the group that comes next.
    assert_eq!(scratch.sql("SELECT * FROM bun_migrations ORDER BY id LIMIT 6"), first);
    assert_eq!(
        scratch.sql("SELECT group_id, count(*) FROM bun_migrations GROUP BY 1 ORDER BY 1"),
        ["1|4", "2|2", "3|7"]
    );
    assert_eq!(
        scratch.value("SELECT count(*) FROM proxied_request_metrics WHERE NOT cached"),
        "10"
    );
    assert_eq!(scratch.value("SELECT count(*) FROM bun_migrations_journal"), "7");
    assert_bun_reads_all_as_applied(&scratch, &versions);
}

/// However it came about, in two steps by two programs or in one: the same tables. bun's own included, since Lockstep
/// creates them as bun does.
#[test]
fn what_is_continued_ends_where_a_fresh_database_does() {
    let schema = |prepare: fn(&Scratch)| {
        let scratch = Scratch::new();
        prepare(&scratch);
        scratch.lockstep(&["up"]).env("MIGRATIONS_DIR", text(&repository())).run().code(0);
        scratch.schema()
    };
    let continued = schema(|scratch| as_bun_leaves_it(scratch, 6));
    let fresh = schema(|_| ());
    let lines = continued.lines().zip(fresh.lines());
    assert_eq!(
        lines.filter(|(continued, fresh)| continued != fresh).take(10).collect::<Vec<_>>(),
        []
    );
    assert_eq!(continued.len(), fresh.len());
}

#[test]
fn a_database_that_bun_has_migrated_to_the_end_is_left_as_it_is() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "CREATE TABLE a ();")]);
    create_buns_tables(&scratch, "bun_migrations", "bun_migration_locks");
    scratch.sql("INSERT INTO bun_migrations (name, group_id) VALUES ('20240101000000', 1)");
    let state =
        || (scratch.schema(), scratch.sql("SELECT ctid, xmin, xmax, t FROM bun_migrations t"));
    let before = state();
    scratch.up().code(0);
    assert_eq!(state(), before);
}

/// The table that is there is continued, whatever it is called and wherever it stands.
#[test]
fn tables_of_other_names_are_continued_too() {
    let scratch = Scratch::new();
    scratch.sql("CREATE SCHEMA ops");
    create_buns_tables(&scratch, "ops.history", "ops.locks");
    scratch.sql("INSERT INTO ops.history (name, group_id) VALUES ('20240101000000', 7)");
    scratch.file("20240101000000_a.up.sql", "CREATE TABLE a ();");
    scratch.file("20240101000001_b.up.sql", "CREATE TABLE b ();");
    let up = scratch.lockstep(&["up"]).env("MIGRATIONS_TABLE", "ops.history");
    up.env("MIGRATION_LOCKS_TABLE", "ops.locks").run().code(0);
    assert_eq!(
        scratch.sql("SELECT name, group_id FROM ops.history ORDER BY id"),
        ["20240101000000|7", "20240101000001|8"]
    );
    assert_eq!(
        scratch.value("SELECT to_regclass('a') IS NULL AND to_regclass('b') IS NOT NULL"),
        "t"
    );
    assert_eq!(scratch.value("SELECT to_regclass('public.bun_migrations') IS NULL"), "t");
}

/// bun records a migration before it runs it: the newest may be running, or may never have run. There is no journal yet.
#[test]
fn a_history_that_looks_complete_is_not_believed_while_buns_row_stands() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "CREATE TABLE a ();")]);
    create_buns_tables(&scratch, "bun_migrations", "bun_migration_locks");
    scratch.sql(
        "INSERT INTO bun_migrations (name, group_id) VALUES ('20240101000000', 1); \
         INSERT INTO bun_migration_locks (table_name) VALUES ('bun_migrations')",
    );
    let up = scratch.lockstep(&["up"]).env("MIGRATION_LOCK_WAIT_SECONDS", "0.2").run();
    up.code(4).says("20240101000000, the newest record, may be running, or may never have run");
    // It failed, and bun was told to take the record back: then the migration is pending.
    let mut running = scratch.lockstep(&["up"]).spawn();
    running.wait_for_log(WAITS_FOR_BUN);
    scratch.sql("DELETE FROM bun_migrations; DELETE FROM bun_migration_locks");
    running.wait().code(0).applied_now(1);
    assert_eq!(scratch.value("SELECT to_regclass('a') IS NOT NULL"), "t");
}

#[test]
fn a_history_without_rows_starts_at_the_first_file_with_the_first_group() {
    let scratch = Scratch::new();
    create_buns_tables(&scratch, "bun_migrations", "bun_migration_locks");
    scratch.file("20240101000000_a.up.sql", "CREATE TABLE a ();");
    scratch.up().code(0);
    assert_eq!(scratch.sql("SELECT name, group_id FROM bun_migrations"), ["20240101000000|1"]);
}

// What the tests above are made of.

/// The files of the repository's own `migrations`, sorted.
fn files() -> Vec<PathBuf> {
    let entries = fs::read_dir(repository()).expect("the repository's migrations");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| text(path).ends_with(".up.sql"));
    files.sort();
    assert_eq!(files.len(), 13);
    files
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("migrations")
}

fn version(path: &std::path::Path) -> String {
    path.file_name().expect("a name").to_string_lossy()[..14].to_owned()
}

/// Runs the first files and records them as bun does: four in one group, the others in the next.
fn as_bun_leaves_it(scratch: &Scratch, count: usize) {
    create_buns_tables(scratch, "bun_migrations", "bun_migration_locks");
    for (number, path) in files().iter().take(count).enumerate() {
        scratch.sql(&fs::read_to_string(path).expect("a file"));
        let group = if number < 4 { 1 } else { 2 };
        scratch.sql(&format!(
            "INSERT INTO \"bun_migrations\" (\"id\", \"name\", \"group_id\", \"migrated_at\") \
             VALUES (DEFAULT, '{}', {group}, DEFAULT) RETURNING \"id\", \"migrated_at\"",
            version(path)
        ));
    }
}

/// As bun's `Migrator.Init` does.
fn create_buns_tables(scratch: &Scratch, history: &str, locks: &str) {
    scratch.sql(&format!(
        "CREATE TABLE IF NOT EXISTS {history} (\"id\" BIGSERIAL NOT NULL, \"name\" VARCHAR, \"group_id\" BIGINT, \
         \"migrated_at\" TIMESTAMPTZ NOT NULL DEFAULT current_timestamp, PRIMARY KEY (\"id\")); \
         CREATE TABLE IF NOT EXISTS {locks} (\"id\" BIGSERIAL NOT NULL, \"table_name\" VARCHAR, PRIMARY KEY (\"id\"), \
         UNIQUE (\"table_name\"))"
    ));
}

/// What bun's `Lock`, `MigrationsWithStatus` and `Unlock` send, in this order.
fn assert_bun_reads_all_as_applied(scratch: &Scratch, versions: &[String]) {
    scratch.sql("INSERT INTO \"bun_migration_locks\" (\"id\", \"table_name\") VALUES (DEFAULT, 'bun_migrations') RETURNING \"id\"");
    let applied =
        scratch.sql("SELECT * FROM \"bun_migrations\" AS \"migration\" ORDER BY \"id\" DESC");
    assert_eq!(applied.len(), versions.len());
    for (row, version) in applied.iter().zip(versions.iter().rev()) {
        let columns: Vec<&str> = row.split('|').collect();
        assert_eq!(columns.len(), 4, "id, name, group_id, migrated_at: {row}");
        assert_eq!(columns[1], version);
        assert!(columns.iter().all(|column| *column != "∅"), "{row}");
    }
    scratch.sql("DELETE FROM \"bun_migration_locks\" WHERE (table_name = 'bun_migrations')");
}
