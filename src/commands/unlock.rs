//! `lockstep unlock [ID]`: tells who has the lock, and removes a row whose owner is gone.
//!
//! It is never needed for our own rows: the next run takes over what a dead one left. It is for bun's, and for whoever
//! goes back to bun. Of a row of ours the guard tells whether its owner lives. Of bun's nothing tells, so a person must
//! name the row, and is told before what there is to know.

use log::info;

use super::run::look;
use super::{Answer, Context};
use crate::config::Config;
use crate::error::Error;
use crate::history::{Observation, Tables};
use crate::lock::{self, row};
use crate::server::session::Session;
use crate::server::wait::Wait;
use crate::text::words::counted;

pub fn run(context: &Context<'_>, id: Option<i64>) -> Result<Answer, Error> {
    let config = context.config()?;
    let mut first = look(&config, context.signals, None)?;
    let (runner, wait) = (&first.runner, &mut first.wait);
    let (session, observation) = (first.session, &first.observation);
    unlock(&config, session, observation, runner, id, wait).map(Answer::Done)
}

/// Shows the lock, and removes its row if the owner is provably gone, or if the row is bun's and `id` names it. Returns
/// the answer.
///
/// # Errors
///
/// [`Error::Held`] if the owner lives; [`Error::BunRow`] if that is nobody's to know and no `id` is given;
/// [`Error::NoSuchRow`] if `id` is given and there is none.
fn unlock(
    config: &Config,
    mut session: Session,
    observation: &Observation,
    runner: &str,
    id: Option<i64>,
    wait: &mut Wait,
) -> Result<String, Error> {
    let locks = observation
        .locks
        .clone()
        .unwrap_or_else(|| config.locks_table.setting.clone());
    let Some(row) = observation.lock_row else {
        return match (id, &observation.tables) {
            (Some(id), _) => Err(Error::NoSuchRow {
                locks,
                id,
                present: None,
            }),
            (None, None) => Ok(format!(
                "the migration lock is free: there is no row in {locks}\n"
            )),
            (None, Some(tables)) => free_row(&mut session, tables, &locks),
        };
    };
    if let Some(id) = id.filter(|&id| id != row) {
        return Err(Error::NoSuchRow {
            locks,
            id,
            present: Some(row),
        });
    }
    if row < 0 {
        return remove_ours(config, session, observation, runner, row, wait);
    }
    let suspects = lock::other_sessions(&mut session)?;
    let newest = observation.history.newest();
    if id.is_none() {
        return Err(Error::BunRow {
            locks,
            id: row,
            newest,
            suspects,
        });
    }
    let count = counted(suspects.len(), "session");
    info!(
        "row {row} of {locks} is bun's; {count} of other programs are connected to this database"
    );
    suspects
        .iter()
        .for_each(|suspect| info!("it may be {suspect}"));
    let removed = row::delete(config, &mut session, &locks, row, wait)?;
    session.close();
    removed_answer(removed, &locks, row, "bun's")
}

/// There is no row; a runner may be about to write one.
fn free_row(session: &mut Session, tables: &Tables, locks: &str) -> Result<String, Error> {
    let holder = lock::holder(session, tables)?;
    Ok(match holder {
        Some(holder) => format!("there is no row in {locks}; a runner is at work: {holder}\n"),
        None => format!("the migration lock is free: there is no row in {locks}\n"),
    })
}

/// Removes a row of ours if its owner is gone, which having the guard proves.
fn remove_ours(
    config: &Config,
    mut session: Session,
    observation: &Observation,
    runner: &str,
    row: i64,
    wait: &mut Wait,
) -> Result<String, Error> {
    let locks = observation.locks.clone().unwrap_or_default();
    let Some(tables) = &observation.tables else {
        // Without a history table nobody can hold the guard, which is keyed by it.
        let removed = row::delete(config, &mut session, &locks, row, wait)?;
        return removed_answer(removed, &locks, row, "of a runner that is gone");
    };
    let removed = row::remove_dead(config, &mut session, observation, tables, runner, row, wait)?;
    if !removed && let Some(holder) = lock::holder(&mut session, tables)? {
        return Err(Error::Held {
            locks,
            id: row,
            holder: holder.to_string(),
        });
    }
    session.close();
    removed_answer(removed, &locks, row, "of a runner that is gone")
}

fn removed_answer(removed: bool, locks: &str, row: i64, whose: &str) -> Result<String, Error> {
    Ok(match removed {
        true => format!("removed row {row} of {locks}, {whose}; the migration lock is free\n"),
        false => format!("row {row} of {locks}, {whose}, has just been removed by somebody else\n"),
    })
}
