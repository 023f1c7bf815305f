//! `lockstep baseline VERSION`: records every file up to VERSION as applied, without running any of them.
//!
//! It is for a database whose schema was made by hand, or by another tool, and which from now on is to be migrated by
//! these files. It takes a person's word for it that they correspond: what stands in the files is not looked at. All
//! records are written in one fenced transaction, with one group. What is recorded already stays as it is.

use std::time::Duration;

use log::{info, warn};

use super::run::{Held, Obtained, obtain, warn_of_odd_versions};
use super::{Answer, Context};
use crate::error::Error;
use crate::files;
use crate::lock::fence::{Expected, Fault};
use crate::migration::{History, Migration, Version};
use crate::server::settings::Settings;
use crate::server::wait::Wait;
use crate::text::words::counted;

/// How long the transaction waits for a lock before it says so and tries again.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

pub fn run(context: &Context<'_>, version: Version) -> Result<Answer, Error> {
    let (config, signals) = (&context.config()?, context.signals);
    let migrations = files::read(&config.migrations_dir).map_err(Error::Files)?;
    warn_of_odd_versions(&migrations);
    let baseline = Baseline::of(&migrations, version)?;
    let why = "migrations are to be recorded";
    let obtained = obtain(config, signals, why, |observation| {
        Ok(!baseline.unrecorded(&observation.history)?.is_empty())
    })?;
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
            let outcome = baseline.record(&mut held, &mut wait);
            let recorded = held.release(outcome)?;
            let count = counted(recorded, "migration");
            info!(recorded; "recorded {count} up to {version} as applied, without running any");
        }
    }
    baseline.report_behind();
    signals.check("all that was to be recorded had been recorded")?;
    Ok(Answer::Logged)
}

/// The files that are to be recorded, and how many there are behind them.
struct Baseline<'a> {
    version: Version,
    files: &'a [Migration],
    behind: usize,
}

impl<'a> Baseline<'a> {
    /// `migrations` must be sorted by version.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchVersion`] unless a file has this version.
    fn of(migrations: &'a [Migration], version: Version) -> Result<Baseline<'a>, Error> {
        let count = migrations.partition_point(|it| it.version <= version);
        let (files, behind) = migrations.split_at(count);
        if files.last().is_some_and(|it| it.version == version) {
            let behind = behind.len();
            return Ok(Baseline {
                version,
                files,
                behind,
            });
        }
        let neighbours = files.last().into_iter().chain(behind.first());
        let nearest = neighbours.min_by_key(|it| it.version.distance(version));
        let nearest = nearest.map(|it| it.path.display().to_string());
        Err(Error::NoSuchVersion {
            version,
            nearest: nearest.unwrap_or_default(),
        })
    }

    /// The files that the history does not hold.
    fn unrecorded(&self, history: &History) -> Result<Vec<&'a Migration>, Error> {
        let version = self.version;
        let recorded = history.applied.iter().map(|it| it.version);
        let mut newer: Vec<Version> = recorded.filter(|it| *it > version).collect();
        if !newer.is_empty() {
            newer.sort_unstable();
            return Err(Error::RecordedBeyond { version, newer });
        }
        let is_missing = |it: &&Migration| history.record(it.version).is_none();
        Ok(self.files.iter().filter(is_missing).collect())
    }

    /// Writes the records, under the lock, and returns how many.
    fn record(&self, held: &mut Held, wait: &mut Wait) -> Result<usize, Error> {
        let files = self.unrecorded(&held.history)?;
        if files.is_empty() {
            return Ok(0);
        }
        wait.signals().check("nothing had been recorded yet")?;
        for begun in &held.history.interrupted {
            if files.iter().any(|it| it.version == begun.version) {
                let version = begun.version.to_string();
                warn!(version = version.as_str(); "{version}: an earlier run began it and did not finish it ({}); what that left, an INVALID index, say, stays as it is", begun.runner);
            }
        }
        let group = held.history.last_group + 1;
        let settings = Settings {
            lock_timeout: LOCK_TIMEOUT,
            ..Settings::of_catalog()
        };
        let expected = Expected::NoneOf(files.iter().map(|it| it.version).collect());
        let mut fenced = held.locked.transaction(&expected, settings);
        fenced.record_unrun(&files, group);
        let doing = "recording the baseline";
        fenced.commit(doing, wait).map_err(|fault| match fault {
            Fault::DoneByOthers => Error::LockLost {
                locks: held.locked.tables().locks.clone(),
                token: held.locked.token(),
            },
            Fault::Refused(cause) => Error::Database {
                doing: doing.to_owned(),
                cause: Box::new(cause),
            },
            Fault::Error(error) => error,
        })?;
        for file in &files {
            let (version, name) = (file.version.to_string(), file.file_name.as_str());
            info!(version = version.as_str(), name, group; "recorded {name}");
        }
        Ok(files.len())
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
