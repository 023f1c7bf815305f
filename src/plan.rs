//! Files and history → what is to be run, or every reason not to. Pure: no database, no file, no clock.
//!
//! | state | means | policy |
//! |---|---|---|
//! | applied | in history and on disk, checksum equal or unknown | |
//! | pending | on disk, not in history, newer than all that is applied | run |
//! | out-of-order | on disk, not in history, older than something applied | run and warn; under `strict` a divergence |
//! | modified | applied, the checksum differs | divergence |
//! | renamed | on disk, not in history, its text applied under a version whose file is gone, or bun's under fewer digits | divergence; never run |
//! | missing | in history, not on disk, between the oldest and the newest file | divergence |
//! | ahead | in history, newer than every file: an older image meets a newer database | fine, said once |
//! | archived | in history, older than every file: squashed | fine |

pub mod doubt;
pub mod refusal;
pub mod rollback;
pub mod split;

use std::collections::{BTreeMap, BTreeSet};

use self::refusal::Refusal;
pub use self::refusal::{Divergence, Obstruction};

use crate::config::{DivergencePolicy, Order, TableName};
use crate::migration::{Applied, History, Migration, State, Version};
use crate::sql::place::{Place, Precision};
use crate::sql::{self, Annotation, ObstacleKind};

/// What `up` has to do.
pub struct Plan<'a> {
    /// What is to be run, in order: pending and out-of-order.
    pub pending: Vec<&'a Migration>,
    /// Those of `pending` that are older than something applied.
    pub out_of_order: Vec<Version>,
    /// Applied versions that are newer than every file.
    pub ahead: Vec<Version>,
    /// Divergences that `MIGRATION_DIVERGENCE=warn` lets pass.
    pub tolerated: Vec<Divergence>,
}

/// A version that is on disk or in the history, and what it is.
pub struct Entry<'a> {
    pub version: Version,
    pub state: State,
    /// None if it is in the history only.
    pub migration: Option<&'a Migration>,
    /// Whether a run has started it outside a transaction, and not finished it: that run works still, or has died.
    pub is_unfinished: bool,
    /// Of a renamed one: the version that it was applied under.
    pub renamed_from: Option<Version>,
}

impl Entry<'_> {
    fn rename(&mut self, from: Version) {
        self.state = State::Renamed;
        self.renamed_from = Some(from);
    }
}

/// Tells of every version on disk and in the history what it is, in the order of the versions. `migrations` must be
/// sorted by version.
pub fn classify<'a>(migrations: &'a [Migration], history: &History) -> Vec<Entry<'a>> {
    let applied: BTreeMap<Version, &Applied> =
        history.applied.iter().map(|it| (it.version, it)).collect();
    let newest_applied = applied.keys().next_back().copied();
    let of_file = |migration: &'a Migration| {
        let version = migration.version;
        let state = match applied.get(&version).map(|it| it.checksum) {
            Some(Some(recorded)) if recorded != migration.script.checksum => State::Modified,
            Some(_) => State::Applied,
            None if Some(version) < newest_applied => State::OutOfOrder,
            None => State::Pending,
        };
        Entry {
            version,
            state,
            migration: Some(migration),
            is_unfinished: history.unfinished(version).is_some(),
            renamed_from: None,
        }
    };
    let gone = applied.keys().filter_map(|&version| without_file(migrations, version));
    let mut entries: Vec<Entry<'a>> = migrations.iter().map(of_file).chain(gone).collect();
    entries.sort_by_key(|entry| entry.version);
    find_renamed(&mut entries, &applied);
    find_shortened(&mut entries, history);
    entries
}

/// A file that is not recorded, and whose text is recorded under a version that has no file, was renamed: it is one entry,
/// not two. A file without a statement could be any.
fn find_renamed(entries: &mut Vec<Entry<'_>>, applied: &BTreeMap<Version, &Applied>) {
    let gone = entries.iter().filter(|it| it.migration.is_none());
    let mut gone: Vec<&Applied> = gone.filter_map(|it| applied.get(&it.version).copied()).collect();
    let mut moved = BTreeSet::new();
    for entry in entries.iter_mut().filter(|it| !it.is_unfinished) {
        let script = entry.migration.map(|it| &it.script);
        let Some(script) = script.filter(|it| !it.statements.is_empty()) else {
            continue;
        };
        let is_same = |it: &&Applied| it.checksum == Some(script.checksum);
        if let Some(at) = gone.iter().position(is_same).filter(|_| entry.state.is_to_run()) {
            let from = gone.remove(at).version;
            entry.rename(from);
            moved.insert(from);
        }
    }
    entries.retain(|it| !moved.contains(&it.version));
}

/// A file that is not recorded, and whose version is with fewer digits, was renamed for us.
fn find_shortened(entries: &mut [Entry<'_>], history: &History) {
    let short: Vec<Version> = history.foreign.iter().filter_map(|it| Version::short(it)).collect();
    for entry in entries.iter_mut().filter(|it| it.state.is_to_run()) {
        if let Some(from) = short.iter().find(|it| it.is_short_for(entry.version)) {
            entry.rename(*from);
        }
    }
}

/// The entry of an applied version, unless it has a file.
fn without_file<'a>(migrations: &[Migration], version: Version) -> Option<Entry<'a>> {
    let at = migrations.binary_search_by_key(&version, |it| it.version).err()?;
    let state = match at {
        at if at == migrations.len() => State::Ahead,
        0 => State::Archived,
        _ => State::Missing,
    };
    Some(Entry { version, state, migration: None, is_unfinished: false, renamed_from: None })
}

/// By what it is decided.
pub struct Rules<'a> {
    pub order: Order,
    pub policy: DivergencePolicy,
    /// What our own tables are called.
    pub own_tables: Vec<&'a TableName>,
}

/// Decides what is to be run. `migrations` must be sorted by version.
///
/// # Errors
///
/// A [`Refusal`] with every divergence, unless the policy lets them pass, and everything in a pending file that
/// cannot be run.
pub fn make<'a>(
    migrations: &'a [Migration],
    history: &History,
    rules: &Rules<'_>,
) -> Result<Plan<'a>, Refusal> {
    let entries = classify(migrations, history);
    let divergences = divergences(&entries, rules.order);
    let pending: Vec<&'a Migration> = pending(&entries).collect();
    let mut taken = known_versions(migrations, history);
    let files = pending.iter();
    let obstructions =
        files.flat_map(|it| obstructions_of_up_file(it, &rules.own_tables, &mut taken));
    let obstructions: Vec<Obstruction> = obstructions.collect();
    let (divergences, tolerated) = match rules.policy {
        DivergencePolicy::Refuse => (divergences, Vec::new()),
        DivergencePolicy::Warn => (Vec::new(), divergences),
    };
    if !divergences.is_empty() || !obstructions.is_empty() {
        return Err(Refusal { divergences, obstructions });
    }

    let versions =
        |state: State| entries.iter().filter(|it| it.state == state).map(|it| it.version).collect();
    Ok(Plan {
        out_of_order: versions(State::OutOfOrder),
        ahead: versions(State::Ahead),
        tolerated,
        pending,
    })
}

/// What is to be run, in order, if nothing forbids it.
pub fn pending<'a>(entries: &[Entry<'a>]) -> impl Iterator<Item = &'a Migration> {
    entries.iter().filter(|it| it.state.is_to_run()).filter_map(|it| it.migration)
}

/// The disagreements between history and files, in the order of the versions.
pub fn divergences(entries: &[Entry<'_>], order: Order) -> Vec<Divergence> {
    let diverges = |entry: &&Entry<'_>| match entry.state {
        State::Modified | State::Renamed | State::Missing => true,
        State::OutOfOrder => order == Order::Strict,
        State::Applied | State::Pending | State::Ahead | State::Archived => false,
    };
    let divergences = entries.iter().filter(diverges).map(|entry| Divergence {
        version: entry.version,
        state: entry.state,
        renamed_from: entry.renamed_from,
        file: entry.migration.map(|it| it.path.display().to_string()),
    });
    divergences.collect()
}

/// The versions that no new file may have.
pub fn known_versions<'a>(
    migrations: impl IntoIterator<Item = &'a Migration>,
    history: &History,
) -> BTreeSet<Version> {
    let files = migrations.into_iter().map(|it| it.version);
    let applied = history.applied.iter().map(|it| it.version);
    files.chain(applied).collect()
}

/// Everything in a file that cannot be run from a file.
pub fn obstructions(migration: &Migration) -> impl Iterator<Item = Obstruction> + '_ {
    migration.script.obstacles.iter().map(|it| obstruction(migration, it.offset, it.kind.clone()))
}

/// Something at this byte of a file.
pub fn obstruction(migration: &Migration, offset: usize, kind: ObstacleKind) -> Obstruction {
    let place = Place::of(&migration.text, offset, Precision::Exact);
    Obstruction {
        file: migration.path.display().to_string(),
        line: place.line,
        column: place.column,
        kind,
        remedy: None,
    }
}

/// The same of an up file, with what no up file may hold, and with what is to be done if it holds what must stand alone.
/// The versions that this proposes are `taken` from then on.
pub fn obstructions_of_up_file(
    migration: &Migration,
    own_tables: &[&TableName],
    taken: &mut BTreeSet<Version>,
) -> Vec<Obstruction> {
    let mut found: Vec<Obstruction> = obstructions(migration).collect();
    if let Some((offset, comment)) = migration.script.down_part.as_deref() {
        let kind = ObstacleKind::Annotation(Annotation::Down, comment.clone());
        found.push(obstruction(migration, *offset, kind));
    }
    let statements = (migration.script.statements.iter()).zip(migration.statements());
    found.extend(statements.filter_map(|(it, text)| {
        let name = sql::created_or_dropped_table(text)?;
        let (table, schema) = name.split_last()?;
        let is = |own: &&TableName| {
            let own_schema = own.schema.as_deref().unwrap_or("public");
            own.name == *table && schema.last().is_none_or(|it| it == own_schema)
        };
        own_tables.iter().find(|it| is(it))?;
        Some(obstruction(migration, it.range().start, ObstacleKind::OwnTable(table.clone())))
    }));
    found.sort_by_key(|it| (it.line, it.column));
    let shares = |it: &Obstruction| matches!(it.kind, ObstacleKind::SharedFile { .. });
    // A piece that we would refuse is no remedy.
    if found.iter().all(shares)
        && let Some(first) = found.first_mut()
    {
        first.remedy = split::remedy(migration, taken);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::Interrupted;
    use crate::sql;

    fn own() -> &'static TableName {
        static OWN: std::sync::LazyLock<TableName> = std::sync::LazyLock::new(|| TableName {
            setting: "bun_migrations".to_owned(),
            schema: None,
            name: "bun_migrations".to_owned(),
        });
        &OWN
    }

    fn rules(order: Order, policy: DivergencePolicy) -> Rules<'static> {
        Rules { order, policy, own_tables: vec![own()] }
    }

    fn migration(version: u64, text: &str) -> Migration {
        let version = Version::parse(&format!("{version:014}")).expect("fourteen digits");
        let file_name = format!("{version}_x.up.sql");
        Migration {
            version,
            path: file_name.into(),
            text: text.to_owned(),
            script: sql::parse(text),
        }
    }

    fn applied(version: u64, text: Option<&str>) -> Applied {
        let version = Version::parse(&format!("{version:014}")).expect("fourteen digits");
        Applied { version, id: 0, group: 1, checksum: text.map(|text| sql::parse(text).checksum) }
    }

    /// Pending, out-of-order, ahead, and divergences or obstructions, in short.
    fn made(
        files: &[Migration],
        applied: Vec<Applied>,
        order: Order,
        policy: DivergencePolicy,
    ) -> String {
        let history = History { applied: applied.into(), ..History::default() };
        let versions = |versions: &[Version]| -> String {
            let short = |version: &Version| version.to_string().trim_start_matches('0').to_owned();
            versions.iter().map(short).collect::<Vec<_>>().join(",")
        };
        let kinds = |divergences: &[Divergence]| -> String {
            let short = |it: &Divergence| format!("{:?} {}", it.state, versions(&[it.version]));
            divergences.iter().map(short).collect::<Vec<_>>().join(",")
        };
        match make(files, &history, &rules(order, policy)) {
            Ok(plan) => {
                let pending: Vec<Version> = plan.pending.iter().map(|it| it.version).collect();
                format!(
                    "run {} late {} ahead {} pass {}",
                    versions(&pending),
                    versions(&plan.out_of_order),
                    versions(&plan.ahead),
                    kinds(&plan.tolerated)
                )
            }
            Err(Refusal { divergences, obstructions }) => {
                format!("refuse {} and {} obstructions", kinds(&divergences), obstructions.len())
            }
        }
    }

    #[test]
    fn every_state_has_its_consequence() {
        use DivergencePolicy::{Refuse, Warn};
        use Order::{Any, Strict};
        let files =
            || vec![migration(2, "SELECT 2"), migration(4, "SELECT 4"), migration(6, "SELECT 6")];
        let known = |version: u64| applied(version, Some(&format!("SELECT {version}")));
        for (history, order, policy, expected) in [
            (vec![], Any, Refuse, "run 2,4,6 late  ahead  pass "),
            (vec![known(2), known(4), known(6)], Strict, Refuse, "run  late  ahead  pass "),
            (vec![applied(2, None), known(4)], Strict, Refuse, "run 6 late  ahead  pass "),
            // Archived: older than every file.
            (
                vec![known(1), known(2), known(4), known(6)],
                Strict,
                Refuse,
                "run  late  ahead  pass ",
            ),
            // Ahead: newer than every file.
            (
                vec![known(2), known(4), known(6), known(8)],
                Strict,
                Refuse,
                "run  late  ahead 8 pass ",
            ),
            (vec![known(4)], Any, Refuse, "run 2,6 late 2 ahead  pass "),
            (vec![known(4)], Strict, Refuse, "refuse OutOfOrder 2 and 0 obstructions"),
            (vec![known(4)], Strict, Warn, "run 2,6 late 2 ahead  pass OutOfOrder 2"),
            // Ahead makes a pending file out-of-order, too.
            (vec![known(2), known(8)], Any, Refuse, "run 4,6 late 4,6 ahead 8 pass "),
            (
                vec![known(2), known(3), known(4)],
                Any,
                Refuse,
                "refuse Missing 3 and 0 obstructions",
            ),
            (vec![known(2), known(3), known(4)], Any, Warn, "run 6 late  ahead  pass Missing 3"),
            (
                vec![applied(2, Some("SELECT 3")), known(5), known(6)],
                Strict,
                Refuse,
                "refuse Modified 2,OutOfOrder 4,Missing 5 and 0 obstructions",
            ),
            (
                vec![applied(2, Some("select\n2; -- as it was"))],
                Any,
                Refuse,
                "run 4,6 late  ahead  pass ",
            ),
        ] {
            let shown: Vec<String> = history.iter().map(|it| it.version.to_string()).collect();
            assert_eq!(
                made(&files(), history, order, policy),
                expected,
                "{shown:?} {order:?} {policy:?}"
            );
        }
    }

    #[test]
    fn every_version_has_its_state_in_the_order_of_the_versions() {
        let files = [2, 4, 6, 8].map(|version| migration(version, "SELECT 1"));
        let other = Some("SELECT 2");
        let unfinished = |version: u64| Interrupted {
            version: Version::parse(&format!("{version:014}")).expect("fourteen digits"),
            runner: "somebody".to_owned(),
            checksum: None,
            statement: None,
            done: None,
            rollback: None,
        };
        let history = History {
            // Not in order, and one of them twice: the last one counts.
            applied: [
                applied(9, None),
                applied(1, None),
                applied(4, None),
                applied(5, None),
                applied(2, None),
                applied(2, other),
                applied(7, other),
            ]
            .into(),
            interrupted: vec![unfinished(3), unfinished(6)],
            ..History::default()
        };
        let shown = |files: &[Migration], history: &History| -> Vec<String> {
            let entries = classify(files, history);
            let shown = |it: &Entry<'_>| {
                let unfinished = if it.is_unfinished { " unfinished" } else { "" };
                let file = it.migration.map_or("no file", |_| "file");
                let version = it.version.to_string();
                format!("{} {} {file}{unfinished}", version.trim_start_matches('0'), it.state)
            };
            entries.iter().map(shown).collect()
        };
        assert_eq!(
            shown(&files, &history),
            [
                "1 archived no file",
                "2 modified file",
                "4 applied file",
                "5 missing no file",
                "6 out-of-order file unfinished",
                "7 missing no file",
                "8 out-of-order file",
                "9 ahead no file",
            ]
        );
        assert_eq!(shown(&files[..1], &History::default()), ["2 pending file"]);
        let seen: Vec<String> = State::ALL.iter().map(State::to_string).collect();
        assert_eq!(
            seen,
            [
                "applied",
                "pending",
                "out-of-order",
                "modified",
                "renamed",
                "missing",
                "ahead",
                "archived"
            ]
        );
    }

    #[test]
    fn only_what_is_pending_can_be_obstructed() {
        let files = [migration(1, "COMMIT"), migration(2, "\n  COMMIT; VACUUM;\n\\d")];
        let (any, warn) = (Order::Any, DivergencePolicy::Warn);
        let both = vec![applied(1, None), applied(2, None)];
        assert_eq!(made(&files, both, any, warn), "run  late  ahead  pass ");
        assert_eq!(made(&files, vec![applied(1, None)], any, warn), "refuse  and 3 obstructions");
        assert_eq!(made(&files, vec![], any, warn), "refuse  and 4 obstructions");

        let found: Vec<String> = obstructions(&files[1]).map(|it| it.to_string()).collect();
        let places: Vec<&str> =
            found.iter().map(|it| it.split(": ").next().expect("a place")).collect();
        assert_eq!(
            places,
            [
                "00000000000002_x.up.sql:2:3",
                "00000000000002_x.up.sql:2:11",
                "00000000000002_x.up.sql:3:1"
            ]
        );
    }
}
