//! Old versions → 14 digits, so that order is kept and every timestamp to come is newer.
//!
//! What tells a moment becomes that moment: 14 digits, dates with and without a time, seconds and their fractions since 1970.
//! A counter is padded with zeros. If a directory has both, and that would change the order, all are padded.

use time::UtcDateTime;

use super::layout::Source;
use crate::migration::Version;

/// The version of each source, in their order; none of what cannot be told in 14 digits.
pub fn versions(sources: &[Source<'_>]) -> Vec<Option<Version>> {
    if sources.iter().any(|source| source.up.number.len() > 1) {
        return dotted(sources);
    }
    let padded: Vec<_> =
        (sources.iter()).map(|source| Version::padded(source.up.number[0])).collect();
    let moments: Vec<_> = (sources.iter().zip(&padded))
        .map(|(source, padded)| moment(&source.up.digits).or(*padded))
        .collect();
    if keeps_order(sources, &moments) { moments } else { padded }
}

/// Returns true if and only if all have a version, and are sorted by it as by their numbers.
fn keeps_order(sources: &[Source<'_>], versions: &[Option<Version>]) -> bool {
    let mut pairs: Vec<_> = sources.iter().map(|it| &it.up.number).zip(versions).collect();
    pairs.sort();
    versions.iter().all(Option::is_some) && pairs.is_sorted_by_key(|(_, version)| *version)
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
    Version::at(UtcDateTime::from_unix_timestamp(seconds.try_into().ok()?).ok()?)
}

/// Versions of several numbers: each number gets as many places as the longest at its place needs, two at least.
fn dotted(sources: &[Source<'_>]) -> Vec<Option<Version>> {
    let numbers = || sources.iter().map(|it| &it.up.number);
    let count = numbers().map(Vec::len).max().unwrap_or(0);
    let longest = |place: usize| {
        numbers().filter_map(|it| it.get(place)).max().map_or(0, |it| it.to_string().len()).max(2)
    };
    let widths: Vec<usize> = (0..count).map(longest).collect();
    let oldest_moment = Version::parse("19700101000000");
    let version = |number: &Vec<u64>| {
        let digits = widths.iter().enumerate().map(|(place, width)| {
            let number = number.get(place).unwrap_or(&0);
            format!("{number:0width$}")
        });
        let version = Version::padded(digits.collect::<String>().parse().ok()?);
        version.filter(|it| Some(*it) < oldest_moment)
    };
    numbers().map(version).collect()
}
