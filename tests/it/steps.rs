//! Numbered migrations that leave a trace each, so that one which ran twice, or not at all, is noticed.

use crate::support::Scratch;

/// The version of the migration with this number.
pub fn version(number: usize) -> String {
    format!("202301010000{number:02}")
}

/// The name of its file.
pub fn file(number: usize) -> String {
    format!("{}_step.up.sql", version(number))
}

/// Writes migrations that leave a row each in the table `ran`, whatever else they do.
pub fn steps(scratch: &Scratch, extra: &[&str]) {
    for (number, extra) in (1..).zip(extra) {
        let table = if number == 1 {
            "CREATE TABLE ran (version text);"
        } else {
            ""
        };
        scratch.file(
            &file(number),
            format!(
                "{table} INSERT INTO ran VALUES ('{}'); {extra}",
                version(number)
            ),
        );
    }
}

/// Every one of [`steps`] ran once, in order, and is recorded once.
#[track_caller]
pub fn assert_applied_once(scratch: &Scratch, count: usize) {
    let expected: Vec<String> = (1..=count).map(version).collect();
    assert_eq!(scratch.history(), expected, "history");
    assert_eq!(
        scratch.sql("SELECT version FROM ran ORDER BY 1"),
        expected,
        "what ran"
    );
}
