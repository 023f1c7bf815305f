//! Where in a body that stands in the file a function or a `DO` failed. The server counts lines from the body's first, and
//! positions in the statement inside it that failed. Pure.

use super::cursor::Cursor;
use super::lexer::{Lexer, TokenKind};
use super::place::offset;
use super::quote::stored_name;
use super::statements::Statement;

/// What the server says of an error inside a function.
pub struct Inside<'a> {
    /// Which lines of which functions were running, the innermost first.
    pub context: &'a str,
    /// The statement that failed, and where in it, counted from 1 in characters.
    pub query: Option<(&'a str, usize)>,
}

/// The byte of the file where it failed, and whether that is the very character; none if the body is not in the file.
/// `number` is the file's statement that was running.
pub fn place_in_body(
    text: &str,
    statements: &[Statement],
    number: usize,
    inside: &Inside<'_>,
) -> Option<(usize, bool)> {
    let line = inside.context.lines().find_map(|it| {
        let (function, line) = frame(it)?;
        let body = body_of(text, statements.get(..=number)?, function.as_deref())?;
        let starts = text[body.clone()].match_indices('\n').map(|(at, _)| at + 1);
        let start = [0].into_iter().chain(starts).nth(line - 1)?;
        Some(body.start + start..body.end)
    });
    let Some(rest) = line else {
        // A function in SQL has one text, and no lines.
        let (query, position) = inside.query.filter(|(query, _)| query.len() > 20)?;
        let (at, _) = text.match_indices(query).next()?;
        return Some((at + offset(query, "", position, false)?, true));
    };
    let exact = inside.query.and_then(|(query, position)| {
        let at = rest.start + text[rest.clone()].find(query)?;
        Some(at + offset(query, "", position, false)?)
    });
    let line = &text[rest.clone()];
    let indent = line.len() - line.trim_start_matches([' ', '\t']).len();
    Some(exact.map_or((rest.start + indent, false), |at| (at, true)))
}

/// The function of a line of context, none for a `DO`, and the line in it. The words are the server's language's, so only
/// the name and the first number behind it are read.
fn frame(context: &str) -> Option<(Option<String>, usize)> {
    const DO: &str = "inline_code_block";
    let (name, rest) = match context.split_once(DO) {
        Some((_, rest)) => (None, rest),
        None => {
            let (before, _) = context.split_once('(')?;
            let (_, rest) = context.rsplit_once(") ")?;
            let name = before.rsplit([' ', '.']).next()?;
            (Some(stored_name(name, '\\')), rest)
        }
    };
    let mut numbers = rest.split(|it: char| !it.is_ascii_digit());
    let line = numbers.find(|it| !it.is_empty())?.parse().ok();
    Some((name, line.filter(|it| *it > 0)?))
}

/// Where the body is of the function of this name that was created last, or of the `DO` that is the last statement.
fn body_of(
    text: &str,
    statements: &[Statement],
    function: Option<&str>,
) -> Option<std::ops::Range<usize>> {
    let is_it = |statement: &&Statement| {
        let mut cursor = Cursor::new(&text[statement.range()]);
        let Some(function) = function else {
            return cursor.takes("do");
        };
        let is_routine = cursor.takes_new_routine();
        let name = cursor.parts().and_then(|mut parts| parts.pop());
        is_routine && name.as_deref() == Some(function)
    };
    let statement = match function {
        None => statements.last().filter(is_it)?,
        Some(_) => statements.iter().rfind(is_it)?,
    };
    let start = statement.range().start;
    let bodies = Lexer::new(&text[statement.range()], 0).filter_map(|token| {
        let opening = match token.kind {
            TokenKind::Dollar => token.text[1..].find('$')? + 2,
            TokenKind::Literal => token.text.find('\'')? + 1,
            _ => return None,
        };
        Some(start + token.start + opening..start + token.end())
    });
    bodies.max_by_key(|body| body.len())
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn found(text: &str, number: usize, context: &str, query: Option<(&str, usize)>) -> String {
        let statements = parse(text).statements;
        let inside = Inside { context, query };
        match place_in_body(text, &statements, number, &inside) {
            Some((at, exact)) => format!("{exact} {}", text[at..].lines().next().unwrap_or("")),
            None => "none".to_owned(),
        }
    }

    #[test]
    fn the_line_and_the_character_are_found_in_whatever_language_the_server_speaks() {
        let text = "SELECT 1;\nDO LANGUAGE plpgsql $x$\nBEGIN\n  PERFORM 1;\n  DELETE FROM nosuch;\nEND $x$;";
        let query = Some(("DELETE FROM nosuch", 13));
        for (context, query, expected) in [
            ("PL/pgSQL function inline_code_block line 4 at SQL statement", query, "true nosuch;"),
            ("PL/pgSQL-Funktion inline_code_block Zeile 4 bei SQL", query, "true nosuch;"),
            (
                "PL/pgSQL function inline_code_block line 4 at RAISE",
                None,
                "false DELETE FROM nosuch;",
            ),
            // Deeper, in what is not ours.
            (
                "PL/pgSQL function other(integer) line 9 at RAISE\nPL/pgSQL function inline_code_block line 3 at PERFORM",
                None,
                "false PERFORM 1;",
            ),
            ("PL/pgSQL function other(integer) line 9 at RAISE", None, "none"),
            ("PL/pgSQL function inline_code_block line 99 at RAISE", None, "none"),
            ("", None, "none"),
        ] {
            assert_eq!(found(text, 1, context, query), expected, "{context}");
        }
    }

    #[test]
    fn a_function_of_the_file_is_found_by_its_name() {
        let text = "CREATE FUNCTION s.f(a int) RETURNS int LANGUAGE plpgsql AS $$\nBEGIN\n  RETURN nosuch;\nEND $$;\n\
            CREATE OR REPLACE PROCEDURE \"G h\"() LANGUAGE 'plpgsql' AS 'BEGIN\n  RAISE ''x''; END';\nSELECT s.f(1)";
        let context = "PL/pgSQL function s.f(integer) line 3 at RETURN";
        assert_eq!(found(text, 2, context, Some(("nosuch", 1))), "true nosuch;");
        assert_eq!(found("SELECT s.f(1)", 0, context, Some(("nosuch", 1))), "none");
        let context = "PL/pgSQL function \"G h\"() line 2 at RAISE";
        assert_eq!(
            found(&text.replace("G h", "Gh"), 2, &context.replace("G h", "Gh"), None),
            "false RAISE ''x''; END';"
        );
        // In SQL there is no line, but the whole text.
        let text = "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1 / sum(a) FROM t';\nSELECT f()";
        let query = Some(("SELECT 1 / sum(a) FROM t", 10));
        assert_eq!(
            found(text, 1, "SQL function \"f\" statement 1", query),
            "true / sum(a) FROM t';"
        );
    }
}
