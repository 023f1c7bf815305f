//! Numbers, durations and lists as messages show them.

use std::fmt::Display;
use std::time::Duration;

/// A number of things as messages show it: `1 migration`, `13 migrations`.
pub fn counted(count: usize, thing: &str) -> String {
    match count {
        1 => format!("1 {thing}"),
        count => format!("{count} {thing}s"),
    }
}

/// Returns true if and only if the text is a number without sign, point or blank.
pub fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Things one after the other as messages show them, with this between them.
pub fn joined(things: impl IntoIterator<Item = impl Display>, between: &str) -> String {
    things.into_iter().map(|thing| thing.to_string()).collect::<Vec<_>>().join(between)
}

/// What there is of these, with commas.
pub fn listed<const N: usize>(parts: [Option<String>; N]) -> String {
    joined(parts.into_iter().flatten(), ", ")
}

/// Each on a line of its own, below what was said before.
pub fn below(lines: impl IntoIterator<Item = impl Display>) -> String {
    lines.into_iter().map(|line| format!("\n  {line}")).collect()
}

/// A duration as all that people see shows it: `7 ms`, `1.2 s`, `285 s`, `12 min 5 s`, `2 h 5 min`. Up to ten minutes it
/// is seconds, as in the settings.
pub fn duration(duration: Duration) -> String {
    let (milliseconds, seconds) = (duration.as_millis(), duration.as_secs());
    match (milliseconds, milliseconds / 100 % 10) {
        (..1_000, _) => format!("{milliseconds} ms"),
        (..10_000, tenths @ 1..) => format!("{seconds}.{tenths} s"),
        (..600_000, _) => format!("{seconds} s"),
        (..3_600_000, _) => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_short_whatever_it_is() {
        for (milliseconds, shown) in [
            (0, "0 ms"),
            (1, "1 ms"),
            (999, "999 ms"),
            (1_000, "1 s"),
            (1_234, "1.2 s"),
            (9_999, "9.9 s"),
            (59_999, "59 s"),
            (300_000, "300 s"),
            (600_000, "10 min 0 s"),
            (3_599_999, "59 min 59 s"),
            (7_500_000, "2 h 5 min"),
            (360_000_000, "100 h 0 min"),
        ] {
            let shown_as = duration(Duration::from_millis(milliseconds));
            assert_eq!(shown_as, shown);
        }
    }
}
