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
use crate::server::message::{Access, Message, Slot};
use crate::server::session::Session;
use crate::server::settings::Settings;
use crate::sql::{self, Cursor, quote};

pub struct Catalog {
    pub relations: BTreeMap<u32, Relation>,
    world: World,
}

pub struct Relation {
    pub name: Name,
    /// Where its rows are; none for a view, or a table with partitions.
    pub filenode: Option<String>,
    /// Of an index: its table.
    table: Option<u32>,
}

/// Asks for all that the pending statements could mean.
pub fn read(session: &mut Session, pending: &[&Migration]) -> Result<Catalog, Error> {
    let question = Question::about(pending);
    let answer = session
        .send(&question.message)
        .map_err(|trouble| trouble.while_doing("reading which tables there are"))?;
    let rows = |of: Slot| answer.rows(of);
    let relations: BTreeMap<u32, Relation> = rows(question.relations)
        .iter()
        .filter_map(relation)
        .collect();
    let mut world = World::default();
    for relation in relations.values() {
        match relation.table.map(|oid| relations.get(&oid)) {
            Some(Some(table)) => {
                let (index, table) = (relation.name.clone(), table.name.clone());
                world.indexes.insert(index, table);
            }
            // Its table has come after the question, or is not ours to see.
            Some(None) => {}
            None => drop(world.tables.insert(relation.name.clone())),
        }
    }
    let name = |row: &SimpleQueryRow, column: &str| {
        let oid = row.get(column)?.parse().ok()?;
        relations.get(&oid).map(|relation| relation.name.clone())
    };
    let is_true = |row: &SimpleQueryRow, column: &str| row.get(column) == Some("t");
    world
        .children
        .extend(rows(question.children).iter().filter_map(|row| {
            Some(Child {
                table: name(row, "table")?,
                parent: name(row, "parent")?,
                is_partition: is_true(row, "partition"),
            })
        }));
    for row in rows(question.foreign_keys) {
        let (Some(table), Some(target)) = (name(row, "table"), name(row, "target")) else {
            continue;
        };
        let (column, target_column) = (text(row, "column"), text(row, "target_column"));
        let (key, keys) = (text(row, "name"), &mut world.foreign_keys);
        match keys.last_mut() {
            Some(last) if last.name == key && last.table == table => {
                last.columns.insert(column);
                last.target_columns.insert(target_column);
            }
            _ => keys.push(ForeignKey {
                name: key,
                table,
                columns: BTreeSet::from([column]),
                target,
                target_columns: BTreeSet::from([target_column]),
            }),
        }
    }
    for row in rows(question.columns) {
        let Some(table) = name(row, "table") else {
            continue;
        };
        let column = text(row, "column");
        if let Some(found) = Type::read(&mut Cursor::new(&text(row, "type"))) {
            let columns = world.columns.entry(table.clone()).or_default();
            columns.insert(column.clone(), found);
        }
        // A column that is NOT NULL needs no look at its rows either.
        let not_null = is_true(row, "not_null").then_some(("", true));
        let check = row.get("check").map(|name| (name, is_true(row, "valid")));
        for (name, is_valid) in not_null.into_iter().chain(check) {
            world.checks.push(Check {
                name: name.to_owned(),
                table: table.clone(),
                column: column.clone(),
                is_valid,
            });
        }
    }
    let pairs = |of: Slot, flag: &'static str| {
        let rows = rows(of).iter();
        rows.map(move |row| (text(row, "name"), row.get(flag) == Some("t")))
    };
    world.domains = pairs(question.domains, "checked").collect();
    world.volatile = pairs(question.volatile, "all").collect();
    let types = rows(question.casts).iter();
    world.coercible = types
        .map(|row| (text(row, "source"), text(row, "target")))
        .collect();
    let schemas = rows(question.schemas)
        .iter()
        .map(|row| text(row, "schema"))
        .collect();
    let world = world.with_search_path(schemas);
    Ok(Catalog { relations, world })
}

/// What is asked, and where in the answer is what.
struct Question {
    message: Message,
    schemas: Slot,
    relations: Slot,
    children: Slot,
    foreign_keys: Slot,
    columns: Slot,
    domains: Slot,
    volatile: Slot,
    casts: Slot,
}

impl Question {
    fn about(pending: &[&Migration]) -> Question {
        let mentioned = mentioned(pending);
        let mut message = Message::begin(Access::Read, &Settings::default());
        let schemas = message.add(SCHEMAS);
        message.add("SET LOCAL search_path TO pg_catalog, pg_temp");
        let relations = message.add(RELATIONS);
        let children = message.add(CHILDREN);
        let foreign_keys = message.add(FOREIGN_KEYS);
        let columns = message.add(format!(
            "SELECT a.attrelid AS table, a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type, \
           a.attnotnull AS not_null, o.conname AS check, o.convalidated AS valid \
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid LEFT JOIN pg_constraint o \
           ON o.conrelid = c.oid AND o.contype = 'c' AND o.conkey = ARRAY[a.attnum] \
             AND pg_get_expr(o.conbin, o.conrelid) = format('(%I IS NOT NULL)', a.attname) \
         WHERE c.relname = {mentioned} AND a.attname = {mentioned} AND a.attnum > 0 AND NOT a.attisdropped \
           AND c.relkind IN ('r', 'p', 'f')"
        ));
        let domains = message.add(DOMAINS);
        let volatile = message.add(format!(
            "SELECT p.proname AS name, bool_and(p.provolatile = 'v') AS all FROM pg_proc p \
         WHERE p.proname = {mentioned} GROUP BY p.proname HAVING bool_or(p.provolatile = 'v')"
        ));
        let casts = message.add(CASTS);
        message.add("COMMIT");
        Question {
            message,
            schemas,
            relations,
            children,
            foreign_keys,
            columns,
            domains,
            volatile,
            casts,
        }
    }
}

const SCHEMAS: &str = "SELECT pg_catalog.unnest(pg_catalog.current_schemas(false)) AS schema";
const RELATIONS: &str = "SELECT c.oid, n.nspname AS schema, c.relname AS name, i.indrelid AS table, \
           CASE WHEN c.relkind IN ('r', 'm') THEN pg_relation_filenode(c.oid) END AS filenode \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_index i ON i.indexrelid = c.oid \
         WHERE c.relkind IN ('r', 'p', 'm', 'v', 'f', 'i', 'I') \
           AND n.nspname <> 'information_schema' AND NOT starts_with(n.nspname, 'pg_')";
const CHILDREN: &str = "SELECT i.inhrelid AS table, i.inhparent AS parent, c.relispartition AS partition \
         FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relkind IN ('r', 'p', 'f')";
const FOREIGN_KEYS: &str = "SELECT o.conname AS name, o.conrelid AS table, o.confrelid AS target, \
           a.attname AS column, b.attname AS target_column \
         FROM pg_constraint o CROSS JOIN unnest(o.conkey, o.confkey) AS k (own, other) \
           JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.own \
           JOIN pg_attribute b ON b.attrelid = o.confrelid AND b.attnum = k.other \
         WHERE o.contype = 'f' ORDER BY o.oid";
const DOMAINS: &str = "SELECT t.typname AS name, t.typnotnull OR EXISTS (SELECT FROM pg_constraint o WHERE o.contypid = t.oid) \
           OR EXISTS (SELECT FROM pg_type b WHERE b.oid = t.typbasetype AND b.typtype = 'd') AS checked \
         FROM pg_type t WHERE t.typtype = 'd'";
const CASTS: &str = "SELECT format_type(castsource, NULL) AS source, format_type(casttarget, NULL) AS target \
         FROM pg_cast WHERE castmethod = 'b'";

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

fn text(row: &SimpleQueryRow, column: &str) -> String {
    row.get(column).unwrap_or_default().to_owned()
}

fn relation(row: &SimpleQueryRow) -> Option<(u32, Relation)> {
    let relation = Relation {
        name: Name::new(row.get("schema")?, row.get("name")?),
        filenode: row.get("filenode").map(str::to_owned),
        table: row.get("table").and_then(|oid| oid.parse().ok()),
    };
    Some((row.get("oid")?.parse().ok()?, relation))
}

impl Relation {
    /// Returns true if and only if it is no index.
    pub fn is_table(&self) -> bool {
        self.table.is_none()
    }
}

impl Catalog {
    /// What the plan's first statement meets.
    pub fn world(&self) -> World {
        self.world.clone()
    }
}
