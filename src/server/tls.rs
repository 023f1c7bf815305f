//! TLS for a connection: which way to try first, what to try instead, and how it is done.
//!
//! It is done by rustls, and by a verifier of our own, which takes what PostgreSQL's own manual tells people to make:
//! see [`verifier`]. Without the cargo feature `tls` nothing is done, and the configuration has refused whatever asks
//! for it.

#[cfg(not(feature = "tls"))]
mod absent;
#[cfg(feature = "tls")]
mod certificate;
#[cfg(feature = "tls")]
mod connector;
#[cfg(feature = "tls")]
mod glue;
#[cfg(feature = "tls")]
mod verifier;
#[cfg(feature = "tls")]
mod words;

use postgres::config::SslMode;

use crate::config::tls::Mode;
use crate::sql::sqlstate;

#[cfg(not(feature = "tls"))]
pub use absent::{Connector, fault};
#[cfg(feature = "tls")]
pub use connector::Connector;
#[cfg(feature = "tls")]
pub use words::fault;

/// How far TLS came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Plain,
    Failed,
    /// For want of something that Lockstep lacks and libpq may have.
    Unable,
    /// The protocol's version.
    Encrypted(&'static str),
}

/// How a connection is tried at first. A local socket is never encrypted, whatever the mode.
pub fn first_way(mode: Mode, is_socket: bool) -> SslMode {
    match mode {
        _ if is_socket || cfg!(not(feature = "tls")) => SslMode::Disable,
        Mode::Disable | Mode::Allow => SslMode::Disable,
        Mode::Prefer => SslMode::Prefer,
        Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
    }
}

/// What to try after a failure: libpq's two weaker modes take what they can get. `sqlstate` is the server's, if it
/// answered. Two things are stricter than libpq: a wrong password is not tried again in clear, nor is what libpq may be
/// able to encrypt.
pub fn instead(
    mode: Mode,
    way: SslMode,
    outcome: Outcome,
    sqlstate: Option<&str>,
) -> Option<SslMode> {
    let is_kept_out = sqlstate == Some(sqlstate::INVALID_AUTHORIZATION);
    let other = match (mode, way, outcome) {
        (Mode::Allow, SslMode::Disable, _) if is_kept_out => SslMode::Require,
        (Mode::Prefer, SslMode::Prefer, Outcome::Failed) => SslMode::Disable,
        (Mode::Prefer, SslMode::Prefer, Outcome::Encrypted(_)) if is_kept_out => SslMode::Disable,
        _ => return None,
    };
    Some(other).filter(|_| cfg!(feature = "tls"))
}

/// The two modes that may end in clear, as a user writes them.
pub fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Allow => "sslmode=allow",
        _ => "sslmode=prefer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_weaker_modes_have_another_way() {
        let modes = [
            Mode::Disable,
            Mode::Allow,
            Mode::Prefer,
            Mode::Require,
            Mode::VerifyCa,
            Mode::VerifyFull,
        ];
        let outcomes =
            [Outcome::Plain, Outcome::Failed, Outcome::Encrypted("TLS 1.3"), Outcome::Unable];
        let states = [None, Some("28000"), Some("28P01"), Some("57P03")];
        let mut found = Vec::new();
        for mode in modes {
            let way = first_way(mode, false);
            assert_eq!(first_way(mode, true), SslMode::Disable);
            for outcome in outcomes {
                for state in states {
                    if let Some(other) = instead(mode, way, outcome, state) {
                        found.push((mode, outcome, state, other));
                        // And that is the last one.
                        assert_eq!(instead(mode, other, outcome, state), None);
                    }
                }
            }
        }
        let mut expected: Vec<_> =
            outcomes.map(|outcome| (Mode::Allow, outcome, Some("28000"), SslMode::Require)).into();
        expected
            .extend(states.map(|state| (Mode::Prefer, Outcome::Failed, state, SslMode::Disable)));
        expected.push((Mode::Prefer, outcomes[2], Some("28000"), SslMode::Disable));
        if cfg!(feature = "tls") {
            assert_eq!(found, expected);
        } else {
            assert_eq!(found, []);
        }
    }
}
