//! What holds for any text, however odd: tests alone.

use super::lexer::{Lexer, TokenKind};
use super::obstacles::{Obstacle, ObstacleKind};
use super::statements::{Script, Statement, parse};

/// What a text is made of by repeating one of these. `tests/it/files/lexer.rs` measures how long it takes to read.
pub const PIECES: [&str; 57] = [
    "(",
    ")",
    "[",
    "'",
    "\"",
    "$",
    "$a",
    "$a$",
    "$a$b",
    "$$",
    "E'",
    "U&\"",
    "\u{1f418}",
    "\\;",
    "CASE ",
    "CREATE FUNCTION f() BEGIN ATOMIC ",
    "/",
    "/*",
    "*/",
    "-",
    "--",
    "+",
    "@",
    "*",
    "=-",
    "\\",
    "\\\n",
    "\n\\.",
    "\\restrict\n",
    "a",
    "a;",
    ";",
    "E'\\",
    "E'\\\\",
    "''",
    "'\n",
    "' --",
    "'--\n",
    "1",
    "1e",
    "1_",
    ".",
    "..",
    ":",
    "é",
    "\r",
    "\u{feff}",
    "U&",
    "a.",
    "a,",
    "\n",
    "BEGIN;",
    "END;",
    "COPY t FROM STDIN;",
    "COPY t FROM STDIN;\n\\.\n",
    "VACUUM;",
    "BEGIN ATOMIC ",
];

/// Nobody writes these, so nothing else would notice what they break.
#[test]
fn keeps_its_promises_for_long_rows_of_anything() {
    for piece in PIECES {
        check(&piece.repeat((1 << 12) / piece.len()));
    }
}

/// Fragments glued at random, with a fixed seed: what [`check`] asserts holds for any text.
#[test]
fn keeps_its_promises_for_any_text() {
    let fragments = [
        "SELECT 1",
        "a",
        "é",
        "\u{feff}",
        ";",
        ";",
        ";",
        "(",
        ")",
        "'",
        "''",
        "\"",
        "$$",
        "$a$",
        "$",
        "$1",
        "E'",
        "e'\\'",
        "U&\"",
        "U&'",
        "B'",
        "\\",
        "\\d x",
        "\\restrict x",
        "\n",
        "\n",
        "\r\n",
        " ",
        " ",
        "\t",
        "--",
        "-- x\n",
        "/*",
        "*/",
        "+",
        "-",
        "@",
        "::",
        "..",
        ".",
        "1e5",
        "0x1",
        "_",
        "CREATE ",
        "FUNCTION f() ",
        "BEGIN ATOMIC ",
        "END",
        "INDEX ",
        "CONCURRENTLY ",
        "ON t ",
        "VACUUM",
        "COMMIT",
        "COPY t FROM STDIN",
        "\n\\.\n",
        "REINDEX ",
        "TABLE t ",
        "ALTER ",
        "DETACH PARTITION p ",
        ",",
        "ROLLBACK ",
        "TO ",
        "UESCAPE '!'",
        "CLUSTER ",
        "WITH (x = off)",
        "SUBSCRIPTION s ",
    ];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("less than a usize")
    };
    for _ in 0..20_000 {
        let text: String = (0..random(24)).map(|_| fragments[random(fragments.len())]).collect();
        check(&text);
        check_set_apart(&text, &mut random);
    }
}

/// Other white space and other comments between the tokens change neither the split nor the kinds nor the checksum.
fn check_set_apart(text: &str, random: &mut impl FnMut(usize) -> usize) {
    let script = parse(text);
    let line_counts = |obstacle: &Obstacle| {
        matches!(obstacle.kind, ObstacleKind::PsqlCommand(_) | ObstacleKind::CopyFromStdin)
    };
    if script.obstacles.iter().any(line_counts) || !script.psql_lines.is_empty() {
        return;
    }
    let begin = text.len() - text.strip_prefix('\u{feff}').unwrap_or(text).len();
    let mut apart = String::new();
    let mut after_literal = false;
    for token in Lexer::new(text, begin) {
        // A line break between two literals would make them one.
        let gaps = [" ", "\t", "/* ; */", "/*'/**/*/ ", "\r\n", " -- ;\n", "\n\n"];
        apart.push_str(gaps[random(if after_literal { 4 } else { gaps.len() })]);
        apart.push_str(token.text);
        after_literal = token.kind == TokenKind::Literal;
    }
    let other = parse(&apart);
    assert_eq!(other.checksum, script.checksum, "{text}\n{apart}");
    let kinds = |script: &Script| -> Vec<String> {
        let kind = |statement: &Statement| format!("{:?}", statement.kind);
        script.statements.iter().map(kind).collect()
    };
    assert_eq!(kinds(&other), kinds(&script), "{text}\n{apart}");
}

/// Tokens are in order, and between them are only white space and comments.
fn check_tokens(text: &str) {
    let mut end = 0;
    for token in Lexer::new(text, 0) {
        assert!(end <= token.start && token.start < token.end(), "{text}");
        assert!(Lexer::new(&text[end..token.start], 0).next().is_none(), "{text}");
        end = token.end();
    }
    assert!(Lexer::new(&text[end..], 0).next().is_none(), "{text}");
}

/// Statements are in order, apart, and between characters; between them is nothing that they
/// should hold; each, read alone, is itself; and they are all that the checksum covers.
fn check(text: &str) {
    check_tokens(text);
    let script = parse(text);
    let copies =
        script.obstacles.iter().any(|obstacle| obstacle.kind == ObstacleKind::CopyFromStdin);
    let mut end = if text.starts_with('\u{feff}') { 3 } else { 0 };
    for statement in &script.statements {
        let range = statement.range();
        assert!(end <= range.start && range.start < range.end, "{text}");
        assert!(copies || is_empty_between(&text[end..range.start]), "{text}");
        end = range.end;
        let alone = &text[range];
        if !alone.starts_with('\u{feff}') {
            let alone = parse(alone);
            assert_eq!(alone.statements.len(), 1, "{text}");
            assert_eq!(alone.statements[0].kind, statement.kind, "{text}");
        }
    }
    assert!(copies || is_empty_between(&text[end..]), "{text}");
    assert!(script.obstacles.is_sorted_by_key(|obstacle| obstacle.offset), "{text}");
    assert!(
        script.obstacles.iter().all(|obstacle| text.is_char_boundary(obstacle.offset)),
        "{text}"
    );
    for line in &script.psql_lines {
        assert!(
            text[line.clone()].starts_with('\\') && !text[line.clone()].contains('\n'),
            "{text}"
        );
    }
    if !copies {
        let alone: Vec<&str> =
            script.statements.iter().map(|statement| &text[statement.range()]).collect();
        let again = parse(&format!(";{}", alone.join("\n;\n")));
        assert_eq!(again.checksum, script.checksum, "{text}");
    }
}

fn is_empty_between(gap: &str) -> bool {
    Lexer::new(gap, 0).all(|token| token.is_symbol(";") || token.kind == TokenKind::Backslash)
}
