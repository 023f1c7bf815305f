//! What the help pages are to somebody at a terminal. What they say is held against the manual by unit tests beside them.

use std::fs;

use crate::support::Scratch;

/// What the general page lists, in this order.
const COMMANDS: [&str; 11] = [
    "up", "down", "status", "check", "wait", "plan", "new", "import", "baseline", "unlock", "help",
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
    assert!(
        page.lines().all(|line| line.chars().count() <= 80),
        "{page}"
    );
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
        assert!(
            page.starts_with(&format!("usage: lockstep {command}")),
            "{page}"
        );
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
