//! What commands print, as a table or JSON: values → text.

pub mod plan;
