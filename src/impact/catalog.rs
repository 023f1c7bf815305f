//! What the catalog tells of what statements can name: one message, for those who plan.
//!
//! It reads the catalog only, which every role may, and takes no lock on what it tells of. Columns and functions are asked
//! for by the names that the pending files mention where they alter a table.

use std::collections::{BTreeMap, BTreeSet};

use postgres::SimpleQueryRow;

use super::types::Type;
use super::world::{Link, LinkKind, Relation};
use super::{Mode, Name, World};
use crate::error::Error;
use crate::migration::Migration;
use crate::server::message::{Access, Message};
use crate::server::session::Session;
use crate::server::settings::Settings;
use crate::sql::{self, Cursor, quote};

#[derive(Default)]
pub struct Catalog {
    /// Tables and views by their numbers.
    pub tables: BTreeMap<u32, Table>,
    /// What the plan's first statement meets.
    pub world: World,
}

#[derive(Clone)]
pub struct Table {
    pub name: Name,
    /// Where its rows are; none for a view, or a table with partitions.
    pub filenode: Option<String>,
    /// The strongest lock that we have on it: none before a rehearsal.
    pub mode: Option<Mode>,
}

/// Takes what a row tells; none if that is not ours to see, or has come after what it refers to was asked for.
type Take = fn(&mut Catalog, &SimpleQueryRow) -> Option<()>;

/// What is asked, in this order, and who takes the rows of the answer.
const QUESTIONS: [(&str, Take); 5] = [
    (TABLES, table),
    (INDEXES, index),
    (LINKS, link),
    (COLUMNS, column),
    (FACTS, fact),
];

/// Asks for all that the pending statements could mean.
pub fn read(session: &mut Session, pending: &[&Migration]) -> Result<Catalog, Error> {
    let mentioned = mentioned(pending);
    let mut message = Message::begin(Access::Read, &Settings::default());
    let path = message.add("SELECT pg_catalog.unnest(pg_catalog.current_schemas(false)) AS schema");
    message.add("SET LOCAL search_path TO pg_catalog, pg_temp");
    let asked = QUESTIONS.map(|(query, _)| message.add(query.replace("{mentioned}", &mentioned)));
    message.add("COMMIT");
    let answer = session
        .send(&message)
        .map_err(|trouble| trouble.while_doing("reading which tables there are"))?;
    let mut catalog = Catalog::default();
    for (slot, (_, take)) in asked.into_iter().zip(QUESTIONS) {
        for row in answer.rows(slot) {
            take(&mut catalog, row);
        }
    }
    let path = answer.rows(path).iter().filter_map(|it| it.get("schema"));
    catalog.world.first_path = path.map(str::to_owned).collect();
    Ok(catalog)
}

/// The condition under which a name is one that a pending file mentions where it alters something.
fn mentioned(pending: &[&Migration]) -> String {
    let mut mentioned = BTreeSet::new();
    for migration in pending {
        for text in migration.statements() {
            if sql::verb(text).starts_with("ALTER ") {
                mentioned.extend(sql::identifiers(text));
            }
        }
    }
    let literals: Vec<String> = mentioned.iter().map(|name| quote::literal(name)).collect();
    format!("ANY (ARRAY[{}]::name[])", literals.join(", "))
}

impl Catalog {
    /// The name of the table whose number stands in a column.
    fn name(&self, row: &SimpleQueryRow, column: &str) -> Option<Name> {
        let table = self.tables.get(&row.get(column)?.parse().ok()?)?;
        Some(table.name.clone())
    }
}

fn text(row: &SimpleQueryRow, column: &str) -> Option<String> {
    row.get(column).map(str::to_owned)
}

const TABLES: &str = "SELECT c.oid, n.nspname AS schema, c.relname AS name, \
           CASE WHEN c.relkind IN ('r', 'm') THEN pg_relation_filenode(c.oid) END AS filenode \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'm', 'v', 'f') \
           AND n.nspname <> 'information_schema' AND NOT starts_with(n.nspname, 'pg_')";

fn table(catalog: &mut Catalog, row: &SimpleQueryRow) -> Option<()> {
    let table = Table {
        name: Name::new(row.get("schema")?, row.get("name")?),
        filenode: text(row, "filenode"),
        mode: None,
    };
    let relation = Relation {
        is_old: true,
        ..Relation::default()
    };
    catalog.world.relations.insert(table.name.clone(), relation);
    catalog.tables.insert(row.get("oid")?.parse().ok()?, table);
    Some(())
}

const INDEXES: &str = "SELECT c.relname AS name, i.indrelid AS table \
         FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid";

fn index(catalog: &mut Catalog, row: &SimpleQueryRow) -> Option<()> {
    let table = catalog.name(row, "table")?;
    let index = Name::new(&table.schema, row.get("name")?);
    catalog.world.indexes.insert(index, table);
    Some(())
}

const LINKS: &str = "SELECT CASE WHEN c.relispartition THEN 'partition' ELSE 'child' END AS kind, \
           i.inhrelid AS table, i.inhparent AS target, '' AS name, '' AS column, '' AS target_column \
         FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relkind IN ('r', 'p', 'f') \
         UNION ALL SELECT 'key', o.conrelid, o.confrelid, o.conname, a.attname, b.attname \
         FROM pg_constraint o CROSS JOIN unnest(o.conkey, o.confkey) AS k (own, other) \
           JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.own \
           JOIN pg_attribute b ON b.attrelid = o.confrelid AND b.attnum = k.other \
         WHERE o.contype = 'f'";

fn link(catalog: &mut Catalog, row: &SimpleQueryRow) -> Option<()> {
    let link = Link {
        kind: match row.get("kind")? {
            "partition" => LinkKind::Partition,
            "child" => LinkKind::Child,
            _ => LinkKind::ForeignKey,
        },
        table: catalog.name(row, "table")?,
        target: catalog.name(row, "target")?,
        name: text(row, "name")?,
        columns: vec![text(row, "column")?],
        target_columns: vec![text(row, "target_column")?],
    };
    catalog.world.links.push(link);
    Some(())
}

const COLUMNS: &str = "SELECT a.attrelid AS table, a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type, \
           CASE WHEN a.attnotnull THEN '' ELSE o.conname END AS proof, a.attnotnull OR o.convalidated AS valid \
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid LEFT JOIN pg_constraint o \
           ON o.conrelid = c.oid AND o.contype = 'c' AND o.conkey = ARRAY[a.attnum] \
             AND pg_get_expr(o.conbin, o.conrelid) = format('(%I IS NOT NULL)', a.attname) \
         WHERE c.relname = {mentioned} AND a.attname = {mentioned} AND a.attnum > 0 AND NOT a.attisdropped \
           AND c.relkind IN ('r', 'p', 'f')";

fn column(catalog: &mut Catalog, row: &SimpleQueryRow) -> Option<()> {
    let table = catalog.name(row, "table")?;
    let column = catalog.world.column(&table, row.get("column")?)?;
    column.of = Type::read(&mut Cursor::new(row.get("type")?));
    let proof = text(row, "proof");
    let proof = proof.map(|name| (name, row.get("valid") == Some("t")));
    column.proofs.extend(proof);
    Some(())
}

const FACTS: &str = "SELECT 'volatile' AS kind, proname AS name, '' AS target FROM pg_proc \
           WHERE provolatile = 'v' AND proname = {mentioned} \
         UNION ALL SELECT 'volatile', t.typname, '' FROM pg_type t WHERE t.typtype = 'd' AND (t.typnotnull \
           OR EXISTS (SELECT FROM pg_constraint o WHERE o.contypid = t.oid) \
           OR EXISTS (SELECT FROM pg_type b WHERE b.oid = t.typbasetype AND b.typtype = 'd')) \
         UNION ALL SELECT 'domain', typname, '' FROM pg_type WHERE typtype = 'd' \
         UNION ALL SELECT 'cast', format_type(castsource, NULL), format_type(casttarget, NULL) \
           FROM pg_cast WHERE castmethod = 'b' \
         UNION ALL SELECT 'cast', format_type(t.typbasetype, NULL), t.typname FROM pg_type t WHERE t.typtype = 'd' \
           AND t.typtypmod = -1 AND NOT t.typnotnull AND NOT EXISTS (SELECT FROM pg_constraint o WHERE o.contypid = t.oid)";

fn fact(catalog: &mut Catalog, row: &SimpleQueryRow) -> Option<()> {
    let (world, name) = (&mut catalog.world, text(row, "name")?);
    match row.get("kind")? {
        "volatile" => world.volatile.insert(name),
        "domain" => world.domains.insert(name),
        _ => world.coercible.insert((name, text(row, "target")?)),
    };
    Some(())
}
