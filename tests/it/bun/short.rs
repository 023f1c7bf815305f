//! Versions of fewer than 14 digits, as bun takes since 1.3: its history, and the same files under the names that they have
//! here.

use std::fs;

use crate::bun::died::{real_bun, start};
use crate::support::bun_client::init;
use crate::support::{Outcome, Scratch, server, text};

/// As bun knows them, and as `import` names them; in the order in which bun runs them, that of the texts.
const FILES: [(&str, &str, &str); 3] = [
    ("0002_b.up.sql", "00000000000002_b.up.sql", "CREATE TABLE b ()"),
    ("1_a.up.sql", "00000000000001_a.up.sql", "CREATE TABLE a ()"),
    ("20240101_c.tx.up.sql", "20240101000000_c.up.sql", "CREATE TABLE c ()"),
];

/// What bun has applied, with `MIGRATIONS_DIR` empty again.
fn applied_by_bun() -> Scratch {
    let scratch = Scratch::with(FILES.map(|(name, _, text)| (name, text)));
    match real_bun("bun13.mod") {
        Some(bun) => assert!(start(&bun, &scratch, server().port).wait().expect("bun").success()),
        None => {
            init(&scratch);
            for (_, _, text) in FILES {
                scratch.sql(text);
            }
            scratch.sql("INSERT INTO bun_migrations (name, group_id) VALUES ('0002', 1), ('1', 1), ('20240101', 1)");
        }
    }
    fs::rename(scratch.migrations(), scratch.directory.join("buns")).expect("renamed");
    scratch
}

#[test]
fn a_file_that_bun_applied_under_fewer_digits_is_not_run_again_until_baseline_knows_it() {
    let scratch = applied_by_bun();
    for (_, name, text) in FILES {
        scratch.file(name, text);
    }
    let run = |arguments: &[&str]| scratch.lockstep(arguments).run();
    let names = |outcome: &Outcome| {
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        for (file, short) in
            [("00000000000001", "1"), ("00000000000002", "0002"), ("20240101000000", "20240101")]
        {
            let words = format!("{file} renamed: ");
            let line = said.split("\\n").flat_map(str::lines).find(|it| it.contains(&words));
            let line = line.unwrap_or_else(|| panic!("{file}: {outcome}"));
            assert!(line.contains(&format!("applied as {short}, ")), "{line}");
        }
    };
    names(run(&["check"]).code(5));
    names(run(&["up"]).code(5));
    names(run(&["plan"]).code(5));
    let status = run(&["status"]);
    status.code(0);
    assert!(status.stdout.contains("3 renamed"), "{status}");
    let json = run(&["status", "--json"]);
    assert_eq!(json.json_value("migrations[].renamed_from"), "1");

    run(&["baseline", "latest"]).code(0);
    run(&["check"]).code(0);
    scratch.file("20240101000001_d.up.sql", "CREATE TABLE d ()");
    scratch.up().code(0).is_up_to_date(4).applied_now(1);
    let records = "SELECT string_agg(name, ' ' ORDER BY id) FROM bun_migrations";
    assert_eq!(
        scratch.value(records),
        "0002 1 20240101 00000000000001 00000000000002 20240101000000 20240101000001"
    );
}

#[test]
fn import_names_the_files_and_the_one_command_to_type() {
    let scratch = applied_by_bun();
    let buns = text(&scratch.directory.join("buns"));
    let outcome = scratch.lockstep(&["import", &buns]).run();
    outcome.code(0);
    let command = outcome.stdout.lines().last().expect("what to type").trim();
    assert_eq!(command, "lockstep baseline 20240101000000", "{outcome}");
    scratch.lockstep(&["check"]).run().code(5);
    scratch.lockstep(&["baseline", "20240101000000"]).run().code(0);
    scratch.up().code(0).is_up_to_date(3).is_silent_about("applied in ");
}
