//! One file a command; what the commands that write share is in [`run`]. None knows another.

pub mod baseline;
pub mod check;
pub mod down;
pub mod forget;
pub mod import;
pub mod new;
pub mod plan;
pub mod run;
pub mod status;
pub mod unlock;
pub mod up;
pub mod wait;

use std::time::Duration;

use log::warn;

use crate::config::{self, Complaint, Config, Environment};
use crate::error::Error;
use crate::signals::Signals;

/// What every command is given.
pub struct Context<'a> {
    pub environment: &'a Environment,
    pub signals: &'a Signals,
}

/// What a command that succeeded has to say on stdout.
pub enum Answer {
    /// Nothing: the log has told it.
    Logged,
    /// What was asked for, and all that there is to the command: if it is lost, nothing was done.
    Asked(String),
    /// What was done, or found, which the exit code tells, too.
    Done(String),
    /// What was found, which is an error that the text tells the whole of.
    Found(String, Box<Error>),
}

impl Context<'_> {
    /// The configuration, with its warnings said.
    ///
    /// # Errors
    ///
    /// [`Error::Environment`] with every complaint.
    pub fn config(&self) -> Result<Config, Error> {
        self.warned(config::load_to_write(self.environment))
    }

    fn warned(&self, config: Result<Config, Vec<Complaint>>) -> Result<Config, Error> {
        let config = config.map_err(Error::Environment)?;
        for warning in &config.warnings {
            warn!("{warning}");
        }
        Ok(config)
    }

    /// The configuration of a command that only reads: it does not wait for a locked history for as long as one that has
    /// work to do.
    ///
    /// # Errors
    ///
    /// Like [`Context::config`].
    pub fn readers_config(&self) -> Result<Config, Error> {
        const LONGEST: Duration = Duration::from_secs(10);
        let mut config = self.warned(config::load(self.environment))?;
        if let Some(problem) = config::address_is_missing(self.environment) {
            let server = &config.server.description;
            warn!("DATABASE_URL: {problem}; looking at {server}, as libpq would");
        }
        config.lock_wait = config.lock_wait.min(LONGEST);
        Ok(config)
    }
}
