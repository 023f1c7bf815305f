//! What tables, views and indexes the database has: one question, for those who plan.
//!
//! It reads the catalog only, which every role may, and takes no lock on what it tells of.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;
use crate::impact::{Name, World};
use crate::server::message::{Access, Message};
use crate::server::session::Session;
use crate::server::settings::Settings;

pub struct Catalog {
    /// The schemas that the role's `search_path` leads to.
    pub search_path: Vec<String>,
    pub relations: BTreeMap<u32, Relation>,
    /// Domains with constraints; one that is made of another is taken for such a one.
    pub checked_domains: BTreeSet<String>,
    /// What has partitions or children.
    parents: BTreeSet<u32>,
}

pub struct Relation {
    pub name: Name,
    /// Where its rows are; none for a view, or a table with partitions.
    pub filenode: Option<String>,
    /// Of an index: its table.
    table: Option<u32>,
}

/// Asks for all that the role's statements could mean.
pub fn read(session: &mut Session) -> Result<Catalog, Error> {
    let mut message = Message::begin(Access::Read, &Settings::default());
    let schemas =
        message.add("SELECT pg_catalog.unnest(pg_catalog.current_schemas(false)) AS schema");
    message.add("SET LOCAL search_path TO pg_catalog, pg_temp");
    let relations = message.add(
        "SELECT c.oid, n.nspname AS schema, c.relname AS name, i.indrelid AS table, \
           CASE WHEN c.relkind IN ('r', 'm') THEN pg_relation_filenode(c.oid) END AS filenode \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_index i ON i.indexrelid = c.oid \
         WHERE c.relkind IN ('r', 'p', 'm', 'v', 'f', 'i', 'I') \
           AND n.nspname <> 'information_schema' AND NOT starts_with(n.nspname, 'pg_')",
    );
    let domains = message.add(
        "SELECT t.typname AS name FROM pg_type t WHERE t.typtype = 'd' AND (t.typnotnull \
           OR EXISTS (SELECT FROM pg_constraint o WHERE o.contypid = t.oid) \
           OR EXISTS (SELECT FROM pg_type b WHERE b.oid = t.typbasetype AND b.typtype = 'd'))",
    );
    let parents = message.add("SELECT DISTINCT inhparent AS oid FROM pg_inherits");
    message.add("COMMIT");
    let answer = session
        .send(&message)
        .map_err(|trouble| trouble.while_doing("reading which tables there are"))?;
    let schemas = answer
        .rows(schemas)
        .iter()
        .filter_map(|row| row.get("schema").map(str::to_owned));
    let relations = answer.rows(relations).iter().filter_map(|row| {
        let text = |column: &str| row.get(column).map(str::to_owned);
        let name = Name {
            schema: text("schema")?,
            name: text("name")?,
        };
        let relation = Relation {
            name,
            filenode: text("filenode"),
            table: row.get("table").and_then(|oid| oid.parse().ok()),
        };
        Some((row.get("oid")?.parse().ok()?, relation))
    });
    let domains = answer
        .rows(domains)
        .iter()
        .filter_map(|row| row.get("name").map(str::to_owned));
    let parents = answer
        .rows(parents)
        .iter()
        .filter_map(|row| row.get("oid")?.parse().ok());
    Ok(Catalog {
        search_path: schemas.collect(),
        relations: relations.collect(),
        checked_domains: domains.collect(),
        parents: parents.collect(),
    })
}

impl Relation {
    /// Returns true if and only if it is no index.
    pub fn is_table(&self) -> bool {
        self.table.is_none()
    }
}

impl Catalog {
    pub fn world(&self) -> World {
        let (mut tables, mut indexes) = (BTreeSet::new(), BTreeMap::new());
        for relation in self.relations.values() {
            match relation.table.map(|oid| self.relations.get(&oid)) {
                Some(Some(table)) => {
                    drop(indexes.insert(relation.name.clone(), table.name.clone()))
                }
                // Its table has come after the question, or is not ours to see.
                Some(None) => {}
                None => drop(tables.insert(relation.name.clone())),
            }
        }
        let parents = self
            .parents
            .iter()
            .filter_map(|oid| self.relations.get(oid));
        let parents = parents.map(|relation| relation.name.clone());
        World::new(
            self.search_path.clone(),
            tables,
            indexes,
            self.checked_domains.clone(),
        )
        .with_parents(parents.collect())
    }
}
