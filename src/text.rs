//! How things are written, whatever they are about: numbers for people, JSON, tables and colours on a terminal.

pub mod json;
pub mod terminal;
pub mod words;
