//! Enum values that are used where they are added.

use super::cursor::Cursor;
use super::lexer::{Lexer, TokenKind};
use super::quote;
use super::statements::Statement;

/// A value that a file adds to an enum and uses: the server refuses that in one transaction.
#[derive(Debug, PartialEq, Eq)]
pub struct EnumUse {
    /// The type as written.
    pub type_name: String,
    pub value: String,
    /// The statement that adds the value, counted from 0.
    pub added: usize,
    /// The first statement behind it that holds the value as a literal.
    pub used: usize,
}

/// The use of an enum value that the file adds which comes first: a file that is cut before it needs no second cut. A
/// literal may be something else than the enum's value,
/// so this is for a warning.
pub fn enum_use(text: &str, statements: &[Statement]) -> Option<EnumUse> {
    let texts: Vec<&str> = statements.iter().map(|it| &text[it.range()]).collect();
    let uses = texts.iter().enumerate().filter_map(|(added, statement)| {
        let (type_name, value) = added_enum_value(statement)?;
        let mut behind = texts[added + 1..].iter();
        let used = behind.position(|other| uses_literal(other, &value))?;
        Some(EnumUse { type_name, value, added, used: added + 1 + used })
    });
    uses.min_by_key(|it| it.used)
}

/// The type, and the value that `ALTER TYPE … ADD VALUE` adds to it.
pub fn added_enum_value(statement: &str) -> Option<(String, String)> {
    let mut cursor = Cursor::new(statement);
    if !cursor.takes("alter type") {
        return None;
    }
    let type_name = cursor.qualified_name()?;
    if !cursor.takes("add value") {
        return None;
    }
    let _ = cursor.takes("if not exists");
    Some((type_name, cursor.literal()?))
}

/// Returns true if and only if the statement holds the value as a literal, or is a `DO` block that does. `ALTER TYPE`
/// may name it as a neighbour, and what is in a function's body does not run now.
fn uses_literal(statement: &str, value: &str) -> bool {
    let mut cursor = Cursor::new(statement);
    if cursor.takes("alter type") {
        return false;
    }
    let quoted = quote::literal(value);
    let is_block = cursor.at_word("do");
    let mut tokens = Lexer::new(statement, 0);
    tokens.any(|token| match token.kind {
        TokenKind::Dollar if is_block => token.text.contains(&quoted),
        _ => token.text == quoted,
    })
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn finds_an_enum_value_that_is_used_where_it_is_added() {
        let found = |text: &str| {
            let found = enum_use(text, &parse(text).statements);
            found.map(|it| format!("{} {} {} {}", it.type_name, it.value, it.added, it.used))
        };
        let add = "ALTER TYPE s.t ADD VALUE IF NOT EXISTS 'it''s' BEFORE 'b';";
        for (text, expected) in [
            (format!("{add} SELECT 1; INSERT INTO x VALUES ('it''s')"), Some("s.t it's 0 2")),
            (format!("{add} DO $$ BEGIN PERFORM 'it''s'; END $$"), Some("s.t it's 0 1")),
            (
                format!("SELECT 'it''s'; {add} ALTER TABLE x ALTER y SET DEFAULT 'it''s'::s.t"),
                Some("s.t it's 1 2"),
            ),
            (format!("SELECT 'it''s'; {add}"), None),
            (format!("{add} SELECT 'its', \"it's\", 1 -- 'it''s'"), None),
            (format!("{add} ALTER TYPE s.t ADD VALUE 'c' AFTER 'it''s'"), None),
            (
                format!(
                    "{add} CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 'it''s'; END $$"
                ),
                None,
            ),
        ] {
            assert_eq!(found(&text).as_deref(), expected, "{text}");
        }
    }
}
