//! What answers and the log on a terminal are made of: tables, labelled lines, colours.
//!
//! In a pipe nothing is wrapped or shortened, however long a line becomes. On a terminal long cells are wrapped, so that
//! nothing is lost there either.

use std::borrow::Cow;
use std::iter;

use unicode_width::UnicodeWidthChar;

/// Where an answer or the log goes to, as far as its looks depend on that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// A pipe or a file, or a terminal that can do no more.
    Plain,
    Terminal {
        columns: usize,
        /// Whether it is to have colours, those that every terminal has.
        has_colours: bool,
    },
}

/// What a colour says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tone {
    Plain,
    Heading,
    Good,
    /// Something is to be done.
    Notice,
    Bad,
    Faint,
}

impl Layout {
    /// The text in the tone's colour, if there are colours.
    pub fn painted(self, text: &str, tone: Tone) -> String {
        let code = match tone {
            Tone::Plain => "",
            Tone::Heading => "1",
            Tone::Faint => "2",
            Tone::Bad => "31",
            Tone::Good => "32",
            Tone::Notice => "33",
        };
        let is_plain = code.is_empty() || text.is_empty();
        match self {
            Layout::Terminal { has_colours, .. } if has_colours && !is_plain => {
                format!("\u{1b}[{code}m{text}\u{1b}[0m")
            }
            _ => text.to_owned(),
        }
    }

    /// How wide it is, if it has an end.
    pub fn columns(self) -> Option<usize> {
        match self {
            Layout::Plain => None,
            Layout::Terminal { columns, .. } => Some(columns),
        }
    }
}

/// How a column's cells stand in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Align {
    Left,
    Right,
    /// To the left, and wrapped where the terminal is too narrow for the table. One column of a table may be so.
    Wrapping,
}

/// Lines of cells under a heading.
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<(String, Tone)>>,
}

/// What stands between two columns.
const GAP: &str = "  ";

/// A wrapping column is not made narrower than this.
const NARROWEST: usize = 12;

impl Table {
    pub fn new(columns: &[(&'static str, Align)]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a line. It has as many cells as there are columns.
    pub fn push(&mut self, cells: Vec<(String, Tone)>) {
        let printable = cells.into_iter().map(|(text, tone)| (printable(&text).into_owned(), tone));
        self.rows.push(printable.collect());
    }

    /// The table with its heading, each line ended by a line break, without blanks at the ends of lines.
    pub fn text(&self, layout: Layout) -> String {
        let widths = self.widths(layout);
        let heading = self.columns.iter().map(|(title, _)| ((*title).to_owned(), Tone::Heading));
        let heading: Vec<_> = heading.collect();
        iter::once(&heading).chain(&self.rows).map(|it| self.line(it, &widths, layout)).collect()
    }

    /// A terminal that is too narrow even so lacks the last columns.
    fn widths(&self, layout: Layout) -> Vec<usize> {
        let widest = |(at, (title, _)): (usize, &(&str, Align))| {
            let cells = self.rows.iter().filter_map(|row| row.get(at));
            cells.map(|(text, _)| width(text)).max().unwrap_or(0).max(width(title))
        };
        let mut widths: Vec<usize> = self.columns.iter().enumerate().map(widest).collect();
        let wrapping = self.columns.iter().position(|it| it.1 == Align::Wrapping);
        if let (Some(at), Some(columns)) = (wrapping, layout.columns()) {
            let whole = widths[at];
            widths[at] = whole.min(NARROWEST);
            while total(&widths) > columns && widths.len() > at + 1 {
                widths.pop();
            }
            widths[at] = whole.min(widths[at] + columns.saturating_sub(total(&widths)));
        }
        widths
    }

    /// One line of the table, or several where a cell is wrapped.
    fn line(&self, cells: &[(String, Tone)], widths: &[usize], layout: Layout) -> String {
        let parts = cells.iter().zip(widths).map(|((text, _), &width)| wrapped(text, width, 0));
        let parts: Vec<Vec<&str>> = parts.collect();
        let height = parts.iter().map(Vec::len).max().unwrap_or(0);
        let line = |number: usize| {
            let cell = |(at, part): (usize, &Vec<&str>)| {
                let text = part.get(number).copied().unwrap_or("");
                let blanks = " ".repeat(widths[at].saturating_sub(width(text)));
                let text = layout.painted(text, cells[at].1);
                match self.columns[at].1 {
                    Align::Right => blanks + &text,
                    Align::Left | Align::Wrapping => text + &blanks,
                }
            };
            let line: Vec<String> = parts.iter().enumerate().map(cell).collect();
            format!("{}\n", line.join(GAP).trim_end())
        };
        (0..height).map(line).collect()
    }
}

/// How wide a line of such columns is.
fn total(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1)
}

/// Lines with a label each, the values aligned; on a terminal they are wrapped. A label that is empty goes on with what
/// the line before it is about.
pub fn labelled(lines: &[(&str, String)], layout: Layout) -> String {
    let indent = lines.iter().map(|(label, _)| width(label)).max().unwrap_or(0) + GAP.len();
    let room = layout.columns().unwrap_or(usize::MAX).saturating_sub(indent).max(NARROWEST);
    let mut out = String::new();
    for (label, value) in lines {
        let value = printable(value);
        for (number, part) in wrapped(&value, room, 0).iter().enumerate() {
            let label = if number == 0 { *label } else { "" };
            let blanks = " ".repeat(indent - width(label));
            let label = layout.painted(label, Tone::Heading);
            out.push_str(&format!("{label}{blanks}{part}\n"));
        }
    }
    out
}

/// Lines without a label, which are wrapped on a terminal.
pub fn paragraph(text: &str, layout: Layout) -> String {
    let text = printable(text);
    let parts = wrapped(&text, layout.columns().unwrap_or(usize::MAX), 0);
    parts.iter().map(|part| format!("{part}\n")).collect()
}

/// As much of one line as there is room for.
pub fn shortened(text: &str, columns: usize) -> String {
    let text = printable(text);
    if width(&text) > columns {
        format!("{}…", &text[..fitting(&text, columns.saturating_sub(1))])
    } else {
        text.into_owned()
    }
}

/// Lines of at most so many columns, the first indented by so many blanks, the others by two more.
pub fn hanging(text: &str, indent: usize, columns: usize) -> String {
    const HANG: usize = 2;
    let text = printable(text);
    let parts = wrapped(&text, columns.saturating_sub(indent), HANG);
    let line = |(number, part): (usize, &&str)| {
        let indent = indent + if number == 0 { 0 } else { HANG };
        format!("{:indent$}{part}\n", "")
    };
    parts.iter().enumerate().map(line).collect()
}

/// Cuts a text into lines that are no wider than `limit`, those behind the first by `less`: at a blank, else behind a
/// sign that joins words, else anywhere.
fn wrapped(text: &str, mut limit: usize, less: usize) -> Vec<&str> {
    let (first, mut lines, mut rest) = (limit, Vec::new(), text);
    while width(rest) > limit {
        let fitting = fitting(rest, limit);
        let head = &rest[..fitting];
        let at_blank = if rest[fitting..].starts_with(' ') {
            Some(fitting)
        } else {
            head.rfind(' ').filter(|&at| at > 0)
        };
        let behind_sign = || head.rfind(['_', '-', '/', ',']).map(|at| at + 1);
        let cut = at_blank.or_else(behind_sign).unwrap_or(fitting);
        lines.push(rest[..cut].trim_end());
        rest = rest[cut..].trim_start();
        limit = first.saturating_sub(less);
    }
    lines.push(rest);
    lines
}

/// How many bytes of the text fit; at least one character.
fn fitting(text: &str, limit: usize) -> usize {
    let mut used = 0;
    for (at, character) in text.char_indices() {
        used += columns_of(character);
        if used > limit && at > 0 {
            return at;
        }
    }
    text.len()
}

/// The text without anything that could steer a terminal, end a line, or make it read backwards.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let escaped = |character: char| {
        if steers(character) {
            character.escape_default().to_string()
        } else {
            character.to_string()
        }
    };
    Cow::Owned(text.chars().map(escaped).collect())
}

/// Control characters, line and paragraph separators, and those that turn the direction of what follows (Unicode Standard
/// Annex 9): a name that is written from right to left needs none of them.
fn steers(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// How many columns of a terminal a text takes.
fn width(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// As terminals count: marks that stand above or below a letter take none, ideographs and pictures take two.
pub fn columns_of(character: char) -> usize {
    character.width().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NARROW: Layout = Layout::Terminal { columns: 30, has_colours: false };

    fn table() -> Table {
        let columns = [("id", Align::Left), ("name", Align::Wrapping), ("ms", Align::Right)];
        let mut table = Table::new(&columns);
        let mut push = |cells: [&str; 3]| {
            table.push(cells.map(|it| (it.to_owned(), Tone::Good)).to_vec());
        };
        push(["1", "ไทยที่", "7"]);
        push(["2", "日本語", ""]);
        push(["3", "a_name_that_is_much_too_long", "1234"]);
        table
    }

    #[test]
    fn in_a_pipe_a_table_is_aligned_and_as_wide_as_it_must_be() {
        let expected = "\
id  name                            ms
1   ไทยที่                             7
2   日本語
3   a_name_that_is_much_too_long  1234
";
        assert_eq!(table().text(Layout::Plain), expected);
    }

    #[test]
    fn on_a_narrow_terminal_the_long_column_is_wrapped() {
        let expected = "\
id  name                    ms
1   ไทยที่                     7
2   日本語
3   a_name_that_is_much_  1234
    too_long
";
        assert_eq!(table().text(NARROW), expected);
    }

    #[test]
    fn what_does_not_fit_at_all_is_left_out_from_the_right() {
        let text = table().text(Layout::Terminal { columns: 18, has_colours: false });
        assert!(text.starts_with("id  name\n1 "), "{text}");
        assert!(text.lines().all(|line| width(line) <= 18), "{text}");
    }

    #[test]
    fn colours_do_not_count() {
        let layout = |has_colours| Layout::Terminal { columns: 80, has_colours };
        let painted = table().text(layout(true));
        assert!(painted.starts_with("\u{1b}[1mid\u{1b}[0m  \u{1b}[1mname\u{1b}[0m"));
        let mut plain = painted.replace("\u{1b}[0m", "");
        for code in ["1", "32"] {
            plain = plain.replace(&format!("\u{1b}[{code}m"), "");
        }
        assert_eq!(plain, table().text(layout(false)));
    }

    #[test]
    fn labelled_lines_are_wrapped_at_blanks_under_their_value() {
        let lines = [
            ("lock", "held by somebody far away".to_owned()),
            ("", "which is\u{1b}[2J fine".to_owned()),
        ];
        assert_eq!(
            labelled(&lines, NARROW),
            "lock  held by somebody far\n      away\n      which is\\u{1b}[2J fine\n"
        );
        assert_eq!(
            labelled(&lines, Layout::Plain),
            "lock  held by somebody far away\n      which is\\u{1b}[2J fine\n"
        );
    }

    #[test]
    fn nothing_is_lost_by_wrapping() {
        for text in [
            "",
            "x",
            "日本語日本語日本語",
            "a b c d e f g h",
            "aaaaaaaaaaaaaaaaaaaaaaaa",
            "_a_b_c_d_e-f/g,h",
        ] {
            for limit in 1..10 {
                let lines = wrapped(text, limit, 0);
                let squeezed = |text: &str| text.replace(' ', "");
                assert_eq!(squeezed(&lines.concat()), squeezed(text), "{limit}");
                let fits = |line: &&str| width(line) <= limit.max(2);
                assert!(lines.iter().all(fits), "{lines:?} {limit}");
            }
        }
    }
}
