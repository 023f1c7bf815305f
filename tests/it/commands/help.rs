//! What the help pages are to somebody at a terminal. What they say is held against README by unit tests beside them.

use crate::support::Scratch;

/// As a person sees it. Whoever adds a command decides here what has to go.
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
  help [COMMAND]    show this page, or one about COMMAND
  --version, -V     show the version

  DATABASE_URL           postgres://user:password@host/database or key=value ...
  DATABASE_ENDPOINT_URL  host:port; with DATABASE_NAME, DATABASE_USERNAME and
                         DATABASE_PASSWORD instead of a URL
  MIGRATIONS_DIR         where the files are (migrations)
  LOG_LEVEL, LOG_FORMAT  TRACE DEBUG INFO WARN ERROR (INFO); text or json

exit codes: 0 done; 1 a migration failed, 2 unusable input, 5 history and files
disagree: fix that first; 3 no connection, 4 no lock, 6 still pending, 130 and
143 stopped by a signal: run again. README.md tells the rest.
";

/// The commands in the general page's list.
fn listed() -> Vec<&'static str> {
    let words = GENERAL.lines().filter_map(|line| line.strip_prefix("  "));
    words
        .take_while(|line| !line.starts_with("--version"))
        .filter_map(|line| line.split(' ').next())
        .filter(|word| *word != "(none)")
        .collect()
}

#[test]
fn the_general_page_is_one_screen() {
    let scratch = Scratch::new();
    for arguments in [&["help"][..], &["--help"], &["-h"], &["help", "--help"]] {
        let outcome = scratch.lockstep(arguments).without("DATABASE_URL").run();
        outcome.code(0);
        assert_eq!(outcome.stdout, GENERAL);
        assert_eq!(outcome.stderr, "");
    }
    assert!(GENERAL.lines().count() <= 24);
    assert!(GENERAL.lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn each_command_has_a_page_by_every_spelling() {
    let scratch = Scratch::new();
    let commands = listed();
    assert!(commands.len() >= 10, "{commands:?}");
    let mut pages = Vec::new();
    for command in commands {
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
