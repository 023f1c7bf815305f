//! `lockstep new`: two files with a version that nobody else has, or none, and a complaint.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::support::{Lockstep, Outcome, Scratch, text};

/// Without a database: what there is of its variables is wrong, and does not matter.
fn new<'a>(scratch: &'a Scratch, arguments: &[&str]) -> Lockstep<'a> {
    let words: Vec<&str> = ["new"].iter().chain(arguments).copied().collect();
    let run = scratch.lockstep(&words).env("DATABASE_URL", "wrong");
    run.env("MIGRATION_ORDER", "wrong").env("PGSSLMODE", "wrong")
}

/// The names in the directory, hidden ones too.
fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    entries.map(|it| name(it).to_string_lossy().into_owned()).collect()
}

/// The version that the answer tells, twice: of both files, which are there.
#[track_caller]
fn version(outcome: &Outcome, name: &str) -> String {
    outcome.code(0);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    let [up, down] = lines[..] else { panic!("two paths\n{outcome}") };
    let file = up.rsplit('/').next().unwrap_or_default();
    let version = file.split('_').next().unwrap_or_default();
    assert_eq!(version.len(), 14, "{outcome}");
    for (path, way) in [(up, "up"), (down, "down")] {
        assert!(path.ends_with(&format!("/{version}_{name}.{way}.sql")), "{outcome}");
        let text = fs::read_to_string(path).expect("the file");
        assert!(text.starts_with("-- ") && text.lines().count() == 1, "{text}");
    }
    version.to_owned()
}

/// Now, as a version.
fn now() -> String {
    let date = Command::new("date").args(["-u", "+%Y%m%d%H%M%S"]).output();
    let text = String::from_utf8(date.expect("date").stdout).expect("digits");
    text.trim().to_owned()
}

#[test]
fn makes_both_files_with_the_time_in_utc_and_prints_their_paths() {
    let scratch = Scratch::new();
    let before = now();
    let outcome = new(&scratch, &["add_author"]).run();
    let version = version(&outcome, "add_author");
    assert!(before <= version && version <= now(), "{before} {version}");
    assert_eq!(outcome.stderr, "", "{outcome}");
    let expected = ["down", "up"].map(|way| format!("{version}_add_author.{way}.sql"));
    assert_eq!(names(&scratch.migrations()), expected.into());
    // They are migrations as they are: what they hold is for a person to fill.
    scratch.up().code(0).is_up_to_date(1).applied_now(1);
    scratch.up().code(0);
}

#[test]
fn a_name_is_made_to_fit_and_that_is_said() {
    let scratch = Scratch::new();
    let outcome = new(&scratch, &["Add Column é"]).run();
    version(&outcome, "add_column");
    outcome.says("the name is add_column, made of \\\"Add Column é\\\"");
    version(&new(&scratch, &["--", "--a/../../b\n"]).run(), "a_b");
    for (wish, shown) in [("", "\"\""), ("é - _", "\"é - _\"")] {
        let outcome = new(&scratch, &[wish]).run();
        outcome.code(2);
        let complaint = format!(
            "unusable argument {shown} after \"new\": a NAME needs a letter or a digit (see `lockstep help new`)"
        );
        assert_eq!(outcome.error(), complaint);
        assert_eq!(outcome.stdout, "");
    }
    assert_eq!(names(&scratch.migrations()).len(), 4);
    assert_eq!(names(&scratch.directory).len(), 1, "nothing beside it");
}

#[test]
fn the_version_is_later_than_the_newest_file_wherever_that_is() {
    let scratch = Scratch::with([
        ("20230101000000_a.up.sql", "SELECT 1"),
        ("below/20981231235958_b.up.sql", "SELECT 1"),
    ]);
    for expected in ["20981231235959", "20990101000000", "20990101000001"] {
        assert_eq!(version(&new(&scratch, &["c"]).run(), "c"), expected);
    }
    // Digits that are no date, and names that a run would refuse, count too: they may be mended.
    scratch.file("20991301000099_no date.up.sql", "SELECT 1");
    assert_eq!(version(&new(&scratch, &["d"]).run(), "d"), "20991301000100");
    scratch.file("99999999999999_end.sql", "SELECT 1");
    let outcome = new(&scratch, &["e"]).run();
    let complaint = outcome.code(2).error();
    assert!(complaint.ends_with("no version comes after 99999999999999"), "{outcome}");
}

#[test]
fn a_directory_that_is_not_there_is_created_and_a_file_in_its_place_refused() {
    let scratch = Scratch::new();
    let deep = scratch.directory.join("a/b");
    let outcome = new(&scratch, &["x"]).env("MIGRATIONS_DIR", text(&deep)).run();
    version(&outcome, "x");
    outcome.says(&format!("created the directory {}", deep.display()));
    let file = scratch.file("file", "");
    for place in [text(&file), text(&file.join("below"))] {
        let outcome = new(&scratch, &["x"]).env("MIGRATIONS_DIR", place).run();
        assert!(outcome.code(2).error().contains("not a directory"), "{outcome}");
    }
}

#[test]
fn there_are_both_files_or_neither() {
    let scratch = Scratch::new();
    // Of 255 bytes, which a name may have, the up file's needs 254, and the down file's 256.
    let outcome = new(&scratch, &[&"x".repeat(232)]).run();
    let complaint = outcome.code(2).error();
    assert!(complaint.contains("the file cannot be created: "), "{outcome}");
    assert_eq!(outcome.stdout, "");
    assert_eq!(names(&scratch.migrations()), [].into());
}

#[test]
fn a_directory_below_that_cannot_be_read_is_refused() {
    let scratch = Scratch::new();
    let below = scratch.migrations().join("below");
    fs::create_dir(&below).expect("a directory");
    fs::set_permissions(&below, fs::Permissions::from_mode(0o000)).expect("its rights");
    // The superuser may read everything.
    if fs::read_dir(&below).is_err() {
        let outcome = new(&scratch, &["x"]).run();
        let complaint = outcome.code(2).error();
        assert!(complaint.contains("the directory cannot be read: "), "{outcome}");
        assert_eq!(names(&scratch.migrations()).len(), 1);
    }
    fs::set_permissions(&below, fs::Permissions::from_mode(0o700)).expect("its rights");
}

/// What a run that died left behind costs that version, and nothing else.
#[test]
fn a_reservation_that_stayed_is_stepped_over() {
    let scratch =
        Scratch::with([("20980101000000_a.up.sql", "SELECT 1"), (".20980101000001.new", "")]);
    assert_eq!(version(&new(&scratch, &["b"]).run(), "b"), "20980101000002");
}

#[test]
fn many_at_once_never_share_a_version() {
    let scratch = Scratch::new();
    let running: Vec<_> =
        (0..12).map(|number| new(&scratch, &[&format!("n{number}")]).spawn()).collect();
    let versions: BTreeSet<String> =
        (0..).zip(running).map(|(number, it)| version(&it.wait(), &format!("n{number}"))).collect();
    assert_eq!(versions.len(), 12, "{versions:?}");
    assert_eq!(names(&scratch.migrations()).len(), 24);
}
