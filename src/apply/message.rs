//! A file, as it is sent: in one part, or in several if it is large, with markers before its statements; and the way back
//! from a position in it to a place in the file. Pure.

use std::borrow::Cow;
use std::ops::Range;

use postgres::error::{DbError, ErrorPosition};

use crate::migration::Migration;
use crate::server::progress::{Part, Reached};
use crate::sql;
use crate::sql::place::{Place, Precision, offset};
use crate::sql::quote::literal;
use crate::sql::sqlstate::MARKER;

/// How much of a file is sent at once, in bytes, unless one statement is longer. The server parses a whole message before
/// it runs the first statement of it, which takes it twenty times the message's size in memory.
const PART_BYTES: usize = 256 * 1024;

/// So many small statements in a row have a marker each; of those that follow, one in [`STRETCH`] has.
const EACH_MARKED: usize = 16;
const STRETCH: usize = 64;

/// A statement whose marker would cost more than itself is an INSERT of a few rows.
const SMALL_BYTES: usize = 1024;

/// A file's text in parts.
pub struct FileMessage {
    pub parts: Vec<Part>,
    pieces: Vec<Piece>,
}

/// A run of the file's bytes within a part.
struct Piece {
    part: usize,
    /// Where it begins in the part, in bytes.
    at: usize,
    /// Where it begins in the file, in bytes.
    file: usize,
    length: usize,
}

/// Which statements have markers.
#[derive(Clone, PartialEq, Eq)]
pub enum Marking {
    /// None, and the file is one part: in case our lexer sees statements where the server sees none.
    None,
    /// Each, but where many small ones stand in a row.
    Usual,
    /// As usual, and each of these.
    Dense(Range<usize>),
}

/// What markers tell beside the number of the statement that comes next.
pub struct Marker<'a> {
    /// This run's, by which a marker is known from a notice of the file's.
    pub token: i64,
    /// The session's application name. The number is appended to it, for others to see.
    pub runner: &'a str,
}

impl FileMessage {
    pub fn build(migration: &Migration, marking: &Marking, marker: &Marker<'_>) -> FileMessage {
        let file = blanked(migration);
        let statements = &migration.script.statements;
        let marked = marked(migration, marking);
        let mut marks = marked.iter().peekable();
        let mut message = FileMessage {
            parts: vec![Part::default()],
            pieces: Vec::new(),
        };
        let mut from = 0;
        for (number, statement) in statements.iter().enumerate() {
            let range = statement.range();
            let sent = message.parts.last().map_or(0, |part| part.text.len());
            let is_full = sent > 0 && sent + range.end - from > PART_BYTES;
            message.push(&file, from..range.start);
            from = range.start;
            if is_full && *marking != Marking::None && number > 0 {
                message.parts.push(Part::default());
            }
            let part = message.part();
            let is_marked = marks.next_if(|it| **it == number).is_some();
            if is_marked || !marked.is_empty() && part.text.is_empty() {
                part.text
                    .push_str(&marker.before_statement(number, statements.len()));
                part.marked.get_or_insert(number..number).end = number + 1;
            }
            if let Some(range) = &mut part.marked {
                range.end = number + 1;
            }
        }
        message.push(&file, from..file.len());
        if !marked.is_empty() {
            message.part().end_marker = marker.text(statements.len(), "");
        }
        message
    }

    fn part(&mut self) -> &mut Part {
        let last = self.parts.len() - 1;
        &mut self.parts[last]
    }

    fn push(&mut self, file: &str, range: Range<usize>) {
        let number = self.parts.len() - 1;
        let part = self.part();
        let (at, length) = (part.text.len(), range.len());
        part.text.push_str(&file[range.clone()]);
        self.pieces.push(Piece {
            part: number,
            at,
            file: range.start,
            length,
        });
    }

    /// The place in the file that an error is about: where the server says, else where the statement begins that was
    /// running. `prefix` is what was sent before the part's own text.
    pub fn place(
        &self,
        migration: &Migration,
        error: &DbError,
        reached: Reached,
        (part, prefix): (usize, &str),
        counts_bytes: bool,
    ) -> Option<Place> {
        let text = &migration.text;
        if let Some(ErrorPosition::Original(position)) = error.position() {
            return match self.in_file(part, prefix, *position as usize, counts_bytes) {
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
            Reached::Nothing => return None,
        };
        let start = statements.get(number)?.range().start;
        Some(Place::of(text, start, Precision::Statement))
    }

    /// Finds the byte of the file that a position of the server's means: counted from 1, in characters, or, where
    /// `counts_bytes`, in bytes.
    fn in_file(&self, part: usize, prefix: &str, position: usize, counts_bytes: bool) -> Found {
        let text = &self.parts[part].text;
        let Some(offset) = offset(text, prefix, position, counts_bytes) else {
            return Found::Before;
        };
        let mut pieces = self.pieces.iter().filter(|piece| piece.part == part);
        let last_in_file = part + 1 == self.parts.len();
        let Some(piece) = pieces.rfind(|piece| piece.at <= offset) else {
            // In the marker that a part begins with: it is about the statement behind it.
            let first = self.pieces.iter().find(|piece| piece.part == part);
            return first.map_or(Found::Before, |piece| Found::At(piece.file));
        };
        match offset >= text.len() && last_in_file {
            true => Found::Behind,
            // In a marker: it is about the statement behind it.
            false => Found::At(piece.file + (offset - piece.at).min(piece.length)),
        }
    }
}

/// The byte that an error is about in a text that was sent behind a prefix; none if the server names none.
pub fn offset_of(text: &str, prefix: &str, error: &DbError, counts_bytes: bool) -> Option<usize> {
    match error.position() {
        Some(ErrorPosition::Original(at)) => offset(text, prefix, *at as usize, counts_bytes),
        _ => None,
    }
}

#[derive(Debug)]
enum Found {
    Before,
    At(usize),
    Behind,
}

/// The statements that have a marker, in order.
fn marked(migration: &Migration, marking: &Marking) -> Vec<usize> {
    let dense = match marking {
        Marking::None => return Vec::new(),
        Marking::Usual => 0..0,
        Marking::Dense(range) => range.clone(),
    };
    let mut small_in_a_row = 0;
    let mut marked = Vec::new();
    for (number, statement) in migration.script.statements.iter().enumerate() {
        let text = &migration.text[statement.range()];
        small_in_a_row = if is_small(text) {
            small_in_a_row + 1
        } else {
            0
        };
        let is_marked = small_in_a_row <= EACH_MARKED
            || (small_in_a_row - EACH_MARKED - 1).is_multiple_of(STRETCH)
            || dense.contains(&number);
        if is_marked {
            marked.push(number);
        }
    }
    marked
}

/// The statements that share the marker of this one, itself included.
pub fn stretch(migration: &Migration, number: usize) -> Range<usize> {
    let marked = marked(migration, &Marking::Usual);
    let next = marked.iter().find(|it| **it > number);
    number..next.copied().unwrap_or(migration.script.statements.len())
}

/// Returns true if and only if a statement inserts rows that it spells out, and not many.
fn is_small(statement: &str) -> bool {
    if statement.len() > SMALL_BYTES || sql::verb(statement) != "INSERT" {
        return false;
    }
    let names = sql::identifiers(statement);
    let has = |name: &str| names.iter().any(|it| it == name);
    has("values") && !has("select")
}

impl Marker<'_> {
    fn before_statement(&self, number: usize, of: usize) -> String {
        let name = literal(&format!("{} {}/{of}", self.runner, number + 1));
        let show = format!("PERFORM pg_catalog.set_config('application_name', {name}, true);");
        self.text(number, &show)
    }

    /// INFO reaches the client whatever `client_min_messages` is.
    fn text(&self, number: usize, besides: &str) -> String {
        let token = self.token;
        format!(
            "DO LANGUAGE plpgsql $lockstep$BEGIN {besides}\
             RAISE INFO USING ERRCODE = '{MARKER}', MESSAGE = '{token} {number}';END$lockstep$;"
        )
    }
}

/// The file's text, with what is not sent replaced by as many blanks, so that every byte stays where it was: lines that
/// only psql understands, the `BEGIN` and `COMMIT` around a file.
fn blanked(migration: &Migration) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(migration.text.as_str());
    for range in &migration.script.psql_lines {
        text.to_mut()
            .replace_range(range.clone(), &" ".repeat(range.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::Version;

    const PREFIX: &str = "BEGIN; ไทย ";

    fn migration(text: &str) -> Migration {
        Migration {
            version: Version::parse("20230101000000").expect("fourteen digits"),
            path: "x".into(),
            file_name: "x".to_owned(),
            text: text.to_owned(),
            script: sql::parse(text),
        }
    }

    fn message(text: &str, marking: &Marking) -> FileMessage {
        let marker = Marker {
            token: -1,
            runner: "ไทย",
        };
        FileMessage::build(&migration(text), marking, &marker)
    }

    /// Every character of the file is found again at the position that the server would give, with and without
    /// markers, in one part or in several, whatever stands before it.
    #[test]
    fn positions_lead_back_to_the_file() {
        let large = format!(
            "-- é\n{}SELECT 'ไทย'",
            format!("SELECT '{}'; ", "é".repeat(60_000)).repeat(5)
        );
        for text in [
            "SELECT 1",
            "-- é 🐘\nSELECT 'ไทย';\n\n SELECT 2; -- end",
            "",
            "\u{1F418};;;SELECT 1\r\n;x",
            &large,
        ] {
            for marking in [Marking::None, Marking::Usual] {
                let message = message(text, &marking);
                let starts = text.char_indices().map(|(offset, _)| offset);
                for offset in starts.filter(|it| text.len() < 1000 || it % 4999 < 2) {
                    let mut pieces = message.pieces.iter();
                    let piece = pieces
                        .rfind(|it| it.file <= offset && it.length > 0)
                        .expect("a piece");
                    let at = piece.at + (offset - piece.file);
                    let part = &message.parts[piece.part].text;
                    assert_eq!(part[at..].chars().next(), text[offset..].chars().next());
                    let characters = PREFIX.chars().count() + part[..at].chars().count() + 1;
                    let found = message.in_file(piece.part, PREFIX, characters, false);
                    assert!(matches!(found, Found::At(found) if found == offset));
                    let found = message.in_file(piece.part, PREFIX, PREFIX.len() + at + 1, true);
                    assert!(matches!(found, Found::At(found) if found == offset));
                }
            }
        }
    }

    #[test]
    fn positions_outside_the_file_are_known_as_such() {
        let message = message("SELECT 1; SELECT 2", &Marking::Usual);
        let position = |needle: &str| {
            let at = message.parts[0].text.find(needle).expect("it is there");
            PREFIX.chars().count() + message.parts[0].text[..at].chars().count() + 1
        };
        let found = |position| message.in_file(0, PREFIX, position, false);
        assert!(matches!(found(1), Found::Before));
        assert!(matches!(found(1_000_000), Found::Behind));
        // A marker is about the statement behind it.
        assert!(matches!(found(position("'-1 1'")), Found::At(10)));
        assert!(matches!(found(position("'-1 0'")), Found::At(0)));
    }

    #[test]
    fn the_file_is_sent_to_the_letter_but_for_psqls_lines() {
        let text = "\\restrict abc\nSELECT 1;\n\\unrestrict abc\n";
        let sent = &message(text, &Marking::None).parts[0].text;
        assert_eq!(
            sent,
            &format!("{}\nSELECT 1;\n{}\n", " ".repeat(13), " ".repeat(15))
        );
        let message = message("SELECT 1; SELECT 2", &Marking::Usual);
        assert_eq!(message.parts[0].text.matches(MARKER).count(), 2);
        assert_eq!(message.parts[0].marked, Some(0..2));
        assert!(message.parts[0].end_marker.contains("'-1 2'"));
    }

    /// Cut between statements, each part with what it holds of the file and no more.
    #[test]
    fn a_large_file_is_cut_between_statements() {
        let row =
            "INSERT INTO t VALUES (1, 'some text that takes a little room'); -- and a comment\n";
        let text = row.repeat(10_000);
        let message = message(&text, &Marking::Usual);
        assert_eq!(message.parts.len(), text.len().div_ceil(PART_BYTES));
        assert!(
            message
                .parts
                .iter()
                .all(|it| it.text.len() < PART_BYTES + 40_000)
        );
        let sent: usize = message.pieces.iter().map(|it| it.length).sum();
        assert_eq!(sent, text.len());
        for part in &message.parts[1..] {
            assert!(
                part.text.contains("$lockstep$;INSERT INTO t"),
                "{}",
                &part.text[..200]
            );
        }
        let markers: usize = message
            .parts
            .iter()
            .map(|it| it.text.matches(MARKER).count())
            .sum();
        assert!((150..250).contains(&markers), "{markers}");
    }

    /// Statements that are not small have a marker each, and so has what is asked for.
    #[test]
    fn markers_are_rare_where_they_would_cost_more_than_what_they_mark() {
        let insert = "INSERT INTO t VALUES (1);";
        let text = format!(
            "CREATE TABLE t ();{}UPDATE t SET x = 1;{insert}",
            insert.repeat(100)
        );
        let migration = migration(&text);
        let usual = marked(&migration, &Marking::Usual);
        let each: Vec<usize> = (0..=16).collect();
        assert_eq!(usual, [each.as_slice(), &[17, 81, 101, 102]].concat());
        assert_eq!(stretch(&migration, 17), 17..81);
        assert_eq!(stretch(&migration, 81), 81..101);
        assert_eq!(stretch(&migration, 3), 3..4);
        let dense = marked(&migration, &Marking::Dense(17..81));
        assert_eq!(dense.len(), usual.len() + 63);
        assert!(marked(&migration, &Marking::None).is_empty());
    }
}
