//! What the server said of a statement.

use std::fmt;

use log::kv::Value;
use postgres::error::{DbError, ErrorPosition};

use crate::sql::sqlstate;
use crate::text::words::below;

/// What the server said of a statement, without the parts that speak of the server's own source code.
#[derive(Clone, Debug, Default)]
pub struct SqlError {
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// The statement inside a function that failed.
    pub query: Option<String>,
    pub context: Option<String>,
}

impl SqlError {
    /// What a statement of ours raised, in words: see [`crate::history::guard::fail`].
    pub fn ours(code: &str, history: &str) -> SqlError {
        let words = sqlstate::OURS.iter().find(|(it, _)| *it == code);
        let words = words.map_or("a statement of our own failed", |(_, words)| *words);
        let (place, hint) = match code {
            sqlstate::NOT_RECORDED => (format!(" in {history}"), true),
            sqlstate::STILL_RECORDED => (format!(" from {history}"), true),
            _ => (String::new(), false),
        };
        SqlError {
            sqlstate: code.to_owned(),
            message: format!("{words}{place}"),
            hint: hint.then(|| {
                format!("A trigger or a rule on {history}, a view in its place, or the file prevents it.")
            }),
            ..SqlError::default()
        }
    }

    /// Says what to do for a role that may not read our tables; the query for them is ours, and nobody's business.
    pub fn lacks_right_to_read(&mut self) {
        self.query = None;
        self.context = None;
        self.hint = Some(
            "The role needs SELECT on the history, its journal and the locks table, and USAGE on their schema."
                .to_owned(),
        );
    }

    /// Returns true if and only if the same statement may well succeed later without anybody doing anything:
    /// connection exceptions, rollbacks for concurrency, missing resources, an operator's intervention, system and
    /// internal errors (PostgreSQL manual, appendix "Error Codes").
    pub fn is_transient(&self) -> bool {
        let code = self.sqlstate.as_str();
        match code.get(..2) {
            // A pooler or a server that does not speak as we do will not learn it.
            Some("08") => code != "08P01",
            // Of "object not in prerequisite state" only what somebody holds is given back.
            Some("55") => matches!(code, "55006" | sqlstate::LOCK_NOT_AVAILABLE),
            Some("40" | "53" | "57" | "58" | "XX") => true,
            _ => false,
        }
    }
}

/// Returns true if and only if a pooler has no transactions for us, in its present mode.
pub fn is_about_statement_pooling(error: &DbError) -> bool {
    error.message().contains("statement pooling")
}

impl From<&DbError> for SqlError {
    fn from(error: &DbError) -> SqlError {
        SqlError {
            sqlstate: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: if is_about_statement_pooling(error) {
                Some("Use the pooler's transaction or session mode.".to_owned())
            } else {
                error.hint().map(str::to_owned)
            },
            // The statement of a function's that failed, if it was in a function.
            query: match error.position() {
                Some(ErrorPosition::Internal { query, .. }) => Some(query.clone()),
                _ => None,
            },
            context: error.where_().map(str::to_owned),
        }
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.sqlstate)
    }
}

impl std::error::Error for SqlError {}

impl SqlError {
    /// DETAIL, HINT, QUERY and CONTEXT as psql shows them, each on lines of its own.
    pub(super) fn notes(&self) -> String {
        let notes = [
            ("DETAIL", &self.detail),
            ("HINT", &self.hint),
            ("QUERY", &self.query),
            ("CONTEXT", &self.context),
        ];
        let given = notes.into_iter().filter_map(|(label, note)| {
            let note = note.as_ref()?.replace('\n', "\n    ");
            Some(format!("{label}: {note}"))
        });
        below(given)
    }

    /// What the log's structured line carries.
    pub(super) fn field(&self) -> (&'static str, Value<'_>) {
        ("sqlstate", Value::from(self.sqlstate.as_str()))
    }
}
