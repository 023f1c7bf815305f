//! Other tools' migrations → ours: which tool's they are, what each file becomes, and what cannot come along.
//!
//! Order is kept, and no byte of SQL within a part changes. Whatever cannot be brought along is a complaint, and all of
//! them come together: a directory that lacks one migration is worse than none.

pub mod history;
mod layout;
mod parts;
mod version;

use std::fmt;
use std::iter;

use crate::files::import::Found;
use crate::files::{Problem, name, refuse};
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

impl Tool {
    /// What is known of it beside how it names files: its name; the table in which it keeps what it has applied; the
    /// column that tells this from another tool's table of that name; and how the table is asked which migrations it
    /// knows: the expressions of a migration and of one of [`history::Record`]'s words of it, and what stands behind the
    /// table's name.
    #[rustfmt::skip]
    fn known(self) -> [&'static str; 6] {
        match self {
            Tool::Bun => ["bun", "bun_migrations", "name", "name", "'applied'", "ORDER BY id"],
            Tool::Dbmate => ["dbmate", "schema_migrations", "version", "version", "'applied'", "ORDER BY version"],
            Tool::Diesel => ["diesel", "__diesel_schema_migrations", "version", "version", "'applied'", "ORDER BY version"],
            Tool::Flyway => ["Flyway", "flyway_schema_history", "installed_rank", "version",
                "CASE WHEN NOT success THEN 'failed' WHEN type LIKE 'UNDO%' OR type = 'DELETE' THEN 'undone' \
                 WHEN type LIKE '%BASELINE' THEN 'baseline' ELSE 'applied' END",
                "WHERE version IS NOT NULL ORDER BY installed_rank"],
            Tool::GolangMigrate => ["golang-migrate", "schema_migrations", "dirty", "version",
                "CASE WHEN dirty THEN 'failed' ELSE 'up to' END", ""],
            Tool::Goose => ["goose", "goose_db_version", "version_id", "version_id",
                "CASE WHEN is_applied THEN 'applied' ELSE 'undone' END", "WHERE version_id <> 0 ORDER BY id"],
            Tool::Prisma => ["Prisma", "_prisma_migrations", "migration_name", "migration_name",
                "CASE WHEN rolled_back_at IS NOT NULL THEN 'undone' WHEN finished_at IS NULL THEN 'failed' ELSE 'applied' END",
                "ORDER BY started_at"],
            Tool::Refinery => ["refinery", "refinery_schema_history", "version", "version", "'applied'", "ORDER BY version"],
            Tool::SqlMigrate => ["sql-migrate", "gorp_migrations", "applied_at", "id", "'applied'", "ORDER BY id"],
            Tool::Sqlx => ["sqlx", "_sqlx_migrations", "success", "version",
                "CASE WHEN success THEN 'applied' ELSE 'failed' END", "ORDER BY version"],
            Tool::Tern => ["tern", "schema_version", "version", "version", "'up to'", "WHERE version <> 0"],
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.known()[0])
    }
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
    /// The old version as numbers: `1.2`.
    number: Vec<u64>,
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
        let up = (self.up_name(), self.up.text.as_str());
        let down = self.down.as_ref().map(|part| (self.down_name(), part.text.as_str()));
        iter::once(up).chain(down)
    }
}

/// Understands a directory's files.
///
/// # Errors
///
/// Everything that cannot come along, by its path below the directory; or why it is not known whose files they are, without a
/// path.
pub fn understand(found: &[Found]) -> Result<Import, Vec<Problem>> {
    let mut left = Vec::new();
    let (tools, sources) = layout::recognise(found, &mut left)?;
    let (mut migrations, mut problems) = (Vec::new(), Vec::new());
    let versions = version::versions(&sources);
    for (source, version) in sources.into_iter().zip(versions) {
        let mut refuse = |why: &str| problems.push(Problem::new(&source.up.found.path, why));
        let parts = parts::of(tools[0], &source).map_err(|why| refuse(&why));
        let Some(version) = version else {
            refuse("the version cannot be told in 14 digits: rename it");
            continue;
        };
        migrations.extend(parts.map(|(up, down)| Brought {
            version,
            name: name_for(source.up.name),
            number: source.up.number,
            id: source.up.id.to_owned(),
            up,
            down,
        }));
    }
    refuse(problems)?;
    migrations.sort_by_key(|it| it.version);
    refuse(migrations.windows(2).filter_map(|pair| misplaced(tools[0], pair)))?;
    Ok(Import { is_ours: migrations.iter().all(is_ours), tools, migrations, left })
}

/// Two files of one version: only a person knows which is first. A tool that sorts names as text, so that 10 comes before
/// 2, has another order than we would.
fn misplaced(tool: Tool, pair: &[Brought]) -> Option<Problem> {
    let [first, second] = pair else { return None };
    let (from, version) = (&first.up.from, second.version);
    let by_text = matches!(tool, Tool::Dbmate | Tool::Diesel | Tool::Prisma);
    let problem = match first.version == version {
        true => {
            format!("would get the version {version} of {from}: give one of them another number")
        }
        false if by_text && first.id > second.id => format!(
            "{tool} sorts names as text and runs this before {from}, though its number is greater: make the numbers equally long"
        ),
        false => return None,
    };
    Some(Problem::new(&second.up.from, problem))
}

/// Returns true if and only if the old names are ours.
fn is_ours(migration: &Brought) -> bool {
    let is_same = |part: &Part, direction| {
        let old = part.from.rsplit('/').next().and_then(name::parse);
        old == Some((migration.version, &migration.name, direction))
    };
    let mut down = migration.down.iter();
    is_same(&migration.up, Direction::Up) && down.all(|it| is_same(it, Direction::Down))
}

/// The name with an underscore for all that ours do not have.
fn name_for(old: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let words = old.split(|c| !is_plain(c)).filter(|word| !word.is_empty());
    match words.collect::<Vec<_>>().join("_") {
        name if name.is_empty() => "migration".to_owned(),
        name => name,
    }
}

#[cfg(test)]
mod tests;
