//! The name of a table, as a user writes it in a variable and as SQL must spell it.

use super::values::shown;
use crate::sql::quote::identifier;

/// PostgreSQL cuts longer identifiers (`NAMEDATALEN` - 1).
pub(super) const LONGEST_IDENTIFIER: usize = 63;

/// A table, with or without its schema.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableName {
    /// As the user wrote it. bun stores this text in `bun_migration_locks.table_name`.
    pub setting: String,
    /// Folded or unquoted, as the catalog has it.
    pub schema: Option<String>,
    /// Folded or unquoted, as the catalog has it.
    pub name: String,
}

impl TableName {
    /// The name as SQL: each part in double quotes.
    pub fn quoted(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", identifier(schema), identifier(&self.name)),
            None => identifier(&self.name),
        }
    }

    /// The table beside it whose name goes on so.
    pub fn suffixed(&self, suffix: &str) -> TableName {
        let name = format!("{}{suffix}", self.name);
        TableName { setting: name.clone(), schema: self.schema.clone(), name }
    }

    /// Reads `table` or `schema.table`; `longest` is the table's, in bytes.
    pub(super) fn parse(text: &str, longest: usize) -> Result<TableName, String> {
        let parsed = || {
            let (first, rest) = leading_identifier(text)?;
            let (schema, name, rest) = match rest.strip_prefix('.') {
                None => (None, first, rest),
                Some(rest) => {
                    let (second, rest) = leading_identifier(rest)?;
                    (Some(first), second, rest)
                }
            };
            let is_long = |it: &String| it.len() > LONGEST_IDENTIFIER;
            let is_one =
                rest.is_empty() && name.len() <= longest && !schema.as_ref().is_some_and(is_long);
            let setting = text.to_owned();
            is_one.then_some(TableName { setting, schema, name })
        };
        parsed().ok_or_else(|| {
            format!(
                "{} is not a table's name: use table or schema.table, each a plain identifier or one in double quotes, \
                 the table's with at most {longest} bytes",
                shown(text)
            )
        })
    }
}

/// The identifier that `text` begins with, as the catalog has it, and what follows it (PostgreSQL manual, "Lexical
/// Structure").
fn leading_identifier(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let continues =
            |c: char| c == '_' || c == '$' || c.is_ascii_alphanumeric() || !c.is_ascii();
        let end = text.find(|c| !continues(c)).unwrap_or(text.len());
        let starts = |c: char| c != '$' && !c.is_ascii_digit();
        let (name, rest) = text.split_at(end);
        // In UTF-8 the server folds ASCII only.
        return name.starts_with(starts).then(|| (name.to_ascii_lowercase(), rest));
    };
    // A quote that is doubled belongs to the name; the first other one ends it.
    let end = quoted.replace("\"\"", "__").find('"')?;
    let name = quoted[..end].replace("\"\"", "\"");
    (!name.is_empty()).then_some((name, &quoted[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_as_sql_does() {
        let long = "x".repeat(63);
        let table: [(&str, Option<&str>, &str, &str); 12] = [
            ("t", None, "t", r#""t""#),
            ("bun_migrations", None, "bun_migrations", r#""bun_migrations""#),
            ("Mixed", None, "mixed", r#""mixed""#),
            ("s.t", Some("s"), "t", r#""s"."t""#),
            ("S.T", Some("s"), "t", r#""s"."t""#),
            (r#""S"."T""#, Some("S"), "T", r#""S"."T""#),
            (r#"s."a.b""#, Some("s"), "a.b", r#""s"."a.b""#),
            (r#""a""b""#, None, "a\"b", r#""a""b""#),
            (r#""""""#, None, "\"", r#""""""#),
            ("_1$", None, "_1$", r#""_1$""#),
            ("tabÉlle", None, "tabÉlle", r#""tabÉlle""#),
            (&long, None, &long, &format!("\"{long}\"")),
        ];
        for (text, schema, name, quoted) in table {
            let parsed = TableName::parse(text, 63).expect(text);
            assert_eq!((parsed.schema.as_deref(), parsed.name.as_str()), (schema, name), "{text}");
            assert_eq!(parsed.quoted(), quoted);
            assert_eq!(parsed.setting, text);
        }
    }

    #[test]
    fn refuses_what_is_no_name() {
        let long = "x".repeat(64);
        let long_schema = format!("{long}.t");
        for text in [
            "",
            ".",
            "s.",
            ".t",
            "a.b.c",
            "1t",
            "$t",
            "a b",
            " t",
            "t ",
            "a-b",
            "a;b",
            "\"",
            "\"\"",
            "\"a",
            "a\"b\"",
            "\"a\"b",
            "s.\"\"",
            "s..t",
            "t;DROP TABLE x",
            &long,
            &long_schema,
        ] {
            let problem = TableName::parse(text, 63).expect_err(text);
            assert_eq!(
                problem,
                format!(
                    "{text:?} is not a table's name: use table or schema.table, each a plain identifier or one in double \
                     quotes, the table's with at most 63 bytes"
                )
            );
        }
        assert!(TableName::parse(&"é".repeat(32), 63).is_err(), "64 bytes");
        assert!(TableName::parse(&"x".repeat(56), 55).is_err());
        assert!(TableName::parse(&"x".repeat(55), 55).is_ok());
    }
}
