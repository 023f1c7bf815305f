//! A bun migrator, played: the statements that bun's `Init`, `Lock`, `Migrate` and `Unlock` send, in their order.
//!
//! What matters of it: it takes its lock by inserting a row, fails at once if there is one, and, as people make it do,
//! tries again each second; it records a migration *before* it runs it; it deletes the lock by the name of the history;
//! and if it dies, its row stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use postgres::Client;
use postgres::error::SqlState;

use crate::support::{Scratch, rows, wait_until};

pub const LOCK: &str =
    "INSERT INTO bun_migration_locks (table_name) VALUES ('bun_migrations') RETURNING id";
pub const UNLOCK: &str = "DELETE FROM bun_migration_locks WHERE table_name = 'bun_migrations'";

const INIT: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS bun_migrations (id BIGSERIAL NOT NULL, name VARCHAR, group_id BIGINT, \
     migrated_at TIMESTAMPTZ NOT NULL DEFAULT current_timestamp, PRIMARY KEY (id))",
    "CREATE TABLE IF NOT EXISTS bun_migration_locks (id BIGSERIAL NOT NULL, table_name VARCHAR, PRIMARY KEY (id), \
     UNIQUE (table_name))",
];

/// Creates bun's tables, as `bun db init` leaves them.
pub fn init(scratch: &Scratch) {
    INIT.iter().for_each(|table| {
        scratch.sql(table);
    });
}

/// A bun that migrates, in a thread.
pub struct Bun {
    shared: Arc<Shared>,
    thread: JoinHandle<Run>,
}

/// What became of it.
pub struct Run {
    /// The id of its row in the locks table.
    pub lock: i64,
    /// The versions that it applied.
    pub applied: Vec<String>,
}

#[derive(Default)]
struct Shared {
    refused: AtomicUsize,
    is_to_die: AtomicBool,
}

impl Bun {
    /// Starts one that knows the files that the scratch directory holds now. Between two tries to get the lock it waits
    /// for this long.
    pub fn start(scratch: &Scratch, retry: Duration) -> Bun {
        let mut files: Vec<_> = std::fs::read_dir(scratch.migrations())
            .expect("migrations")
            .map(|entry| entry.expect("a file").path())
            .filter(|path| path.to_string_lossy().ends_with(".up.sql"))
            .map(|path| {
                let name = path.file_name().expect("a name").to_string_lossy();
                let text = std::fs::read_to_string(&path).expect("a text");
                (name[..14].to_owned(), text)
            })
            .collect();
        files.sort();
        let shared = Arc::new(Shared::default());
        let its = Arc::clone(&shared);
        let client = scratch.client();
        Bun { shared, thread: thread::spawn(move || run(client, &files, retry, &its)) }
    }

    /// How often it was refused the lock.
    pub fn refused(&self) -> usize {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Makes it die before it unlocks, and so leave its row.
    pub fn is_to_die(&self) {
        self.shared.is_to_die.store(true, Ordering::Relaxed);
    }

    /// Waits until it is done.
    pub fn wait(self) -> Run {
        wait_until("bun is done", || self.thread.is_finished());
        self.thread.join().expect("bun")
    }
}

fn run(mut client: Client, files: &[(String, String)], retry: Duration, shared: &Shared) -> Run {
    for table in INIT {
        // Creations that race each other fail, and bun with them; whoever runs it, starts it again.
        while let Err(error) = client.batch_execute(table) {
            let code = error.code().cloned();
            let races =
                [SqlState::UNIQUE_VIOLATION, SqlState::DUPLICATE_TABLE, SqlState::DUPLICATE_OBJECT];
            assert!(code.is_some_and(|it| races.contains(&it)), "{error:?}");
        }
    }
    let lock = loop {
        match client.query_one(LOCK, &[]) {
            Ok(row) => break row.get(0),
            Err(error) => {
                assert_eq!(error.code(), Some(&SqlState::UNIQUE_VIOLATION), "{error:?}");
                shared.refused.fetch_add(1, Ordering::Relaxed);
                thread::sleep(retry);
            }
        }
    };
    let applied = migrate(&mut client, files);
    if !shared.is_to_die.load(Ordering::Relaxed) {
        client.batch_execute(UNLOCK).expect("bun unlocks");
    }
    Run { lock, applied }
}

fn migrate(client: &mut Client, files: &[(String, String)]) -> Vec<String> {
    let history = "SELECT name FROM bun_migrations";
    let known = rows(client, history);
    let group = "SELECT COALESCE(max(group_id), 0) + 1 FROM bun_migrations";
    let group = rows(client, group).remove(0);
    let mut applied = Vec::new();
    for (version, text) in files {
        if known.contains(version) {
            continue;
        }
        let record = format!(
            "INSERT INTO bun_migrations (id, name, group_id, migrated_at) VALUES (DEFAULT, '{version}', {group}, DEFAULT)"
        );
        client.batch_execute(&record).expect("bun records");
        client.batch_execute(text).expect("bun migrates");
        applied.push(version.clone());
    }
    applied
}
