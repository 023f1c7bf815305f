//! `lockstep down [N]`: rolls back the newest group, or the newest N migrations, by their down files.
//!
//! It is `up` in reverse, under the same lock: look, refuse, take the lock, look again, run. What differs is that a
//! second `down` is not the same as the first one again, so it is chosen once what is to go: see [`crate::plan::rollback`].

use log::info;

use super::run::{Errand, Held, Obtained, obtain, warn_of_foreign};
use super::{Answer, Context};
use crate::apply::{self, Way};
use crate::config::Config;
use crate::error::Error;
use crate::files::{self, Downs};
use crate::logging;
use crate::migration::{Migration, Version};
use crate::plan::rollback::{Chosen, Rollback};
use crate::text::words::{counted, duration};

const WHY: &str = "migrations are to be rolled back";

pub fn run(context: &Context<'_>, which: Rollback) -> Result<Answer, Error> {
    let (config, signals) = (&context.config()?, context.signals);
    let (migrations, downs) =
        files::read_with_downs(&config.migrations_dir).map_err(Error::Files)?;
    // The first look chooses.
    let mut chosen: Option<Chosen> = None;
    let errand = Errand {
        why: WHY,
        what: "to roll back",
        migrations: &migrations,
    };
    let obtained = obtain(
        config,
        signals,
        &errand,
        |history| {
            if chosen.as_ref().is_none_or(Chosen::is_empty) {
                chosen = Some(Chosen::among(history, which)?);
            }
            let Some(chosen) = &chosen else {
                return Ok(0);
            };
            let left = chosen.left(history)?;
            down_files(&left, &migrations, &downs)?;
            Ok(left.len())
        },
        |_, _| Ok(()),
    )?;
    match (obtained, chosen) {
        (Obtained::NothingToDo(first), Some(chosen)) if chosen.is_empty() => {
            first.session.close();
            info!("there is nothing to roll back: no migration is recorded");
            signals.check("there was nothing to roll back")?;
        }
        (Obtained::Lock(mut held), Some(chosen)) => {
            let outcome = roll_back(context, config, &chosen, (&migrations, &downs), &mut held);
            let rolled_back = held.release(outcome).map_err(|error| match error {
                Error::ConnectionLost { doing, cause } => Error::RollbackLost { doing, cause },
                error => error,
            })?;
            match rolled_back.as_slice() {
                [] => say_nothing_left(),
                [.., oldest] => {
                    let count = counted(rolled_back.len(), "migration");
                    info!(
                        rolled_back = rolled_back.len();
                        "rolled back {count}, down to and including {oldest}, in {}", duration(logging::running())
                    );
                }
            }
            signals.check("all that was to be rolled back had been rolled back")?;
        }
        (Obtained::NothingToDo(first), _) => {
            first.session.close();
            say_nothing_left();
        }
        _ => say_nothing_left(),
    }
    Ok(Answer::Logged)
}

fn say_nothing_left() {
    info!("there is nothing left to roll back: somebody else has done it");
}

fn down_files(
    versions: &[Version],
    migrations: &[Migration],
    downs: &Downs,
) -> Result<Vec<Migration>, Error> {
    Ok(Chosen::down_files(versions, migrations, |it| {
        downs.read(it)
    })?)
}

/// The lock is ours: rolls back what is left of what was chosen; returns the versions.
fn roll_back(
    context: &Context<'_>,
    config: &Config,
    chosen: &Chosen,
    (migrations, downs): (&[Migration], &Downs),
    held: &mut Held,
) -> Result<Vec<Version>, Error> {
    let left = chosen.left(&held.history)?;
    warn_of_foreign(&held.history);
    held.refuse_unless_erasable(config, WHY)?;
    let files = down_files(&left, migrations, downs)?;
    let files: Vec<&Migration> = files.iter().collect();
    let known = (&held.history, held.observation.counts_bytes);
    let locked = &mut held.locked;
    let done = apply::run(config, context.signals, locked, Way::Down, &files, known)?;
    Ok(left.into_iter().take(done).collect())
}
