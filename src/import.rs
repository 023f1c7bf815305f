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
    let versions = match version::versions(&sources) {
        Ok(versions) => versions,
        Err(more) => {
            problems.extend(more);
            Vec::new()
        }
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut migrations = Vec::with_capacity(sources.len());
    for ((source, parts), version) in sources.iter().zip(parts).zip(versions) {
        let (up, down) = parts;
        migrations.push(Brought {
            version,
            name: name_for(&source.up.name),
            number: source.number.join("."),
            id: source.up.id.clone(),
            up,
            down,
        });
    }
    migrations.sort_by_key(|it| it.version);
    complain_of_twins(&migrations, &mut problems);
    if runs_by_text(tools[0]) {
        complain_of_order(tools[0], &migrations, &mut problems);
    }
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

/// Two files of one version: only a person knows which is first.
fn complain_of_twins(migrations: &[Brought], problems: &mut Vec<Problem>) {
    for pair in migrations.windows(2) {
        let [first, second] = pair else { continue };
        if first.version == second.version {
            problems.push(Problem::new(
                &second.up.from,
                format!(
                    "would get the version {} of {}: give one of them another number",
                    second.version, first.up.from
                ),
            ));
        }
    }
}

/// Returns true if and only if the tool sorts names as text, so that 10 comes before 2.
fn runs_by_text(tool: Tool) -> bool {
    matches!(tool, Tool::Dbmate | Tool::Diesel | Tool::Prisma)
}

fn complain_of_order(tool: Tool, migrations: &[Brought], problems: &mut Vec<Problem>) {
    for pair in migrations.windows(2) {
        let [first, second] = pair else { continue };
        if first.id > second.id && first.version != second.version {
            problems.push(Problem::new(
                &second.up.from,
                format!(
                    "{tool} sorts names as text and runs this before {}, though its number is greater: make the numbers equally long",
                    first.up.from
                ),
            ));
        }
    }
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
