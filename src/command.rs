//! The command line → [`Command`], and the help text. Prints nothing and reads nothing else.

use std::ffi::OsString;
use std::sync::LazyLock;

use crate::migration::Version;

/// What the user asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// No command: the start of a service, which migrates only if it is switched on.
    Start,
    /// Apply all that is pending.
    Up,
    Down(Rollback),
    /// Show where we are connected, the lock, and every migration with its state.
    Status(Format),
    /// Tell by the exit code whether the database is where the files are.
    Check(Format),
    /// Poll until `check` would say yes.
    Wait,
    Plan(Format, Planning),
    /// Create the two files of a migration with this name.
    New(OsString),
    /// Record every file up to this version as applied, without running it.
    Baseline(Version),
    /// Show the lock, or remove the row with this id.
    Unlock(Option<i64>),
    /// The general page, or that of the command with this name.
    Help(Option<&'static str>),
    Version,
}

/// Which migrations `down` rolls back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rollback {
    /// What one run of `up` applied.
    NewestGroup,
    /// This many, the newest first.
    Newest(usize),
}

/// How a command's answer is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Text,
    Json,
}

/// How `plan` finds out what would happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planning {
    /// By reading the files.
    Read,
    /// By running them, and rolling back.
    Rehearse,
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
    let mut words = Words {
        after: first,
        rest: rest.to_vec(),
    };
    let command = match find(first)? {
        Found::Option(command) => command,
        Found::Command(entry) => match rest {
            [option] if option == "--help" || option == "-h" => {
                return Ok(Command::Help(Some(entry.name)));
            }
            _ => (entry.read)(&mut words)?,
        },
    };
    match words.rest.first() {
        None => Ok(command),
        Some(unexpected) => Err(words.unexpected(unexpected)),
    }
}

/// The words that follow a command, as far as they are not yet understood.
struct Words<'a> {
    after: &'a OsString,
    rest: Vec<OsString>,
}

impl Words<'_> {
    /// Takes an option that stands anywhere among the words, once.
    fn option(&mut self, name: &str) -> bool {
        let found = self.rest.iter().position(|word| word == name);
        found.map(|at| self.rest.remove(at)).is_some()
    }

    fn format(&mut self) -> Format {
        match self.option("--json") {
            true => Format::Json,
            false => Format::Text,
        }
    }

    fn operand(&mut self) -> Option<OsString> {
        (!self.rest.is_empty()).then(|| self.rest.remove(0))
    }

    /// Takes an operand that may be missing; `read` says what it is.
    fn optional<T>(&mut self, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>, String> {
        let Some(word) = self.operand() else {
            return Ok(None);
        };
        match word.to_str().and_then(read) {
            Some(value) => Ok(Some(value)),
            None => Err(self.unexpected(&word)),
        }
    }

    fn required(&mut self, what: &str) -> Result<OsString, String> {
        let after = self.after.to_string_lossy();
        self.operand()
            .ok_or_else(|| format!("{after} needs {what} (see `lockstep help {after}`)"))
    }

    fn unexpected(&self, word: &OsString) -> String {
        let (word, after) = (quoted(word), quoted(self.after));
        format!("unexpected argument {word} after {after}{SEE_HELP}")
    }
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
    read: fn(&mut Words) -> Result<Command, String>,
}

/// Every command that has a name, in the order of the help text.
static COMMANDS: [Entry; 10] = [
    Entry {
        name: "up",
        usage: "up",
        does: "apply all that is pending",
        read: |_| Ok(Command::Up),
    },
    Entry {
        name: "down",
        usage: "down [N]",
        does: "roll back the newest run of `up`, or the newest N",
        read: |words| {
            let count =
                words.optional(|word| word.parse().ok().filter(|&count: &usize| count > 0))?;
            Ok(Command::Down(
                count.map_or(Rollback::NewestGroup, Rollback::Newest),
            ))
        },
    },
    Entry {
        name: "status",
        usage: "status [--json]",
        does: "show the database, the lock, and every migration",
        read: |words| Ok(Command::Status(words.format())),
    },
    Entry {
        name: "check",
        usage: "check [--json]",
        does: "exit 0 if up to date, 6 if migrations are pending",
        read: |words| Ok(Command::Check(words.format())),
    },
    Entry {
        name: "wait",
        usage: "wait",
        does: "wait until `check` would exit 0",
        read: |_| Ok(Command::Wait),
    },
    Entry {
        name: "plan",
        usage: "plan [--json]",
        does: "show what `up` would run, and what it would lock",
        read: |words| {
            let planning = match words.option("--rehearse") {
                true => Planning::Rehearse,
                false => Planning::Read,
            };
            Ok(Command::Plan(words.format(), planning))
        },
    },
    Entry {
        name: "new",
        usage: "new NAME",
        does: "create the files of a migration",
        read: |words| words.required("a NAME").map(Command::New),
    },
    Entry {
        name: "baseline",
        usage: "baseline VERSION",
        does: "record all files up to VERSION without running them",
        read: |words| {
            let word = words.required("a VERSION, 14 digits")?;
            let version = word.to_str().and_then(Version::parse);
            version
                .map(Command::Baseline)
                .ok_or_else(|| words.unexpected(&word))
        },
    },
    Entry {
        name: "unlock",
        usage: "unlock [ID]",
        does: "show the lock; remove a row of it whose owner is gone",
        read: |words| {
            let id = words.optional(|word| word.parse().ok())?;
            Ok(Command::Unlock(id))
        },
    },
    Entry {
        name: "help",
        usage: "help [COMMAND]",
        does: "show this page, or one about COMMAND",
        read: |words| {
            let Some(topic) = words.operand() else {
                return Ok(Command::Help(None));
            };
            Ok(Command::Help(match find(&topic)? {
                Found::Command(entry) => Some(entry.name),
                Found::Option(_) => None,
            }))
        },
    },
];

const OPTIONS: [(&str, Command); 4] = [
    ("--help", Command::Help(None)),
    ("-h", Command::Help(None)),
    ("--version", Command::Version),
    ("-V", Command::Version),
];

enum Found {
    Command(&'static Entry),
    Option(Command),
}

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

fn find(argument: &OsString) -> Result<Found, String> {
    if let Some(entry) = COMMANDS.iter().find(|entry| argument == entry.name) {
        return Ok(Found::Command(entry));
    }
    if let Some((_, command)) = OPTIONS.iter().find(|(name, _)| argument == name) {
        return Ok(Found::Option(command.clone()));
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
            (&["help"], Command::Help(None)),
            (&["help", "up"], Command::Help(Some("up"))),
            (&["help", "help"], Command::Help(Some("help"))),
            (&["help", "--version"], Command::Help(None)),
            (&["help", "--help"], Command::Help(None)),
            (&["up", "--help"], Command::Help(Some("up"))),
            (&["up", "-h"], Command::Help(Some("up"))),
            (&["--help"], Command::Help(None)),
            (&["-h"], Command::Help(None)),
            (&["--version"], Command::Version),
            (&["-V"], Command::Version),
            (&["unlock"], Command::Unlock(None)),
            (&["unlock", "-7"], Command::Unlock(Some(-7))),
            (&["unlock", "--help"], Command::Help(Some("unlock"))),
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
                "unknown command \"migrate\": use one of up, down, status, check, wait, plan, new, baseline, unlock, help (see `lockstep help`)",
            ),
            (
                &["apply"],
                "unknown command \"apply\": use one of up, down, status, check, wait, plan, new, baseline, unlock, help (see `lockstep help`)",
            ),
            (
                &[""],
                "unknown command \"\": use one of up, down, status, check, wait, plan, new, baseline, unlock, help (see `lockstep help`)",
            ),
            (
                &["a\nb\u{1b}"],
                "unknown command \"a\\nb\\u{1b}\": use one of up, down, status, check, wait, plan, new, baseline, unlock, help (see `lockstep help`)",
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
