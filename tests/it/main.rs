//! The real binary against a real PostgreSQL. `make test` starts a throwaway cluster for it; each test has a database,
//! a directory and an environment of its own, so all of them run in parallel.

mod baseline;
mod beside_bun;
mod bun;
mod bun_client;
mod bundled;
mod cable;
mod chaos;
mod cluster;
mod down;
mod environment;
mod errors;
mod exit_codes;
mod files;
mod healing;
mod help;
mod hostile;
mod kill_matrix;
mod lock;
mod logs;
mod network;
mod new;
mod outside;
mod pgbouncer;
mod pooler;
mod proxy;
mod refusals;
mod resources;
mod rules;
mod signals;
mod standby;
mod steps;
mod support;
mod terminal;
mod tidy;
mod unlock;
