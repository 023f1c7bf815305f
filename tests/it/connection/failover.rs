//! The primary dies, its synchronous standby takes over, and the next run finds it by its list of hosts.

use std::path::Path;

use super::standby::{client, copy, start};
use crate::support::cluster::Cluster;
use crate::support::{Lockstep, Scratch, rows, wait_until};

const FIRST: usize = 10;
const ALL: usize = 60;

struct Pair {
    primary: Cluster,
    standby: String,
    url: String,
}

impl Pair {
    fn new(label: &str) -> Pair {
        let primary = Cluster::start(label);
        let (_, at) = primary.url.split_once('@').expect("an authority");
        let at = at.split('/').next().expect("an authority").to_owned();
        let data = rows(&mut client(&at, "postgres"), "SHOW data_directory").remove(0);
        let standby = start(&copy(&at, Path::new(&data)));
        let url = format!("postgres://postgres@{at},{standby}/postgres");
        let mut sql = client(&at, "postgres");
        sql.batch_execute("ALTER SYSTEM SET synchronous_standby_names TO '*'")
            .expect("a synchronous standby");
        sql.batch_execute("SELECT pg_reload_conf()").expect("a synchronous standby");
        wait_until("the standby is synchronous", || {
            let state = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
            rows(&mut sql, state) == ["1"]
        });
        Pair { primary, standby, url }
    }

    fn up<'a>(&self, scratch: &'a Scratch) -> Lockstep<'a> {
        scratch.patient_up().env("DATABASE_URL", &self.url).env("PGTARGETSESSIONATTRS", "primary")
    }

    fn fail_over(&self) {
        self.primary.stop();
        let promoted = rows(&mut client(&self.standby, "postgres"), "SELECT pg_promote()");
        assert_eq!(promoted, ["t"]);
    }

    /// What the standby knows, once it is the primary: how many migrations are recorded, and how many of their tables
    /// are there.
    fn applied(&self) -> (usize, usize) {
        let mut sql = client(&self.standby, "postgres");
        let mut count = |query: &str| rows(&mut sql, query)[0].parse().expect("a count");
        (
            count("SELECT count(*) FROM bun_migrations"),
            count("SELECT count(*) FROM pg_class WHERE relname ~ '^t[0-9]+$'"),
        )
    }
}

fn write_files(scratch: &Scratch, count: usize) {
    for number in 1..=count {
        let file = format!("202301010000{number:02}_t.up.sql");
        scratch.file(&file, format!("CREATE TABLE t{number} ()"));
    }
}

/// The last line is the promise.
#[test]
fn what_a_run_that_succeeded_has_applied_survives_a_failover() {
    let scratch = Scratch::new();
    let pair = Pair::new("failover-after");
    write_files(&scratch, FIRST);
    pair.up(&scratch).run().code(0).applied_now(FIRST);
    pair.fail_over();
    assert_eq!(pair.applied(), (FIRST, FIRST));
    pair.up(&scratch).run().code(0).is_up_to_date(FIRST);
}

/// A commit that was called applied may be lost; then its record is, too, and the next run makes both.
#[test]
fn a_run_that_met_a_failover_is_made_good_by_the_next() {
    let scratch = Scratch::new();
    let pair = Pair::new("failover-amid");
    write_files(&scratch, ALL);
    let mut run = pair.up(&scratch).env("DATABASE_WAIT_SECONDS", "1").spawn();
    run.wait_for_log(&format!("202301010000{FIRST:02}_t"));
    pair.fail_over();
    run.wait().code(3);
    let (recorded, made) = pair.applied();
    assert_eq!(recorded, made);
    pair.up(&scratch).run().code(0).is_up_to_date(ALL).applied_now(ALL - recorded);
    assert_eq!(pair.applied(), (ALL, ALL));
}
