//! Text → tokens, as PostgreSQL reads it (the manual's chapter 4.1 "Lexical Structure", the server's `scan.l`).

/// One token of PostgreSQL's, or one command line of psql's.
#[derive(Clone, Debug)]
pub struct Token<'a> {
    pub kind: TokenKind,
    pub(super) start: usize,
    pub text: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A keyword or an identifier without quotes.
    Word,
    /// `"…"`, `U&"…"`.
    QuotedName,
    /// `'…'` with its prefix and its continuations.
    Literal,
    /// `$tag$…$tag$`.
    Dollar,
    /// `1.5e-3`, `$1`.
    Number,
    /// An operator or a punctuation mark.
    Symbol,
    /// A backslash and the rest of its line: a command of psql's.
    Backslash,
}

impl Token<'_> {
    pub(super) fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// Returns true if and only if this is that keyword, in any case, not quoted.
    pub fn is_word(&self, word: &str) -> bool {
        self.kind == TokenKind::Word && self.text.eq_ignore_ascii_case(word)
    }

    pub fn is_symbol(&self, symbol: &str) -> bool {
        self.kind == TokenKind::Symbol && self.text == symbol
    }

    pub(super) fn is_unicode_name(&self) -> bool {
        self.kind == TokenKind::QuotedName && !self.text.starts_with('"')
    }

    pub fn is_name(&self) -> bool {
        matches!(self.kind, TokenKind::Word | TokenKind::QuotedName)
    }
}

/// Walks over a text, a token at a time. What is opened and never closed, a literal or a comment,
/// ends with the text.
///
/// Every byte that has a meaning to PostgreSQL is ASCII, and bytes above are letters; so tokens
/// begin and end between characters.
#[derive(Clone)]
pub(super) struct Lexer<'a> {
    pub(super) text: &'a str,
    pub(super) at: usize,
    /// Up to here every byte is a `+` or `-` of its own; remembered, or a long row of them would be
    /// read over and over.
    signs_until: usize,
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blank();
        let start = self.at;
        let bytes = self.text.as_bytes();
        let (kind, end) = match *bytes.get(start)? {
            b'\'' => literal(bytes, start, Quoting::Doubled),
            b'"' => quoted_name(bytes, start),
            b'\\' => (TokenKind::Backslash, line_end(bytes, start)),
            b'$' => self.dollar(start),
            b'0'..=b'9' => (TokenKind::Number, number_end(bytes, start)),
            b'.' if byte_at(bytes, start + 1).is_ascii_digit() => {
                (TokenKind::Number, number_end(bytes, start))
            }
            first if starts_word(first) => word(bytes, start),
            first if is_operator_byte(first) => (TokenKind::Symbol, self.operator_end(start)),
            first => {
                let double = matches!(
                    (first, byte_at(bytes, start + 1)),
                    (b':', b':' | b'=') | (b'.', b'.')
                );
                (TokenKind::Symbol, start + if double { 2 } else { 1 })
            }
        };
        self.at = end;
        Some(Token { kind, start, text: &self.text[start..end] })
    }
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str, at: usize) -> Self {
        Lexer { text, at, signs_until: 0 }
    }

    /// Goes behind white space and comments.
    fn skip_blank(&mut self) {
        let bytes = self.text.as_bytes();
        loop {
            match (byte_at(bytes, self.at), byte_at(bytes, self.at + 1)) {
                (first, _) if is_space(first) => self.at += 1,
                (b'-', b'-') => self.at = line_end(bytes, self.at),
                (b'/', b'*') => self.at = comment_end(bytes, self.at),
                _ => return,
            }
        }
    }

    /// An operator is as long as it can be, but a comment ends it, and it ends in `+` or `-` only
    /// if it also has one of the characters that no operator of standard SQL has: `a=-1` compares
    /// with a negative number, `a@-b` does not.
    fn operator_end(&mut self, start: usize) -> usize {
        if start < self.signs_until {
            return start + 1;
        }
        let bytes = self.text.as_bytes();
        let mut end = start + 1;
        let starts_comment = |at| bytes[at..].starts_with(b"--") || bytes[at..].starts_with(b"/*");
        while is_operator_byte(byte_at(bytes, end)) && !starts_comment(end) {
            end += 1;
        }
        let core = self.text[start..end].trim_end_matches(['+', '-']);
        if core.bytes().any(|byte| b"~!@#^&|`?%".contains(&byte)) {
            return end;
        }
        self.signs_until = end;
        start + core.len().max(1)
    }

    /// A dollar quote, a parameter, or a lone dollar sign.
    fn dollar(&self, start: usize) -> (TokenKind, usize) {
        let bytes = self.text.as_bytes();
        let mut end = start + 1;
        if byte_at(bytes, end).is_ascii_digit() {
            let digits = plain_digits_end(bytes, end);
            return (TokenKind::Number, junk_end(bytes, digits));
        }
        if starts_word(byte_at(bytes, end)) {
            end = row_end(bytes, end, |byte| is_word_byte(byte) && byte != b'$');
        }
        if byte_at(bytes, end) != b'$' {
            return (TokenKind::Symbol, start + 1);
        }
        let body = end + 1;
        let tag = &self.text[start..body];
        let close = self.text[body..].find(tag);
        let end = close.map_or(bytes.len(), |close| body + close + tag.len());
        (TokenKind::Dollar, end)
    }
}

/// How a literal writes what would end it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Quoting {
    /// `''` is a quote: `'…'`, `N'…'`, `U&'…'`.
    Doubled,
    /// So is `\'`: `E'…'`.
    Backslash,
    /// Not at all: `B'…'`, `X'…'`.
    Never,
}

impl Quoting {
    pub(super) fn of(prefix: &str) -> Self {
        match prefix {
            "e" | "E" => Quoting::Backslash,
            "b" | "B" | "x" | "X" => Quoting::Never,
            _ => Quoting::Doubled,
        }
    }
}

/// A word; or, if it is one of a few single letters and a quotation mark follows at once, what that
/// begins.
fn word(bytes: &[u8], start: usize) -> (TokenKind, usize) {
    let end = word_end(bytes, start);
    let second = byte_at(bytes, start + 1);
    let third = byte_at(bytes, start + 2);
    match (bytes[start].to_ascii_lowercase(), second, third) {
        (b'e', b'\'', _) => literal(bytes, end, Quoting::Backslash),
        (b'b' | b'x', b'\'', _) => literal(bytes, end, Quoting::Never),
        (b'n', b'\'', _) => literal(bytes, end, Quoting::Doubled),
        (b'u', b'&', b'\'') => literal(bytes, end + 1, Quoting::Doubled),
        (b'u', b'&', b'"') => quoted_name(bytes, end + 1),
        _ => (TokenKind::Word, end),
    }
}

/// A literal whose first quote is at `open`, with all its continuations.
fn literal(bytes: &[u8], open: usize, quoting: Quoting) -> (TokenKind, usize) {
    let mut end = part_end(bytes, open, quoting);
    while let Some(next) = continuation(bytes, end) {
        end = part_end(bytes, next, quoting);
    }
    (TokenKind::Literal, end)
}

fn quoted_name(bytes: &[u8], open: usize) -> (TokenKind, usize) {
    let end = part_end(bytes, open, Quoting::Doubled);
    (TokenKind::QuotedName, end)
}

/// The end of what the quote at `open` begins.
pub(super) fn part_end(bytes: &[u8], open: usize, quoting: Quoting) -> usize {
    let (quote, mut at) = (bytes[open], open + 1);
    while at < bytes.len() {
        at += match bytes[at] {
            b'\\' if quoting == Quoting::Backslash => 2,
            byte if byte != quote => 1,
            _ if quoting != Quoting::Never && byte_at(bytes, at + 1) == quote => 2,
            _ => return at + 1,
        };
    }
    bytes.len()
}

/// The quote that continues a literal which closed before `at`: one that only white space with a
/// line break, and `--` comments, keep apart from it.
pub(super) fn continuation(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut broken = false;
    loop {
        match byte_at(bytes, at) {
            b'\'' if broken => return Some(at),
            b'\n' | b'\r' => broken = true,
            b'-' if byte_at(bytes, at + 1) == b'-' => {
                at = line_end(bytes, at);
                continue;
            }
            other if is_space(other) => {}
            _ => return None,
        }
        at += 1;
    }
}

/// Letters right behind a number belong to it. The server refuses them as "trailing junk", except
/// the `x1F` of `0x1F` and its like, but they keep a `$` behind them from opening a quote.
fn number_end(bytes: &[u8], start: usize) -> usize {
    let mut end = digits_end(bytes, start);
    let mut junk = junk_end(bytes, plain_digits_end(bytes, start));
    // 1..10 is a range in PL/pgSQL, not a number with a point.
    if byte_at(bytes, end) == b'.' && byte_at(bytes, end + 1) != b'.' {
        junk = junk.max(junk_end(bytes, plain_digits_end(bytes, end + 1)));
        end = digits_end(bytes, end + 1);
    }
    if byte_at(bytes, end).eq_ignore_ascii_case(&b'e') {
        let signed = matches!(byte_at(bytes, end + 1), b'+' | b'-');
        let exponent = end + if signed { 2 } else { 1 };
        if byte_at(bytes, exponent).is_ascii_digit() {
            end = digits_end(bytes, exponent);
        }
    }
    junk_end(bytes, end).max(junk)
}

/// The end of digits with underscores between them.
fn digits_end(bytes: &[u8], at: usize) -> usize {
    let mut end = plain_digits_end(bytes, at);
    while end > at && byte_at(bytes, end) == b'_' && byte_at(bytes, end + 1).is_ascii_digit() {
        end = plain_digits_end(bytes, end + 1);
    }
    end
}

fn plain_digits_end(bytes: &[u8], at: usize) -> usize {
    row_end(bytes, at, |byte| byte.is_ascii_digit())
}

fn junk_end(bytes: &[u8], at: usize) -> usize {
    if starts_word(byte_at(bytes, at)) { word_end(bytes, at) } else { at }
}

fn word_end(bytes: &[u8], at: usize) -> usize {
    row_end(bytes, at, is_word_byte)
}

pub(super) fn line_end(bytes: &[u8], at: usize) -> usize {
    row_end(bytes, at, |byte| byte != b'\n' && byte != b'\r')
}

/// The end of a row of bytes that are of a kind; it may have none.
fn row_end(bytes: &[u8], at: usize, is_of_kind: fn(u8) -> bool) -> usize {
    let end = bytes.get(at..).unwrap_or_default().iter().position(|byte| !is_of_kind(*byte));
    end.map_or(bytes.len(), |length| at + length)
}

/// The end of a `/* comment */`; comments nest.
pub(super) fn comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while at < bytes.len() {
        match (bytes[at], byte_at(bytes, at + 1)) {
            (b'/', b'*') => depth += 1,
            (b'*', b'/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

/// The byte, or zero behind the end: a byte that begins nothing and belongs to nothing.
fn byte_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'\x0b' | b'\x0c')
}

fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || !byte.is_ascii()
}

fn is_word_byte(byte: u8) -> bool {
    starts_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

fn is_operator_byte(byte: u8) -> bool {
    b"~!@#^&|`?+-*/%<>=".contains(&byte)
}

/// The statement without its comments, except between the parts of one string.
pub fn without_comments(statement: &str) -> String {
    let mut bare = String::new();
    let mut end = 0;
    for token in Lexer::new(statement, 0) {
        if end < token.start {
            bare.push(' ');
        }
        bare.push_str(token.text);
        end = token.end();
    }
    bare
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<&str> {
        Lexer::new(text, 0).map(|token| token.text).collect()
    }

    #[test]
    fn reads_tokens_as_the_server_does() {
        let cases: &[(&str, &[&str])] = &[
            ("a \t\n\r\x0b\x0cb", &["a", "b"]),
            ("a--x\nb--y\rc--z", &["a", "b", "c"]),
            ("a/*x*/b/*/*y*/;*/c/**/d/*/e", &["a", "b", "c", "d"]),
            ("a/***//*//**/**/b", &["a", "b"]),
            ("a/* 'x */b", &["a", "b"]),
            ("'a''b' 'c\\' 'd", &["'a''b'", "'c\\'", "'d"]),
            ("''''", &["''''"]),
            ("E'a\\'b' e'\\\\' E'\\", &["E'a\\'b'", "e'\\\\'", "E'\\"]),
            ("fooE'x\\' _E'y\\'", &["fooE", "'x\\'", "_E", "'y\\'"]),
            ("E 'x\\'", &["E", "'x\\'"]),
            ("E'a'\n'b\\'c' d", &["E'a'\n'b\\'c'", "d"]),
            ("'a' -- x'\n -- y\n 'b\\' c", &["'a' -- x'\n -- y\n 'b\\'", "c"]),
            ("'a' --x\r'b'", &["'a' --x\r'b'"]),
            ("'a' 'b'", &["'a'", "'b'"]),
            ("'a' /**/\n'b'", &["'a'", "'b'"]),
            ("'a'\n/**/'b'", &["'a'", "'b'"]),
            ("'a'\n-'b'", &["'a'", "-", "'b'"]),
            ("'a'\nE'b'", &["'a'", "E'b'"]),
            ("b'01'\n'10' X'1f''2'", &["b'01'\n'10'", "X'1f'", "'2'"]),
            ("n'a''b\\' N'c'", &["n'a''b\\'", "N'c'"]),
            ("U&'a\\' u&\"b\"\"c\" u&x U&", &["U&'a\\'", "u&\"b\"\"c\"", "u", "&", "x", "U", "&"]),
            ("U&'a'\n'b' au&'c'", &["U&'a'\n'b'", "au", "&", "'c'"]),
            ("\"a\"\"b\"c\"d", &["\"a\"\"b\"", "c", "\"d"]),
            ("\"a\"\n\"b\"", &["\"a\"", "\"b\""]),
            ("$$a'b$$c", &["$$a'b$$", "c"]),
            ("$a$ $$ $b$ $A$ $b$a$ x", &["$a$ $$ $b$ $A$ $b$a$", "x"]),
            ("$é$;$é$ $_1$;$_1$", &["$é$;$é$", "$_1$;$_1$"]),
            ("a$$b$ c$1 $", &["a$$b$", "c$1", "$"]),
            ("$foo bar $1 $12$x", &["$", "foo", "bar", "$1", "$12", "$", "x"]),
            ("$1$$;$$ $a$b", &["$1", "$$;$$", "$a$b"]),
            ("héllo$x été \u{a0}", &["héllo$x", "été", "\u{a0}"]),
            ("1.5e-3 1..10 .5 1. 1.e5", &["1.5e-3", "1", "..", "10", ".5", "1.", "1.e5"]),
            ("0x1F 1_000 0b10 1e+ 1.2.3", &["0x1F", "1_000", "0b10", "1e", "+", "1.2", ".3"]),
            (
                "1a$b$ 2e5x 1e5$a$ 1_0$a$ 1.5_0$a$",
                &["1a$b$", "2e5x", "1e5$a$", "1_0$a$", "1.5_0$a$"],
            ),
            ("1$$ $$ 1_0.5e-1_0 1.$$ $$", &["1", "$$ $$", "1_0.5e-1_0", "1.", "$$ $$"]),
            ("a::b:=c=>d e:f", &["a", "::", "b", ":=", "c", "=>", "d", "e", ":", "f"]),
            ("a=-1 b@-1 c*-+d", &["a", "=", "-", "1", "b", "@-", "1", "c", "*", "-", "+", "d"]),
            ("a+++b a-+-b", &["a", "+", "+", "+", "b", "a", "-", "+", "-", "b"]),
            ("a->>b<=c!=d||e", &["a", "->>", "b", "<=", "c", "!=", "d", "||", "e"]),
            ("a@--b\nc*/*d*/e", &["a", "@", "c", "*", "e"]),
            ("a+--b\nc", &["a", "+", "c"]),
            ("(a)[1],b.c;", &["(", "a", ")", "[", "1", "]", ",", "b", ".", "c", ";"]),
            ("a \\d b\n'\\e'\\f", &["a", "\\d b", "'\\e'", "\\f"]),
        ];
        for (text, expected) in cases {
            assert_eq!(tokens(text), *expected, "{text}");
        }
    }
}
