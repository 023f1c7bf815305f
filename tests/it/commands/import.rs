//! `lockstep import`: a directory as each tool's documentation would write it, and the database that the tool left, become
//! ours; and what is refused before anything is written.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Lockstep, Outcome, Scratch, is_soak, server, tell};

/// A database that a tool has migrated.
struct Case {
    files: &'static [(&'static str, &'static str)],
    /// What the tool has run, and its own table, as it creates it.
    left: &'static str,
    /// The table, by its whole name.
    table: &'static str,
    /// What it would apply next, if anything.
    pending: usize,
    baseline: &'static str,
}

/// Writes the files of another tool, and leaves `migrations` out of the way.
fn write(scratch: &Scratch, files: &[(&str, &str)]) -> PathBuf {
    let directory = scratch.directory.join("theirs");
    fs::create_dir_all(&directory).expect("a directory");
    for (name, text) in files {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    }
    fs::remove_dir(scratch.migrations()).expect("it is empty");
    directory
}

fn import(scratch: &Scratch) -> Lockstep<'_> {
    scratch.lockstep(&["import", "theirs"])
}

/// With no word about a database.
fn import_alone(scratch: &Scratch) -> Lockstep<'_> {
    import(scratch).without("DATABASE_URL")
}

/// All that is in the scratch directory, by path.
fn listing(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        found.push(path.display().to_string());
        if path.is_dir() && !path.is_symlink() {
            found.extend(listing(&path));
        }
    }
    found.sort();
    found
}

/// The last word of the answer: the command to type.
#[track_caller]
fn command_to_type(outcome: &Outcome) -> Vec<&str> {
    let last = outcome.stdout.lines().last().unwrap_or_default().trim();
    let command = last.strip_prefix("lockstep ");
    let command = command.unwrap_or_else(|| panic!("a command to type\n{outcome}"));
    command.split(' ').collect()
}

/// Imports, records what the tool has applied, applies one more migration; and an empty database gets the same schema.
#[track_caller]
fn adopt(scratch: &Scratch, table: &str, pending: usize, baseline: &str) {
    let outcome = import(scratch).run();
    let command = command_to_type(outcome.code(0));
    assert_eq!(command, ["baseline", baseline], "{outcome}");
    scratch.lockstep(&command).run().code(0);
    let check = scratch.lockstep(&["check"]).run();
    check.code(if pending == 0 { 0 } else { 6 });
    scratch.file("20990101000000_more.up.sql", "CREATE TABLE more (id int PRIMARY KEY)");
    scratch.up().code(0).applied_now(pending + 1);
    scratch.lockstep(&["check"]).run().code(0);
    scratch.sql(&format!("DROP TABLE {table}"));

    let fresh = Scratch::new();
    let up = fresh.lockstep(&["up"]);
    let directory = scratch.migrations().display().to_string();
    up.env("MIGRATIONS_DIR", directory).run().code(0);
    assert_eq!(scratch.schema(), fresh.schema());
}

#[track_caller]
fn adopts(case: &Case) {
    let scratch = Scratch::new();
    write(&scratch, case.files);
    scratch.sql(case.left);
    adopt(&scratch, case.table, case.pending, case.baseline);
}

const GOOSE: &[(&str, &str)] = &[
    (
        "00001_create_users.sql",
        "-- +goose Up\nCREATE TABLE users (id int PRIMARY KEY, name text);\nINSERT INTO users VALUES (0, 'root');\n\n\
         -- +goose Down\nDROP TABLE users;\n",
    ),
    (
        "00002_function.sql",
        "-- +goose Up\n-- +goose StatementBegin\nCREATE FUNCTION one() RETURNS int AS $$\nBEGIN\n  RETURN 1;\nEND;\n$$ LANGUAGE plpgsql;\n\
         -- +goose StatementEnd\n\n-- +goose Down\nDROP FUNCTION one();\n",
    ),
    (
        "20230115133000_index.sql",
        "-- +goose NO TRANSACTION\n-- +goose Up\nCREATE INDEX CONCURRENTLY users_name_idx ON users (name);\n\n\
         -- +goose Down\nDROP INDEX CONCURRENTLY users_name_idx;\n",
    ),
];

const GOLANG_MIGRATE: &[(&str, &str)] = &[
    (
        "000001_create_users.up.sql",
        "CREATE TABLE users (\r\n  user_id serial PRIMARY KEY\r\n);\r\n",
    ),
    ("000001_create_users.down.sql", "DROP TABLE users;\r\n"),
    (
        "000002_add_mood.up.sql",
        "CREATE TYPE mood AS ENUM ('happy');\nALTER TABLE users ADD COLUMN mood mood;\n",
    ),
    ("000002_add_mood.down.sql", "ALTER TABLE users DROP COLUMN mood;\nDROP TYPE mood;\n"),
];

#[test]
fn adopts_a_database_of_goose() {
    adopts(&Case {
        files: GOOSE,
        left: "CREATE TABLE users (id int PRIMARY KEY, name text); CREATE INDEX users_name_idx ON users (name);
            CREATE FUNCTION one() RETURNS int AS E'\\nBEGIN\\n  RETURN 1;\\nEND;\\n' LANGUAGE plpgsql;
            CREATE TABLE goose_db_version (id integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY,
                version_id bigint NOT NULL, is_applied boolean NOT NULL, tstamp timestamp NOT NULL DEFAULT now());
            INSERT INTO goose_db_version (version_id, is_applied) VALUES (0, true), (1, true), (2, true), (2, false),
                (2, true), (20230115133000, true)",
        table: "goose_db_version",
        pending: 0,
        baseline: "20230115133000",
    });
}

#[test]
fn adopts_a_database_of_golang_migrate() {
    adopts(&Case {
        files: GOLANG_MIGRATE,
        left: "CREATE TABLE users (user_id serial PRIMARY KEY);
            CREATE TABLE schema_migrations (version bigint not null primary key, dirty boolean not null);
            INSERT INTO schema_migrations VALUES (1, false)",
        table: "schema_migrations",
        pending: 1,
        baseline: "00000000000001",
    });
}

#[test]
fn adopts_a_database_of_dbmate() {
    adopts(&Case {
        files: &[(
            "20151127184807_create_users_table.sql",
            "-- migrate:up\ncreate table users (\n  id integer,\n  email varchar(255) not null\n);\n\n\
             -- migrate:down\ndrop table users;\n",
        )],
        left: "CREATE TABLE users (id integer, email varchar(255) not null);
            create table schema_migrations (version varchar primary key);
            INSERT INTO schema_migrations VALUES ('20151127184807')",
        table: "schema_migrations",
        pending: 0,
        baseline: "20151127184807",
    });
}

#[test]
fn adopts_a_database_of_sql_migrate() {
    adopts(&Case {
        files: &[
            (
                "1_initial.sql",
                "-- +migrate Up\n-- SQL in section 'Up' is executed when this migration is applied\n\
                 CREATE TABLE people (id int);\n\n-- +migrate Down\nDROP TABLE people;\n",
            ),
            (
                "10_index.sql",
                "-- +migrate Up notransaction\nCREATE UNIQUE INDEX CONCURRENTLY people_idx ON people (id);\n\n\
                 -- +migrate Down\nDROP INDEX people_idx;\n",
            ),
        ],
        left: "CREATE TABLE people (id int); CREATE UNIQUE INDEX people_idx ON people (id);
            create table \"gorp_migrations\" (\"id\" text not null primary key, \"applied_at\" timestamp with time zone);
            INSERT INTO gorp_migrations VALUES ('10_index.sql', now()), ('1_initial.sql', now())",
        table: "gorp_migrations",
        pending: 0,
        baseline: "00000000000010",
    });
}

#[test]
fn adopts_a_database_of_flyway() {
    adopts(&Case {
        files: &[
            ("V1__Create_person_table.sql", "create table PERSON (ID int not null);"),
            ("core/V1.1__Add_name.sql", "alter table PERSON add column NAME varchar(100);"),
            ("core/U1.1__Add_name.sql", "alter table PERSON drop column NAME;"),
            ("V1.10__Index.sql", "create index concurrently PERSON_IDX on PERSON (ID);"),
            ("R__View.sql", "create or replace view V as select 1;"),
        ],
        left: "create table PERSON (ID int not null); alter table PERSON add column NAME varchar(100);
            CREATE TABLE flyway_schema_history (installed_rank INT NOT NULL PRIMARY KEY, version VARCHAR(50),
                description VARCHAR(200) NOT NULL, type VARCHAR(20) NOT NULL, script VARCHAR(1000) NOT NULL,
                checksum INTEGER, installed_by VARCHAR(100) NOT NULL, installed_on TIMESTAMP NOT NULL DEFAULT now(),
                execution_time INTEGER NOT NULL, success BOOLEAN NOT NULL);
            INSERT INTO flyway_schema_history VALUES
                (1, '1', '<< Flyway Baseline >>', 'BASELINE', '<< Flyway Baseline >>', NULL, 'app', now(), 0, true),
                (2, '1.1', 'Add name', 'SQL', 'V1.1__Add_name.sql', 7, 'app', now(), 3, true),
                (3, NULL, 'View', 'SQL', 'R__View.sql', 7, 'app', now(), 3, true)",
        table: "flyway_schema_history",
        pending: 1,
        baseline: "00000000000101",
    });
}

#[test]
fn adopts_a_database_of_refinery() {
    adopts(&Case {
        files: &[
            ("V1__initial.sql", "CREATE TABLE persons (id int, name varchar(255));"),
            ("V2__add_cars.sql", "CREATE TABLE cars (id int);"),
        ],
        left: "CREATE TABLE persons (id int, name varchar(255)); CREATE TABLE cars (id int);
            CREATE TABLE refinery_schema_history (version INT4 PRIMARY KEY, name VARCHAR(255), applied_on VARCHAR(255),
                checksum VARCHAR(255));
            INSERT INTO refinery_schema_history VALUES (1, 'initial', '2024-01-01T00:00:00Z', '1'),
                (2, 'add_cars', '2024-01-01T00:00:00Z', '2')",
        table: "refinery_schema_history",
        pending: 0,
        baseline: "00000000000002",
    });
}

/// Both of sqlx's forms: one file a migration, and two.
#[test]
fn adopts_a_database_of_sqlx() {
    const LEFT: &str = "CREATE TABLE todos (id bigserial PRIMARY KEY);
        CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL,
            installed_on TIMESTAMPTZ NOT NULL DEFAULT now(), success BOOLEAN NOT NULL, checksum BYTEA NOT NULL,
            execution_time BIGINT NOT NULL);
        INSERT INTO _sqlx_migrations VALUES (20200718111257, 'todos', now(), true, '', 1)";
    const INDEX: &str = "-- no-transaction\nCREATE INDEX CONCURRENTLY todos_idx ON todos (id);\n";
    for files in [
        &[
            ("20200718111257_todos.sql", "CREATE TABLE todos (id bigserial PRIMARY KEY);\n"),
            ("20200718111300_index.sql", INDEX),
        ][..],
        &[
            ("20200718111257_todos.up.sql", "CREATE TABLE todos (id bigserial PRIMARY KEY);\n"),
            ("20200718111257_todos.down.sql", "DROP TABLE todos;\n"),
            ("1595071000_index.up.sql", "SELECT 1"),
        ],
    ] {
        let scratch = Scratch::new();
        write(&scratch, files);
        scratch.sql(LEFT);
        if files.len() == 3 {
            scratch.sql(
                "INSERT INTO _sqlx_migrations VALUES (1595071000, 'index', now(), true, '', 1)",
            );
            adopt(&scratch, "_sqlx_migrations", 0, "20200718111257");
        } else {
            adopt(&scratch, "_sqlx_migrations", 1, "20200718111257");
        }
    }
}

#[test]
fn adopts_a_database_of_diesel() {
    adopts(&Case {
        files: &[
            (
                "00000000000000_diesel_initial_setup/up.sql",
                "CREATE FUNCTION diesel_one() RETURNS int LANGUAGE sql AS 'SELECT 1';\n",
            ),
            ("00000000000000_diesel_initial_setup/down.sql", "DROP FUNCTION diesel_one();\n"),
            (
                "2024-03-14-095813_create_posts/up.sql",
                "CREATE TABLE posts (id SERIAL PRIMARY KEY);\n",
            ),
            ("2024-03-14-095813_create_posts/down.sql", "DROP TABLE posts;\n"),
            (
                "2024-03-15-000000_index/up.sql",
                "CREATE INDEX CONCURRENTLY posts_idx ON posts (id);\n",
            ),
            ("2024-03-15-000000_index/metadata.toml", "run_in_transaction = false\n"),
        ],
        left: "CREATE FUNCTION diesel_one() RETURNS int LANGUAGE sql AS 'SELECT 1';
            CREATE TABLE posts (id SERIAL PRIMARY KEY);
            CREATE TABLE __diesel_schema_migrations (version VARCHAR(50) PRIMARY KEY NOT NULL,
                run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP);
            INSERT INTO __diesel_schema_migrations VALUES ('00000000000000'), ('20240314095813')",
        table: "__diesel_schema_migrations",
        pending: 1,
        baseline: "20240314095813",
    });
}

#[test]
fn adopts_a_database_of_prisma() {
    adopts(&Case {
        files: &[
            ("migration_lock.toml", "provider = \"postgresql\"\n"),
            ("0_init/migration.sql", "-- CreateTable\nCREATE TABLE \"User\" (\"id\" SERIAL NOT NULL);\n"),
            (
                "20240314095813_add_name/migration.sql",
                "-- AlterTable\nALTER TABLE \"User\" ADD COLUMN \"name\" TEXT;\n",
            ),
        ],
        left: "CREATE TABLE \"User\" (\"id\" SERIAL NOT NULL); ALTER TABLE \"User\" ADD COLUMN \"name\" TEXT;
            CREATE TABLE _prisma_migrations (id VARCHAR(36) PRIMARY KEY NOT NULL, checksum VARCHAR(64) NOT NULL,
                finished_at TIMESTAMPTZ, migration_name VARCHAR(255) NOT NULL, logs TEXT, rolled_back_at TIMESTAMPTZ,
                started_at TIMESTAMPTZ NOT NULL DEFAULT now(), applied_steps_count INTEGER NOT NULL DEFAULT 0);
            INSERT INTO _prisma_migrations (id, checksum, migration_name, started_at, finished_at, rolled_back_at) VALUES
                ('a', '', '0_init', '2024-01-01', '2024-01-01', NULL),
                ('b', '', '20240314095813_add_name', '2024-03-15', NULL, '2024-03-15'),
                ('c', '', '20240314095813_add_name', '2024-03-16', '2024-03-16', NULL)",
        table: "_prisma_migrations",
        pending: 0,
        baseline: "20240314095813",
    });
}

#[test]
fn adopts_a_database_of_tern() {
    adopts(&Case {
        files: &[(
            "001_create_people.sql",
            "create table people(id serial primary key);\n\n---- create above / drop below ----\n\ndrop table people;\n",
        )],
        left: "create table people(id serial primary key);
            create table public.schema_version(version int4 not null); insert into schema_version values (1)",
        table: "schema_version",
        pending: 0,
        baseline: "00000000000001",
    });
}

/// A name of bun's that is not fourteen digits is no version of ours. The history is the same table.
#[test]
fn adopts_a_database_of_bun_with_short_names() {
    let scratch = Scratch::new();
    write(
        &scratch,
        &[("1_a.up.sql", "CREATE TABLE a (id int)"), ("2_b.tx.up.sql", "CREATE TABLE b (id int)")],
    );
    scratch.sql(
        "CREATE TABLE bun_migrations (id BIGSERIAL PRIMARY KEY, name VARCHAR, group_id BIGINT,
            migrated_at TIMESTAMPTZ NOT NULL DEFAULT current_timestamp);
         INSERT INTO bun_migrations (name, group_id) VALUES ('1', 1); CREATE TABLE a (id int)",
    );
    let outcome = import(&scratch).run();
    let command = command_to_type(outcome.code(0));
    assert_eq!(command, ["baseline", "00000000000001"], "{outcome}");
    scratch.lockstep(&command).run().code(0);
    scratch.up().code(0).applied_now(1);
    scratch.lockstep(&["check"]).run().code(0);
}

/// goose and golang-migrate, built once, migrate databases of their own. To build them takes minutes and a network.
#[test]
fn adopts_what_goose_and_golang_migrate_have_applied() {
    let tools = match built() {
        Ok(tools) => tools,
        Err(why) => return tell(&format!("skipped: {why}")),
    };
    for (files, table, baseline) in [
        (GOOSE, "goose_db_version", "20230115133000"),
        (GOLANG_MIGRATE, "schema_migrations", "00000000000002"),
    ] {
        let scratch = Scratch::new();
        let directory = write(&scratch, files);
        let url = format!("{}?sslmode=disable", scratch.url());
        let mut run = match table {
            "schema_migrations" => {
                let mut run = Command::new(tools.join("migrate"));
                run.args(["-database", &url, "-path"]).arg(&directory);
                run
            }
            _ => {
                let mut run = Command::new(tools.join("goose"));
                run.arg("-dir").arg(&directory).args(["postgres", &url]);
                run
            }
        };
        let output = run.arg("up").output().expect("the tool starts");
        assert!(output.status.success(), "{output:?}");
        adopt(&scratch, table, 0, baseline);
    }
}

/// Where the tools are. They are built by a soak, and used wherever they are there.
fn built() -> Result<PathBuf, String> {
    const TOOLS: [(&str, &str, &str); 2] = [
        (
            "goose",
            "github.com/pressly/goose/v3/cmd/goose@v3.30.0",
            "-tags=no_clickhouse no_libsql no_mssql no_mysql no_sqlite3 no_vertica no_ydb",
        ),
        ("migrate", "github.com/golang-migrate/migrate/v4/cmd/migrate@v4.20.1", "-tags=postgres"),
    ];
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
    let bin = home.join("bin");
    for (name, package, tags) in TOOLS {
        if bin.join(name).exists() {
            continue;
        }
        if !is_soak() {
            return Err(format!("{name} is not built yet, which a soak does"));
        }
        let mut go = Command::new("timeout");
        go.args(["600", "go", "install", tags, package]);
        go.env("GOPATH", &home).env("GOCACHE", home.join("cache")).env("GOFLAGS", "-modcacherw");
        match go.output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(format!("{package} could not be built: {why}"));
            }
            Err(error) => return Err(format!("no Go: {error}")),
        }
    }
    Ok(bin)
}

#[test]
fn without_a_database_it_writes_and_says_how_to_find_out() {
    let scratch = Scratch::new();
    write(&scratch, GOOSE);
    let outcome = import_alone(&scratch).run();
    outcome.code(0);
    assert!(outcome.stdout.contains("goose_db_version"), "{outcome}");
    assert!(outcome.stdout.contains("baseline VERSION"), "{outcome}");
    let row = "00001_create_users.sql → 00000000000001_create_users.up.sql";
    assert!(outcome.stdout.contains(row), "{outcome}");
    let text = |name: &str| fs::read_to_string(scratch.migrations().join(name)).expect("a file");
    assert_eq!(text("00000000000001_create_users.down.sql"), "DROP TABLE users;\n");
    assert_eq!(
        text("20230115133000_index.up.sql"),
        "-- +goose NO TRANSACTION\n-- +goose Up\nCREATE INDEX CONCURRENTLY users_name_idx ON users (name);\n\n"
    );
    // Nothing is overwritten, and a second time is no harm.
    let before = listing(&scratch.directory);
    import_alone(&scratch).run().code(2).says("must be absent or empty");
    assert_eq!(listing(&scratch.directory), before);
    scratch.up().code(0).applied_now(3);
    scratch.lockstep(&["down"]).run().code(0).rolled_back(3);
}

#[test]
fn shows_what_an_empty_database_would_refuse() {
    let scratch = Scratch::new();
    write(&scratch, &[("1_a.up.sql", "CREATE TABLE a (id int);\nROLLBACK;\n")]);
    let outcome = import_alone(&scratch).run();
    outcome.code(0);
    assert!(outcome.stdout.contains("00000000000001_a.up.sql:2:1: ROLLBACK"), "{outcome}");
}

#[test]
fn a_doubt_in_the_history_names_no_version() {
    const TABLE: &str = "CREATE TABLE schema_migrations (version bigint not null primary key, dirty boolean not null);";
    for (left, words) in [
        ("INSERT INTO schema_migrations VALUES (2, true)", "did not finish"),
        ("INSERT INTO schema_migrations VALUES (7, false)", "no file here is of it"),
        ("SELECT 1", "lockstep up"),
        ("DROP TABLE schema_migrations", "has no table"),
        (
            "CREATE SCHEMA other; CREATE TABLE other.schema_migrations (LIKE schema_migrations)",
            "other.schema_migrations",
        ),
    ] {
        let scratch = Scratch::new();
        write(&scratch, GOLANG_MIGRATE);
        scratch.sql(&format!("{TABLE} {left}"));
        let outcome = import(&scratch).run();
        outcome.code(0);
        assert!(outcome.stdout.contains(words), "{outcome}");
        assert!(!outcome.stdout.contains("baseline 0"), "{outcome}");
    }
}

/// A reader is enough, and nothing but the files is written.
#[test]
fn only_reads_the_database() {
    let scratch = Scratch::new();
    write(&scratch, GOLANG_MIGRATE);
    scratch.sql(
        "CREATE TABLE schema_migrations (version bigint not null primary key, dirty boolean not null);
         INSERT INTO schema_migrations VALUES (2, false)",
    );
    let reader = scratch.reader();
    let before = scratch.schema();
    let outcome = import(&scratch).env("DATABASE_URL", reader.url()).run();
    assert_eq!(command_to_type(outcome.code(0)), ["baseline", "00000000000002"]);
    assert_eq!(scratch.schema(), before);
}

/// What is hidden from the role would look like what was never applied.
#[test]
fn a_history_whose_rows_are_hidden_is_an_error() {
    let scratch = Scratch::new();
    write(&scratch, GOLANG_MIGRATE);
    scratch.sql(
        "CREATE TABLE schema_migrations (version bigint not null primary key, dirty boolean not null);
         INSERT INTO schema_migrations VALUES (2, false); ALTER TABLE schema_migrations ENABLE ROW LEVEL SECURITY",
    );
    let reader = scratch.reader();
    let outcome = import(&scratch).env("DATABASE_URL", reader.url()).run();
    outcome.code(2).says("row-level security");
}

/// Whoever has it locked is waited for, aloud, and not for ever; then nothing is written.
#[test]
fn a_history_that_is_locked_is_waited_for() {
    let scratch = Scratch::new();
    write(&scratch, GOLANG_MIGRATE);
    scratch.sql("CREATE TABLE schema_migrations (version bigint, dirty boolean)");
    let before = listing(&scratch.directory);
    let mut locker = scratch.client();
    let lock = "BEGIN; LOCK TABLE schema_migrations IN ACCESS EXCLUSIVE MODE";
    locker.batch_execute(lock).expect("a lock");
    let patience = |seconds| import(&scratch).env("MIGRATION_LOCK_WAIT_SECONDS", seconds);
    let outcome = patience("1").run();
    outcome.code(4).says("reading the other tool's history: gave up");
    assert_eq!(listing(&scratch.directory), before);
    let mut run = patience("60").spawn();
    run.wait_for_log("a lock while reading the other tool's history");
    drop(locker);
    run.wait().code(0);
}

/// No server, no right to read: then nothing is written either, and the next try starts afresh.
#[test]
fn writes_nothing_if_the_database_does_not_answer() {
    let scratch = Scratch::new();
    write(&scratch, GOLANG_MIGRATE);
    let before = listing(&scratch.directory);
    let run = import(&scratch).env("DATABASE_WAIT_SECONDS", "0");
    let url = format!("postgres://postgres@{}:1/x", server().host);
    run.env("DATABASE_URL", url).run().code(3);
    scratch.sql("CREATE TABLE schema_migrations (version bigint, dirty boolean)");
    let role = scratch.role("nobody", "LOGIN");
    import(&scratch).env("DATABASE_URL", role.url()).run().code(2);
    assert_eq!(listing(&scratch.directory), before);
}

#[test]
fn refuses_what_it_cannot_bring_along_and_writes_nothing() {
    for (files, words) in [
        (&[][..], "is empty"),
        (&[("notes.sql", "SELECT 1")], "no migration of a tool that is known"),
        (&[("1_a.up.sql", ""), ("V2__b.sql", "")], "it could be that of two tools"),
        (&[("1_a.go", ""), ("2_b.sql", "-- +goose Up\n")], "1_a.go: code in another language"),
        (&[("1_\u{1b}[2Ja.up.sql", "")], "cannot be shown"),
        (&[("1_a.up.sql", "SELECT '\0'")], "NUL"),
    ] {
        let scratch = Scratch::new();
        write(&scratch, files);
        let before = listing(&scratch.directory);
        let outcome = import_alone(&scratch).run();
        outcome.code(2).says(words);
        assert!(!outcome.stderr.contains('\u{1b}'), "{outcome}");
        assert_eq!(listing(&scratch.directory), before);
    }
}

#[test]
fn refuses_a_directory_that_is_not_there() {
    let scratch = Scratch::new();
    import_alone(&scratch).run().code(2).says("theirs: cannot be read");
}

/// A link within the directory is a file; one out of it, or round in it, is not.
#[test]
fn follows_no_symbolic_link_out_of_the_directory() {
    let scratch = Scratch::new();
    let directory = write(&scratch, &[("old/1_a.up.sql", "CREATE TABLE a (id int)")]);
    symlink("old/1_a.up.sql", directory.join("1_a.up.sql")).expect("a link");
    import_alone(&scratch).run().code(0).says("1 file written");
    fs::remove_dir_all(scratch.migrations()).expect("it is there");
    fs::write(scratch.directory.join("secret.sql"), "SELECT 1").expect("a file");
    symlink("../secret.sql", directory.join("2_b.up.sql")).expect("a link");
    let before = listing(&scratch.directory);
    let outcome = import_alone(&scratch).run();
    outcome.code(2).says("2_b.up.sql: a symbolic link out of the directory");
    fs::remove_file(directory.join("2_b.up.sql")).expect("the link");
    symlink(".", directory.join("round")).expect("a link");
    import_alone(&scratch).run().code(2).says("goes round");
    assert_eq!(before.len(), listing(&scratch.directory).len());
}

/// Names that are ours already need no copy; the history of another tool may be of use all the same.
#[test]
fn leaves_our_own_layout_where_it_is() {
    let scratch = Scratch::new();
    write(&scratch, &[("20230314095813_a.up.sql", "CREATE TABLE a (id int)")]);
    let before = listing(&scratch.directory);
    let outcome = import_alone(&scratch).run();
    outcome.code(0);
    assert!(outcome.stdout.contains("nothing was written"), "{outcome}");
    scratch.sql(
        "CREATE TABLE schema_migrations (version bigint not null primary key, dirty boolean not null);
         INSERT INTO schema_migrations VALUES (20230314095813, false)",
    );
    let outcome = import(&scratch).run();
    assert_eq!(command_to_type(outcome.code(0)), ["baseline", "20230314095813"]);
    assert_eq!(listing(&scratch.directory), before);
}

#[test]
fn writes_ten_thousand_files_or_none() {
    let scratch = Scratch::new();
    let directory = write(&scratch, &[]);
    for number in 1..=10_000 {
        let name = format!("{number}_step.up.sql");
        fs::write(directory.join(name), "SELECT 1;\n").expect("a file");
    }
    import_alone(&scratch).run().code(0).says("10000 files written");
    assert_eq!(listing(&scratch.migrations()).len(), 10_000);
    assert!(!listing(&scratch.directory).iter().any(|it| it.contains(".import-")));
}

/// Into an empty directory that cannot be replaced, and with no place for what is to be written.
#[test]
fn leaves_nothing_if_it_cannot_write_all() {
    let scratch = Scratch::new();
    let long = "x".repeat(230);
    let directory = write(&scratch, &[("1_a.up.sql", "SELECT 1")]);
    // The name fits, and with fourteen digits it does not.
    fs::write(directory.join(format!("2_{long}.up.sql")), "SELECT 2").expect("a file");
    fs::write(directory.join(format!("3_{long}xxxxx.up.sql")), "SELECT 3").expect("a file");
    for is_there in [false, true] {
        if is_there {
            fs::create_dir(scratch.migrations()).expect("a directory");
        }
        let before = listing(&scratch.directory);
        import_alone(&scratch).run().code(2).says("cannot be created");
        assert_eq!(listing(&scratch.directory), before);
    }
    let empty = scratch.migrations();
    fs::remove_dir(&empty).expect("it is empty");
    fs::create_dir(scratch.directory.join("elsewhere")).expect("a directory");
    symlink("elsewhere", &empty).expect("a link");
    fs::remove_file(directory.join(format!("3_{long}xxxxx.up.sql"))).expect("the file");
    import_alone(&scratch).run().code(0);
    assert!(empty.is_symlink(), "the link stays one");
    assert_eq!(listing(&scratch.directory.join("elsewhere")).len(), 2);
}
