//! Old versions → 14 digits, so that order is kept and every timestamp to come is newer.
//!
//! What tells a moment becomes that moment: 14 digits, dates with and without a time, seconds and their fractions since 1970.
//! A counter is padded with zeros. If a directory has both, and that would change the order, all are padded.

use time::UtcDateTime;

use super::layout::Source;
use crate::files::Problem;
use crate::files::new::DIGITS;
use crate::migration::Version;

/// The version of each source, in their order.
///
/// # Errors
///
/// Which of them cannot be told in 14 digits.
pub fn versions(sources: &[Source<'_>]) -> Result<Vec<Version>, Vec<Problem>> {
    if sources.iter().any(|source| source.number.len() > 1) {
        return dotted(sources);
    }
    let digits = |source: &Source<'_>| source.number.concat();
    let moments: Vec<Option<Version>> = sources
        .iter()
        .map(|source| moment(&source.up.digits).or_else(|| padded(&digits(source))))
        .collect();
    if keeps_order(sources, &moments) {
        return Ok(moments.into_iter().flatten().collect());
    }
    let padded: Vec<_> = sources.iter().map(|it| padded(&digits(it))).collect();
    if keeps_order(sources, &padded) {
        return Ok(padded.into_iter().flatten().collect());
    }
    let unknown = sources.iter().zip(&padded).filter(|(_, it)| it.is_none());
    Err(unknown.map(|(source, _)| too_long(source)).collect())
}

fn too_long(source: &Source<'_>) -> Problem {
    let problem = "the version cannot be told in 14 digits: rename it";
    Problem::new(&source.up.found.path, problem)
}

/// Returns true if and only if all have a version, and are sorted by it as by their numbers.
fn keeps_order(sources: &[Source<'_>], versions: &[Option<Version>]) -> bool {
    let number = |source: &Source<'_>| {
        let digits = source.number.concat();
        (digits.len(), digits)
    };
    let pairs = sources.iter().zip(versions);
    let mut pairs: Vec<_> = pairs.map(|(it, version)| (number(it), *version)).collect();
    pairs.sort();
    pairs.iter().all(|(_, version)| version.is_some()) && pairs.is_sorted_by_key(|(_, it)| *it)
}

/// Zeros in front: of a number without leading zeros.
fn padded(digits: &str) -> Option<Version> {
    Version::parse(&format!("{digits:0>14}"))
}

/// The moment that the digits tell, as a version.
fn moment(digits: &str) -> Option<Version> {
    let date = |text: String| {
        let version = Version::parse(&text).filter(|it| it.is_date())?;
        ("1970".."2200").contains(&&text[..4]).then_some(version)
    };
    let unix = |divisor: u64| since_1970(digits.parse::<u64>().ok()? / divisor);
    match digits.len() {
        8 => date(format!("{digits}000000")),
        // Seconds that begin with a date and an hour are of 2032 and later.
        10 => date(format!("{digits}0000")).or_else(|| unix(1)),
        12 => date(format!("{digits}00")),
        13 => unix(1_000),
        14 => Version::parse(digits),
        16 => unix(1_000_000),
        17 => date(digits[..14].to_owned()),
        19 => unix(1_000_000_000),
        _ => None,
    }
}

/// None before 2001, when numbers of that length begin, and after 2099.
fn since_1970(seconds: u64) -> Option<Version> {
    if !(1_000_000_000..4_102_444_800).contains(&seconds) {
        return None;
    }
    let moment = UtcDateTime::from_unix_timestamp(seconds.try_into().ok()?).ok()?;
    Version::parse(&moment.format(DIGITS).ok()?)
}

/// Versions of several numbers: each number gets as many places as the longest at its place needs, two at least.
fn dotted(sources: &[Source<'_>]) -> Result<Vec<Version>, Vec<Problem>> {
    let count = sources.iter().map(|it| it.number.len()).max().unwrap_or(0);
    let longest = |place: usize| {
        let lengths = sources.iter().map(|it| it.number.get(place));
        lengths.flatten().map(String::len).max().unwrap_or(0).max(2)
    };
    let widths: Vec<usize> = (0..count).map(longest).collect();
    let oldest_moment = Version::parse("19700101000000");
    let version = |source: &Source<'_>| {
        let number = |(place, width): (usize, &usize)| {
            let number = source.number.get(place).map_or("0", String::as_str);
            format!("{number:0>width$}")
        };
        let digits: String = widths.iter().enumerate().map(number).collect();
        padded(digits.trim_start_matches('0')).filter(|it| Some(*it) < oldest_moment)
    };
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for source in sources {
        match version(source) {
            Some(version) => found.push(version),
            None => problems.push(too_long(source)),
        }
    }
    match problems.is_empty() {
        true => Ok(found),
        false => Err(problems),
    }
}
