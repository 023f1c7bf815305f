//! Who was in the way of a statement that gave up waiting for a lock.
//!
//! The server does not tell, and the connection could not ask while it waited. So it is looked for afterwards: who holds
//! locks on the tables that the statement names; if nobody does, on tables that hang on these; else whoever holds any lock
//! that is not a mere reader's.

use crate::error::Error;
use crate::server::blocker;
use crate::sql;
use crate::sql::quote::literal;
use postgres::SimpleQueryRow;

/// Who was in the way of this text, in words, the oldest transaction first; `guard` is the session of our own that does not
/// count.
///
/// # Errors
///
/// What asking meets.
pub fn blockers(
    text: &str,
    guard: i32,
    ask: impl FnOnce(&str, &str) -> Result<Vec<SimpleQueryRow>, Error>,
) -> Result<Vec<String>, Error> {
    let names: Vec<String> = sql::identifiers(text).iter().map(|name| literal(name)).collect();
    let query = format!(
        include_str!("blockers.sql"),
        names = names.join(", "),
        words = blocker::words(),
        from = blocker::FROM,
        guard = guard,
        anything = ANYTHING,
    );
    let rows = ask(&query, "asking who is in the way")?;
    let words = |row: &SimpleQueryRow| {
        let perhaps = match row.get("perhaps") {
            Some("t") => "perhaps ",
            _ => "",
        };
        Some(format!("{perhaps}{}", row.get("blocker")?))
    };
    Ok(rows.iter().filter_map(words).collect())
}

/// As far as any lock is that has nothing to do with the statement, as far as is known.
const ANYTHING: usize = 9;
