//! `lockstep unlock [ID]`: tells who has the lock, and removes a row whose owner is gone.
//!
//! It is never needed for our own rows: the next run takes over what a dead one left. It is for bun's, and for whoever
//! goes back to bun. Of a row of ours the guard tells whether its owner lives. Of bun's nothing tells, so a person must
//! name the row, and is told before what there is to know.

use std::time::Duration;

use log::info;

use super::run::{look, say_target};
use super::{Answer, Context};
use crate::config::{self, Config};
use crate::error::Error;
use crate::files;
use crate::history::{Observation, Tables};
use crate::lock::{self, Stranger, row};
use crate::migration::{Applied, History};
use crate::plan::doubt::{COLUMNS, Doubt, Trial, Verdict};
use crate::server::message::{Access, Message};
use crate::server::session::{Session, Trouble};
use crate::server::settings::{self, Settings};
use crate::server::wait::Wait;
use crate::text::terminal::paragraph;
use crate::text::words::counted;

/// How long an application's transaction lasts, at most.
const SHORT_TRANSACTION: Duration = Duration::from_secs(2);

/// How often we look whether one has ended, at most.
const POLL: Duration = Duration::from_millis(250);

pub fn run(context: &Context<'_>, id: Option<i64>) -> Result<Answer, Error> {
    let config = context.config()?;
    let mut first = look(&config, context.signals, None)?;
    // A lock can be shown without any files; of a history that is lost sight of they tell.
    let migrations = files::read(&config.migrations_dir).unwrap_or_default();
    first.observation.refuse_if_lost(&config, &migrations)?;
    let (runner, wait) = (&first.runner, &mut first.wait);
    let (session, observation) = (first.session, &first.observation);
    say_target(&config, observation, "the migration lock");
    let text = unlock(&config, session, observation, runner, id, wait)?;
    let layout = config::layout(context.environment);
    let lines = text.lines().map(|line| paragraph(line, layout));
    Ok(Answer::Done(lines.collect()))
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
    let locks = observation.locks.clone();
    let locks = locks.unwrap_or_else(|| config.locks_table.setting.clone());
    let present = observation.lock_row;
    if let Some(id) = id.filter(|id| present != Some(*id)) {
        return Err(Error::NoSuchRow { locks, id, present });
    }
    let Some(row) = present else {
        return free_row(&mut session, observation.tables.as_ref(), &locks);
    };
    if row < 0 {
        return remove_ours(config, session, observation, runner, row, wait);
    }
    let (suspects, busy) = suspects(&mut session, wait)?;
    let doubt = match busy.is_empty() {
        true => doubt(config, &mut session, &observation.history, runner)?,
        false => None,
    };
    if id.is_none() || !busy.is_empty() {
        return Err(Error::BunRow {
            locks,
            id: row,
            doubt: doubt.map(Box::new),
            busy,
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
    let answer = removed_answer(removed, &locks, row, "bun's");
    Ok(match doubt {
        Some(doubt) => format!("{answer}{doubt}\n{}\n", doubt.remedy()),
        None => format!("{answer}lockstep up\n"),
    })
}

/// Who may be bun, and who of them is at work: is in a transaction, and in the same one a while later. Whoever is done
/// with it meanwhile is an application's session, and no migration.
fn suspects(session: &mut Session, wait: &Wait) -> Result<(Vec<String>, Vec<String>), Error> {
    let patience = Wait::new(wait.signals(), SHORT_TRANSACTION);
    let mut seen: Option<Vec<Stranger>> = None;
    loop {
        let now = lock::strangers(|query| session.ask(query))?;
        let was_busy = |it: &&Stranger| match &seen {
            None => true,
            Some(seen) => seen.iter().any(|seen| seen.transaction == it.transaction),
        };
        let in_transaction = now.iter().filter(|it| it.transaction.is_some());
        let busy: Vec<Stranger> = in_transaction.filter(was_busy).cloned().collect();
        if busy.is_empty() || patience.is_over() {
            let words = |all: &[Stranger]| all.iter().map(Stranger::to_string).collect();
            return Ok((words(&now), words(&busy)));
        }
        seen = Some(busy);
        patience.pause(POLL)?;
    }
}

/// The newest record, if it is bun's: bun may have died before it ran the file, or while it did.
fn doubt(
    config: &Config,
    session: &mut Session,
    history: &History,
    runner: &str,
) -> Result<Option<Doubt>, Error> {
    // A name that is no version of ours may be newer.
    let is_buns = |it: &&Applied| it.checksum.is_none() && Some(it.id) == history.newest_record;
    let Some(version) = history.applied.last().filter(is_buns).map(|it| it.version) else {
        return Ok(None);
    };
    // A directory that is not there is no reason to keep the row.
    let migrations = files::read(&config.migrations_dir).unwrap_or_default();
    let file = migrations.iter().find(|it| it.version == version);
    let verdict = match file.map(Trial::by_part) {
        None => Verdict::Unknown("no file of it is there".to_owned()),
        Some(None) => Verdict::Unknown("its file cannot be tried".to_owned()),
        Some(Some(trial)) => try_out(session, &trial, runner)?,
    };
    Ok(Some(Doubt { version, verdict }))
}

/// Runs what is to be tried, and rolls back. It waits neither for locks nor for long statements.
fn try_out(session: &mut Session, trial: &Trial<'_>, runner: &str) -> Result<Verdict, Error> {
    let mut message = Message::begin(Access::Write, &Settings::of_trial());
    let [tried, answer] = trial.statements();
    message.add(tried);
    let rows = message.add(answer);
    message.add("ROLLBACK");
    message.extend(&settings::reset(runner));
    let doing = "trying whether a migration would run";
    match session.send(&message) {
        Ok(answer) => {
            let rows = answer.rows(rows).iter();
            let rows = rows.map(|row| COLUMNS.map(|it| row.get(it).unwrap_or_default()));
            Ok(trial.verdict(rows))
        }
        Err(Trouble::Sql(cause)) => {
            let rolled_back = session.roll_back();
            rolled_back.map_err(|trouble| trouble.while_doing(doing))?;
            Ok(Verdict::Unknown(cause.message().to_owned()))
        }
        Err(trouble) => Err(trouble.while_doing(doing)),
    }
}

/// There is no row; a runner may be about to write one.
fn free_row(session: &mut Session, tables: Option<&Tables>, locks: &str) -> Result<String, Error> {
    let holder = tables.map(|it| lock::holder(session, it)).transpose()?;
    Ok(match holder.flatten() {
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
        return Ok(removed_answer(removed, &locks, row, GONE));
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
    Ok(removed_answer(removed, &locks, row, GONE))
}

const GONE: &str = "of a runner that is gone";

fn removed_answer(removed: bool, locks: &str, row: i64, whose: &str) -> String {
    match removed {
        true => format!("removed row {row} of {locks}, {whose}; the migration lock is free\n"),
        false => format!("row {row} of {locks}, {whose}, has just been removed by somebody else\n"),
    }
}
