//! The recipes of the manual and of README, as they stand there: shells run them, YAML is held against the schemas
//! of its readers, units against systemd. What a machine lacks is skipped, with words.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::Scratch;

/// What stands in the page's blocks of this language, with the heading above each.
fn blocks(page: &str, language: &str) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = fs::read_to_string(path).expect("a page");
    let mut heading = String::new();
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("## ") {
            title.clone_into(&mut heading);
        } else if let Some(of) = line.strip_prefix("```").filter(|it| !it.is_empty()) {
            let block: Vec<&str> = lines.by_ref().take_while(|it| *it != "```").collect();
            if of == language {
                found.push((heading.clone(), block.join("\n") + "\n"));
            }
        }
    }
    assert!(!found.is_empty(), "{page} has no {language}");
    found
}

fn recipe(language: &str, title: &str) -> String {
    let all = blocks("src/manual/recipes.md", language);
    let found = all.into_iter().find(|(heading, _)| heading == title);
    found.unwrap_or_else(|| panic!("{title}: no {language}")).1
}

/// Two groups of migrations, which the database has, and those of two services.
fn site() -> Scratch {
    let files = |number: u32| {
        let name = format!("2024010203040{number}_t{number}");
        let up = format!("CREATE TABLE IF NOT EXISTS t{number} (a int);");
        let down = format!("DROP TABLE t{number};");
        [(format!("{name}.up.sql"), up), (format!("{name}.down.sql"), down)]
    };
    let scratch = Scratch::migrated(files(5));
    for (name, text) in files(6) {
        scratch.file(&name, text);
    }
    scratch.up().code(0);
    for service in ["proxy", "billing"] {
        for (name, text) in files(7) {
            scratch.file(&format!("../{service}/migrations/{name}"), text);
        }
    }
    scratch
}

/// Runs it in the scratch directory, with nothing but the binary in `PATH` and the way to the database.
fn run(scratch: &Scratch, program: &[&str]) -> Output {
    let binary = Path::new(env!("CARGO_BIN_EXE_lockstep"));
    let beside = binary.parent().expect("a directory").display();
    let output = Command::new(program[0])
        .args(&program[1..])
        .current_dir(&scratch.directory)
        .env_clear()
        .env("PATH", format!("{beside}:/usr/local/bin:/usr/bin:/bin"))
        .env("DATABASE_URL", scratch.url())
        .output();
    output.unwrap_or_else(|error| panic!("{program:?}: {error}"))
}

#[track_caller]
fn succeeded(text: &str, output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{said}");
}

fn is_there(program: &str) -> bool {
    let probe = Command::new(program).arg("--version").output();
    if probe.is_err() {
        println!("skipped: no {program}");
    }
    probe.is_ok()
}

#[test]
fn what_is_for_a_shell_runs() {
    let pages = ["src/manual/recipes.md", "README.md"];
    for (heading, text) in pages.iter().flat_map(|page| blocks(page, "sh")) {
        let scratch = site();
        succeeded(&text, &run(&scratch, &["sh", "-n", "-c", &text]));
        // The others build, or set what only a user knows.
        let is_ours = |line: &str| line.contains("lockstep ") && !line.starts_with("cargo");
        if !text.lines().all(is_ours) || text.contains("jq ") && !is_there("jq") {
            continue;
        }
        if heading.starts_with("Adopt") {
            scratch.sql("DROP TABLE bun_migrations, bun_migration_locks");
        }
        succeeded(&text, &run(&scratch, &["sh", "-ec", &text]));
    }
}

#[test]
fn cron_migrates_and_make_does() {
    let scratch = site();
    scratch.lockstep(&["down"]).run().code(0);
    let settings = recipe("sh", "cron")
        .replace("/srv/app/migrations", "migrations")
        .replace("postgres://app:password@db.example.com/app", &scratch.url());
    fs::write(scratch.directory.join("lockstep.env"), settings).expect("a file");
    let crontab = recipe("crontab", "cron");
    let (_, line) = crontab.split_once("* . ").expect("a dot behind the time");
    let line = format!(". {line}")
        .replace("/etc/app/", "./")
        .replace("/usr/local/bin/", "")
        .replace("| logger -t lockstep", "| cat");
    succeeded(&line, &run(&scratch, &["sh", "-c", &line]));
    assert_eq!(scratch.history(), ["20240102030405", "20240102030406"]);

    if !is_there("make") {
        return;
    }
    let title = "make, for development";
    let env = recipe("env", title).replace("postgres://app@localhost/app", &scratch.url());
    fs::write(scratch.directory.join(".env"), env).expect("a file");
    fs::write(scratch.directory.join("Makefile"), recipe("make", title)).expect("a file");
    for target in [&["rollback"][..], &["new", "name=add colour"], &["migrate"]] {
        let mut command = vec!["env", "-u", "DATABASE_URL", "make"];
        command.extend(target);
        succeeded("make", &run(&scratch, &command));
    }
    let named = "SELECT count(*) FROM bun_migrations";
    assert_eq!(scratch.value(named), "3");
    let files = fs::read_dir(scratch.migrations()).expect("the migrations");
    let mut names = files.map(|it| it.expect("a file").file_name().into_string());
    assert!(names.any(|it| it.is_ok_and(|it| it.ends_with("_add_colour.up.sql"))));
}

/// What happens to be exported is nobody's to fill with a sample's tables.
#[test]
fn make_run_leaves_the_database_of_the_environment_alone_and_make_migrate_does_not() {
    if !is_there("make") {
        return;
    }
    let scratch = Scratch::new();
    let binary = concat!("LOCKSTEP=", env!("CARGO_BIN_EXE_lockstep"));
    let make = |target| {
        let mut command = Command::new("make");
        // Without what it would build before.
        command.args(["-o", "postgres", "-o", "build", binary, target]);
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = command.env("DATABASE_URL", scratch.url()).output();
        succeeded(target, &output.expect("make"));
    };
    let history = "SELECT to_regclass('bun_migrations') IS NOT NULL";
    make("run");
    assert_eq!(scratch.value(history), "f");
    make("migrate");
    assert_eq!(scratch.value(history), "t");
}

#[test]
fn systemd_understands_its_units() {
    if !is_there("systemd-analyze") {
        return;
    }
    let scratch = Scratch::new();
    let units = blocks("src/manual/recipes.md", "ini");
    let [service, timer] = units.as_slice() else { panic!("a service and its timer: {units:?}") };
    let service = service.1.replace("/usr/local/bin/lockstep", env!("CARGO_BIN_EXE_lockstep"));
    for (name, text) in [("service", &service), ("timer", &timer.1)] {
        let path = scratch.directory.join(format!("app-migrate.{name}"));
        fs::write(path, text).expect("a unit");
    }
    for unit in ["./app-migrate.service", "./app-migrate.timer"] {
        let output = run(&scratch, &["systemd-analyze", "verify", "--man=no", unit]);
        succeeded(unit, &output);
        let said = String::from_utf8_lossy(&output.stderr);
        let about_us: Vec<&str> = said.lines().filter(|it| it.contains("app-migrate")).collect();
        assert!(about_us.is_empty(), "{about_us:?}");
    }
}

/// Strictly: an unknown field is an error. Of versions of Kubernetes before and after what differs between them.
#[test]
fn kubernetes_compose_and_github_understand_their_yaml() {
    let scratch = Scratch::new();
    let mut paths = Vec::new();
    for page in ["src/manual/recipes.md", "README.md"] {
        for (heading, text) in blocks(page, "yaml") {
            let path = scratch.directory.join(format!("{}.yaml", paths.len()));
            fs::write(&path, format!("# {heading}\n{text}")).expect("a file");
            paths.push(path);
        }
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/contract/recipes.py");
    let output = Command::new("python3").arg(script).args(&paths).output();
    let Ok(output) = output else {
        return println!("skipped: no python3");
    };
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    succeeded(&said, &output);
}
