//! The repository's own `./migrations`, applied to an empty database, and carried on from one that has rows. Their way
//! back is in `commands/down.rs`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::Scratch;
use crate::support::words::TRIES_AGAIN;

/// The one that replaces the table by a partitioned one.
const PARTITIONING: &str = "20230922110307";

#[test]
fn apply_to_an_empty_database() {
    let scratch = Scratch::new();
    let files = up_files();
    assert_eq!(files.len(), 13);
    scratch
        .lockstep(&["up"])
        .env("MIGRATIONS_DIR", directory().display().to_string())
        .run()
        .code(0)
        .applied_one(13, 13);
    let versions: Vec<String> = files.iter().map(|path| version(path)).collect();
    assert_eq!(scratch.history(), versions);
    assert_eq!(
        scratch.sql("SELECT oid::regclass FROM pg_class WHERE relkind = 'p'"),
        ["proxied_request_metrics"]
    );
    assert_eq!(invalid_indexes(&scratch), [""; 0]);
    let expected = "id|method_name|block_number|response_latency_milliseconds|request_time|request_ip|hostname|\
                    user_agent|referer|origin|response_backend|response_backend_route|cached|part_of_batch";
    let columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'proxied_request_metrics'::regclass \
                   AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    assert_eq!(scratch.sql(columns).join("|"), expected);
    scratch.assert_unlocked();
    // And again there is nothing to do.
    let again =
        scratch.lockstep(&["up"]).env("MIGRATIONS_DIR", directory().display().to_string()).run();
    again.code(0).is_up_to_date(13).is_silent_about("applied in ");
}

#[test]
fn build_five_indexes_concurrently_one_a_file_before_the_partitioning() {
    let scratch = Scratch::new();
    copy(&scratch, |version| version < PARTITIONING);
    scratch.up().code(0);
    assert_eq!(scratch.history().len(), 9);
    let concurrent = up_files()
        .iter()
        .filter(|path| {
            fs::read_to_string(path).expect("a file").contains("CREATE INDEX CONCURRENTLY")
        })
        .count();
    assert_eq!(concurrent, 5);
    assert_eq!(
        indexed_columns(&scratch),
        ["block_number", "hostname", "id", "method_name", "request_time"]
    );
    assert_eq!(invalid_indexes(&scratch), [""; 0]);
}

/// Rows before the first daily partition, at its very start, within, at the end of the last, and after it.
#[test]
fn carry_every_row_across_the_partitioning() {
    let scratch = Scratch::new();
    copy(&scratch, |version| version < PARTITIONING);
    scratch.up().code(0);
    let times = [
        "-infinity",
        "1999-12-31 23:59:59",
        "2023-09-22 23:59:59.999999",
        "2023-09-23 00:00:00",
        "2023-10-10 10:10:10.101010",
        "2023-10-29 02:30:00",
        "2023-11-03 23:59:59.999999",
        "2023-11-04 00:00:00",
        "2042-01-01 00:00:00",
        "infinity",
    ];
    for (number, time) in times.iter().enumerate() {
        scratch.sql(&format!(
            "INSERT INTO proxied_request_metrics (method_name, block_number, response_latency_milliseconds, \
             request_time, request_ip, hostname, user_agent, referer, origin) \
             VALUES ('eth_{number}', {number}, 5, '{time}', '::1', 'h', NULL, 'r', 'ö')"
        ));
    }
    scratch.sql(
        "INSERT INTO proxied_request_metrics (method_name, request_time) \
         SELECT 'many', timestamp '2023-09-01' + g * interval '1 hour' FROM generate_series(1, 2000) g",
    );
    scratch.sql("DELETE FROM proxied_request_metrics WHERE id % 7 = 3");
    // Its owner and its readers.
    let role = scratch.role("dashboard", "");
    scratch.sql(&format!("GRANT SELECT ON proxied_request_metrics TO {}", role.name));
    let rows = "SELECT id, method_name, block_number, response_latency_milliseconds, request_time, request_ip, hostname, \
                user_agent, referer, origin FROM proxied_request_metrics ORDER BY id";
    let before = scratch.sql(rows);
    assert!(before.len() > 1_700);

    copy(&scratch, |_| true);
    scratch.up().code(0).applied_one(4, 4);
    assert_eq!(scratch.history().len(), 13);
    assert!(scratch.sql(rows) == before, "every row is there, with its id, and no other");

    let place = |time: &str| {
        scratch.value(&format!("SELECT tableoid::regclass FROM proxied_request_metrics WHERE request_time = '{time}' LIMIT 1"))
    };
    assert_eq!(place("1999-12-31 23:59:59"), "proxied_request_metrics_before_20230923");
    assert_eq!(place("2023-10-10 10:10:10.101010"), "proxied_request_metrics_20231010");
    assert_eq!(place("2042-01-01 00:00:00"), "proxied_request_metrics_default");
    // True of all that was before.
    let filled = "SELECT DISTINCT response_backend, response_backend_route, cached, part_of_batch FROM proxied_request_metrics";
    assert_eq!(scratch.value(filled), "DEFAULT|∅|f|f");

    let newest = "SELECT max(id) FROM proxied_request_metrics";
    let highest: i64 = scratch
        .value("SELECT last_value FROM proxied_request_metrics_id_seq")
        .parse()
        .expect("a number");
    assert!(highest >= scratch.value(newest).parse().expect("a number"));
    let next = "INSERT INTO proxied_request_metrics (method_name, request_time) VALUES ('new', now()) RETURNING id";
    assert_eq!(scratch.value(next), (highest + 1).to_string());
    assert_eq!(
        scratch.value("SELECT pg_get_serial_sequence('proxied_request_metrics', 'id')"),
        "public.proxied_request_metrics_id_seq"
    );

    assert_eq!(
        indexed_columns(&scratch),
        ["block_number", "hostname", "id", "method_name", "request_time"]
    );
    assert_eq!(invalid_indexes(&scratch), [""; 0]);
    assert_eq!(
        scratch.value("SELECT to_regclass('proxied_request_metrics_unpartitioned') IS NULL"),
        "t"
    );
    let may =
        format!("SELECT has_table_privilege('{}', 'proxied_request_metrics', 'SELECT')", role.name);
    assert_eq!(scratch.value(&may), "t");
}

/// The proxy goes on writing: what it has begun is waited for, and what comes later is written to the new table.
#[test]
fn lose_no_row_that_is_written_meanwhile() {
    let scratch = Scratch::new();
    copy(&scratch, |version| version < PARTITIONING);
    scratch.up().code(0);
    let insert = "INSERT INTO proxied_request_metrics (method_name, request_time) VALUES ('m', '2023-10-01')";
    let mut writer = scratch.client();
    writer.batch_execute(&format!("BEGIN; {insert}")).expect("a row");
    copy(&scratch, |_| true);
    let mut run = scratch.lockstep(&["up"]).env("DDL_LOCK_TIMEOUT_SECONDS", "0.1").spawn();
    run.wait_for_log(TRIES_AGAIN);
    writer.batch_execute(&format!("{insert}; COMMIT; {insert}")).expect("two more");
    run.wait().code(0);
    writer.batch_execute(insert).expect("a row in the new table");
    assert_eq!(
        scratch.value("SELECT count(*), count(DISTINCT id), max(id) FROM proxied_request_metrics"),
        "4|4|4"
    );
}

// -------------------------------------------------------------------------------------------- what it takes

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations")
}

fn up_files() -> Vec<PathBuf> {
    let entries = fs::read_dir(directory()).expect("the repository's migrations");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.to_string_lossy().ends_with(".up.sql"));
    files.sort();
    files
}

fn version(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy()[..14].to_owned()
}

/// Copies the up files whose version is wanted.
fn copy(scratch: &Scratch, wanted: impl Fn(&str) -> bool) {
    for path in up_files().iter().filter(|path| wanted(&version(path))) {
        let name = path.file_name().expect("a name").to_string_lossy();
        scratch.file(&name, fs::read(path).expect("a file"));
    }
}

fn invalid_indexes(scratch: &Scratch) -> Vec<String> {
    scratch.sql("SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid")
}

/// The columns of the table that have an index of their own.
fn indexed_columns(scratch: &Scratch) -> Vec<String> {
    scratch.sql(
        "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] \
         WHERE i.indrelid = 'proxied_request_metrics'::regclass ORDER BY 1",
    )
}
