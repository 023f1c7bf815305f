//! What cannot be run from a migration file, and why.

use super::annotations::Annotation;
use super::cursor::{Cursor, Parts};
use super::index;

/// Something that cannot be run from a migration file.
#[derive(Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// Byte offset of the statement, or of the backslash.
    pub offset: usize,
    /// What it is.
    pub kind: ObstacleKind,
}

/// Why something cannot be run from a migration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObstacleKind {
    /// It would begin or end a transaction in the midst of ours: `COMMIT`, `START TRANSACTION`,
    /// `PREPARE TRANSACTION`, …
    TransactionControl(&'static str),
    /// The data would have to come after it, as psql and nobody else does.
    CopyFromStdin,
    /// There is nobody to take the data.
    CopyToStdout,
    /// A command of psql, by its word as written: `\d`, `\connect`. The rest of its line is taken
    /// for its arguments.
    PsqlCommand(String),
    /// If the build is cut short, its leftover could not be found again.
    UnnamedConcurrentIndex,
    /// It would change the transaction's isolation or access, which the fence relies on.
    SetTransaction,
    /// A comment that means this cannot be heeded where it stands: `-- lockstep: no-transaction` behind a statement, another
    /// tool's way back in an up file, what is not understood, or what we do not do.
    Annotation(Annotation, String),
    /// `{{`, which a template's engine was to fill in.
    Template,
    /// It creates or drops a table of ours, which has this name.
    OwnTable(String),
    /// What it names is partitioned, and the server refuses the statement for that.
    Partitioned(Partitioned, String),
    /// It must run alone, and the file holds other statements.
    SharedFile {
        /// What [`verb`](super::verb::verb) says of the statement.
        command: String,
    },
}

/// What the server refuses of what is partitioned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partitioned {
    /// An index is built concurrently.
    Build,
    /// Its index is dropped concurrently.
    Drop,
    /// A partition is detached concurrently, beside a default one.
    Detach,
    /// It is rebuilt beside other statements.
    Rebuild,
}

/// Returns why the statement, whatever else the file holds, cannot be run from it.
pub(super) fn obstacle_in(statement: &str) -> Option<ObstacleKind> {
    const COMMANDS: &str = "BEGIN|START TRANSACTION|COMMIT|END|ABORT|ROLLBACK|PREPARE TRANSACTION|SET|COPY|\
         CREATE INDEX CONCURRENTLY|CREATE UNIQUE INDEX CONCURRENTLY";
    let mut cursor = Cursor::new(statement);
    let command = cursor.first_of(COMMANDS)?;
    let is_obstacle = match command {
        "COMMIT" => !cursor.takes("prepared"),
        "ROLLBACK" => {
            let _ = cursor.takes("work") || cursor.takes("transaction");
            !cursor.takes("to") && !cursor.takes("prepared")
        }
        // PREPARE transaction AS … prepares a statement of that name.
        "PREPARE TRANSACTION" => cursor.at_literal(),
        "SET" => return changes_transaction(cursor).then_some(ObstacleKind::SetTransaction),
        "COPY" => return copy_obstacle(cursor),
        _ if command.starts_with("CREATE") => {
            let is_unnamed = index::header(&mut cursor)?.0.is_none();
            return is_unnamed.then_some(ObstacleKind::UnnamedConcurrentIndex);
        }
        _ => true,
    };
    is_obstacle.then_some(ObstacleKind::TransactionControl(command))
}

/// Returns true if and only if what follows `SET` would change how the transaction sees the database, which PostgreSQL
/// refuses behind our fence, or what it may do.
fn changes_transaction(mut cursor: Cursor<'_>) -> bool {
    let _ = cursor.takes("local") || cursor.takes("session");
    if cursor.takes("transaction") {
        let _ = cursor.takes("isolation level read committed") && cursor.symbol(",");
        let _ = cursor.takes("read write");
        return !cursor.is_over();
    }
    cursor.first_of("transaction_isolation|transaction_read_only|transaction_deferrable").is_some()
}

/// The table that a statement creates, or the first that it drops. Temporary ones do not count.
pub fn created_or_dropped_table(statement: &str) -> Option<Parts> {
    let mut cursor = Cursor::new(statement);
    cursor.first_of("create table|create unlogged table|drop table")?;
    let _ = cursor.takes("if not exists") || cursor.takes("if exists");
    cursor.parts()
}

fn copy_obstacle(mut cursor: Cursor<'_>) -> Option<ObstacleKind> {
    let _ = cursor.takes("binary");
    if !cursor.skip_group() {
        cursor.qualified_name()?;
        cursor.skip_group();
    }
    let obstacle = match cursor.first_of("from|to")? {
        "from" => ObstacleKind::CopyFromStdin,
        _ => ObstacleKind::CopyToStdout,
    };
    // The server takes either word for either direction.
    (cursor.takes("stdin") || cursor.takes("stdout")).then_some(obstacle)
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn obstacles(text: &str) -> Vec<(usize, ObstacleKind)> {
        parse(text).obstacles.into_iter().map(|obstacle| (obstacle.offset, obstacle.kind)).collect()
    }

    fn control(command: &'static str) -> ObstacleKind {
        ObstacleKind::TransactionControl(command)
    }

    fn psql(command: &str) -> ObstacleKind {
        ObstacleKind::PsqlCommand(command.to_owned())
    }

    #[test]
    fn finds_what_cannot_be_run_and_where() {
        use ObstacleKind::{CopyFromStdin, CopyToStdout};
        let cases: &[(&str, &[(usize, ObstacleKind)])] = &[
            ("BEGIN; x; COMMIT", &[(0, control("BEGIN")), (10, control("COMMIT"))]),
            ("begin isolation level serializable", &[(0, control("BEGIN"))]),
            ("a;\nSTART /**/ TRANSACTION READ ONLY", &[(3, control("START TRANSACTION"))]),
            ("END; ABORT WORK", &[(0, control("END")), (5, control("ABORT"))]),
            ("COMMIT AND CHAIN", &[(0, control("COMMIT"))]),
            (
                "ROLLBACK; ROLLBACK WORK AND CHAIN",
                &[(0, control("ROLLBACK")), (10, control("ROLLBACK"))],
            ),
            ("ROLLBACK TO a; ROLLBACK TRANSACTION TO SAVEPOINT a", &[]),
            ("ROLLBACK work to a; SAVEPOINT a; RELEASE a", &[]),
            ("PREPARE TRANSACTION 'x'", &[(0, control("PREPARE TRANSACTION"))]),
            ("PREPARE transaction AS SELECT 1; PREPARE commit AS SELECT 1", &[]),
            ("SELECT 1 AS begin; \"commit\"; 'rollback'; (commit)", &[]),
            ("DO $$ BEGIN COMMIT; END $$", &[]),
            ("COPY t FROM STDIN", &[(0, CopyFromStdin)]),
            ("COPY s.t (a, b) FROM stdin WITH (FORMAT csv)", &[(0, CopyFromStdin)]),
            ("COPY BINARY t FROM stdin", &[(0, CopyFromStdin)]),
            (
                "COPY t TO STDOUT; COPY (SELECT 1 FROM stdin) TO stdout",
                &[(0, CopyToStdout), (18, CopyToStdout)],
            ),
            ("COPY t FROM STDOUT; COPY t TO STDIN", &[(0, CopyFromStdin), (20, CopyToStdout)]),
            ("COPY t FROM 'stdin'; COPY t FROM PROGRAM 'stdin'; COPY t TO '/stdout'", &[]),
            ("COPY (SELECT 1 FROM t) TO 'x'; COPY stdin FROM 'x'; COPY t (stdin) FROM 'x'", &[]),
            (
                "COPY t FROM STDIN;\n1\tit's\n\\N\t\\.\n\\.\nCOMMIT",
                &[(0, CopyFromStdin), (35, control("COMMIT"))],
            ),
            (
                "COPY t FROM STDIN;\r\n'\r\n\\.\r\nCOPY t FROM STDIN;\n(\n\\.",
                &[(0, CopyFromStdin), (27, CopyFromStdin)],
            ),
            ("COPY t FROM STDIN; COMMIT", &[(0, CopyFromStdin), (19, control("COMMIT"))]),
            (
                "\\d t; COMMIT\nSELECT 1 \\gset;\n;COMMIT",
                &[(0, psql("\\d")), (22, psql("\\gset;")), (30, control("COMMIT"))],
            ),
            ("\\connect\\d", &[(0, psql("\\connect"))]),
            (
                "a (\\i b\n);VACUUM",
                &[
                    (3, psql("\\i")),
                    (10, ObstacleKind::SharedFile { command: "VACUUM".to_owned() }),
                ],
            ),
            (
                "x\\restrict a\n\\restricted\n\\\\",
                &[(1, psql("\\restrict")), (13, psql("\\restricted")), (25, psql("\\"))],
            ),
            ("'\\d' E'\\d' \"\\d\" $$\\d$$ -- \\d\n /* \\d */", &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(obstacles(text), *expected, "{text}");
        }
    }

    #[test]
    fn refuses_an_index_that_could_not_be_found_again() {
        for rest in ["t (a)", "ONLY s.t USING btree (lower(a), \"b\") INCLUDE (c)"] {
            let text = format!("CREATE UNIQUE INDEX CONCURRENTLY ON {rest} WHERE true");
            let expected = [(0, ObstacleKind::UnnamedConcurrentIndex)];
            assert_eq!(obstacles(&text), expected, "{text}");
        }
        assert_eq!(obstacles("CREATE INDEX CONCURRENTLY a ON t (x)"), []);
        assert_eq!(obstacles("CREATE INDEX ON t (x)"), []);
    }
}
