//! `lockstep baseline VERSION`: records every file up to VERSION as applied, without running any of them.
//!
//! It is for a database whose schema was made by hand, or by another tool, and which from now on is to be migrated by
//! these files. It takes a person's word for it that they correspond: what stands in the files is not looked at. All
//! records are written in one fenced transaction, with one group. What is recorded already stays as it is, but for the
//! file of VERSION itself: if it was mended after it was applied, its new checksum is recorded; if it was renamed, the
//! record goes along.

use std::collections::BTreeSet;

use log::{info, warn};

use super::run::warn_of_odd_versions;
use super::run::{Errand, Held, Obtained, no_such_version, obtain, own_tables};
use super::{Answer, Context};
use crate::apply;
use crate::cli::UpTo;
use crate::config::Config;
use crate::error::Error;
use crate::files;
use crate::lock::fence::Expected;
use crate::migration::{History, Migration, State, Version};
use crate::plan;
use crate::server::wait::Wait;
use crate::text::words::counted;

pub fn run(context: &Context<'_>, up_to: UpTo) -> Result<Answer, Error> {
    let (config, signals) = (&context.config()?, context.signals);
    let migrations = files::read(&config.migrations_dir).map_err(Error::Files)?;
    warn_of_odd_versions(&migrations);
    let baseline = Baseline::of(&migrations, up_to)?;
    let version = baseline.version;
    let errand = Errand {
        why: "migrations are to be recorded",
        what: "to record",
        migrations: &migrations,
    };
    let obtained = obtain(
        config,
        signals,
        &errand,
        |history| {
            Ok(match baseline.work(history)? {
                None => 0,
                Some(Work::Record(files)) => files.len(),
                Some(Work::Mend(..) | Work::Rename(..)) => 1,
            })
        },
        |_, _| Ok(()),
    )?;
    match obtained {
        Obtained::NothingToDo(first) => {
            first.session.close();
            info!("there is nothing to record: every file up to {version} is recorded");
            baseline.report_behind();
            signals.check("there was nothing to record")?;
            return Ok(Answer::Logged);
        }
        Obtained::NothingLeft => {
            info!("there is nothing left to record: another runner has done it");
        }
        Obtained::Lock(mut held) => {
            let mut wait = Wait::new(signals, config.lock_wait);
            let outcome = baseline.record(config, &mut held, &mut wait);
            let recorded = held.release(outcome)?;
            info!("{recorded}");
        }
    }
    baseline.report_behind();
    signals.check("all that was to be recorded had been recorded")?;
    Ok(Answer::Logged)
}

/// The files, and up to which they are to be recorded.
struct Baseline<'a> {
    version: Version,
    migrations: &'a [Migration],
    behind: usize,
}

/// What is to be done.
enum Work<'a> {
    /// These have no record.
    Record(Vec<&'a Migration>),
    /// The file of this record was mended after it was applied.
    Mend(&'a Migration, i64),
    /// The file was applied under another version; its record's id.
    Rename(&'a Migration, Version, i64),
}

impl<'a> Baseline<'a> {
    /// `migrations` must be sorted by version.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchVersion`] unless a file has this version.
    fn of(migrations: &'a [Migration], up_to: UpTo) -> Result<Baseline<'a>, Error> {
        let newest = migrations.last().map_or(Version::FIRST, |it| it.version);
        let version = match up_to {
            UpTo::Version(version) => version,
            UpTo::Latest => newest,
        };
        let count = migrations.partition_point(|it| it.version <= version);
        let (files, behind) = migrations.split_at(count);
        if files.last().is_some_and(|it| it.version == version) {
            let behind = behind.len();
            return Ok(Baseline {
                version,
                migrations,
                behind,
            });
        }
        Err(no_such_version(migrations, version))
    }

    /// What the history lacks.
    fn work(&self, history: &History) -> Result<Option<Work<'a>>, Error> {
        let entries = plan::classify(self.migrations, history);
        let id = |version| history.record(version).map_or(0, |it| it.id);
        let own = entries.iter().find(|it| it.version == self.version);
        if let Some((entry, file)) = own.and_then(|it| Some((it, it.migration?))) {
            match (entry.state, entry.renamed_from) {
                (State::Modified, _) => return Ok(Some(Work::Mend(file, id(self.version)))),
                (_, Some(from)) if !from.is_short() => {
                    return Ok(Some(Work::Rename(file, from, id(from))));
                }
                _ => {}
            }
        }
        let version = self.version;
        let recorded = history.applied.iter().map(|it| it.version);
        let newer: BTreeSet<Version> = recorded.filter(|it| *it > version).collect();
        if !newer.is_empty() {
            let newer = newer.into_iter().collect();
            return Err(Error::RecordedBeyond { version, newer });
        }
        let is_open = |it: &&plan::Entry<'_>| {
            let is_short = it.renamed_from.is_some_and(Version::is_short);
            is_short || matches!(it.state, State::Pending | State::OutOfOrder)
        };
        let files: Vec<&Migration> = (entries.iter().filter(is_open))
            .filter_map(|it| it.migration.filter(|it| it.version <= version))
            .collect();
        Ok((!files.is_empty()).then_some(Work::Record(files)))
    }

    /// Does it, under the lock, and says what was done.
    fn record(&self, config: &Config, held: &mut Held, wait: &mut Wait) -> Result<String, Error> {
        let Some(work) = self.work(&held.history)? else {
            return Ok("there is nothing left to record: another runner has done it".to_owned());
        };
        wait.signals().check("nothing had been recorded yet")?;
        let group = held.history.last_group + 1;
        let expected = match &work {
            Work::Record(files) => Expected::NoneOf(files.iter().map(|it| it.version).collect()),
            Work::Mend(file, id) => Expected::Record(file.version, *id),
            Work::Rename(_, from, id) => Expected::Record(*from, *id),
        };
        held.write(
            &expected,
            "recording the baseline",
            wait,
            |fenced| match &work {
                Work::Record(files) => fenced.record_unrun(files, group),
                Work::Mend(file, _) => fenced.mend(file),
                Work::Rename(file, from, id) => fenced.rename(file, *from, *id),
            },
        )?;
        Ok(match work {
            Work::Record(files) => self.tell(config, &held.history, &files, group),
            Work::Mend(file, _) => format!(
                "recorded {} as it is now; it was not run again",
                file.file_name
            ),
            Work::Rename(file, from, _) => format!(
                "the record of {from} is now that of {}; it was not run again",
                file.file_name
            ),
        })
    }

    /// Says what was recorded, and what a person should know of it.
    fn tell(&self, config: &Config, history: &History, files: &[&Migration], group: i64) -> String {
        let width = apply::widest(files.iter().copied());
        for file in files {
            let (version, name) = (file.version.to_string(), file.file_name.as_str());
            let named = apply::named(file, width);
            info!(version = version.as_str(), name, group; "recorded {named}");
            let mut begun = history.interrupted.iter();
            if let Some(begun) = begun.find(|it| it.version == file.version) {
                warn!(version = version.as_str(); "{version}: an earlier run began it and did not finish it ({}); what that left, an INVALID index, say, stays as it is", begun.runner);
            }
            let own_tables = own_tables(config);
            for it in plan::obstructions_of_up_file(file, &own_tables, &mut BTreeSet::new()) {
                warn!(version = version.as_str(); "it could not be run on a fresh database: {it}");
            }
        }
        let count = counted(files.len(), "migration");
        format!(
            "recorded {count} up to {} as applied, without running any",
            self.version
        )
    }

    fn report_behind(&self) {
        match self.behind {
            0 => info!(
                "no file is newer than {}: the database is up to date",
                self.version
            ),
            pending => {
                let count = counted(pending, "file");
                info!(pending; "{count} after {} left pending: `lockstep up` applies them", self.version);
            }
        }
    }
}
