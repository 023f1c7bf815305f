//! `lockstep baseline VERSION`: records every file up to VERSION as applied, without running any of them.
//!
//! It is for a database whose schema was made by hand, or by another tool, and which from now on is to be migrated by
//! these files. It takes a person's word for it that they correspond: what stands in the files is not looked at. All
//! records are written in one fenced transaction, with one group. What is recorded already stays as it is.

use log::{info, warn};

use super::run::{self, FirstLook, Held, Outcome, refuse_what_cannot_be_written_to};
use super::run::{under_lock, warn_of_odd_versions};
use super::{Answer, Context};
use crate::config::Config;
use crate::error::Error;
use crate::files;
use crate::history::{self, Observation};
use crate::lock::{self, Expected, Locked};
use crate::migration::{History, Migration, Version};
use crate::server::session::Settings;
use crate::server::session::Trouble;
use crate::server::wait::Wait;
use crate::sql::sqlstate;
use crate::text::words::counted;

pub fn run(context: &Context<'_>, version: Version) -> Result<Answer, Error> {
    let config = context.config()?;
    let migrations = files::read(&config.migrations_dir).map_err(Error::Files)?;
    warn_of_odd_versions(&migrations);
    let baseline = Baseline::of(&migrations, version)?;
    run::until_settled(&config, context.signals, |first| {
        baseline.attempt(&config, first)
    })?;
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

    /// Records what is not recorded yet.
    ///
    /// # Errors
    ///
    /// [`Error::RecordedBeyond`] if something newer is recorded; what taking the lock may meet.
    fn attempt(&self, config: &Config, mut first: FirstLook) -> Result<Outcome, Error> {
        loop {
            let unrecorded = self.unrecorded(&first.observation.history)?;
            if !unrecorded.is_empty() {
                break;
            }
            if first.observation.bun_row().is_none() {
                first.session.close();
                info!(
                    "there is nothing to record: every file up to {} is recorded",
                    self.version
                );
                self.report_behind();
                first.wait.signals().check("there was nothing to record")?;
                return Ok(Outcome::Settled);
            }
            first.look_again_after_bun(config)?;
        }
        refuse_what_cannot_be_written_to(
            config,
            &first.observation,
            "migrations are to be recorded",
        )?;

        let signals = first.wait.signals().clone();
        let settled = |observation: &Observation| {
            let unrecorded = self.unrecorded(&observation.history)?;
            Ok(unrecorded.is_empty() && observation.bun_row().is_none())
        };
        let held = under_lock(config, first, settled, |locked, history| {
            let mut wait = Wait::new(&signals, config.lock_wait);
            self.record(locked, history, &mut wait)
        })?;
        match held {
            Held::NoConnection(cause) => return Ok(Outcome::NoConnection(cause)),
            Held::Failed(error) => return Ok(Outcome::Failed(error)),
            Held::NothingLeft => {
                info!("there is nothing left to record: another runner has done it")
            }
            Held::Done(recorded) => {
                let count = counted(recorded, "migration");
                info!(recorded; "recorded {count} up to {} as applied, without running any", self.version);
            }
        }
        self.report_behind();
        signals.check("all that was to be recorded had been recorded")?;
        Ok(Outcome::Settled)
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
    fn record(
        &self,
        locked: &mut Locked,
        history: &History,
        wait: &mut Wait,
    ) -> Result<usize, Error> {
        let files = self.unrecorded(history)?;
        if files.is_empty() {
            return Ok(0);
        }
        wait.signals().check("nothing had been recorded yet")?;
        for begun in &history.interrupted {
            if files.iter().any(|it| it.version == begun.version) {
                let version = begun.version.to_string();
                warn!(version = version.as_str(); "{version}: an earlier run began it and did not finish it ({}); what that left, an INVALID index, say, stays as it is", begun.runner);
            }
        }
        let versions: Vec<Version> = files.iter().map(|it| it.version).collect();
        let group = history.last_group + 1;
        let message = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {settings} {fence} {record} {recorded} COMMIT",
            settings = Settings {
                lock_timeout: LOCK_TIMEOUT,
                ..Settings::of_catalog()
            },
            fence = locked.fence(Expected::NoneOf(&versions)),
            record = history::record_unrun(&locked.tables, &files, group, &locked.runner),
            recorded = versions
                .iter()
                .map(|it| locked.assert_recorded(*it))
                .collect::<String>(),
        );
        let doing = "recording the baseline";
        while let Err(trouble) = locked.work.execute(&message) {
            if let Trouble::Sql(cause) = &trouble
                && cause.code().code() == sqlstate::LOCK_LOST
                && locked.raised(cause)
            {
                return Err(locked.lost());
            }
            lock::retry_lock_timeout(&mut locked.work, trouble, doing, wait)?;
        }
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

/// How long the transaction waits for a lock before it says so and tries again.
const LOCK_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);
