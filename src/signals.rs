//! The signals that ask us to stop.
//!
//! SIGINT and SIGTERM set a flag that every wait looks at. A process that is PID 1 in a container has no default
//! action for signals, so they must be handled. A second signal ends the process at once; the server rolls back.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

/// A signal that asks us to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    Interrupt,
    Terminate,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
        })
    }
}

/// A signal stopped us in the midst of this.
#[derive(Debug)]
pub struct Stopped {
    pub signal: Signal,
    pub doing: String,
}

/// Whether a signal has come.
#[derive(Clone)]
pub struct Signals(Arc<AtomicUsize>);

impl Signals {
    /// Handles SIGINT and SIGTERM from now on.
    ///
    /// # Errors
    ///
    /// What the operating system says if it refuses, which it does not for these two.
    pub fn handle() -> io::Result<Signals> {
        let received = Arc::new(AtomicUsize::new(0));
        let second = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds `second` unset, and sets it.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                128 + signal,
                Arc::clone(&second),
            )?;
            signal_hook::flag::register(signal, Arc::clone(&second))?;
            signal_hook::flag::register_usize(signal, Arc::clone(&received), signal as usize)?;
        }
        Ok(Signals(received))
    }

    /// The signal that has come, if one has.
    pub fn received(&self) -> Option<Signal> {
        match self.0.load(Ordering::Relaxed) as i32 {
            SIGINT => Some(Signal::Interrupt),
            SIGTERM => Some(Signal::Terminate),
            _ => None,
        }
    }

    /// Fails if a signal has come; `doing` tells what is left then.
    ///
    /// # Errors
    ///
    /// [`Stopped`].
    pub fn check(&self, doing: &str) -> Result<(), Stopped> {
        let stopped = |signal| Stopped { signal, doing: doing.to_owned() };
        self.received().map_or(Ok(()), |signal| Err(stopped(signal)))
    }
}
