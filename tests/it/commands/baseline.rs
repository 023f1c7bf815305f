//! `lockstep baseline`: that it records and runs nothing, what it refuses, and that an adopted database is like one that
//! was migrated from the start.

use crate::support::steps::{file, version};
use crate::support::{Gate, Outcome, Scratch};

#[test]
fn records_every_file_up_to_the_version_and_runs_none() {
    let scratch = with_files(1..=4);
    let outcome = baseline(&scratch, 3);
    outcome
        .code(0)
        .says("recorded 3 migrations up to 20230101000003 as applied, without running any")
        .says("1 file after 20230101000003 left pending");
    assert_eq!(scratch.history(), [version(1), version(2), version(3)]);
    assert_eq!(tables(&scratch), [""; 0]);
    let journal = scratch.sql(
        "SELECT h.name, h.group_id, j.file_name, length(j.checksum), j.duration_ms, j.started_at = j.finished_at, \
         j.runner LIKE 'lockstep/%' FROM bun_migrations h JOIN bun_migrations_journal j \
         ON j.version = h.name AND j.history_id = h.id ORDER BY h.id",
    );
    let expected = |number| format!("{}|1|{}|64|0|t|t", version(number), file(number));
    assert_eq!(journal, [expected(1), expected(2), expected(3)]);
    scratch.assert_unlocked();
    // The checksums are those of the files.
    scratch.up().code(0).applied_one(1, 1);
    assert_eq!(tables(&scratch), ["t4"]);
    scratch.file(&file(2), "CREATE TABLE edited (a int)");
    scratch.up().code(5).says("20230101000002 modified");
}

#[test]
fn a_second_time_there_is_nothing_to_record_and_nothing_is_written() {
    let scratch = with_files(1..=2);
    baseline(&scratch, 2)
        .code(0)
        .says("no file is newer than 20230101000002: the database is up to date");
    let written = "SELECT id, name, group_id, migrated_at, xmin FROM bun_migrations ORDER BY id";
    let before = scratch.sql(written);
    baseline(&scratch, 2)
        .code(0)
        .says("there is nothing to record: every file up to 20230101000002 is recorded");
    assert_eq!(scratch.sql(written), before);
    assert_eq!(scratch.value("SELECT last_value FROM bun_migration_locks_id_seq"), "1");
}

#[test]
fn what_is_recorded_already_stays_and_the_rest_gets_a_group_of_its_own() {
    let scratch = with_files(1..=1);
    scratch.up().code(0);
    with_more(&scratch, 2..=3);
    baseline(&scratch, 3).code(0).says("recorded 2 migrations up to");
    let groups = scratch.sql("SELECT name, group_id FROM bun_migrations ORDER BY id");
    assert_eq!(groups, [1, 2, 3].map(|it| format!("{}|{}", version(it), it.min(2))));
    assert_eq!(tables(&scratch), ["t1"]);
}

#[test]
fn refuses_a_version_that_is_older_than_what_is_recorded() {
    let scratch = with_files(1..=4);
    baseline(&scratch, 2).code(0);
    scratch.up().code(0);
    let outcome = baseline(&scratch, 2);
    assert_eq!(
        outcome.code(5).error(),
        "the history is beyond 20230101000002 already; nothing was changed; newer and recorded: \
         20230101000003, 20230101000004"
    );
    assert_eq!(scratch.history().len(), 4);
}

#[test]
fn refuses_a_version_that_no_file_has_and_names_the_nearest_without_connecting() {
    let scratch = with_files(1..=4);
    for (asked, nearest) in [("20230101000005", 4), ("20200101000000", 1)] {
        let outcome = scratch
            .lockstep(&["baseline", asked])
            .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
            .run();
        let path = scratch.migrations().join(file(nearest)).display().to_string();
        assert_eq!(
            outcome.code(2).error(),
            format!("no file has the version {asked}; nothing was changed; the nearest is {path}")
        );
    }
}

/// They are not run.
#[test]
fn what_cannot_run_from_a_file_is_no_obstacle() {
    let scratch = with_files(1..=1);
    scratch.file(&file(2), "BEGIN; CREATE TABLE x (a int); COMMIT;\n\\d\n");
    scratch.up().code(2);
    baseline(&scratch, 2).code(0);
    scratch.up().code(0).is_up_to_date(2);
}

#[test]
fn waits_for_another_runner_and_finds_what_that_has_left() {
    let scratch = with_files(1..=1);
    scratch.file(&file(2), format!("CREATE TABLE t2 (a int); {}", Gate::SQL));
    with_more(&scratch, 3..=3);
    scratch.sql("CREATE TABLE t3 (a int)");
    let mut gate = Gate::closed(&scratch);
    let (up, recording) =
        gate.queue(&scratch.patient_up(), &scratch.lockstep(&["baseline", &version(3)]));
    gate.open();
    // The third fails, for its table is there; and is recorded.
    up.wait().code(1);
    recording.wait().code(0).says("recorded 1 migration up to");
    assert_eq!(scratch.history().len(), 3);
    scratch.assert_unlocked();
}

#[test]
fn of_many_that_run_at_once_one_records() {
    let scratch = with_files(1..=3);
    let newest = version(3);
    let runs: Vec<_> = (0..5).map(|_| scratch.lockstep(&["baseline", &newest]).spawn()).collect();
    let outcomes: Vec<Outcome> = runs.into_iter().map(|run| run.wait()).collect();
    for outcome in &outcomes {
        outcome.code(0);
    }
    let recorded = outcomes.iter().filter(|it| it.stderr.contains("recorded 3 migrations"));
    assert_eq!(recorded.count(), 1);
    assert_eq!(scratch.history().len(), 3);
    scratch.assert_unlocked();
}

#[test]
fn a_row_of_buns_is_waited_for() {
    let scratch = with_files(1..=2);
    baseline(&scratch, 1).code(0);
    scratch.sql("INSERT INTO bun_migration_locks (table_name) VALUES ('bun_migrations')");
    for number in [1, 2] {
        scratch
            .lockstep(&["baseline", &version(number)])
            .env("MIGRATION_LOCK_WAIT_SECONDS", "0.3")
            .run()
            .code(4);
    }
    assert_eq!(scratch.history(), [version(1)]);
}

/// A database made by hand, adopted, and carried on is like one that was migrated from the start.
#[test]
fn an_adopted_database_is_like_one_made_by_up_alone() {
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
    let made_by_up = Scratch::new();
    let run = |scratch: &Scratch, arguments: &[&str]| {
        let run = scratch.lockstep(arguments).env("MIGRATIONS_DIR", repository).run();
        run.code(0);
    };
    run(&made_by_up, &["up"]);

    let adopted = Scratch::new();
    let mut paths: Vec<_> = std::fs::read_dir(repository)
        .expect("the repository's migrations")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().ends_with(".up.sql"))
        .collect();
    paths.sort();
    for path in &paths[..10] {
        adopted.sql(&std::fs::read_to_string(path).expect("a file"));
    }
    let tenth = paths[9].file_name().expect("a name").to_string_lossy()[..14].to_owned();
    run(&adopted, &["baseline", &tenth]);
    assert_eq!(adopted.history().len(), 10);
    run(&adopted, &["up"]);
    assert_eq!(adopted.history(), made_by_up.history());
    assert_eq!(adopted.schema(), made_by_up.schema());
    run(&adopted, &["up"]);
}

// -------------------------------------------------------------------------------------------- what it takes

fn with_files(numbers: std::ops::RangeInclusive<usize>) -> Scratch {
    let scratch = Scratch::new();
    with_more(&scratch, numbers);
    scratch
}

fn with_more(scratch: &Scratch, numbers: std::ops::RangeInclusive<usize>) {
    for number in numbers {
        scratch.file(&file(number), format!("CREATE TABLE t{number} (a int)"));
    }
}

fn baseline(scratch: &Scratch, number: usize) -> Outcome {
    scratch.lockstep(&["baseline", &version(number)]).run()
}

fn tables(scratch: &Scratch) -> Vec<String> {
    scratch.sql(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace \
         AND relname NOT LIKE 'bun%' ORDER BY 1",
    )
}
