//! Chaos: random victims, times and methods on a random set of files, and no divergence from the undisturbed result.
//!
//! In each round three or four runners are started on one database, and struck: SIGKILL, SIGSTOP for a moment,
//! `pg_terminate_backend` on the guard's session, on any of theirs, on all of them, and, where no file holds a statement
//! outside a transaction, a DELETE of our row by hand (such a statement is not fenced). Whoever is dead is replaced. Then they are left alone, and what
//! they leave is compared with what one undisturbed runner makes of the same files.
//!
//! The seed is printed; `LOCKSTEP_SEED` sets it. It fixes files, victims and pauses, but not what the machine does
//! meanwhile, so a replay comes close and is not exact. `LOCKSTEP_SOAK=1` plays two hundred rounds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::support::site::{Site, assert_retry_helps};
use crate::support::{Running, is_soak, tell, wait_until};

/// How many rounds are played at once.
const WORKERS: usize = 2;

/// How often a round is struck.
const STRIKES: u64 = 8;

#[test]
fn random_blows_make_no_difference() {
    let started = Instant::now();
    let rounds = if is_soak() { 200 } else { 6 };
    let seed = match std::env::var("LOCKSTEP_SEED") {
        Ok(seed) => seed.parse().expect("LOCKSTEP_SEED: a number"),
        Err(_) => {
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_micros()
                as u64
        }
    };
    tell(&format!("chaos: {rounds} rounds from LOCKSTEP_SEED={seed} on"));
    let (next, takeovers) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let round = next.fetch_add(1, Ordering::Relaxed);
                    if round >= rounds {
                        return;
                    }
                    // The first round of a replay is the one to be seen again.
                    let seed = seed.wrapping_add(round);
                    match catch_unwind(AssertUnwindSafe(|| play(seed))) {
                        Ok(count) => takeovers.fetch_add(count, Ordering::Relaxed),
                        Err(_) => {
                            failed.lock().expect("no panic while locked").push(seed);
                            0
                        }
                    };
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic while locked");
    assert!(
        failed.is_empty(),
        "rounds failed; what they saw stands above; replay with LOCKSTEP_SEED, one of {failed:?}"
    );
    tell(&format!(
        "chaos: {rounds} rounds, {} blows, {} takeovers in the middle of the work, 0 divergences, in {:.0} s",
        rounds * STRIKES,
        takeovers.into_inner(),
        started.elapsed().as_secs_f64()
    ));
}

/// Chaos found this one: somebody else who creates the tables at the same time and gives up, because he is killed, say. A
/// serial column's sequence is named by the server, which avoids the names that it sees, also those that never come to be.
#[test]
fn a_creation_of_the_tables_that_is_given_up_leaves_no_trace() {
    let site = Site::new();
    let expected = site.undisturbed();
    site.clear();
    let mut other = site.scratch.client();
    other
        .batch_execute("BEGIN; CREATE TABLE bun_migrations (id BIGSERIAL PRIMARY KEY)")
        .expect("a table");
    let runner = site.direct();
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid IN \
                   (SELECT pid FROM pg_stat_activity WHERE datname = current_database())";
    wait_until("the runner waits for the other creation", || site.scratch.value(waiting) == "1");
    other.batch_execute("ROLLBACK").expect("a rollback");
    runner.wait().code(0);
    site.conclude(&expected);
}

/// Plays a round, and returns how often a runner went on with what another had begun.
fn play(seed: u64) -> u64 {
    let mut random = Random(seed);
    let has_outside = random.below(2) == 0;
    let site = Site::with(files(&mut random, has_outside));
    let expected = site.undisturbed();
    site.clear();
    let mut runners: Vec<Running> = (0..3 + random.below(2)).map(|_| site.direct()).collect();
    for _ in 0..STRIKES {
        // Not to wait for anything: to fall somewhere.
        thread::sleep(Duration::from_millis(random.below(60)));
        strike(&site, &mut runners, &mut random, has_outside);
        for runner in &mut runners {
            if runner.has_ended() {
                let ended = std::mem::replace(runner, site.direct());
                let outcome = ended.wait();
                if outcome.signal.is_none() {
                    assert_retry_helps(&outcome);
                }
            }
        }
    }
    for runner in runners {
        let outcome = runner.wait();
        if outcome.signal.is_none() {
            assert_retry_helps(&outcome);
        }
    }
    site.conclude(&expected);
    // All that one run applies shares a group.
    let groups = site.scratch.value("SELECT count(DISTINCT group_id) FROM bun_migrations");
    groups.parse::<u64>().expect("a number") - 1
}

fn strike(site: &Site, runners: &mut [Running], random: &mut Random, has_outside: bool) {
    let victim = &runners[random.below(runners.len() as u64) as usize];
    let sessions = "FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'lockstep/%'";
    match random.below(8) {
        0..3 => victim.signal("KILL"),
        3 => {
            victim.signal("STOP");
            thread::sleep(Duration::from_millis(random.below(400)));
            victim.signal("CONT");
        }
        4 => {
            if let Some(pid) = site.scratch.guard() {
                site.scratch.sql(&format!("SELECT pg_terminate_backend({pid})"));
            }
        }
        5 => {
            let number = random.below(2 * runners.len() as u64);
            let one = format!("SELECT pid {sessions} ORDER BY pid OFFSET {number} LIMIT 1");
            site.scratch.sql(&format!("SELECT pg_terminate_backend(({one}))"));
        }
        6 => {
            site.scratch.sql(&format!("SELECT pg_terminate_backend(pid) {sessions}"));
        }
        _ if has_outside => victim.signal("KILL"),
        _ => {
            site.scratch.sql(
                "DO $$ BEGIN DELETE FROM bun_migration_locks WHERE id < 0; EXCEPTION WHEN undefined_table THEN END $$",
            );
        }
    }
}

/// Between six and twelve files, each of which would be noticed if it were applied twice or not at all.
fn files(random: &mut Random, has_outside: bool) -> Vec<(String, String)> {
    let first = "CREATE TABLE ran (version int NOT NULL); INSERT INTO ran VALUES (1);
                 CREATE TABLE item AS SELECT n AS id, 'item ' || n AS name FROM generate_series(1, 30) n;
                 CREATE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
                   $$ BEGIN PERFORM pg_sleep(0.001); RETURN $1; END $$;";
    let mut files = vec![("20230101000001_tables.up.sql".to_owned(), first.to_owned())];
    let mut indexes = Vec::new();
    for number in 2..=6 + random.below(7) {
        let pause = format!("SELECT pg_sleep(0.0{})", random.below(90));
        let ran = format!("INSERT INTO ran VALUES ({number})");
        let text = match random.below(if has_outside { 8 } else { 4 }) {
            0 => format!("{ran}; UPDATE item SET id = id * 3 + {number}; {pause};"),
            1 => format!("ALTER TABLE item ADD COLUMN c{number} int DEFAULT {number}"),
            2 => format!("CREATE TABLE t{number} (id int PRIMARY KEY); {pause}; {ran};"),
            3 => format!("DO $$ BEGIN {}; {ran}; END $$", pause.replace("SELECT", "PERFORM")),
            4 if !indexes.is_empty() => {
                let index: String =
                    indexes.swap_remove(random.below(indexes.len() as u64) as usize);
                format!("DROP INDEX CONCURRENTLY {index}")
            }
            _ => {
                indexes.push(format!("item_{number}_idx"));
                format!("CREATE INDEX CONCURRENTLY item_{number}_idx ON item (slow(id), name)")
            }
        };
        files.push((format!("202301010000{number:02}_step.up.sql"), text));
    }
    files
}

/// SplitMix64: enough for tests, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
