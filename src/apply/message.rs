//! One migration's message, and the way back from a position in it to a place in the file. Pure.

use std::borrow::Cow;

use postgres::error::{DbError, ErrorPosition};

use crate::error::{Place, Precision};
use crate::migration::Migration;
use crate::server::progress::{COMMITTED, Frame, MARKER, Reached};
use crate::server::session::literal;

/// A message to the server: what we put before the file, the file with a marker before each statement, what we put
/// after it.
pub struct Message {
    pub text: String,
    pub frame: Frame,
    pieces: Vec<Piece>,
}

/// A part of the file within the message.
struct Piece {
    /// Where it begins in the message, in bytes.
    at: usize,
    /// Where it begins in the file, in bytes.
    file: usize,
    length: usize,
}

impl Message {
    /// Builds the message. A line break and a semicolon follow the file, which may end in a comment, or without a
    /// semicolon.
    pub fn build(
        migration: &Migration,
        before: String,
        after: String,
        markers: Option<&Markers<'_>>,
    ) -> Message {
        let file = blanked(migration);
        let mut text = String::with_capacity(before.len() + file.len() + after.len() + 2);
        text.push_str(&before);
        let mut pieces = Vec::new();
        let mut push = |text: &mut String, from: usize, to: usize| {
            pieces.push(Piece {
                at: text.len(),
                file: from,
                length: to - from,
            });
            text.push_str(&file[from..to]);
        };
        let mut from = 0;
        if let Some(markers) = markers {
            for (number, statement) in migration.script.statements.iter().enumerate() {
                push(&mut text, from, statement.range().start);
                text.push_str(&markers.before_statement(number));
                from = statement.range().start;
            }
        }
        push(&mut text, from, file.len());
        text.push_str("\n;");
        if let Some(markers) = markers {
            text.push_str(&marker(markers.token, &markers.of.to_string(), ""));
        }
        text.push_str(&after);
        Message {
            text,
            pieces,
            frame: Frame { before, after },
        }
    }

    /// A message that is the file alone, behind a comment.
    pub fn bare(migration: &Migration, comment: &str) -> Message {
        let mut message = Message::build(migration, comment.to_owned(), String::new(), None);
        message.text.truncate(message.text.len() - "\n;".len());
        message
    }

    /// The place in the file that an error is about: where the server says, else where the statement begins that was
    /// running.
    pub fn place(
        &self,
        migration: &Migration,
        error: &DbError,
        reached: Reached,
        counts_bytes: bool,
    ) -> Option<Place> {
        let text = &migration.text;
        if let Some(ErrorPosition::Original(position)) = error.position() {
            return match self.in_file(*position as usize, counts_bytes) {
                Found::Before => None,
                Found::At(offset) => Some(Place::of(text, offset, Precision::Exact)),
                Found::Behind => Some(Place::of(text, text.len(), Precision::EndOfFile)),
            };
        }
        let statements = &migration.script.statements;
        let number = match reached {
            Reached::Statement(number) => number,
            // One statement needs no marker.
            Reached::Nothing if statements.len() == 1 => 0,
            Reached::Nothing | Reached::Committed => return None,
        };
        let statement = statements.get(number)?;
        Some(Place::of(
            text,
            statement.range().start,
            Precision::Statement,
        ))
    }

    /// Finds the byte of the file that a position of the server's means: counted from 1, in characters, or, where
    /// `counts_bytes`, in bytes.
    fn in_file(&self, position: usize, counts_bytes: bool) -> Found {
        let index = position.saturating_sub(1);
        let offset = match counts_bytes {
            true => index.min(self.text.len()),
            false => self
                .text
                .char_indices()
                .nth(index)
                .map_or(self.text.len(), |(offset, _)| offset),
        };
        let Some(piece) = self.pieces.iter().rev().find(|piece| piece.at <= offset) else {
            return Found::Before;
        };
        match self.pieces.last() {
            Some(last) if offset >= last.at + last.length => Found::Behind,
            // In a marker: it is about the statement behind it.
            _ => Found::At(piece.file + (offset - piece.at).min(piece.length)),
        }
    }
}

enum Found {
    Before,
    At(usize),
    Behind,
}

/// What markers tell beside the number of the statement that comes next.
pub struct Markers<'a> {
    /// This run's, by which a marker is known from a notice of the file's.
    pub token: i64,
    /// The session's application name. The number is appended to it, for others to see.
    pub runner: &'a str,
    /// How many statements there are.
    pub of: usize,
}

impl Markers<'_> {
    fn before_statement(&self, number: usize) -> String {
        let name = literal(&format!("{} {}/{}", self.runner, number + 1, self.of));
        let show = format!("PERFORM pg_catalog.set_config('application_name', {name}, true);");
        marker(self.token, &number.to_string(), &show)
    }
}

/// The statement that tells us that the server has come to the end of our transaction.
pub fn committed(token: i64) -> String {
    marker(token, COMMITTED, "")
}

/// INFO reaches the client whatever `client_min_messages` is.
fn marker(token: i64, message: &str, besides: &str) -> String {
    format!(
        "DO LANGUAGE plpgsql $lockstep$BEGIN {besides}\
         RAISE INFO USING ERRCODE = '{MARKER}', MESSAGE = '{token} {message}';END$lockstep$;"
    )
}

/// The file's text, with the lines that only psql understands replaced by as many blanks, so that every byte stays
/// where it was.
fn blanked(migration: &Migration) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(migration.text.as_str());
    for line in &migration.script.psql_lines {
        text.to_mut()
            .replace_range(line.clone(), &" ".repeat(line.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::Version;
    use crate::sql;

    fn migration(text: &str) -> Migration {
        Migration {
            version: Version::parse("20230101000000").expect("fourteen digits"),
            path: "x".into(),
            file_name: "x".to_owned(),
            text: text.to_owned(),
            script: sql::parse(text),
        }
    }

    fn message(text: &str, has_markers: bool) -> Message {
        let of = sql::parse(text).statements.len();
        let markers = has_markers.then_some(Markers {
            token: -1,
            runner: "ไทย",
            of,
        });
        Message::build(
            &migration(text),
            "BEGIN; ไทย ".to_owned(),
            " COMMIT".to_owned(),
            markers.as_ref(),
        )
    }

    /// Every character of the file is found again at the position that the server would give, with and without
    /// markers, whatever stands before it.
    #[test]
    fn positions_lead_back_to_the_file() {
        for text in [
            "SELECT 1",
            "-- é 🐘\nSELECT 'ไทย';\n\n SELECT 2; -- end",
            "",
            "\u{1F418};;;SELECT 1\r\n;x",
        ] {
            for has_markers in [false, true] {
                let message = message(text, has_markers);
                for (offset, character) in text.char_indices() {
                    let piece = message
                        .pieces
                        .iter()
                        .rfind(|piece| piece.file <= offset)
                        .expect("a piece");
                    let at = piece.at + (offset - piece.file);
                    assert!(message.text[at..].starts_with(character));
                    let characters = message.text[..at].chars().count() + 1;
                    assert!(
                        matches!(message.in_file(characters, false), Found::At(found) if found == offset)
                    );
                    assert!(
                        matches!(message.in_file(at + 1, true), Found::At(found) if found == offset)
                    );
                }
            }
        }
    }

    #[test]
    fn positions_outside_the_file_are_known_as_such() {
        let message = message("SELECT 1; SELECT 2", true);
        let position = |needle: &str| {
            let at = message.text.find(needle).expect("it is there");
            message.text[..at].chars().count() + 1
        };
        assert!(matches!(message.in_file(1, false), Found::Before));
        assert!(matches!(
            message.in_file(position("COMMIT"), false),
            Found::Behind
        ));
        assert!(matches!(message.in_file(1_000_000, false), Found::Behind));
        // A marker is about the statement behind it.
        assert!(matches!(
            message.in_file(position("'-1 1'"), false),
            Found::At(10)
        ));
    }

    #[test]
    fn the_file_is_sent_to_the_letter_but_for_psqls_lines() {
        let text = "\\restrict abc\nSELECT 1;\n\\unrestrict abc\n";
        let sent = message(text, false).text;
        assert!(
            sent.contains(&format!(
                " {}\nSELECT 1;\n{}\n\n; COMMIT",
                " ".repeat(13),
                " ".repeat(15)
            )),
            "{sent}"
        );
        let sent = message("SELECT 1; SELECT 2", true).text;
        assert_eq!(sent.matches(MARKER).count(), 3);
    }
}
