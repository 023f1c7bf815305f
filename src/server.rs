//! The connection: how it is opened, what is said over it, how long it is waited for.

pub mod blocker;
pub mod glance;
pub mod message;
pub mod open;
pub mod progress;
pub mod session;
pub mod settings;
pub mod ticker;
// What nothing uses without TLS.
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
mod tls;
pub mod wait;
