//! The connection: how it is opened, what is said over it, how long it is waited for.

pub mod message;
pub mod open;
pub mod progress;
pub mod session;
pub mod settings;
pub mod ticker;
mod tls;
pub mod wait;
