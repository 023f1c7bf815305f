//! The command line → [`Command`], and the help text. Prints nothing and reads nothing else.

use std::ffi::OsString;
use std::sync::LazyLock;

/// What the user asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// No command: the start of a service, which migrates only if it is switched on.
    Start,
    /// Apply all that is pending.
    Up,
    /// Show the lock, or remove the row with this id.
    Unlock(Option<i64>),
    Help,
    Version,
}

/// Reads the arguments that follow the program's name.
///
/// # Errors
///
/// One line that names what is not understood and what may have been meant.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Command, String> {
    let args: Vec<OsString> = args.collect();
    let Some((first, rest)) = args.split_first() else {
        return Ok(Command::Start);
    };
    let command = find(first)?;
    let unexpected = match rest {
        [] => return Ok(command),
        [option] if is_option(option, Command::Help) => return Ok(Command::Help),
        [topic] if first == "help" => return find(topic).map(|_| Command::Help),
        [id] if command == Command::Unlock(None) => match id.to_str().map(str::parse) {
            Some(Ok(id)) => return Ok(Command::Unlock(Some(id))),
            _ => id,
        },
        [option, extra, ..] if first == "help" || is_option(option, Command::Help) => extra,
        [_, extra, ..] if command == Command::Unlock(None) => extra,
        [extra, ..] => extra,
    };
    let (unexpected, first) = (quoted(unexpected), quoted(first));
    Err(format!(
        "unexpected argument {unexpected} after {first}{SEE_HELP}"
    ))
}

/// Usage, commands, the most important variables and the exit codes, on one screen of 80 columns and 24 lines.
pub fn help() -> &'static str {
    static HELP: LazyLock<String> = LazyLock::new(|| {
        let list: String = COMMANDS
            .iter()
            .map(|entry| format!("  {:16} {}\n", entry.usage, entry.does))
            .collect();
        format!("{USAGE}{list}{REST}")
    });
    &HELP
}

/// A command and its line of the help text.
struct Entry {
    name: &'static str,
    usage: &'static str,
    does: &'static str,
    command: Command,
}

/// Every command that has a name, in the order of the help text.
const COMMANDS: [Entry; 3] = [
    Entry {
        name: "up",
        usage: "up",
        does: "apply all that is pending",
        command: Command::Up,
    },
    Entry {
        name: "unlock",
        usage: "unlock [ID]",
        does: "show the lock; remove a row of it whose owner is gone",
        command: Command::Unlock(None),
    },
    Entry {
        name: "help",
        usage: "help [COMMAND]",
        does: "show this page; also -h, --help",
        command: Command::Help,
    },
];

const OPTIONS: [(&str, Command); 4] = [
    ("--help", Command::Help),
    ("-h", Command::Help),
    ("--version", Command::Version),
    ("-V", Command::Version),
];

const SEE_HELP: &str = " (see `lockstep help`)";

const USAGE: &str = "\
Lockstep applies PostgreSQL schema migrations. Environment variables set it up.
usage: lockstep [COMMAND]
  (none)           as `up`, but only if RUN_DATABASE_MIGRATIONS is true
";

const REST: &str = "  -V, --version    show the version

  DATABASE_URL           postgres://user:password@host/database or key=value ...
  DATABASE_ENDPOINT_URL  host:port; with DATABASE_NAME, DATABASE_USERNAME and
                         DATABASE_PASSWORD instead of a URL
  MIGRATIONS_DIR         where the *.up.sql files are (migrations)
  LOG_LEVEL, LOG_FORMAT  TRACE DEBUG INFO WARN ERROR (INFO); text or json

exit codes: 0 done; 1 a migration failed, 2 unusable input, 5 history and files
disagree: fix that first; 3 no connection, 4 no lock, 130 and 143 stopped by a
signal: run again. README.md tells the rest.
";

fn find(argument: &OsString) -> Result<Command, String> {
    let commands = COMMANDS.iter().map(|entry| (entry.name, entry.command));
    if let Some((_, command)) = commands.chain(OPTIONS).find(|(name, _)| argument == name) {
        return Ok(command);
    }
    let text = argument.to_string_lossy();
    let (kind, names): (_, Vec<&str>) = if text.starts_with('-') {
        ("option", OPTIONS.iter().map(|(name, _)| *name).collect())
    } else {
        ("command", COMMANDS.iter().map(|entry| entry.name).collect())
    };
    Err(match nearest(&text, &names) {
        Some(name) => format!(
            "unknown {kind} {}: did you mean \"{name}\"?{SEE_HELP}",
            quoted(argument)
        ),
        None => format!(
            "unknown {kind} {}: use one of {}{SEE_HELP}",
            quoted(argument),
            names.join(", ")
        ),
    })
}

fn is_option(argument: &OsString, command: Command) -> bool {
    OPTIONS
        .iter()
        .any(|(name, meant)| argument == name && *meant == command)
}

/// The argument in quotes, on one line whatever it holds.
fn quoted(argument: &OsString) -> String {
    format!("{:?}", argument.to_string_lossy())
}

/// The name that `text` most likely stands for: one that begins it or that it begins, or the fewest typing errors away
/// if these are at most half of its letters.
fn nearest<'a>(text: &str, names: &[&'a str]) -> Option<&'a str> {
    let text = text.to_lowercase();
    let begins = |name: &str| text.len() > 1 && (text.starts_with(name) || name.starts_with(&text));
    let score = |name: &str| {
        if begins(name) {
            0
        } else {
            edit_distance(&text, &name.to_lowercase())
        }
    };
    let (errors, name) = names
        .iter()
        .map(|name| (score(name), *name))
        .min_by_key(|(errors, _)| *errors)?;
    (errors <= name.trim_start_matches('-').chars().count() / 2).then_some(name)
}

/// How many letters must be inserted, deleted, replaced or swapped with their neighbour (optimal string alignment).
fn edit_distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=to.len()).collect()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Result<Command, String> {
        parse(line.iter().map(OsString::from))
    }

    #[test]
    fn understands_what_there_is() {
        let table: [(&[&str], Command); 16] = [
            (&[], Command::Start),
            (&["up"], Command::Up),
            (&["help"], Command::Help),
            (&["help", "up"], Command::Help),
            (&["help", "help"], Command::Help),
            (&["help", "--version"], Command::Help),
            (&["help", "--help"], Command::Help),
            (&["up", "--help"], Command::Help),
            (&["up", "-h"], Command::Help),
            (&["--help"], Command::Help),
            (&["-h"], Command::Help),
            (&["--version"], Command::Version),
            (&["-V"], Command::Version),
            (&["unlock"], Command::Unlock(None)),
            (&["unlock", "-7"], Command::Unlock(Some(-7))),
            (&["unlock", "--help"], Command::Help),
        ];
        for (line, command) in table {
            assert_eq!(parsed(line), Ok(command), "{line:?}");
        }
    }

    #[test]
    fn refuses_the_rest_in_one_line_with_the_nearest() {
        let table: [(&[&str], &str); 23] = [
            (
                &["unlock", "x"],
                "unexpected argument \"x\" after \"unlock\" (see `lockstep help`)",
            ),
            (
                &["unlock", "1", "2"],
                "unexpected argument \"2\" after \"unlock\" (see `lockstep help`)",
            ),
            (
                &["upp"],
                "unknown command \"upp\": did you mean \"up\"? (see `lockstep help`)",
            ),
            (
                &["pu"],
                "unknown command \"pu\": did you mean \"up\"? (see `lockstep help`)",
            ),
            (
                &["UP"],
                "unknown command \"UP\": did you mean \"up\"? (see `lockstep help`)",
            ),
            (
                &["upgrade"],
                "unknown command \"upgrade\": did you mean \"up\"? (see `lockstep help`)",
            ),
            (
                &["hlep"],
                "unknown command \"hlep\": did you mean \"help\"? (see `lockstep help`)",
            ),
            (
                &["he"],
                "unknown command \"he\": did you mean \"help\"? (see `lockstep help`)",
            ),
            (
                &["helpme"],
                "unknown command \"helpme\": did you mean \"help\"? (see `lockstep help`)",
            ),
            (
                &["migrate"],
                "unknown command \"migrate\": use one of up, unlock, help (see `lockstep help`)",
            ),
            (
                &["down"],
                "unknown command \"down\": use one of up, unlock, help (see `lockstep help`)",
            ),
            (
                &[""],
                "unknown command \"\": use one of up, unlock, help (see `lockstep help`)",
            ),
            (
                &["a\nb\u{1b}"],
                "unknown command \"a\\nb\\u{1b}\": use one of up, unlock, help (see `lockstep help`)",
            ),
            (
                &["--hepl"],
                "unknown option \"--hepl\": did you mean \"--help\"? (see `lockstep help`)",
            ),
            (
                &["--versoin"],
                "unknown option \"--versoin\": did you mean \"--version\"? (see `lockstep help`)",
            ),
            (
                &["-v"],
                "unknown option \"-v\": did you mean \"-V\"? (see `lockstep help`)",
            ),
            (
                &["--dry-run"],
                "unknown option \"--dry-run\": use one of --help, -h, --version, -V (see `lockstep help`)",
            ),
            (
                &["up", "now"],
                "unexpected argument \"now\" after \"up\" (see `lockstep help`)",
            ),
            (
                &["up", "--help", "x"],
                "unexpected argument \"x\" after \"up\" (see `lockstep help`)",
            ),
            (
                &["up", ""],
                "unexpected argument \"\" after \"up\" (see `lockstep help`)",
            ),
            (
                &["--version", "up"],
                "unexpected argument \"up\" after \"--version\" (see `lockstep help`)",
            ),
            (
                &["help", "upp"],
                "unknown command \"upp\": did you mean \"up\"? (see `lockstep help`)",
            ),
            (
                &["help", "up", "up"],
                "unexpected argument \"up\" after \"help\" (see `lockstep help`)",
            ),
        ];
        for (line, complaint) in table {
            assert_eq!(parsed(line), Err(complaint.to_owned()), "{line:?}");
            assert!(!complaint.contains('\n'));
        }
    }

    #[cfg(unix)]
    #[test]
    fn refuses_bytes_that_are_no_text() {
        use std::os::unix::ffi::OsStringExt as _;
        let error = parse(std::iter::once(OsString::from_vec(vec![b'u', 0xff])));
        assert_eq!(
            error,
            Err(
                "unknown command \"u\u{fffd}\": did you mean \"up\"? (see `lockstep help`)"
                    .to_owned()
            )
        );
    }

    #[test]
    fn help_fits_a_terminal_and_names_every_command() {
        assert!(help().lines().count() <= 24, "{}", help());
        for line in help().lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        for entry in &COMMANDS {
            assert!(
                help().contains(&format!("\n  {} ", entry.usage)),
                "{}",
                entry.name
            );
            assert!(
                entry.usage.starts_with(entry.name) && entry.usage.len() <= 16,
                "{}",
                entry.name
            );
        }
        assert!(help().ends_with("README.md tells the rest.\n"));
    }
}
