//! A file's checksum, which survives reformatting.

use std::fmt;

use sha2::{Digest, Sha256};

use super::lexer::{Quoting, Token, TokenKind, continuation, part_end};

/// What a file does, as a number: equal for two texts that differ only in what does not matter.
///
/// This definition is frozen; journals hold checksums made by it. SHA-256 over, for every statement
/// in order, each of its tokens and after each a zero byte, then `;` and a zero byte, whether or
/// not the text has that semicolon. Tokens are PostgreSQL's, written as in the text, except that
///
/// - ASCII letters outside quotes are lower-cased: words, numbers, the `E` of `E'…'`, the `U` of
///   `U&"…"`;
/// - CR LF inside quotes (single, double, dollar) counts as LF;
/// - what stands between the parts of a continued literal (`'a'`, line break, `'b'`) counts as one
///   LF;
/// - a literal and its prefix are one token (to the server `N'…'` is two), and so are a number and
///   the letters right behind it, which the server mostly refuses.
///
/// White space, comments, a leading byte-order mark, empty statements, psql's commands and the data
/// after `COPY … FROM STDIN` do not count. A semicolon in parentheses or in a `BEGIN ATOMIC` body
/// is a token like any other.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Checksum(pub [u8; 32]);

impl Checksum {
    /// Reads what `Display` writes: 64 hexadecimal digits.
    pub fn parse_hex(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(Checksum(bytes))
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.0.iter();
        bytes.try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Adds a token to the checksum as [`Checksum`] defines it.
pub(super) fn hash_token(hasher: &mut Sha256, token: &Token<'_>) {
    let quote = match token.kind {
        TokenKind::Word | TokenKind::Number | TokenKind::Symbol => token.text.len(),
        TokenKind::QuotedName | TokenKind::Literal => token.text.find(['"', '\'']).unwrap_or(0),
        TokenKind::Dollar => 0,
        TokenKind::Backslash => return,
    };
    let (folded, quoted) = token.text.split_at(quote);
    hasher.update(folded.to_ascii_lowercase());
    match token.kind {
        TokenKind::Literal => hash_literal(hasher, quoted, Quoting::of(folded)),
        _ => hash_quoted(hasher, quoted),
    }
    hasher.update(b"\0");
}

fn hash_literal(hasher: &mut Sha256, literal: &str, quoting: Quoting) {
    let mut part = 0;
    loop {
        let end = part_end(literal.as_bytes(), part, quoting);
        hash_quoted(hasher, &literal[part..end]);
        match continuation(literal.as_bytes(), end) {
            Some(next) => part = next,
            None => return,
        }
        hasher.update(b"\n");
    }
}

fn hash_quoted(hasher: &mut Sha256, text: &str) {
    hasher.update(text.replace("\r\n", "\n"));
}

#[cfg(test)]
mod tests {
    use super::super::{parse, without_comments};
    use super::*;

    /// If this fails, every journal in the field reports its migrations as modified.
    #[test]
    fn never_changes_the_checksum_of_a_text() {
        let text = "\u{feff}-- a licence\r\n\\restrict x\r\nCREATE TABLE T (\"A\" int DEFAULT 1E5, b text);;\r\n\
                    INSERT INTO t VALUES (E'a\\'\r\nb' -- c\r\n 'd', U&\"E\", $q$\r\n$q$, 1+-1)";
        let pinned = "769a7b25faad78f4d6f726b9a83b2b59371b31203c3b63514e438be592ed9745";
        assert_eq!(parse(text).checksum.to_string(), pinned);
        assert_eq!(Checksum::parse_hex(pinned), Some(parse(text).checksum));
        let by_hand = b"create\0table\0t\0(\0\"A\"\0int\0default\x001e5\0,\0b\0text\0)\0;\0\
            insert\0into\0t\0values\0(\0e'a\\'\nb'\n'd'\0,\0u&\"E\"\0,\0$q$\n$q$\0,\x001\0+\0-\x001\0)\0;\0";
        assert_eq!(parse(text).checksum.0, <[u8; 32]>::from(Sha256::digest(by_hand)));
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(format!("{:?}", parse("-- nothing;\n;").checksum), empty);
        for bad in [
            "",
            &pinned[1..],
            &format!("{pinned}0"),
            &format!("+{}", &pinned[1..]),
            &"é".repeat(32),
        ] {
            assert_eq!(Checksum::parse_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn keeps_the_checksum_when_only_the_form_changes() {
        let same = [
            ("SELECT a, 'b' FROM t;", "select\n  A , -- x\n 'b'\r\nfrom/**/T"),
            ("a;b", ";a;;\n;b;"),
            ("a 'x\ny' \"p\nq\" $$\n$$", "a 'x\r\ny' \"p\r\nq\" $$\r\n$$"),
            ("E'a'\n'b'", "e'a' -- x\r\n\r\n   'b'"),
            ("a", "\u{feff}a"),
            ("a;", "\\restrict x\na;\n\\unrestrict x\n"),
            ("COPY t FROM STDIN", "COPY t FROM STDIN;\n1\n\\.\n"),
            ("0X1f", "0x1F"),
        ];
        for (one, other) in same {
            assert_eq!(parse(one).checksum, parse(other).checksum, "{one} | {other}");
        }
        let different = [
            ("a b", "ab"),
            ("a;b", "a b"),
            ("'a' 'b'", "'a'\n'b'"),
            ("'a''b'", "'a'\n'b'"),
            ("'a'", "'A'"),
            ("a", "\"a\""),
            ("\"a\"", "\"A\""),
            ("$a$x$a$", "$A$x$A$"),
            ("'a b'", "'a  b'"),
            ("'a\nb'", "'a b'"),
            ("'-- a'", "'-- b'"),
            ("a;b", "b;a"),
            ("a (b;)", "a (b)"),
            ("a - -b", "a -\n"),
            ("é", "É"),
            ("a", ""),
        ];
        for (one, other) in different {
            assert_ne!(parse(one).checksum, parse(other).checksum, "{one} | {other}");
        }
    }

    /// The names are what PostgreSQL 15 gave to these indexes.
    #[test]
    fn leaves_comments_out_and_every_token_as_it_is() {
        for (text, bare) in [
            (
                "CREATE /* a\n /* b */ */ INDEX--c\ni ON \"S\".t(a->>'b -- c', $$/* d */$$)  -- e",
                "CREATE INDEX i ON \"S\".t(a->>'b -- c', $$/* d */$$)",
            ),
            ("'a' -- b\n'c'/*d*/::text", "'a' -- b\n'c' ::text"),
            ("a\t \tb", "a b"),
        ] {
            assert_eq!(without_comments(text), bare);
            assert_eq!(parse(text).checksum, parse(bare).checksum);
        }
    }
}
