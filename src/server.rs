//! The connection: how it is opened, what is said over it, how long it is waited for.

pub mod blocker;
pub mod glance;
pub mod message;
pub mod open;
pub mod progress;
pub mod session;
pub mod settings;
// What nothing uses without TLS.
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
mod tls;
pub mod wait;

/// What lies behind an error of the client library, the nearest cause first.
fn causes(error: &postgres::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(error), |it| it.source())
}
