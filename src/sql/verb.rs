//! A statement's command, for logs and messages.

use super::cursor::Cursor;
use super::kinds::{concurrent_detach, reindex};

/// The statement's command for logs and messages, in upper case: `INSERT`, `CREATE TABLE`, `DROP
/// INDEX CONCURRENTLY`; `SQL` if it does not begin with a word.
pub fn verb(statement: &str) -> String {
    let mut cursor = Cursor::new(statement);
    if cursor.symbol("(") {
        return "SELECT".to_owned();
    }
    if let Some(phrase) = cursor.first_of(COMMAND_PHRASES) {
        return phrase.to_owned();
    }
    match cursor.upper_word() {
        Some(first) if first == "REINDEX" => match reindex(cursor) {
            Some(reindex) if reindex.concurrently => "REINDEX CONCURRENTLY".to_owned(),
            _ => first,
        },
        Some(first) if ["CREATE", "ALTER", "DROP"].contains(&first.as_str()) => {
            object_verb(&first, cursor)
        }
        Some(first) => first,
        None => "SQL".to_owned(),
    }
}

/// Commands of several words, apart from those that `CREATE`, `ALTER` or `DROP` something.
const COMMAND_PHRASES: &str = "START TRANSACTION|PREPARE TRANSACTION|COMMIT PREPARED|ROLLBACK PREPARED|\
     REFRESH MATERIALIZED VIEW|IMPORT FOREIGN SCHEMA|REASSIGN OWNED|SECURITY LABEL|\
     SET CONSTRAINTS|DISCARD ALL|DISCARD PLANS|DISCARD SEQUENCES|DROP OWNED";

/// Objects of several words.
const OBJECT_PHRASES: &str = "MATERIALIZED VIEW|FOREIGN TABLE|FOREIGN DATA WRAPPER|EVENT TRIGGER|ACCESS METHOD|\
     OPERATOR CLASS|OPERATOR FAMILY|TEXT SEARCH CONFIGURATION|TEXT SEARCH DICTIONARY|\
     TEXT SEARCH PARSER|TEXT SEARCH TEMPLATE|USER MAPPING|DEFAULT PRIVILEGES|LARGE OBJECT|\
     INDEX CONCURRENTLY";

/// What may stand between `CREATE` and the object, and is no part of the command's name.
const CREATE_MODIFIERS: &str = "OR REPLACE|GLOBAL|LOCAL|TEMPORARY|TEMP|UNLOGGED|UNIQUE|RECURSIVE|TRUSTED|PROCEDURAL|\
     CONSTRAINT|DEFAULT";

fn object_verb(first: &str, mut cursor: Cursor<'_>) -> String {
    if first == "ALTER" && concurrent_detach(cursor.clone()).is_some() {
        return "DETACH PARTITION CONCURRENTLY".to_owned();
    }
    while first == "CREATE" && cursor.first_of(CREATE_MODIFIERS).is_some() {}
    let phrase = cursor.first_of(OBJECT_PHRASES).map(str::to_owned);
    match phrase.or_else(|| cursor.upper_word()) {
        Some(object) => format!("{first} {object}"),
        None => first.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_commands() {
        let cases = [
            ("select 1", "SELECT"),
            ("(SELECT 1) UNION SELECT 2", "SELECT"),
            ("WITH a AS (SELECT 1) INSERT INTO t TABLE a", "WITH"),
            ("INSERT INTO t VALUES (1)", "INSERT"),
            ("/* x */ create -- y\n table t ()", "CREATE TABLE"),
            ("CREATE TEMP TABLE t ()", "CREATE TABLE"),
            ("CREATE OR REPLACE FUNCTION f()", "CREATE FUNCTION"),
            ("CREATE UNIQUE INDEX i ON t (x)", "CREATE INDEX"),
            ("CREATE CONSTRAINT TRIGGER x", "CREATE TRIGGER"),
            ("CREATE MATERIALIZED VIEW v", "CREATE MATERIALIZED VIEW"),
            ("ALTER DEFAULT PRIVILEGES GRANT", "ALTER DEFAULT PRIVILEGES"),
            ("ALTER TEXT SEARCH DICTIONARY d", "ALTER TEXT SEARCH DICTIONARY"),
            ("ALTER TABLE t ADD x int", "ALTER TABLE"),
            ("ALTER TABLE t DETACH PARTITION p CONCURRENTLY", "DETACH PARTITION CONCURRENTLY"),
            ("DROP INDEX CONCURRENTLY i", "DROP INDEX CONCURRENTLY"),
            ("DROP OWNED BY u", "DROP OWNED"),
            ("REINDEX (CONCURRENTLY) TABLE t", "REINDEX CONCURRENTLY"),
            ("REINDEX TABLE t", "REINDEX"),
            ("REFRESH MATERIALIZED VIEW CONCURRENTLY v", "REFRESH MATERIALIZED VIEW"),
            ("start transaction", "START TRANSACTION"),
            ("COMMIT PREPARED 'x'", "COMMIT PREPARED"),
            ("CREATE", "CREATE"),
            ("1", "SQL"),
            ("", "SQL"),
        ];
        for (text, expected) in cases {
            assert_eq!(verb(text), expected, "{text}");
        }
    }
}
