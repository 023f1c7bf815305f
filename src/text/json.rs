//! JSON, as far as we write it: values built by hand, printed in the order they were given. Pure.
//!
//! A library would bring a serializer and its derive macros; all we need is a string's escapes and a little indenting.

use std::fmt;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// A number, a boolean or null, as it is written.
    Literal(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(&'static str, Json)>),
}

/// A value as one word; what holds others, over several lines.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.indented(0))
    }
}

impl Json {
    pub fn null() -> Json {
        Json::Literal("null".to_owned())
    }

    /// The value as a document for people and programs: indented by two blanks, ended by a line break.
    pub fn document(&self) -> String {
        format!("{self}\n")
    }

    fn indented(&self, depth: usize) -> String {
        match self {
            Json::Literal(literal) => literal.clone(),
            Json::Text(text) => string(text),
            Json::List(values) => {
                let entries = values.iter().map(|value| value.indented(depth + 1));
                block("[", entries.collect(), "]", depth)
            }
            Json::Object(members) => {
                let entries = members.iter().map(|(name, value)| {
                    format!("{}: {}", string(name), value.indented(depth + 1))
                });
                block("{", entries.collect(), "}", depth)
            }
        }
    }
}

fn block(open: &str, entries: Vec<String>, close: &str, depth: usize) -> String {
    if entries.is_empty() {
        return format!("{open}{close}");
    }
    let (outer, inner) = ("  ".repeat(depth), "  ".repeat(depth + 1));
    let entries = entries.join(&format!(",\n{inner}"));
    format!("{open}\n{inner}{entries}\n{outer}{close}")
}

macro_rules! literals {
    ($($kind:ty)*) => {
        $(impl From<$kind> for Json {
            fn from(value: $kind) -> Json {
                Json::Literal(value.to_string())
            }
        })*
    };
}

literals! { bool i64 usize }

impl From<&str> for Json {
    fn from(value: &str) -> Json {
        Json::Text(value.to_owned())
    }
}

impl From<String> for Json {
    fn from(value: String) -> Json {
        Json::Text(value)
    }
}

impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Json {
        value.map_or_else(Json::null, Into::into)
    }
}

impl<T: Into<Json>> From<Vec<T>> for Json {
    fn from(values: Vec<T>) -> Json {
        values.into_iter().collect()
    }
}

impl<T: Into<Json>> FromIterator<T> for Json {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Json {
        Json::List(values.into_iter().map(Into::into).collect())
    }
}

/// The text as a JSON string.
///
/// JSON demands an escape for the characters below U+0020 only. The other control characters could steer a terminal,
/// and U+2028 and U+2029 end a line for some readers.
pub fn string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' | '\n' | '\r' | '\t' => out.extend(c.escape_default()),
            c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_indented_and_keeps_its_order() {
        let value = Json::Object(vec![
            ("b", Json::from(true)),
            ("a", Json::from(Some(-1_i64))),
            ("none", Json::from(None::<i64>)),
            ("empty", Json::List(Vec::new())),
            ("list", Json::from(vec!["x\"y"])),
        ]);
        let document = "{\n  \"b\": true,\n  \"a\": -1,\n  \"none\": null,\n  \"empty\": [],\n  \"list\": [\n    \"x\\\"y\"\n  ]\n}\n";
        assert_eq!(value.document(), document);
    }
}
