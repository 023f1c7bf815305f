//! `lockstep down [N]`: rolls back the newest group, or the newest N migrations, by their down files.
//!
//! It is `up` in reverse, under the same lock: look, refuse, take the lock, look again, run. What differs is that a
//! second `down` is not the same as the first one again, so it is chosen once what is to go: see [`crate::plan::rollback`].

use log::info;

use super::run::{self, FirstLook, Held, Outcome, lacking, refuse_what_cannot_be_written_to};
use super::run::{under_lock, warn_of_foreign};
use super::{Answer, Context};
use crate::apply;
use crate::config::Config;
use crate::error::Error;
use crate::files::{self, Downs};
use crate::history::{self, Observation};
use crate::lock::Locked;
use crate::migration::{Migration, Version};
use crate::plan::rollback::{Chosen, Rollback};
use crate::text::words::counted;

/// The files of both ways.
struct Files {
    migrations: Vec<Migration>,
    downs: Downs,
}

pub fn run(context: &Context<'_>, which: Rollback) -> Result<Answer, Error> {
    let config = context.config()?;
    let (migrations, downs) =
        files::read_with_downs(&config.migrations_dir).map_err(Error::Files)?;
    let files = Files { migrations, downs };
    let mut chosen = None;
    run::until_settled(&config, context.signals, |first| {
        attempt(&config, &files, which, &mut chosen, first)
    })?;
    Ok(Answer::Logged)
}

/// Rolls back what `chosen` says; the first look chooses.
///
/// # Errors
///
/// [`Error::NoWayBack`] before anything runs; what a run of `up` may meet; [`Error::NewerApplied`].
fn attempt(
    config: &Config,
    files: &Files,
    which: Rollback,
    chosen: &mut Option<Chosen>,
    mut first: FirstLook,
) -> Result<Outcome, Error> {
    let chosen: &Chosen = loop {
        let choice = match chosen.take() {
            Some(choice) => choice,
            None => Chosen::among(&first.observation.history, which)?,
        };
        if !choice.is_empty() {
            break chosen.insert(choice);
        }
        if first.observation.bun_row().is_none() {
            first.session.close();
            info!("there is nothing to roll back: no migration is recorded");
            first
                .wait
                .signals()
                .check("there was nothing to roll back")?;
            return Ok(Outcome::Settled);
        }
        first.look_again_after_bun(config)?;
    };
    let versions = chosen.left(&first.observation.history)?;
    let down_files = Chosen::down_files(&versions, &files.migrations, |it| files.downs.read(it))?;
    refuse_what_cannot_be_written_to(
        config,
        &first.observation,
        "migrations are to be rolled back",
    )?;

    let counts_bytes = first.observation.counts_bytes;
    let user = first.observation.user.clone();
    let signals = first.wait.signals().clone();
    let settled = |observation: &Observation| {
        let nothing_left = chosen.left(&observation.history)?.is_empty();
        Ok(nothing_left && observation.bun_row().is_none())
    };
    let held = under_lock(config, first, settled, |locked, history| {
        let left = chosen.left(history)?;
        warn_of_foreign(history);
        refuse_without_rights(config, &user, locked)?;
        let is_left = |file: &&Migration| left.contains(&file.version);
        let to_run: Vec<&Migration> = down_files.iter().filter(is_left).collect();
        apply::roll_back(config, &signals, locked, &to_run, history, counts_bytes)
    })?;
    match held {
        Held::NoConnection(cause) => return Ok(Outcome::NoConnection(cause)),
        Held::Failed(Error::ConnectionLost { doing, cause }) => {
            return Ok(Outcome::Failed(Error::RollbackLost { doing, cause }));
        }
        Held::Failed(error) => return Ok(Outcome::Failed(error)),
        Held::NothingLeft | Held::Done(0) => {
            info!("there is nothing left to roll back: somebody else has done it");
        }
        Held::Done(rolled_back) => {
            let count = counted(rolled_back, "migration");
            let oldest = versions.last().map(Version::to_string).unwrap_or_default();
            info!(rolled_back; "rolled back {count}, down to and including {oldest}");
        }
    }
    signals.check("all that was to be rolled back had been rolled back")?;
    Ok(Outcome::Settled)
}

/// Refuses a role that could run the files, but not take the records back.
fn refuse_without_rights(config: &Config, user: &str, locked: &mut Locked) -> Result<(), Error> {
    let doing = "asking for the rights on the history";
    let query = history::lacks_to_erase(&locked.tables);
    let rows = locked
        .work
        .ask(&query)
        .map_err(|it| it.while_doing(doing))?;
    match rows.iter().find_map(|row| row.get("lacks")) {
        Some(lacks) => Err(lacking(
            config,
            "migrations are to be rolled back",
            user,
            lacks,
        )),
        None => Ok(()),
    }
}
