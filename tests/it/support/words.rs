//! What many tests wait for or look at, in the program's own words: so that a change of wording is one line here, and one
//! in the test that is about the wording.

use crate::support::Outcome;

pub const WAITS_FOR_A_RUNNER: &str = "waiting for another runner";
pub const WAITS_FOR_BUN: &str = "waiting for bun's lock";
pub const WAITS_FOR_THE_DATABASE: &str = "waiting for the database";
pub const WAITS_FOR_THE_SESSION: &str = "waiting for the session of an interrupted run, pid";
pub const WAITS_FOR_THE_ROW: &str = "waiting for a lock while taking the migration lock";
pub const TRIES_AGAIN: &str = "trying again";
pub const BEGINS_ANEW: &str = "nothing was begun, so once more from the start";
pub const DROPS_THE_INVALID_INDEX: &str = "dropping the INVALID index";
pub const HAS_LOST_ITS_CONNECTION: &str = "the connection was lost";
pub const HAS_LOST_ITS_GUARD: &str = "the guard was already gone";
pub const LEAVES_THE_LOCK: &str = "the next run takes the lock over";
pub const TAKES_A_ROLLBACK_BACK: &str = "nothing of its rollback had happened";
pub const FINDS_THE_WORK_DONE: &str = "the earlier run had done its work";
pub const CLEANS_UP: &str = "the next run cleans up what this one left";

impl Outcome {
    /// The database has all that the files hold, this many migrations.
    #[track_caller]
    pub fn is_up_to_date(&self, migrations: usize) -> &Self {
        let plural = if migrations == 1 { "" } else { "s" };
        self.says(&format!("the database is up to date: {migrations} migration{plural}"))
    }

    /// So many of them were applied by this run.
    #[track_caller]
    pub fn applied_now(&self, migrations: usize) -> &Self {
        self.says(&format!(", {migrations} applied in "))
    }

    /// The log tells that this one of so many was applied.
    #[track_caller]
    pub fn applied_one(&self, number: usize, of: usize) -> &Self {
        self.says(&format!("{number}/{of} applied"))
    }

    /// So many migrations were rolled back.
    #[track_caller]
    pub fn rolled_back(&self, migrations: usize) -> &Self {
        let plural = if migrations == 1 { "" } else { "s" };
        self.says(&format!("rolled back {migrations} migration{plural}, "))
    }
}
