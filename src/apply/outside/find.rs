//! What the catalog has of a statement's work, and of the tables and indexes that it names.

use log::debug;
use postgres::SimpleQueryRow;

use super::{Current, leftovers};
use crate::error::Error;
use crate::server::wait::Wait;
use crate::sql::quote::literal;
use crate::sql::{self, Outside};

/// What the catalog says of what a statement is to bring about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// Nothing of it: the statement has everything to do.
    Nothing,
    /// All of it.
    Done,
    /// An INVALID index of that name on that table: half built, or half dropped.
    InvalidIndex,
    /// The same, and another session is building it.
    IndexInTheMaking,
    /// An index of that name in the table's schema, on another table.
    IndexElsewhere,
    /// A partition whose detaching was begun.
    PendingDetach,
}

/// A table or an index, as the catalog has it.
pub(super) struct Relation {
    pub(super) oid: String,
    /// Quoted.
    pub(super) schema: String,
    /// Quoted.
    pub(super) name: String,
    /// Whether our role may create temporary tables beside it.
    pub(super) may_be_temporary: bool,
    /// Whether it is a table with partitions, or the index of one.
    pub(super) is_partitioned: bool,
    pub(super) has_default_partition: bool,
}

impl Relation {
    /// The query for a table or an index by its name, under the role's `search_path`. So whatever could be found elsewhere
    /// on it is written out.
    pub(super) fn query(name: &str) -> String {
        format!(
            "SELECT c.oid, pg_catalog.quote_ident(n.nspname) AS schema, pg_catalog.quote_ident(c.relname) AS name, \
               c.relkind, \
               pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMP') AS temporary, \
               EXISTS (SELECT FROM pg_catalog.pg_partitioned_table p WHERE p.partrelid OPERATOR(pg_catalog.=) c.oid \
                 AND p.partdefid OPERATOR(pg_catalog.<>) 0::pg_catalog.oid) AS has_default \
             FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
             WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({})::pg_catalog.oid",
            literal(name)
        )
    }

    pub(super) fn read(row: &SimpleQueryRow) -> Relation {
        let text = |name: &str| row.get(name).unwrap_or_default().to_owned();
        Relation {
            oid: text("oid"),
            schema: text("schema"),
            name: text("name"),
            may_be_temporary: row.get("temporary") == Some("t"),
            is_partitioned: matches!(row.get("relkind"), Some("p" | "I")),
            has_default_partition: row.get("has_default") == Some("t"),
        }
    }
}

impl Current<'_> {
    /// Asks the catalog what there is of what the statement is to bring about; `text` is its text.
    pub(super) fn find(&mut self, text: &str, statement: &Outside) -> Result<Found, Error> {
        let query = match statement {
            Outside::CreateIndex { index, table } => Some(index_query(index, &self.oid_of(table)?)),
            // The server takes one only, and says so.
            Outside::DropIndex { indexes } if indexes.len() != 1 => None,
            Outside::DropIndex { indexes } => Some(drop_query(&self.oid_of(&indexes[0])?)),
            Outside::DetachPartition { table, partition } => Some(format!(
                "SELECT COALESCE((SELECT CASE WHEN inhdetachpending THEN 'pending detach' ELSE 'nothing' END \
                   FROM pg_catalog.pg_inherits WHERE inhparent = {} AND inhrelid = {}), 'done') AS found",
                self.oid_of(table)?,
                self.oid_of(partition)?,
            )),
            Outside::Other => object_query(text),
            Outside::ReindexConcurrently { .. } => None,
        };
        query.map_or(Ok(Found::Nothing), |it| self.found(&it))
    }

    fn found(&mut self, query: &str) -> Result<Found, Error> {
        let rows = self.locked.ask(query, &self.looking())?;
        let found = match rows.first().and_then(|row| row.get("found")) {
            Some("done") => Found::Done,
            Some("invalid") => Found::InvalidIndex,
            Some("in the making") => Found::IndexInTheMaking,
            Some("elsewhere") => Found::IndexElsewhere,
            Some("pending detach") => Found::PendingDetach,
            _ => Found::Nothing,
        };
        debug!("{}: the catalog says {found:?}", self.name());
        Ok(found)
    }

    fn looking(&self) -> String {
        format!("looking at the catalog for {}", self.name())
    }

    /// Finds a table or an index as the statement does.
    pub(super) fn relation(&mut self, name: &str) -> Result<Option<Relation>, Error> {
        let (query, doing) = (Relation::query(name), self.looking());
        Ok(self.locked.ask_as_set(&self.sets, &query, &doing)?.first().map(Relation::read))
    }

    /// The oid of a table or an index; [`NO_OID`] if it is not there.
    pub(super) fn oid_of(&mut self, name: &str) -> Result<String, Error> {
        Ok(self.relation(name)?.map_or(NO_OID.to_owned(), |it| it.oid))
    }

    /// Finds the index, once no other session is building it.
    pub(super) fn built_index(&mut self, index: &str, table: &str) -> Result<Found, Error> {
        let mut wait = Wait::new(self.run.signals, self.run.config.lock_wait);
        loop {
            let query = index_query(index, &self.oid_of(table)?);
            let found = self.found(&query)?;
            if found != Found::IndexInTheMaking {
                return Ok(found);
            }
            let holder = format!("another session that builds the index \"{index}\" on {table}");
            self.wait_for(holder, &mut wait)?;
        }
    }
}

/// The state of the index of that name in the schema of the table with that oid: an ordinary index (`relkind` `i`: the
/// INVALID index of a partitioned parent, `I`, waits for its parts and is not a leftover), or any index of another table.
/// It wants a `search_path` of `pg_catalog`, as all that follows does.
pub(super) fn index_query(index: &str, table: &str) -> String {
    format!(
        "SELECT CASE WHEN i.indrelid <> t.oid THEN 'elsewhere' WHEN i.indisvalid THEN 'done' \
           WHEN {} THEN 'in the making' ELSE 'invalid' END AS found \
         FROM pg_class t \
         JOIN pg_class c ON c.relnamespace = t.relnamespace AND c.relname = {} \
         JOIN pg_index i ON i.indexrelid = c.oid AND (c.relkind = 'i' OR i.indrelid <> t.oid) \
         WHERE t.oid = {table}",
        leftovers::at_work_on("t.oid"),
        literal(index),
    )
}

/// How far the dropping of the index with that oid has come. A partitioned one is never dropped concurrently, and its
/// being INVALID says nothing.
fn drop_query(oid: &str) -> String {
    format!(
        "SELECT COALESCE((SELECT CASE WHEN i.indisvalid OR c.relkind = 'I' THEN 'nothing' ELSE 'invalid' END \
           FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indexrelid = {oid}), 'done') AS found"
    )
}

/// What no relation has.
pub(super) const NO_OID: &str = "0";

/// The query that tells whether a database, a tablespace or a subscription is there that the statement creates, or gone
/// that it drops; none for other statements, which can be run again.
fn object_query(statement: &str) -> Option<String> {
    let verb = sql::verb(statement);
    let (wanted, kind) = match verb.split_once(' ')? {
        ("CREATE", kind) => ("EXISTS", kind),
        ("DROP", kind) => ("NOT EXISTS", kind),
        _ => return None,
    };
    let catalog = match kind {
        "DATABASE" => "pg_catalog.pg_database WHERE datname",
        "TABLESPACE" => "pg_catalog.pg_tablespace WHERE spcname",
        "SUBSCRIPTION" => {
            "pg_catalog.pg_subscription JOIN pg_catalog.pg_database d ON d.oid = subdbid \
             AND d.datname = pg_catalog.current_database() WHERE subname"
        }
        _ => return None,
    };
    let names = sql::identifiers(statement);
    let name = names.iter().skip(2).find(|name| !matches!(name.as_str(), "if" | "exists"))?;
    Some(format!(
        "SELECT CASE WHEN {wanted} (SELECT FROM {catalog} = {}) THEN 'done' ELSE 'nothing' END AS found",
        literal(name)
    ))
}
