//! Other tools' migrations → ours: which tool's they are, what each file becomes, and what cannot come along.
//!
//! Order is kept, and no byte of SQL within a part changes. Whatever cannot be brought along is a complaint, and all of
//! them come together: a directory that lacks one migration is worse than none.

pub mod history;
mod layout;
mod parts;
mod version;

use std::fmt;

use crate::files::import::Found;
use crate::files::{Problem, name};
use crate::migration::{Direction, Version};

/// The tools whose migrations are understood.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tool {
    Bun,
    Dbmate,
    Diesel,
    Flyway,
    GolangMigrate,
    Goose,
    Prisma,
    Refinery,
    SqlMigrate,
    Sqlx,
    Tern,
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tool::Bun => "bun",
            Tool::Dbmate => "dbmate",
            Tool::Diesel => "diesel",
            Tool::Flyway => "Flyway",
            Tool::GolangMigrate => "golang-migrate",
            Tool::Goose => "goose",
            Tool::Prisma => "Prisma",
            Tool::Refinery => "refinery",
            Tool::SqlMigrate => "sql-migrate",
            Tool::Sqlx => "sqlx",
            Tool::Tern => "tern",
        })
    }
}

/// The names of tools as a person would list them.
pub fn listed(tools: &[Tool]) -> String {
    let names: Vec<String> = tools.iter().map(Tool::to_string).collect();
    names.join(" or ")
}

/// A directory, understood.
#[derive(Debug)]
pub struct Import {
    /// Whose it is. Some tools write files alike; then it does not matter, but for the history.
    pub tools: Vec<Tool>,
    /// Sorted by version.
    pub migrations: Vec<Brought>,
    /// Files that stay behind, and why that is no harm.
    pub left: Vec<Problem>,
    /// Every name is ours already.
    pub is_ours: bool,
}

/// One migration, under its old names and the new one.
#[derive(Debug)]
pub struct Brought {
    pub version: Version,
    /// What stands between the version and the extension.
    pub name: String,
    /// The old version as numbers, without leading zeros: `1.2`.
    number: String,
    /// The name of the old file, or of its directory where the tool gives each migration one.
    id: String,
    pub up: Part,
    pub down: Option<Part>,
}

/// One of the two files of a migration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// The file that it came from.
    pub from: String,
    pub text: String,
}

impl Brought {
    pub fn up_name(&self) -> String {
        name::of(self.version, &self.name, Direction::Up)
    }

    pub fn down_name(&self) -> String {
        name::of(self.version, &self.name, Direction::Down)
    }

    /// The names of the new files, and what is in them.
    pub fn files(&self) -> impl Iterator<Item = (String, &str)> {
        let down = self.down.as_ref();
        let down = down.map(|part| (self.down_name(), part.text.as_str()));
        [(self.up_name(), self.up.text.as_str())]
            .into_iter()
            .chain(down)
    }
}

/// Understands a directory's files.
///
/// # Errors
///
/// Everything that cannot come along, by its path below the directory; or why it is not known whose files they are, without a
/// path.
pub fn understand(found: &[Found]) -> Result<Import, Vec<Problem>> {
    let layout::Recognised {
        tools,
        sources,
        left,
    } = layout::recognise(found)?;
    let mut problems = Vec::new();
    let mut parts = Vec::with_capacity(sources.len());
    for source in &sources {
        match parts::of(tools[0], source) {
            Ok(part) => parts.push(part),
            Err(problem) => problems.push(Problem::new(&source.up.found.path, problem)),
        }
    }
    let versions = version::versions(&sources).unwrap_or_else(|more| {
        problems.extend(more);
        Vec::new()
    });
    if !problems.is_empty() {
        return Err(problems);
    }
    let sources = sources.iter().zip(parts).zip(versions);
    let brought = sources.map(|((source, (up, down)), version)| Brought {
        version,
        name: name_for(&source.up.name),
        number: source.number.join("."),
        id: source.up.id.clone(),
        up,
        down,
    });
    let mut migrations: Vec<Brought> = brought.collect();
    migrations.sort_by_key(|it| it.version);
    let pairs = migrations.windows(2);
    problems.extend(pairs.filter_map(|pair| misplaced(tools[0], pair)));
    match problems.is_empty() {
        true => Ok(Import {
            is_ours: migrations.iter().all(is_ours),
            tools,
            migrations,
            left,
        }),
        false => Err(problems),
    }
}

/// Two files of one version: only a person knows which is first. A tool that sorts names as text, so that 10 comes before
/// 2, has another order than we would.
fn misplaced(tool: Tool, pair: &[Brought]) -> Option<Problem> {
    let [first, second] = pair else { return None };
    let from = &first.up.from;
    let by_text = matches!(tool, Tool::Dbmate | Tool::Diesel | Tool::Prisma);
    let problem = if first.version == second.version {
        let version = second.version;
        format!("would get the version {version} of {from}: give one of them another number")
    } else if by_text && first.id > second.id {
        format!(
            "{tool} sorts names as text and runs this before {from}, though its number is greater: make the numbers equally long"
        )
    } else {
        return None;
    };
    Some(Problem::new(&second.up.from, problem))
}

/// Returns true if and only if the old names are ours.
fn is_ours(migration: &Brought) -> bool {
    let new = (migration.version, migration.name.as_str());
    let same = |part: &Part, direction| {
        let old = part.from.rsplit('/').next().and_then(name::parse);
        old == Some((new.0, new.1, direction))
    };
    let down = migration.down.as_ref();
    same(&migration.up, Direction::Up) && down.is_none_or(|it| same(it, Direction::Down))
}

/// The name as it is, if it is one of ours; else with an underscore for all that is not.
fn name_for(old: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !old.is_empty() && old.chars().all(is_plain) {
        return old.to_owned();
    }
    let words = old.split(|c| !is_plain(c)).filter(|word| !word.is_empty());
    let name = words.collect::<Vec<_>>().join("_");
    match name.is_empty() {
        true => "migration".to_owned(),
        false => name,
    }
}

#[cfg(test)]
mod tests;
