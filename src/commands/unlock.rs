//! `lockstep unlock [ID]`: tells who has the lock, and removes a row whose owner is gone.
//!
//! It is never needed for our own rows: the next run takes over what a dead one left. It is for bun's, and for whoever
//! goes back to bun. Of a row of ours the guard tells whether its owner lives. Of bun's nothing tells, so a person must
//! name the row, and is told before what there is to know.

use std::time::Duration;

use log::info;

use super::run::{FirstLook, look, say_target};
use super::{Answer, Context};
use crate::config::{self, Config};
use crate::error::{Error, IS_BUNS, RECORDS_FIRST};
use crate::files;
use crate::lock::{self, Stranger, row};
use crate::migration::{Applied, History, Migration};
use crate::plan::doubt::{COLUMNS, Doubt, Trial, Verdict};
use crate::server::message::{Access, Message};
use crate::server::session::{Session, Trouble};
use crate::server::settings::{self, Settings};
use crate::server::wait::Wait;
use crate::text::terminal::paragraph;
use crate::text::words::{below, counted};

/// How long an application's transaction lasts, at most.
const SHORT_TRANSACTION: Duration = Duration::from_secs(2);

/// How often we look whether one has ended, at most.
const POLL: Duration = Duration::from_millis(250);

pub fn run(context: &Context<'_>, id: Option<i64>) -> Result<Answer, Error> {
    let config = context.config()?;
    let first = look(&config, context.signals, None)?;
    // A lock can be shown without any files; of a history that is lost sight of they tell.
    let migrations = files::read(&config.migrations_dir).unwrap_or_default();
    first.observation.refuse_if_lost(&config, &migrations)?;
    say_target(&config, &first.observation, "the migration lock");
    let text = unlock(&config, first, &migrations, id)?;
    let layout = config::layout(context.environment);
    Ok(Answer::Done(text.lines().map(|line| paragraph(line, layout)).collect()))
}

/// Shows the lock, and removes its row if the owner is provably gone, or if the row is bun's and `id` names it. Returns
/// the answer.
///
/// # Errors
///
/// [`Error::NoLock`] if the owner lives, or if that is nobody's to know and no `id` is given; [`Error::Unusable`] if `id`
/// is given and there is none.
fn unlock(
    config: &Config,
    mut first: FirstLook,
    migrations: &[Migration],
    id: Option<i64>,
) -> Result<String, Error> {
    let locks = first.observation.locks.clone();
    let locks = locks.unwrap_or_else(|| config.locks_table.setting.clone());
    let present = first.observation.lock_row;
    if let Some(id) = id.filter(|id| present != Some(*id)) {
        let present = present.map(|present| format!("; its row is {present}")).unwrap_or_default();
        return Err(Error::Unusable(format!("there is no row {id} in {locks}{present}")));
    }
    let (session, seen, wait) = (&mut first.session, &first.observation, &mut first.wait);
    let Some(row) = present else {
        return Ok(match lock::at_work(session, seen)? {
            Some(runner) => format!("there is no row in {locks}; a runner is at work: {runner}\n"),
            None => format!("the migration lock is free: there is no row in {locks}\n"),
        });
    };
    let answer = |removed: bool, whose: &str| {
        let row = format!("row {row} of {locks}, {whose}");
        if removed {
            format!("removed {row}; the migration lock is free\n")
        } else {
            format!("{row}, has just been removed by somebody else\n")
        }
    };
    if row < 0 {
        let removed = remove_ours(config, &mut first, &locks, row)?;
        first.session.close();
        return Ok(answer(removed, "of a runner that is gone"));
    }
    let (suspects, busy) = suspects(session, wait)?;
    let doubt = if busy.is_empty() {
        doubt(session, migrations, &seen.history, &first.runner)?
    } else {
        None
    };
    if id.is_none() || !busy.is_empty() {
        return Err(stays(&locks, row, &doubt, &busy, &suspects));
    }
    let count = counted(suspects.len(), "session");
    info!(
        "row {row} of {locks} is bun's; {count} of other programs are connected to this database"
    );
    for suspect in &suspects {
        info!("it may be {suspect}");
    }
    let removed = row::delete(config, session, &locks, row, wait)?;
    first.session.close();
    let answer = answer(removed, "bun's");
    Ok(match doubt {
        Some(doubt) => format!("{answer}{doubt}\n{}\n", doubt.remedy()),
        None => format!("{answer}lockstep up\n"),
    })
}

/// A row of bun's is not to be removed, or somebody is at work.
fn stays(
    locks: &str,
    id: i64,
    doubt: &Option<Doubt>,
    busy: &[String],
    suspects: &[String],
) -> Error {
    let row = format!("row {id} of {locks} {IS_BUNS}");
    if !busy.is_empty() {
        return Error::NoLock(format!(
            "{row}; it stays while these are at work:{}\n  \
             hint: end them, or when they are done: lockstep unlock {id}",
            below(busy)
        ));
    }
    let owners = match suspects {
        [] => below(["no session of another program is connected to this database now"]),
        suspects => below(suspects.iter().map(|it| format!("its owner may be {it}"))),
    };
    let doubt = below(doubt.iter().map(|it| format!("{RECORDS_FIRST}: {it}")));
    Error::NoLock(format!(
        "{row}{owners}{doubt}\n  \
         hint: if you know that no bun process is at work: lockstep unlock {id}"
    ))
}

/// Removes a row of ours if its owner is gone, which having the guard proves. Returns false if it has just gone.
fn remove_ours(
    config: &Config,
    first: &mut FirstLook,
    locks: &str,
    row: i64,
) -> Result<bool, Error> {
    let (session, seen, wait) = (&mut first.session, &first.observation, &mut first.wait);
    let Some(tables) = &seen.tables else {
        // Without a history table nobody can hold the guard, which is keyed by it.
        return row::delete(config, session, locks, row, wait);
    };
    let removed = row::remove_dead(config, session, seen, tables, row, wait)?;
    if !removed && let Some(holder) = lock::at_work(session, seen)? {
        return Err(Error::NoLock(format!(
            "row {row} of {locks} is a living runner's, and stays: {holder}"
        )));
    }
    Ok(removed)
}

/// Who may be bun, and who of them is at work: is in a transaction, and in the same one a while later. Whoever is done
/// with it meanwhile is an application's session, and no migration.
fn suspects(session: &mut Session, wait: &Wait) -> Result<(Vec<String>, Vec<String>), Error> {
    let patience = Wait::new(wait.signals(), SHORT_TRANSACTION);
    let mut seen: Option<Vec<Stranger>> = None;
    loop {
        let now = lock::strangers(session)?;
        let is_busy = |it: &&Stranger| {
            let is_same = |seen: &Stranger| seen.transaction == it.transaction;
            let was_busy = |seen: &Vec<Stranger>| seen.iter().any(is_same);
            it.transaction.is_some() && seen.as_ref().is_none_or(was_busy)
        };
        let busy: Vec<Stranger> = now.iter().filter(is_busy).cloned().collect();
        if busy.is_empty() || patience.is_over() {
            let words = |all: &[Stranger]| all.iter().map(Stranger::to_string).collect();
            return Ok((words(&now), words(&busy)));
        }
        seen = Some(busy);
        patience.pause(POLL)?;
    }
}

/// The newest record, if it is bun's: bun may have died before it ran the file, or while it did. A file that is not there
/// is no reason to keep the row.
fn doubt(
    session: &mut Session,
    migrations: &[Migration],
    history: &History,
    runner: &str,
) -> Result<Option<Doubt>, Error> {
    // A name that is no version of ours may be newer.
    let is_buns = |it: &&Applied| it.checksum.is_none() && Some(it.id) == history.newest_record;
    let Some(version) = history.applied.last().filter(is_buns).map(|it| it.version) else {
        return Ok(None);
    };
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
            let rows = answer.rows(rows);
            let rows = rows.map(|row| COLUMNS.map(|it| row.get(it).unwrap_or_default()));
            Ok(trial.verdict(rows))
        }
        Err(Trouble::Sql(cause)) => {
            session.roll_back().map_err(|trouble| trouble.while_doing(doing))?;
            Ok(Verdict::Unknown(cause.message().to_owned()))
        }
        Err(trouble) => Err(trouble.while_doing(doing)),
    }
}
