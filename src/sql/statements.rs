//! Tokens → statements, split where psql splits them (`psqlscan.l`), and the checksum on the way.

use std::mem;
use std::ops::Range;

use sha2::{Digest, Sha256};

use super::annotations::{Annotation, annotation};
use super::checksum::{Checksum, hash_token};
use super::cursor::Cursor;
use super::kinds::{Kind, kind_of};
use super::lexer::{Lexer, Token, TokenKind, comment_end, is_space, line_end};
use super::obstacles::{Obstacle, ObstacleKind, obstacle_in};
use super::quote;
use super::verb::verb;

/// How much of a psql command's word is kept for the message; psql's own commands have up to 18
/// letters.
const PSQL_WORD_BYTES: usize = 40;

/// Reads a migration file.
pub fn parse(text: &str) -> Script {
    Splitter::new(text).run()
}

/// A migration file's text, understood.
#[derive(Debug, Default)]
pub struct Script {
    /// In order; what is empty (`;;`, only comments) is no statement.
    pub statements: Vec<Statement>,
    /// What cannot be run from a file, in order of position.
    pub obstacles: Vec<Obstacle>,
    /// The `\restrict` and `\unrestrict` lines of a pg_dump, as byte ranges without the line break.
    /// psql obeys them, the server would not understand them: they must be blanked before sending. So must what
    /// [`Script::unwrapped`] adds.
    pub psql_lines: Vec<Range<usize>>,
    /// The author wants the file outside a transaction.
    pub no_transaction: bool,
    /// Where another tool's way back begins, and the comment that says so.
    pub down_part: Option<Box<(usize, String)>>,
    /// Of all the statements.
    pub checksum: Checksum,
    /// Of those up to each one, if the file is to run outside a transaction, where it may stop behind any.
    pub checksums: Vec<Checksum>,
}

impl Script {
    /// The same without the `BEGIN` and `COMMIT` around it, or the `COMMIT` at its end: the file is one transaction anyway.
    /// Any other command of the kind stays, and is an obstacle.
    pub fn unwrapped(mut self, text: &str) -> Script {
        let is_control = |it: &&Obstacle| matches!(it.kind, ObstacleKind::TransactionControl(_));
        let controls = self.obstacles.iter().filter(is_control).count();
        let range = |of: Option<&Statement>, phrases: &str| {
            let range = of?.range();
            let mut cursor = Cursor::new(&text[range.clone()]);
            (cursor.first_of(phrases).is_some() && cursor.is_over()).then_some(range)
        };
        let first = range(self.statements.first(), PLAIN_BEGINS);
        let last = range(self.statements.last(), PLAIN_COMMITS);
        let runs_alone = |it: &Statement| matches!(it.kind, Kind::Outside(_));
        let is_wrapped = last.is_some() && controls == 1 + usize::from(first.is_some());
        let is_all = self.statements.len() == controls;
        if !is_wrapped || is_all || self.no_transaction || self.statements.iter().any(runs_alone) {
            return self;
        }
        let unsent: Vec<Range<usize>> = first.into_iter().chain(last).collect();
        let is_unsent = |start: usize| unsent.iter().any(|it| it.start == start);
        self.obstacles.retain(|it| !is_unsent(it.offset));
        self.statements.retain(|it| !is_unsent(it.range().start));
        self.psql_lines.extend(unsent);
        self
    }
}

const PLAIN_BEGINS: &str = "begin work|begin transaction|begin|start transaction";
const PLAIN_COMMITS: &str = "commit work|commit transaction|commit|end work|end transaction|end";

/// One statement: where it stands, and its kind.
#[derive(Debug, PartialEq, Eq)]
pub struct Statement {
    /// Byte offset of the first token.
    pub start: usize,
    /// Byte offset of its semicolon; if the text ends without one, of the end of its last token.
    pub end: usize,
    /// How it can be run.
    pub kind: Kind,
}

impl Statement {
    /// The bytes of the text that are this statement.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }
}

/// Walks the text once. Each statement, when it ends, is looked at by [`kind_of`] and
/// [`obstacle_in`], which read as many of its tokens again as they need.
struct Splitter<'a> {
    text: &'a str,
    /// Where the text begins: behind its byte-order mark.
    begin: usize,
    lexer: Lexer<'a>,
    hasher: Sha256,
    open: Option<OpenStatement>,
    /// No line `\.` follows; remembered, or a file of nothing but COPY statements would be searched
    /// over and over.
    no_more_copy_data: bool,
    script: Script,
}

impl<'a> Splitter<'a> {
    fn new(text: &'a str) -> Self {
        let begin = text.len() - text.strip_prefix('\u{feff}').unwrap_or(text).len();
        Splitter {
            text,
            begin,
            lexer: Lexer::new(text, begin),
            hasher: Sha256::new(),
            open: None,
            no_more_copy_data: false,
            script: Script::default(),
        }
    }

    fn run(mut self) -> Script {
        let mut behind = self.begin;
        while let Some(token) = self.lexer.next() {
            self.comments(behind..token.start);
            if token.kind == TokenKind::Backslash {
                self.psql_line(&token);
            } else if token.is_symbol(";") && self.ends_at_semicolon() {
                self.end_statement(token.start);
            } else {
                let open = || OpenStatement::new(self.text, token.start);
                self.open.get_or_insert_with(open).take(&token);
                self.template(&token);
                hash_token(&mut self.hasher, &token);
            }
            behind = self.lexer.at;
        }
        self.comments(behind..self.text.len());
        let end = self.open.as_ref().map_or(0, |open| open.end);
        self.end_statement(end);
        self.refuse_company();
        let mut script = self.script;
        // A psql command within a statement comes before it here, since the statement is judged at
        // its end.
        script.obstacles.sort_by_key(|obstacle| obstacle.offset);
        script.statements.shrink_to_fit();
        script.checksum = Checksum(self.hasher.finalize().into());
        script
    }

    /// Returns true if and only if a semicolon here ends a statement, or stands behind one.
    fn ends_at_semicolon(&self) -> bool {
        let open = self.open.as_ref();
        open.is_none_or(|open| open.parens == 0 && open.bodies == 0)
    }

    /// Reads the comments between two tokens.
    fn comments(&mut self, gap: Range<usize>) {
        let bytes = self.text.as_bytes();
        let mut at = gap.start;
        while let Some(found) = self.text[at..gap.end].find(['-', '/']) {
            let start = at + found;
            let is_line = bytes[start] == b'-';
            at = if is_line { line_end(bytes, start) } else { comment_end(bytes, start) };
            let line = self.text[..start].rsplit(['\n', '\r']).next();
            let stands_alone =
                line.is_none_or(|it| it.trim_start_matches('\u{feff}').trim().is_empty());
            if is_line && stands_alone {
                self.annotation(start, &self.text[start..at.min(gap.end)]);
            }
        }
    }

    fn annotation(&mut self, offset: usize, comment: &str) {
        let is_first = self.script.statements.is_empty() && self.open.is_none();
        let ours = comment.to_ascii_lowercase().contains("lockstep:");
        let shown = comment.trim().to_owned();
        match annotation(comment) {
            Some(Annotation::NoTransaction) if is_first => self.script.no_transaction = true,
            // Another tool's, behind a statement, says nothing.
            Some(Annotation::NoTransaction) if !ours => {}
            Some(Annotation::Down) => {
                self.script.down_part.get_or_insert(Box::new((offset, shown)));
            }
            Some(other) => self.obstruct(offset, ObstacleKind::Annotation(other, shown)),
            None => {}
        }
    }

    fn obstruct(&mut self, offset: usize, kind: ObstacleKind) {
        self.script.obstacles.push(Obstacle { offset, kind });
    }

    /// `{{` is no SQL, but what many tools fill in.
    fn template(&mut self, token: &Token<'_>) {
        let is_one = token.is_symbol("{") && self.text[token.start..].starts_with("{{");
        let is_template = |it: &Obstacle| it.kind == ObstacleKind::Template;
        if is_one && !self.script.obstacles.iter().any(is_template) {
            self.obstruct(token.start, ObstacleKind::Template);
        }
    }

    fn end_statement(&mut self, end: usize) {
        let Some(open) = self.open.take() else { return };
        self.hasher.update(b";\0");
        if self.script.no_transaction {
            let hasher = self.hasher.clone();
            self.script.checksums.push(Checksum(hasher.finalize().into()));
        }
        let statement = &self.text[open.start..end];
        if let Some(kind) = obstacle_in(statement) {
            if kind == ObstacleKind::CopyFromStdin {
                self.skip_copy_data();
            }
            self.obstruct(open.start, kind);
        }
        self.script.statements.push(Statement { start: open.start, end, kind: kind_of(statement) });
    }

    /// What follows `COPY … FROM STDIN;` up to a line `\.` is no SQL. One complaint about the
    /// statement is worth more than fifty about its data.
    fn skip_copy_data(&mut self) {
        if self.no_more_copy_data {
            return;
        }
        let rest = &self.text[self.lexer.at..];
        let is_line = |(at, mark): &(usize, &str)| {
            let after = &rest[at + mark.len()..];
            rest[..*at].ends_with('\n') && matches!(after.lines().next(), None | Some(""))
        };
        match rest.match_indices("\\.").find(is_line) {
            Some((at, mark)) => self.lexer.at += at + mark.len(),
            None => self.no_more_copy_data = true,
        }
    }

    fn psql_line(&mut self, token: &Token<'_>) {
        let before = &self.text[self.begin..token.start];
        let line = before.rsplit(['\n', '\r']).next().unwrap_or(before);
        let first_on_its_line = line.bytes().all(is_space);
        let command =
            token.text[1..].split([' ', '\t', '\x0b', '\x0c', '\\']).next().unwrap_or_default();
        if first_on_its_line && (command == "restrict" || command == "unrestrict") {
            self.script.psql_lines.push(token.start..token.end());
        } else {
            let word = format!("\\{}", quote::clip(command, PSQL_WORD_BYTES));
            self.obstruct(token.start, ObstacleKind::PsqlCommand(word));
        }
    }

    fn refuse_company(&mut self) {
        if self.script.statements.len() < 2 || self.script.no_transaction {
            return;
        }
        let statements = self.script.statements.iter();
        for alone in statements.filter(|it| matches!(it.kind, Kind::Outside(_))) {
            let (offset, command) = (alone.start, verb(&self.text[alone.range()]));
            let kind = ObstacleKind::SharedFile { command };
            self.script.obstacles.push(Obstacle { offset, kind });
        }
    }
}

/// A statement whose end is not yet seen. Its semicolon is the first one outside parentheses and
/// outside the `BEGIN ATOMIC … END` body that only functions and procedures have.
struct OpenStatement {
    start: usize,
    /// The end of its last token so far.
    end: usize,
    parens: usize,
    is_routine: bool,
    bodies: usize,
    previous: Previous,
}

/// The token before this one, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Previous {
    Begin,
    /// `ATOMIC`, or a semicolon: a body's `END` comes directly after one of them and nowhere else.
    /// The `END` of a `CASE` never does, nor does a column called so, which is why neither has to
    /// be counted.
    BodyBreak,
    Other,
}

impl OpenStatement {
    fn new(text: &str, start: usize) -> Self {
        OpenStatement {
            start,
            end: start,
            parens: 0,
            is_routine: Cursor::new(&text[start..]).takes_new_routine(),
            bodies: 0,
            previous: Previous::Other,
        }
    }

    fn take(&mut self, token: &Token<'_>) {
        self.end = token.end();
        if token.is_symbol("(") {
            self.parens += 1;
        } else if token.is_symbol(")") {
            self.parens = self.parens.saturating_sub(1);
        }
        if self.is_routine && self.parens == 0 {
            self.follow_body(token);
        }
    }

    fn follow_body(&mut self, token: &Token<'_>) {
        let was = mem::replace(&mut self.previous, Previous::Other);
        if token.is_word("begin") {
            self.previous = Previous::Begin;
        } else if token.is_word("atomic") && was == Previous::Begin {
            self.bodies += 1;
            self.previous = Previous::BodyBreak;
        } else if token.is_symbol(";") {
            self.previous = Previous::BodyBreak;
        } else if token.is_word("end") && was == Previous::BodyBreak {
            self.bodies = self.bodies.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(text: &str) -> Vec<&str> {
        parse(text).statements.iter().map(|statement| &text[statement.range()]).collect()
    }

    fn obstacles(text: &str) -> Vec<(usize, ObstacleKind)> {
        parse(text).obstacles.into_iter().map(|obstacle| (obstacle.offset, obstacle.kind)).collect()
    }

    fn psql(command: &str) -> ObstacleKind {
        ObstacleKind::PsqlCommand(command.to_owned())
    }

    #[test]
    fn what_is_done_of_a_file_has_the_checksum_of_its_beginning() {
        let text =
            "-- lockstep: no-transaction\nSELECT 1; ;\nCREATE INDEX i ON t (a);;SELECT 'b' -- end";
        let script = parse(text);
        assert_eq!(script.checksums.len(), 3);
        for (statement, checksum) in script.statements.iter().zip(script.checksums) {
            assert_eq!(parse(&text[..statement.range().end]).checksum, checksum);
        }
        assert!(parse("SELECT 1; SELECT 2").checksums.is_empty());
    }

    #[test]
    fn splits_where_psql_splits() {
        let body = "BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; END";
        let function = format!("CREATE OR REPLACE FUNCTION f() RETURNS int {body}");
        let procedure = format!("create /**/ procedure p(x int DEFAULT (1)) {body}");
        let labels = "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 AS end, t.end, 2 END; \
                      SELECT 1 AS case; END";
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            (" ;; -- x\n /* ; */ ;", &[]),
            ("\u{feff}SELECT 1", &["SELECT 1"]),
            ("a;b ; c -- d", &["a", "b ", "c"]),
            ("a -- ;\n b;c", &["a -- ;\n b", "c"]),
            ("a ';' \";\" $$;$$ E'\\';'/*;*/;b", &["a ';' \";\" $$;$$ E'\\';'/*;*/", "b"]),
            (
                "CREATE RULE r AS ON INSERT TO t DO (a;b);c",
                &["CREATE RULE r AS ON INSERT TO t DO (a;b)", "c"],
            ),
            ("a);(b;c));d", &["a)", "(b;c))", "d"]),
            ("a (b; c", &["a (b; c"]),
            (&format!("{function};x"), &[&function, "x"]),
            (&format!("{procedure}; x"), &[&procedure, "x"]),
            (&format!("{labels};x"), &[labels, "x"]),
            (
                "CREATE FUNCTION f() BEGIN ATOMIC END;x",
                &["CREATE FUNCTION f() BEGIN ATOMIC END", "x"],
            ),
            ("CREATE FUNCTION begin() AS $$a;b$$;x", &["CREATE FUNCTION begin() AS $$a;b$$", "x"]),
            ("CREATE FUNCTION f() begin;x", &["CREATE FUNCTION f() begin", "x"]),
            (
                "CREATE FUNCTION f() \"begin\" atomic;x",
                &["CREATE FUNCTION f() \"begin\" atomic", "x"],
            ),
            ("CREATE TABLE begin atomic;x", &["CREATE TABLE begin atomic", "x"]),
            ("DO $$BEGIN x; END$$;y", &["DO $$BEGIN x; END$$", "y"]),
            ("a\n\\restrict x;y\nb;c", &["a\n\\restrict x;y\nb", "c"]),
            ("SELECT 'open; b", &["SELECT 'open; b"]),
            ("a;/* open; b", &["a"]),
        ];
        for (text, expected) in cases {
            assert_eq!(statements(text), *expected, "{text}");
        }
    }

    #[test]
    fn refuses_a_statement_that_must_be_alone_and_is_not() {
        let text =
            "CREATE INDEX CONCURRENTLY a ON t (x);\nREINDEX TABLE t;\nDROP INDEX CONCURRENTLY b";
        let shared = |command: &str| ObstacleKind::SharedFile { command: command.to_owned() };
        let expected =
            [(0, shared("CREATE INDEX CONCURRENTLY")), (55, shared("DROP INDEX CONCURRENTLY"))];
        assert_eq!(obstacles(text), expected);
        assert_eq!(obstacles("-- alone\nVACUUM;;\n-- really\n"), []);
    }

    #[test]
    fn skips_the_lines_that_pg_dump_writes_for_psql() {
        let text = "\u{feff}\\restrict abc\r\nSELECT 1\n \t\\unrestrict abc\n;\\unrestrict";
        let script = parse(text);
        let lines: Vec<&str> = script.psql_lines.iter().map(|line| &text[line.clone()]).collect();
        assert_eq!(lines, ["\\restrict abc", "\\unrestrict abc"]);
        assert_eq!(script.checksum, parse("SELECT 1").checksum);
        assert_eq!(obstacles(text), [(46, psql("\\unrestrict"))]);
    }
}
