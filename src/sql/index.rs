//! `CREATE INDEX CONCURRENTLY`: what stands before its columns, and the same index on another table.

use super::cursor::Cursor;

/// Takes what stands between `CREATE INDEX CONCURRENTLY` and the columns: the name, if there is one, and the table.
pub(super) fn header(cursor: &mut Cursor<'_>) -> Option<(Option<String>, String)> {
    let _ = cursor.takes("if not exists");
    if cursor.takes("on") {
        return Some((None, cursor.relation()?));
    }
    let name = cursor.name()?;
    let table = cursor.takes("on").then(|| cursor.relation()).flatten()?;
    Some((Some(name), table))
}

/// `CREATE INDEX CONCURRENTLY`, written anew with another name, for another table, and without `CONCURRENTLY` and `IF NOT
/// EXISTS`; the rest, from `USING` or the columns on, is to the letter. None of other statements. `name` and `table` are
/// written as they are to stand there.
pub fn index_on(statement: &str, name: &str, table: &str) -> Option<String> {
    let mut cursor = Cursor::new(statement);
    let command = cursor.first_of("CREATE INDEX CONCURRENTLY|CREATE UNIQUE INDEX CONCURRENTLY")?;
    let command = command.trim_end_matches(" CONCURRENTLY");
    header(&mut cursor)?;
    let rest = &statement[cursor.token?.start..];
    // It may end in a comment.
    Some(format!("{command} {name} ON {table} {rest}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_the_index_for_another_table() {
        for (statement, expected) in [
            (
                "create unique index concurrently if not exists I on only s.t using gin (a) where b -- end",
                Some("CREATE UNIQUE INDEX i2 ON x.y using gin (a) where b -- end\n"),
            ),
            (
                "CREATE INDEX CONCURRENTLY \"A \"\"b\" ON t/**/(lower(t.a)) INCLUDE (c)",
                Some("CREATE INDEX i2 ON x.y (lower(t.a)) INCLUDE (c)\n"),
            ),
            ("CREATE INDEX CONCURRENTLY i t (a)", None),
            ("CREATE INDEX i ON t (a)", None),
            ("CREATE INDEX CONCURRENTLY i ON t", None),
            ("REINDEX TABLE CONCURRENTLY t", None),
        ] {
            assert_eq!(index_on(statement, "i2", "x.y").as_deref(), expected, "{statement}");
        }
    }
}
