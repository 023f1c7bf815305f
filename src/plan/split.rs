//! A file that must be several → the names to give them. Pure.
//!
//! The first keeps the file's version, the others get the seconds behind it; if the next version that exists is too near,
//! they come behind the newest. So their order is that of the statements, and no name is taken.

use std::collections::BTreeSet;
use std::fmt;

use crate::files::name;
use crate::migration::{Direction, Migration, Version};
use crate::sql::place::{Place, Precision};
use crate::sql::{self, Kind, Statement};

/// The files that a file is to be split into.
#[derive(Debug, PartialEq, Eq)]
pub struct Split {
    pub file: String,
    /// Their names, and what each is to hold: the statements' commands, or how many there are.
    pub parts: Vec<(String, String)>,
    /// A version that stands between the first part and the others, which so come behind it.
    pub behind: Option<Version>,
}

/// What to do with a file whose statements cannot all run in one transaction.
#[derive(Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing but settings stands beside the statement.
    WithoutSettings,
    Split(Split),
}

/// Finds the remedy; the versions of files that it proposes are added to `taken`.
pub fn remedy(migration: &Migration, taken: &mut BTreeSet<Version>) -> Option<Remedy> {
    let statements = migration.script.statements.iter();
    let mut others = statements.filter(|it| !matches!(it.kind, Kind::Outside(_)));
    let is_setting = |it: &Statement| {
        let verb = sql::verb(&migration.text[it.range()]);
        verb == "SET" || verb == "RESET"
    };
    if others.all(is_setting) && migration.script.statements.iter().any(is_setting) {
        Some(Remedy::WithoutSettings)
    } else {
        by_kind(migration, taken).map(Remedy::Split)
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MARKER: &str = "put `-- lockstep: no-transaction` on its first line";
        match self {
            Remedy::WithoutSettings => write!(
                f,
                "remove lock_timeout and statement_timeout: a statement outside a transaction runs without them; \
                 if it needs another setting, {MARKER}"
            ),
            Remedy::Split(split) => write!(
                f,
                "{split}\n  hint: or leave it one file, whose statements run one by one, each exactly once: {MARKER}"
            ),
        }
    }
}

/// How a file is to be split whose statements cannot all run in one transaction: each that cannot is alone, those
/// between them stay together. The versions of the new files are added to `taken`.
fn by_kind(migration: &Migration, taken: &mut BTreeSet<Version>) -> Option<Split> {
    let statements = &migration.script.statements;
    let is_alone = |it: &Statement| matches!(it.kind, Kind::Outside(_));
    let groups = statements.chunk_by(|a, b| !is_alone(a) && !is_alone(b));
    split(migration, &groups.collect::<Vec<_>>(), taken)
}

/// How a file is to be split before the statement of this number, counted from 0.
pub fn before(
    migration: &Migration,
    number: usize,
    taken: &mut BTreeSet<Version>,
) -> Option<Split> {
    let (first, second) = migration.script.statements.split_at_checked(number)?;
    split(migration, &[first, second], taken)
}

/// Says that a file seems to use an enum value that it adds, and how to split it. It is no reason to refuse the file: the
/// literal may be something else.
pub fn enum_warning(migration: &Migration, taken: &mut BTreeSet<Version>) -> Option<String> {
    let statements = &migration.script.statements;
    let found = sql::enum_use(&migration.text, statements);
    let found = found.filter(|_| !migration.script.no_transaction)?;
    let line = |number: usize| {
        let start = statements[number].range().start;
        Place::of(&migration.text, start, Precision::Statement).line
    };
    let remedy = before(migration, found.used, taken)
        .map_or(String::new(), |split| format!("; if it does, {split}"));
    Some(format!(
        "{}: line {} adds the value '{}' to the enum {}, and line {} seems to use it, which PostgreSQL refuses in one \
         transaction{remedy}",
        migration.file_name(),
        line(found.added),
        found.value,
        found.type_name,
        line(found.used),
    ))
}

fn split(
    migration: &Migration,
    groups: &[&[Statement]],
    taken: &mut BTreeSet<Version>,
) -> Option<Split> {
    if groups.iter().any(|group| group.is_empty()) {
        return None;
    }
    // The way back follows its way up, and is not split by itself.
    let (_, name, Direction::Up) = name::parse(migration.file_name())? else {
        return None;
    };
    let (versions, behind) = versions(migration.version, groups.len(), taken)?;
    taken.extend(&versions);
    let part = |(number, (version, group)): (usize, (&Version, &&[Statement]))| {
        let file_name = name::of(*version, &format!("{name}_{}", number + 1), Direction::Up);
        (file_name, holds(migration, group))
    };
    Some(Split {
        file: migration.file_name().to_owned(),
        parts: versions.iter().zip(groups).enumerate().map(part).collect(),
        behind,
    })
}

/// So many versions in order, the first of which is `own`, and the others not `taken`; and the version that stands between
/// the first and the others, if there is no room before it.
fn versions(
    own: Version,
    count: usize,
    taken: &BTreeSet<Version>,
) -> Option<(Vec<Version>, Option<Version>)> {
    use std::ops::Bound::{Excluded, Unbounded};
    let following = |after: Version| -> Option<Vec<Version>> {
        let seconds = std::iter::successors(Some(after), |version| version.next()).skip(1);
        let versions: Vec<Version> = seconds.take(count - 1).collect();
        (versions.len() == count - 1).then_some(versions)
    };
    let next = taken.range((Excluded(own), Unbounded)).next().copied();
    let fits = |others: &Vec<Version>| next.is_none_or(|next| others.last() < Some(&next));
    let (others, behind) = match following(own).filter(fits) {
        Some(others) => (others, None),
        None => (following(*taken.last()?)?, next),
    };
    Some(([own].into_iter().chain(others).collect(), behind))
}

/// The commands, if there are few.
fn holds(migration: &Migration, statements: &[Statement]) -> String {
    let verb = |it: &Statement| sql::verb(&migration.text[it.range()]);
    let commands: Vec<String> = statements.iter().map(verb).collect();
    match commands.len() {
        0..=3 => commands.join(", "),
        count => format!("{} and {} more", commands[0], count - 1),
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "split {} into, in this order:", self.file)?;
        for (file_name, holds) in &self.parts {
            write!(f, "\n    {file_name}: {holds}")?;
        }
        match self.behind {
            None => Ok(()),
            Some(it) => write!(
                f,
                "\n    (all but the first then run after {it}, which has no room before it)"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn migration(file_name: &str, text: &str) -> Migration {
        Migration {
            version: Version::parse(&file_name[..14]).expect("fourteen digits"),
            path: file_name.into(),
            text: text.to_owned(),
            script: sql::parse(text),
        }
    }

    fn taken(versions: &[&str]) -> BTreeSet<Version> {
        let parse = |version: &&str| Version::parse(version).expect("fourteen digits");
        versions.iter().map(parse).collect()
    }

    #[test]
    fn the_parts_stand_in_order_and_take_no_name_that_is_taken() {
        const OWN: &str = "20231231235958";
        for (others, text, expected) in [
            (
                &[][..],
                "VACUUM a; VACUUM b; VACUUM c",
                &[
                    "20231231235958_a_1: VACUUM",
                    "20231231235959_a_2: VACUUM",
                    "20240101000000_a_3: VACUUM",
                ][..],
            ),
            // What can stay together does.
            (
                &["20230101000000", "20240101000000"],
                "SELECT 1; INSERT INTO a VALUES (1); REINDEX TABLE CONCURRENTLY a; CREATE TABLE b (); SELECT 2",
                &[
                    "20231231235958_a_1: SELECT, INSERT",
                    "20240101000001_a_2: REINDEX CONCURRENTLY",
                    "20240101000002_a_3: CREATE TABLE, SELECT",
                ],
            ),
            (
                &["20240101000000"],
                "SELECT 1; SELECT 1; SELECT 1; SELECT 1; VACUUM",
                &["20231231235958_a_1: SELECT and 3 more", "20231231235959_a_2: VACUUM"],
            ),
            (&["20231231235959", "99991231235959"], "VACUUM a; VACUUM b; VACUUM c; VACUUM d", &[]),
        ] {
            let mut taken = taken(others);
            taken.extend(Version::parse(OWN));
            let before = taken.len();
            let split = by_kind(&migration("20231231235958_a.tx.up.sql", text), &mut taken);
            let found: Vec<String> = split
                .into_iter()
                .flat_map(|split| split.parts)
                .map(|(file_name, holds)| {
                    let name = file_name.strip_suffix(".up.sql").expect("an up file");
                    format!("{name}: {holds}")
                })
                .collect();
            assert_eq!(found, expected, "{others:?} {text}");
            assert_eq!(taken.len(), before + expected.len().saturating_sub(1), "all are taken now");
        }
    }
}
