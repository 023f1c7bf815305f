//! What the catalog tells of what statements can name: one message, for those who plan.
//!
//! It reads the catalog only, which every role may, and takes no lock on what it tells of. Columns and functions are asked
//! for by the names that the pending files mention where they alter a table.

use std::collections::BTreeSet;

use postgres::SimpleQueryRow;

use super::types::Type;
use super::world::{Link, LinkKind};
use super::{Name, World};
use crate::error::Error;
use crate::migration::Migration;
use crate::server::message::{Access, Message};
use crate::server::session::Session;
use crate::server::settings::Settings;
use crate::sql::{self, Cursor, quote};

/// Takes what a row tells; none if that is not ours to see.
type Take = fn(&mut World, &SimpleQueryRow) -> Option<()>;

/// What is asked, in this order, and who takes the rows of the answer.
const QUESTIONS: [(&str, Take); 4] =
    [(TABLES, table), (LINKS, link), (COLUMNS, column), (FACTS, fact)];

/// Asks for all that the pending statements could mean.
pub fn read(session: &mut Session, pending: &[&Migration]) -> Result<World, Error> {
    let mentioned = mentioned(pending);
    let mut message = Message::begin(Access::Read, &Settings::default());
    let path = message.add("SELECT pg_catalog.unnest(pg_catalog.current_schemas(false)) AS schema");
    // So that each table's name comes with its schema.
    message.add("SET LOCAL search_path TO pg_catalog, pg_temp");
    let asked = QUESTIONS.map(|(query, _)| message.add(query.replace("{mentioned}", &mentioned)));
    message.add("COMMIT");
    let answer = session.send(&message);
    let answer = answer.map_err(|trouble| trouble.while_doing("reading which tables there are"))?;
    let mut world = World::default();
    for (slot, (_, take)) in asked.into_iter().zip(QUESTIONS) {
        for row in answer.rows(slot) {
            take(&mut world, row);
        }
    }
    let path = answer.rows(path).filter_map(|it| it.get("schema"));
    world.first_path = path.map(str::to_owned).collect();
    Ok(world)
}

/// The condition under which a name is one that a pending file mentions where it alters something.
fn mentioned(pending: &[&Migration]) -> String {
    let statements = pending.iter().flat_map(|it| it.statements());
    let alter = statements.filter(|text| sql::verb(text).starts_with("ALTER "));
    let mentioned: BTreeSet<String> = alter.flat_map(sql::identifiers).collect();
    let literals: Vec<String> = mentioned.iter().map(|name| quote::literal(name)).collect();
    format!("ANY (ARRAY[{}]::name[])", literals.join(", "))
}

/// The table, or its like, that the server names.
fn name(row: &SimpleQueryRow, column: &str) -> Option<Name> {
    let parts = Cursor::new(row.get(column)?).parts()?;
    let [schema, name] = parts.try_into().ok()?;
    Some(Name { schema, name })
}

fn text(row: &SimpleQueryRow, column: &str) -> Option<String> {
    row.get(column).map(str::to_owned)
}

const TABLES: &str = "SELECT c.oid::regclass AS table FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'm', 'v', 'f') \
           AND n.nspname <> 'information_schema' AND NOT starts_with(n.nspname, 'pg_')";

fn table(world: &mut World, row: &SimpleQueryRow) -> Option<()> {
    let table = name(row, "table")?;
    world.relations.entry(table).or_default().is_old = true;
    Some(())
}

const LINKS: &str = include_str!("links.sql");

fn link(world: &mut World, row: &SimpleQueryRow) -> Option<()> {
    world.links.push(Link {
        kind: match row.get("kind")? {
            "partition" => LinkKind::Partition,
            "child" => LinkKind::Child,
            "index" => LinkKind::Index,
            "not null" => LinkKind::NotNull,
            _ => LinkKind::ForeignKey,
        },
        table: name(row, "table")?,
        target: name(row, "target")?,
        name: text(row, "name")?,
        columns: vec![text(row, "column")?],
        target_columns: vec![text(row, "target_column")?],
        is_not_valid: row.get("is_valid")? == "f",
    });
    Some(())
}

const COLUMNS: &str = "SELECT c.oid::regclass AS table, attname AS column, format_type(atttypid, atttypmod) AS type \
         FROM pg_class c JOIN pg_attribute ON attrelid = c.oid WHERE relname = {mentioned} AND attname = {mentioned} \
           AND attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'p', 'f')";

fn column(world: &mut World, row: &SimpleQueryRow) -> Option<()> {
    let relation = world.relations.get_mut(&name(row, "table")?)?;
    let of = Type::read(&mut Cursor::new(row.get("type")?));
    relation.columns.insert(text(row, "column")?, of);
    Some(())
}

const FACTS: &str = include_str!("facts.sql");

fn fact(world: &mut World, row: &SimpleQueryRow) -> Option<()> {
    let name = text(row, "name")?;
    match row.get("kind")? {
        "volatile" => world.volatile.insert(name),
        "domain" => world.domains.insert(name),
        _ => world.coercible.insert((name, text(row, "target")?)),
    };
    Some(())
}
