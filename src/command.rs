//! The command line → [`Command`], or one line that says what is not understood and what may have been meant. Prints
//! nothing and reads nothing else. What `lockstep help` shows is in [`help`].

mod help;

use std::collections::VecDeque;
use std::ffi::OsString;

use crate::migration::Version;
use crate::plan::rollback::Rollback;

pub use help::help;

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
    /// The general page, that of the command, or the manual's page with this name.
    Help(Option<&'static str>),
    Version,
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

/// Reads the arguments that follow the program's name. Options may stand before and behind operands; behind `--` all is
/// an operand, and so is a negative number.
///
/// # Errors
///
/// One line that names what is not understood and what may have been meant.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Command, String> {
    let args: Vec<OsString> = args.collect();
    let Some((first, rest)) = args.split_first() else {
        return Ok(Command::Start);
    };
    let entry = match first.to_str() {
        Some("--help" | "-h") => entry("help").ok_or_else(|| unknown_command(first))?,
        Some("--version" | "-V") => {
            return match rest.first() {
                None => Ok(Command::Version),
                Some(word) => Err(unexpected(word, first) + &see_help("")),
            };
        }
        _ if is_option(first) => return Err(misplaced_option(first, rest)),
        name => name.and_then(entry).ok_or_else(|| unknown_command(first))?,
    };
    let mut words = Words::sort(entry, rest)?;
    // The page about the page that lists all the others is the least that anybody can want.
    if words.wants_help && entry.name != "help" {
        return Ok(Command::Help(Some(entry.name)));
    }
    let command = (entry.read)(&mut words)?;
    match words.operands.pop_front() {
        None => Ok(command),
        Some(word) => Err(words.complain_of_surplus(&word)),
    }
}

/// A command, and how what follows it is read.
struct Entry {
    name: &'static str,
    /// Beside `--help`, which all have.
    options: &'static [&'static str],
    read: fn(&mut Words) -> Result<Command, String>,
}

/// Every command that has a name, in the order of the help text.
static COMMANDS: [Entry; 10] = [
    Entry {
        name: "up",
        options: &[],
        read: |_| Ok(Command::Up),
    },
    Entry {
        name: "down",
        options: &[],
        read: |words| {
            let what = format!("N is a whole number from 1 to {}", usize::MAX);
            let count = words.optional(&what, |word| plain_number(word).filter(|it| *it > 0))?;
            Ok(Command::Down(
                count.map_or(Rollback::NewestGroup, Rollback::Newest),
            ))
        },
    },
    Entry {
        name: "status",
        options: &["--json"],
        read: |words| Ok(Command::Status(words.format())),
    },
    Entry {
        name: "check",
        options: &["--json"],
        read: |words| Ok(Command::Check(words.format())),
    },
    Entry {
        name: "wait",
        options: &[],
        read: |_| Ok(Command::Wait),
    },
    Entry {
        name: "plan",
        options: &["--json", "--rehearse"],
        read: |words| {
            let planning = match words.has("--rehearse") {
                true => Planning::Rehearse,
                false => Planning::Read,
            };
            Ok(Command::Plan(words.format(), planning))
        },
    },
    Entry {
        name: "new",
        options: &[],
        read: |words| words.required("a NAME").map(Command::New),
    },
    Entry {
        name: "baseline",
        options: &[],
        read: |words| {
            let word = words.required("a VERSION, 14 digits")?;
            let version = word.to_str().and_then(Version::parse);
            version
                .map(Command::Baseline)
                .ok_or_else(|| words.complain_of_version(&word))
        },
    },
    Entry {
        name: "unlock",
        options: &[],
        read: |words| {
            let what = "ID is the whole number that `lockstep unlock` shows";
            let id = words.optional(what, |word| word.parse().ok())?;
            Ok(Command::Unlock(id))
        },
    },
    Entry {
        name: "help",
        options: &["--version", "-V"],
        read: |words| match words.operands.pop_front() {
            None => Ok(Command::Help(None)),
            Some(word) => {
                let name = word.to_str().unwrap_or_default();
                let page = entry(name).map(|it| it.name).or_else(|| help::topic(name));
                match page {
                    Some(page) => Ok(Command::Help(Some(page))),
                    None => Err(unknown_command(&word)),
                }
            }
        },
    },
];

fn entry(name: &str) -> Option<&'static Entry> {
    COMMANDS.iter().find(|entry| entry.name == name)
}

/// The words that follow a command.
struct Words {
    entry: &'static Entry,
    options: Vec<&'static str>,
    operands: VecDeque<OsString>,
    wants_help: bool,
}

impl Words {
    /// Tells options from operands. Who asks for help gets it, whatever else is wrong.
    fn sort(entry: &'static Entry, rest: &[OsString]) -> Result<Words, String> {
        let mut words = Words {
            entry,
            options: Vec::new(),
            operands: VecDeque::new(),
            wants_help: rest
                .iter()
                .take_while(|word| *word != "--")
                .any(|word| word == "--help" || word == "-h"),
        };
        let mut rest = rest.iter();
        for word in rest.by_ref().take_while(|word| *word != "--") {
            if word == "--help" || word == "-h" {
                continue;
            }
            match is_option(word) {
                true if words.wants_help => {}
                true => words.take_option(word)?,
                false => words.operands.push_back(word.clone()),
            }
        }
        words.operands.extend(rest.cloned());
        Ok(words)
    }

    fn take_option(&mut self, word: &OsString) -> Result<(), String> {
        let Some(option) = self.entry.options.iter().find(|it| word == *it) else {
            return Err(self.complain_of_option(word));
        };
        if self.options.contains(option) {
            let name = quoted(word);
            return Err(format!("option {name} stands twice{}", self.see_help()));
        }
        self.options.push(option);
        Ok(())
    }

    fn has(&self, option: &str) -> bool {
        self.options.contains(&option)
    }

    fn format(&self) -> Format {
        match self.has("--json") {
            true => Format::Json,
            false => Format::Text,
        }
    }

    /// Takes an operand that may be missing; `what` says what it is, and `read` reads it.
    fn optional<T>(
        &mut self,
        what: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let Some(word) = self.operands.pop_front() else {
            return Ok(None);
        };
        match word.to_str().and_then(read) {
            Some(value) => Ok(Some(value)),
            None => Err(format!(
                "unusable argument {} after {:?}: {what}{}",
                quoted(&word),
                self.entry.name,
                self.see_help()
            )),
        }
    }

    fn required(&mut self, what: &str) -> Result<OsString, String> {
        let (name, see_help) = (self.entry.name, self.see_help());
        self.operands
            .pop_front()
            .ok_or_else(|| format!("missing argument: {name:?} needs {what}{see_help}"))
    }

    fn complain_of_option(&self, word: &OsString) -> String {
        let (name, see_help) = (self.entry.name, self.see_help());
        let text = word.to_string_lossy();
        if let Some((option, _)) = text.split_once('=')
            && self.entry.options.contains(&option)
        {
            return format!("option {option:?} takes no value{see_help}");
        }
        let names: Vec<&str> = self
            .entry
            .options
            .iter()
            .copied()
            .chain(["--help"])
            .collect();
        let unknown = format!("unknown option {} after {name:?}", quoted(word));
        match (nearest(&text, &names), known_elsewhere(&text)) {
            (Some(option), _) => format!("{unknown}: did you mean {option:?}?{see_help}"),
            (None, Some(command)) => {
                format!("{unknown}: did you mean \"lockstep {command}\"?{see_help}")
            }
            (None, None) => format!("{unknown}: it takes only {}{see_help}", names.join(", ")),
        }
    }

    fn complain_of_surplus(&self, word: &OsString) -> String {
        let text = word.to_string_lossy();
        let unexpected = unexpected(word, &self.entry.name.into());
        let hint = match nearest(&format!("--{text}"), self.entry.options) {
            Some(option) => format!(": did you mean {option:?}?"),
            None if self.entry.name == "new" => {
                ": a NAME of several words stands in quotes".to_owned()
            }
            None => String::new(),
        };
        format!("{unexpected}{hint}{}", self.see_help())
    }

    /// A file's name, or the beginning of one, is the likeliest thing that is no version.
    fn complain_of_version(&self, word: &OsString) -> String {
        let text = word.to_string_lossy();
        let file = text.rsplit('/').next().unwrap_or_default();
        let meant = file.get(..14).and_then(Version::parse);
        let hint = meant.map(|version| format!(": did you mean \"{version}\"?"));
        format!(
            "unusable argument {} after \"baseline\"{}{}",
            quoted(word),
            hint.unwrap_or_else(
                || ": VERSION is 14 digits, those that a file's name begins with".to_owned()
            ),
            self.see_help()
        )
    }

    fn see_help(&self) -> String {
        see_help(self.entry.name)
    }
}

/// Returns true if and only if the word is meant as an option: it begins with a dash and is no number.
fn is_option(word: &OsString) -> bool {
    let text = word.to_string_lossy();
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    text.strip_prefix('-')
        .is_some_and(|rest| !rest.is_empty() && !digits(rest))
}

/// A number without a sign.
fn plain_number(text: &str) -> Option<usize> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

fn unknown_command(word: &OsString) -> String {
    let text = word.to_string_lossy();
    let names: Vec<&str> = COMMANDS.iter().map(|entry| entry.name).collect();
    let unknown = format!("unknown command {}", quoted(word));
    match known_elsewhere(&text).or_else(|| nearest(&text, &names)) {
        Some(name) => format!("{unknown}: did you mean {name:?}?{}", see_help("")),
        None => format!("{unknown}: use one of {}{}", names.join(", "), see_help("")),
    }
}

/// An option that no command stands before: one that is unknown, or a command's own that came too early.
fn misplaced_option(word: &OsString, rest: &[OsString]) -> String {
    let text = word.to_string_lossy();
    let unknown = format!("unknown option {}", quoted(word));
    let mut entries = rest.iter().filter_map(|it| it.to_str().and_then(entry));
    let owner = entries.find(|entry| entry.options.contains(&&*text));
    let names = ["--help", "-h", "--version", "-V"];
    let hint = match (owner, nearest(&text, &names), known_elsewhere(&text)) {
        (Some(owner), ..) => format!("did you mean \"lockstep {} {text}\"?", owner.name),
        (None, Some(name), _) => format!("did you mean {name:?}?"),
        (None, None, Some(command)) => format!("did you mean \"lockstep {command}\"?"),
        (None, None, None) => format!("use one of {}", names.join(", ")),
    };
    format!("{unknown}: {hint}{}", see_help(""))
}

fn unexpected(word: &OsString, after: &OsString) -> String {
    format!(
        "unexpected argument {} after {}",
        quoted(word),
        quoted(after)
    )
}

/// Where to read on: the page about the command, or the general one.
fn see_help(command: &str) -> String {
    match command {
        "" | "help" => " (see `lockstep help`)".to_owned(),
        command => format!(" (see `lockstep help {command}`)"),
    }
}

/// The argument in quotes, on one line whatever it holds.
fn quoted(argument: &OsString) -> String {
    format!("{:?}", argument.to_string_lossy())
}

/// Our command for what other tools call otherwise.
fn known_elsewhere(word: &str) -> Option<&'static str> {
    const WORDS: [(&str, &[&str]); 7] = [
        ("up", &["migrate", "apply", "run", "deploy"]),
        ("down", &["rollback", "undo", "revert", "back"]),
        ("status", &["info", "list", "show", "history"]),
        ("check", &["validate", "verify", "pending"]),
        ("plan", &["dry-run", "dryrun", "preview", "diff"]),
        ("new", &["create", "generate", "add", "make"]),
        ("unlock", &["force", "release", "repair"]),
    ];
    let word = word.trim_start_matches('-').to_lowercase();
    let found = WORDS.iter().find(|(_, others)| others.contains(&&*word));
    found.map(|(name, _)| *name)
}

/// The name that `text` most likely stands for: one that begins it or that it begins, or the fewest typing errors away
/// if these are at most half of its letters.
fn nearest(text: &str, names: &[&'static str]) -> Option<&'static str> {
    let text = text.to_lowercase();
    let letters = |text: &str| text.trim_start_matches('-').chars().count();
    let begins = |name: &str| {
        letters(&text).min(letters(name)) > 1 && (text.starts_with(name) || name.starts_with(&text))
    };
    let score = |name: &str| match begins(name) {
        true => 0,
        false => edit_distance(&text, &name.to_lowercase()),
    };
    let scores = names.iter().map(|name| (score(name), *name));
    let (errors, name) = scores.min_by_key(|(errors, _)| *errors)?;
    (errors <= letters(name) / 2).then_some(name)
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
        let version = Version::parse("20230314095813").expect("fourteen digits");
        let table: [(&str, Command); 41] = [
            ("", Command::Start),
            ("up", Command::Up),
            ("up --", Command::Up),
            ("down", Command::Down(Rollback::NewestGroup)),
            ("down 1", Command::Down(Rollback::Newest(1))),
            ("down 0013", Command::Down(Rollback::Newest(13))),
            ("status", Command::Status(Format::Text)),
            ("status --json", Command::Status(Format::Json)),
            ("check", Command::Check(Format::Text)),
            ("check --json", Command::Check(Format::Json)),
            ("wait", Command::Wait),
            ("plan", Command::Plan(Format::Text, Planning::Read)),
            ("plan --json", Command::Plan(Format::Json, Planning::Read)),
            (
                "plan --rehearse",
                Command::Plan(Format::Text, Planning::Rehearse),
            ),
            (
                "plan --rehearse --json",
                Command::Plan(Format::Json, Planning::Rehearse),
            ),
            (
                "plan --json --rehearse",
                Command::Plan(Format::Json, Planning::Rehearse),
            ),
            ("new add_column", Command::New("add_column".into())),
            ("new -- --json", Command::New("--json".into())),
            ("new -5", Command::New("-5".into())),
            ("baseline 20230314095813", Command::Baseline(version)),
            ("baseline -- 20230314095813", Command::Baseline(version)),
            ("unlock", Command::Unlock(None)),
            ("unlock -7", Command::Unlock(Some(-7))),
            ("unlock 7", Command::Unlock(Some(7))),
            ("unlock -- -7", Command::Unlock(Some(-7))),
            (
                "unlock -9223372036854775808",
                Command::Unlock(Some(i64::MIN)),
            ),
            ("help", Command::Help(None)),
            ("help up", Command::Help(Some("up"))),
            ("help exit-codes", Command::Help(Some("exit-codes"))),
            ("help help", Command::Help(Some("help"))),
            ("help --help", Command::Help(None)),
            ("help up --help", Command::Help(Some("up"))),
            ("help --version", Command::Help(None)),
            ("--help", Command::Help(None)),
            ("--help up", Command::Help(Some("up"))),
            ("-h", Command::Help(None)),
            ("up --help", Command::Help(Some("up"))),
            ("up -h", Command::Help(Some("up"))),
            ("down --json x --help", Command::Help(Some("down"))),
            ("--version", Command::Version),
            ("-V", Command::Version),
        ];
        for (line, command) in table {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(parsed(&words), Ok(command), "{line:?}");
        }
    }

    #[track_caller]
    fn assert_refused(table: &[(&str, &str)]) {
        for (line, complaint) in table {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(parsed(&words), Err((*complaint).to_owned()), "{line:?}");
            assert!(!complaint.contains('\n'));
        }
    }

    #[test]
    fn an_unknown_command_gets_the_nearest() {
        const ALL: &str = "use one of up, down, status, check, wait, plan, new, baseline, unlock, help (see `lockstep help`)";
        for (word, meant) in [
            ("upp", "up"),
            ("pu", "up"),
            ("UP", "up"),
            ("upgrade", "up"),
            ("migrate", "up"),
            ("apply", "up"),
            ("donw", "down"),
            ("rollback", "down"),
            ("stats", "status"),
            ("stauts", "status"),
            ("chekc", "check"),
            ("plna", "plan"),
            ("dry-run", "plan"),
            ("create", "new"),
            ("base", "baseline"),
            ("unlok", "unlock"),
            ("hlep", "help"),
            ("he", "help"),
            ("helpme", "help"),
        ] {
            let complaint =
                format!("unknown command {word:?}: did you mean {meant:?}? (see `lockstep help`)");
            assert_eq!(parsed(&[word]), Err(complaint.clone()));
            assert_eq!(parsed(&["help", word]), Err(complaint));
        }
        for word in ["", "-", "x", "frobnicate", "a\nb\u{1b}", "ไทย"] {
            let complaint = format!("unknown command {word:?}: {ALL}");
            assert_eq!(parsed(&[word]), Err(complaint), "{word:?}");
        }
    }

    #[test]
    fn an_unknown_option_gets_the_nearest_of_its_command() {
        assert_refused(&[
            (
                "--hepl",
                "unknown option \"--hepl\": did you mean \"--help\"? (see `lockstep help`)",
            ),
            (
                "--versoin",
                "unknown option \"--versoin\": did you mean \"--version\"? (see `lockstep help`)",
            ),
            (
                "-v",
                "unknown option \"-v\": did you mean \"-V\"? (see `lockstep help`)",
            ),
            (
                "--dry-run",
                "unknown option \"--dry-run\": did you mean \"lockstep plan\"? (see `lockstep help`)",
            ),
            (
                "--xyz",
                "unknown option \"--xyz\": use one of --help, -h, --version, -V (see `lockstep help`)",
            ),
            (
                "--",
                "unknown option \"--\": use one of --help, -h, --version, -V (see `lockstep help`)",
            ),
            (
                "--json status",
                "unknown option \"--json\": did you mean \"lockstep status --json\"? (see `lockstep help`)",
            ),
            (
                "--json up",
                "unknown option \"--json\": use one of --help, -h, --version, -V (see `lockstep help`)",
            ),
            (
                "status --jsno",
                "unknown option \"--jsno\" after \"status\": did you mean \"--json\"? (see `lockstep help status`)",
            ),
            (
                "status --js",
                "unknown option \"--js\" after \"status\": did you mean \"--json\"? (see `lockstep help status`)",
            ),
            (
                "plan --rehearsal",
                "unknown option \"--rehearsal\" after \"plan\": did you mean \"--rehearse\"? (see `lockstep help plan`)",
            ),
            (
                "up --dry-run",
                "unknown option \"--dry-run\" after \"up\": did you mean \"lockstep plan\"? (see `lockstep help up`)",
            ),
            (
                "up --json",
                "unknown option \"--json\" after \"up\": it takes only --help (see `lockstep help up`)",
            ),
            (
                "plan -x",
                "unknown option \"-x\" after \"plan\": it takes only --json, --rehearse, --help (see `lockstep help plan`)",
            ),
            (
                "status --json=1",
                "option \"--json\" takes no value (see `lockstep help status`)",
            ),
            (
                "status --json --json",
                "option \"--json\" stands twice (see `lockstep help status`)",
            ),
        ]);
    }

    #[test]
    fn an_argument_too_many_or_too_few_is_named_with_its_command() {
        assert_refused(&[
            (
                "up now",
                "unexpected argument \"now\" after \"up\" (see `lockstep help up`)",
            ),
            (
                "up ",
                "unexpected argument \"\" after \"up\" (see `lockstep help up`)",
            ),
            (
                "up -5",
                "unexpected argument \"-5\" after \"up\" (see `lockstep help up`)",
            ),
            (
                "up -",
                "unexpected argument \"-\" after \"up\" (see `lockstep help up`)",
            ),
            (
                "status json",
                "unexpected argument \"json\" after \"status\": did you mean \"--json\"? (see `lockstep help status`)",
            ),
            (
                "unlock 1 2",
                "unexpected argument \"2\" after \"unlock\" (see `lockstep help unlock`)",
            ),
            (
                "new add column",
                "unexpected argument \"column\" after \"new\": a NAME of several words stands in quotes (see `lockstep help new`)",
            ),
            (
                "--version up",
                "unexpected argument \"up\" after \"--version\" (see `lockstep help`)",
            ),
            (
                "help up up",
                "unexpected argument \"up\" after \"help\" (see `lockstep help`)",
            ),
            (
                "new",
                "missing argument: \"new\" needs a NAME (see `lockstep help new`)",
            ),
            (
                "baseline",
                "missing argument: \"baseline\" needs a VERSION, 14 digits (see `lockstep help baseline`)",
            ),
        ]);
    }

    #[test]
    fn an_unusable_argument_is_named_with_what_would_do() {
        let number = format!("N is a whole number from 1 to {}", usize::MAX);
        for word in ["0", "-5", "+5", "x", "1.5", "", "99999999999999999999", "२"] {
            let complaint = format!(
                "unusable argument {word:?} after \"down\": {number} (see `lockstep help down`)"
            );
            assert_eq!(parsed(&["down", word]), Err(complaint));
        }
        for word in ["x", "", "9223372036854775808", "1.0", "-"] {
            let complaint = format!(
                "unusable argument {word:?} after \"unlock\": ID is the whole number that `lockstep unlock` shows (see `lockstep help unlock`)"
            );
            assert_eq!(parsed(&["unlock", word]), Err(complaint));
        }
        for word in ["", "2023", "-5", "now", "2023031409581", "ไทยไทยไทย"] {
            let complaint = format!(
                "unusable argument {word:?} after \"baseline\": VERSION is 14 digits, those that a file's name begins with (see `lockstep help baseline`)"
            );
            assert_eq!(parsed(&["baseline", word]), Err(complaint));
        }
        for word in [
            "20230314095813_a.up.sql",
            "migrations/20230314095813_a.up.sql",
            "202303140958130",
        ] {
            let complaint = format!(
                "unusable argument {word:?} after \"baseline\": did you mean \"20230314095813\"? (see `lockstep help baseline`)"
            );
            assert_eq!(parsed(&["baseline", word]), Err(complaint));
        }
    }

    #[cfg(unix)]
    #[test]
    fn bytes_that_are_no_text_are_shown_and_a_name_keeps_them() {
        use std::os::unix::ffi::OsStringExt as _;
        let odd = || OsString::from_vec(vec![b'u', 0xff]);
        let line = |words: Vec<OsString>| parse(words.into_iter());
        let unknown = "unknown command \"u\u{fffd}\": did you mean \"up\"? (see `lockstep help`)";
        assert_eq!(line(vec![odd()]), Err(unknown.to_owned()));
        let unexpected = "unexpected argument \"u\u{fffd}\" after \"up\" (see `lockstep help up`)";
        assert_eq!(line(vec!["up".into(), odd()]), Err(unexpected.to_owned()));
        assert!(line(vec!["down".into(), odd()]).is_err());
        assert_eq!(line(vec!["new".into(), odd()]), Ok(Command::New(odd())));
    }
}
