//! `lockstep forget VERSION`: takes one record back without running anything: the opposite of `baseline`.
//!
//! bun records a migration before it runs it, so its death may leave the record of what never ran; `unlock` looks whether
//! it did. Only the newest record of a group can go: what was recorded behind it was applied on top of it.

use log::info;

use super::run::{Errand, Held, Obtained, no_such_version, obtain, warn_of_odd_versions};
use super::{Answer, Context};
use crate::config::Config;
use crate::error::Error;
use crate::files;
use crate::lock::fence::Expected;
use crate::migration::{Applied, History, Migration, Version};
use crate::server::wait::Wait;

const WHY: &str = "a record is to be taken back";

pub fn run(context: &Context<'_>, version: Version) -> Result<Answer, Error> {
    let (config, signals) = (&context.config()?, context.signals);
    let migrations = files::read(&config.migrations_dir).map_err(Error::Files)?;
    warn_of_odd_versions(&migrations);
    let file = migrations.iter().find(|it| it.version == version);
    let errand = Errand {
        why: WHY,
        what: "to forget",
        migrations: &migrations,
    };
    let obtained = obtain(
        config,
        signals,
        &errand,
        |history| match (forgettable(history, version)?, file) {
            (None, None) => Err(no_such_version(&migrations, version)),
            (record, _) => Ok(usize::from(record.is_some())),
        },
        |_, _| Ok(()),
    )?;
    match obtained {
        Obtained::NothingToDo(first) => {
            first.session.close();
            info!("there is nothing to take back: {version} is not recorded");
        }
        Obtained::NothingLeft => {
            info!("there is nothing left to take back: somebody else has done it")
        }
        Obtained::Lock(mut held) => {
            let mut wait = Wait::new(signals, config.lock_wait);
            let outcome = forget(config, &mut held, version, &mut wait);
            held.release(outcome)?;
            info!(
                "took the record of {version} back, without running anything; {}",
                next(file)
            );
        }
    }
    signals.check("there was nothing left to take back")?;
    Ok(Answer::Logged)
}

/// The record of the version, if there is one.
///
/// # Errors
///
/// [`Error::RecordedBeyond`] if its group has a newer one.
fn forgettable(history: &History, version: Version) -> Result<Option<&Applied>, Error> {
    let Some(record) = history.record(version) else {
        return Ok(None);
    };
    let group = history.applied.iter().filter(|it| it.group == record.group);
    let newer: Vec<Version> = group
        .filter(|it| it.id > record.id)
        .map(|it| it.version)
        .collect();
    match newer.is_empty() {
        true => Ok(Some(record)),
        false => Err(Error::RecordedBeyond { version, newer }),
    }
}

/// The lock is ours: takes the record back, if it is still there.
fn forget(
    config: &Config,
    held: &mut Held,
    version: Version,
    wait: &mut Wait,
) -> Result<(), Error> {
    let Some(record) = forgettable(&held.history, version)? else {
        return Ok(());
    };
    let expected = Expected::Record(version, record.id);
    let ids = held.history.ids(version);
    held.refuse_unless_erasable(config, WHY)?;
    wait.signals().check("nothing had been taken back yet")?;
    let doing = format!("taking the record of {version} back");
    held.write(&expected, &doing, wait, |fenced| {
        fenced.erase(version, &ids)
    })
}

/// What is next.
fn next(file: Option<&Migration>) -> String {
    match file {
        Some(file) => format!("{} is pending again: lockstep up", file.file_name),
        None => "no file has this version".to_owned(),
    }
}
