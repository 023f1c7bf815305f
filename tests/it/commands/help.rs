//! What the help pages are to somebody at a terminal. What they say is held against the manual by unit tests beside them.

use std::fs;
use std::process::Command;

use crate::support::Scratch;

/// What the general page lists, in this order.
const COMMANDS: [&str; 12] = [
    "up", "down", "status", "check", "wait", "plan", "new", "import", "baseline", "forget",
    "unlock", "help",
];

#[test]
fn the_general_page_is_one_screen() {
    let scratch = Scratch::new();
    let page = scratch.lockstep(&["help"]).run().code(0).stdout.clone();
    for arguments in [&["--help"][..], &["-h"], &["help", "--help"]] {
        let outcome = scratch.lockstep(arguments).without("DATABASE_URL").run();
        outcome.code(0);
        assert_eq!(outcome.stdout, page);
        assert_eq!(outcome.stderr, "");
    }
    let words = page.lines().filter_map(|line| line.strip_prefix("  "));
    let listed: Vec<&str> = words
        .skip_while(|line| !line.starts_with("up "))
        .take_while(|line| !line.starts_with("--version"))
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(listed, COMMANDS);
    assert!(page.lines().count() <= 24, "{page}");
    assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
}

/// Each word behind `TOPIC` on the general page has a page, which is the manual's file of that name.
#[test]
fn the_manual_travels_with_the_program() {
    let scratch = Scratch::new();
    let general = scratch.lockstep(&["help"]).run().code(0).stdout.clone();
    let (_, topics) = general.split_once("TOPIC`:").expect("the topics");
    let topics: Vec<&str> = topics.split(',').map(str::trim).collect();
    assert!(topics.len() > 10, "{topics:?}");
    for topic in topics {
        let file = format!("{}/src/manual/{topic}.md", env!("CARGO_MANIFEST_DIR"));
        let page = scratch.lockstep(&["help", topic]).run();
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(page.code(0).stdout, text);
    }
}

#[test]
fn each_command_has_a_page_by_every_spelling() {
    let scratch = Scratch::new();
    let mut pages = Vec::new();
    for command in COMMANDS {
        let page = scratch.lockstep(&["help", command]).run();
        let page = page.code(0).stdout.clone();
        assert!(page.starts_with(&format!("usage: lockstep {command}")), "{page}");
        assert!(page.lines().count() <= 24, "{page}");
        let mut spellings = vec![["--help", command], ["-h", command]];
        if command != "help" {
            spellings.extend([[command, "--help"], [command, "-h"]]);
        }
        for arguments in spellings {
            // Help needs nothing of the environment, and heeds nothing of it.
            let run = scratch.lockstep(&arguments).env("LOG_FORMAT", "wrong");
            let outcome = run.env("DATABASE_URL", "wrong").run();
            assert_eq!(outcome.code(0).stdout, page, "{arguments:?}");
            assert_eq!(outcome.stderr, "");
        }
        assert!(!pages.contains(&page), "{page}");
        pages.push(page);
    }
}

/// A shell that is not there is not asked.
fn ask_shell(shell: &[&str], script: &str) -> Option<String> {
    let mut command = Command::new(shell[0]);
    command.args(&shell[1..]).arg(script);
    match command.output() {
        Ok(output) => {
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{script}\n{complaint}");
            assert_eq!(complaint, "", "{script}");
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Err(error) => {
            println!("skipped: no {}: {error}", shell[0]);
            None
        }
    }
}

/// Each shell completes from its own script what is typed so far.
#[test]
fn shells_complete_commands_options_and_topics() {
    let scratch = Scratch::new();
    let script = |reader| {
        let outcome = scratch.lockstep(&["help", reader]).run();
        outcome.code(0).stdout.clone()
    };
    let (bash, zsh, fish) = (script("bash"), script("zsh"), script("fish"));
    let table = [
        ("lockstep stat", "status"),
        ("lockstep plan --re", "--rehearse"),
        ("lockstep help envi", "environment"),
        ("lockstep help basel", "baseline"),
        ("lockstep baseline lat", "latest"),
    ];
    for (typed, completed) in table {
        let last = typed.split(' ').count() - 1;
        let asked = format!(
            "{bash}COMP_WORDS=({typed}); COMP_CWORD={last}; _lockstep; echo \"${{COMPREPLY[@]}}\""
        );
        if let Some(answer) = ask_shell(&["bash", "-c"], &asked) {
            assert_eq!(answer.trim_end(), completed, "{typed}");
        }
        if let Some(answer) = ask_shell(&["fish", "-Nc"], &format!("{fish}complete -C '{typed}'")) {
            let answers: Vec<&str> =
                answer.lines().filter_map(|it| it.split('\t').next()).collect();
            assert_eq!(answers, [completed], "{typed}");
        }
    }
    ask_shell(&["zsh", "-nc"], &zsh);
    for command in COMMANDS {
        assert!(zsh.contains(&format!("    '{command}:")), "{zsh}");
    }
}

/// Of each command and each variable, without a request that `man` does not know.
#[test]
fn the_manual_page_shows_what_the_help_pages_show() {
    let scratch = Scratch::new();
    let page = scratch.lockstep(&["help", "man"]).run().code(0).stdout.clone();
    let path = scratch.directory.join("lockstep.1");
    fs::write(&path, page).expect("a file");
    let mut man = Command::new("man");
    man.env("MANWIDTH", "100").env("LC_ALL", "C.UTF-8");
    let man = man.args(["--warnings", "-E", "UTF-8", "-l"]).arg(&path);
    let Ok(shown) = man.output() else {
        return println!("skipped: no man");
    };
    let shown_text = String::from_utf8_lossy(&shown.stdout);
    assert_eq!(String::from_utf8_lossy(&shown.stderr), "", "{shown_text}");
    for command in COMMANDS {
        let help = scratch.lockstep(&["help", command]).run();
        for line in help.stdout.lines().filter(|it| !it.is_empty()) {
            assert!(shown_text.contains(line), "{line}\n{shown_text}");
        }
    }
    assert!(shown_text.contains("DDL_LOCK_TIMEOUT_SECONDS"), "{shown_text}");
}
