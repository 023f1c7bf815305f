//! The real binary against a real PostgreSQL. `make test` starts a throwaway cluster for it; each test has a database,
//! a directory and an environment of its own, so all of them run in parallel.
//!
//! The groups below are folders. What a name of a group or of a module in it is given to, `cargo test` runs alone:
//! `tests/postgres with cargo test --test it lock::racing`.

/// What users and the project itself are promised: the rules that README opens with, exit codes, variables, the cost
/// of a run; and what the repository keeps to.
mod contract {
    mod bench;
    pub mod environment;
    mod exit_codes;
    mod recipes;
    mod resources;
    mod rules;
    mod tidy;
}

/// One section a command. `up` is what all the other groups are about.
mod commands {
    mod baseline;
    mod check;
    mod down;
    mod forget;
    mod help;
    mod history_lost;
    mod import;
    mod new;
    mod plan;
    pub mod status;
    mod unlock;
}

/// Which files are migrations, how their text is read, and what is refused of them before anything runs.
mod files {
    mod bundled;
    mod lexer;
    mod projects;
    mod recognised;
    mod refusals;
}

/// Exactly once, one at a time, no lock to delete: by racing, by killing at every message, by cutting the cable, by
/// chance, and by going through all states of a model.
mod lock {
    mod batch;
    mod blockers;
    mod cable;
    mod chaos;
    mod kill_matrix;
    mod lost;
    mod model;
    mod racing;
}

/// Statements that cannot run in a transaction: which they are, how they run, and how the next run heals what an
/// interruption left.
mod outside {
    mod alone;
    mod healing;
    mod partitioned;
    mod server_list;
    mod steps;
}

/// What is between a run and its database: how it is named, the wire, poolers, standbys, hostile settings, and signals
/// while it waits.
mod connection {
    mod failover;
    mod hostile;
    mod hosts;
    mod network;
    mod parameters;
    mod pooler;
    mod signals;
    mod standby;
    mod timeouts;
    #[cfg(feature = "tls")]
    pub mod tls;
}

/// What people and programs read: errors, the log, the terminal.
mod output {
    mod errors;
    mod logs;
    mod pictures;
    mod terminal;
}

/// Beside bun, and after it.
mod bun {
    mod adopted;
    mod beside;
    mod died;
    mod short;
}

/// What tests are made of.
mod support;
