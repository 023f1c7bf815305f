//! The command line → [`Command`], or one line that says what is not understood. Prints nothing and reads nothing else.
//! [`COMMANDS`] is the one table of commands: the parser, the help pages and the complaints are made of it.

mod help;
mod shell;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use lexopt::Arg;

use crate::migration::Version;
use crate::plan::rollback::Rollback;
use crate::text::Format;
use crate::text::words::{is_digits, joined};

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
    /// Write the migrations of another tool in this directory under our names.
    Import(PathBuf),
    /// Record every file up to this version as applied, without running it.
    Baseline(UpTo),
    /// Take this version's record back, without running anything.
    Forget(Version),
    /// Show the lock, or remove the row with this id.
    Unlock(Option<i64>),
    /// Show this page: the general one, that of a command, or the manual's.
    Help(String),
    Version,
}

/// Up to which file `baseline` records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpTo {
    Version(Version),
    /// The newest file.
    Latest,
}

/// How `plan` finds out what would happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planning {
    /// By reading the files.
    Read,
    /// By running them, and rolling back.
    Rehearse,
}

/// A command: how it is called, what its line in the list says, its page, and how what follows it is read.
struct Entry {
    name: &'static str,
    /// In brackets if it may be left out; empty: there is none.
    operand: &'static str,
    /// Beside `--help`, which all have.
    options: &'static [&'static str],
    summary: &'static str,
    /// Behind the line that says how it is called; variables in braces stand for what is said of them.
    page: &'static str,
    read: fn(&Words) -> Result<Command, String>,
}

/// A row of the table: name, operand, options, summary, and what reads the words behind it. The page is the file of that
/// name.
macro_rules! commands {
    ($($name:literal $operand:literal [$($option:literal)*] $summary:literal => $read:expr;)*) => {
        &[$(Entry {
            name: $name,
            operand: $operand,
            options: &[$($option),*],
            summary: $summary,
            page: include_str!(concat!("cli/pages/", $name, ".txt")),
            read: $read,
        }),*]
    };
}

/// Every command that has a name, in the order of the help text.
static COMMANDS: &[Entry] = commands! {
    "up" "" [] "apply all that is pending" => |_| Ok(Command::Up);
    "down" "[N]" [] "roll back the newest run of `up`, or the newest N migrations" => down;
    "status" "" ["json"] "show the database, the lock, and every migration" => |it| Ok(Command::Status(it.format()));
    "check" "" ["json"] "exit 0 if up to date, 6 if pending, 5 if diverged" => |it| Ok(Command::Check(it.format()));
    "wait" "" [] "wait until `check` would exit 0" => |_| Ok(Command::Wait);
    "plan" "" ["json" "rehearse"] "show what `up` would run and lock; --rehearse tries it" => plan;
    "new" "NAME" [] "create the files of a migration" => |it| Ok(Command::New(it.word()?));
    "import" "DIRECTORY" [] "write another tool's migrations under our names" => |it| Ok(Command::Import(it.word()?));
    "baseline" "VERSION" [] "record all files up to VERSION without running them" => baseline;
    "forget" "VERSION" [] "take the record of VERSION back, running nothing" => forget;
    "unlock" "[ID]" [] "show the lock; remove a row of it whose owner is gone" => unlock;
    "help" "[TOPIC]" [] "show this page, or one about a command or a topic" => help;
};

fn down(words: &Words) -> Result<Command, String> {
    let what = "N counts the newest migrations, from 1, and `lockstep status` shows how many there are; \
                without it, the newest run of `up` is rolled back";
    let count = words.optional(what, |word| {
        word.to_str().filter(|it| is_digits(it))?.parse().ok().filter(|it| *it > 0)
    })?;
    Ok(Command::Down(count.map_or(Rollback::NewestGroup, Rollback::Newest)))
}

fn plan(words: &Words) -> Result<Command, String> {
    let planning = if words.has("rehearse") { Planning::Rehearse } else { Planning::Read };
    Ok(Command::Plan(words.format(), planning))
}

fn baseline(words: &Words) -> Result<Command, String> {
    let what = "VERSION is 14 digits, those that a file's name begins with, or latest";
    let up_to = words.required(what, |word| match word.to_str()? {
        "latest" => Some(UpTo::Latest),
        version => Version::parse(version).map(UpTo::Version),
    });
    up_to.map(Command::Baseline)
}

fn forget(words: &Words) -> Result<Command, String> {
    let what = "VERSION is 14 digits, as `lockstep status` shows them";
    words.required(what, |word| Version::parse(word.to_str()?)).map(Command::Forget)
}

fn unlock(words: &Words) -> Result<Command, String> {
    let what = "ID is the whole number that `lockstep unlock` shows";
    words.optional(what, |word| word.to_str()?.parse().ok()).map(Command::Unlock)
}

fn help(words: &Words) -> Result<Command, String> {
    let page = match &words.operand {
        None => help::general(),
        Some(word) => help::about(&word.to_string_lossy()).ok_or_else(|| unknown_command(word))?,
    };
    Ok(Command::Help(page))
}

/// Reads the arguments that follow the program's name. Options may stand before and behind operands; behind `--` all is
/// an operand, and so is a negative number.
///
/// # Errors
///
/// One line that names what is not understood.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Command, String> {
    let args: Vec<OsString> = args.collect();
    if let Some(word) = args.first().filter(|word| is_long_with_one_dash(word)) {
        return Err(unknown_option(&word.to_string_lossy(), None));
    }
    let mut rest = lexopt::Parser::from_args(args.iter().cloned());
    let entry = match rest.next().map_err(|it| see_help(&it.to_string(), None))? {
        None => return Ok(Command::Start),
        Some(Arg::Long("version") | Arg::Short('V')) => {
            return match args.get(1) {
                None => Ok(Command::Version),
                Some(word) => Err(unexpected(word, "--version", None)),
            };
        }
        Some(Arg::Long("help") | Arg::Short('h')) => entry("help"),
        Some(Arg::Value(name)) => {
            Some(entry(&name.to_string_lossy()).ok_or_else(|| unknown_command(&name))?)
        }
        Some(option) => return Err(unknown_option(&shown(&option), None)),
    };
    let entry = entry.expect("the table has the command `help`");
    // Who asks for help gets it, whatever else is wrong.
    let mut options = args.iter().skip(1).take_while(|word| *word != "--");
    if entry.name != "help" && options.any(|word| word == "--help" || word == "-h") {
        return Ok(Command::Help(help::page(entry)));
    }
    (entry.read)(&Words::read(entry, rest)?)
}

fn entry(name: &str) -> Option<&'static Entry> {
    COMMANDS.iter().find(|entry| entry.name == name)
}

/// The words that follow a command.
struct Words {
    entry: &'static Entry,
    options: Vec<&'static str>,
    operand: Option<OsString>,
}

impl Words {
    fn read(entry: &'static Entry, mut rest: lexopt::Parser) -> Result<Words, String> {
        let mut words = Words { entry, options: Vec::new(), operand: None };
        loop {
            // To lexopt a negative number is an option, and a word behind one dash several.
            if let Some(raw) = rest.try_raw_args()
                && let Some(word) = raw.peek().filter(|word| is_long_with_one_dash(word))
            {
                return Err(unknown_option(&word.to_string_lossy(), Some(entry)));
            }
            let raw = rest.try_raw_args();
            let number = raw.and_then(|mut raw| raw.next_if(is_negative_number));
            let arg = match number {
                Some(number) => Some(Arg::Value(number)),
                None => rest.next().map_err(|it| words.wrong(&it.to_string()))?,
            };
            match arg {
                None => return Ok(words),
                Some(Arg::Value(word)) if entry.operand.is_empty() || words.operand.is_some() => {
                    return Err(unexpected(&word, entry.name, Some(entry)));
                }
                Some(Arg::Value(word)) => words.operand = Some(word),
                Some(Arg::Long("help") | Arg::Short('h')) => {}
                Some(option) => {
                    let known = entry.options.iter().find(|it| option == Arg::Long(it));
                    let unknown = || unknown_option(&shown(&option), Some(entry));
                    words.options.push(known.copied().ok_or_else(unknown)?);
                }
            }
        }
    }

    fn has(&self, option: &str) -> bool {
        self.options.contains(&option)
    }

    fn format(&self) -> Format {
        if self.has("json") { Format::Json } else { Format::Text }
    }

    /// The operand as `read` reads it, if there is one; `what` says what it is.
    fn optional<T>(
        &self,
        what: &str,
        read: impl Fn(&OsStr) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let Some(word) = &self.operand else {
            return Ok(None);
        };
        let (shown, name) = (word.to_string_lossy(), self.entry.name);
        let unusable = format!("unusable argument {shown:?} after {name:?}: {what}");
        read(word).map(Some).ok_or_else(|| self.wrong(&unusable))
    }

    /// Like [`Words::optional`], of an operand that must not be missing.
    fn required<T>(&self, what: &str, read: impl Fn(&OsStr) -> Option<T>) -> Result<T, String> {
        let (name, operand) = (self.entry.name, self.entry.operand);
        let missing = || self.wrong(&format!("missing argument: {name:?} needs {operand}"));
        self.optional(what, read)?.ok_or_else(missing)
    }

    /// The operand as it is.
    fn word<T: for<'a> From<&'a OsStr>>(&self) -> Result<T, String> {
        self.required("", |word| Some(word.into()))
    }

    fn wrong(&self, problem: &str) -> String {
        see_help(problem, Some(self.entry))
    }
}

/// Returns true if and only if the word is a number with a minus sign.
fn is_negative_number(word: &OsStr) -> bool {
    word.to_str().and_then(|word| word.strip_prefix('-')).is_some_and(is_digits)
}

/// Returns true if and only if the word is an option as other programs write it: `-url`.
fn is_long_with_one_dash(word: &OsStr) -> bool {
    let name = word.to_str().and_then(|word| word.strip_prefix('-'));
    name.is_some_and(|name| name.len() > 1 && name.starts_with(|it: char| it.is_ascii_alphabetic()))
}

fn unknown_command(word: &OsString) -> String {
    let word = word.to_string_lossy();
    let instead = match known_elsewhere(&word) {
        Some("init") => "there is nothing to set up: `lockstep new NAME` makes the first migration, and `lockstep up` \
                         what it needs in the database".to_owned(),
        Some(name) => format!("did you mean {name:?}?"),
        None => {
            let names = COMMANDS.iter().map(|entry| entry.name);
            format!("use one of {}", joined(names, ", "))
        }
    };
    see_help(&format!("unknown command {word:?}: {instead}"), None)
}

/// An option that the command does not take, or that no command stands before.
fn unknown_option(shown: &str, entry: Option<&Entry>) -> String {
    let known = entry.map_or(&["version"][..], |entry| entry.options);
    let known: Vec<String> = known.iter().map(|option| format!("--{option}, ")).collect();
    let instead = match known_elsewhere(shown) {
        Some(variable) if variable.contains('_') => {
            format!("settings are environment variables: set {variable}")
        }
        Some(command) => format!("did you mean \"lockstep {command}\"?"),
        None => format!("use one of {}--help", known.concat()),
    };
    let after = entry.map(|entry| format!(" after {:?}", entry.name)).unwrap_or_default();
    see_help(&format!("unknown option {shown:?}{after}: {instead}"), entry)
}

fn shown(option: &Arg<'_>) -> String {
    match option {
        Arg::Long(name) => format!("--{name}"),
        Arg::Short(letter) => format!("-{letter}"),
        Arg::Value(word) => word.to_string_lossy().into_owned(),
    }
}

fn unexpected(word: &OsString, after: &str, entry: Option<&Entry>) -> String {
    let word = word.to_string_lossy();
    see_help(&format!("unexpected argument {word:?} after {after:?}"), entry)
}

/// A complaint, and where to read on.
fn see_help(problem: &str, entry: Option<&Entry>) -> String {
    let page = entry.map(|entry| format!(" {}", entry.name)).unwrap_or_default();
    format!("{problem} (see `lockstep help{page}`)")
}

/// Our command or variable for what other tools call otherwise.
fn known_elsewhere(word: &str) -> Option<&'static str> {
    const WORDS: [(&str, &str); 13] = [
        ("init", "init|initialize|setup|install"),
        ("--version", "version"),
        ("DATABASE_URL", "url|database|database-url|dsn|db|conn|dbstring|u|d"),
        ("MIGRATIONS_DIR", "path|dir|source|migrations|migrations-dir|directory"),
        ("MIGRATIONS_TABLE", "table|migrations-table"),
        ("LOG_LEVEL", "verbose|v|q|quiet|debug|log-level"),
        ("up", "migrate|apply|run|deploy|upgrade"),
        ("down", "rollback|undo|revert|back|downgrade"),
        ("status", "info|list|show|history"),
        ("check", "validate|verify|pending"),
        ("plan", "dry-run|dryrun|preview|diff"),
        ("new", "create|generate|add|make"),
        ("unlock", "force|release|repair"),
    ];
    let word = word.trim_start_matches('-').to_lowercase();
    let is_it = |others: &str| others.split('|').any(|it| it == word);
    WORDS.iter().find(|(_, others)| is_it(others)).map(|(name, _)| *name)
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
        let text = Format::Text;
        let json = Format::Json;
        let general = || Command::Help(help::general());
        let page = |topic| Command::Help(help::about(topic).expect("a page"));
        let table = [
            ("", Command::Start),
            ("up", Command::Up),
            ("up --", Command::Up),
            ("down", Command::Down(Rollback::NewestGroup)),
            ("down 1", Command::Down(Rollback::Newest(1))),
            ("down 0013", Command::Down(Rollback::Newest(13))),
            ("status", Command::Status(text)),
            ("status --json", Command::Status(json)),
            ("status --json --json", Command::Status(json)),
            ("check", Command::Check(text)),
            ("check --json", Command::Check(json)),
            ("wait", Command::Wait),
            ("plan", Command::Plan(text, Planning::Read)),
            ("plan --json", Command::Plan(json, Planning::Read)),
            ("plan --rehearse", Command::Plan(text, Planning::Rehearse)),
            ("plan --rehearse --json", Command::Plan(json, Planning::Rehearse)),
            ("plan --json --rehearse", Command::Plan(json, Planning::Rehearse)),
            ("new add_column", Command::New("add_column".into())),
            ("new -- --json", Command::New("--json".into())),
            ("new -5", Command::New("-5".into())),
            ("import a/b", Command::Import("a/b".into())),
            ("baseline 20230314095813", Command::Baseline(UpTo::Version(version))),
            ("baseline -- 20230314095813", Command::Baseline(UpTo::Version(version))),
            ("unlock", Command::Unlock(None)),
            ("unlock -7", Command::Unlock(Some(-7))),
            ("unlock 7", Command::Unlock(Some(7))),
            ("unlock -- -7", Command::Unlock(Some(-7))),
            ("unlock -9223372036854775808", Command::Unlock(Some(i64::MIN))),
            ("help", general()),
            ("help up", page("up")),
            ("help exit-codes", page("exit-codes")),
            ("help help", page("help")),
            ("help --help", general()),
            ("help up --help", page("up")),
            ("--help", general()),
            ("--help up", page("up")),
            ("-h", general()),
            ("up --help", page("up")),
            ("up -h", page("up")),
            ("down --json x --help", page("down")),
            ("--version", Command::Version),
            ("-V", Command::Version),
        ];
        for (line, command) in table {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(parsed(&words), Ok(command), "{line:?}");
        }
    }

    #[test]
    fn names_what_it_does_not_understand() {
        let commands = "use one of up, down, status, check, wait, plan, new, import, baseline, forget, unlock, help (see `lockstep help`)";
        let version = "VERSION is 14 digits, those that a file's name begins with, or latest (see `lockstep help baseline`)";
        let id = "ID is the whole number that `lockstep unlock` shows (see `lockstep help unlock`)";
        let table = [
            ("upp", format!("unknown command \"upp\": {commands}")),
            (" up", format!("unknown command \"\": {commands}")),
            ("-", format!("unknown command \"-\": {commands}")),
            ("help ไทย", format!("unknown command \"ไทย\": {commands}")),
            ("a\nb\u{1b}", format!("unknown command \"a\\nb\\u{{1b}}\": {commands}")),
            (
                "Migrate",
                "unknown command \"Migrate\": did you mean \"up\"? (see `lockstep help`)".to_owned(),
            ),
            (
                "--dry-run",
                "unknown option \"--dry-run\": did you mean \"lockstep plan\"? (see `lockstep help`)".to_owned(),
            ),
            (
                "--json status",
                "unknown option \"--json\": use one of --version, --help (see `lockstep help`)"
                    .to_owned(),
            ),
            (
                "-url",
                "unknown option \"-url\": settings are environment variables: set DATABASE_URL (see `lockstep help`)"
                    .to_owned(),
            ),
            (
                "up -v",
                "unknown option \"-v\" after \"up\": settings are environment variables: set LOG_LEVEL (see `lockstep help up`)"
                    .to_owned(),
            ),
            (
                "up -path x",
                "unknown option \"-path\" after \"up\": settings are environment variables: set MIGRATIONS_DIR (see `lockstep help up`)"
                    .to_owned(),
            ),
            ("version", "unknown command \"version\": did you mean \"--version\"? (see `lockstep help`)".to_owned()),
            (
                "init",
                "unknown command \"init\": there is nothing to set up: `lockstep new NAME` makes the first migration, and \
                 `lockstep up` what it needs in the database (see `lockstep help`)"
                    .to_owned(),
            ),
            (
                "down all",
                "unusable argument \"all\" after \"down\": N counts the newest migrations, from 1, and `lockstep status` shows \
                 how many there are; without it, the newest run of `up` is rolled back (see `lockstep help down`)"
                    .to_owned(),
            ),
            (
                "up --dry-run",
                "unknown option \"--dry-run\" after \"up\": did you mean \"lockstep plan\"? (see `lockstep help up`)"
                    .to_owned(),
            ),
            (
                "up --json",
                "unknown option \"--json\" after \"up\": use one of --help (see `lockstep help up`)".to_owned(),
            ),
            (
                "plan -x",
                "unknown option \"-x\" after \"plan\": use one of --json, --rehearse, --help (see `lockstep help plan`)"
                    .to_owned(),
            ),
            (
                "status --json=1",
                "unexpected argument for option '--json': \"1\" (see `lockstep help status`)".to_owned(),
            ),
            ("up now", "unexpected argument \"now\" after \"up\" (see `lockstep help up`)".to_owned()),
            ("up ", "unexpected argument \"\" after \"up\" (see `lockstep help up`)".to_owned()),
            ("up -5", "unexpected argument \"-5\" after \"up\" (see `lockstep help up`)".to_owned()),
            ("up -", "unexpected argument \"-\" after \"up\" (see `lockstep help up`)".to_owned()),
            ("new a b", "unexpected argument \"b\" after \"new\" (see `lockstep help new`)".to_owned()),
            ("--version up", "unexpected argument \"up\" after \"--version\" (see `lockstep help`)".to_owned()),
            ("new", "missing argument: \"new\" needs NAME (see `lockstep help new`)".to_owned()),
            (
                "baseline",
                "missing argument: \"baseline\" needs VERSION (see `lockstep help baseline`)".to_owned(),
            ),
            ("baseline 2023", format!("unusable argument \"2023\" after \"baseline\": {version}")),
            ("unlock x", format!("unusable argument \"x\" after \"unlock\": {id}")),
        ];
        for (line, complaint) in table {
            let words: Vec<&str> = line.split(' ').collect();
            assert!(!complaint.contains('\n'));
            assert_eq!(parsed(&words), Err(complaint), "{line:?}");
        }
    }

    #[test]
    fn an_operand_is_of_its_kind() {
        for word in ["0", "-5", "+5", "x", "1.5", "", "99999999999999999999", "२"] {
            assert!(parsed(&["down", word]).is_err(), "{word}");
        }
        for word in ["x", "", "9223372036854775808", "1.0", "-"] {
            assert!(parsed(&["unlock", word]).is_err(), "{word}");
        }
        for word in ["", "-5", "2023031409581", "202303140958130", "20230314095813_a.up.sql"] {
            assert!(parsed(&["baseline", word]).is_err(), "{word}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn bytes_that_are_no_text_are_shown_and_a_name_keeps_them() {
        use std::os::unix::ffi::OsStringExt as _;
        let odd = || OsString::from_vec(vec![b'u', 0xff]);
        let line = |words: Vec<OsString>| parse(words.into_iter());
        let shown = |words| line(words).is_err_and(|it| it.contains("\"u\u{fffd}\""));
        assert!(shown(vec![odd()]));
        assert!(shown(vec!["up".into(), odd()]));
        assert!(shown(vec!["down".into(), odd()]));
        assert_eq!(line(vec!["new".into(), odd()]), Ok(Command::New(odd())));
    }
}
