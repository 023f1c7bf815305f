//! Is an index that is there the one that a statement would build? The server itself tells.
//!
//! In a transaction that is rolled back, an empty copy of the table is made, the statement runs on it without
//! CONCURRENTLY, and what the catalog says of the two indexes is compared: uniqueness, method, columns, expressions,
//! operator classes with their options, collations, order, included columns, predicate. Where the index is stored and
//! its storage parameters are not compared: they are tuning, and may have been changed with good reason.
//!
//! To compare the statement's text with `pg_get_indexdef` would need no copy, but the server writes expressions its own
//! way (`lower((name)::text)`), and knows defaults that the text leaves out.
//!
//! The copy has the table's name, so that `t.a` in an expression is found, but a row type of its own: an index on a
//! function of the whole row cannot be compared. Then we say so, and take no index for another than it seems.

use postgres::SimpleQueryRow;

use super::find::Relation;
use crate::sql;
use crate::sql::quote::literal;

/// What came of comparing an index with a statement.
pub(super) enum Comparison {
    /// It is on that table, and what the statement would build.
    Same,
    /// It is something else; both definitions.
    Differs { present: String, wanted: String },
    /// The server could not make the statement's index on a copy, for this reason.
    Unknown { why: String, present: String },
}

/// The statements that compare the index of this name, in the table's schema, with what `statement` would build. They
/// are for a transaction that is rolled back.
///
/// The statement is read under the role's `search_path`, as when it runs; all else under the catalog's.
pub(super) fn statements(statement: &str, index: &str, table: &Relation) -> Option<[String; 2]> {
    // An empty copy of the table: a temporary one, or, where our role may make none, one beside the table, which whoever
    // may create indexes there may create too. And what its type is called in a definition.
    let (create, copy, own_type) = if table.may_be_temporary {
        ("CREATE TEMPORARY TABLE", format!("pg_temp.{}", table.name), "pg_temp")
    } else {
        ("CREATE TABLE", format!("{}.{COPY}_table", table.schema), COPY)
    };
    let original = format!("{}.{}", table.schema, table.name);
    let block = format!(
        include_str!("definition.sql"),
        cursor = CURSOR,
        create_table = literal(&format!("{create} {copy} (LIKE {original})")),
        create_index = literal(&sql::index_on(statement, COPY, &copy)?),
        shape = shape("i", "c"),
        index = literal(index),
        table = table.oid,
        on_copy = literal(&format!("INDEX {COPY} ON {copy} ")),
        on_table = literal(&format!("{original} ")),
        copy = literal(&copy),
        own_type = literal(own_type),
    );
    // The block may hold whatever the statement holds, so a dollar quote could end too soon.
    Some([format!("DO LANGUAGE plpgsql {}", literal(&block)), format!("FETCH ALL FROM {CURSOR}")])
}

const CURSOR: &str = "lockstep_definitions";

/// What the index on the copy is called: a name of its own, since the copy may have to stand beside the table.
const COPY: &str = "lockstep_copy";

/// All that makes an index what it is, as one text; `i` is its row in `pg_index`, `c` that in `pg_class`. It wants a
/// `search_path` of `pg_catalog`. Columns are written by name, since dropped ones shift their numbers.
pub(super) fn shape(i: &str, c: &str) -> String {
    format!(
        "ROW({c}.relam, {i}.indisunique, to_jsonb({i}) ->> 'indnullsnotdistinct', {i}.indnkeyatts, {i}.indclass::text, \
         {i}.indcollation::text, {i}.indoption::text, pg_get_expr({i}.indpred, {i}.indrelid), \
         ARRAY(SELECT pg_get_indexdef({i}.indexrelid, n, false) FROM generate_series(1, {i}.indnatts::int) n), \
         ARRAY(SELECT a.attoptions::text FROM pg_attribute a WHERE a.attrelid = {i}.indexrelid ORDER BY a.attnum))::text"
    )
}

pub(super) fn unknown(why: &str) -> Comparison {
    Comparison::Unknown { why: why.to_owned(), present: "?".to_owned() }
}

/// Reads what the [`statements`] returned.
pub(super) fn read(rows: &[SimpleQueryRow]) -> Comparison {
    let Some(row) = rows.first() else {
        return unknown("the server did not answer");
    };
    let text = |name: &str| row.get(name).unwrap_or("?").to_owned();
    let (present, wanted) = (text("present"), text("wanted"));
    match (row.get("trouble"), row.get("same")) {
        (Some(why), _) => Comparison::Unknown { why: why.to_owned(), present },
        (None, Some("t")) => Comparison::Same,
        (None, _) => Comparison::Differs { present, wanted },
    }
}
