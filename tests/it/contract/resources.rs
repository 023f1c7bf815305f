//! What a run costs: memory, reads, and the size of the binary. The figures that README promises are those of a release
//! build, and are asserted of one (`cargo test --release`); a debug build must keep bounds of its own, so that a
//! regression is seen there, too.

use std::fs;

use crate::support::{Gate, Running, Scratch};

/// The peak of resident memory, in KiB: 11 MiB and a half. Of a debug build more code is resident.
const MEMORY: usize = if cfg!(debug_assertions) { 24 * 1024 } else { 23 * 512 };

const FILES: usize = 5_000;

/// Measured while the last migration runs: by then it has read everything, twice compared it with the history, and
/// holds the lock.
#[test]
fn memory_stays_small_with_five_thousand_files() {
    let scratch = Scratch::new();
    applied_files(&scratch);
    let mut gate = Gate::closed(&scratch);
    scratch.file(&file(FILES), Gate::SQL);
    let run = scratch.patient_up().env("LOG_LEVEL", "WARN").spawn();
    gate.wait_for_visitor();
    let peak = peak_memory(&run);
    gate.open();
    run.wait().code(0).is_silent_about("warn");
    assert_eq!(scratch.value("SELECT count(*) FROM bun_migrations"), (FILES + 1).to_string());
    if let Some(peak) = peak {
        println!("{peak} KiB resident at most");
        assert!(peak < MEMORY, "{peak} KiB resident, {MEMORY} allowed");
    }
}

/// One thread, and one for each of the two connections, however many files there are; and one more while a statement that
/// takes long, on a busy machine, is looked at.
#[cfg(target_os = "linux")]
#[test]
fn there_are_no_more_threads_than_connections_and_one() {
    for files in [1, 100, 1000] {
        let scratch = Scratch::new();
        for number in 0..files {
            scratch.file(&file(number), "SELECT 1;");
        }
        let run = scratch.patient_up().env("LOG_LEVEL", "WARN").spawn();
        let mut most = 0;
        // Until it has ended, and waits to be reaped.
        while let Ok(status) = fs::read_to_string(format!("/proc/{}/status", run.pid())) {
            let field = |name| status.lines().find_map(|it| it.strip_prefix(name));
            if field("State:").is_some_and(|it| it.contains('Z')) {
                break;
            }
            let threads = field("Threads:").and_then(|it| it.trim().parse().ok());
            most = most.max(threads.unwrap_or(0));
        }
        run.wait().code(0);
        assert!((3..=4).contains(&most), "{files} files: {most}");
    }
}

#[cfg(not(debug_assertions))]
#[test]
fn the_binary_is_below_three_mebibytes_and_a_half() {
    let size = fs::metadata(env!("CARGO_BIN_EXE_lockstep")).expect("the binary").len();
    assert!(size < 7 * 512 * 1024, "{size} bytes");
}

// -------------------------------------------------------------------------------------------- what it takes

/// Names with versions that are dates, one a second.
fn file(number: usize) -> String {
    format!("20230101{:02}{:02}{:02}_step.up.sql", number / 3600, number / 60 % 60, number % 60)
}

/// As long as the files that people write are; and every file the same, so that one checksum is that of all.
const BODY: &str =
    "-- A remark on what this step is good for, and on what was thought of and not done.
CREATE TABLE IF NOT EXISTS measurements (
    id     bigserial PRIMARY KEY,
    origin varchar NOT NULL DEFAULT 'none',
    amount bigint
);
CREATE INDEX IF NOT EXISTS measurements_origin_amount_idx
    ON measurements (origin, amount) WHERE amount > 0;
";

/// Writes the files, and records them as applied, as if all of them had been.
fn applied_files(scratch: &Scratch) {
    scratch.file(&file(0), BODY);
    scratch.up().code(0);
    let mut values = Vec::new();
    for number in 1..FILES {
        let name = file(number);
        scratch.file(&name, BODY);
        values.push(format!("('{}', '{name}')", &name[..14]));
    }
    scratch.sql(&format!(
        "WITH f (version, file_name) AS (VALUES {}), \
         h AS (INSERT INTO bun_migrations (name, group_id) SELECT version, 1 FROM f RETURNING id, name) \
         INSERT INTO bun_migrations_journal SELECT f.version, f.file_name, j.checksum, j.started_at, j.finished_at, \
         j.duration_ms, j.runner, h.id FROM f JOIN h ON h.name = f.version, bun_migrations_journal j",
        values.join(", ")
    ));
}

/// The peak of the process's resident memory in KiB; none where there is no `/proc`.
fn peak_memory(run: &Running) -> Option<usize> {
    let status = fs::read_to_string(format!("/proc/{}/status", run.pid())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
