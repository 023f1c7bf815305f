//! What `lockstep help` shows: one page about everything, one about each command, and the manual. Text only; nothing
//! here is computed, so a page can be read here as a person sees it.
//!
//! A page about a command fits a terminal of 24 lines and 80 columns. It says how the command is called, what it does,
//! the variables that matter to it with their defaults, its exit codes, and an example. The manual tells the rest.

/// The page about a command, that of the manual, or the general one.
pub fn help(topic: Option<&str>) -> &'static str {
    let mut pages = PAGES.iter().chain(&MANUAL);
    let page = pages.find(|(name, _)| Some(*name) == topic);
    page.map_or(GENERAL, |(_, page)| page)
}

/// The page's own name, if the manual has one of this name.
pub fn topic(name: &str) -> Option<&'static str> {
    let page = MANUAL.iter().find(|(topic, _)| *topic == name);
    page.map(|(topic, _)| *topic)
}

/// The manual: the files that README links to, so that the program and the page on the web never part.
static MANUAL: [(&str, &str); 12] = [
    ("environment", include_str!("../manual/environment.md")),
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
    ("contributing", include_str!("../manual/contributing.md")),
];

const GENERAL: &str = "\
Lockstep applies PostgreSQL schema migrations. Environment variables set it up.
usage: lockstep [COMMAND]
  (none)            as `up`, but only if RUN_DATABASE_MIGRATIONS is true
  up                apply all that is pending
  down [N]          roll back the newest run of `up`, or the newest N migrations
  status [--json]   show the database, the lock, and every migration
  check [--json]    exit 0 if up to date, 6 if pending, 5 if diverged
  wait              wait until `check` would exit 0
  plan [--json]     show what `up` would run and lock; --rehearse tries it
  new NAME          create the files of a migration
  baseline VERSION  record all files up to VERSION without running them
  unlock [ID]       show the lock; remove a row of it whose owner is gone
  help [COMMAND]    show this page, one about COMMAND, or one of the manual
  --version, -V     show the version

  DATABASE_URL           postgres://user:password@host/database or key=value ...
  MIGRATIONS_DIR         where the files are (migrations)
  LOG_LEVEL, LOG_FORMAT  TRACE DEBUG INFO WARN ERROR (INFO); text or json

exit codes: 0 done; 1 a migration failed, 2 unusable input, 5 history and files
disagree: fix that first; 3 no connection, 4 no lock, 6 still pending, 130 and
143 stopped by a signal: run again.
the manual, `lockstep help TOPIC`: environment, exit-codes, files, refusals,
outside, logs, commands, recipes, lock, limits, bun, contributing
";

const PAGES: [(&str, &str); 10] = [
    ("up", UP),
    ("down", DOWN),
    ("status", STATUS),
    ("check", CHECK),
    ("wait", WAIT),
    ("plan", PLAN),
    ("new", NEW),
    ("baseline", BASELINE),
    ("unlock", UNLOCK),
    ("help", HELP),
];

const UP: &str = "\
usage: lockstep up

Applies all that is pending, in the order of the versions, each file in one
transaction together with its record. Any number may start at once: one works,
the others wait. Running it again is always right.

  DATABASE_URL                 the database; `lockstep help` has other ways
  MIGRATIONS_DIR               where the files are (migrations)
  DATABASE_WAIT_SECONDS        how long to wait for the server (60)
  MIGRATION_LOCK_WAIT_SECONDS  how long to wait for another runner (300)
  DDL_LOCK_TIMEOUT_SECONDS     how long a statement waits for a lock (5)
  DDL_LOCK_RETRY_SECONDS       how long a file that met it is tried again (120)
  MIGRATION_ORDER              strict: refuse late-merged files (any)

exit codes:
  0         the database is where the files are
  1         a migration failed and was rolled back; what came before it stays
  2         unusable command line, environment or files; nothing was changed
  3, 4      no connection; no lock in time: run again
  5         history and files disagree; nothing was run
  130, 143  stopped by SIGINT, SIGTERM: run again

example: DATABASE_URL=postgres://app@localhost/app lockstep up
";

const DOWN: &str = "\
usage: lockstep down [N]

Rolls back what the newest run of `up` applied, or the newest N migrations, the
newest first: each by its .down.sql file, in one transaction with the removal of
its record. If any of these files is missing, nothing is run.

  DATABASE_URL                 the database; `lockstep help` has other ways
  MIGRATIONS_DIR               where the files are (migrations)
  MIGRATION_LOCK_WAIT_SECONDS  how long to wait for another runner (300)
  DDL_LOCK_TIMEOUT_SECONDS     how long a statement waits for a lock (5)
  DDL_LOCK_RETRY_SECONDS       how long a file that met it is tried again (120)

exit codes:
  0         rolled back, or there was nothing to roll back
  1         a file failed and was undone; what was rolled back before stays so
  2         unusable command line, environment or files; nothing was changed
  3, 4      no connection; no lock in time: look at `lockstep status` first
  5         a file is gone, or more was applied meanwhile; nothing was changed
  130, 143  stopped by SIGINT, SIGTERM: look at `lockstep status` first

example: lockstep down 2
";

const STATUS: &str = "\
usage: lockstep status [--json]

Shows the database, the lock and who has it, and every migration with its state:
applied, pending, out-of-order, modified, missing, ahead or archived. It only
reads, needs no right beyond SELECT, and answers while another runner works.

  DATABASE_URL           the database; `lockstep help` has other ways
  MIGRATIONS_DIR         where the files are (migrations)
  DATABASE_WAIT_SECONDS  how long to wait for the server (60)
  NO_COLOR               anything: no colours on a terminal

exit codes:
  0         that is the answer; `lockstep check` judges it
  2         unusable command line, environment or files
  3, 4      no connection; the history is locked: try again
  130, 143  stopped by SIGINT, SIGTERM

example, for a program to read: lockstep status --json
";

const CHECK: &str = "\
usage: lockstep check [--json]

Tells by its exit code whether the database is where the files are: for CI and
probes. It only reads, needs no right beyond SELECT, and waits for no runner.

  DATABASE_URL           the database; `lockstep help` has other ways
  MIGRATIONS_DIR         where the files are (migrations)
  DATABASE_WAIT_SECONDS  how long to wait for the server (60)
  MIGRATION_ORDER        strict: late-merged files are a divergence (any)
  MIGRATION_DIVERGENCE   warn: say so, but do not exit 5 for it (refuse)

exit codes:
  0         up to date
  2         unusable command line, environment or files
  3, 4      no connection; the history is locked: try again
  5         history and files disagree: a person decides
  6         migrations are pending: run `lockstep up`
  130, 143  stopped by SIGINT, SIGTERM

example: lockstep check
";

const WAIT: &str = "\
usage: lockstep wait

Waits until `lockstep check` would exit 0: for a program whose schema somebody
else migrates. It waits for a server that starts up, refuses or has no name yet;
not for a wrong password to be right. It only reads, with no right but SELECT.

  DATABASE_URL            the database; `lockstep help` has other ways
  MIGRATIONS_DIR          where the files are (migrations)
  MIGRATION_WAIT_SECONDS  how long to wait (300)

exit codes:
  0         up to date
  2         unusable command line, environment or files, or a wrong password
  3, 4      no connection, or the history was locked, to the end: try again
  5         history and files disagree: a person decides
  6         migrations are still pending: try again
  130, 143  stopped by SIGINT, SIGTERM: try again

example, in a container's start: lockstep wait
";

const PLAN: &str = "\
usage: lockstep plan [--json] [--rehearse]

Shows what `up` would run, in order: the files, their statements, the strongest
lock that each takes, and a warning with a safer way where one would rewrite a
table or keep others waiting. It only reads; with --rehearse it runs the files
in one transaction, tells what they really lock, and rolls that back.

  DATABASE_URL              the database; `lockstep help` has other ways
  MIGRATIONS_DIR            where the files are (migrations)
  DATABASE_WAIT_SECONDS     how long to wait for the server (60)
  DDL_LOCK_TIMEOUT_SECONDS  how long a statement waits for a lock (5)

exit codes:
  0         that is the plan
  1         a migration failed in the rehearsal; nothing was changed
  2         unusable input, or a file that cannot run in the one transaction
  3, 4      no connection; a lock is in the way: try again
  5         history and files disagree
  130, 143  stopped by SIGINT, SIGTERM

example, before a release: lockstep plan --rehearse
";

const NEW: &str = "\
usage: lockstep new NAME

Creates <version>_<name>.up.sql and .down.sql, for you to fill, and prints their
paths. The version is the time in UTC, or a second after the newest file if that
is later. Nothing is overwritten. NAME is made to fit: capitals become small and
what is no letter, digit or dash becomes an underscore. It needs no database.

  MIGRATIONS_DIR  where the files are, created if it is not there (migrations)

exit codes:
  0  created
  2  unusable command line or directory; nothing was created

example: lockstep new \"add author to notes\"
";

const BASELINE: &str = "\
usage: lockstep baseline VERSION

Records every file up to VERSION, which is one of theirs, as applied without
running it: to adopt a database that was made in another way. What is recorded
already stays as it is, so doing it twice changes nothing.

  DATABASE_URL                 the database; `lockstep help` has other ways
  MIGRATIONS_DIR               where the files are (migrations)
  MIGRATION_LOCK_WAIT_SECONDS  how long to wait for another runner (300)

exit codes:
  0         recorded; `lockstep check` tells what is left to apply
  2         unusable command line, environment or files; nothing was changed
  3, 4      no connection; no lock in time: run again
  5         something newer is recorded already; nothing was changed
  130, 143  stopped by SIGINT, SIGTERM: run again

example: lockstep baseline 20230320161721
";

const UNLOCK: &str = "\
usage: lockstep unlock [ID]

Shows who has the lock and what that is doing, and removes a row of the locks
table whose owner is provably gone. With ID it removes that row also if nobody
can tell, which is so for bun's; but never that of a living runner. Lockstep's
own rows need none of this: they end with their owner.

  DATABASE_URL           the database; `lockstep help` has other ways
  MIGRATIONS_TABLE       the history whose lock is meant (bun_migrations)
  MIGRATION_LOCKS_TABLE  the locks (bun_migration_locks)
  DATABASE_WAIT_SECONDS  how long to wait for the server (60)

exit codes:
  0         the lock is free, or is now
  2         unusable command line or environment, or there is no such row
  3         no connection: try again
  4         the row stays: its owner lives, or may live
  130, 143  stopped by SIGINT, SIGTERM

example, of a bun that died: lockstep unlock 7
";

const HELP: &str = "\
usage: lockstep help [COMMAND | TOPIC]

Shows a page about everything, which lists the topics; one about COMMAND: what
it does, the variables that matter to it, its exit codes, and an example, as
`lockstep COMMAND --help` does; or the manual's page about TOPIC.

exit codes:
  0  that is the page
  2  there is no such command or topic

example: lockstep help up
";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsString;

    use super::*;
    use crate::command::{COMMANDS, Command, parse};

    /// The cells of each row of the table with this header in a page of the manual.
    fn table(topic: &str, header: &str) -> Vec<Vec<&'static str>> {
        let (_, rows) = help(Some(topic)).split_once(header).expect("the table");
        let rows = rows.trim_start().lines().skip(1);
        let rows = rows.take_while(|row| row.starts_with('|'));
        rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
            .collect()
    }

    fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
        PAGES.into_iter().chain([("", GENERAL)])
    }

    #[test]
    fn each_command_has_a_page_and_its_line_in_the_list() {
        let mut pages = PAGES.iter();
        for entry in &COMMANDS {
            let (name, page) = pages.next().expect("a page");
            assert_eq!(*name, entry.name);
            assert!(GENERAL.contains(&format!("\n  {name} ")), "{name}");
            let usage = page.lines().next().unwrap_or_default();
            assert!(
                usage.starts_with(&format!("usage: lockstep {name}")),
                "{usage}"
            );
            let options = entry.options.iter().filter(|_| *name != "help");
            for option in options {
                assert!(usage.contains(&format!(" [{option}]")), "{usage}");
            }
            for part in ["\n\nexit codes:\n  0", "\n\nexample"] {
                assert!(page.contains(part), "{name}: {part}");
            }
            assert_eq!(help(Some(name)), *page);
        }
        assert_eq!(pages.next(), None);
        assert_eq!(help(None), GENERAL);
    }

    #[test]
    fn each_page_fits_a_terminal() {
        for (name, page) in all() {
            assert!(
                page.lines().count() <= 24,
                "{name}: {}",
                page.lines().count()
            );
            for line in page.lines() {
                assert!(line.chars().count() <= 80, "{name}: {line}");
                assert_eq!(line.trim_end(), line, "{name}");
            }
            assert!(page.ends_with('\n') && !page.ends_with("\n\n"));
        }
    }

    #[test]
    fn each_variable_is_in_the_manual_with_the_same_default() {
        let rows = table("environment", "| variable | default | meaning |");
        let defaults: BTreeMap<&str, &str> = rows
            .iter()
            .map(|row| (row[0].trim_matches('`'), row[1].trim_matches('`')))
            .collect();
        let mut found = 0;
        for (page, line) in all().flat_map(|(name, page)| page.lines().map(move |it| (name, it))) {
            let is_part = |c: char| !(c.is_ascii_uppercase() || c == '_');
            for variable in line
                .split(is_part)
                .filter(|it| it.len() > 1 && it.contains('_'))
            {
                found += 1;
                let is_known = defaults.contains_key(variable);
                assert!(is_known, "{page}: {variable}");
            }
            let row = line
                .strip_prefix("  ")
                .and_then(|line| line.split_once("  "));
            let (Some((variable, _)), Some((_, default))) = (row, line.rsplit_once(" (")) else {
                continue;
            };
            if let Some(expected) = defaults.get(variable) {
                assert_eq!(default.trim_end_matches(')'), *expected, "{page}: {line}");
            }
        }
        assert!(found > 30, "{found}");
    }

    #[test]
    fn each_exit_code_is_in_the_manual() {
        let rows = table("exit-codes", "| code | meaning | try again? |");
        let known: Vec<&str> = rows.iter().flat_map(|row| row[0].split(", ")).collect();
        for (name, page) in PAGES {
            let (_, codes) = page.split_once("\nexit codes:\n").expect("exit codes");
            let lines = codes.lines().take_while(|line| !line.is_empty());
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
        let words: Vec<&str> = GENERAL
            .split_once("exit codes: ")
            .map(|(_, codes)| codes.split(|c: char| !c.is_ascii_digit()).collect())
            .expect("exit codes");
        assert!(known.iter().all(|code| words.contains(code)), "{words:?}");
    }

    #[test]
    fn the_general_page_lists_the_manual_which_is_all_there_is_of_it() {
        let (_, listed) = GENERAL.split_once("TOPIC`: ").expect("the topics");
        let listed: Vec<&str> = listed.split(',').map(str::trim).collect();
        let topics = MANUAL.map(|(topic, _)| topic);
        assert_eq!(listed, topics);
        assert!(PAGES.iter().all(|(command, _)| topic(command).is_none()));
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/manual");
        let files = std::fs::read_dir(directory).expect("the manual");
        let files: Vec<_> = files
            .map(|file| file.expect("a file").file_name())
            .collect();
        assert_eq!(files.len(), topics.len(), "{files:?}");
    }

    /// An example is taken as it stands, by the grammar, and is of its own command.
    #[test]
    fn each_example_is_understood() {
        for (name, page) in PAGES {
            let example = page.lines().last().expect("lines");
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
