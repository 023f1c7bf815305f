//! bun and Lockstep side by side, on one database and the same files: whoever comes second waits, and whatever dies,
//! each migration is applied once.

use std::time::Duration;

use crate::support::bun_client::{Bun, init};
use crate::support::steps::{assert_applied_once, file, steps, version};
use crate::support::words::{WAITS_FOR_A_RUNNER, WAITS_FOR_BUN};
use crate::support::{Gate, Running, Scratch, wait_until};

/// Often enough for a test, where bun's users wait a second.
const RETRY: Duration = Duration::from_millis(5);

#[test]
fn while_bun_works_we_wait_name_its_row_and_end_at_the_deadline_with_4() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &["", Gate::SQL, ""]);
    let bun = Bun::start(&scratch, RETRY);
    gate.wait_for_visitor();

    let row = scratch.value("SELECT id FROM bun_migration_locks");
    let brief = scratch.lockstep(&["up"]).env("MIGRATION_LOCK_WAIT_SECONDS", "3").run();
    brief.code(4).says(&format!("waiting for bun's lock, row {row} of public.bun_migration_locks"));

    // bun records before it runs, so to us it looks as if the second were applied.
    let mut patient = scratch.lockstep(&["up"]).spawn();
    patient.wait_for_log(WAITS_FOR_BUN);
    gate.open();
    let run = bun.wait();
    assert_eq!(run.lock.to_string(), row);
    assert_eq!(run.applied, [version(1), version(2), version(3)]);
    patient.wait().code(0).is_up_to_date(3);
    assert_applied_once(&scratch, 3);
    scratch.assert_unlocked();
}

#[test]
fn while_we_work_bun_is_refused_at_once_and_gets_its_turn_after_us() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &[Gate::SQL, ""]);
    let ours = scratch.patient_up().spawn();
    gate.wait_for_visitor();
    // bun is the newer release, with one file more.
    steps(&scratch, &[Gate::SQL, "", ""]);
    let bun = Bun::start(&scratch, RETRY);
    wait_until("bun was refused five times", || bun.refused() >= 5);
    gate.open();
    ours.wait().code(0);
    assert_eq!(bun.wait().applied, [version(3)]);
    assert_applied_once(&scratch, 3);
    scratch.assert_unlocked();
    scratch.up().code(0);
}

/// The gate opens only after bun was refused a few times: a refusal that waited for us would never come. And a bun that
/// waited for our row would keep a snapshot, for which the index build would wait for ever.
#[test]
fn neither_bun_nor_waiters_delay_an_index_build() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &[Gate::SQL]);
    scratch.file(&file(2), "CREATE INDEX CONCURRENTLY ran_version_idx ON ran (version)");
    scratch.file(&file(3), "DROP INDEX CONCURRENTLY ran_version_idx");
    let run = scratch.patient_up().spawn();
    gate.wait_for_visitor();
    let mut waiters: Vec<Running> = (0..3).map(|_| scratch.patient_up().spawn()).collect();
    waiters.iter_mut().for_each(|it| it.wait_for_log(WAITS_FOR_A_RUNNER));
    let bun = Bun::start(&scratch, RETRY);
    wait_until("bun was refused five times", || bun.refused() >= 5);
    gate.open();

    run.wait().code(0);
    waiters.into_iter().for_each(|it| {
        it.wait().code(0);
    });
    let run = bun.wait();
    assert!(run.lock > 0 && run.applied.is_empty(), "bun got in");
    assert_eq!(scratch.history(), [version(1), version(2), version(3)]);
    scratch.assert_unlocked();
}

/// The row of a dead Lockstep shuts bun out. Nobody has to delete it: the next Lockstep takes it over, and gives it back.
#[test]
fn when_we_are_killed_the_next_of_us_takes_over_and_bun_gets_in_after_that() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &["", Gate::SQL, ""]);
    let killed = scratch.patient_up().spawn();
    gate.wait_for_visitor();
    let bun = Bun::start(&scratch, RETRY);
    killed.kill();
    wait_until("nobody has the lock", || scratch.guard().is_none());
    let so_far = bun.refused();
    wait_until("the row still shuts bun out", || bun.refused() >= so_far + 5);
    gate.open();
    scratch.patient_up().run().code(0);
    assert_eq!(bun.wait().applied, [""; 0]);
    assert_applied_once(&scratch, 3);
    scratch.assert_unlocked();
}

/// The one thing that nobody can know: bun's row, and no bun. A person names it, and it is gone.
#[test]
fn when_bun_is_killed_its_row_stays_until_unlock_is_told_its_id() {
    let scratch = Scratch::new();
    steps(&scratch, &["", ""]);
    let bun = Bun::start(&scratch, RETRY);
    bun.is_to_die();
    let run = bun.wait();
    let outcome = scratch.lockstep(&["up"]).env("MIGRATION_LOCK_WAIT_SECONDS", "0").run();
    outcome.code(4).says(&format!("lockstep unlock {}", run.lock));
    scratch.lockstep(&["unlock", &run.lock.to_string()]).run().code(0);
    scratch.up().code(0);
    assert_applied_once(&scratch, 2);
    scratch.assert_unlocked();
}

/// On an error bun's service rolls a group back that has no down files: the records go, and the schema stays.
#[test]
fn what_runs_twice_after_buns_rollback_is_told_to_be_recorded_if_all_of_it_is_there() {
    let scratch = Scratch::new();
    let text = "CREATE TABLE big (); CREATE TABLE small (); INSERT INTO rows VALUES (1)";
    scratch.sql("CREATE TABLE rows (x int)");
    scratch.file(&file(1), text);
    let hint = format!("lockstep baseline {}", version(1));
    for (there, is_hinted) in
        [("CREATE TABLE big ()", false), ("CREATE TABLE small ()", true), ("DROP TABLE big", false)]
    {
        scratch.sql(there);
        let outcome = scratch.up();
        outcome.code(1).says("42P07");
        assert_eq!(outcome.error().contains(&hint), is_hinted, "{outcome}");
        assert_eq!(scratch.value("SELECT count(*) FROM rows"), "0");
    }
    scratch.sql("CREATE TABLE big ()");
    scratch.lockstep(&["baseline", &version(1)]).run().code(0);
    scratch.up().code(0).is_up_to_date(1);
}

/// An empty database, three of theirs and five of ours, all at once; the tables are created in the same race.
#[test]
fn buns_and_locksteps_that_start_at_once_apply_each_migration_once() {
    let scratch = Scratch::new();
    steps(&scratch, &["", "", "", "", ""]);
    let ours: Vec<Running> = (0..5).map(|_| scratch.lockstep(&["up"]).spawn()).collect();
    let buns: Vec<Bun> = (0..3).map(|_| Bun::start(&scratch, RETRY)).collect();
    for run in ours {
        run.wait().code(0);
    }
    for bun in buns {
        bun.wait();
    }
    assert_applied_once(&scratch, 5);
    scratch.assert_unlocked();
}

#[test]
fn tables_of_ours_and_tables_of_buns_are_the_same() {
    let (ours, theirs) = (Scratch::new(), Scratch::new());
    steps(&ours, &[""]);
    ours.up().code(0);
    ours.sql("DROP TABLE ran, bun_migrations_journal");
    init(&theirs);
    assert_eq!(ours.schema(), theirs.schema());
}
