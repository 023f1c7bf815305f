//! How a statement can be run: in a transaction, or alone.

use super::cursor::{Cursor, Parts};
use super::index;

/// How a statement can be run: what the server's `PreventInTransactionBlock` guards, PostgreSQL 15
/// to 18.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// In a transaction.
    Plain,
    /// The server refuses it in a transaction block.
    Outside(Box<Outside>),
    /// The server refuses it in a transaction block if what it names is of a certain kind, which
    /// the text does not tell: `REINDEX TABLE`, `REINDEX INDEX` and `CLUSTER` of something
    /// partitioned, `DROP SUBSCRIPTION` of one with a slot.
    MaybeOutside,
}

/// A statement that runs alone, with what is needed to see in the catalog whether it ran. Tables,
/// and indexes in lists, are written as in the text, without comments and white space, as
/// `to_regclass` takes them.
#[derive(Debug, PartialEq, Eq)]
pub enum Outside {
    /// `CREATE INDEX CONCURRENTLY` with a name; one without is `Other`, and an obstacle.
    CreateIndex {
        /// The name as the server stores it: folded or unquoted, and cut.
        index: String,
        /// The table as written.
        table: String,
    },
    /// `DROP INDEX CONCURRENTLY`.
    DropIndex {
        /// As written; the server takes one only, and says so.
        indexes: Vec<String>,
    },
    /// `REINDEX … CONCURRENTLY`, in either spelling.
    ReindexConcurrently {
        /// What kind of thing is rebuilt.
        target: ReindexTarget,
        /// Its name as written; `SYSTEM` and `DATABASE` need none.
        name: Option<String>,
    },
    /// `ALTER TABLE … DETACH PARTITION … CONCURRENTLY`.
    DetachPartition {
        /// The partitioned table as written.
        table: String,
        /// The partition as written.
        partition: String,
    },
    /// `VACUUM`, `CREATE DATABASE`, `ALTER SYSTEM` and the others.
    Other,
}

/// What a `REINDEX` is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReindexTarget {
    /// One index.
    Index,
    /// One table's indexes.
    Table,
    /// One schema's.
    Schema,
    /// The database's.
    Database,
    /// The catalogs'.
    System,
}

/// What never runs in a transaction.
const ALONE: &str = "vacuum|create database|create tablespace|drop database|drop tablespace|alter system|discard all|\
     commit prepared|rollback prepared";

/// What does not, in some of its forms.
const PERHAPS_ALONE: &str = "create index concurrently|create unique index concurrently|create subscription|\
     drop index concurrently|drop subscription|alter database|alter subscription|alter|reindex|cluster";

/// Each phrase and each arm names what in the server's `tcop/utility.c`, or in the command's own file, calls
/// `PreventInTransactionBlock`.
pub(super) fn kind_of(statement: &str) -> Kind {
    let mut cursor = Cursor::new(statement);
    if cursor.first_of(ALONE).is_some() {
        return outside(Outside::Other);
    }
    match cursor.first_of(PERHAPS_ALONE) {
        Some("create subscription") => outside_if(creates_slot(cursor)),
        Some("drop index concurrently") => outside(Outside::DropIndex { indexes: dropped(cursor) }),
        Some("drop subscription") => Kind::MaybeOutside,
        Some("alter database") => outside_if(moves_database(cursor)),
        Some("alter subscription") => outside_if(works_elsewhere(cursor)),
        Some("alter") => concurrent_detach(cursor).map_or(Kind::Plain, outside),
        Some("reindex") => reindex_kind(cursor),
        Some("cluster") => match clustered(cursor) {
            Some(_) => Kind::MaybeOutside,
            None => outside(Outside::Other),
        },
        Some(_) => match index::header(&mut cursor) {
            Some((Some(index), table)) => outside(Outside::CreateIndex { index, table }),
            _ => outside(Outside::Other),
        },
        None => Kind::Plain,
    }
}

fn outside(what: Outside) -> Kind {
    Kind::Outside(Box::new(what))
}

fn outside_if(refuses: bool) -> Kind {
    if refuses { outside(Outside::Other) } else { Kind::Plain }
}

/// Only creating the slot, on the other server, could not be undone.
fn creates_slot(mut cursor: Cursor<'_>) -> bool {
    let _ = cursor.seek("with");
    let options = cursor.options();
    let is_off = |option| options.get(option) == Some(&false);
    !is_off("create_slot") && !is_off("connect")
}

fn dropped(mut cursor: Cursor<'_>) -> Vec<String> {
    let _ = cursor.takes("if exists");
    let mut indexes: Vec<String> = cursor.qualified_name().into_iter().collect();
    while cursor.symbol(",") {
        indexes.extend(cursor.qualified_name());
    }
    indexes
}

fn moves_database(mut cursor: Cursor<'_>) -> bool {
    let _name = cursor.name();
    if cursor.takes("set") {
        return cursor.takes("tablespace");
    }
    // An option's name, which may be quoted.
    let _ = cursor.takes("with");
    cursor.name().as_deref() == Some("tablespace")
}

/// As the manual's page on ALTER SUBSCRIPTION lists them; `failover` is of PostgreSQL 17,
/// `two_phase` of 18.
fn works_elsewhere(mut cursor: Cursor<'_>) -> bool {
    const FORMS: &str = "refresh|set publication|add publication|drop publication|set";
    let _name = cursor.name();
    match cursor.first_of(FORMS) {
        Some("refresh") => true,
        Some("set") => {
            let options = cursor.options();
            options.contains_key("failover") || options.get("two_phase") == Some(&false)
        }
        Some(_) => !cursor.seek("with") || cursor.options().get("refresh") != Some(&false),
        None => false,
    }
}

/// `TABLE t DETACH PARTITION p CONCURRENTLY`, after `ALTER`.
pub(super) fn concurrent_detach(mut cursor: Cursor<'_>) -> Option<Outside> {
    if !cursor.takes("table") {
        return None;
    }
    let _ = cursor.takes("if exists");
    let table = cursor.relation()?;
    if !cursor.takes("detach partition") {
        return None;
    }
    let partition = cursor.qualified_name()?;
    cursor.takes("concurrently").then_some(Outside::DetachPartition { table, partition })
}

/// The table with partitions that a statement creates; none if it may be there already.
pub fn created_partitioned(statement: &str) -> Option<Parts> {
    let mut cursor = Cursor::new(statement);
    if !cursor.takes("create table") || cursor.at_word("if") {
        return None;
    }
    let table = cursor.parts()?;
    cursor.seek("partition by").then_some(table)
}

/// What a statement rebuilds that cannot run in a transaction if that is partitioned; as written.
pub fn rebuilt(statement: &str) -> Option<String> {
    let mut cursor = Cursor::new(statement);
    match cursor.first_of("reindex|cluster")? {
        "reindex" => reindex(cursor)?.name,
        _ => clustered(cursor),
    }
}

/// `[(options) | VERBOSE] t`, after `CLUSTER`.
fn clustered(mut cursor: Cursor<'_>) -> Option<String> {
    let _ = cursor.skip_group() || cursor.takes("verbose");
    cursor.qualified_name()
}

fn reindex_kind(cursor: Cursor<'_>) -> Kind {
    let Some(reindex) = reindex(cursor) else {
        return Kind::Plain;
    };
    let Reindex { target, name, .. } = reindex;
    match target {
        _ if reindex.concurrently => outside(Outside::ReindexConcurrently { target, name }),
        ReindexTarget::Index | ReindexTarget::Table => Kind::MaybeOutside,
        _ => outside(Outside::Other),
    }
}

/// What a `REINDEX` says.
pub struct Reindex {
    pub target: ReindexTarget,
    pub concurrently: bool,
    /// As written; `SYSTEM` and `DATABASE` need none.
    pub name: Option<String>,
}

/// `[(options)] TABLE [CONCURRENTLY] t`, after `REINDEX`.
pub fn reindex(mut cursor: Cursor<'_>) -> Option<Reindex> {
    let option = cursor.options().get("concurrently") == Some(&true);
    let target = match cursor.first_of("index|table|schema|database|system")? {
        "index" => ReindexTarget::Index,
        "table" => ReindexTarget::Table,
        "schema" => ReindexTarget::Schema,
        "database" => ReindexTarget::Database,
        _ => ReindexTarget::System,
    };
    Some(Reindex {
        target,
        concurrently: cursor.takes("concurrently") || option,
        name: cursor.qualified_name(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::{parse, verb};
    use super::*;

    /// The kind of a text's only statement.
    fn kind(text: &str) -> Kind {
        let mut script = parse(text);
        assert_eq!(script.statements.len(), 1, "{text}");
        script.statements.remove(0).kind
    }

    #[test]
    fn knows_what_runs_in_a_transaction() {
        let plain = [
            "SELECT 1",
            "CREATE INDEX a ON t (x)",
            "CREATE INDEX \"concurrently\" ON t (x)",
            "CREATE TABLE concurrently (x int)",
            "CREATE TABLE vacuum (x int)",
            "DROP INDEX a",
            "DROP INDEX \"concurrently\"",
            "ALTER TABLE t DETACH PARTITION p",
            "ALTER TABLE t DETACH PARTITION p FINALIZE",
            "ALTER TABLE t DETACH PARTITION \"concurrently\"",
            "ALTER TABLE t ADD detach int",
            "ALTER TYPE t ADD VALUE 'x'",
            "ALTER DATABASE d SET search_path TO a",
            "ALTER DATABASE tablespace RENAME TO d",
            "REFRESH MATERIALIZED VIEW CONCURRENTLY v",
            "ANALYZE t",
            "CHECKPOINT",
            "DISCARD PLANS",
            "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p WITH (create_slot = false)",
            "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p WITH (enabled, connect = 'OFF')",
            "ALTER SUBSCRIPTION s ENABLE",
            "ALTER SUBSCRIPTION s SET (slot_name = NONE, two_phase)",
            "ALTER SUBSCRIPTION s SET PUBLICATION p, q WITH (refresh = 0)",
            "ALTER SUBSCRIPTION s OWNER TO refresh",
            "CREATE FUNCTION f() AS $$ VACUUM $$",
            "SELECT 'VACUUM; CREATE DATABASE x'",
            "(VACUUM)",
            "\"vacuum\"",
            "COMMIT",
            "ROLLBACK",
        ];
        for text in plain {
            assert_eq!(kind(text), Kind::Plain, "{text}");
        }
        let maybe = [
            "REINDEX TABLE t",
            "reindex (verbose) index i",
            "REINDEX (CONCURRENTLY off) TABLE t",
            "REINDEX (CONCURRENTLY, CONCURRENTLY 0) TABLE t",
            "REINDEX TABLE \"concurrently\"",
            "CLUSTER t USING i",
            "CLUSTER VERBOSE t",
            "CLUSTER (VERBOSE) t",
            "DROP SUBSCRIPTION s",
        ];
        for text in maybe {
            assert_eq!(kind(text), Kind::MaybeOutside, "{text}");
        }
        let other = [
            "VACUUM",
            "vacuum (full, analyze) t",
            "/**/ Vacuum -- x\n FULL t",
            "CLUSTER",
            "CLUSTER VERBOSE",
            "CLUSTER (VERBOSE)",
            "CREATE DATABASE d",
            "DROP DATABASE IF EXISTS d WITH (FORCE)",
            "CREATE TABLESPACE s LOCATION '/x'",
            "DROP TABLESPACE s",
            "ALTER DATABASE d SET TABLESPACE s",
            "ALTER DATABASE \"d\" WITH TABLESPACE s",
            "ALTER DATABASE d TABLESPACE = s",
            "ALTER DATABASE d WITH \"tablespace\" s",
            "ALTER SYSTEM RESET ALL",
            "REINDEX SCHEMA s",
            "REINDEX DATABASE",
            "REINDEX (VERBOSE) SYSTEM d",
            "DISCARD ALL",
            "COMMIT PREPARED 'x'",
            "ROLLBACK PREPARED 'x'",
            "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p",
            "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p WITH (create_slot, connect = true)",
            "ALTER SUBSCRIPTION s REFRESH PUBLICATION",
            "ALTER SUBSCRIPTION s ADD PUBLICATION p",
            "ALTER SUBSCRIPTION s DROP PUBLICATION p WITH (refresh = on)",
            "ALTER SUBSCRIPTION s SET (failover = false)",
            "ALTER SUBSCRIPTION s SET (two_phase = off)",
        ];
        for text in other {
            assert_eq!(kind(text), outside(Outside::Other), "{text}");
        }
    }

    #[test]
    fn names_the_index_that_is_built_concurrently() {
        let long = "é".repeat(40);
        let cases: &[(&str, &str, &str)] = &[
            ("CREATE INDEX CONCURRENTLY a ON t (x)", "a", "t"),
            ("create /**/ unique index concurrently Foo on Bar(x)", "foo", "Bar"),
            (
                "CREATE INDEX CONCURRENTLY IF NOT EXISTS \"A\"\"b\" ON ONLY s . \"T\"\"t\" (x)",
                "A\"b",
                "s.\"T\"\"t\"",
            ),
            ("CREATE INDEX CONCURRENTLY if ON ONLY (t) (x)", "if", "t"),
            (
                "CREATE INDEX CONCURRENTLY U&\"d\\0061t\" ON U&\"!0061b\" UESCAPE '!' . c (x)",
                "dat",
                "\"ab\".c",
            ),
            (&format!("CREATE INDEX CONCURRENTLY {long} ON t (x)"), &long[..62], "t"),
        ];
        for &(text, index, table) in cases {
            let (index, table) = (index.to_owned(), table.to_owned());
            let expected = Outside::CreateIndex { index, table };
            assert_eq!(kind(text), outside(expected), "{text}");
            assert_eq!(verb(text), "CREATE INDEX CONCURRENTLY");
        }
    }

    #[test]
    fn names_what_other_concurrent_commands_work_on() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let drop = |indexes| Outside::DropIndex { indexes: names(indexes) };
        let rebuild = |target, name: Option<&str>| {
            let name = name.map(str::to_owned);
            Outside::ReindexConcurrently { target, name }
        };
        let detach = |table: &str, partition: &str| {
            let (table, partition) = (table.to_owned(), partition.to_owned());
            Outside::DetachPartition { table, partition }
        };
        let cases = [
            ("DROP INDEX CONCURRENTLY a", drop(&["a"])),
            ("DROP INDEX CONCURRENTLY IF EXISTS a, s.\"B\" CASCADE", drop(&["a", "s.\"B\""])),
            ("REINDEX INDEX CONCURRENTLY s.i", rebuild(ReindexTarget::Index, Some("s.i"))),
            ("REINDEX (CONCURRENTLY, VERBOSE) TABLE t", rebuild(ReindexTarget::Table, Some("t"))),
            ("REINDEX (concurrently 'on') SCHEMA s", rebuild(ReindexTarget::Schema, Some("s"))),
            ("REINDEX (verbose) DATABASE CONCURRENTLY", rebuild(ReindexTarget::Database, None)),
            ("REINDEX (CONCURRENTLY 1) SYSTEM d", rebuild(ReindexTarget::System, Some("d"))),
            (
                "REINDEX (CONCURRENTLY false) INDEX CONCURRENTLY i",
                rebuild(ReindexTarget::Index, Some("i")),
            ),
            ("ALTER TABLE t DETACH PARTITION p CONCURRENTLY", detach("t", "p")),
            (
                "ALTER TABLE IF EXISTS ONLY s.t * DETACH PARTITION s /**/ . p CONCURRENTLY",
                detach("s.t", "s.p"),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(kind(text), outside(expected), "{text}");
        }
    }
}
