//! `lockstep baseline VERSION`: records every file up to VERSION as applied, without running any of them.
//!
//! It is for a database whose schema was made by hand, or by another tool, and which from now on is to be migrated by
//! these files. It takes a person's word for it that they correspond: what stands in the files is not looked at. All
//! records are written in one fenced transaction, with one group. What is recorded already stays as it is, but for the
//! file of VERSION itself: if it was mended after it was applied, its new checksum is recorded; if it was renamed, the
//! record goes along.

use std::collections::BTreeSet;

use log::{info, warn};

use super::run::{Held, no_such_version, obtain, own_tables, read_files, refuse_beyond};
use super::{Answer, Context};
use crate::apply;
use crate::cli::UpTo;
use crate::config::Config;
use crate::error::Error;
use crate::lock::fence::Expected;
use crate::migration::{History, Migration, State, Version};
use crate::plan;
use crate::text::words::counted;

pub fn run(context: &Context<'_>, up_to: UpTo) -> Result<Answer, Error> {
    let (config, signals) = (&context.config()?, context.signals);
    let migrations = read_files(config)?;
    let version = match up_to {
        UpTo::Version(version) => version,
        UpTo::Latest => migrations.last().map_or(Version::FIRST, |it| it.version),
    };
    if !migrations.iter().any(|it| it.version == version) {
        return Err(no_such_version(&migrations, version));
    }
    let errand = ("migrations are to be recorded", "to record");
    let obtained = obtain(config, signals, &migrations, errand, |history, _| {
        Ok(match work(&migrations, version, history)? {
            Work::Record(files) => files.len(),
            Work::Amend(..) => 1,
        })
    })?;
    match obtained.lock() {
        None => info!("there is nothing to record: every file up to {version} is recorded"),
        Some(held) => {
            let recorded = held.work(|held| record(config, &migrations, version, held))?;
            info!("{recorded}");
        }
    }
    match migrations.iter().filter(|it| it.version > version).count() {
        0 => info!("no file is newer than {version}: the database is up to date"),
        pending => {
            let count = counted(pending, "file");
            info!(pending; "{count} after {version} left pending: `lockstep up` applies them");
        }
    }
    signals.check("all that was to be recorded had been recorded")?;
    Ok(Answer::Logged)
}

/// What is to be done.
enum Work<'a> {
    /// These have no record.
    Record(Vec<&'a Migration>),
    /// The file was mended after it was applied, or was applied under another version: the record's version and id.
    Amend(&'a Migration, Version, i64),
}

/// What the history lacks.
fn work<'a>(
    migrations: &'a [Migration],
    version: Version,
    history: &History,
) -> Result<Work<'a>, Error> {
    let entries = plan::classify(migrations, history);
    let own = entries.iter().find(|it| it.version == version);
    if let Some((entry, file)) = own.and_then(|it| Some((it, it.migration?))) {
        let recorded_as = match (entry.state, entry.renamed_from) {
            (State::Modified, _) => Some(version),
            (_, from) => from.filter(|it| !it.is_short()),
        };
        if let Some(record) = recorded_as.and_then(|it| history.record(it)) {
            return Ok(Work::Amend(file, record.version, record.id));
        }
    }
    refuse_beyond(version, history.applied.iter().map(|it| it.version).filter(|it| *it > version))?;
    let is_open = |it: &&plan::Entry<'_>| {
        let is_short = it.renamed_from.is_some_and(Version::is_short);
        is_short || it.state.is_to_run()
    };
    let files = entries.iter().filter(is_open).filter_map(|it| it.migration);
    Ok(Work::Record(files.filter(|it| it.version <= version).collect()))
}

/// Does it, under the lock, and says what was done.
fn record(
    config: &Config,
    migrations: &[Migration],
    version: Version,
    held: &mut Held,
) -> Result<String, Error> {
    const DOING: &str = "recording the baseline";
    let work = work(migrations, version, &held.history)?;
    let group = held.history.last_group + 1;
    match work {
        Work::Record(files) if files.is_empty() => {
            Ok("there is nothing left to record: another runner has done it".to_owned())
        }
        Work::Record(files) => {
            let versions = files.iter().map(|it| it.version).collect();
            held.write(config, &Expected::NoneOf(versions), DOING, |fenced| {
                fenced.record_unrun(&files, group);
            })?;
            tell(config, &held.history, &files, group);
            let count = counted(files.len(), "migration");
            Ok(format!("recorded {count} up to {version} as applied, without running any"))
        }
        Work::Amend(file, recorded_as, id) => {
            let (name, is_mended) = (file.file_name(), recorded_as == version);
            held.write(config, &Expected::Record(recorded_as, id), DOING, |fenced| {
                if is_mended { fenced.mend(file) } else { fenced.rename(file, recorded_as, id) }
            })?;
            Ok(if is_mended {
                format!("recorded {name} as it is now; it was not run again")
            } else {
                format!("the record of {recorded_as} is now that of {name}; it was not run again")
            })
        }
    }
}

/// Says what was recorded, and what a person should know of it.
fn tell(config: &Config, history: &History, files: &[&Migration], group: i64) {
    let width = apply::widest(files.iter().copied());
    for file in files {
        let (version, name) = (file.version, file.file_name());
        let named = apply::named(file, width);
        info!(version:%, name, group; "recorded {named}");
        let mut begun = history.interrupted.iter();
        if let Some(begun) = begun.find(|it| it.version == file.version) {
            warn!(version:%; "{version}: an earlier run began it and did not finish it ({}); what that left, an INVALID index, say, stays as it is", begun.runner);
        }
        let own_tables = own_tables(config);
        for it in plan::obstructions_of_up_file(file, &own_tables, &mut BTreeSet::new()) {
            warn!(version:%; "it could not be run on a fresh database: {it}");
        }
    }
}
