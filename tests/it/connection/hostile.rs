//! Settings, rights, tables and migrations that mean us no good. Whatever they are: the right exit code, nothing half
//! done, and the next run is right.
//!
//! 1. No setting of the database changes what is applied.
//! 2. Nothing that others put into a schema of the `search_path` is called by our own statements.
//! 3. A role that is a member of the owner will do; one that lacks a right is told so, exit 2, before anything is done.
//! 4. Tables that are not quite bun's will do, or are refused.
//! 5. A migration that attacks the lock, the history or its own session harms itself only.

use crate::support::steps::version;
use crate::support::words::{HAS_LOST_ITS_GUARD, TRIES_AGAIN};
use crate::support::{Lockstep, Role, Scratch, rows};

// ---------------------------------------------------------------------------------------- 1. settings

/// Both a migration and what goes on beside it last longer than every timeout. Between two messages no setting of ours
/// holds, and a busy machine may take a second for that now and then, where a fault of ours is there each time.
#[test]
fn hostile_settings_of_the_database_change_nothing() {
    let times_out = |_| {
        let complaints = under_hostile_settings();
        let of_time = |it: &String| it.contains(" timeout");
        assert!(complaints.iter().all(of_time), "{complaints:#?}");
        !complaints.is_empty()
    };
    assert!(!(0..5).all(times_out), "the timeouts are heeded");
}

/// What the server had to complain of.
fn under_hostile_settings() -> Vec<String> {
    let scratch = Scratch::new();
    let mut settings = vec![
        ("statement_timeout", "1s"),
        ("lock_timeout", "1s"),
        ("idle_in_transaction_session_timeout", "1s"),
        ("idle_session_timeout", "1s"),
        ("default_transaction_read_only", "on"),
        ("default_transaction_isolation", "serializable"),
        ("default_transaction_deferrable", "on"),
        ("search_path", "nowhere', 'public"),
        ("client_min_messages", "error"),
        ("row_security", "off"),
        ("session_replication_role", "replica"),
        ("DateStyle", "SQL, DMY"),
        ("IntervalStyle", "sql_standard"),
        ("TimeZone", "Asia/Kathmandu"),
        ("bytea_output", "escape"),
        ("quote_all_identifiers", "on"),
        ("transform_null_equals", "on"),
        ("array_nulls", "off"),
        ("check_function_bodies", "off"),
        ("track_activities", "off"),
        ("plan_cache_mode", "force_generic_plan"),
        ("jit_above_cost", "0"),
        ("enable_seqscan", "off"),
        ("synchronous_commit", "remote_apply"),
        ("client_connection_check_interval", "0"),
        ("xmloption", "document"),
        ("extra_float_digits", "-15"),
    ];
    if version_of_server(&scratch) >= 17 {
        settings.push(("transaction_timeout", "1s"));
    }
    // Known to the server in a session that has used PL/pgSQL.
    let plpgsql = [
        ("plpgsql.variable_conflict", "use_variable"),
        ("plpgsql.extra_errors", "all"),
        ("plpgsql.check_asserts", "off"),
    ];
    settings.extend(plpgsql);
    // All in one session, since it is new ones that they are for.
    let mut client = scratch.client();
    rows(&mut client, "DO $$ BEGIN END $$");
    for (name, value) in settings {
        rows(&mut client, &format!("ALTER DATABASE {} SET {name} = '{value}'", scratch.database));
    }
    scratch.file(
        &file(1),
        "CREATE TABLE public.ran (version text, at timestamptz DEFAULT now(), took interval)",
    );
    scratch.file(
        &file(2),
        "INSERT INTO public.ran SELECT 'slow', now(), '1 day' FROM pg_sleep(1.3);
         DO $$ BEGIN RAISE NOTICE 'hidden'; END $$",
    );
    scratch.file(&file(3), "CREATE INDEX CONCURRENTLY ran_version_idx ON public.ran (version)");
    scratch.file(&file(4), "SELECT pg_sleep(0.1); SELECT pg_sleep(0.1)");
    let outcomes = [scratch.up(), scratch.up()];
    let complaints = errors(&scratch);
    if !complaints.is_empty() {
        return complaints;
    }
    outcomes[0].code(0).is_up_to_date(4).applied_now(4).is_silent_about(TRIES_AGAIN);
    outcomes[1].code(0).is_up_to_date(4).is_silent_about("applied in ");

    let history = "SELECT name, group_id, migrated_at > now() - interval '10 minutes' FROM public.bun_migrations ORDER BY id";
    let expected: Vec<String> = (1..=4).map(|number| format!("{}|1|t", version(number))).collect();
    assert_eq!(scratch.sql(history), expected);
    let journal = "SELECT version, finished_at >= started_at FROM public.bun_migrations_journal ORDER BY version";
    let expected: Vec<String> = (1..=4).map(|number| format!("{}|t", version(number))).collect();
    assert_eq!(scratch.sql(journal), expected);
    assert_eq!(scratch.sql("SELECT id FROM public.bun_migration_locks"), [""; 0]);
    complaints
}

/// What psql would read with the setting as it is by default.
#[test]
fn a_backslash_in_a_string_is_a_backslash_whatever_the_database_says() {
    let scratch = Scratch::new();
    scratch.sql(&format!(
        "ALTER DATABASE {0} SET standard_conforming_strings = off; ALTER DATABASE {0} SET backslash_quote = on",
        scratch.database
    ));
    scratch.file(&file(1), r"CREATE TABLE t (id serial, c text); INSERT INTO t (c) VALUES ('a\nb'), (E'a\\b'), ('\'); -- '");
    scratch.file(&file(2), r"INSERT INTO t (c) VALUES ('\')");
    scratch.file(&file(3), r"COMMENT ON TABLE t IS 'it''s \';");
    scratch.up().code(0);
    scratch.up().code(0).is_silent_about("applied in ");
    let mut client = scratch.client();
    client.batch_execute("SET standard_conforming_strings = on").expect("a setting");
    assert_eq!(rows(&mut client, "SELECT c FROM t ORDER BY id"), [r"a\nb", r"a\b", r"\", r"\"]);
    assert_eq!(rows(&mut client, "SELECT obj_description('t'::regclass)"), [r"it's \"]);
}

// ----------------------------------------------------------------------------- 2. what others put into schemas

/// As whoever may create in `public` can make them, on the `search_path` that everybody has by default: PostgreSQL takes
/// what fits the types of a call best, wherever it is.
#[test]
fn functions_and_operators_in_public_are_not_called() {
    nothing_else_is_called("public", "\"$user\", public");
}

/// PostgreSQL finds these first, whatever fits better.
#[test]
fn functions_and_operators_in_a_schema_before_the_catalog_are_not_called() {
    nothing_else_is_called("evil", "evil, pg_catalog");
}

fn nothing_else_is_called(schema: &str, search_path: &str) {
    let scratch = Scratch::new();
    scratch.sql(&format!(
        "CREATE SCHEMA IF NOT EXISTS {schema}; SET search_path = {schema}, pg_catalog; {}",
        traps()
    ));
    scratch.sql(&format!("ALTER DATABASE {} SET search_path = {search_path}", scratch.database));
    for (number, text) in [
        (1, "CREATE TABLE public.ran (version int)"),
        (2, "INSERT INTO public.ran VALUES (2); INSERT INTO public.ran VALUES (3)"),
        (3, "CREATE INDEX CONCURRENTLY ran_version_idx ON public.ran (version)"),
        (4, "DROP INDEX CONCURRENTLY public.ran_version_idx"),
        (5, "CREATE INDEX CONCURRENTLY ran_version_idx ON public.ran (version)"),
        (6, "REINDEX TABLE CONCURRENTLY public.ran"),
    ] {
        scratch.file(&file(number), text);
    }
    let public = |command: &str| {
        let lockstep =
            scratch.lockstep(&[command]).env("MIGRATIONS_TABLE", "public.bun_migrations");
        lockstep.env("MIGRATION_LOCKS_TABLE", "public.bun_migration_locks")
    };
    let mut client = scratch.client();
    rows(&mut client, "SET search_path = pg_catalog");
    public("up").run().code(0).is_silent_about("trapped");
    public("up").run().code(0);
    // A run that died in a rebuild, as an earlier one had in a build, and left its row.
    let died = format!(
        "DELETE FROM public.bun_migrations WHERE name IN ('{0}', '{1}');
         UPDATE public.bun_migrations_journal SET finished_at = NULL, history_id = NULL WHERE version IN ('{0}', '{1}');
         INSERT INTO public.bun_migration_locks (id, table_name) VALUES (-1000, 'public.bun_migrations')",
        version(5),
        version(6)
    );
    rows(&mut client, &died);
    public("unlock").run().code(0).is_silent_about("trapped");
    public("up").run().code(0).is_silent_about("trapped");
    let history = rows(&mut client, "SELECT name FROM public.bun_migrations ORDER BY id");
    assert_eq!(history, (1..=6).map(version).collect::<Vec<_>>());
    assert_eq!(rows(&mut client, "SELECT id FROM public.bun_migration_locks"), [""; 0]);
    assert_eq!(errors(&scratch), [""; 0]);
}

/// Whatever could be taken for PostgreSQL's own; all of it fails as soon as it is called.
fn traps() -> String {
    let trap = "LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$";
    let mut traps = String::new();
    let types = [
        "varchar",
        "text",
        "name",
        "bigint",
        "integer",
        "numeric",
        "oid",
        "timestamptz",
        "interval",
    ];
    for (left, right) in types.iter().flat_map(|left| types.map(|right| (left, right))) {
        for (kind, result, operators) in [
            ("compare", "boolean", ["=", "<>", "<", ">", "<=", ">=", "~"].as_slice()),
            ("compute", "text", &["||", "-", "+", "*", "/"]),
        ] {
            let function = format!("trap_{kind}_{left}_{right}");
            traps.push_str(&format!(
                "CREATE FUNCTION {function}(a {left}, b {right}) RETURNS {result} {trap};"
            ));
            for operator in operators {
                traps.push_str(&format!(
                    "CREATE OPERATOR {operator} (leftarg = {left}, rightarg = {right}, function = {function});"
                ));
            }
        }
    }
    for (function, arguments) in [
        ("format", "varchar, varchar"),
        ("to_regclass", "varchar"),
        ("lower", "varchar"),
        ("substring", "varchar, varchar"),
        ("round", "bigint"),
        ("current_setting", "varchar, boolean"),
        ("left", "varchar, integer"),
    ] {
        traps
            .push_str(&format!("CREATE FUNCTION \"{function}\"({arguments}) RETURNS text {trap};"));
    }
    for relation in [
        "pg_class",
        "pg_namespace",
        "pg_locks",
        "pg_stat_activity",
        "pg_prepared_statements",
        "pg_index",
    ] {
        traps.push_str(&format!("CREATE VIEW {relation} AS SELECT 1 / (pg_catalog.random() OPERATOR(pg_catalog.*) 0)::int AS trapped;"));
    }
    traps
}

// ------------------------------------------------------------------------------------------ 3. rights

/// The tables belong to a role that cannot log in, and whose member runs the migrations.
#[test]
fn a_member_of_the_owner_migrates() {
    let scratch = Scratch::new();
    let owner = scratch.role("owner", "");
    let member = scratch.role("member", &format!("LOGIN IN ROLE {}", owner.name));
    owned_by(&scratch, &owner);
    scratch.file(&file(2), "CREATE INDEX CONCURRENTLY ran_version_idx ON ran (version)");
    scratch.file(&file(3), "ALTER TABLE ran ADD COLUMN another int");
    up_as(&scratch, &member).run().code(0);
    assert_eq!(scratch.history(), (1..=3).map(version).collect::<Vec<_>>());
    scratch.assert_unlocked();
}

#[test]
fn a_member_that_inherits_nothing_migrates_by_set_role_in_its_files() {
    let scratch = Scratch::new();
    let owner = scratch.role("owner", "");
    let member = scratch.role("member", &format!("LOGIN NOINHERIT IN ROLE {}", owner.name));
    scratch.sql(&format!("GRANT CREATE ON SCHEMA public TO {}, {}", owner.name, member.name));
    scratch.file(&file(1), format!("SET ROLE {}; CREATE TABLE a ();", owner.name));
    scratch.file(&file(2), "CREATE TABLE b ();");
    scratch
        .file(&file(3), format!("SET LOCAL ROLE {}; ALTER TABLE a ADD COLUMN c int", owner.name));
    up_as(&scratch, &member).run().code(0);
    let owners = "SELECT relname, relowner::regrole FROM pg_class WHERE relkind = 'r' \
                  AND relnamespace = 'public'::regnamespace ORDER BY 1";
    let (owner, member) = (&owner.name, &member.name);
    assert_eq!(
        scratch.sql(owners),
        [
            format!("a|{owner}"),
            format!("b|{member}"),
            format!("bun_migration_locks|{member}"),
            format!("bun_migrations|{member}"),
            format!("bun_migrations_journal|{member}"),
        ]
    );
    scratch.assert_unlocked();
}

/// `ALTER ROLE … SET role` is what people use so that all that is created belongs to the owner.
#[test]
fn a_member_whose_sessions_begin_as_the_owner_migrates_as_the_owner() {
    let scratch = Scratch::new();
    let owner = scratch.role("owner", "");
    let member = scratch.role("member", &format!("LOGIN NOINHERIT IN ROLE {}", owner.name));
    scratch.sql(&format!(
        "GRANT CREATE ON SCHEMA public TO {owner}; ALTER ROLE {member} SET role = '{owner}'",
        owner = owner.name,
        member = member.name
    ));
    scratch.file(&file(1), "CREATE TABLE a (i int);");
    scratch.file(&file(2), "CREATE TABLE b (); SELECT 1");
    scratch.file(&file(3), "CREATE INDEX CONCURRENTLY a_i_idx ON a (i)");
    scratch.file(&file(4), "SET ROLE NONE; RESET ROLE; CREATE TABLE c ();");
    up_as(&scratch, &member).run().code(0);
    up_as(&scratch, &member).run().code(0);
    let owners = "SELECT DISTINCT relowner::regrole FROM pg_class WHERE relkind = 'r' \
                  AND relnamespace = 'public'::regnamespace";
    assert_eq!(scratch.sql(owners), [owner.name.as_str()]);
    assert_eq!(scratch.history(), (1..=4).map(version).collect::<Vec<_>>());
    scratch.assert_unlocked();
}

#[test]
fn a_role_that_may_only_read_is_told_so_when_something_is_pending() {
    let scratch = Scratch::migrated([(&file(1), "CREATE TABLE ran (version text)")]);
    let reader = scratch.role("reader", "LOGIN");
    scratch.sql(&format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}", reader.name));
    up_as(&scratch, &reader).run().code(0);
    scratch.file(&file(2), "CREATE TABLE another ()");
    let before = scratch.schema();
    let outcome = up_as(&scratch, &reader).run();
    outcome.code(2).is_silent_about("applying");
    outcome.says(&format!(
        "migrations are pending, and the role {} lacks INSERT on public.bun_migrations, ",
        reader.name
    ));
    outcome.says("hint: grant what is lacking, or run as the tables' owner");
    assert_eq!(scratch.schema(), before);
    scratch.assert_unlocked();
    scratch.up().code(0);
}

#[test]
fn a_role_that_may_not_read_the_history_is_told_so() {
    let scratch = Scratch::migrated([(&file(1), "CREATE TABLE ran (version text)")]);
    let stranger = scratch.role("stranger", "LOGIN");
    let mut tables = vec!["bun_migrations", "bun_migrations_journal", "bun_migration_locks"];
    while let Some(missing) = tables.pop() {
        let granted = ["bun_migration_locks", "bun_migrations", "bun_migrations_journal"];
        let granted: Vec<&str> = granted.into_iter().filter(|&table| table != missing).collect();
        scratch.sql(&format!(
            "REVOKE ALL ON {missing} FROM {role}; GRANT SELECT ON {granted} TO {role}",
            granted = granted.join(", "),
            role = stranger.name
        ));
        let outcome = up_as(&scratch, &stranger).run();
        outcome.code(2);
        assert_eq!(
            outcome.error(),
            format!(
                "reading the history: permission denied for table {missing} (SQLSTATE 42501)\n  HINT: The role needs \
                 SELECT on the history, its journal and the locks table, and USAGE on their schema."
            )
        );
    }
    assert_eq!(scratch.history(), [version(1)]);
}

#[test]
fn a_role_that_may_not_use_the_schema_is_told_so() {
    let scratch = Scratch::migrated([(&file(1), "CREATE TABLE ran (version text)")]);
    let stranger = scratch.role("stranger", "LOGIN");
    scratch.sql("REVOKE ALL ON SCHEMA public FROM PUBLIC");
    let before = scratch.schema();
    let outcome = up_as(&scratch, &stranger).run();
    outcome.code(2).says("GRANT USAGE, CREATE ON SCHEMA");
    assert_eq!(scratch.schema(), before);
}

/// Each right but one that a runner needs on tables that are there. The error names the one and blames no file; where
/// the exit code is 2, nothing was changed.
#[test]
fn a_role_that_lacks_a_right_to_the_lock_is_told_which_before_anything_runs() {
    without_one_right(&[
        ("INSERT ON bun_migration_locks", "INSERT on public.bun_migration_locks"),
        ("UPDATE ON bun_migration_locks", "UPDATE on public.bun_migration_locks"),
        (
            "USAGE ON SEQUENCE bun_migration_locks_id_seq",
            "USAGE on public.bun_migration_locks_id_seq",
        ),
    ]);
}

#[test]
fn a_role_that_lacks_the_right_to_give_the_lock_back_is_told_so_before_anything_runs() {
    without_one_right(&[("DELETE ON bun_migration_locks", "DELETE on public.bun_migration_locks")]);
}

#[test]
fn a_role_that_lacks_a_right_to_record_is_told_which_and_no_file_is_blamed() {
    without_one_right(&[
        ("INSERT ON bun_migrations", "INSERT on public.bun_migrations"),
        ("USAGE ON SEQUENCE bun_migrations_id_seq", "USAGE on public.bun_migrations_id_seq"),
        ("INSERT ON bun_migrations_journal", "INSERT on public.bun_migrations_journal"),
        ("UPDATE ON bun_migrations_journal", "UPDATE on public.bun_migrations_journal"),
    ]);
}

fn without_one_right(rights: &[(&str, &str)]) {
    let scratch = Scratch::migrated([(&file(1), "CREATE TABLE ran (version text)")]);
    let role = scratch.role("limited", "LOGIN");
    let all = [
        "SELECT, INSERT ON bun_migrations",
        "USAGE ON SEQUENCE bun_migrations_id_seq",
        "SELECT, INSERT, UPDATE ON bun_migrations_journal",
        "SELECT, INSERT, UPDATE, DELETE ON bun_migration_locks",
        "USAGE ON SEQUENCE bun_migration_locks_id_seq",
        "CREATE ON SCHEMA public",
    ];
    for right in all {
        scratch.sql(&format!("GRANT {right} TO {}", role.name));
    }
    scratch.file(&file(2), "CREATE TABLE another ()");
    for (right, object) in rights {
        scratch.sql(&format!("REVOKE {right} FROM {}", role.name));
        let outcome = up_as(&scratch, &role).run();
        scratch.sql(&format!("GRANT {right} TO {}", role.name));
        assert_eq!(outcome.code, Some(2), "without {right}\n{outcome}");
        outcome.says(&format!("the role {} lacks {object}", role.name));
        outcome.is_silent_about("fix the file");
        assert_eq!(scratch.history(), [version(1)], "without {right}");
        assert_eq!(tables(&scratch), ["ran"], "without {right}");
        assert_eq!(scratch.guard(), None);
    }
    up_as(&scratch, &role).run().code(0);
    assert_eq!(scratch.history(), [version(1), version(2)]);
    scratch.assert_unlocked();
}

// ------------------------------------------------------------------------------------------ 4. tables

#[test]
fn tables_with_more_columns_than_buns_will_do() {
    let scratch = with_buns_tables();
    scratch.sql(
        "ALTER TABLE bun_migrations ADD COLUMN host text, ADD COLUMN at timestamptz DEFAULT now() NOT NULL;
         ALTER TABLE bun_migration_locks ADD COLUMN host text, ADD COLUMN at timestamptz DEFAULT now() NOT NULL;
         INSERT INTO bun_migrations (name, group_id, host) VALUES ('20230101000001', 1, 'elsewhere')",
    );
    files(&scratch, 2);
    scratch.up().code(0);
    assert_eq!(
        scratch.sql("SELECT name, group_id, host FROM bun_migrations ORDER BY id"),
        ["20230101000001|1|elsewhere", "20230101000002|2|∅"]
    );
    scratch.assert_unlocked();
}

/// A migration that runs would be rolled back for want of a record; so nothing may run.
#[test]
fn a_history_that_takes_no_record_of_ours_undoes_the_migration() {
    let scratch = with_buns_tables();
    scratch.sql("ALTER TABLE bun_migrations ADD COLUMN host text NOT NULL");
    files(&scratch, 1);
    let outcome = scratch.up();
    assert!(matches!(outcome.code, Some(1 | 2)), "{outcome}");
    outcome.says("null value in column \\\"host\\\" of relation \\\"bun_migrations\\\"");
    assert_eq!(tables(&scratch), [""; 0]);
    scratch.assert_unlocked();
    scratch.sql("ALTER TABLE bun_migrations ALTER COLUMN host SET DEFAULT ''");
    scratch.up().code(0);
}

/// The token is then the time, in microseconds.
#[test]
fn a_locks_table_whose_sequence_is_gone_will_do() {
    let scratch = with_buns_tables();
    scratch.sql("ALTER TABLE bun_migration_locks ALTER COLUMN id DROP DEFAULT; DROP SEQUENCE bun_migration_locks_id_seq");
    files(&scratch, 1);
    scratch.up().code(0);
    scratch.assert_unlocked();
    scratch.sql("INSERT INTO bun_migration_locks (id, table_name) VALUES (-5, 'bun_migrations')");
    files(&scratch, 2);
    scratch.up().code(0);
    assert_eq!(scratch.history(), [version(1), version(2)]);
    scratch.assert_unlocked();
}

#[test]
fn tables_with_identity_columns_will_do() {
    let scratch = Scratch::new();
    scratch.sql(
        "CREATE TABLE bun_migrations (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name varchar, group_id bigint, \
         migrated_at timestamptz NOT NULL DEFAULT current_timestamp);
         CREATE TABLE bun_migration_locks (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, table_name varchar UNIQUE)",
    );
    files(&scratch, 2);
    scratch.up().code(0);
    assert_eq!(scratch.history(), [version(1), version(2)]);
    scratch.assert_unlocked();
}

/// Without it, two rows could say that two have the lock.
#[test]
fn a_locks_table_without_its_unique_constraint_is_refused() {
    let scratch = with_buns_tables();
    scratch
        .sql("ALTER TABLE bun_migration_locks DROP CONSTRAINT bun_migration_locks_table_name_key");
    files(&scratch, 1);
    scratch.up().code(2).says("taking the migration lock: ").says("(SQLSTATE 42P10)");
    assert_eq!(tables(&scratch), [""; 0]);
    assert_eq!(scratch.guard(), None);
}

#[test]
fn names_that_are_recorded_twice_or_are_no_versions_are_left_alone() {
    let scratch = with_buns_tables();
    let records = "INSERT INTO bun_migrations (name, group_id) VALUES ('20230101000001', 1), ('20230101000001', 2), \
                   ('init', 3), ('', 3), (NULL, 3), ('20230101', NULL), ('2023010100000Z', 3), ('99999999999999999999', 3), \
                   (E'\\n20230101000002', 3)";
    scratch.sql(records);
    files(&scratch, 2);
    let outcome = scratch.up();
    outcome.code(0).is_up_to_date(2).applied_now(1);
    for (name, what) in [
        ("init", "which is no version of 14 digits"),
        ("20230101", "a version of fewer than 14 digits, as bun takes since 1.3"),
        ("2023010100000Z", "which is no version of 14 digits"),
        ("99999999999999999999", "which is no version of 14 digits"),
    ] {
        outcome.says(&format!("the history holds \\\"{name}\\\", {what}"));
    }
    assert_eq!(
        scratch.sql(
            "SELECT name, group_id FROM bun_migrations WHERE name ~ '^[0-9]{14}$' ORDER BY id"
        ),
        ["20230101000001|1", "20230101000001|2", "20230101000002|4"]
    );
    assert_eq!(tables(&scratch), ["t2"]);
    scratch.up().code(0).is_silent_about("applied in ");
    scratch.assert_unlocked();
}

// -------------------------------------------------------------------------------------- 5. migrations

/// The guard tells others that we live. That it is gone is no reason to stop while the row is ours.
#[test]
fn a_migration_that_terminates_the_guard_is_applied() {
    let scratch = Scratch::with([
        (&file(1), "CREATE TABLE t1 ()"),
        (
            &file(2),
            "CREATE TABLE t2 AS SELECT pg_terminate_backend(pid, 5000) AS terminated FROM pg_locks \
         WHERE locktype = 'advisory' AND classid = 1819239275 AND pid <> pg_backend_pid() \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        ),
        (&file(3), "CREATE TABLE t3 ()"),
    ]);
    scratch.up().code(0).says(HAS_LOST_ITS_GUARD);
    assert_eq!(scratch.sql("SELECT terminated FROM t2"), ["t"]);
    assert_eq!(tables(&scratch), ["t1", "t2", "t3"]);
    assert_eq!(scratch.history(), (1..=3).map(version).collect::<Vec<_>>());
    scratch.assert_unlocked();
}

#[test]
fn a_migration_that_terminates_its_own_session_is_undone_and_the_lock_is_free() {
    let scratch = Scratch::with([
        (&file(1), "CREATE TABLE t1 ()"),
        (&file(2), "CREATE TABLE t2 (); SELECT pg_terminate_backend(pg_backend_pid())"),
    ]);
    scratch.up().code(3).says("the connection was lost: applying 20230101000002_t.up.sql");
    assert_eq!(tables(&scratch), ["t1"]);
    assert_eq!(scratch.history(), [version(1)]);
    assert_eq!(scratch.guard(), None);
    scratch.file(&file(2), "CREATE TABLE t2 ()");
    scratch.up().code(0);
    assert_eq!(tables(&scratch), ["t1", "t2"]);
    scratch.assert_unlocked();
}

/// Both runs are one file's.
#[test]
fn a_migration_that_unlocks_all_advisory_locks_unlocks_nothing_of_ours() {
    let scratch = Scratch::new();
    let guards = "SELECT count(*) AS guards FROM pg_locks WHERE locktype = 'advisory' AND classid = 1819239275 AND granted \
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    scratch.file(&file(1), format!("SELECT pg_advisory_unlock_all(); CREATE TABLE t1 AS {guards}"));
    scratch.file(&file(2), "SELECT pg_advisory_unlock_all()");
    scratch.file(&file(3), format!("CREATE TABLE t3 AS {guards}"));
    scratch.up().code(0).is_silent_about(HAS_LOST_ITS_GUARD);
    assert_eq!(scratch.sql("SELECT guards FROM t1 UNION ALL SELECT guards FROM t3"), ["1", "1"]);
    scratch.assert_unlocked();
}

#[test]
fn a_file_that_is_discard_all_is_applied() {
    let scratch = Scratch::migrated([
        (&file(1), "CREATE TABLE t1 ()"),
        (&file(2), "DISCARD ALL"),
        (&file(3), "CREATE TABLE t3 AS SELECT current_setting('application_name') AS name"),
    ]);
    assert_eq!(scratch.history(), (1..=3).map(version).collect::<Vec<_>>());
    assert_eq!(scratch.sql("SELECT name LIKE 'lockstep/%' FROM t3"), ["t"]);
    scratch.assert_unlocked();
}

#[test]
fn discard_all_in_company_is_refused() {
    let scratch = Scratch::with([(&file(1), "CREATE TABLE t1 ();\nDISCARD ALL;")]);
    scratch.up().code(2).says(":2:1: DISCARD ALL cannot share a file");
    assert_eq!(tables(&scratch), [""; 0]);
}

/// Whatever a file does to what we need to record it, it is undone with it.
#[test]
fn a_migration_that_takes_our_tables_away_is_undone() {
    assert_undone(&[
        "DO $$ BEGIN EXECUTE 'DROP TABLE bun_migration_locks'; END $$",
        "ALTER TABLE bun_migration_locks RENAME TO gone",
        "ALTER TABLE bun_migration_locks RENAME COLUMN table_name TO gone",
        "ALTER TABLE bun_migration_locks SET SCHEMA elsewhere",
        "DO $$ BEGIN EXECUTE 'DROP TABLE bun_migrations'; END $$",
        "ALTER TABLE bun_migrations RENAME TO gone",
        "ALTER TABLE bun_migrations SET SCHEMA elsewhere",
        "ALTER TABLE bun_migrations DROP COLUMN name",
        "DO $$ BEGIN EXECUTE 'DROP TABLE bun_migrations_journal'; END $$",
        "ALTER TABLE bun_migrations_journal RENAME TO gone",
        "DROP SCHEMA public CASCADE",
        "ALTER SCHEMA public RENAME TO gone; CREATE SCHEMA public",
    ]);
}

/// It did not end its transaction, and nothing of it is committed.
#[test]
fn a_migration_that_takes_our_row_away_is_undone_and_told_so() {
    assert_undone(&[
        "DELETE FROM bun_migration_locks",
        "UPDATE bun_migration_locks SET id = 7",
        "TRUNCATE bun_migration_locks",
        "DO $$ BEGIN EXECUTE 'DROP TABLE bun_migration_locks; \
         CREATE TABLE bun_migration_locks (id bigserial PRIMARY KEY, table_name varchar UNIQUE)'; END $$",
    ]);
}

/// Else it would be applied again by the next run.
#[test]
fn a_migration_whose_record_is_swallowed_is_undone() {
    let trigger = "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
                   CREATE TRIGGER swallow BEFORE INSERT ON bun_migrations FOR EACH ROW EXECUTE FUNCTION swallow()";
    let rule = "CREATE RULE swallow AS ON INSERT TO bun_migrations DO INSTEAD NOTHING";
    let behind = "CREATE FUNCTION take() RETURNS trigger LANGUAGE plpgsql AS \
                  'BEGIN DELETE FROM public.bun_migrations WHERE id = NEW.id; RETURN NULL; END'; \
                  CREATE TRIGGER take AFTER INSERT ON bun_migrations FOR EACH ROW EXECUTE FUNCTION take()";
    assert_undone(&[trigger, rule, behind]);
}

/// Nothing is wrong with the file.
#[test]
fn tables_that_take_no_record_are_to_blame_and_not_the_file() {
    let none = "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
                CREATE TRIGGER nothing BEFORE INSERT OR DELETE ON bun_migrations FOR EACH ROW EXECUTE FUNCTION nothing()";
    for (fault, command) in [
        (none, "up"),
        (none, "down"),
        ("ALTER SEQUENCE bun_migrations_id_seq MINVALUE 0 MAXVALUE 1", "up"),
        ("ALTER TABLE bun_migrations ALTER id DROP DEFAULT", "up"),
        ("ALTER TABLE bun_migrations ADD CHECK (id < 2)", "up"),
    ] {
        for text in ["CREATE TABLE t2 ()", "CREATE TABLE t2 (); SELECT 1"] {
            let scratch = Scratch::new();
            files(&scratch, 1);
            scratch.file("20230101000001_t.down.sql", "DROP TABLE t1");
            scratch.up().code(0);
            scratch.sql(fault);
            scratch.file(&file(2), text);
            let outcome = scratch.lockstep(&[command]).run();
            assert_eq!(outcome.code, Some(2), "{fault}\n{outcome}");
            outcome
                .says("in public.bun_migrations and public.bun_migrations_journal: ")
                .is_silent_about("fix the file");
            assert_eq!(tables(&scratch), ["t1"], "{fault}");
            assert_eq!(scratch.history(), [version(1)], "{fault}");
            scratch.assert_unlocked();
        }
    }
}

#[test]
fn another_programs_table_of_our_name_is_named() {
    for table in ["bun_migrations", "bun_migration_locks"] {
        let scratch = Scratch::new();
        files(&scratch, 1);
        scratch.sql(&format!("CREATE TABLE {table} (id int, applied bool)"));
        for command in ["up", "status", "check"] {
            let outcome = scratch.lockstep(&[command]).run();
            outcome
                .code(2)
                .says(&format!("public.{table} has no column "))
                .says("MIGRATIONS_TABLE")
                .is_silent_about("PL/pgSQL");
        }
        assert_eq!(tables(&scratch), [""; 0]);
    }
}

/// Like bun: a name without a schema has no place then.
#[test]
fn a_search_path_that_selects_no_schema_is_refused() {
    let scratch = Scratch::new();
    files(&scratch, 1);
    let set = format!("ALTER DATABASE {} SET search_path TO nowhere", scratch.database);
    scratch.sql(&set);
    let before = scratch.schema();
    scratch.up().code(2).says("no schema has been selected to create in").says("search_path");
    assert_eq!(scratch.schema(), before);
}

/// The first migration, in a run of its own, stays; the attack is the second.
#[track_caller]
fn assert_undone(attacks: &[&str]) {
    let scratch = Scratch::new();
    scratch.sql("CREATE SCHEMA elsewhere");
    files(&scratch, 1);
    scratch.up().code(0);
    let before = scratch.schema();
    for attack in attacks {
        files(&scratch, 3);
        scratch.file(&file(2), format!("CREATE TABLE t2 (); {attack}"));
        let outcome = scratch.up();
        assert_eq!(outcome.code, Some(1), "{attack}\n{outcome}");
        outcome.says("20230101000002_t.up.sql").says("rolled back").is_silent_about("committed");
        assert_eq!(scratch.schema(), before, "{attack}");
        assert_eq!(scratch.history(), [version(1)], "{attack}");
        scratch.assert_unlocked();
    }
    files(&scratch, 3);
    scratch.up().code(0);
    assert_eq!(tables(&scratch), ["t1", "t2", "t3"]);
    assert_eq!(scratch.history(), (1..=3).map(version).collect::<Vec<_>>());
    scratch.assert_unlocked();
}

// ------------------------------------------------------------------------------------------ what it takes

fn file(number: usize) -> String {
    format!("{}_t.up.sql", version(number))
}

/// Writes migrations that create a table each: `t1`, `t2`, …
fn files(scratch: &Scratch, count: usize) {
    for number in 1..=count {
        scratch.file(&file(number), format!("CREATE TABLE t{number} ()"));
    }
}

/// The user's own tables.
fn tables(scratch: &Scratch) -> Vec<String> {
    scratch.sql("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace \
                 AND relname NOT LIKE 'bun%' ORDER BY 1")
}

fn up_as<'a>(scratch: &'a Scratch, role: &Role<'_>) -> Lockstep<'a> {
    scratch.lockstep(&["up"]).env("DATABASE_URL", role.url())
}

/// A table and, of bun's making, history and locks, all of which belong to the role.
fn owned_by(scratch: &Scratch, owner: &Role<'_>) {
    scratch.sql(&format!("GRANT CREATE ON SCHEMA public TO {}", owner.name));
    create_buns_tables(scratch, &format!("SET ROLE {}", owner.name));
    scratch.file(&file(1), "CREATE TABLE ran (version text)");
    scratch.sql(&format!(
        "SET ROLE {}; CREATE TABLE ran (version text); INSERT INTO bun_migrations (name, group_id) VALUES ('{}', 1)",
        owner.name,
        version(1)
    ));
}

fn with_buns_tables() -> Scratch {
    let scratch = Scratch::new();
    create_buns_tables(&scratch, "SELECT");
    scratch
}

fn create_buns_tables(scratch: &Scratch, before: &str) {
    scratch.sql(&format!(
        "{before}; CREATE TABLE bun_migrations (id BIGSERIAL NOT NULL, name VARCHAR, group_id BIGINT, \
         migrated_at TIMESTAMPTZ NOT NULL DEFAULT current_timestamp, PRIMARY KEY (id)); \
         CREATE TABLE bun_migration_locks (id BIGSERIAL NOT NULL, table_name VARCHAR, PRIMARY KEY (id), UNIQUE (table_name))"
    ));
}

fn version_of_server(scratch: &Scratch) -> u32 {
    let number: u32 = scratch.value("SHOW server_version_num").parse().expect("a number");
    number / 10_000
}

/// What the server had to complain of.
fn errors(scratch: &Scratch) -> Vec<String> {
    let complains =
        |line: &String| ["ERROR:", "FATAL:", "PANIC:"].iter().any(|level| line.contains(level));
    scratch.server_log().into_iter().filter(complains).collect()
}
