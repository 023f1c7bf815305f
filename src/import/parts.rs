//! One file → its way up and its way down, for the tools that write both into one file, as these tools' own parsers cut it:
//! line by line, by comments that they have agreed upon.
//!
//! The line that begins the way down is in neither part. All other lines stay, comments too.

use std::iter;

use super::layout::Source;
use super::{Part, Tool};
use crate::files::import::Found;
use crate::migration::Direction;
use crate::sql;

/// What a line says to one of the tools.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mark {
    /// A way begins; `true`: without a transaction.
    Begins(Direction, bool),
    WithoutTransaction,
    Substitution,
}

/// What we write above a part whose author wants no transaction, if nothing in the part says so.
const MARKER: &str = "-- lockstep: no-transaction\n";

const SUBSTITUTION: &str =
    "it wants variables of the environment in its SQL (ENVSUB ON): write their values";

/// The way up and the way down of a source.
pub(super) fn of(tool: Tool, source: &Source<'_>) -> Result<(Part, Option<Part>), String> {
    let part = |found: &Found, text: &str| Part {
        from: found.path.clone(),
        text: if source.wants_no_transaction { without_transaction(text) } else { text.to_owned() },
    };
    let (up, down) = (source.up.found, source.down);
    for found in iter::once(up).chain(down) {
        refuse_templates(tool, found.text())?;
    }
    if COMMENTING.contains(&tool) {
        let (text, down) = split(tool, up.text())?;
        return Ok((part(up, &text), down.map(|down| part(up, &down))));
    }
    let is_mybatis_undo = |line: &str| {
        let comment = line.trim_start().strip_prefix("--");
        comment.is_some_and(|it| it.trim_start().starts_with("//@UNDO"))
    };
    if up.text().lines().any(is_mybatis_undo) {
        return Err("it holds a way down behind //@UNDO: write that into a file of its own".into());
    }
    Ok((part(up, up.text()), down.map(|down| part(down, down.text()))))
}

/// The tools that write both ways into one file.
const COMMENTING: [Tool; 4] = [Tool::Goose, Tool::SqlMigrate, Tool::Dbmate, Tool::Tern];

/// Whose comments the lines hold, if anybody's.
pub(super) fn author(text: &str) -> Option<Tool> {
    let author = |line| COMMENTING.into_iter().find(|tool| mark(*tool, line).is_some());
    text.lines().find_map(author)
}

/// What is replaced before it is run.
fn refuse_templates(tool: Tool, text: &str) -> Result<(), String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '-');
    let found = match tool {
        Tool::Flyway | Tool::Refinery => text.match_indices("${").find_map(|(at, _)| {
            let (name, _) = text[at + 2..].split_once('}')?;
            let is_placeholder = !name.is_empty() && name.chars().all(is_name);
            let what = format!("${{{name}}} is a placeholder of Flyway's: write its value");
            is_placeholder.then_some((at, what))
        }),
        Tool::Tern => {
            let what = "a template of tern's: write its text";
            text.find("{{").map(|at| (at, what.to_owned()))
        }
        _ => None,
    };
    let Some((at, what)) = found else {
        return Ok(());
    };
    let line = text[..at].matches('\n').count() + 1;
    Err(format!("line {line}: {what}"))
}

fn split(tool: Tool, text: &str) -> Result<(String, Option<String>), String> {
    let (mut up, mut down) = (String::new(), None::<String>);
    let (mut is_down, mut has_up) = (false, tool == Tool::Tern);
    let (mut bare_up, mut bare_down) = (false, false);
    for line in text.split_inclusive('\n') {
        match mark(tool, line) {
            Some(Mark::Begins(Direction::Up, bare)) => {
                (is_down, has_up) = (false, true);
                bare_up |= bare;
            }
            Some(Mark::Begins(Direction::Down, bare)) => {
                is_down = true;
                bare_down |= bare;
                down.get_or_insert_default();
                continue;
            }
            Some(Mark::WithoutTransaction) => (bare_up, bare_down) = (true, true),
            Some(Mark::Substitution) => return Err(SUBSTITUTION.to_owned()),
            None => {}
        }
        match (is_down, &mut down) {
            (true, Some(down)) => down.push_str(line),
            _ => up.push_str(line),
        }
    }
    if !has_up {
        return Err(format!("nothing in it says where {tool}'s way up begins"));
    }
    let marked = |text: String, bare: bool| if bare { without_transaction(&text) } else { text };
    Ok((marked(up, bare_up), down.map(|it| marked(it, bare_down))))
}

/// What the line says to the tool.
fn mark(tool: Tool, line: &str) -> Option<Mark> {
    let line = line.trim_start_matches('\u{feff}').trim_end();
    match tool {
        Tool::Goose => goose(line),
        Tool::SqlMigrate => {
            let words = line.strip_prefix("-- +migrate ")?;
            directed(words, "Up", "Down", "notransaction")
        }
        Tool::Dbmate => {
            let words = line.strip_prefix("--")?.trim_start();
            directed(words, "migrate:up", "migrate:down", "transaction:false")
        }
        Tool::Tern => match line {
            "---- create above / drop below ----" => Some(Mark::Begins(Direction::Down, false)),
            "---- tern: disable-tx ----" => Some(Mark::WithoutTransaction),
            _ => None,
        },
        _ => None,
    }
}

fn goose(line: &str) -> Option<Mark> {
    let comment = line.strip_prefix("--").filter(|it| it.contains("+goose"))?;
    let said = comment.replace("--", "").replacen("+goose", "", 1);
    match said.trim().to_ascii_lowercase().as_str() {
        "up" => Some(Mark::Begins(Direction::Up, false)),
        "down" => Some(Mark::Begins(Direction::Down, false)),
        "no transaction" => Some(Mark::WithoutTransaction),
        "envsub on" => Some(Mark::Substitution),
        _ => None,
    }
}

/// A direction, and perhaps that it wants no transaction.
fn directed(words: &str, up: &str, down: &str, bare: &str) -> Option<Mark> {
    let mut words = words.split_whitespace();
    let direction = words.next()?;
    let ways = [(up, Direction::Up), (down, Direction::Down)];
    let (_, way) = ways.into_iter().find(|(word, _)| *word == direction)?;
    Some(Mark::Begins(way, words.any(|word| word == bare)))
}

/// The text with our marker, unless it holds one that we honour.
fn without_transaction(text: &str) -> String {
    if sql::parse(text).no_transaction {
        text.to_owned()
    } else {
        format!("{MARKER}{}", text.trim_start_matches('\u{feff}'))
    }
}
