//! `lockstep forget VERSION`: takes one record back without running anything: the opposite of `baseline`.
//!
//! bun records a migration before it runs it, so its death may leave the record of what never ran; `unlock` looks whether
//! it did. Only the newest record of a group can go: what was recorded behind it was applied on top of it.

use log::info;

use super::run::{Held, no_such_version, obtain, read_files, refuse_beyond};
use super::{Answer, Context};
use crate::config::Config;
use crate::error::Error;
use crate::lock::fence::Expected;
use crate::migration::{Applied, History, Version};

const WHY: &str = "a record is to be taken back";

pub fn run(context: &Context<'_>, version: Version) -> Result<Answer, Error> {
    let (config, signals) = (&context.config()?, context.signals);
    let migrations = read_files(config)?;
    let file = migrations.iter().find(|it| it.version == version);
    let obtained = obtain(config, signals, &migrations, (WHY, "to forget"), |history, _| {
        match (forgettable(history, version)?, file) {
            (None, None) => Err(no_such_version(&migrations, version)),
            (record, _) => Ok(usize::from(record.is_some())),
        }
    })?;
    match obtained.lock() {
        None => info!("there is nothing to take back: {version} is not recorded"),
        Some(held) => {
            held.work(|held| forget(config, held, version))?;
            let next = match file {
                Some(file) => format!("{} is pending again: lockstep up", file.file_name()),
                None => "no file has this version".to_owned(),
            };
            info!("took the record of {version} back, without running anything; {next}");
        }
    }
    signals.check("there was nothing left to take back")?;
    Ok(Answer::Logged)
}

/// The record of the version, if there is one.
///
/// # Errors
///
/// [`Error::Disagreement`] if its group has a newer one.
fn forgettable(history: &History, version: Version) -> Result<Option<&Applied>, Error> {
    let Some(record) = history.record(version) else {
        return Ok(None);
    };
    let is_beyond = |it: &&Applied| it.group == record.group && it.id > record.id;
    refuse_beyond(version, history.applied.iter().filter(is_beyond).map(|it| it.version))?;
    Ok(Some(record))
}

/// The lock is ours: takes the record back, if it is still there.
fn forget(config: &Config, held: &mut Held, version: Version) -> Result<(), Error> {
    let Some(record) = forgettable(&held.history, version)? else {
        return Ok(());
    };
    let expected = Expected::Record(version, record.id);
    let ids = held.history.ids(version);
    held.refuse_unless_erasable(config, WHY)?;
    let doing = format!("taking the record of {version} back");
    held.write(config, &expected, &doing, |fenced| fenced.erase(version, &ids))
}
