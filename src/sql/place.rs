//! A place in a migration file, and the excerpt that shows it.

use std::borrow::Cow;
use std::ops::Range;

use super::quote::clip;
use crate::text::terminal::columns_of;

/// A place in a migration file.
#[derive(Debug)]
pub struct Place {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// The line's text.
    pub text: String,
    pub precision: Precision,
}

/// How well a place is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precision {
    /// The server named this character, or the word that begins with it.
    Exact,
    /// The server named no character; this is where the failing statement begins.
    Statement,
    /// The text ended where something was still open.
    EndOfFile,
}

impl Place {
    /// The place of the byte `offset` in `text`; an offset at or beyond the end is the end of the last line with text.
    pub fn of(text: &str, offset: usize, precision: Precision) -> Place {
        let mut offset = offset.min(text.len());
        if precision == Precision::EndOfFile {
            offset = text.trim_end().len();
        }
        offset = clip(text, offset).len();
        let start = text[..offset].rfind('\n').map_or(0, |newline| newline + 1);
        let newline = text[offset..].find('\n');
        let end = newline.map_or(text.len(), |newline| offset + newline);
        Place {
            line: text[..start].matches('\n').count() + 1,
            column: text[start..offset].chars().count() + 1,
            text: text[start..end].trim_end_matches('\r').to_owned(),
            precision,
        }
    }

    /// Where in a part of the text the first name stands that the message quotes and that stands there once: for what the
    /// server names no character of.
    pub fn quoted(text: &str, part: Range<usize>, message: &str) -> Option<Place> {
        let is_letter = |it: char| it.is_alphanumeric() || it == '_';
        let words = |name: &str| {
            let found = text[part.clone()].match_indices(name).map(|(at, _)| part.start + at);
            let is_whole = |at: &usize| {
                !text[..*at].ends_with(is_letter) && !text[at + name.len()..].starts_with(is_letter)
            };
            found.filter(is_whole).collect::<Vec<_>>()
        };
        let names = message.split('"').skip(1).step_by(2);
        let mut once = names.filter(|it| !it.is_empty()).map(words).filter(|it| it.len() == 1);
        Some(Place::of(text, *once.next()?.first()?, Precision::Exact))
    }

    /// A character in the word at this place that looks like a blank or like nothing, in words; or, if `before` is to be
    /// looked at too, in the line before it.
    pub fn invisible(&self, before: bool) -> Option<String> {
        let word = self.text.chars().skip(self.column - 1);
        let word = word.take_while(|it| !it.is_ascii_whitespace());
        let line = self.text.chars().take(self.column - 1);
        let found = named(word).map(|it| (it, "in this word"));
        let found = found.or_else(|| Some((named(line.filter(|_| before))?, "in this line")));
        found.map(|((character, what), place)| {
            format!("there is {what} (U+{:04X}) {place}", u32::from(character))
        })
    }

    /// The line's text and, under the place, a caret; of a long line only what is around the place.
    pub fn excerpt(&self) -> String {
        /// Fits a terminal of 80 columns beside the line number; the first half, with the caret, a much narrower one.
        const WINDOW: usize = 72;
        let (mut from, mut shown) = (0, Cow::Borrowed(self.text.as_str()));
        if self.text.chars().count() > WINDOW {
            from = (self.column - 1).saturating_sub(WINDOW / 2);
            let window: String = self.text.chars().skip(from).take(WINDOW).collect();
            let head = if from > 0 { "…" } else { "" };
            let tail = if self.text.chars().nth(from + WINDOW).is_some() { "…" } else { "" };
            shown = Cow::Owned(format!("{head}{window}{tail}"));
            from = from.saturating_sub(head.chars().count());
        }
        let number = self.line.to_string();
        let excerpt = format!("  {number} | {shown}");
        if self.precision == Precision::Statement {
            return excerpt;
        }
        let blanks = shown.chars().take(self.column - 1 - from).map(|c| match c {
            '\t' => "\t".to_owned(),
            c => " ".repeat(columns_of(c)),
        });
        let (blanks, width) = (blanks.collect::<String>(), number.len());
        format!("{excerpt}\n  {:width$} | {blanks}^", "")
    }
}

/// The first character that looks like a blank or like nothing, and what it is.
fn named(mut characters: impl Iterator<Item = char>) -> Option<(char, &'static str)> {
    characters.find_map(|it| match it {
        '\u{a0}' => Some((it, "a no-break space")),
        '\u{feff}' => Some((it, "a byte-order mark")),
        '\u{200b}'..='\u{200f}' | '\u{2060}' => Some((it, "an invisible character")),
        '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{3000}' => Some((it, "a blank of another kind")),
        _ => None,
    })
}

/// The byte of a text that was sent behind a prefix, at a position of the server's: counted from 1, in characters, or,
/// where `counts_bytes`, in bytes. None if it lies in the prefix.
pub fn offset(text: &str, prefix: &str, position: usize, counts_bytes: bool) -> Option<usize> {
    let index = position.saturating_sub(1);
    if counts_bytes {
        return Some(index.checked_sub(prefix.len())?.min(text.len()));
    }
    let index = index.checked_sub(prefix.chars().count())?;
    Some(text.char_indices().nth(index).map_or(text.len(), |(offset, _)| offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_lines_and_characters_from_one() {
        let text = "a\n\tżółć 🐘 x\r\nlast";
        for (offset, line, column, shown) in [
            (0, 1, 1, "a"),
            (1, 1, 2, "a"),
            (2, 2, 1, "\tżółć 🐘 x"),
            (3, 2, 2, "\tżółć 🐘 x"),
            (text.find('🐘').expect("an elephant"), 2, 7, "\tżółć 🐘 x"),
            // Within a character: its beginning.
            (text.find('🐘').expect("an elephant") + 2, 2, 7, "\tżółć 🐘 x"),
            (text.find("last").expect("a last line"), 3, 1, "last"),
            (text.len() + 7, 3, 5, "last"),
        ] {
            let place = Place::of(text, offset, Precision::Exact);
            assert_eq!(
                (place.line, place.column, place.text.as_str()),
                (line, column, shown),
                "{offset}"
            );
        }
    }

    #[test]
    fn the_end_of_the_file_is_behind_its_last_letter() {
        for text in ["SELECT (", "SELECT (\n\n", "SELECT ( \t\r\n"] {
            let place = Place::of(text, text.len(), Precision::EndOfFile);
            assert_eq!((place.line, place.column), (1, 9), "{text:?}");
        }
        let place = Place::of("", 0, Precision::EndOfFile);
        assert_eq!((place.line, place.column), (1, 1));
    }

    #[test]
    fn a_name_is_found_if_it_stands_there_once() {
        let text = "SELECT b;\nALTER TABLE t DROP bb, DROP \"b\", ADD t int";
        let found = |message: &str| Place::quoted(text, 10..text.len(), message);
        let column = |message: &str| found(message).map(|it| (it.line, it.column));
        let message = "column \"b\" of relation \"t\" does not exist";
        assert_eq!(column(message), Some((2, 30)));
        assert_eq!(column("relation \"t\" does not exist"), None);
        assert_eq!(column("column \"x\" of relation \"bb\""), Some((2, 20)));
        assert_eq!(column("no name, and \"\""), None);
    }

    #[test]
    fn the_caret_stands_under_the_character() {
        let wide = Place::of("日本 x", "日本 ".len(), Precision::Exact);
        assert_eq!(wide.excerpt(), "  1 | 日本 x\n    |      ^");
        let text = "first\n\tALTER é x\n";
        let place = Place::of(text, text.find('é').expect("an accent"), Precision::Exact);
        assert_eq!(place.excerpt(), "  2 | \tALTER é x\n    | \t      ^");
        let place = Place::of(text, 7, Precision::Statement);
        assert_eq!(place.excerpt(), "  2 | \tALTER é x");
    }

    #[test]
    fn of_a_long_line_only_the_surroundings_are_shown() {
        let line = format!("{}!{}", "ก".repeat(500_000), "x".repeat(500_000));
        let excerpt = Place::of(&line, line.find('!').expect("a mark"), Precision::Exact).excerpt();
        let (shown, below) = excerpt.split_once('\n').expect("two lines");
        let column = below.chars().position(|c| c == '^').expect("a caret");
        assert_eq!(shown.chars().nth(column), Some('!'), "{excerpt}");
        assert!(shown.chars().count() <= 80 && shown.ends_with('…'), "{excerpt}");

        let end = Place::of(&line, line.len(), Precision::Exact).excerpt();
        let (shown, below) = end.split_once('\n').expect("two lines");
        assert_eq!(shown.chars().count() + 1, below.chars().count(), "{end}");
    }
}
