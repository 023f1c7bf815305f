//! The real binary against a real PostgreSQL. `make test` starts a throwaway cluster for it; each test has a database,
//! a directory and an environment of its own, so all of them run in parallel.

mod bun;
mod bundled;
mod cable;
mod chaos;
mod cluster;
mod environment;
mod errors;
mod exit_codes;
mod files;
mod hostile;
mod kill_matrix;
mod lexer;
mod lock;
mod logs;
mod network;
mod outside;
mod pgbouncer;
mod pooler;
mod proxy;
mod refusals;
mod resources;
mod rules;
mod server_list;
mod signals;
mod standby;
mod support;
mod tidy;
