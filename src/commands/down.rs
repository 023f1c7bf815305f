//! `lockstep down [N]`: rolls back the newest group, or the newest N migrations, by their down files.
//!
//! It is `up` in reverse, under the same lock: look, refuse, take the lock, look again, run. What differs is that a
//! second `down` is not the same as the first one again, so it is chosen once what is to go: see [`crate::plan::rollback`].

use log::info;

use super::run::{Held, obtain, warn_of_foreign};
use super::{Answer, Context};
use crate::apply::{self, Way};
use crate::config::Config;
use crate::error::Error;
use crate::files;
use crate::logging;
use crate::migration::{Migration, Version};
use crate::plan::refusal::WayBack;
use crate::plan::rollback::{Chosen, Rollback};
use crate::text::words::{counted, duration};

const WHY: &str = "migrations are to be rolled back";

pub fn run(context: &Context<'_>, which: Rollback) -> Result<Answer, Error> {
    let (config, signals) = (&context.config()?, context.signals);
    let (migrations, downs) =
        files::read_with_downs(&config.migrations_dir).map_err(Error::Files)?;
    // The first look chooses.
    let mut chosen: Option<Chosen> = None;
    let errand = (WHY, "to roll back");
    let files = |left: &[Version]| Chosen::down_files(left, &migrations, |it| downs.read(it));
    let obtained = obtain(config, signals, &migrations, errand, |history, _| {
        let chosen = match &mut chosen {
            Some(chosen) if !chosen.is_empty() => chosen,
            nothing => nothing.insert(Chosen::among(history, which)?),
        };
        let left = chosen.left(history)?;
        files(&left)?;
        Ok(left.len())
    })?;
    match (obtained.lock(), chosen) {
        (Some(held), Some(chosen)) => {
            let rolled_back = held.work(|held| roll_back(context, config, &chosen, files, held));
            let rolled_back = rolled_back.map_err(|error| match error {
                Error::ConnectionLost { doing, cause } => Error::NoConnection(format!(
                    "the connection was lost: {doing}: {cause}\n  hint: look at the history before \
                     you run it again: down counts from what is the newest then"
                )),
                error => error,
            })?;
            match rolled_back.as_slice() {
                [] => info!("{NOTHING_LEFT}"),
                [.., oldest] => {
                    let count = counted(rolled_back.len(), "migration");
                    info!(
                        rolled_back = rolled_back.len();
                        "rolled back {count}, down to and including {oldest}, in {}", duration(logging::running())
                    );
                }
            }
        }
        (_, Some(chosen)) if chosen.is_empty() => {
            info!("there is nothing to roll back: no migration is recorded");
        }
        _ => info!("{NOTHING_LEFT}"),
    }
    signals.check("all that was to be rolled back had been rolled back")?;
    Ok(Answer::Logged)
}

const NOTHING_LEFT: &str = "there is nothing left to roll back: somebody else has done it";

/// The lock is ours: rolls back what is left of what was chosen; returns the versions.
fn roll_back(
    context: &Context<'_>,
    config: &Config,
    chosen: &Chosen,
    files: impl Fn(&[Version]) -> Result<Vec<Migration>, WayBack>,
    held: &mut Held,
) -> Result<Vec<Version>, Error> {
    let left = chosen.left(&held.history)?;
    warn_of_foreign(&held.history);
    held.refuse_unless_erasable(config, WHY)?;
    let files = files(&left)?;
    let files: Vec<&Migration> = files.iter().collect();
    let known = (&held.history, held.observation.counts_bytes);
    let locked = &mut held.locked;
    let done = apply::run(config, context.signals, locked, Way::Down, &files, known)?;
    Ok(left.into_iter().take(done).collect())
}
