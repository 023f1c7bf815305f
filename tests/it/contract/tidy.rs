//! The repository tests itself: who may touch what in `src`, the tables of README and manual against the code, the
//! version against the changelog. Needs no database.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What only some files may mention.
struct Rule {
    what: &'static str,
    /// As words: what is part of a longer name does not count.
    words: &'static [&'static str],
    /// Files, or folders with a slash at the end.
    allowed: &'static [&'static str],
    /// A line that breaks the rule in any other file.
    broken_by: &'static str,
}

/// The column "may touch" of the design's table of modules.
const RULES: [Rule; 13] = [
    Rule {
        what: "reads the environment",
        words: &[
            "std::env",
            "env::var",
            "env::var_os",
            "env::vars",
            "env::vars_os",
            "env::current_dir",
            "env::home_dir",
        ],
        allowed: &["config.rs", "config/"],
        broken_by: "let home = std::env::var_os(\"HOME\");",
    },
    Rule {
        what: "reads the arguments",
        words: &["env::args", "env::args_os"],
        allowed: &["main.rs", "cli.rs"],
        broken_by: "for argument in env::args() {}",
    },
    Rule {
        what: "chooses the exit code",
        words: &["ExitCode", "process::exit", "process::abort"],
        allowed: &["main.rs"],
        broken_by: "std::process::exit(1);",
    },
    Rule {
        what: "touches files",
        words: &[
            "std::fs",
            "fs::read",
            "fs::write",
            "fs::read_to_string",
            "fs::read_dir",
            "File::open",
            "File::create",
        ],
        allowed: &["files.rs", "files/", "config.rs", "config/"],
        broken_by: "use std::fs;",
    },
    Rule {
        what: "prints past the log",
        words: &["println!", "print!", "eprintln!", "eprint!", "dbg!"],
        allowed: &[],
        broken_by: "    eprintln!(\"{error}\");",
    },
    Rule {
        what: "answers on stdout",
        words: &["io::stdout", "stdout()"],
        allowed: &["main.rs", "config.rs"],
        broken_by: "io::stdout().write_all(text)",
    },
    Rule {
        what: "writes to stderr",
        words: &["io::stderr", "stderr()"],
        allowed: &["logging.rs", "logging/", "config.rs"],
        broken_by: "writeln!(io::stderr(), \"{text}\")",
    },
    Rule {
        what: "opens connections",
        words: &["NoTls", "Client::connect", "TcpStream", "UnixStream"],
        allowed: &["server/session.rs"],
        broken_by: "let client = Client::connect(url, NoTls)?;",
    },
    Rule {
        what: "knows the log's back end",
        words: &["env_logger"],
        allowed: &["logging.rs"],
        broken_by: "env_logger::init();",
    },
    Rule {
        what: "knows the advisory lock",
        words: &[
            "pg_try_advisory_xact_lock",
            "pg_try_advisory_lock",
            "pg_advisory_xact_lock",
            "pg_advisory_lock",
            "pg_advisory_unlock",
            "'advisory'",
        ],
        allowed: &["lock.rs", "lock/", "history/guard.rs"],
        broken_by: "SELECT pg_catalog.pg_try_advisory_xact_lock(1, 2)",
    },
    Rule {
        what: "writes the locks table",
        words: &["INSERT INTO {locks}", "UPDATE {locks}"],
        allowed: &["lock.rs", "lock/"],
        broken_by: "\"INSERT INTO {locks} (table_name)\"",
    },
    Rule {
        what: "writes history and journal",
        words: &[
            "INSERT INTO {history}",
            "INSERT INTO {journal}",
            "UPDATE {journal}",
            "DELETE FROM {history}",
            "DELETE FROM {journal}",
        ],
        allowed: &["history.rs", "history/"],
        broken_by: "\"INSERT INTO {history} (name)\"",
    },
    Rule {
        what: "sleeps",
        words: &["thread::sleep", "thread::park"],
        allowed: &["server/wait.rs"],
        broken_by: "thread::sleep(nap);",
    },
];

/// Decide, and touch nothing.
const PURE: [&str; 18] = [
    "plan.rs",
    "plan/",
    "report.rs",
    "report/",
    "impact.rs",
    "impact/alter.rs",
    "impact/relations.rs",
    "impact/types.rs",
    "impact/world.rs",
    "import.rs",
    "import/",
    "sql.rs",
    "sql/",
    "text.rs",
    "text/",
    "migration.rs",
    "apply/message.rs",
    "apply/outside/leftovers.rs",
];

const IMPURE: [&str; 20] = [
    "std::fs",
    "std::env",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "Instant",
    "SystemTime",
    "Client",
    "Session",
    "simple_query",
    "batch_execute",
    "log::",
    "log!",
    "trace!",
    "debug!",
    "info!",
    "warn!",
    "error!",
    "OffsetDateTime",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text_of(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file below a directory, without what was built and what is git's own.
fn files_below(directory: &Path, found: &mut Vec<PathBuf>) {
    let entries =
        fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for entry in entries {
        let path = entry.expect("a directory's entry").path();
        let is = |name: &str| path.file_name().is_some_and(|it| it == name);
        if path.is_file() {
            found.push(path);
        } else if path.is_dir()
            && !is(".git")
            && !is("target")
            && !path.join(".rustc_info.json").exists()
        {
            files_below(&path, found);
        }
    }
}

/// The files that git has or would take; without git (an unpacked archive), all there are.
fn project_files() -> Vec<PathBuf> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root());
    if let Ok(output) = git.output()
        && output.status.success()
        && !output.stdout.is_empty()
    {
        let names = String::from_utf8_lossy(&output.stdout).into_owned();
        let paths = names.split_terminator('\0').map(|name| root().join(name));
        return paths.filter(|path| path.is_file()).collect();
    }
    let mut found = Vec::new();
    files_below(root(), &mut found);
    found
}

/// The files of `src`, by their path in it.
fn sources() -> BTreeMap<String, String> {
    let source = root().join("src");
    let mut found = Vec::new();
    files_below(&source, &mut found);
    let named =
        found.iter().filter(|path| path.extension().is_some_and(|it| it == "rs")).map(|path| {
            let name = path.strip_prefix(&source).expect("it is below").display().to_string();
            (name, fs::read_to_string(path).expect("a source file"))
        });
    let sources: BTreeMap<_, _> = named.collect();
    assert!(sources.len() > 10 && sources.contains_key("main.rs"), "{:?}", sources.keys());
    sources
}

/// The text without comments that stand alone on their lines, and without unit tests.
fn code(text: &str) -> String {
    let tests = ["#[cfg(test)]\nmod tests {", "#[cfg(test)]\npub mod tests {"];
    let end = tests.iter().filter_map(|start| text.find(start)).min().unwrap_or(text.len());
    let lines = text[..end].lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns true if and only if the word stands in the text and is no part of a longer one.
fn mentions(text: &str, word: &str) -> bool {
    let belongs = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back().is_some_and(belongs);
        let after = text[at + word.len()..].chars().next().is_some_and(belongs);
        !(before && word.starts_with(belongs) || after && word.ends_with(belongs))
    })
}

fn is_one_of(file: &str, names: &[&str]) -> bool {
    names.iter().any(
        |name| {
            if name.ends_with('/') { file.starts_with(name) } else { file == *name }
        },
    )
}

/// Every line of a file that breaks a rule.
fn breaches(file: &str, text: &str) -> Vec<String> {
    // Tests read and write whatever they need.
    if file.ends_with("tests.rs") {
        return Vec::new();
    }
    let mut found = Vec::new();
    // To call `env::args`, one has to name it.
    let importing =
        |line: &str| line.trim() == "use std::env;" && is_one_of(file, &["main.rs", "cli.rs"]);
    for line in code(text).lines().filter(|line| !importing(line)) {
        let mut breach = |what: &str| found.push(format!("src/{file} {what}: {}", line.trim()));
        for rule in &RULES {
            if !is_one_of(file, rule.allowed) && rule.words.iter().any(|word| mentions(line, word))
            {
                breach(rule.what);
            }
        }
        if is_one_of(file, &PURE) && IMPURE.iter().any(|word| mentions(line, word)) {
            breach("is to be pure");
        }
        if is_one_of(
            file,
            &[
                "plan.rs",
                "plan/",
                "impact.rs",
                "sql.rs",
                "sql/",
                "text.rs",
                "text/",
                "migration.rs",
            ],
        ) && mentions(line, "postgres")
        {
            breach("is to know no driver");
        }
        // A list in braces would hide from the words above what it names.
        if line.trim_start().starts_with("use std::{") {
            breach("imports from std in braces");
        }
    }
    found
}

/// The rooms of `src`, from the top down. A file may import from its own room and from those below.
const ROOMS: [&str; 19] = [
    "main",
    "commands",
    "cli",
    "apply",
    "report",
    "impact",
    "import",
    "lock",
    "history",
    "server",
    "error",
    "plan",
    "files",
    "config",
    "logging",
    "migration",
    "signals",
    "sql",
    "text",
];

/// What one room may import of another that does not lie below it: none. What a file imports of its own room's files: not
/// sideways between commands, but for what they share.
#[test]
fn imports_go_down() {
    let rank = |room: &str| {
        let found = ROOMS.iter().position(|it| *it == room);
        found.unwrap_or_else(|| panic!("the room {room} has no place in the order"))
    };
    let mut found = Vec::new();
    for (file, text) in sources() {
        let room = file.split(['/', '.']).next().expect("a name");
        for import in imports(&text) {
            let of = import.split("::").next().expect("a name");
            if rank(of) < rank(room) {
                found.push(format!("src/{file} imports upwards: {import}"));
            }
        }
        let shared = ["run", "Answer", "Context", "self"];
        let is_command = file.starts_with("commands/") && file != "commands/run.rs";
        for import in text.lines().filter_map(|it| it.strip_prefix("use super::")) {
            let of =
                import.split(|c: char| !c.is_alphanumeric() && c != '_').find(|it| !it.is_empty());
            if is_command
                && file.matches('/').count() == 1
                && of.is_some_and(|it| !shared.contains(&it))
            {
                found.push(format!("src/{file} imports sideways: {import}"));
            }
        }
    }
    println!("from the top down: {}", ROOMS.join(" → "));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_manual_lists_the_rooms_in_this_order() {
    let header = "| room | does | may touch |";
    let rows = table("src/manual/contributing.md", header);
    let listed: Vec<String> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    assert_eq!(listed, ROOMS, "the manual (left), the order (right)");
}

/// What a file names of other rooms, behind `crate::`.
fn imports(text: &str) -> Vec<String> {
    let text = code(text);
    let paths = text.match_indices("crate::").map(|(at, root)| {
        let path = &text[at + root.len()..];
        let end = path.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
        path[..end.unwrap_or(path.len())].to_owned()
    });
    paths.collect()
}

#[test]
fn each_module_touches_only_what_it_may() {
    let found: Vec<String> =
        sources().iter().flat_map(|(file, text)| breaches(file, text)).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// The test above could fail, at each of its rules.
#[test]
fn a_breach_of_each_rule_is_noticed() {
    for rule in &RULES {
        let found =
            breaches("error.rs", &format!("//! Words.\n\nfn f() {{\n    {}\n}}\n", rule.broken_by));
        assert!(found.iter().any(|it| it.contains(rule.what)), "{}: {found:?}", rule.what);
        for allowed in rule.allowed {
            let file = if allowed.ends_with('/') {
                format!("{allowed}x.rs")
            } else {
                (*allowed).to_owned()
            };
            let found = breaches(&file, rule.broken_by);
            assert!(!found.iter().any(|it| it.contains(rule.what)), "{found:?}");
        }
    }
    for word in IMPURE {
        assert_eq!(
            breaches("migration.rs", &format!("x({word})"))
                .iter()
                .filter(|it| it.contains("pure"))
                .count(),
            1,
            "{word}"
        );
    }
    assert_eq!(breaches("plan.rs", "use postgres::error::DbError;").len(), 1);
    assert_eq!(breaches("error.rs", "use std::{env, fs};").len(), 1);
    assert_eq!(breaches("main.rs", "use std::env;\nlet x = env::args();"), [""; 0]);
    assert_eq!(breaches("main.rs", "use std::env;\nlet x = env::var(\"X\");").len(), 1);
    // Neither a comment nor a longer name nor a test breaks anything.
    let fine = "// std::fs\n/// [`std::env`]\nlet x = MyClient; blueprint!();\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
    assert_eq!(breaches("plan.rs", fine), [""; 0]);
}

#[test]
fn every_source_file_says_what_it_is() {
    let mut files: Vec<(String, String)> = sources().into_iter().collect();
    let mut tests = Vec::new();
    files_below(&root().join("tests"), &mut tests);
    for path in tests.iter().filter(|path| path.extension().is_some_and(|it| it == "rs")) {
        files.push((path.display().to_string(), fs::read_to_string(path).expect("a test file")));
    }
    let silent: Vec<&String> =
        files.iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(file, _)| file).collect();
    assert!(silent.is_empty(), "no `//!` at the start: {silent:?}");
}

#[test]
fn nothing_in_src_panics_for_convenience_or_is_left_to_do() {
    let words = [".unwrap()", "todo!", "dbg!", "unimplemented!", "TODO", "FIXME", "XXX"];
    let mut found = Vec::new();
    for (file, text) in sources() {
        for (number, line) in (1..).zip(text.lines()) {
            if words.iter().any(|word| mentions(line, word)) {
                found.push(format!("src/{file}:{number}: {}", line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// What a reader can hold in mind: of a function 70 lines, of a file 700, but the lexer's.
#[test]
fn no_function_and_no_file_in_src_is_long() {
    let mut long = Vec::new();
    for (file, text) in sources() {
        if file.ends_with("tests.rs") {
            continue;
        }
        let lines = text.lines().count();
        if lines > 700 && file != "sql/lexer.rs" {
            long.push(format!("src/{file}: {lines} lines"));
        }
        for (name, lines) in functions(&code(&text)) {
            if lines > 70 {
                long.push(format!("src/{file}: {name}: {lines} lines"));
            }
        }
    }
    assert!(long.is_empty(), "\n{}", long.join("\n"));
}

/// The functions that have a body, each with its first line and how many lines it has.
fn functions(code: &str) -> Vec<(&str, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let starts = lines.iter().enumerate().filter(|(_, line)| {
        let signature = line.trim_start();
        signature.starts_with("fn ") || signature.contains("pub") && signature.contains(" fn ")
    });
    starts
        .filter_map(|(at, line)| {
            let indent = line.len() - line.trim_start().len();
            let end = format!("{}}}", " ".repeat(indent));
            let length = lines[at..].iter().position(|it| **it == end)?;
            Some((line.trim(), length + 1))
        })
        .collect()
}

#[test]
fn every_test_file_is_a_module_of_the_one_test_binary() {
    let directory = root().join("tests/it");
    let listed = modules(&text_of("tests/it/main.rs"), "")
        .into_iter()
        .chain(modules(&text_of("tests/it/support.rs"), "support/"));
    let listed: BTreeSet<String> = listed.chain(["main.rs".to_owned()]).collect();
    let mut found = Vec::new();
    files_below(&directory, &mut found);
    let present: BTreeSet<String> = found
        .iter()
        .filter_map(|path| path.strip_prefix(&directory).ok())
        .map(|path| path.display().to_string())
        .filter(|path| path.ends_with(".rs"))
        .collect();
    assert_eq!(present, listed, "the files (left), what is listed (right)");
}

/// The files of the modules that a file lists, the groups' folders before them.
fn modules(text: &str, folder: &str) -> Vec<String> {
    let mut folder = folder.to_owned();
    let mut found = Vec::new();
    for line in text.lines() {
        let declared = line.trim_start().trim_start_matches("pub ");
        match declared.strip_prefix("mod ") {
            Some(group) if group.ends_with(" {") => {
                folder = format!("{}/", group.trim_end_matches(" {"));
            }
            Some(module) => found.push(format!("{folder}{}.rs", module.trim_end_matches(';'))),
            None if line == "}" => folder.clear(),
            None => (),
        }
    }
    found
}

/// The cells of the table with this header, row by row.
fn table(path: &str, header: &str) -> Vec<Vec<String>> {
    let text = text_of(path);
    let mut lines = text.lines().skip_while(|line| line.trim() != header);
    assert!(lines.next().is_some(), "{path} has no table {header}");
    let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
    let cells = |row: &str| {
        let row = row.trim().trim_start_matches('|').trim_end_matches('|');
        row.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let rows: Vec<Vec<String>> = rows.map(cells).collect();
    assert!(!rows.is_empty(), "the table {header} of {path} is empty");
    rows
}

/// What stands in backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The contract: each code, and whether to try again. It is frozen: this list only ever grows.
const EXIT_CODES: [(u8, &str); 9] = [
    (0, ""),
    (1, "no"),
    (2, "no"),
    (3, "yes"),
    (4, "yes"),
    (5, "no"),
    (6, "yes"),
    (130, "yes"),
    (143, "yes"),
];

/// Code → whether to try again, as the table of this page has it.
fn documented_exit_codes(path: &str) -> BTreeMap<u8, String> {
    let mut documented = BTreeMap::new();
    for row in table(path, "| code | meaning | try again? |") {
        let [codes, meaning, again] = row.as_slice() else { panic!("three cells: {row:?}") };
        assert!(!meaning.is_empty(), "{row:?}");
        for code in codes.split(',') {
            let code: u8 = code
                .trim()
                .trim_matches('`')
                .parse()
                .unwrap_or_else(|_| panic!("no code: {row:?}"));
            let again =
                again.split(|c: char| !c.is_alphabetic()).next().unwrap_or_default().to_owned();
            assert_eq!(documented.insert(code, again), None, "{code} stands twice");
        }
    }
    documented
}

#[test]
fn readme_manual_and_code_have_the_same_exit_codes() {
    let contract: BTreeMap<u8, String> =
        EXIT_CODES.iter().map(|(code, again)| (*code, (*again).to_owned())).collect();
    for path in ["README.md", "src/manual/exit-codes.md"] {
        let documented = documented_exit_codes(path);
        assert_eq!(documented, contract, "{path} (left), the contract (right)");
    }

    let main = text_of("src/main.rs");
    let start = main.find("fn exit_code(").expect("main.rs has exit_code");
    let body = &main[start..start + main[start..].find("\n}\n").expect("its end")];
    let numbers = body.split("=>").skip(1).filter_map(|arm| {
        let arm = arm.trim_start();
        arm[..arm.find(|c: char| !c.is_ascii_digit()).unwrap_or(arm.len())].parse::<u8>().ok()
    });
    let mut coded: BTreeSet<u8> = numbers.collect();
    assert!(!coded.contains(&0), "0 is no error's");
    assert!(!body.contains("_ =>"), "a new kind of error must choose its number");
    coded.insert(0);
    let promised: BTreeSet<u8> = contract.into_keys().collect();
    assert_eq!(coded, promised, "src/main.rs (left), the contract (right)");
}

#[test]
fn every_dependency_has_its_reason_in_the_readme() {
    let manifest = text_of("Cargo.toml");
    let section = manifest
        .split("\n[")
        .find(|section| section.starts_with("dependencies]"))
        .expect("[dependencies]");
    let lines = section.lines().skip(1).filter(|line| !line.trim_start().starts_with('#'));
    let used: BTreeSet<String> = lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name.trim().to_owned())
        .collect();
    assert!(used.contains("postgres"), "{used:?}");
    assert!(!manifest.contains("[dependencies."), "one line each, or this test would miss it");
    let rows = table("README.md", "| crate | why |");
    let explained: BTreeSet<String> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    assert_eq!(used, explained, "Cargo.toml (left), README.md (right)");
    for row in &rows {
        assert!(row[1].split_whitespace().count() >= 3, "a reason: {row:?}");
    }
}

/// The longest piece of each message that the manual quotes, without what varies, stands in the code.
#[test]
fn the_manual_quotes_what_the_program_says() {
    // What one literal continues on the next line, and what one appends to another, is one text.
    let code: String = sources().into_values().collect();
    let lines = code.split("\\\n").enumerate().map(|(number, part)| match number {
        0 => part,
        _ => part.trim_start(),
    });
    let code = lines.collect::<String>().replace("\\\\", "\\");
    let path = "src/manual/refusals.md";
    let rows = table(path, "| it says | code | it means | do |");
    let mut missing = Vec::new();
    for message in rows.iter().flat_map(|row| quoted(&row[0])) {
        let pieces = message.split(['<', '>']).step_by(2);
        let piece = pieces.max_by_key(|piece| piece.len()).unwrap_or_default();
        let piece = piece.trim_matches([' ', ':', ';', '(', ')', '…']);
        if !code.contains(piece) {
            missing.push(message);
        }
    }
    assert!(missing.is_empty(), "no source says {missing:#?}");
}

/// What a heading is called in a link, as GitHub does it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    text.chars().filter(kept).collect::<String>().replace(' ', "-")
}

#[test]
fn every_link_leads_somewhere() {
    let mut pages = vec![root().join("README.md")];
    files_below(&root().join("src/manual"), &mut pages);
    let mut links = 0;
    for page in pages {
        let text = fs::read_to_string(&page).expect("a page");
        let targets = text.split("](").skip(1);
        let targets = targets.filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
        for target in targets.filter(|it| !it.contains("://")) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = match file {
                "" => page.clone(),
                file => page.parent().expect("a directory").join(file),
            };
            let linked = fs::read_to_string(&file)
                .unwrap_or_else(|error| panic!("{}: {target}: {error}", page.display()));
            let mut headings = linked.lines().filter(|line| line.starts_with('#'));
            let found = heading.is_empty() || headings.any(|line| anchor(line) == heading);
            assert!(found, "{}: {target}", page.display());
            links += 1;
        }
    }
    assert!(links > 30, "{links}");
}

/// The value of a line `key = "value"` of the manifest's first section.
fn version() -> String {
    let manifest = text_of("Cargo.toml");
    let line =
        manifest.lines().find_map(|line| line.strip_prefix("version = \"")).expect("a version");
    line.trim_end_matches('"').to_owned()
}

#[test]
fn the_newest_heading_of_the_changelog_is_the_version() {
    let changelog = text_of("CHANGELOG.md");
    let newest = changelog.lines().find_map(|line| line.strip_prefix("## ")).expect("a heading");
    let heading =
        newest.split_whitespace().next().unwrap_or_default().trim_matches(|c| c == '[' || c == ']');
    assert_eq!(heading, version(), "CHANGELOG.md (left), Cargo.toml (right)");
    let lock = text_of("Cargo.lock");
    assert!(
        lock.contains(&format!("name = \"lockstep\"\nversion = \"{}\"\n", version())),
        "Cargo.lock is stale"
    );
}

/// What works on one machine only: a package mirror, somebody's home.
#[test]
fn nothing_depends_on_one_machine() {
    let found = project_files();
    let mut complaints = Vec::new();
    for path in &found {
        let name = path.strip_prefix(root()).expect("it is below").display().to_string();
        if name.starts_with(".cargo")
            || [".npmrc", "pip.conf", ".netrc"].iter().any(|it| name.ends_with(it))
        {
            complaints.push(format!("{name} is a machine's own configuration"));
        }
        // What is no text has no paths that anybody wrote.
        let Ok(text) = fs::read_to_string(path) else {
            continue;
        };
        for (number, line) in (1..).zip(text.lines()) {
            if is_machine_bound(line) {
                complaints.push(format!(
                    "{name}:{number}: {}",
                    line.trim().chars().take(120).collect::<String>()
                ));
            }
        }
    }
    let lock = text_of("Cargo.lock");
    let registry = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    for line in lock.lines().filter(|line| line.starts_with("source = ") && *line != registry) {
        complaints.push(format!("Cargo.lock: {line}"));
    }
    assert!(found.len() > 30, "{found:?}");
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

fn is_machine_bound(line: &str) -> bool {
    // In pieces, or this file would complain of itself.
    let hosts = [
        concat!("arti", "factory"),
        concat!("jfr", "og.io"),
        concat!("sparse", "+http"),
        concat!("replace", "-with"),
        concat!("--index", "-url"),
        concat!("code", "artifact."),
    ];
    let homes = [concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/ro", "ot/")];
    // Where Homebrew is on Linux, on every machine.
    let line = line.replace(concat!("/ho", "me/linuxbrew/"), "");
    hosts.iter().any(|host| line.contains(host)) || homes.iter().any(|home| line.contains(home))
}

#[test]
fn what_depends_on_one_machine_is_noticed() {
    assert!(is_machine_bound(concat!("path = \"/ho", "me/me/x\"")));
    assert!(is_machine_bound(concat!("replace", "-with = \"mirror\"")));
    assert!(!is_machine_bound(concat!("/ho", "me/linuxbrew/.linuxbrew")));
}
