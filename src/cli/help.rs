//! What `lockstep help` shows: one page about everything, one about each command, and the manual. The lists of commands,
//! variables and topics are made of their tables; the rest stands here as a person sees it.
//!
//! A page about a command fits a terminal of 24 lines and 80 columns.

use super::{COMMANDS, Entry};
use crate::config::variables::{self, Variable};

/// What the page about a command says beside how the command is called.
pub struct Page {
    /// What it does.
    about: &'static str,
    /// The variables that matter to it.
    variables: &'static [&'static Variable],
    /// Its exit codes, each on a line.
    codes: &'static str,
    example: &'static str,
}

/// The page about a command, that of the manual, or the general one.
pub fn help(topic: Option<&str>) -> String {
    if let Some((_, page)) = MANUAL.iter().find(|(name, _)| Some(*name) == topic) {
        return (*page).to_owned();
    }
    let entry = COMMANDS.iter().find(|entry| Some(entry.name) == topic);
    entry.map_or_else(general, page)
}

/// The name of the page that there is of this name.
pub fn topic(name: &str) -> Option<&'static str> {
    let commands = COMMANDS.iter().map(|entry| entry.name);
    let topics = MANUAL.iter().map(|(topic, _)| *topic);
    commands.chain(topics).find(|it| *it == name)
}

/// The manual: the files that README links to, so that the program and the page on the web never part.
static MANUAL: [(&str, &str); 14] = [
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
    ("limits", include_str!("../manual/limits.md")),
    ("bun", include_str!("../manual/bun.md")),
    ("other-tools", include_str!("../manual/other-tools.md")),
    ("contributing", include_str!("../manual/contributing.md")),
];

fn general() -> String {
    let mut page = "\
Lockstep applies PostgreSQL schema migrations. Environment variables set it up.
usage: lockstep [COMMAND]
  (none)            as `up`, but only if RUN_DATABASE_MIGRATIONS is true
"
    .to_owned();
    for entry in &COMMANDS {
        // One option, or the column would be too wide for the screen.
        let option = entry.options.first().map(|it| format!("[--{it}]"));
        let operand = option.as_deref().unwrap_or(entry.operand);
        let call = format!("{} {operand}", entry.name);
        page += &format!("  {call:16}  {}\n", entry.summary);
    }
    page += "  --version, -V     show the version\n\n";
    page += &table(&[&variables::URL, &variables::MIGRATIONS_DIR.variable]);
    page += "
exit codes: 0 done; 1 failed, 2 unusable input, 5 history and files disagree:
fix it; 3 no connection, 4 no lock, 6 pending, 130 and 143 a signal: run again.
the manual, `lockstep help TOPIC`:
";
    let topics = MANUAL.map(|(topic, _)| topic);
    let (first, last) = topics.split_at(topics.len() / 2);
    page + &format!("  {},\n  {}\n", first.join(", "), last.join(", "))
}

fn page(entry: &Entry) -> String {
    let Page {
        about,
        variables,
        codes,
        example,
    } = &entry.page;
    let options = entry.options.iter().map(|option| format!("[--{option}] "));
    let rest = options.collect::<String>() + entry.operand;
    let usage = format!("usage: lockstep {} {rest}", entry.name);
    let table = match variables {
        [] => String::new(),
        variables => format!("\n{}", table(variables)),
    };
    let usage = usage.trim_end();
    format!("{usage}\n\n{about}{table}\nexit codes:\n  {codes}\nexample{example}\n")
}

/// What each variable is, and its default.
fn table(variables: &[&Variable]) -> String {
    let width = variables.iter().map(|it| it.name.len()).max();
    let width = width.unwrap_or_default();
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

#[rustfmt::skip]
pub const UP: Page = Page {
    about: "\
Applies all that is pending, in the order of the versions, each file in one
transaction together with its record. Any number may start at once: one works,
the others wait. Running it again is always right.
",
    variables: &[
        &variables::URL, &variables::MIGRATIONS_DIR.variable, &variables::DATABASE_WAIT.variable,
        &variables::LOCK_WAIT.variable, &variables::DDL_LOCK_TIMEOUT.variable, &variables::DDL_LOCK_RETRY.variable,
        &variables::ORDER.variable,
    ],
    codes: "\
  0         the database is where the files are
  1         a migration failed and was rolled back; what came before it stays
  2         unusable command line, environment or files; nothing was changed
  3, 4      no connection; no lock in time: run again
  5         history and files disagree; nothing was run
  130, 143  stopped by SIGINT, SIGTERM: run again
",
    example: ": DATABASE_URL=postgres://app@localhost/app lockstep up",
};

#[rustfmt::skip]
pub const DOWN: Page = Page {
    about: "\
Rolls back what the newest run of `up` applied, or the newest N migrations, the
newest first: each by its .down.sql file, in one transaction with the removal of
its record. If any of these files is missing, nothing is run.
",
    variables: &[
        &variables::URL, &variables::MIGRATIONS_DIR.variable, &variables::LOCK_WAIT.variable,
        &variables::DDL_LOCK_TIMEOUT.variable, &variables::DDL_LOCK_RETRY.variable,
    ],
    codes: "\
  0         rolled back, or there was nothing to roll back
  1         a file failed and was undone; what was rolled back before stays so
  2         unusable command line, environment or files; nothing was changed
  3, 4      no connection; no lock in time: look at `lockstep status` first
  5         a file is gone, or more was applied meanwhile; nothing was changed
  130, 143  stopped by SIGINT, SIGTERM: look at `lockstep status` first
",
    example: ": lockstep down 2",
};

#[rustfmt::skip]
pub const STATUS: Page = Page {
    about: "\
Shows the database, the lock and who has it, and every migration with its state:
applied, pending, out-of-order, modified, missing, ahead or archived. It only
reads, needs no right beyond SELECT, and answers while another runner works.
",
    variables: &[
        &variables::URL, &variables::MIGRATIONS_DIR.variable, &variables::DATABASE_WAIT.variable,
        &variables::NO_COLOR,
    ],
    codes: "\
  0         that is the answer; `lockstep check` judges it
  2         unusable command line, environment or files
  3, 4      no connection; the history is locked: try again
  130, 143  stopped by SIGINT, SIGTERM
",
    example: ", for a program to read: lockstep status --json",
};

#[rustfmt::skip]
pub const CHECK: Page = Page {
    about: "\
Tells by its exit code whether the database is where the files are: for CI and
probes. It only reads, needs no right beyond SELECT, and waits for no runner.
",
    variables: &[
        &variables::URL, &variables::MIGRATIONS_DIR.variable, &variables::DATABASE_WAIT.variable,
        &variables::ORDER.variable, &variables::DIVERGENCE.variable,
    ],
    codes: "\
  0         up to date
  2         unusable command line, environment or files
  3, 4      no connection; the history is locked: try again
  5         history and files disagree: a person decides
  6         migrations are pending: run `lockstep up`
  130, 143  stopped by SIGINT, SIGTERM
",
    example: ": lockstep check",
};

#[rustfmt::skip]
pub const WAIT: Page = Page {
    about: "\
Waits until `lockstep check` would exit 0: for a program whose schema somebody
else migrates. It waits for a server that starts up, refuses or has no name yet;
not for a wrong password to be right. It only reads, with no right but SELECT.
",
    variables: &[
        &variables::URL, &variables::MIGRATIONS_DIR.variable, &variables::MIGRATION_WAIT.variable,
    ],
    codes: "\
  0         up to date
  2         unusable command line, environment or files, or a wrong password
  3, 4      no connection, or the history was locked, to the end: try again
  5         history and files disagree: a person decides
  6         migrations are still pending: try again
  130, 143  stopped by SIGINT, SIGTERM: try again
",
    example: ", in a container's start: lockstep wait",
};

#[rustfmt::skip]
pub const PLAN: Page = Page {
    about: "\
Shows what `up` would run, in order: the files, their statements, the strongest
lock that each takes, and a warning with a safer way where one would rewrite a
table or keep others waiting. It only reads; with --rehearse it runs the files
in one transaction, tells what they really lock, and rolls that back.
",
    variables: &[
        &variables::URL, &variables::MIGRATIONS_DIR.variable, &variables::DATABASE_WAIT.variable,
        &variables::DDL_LOCK_TIMEOUT.variable,
    ],
    codes: "\
  0         that is the plan
  1         a migration failed in the rehearsal; nothing was changed
  2         unusable input, or a file that cannot run in the one transaction
  3, 4      no connection; a lock is in the way: try again
  5         history and files disagree
  130, 143  stopped by SIGINT, SIGTERM
",
    example: ", before a release: lockstep plan --rehearse",
};

#[rustfmt::skip]
pub const NEW: Page = Page {
    about: "\
Creates <version>_<name>.up.sql and .down.sql, for you to fill, and prints their
paths. The version is the time in UTC, or a second after the newest file if that
is later. Nothing is overwritten. NAME is made to fit: capitals become small and
what is no letter, digit or dash becomes an underscore. It needs no database.
",
    variables: &[&variables::MIGRATIONS_DIR.variable],
    codes: "\
  0  created
  2  unusable command line or directory; nothing was created
",
    example: ": lockstep new \"add author to notes\"",
};

#[rustfmt::skip]
pub const IMPORT: Page = Page {
    about: "\
Reads the migrations of another tool in DIRECTORY, and writes them under our
names, in their order, up and down apart, the SQL as it is. It shows what each
file became and what cannot come along; with a database it reads that tool's
history, and names the `lockstep baseline` to type. `lockstep help other-tools`
lists the tools. MIGRATIONS_DIR must be absent or empty.
",
    variables: &[
        &variables::URL, &variables::MIGRATIONS_DIR.variable, &variables::DATABASE_WAIT.variable,
    ],
    codes: "\
  0         written; `lockstep check` judges the files
  2         unusable command line, environment or files; nothing was written
  3, 4      no connection; the other history is locked: nothing was written
  130, 143  stopped by SIGINT, SIGTERM; nothing was written
",
    example: ": MIGRATIONS_DIR=migrations lockstep import db/goose",
};

#[rustfmt::skip]
pub const BASELINE: Page = Page {
    about: "\
Records every file up to VERSION, which is one of theirs, as applied without
running it: to adopt a database that was made in another way. What is recorded
already stays as it is, so doing it twice changes nothing.
",
    variables: &[
        &variables::URL, &variables::MIGRATIONS_DIR.variable, &variables::LOCK_WAIT.variable,
    ],
    codes: "\
  0         recorded; `lockstep check` tells what is left to apply
  2         unusable command line, environment or files; nothing was changed
  3, 4      no connection; no lock in time: run again
  5         something newer is recorded already; nothing was changed
  130, 143  stopped by SIGINT, SIGTERM: run again
",
    example: ": lockstep baseline 20230320161721",
};

#[rustfmt::skip]
pub const UNLOCK: Page = Page {
    about: "\
Shows who has the lock and what that is doing, and removes a row of the locks
table whose owner is provably gone. With ID it removes that row also if nobody
can tell, which is so for bun's; but never that of a living runner. Lockstep's
own rows need none of this: they end with their owner.
",
    variables: &[
        &variables::URL, &variables::HISTORY_TABLE.variable, &variables::LOCKS_TABLE.variable,
        &variables::DATABASE_WAIT.variable,
    ],
    codes: "\
  0         the lock is free, or is now
  2         unusable command line or environment, or there is no such row
  3         no connection: try again
  4         the row stays: its owner lives, or may live
  130, 143  stopped by SIGINT, SIGTERM
",
    example: ", of a bun that died: lockstep unlock 7",
};

#[rustfmt::skip]
pub const HELP: Page = Page {
    about: "\
Shows a page about everything, which lists the topics; a page about a command:
what it does, the variables that matter to it, its exit codes, and an example,
as `lockstep COMMAND --help` does; or the manual's page about TOPIC.
",
    variables: &[],
    codes: "\
  0  that is the page
  2  there is no such command or topic
",
    example: ": lockstep help up",
};

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::{Command, parse};

    /// The cells of each row of the table with this header in a page of the manual.
    fn table(topic: &str, header: &str) -> Vec<Vec<&'static str>> {
        let (_, page) = MANUAL
            .iter()
            .find(|(name, _)| *name == topic)
            .expect("a page");
        let (_, rows) = page.split_once(header).expect("the table");
        let rows = rows.trim_start().lines().skip(1);
        let rows = rows.take_while(|row| row.starts_with('|'));
        rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
            .collect()
    }

    fn all() -> impl Iterator<Item = (&'static str, String)> {
        let pages = COMMANDS.iter().map(|entry| (entry.name, page(entry)));
        pages.chain([("", general())])
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
    fn a_page_names_what_the_parser_takes() {
        for entry in &COMMANDS {
            let page = help(topic(entry.name));
            let usage = page.lines().next().unwrap_or_default();
            let called = format!("usage: lockstep {}", entry.name);
            assert!(usage.starts_with(&called), "{usage}");
            for option in entry.options {
                assert!(usage.contains(&format!(" [--{option}]")), "{usage}");
            }
            assert!(usage.ends_with(entry.operand), "{usage}");
            assert!(general().contains(&format!("\n  {} ", entry.name)));
        }
        assert_eq!(help(None), general());
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
        for entry in &COMMANDS {
            let name = entry.name;
            let lines = entry.page.codes.lines();
            let codes: Vec<&str> = lines
                .map(|line| line.trim_start().split("  ").next().unwrap_or_default())
                .flat_map(|codes| codes.split(", "))
                .collect();
            assert!(
                codes.iter().all(|code| known.contains(code)),
                "{name}: {codes:?}"
            );
            assert!(
                codes.is_sorted_by_key(|code| code.parse::<u8>().ok()),
                "{name}"
            );
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
        for entry in &COMMANDS {
            let (name, example) = (entry.name, entry.page.example);
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
