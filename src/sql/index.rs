//! `CREATE INDEX CONCURRENTLY`: what stands before its columns, and the same index on another table.

use super::cursor::Cursor;

/// What stands between `CREATE INDEX CONCURRENTLY` and the columns.
pub(super) struct IndexHeader {
    pub(super) index: Option<String>,
    pub(super) table: String,
}

impl IndexHeader {
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        let _ = cursor.takes("if not exists");
        let index = if cursor.takes("on") {
            None
        } else {
            let name = cursor.name()?;
            if !cursor.takes("on") {
                return None;
            }
            Some(name)
        };
        Some(IndexHeader {
            index,
            table: cursor.relation()?,
        })
    }
}

/// `CREATE INDEX CONCURRENTLY`, written anew with another name, for another table, and without `CONCURRENTLY` and `IF NOT
/// EXISTS`; the rest, from `USING` or the columns on, is to the letter. None of other statements. `name` and `table` are
/// written as they are to stand there.
pub fn index_on(statement: &str, name: &str, table: &str) -> Option<String> {
    let mut cursor = Cursor::new(statement);
    if !cursor.takes("create") {
        return None;
    }
    let unique = if cursor.takes("unique") {
        "UNIQUE "
    } else {
        ""
    };
    if !cursor.takes("index concurrently") {
        return None;
    }
    IndexHeader::read(&mut cursor)?;
    let rest = &statement[cursor.token?.start..];
    // It may end in a comment.
    Some(format!("CREATE {unique}INDEX {name} ON {table} {rest}\n"))
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
            assert_eq!(
                index_on(statement, "i2", "x.y").as_deref(),
                expected,
                "{statement}"
            );
        }
    }
}
