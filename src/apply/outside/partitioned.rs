//! What the server refuses of tables with partitions, which only the catalog knows: found before it runs.
//!
//! What stands in a pending file is looked for before anything runs, in the catalog, or in the pending statement that makes
//! it; but not if something else that is pending before it names the table, and may yet make it another one. So each
//! statement outside a transaction is looked at again when its turn comes.

use std::collections::BTreeSet;

use super::Current;
use super::find::Relation;
use crate::error::Error;
use crate::lock::fence::Fault;
use crate::migration::Migration;
use crate::plan;
use crate::plan::refusal::Refusal;
use crate::server::session::Session;
use crate::sql::{self, Kind, ObstacleKind, Outside, Partitioned, Parts, Statement, sqlstate};

/// Refuses what the server would.
///
/// # Errors
///
/// [`Error::Refused`]; what asking the catalog meets.
pub fn refuse(session: &mut Session, pending: &[&Migration]) -> Result<(), Error> {
    let all =
        || pending.iter().flat_map(|file| file.script.statements.iter().map(move |it| (*file, it)));
    if !all().any(|(file, statement)| !asked(file, statement).is_empty()) {
        return Ok(());
    }
    let (mut named_before, mut made) = (BTreeSet::new(), BTreeSet::new());
    let mut obstructions = Vec::new();
    for (file, statement) in all() {
        let doing = format!("looking at the catalog for {}", file.file_name());
        let mut is_refused_now = |what, name: &str| -> Result<bool, Error> {
            let rows = session.ask_as_set(&[], &Relation::query(name), &doing)?;
            Ok(rows.iter().any(|it| is_refused(what, &Relation::read(it))))
        };
        for (what, name) in asked(file, statement) {
            let is_built = matches!(what, Partitioned::Build | Partitioned::Rebuild);
            let is_made = made.contains(&sql::identifiers(&name)) && !path_is_set(&named_before);
            let is_known = !may_change(&name, &named_before);
            if is_built && is_made || is_known && is_refused_now(what, &name)? {
                let kind = ObstacleKind::Partitioned(what, name);
                obstructions.push(plan::obstruction(file, statement.range().start, kind));
            }
        }
        if statement.kind == Kind::Plain {
            let text = &file.text[statement.range()];
            let names = sql::identifiers(text);
            let verb = sql::verb(text);
            if verb == "DO" || verb == "CALL" {
                // Nobody knows what it drops.
                made.clear();
            }
            if verb.starts_with("DROP ") || names.iter().any(|it| it == "rename") {
                made.retain(|it: &Parts| it.iter().all(|part| !names.contains(part)));
            }
            made.extend(sql::created_partitioned(text));
            named_before.extend(names);
        }
    }
    if obstructions.is_empty() {
        Ok(())
    } else {
        Err(Error::Refused(Refusal { divergences: Vec::new(), obstructions }))
    }
}

/// What a statement names that may be partitioned, and then is refused.
fn asked(file: &Migration, statement: &Statement) -> Vec<(Partitioned, String)> {
    let shares_transaction = file.script.statements.len() > 1 && !file.script.no_transaction;
    match &statement.kind {
        Kind::Outside(what) => asked_outside(what),
        Kind::MaybeOutside if shares_transaction => {
            let name = sql::rebuilt(&file.text[statement.range()]).into_iter();
            name.map(|it| (Partitioned::Rebuild, it)).collect()
        }
        _ => Vec::new(),
    }
}

fn asked_outside(statement: &Outside) -> Vec<(Partitioned, String)> {
    match statement {
        Outside::CreateIndex { table, .. } => vec![(Partitioned::Build, table.clone())],
        Outside::DetachPartition { table, .. } => vec![(Partitioned::Detach, table.clone())],
        Outside::DropIndex { indexes } => {
            indexes.iter().cloned().map(|it| (Partitioned::Drop, it)).collect()
        }
        Outside::ReindexConcurrently { .. } | Outside::Other => Vec::new(),
    }
}

fn is_refused(what: Partitioned, found: &Relation) -> bool {
    match what {
        Partitioned::Detach => found.has_default_partition,
        Partitioned::Build | Partitioned::Drop | Partitioned::Rebuild => found.is_partitioned,
    }
}

/// Whether statements that name all this may make the name another table's.
fn may_change(name: &str, named: &BTreeSet<String>) -> bool {
    let parts = sql::identifiers(name);
    parts.last().is_none_or(|it| named.contains(it)) || parts.len() == 1 && path_is_set(named)
}

fn path_is_set(named: &BTreeSet<String>) -> bool {
    named.contains("search_path") || named.contains("set_config")
}

impl Current<'_> {
    /// Refuses a statement outside a transaction whose turn has come.
    pub(super) fn refuse_partitioned(&mut self, statement: &Outside) -> Result<(), Fault> {
        for (what, name) in asked_outside(statement) {
            if self.relation(&name)?.is_some_and(|it| is_refused(what, &it)) {
                let message = ObstacleKind::Partitioned(what, name).to_string();
                return Err(self.refuse(sqlstate::FEATURE_NOT_SUPPORTED, message, None, None));
            }
        }
        Ok(())
    }
}
