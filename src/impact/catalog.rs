//! What the catalog tells of what statements can name: one message, for those who plan.
//!
//! It reads the catalog only, which every role may, and takes no lock on what it tells of. Columns and functions are asked
//! for by the names that the pending files mention where they alter a table.

use std::collections::{BTreeMap, BTreeSet};

use postgres::SimpleQueryRow;

use super::types::Type;
use super::world::{Check, Child, ForeignKey};
use super::{Name, World};
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
    world: World,
}

pub struct Table {
    pub name: Name,
    /// Where its rows are; none for a view, or a table with partitions.
    pub filenode: Option<String>,
}

/// Takes what a row tells; none if that is not ours to see, or has come after what it refers to was asked for.
type Take = fn(&mut Catalog, &SimpleQueryRow) -> Option<()>;

/// What is asked, in this order, and who takes the rows of the answer.
const QUESTIONS: [(&str, Take); 8] = [
    (TABLES, table),
    (INDEXES, index),
    (CHILDREN, child),
    (FOREIGN_KEYS, foreign_key),
    (COLUMNS, column),
    (DOMAINS, domain),
    (VOLATILE, volatile),
    (CASTS, cast),
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
    let path = path.map(str::to_owned).collect();
    catalog.world = catalog.world.with_search_path(path);
    Ok(catalog)
}

/// The condition under which a name is one that a pending file mentions where it alters something.
fn mentioned(pending: &[&Migration]) -> String {
    let mut mentioned = BTreeSet::new();
    for migration in pending {
        let statements = migration.script.statements.iter();
        for text in statements.map(|it| &migration.text[it.range()]) {
            if sql::verb(text).starts_with("ALTER ") {
                mentioned.extend(sql::identifiers(text));
            }
        }
    }
    let literals: Vec<String> = mentioned.iter().map(|name| quote::literal(name)).collect();
    format!("ANY (ARRAY[{}]::name[])", literals.join(", "))
}

impl Catalog {
    /// What the plan's first statement meets.
    pub fn world(&self) -> World {
        self.world.clone()
    }

    /// The name of the table whose number stands in a column.
    fn name(&self, row: &SimpleQueryRow, column: &str) -> Option<Name> {
        let table = self.tables.get(&row.get(column)?.parse().ok()?)?;
        Some(table.name.clone())
    }
}

fn text(row: &SimpleQueryRow, column: &str) -> Option<String> {
    row.get(column).map(str::to_owned)
}

fn is_true(row: &SimpleQueryRow, column: &str) -> bool {
    row.get(column) == Some("t")
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
    };
    catalog.world.tables.insert(table.name.clone());
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

const CHILDREN: &str = "SELECT i.inhrelid AS table, i.inhparent AS parent, c.relispartition AS partition \
         FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relkind IN ('r', 'p', 'f')";

fn child(catalog: &mut Catalog, row: &SimpleQueryRow) -> Option<()> {
    let child = Child {
        table: catalog.name(row, "table")?,
        parent: catalog.name(row, "parent")?,
        is_partition: is_true(row, "partition"),
    };
    catalog.world.children.push(child);
    Some(())
}

const FOREIGN_KEYS: &str = "SELECT o.conname AS name, o.conrelid AS table, o.confrelid AS target, \
           a.attname AS column, b.attname AS target_column \
         FROM pg_constraint o CROSS JOIN unnest(o.conkey, o.confkey) AS k (own, other) \
           JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.own \
           JOIN pg_attribute b ON b.attrelid = o.confrelid AND b.attnum = k.other \
         WHERE o.contype = 'f'";

fn foreign_key(catalog: &mut Catalog, row: &SimpleQueryRow) -> Option<()> {
    let key = ForeignKey {
        name: text(row, "name")?,
        table: catalog.name(row, "table")?,
        column: text(row, "column")?,
        target: catalog.name(row, "target")?,
        target_column: text(row, "target_column"),
    };
    catalog.world.foreign_keys.push(key);
    Some(())
}

const COLUMNS: &str = "SELECT a.attrelid AS table, a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type, \
           a.attnotnull AS not_null, o.conname AS check, o.convalidated AS valid \
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid LEFT JOIN pg_constraint o \
           ON o.conrelid = c.oid AND o.contype = 'c' AND o.conkey = ARRAY[a.attnum] \
             AND pg_get_expr(o.conbin, o.conrelid) = format('(%I IS NOT NULL)', a.attname) \
         WHERE c.relname = {mentioned} AND a.attname = {mentioned} AND a.attnum > 0 AND NOT a.attisdropped \
           AND c.relkind IN ('r', 'p', 'f')";

fn column(catalog: &mut Catalog, row: &SimpleQueryRow) -> Option<()> {
    let (table, column) = (catalog.name(row, "table")?, text(row, "column")?);
    // A column that is NOT NULL needs no look at its rows either.
    let not_null = is_true(row, "not_null").then(|| (String::new(), true));
    let check = text(row, "check").map(|name| (name, is_true(row, "valid")));
    for (name, is_valid) in not_null.into_iter().chain(check) {
        catalog.world.checks.push(Check {
            name,
            table: table.clone(),
            column: column.clone(),
            is_valid,
        });
    }
    let found = Type::read(&mut Cursor::new(row.get("type")?))?;
    let columns = catalog.world.columns.entry(table).or_default();
    columns.insert(column, found);
    Some(())
}

const DOMAINS: &str = "SELECT t.typname AS name, t.typnotnull OR EXISTS (SELECT FROM pg_constraint o WHERE o.contypid = t.oid) \
           OR EXISTS (SELECT FROM pg_type b WHERE b.oid = t.typbasetype AND b.typtype = 'd') AS checked \
         FROM pg_type t WHERE t.typtype = 'd'";

fn domain(catalog: &mut Catalog, row: &SimpleQueryRow) -> Option<()> {
    let (name, is_checked) = (text(row, "name")?, is_true(row, "checked"));
    catalog.world.domains.insert(name, is_checked);
    Some(())
}

const VOLATILE: &str = "SELECT DISTINCT proname AS name FROM pg_proc WHERE provolatile = 'v' AND proname = {mentioned}";

fn volatile(catalog: &mut Catalog, row: &SimpleQueryRow) -> Option<()> {
    catalog.world.volatile.insert(text(row, "name")?);
    Some(())
}

const CASTS: &str = "SELECT format_type(castsource, NULL) AS source, format_type(casttarget, NULL) AS target \
         FROM pg_cast WHERE castmethod = 'b'";

fn cast(catalog: &mut Catalog, row: &SimpleQueryRow) -> Option<()> {
    let pair = (text(row, "source")?, text(row, "target")?);
    catalog.world.coercible.insert(pair);
    Some(())
}
