//! Numbers and durations as messages show them.

use std::time::Duration;

/// A number of things as messages show it: `1 migration`, `13 migrations`.
pub fn counted(count: usize, thing: &str) -> String {
    match count {
        1 => format!("1 {thing}"),
        count => format!("{count} {thing}s"),
    }
}

/// A duration as messages show it: `0.5 s`, `300 s`.
pub fn seconds(duration: Duration) -> String {
    let tenths = (duration.as_secs_f64() * 10.0).round() / 10.0;
    format!("{tenths} s")
}
