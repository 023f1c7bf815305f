//! Names → whose they are. Each tool's own rule decides; where two tools have the same rule, both are named.

use std::collections::BTreeMap;

use super::{Tool, parts};
use crate::files::Problem;
use crate::files::import::Found;

/// What is there, as one migration.
pub(super) struct Source<'a> {
    pub up: Named<'a>,
    pub down: Option<&'a Found>,
    /// The numbers of the version, without leading zeros.
    pub number: Vec<String>,
    /// A file beside it says so.
    pub wants_no_transaction: bool,
}

pub(super) struct Recognised<'a> {
    pub tools: Vec<Tool>,
    pub sources: Vec<Source<'a>>,
    pub left: Vec<Problem>,
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
#[derive(Clone)]
pub(super) struct Named<'a> {
    pub found: &'a Found,
    is_up: bool,
    /// As they stand in the name.
    pub digits: String,
    pub name: String,
    /// The file's name, or its directory's where the tool gives each migration one.
    pub id: String,
}

/// Finds out whose the files are.
///
/// # Errors
///
/// That it is nobody's, or could be that of two; what is written in another language.
pub(super) fn recognise(found: &[Found]) -> Result<Recognised<'_>, Vec<Problem>> {
    let code: Vec<Problem> = found.iter().filter_map(code).collect();
    if !code.is_empty() {
        return Err(code);
    }
    let mut left = Vec::new();
    let shapes = by_shape(found, &mut left)?;
    let (shape, named) = match shapes.iter().collect::<Vec<_>>()[..] {
        [] => return Err(vec![nothing(found)]),
        [only] => only,
        _ => return Err(vec![mixture(&shapes)]),
    };
    let tools = tools(*shape, named, &left)?;
    let settings: Vec<&Found> = found.iter().filter(|it| !is_sql(&it.path)).collect();
    let pairs = paired(*shape, named)?.into_iter();
    let sources = pairs.map(|(up, down)| Source {
        number: numbers(&up.digits),
        wants_no_transaction: says_no_transaction(*shape, up.found, &settings),
        up,
        down,
    });
    let sources = sources.collect();
    Ok(Recognised {
        tools,
        sources,
        left,
    })
}

/// Sorts the files by the shape of their names. Those below the top are nobody's, for tools that do not look there.
fn by_shape<'a>(
    found: &'a [Found],
    left: &mut Vec<Problem>,
) -> Result<BTreeMap<Shape, Vec<Named<'a>>>, Vec<Problem>> {
    let mut shapes: BTreeMap<Shape, Vec<Named<'_>>> = BTreeMap::new();
    let mut below = Vec::new();
    for file in found.iter().filter(|file| is_sql(&file.path)) {
        let flat = !file.path.contains('/');
        match shape(file) {
            Some((shape @ (Shape::Pairs | Shape::Singles), _)) if !flat => {
                below.push((shape, file));
            }
            Some((shape, named)) => shapes.entry(shape).or_default().push(named),
            None => left.push(Problem::new(&file.path, stays(&file.path))),
        }
    }
    match below.first() {
        Some((_, file)) if shapes.is_empty() => {
            let directory = file.path.rsplit_once('/').map_or("", |(it, _)| it);
            let problem = format!(
                "no migration is here, but {directory} below it has some: import that directory"
            );
            Err(vec![Problem::new("", problem)])
        }
        _ => {
            let why = "in a directory below, where the tool does not look";
            left.extend(below.iter().map(|(_, it)| Problem::new(&it.path, why)));
            Ok(shapes)
        }
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

fn is_sql(path: &str) -> bool {
    path.to_ascii_lowercase().ends_with(".sql")
}

/// What only a program can run.
fn code(file: &Found) -> Option<Problem> {
    const LANGUAGES: [&str; 12] = [
        "go", "rs", "java", "kt", "groovy", "js", "ts", "py", "rb", "php", "tmpl", "tpl",
    ];
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
        let problem = format!("{what}, which cannot come along: write it in SQL");
        Problem::new(&file.path, problem)
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
    let is_number = |it: &str| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit());
    version
        .split(['.', '_'])
        .all(is_number)
        .then_some((version, name))
}

fn shape(found: &Found) -> Option<(Shape, Named<'_>)> {
    let file = file_of(&found.path);
    let named = |digits: &str, name: &str, id: &str, is_up| Named {
        found,
        is_up,
        digits: digits.to_owned(),
        name: name.to_owned(),
        id: id.to_owned(),
    };
    if let Some((version, name)) = letters(file, "VU") {
        let is_up = file.starts_with('V');
        return Some((Shape::Letters, named(version, name, file, is_up)));
    }
    let mut above = found.path.rsplit('/').skip(1);
    if let Some(directory) = above.next()
        && let "up.sql" | "down.sql" | "migration.sql" = file
        && let Some((digits, name)) = directory.split_once('_')
        && !digits.is_empty()
        && digits
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'-')
    {
        let digits = digits.replace('-', "");
        let shape = match file {
            "migration.sql" => Shape::MigrationFolders,
            _ => Shape::UpFolders,
        };
        let is_up = file != "down.sql";
        return Some((shape, named(&digits, name, directory, is_up)));
    }
    let rest = file.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &file[..file.len() - rest.len()];
    let stem = rest.get(..rest.len().checked_sub(4)?)?;
    if digits.is_empty() {
        return None;
    }
    let name = stem.trim_start_matches(['_', '-', '.', ' ']);
    for (end, is_up) in [(".up", true), (".down", false)] {
        let Some(name) = stem.strip_suffix(end).and_then(|it| it.strip_prefix('_')) else {
            continue;
        };
        let name = name.strip_suffix(".tx").unwrap_or(name);
        return Some((Shape::Pairs, named(digits, name, file, is_up)));
    }
    Some((Shape::Singles, named(digits, name, file, true)))
}

fn nothing(found: &[Found]) -> Problem {
    let problem = match found.is_empty() {
        true => "is empty: no migration is here".to_owned(),
        false => {
            "holds no migration of a tool that is known: see `lockstep help other-tools`".into()
        }
    };
    Problem::new("", problem)
}

/// Two ways to name files in one directory.
fn mixture(shapes: &BTreeMap<Shape, Vec<Named<'_>>>) -> Problem {
    let example = |(shape, named): (&Shape, &Vec<Named<'_>>)| {
        let path = named.first().map_or("", |it| it.found.path.as_str());
        let whose = match shape {
            Shape::Pairs => "golang-migrate, sqlx or bun".to_owned(),
            Shape::Singles => {
                let author = named.iter().find_map(|it| parts::author(it.found.text()));
                author.map_or("sqlx or tern".to_owned(), |tool| tool.to_string())
            }
            Shape::Letters => "Flyway or refinery".to_owned(),
            Shape::UpFolders => "diesel".to_owned(),
            Shape::MigrationFolders => "Prisma".to_owned(),
        };
        format!("{path} is named as by {whose}")
    };
    let examples: Vec<String> = shapes.iter().map(example).collect();
    Problem::new(
        "",
        format!(
            "it could be that of two tools: {}; take away what does not belong here",
            examples.join(", ")
        ),
    )
}

/// Whose files of this shape are.
fn tools(shape: Shape, named: &[Named<'_>], left: &[Problem]) -> Result<Vec<Tool>, Vec<Problem>> {
    match shape {
        Shape::Pairs => Ok(vec![Tool::GolangMigrate, Tool::Sqlx, Tool::Bun]),
        Shape::UpFolders => Ok(vec![Tool::Diesel]),
        Shape::MigrationFolders => Ok(vec![Tool::Prisma]),
        Shape::Letters => {
            let is_dotted = named.iter().any(|it| it.digits.contains(['.', '_']));
            // refinery's migrations without an order among themselves: nothing else is called so.
            if named.iter().all(|it| !it.is_up) {
                return Ok(vec![Tool::Refinery]);
            }
            let has_undo = named.iter().any(|it| !it.is_up);
            let has_more = left.iter().any(|it| it.problem.contains("Flyway"));
            Ok(match is_dotted || has_undo || has_more {
                true => vec![Tool::Flyway],
                false => vec![Tool::Flyway, Tool::Refinery],
            })
        }
        Shape::Singles => by_comments(named, left),
    }
}

/// Whose the files are that hold both ways.
fn by_comments(named: &[Named<'_>], left: &[Problem]) -> Result<Vec<Tool>, Vec<Problem>> {
    let mut authors: BTreeMap<Tool, &str> = BTreeMap::new();
    for file in named {
        if let Some(tool) = parts::author(file.found.text()) {
            authors.entry(tool).or_insert(&file.found.path);
        }
    }
    match authors.into_iter().collect::<Vec<_>>()[..] {
        [] => Ok(vec![Tool::Sqlx, Tool::Tern]),
        [(Tool::SqlMigrate, _)] => {
            // sql-migrate runs every file, in an order that only numbers can tell.
            let unnumbered = left.iter().filter(|it| it.path.components().count() == 1);
            let problem = "sql-migrate runs it, and its name begins with no number: give it one";
            let problems: Vec<Problem> = unnumbered
                .map(|it| Problem::new(&it.path, problem))
                .collect();
            match problems.is_empty() {
                true => Ok(vec![Tool::SqlMigrate]),
                false => Err(problems),
            }
        }
        [(tool, _)] => Ok(vec![tool]),
        [(one, first), (other, second), ..] => Err(vec![Problem::new(
            "",
            format!(
                "it could be that of two tools: {first} is written for {one}, {second} for {other}; take away what does not belong here"
            ),
        )]),
    }
}

type Pair<'a> = (Named<'a>, Option<&'a Found>);

/// Up files with their down files.
fn paired<'a>(shape: Shape, named: &[Named<'a>]) -> Result<Vec<Pair<'a>>, Vec<Problem>> {
    if shape == Shape::Letters && named.iter().all(|it| !it.is_up) {
        return Ok(named.iter().map(|it| (it.clone(), None)).collect());
    }
    let mut downs: BTreeMap<Vec<String>, Vec<&Named<'a>>> = BTreeMap::new();
    for down in named.iter().filter(|it| !it.is_up) {
        downs.entry(numbers(&down.digits)).or_default().push(down);
    }
    let mut pairs = Vec::new();
    for up in named.iter().filter(|it| it.is_up) {
        let mut of_it = downs.remove(&numbers(&up.digits)).unwrap_or_default();
        let down = of_it.pop().map(|it| it.found);
        if !of_it.is_empty() {
            downs.insert(numbers(&up.digits), of_it);
        }
        pairs.push((up.clone(), down));
    }
    let problem = match shape {
        Shape::Letters => {
            "no V file has its version: if it is refinery's migration without an order, give it a V and a number; if it is Flyway's undo script, take it away"
        }
        _ => "a way down without its way up, or a second one: take it away",
    };
    let lonely = downs.into_values().flatten();
    let problems: Vec<Problem> = lonely
        .map(|it| Problem::new(&it.found.path, problem))
        .collect();
    match problems.is_empty() {
        true => Ok(pairs),
        false => Err(problems),
    }
}

/// The numbers of a version, without leading zeros; zeros at the end count for nothing, as with Flyway.
pub(super) fn numbers(version: &str) -> Vec<String> {
    let number = |it: &str| match it.trim_start_matches('0') {
        "" => "0".to_owned(),
        digits => digits.to_owned(),
    };
    let mut numbers: Vec<String> = version.split(['.', '_']).map(number).collect();
    while numbers.len() > 1 && numbers.last().is_some_and(|it| it == "0") {
        numbers.pop();
    }
    numbers
}

/// Returns true if and only if a file of settings says that this one is to run without a transaction: diesel's
/// `metadata.toml`, Flyway's `.sql.conf`.
fn says_no_transaction(shape: Shape, up: &Found, settings: &[&Found]) -> bool {
    let beside = match shape {
        Shape::UpFolders => format!("{}metadata.toml", up.path.trim_end_matches("up.sql")),
        Shape::Letters => format!("{}.conf", up.path),
        Shape::Pairs | Shape::Singles | Shape::MigrationFolders => return false,
    };
    let says = |line: &str| {
        let said = line.replace([' ', '\t'], "");
        said.starts_with("run_in_transaction=false")
            || said.starts_with("executeInTransaction=false")
    };
    let beside = settings.iter().find(|it| it.path == beside);
    beside.is_some_and(|it| it.text().lines().any(says))
}
