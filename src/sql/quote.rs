//! Names and texts between SQL and what they mean: quoted and unquoted, folded and cut.

/// The identifier in quotes.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The identifier, in quotes only where its letters demand them. A keyword is not known as such: behind a schema it needs
/// no quotes, and elsewhere only some do.
pub fn bare_or_quoted(name: &str) -> String {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
    let is_bare =
        name.bytes().all(plain) && !name.starts_with(|first: char| first.is_ascii_digit());
    if is_bare && !name.is_empty() { name.to_owned() } else { identifier(name) }
}

/// The text as an SQL literal. It holds no NUL, and `standard_conforming_strings` is on.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The text as a literal that means the same whatever `standard_conforming_strings` is: `E'…'`.
pub fn escape_literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// What a plain literal says: `'it''s'`. One with a prefix or in several parts is not looked into.
pub(super) fn unquoted_literal(written: &str) -> Option<String> {
    Some(written.strip_prefix('\'')?.strip_suffix('\'')?.replace("''", "'"))
}

/// What a name is cut to: the server's `NAMEDATALEN`, less C's zero byte.
pub(super) const NAME_BYTES: usize = 63;

/// An identifier as the server stores it: a word folded, a quoted one unquoted, either cut.
pub(super) fn stored_name(written: &str, escape: char) -> String {
    let Some((prefix, quoted)) = written.split_once('"') else {
        return clip(written, NAME_BYTES).to_ascii_lowercase();
    };
    let unquoted = quoted.strip_suffix('"').unwrap_or(quoted);
    let unquoted = unquoted.replace("\"\"", "\"");
    let decoded = match prefix {
        "" => unquoted,
        _ => decode_unicode(&unquoted, escape),
    };
    clip(&decoded, NAME_BYTES).to_owned()
}

/// What `U&"…"` means: `\0061` and `\+000061` are characters by number, `\\` is a backslash. What
/// is wrong stays as it is; the server refuses it.
fn decode_unicode(text: &str, escape: char) -> String {
    let mut decoded = String::new();
    let mut rest = text.chars();
    let mut high_surrogate: Option<u32> = None;
    while let Some(letter) = rest.next() {
        if letter != escape {
            decoded.push(letter);
            continue;
        }
        let after = rest.as_str();
        let (digits, width) = match after.strip_prefix('+') {
            Some(digits) => (digits.get(..6), 7),
            None => (after.get(..4), 4),
        };
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let Some(code) = code else {
            decoded.push(rest.next().unwrap_or(escape));
            continue;
        };
        rest = after[width..].chars();
        let code = match high_surrogate.take() {
            Some(high) if (0xDC00..0xE000).contains(&code) => {
                0x10000 + ((high - 0xD800) << 10) + (code - 0xDC00)
            }
            _ => code,
        };
        high_surrogate = (0xD800..0xDC00).contains(&code).then_some(code);
        decoded.extend(char::from_u32(code));
    }
    decoded
}

/// The longest beginning of whole characters that has at most so many bytes; the server cuts the
/// same way.
pub fn clip(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_only_what_needs_it() {
        for (name, shown) in [
            ("a_1", "a_1"),
            ("_", "_"),
            ("A", "\"A\""),
            ("1a", "\"1a\""),
            ("a$", "\"a$\""),
            ("é", "\"é\""),
            ("a\"b", "\"a\"\"b\""),
            ("", "\"\""),
        ] {
            assert_eq!(bare_or_quoted(name), shown);
            assert_eq!(stored_name(&identifier(name), '\\'), name);
        }
    }

    #[test]
    fn a_literal_says_what_it_was_made_of() {
        for text in ["", "it's", "''", "a\\'b"] {
            assert_eq!(unquoted_literal(&literal(text)).as_deref(), Some(text));
        }
        assert_eq!(escape_literal("it's \\n"), "E'it''s \\\\n'");
    }

    #[test]
    fn reads_names_as_the_server_stores_them() {
        assert_eq!(stored_name("U&\"\\D83D\\DE00\\\\\\+000061\\zz\"", '\\'), "😀\\azz");
        assert_eq!(stored_name(&format!("\"{}\"", "é".repeat(40)), '\\'), "é".repeat(31));
    }
}
