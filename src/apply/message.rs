//! A file, as it is sent: in one part, or in several if it is large, with markers before its statements; and the way back
//! from a position in it to a place in the file. Pure.

use std::ops::Range;

use postgres::error::{DbError, ErrorPosition};

use crate::lock::fence::Failed;
use crate::migration::Migration;
use crate::server::progress::Part;
use crate::sql;
use crate::sql::place::{Place, Precision, offset};
use crate::sql::quote::literal;
use crate::sql::sqlstate::MARKER;

/// How much of a file is sent at once, in bytes, unless one statement is longer. The server parses a whole message before
/// it runs the first statement of it, which takes it twenty times the message's size in memory.
const PART_BYTES: usize = 256 * 1024;

/// How long a marker is, about.
const MARKER_BYTES: usize = 256;

/// So many small statements in a row have a marker each; of those that follow, one in [`STRETCH`] has.
const EACH_MARKED: usize = 16;
const STRETCH: usize = 64;

/// A statement whose marker would cost more than itself is an INSERT of a few rows.
const SMALL_BYTES: usize = 1024;

/// How a file is cut into parts, and marked. A part is made when it is sent: a file in memory is enough.
pub struct FileMessage<'a> {
    migration: &'a Migration,
    /// This run's, by which a marker is known from a notice of the file's.
    token: i64,
    /// The session's application name. A statement's number is appended to it, for others to see.
    runner: String,
    /// The statements that have a marker, in order.
    marked: Vec<usize>,
    /// The statement that each part begins with.
    cuts: Vec<usize>,
}

/// A run of the file's bytes within a part.
struct Piece {
    /// Where it begins in the part, in bytes.
    at: usize,
    /// Where it is in the file.
    file: Range<usize>,
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

impl<'a> FileMessage<'a> {
    pub fn new(
        migration: &'a Migration,
        marking: &Marking,
        token: i64,
        runner: &str,
    ) -> FileMessage<'a> {
        let marked = marked(migration, marking);
        let mut cuts = vec![0];
        let (mut from, mut markers) = (0, 0);
        for (number, statement) in migration.script.statements.iter().enumerate() {
            let range = statement.range();
            let is_full = range.end - from + markers > PART_BYTES;
            if is_full && *marking != Marking::None && number > 0 {
                cuts.push(number);
                (from, markers) = (range.start, 0);
            }
            if marked.binary_search(&number).is_ok() {
                markers += MARKER_BYTES;
            }
        }
        FileMessage { migration, token, runner: runner.to_owned(), marked, cuts }
    }

    /// The parts, one after the other.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = Part> {
        (0..self.cuts.len()).map(|number| self.part(number).0)
    }

    /// The part of this number, and what it holds of the file.
    fn part(&self, number: usize) -> (Part, Vec<Piece>) {
        let (text, statements) = (&self.migration.text, &self.migration.script.statements);
        let first = self.cuts[number];
        let next = self.cuts.get(number + 1);
        let behind = next.copied().unwrap_or(statements.len());
        let mut from = match number {
            0 => 0,
            _ => statements[first].range().start,
        };
        let end = next.map_or(text.len(), |it| statements[*it].range().start);
        let mut part = Part::default();
        let mut pieces = Vec::new();
        let mut push = |part: &mut Part, file: Range<usize>| {
            let at = part.text.len();
            part.text.push_str(&text[file.clone()]);
            pieces.push(Piece { at, file });
        };
        if !self.marked.is_empty() {
            part.marked = Some(first..behind);
            for (number, statement) in statements.iter().enumerate().take(behind).skip(first) {
                if number == first || self.marked.binary_search(&number).is_ok() {
                    let start = statement.range().start;
                    push(&mut part, from..start);
                    from = start;
                    part.text.push_str(&self.marker_before(number));
                }
            }
            if next.is_none() {
                part.end_marker = self.marker(behind, "");
            }
        }
        push(&mut part, from..end);
        // What is not sent, lines that only psql understands and the `BEGIN` and `COMMIT` around a file, leaves as many
        // blanks, so that every byte stays where it was.
        for line in &self.migration.script.psql_lines {
            if let Some(piece) =
                pieces.iter().find(|it| it.file.start <= line.start && line.end <= it.file.end)
            {
                let at = piece.at + line.start - piece.file.start;
                let blanks = " ".repeat(line.len());
                part.text.replace_range(at..at + line.len(), &blanks);
            }
        }
        (part, pieces)
    }

    fn marker_before(&self, number: usize) -> String {
        let of = self.migration.script.statements.len();
        let name = literal(&format!("{} {}/{of}", self.runner, number + 1));
        let show = format!("PERFORM pg_catalog.set_config('application_name', {name}, true);");
        self.marker(number, &show)
    }

    /// Tells that the statement of this number comes next. INFO reaches the client whatever `client_min_messages` is.
    fn marker(&self, number: usize, besides: &str) -> String {
        let token = self.token;
        format!(
            "DO LANGUAGE plpgsql $lockstep$BEGIN {besides}\
             RAISE INFO USING ERRCODE = '{MARKER}', MESSAGE = '{token} {number}';END$lockstep$;"
        )
    }

    /// The place in the file that an error is about: where the server says, else where the statement begins that was
    /// running. None if a statement of ours raised the error.
    pub fn place(&self, failed: &Failed, counts_bytes: bool) -> Option<Place> {
        if failed.ours.is_some() {
            return None;
        }
        let text = &self.migration.text;
        if let Some(ErrorPosition::Original(position)) = failed.cause.position() {
            let sent = (failed.part, failed.prefix.as_str());
            let (at, precision) = self.in_file(sent, *position as usize, counts_bytes)?;
            return Some(Place::of(text, at, precision));
        }
        let statements = &self.migration.script.statements;
        // One statement needs no marker.
        let lone = (statements.len() == 1).then_some(0);
        let statement = statements.get(failed.reached.or(lone)?)?;
        Some(Place::of(text, statement.range().start, Precision::Statement))
    }

    /// Finds the byte of the file that a position of the server's means, behind what was sent before the part: counted from
    /// 1, in characters, or, where `counts_bytes`, in bytes. None if it lies before the file.
    fn in_file(
        &self,
        (number, prefix): (usize, &str),
        position: usize,
        counts_bytes: bool,
    ) -> Option<(usize, Precision)> {
        let (part, pieces) = self.part(number);
        let offset = offset(&part.text, prefix, position, counts_bytes)?;
        if offset >= part.text.len() && number + 1 == self.cuts.len() {
            return Some((self.migration.text.len(), Precision::EndOfFile));
        }
        let at = match pieces.iter().rfind(|piece| piece.at <= offset) {
            // In a marker: it is about the statement behind it.
            Some(piece) => (piece.file.start + offset - piece.at).min(piece.file.end),
            None => pieces.first()?.file.start,
        };
        Some((at, Precision::Exact))
    }
}

/// The byte that an error is about in a text that was sent behind a prefix; none if the server names none.
pub fn offset_of(text: &str, prefix: &str, error: &DbError, counts_bytes: bool) -> Option<usize> {
    match error.position() {
        Some(ErrorPosition::Original(at)) => offset(text, prefix, *at as usize, counts_bytes),
        _ => None,
    }
}

/// The statements that have a marker, in order.
fn marked(migration: &Migration, marking: &Marking) -> Vec<usize> {
    let dense = match marking {
        Marking::None => return Vec::new(),
        Marking::Usual => 0..0,
        Marking::Dense(range) => range.clone(),
    };
    let mut small_in_a_row = 0;
    let is_marked = |(number, text): (usize, &str)| {
        small_in_a_row = if is_small(text) { small_in_a_row + 1 } else { 0 };
        let is_marked = small_in_a_row <= EACH_MARKED
            || (small_in_a_row - EACH_MARKED - 1).is_multiple_of(STRETCH)
            || dense.contains(&number);
        is_marked.then_some(number)
    };
    migration.statements().enumerate().filter_map(is_marked).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::Version;

    const PREFIX: &str = "BEGIN; ไทย ";

    fn migration(text: &str) -> Migration {
        Migration {
            version: Version::parse("20230101000000").expect("fourteen digits"),
            path: "x".into(),
            text: text.to_owned(),
            script: sql::parse(text),
        }
    }

    fn message<'a>(migration: &'a Migration, marking: &Marking) -> FileMessage<'a> {
        FileMessage::new(migration, marking, -1, "ไทย")
    }

    fn texts(message: &FileMessage<'_>) -> Vec<String> {
        message.parts().map(|it| it.text).collect()
    }

    /// Every character of the file is found again at the position that the server would give, with and without
    /// markers, in one part or in several, whatever stands before it.
    #[test]
    fn positions_lead_back_to_the_file() {
        let large =
            format!("-- é\n{}SELECT 'ไทย'", format!("SELECT '{}'; ", "é".repeat(60_000)).repeat(5));
        for text in [
            "SELECT 1",
            "-- é 🐘\nSELECT 'ไทย';\n\n SELECT 2; -- end",
            "",
            "\u{1F418};;;SELECT 1\r\n;x",
            &large,
        ] {
            for marking in [Marking::None, Marking::Usual] {
                let migration = migration(text);
                let message = message(&migration, &marking);
                let starts = text.char_indices().map(|(offset, _)| offset);
                for offset in starts.filter(|it| text.len() < 1000 || it % 4999 < 2) {
                    let holds = |number: &usize| {
                        let (part, pieces) = message.part(*number);
                        let piece = pieces.into_iter().find(|it| it.file.contains(&offset))?;
                        Some((part.text, piece.at + offset - piece.file.start))
                    };
                    let mut numbers = 0..message.cuts.len();
                    let number = numbers.find(|it| holds(it).is_some()).expect("a part");
                    let (part, at) = holds(&number).expect("a piece");
                    assert_eq!(part[at..].chars().next(), text[offset..].chars().next());
                    let characters = PREFIX.chars().count() + part[..at].chars().count() + 1;
                    let found = message.in_file((number, PREFIX), characters, false);
                    assert_eq!(found, Some((offset, Precision::Exact)));
                    let found = message.in_file((number, PREFIX), PREFIX.len() + at + 1, true);
                    assert_eq!(found, Some((offset, Precision::Exact)));
                }
            }
        }
    }

    #[test]
    fn positions_outside_the_file_are_known_as_such() {
        let migration = migration("SELECT 1; SELECT 2");
        let message = message(&migration, &Marking::Usual);
        let sent = &texts(&message)[0];
        let position = |needle: &str| {
            let at = sent.find(needle).expect("it is there");
            PREFIX.chars().count() + sent[..at].chars().count() + 1
        };
        let found = |position| message.in_file((0, PREFIX), position, false);
        assert_eq!(found(1), None);
        assert_eq!(found(1_000_000), Some((18, Precision::EndOfFile)));
        // A marker is about the statement behind it.
        assert_eq!(found(position("'-1 1'")), Some((10, Precision::Exact)));
        assert_eq!(found(position("'-1 0'")), Some((0, Precision::Exact)));
    }

    #[test]
    fn the_file_is_sent_to_the_letter_but_for_psqls_lines() {
        let text = "\\restrict abc\nSELECT 1;\n\\unrestrict abc\n";
        let dump = migration(text);
        assert_eq!(
            texts(&message(&dump, &Marking::None)),
            [format!("{}\nSELECT 1;\n{}\n", " ".repeat(13), " ".repeat(15))]
        );
        let two = migration("SELECT 1; SELECT 2");
        let parts: Vec<Part> = message(&two, &Marking::Usual).parts().collect();
        assert_eq!(parts[0].text.matches(MARKER).count(), 2);
        assert_eq!(parts[0].marked, Some(0..2));
        assert!(parts[0].end_marker.contains("'-1 2'"));
    }

    /// Cut between statements, each part with what it holds of the file and no more.
    #[test]
    fn a_large_file_is_cut_between_statements() {
        let row =
            "INSERT INTO t VALUES (1, 'some text that takes a little room'); -- and a comment\n";
        let text = row.repeat(10_000);
        let migration = migration(&text);
        let message = message(&migration, &Marking::Usual);
        let parts = texts(&message);
        assert!(parts.len() >= text.len() / PART_BYTES);
        assert!(parts.iter().all(|it| it.len() < PART_BYTES + 1000));
        let sent: usize = (0..parts.len())
            .flat_map(|number| message.part(number).1)
            .map(|piece| piece.file.len())
            .sum();
        assert_eq!(sent, text.len());
        for part in &parts[1..] {
            assert!(part.contains("$lockstep$;INSERT INTO t"), "{}", &part[..200]);
        }
        let markers: usize = parts.iter().map(|it| it.matches(MARKER).count()).sum();
        assert!((150..250).contains(&markers), "{markers}");
    }

    /// Statements that are not small have a marker each, and so has what is asked for.
    #[test]
    fn markers_are_rare_where_they_would_cost_more_than_what_they_mark() {
        let insert = "INSERT INTO t VALUES (1);";
        let text = format!("CREATE TABLE t ();{}UPDATE t SET x = 1;{insert}", insert.repeat(100));
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
