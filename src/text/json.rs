//! JSON, as far as we write it: values built by hand, printed in the order they were given. Pure.
//!
//! A library would bring a serializer and its derive macros; all we need is a string's escapes and a little indenting.

use std::fmt::Write as _;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Integer(i64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(&'static str, Json)>),
}

impl Json {
    /// The value as a document for people and programs: indented by two blanks, ended by a line break.
    pub fn document(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0);
        out.push('\n');
        out
    }

    fn write(&self, out: &mut String, depth: usize) {
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            // Writing to a String cannot fail.
            Json::Integer(value) => drop(write!(out, "{value}")),
            Json::Text(text) => push_string(out, text),
            Json::List(values) => {
                let entries = values.iter().map(|value| (None, value));
                write_entries(out, depth, ['[', ']'], entries);
            }
            Json::Object(members) => {
                let entries = members.iter().map(|(name, value)| (Some(*name), value));
                write_entries(out, depth, ['{', '}'], entries);
            }
        }
    }
}

fn write_entries<'a>(
    out: &mut String,
    depth: usize,
    [open, close]: [char; 2],
    entries: impl ExactSizeIterator<Item = (Option<&'static str>, &'a Json)>,
) {
    let count = entries.len();
    out.push(open);
    for (number, (name, value)) in entries.enumerate() {
        out.push_str(if number == 0 { "\n" } else { ",\n" });
        out.push_str(&"  ".repeat(depth + 1));
        if let Some(name) = name {
            push_string(out, name);
            out.push_str(": ");
        }
        value.write(out, depth + 1);
    }
    if count > 0 {
        out.push('\n');
        out.push_str(&"  ".repeat(depth));
    }
    out.push(close);
}

impl From<bool> for Json {
    fn from(value: bool) -> Json {
        Json::Bool(value)
    }
}

impl From<i64> for Json {
    fn from(value: i64) -> Json {
        Json::Integer(value)
    }
}

impl From<usize> for Json {
    fn from(count: usize) -> Json {
        Json::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }
}

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
        value.map_or(Json::Null, Into::into)
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

/// Appends the text as a JSON string.
///
/// JSON demands an escape for the characters below U+0020 only. The other control characters could steer a terminal,
/// and U+2028 and U+2029 end a line for some readers.
pub fn push_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => {
                // Writing to a string does not fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
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
