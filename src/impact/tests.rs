//! What is read from a statement's text, in short.

use std::collections::BTreeSet;

use super::types::Type;
use super::world::{Link, LinkKind, Relation};
use super::*;

/// A database with the tables `a`, `b`, `s.c` and the partition `p1` of `p`, the index `a_x` of `a`, and a foreign key
/// from `b (y)` to `a (x)`.
fn world() -> World {
    let public = |name: &str| Name::new("public", name);
    let tables = ["a", "b", "p", "p1"].map(public);
    let varchar = Type::read(&mut Cursor::new("character varying(10)"));
    let pair = |old: &str, new: &str| (old.to_owned(), new.to_owned());
    let mut world = World { first_path: vec!["public".to_owned()], ..World::default() };
    world.begin_file();
    for name in tables.into_iter().chain([Name::new("s", "c")]) {
        let relation = Relation { is_old: true, ..Relation::default() };
        world.relations.insert(name, relation);
    }
    let a = world.relations.get_mut(&public("a")).expect("a table");
    a.columns.insert("v".to_owned(), varchar);
    world.links = vec![
        Link {
            kind: LinkKind::Index,
            table: public("a_x"),
            target: public("a"),
            ..Link::default()
        },
        Link {
            kind: LinkKind::Partition,
            table: public("p1"),
            target: public("p"),
            ..Link::default()
        },
        Link {
            kind: LinkKind::ForeignKey,
            name: "b_y_fkey".to_owned(),
            table: public("b"),
            columns: vec!["y".to_owned()],
            target: public("a"),
            target_columns: vec!["x".to_owned()],
            is_not_valid: false,
        },
    ];
    world.volatile = ["random", "checked"].map(str::to_owned).into();
    world.domains = ["checked", "plain"].map(str::to_owned).into();
    world.coercible = BTreeSet::from([pair("character varying", "text")]);
    world
}

/// Locks, unknowns and kinds of warnings of the last of some statements, which stand in one file.
fn last(statements: &[&str]) -> String {
    let mut world = world();
    let mut found = String::new();
    for statement in statements {
        let impact = read(statement, &mut world);
        let locks = impact.locks.iter();
        let locks = locks.map(|(table, mode)| format!("{table} {mode:?}"));
        let related = impact.related.iter();
        let related = related.map(|(_, mode)| format!("related {mode:?}"));
        let unknown = impact.unknown.iter().map(|it| format!("? {it}"));
        let warnings = impact.warnings.iter();
        let warnings = warnings.map(|it| format!("! {}", it.harm.word()));
        let all: Vec<String> = locks.chain(related).chain(unknown).chain(warnings).collect();
        found = all.join(", ");
    }
    found
}

fn assert_all(cases: &[(&[&str], &str)]) {
    for (statements, expected) in cases {
        assert_eq!(last(statements), *expected, "{statements:?}");
    }
}

#[test]
fn names_are_looked_up_as_the_server_does() {
    assert_all(&[
        (&["LOCK public.\"a\" IN SHARE MODE"], "a Share"),
        (&["LOCK A, c, s.C IN ROW SHARE MODE"], "a RowShare, s.c RowShare"),
        (
            &["SET search_path = s, 'public'", "LOCK c, a IN ROW SHARE MODE"],
            "a RowShare, s.c RowShare",
        ),
        (
            &["SET search_path TO s", "SET search_path TO DEFAULT", "INSERT INTO a VALUES (1)"],
            "a RowExclusive",
        ),
        (
            &["SET LOCAL search_path TO s", "RESET search_path", "LOCK a, c IN ROW SHARE MODE"],
            "a RowShare",
        ),
        // A name that is given to something new.
        (
            &[
                "ALTER TABLE a RENAME TO old",
                "CREATE TABLE a (x int)",
                "LOCK a, old IN ROW SHARE MODE",
            ],
            "old RowShare",
        ),
        (&["DROP TABLE a", "CREATE TABLE a (x int)", "DROP INDEX a_x"], "related AccessExclusive"),
        (&["CREATE TABLE n (x int)", "CREATE INDEX n_x ON n (x)", "DROP INDEX n_x"], ""),
        (
            &["CREATE TABLE IF NOT EXISTS a (x int)", "DELETE FROM a"],
            "a RowExclusive, ! breaks_old_code",
        ),
        (&["DROP TABLE IF EXISTS nothing"], ""),
    ]);
}

#[test]
fn what_writes_rows_locks_its_target_and_no_more_is_said() {
    assert_all(&[
        (&["SELECT f(x), pg_sleep(1) FROM a JOIN b USING (x)"], ""),
        (&["INSERT INTO a (x) SELECT x FROM b"], "a RowExclusive"),
        (&["UPDATE ONLY a AS t SET x = lower(y) FROM b"], "a RowExclusive"),
        (&["DELETE FROM a USING b WHERE true"], "a RowExclusive"),
        (&["MERGE INTO a USING b ON true WHEN MATCHED THEN DELETE"], "a RowExclusive"),
        (&["WITH w AS (SELECT * FROM b) UPDATE a SET x = 1"], "a RowExclusive"),
        (&["WITH w AS (SELECT 1) SELECT * FROM w"], ""),
        (&["COPY a (x) FROM '/dev/null'"], "a RowExclusive"),
        (&["COPY (SELECT * FROM a) TO '/dev/null'"], ""),
        (&["DO $$ BEGIN END $$"], "? runs code"),
    ]);
}

#[test]
fn all_rows_are_not_to_be_written_under_a_lock_that_keeps_others_out() {
    let add = "ALTER TABLE a ADD x int";
    assert_all(&[
        (&[add, "UPDATE a SET x = 1"], "a RowExclusive, ! blocks_reads"),
        (&[add, "DELETE FROM a"], "a RowExclusive, ! breaks_old_code, ! blocks_reads"),
        (&["DELETE FROM a"], "a RowExclusive, ! breaks_old_code"),
        (&[add, "UPDATE a SET x = 1 WHERE y = 2"], "a RowExclusive"),
        (&[add, "UPDATE b SET x = 1"], "b RowExclusive"),
        (&["CREATE INDEX ON a (x)", "UPDATE a SET x = 1"], "a RowExclusive, ! blocks_writes"),
        (
            &[add, "ALTER TABLE a RENAME TO z", "UPDATE z SET x = 1"],
            "z RowExclusive, ! blocks_reads",
        ),
        (&["ALTER TABLE a SET (fillfactor = 70)", "UPDATE a SET x = 1"], "a RowExclusive"),
        (&["CREATE TABLE n (x int)", "UPDATE n SET x = 1"], ""),
    ]);
    let mut world = world();
    read(add, &mut world);
    world.begin_file();
    assert!(read("UPDATE a SET x = 1", &mut world).warnings.is_empty());
}

#[test]
fn a_change_of_type_locks_whom_a_foreign_key_links() {
    assert_all(&[
        (
            &["ALTER TABLE a ALTER x TYPE bigint"],
            "a AccessExclusive, b AccessExclusive, ! may_rewrite",
        ),
        (
            &["ALTER TABLE b ALTER y TYPE bigint"],
            "a AccessExclusive, b AccessExclusive, ! may_rewrite",
        ),
        (&["ALTER TABLE b ALTER z TYPE bigint"], "b AccessExclusive, ! may_rewrite"),
        (
            &["ALTER TABLE b DROP CONSTRAINT b_y_fkey", "ALTER TABLE a ALTER x TYPE bigint"],
            "a AccessExclusive, ! may_rewrite",
        ),
    ]);
}

#[test]
fn a_change_of_type_rewrites_only_what_does_not_stay_as_it_is() {
    let kept = "a AccessExclusive";
    for (change, warning) in [
        ("text", ""),
        ("varchar(20)", ""),
        ("varchar(9)", ", ! rewrite"),
        ("text COLLATE \"C\"", ""),
        ("text USING v", ""),
        ("text USING v::text", ""),
        ("text USING v || 'x'", ", ! may_rewrite"),
        ("int USING v::int", ", ! rewrite"),
        ("plain", ", ! may_rewrite"),
    ] {
        let statement = format!("ALTER TABLE a ALTER COLUMN v SET DATA TYPE {change}");
        assert_eq!(last(&[&statement]), format!("{kept}{warning}"), "{change}");
    }
    assert_all(&[
        (
            &["ALTER TABLE a ALTER v TYPE varchar(30)", "ALTER TABLE a ALTER v TYPE varchar(20)"],
            "a AccessExclusive, ! rewrite",
        ),
        (&["ALTER TABLE a RENAME TO z", "ALTER TABLE z ALTER v TYPE text"], "z AccessExclusive"),
    ]);
}

#[test]
fn a_table_of_the_plan_that_goes_again_locks_what_it_was_linked_to() {
    assert_all(&[
        (&["CREATE TABLE n (x int REFERENCES a)", "DROP TABLE n"], "a AccessExclusive"),
        (
            &["CREATE TABLE n (x int, FOREIGN KEY (x) REFERENCES s.c (id))", "DROP TABLE n"],
            "s.c AccessExclusive",
        ),
        (
            &[
                "CREATE TABLE n (x int)",
                "ALTER TABLE n ADD CONSTRAINT f FOREIGN KEY (x) REFERENCES a",
                "ALTER TABLE n DROP CONSTRAINT f",
            ],
            "a AccessExclusive",
        ),
        (
            &["CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2)", "DROP TABLE p2"],
            "p AccessExclusive, related AccessExclusive",
        ),
        (&["CREATE TABLE n (x int)", "DROP TABLE n"], ""),
        (
            &["DROP TABLE a CASCADE"],
            "a AccessExclusive, b AccessExclusive, related AccessExclusive, ! breaks_old_code",
        ),
        (&["DROP TABLE b"], "a AccessExclusive, b AccessExclusive, ! breaks_old_code"),
    ]);
}

#[test]
fn a_default_rewrites_if_it_differs_from_row_to_row() {
    for (default, warning) in [
        ("now()", ""),
        ("'x'::varchar(3)", ""),
        ("ARRAY['a', 'b']", ""),
        ("round(random()::numeric, 2)", ", ! rewrite"),
    ] {
        let statement = format!("ALTER TABLE a ADD n text DEFAULT {default}, ADD z int");
        assert_eq!(last(&[&statement]), format!("a AccessExclusive{warning}"), "{default}");
    }
    let function = "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'";
    let add = "ALTER TABLE a ADD n int DEFAULT mine()";
    assert_all(&[
        (&[function, add], "a AccessExclusive, ! rewrite"),
        (&[&format!("{function} IMMUTABLE"), add], "a AccessExclusive"),
        (&["ALTER TABLE a ADD n checked"], "a AccessExclusive, ! rewrite"),
        (&["ALTER TABLE a ADD n plain"], "a AccessExclusive"),
    ]);
}

#[test]
fn set_not_null_is_harmless_once_a_check_proves_it() {
    let (add, validate) = (
        "ALTER TABLE a ADD CONSTRAINT c CHECK (x IS NOT NULL) NOT VALID",
        "ALTER TABLE a VALIDATE CONSTRAINT c",
    );
    let set = "ALTER TABLE a ALTER COLUMN x SET NOT NULL";
    assert_all(&[
        (&[set], "a AccessExclusive, ! scan"),
        (&[add, set], "a AccessExclusive, ! scan"),
        (&[add, validate, set], "a AccessExclusive"),
        (&[add, validate, "ALTER TABLE a DROP CONSTRAINT c", set], "a AccessExclusive, ! scan"),
    ]);
}

#[test]
fn what_old_code_does_not_expect_is_warned_of() {
    assert_all(&[
        (&["ALTER TABLE a ADD x int NOT NULL"], "a AccessExclusive, ! breaks_old_code"),
        (&["ALTER TABLE a ADD x int NOT NULL DEFAULT 1"], "a AccessExclusive"),
        (&["ALTER TABLE a ADD x int CHECK (y IS NOT NULL)"], "a AccessExclusive, ! scan"),
        (&["ALTER TABLE a ADD x int NOT NULL GENERATED ALWAYS AS (1)"], "a AccessExclusive"),
        (&["ALTER TABLE a ENABLE ROW LEVEL SECURITY"], "a AccessExclusive, ! breaks_old_code"),
        (&["ALTER TABLE a DISABLE ROW LEVEL SECURITY"], "a AccessExclusive"),
        (&["DROP TYPE e CASCADE"], "related AccessExclusive"),
        (&["CREATE TABLE n ()", "ALTER TABLE n ADD x int NOT NULL"], ""),
    ]);
}

/// What is cut short, or wrong, is the server's to complain about.
#[test]
fn no_text_is_too_odd_to_be_read() {
    let whole = "ALTER TABLE ONLY (a) ADD CONSTRAINT c CHECK (x IS NOT NULL), ADD y numeric(1, 2) DEFAULT f(1) REFERENCES b (id), \
                 ALTER v TYPE timestamp(3) with time zone[] USING v::text; COPY a (x) FROM STDIN; \
                 CREATE TRIGGER t AFTER INSERT ON a FROM b; MERGE INTO a USING b ON true; ) ) ( (";
    for end in 0..whole.len() {
        for start in (0..end).step_by(7) {
            read(&whole[start..end], &mut world());
        }
    }
}
