//! Files and databases as real projects have them: what they need is there, or is said with what to write.

use crate::support::Scratch;
use crate::support::steps::{file, version};

/// Hosters and platform teams hand each new table to one role, or switch row-level security on.
#[test]
fn event_triggers_that_change_each_table_are_no_obstacle() {
    for change in ["OWNER TO {owner}", "ENABLE ROW LEVEL SECURITY"] {
        let scratch = Scratch::with([(file(1), "CREATE TABLE t (a int)")]);
        let owner = scratch.role("owner", "");
        let role = scratch.role("mig", &format!("LOGIN IN ROLE {}", owner.name));
        let change = change.replace("{owner}", &owner.name);
        scratch.sql(&format!(
            "GRANT CREATE ON SCHEMA public TO {}, {};
             CREATE FUNCTION public.change() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
             DECLARE r record; BEGIN
               FOR r IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE object_type = 'table' LOOP
                 EXECUTE format('ALTER TABLE %s {change}', r.object_identity);
               END LOOP;
             END $$;
             CREATE EVENT TRIGGER change ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION public.change()",
            owner.name, role.name
        ));
        for command in ["up", "up", "check"] {
            let run = scratch.lockstep(&[command]).env("DATABASE_URL", role.url());
            run.run().code(0);
        }
        assert_eq!(scratch.history(), [version(1)]);
    }
}

#[test]
fn settings_beside_concurrently_are_told_to_be_left_out_or_run_with_the_marker() {
    let scratch = Scratch::with([(file(1), "CREATE TABLE t (a int)")]);
    let text = "SET statement_timeout = 0;\nSET lock_timeout = '10s';\n\
        CREATE INDEX CONCURRENTLY IF NOT EXISTS t_a ON t (a);\nRESET lock_timeout;";
    scratch.file(&file(2), text);
    scratch.up().code(2).says("remove lock_timeout and statement_timeout");
    scratch.file(&file(2), format!("-- lockstep: no-transaction\n{text}"));
    scratch.up().code(0);
    assert_eq!(scratch.history().len(), 2);
}

/// Adopted as they are, they are mended later.
#[test]
fn baseline_says_which_files_could_not_be_run_on_a_fresh_database() {
    const WARNING: &str = "it could not be run on a fresh database: ";
    let scratch = Scratch::with([
        (file(1), "CREATE TABLE a ();\nCOMMIT;\nCREATE TABLE b ()"),
        (file(2), "BEGIN;\nCREATE TABLE c ();\nCOMMIT;"),
    ]);
    let outcome = scratch.lockstep(&["baseline", "latest"]).run();
    outcome.code(0).says(&format!("{}:2:1: COMMIT", file(1)));
    assert_eq!(outcome.stderr.matches(WARNING).count(), 1, "{outcome}");
    scratch.file(&file(1), "CREATE TABLE a ();\nCREATE TABLE b ()");
    scratch.up().code(5);
    scratch.lockstep(&["baseline", &version(1)]).run().code(0);
    scratch.up().code(0).is_up_to_date(2);
}

/// The split that is proposed runs.
#[test]
fn two_enum_values_that_are_used_are_told_by_each_command_with_a_split_that_works() {
    let scratch =
        Scratch::migrated([(file(1), "CREATE TYPE e AS ENUM ('a'); CREATE TABLE ev (s e)")]);
    let adds = "ALTER TYPE e ADD VALUE 'x';\nALTER TYPE e ADD VALUE 'y';\n";
    let uses = "INSERT INTO ev VALUES ('y');\nINSERT INTO ev VALUES ('x');\n";
    scratch.file(&file(2), format!("{adds}{uses}"));
    let parts = [file(2).replace(".up", "_1.up"), file(3).replace(".up", "_2.up")];
    for (command, code) in [("check", 6), ("plan", 0), ("up", 1)] {
        let outcome = scratch.lockstep(&[command]).run();
        outcome.code(code);
        for part in &parts {
            outcome.says(part);
        }
    }
    std::fs::remove_file(scratch.migrations().join(file(2))).expect("a file");
    scratch.file(&parts[0], adds);
    scratch.file(&parts[1], uses);
    scratch.up().code(0);
    assert_eq!(scratch.sql("SELECT s FROM ev ORDER BY s"), ["x", "y"]);
}

#[test]
fn a_file_of_comments_is_recorded_and_said_to_do_nothing() {
    let scratch = Scratch::with([(file(1), "-- nothing here\n"), (file(2), "")]);
    let outcome = scratch.up();
    outcome.code(0);
    assert_eq!(outcome.stderr.matches(", no statement").count(), 2, "{outcome}");
    assert_eq!(scratch.history().len(), 2);
}
