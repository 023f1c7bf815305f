//! `lockstep status`: asks the database all there is to tell: where we are, who has the lock, what is recorded.
//!
//! It only reads, takes no lock, and answers while a runner is at work. `report/status.rs` has the words.

use std::collections::BTreeMap;

use crate::config::Config;
use crate::error::Error;
use crate::history::{Columns, Observation, Observe, Record};
use crate::lock::{self, Holder, Stranger};
use crate::migration::Version;
use crate::server::open;
use crate::server::wait::Wait;
use crate::signals::Signals;

/// What the database says.
pub struct Facts {
    pub observation: Observation,
    pub records: BTreeMap<Version, Record>,
    pub lock: LockState,
}

/// Who has the migration lock.
pub enum LockState {
    Free,
    /// A runner of ours. Its row may not be there yet, or not any more.
    Held {
        holder: Holder,
    },
    /// bun's row stands there. A runner of ours may wait for it.
    Bun {
        id: i64,
        /// The sessions that may be its owner's, in words.
        suspects: Vec<String>,
        waiting: Option<Holder>,
    },
    /// A runner of ours left its row, and is gone.
    Stale {
        id: i64,
    },
    /// There is a row of a runner of ours, but this is a standby: on the primary that runner lives, or not.
    Elsewhere {
        id: i64,
    },
}

/// Asks, in one round trip if nobody has the lock, and else in two or three.
///
/// # Errors
///
/// [`Error::TableWait`] if a table of ours is locked against readers until `MIGRATION_LOCK_WAIT_SECONDS` are over; what
/// the connection meets.
pub fn ask(config: &Config, signals: &Signals) -> Result<Facts, Error> {
    let observe = Observe::new(config, Columns::InDetail);
    let mut patience = Wait::new(signals, config.database_wait);
    let (mut session, answer) = open::open(&config.server, &observe.message, &mut patience)?;
    let mut wait = Wait::new(signals, config.lock_wait);
    let (mut observation, mut answer) = observe.read(config, &mut session, answer, &mut wait)?;
    let mut ownerless = None;
    loop {
        let holder = lock::holder(&mut session, observation.tables.as_ref())?;
        let lock = match (observation.lock_row, holder) {
            (Some(id), waiting) if id > 0 => LockState::Bun {
                id,
                suspects: (lock::strangers(&mut session)?.iter())
                    .map(Stranger::to_string)
                    .collect(),
                waiting,
            },
            (_, Some(holder)) => LockState::Held { holder },
            (Some(id), None) if observation.in_recovery => LockState::Elsewhere { id },
            // The runner may have ended between the two questions. If its row is there afterwards, it is nobody's.
            (Some(id), None) if ownerless != Some(id) => {
                ownerless = Some(id);
                let again = session.send(&observe.message);
                (observation, answer) = observe.read(config, &mut session, again, &mut wait)?;
                continue;
            }
            (Some(id), None) => LockState::Stale { id },
            (None, None) => LockState::Free,
        };
        session.close();
        return Ok(Facts { observation, records: observe.records(&answer), lock });
    }
}
