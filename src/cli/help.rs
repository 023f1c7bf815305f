//! What `lockstep help` shows: one page about everything, one about each command, and the manual. The lists of commands,
//! variables and topics are made of their tables; the rest of a page stands in `pages/` as a person sees it.
//!
//! A page about a command fits a terminal of 24 lines and 80 columns.

use super::shell::READERS;
use super::{COMMANDS, Entry, entry};
use crate::config::variables::{self, Variable};

/// The page about a command, that of the manual, or what a shell or `man` reads.
pub fn about(topic: &str) -> Option<String> {
    let manuals = MANUAL.iter().find(|(name, _)| *name == topic);
    let readers = READERS.iter().find(|(name, _)| *name == topic);
    let found = entry(topic).map(page).or_else(|| manuals.map(|(_, page)| (*page).to_owned()));
    found.or_else(|| readers.map(|(_, text)| text()))
}

/// The manual: the files that README links to, so that the program and the page on the web never part.
pub static MANUAL: [(&str, &str); 15] = [
    ("environment", include_str!("../manual/environment.md")),
    ("connections", include_str!("../manual/connections.md")),
    ("exit-codes", include_str!("../manual/exit-codes.md")),
    ("files", include_str!("../manual/files.md")),
    ("refusals", include_str!("../manual/refusals.md")),
    ("outside", include_str!("../manual/outside.md")),
    ("logs", include_str!("../manual/logs.md")),
    ("commands", include_str!("../manual/commands.md")),
    ("recipes", include_str!("../manual/recipes.md")),
    ("lock", include_str!("../manual/lock.md")),
    ("cost", include_str!("../manual/cost.md")),
    ("limits", include_str!("../manual/limits.md")),
    ("bun", include_str!("../manual/bun.md")),
    ("other-tools", include_str!("../manual/other-tools.md")),
    ("contributing", include_str!("../manual/contributing.md")),
];

/// What `lockstep help` shows.
pub fn general() -> String {
    let mut page = "\
Lockstep applies PostgreSQL schema migrations. Environment variables set it up.
usage: lockstep [COMMAND]
  (none)            as `up`, but only if RUN_DATABASE_MIGRATIONS is true
"
    .to_owned();
    for entry in COMMANDS {
        // One option, or the column would be too wide for the screen.
        let option = entry.options.first().map(|it| format!("[--{it}]"));
        let operand = option.as_deref().unwrap_or(entry.operand);
        let call = format!("{} {operand}", entry.name);
        page += &format!("  {call:16}  {}\n", entry.summary);
    }
    page += "  --version, -V     show the version\n\n";
    page += &table("DATABASE_URL, MIGRATIONS_DIR");
    page += "exit codes: 0 done; 1 failed, 2 unusable input, 5 history and files disagree:
fix it; 3 no connection, 4 no lock, 6 pending, 130 and 143 a signal: run again.
the manual, `lockstep help TOPIC`:
";
    let topics = MANUAL.map(|(topic, _)| topic);
    let (first, last) = topics.split_at(topics.len() / 2);
    page + &format!("  {},\n  {}\n", first.join(", "), last.join(", "))
}

/// How the command is called, and its page.
pub fn page(entry: &Entry) -> String {
    let options = entry.options.iter().map(|option| format!("[--{option}] "));
    let rest = options.collect::<String>() + entry.operand;
    let usage = format!("usage: lockstep {} {rest}", entry.name);
    let mut page = format!("{}\n\n", usage.trim_end());
    for line in entry.page.lines() {
        let names = line.strip_prefix('{').and_then(|it| it.strip_suffix('}'));
        match names {
            Some(names) => page += &table(names),
            None => page += &format!("{line}\n"),
        }
    }
    page
}

/// What each variable is, and its default.
fn table(names: &str) -> String {
    let variable = |name| variables::all().find(|it| it.name == name);
    let variables: Vec<&Variable> = names.split(", ").filter_map(variable).collect();
    let width = variables.iter().map(|it| it.name.len()).max().unwrap_or_default();
    let line = |it: &&Variable| {
        let (name, what) = (it.name, it.meaning.split(';').next().unwrap_or_default());
        let what = what.replace('`', "");
        match it.default {
            "" => format!("  {name:width$}  {what}\n"),
            default => format!("  {name:width$}  {what} ({default})\n"),
        }
    };
    variables.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::{Command, parse};

    /// The cells of each row of the table with this header in a page of the manual.
    fn table(topic: &str, header: &str) -> Vec<Vec<&'static str>> {
        let (_, page) = MANUAL.iter().find(|(name, _)| *name == topic).expect("a page");
        let (_, rows) = page.split_once(header).expect("the table");
        let rows = rows.trim_start().lines().skip(1).take_while(|row| row.starts_with('|'));
        rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
    }

    fn all() -> impl Iterator<Item = (&'static str, String)> {
        COMMANDS.iter().map(|entry| (entry.name, page(entry))).chain([("", general())])
    }

    #[test]
    fn each_page_fits_a_terminal() {
        for (name, page) in all() {
            assert!(page.lines().count() <= 24, "{page}");
            for line in page.lines() {
                assert!(line.chars().count() <= 80, "{name}: {line}");
                assert_eq!(line.trim_end(), line, "{name}");
            }
            assert!(page.ends_with('\n') && !page.ends_with("\n\n"), "{page}");
        }
    }

    #[test]
    fn a_page_names_variables_that_there_are() {
        for entry in COMMANDS {
            let named = entry.page.lines().filter_map(|it| it.strip_prefix('{'));
            let names = named.flat_map(|it| it.trim_end_matches('}').split(", "));
            let page = page(entry);
            for name in names {
                assert!(page.contains(&format!("\n  {name} ")), "{page}");
            }
            assert!(!page.contains(['{', '}']), "{page}");
        }
    }

    #[test]
    fn a_page_names_what_the_parser_takes() {
        for entry in COMMANDS {
            let page = about(entry.name).expect("a page");
            let usage = page.lines().next().unwrap_or_default();
            let called = format!("usage: lockstep {}", entry.name);
            assert!(usage.starts_with(&called), "{usage}");
            for option in entry.options {
                assert!(usage.contains(&format!(" [--{option}]")), "{usage}");
            }
            assert!(usage.ends_with(entry.operand), "{usage}");
            assert!(general().contains(&format!("\n  {} ", entry.name)));
        }
    }

    #[test]
    fn the_general_page_lists_the_manual_which_is_all_there_is_of_it() {
        let general = general();
        let (_, listed) = general.split_once("TOPIC`:").expect("the topics");
        let listed: Vec<&str> = listed.split(',').map(str::trim).collect();
        let topics = MANUAL.map(|(topic, _)| topic);
        assert_eq!(listed, topics);
        assert!(COMMANDS.iter().all(|entry| !topics.contains(&entry.name)));
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/manual");
        let files = std::fs::read_dir(directory).expect("the manual");
        assert_eq!(files.count(), topics.len());
    }

    #[test]
    fn each_exit_code_is_in_the_manual() {
        let rows = table("exit-codes", "| code | meaning | try again? |");
        let known: Vec<&str> = rows.iter().flat_map(|row| row[0].split(", ")).collect();
        for entry in COMMANDS {
            let name = entry.name;
            let (_, codes) = entry.page.split_once("exit codes:\n").expect("codes");
            let lines = codes.lines().take_while(|line| !line.is_empty());
            let codes: Vec<&str> = lines
                .map(|line| line.trim_start().split("  ").next().unwrap_or_default())
                .flat_map(|codes| codes.split(", "))
                .collect();
            assert!(codes.iter().all(|code| known.contains(code)), "{name}: {codes:?}");
            assert!(codes.is_sorted_by_key(|code| code.parse::<u8>().ok()), "{name}");
        }
        let general = general();
        let words: Vec<&str> = general
            .split_once("exit codes: ")
            .map(|(_, codes)| codes.split(|c: char| !c.is_ascii_digit()).collect())
            .expect("exit codes");
        assert!(known.iter().all(|code| words.contains(code)), "{words:?}");
    }

    /// An example is taken as it stands, by the grammar, and is of its own command.
    #[test]
    fn each_example_is_understood() {
        for entry in COMMANDS {
            let name = entry.name;
            let (_, example) = entry.page.rsplit_once("\nexample").expect("an example");
            let (_, line) = example.rsplit_once("lockstep ").expect("a call");
            let mut words = Vec::new();
            for (number, piece) in line.split('"').enumerate() {
                match number % 2 {
                    0 => words.extend(piece.split_whitespace().map(OsString::from)),
                    _ => words.push(piece.into()),
                }
            }
            assert_eq!(words.first(), Some(&OsString::from(name)), "{example}");
            let command = parse(words.into_iter());
            assert!(command.is_ok(), "{example}: {command:?}");
            let is_help = matches!(command, Ok(Command::Help(_)));
            assert_eq!(is_help, name == "help", "{example}");
        }
    }
}
