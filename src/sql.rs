//! SQL text → tokens, statements, their kinds; and the checksum of a file.
//!
//! The server splits a message into statements itself. Lockstep has to know them too: for the log,
//! for a checksum that survives reformatting, to run alone what cannot run in a transaction, and to
//! refuse what would end the transaction under our feet. So this folder reads SQL as PostgreSQL reads
//! it (the manual's chapter 4.1 "Lexical Structure", the server's `scan.l`) and splits it where
//! psql splits it (`psqlscan.l`), and knows of the grammar no more than the first words of some
//! commands. Where psql is wrong it sides with the server: psql forgets at a line's end that a literal
//! was `E'…'`, and counts every `BEGIN`, `CASE` and `END` of a function. `tests/it/files/lexer.rs` compares it
//! with both.
//!
//! It is pure, takes any text without failing (what is wrong with a statement the server says
//! better), needs linear time and no recursion, and keeps of a file only what its caller needs
//! later. It must not guess: a word counts only where the server would take it for the keyword.
//!
//! `standard_conforming_strings` is taken to be on, PostgreSQL's default since 9.1.

mod annotations;
mod body;
mod checksum;
mod cursor;
mod enums;
mod index;
mod kinds;
mod lexer;
mod obstacles;
pub mod place;
pub mod quote;
pub mod sqlstate;
mod statements;
#[cfg(test)]
mod tests;
mod verb;

pub use annotations::Annotation;
pub use body::{Inside, place_in_body};
pub use checksum::Checksum;
pub use cursor::{Cursor, Parts, identifiers};
pub use enums::{added_enum_value, enum_use};
pub use index::index_on;
pub use kinds::{Kind, Outside, ReindexTarget, created_partitioned, rebuilt, reindex};
pub use lexer::without_comments;
pub use obstacles::{ObstacleKind, Partitioned, created_or_dropped_table};
pub use statements::{Script, Statement, parse};
pub use verb::verb;
