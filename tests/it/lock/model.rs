//! The lock protocol as an exhaustive model: every state that it can get into is visited, and looked at.
//!
//! `src/lock.rs` argues in words why nothing is applied twice, skipped or left locked. Words can overlook an interleaving,
//! and a test with a server meets only some of them. Here the protocol is a small machine ([`Model`]) and
//! [`Exploration`] goes through all that can happen to it, the nearest states first, so that what breaks an
//! [`Invariant`] is found by a shortest way. The same with a step taken out shows what that step is there for. It
//! touches no database, and knows nothing of the code; what ties it to the code is [`SHIPPED`].
//!
//! `cargo test --test it lock::model -- --nocapture` prints how many states there were, and with `MODEL_TRACES=1` the
//! shortest way to whatever is broken. `make soak` adds the larger worlds.
//!
//! # Changing the protocol
//!
//! Change the model first. If a choice of [`Protocol`] has the new behaviour as one of its values, set it in [`SHIPPED`]
//! and run the tests: what breaks now is shown by a shortest way, and is either a fault of the change or a promise to
//! take back in [`Model::promised`]. If it has not, add a value (or a choice), let [`Model::transitions`] do what the
//! new code would do, statement by statement, and keep the old value as a mutation with a test that shows what it
//! breaks: so the next reader learns why the step is there. When the model keeps its promises, change `src/lock.rs`,
//! `src/lock/` and `src/apply.rs`, statement by statement the same. A step that the code takes and no transition does,
//! or the other way round, is an error in one of them.
//!
//! # What is modelled
//!
//! * *Runs*, each of a client and the two sessions G and W. A client looks, polls the guard and looks again, sends W
//!   the message that takes the row, then one message per migration, then the release, and gives the guard back. W
//!   executes a message statement by statement, and everybody else may act between any two: the assertion of the guard,
//!   the row's write, the reading of the history, the commit; the fence's row lock, its look for the record, the body,
//!   the record, the commit. A run that starts after another is a restart; all but `at_once` wait until a client is
//!   gone.
//! * *Deaths*, at each step: of the client (G ends at once; W, if it was sent a message, goes on without it, even if it
//!   has not begun, and may commit, or be rolled back, at any later time), of G's session alone, of W's session alone
//!   (rolled back; the client has no answer, nor has it if W committed: then it is the reply that was lost), an error
//!   in a file, a signal between two migrations. How often is not limited; only the number of runs is.
//! * *PostgreSQL* under READ COMMITTED: a statement sees what is committed when it begins. FOR UPDATE, UPDATE, DELETE
//!   and ON CONFLICT DO UPDATE wait for whoever has locked or is replacing the row, and then look at the row as it is
//!   (EvalPlanQual): so they simply cannot happen before. A row that is not there is not waited for. bun's INSERT waits
//!   for a row that is being written, and fails at once on one that is committed, locked or not.
//! * *bun*, one process: it inserts its row, reads the history, and of each migration commits first the record and then
//!   the body, and deletes the row by its table name, whosever it is. It may die at each step and leave its row.
//! * *An operator*, whose DELETE comes at any moment, as often as he likes.
//! * *A forget*, in worlds of its own: a run that has the lock may take back, instead of all else, the newest record, if bun
//!   died on it: the fence, the look whether it is still there, the commit. From then on the migration is no longer excused.
//! * *A crash of the server*, in worlds of their own: all sessions end, and any suffix of the commits that are not on
//!   disk is lost. Behind a pooler a client that waits for no answer may go on with what it takes for its sessions.
//!
//! # What is not
//!
//! * Statements outside a transaction, which nothing fences; several servers; the creation of the tables.
//! * Time. A wait may last for ever, so deadlines add nothing but a client that ends, and a message that meets a lock
//!   timeout and is sent again is one that waits. A frozen client is one that does nothing for long.
//! * bun's DELETE and ours, the operator's, and each statement of bun's are one step: they are transactions of one
//!   statement, and whoever waits for them may as well come later. bun's session ends with bun: an operator who thinks
//!   it dead while its statement still runs is a careless one. A body of bun's is committed or not, nothing in between.
//! * A table that is restored, a history that is edited, a migration that undoes itself.
//! * `down`: to the lock it is a run like any other, whose messages delete the record where `up`'s write it. A `forget` of
//!   what is not in doubt.
//!
//! # What is promised when
//!
//! *If the operator is careful*, everything that [`Model::promised`] does not exclude by name. Careful means: he
//! deletes a row of ours whenever he likes, and bun's when bun is dead. A row of ours may go at any time because the
//! fence looks for it, has it locked until the commit, and nothing else rests on it.
//!
//! One thing is bun's own doing and is excused: what bun recorded and died on before it ran the body is missing for
//! ever, and nobody can tell it from what ran. Exactly these migrations count as run ([`State::excused`]), and only
//! from the moment of bun's death.
//!
//! *If the operator is careless*, and deletes the row of a bun that lives, nobody can help: bun goes on, since it never
//! looks at its row again, and later deletes ours by its table name. Then runs of ours still keep to each other
//! ([`OneAtWork`]), never apply a body twice ([`OnceByUs`]), record what they commit ([`Atomic`]) and recover
//! ([`Progress`]). What bun does at the same time may be applied twice, out of order or too late.
//!
//! # What it found
//!
//! Three weaknesses of a first draft, which the tests still show when a choice is taken back:
//!
//! 1. *A run that lives can be robbed by a dead one* ([`NotRobbed`]; [`Assertion::BeforeTheRow`]). W asserts the guard
//!    and then writes the row. In between the client may die and its guard go to a successor, who writes its row; then
//!    the orphan takes that over. The successor ends with "lock lost", although nobody touched it. Nothing is applied
//!    twice. If W asserts the guard once it has the row written, and so locked, the successor can only come after it.
//! 2. *A dead run's row may stay* ([`NoRowLeft`]; [`Minds::Bun`]). A run that is killed between its last commit and its
//!    release leaves a complete history and a row. All later runs have nothing to do and leave it alone, and bun, which
//!    cannot take it over, is shut out until a migration is pending. So a run that has nothing to do removes a row of
//!    ours if the guard is free.
//! 3. *Success may be reported of what a crash of the server takes back.* A release that finds its row taken over has
//!    written nothing, so it flushes nothing; if the takeover was deferred too, nothing was flushed
//!    ([`WorkerCompletes`]; [`TakeoverCommit::Deferred`]).
//!
//! One remains in what is shipped, because its cure would make up-to-date runs wait for a runner at work: a run that
//! sees the complete history of another, which has not released yet, reports success; a server that crashes in that
//! moment may take the last commits back, and the next run applies them ([`ObserverIsRight`]; [`Minds::AnyRow`]).
//!
//! A fourth was found later, outside the model, which knew no pooler then: *a run that outlives a crash goes on behind what
//! was lost* ([`InOrder`], [`WorkerCompletes`]; [`Kept::Assumed`]).
//!
//! # What each step is there for
//!
//! The mutations below start from [`CURED`]. Without the fence, without its lock, and with a takeover that does not
//! wait for that lock, crashes alone make two at work at once and a body run twice. With the takeover of bun's row
//! everything falls but what we promise each other. With positive ids the first crash locks everybody out. Three more
//! are worth a word:
//!
//! * *The guard excludes nobody*: without it runs rob each other, but apply nothing twice. Exclusion is the fence's.
//! * *The history read under the row and the fence's look for the record cover each other.* Either may be left out, not
//!   both. Reading before the wait is also what REPEATABLE READ would amount to. As long as the operator is careful the
//!   fence never finds a record: what it says then ("recorded by somebody else meanwhile") is only heard beside a bun
//!   that lives and has lost its row.
//! * *That tokens differ* keeps a run that lost its guard from working, and from deleting its successor's row. A body
//!   would be run twice only without the look for the record, too.
//!
//! The order of the release, row before guard, makes no difference.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

/// How many runners a state has room for, the fresh one of the progress check among them.
const SLOTS: usize = 4;

/// How many migrations a state has room for.
const MIGRATIONS: usize = 2;

/// The protocol's choices. Each mutation changes one or two of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Protocol {
    guard: Guard,
    assertion: Assertion,
    takeover: Takeover,
    takeover_commit: TakeoverCommit,
    token: Token,
    plan: Plan,
    fence: Fence,
    recheck: Recheck,
    kept: Kept,
    record: Record,
    release: Release,
    hint: Minds,
    forget: Forget,
}

/// What `lock.rs` and `apply.rs` do. Whoever changes one of these choices there changes it here; what is promised
/// follows.
const SHIPPED: Protocol = Protocol {
    guard: Guard::Exclusive,
    assertion: Assertion::BehindTheRow,
    takeover: Takeover::OfNegativeIds,
    takeover_commit: TakeoverCommit::Durable,
    token: Token::Unique,
    plan: Plan::ReadUnderTheRow,
    fence: Fence::LocksTheRow,
    recheck: Recheck::NotRecorded,
    kept: Kept::LookedFor,
    record: Record::WithTheBody,
    release: Release::ByToken,
    hint: Minds::BunAndDead,
    forget: Forget::UnderTheLock,
};

/// The protocol without the weaknesses that the tests below show. The mutations start from it, so that what they break
/// is their own doing.
const CURED: Protocol = Protocol { hint: Minds::AnyRow, ..SHIPPED };

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Guard {
    Exclusive,
    /// Everybody gets it.
    None,
}

/// When W makes sure that G holds the guard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Assertion {
    /// At the start of the transaction that writes the row.
    BeforeTheRow,
    /// In that transaction too, but when it has the row written and locked.
    BehindTheRow,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Takeover {
    OfNegativeIds,
    /// bun's row is taken like ours.
    OfAnyRow,
    /// Our ids are positive, and no row of positive id is taken.
    OfNoRow,
    /// The row is replaced without waiting for the transaction that has it locked.
    WithoutWaiting,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum TakeoverCommit {
    Deferred,
    Durable,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token {
    Unique,
    /// All runs write the same id.
    Shared,
}

/// Where the plan comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Plan {
    ReadUnderTheRow,
    /// From the look before the guard.
    ReadBeforeTheGuard,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fence {
    LocksTheRow,
    /// A plain SELECT.
    LooksOnly,
    Absent,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Recheck {
    NotRecorded,
    Absent,
}

/// How a run knows that what it committed last is still there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kept {
    /// Each of its messages looks for it first.
    LookedFor,
    Assumed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Record {
    WithTheBody,
    /// In a transaction of its own, behind the body's.
    Apart,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Release {
    ByToken,
    /// As bun does.
    ByTableName,
    /// The guard first, then the row by its token.
    GuardFirst,
}

/// How the record goes that bun left of what it never ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Forget {
    UnderTheLock,
    /// By a DELETE of the operator's, whoever has the lock.
    ByHand,
}

/// Which row in the locks table keeps a run from reporting success on a complete history, without the lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Minds {
    /// bun's.
    Bun,
    Nothing,
    /// And ours, if its owner is dead, which a guard that is free proves.
    BunAndDead,
    /// And ours.
    AnyRow,
}

/// Who takes part, and what may befall them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct World {
    /// How many runs there are in all: what exceeds `at_once` is restarts.
    runs: usize,
    /// How many clients live at once.
    at_once: usize,
    migrations: usize,
    bun: Bun,
    operator: Operator,
    failures: Failures,
    /// Whether what bun died on may be forgotten.
    forgets: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bun {
    Absent,
    Present,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operator {
    Absent,
    /// Deletes a row of ours at any moment, and bun's if bun is dead.
    Careful,
    /// Deletes any row at any moment.
    Careless,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Failures {
    None,
    /// Of each client, each session, each file.
    OfEverybody,
    /// And of the server, with the commits that are not on disk yet.
    OfTheServerToo,
    /// And a pooler is between, which keeps the clients' connections.
    OfTheServerBehindAPooler,
}

impl Failures {
    fn are_of_the_server(self) -> bool {
        matches!(self, Failures::OfTheServerToo | Failures::OfTheServerBehindAPooler)
    }
}

/// What must be true of every state, or of every step.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Invariant {
    /// No body is committed twice, whoever ran it.
    OnceOverall,
    /// No body is committed twice by runs of ours.
    OnceByUs,
    /// We have as many records of a migration as commits of its body.
    Atomic,
    /// A body of ours commits only after the bodies of all earlier migrations.
    InOrder,
    /// No two fenced transactions are past the fence at once.
    OneAtWork,
    /// No fenced transaction is past the fence while a living bun has the lock.
    NotBesideBun,
    /// A run that worked and reports success leaves every migration recorded, and its body committed.
    WorkerCompletes,
    /// So does a run that reports success on what it saw without the lock.
    ObserverIsRight,
    /// Nobody but an operator takes or deletes the row of a run whose client and guard live.
    NotRobbed,
    /// Nobody waits for what will never happen; and once all dead things have ended, unless bun's row stands, one fresh
    /// run alone reports success, with all bodies committed and the guard free.
    Progress,
    /// After that run there is no row of ours.
    NoRowLeft,
}

use Invariant::{
    Atomic, InOrder, NoRowLeft, NotBesideBun, NotRobbed, ObserverIsRight, OnceByUs, OnceOverall,
    OneAtWork, Progress, WorkerCompletes,
};

/// Where a run stands. A step is named for what happens next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
enum Step {
    /// Nothing left of it, but for a row perhaps.
    Over,
    /// Reported success on what it saw.
    Observed,
    /// Reported success on what it did.
    Worked,
    Unstarted,
    /// The client's next step: the look without the lock.
    Observe,
    PollGuard,
    /// W's next step: the message that takes the row has been sent. It begins.
    Begin,
    WriteRow,
    AssertGuard,
    ReadHistory,
    CommitRow,
    /// The client's: sends the next migration, or the release.
    Ready,
    /// The same, on a server that has crashed and lost what this run committed last.
    Bereft,
    /// W's: a migration's message has been sent.
    Fence,
    Recheck,
    Body,
    Record,
    Commit,
    /// Only of [`Record::Apart`].
    RecordApart,
    /// W's: the message that takes a record back has been sent.
    ForgetFence,
    ForgetRecheck,
    ForgetCommit,
    /// W's: the release has been sent, of a run that did all of its plan.
    Release,
    /// W's: the release of a run that failed or was stopped.
    Abandon,
    /// The client's: gives the guard back and reports success.
    Leave,
    /// The client's: notices that a session is gone, or has reported an error; gives the guard back, reports failure.
    Fail,
}

impl Step {
    /// Returns true if and only if it is W's turn: a message was sent and not yet answered.
    fn is_works(self) -> bool {
        use Step::{
            Abandon, AssertGuard, Begin, Body, Commit, CommitRow, Fence, ForgetCommit, ForgetFence,
            ForgetRecheck, ReadHistory, Recheck, Record, RecordApart, Release, WriteRow,
        };
        matches!(
            self,
            Begin
                | WriteRow
                | AssertGuard
                | ReadHistory
                | CommitRow
                | Fence
                | Recheck
                | Body
                | Record
                | Commit
                | RecordApart
                | ForgetFence
                | ForgetRecheck
                | ForgetCommit
                | Release
                | Abandon
        )
    }

    /// Returns true if and only if W's transaction is past the fence and has nothing before it that can fail it.
    fn is_fenced_work(self) -> bool {
        matches!(self, Step::Body | Step::Record | Step::Commit | Step::ForgetCommit)
    }

    /// Returns true if and only if W has written the row and not committed it.
    fn is_writing_row(self) -> bool {
        matches!(self, Step::AssertGuard | Step::ReadHistory | Step::CommitRow)
    }

    /// Returns true if and only if W's transaction is past the fence's first half, the row.
    fn is_past_row(self) -> bool {
        matches!(self, Step::Recheck | Step::ForgetRecheck) || self.is_fenced_work()
    }

    fn is_over(self) -> bool {
        matches!(self, Step::Over | Step::Observed | Step::Worked | Step::Unstarted)
    }
}

/// A set of migrations.
type Set = u8;

/// A run: its client, G and W.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    /// For whoever reads a trace. States that differ only in the numbers are one.
    number: u8,
    step: Step,
    client_lives: bool,
    has_guard: bool,
    /// Its token is in the locks table, committed.
    owns_row: bool,
    plan: Set,
}

impl Run {
    fn new(number: u8, step: Step) -> Run {
        Run { number, step, client_lives: false, has_guard: false, owns_row: false, plan: 0 }
    }

    fn key(&self) -> u64 {
        let flags = u64::from(self.client_lives)
            | u64::from(self.has_guard) << 1
            | u64::from(self.owns_row) << 2;
        (self.step as u64) << 5 | flags << 2 | u64::from(self.plan)
    }

    /// W has answered: the client goes on, or, if there is none any more, W ends.
    fn answered(&mut self, next: Step) {
        if self.client_lives {
            self.step = next;
        } else {
            self.end(Step::Over);
        }
    }

    fn end(&mut self, step: Step) {
        self.step = step;
        self.client_lives = false;
        self.has_guard = false;
        self.plan = 0;
    }
}

/// Where bun stands. As in [`Step`], what happens next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum BunStep {
    /// Tries to insert its row.
    Insert,
    Read,
    /// Records the next migration of its plan.
    Record,
    Body,
    /// Deletes the row by its table name.
    Delete,
    Done,
    Dead,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State {
    runs: [Run; SLOTS],
    bun_step: BunStep,
    bun_plan: Set,
    /// bun's row is in the locks table. Ours is if some run owns it.
    bun_row: bool,
    our_bodies: [u8; MIGRATIONS],
    our_records: [u8; MIGRATIONS],
    bun_bodies: Set,
    bun_records: Set,
    /// What bun recorded and died on before it ran it.
    excused: Set,
    /// What we committed and what a crash of the server may take back.
    unflushed: Set,
}

impl State {
    fn start(world: &World) -> State {
        let mut runs = [Run::new(0, Step::Over); SLOTS];
        for (number, run) in (1..).zip(&mut runs[..world.runs]) {
            *run = Run::new(number, Step::Unstarted);
        }
        let bun_step = match world.bun {
            Bun::Absent => BunStep::Done,
            Bun::Present => BunStep::Insert,
        };
        State {
            runs,
            bun_step,
            bun_plan: 0,
            bun_row: false,
            our_bodies: [0; MIGRATIONS],
            our_records: [0; MIGRATIONS],
            bun_bodies: 0,
            bun_records: 0,
            excused: 0,
            unflushed: 0,
        }
    }

    /// The state in 62 bits; equal for states that differ only in the order of their runs. Orders the runs.
    fn canonical(&mut self) -> u64 {
        // An insertion sort: four runs, and nearly always in order.
        for sorted in 1..SLOTS {
            let mut at = sorted;
            while at > 0 && self.runs[at - 1].key() > self.runs[at].key() {
                self.runs.swap(at - 1, at);
                at -= 1;
            }
        }
        let mut key = 0;
        for run in &self.runs {
            key = key << 10 | run.key();
        }
        for migration in 0..MIGRATIONS {
            key = key << 2 | u64::from(self.our_bodies[migration]);
            key = key << 2 | u64::from(self.our_records[migration]);
        }
        for set in [self.bun_plan, self.bun_bodies, self.bun_records, self.excused, self.unflushed]
        {
            key = key << 2 | u64::from(set);
        }
        key << 4 | (self.bun_step as u64) << 1 | u64::from(self.bun_row)
    }

    fn recorded(&self, migration: usize) -> bool {
        self.our_records[migration] > 0 || self.bun_records & 1 << migration != 0
    }

    /// Returns true if and only if the body was committed, or bun alone is to blame that it was not.
    fn has_body(&self, migration: usize) -> bool {
        self.our_bodies[migration] > 0 || (self.bun_bodies | self.excused) & 1 << migration != 0
    }

    fn pending(&self, world: &World) -> Set {
        (0..world.migrations)
            .filter(|&migration| !self.recorded(migration))
            .fold(0, |set, migration| set | 1 << migration)
    }

    /// What bun died on, if it is the newest record.
    fn in_doubt(&self) -> Set {
        let newest = (0..MIGRATIONS).rev().find(|&it| self.recorded(it));
        newest.map_or(0, |it| self.excused & self.bun_records & 1 << it)
    }

    fn forget(&mut self, which: Set) {
        self.bun_records &= !which;
        self.excused &= !which;
    }

    fn is_complete(&self, world: &World) -> bool {
        (0..world.migrations).all(|migration| self.recorded(migration) && self.has_body(migration))
    }

    fn our_row(&self) -> bool {
        self.runs.iter().any(|run| run.owns_row)
    }

    fn guard_is_held(&self) -> bool {
        self.runs.iter().any(|run| run.has_guard)
    }

    fn delete_our_row(&mut self) {
        self.runs.iter_mut().for_each(|run| run.owns_row = false);
    }

    /// Returns true if and only if some other run's W has written a row and not committed it.
    fn row_is_being_written(&self, but: Option<usize>) -> bool {
        let mut runs = self.runs.iter().enumerate();
        runs.any(|(other, run)| Some(other) != but && run.step.is_writing_row())
    }

    fn bun_is_at_work(&self) -> bool {
        !matches!(self.bun_step, BunStep::Insert | BunStep::Done | BunStep::Dead)
    }

    /// Returns true if and only if all dead things have ended and nobody lives who would do anything.
    fn is_quiescent(&self) -> bool {
        self.runs.iter().all(|run| run.step.is_over()) && !self.bun_is_at_work()
    }

    /// Returns true if and only if a run whose client and guard live loses its row with this one.
    fn robs_living(&self, robber: Option<usize>) -> bool {
        let mut runs = self.runs.iter().enumerate();
        runs.any(|(other, run)| {
            Some(other) != robber && run.owns_row && run.client_lives && run.has_guard
        })
    }
}

/// What can happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Event {
    Starts,
    SeesNothingToDo,
    SeesWork,
    GetsGuard,
    SeesGuard,
    MissesGuard,
    MeetsBunRow,
    WritesRow,
    ReadsHistory,
    CommitsRow,
    SendsMigration,
    PassesFence,
    LosesLock,
    MissesItsCommit,
    FindsItNotRecorded,
    FindsItRecorded,
    RunsBody,
    WritesRecord,
    CommitsMigration,
    CommitsRecord,
    SendsForget,
    FindsTheRecord,
    FindsNoRecord,
    Forgets,
    SendsRelease,
    DeletesRow,
    CannotDeleteRow,
    ReportsSuccess,
    ReportsFailure,
    MeetsErrorInFile,
    IsStopped,
    ClientIsKilled,
    GuardSessionIsKilled,
    WorkSessionIsKilled,
    BunInserts,
    BunReads,
    BunRecords,
    BunRunsBody,
    BunDeletesRow,
    BunDies,
    OperatorDeletesOurRow,
    OperatorDeletesBunRow,
    ServerCrashes,
}

/// Somebody's step.
#[derive(Clone, Copy)]
struct Transition {
    event: Event,
    /// The run's number, 0 for anybody else.
    actor: u8,
    kind: Kind,
    next: State,
    /// What the step itself breaks.
    breaks: Option<Invariant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// What a participant does by itself.
    Work,
    /// What befalls it, what somebody else decides, and a wait's next turn.
    Chance,
}

/// The protocol in a world: from a state to all that can happen next.
#[derive(Clone, Copy)]
struct Model {
    protocol: Protocol,
    world: World,
}

type Transitions = Vec<Transition>;

impl Model {
    fn transitions(&self, state: &State, out: &mut Transitions) {
        for at in 0..SLOTS {
            let run = &state.runs[at];
            if run.step.is_over() && run.step != Step::Unstarted {
                continue;
            }
            self.step(state, at, out);
            if self.world.failures != Failures::None {
                self.failures(state, at, out);
            }
        }
        self.bun(state, out);
        self.operator(state, out);
        if self.world.failures.are_of_the_server() {
            self.server_crash(state, |_| false, out);
        }
        if self.world.failures == Failures::OfTheServerBehindAPooler {
            let is_idle = |step| matches!(step, Step::Observe | Step::PollGuard | Step::Ready);
            self.server_crash(state, is_idle, out);
        }
    }

    /// What the run does next.
    fn step(&self, state: &State, at: usize, out: &mut Transitions) {
        match state.runs[at].step {
            Step::Over | Step::Observed | Step::Worked => {}
            Step::Unstarted => self.start(state, at, out),
            Step::Observe | Step::PollGuard => self.look_and_poll(state, at, out),
            Step::Begin => self.begin(state, at, out),
            Step::WriteRow => self.write_row(state, at, out),
            Step::AssertGuard => self.assert_guard(state, at, Step::ReadHistory, out),
            Step::ReadHistory => self.read_history(state, at, out),
            Step::CommitRow => self.commit_row(state, at, out),
            Step::Ready => self.send_next(state, at, out),
            Step::Bereft => run_step(state, at, Event::MissesItsCommit, out, |run| {
                run.plan = 0;
                run.step = Step::Abandon;
            }),
            Step::Fence => self.fence(state, at, out),
            Step::Recheck => self.recheck(state, at, out),
            Step::Body => goes(state, at, Event::RunsBody, Step::Record, out),
            Step::Record => goes(state, at, Event::WritesRecord, Step::Commit, out),
            Step::Commit => self.commit(state, at, out),
            Step::RecordApart => record_apart(state, at, out),
            Step::ForgetFence => self.fence(state, at, out),
            Step::ForgetRecheck => self.forget_recheck(state, at, out),
            Step::ForgetCommit => world_step(state, at, Event::Forgets, out, |next| {
                next.forget(next.runs[at].plan);
                next.runs[at].plan = 0;
                next.runs[at].answered(Step::Abandon);
            }),
            Step::Release => self.release(state, at, Step::Leave, out),
            Step::Abandon => self.release(state, at, Step::Fail, out),
            Step::Leave => self.succeed(state, at, Event::ReportsSuccess, out),
            Step::Fail => {
                run_step(state, at, Event::ReportsFailure, out, |run| run.end(Step::Over));
            }
        }
    }

    fn start(&self, state: &State, at: usize, out: &mut Transitions) {
        let living = state.runs.iter().filter(|run| run.client_lives).count();
        if living < self.world.at_once {
            chance(state, at, Event::Starts, out, |run| {
                run.step = Step::Observe;
                run.client_lives = true;
            });
        }
    }

    /// The look without the lock, before the first try of the guard and after each.
    fn look_and_poll(&self, state: &State, at: usize, out: &mut Transitions) {
        let bun_row =
            state.bun_row || self.protocol.takeover == Takeover::OfNoRow && state.our_row();
        let minded = match self.protocol.hint {
            Minds::Bun => bun_row,
            Minds::Nothing => false,
            Minds::BunAndDead => bun_row || state.our_row() && !state.guard_is_held(),
            Minds::AnyRow => bun_row || state.our_row(),
        };
        let pending = state.pending(&self.world);
        if pending == 0 && !minded && self.may_forget(state) && state.runs[at].step == Step::Observe
        {
            chance(state, at, Event::SeesWork, out, |run| run.step = Step::PollGuard);
        }
        if pending == 0 && !minded {
            self.succeed(state, at, Event::SeesNothingToDo, out);
        } else if state.runs[at].step == Step::Observe && (pending != 0 || !bun_row) {
            let stale = self.protocol.plan == Plan::ReadBeforeTheGuard;
            run_step(state, at, Event::SeesWork, out, |run| {
                run.step = Step::PollGuard;
                run.plan = if stale { pending } else { 0 };
            });
        }
        let is_free = self.protocol.guard == Guard::None || !state.guard_is_held();
        if state.runs[at].step == Step::PollGuard && is_free {
            run_step(state, at, Event::GetsGuard, out, |run| {
                run.step = Step::Begin;
                run.has_guard = true;
            });
        }
    }

    fn begin(&self, state: &State, at: usize, out: &mut Transitions) {
        match self.protocol.assertion {
            Assertion::BeforeTheRow => self.assert_guard(state, at, Step::WriteRow, out),
            Assertion::BehindTheRow => {
                let mut next = *state;
                next.runs[at].step = Step::WriteRow;
                self.write_row(&next, at, out);
            }
        }
    }

    fn assert_guard(&self, state: &State, at: usize, next: Step, out: &mut Transitions) {
        if state.runs[at].has_guard {
            goes(state, at, Event::SeesGuard, next, out);
        } else {
            run_step(state, at, Event::MissesGuard, out, |run| run.answered(Step::Fail));
        }
    }

    /// INSERT … ON CONFLICT DO UPDATE … WHERE id < 0. It waits for whoever has written or locked the row, and looks at
    /// it again then: so nothing happens here before that.
    fn write_row(&self, state: &State, at: usize, out: &mut Transitions) {
        if state.row_is_being_written(Some(at)) {
            return;
        }
        let takeover = self.protocol.takeover;
        if takeover != Takeover::WithoutWaiting && self.row_is_locked(state, Some(at)) {
            return;
        }
        let refused = match takeover {
            Takeover::OfNegativeIds | Takeover::WithoutWaiting => state.bun_row,
            Takeover::OfAnyRow => false,
            Takeover::OfNoRow => state.bun_row || state.our_row(),
        };
        if refused {
            chance(state, at, Event::MeetsBunRow, out, |run| run.answered(Step::Begin));
            return;
        }
        let next = match self.protocol.assertion {
            Assertion::BeforeTheRow => Step::ReadHistory,
            Assertion::BehindTheRow => Step::AssertGuard,
        };
        goes(state, at, Event::WritesRow, next, out);
    }

    fn read_history(&self, state: &State, at: usize, out: &mut Transitions) {
        let pending = state.pending(&self.world);
        let fresh = self.protocol.plan == Plan::ReadUnderTheRow;
        run_step(state, at, Event::ReadsHistory, out, |run| {
            run.step = Step::CommitRow;
            run.plan = if fresh { pending } else { run.plan };
        });
    }

    fn commit_row(&self, state: &State, at: usize, out: &mut Transitions) {
        let robs = state.robs_living(Some(at));
        let durable = self.protocol.takeover_commit == TakeoverCommit::Durable;
        world_step(state, at, Event::CommitsRow, out, |next| {
            next.delete_our_row();
            next.bun_row = false;
            if durable {
                next.unflushed = 0;
            }
            next.runs[at].owns_row = true;
            next.runs[at].answered(Step::Ready);
        });
        mark(out, robs.then_some(NotRobbed));
    }

    fn may_forget(&self, state: &State) -> bool {
        let under_the_lock = self.protocol.forget == Forget::UnderTheLock;
        self.world.forgets && under_the_lock && state.in_doubt() != 0
    }

    /// The look whether the very record is there.
    fn forget_recheck(&self, state: &State, at: usize, out: &mut Transitions) {
        if state.bun_records & state.runs[at].plan != 0 {
            goes(state, at, Event::FindsTheRecord, Step::ForgetCommit, out);
        } else {
            run_step(state, at, Event::FindsNoRecord, out, |run| {
                run.answered(Step::Abandon);
            });
        }
    }

    fn send_next(&self, state: &State, at: usize, out: &mut Transitions) {
        if self.may_forget(state) {
            chance(state, at, Event::SendsForget, out, |run| {
                run.step = Step::ForgetFence;
                run.plan = 1 << first(state.in_doubt());
            });
        }
        if state.runs[at].plan != 0 {
            goes(state, at, Event::SendsMigration, Step::Fence, out);
            return;
        }
        let guard_first = self.protocol.release == Release::GuardFirst;
        run_step(state, at, Event::SendsRelease, out, |run| {
            run.step = Step::Release;
            run.has_guard &= !guard_first;
        });
    }

    /// Returns true if and only if the row in the table bears this run's token.
    fn is_its_row(&self, state: &State, at: usize) -> bool {
        match self.protocol.token {
            Token::Unique => state.runs[at].owns_row,
            Token::Shared => state.our_row(),
        }
    }

    /// Returns true if and only if another run's fence has the row locked. A lock on what a row was before it was taken
    /// over keeps nobody from what it is now.
    fn row_is_locked(&self, state: &State, but: Option<usize>) -> bool {
        let mut runs = state.runs.iter().enumerate();
        self.protocol.fence == Fence::LocksTheRow
            && runs.any(|(other, run)| {
                let has_this_row = run.owns_row || self.protocol.token == Token::Shared;
                Some(other) != but && run.step.is_past_row() && has_this_row
            })
    }

    /// SELECT … WHERE id = token FOR UPDATE. A row that is not there is not waited for; one that is there and locked or
    /// being replaced is looked at again when it is not.
    fn fence(&self, state: &State, at: usize, out: &mut Transitions) {
        let recheck = match state.runs[at].step {
            Step::ForgetFence => Step::ForgetRecheck,
            _ => Step::Recheck,
        };
        if self.protocol.fence == Fence::Absent {
            return goes(state, at, Event::PassesFence, recheck, out);
        }
        if !self.is_its_row(state, at) {
            return run_step(state, at, Event::LosesLock, out, |run| {
                run.answered(Step::Abandon);
            });
        }
        let waits = self.protocol.fence == Fence::LocksTheRow
            && (state.row_is_being_written(Some(at)) || self.row_is_locked(state, Some(at)));
        if !waits {
            goes(state, at, Event::PassesFence, recheck, out);
        }
    }

    fn recheck(&self, state: &State, at: usize, out: &mut Transitions) {
        let migration = first(state.runs[at].plan);
        if self.protocol.recheck == Recheck::NotRecorded && state.recorded(migration) {
            run_step(state, at, Event::FindsItRecorded, out, |run| {
                run.plan &= !(1 << migration);
                run.answered(Step::Ready);
            });
        } else {
            goes(state, at, Event::FindsItNotRecorded, Step::Body, out);
        }
    }

    fn commit(&self, state: &State, at: usize, out: &mut Transitions) {
        let migration = first(state.runs[at].plan);
        let apart = self.protocol.record == Record::Apart;
        let crashes = self.world.failures.are_of_the_server();
        world_step(state, at, Event::CommitsMigration, out, |next| {
            count(&mut next.our_bodies[migration]);
            if crashes {
                next.unflushed |= 1 << migration;
            }
            let run = &mut next.runs[at];
            if apart {
                return run.answered(Step::RecordApart);
            }
            run.plan &= !(1 << migration);
            run.answered(Step::Ready);
            count(&mut next.our_records[migration]);
        });
    }

    /// DELETE … WHERE id = token. It waits while the row is locked or being replaced, but not for ever.
    fn release(&self, state: &State, at: usize, then: Step, out: &mut Transitions) {
        let by_name = self.protocol.release == Release::ByTableName;
        let hits = if by_name { state.our_row() } else { self.is_its_row(state, at) };
        if !hits {
            return run_step(state, at, Event::DeletesRow, out, |run| run.answered(then));
        }
        if state.row_is_being_written(Some(at)) || self.row_is_locked(state, Some(at)) {
            return chance(state, at, Event::CannotDeleteRow, out, |run| run.answered(Step::Fail));
        }
        world_step(state, at, Event::DeletesRow, out, |next| {
            next.delete_our_row();
            next.unflushed = 0;
            next.runs[at].answered(then);
        });
        mark(out, state.robs_living(Some(at)).then_some(NotRobbed));
    }

    /// The deaths of a run's three parts, an error in a file, and a signal.
    fn failures(&self, state: &State, at: usize, out: &mut Transitions) {
        let run = state.runs[at];
        if run.step == Step::Unstarted {
            return;
        }
        if run.client_lives {
            chance(state, at, Event::ClientIsKilled, out, |run| {
                if run.step.is_works() {
                    run.client_lives = false;
                    run.has_guard = false;
                } else {
                    run.end(Step::Over);
                }
            });
        }
        if run.has_guard {
            chance(state, at, Event::GuardSessionIsKilled, out, |run| run.has_guard = false);
        }
        if run.step.is_works() || run.step == Step::Ready {
            chance(state, at, Event::WorkSessionIsKilled, out, |run| {
                run.plan = 0;
                run.answered(Step::Fail);
            });
        }
        if run.step == Step::Body {
            chance(state, at, Event::MeetsErrorInFile, out, |run| {
                run.plan = 0;
                run.answered(Step::Abandon);
            });
        }
        if run.step == Step::Ready {
            chance(state, at, Event::IsStopped, out, |run| {
                run.plan = 0;
                run.step = Step::Abandon;
            });
        }
    }

    /// bun's statements, each a transaction of its own, and its death at any of them.
    fn bun(&self, state: &State, out: &mut Transitions) {
        let all = (1 << self.world.migrations) - 1;
        let next = match state.bun_step {
            BunStep::Done | BunStep::Dead => return,
            // A row that is there fails it, locked or not; one that is being written makes it wait.
            BunStep::Insert => {
                (!state.bun_row && !state.our_row() && !state.row_is_being_written(None))
                    .then(|| (Event::BunInserts, bun_inserts(state)))
            }
            BunStep::Read => Some((Event::BunReads, bun_reads(state, all))),
            BunStep::Record => Some((Event::BunRecords, bun_records(state))),
            BunStep::Body => Some((Event::BunRunsBody, bun_runs_body(state))),
            BunStep::Delete => {
                let row = state.bun_row || state.our_row();
                let waits =
                    row && (self.row_is_locked(state, None) || state.row_is_being_written(None));
                (!waits).then(|| (Event::BunDeletesRow, bun_deletes(state)))
            }
        };
        if let Some((event, mut next)) = next {
            if event != Event::BunReads {
                next.unflushed = 0;
            }
            push(out, event, Kind::Work, next);
            let robs = event == Event::BunDeletesRow && state.robs_living(None);
            mark(out, robs.then_some(NotRobbed));
        }
        if self.world.failures != Failures::None {
            push(out, Event::BunDies, Kind::Chance, bun_dies(state));
        }
    }

    /// An operator's DELETE waits for a row that is locked or being replaced, and does not see one that is not there
    /// yet.
    fn operator(&self, state: &State, out: &mut Transitions) {
        if self.world.forgets && self.protocol.forget == Forget::ByHand && state.in_doubt() != 0 {
            let mut next = *state;
            next.forget(1 << first(state.in_doubt()));
            push(out, Event::Forgets, Kind::Chance, next);
        }
        if self.world.operator == Operator::Absent
            || self.row_is_locked(state, None)
            || state.row_is_being_written(None)
        {
            return;
        }
        let mut next = *state;
        next.unflushed = 0;
        if state.our_row() {
            next.delete_our_row();
            push(out, Event::OperatorDeletesOurRow, Kind::Chance, next);
        } else if state.bun_row
            && (state.bun_step == BunStep::Dead || self.world.operator == Operator::Careless)
        {
            next.bun_row = false;
            push(out, Event::OperatorDeletesBunRow, Kind::Chance, next);
        }
    }

    /// All sessions end, and of the commits that are not on disk any suffix may be lost. Clients at these steps do not
    /// notice.
    fn server_crash(&self, state: &State, outlives: fn(Step) -> bool, out: &mut Transitions) {
        let mut next = *state;
        for run in &mut next.runs {
            match run.step {
                Step::Leave => run.has_guard = false,
                step if run.client_lives && outlives(step) => run.has_guard = false,
                step if step.is_over() => {}
                _ => run.end(Step::Over),
            }
        }
        if !matches!(next.bun_step, BunStep::Insert | BunStep::Done) {
            next = bun_dies(&next);
        }
        for lost_from in 0..=self.world.migrations {
            let mut survivor = next;
            let is_lost = next.unflushed >> lost_from != 0;
            if is_lost && self.protocol.kept == Kept::LookedFor {
                // What is not on disk is of the run that has the lock: to take it over flushes.
                let ready = survivor.runs.iter_mut().filter(|it| it.step == Step::Ready);
                ready.for_each(|run| run.step = Step::Bereft);
            }
            for migration in lost_from..self.world.migrations {
                if next.unflushed & 1 << migration != 0 {
                    survivor.our_bodies[migration] -= 1;
                    survivor.our_records[migration] -= 1;
                }
            }
            survivor.unflushed = 0;
            push(out, Event::ServerCrashes, Kind::Chance, survivor);
        }
    }

    /// The run reports success. Only where a server may crash is it remembered: elsewhere what was true stays true.
    fn succeed(&self, state: &State, at: usize, event: Event, out: &mut Transitions) {
        let (step, invariant) = match event {
            Event::ReportsSuccess => (Step::Worked, WorkerCompletes),
            _ => (Step::Observed, ObserverIsRight),
        };
        let remembers = self.world.failures.are_of_the_server();
        let last = if remembers { step } else { Step::Over };
        run_step(state, at, event, out, |run| run.end(last));
        mark(out, (!state.is_complete(&self.world)).then_some(invariant));
    }

    /// What holds in this world, and what is excluded from it.
    fn promised(&self) -> Vec<Invariant> {
        let protocol = &self.protocol;
        let asserts_behind = protocol.assertion == Assertion::BehindTheRow;
        let minds_any_row = protocol.hint == Minds::AnyRow;
        let minds_dead_row = minds_any_row || protocol.hint == Minds::BunAndDead;
        let survives = !self.world.failures.are_of_the_server();
        let durable = protocol.takeover_commit == TakeoverCommit::Durable;
        // bun is at work without its row, sees no record of what we have begun, and deletes our row.
        let careful = self.world.operator != Operator::Careless;
        let held = [
            (OnceOverall, careful),
            (OnceByUs, true),
            (Atomic, true),
            (InOrder, careful),
            (OneAtWork, true),
            (NotBesideBun, careful),
            // What a run has left complete a person may take back before it says so.
            (WorkerCompletes, careful && (survives || durable) && !self.world.forgets),
            (ObserverIsRight, careful && (survives || minds_any_row)),
            (NotRobbed, careful && asserts_behind),
            (Progress, true),
            (NoRowLeft, minds_dead_row),
        ];
        let promised = held.into_iter().filter(|(_, promised)| *promised);
        promised.map(|(invariant, _)| invariant).collect()
    }

    /// What a state breaks, but for [`Progress`] and [`NoRowLeft`].
    fn broken(&self, state: &State) -> [Option<Invariant>; 8] {
        let ours = &state.our_bodies;
        let once =
            (0..MIGRATIONS).all(|it| ours[it] + u8::from(state.bun_bodies & 1 << it != 0) < 2);
        let at_work = state.runs.iter().filter(|run| run.step.is_fenced_work()).count();
        let says = |step| state.runs.iter().any(|run| run.step == step);
        let complete = state.is_complete(&self.world);
        [
            (!once).then_some(OnceOverall),
            ours.iter().any(|&bodies| bodies > 1).then_some(OnceByUs),
            (*ours != state.our_records).then_some(Atomic),
            (1..MIGRATIONS).any(|it| ours[it] > 0 && !state.has_body(it - 1)).then_some(InOrder),
            (at_work > 1).then_some(OneAtWork),
            (at_work > 0 && state.bun_is_at_work()).then_some(NotBesideBun),
            (says(Step::Worked) && !complete).then_some(WorkerCompletes),
            (says(Step::Observed) && !complete).then_some(ObserverIsRight),
        ]
    }

    /// Returns true if and only if somebody lives, nobody has a next step, and it is not a bun row that all wait for.
    fn is_stuck(&self, state: &State, transitions: &Transitions) -> bool {
        !state.bun_row
            && !state.is_quiescent()
            && transitions.iter().all(|it| it.kind == Kind::Chance)
    }

    /// Which promise one fresh run, alone and undisturbed, does not keep. bun, if it has not begun, is kept from it.
    fn recovery(&self, state: &State) -> [Option<Invariant>; 2] {
        let alone = Model {
            world: World { operator: Operator::Absent, failures: Failures::None, ..self.world },
            ..*self
        };
        let mut state = *state;
        state.bun_step = BunStep::Done;
        let fresh = state.runs.iter_mut().find(|run| !run.owns_row);
        let fresh = fresh.expect("one run at most owns the row");
        *fresh = Run::new(0, Step::Observe);
        fresh.client_lives = true;
        let (mut works, mut leaves_row) = (true, false);
        alone.visit_ends(&state, &mut |end| {
            works &= end.runs.iter().all(|run| run.step == Step::Over);
            works &= end.is_complete(&self.world);
            leaves_row |= end.our_row();
        });
        [(!works).then_some(Progress), (works && leaves_row).then_some(NoRowLeft)]
    }

    /// Shows every state in which the participants, left to themselves, have nothing more to do.
    fn visit_ends(&self, state: &State, visit: &mut impl FnMut(&State)) {
        let mut next = Vec::new();
        self.transitions(state, &mut next);
        next.retain(|it| it.kind == Kind::Work);
        if next.is_empty() {
            visit(state);
        }
        next.iter().for_each(|it| self.visit_ends(&it.next, visit));
    }
}

fn bun_inserts(state: &State) -> State {
    State { bun_row: true, bun_step: BunStep::Read, ..*state }
}

fn bun_reads(state: &State, all: Set) -> State {
    let recorded = (0..MIGRATIONS).filter(|&it| state.recorded(it));
    let plan = all & !recorded.fold(0, |set, it| set | 1 << it);
    State {
        bun_plan: plan,
        bun_step: if plan == 0 { BunStep::Delete } else { BunStep::Record },
        ..*state
    }
}

fn bun_records(state: &State) -> State {
    State {
        bun_records: state.bun_records | 1 << first(state.bun_plan),
        bun_step: BunStep::Body,
        ..*state
    }
}

fn bun_runs_body(state: &State) -> State {
    let migration = 1 << first(state.bun_plan);
    let plan = state.bun_plan & !migration;
    State {
        bun_bodies: state.bun_bodies | migration,
        bun_plan: plan,
        bun_step: if plan == 0 { BunStep::Delete } else { BunStep::Record },
        ..*state
    }
}

fn bun_deletes(state: &State) -> State {
    let mut next = State { bun_row: false, bun_step: BunStep::Done, ..*state };
    next.delete_our_row();
    next
}

fn bun_dies(state: &State) -> State {
    let died_on = match state.bun_step {
        BunStep::Body => 1 << first(state.bun_plan),
        _ => 0,
    };
    State { excused: state.excused | died_on, bun_plan: 0, bun_step: BunStep::Dead, ..*state }
}

fn record_apart(state: &State, at: usize, out: &mut Transitions) {
    let migration = first(state.runs[at].plan);
    world_step(state, at, Event::CommitsRecord, out, |next| {
        count(&mut next.our_records[migration]);
        let run = &mut next.runs[at];
        run.plan &= !(1 << migration);
        run.answered(Step::Ready);
    });
}

/// The oldest migration of a set that is not empty.
fn first(set: Set) -> usize {
    set.trailing_zeros() as usize
}

/// Counts to two, which is as bad as any more.
fn count(number: &mut u8) {
    *number = (*number + 1).min(2);
}

fn push(out: &mut Transitions, event: Event, kind: Kind, next: State) {
    out.push(Transition { event, actor: 0, kind, next, breaks: None });
}

/// A run's own step that changes more than the run.
fn world_step(
    state: &State,
    at: usize,
    event: Event,
    out: &mut Transitions,
    change: impl FnOnce(&mut State),
) {
    let mut next = *state;
    change(&mut next);
    out.push(Transition {
        event,
        actor: state.runs[at].number,
        kind: Kind::Work,
        next,
        breaks: None,
    });
}

/// A run's own step that changes nothing but the run.
fn run_step(
    state: &State,
    at: usize,
    event: Event,
    out: &mut Transitions,
    change: impl FnOnce(&mut Run),
) {
    world_step(state, at, event, out, |next| change(&mut next.runs[at]));
}

/// A run's own step to the next of its steps.
fn goes(state: &State, at: usize, event: Event, step: Step, out: &mut Transitions) {
    run_step(state, at, event, out, |run| run.step = step);
}

/// What befalls a run.
fn chance(
    state: &State,
    at: usize,
    event: Event,
    out: &mut Transitions,
    change: impl FnOnce(&mut Run),
) {
    run_step(state, at, event, out, change);
    if let Some(transition) = out.last_mut() {
        transition.kind = Kind::Chance;
    }
}

/// Notes what the last transition breaks.
fn mark(out: &mut Transitions, breaks: Option<Invariant>) {
    if let Some(transition) = out.last_mut() {
        transition.breaks = breaks;
    }
}

/// When an exploration ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    AllIsSeen,
    /// All of these are broken.
    Broken(&'static [Invariant]),
}

/// What came of visiting the states, the nearest first.
struct Exploration {
    states: Vec<Visited>,
    transitions: usize,
    /// How many different states of the database the progress check started from.
    recoveries: usize,
    /// Bits of [`Event`].
    events: u64,
    /// In the order of discovery, each with the state that breaks it.
    broken: Vec<(Invariant, usize)>,
}

struct Visited {
    state: State,
    parent: u32,
    event: Event,
    actor: u8,
}

/// Keys are numbers already and need but a stir: the standard hasher takes most of the time of a debug build.
#[derive(Default)]
struct Stir(u64);

impl Hasher for Stir {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        let product = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ product >> 32;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Keys = HashSet<u64, BuildHasherDefault<Stir>>;

impl Exploration {
    fn of(protocol: Protocol, world: World, until: Until) -> Exploration {
        let model = Model { protocol, world };
        let mut start = State::start(&world);
        let mut keys = Keys::default();
        keys.insert(start.canonical());
        let mut exploration = Exploration {
            states: vec![Visited { state: start, parent: 0, event: Event::Starts, actor: 0 }],
            transitions: 0,
            recoveries: 0,
            events: 0,
            broken: Vec::new(),
        };
        let mut recovered = Keys::default();
        let mut transitions = Vec::new();
        let mut at = 0;
        while at < exploration.states.len() && !exploration.is_enough(until) {
            let state = exploration.states[at].state;
            transitions.clear();
            model.transitions(&state, &mut transitions);
            exploration.check_progress(&model, at, &transitions, &mut recovered);
            for transition in &transitions {
                exploration.follow(&model, at, transition, &mut keys);
            }
            at += 1;
        }
        exploration.recoveries = recovered.len();
        exploration
    }

    fn is_enough(&self, until: Until) -> bool {
        matches!(until, Until::Broken(all) if all.iter().all(|&it| self.has_broken(it)))
    }

    fn follow(&mut self, model: &Model, from: usize, transition: &Transition, keys: &mut Keys) {
        self.transitions += 1;
        self.events |= 1 << transition.event as u64;
        let mut state = transition.next;
        let is_new = keys.insert(state.canonical());
        if !is_new && transition.breaks.is_none() {
            return;
        }
        self.states.push(Visited {
            state,
            parent: u32::try_from(from).expect("memory ends before"),
            event: transition.event,
            actor: transition.actor,
        });
        let breaks = model.broken(&state).into_iter().chain([transition.breaks]);
        let latest = self.states.len() - 1;
        breaks.flatten().for_each(|invariant| self.breaks(invariant, latest));
        // A state that is known and only shown for the step that led to it need not be visited again.
        if !is_new && !self.is_latest_proof() {
            self.states.pop();
        }
    }

    /// Notes that this state breaks the invariant, if it is the first to do so.
    fn breaks(&mut self, invariant: Invariant, at: usize) {
        if !self.has_broken(invariant) {
            self.broken.push((invariant, at));
        }
    }

    fn is_latest_proof(&self) -> bool {
        let latest = self.states.len() - 1;
        self.broken.iter().any(|&(_, at)| at == latest)
    }

    fn has_broken(&self, invariant: Invariant) -> bool {
        self.broken.iter().any(|&(broken, _)| broken == invariant)
    }

    fn check_progress(
        &mut self,
        model: &Model,
        at: usize,
        transitions: &Transitions,
        recovered: &mut Keys,
    ) {
        let state = &self.states[at].state;
        let stuck = model.is_stuck(state, transitions).then_some(Progress);
        let mut broken = [stuck, None, None];
        if state.is_quiescent() && !state.bun_row {
            let mut database = *state;
            database.runs.iter_mut().for_each(|run| run.end(Step::Over));
            database.bun_step = BunStep::Done;
            database.unflushed = 0;
            if recovered.insert(database.canonical()) {
                let [works, row] = model.recovery(&database);
                broken = [stuck, works, row];
            }
        }
        let broken = broken.into_iter().flatten();
        broken.for_each(|invariant| self.breaks(invariant, at));
    }

    /// What is broken, in the order in which it was found to be.
    fn invariants(&self) -> Vec<Invariant> {
        self.broken.iter().map(|&(invariant, _)| invariant).collect()
    }

    fn has_seen(&self, event: Event) -> bool {
        self.events & 1 << event as u64 != 0
    }

    /// The shortest way to the first state that breaks each invariant.
    fn traces(&self) -> String {
        let mut text = String::new();
        for &(invariant, end) in &self.broken {
            let mut way = Vec::new();
            let mut at = end;
            while at != 0 {
                way.push(&self.states[at]);
                at = self.states[at].parent as usize;
            }
            text += &format!("{invariant:?} is broken after {} steps\n", way.len());
            for visited in way.iter().rev() {
                text += &format!("  {visited}\n");
            }
        }
        text
    }
}

impl fmt::Display for Visited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.actor {
            0 => write!(f, "{:?}", self.event),
            number => write!(f, "run {number}: {:?}", self.event),
        }
    }
}

impl fmt::Display for Exploration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} states, {} steps, {} databases to recover, broken: {:?}",
            self.states.len(),
            self.transitions,
            self.recoveries,
            self.invariants()
        )
    }
}

// ------------------------------------------------------------------------------------------------- the tests

/// Three runs at once, two migrations.
const THREE: World = World {
    runs: 3,
    at_once: 3,
    migrations: 2,
    bun: Bun::Present,
    operator: Operator::Careful,
    failures: Failures::OfEverybody,
    forgets: false,
};

/// Two runs at once, and one restart.
const TWO_AND_A_RESTART: World = World { at_once: 2, ..THREE };

const TWO: World = World { runs: 2, ..TWO_AND_A_RESTART };

/// The same runs with nobody to disturb them but death.
const CRASHES_ALONE: World =
    World { bun: Bun::Absent, operator: Operator::Absent, ..TWO_AND_A_RESTART };

fn explore(title: &str, protocol: Protocol, world: World, until: Until) -> Exploration {
    let exploration = Exploration::of(protocol, world, until);
    println!("{title}: {exploration}");
    if std::env::var_os("MODEL_TRACES").is_some() {
        println!("{}", exploration.traces());
    }
    exploration
}

/// Visits all states and demands that what is promised holds, and that what is not is really broken: a promise that
/// could be made is to be made.
fn demand_what_is_promised(title: &str, protocol: Protocol, world: World) -> Exploration {
    let exploration = explore(title, protocol, world, Until::AllIsSeen);
    let mut known = Model { protocol, world }.promised();
    known.extend(exploration.invariants());
    known.sort();
    let all = [
        OnceOverall,
        OnceByUs,
        Atomic,
        InOrder,
        OneAtWork,
        NotBesideBun,
        WorkerCompletes,
        ObserverIsRight,
        NotRobbed,
        Progress,
        NoRowLeft,
    ];
    assert_eq!(known, all, "{title}\n{}", exploration.traces());
    exploration
}

/// Demands that a mutation breaks these invariants first, in this order.
fn demand_broken(title: &str, protocol: Protocol, world: World, broken: &'static [Invariant]) {
    let exploration = explore(title, protocol, world, Until::Broken(broken));
    assert_eq!(exploration.invariants(), broken, "{title}\n{}", exploration.traces());
}

/// Demands that a mutation breaks nothing, because another step covers it.
fn demand_covered(title: &str, protocol: Protocol) {
    let restart = World { migrations: 1, ..TWO_AND_A_RESTART };
    for world in [TWO, restart, CRASHES_ALONE] {
        let exploration = explore(title, protocol, world, Until::AllIsSeen);
        assert_eq!(exploration.invariants(), [], "{title}\n{}", exploration.traces());
    }
}

fn bits(events: &[Event]) -> u64 {
    events.iter().fold(0, |bits, &it| bits | 1 << it as u64)
}

/// And sees to it that the model is alive: everything happens that can.
#[test]
fn three_runs_keep_what_is_promised() {
    let exploration = demand_what_is_promised("three runs", SHIPPED, THREE);
    let never = [
        Event::FindsItRecorded,
        Event::CommitsRecord,
        Event::SendsForget,
        Event::FindsTheRecord,
        Event::FindsNoRecord,
        Event::Forgets,
        Event::MissesItsCommit,
        Event::ServerCrashes,
    ];
    let all = (1 << (Event::ServerCrashes as u64 + 1)) - 1;
    assert_eq!(exploration.events, all & !bits(&never));
}

#[test]
fn two_runs_and_a_restart_keep_all_if_the_weaknesses_are_cured() {
    demand_what_is_promised("two runs, cured", CURED, TWO_AND_A_RESTART);
}

/// What bun recorded and never ran is run once, and in its turn, when it was forgotten.
#[test]
fn what_is_forgotten_under_the_lock_is_run_once_and_in_order() {
    let world = World { forgets: true, ..TWO_AND_A_RESTART };
    let exploration = demand_what_is_promised("forget", SHIPPED, world);
    assert!(exploration.has_seen(Event::Forgets));
    let by_hand = Protocol { forget: Forget::ByHand, ..CURED };
    demand_broken("a record deleted by hand", by_hand, world, &[WorkerCompletes, InOrder]);
}

#[test]
#[ignore = "it takes half a minute"]
fn four_runs_keep_what_is_promised() {
    let world = World { runs: 4, at_once: 4, migrations: 1, ..THREE };
    demand_what_is_promised("four runs", SHIPPED, world);
    demand_what_is_promised("four runs, cured", CURED, world);
}

#[test]
fn runs_keep_to_each_other_beside_a_careless_operator() {
    let world = World { operator: Operator::Careless, ..TWO };
    let exploration = demand_what_is_promised("careless operator", SHIPPED, world);
    assert!(exploration.has_seen(Event::FindsItRecorded));
    demand_what_is_promised("careless operator, cured", CURED, world);
}

#[test]
fn a_crash_of_the_server_takes_back_no_promise_but_what_is_excluded() {
    let world = World { failures: Failures::OfTheServerToo, ..TWO };
    demand_what_is_promised("server crash", SHIPPED, world);
    demand_what_is_promised("server crash, cured", CURED, world);
}

/// Behind a pooler a run may outlive it.
#[test]
fn a_run_that_outlives_a_crash_does_not_go_on_behind_what_was_lost() {
    let world = World { failures: Failures::OfTheServerBehindAPooler, ..TWO };
    let exploration = demand_what_is_promised("pooled crash", SHIPPED, world);
    assert!(exploration.has_seen(Event::MissesItsCommit));
    demand_what_is_promised("pooled crash, cured", CURED, world);
    let assumed = Protocol { kept: Kept::Assumed, ..CURED };
    demand_broken("commits assumed to be kept", assumed, world, &[InOrder, WorkerCompletes]);
}

/// Each cure alone, so that it is known which one cures what.
#[test]
fn each_weakness_has_its_own_cure() {
    let world = World { failures: Failures::OfTheServerToo, ..TWO };
    for (title, protocol) in [
        ("guard asserted before the row", Protocol { assertion: Assertion::BeforeTheRow, ..CURED }),
        ("takeover not durable", Protocol { takeover_commit: TakeoverCommit::Deferred, ..CURED }),
        ("row of ours not minded", Protocol { hint: Minds::Bun, ..CURED }),
    ] {
        demand_what_is_promised(title, protocol, world);
    }
}

#[test]
fn without_the_fence_two_work_at_once() {
    let protocol = Protocol { fence: Fence::Absent, ..CURED };
    demand_broken("no fence", protocol, CRASHES_ALONE, &[OneAtWork, OnceOverall, OnceByUs]);
    demand_broken("no fence, with bun", protocol, TWO, &[NotBesideBun]);
}

#[test]
fn with_a_fence_that_only_looks_two_work_at_once() {
    let protocol = Protocol { fence: Fence::LooksOnly, ..CURED };
    demand_broken("fence that looks", protocol, CRASHES_ALONE, &[OneAtWork, OnceOverall, OnceByUs]);
    demand_broken("fence that looks, with bun", protocol, TWO, &[NotBesideBun]);
}

#[test]
fn with_a_takeover_that_does_not_wait_two_work_at_once() {
    let protocol = Protocol { takeover: Takeover::WithoutWaiting, ..CURED };
    demand_broken(
        "takeover without waiting",
        protocol,
        CRASHES_ALONE,
        &[OneAtWork, OnceOverall, OnceByUs],
    );
}

#[test]
fn with_a_takeover_of_any_row_we_work_beside_bun() {
    let protocol = Protocol { takeover: Takeover::OfAnyRow, ..CURED };
    demand_broken(
        "takeover of any row",
        protocol,
        TWO,
        &[NotBesideBun, NotRobbed, ObserverIsRight, WorkerCompletes, InOrder, OnceOverall],
    );
}

#[test]
fn with_positive_ids_a_dead_run_locks_everybody_out() {
    let protocol = Protocol { takeover: Takeover::OfNoRow, ..CURED };
    demand_broken("positive ids", protocol, CRASHES_ALONE, &[Progress]);
}

#[test]
fn reading_under_the_row_and_looking_for_the_record_cover_each_other() {
    let stale = Protocol { plan: Plan::ReadBeforeTheGuard, ..CURED };
    let trusting = Protocol { recheck: Recheck::Absent, ..CURED };
    demand_covered("stale plan", stale);
    demand_covered("no look for the record", trusting);
    let both = Protocol { recheck: Recheck::Absent, ..stale };
    demand_broken("neither", both, CRASHES_ALONE, &[OnceOverall, OnceByUs]);
}

#[test]
fn without_the_guard_runs_rob_each_other_and_no_more() {
    let protocol = Protocol { guard: Guard::None, ..CURED };
    for world in [TWO, CRASHES_ALONE] {
        let exploration = explore("no guard", protocol, world, Until::AllIsSeen);
        assert_eq!(exploration.invariants(), [NotRobbed]);
    }
}

#[test]
fn with_one_token_for_all_a_run_deletes_its_successors_row() {
    let protocol = Protocol { token: Token::Shared, ..CURED };
    let exploration = explore("one token", protocol, TWO, Until::AllIsSeen);
    assert_eq!(exploration.invariants(), [NotRobbed]);
    let trusting = Protocol { recheck: Recheck::Absent, ..protocol };
    demand_broken(
        "one token, no look for the record",
        trusting,
        CRASHES_ALONE,
        &[NotRobbed, OnceOverall, OnceByUs],
    );
}

#[test]
fn with_a_release_by_table_name_a_run_deletes_its_successors_row() {
    let protocol = Protocol { release: Release::ByTableName, ..CURED };
    demand_broken("release by table name", protocol, CRASHES_ALONE, &[NotRobbed]);
}

#[test]
fn giving_the_guard_back_first_breaks_nothing() {
    let protocol = Protocol { release: Release::GuardFirst, ..CURED };
    demand_covered("guard first", protocol);
}

#[test]
fn with_a_record_of_its_own_transaction_a_body_is_run_twice() {
    let protocol = Protocol { record: Record::Apart, ..CURED };
    demand_broken("record apart", protocol, CRASHES_ALONE, &[Atomic, OnceOverall, OnceByUs]);
}

/// bun records a migration before it runs it.
#[test]
fn whoever_does_not_mind_buns_row_reports_success_too_early() {
    let protocol = Protocol { hint: Minds::Nothing, ..CURED };
    demand_broken("bun's row not minded", protocol, TWO, &[ObserverIsRight]);
}
