//! History and down files → what is to be rolled back, or every reason not to. Pure: no database, no file, no clock.
//!
//! Migrations go in reverse order of their application, which the history's ids tell: what was merged late was applied
//! late, whatever its version says. A file that was edited after it was applied is no reason not to: what undoes it is
//! the down file, and nobody compares that. Names in the history that are no versions are neither counted nor touched.
//!
//! `down` is relative, so it matters when it counts. What is rolled back is what was the newest when the command was
//! given: of two that are given at the same time, the second finds its work done, and does not take the next group.

use crate::files::{Problem, name};
use crate::migration::{Direction, History, Migration, Version};
use crate::plan;
pub use crate::plan::refusal::Objection;
use crate::plan::refusal::WayBack;

/// Which migrations `down` rolls back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rollback {
    /// What one run of `up` applied.
    NewestGroup,
    /// This many, the newest first.
    Newest(usize),
}

/// What is to be rolled back, in order, and up to which row the history was seen.
pub struct Chosen {
    records: Vec<Record>,
    newest_id: i64,
}

/// A migration that is recorded, or whose record a rollback has taken back that was not finished.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Record {
    version: Version,
    /// None if its rollback was begun.
    id: Option<i64>,
    group: i64,
}

impl Chosen {
    /// Chooses among what the history holds.
    ///
    /// # Errors
    ///
    /// [`WayBack::TooFew`] if there is something, but less than was asked for.
    pub fn among(history: &History, which: Rollback) -> Result<Chosen, WayBack> {
        let mut records = newest_first(history);
        match which {
            Rollback::NewestGroup => {
                let newest = records.iter().map(|it| it.group).max();
                records.retain(|it| Some(it.group) == newest);
            }
            Rollback::Newest(asked) if asked > records.len() && !records.is_empty() => {
                let recorded = records.len();
                return Err(WayBack::TooFew { asked, recorded });
            }
            Rollback::Newest(count) => records.truncate(count),
        }
        Ok(Chosen { records, newest_id: newest_id(history) })
    }

    /// Returns true if and only if there is nothing to roll back.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The versions that are still to be rolled back, in order, whatever others have done meanwhile.
    ///
    /// # Errors
    ///
    /// [`WayBack::NewerApplied`] if something was applied since: it may need what is to go.
    pub fn left(&self, history: &History) -> Result<Vec<Version>, WayBack> {
        if newest_id(history) > self.newest_id {
            let newer = history.applied.iter().filter(|it| it.id > self.newest_id);
            return Err(WayBack::NewerApplied(newer.map(|it| it.version).collect()));
        }
        let now = newest_first(history);
        let is_left = |chosen: &&Record| {
            let mut same = now.iter().filter(|it| it.version == chosen.version);
            same.any(|it| it.id.is_none() || it.id == chosen.id)
        };
        Ok(self.records.iter().filter(is_left).map(|it| it.version).collect())
    }

    /// Finds the down file of each of these versions, by `read`.
    ///
    /// # Errors
    ///
    /// [`WayBack::None`] with every file that is missing or unusable, and everything in them that cannot be run.
    pub fn down_files(
        versions: &[Version],
        migrations: &[Migration],
        read: impl Fn(Version) -> Result<Option<Migration>, Problem>,
    ) -> Result<Vec<Migration>, WayBack> {
        let (mut files, mut objections) = (Vec::new(), Vec::new());
        for &version in versions {
            let up = migrations.iter().find(|it| it.version == version);
            match (up, read(version)) {
                (None, _) => objections.push(Objection::NoFile(version)),
                (_, Err(problem)) => objections.push(Objection::Unusable(problem)),
                (Some(up), Ok(None)) => objections.push(Objection::NoDownFile(expected(up))),
                (_, Ok(Some(down))) => {
                    objections.extend(plan::obstructions(&down).map(Objection::Obstructed));
                    files.push(down);
                }
            }
        }
        if objections.is_empty() { Ok(files) } else { Err(WayBack::None(objections)) }
    }
}

/// One of each version, in reverse order of application. A rollback that was begun comes first.
fn newest_first(history: &History) -> Vec<Record> {
    let begun = history
        .interrupted
        .iter()
        .filter_map(|it| Some(Record { version: it.version, id: None, group: it.rollback? }));
    let recorded = history.applied.iter().rev().map(|it| Record {
        version: it.version,
        id: Some(it.id),
        group: it.group,
    });
    let mut records: Vec<Record> = Vec::new();
    for record in begun.chain(recorded) {
        if records.iter().all(|it| it.version != record.version) {
            records.push(record);
        }
    }
    records
}

fn newest_id(history: &History) -> i64 {
    history.applied.iter().map(|it| it.id).max().unwrap_or(0)
}

/// The path that the down file would have.
fn expected(up: &Migration) -> String {
    let name = name::parse(up.file_name()).map_or("", |(_, name, _)| name);
    let file_name = name::of(up.version, name, Direction::Down);
    up.path.with_file_name(file_name).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::{Applied, Interrupted};

    fn version(number: u64) -> Version {
        Version::parse(&format!("{number:014}")).expect("fourteen digits")
    }

    /// Version, id and group of each record; version and group of each rollback that was begun.
    fn history(records: &[(u64, i64, i64)], begun: &[(u64, i64)]) -> History {
        let applied = |&(number, id, group): &(u64, i64, i64)| Applied {
            version: version(number),
            id,
            group,
            checksum: None,
        };
        let interrupted = |&(number, group): &(u64, i64)| Interrupted {
            version: version(number),
            runner: String::new(),
            checksum: None,
            statement: None,
            done: None,
            rollback: Some(group),
        };
        History {
            applied: records.iter().map(applied).collect(),
            interrupted: begun.iter().map(interrupted).collect(),
            ..History::default()
        }
    }

    /// The versions that are left of what is chosen in one history when it has become another.
    fn left(before: &History, which: Rollback, after: &History) -> String {
        let chosen = match Chosen::among(before, which) {
            Ok(chosen) => chosen,
            Err(WayBack::TooFew { asked, recorded }) => return format!("{recorded} of {asked}"),
            Err(_) => return "another error".to_owned(),
        };
        match chosen.left(after) {
            Ok(versions) => {
                let short = |it: &Version| it.to_string().trim_start_matches('0').to_owned();
                versions.iter().map(short).collect::<Vec<_>>().join(" ")
            }
            Err(WayBack::NewerApplied(newer)) => format!("{} newer", newer.len()),
            Err(_) => "another error".to_owned(),
        }
    }

    #[test]
    fn the_newest_go_in_reverse_order_of_their_ids() {
        use Rollback::{Newest, NewestGroup};
        let two_groups = &[(1, 1, 1), (4, 2, 1), (2, 3, 2), (3, 4, 2)][..];
        let twice = &[(1, 1, 1), (2, 2, 2), (1, 3, 2)][..];
        for (records, begun, which, expected) in [
            (two_groups, &[][..], NewestGroup, "3 2"),
            (two_groups, &[], Newest(1), "3"),
            (two_groups, &[], Newest(3), "3 2 4"),
            (two_groups, &[], Newest(5), "4 of 5"),
            (&[], &[], NewestGroup, ""),
            (&[], &[], Newest(5), ""),
            // A rollback that was begun goes on first, and belongs to its group.
            (two_groups, &[(5, 2)], NewestGroup, "5 3 2"),
            (two_groups, &[(5, 3)], NewestGroup, "5"),
            (two_groups, &[(5, 3)], Newest(2), "5 3"),
            (&[], &[(5, 0)], NewestGroup, "5"),
            // One of each version.
            (twice, &[], NewestGroup, "1 2"),
            (twice, &[], Newest(2), "1 2"),
        ] {
            let history = history(records, begun);
            assert_eq!(left(&history, which, &history), expected, "{records:?} {begun:?}");
        }
    }

    #[test]
    fn what_others_do_meanwhile_is_neither_done_again_nor_undone() {
        let group = Rollback::NewestGroup;
        let before = history(&[(1, 1, 1), (2, 2, 2), (3, 3, 2)], &[]);
        for (records, begun, expected) in [
            (&[(1, 1, 1), (2, 2, 2)][..], &[][..], "2"),
            (&[(1, 1, 1), (2, 2, 2)], &[(3, 2)], "3 2"),
            (&[(1, 1, 1)], &[], ""),
            (&[], &[], ""),
            // Applied again, by another row.
            (&[(1, 1, 1), (2, 2, 2), (3, 4, 2)], &[], "1 newer"),
            (&[(1, 1, 1), (2, 2, 2), (3, 3, 2), (4, 4, 3), (5, 5, 3)], &[], "2 newer"),
        ] {
            let after = history(records, begun);
            assert_eq!(left(&before, group, &after), expected, "{records:?} {begun:?}");
        }
    }
}
