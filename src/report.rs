//! Values → what commands answer, as text or JSON. Pure: the caller prints it.

pub mod check;
pub mod import;
pub mod plan;
pub mod status;
