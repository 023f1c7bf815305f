//! The values of variables: text → value, or what is wrong with it, in words that follow the variable's name.

use std::time::Duration;

use log::LevelFilter;

use super::foreign;
use crate::text::words::{is_digits, joined};

/// A value that can hold no secret, in quotes and on one line.
pub(super) fn shown(value: &str) -> String {
    /// Enough to recognise a value by.
    const LONGEST: usize = 80;
    match value.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", &value[..end]),
        None => format!("{value:?}"),
    }
}

/// What Go's `strconv.ParseBool` takes, and nothing else.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!(
            "{} is not a boolean: use one of 1 t T true TRUE True, 0 f F false FALSE False",
            shown(text)
        )),
    }
}

pub(super) fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    chosen(text, choices).map_err(|expected| format!("{} is not {expected}", shown(text)))
}

/// The choice of this name, or which there are, and which of them was meant.
pub(super) fn chosen<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let named = |name: &str| choices.iter().find(|(it, _)| *it == name);
    named(text).map(|(_, value)| *value).ok_or_else(|| {
        let names = joined(choices.iter().map(|(name, _)| name), ", ");
        match named(&foreign::meant(text)) {
            Some((meant, _)) => format!("one of {names}; did you mean {meant}?"),
            None => format!("one of {names}"),
        }
    })
}

pub(super) fn level(text: &str) -> Result<LevelFilter, String> {
    let level = text.parse().ok().filter(|it| *it != LevelFilter::Off);
    level.ok_or_else(|| {
        format!("{} is not one of TRACE, DEBUG, INFO, WARN, ERROR (in any case)", shown(text))
    })
}

/// A time that Lockstep itself waits: at most ten years, so that a deadline can always be computed.
pub(super) fn wait(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
    seconds(text, LONGEST)
}

/// A timeout that the server keeps: whole milliseconds in 31 bits (PostgreSQL manual, "Client Connection Defaults"). A
/// fraction of a millisecond is rounded up, because zero would mean none.
pub(super) fn server_timeout(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_millis(i32::MAX as u64);
    let milliseconds = seconds(text, LONGEST)?.as_nanos().div_ceil(1_000_000);
    Ok(Duration::from_millis(milliseconds as u64))
}

/// A decimal number of seconds, without sign or exponent; what is finer than a nanosecond is rounded up.
fn seconds(text: &str, longest: Duration) -> Result<Duration, String> {
    let parsed = || {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        if !is_digits(whole) || !is_digits(fraction) {
            return None;
        }
        let (fine, finer) = fraction.split_at(fraction.len().min(9));
        let nanos: u64 = format!("{fine:0<9}").parse().ok()?;
        let rest = u64::from(finer.bytes().any(|digit| digit != b'0'));
        Duration::from_secs(whole.parse().ok()?)
            .checked_add(Duration::from_nanos(nanos + rest))
            .filter(|value| *value <= longest)
    };
    parsed().ok_or_else(|| {
        let longest = longest.as_secs_f64();
        format!(
            "{} is not a number of seconds: use a decimal from 0 to {longest}, such as 30 or 0.5",
            shown(text)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_gos() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(boolean(text), Ok(true));
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(boolean(text), Ok(false));
        }
        for text in
            ["yes", "no", "on", "off", "tRUE", "TrUe", " true", "true ", "2", "01", "truetrue", "è"]
        {
            assert!(boolean(text).is_err(), "{text}");
        }
    }

    #[test]
    fn seconds_may_have_a_fraction() {
        for (text, nanos) in [
            ("0", 0),
            ("0.0", 0),
            ("5", 5_000_000_000),
            ("005", 5_000_000_000),
            ("0.5", 500_000_000),
            ("1.000000001", 1_000_000_001),
            ("0.0000000001", 1),
            ("1.9999999999", 2_000_000_000),
            ("315360000", 315_360_000_000_000_000),
        ] {
            assert_eq!(wait(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        for text in [
            "x",
            "-1",
            "-0",
            "+1",
            "1.",
            ".5",
            ".",
            "1.2.3",
            "1e3",
            "1,5",
            "NaN",
            "inf",
            "infinity",
            "0x10",
            " 1",
            "1 ",
            "1s",
            "1_0",
            "315360000.1",
            "315360001",
            "18446744073709551616",
            "99999999999999999999999999",
            "٣",
        ] {
            assert!(wait(text).is_err(), "{text}");
        }
        for (text, millis) in [
            ("0", 0),
            ("0.000", 0),
            ("0.0000000000000001", 1),
            ("0.0004", 1),
            ("0.001", 1),
            ("0.0011", 2),
            ("5", 5000),
            ("2147483.647", 2_147_483_647),
        ] {
            assert_eq!(server_timeout(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["2147483.6471", "2147483.648", "2147484", "-1"] {
            assert!(server_timeout(text).is_err(), "{text}");
        }
    }

    #[test]
    fn long_values_are_shown_in_part_and_on_one_line() {
        assert_eq!(shown("a\nb\u{1b}"), "\"a\\nb\\u{1b}\"");
        assert_eq!(shown(&"x".repeat(80)), format!("\"{}\"", "x".repeat(80)));
        assert_eq!(shown(&"é".repeat(81)), format!("\"{}\"…", "é".repeat(80)));
    }
}
