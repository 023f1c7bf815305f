//! The tables in which other tools keep what they have applied: how they are found and read, and what follows from it.
//!
//! Only an answer that leaves no doubt becomes a version to type: what a tool holds for failed, a gap, and a record whose
//! file is not there are for a person.

use std::collections::BTreeMap;

use super::{Import, Tool, layout};
use crate::migration::Version;
use crate::sql::quote;
use crate::text::words::joined;

/// A table that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    pub tool: Tool,
    /// Qualified.
    pub table: String,
    /// Asks it what is applied: `entry` and `what`.
    pub query: String,
}

/// The names of the tables that tools keep.
pub fn names(tools: &[Tool]) -> Vec<&'static str> {
    tools.iter().map(|it| it.known()[1]).collect()
}

/// Asks the catalog for the tables that have such names: schema, name and columns.
pub fn search(tools: &[Tool]) -> String {
    let names = names(tools).into_iter().map(quote::literal);
    format!(
        "SELECT n.nspname AS schema, c.relname AS name, ' ' || string_agg(a.attname, ' ') || ' ' AS columns \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid \
         WHERE c.relname IN ({}) AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped \
         GROUP BY n.nspname, c.relname ORDER BY n.nspname, c.relname",
        joined(names, ", ")
    )
}

/// Which of these tools' table this is, if it is one.
pub fn place(tools: &[Tool], schema: &str, name: &str, columns: &str) -> Option<Place> {
    let has = |column: &str| columns.contains(&format!(" {column} "));
    let is_it = |tool: &&Tool| {
        let [_, called, column, ..] = tool.known();
        let is_other = **tool == Tool::Dbmate && has("dirty");
        called == name && has(column) && !is_other
    };
    let tool = *tools.iter().find(is_it)?;
    let [.., entry, what, rest] = tool.known();
    let quoted = quote::identifier(schema);
    Some(Place {
        tool,
        table: format!("{}.{name}", quote::bare_or_quoted(schema)),
        query: format!("SELECT {entry}::text AS entry, {what} AS what FROM {quoted}.{name} {rest}"),
    })
}

/// A row of such a table.
pub struct Record {
    pub entry: String,
    /// `applied`, `undone`, `failed`; `up to`: all up to this one, and this one; `baseline`: the same, without a file
    /// perhaps.
    pub what: String,
}

/// What the table says of the files.
#[derive(PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing is applied.
    Nothing,
    /// All up to this version, and what is behind it is not.
    UpTo(Version),
    /// It is not for us to say.
    Doubt(Vec<String>),
}

/// Judges what a tool's table says, in the order in which it was read.
pub fn judge(tool: Tool, import: &Import, records: &[Record]) -> Verdict {
    let migrations = &import.migrations;
    // Some record the names of files or directories, not their versions.
    let key = |name: &str, number: &[u64]| match tool {
        Tool::SqlMigrate | Tool::Prisma => name.to_owned(),
        _ => format!("{number:?}"),
    };
    let keys = migrations.iter().map(|it| key(&it.id, &it.number));
    let by_key: BTreeMap<String, usize> = keys.zip(0..).collect();
    let mut applied = vec![false; migrations.len()];
    let mut doubts = Vec::new();
    for record in records {
        let (entry, number) = (&record.entry, layout::numbers(&record.entry));
        let found = by_key.get(&key(entry, &number)).copied();
        match (record.what.as_str(), found) {
            ("failed", _) => doubts.push(format!("{tool} began {entry} and did not finish it")),
            ("baseline", _) => {
                let covered = migrations.iter().map(|it| it.number <= number);
                applied.iter_mut().zip(covered).for_each(|(it, is)| *it |= is);
            }
            (_, None) if record.what != "undone" => {
                doubts.push(format!("{tool} has applied {entry}, and no file here is of it"));
            }
            ("up to", Some(found)) => applied[..=found].fill(true),
            (what, Some(found)) => applied[found] = what == "applied",
            (_, None) => {}
        }
    }
    let newest = applied.iter().rposition(|it| *it);
    let covered = newest.map_or(0, |it| it + 1);
    let gaps = applied[..covered].iter().zip(migrations).filter(|(is_applied, _)| !**is_applied);
    doubts.extend(gaps.map(|(_, gap)| {
        format!("{tool} has not applied {}, and has applied what comes after it", gap.up.from)
    }));
    match (doubts.is_empty(), newest) {
        (false, _) => Verdict::Doubt(doubts),
        (true, Some(newest)) => Verdict::UpTo(migrations[newest].version),
        (true, None) => Verdict::Nothing,
    }
}
