//! Names → whose they are. Each tool's own rule decides; where two tools have the same rule, both are named.

use std::collections::BTreeMap;

use super::{Tool, parts};
use crate::files::import::Found;
use crate::files::{Problem, name, refuse};
use crate::text::words::{is_digits, joined};

/// What is there, as one migration.
pub(super) struct Source<'a> {
    pub up: Named<'a>,
    pub down: Option<&'a Found>,
    /// A file beside it says so.
    pub wants_no_transaction: bool,
}

/// How a tool names its files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Shape {
    /// `N_name.up.sql`, `N_name.down.sql`
    Pairs,
    /// `N_name.sql`
    Singles,
    /// `V1.2__name.sql`, `U1.2__name.sql`
    Letters,
    /// `N_name/up.sql`, `N_name/down.sql`
    UpFolders,
    /// `N_name/migration.sql`, `N_name/down.sql`
    MigrationFolders,
}

/// A file whose name is a migration's.
pub(super) struct Named<'a> {
    pub found: &'a Found,
    is_up: bool,
    /// As they stand in the name.
    pub digits: String,
    /// The numbers of the version.
    pub number: Vec<u64>,
    pub name: &'a str,
    /// The file's name, or its directory's where the tool gives each migration one.
    pub id: &'a str,
}

/// Finds out whose the files are. What stays behind, and is no harm, is added to `left`.
///
/// # Errors
///
/// That it is nobody's, or could be that of two; what is written in another language.
pub(super) fn recognise<'a>(
    found: &'a [Found],
    left: &mut Vec<Problem>,
) -> Result<(Vec<Tool>, Vec<Source<'a>>), Vec<Problem>> {
    refuse(found.iter().filter_map(code))?;
    let mut shapes = Vec::new();
    for (shape, named) in by_shape(found, left)? {
        shapes.push((shape, tools(shape, &named, left)?, named));
    }
    if shapes.len() > 1 {
        let examples = shapes.iter().filter_map(|(_, tools, named)| {
            let path = &named.first()?.found.path;
            Some(format!("{path} is named as by {}", joined(tools, " or ")))
        });
        return Err(of_two_tools(examples));
    }
    let Some((shape, tools, named)) = shapes.pop() else {
        let problem = match found {
            [] => "is empty: no migration is here",
            _ => "holds no migration of a tool that is known: see `lockstep help other-tools`",
        };
        return Err(Problem::new("", problem).into());
    };
    let settings: Vec<&Found> = (found.iter()).filter(|it| !name::is_sql(&it.path)).collect();
    Ok((tools, paired(shape, named, &settings)?))
}

/// Sorts the files by the shape of their names. Those below the top are nobody's, for tools that do not look there.
fn by_shape<'a>(
    found: &'a [Found],
    left: &mut Vec<Problem>,
) -> Result<BTreeMap<Shape, Vec<Named<'a>>>, Problem> {
    let mut shapes: BTreeMap<Shape, Vec<Named<'_>>> = BTreeMap::new();
    let mut below = None;
    for file in found.iter().filter(|file| name::is_sql(&file.path)) {
        let directory = file.path.rsplit_once('/').map(|(it, _)| it);
        match (shape(file), directory) {
            (Some((Shape::Pairs | Shape::Singles, _)), Some(directory)) => {
                let why = "in a directory below, where the tool does not look";
                left.push(Problem::new(&file.path, why));
                below = below.or(Some(directory));
            }
            (Some((shape, named)), _) => shapes.entry(shape).or_default().push(named),
            (None, _) => left.push(Problem::new(&file.path, stays(&file.path))),
        }
    }
    match below {
        Some(directory) if shapes.is_empty() => {
            let problem = format!(
                "no migration is here, but {directory} below it has some: import that directory"
            );
            Err(Problem::new("", problem))
        }
        _ => Ok(shapes),
    }
}

/// Why a file that is no migration by its name stays behind.
fn stays(path: &str) -> &'static str {
    let file = file_of(path);
    if file.starts_with("R__") {
        "a repeatable migration of Flyway's, which cannot come along: put what it holds into a migration"
    } else if letters(file, "B").is_some() {
        "a baseline script of Flyway's, which cannot come along: on an empty database all the others run"
    } else {
        "no migration by its name"
    }
}

fn file_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// What only a program can run.
fn code(file: &Found) -> Option<Problem> {
    const LANGUAGES: [&str; 12] =
        ["go", "rs", "java", "kt", "groovy", "js", "ts", "py", "rb", "php", "tmpl", "tpl"];
    let name = file_of(&file.path);
    let (stem, extension) = name.rsplit_once('.')?;
    let is_migration =
        letters(name, "VURB").is_some() || name.starts_with("R__") || begins_with_number(stem);
    let known = LANGUAGES.contains(&extension) && is_migration && !stem.ends_with("_test");
    known.then(|| {
        let what = match extension {
            "tmpl" | "tpl" => "a template",
            _ => "code in another language",
        };
        Problem::new(&file.path, format!("{what}, which cannot come along: write it in SQL"))
    })
}

/// Returns true if and only if the name is that of a migration: `N_name`, `N-name`, `N.name`.
fn begins_with_number(stem: &str) -> bool {
    let rest = stem.trim_start_matches(|c: char| c.is_ascii_digit());
    rest != stem && rest.starts_with(['_', '-', '.'])
}

/// The version and the name of `V1.2__name.sql`, whose letter is one of these.
fn letters<'a>(file: &'a str, which: &str) -> Option<(&'a str, &'a str)> {
    let rest = file.strip_prefix(|letter| which.contains(letter))?;
    let (stem, _) = rest.rsplit_once('.')?;
    let (version, name) = stem.split_once("__")?;
    let mut numbers = version.split(['.', '_']);
    numbers.all(is_digits).then_some((version, name))
}

fn shape(found: &Found) -> Option<(Shape, Named<'_>)> {
    let file = file_of(&found.path);
    let named = |digits: &str, name, id, is_up| Named {
        found,
        is_up,
        digits: digits.to_owned(),
        number: numbers(digits),
        name,
        id,
    };
    if let Some((version, name)) = letters(file, "VU") {
        let is_up = file.starts_with('V');
        return Some((Shape::Letters, named(version, name, file, is_up)));
    }
    let is_digit = |c: char| c.is_ascii_digit();
    if let Some(directory) = found.path.rsplit('/').nth(1)
        && let "up.sql" | "down.sql" | "migration.sql" = file
        && let Some((digits, name)) = directory.split_once('_')
        && !digits.is_empty()
        && digits.chars().all(|c| is_digit(c) || c == '-')
    {
        let shape = match file {
            "migration.sql" => Shape::MigrationFolders,
            _ => Shape::UpFolders,
        };
        let (digits, is_up) = (digits.replace('-', ""), file != "down.sql");
        return Some((shape, named(&digits, name, directory, is_up)));
    }
    let rest = file.trim_start_matches(is_digit);
    let digits = file.strip_suffix(rest).filter(|it| !it.is_empty())?;
    let stem = rest.get(..rest.len().checked_sub(4)?)?;
    let paired = [(".up", true), (".down", false)].iter().find_map(|(end, is_up)| {
        let name = stem.strip_suffix(end)?.strip_prefix('_')?;
        let name = name.strip_suffix(".tx").unwrap_or(name);
        Some((Shape::Pairs, named(digits, name, file, *is_up)))
    });
    paired.or_else(|| {
        let name = stem.trim_start_matches(['_', '-', '.', ' ']);
        Some((Shape::Singles, named(digits, name, file, true)))
    })
}

fn of_two_tools(examples: impl Iterator<Item = String>) -> Vec<Problem> {
    let problem = format!(
        "it could be that of two tools: {}; take away what does not belong here",
        joined(examples, ", ")
    );
    Problem::new("", problem).into()
}

/// Whose files of this shape are.
fn tools(shape: Shape, named: &[Named<'_>], left: &[Problem]) -> Result<Vec<Tool>, Vec<Problem>> {
    Ok(match shape {
        Shape::Pairs => vec![Tool::GolangMigrate, Tool::Sqlx, Tool::Bun],
        Shape::UpFolders => vec![Tool::Diesel],
        Shape::MigrationFolders => vec![Tool::Prisma],
        Shape::Singles => return by_comments(named, left),
        // refinery's migrations without an order among themselves: nothing else is called so.
        Shape::Letters if named.iter().all(|it| !it.is_up) => vec![Tool::Refinery],
        Shape::Letters => {
            let is_flyways = |it: &Named<'_>| !it.is_up || it.digits.contains(['.', '_']);
            let has_more = left.iter().any(|it| it.problem.contains("Flyway"));
            if has_more || named.iter().any(is_flyways) {
                vec![Tool::Flyway]
            } else {
                vec![Tool::Flyway, Tool::Refinery]
            }
        }
    })
}

/// Whose the files are that hold both ways.
fn by_comments(named: &[Named<'_>], left: &[Problem]) -> Result<Vec<Tool>, Vec<Problem>> {
    let mut authors: BTreeMap<Tool, &str> = BTreeMap::new();
    for file in named {
        if let Some(tool) = parts::author(file.found.text()) {
            authors.entry(tool).or_insert(&file.found.path);
        }
    }
    if authors.len() > 1 {
        let examples = authors.iter().map(|(tool, path)| format!("{path} is written for {tool}"));
        return Err(of_two_tools(examples));
    }
    let Some((tool, _)) = authors.pop_first() else {
        return Ok(vec![Tool::Sqlx, Tool::Tern]);
    };
    if tool == Tool::SqlMigrate {
        // It runs every file, in an order that only numbers can tell.
        let unnumbered = left.iter().filter(|it| it.path.components().count() == 1);
        let problem = "sql-migrate runs it, and its name begins with no number: give it one";
        refuse(unnumbered.map(|it| Problem::new(&it.path, problem)))?;
    }
    Ok(vec![tool])
}

/// Up files with their down files.
fn paired<'a>(
    shape: Shape,
    named: Vec<Named<'a>>,
    settings: &[&Found],
) -> Result<Vec<Source<'a>>, Vec<Problem>> {
    let (mut ups, mut downs): (Vec<_>, Vec<_>) = named.into_iter().partition(|it| it.is_up);
    if shape == Shape::Letters && ups.is_empty() {
        // refinery's, which have no order among themselves.
        std::mem::swap(&mut ups, &mut downs);
    }
    let with_down = |up: Named<'a>| {
        let at = downs.iter().position(|it| it.number == up.number);
        Source {
            wants_no_transaction: says_no_transaction(up.found, settings),
            down: at.map(|at| downs.remove(at).found),
            up,
        }
    };
    let sources = ups.into_iter().map(with_down).collect();
    let problem = match shape {
        Shape::Letters => {
            "no V file has its version: if it is refinery's migration without an order, give it a V and a number; if it is Flyway's undo script, take it away"
        }
        _ => "a way down without its way up, or a second one: take it away",
    };
    refuse(downs.iter().map(|it| Problem::new(&it.found.path, problem)))?;
    Ok(sources)
}

/// The numbers of a version; zeros at the end count for nothing, as with Flyway. What is too large for a number is so for a
/// version of ours, too.
pub(super) fn numbers(version: &str) -> Vec<u64> {
    let numbers = version.split(['.', '_']);
    let mut numbers: Vec<u64> = numbers.map(|it| it.parse().unwrap_or(u64::MAX)).collect();
    while numbers.len() > 1 && numbers.ends_with(&[0]) {
        numbers.pop();
    }
    numbers
}

/// Returns true if and only if a file of settings beside it says that this one is to run without a transaction: diesel's
/// `metadata.toml`, Flyway's `.sql.conf`.
fn says_no_transaction(up: &Found, settings: &[&Found]) -> bool {
    let diesels = format!("{}metadata.toml", up.path.trim_end_matches("up.sql"));
    let flyways = format!("{}.conf", up.path);
    let mut beside = settings.iter().filter(|it| it.path == diesels || it.path == flyways);
    beside.any(|it| {
        let text = it.text().replace([' ', '\t'], "");
        let mut lines = text.lines();
        lines.any(|line| {
            line.starts_with("run_in_transaction=false")
                || line.starts_with("executeInTransaction=false")
        })
    })
}
