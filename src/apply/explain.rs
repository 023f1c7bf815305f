//! What the server says of a file's failure, in words of the file.

use postgres::error::{DbError, ErrorPosition};

use crate::error::SqlError;
use crate::migration::Migration;
use crate::sql::place::{Place, Precision};
use crate::sql::{self, Inside, sqlstate};

/// The place of the error of a statement that was sent by itself: at this byte of it, if the server names one.
pub fn in_statement(
    migration: &Migration,
    number: usize,
    offset: Option<usize>,
    error: &DbError,
) -> Place {
    let start = migration.script.statements.get(number).map_or(0, |it| it.range().start);
    let (at, precision) = match offset {
        Some(offset) => (start + offset, Precision::Exact),
        None => (start, Precision::Statement),
    };
    in_body(Place::of(&migration.text, at, precision), migration, number, error)
}

/// The place itself, or a better one: where the server names no character of the file, but a line of a body in it, or
/// quotes a name.
pub(super) fn in_body(
    place: Place,
    migration: &Migration,
    number: usize,
    error: &DbError,
) -> Place {
    if place.precision != Precision::Statement {
        return place;
    }
    let query = match error.position() {
        Some(ErrorPosition::Internal { position, query }) => {
            Some((query.as_str(), *position as usize))
        }
        _ => None,
    };
    let context = error.where_().unwrap_or_default();
    let (text, statements) = (&migration.text, &migration.script.statements);
    match sql::place_in_body(text, statements, number, &Inside { context, query }) {
        Some((at, true)) => Place::of(text, at, Precision::Exact),
        Some((at, false)) => Place::of(text, at, Precision::Statement),
        None => {
            let statement = statements.get(number);
            let quoted = statement.and_then(|it| Place::quoted(text, it.range(), error.message()));
            quoted.unwrap_or(place)
        }
    }
}

/// Nobody sees such a character, and the server's message does not name it.
pub(super) fn name_invisible(cause: &mut SqlError, place: Option<&Place>) {
    let is_syntax = cause.sqlstate == sqlstate::SYNTAX_ERROR;
    let invisible =
        place.filter(|it| it.precision == Precision::Exact && cause.sqlstate.starts_with("42"));
    cause.detail = cause.detail.take().or(invisible.and_then(|it| it.invisible(is_syntax)));
}

/// What the server says of our own statements, if a file leaves them without their tables, in words of the file.
pub(super) fn own_tables_gone(cause: SqlError) -> SqlError {
    SqlError {
        message: format!(
            "the file changed, moved or dropped a table of Lockstep's own: {}",
            cause.message
        ),
        hint: Some(
            "A migration must leave the history, its journal and the locks table alone.".to_owned(),
        ),
        query: None,
        context: None,
        ..cause
    }
}

/// What is open at the end of the file runs on into what we put behind it, and the server quotes that. The user has not
/// written it and need not see it.
pub(super) fn without_our_words(message: &str, place: Option<&Place>) -> String {
    if place.is_some_and(|place| place.precision == Precision::EndOfFile) {
        return "syntax error at the end of the file: a statement is incomplete, or a quote is still open".to_owned();
    }
    match message.split_once(" at or near ") {
        Some((unterminated, _)) if unterminated.starts_with("unterminated") => {
            unterminated.to_owned()
        }
        _ => message.to_owned(),
    }
}
