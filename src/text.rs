//! How things are written, whatever they are about: numbers for people, JSON, tables and colours on a terminal.

pub mod json;
pub mod terminal;
pub mod words;

/// For whom an answer or the log is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// For people: of the log `time LEVEL message`, and on a terminal the message alone; the fields are for machines, but
    /// for those of the query log.
    Text,
    /// For machines: JSON, of the log one object a line.
    Json,
}
