//! Layouts, versions, parts and histories, each as a table of cases.

use std::path::Path;

use super::history::{Record, Verdict, judge};
use super::*;

fn files(files: &[(&str, &str)]) -> Vec<Found> {
    let found = files.iter().map(|(path, text)| Found::new(path, text));
    found.collect()
}

fn understood(found: &[(&str, &str)]) -> Import {
    understand(&files(found)).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// The complaints, in a line each.
fn refused(found: &[(&str, &str)]) -> String {
    let problems = understand(&files(found)).expect_err("complaints");
    let lines = problems.iter().map(Problem::to_string);
    lines.collect::<Vec<_>>().join("\n")
}

/// The versions that up files of these numbers get, in the order given.
fn versions(numbers: &[&str]) -> Vec<String> {
    let names: Vec<String> = numbers.iter().map(|it| format!("{it}_x.up.sql")).collect();
    let found: Vec<(&str, &str)> = names.iter().map(|it| (it.as_str(), "")).collect();
    let import = understood(&found);
    let version = |name: &String| {
        let mut all = import.migrations.iter();
        let found = all.find(|it| it.up.from == *name).expect("it is there");
        found.version.to_string()
    };
    names.iter().map(version).collect()
}

#[test]
fn a_number_becomes_fourteen_digits_that_sort_alike() {
    for (numbers, expected) in [
        (&["1", "2", "10"][..], &["00000000000001", "00000000000002", "00000000000010"][..]),
        (&["0009", "010"], &["00000000000009", "00000000000010"]),
        (&["20230314095813"], &["20230314095813"]),
        (&["202303140958", "20230315"], &["00202303140958", "00000020230315"]),
        (&["20230314", "202303140958"], &["20230314000000", "20230314095800"]),
        (&["2023031409"], &["20230314090000"]),
        (&["1700000000"], &["20231114221320"]),
        (&["1700000000123"], &["20231114221320"]),
        (&["1500000000", "1700000000"], &["20170714024000", "20231114221320"]),
        // Seconds and a timestamp that is older, but greater as a number: only padding keeps the order.
        (&["1700000000", "20150101000000"], &["00001700000000", "20150101000000"]),
        (&["1", "1700000000"], &["00000000000001", "20231114221320"]),
        (&["20231332"], &["00000020231332"]),
    ] {
        assert_eq!(versions(numbers), expected, "{numbers:?}");
    }
}

#[test]
fn dotted_versions_keep_their_order_and_stay_below_every_timestamp() {
    let names = [
        ("V1__a.sql", "00000000010000"),
        ("V1.2__b.sql", "00000000010200"),
        ("V1_2_1__c.sql", "00000000010201"),
        ("V1.10__d.sql", "00000000011000"),
        ("V02__e.sql", "00000000020000"),
        ("V2023.01.31__f.sql", "00000020230131"),
    ];
    let mut found: Vec<Found> = names.iter().map(|(it, _)| Found::new(it, "")).collect();
    found.reverse();
    let import = understand(&found).expect("it is Flyway's");
    assert_eq!(import.tools, [Tool::Flyway]);
    let new = import.migrations.iter();
    let new: Vec<_> = new.map(|it| (it.up.from.clone(), it.version.to_string())).collect();
    assert_eq!(new, names.map(|(old, new)| (old.to_owned(), new.to_owned())));
}

#[test]
fn a_file_of_both_ways_is_cut_at_the_comment_and_no_byte_is_lost() {
    for (tool, text, up, down) in [
        (
            Tool::Goose,
            "-- +goose Up\r\nSELECT 1;\r\n\r\n-- +goose Down\r\nSELECT 2;",
            "-- +goose Up\r\nSELECT 1;\r\n\r\n",
            Some("SELECT 2;"),
        ),
        (
            Tool::Goose,
            "-- +goose up\n-- +goose StatementBegin\nDO $$ BEGIN END $$;\n-- +goose StatementEnd\n",
            "-- +goose up\n-- +goose StatementBegin\nDO $$ BEGIN END $$;\n-- +goose StatementEnd\n",
            None,
        ),
        (
            Tool::Goose,
            "-- +goose NO TRANSACTION\n-- +goose Up\nSELECT 1;\n-- +goose Down\nSELECT 2;\n",
            "-- +goose NO TRANSACTION\n-- +goose Up\nSELECT 1;\n",
            Some("-- lockstep: no-transaction\nSELECT 2;\n"),
        ),
        (
            Tool::Goose,
            "-- +goose Up\nSELECT 1;\n-- +goose NO TRANSACTION\n",
            "-- lockstep: no-transaction\n-- +goose Up\nSELECT 1;\n-- +goose NO TRANSACTION\n",
            None,
        ),
        (
            Tool::SqlMigrate,
            "-- +migrate Up notransaction\nSELECT 1;\n-- +migrate Down notransaction\nSELECT 2;\n",
            "-- +migrate Up notransaction\nSELECT 1;\n",
            Some("-- lockstep: no-transaction\nSELECT 2;\n"),
        ),
        (
            Tool::SqlMigrate,
            "-- +migrate Down\nb;\n-- +migrate Up\na;\n-- +migrate Down\nc;\n",
            "-- +migrate Up\na;\n",
            Some("b;\nc;\n"),
        ),
        (
            Tool::Dbmate,
            "-- why\n-- migrate:up transaction:false\nSELECT 1;\n--migrate:down\n",
            "-- why\n-- migrate:up transaction:false\nSELECT 1;\n",
            Some(""),
        ),
        (
            Tool::Tern,
            "---- tern: disable-tx ----\nSELECT 1;\n---- create above / drop below ----\nSELECT 2;\n",
            "-- lockstep: no-transaction\n---- tern: disable-tx ----\nSELECT 1;\n",
            Some("-- lockstep: no-transaction\nSELECT 2;\n"),
        ),
    ] {
        let import = understood(&[("1_a.sql", text)]);
        assert_eq!(import.tools, [tool], "{text}");
        let [only] = &import.migrations[..] else { panic!("one") };
        assert_eq!(only.up.text, up);
        assert_eq!(only.down.as_ref().map(|it| it.text.as_str()), down);
    }
}

#[test]
fn a_setting_beside_the_file_becomes_our_marker() {
    for (up, beside, says) in [
        (
            "2024-01-02-030405_a/up.sql",
            "2024-01-02-030405_a/metadata.toml",
            "run_in_transaction = false",
        ),
        ("V1__a.sql", "V1__a.sql.conf", "executeInTransaction=false"),
    ] {
        let import = understood(&[(up, "SELECT 1"), (beside, says)]);
        let text = &import.migrations[0].up.text;
        assert_eq!(text, "-- lockstep: no-transaction\nSELECT 1");
        let import = understood(&[(up, "SELECT 1"), (beside, "")]);
        assert_eq!(import.migrations[0].up.text, "SELECT 1");
    }
}

#[test]
fn what_cannot_come_along_is_named() {
    const GOOSE: &str = "-- +goose Up\n";
    for (found, complaint) in [
        (&[][..], "is empty"),
        (&[("notes.sql", "")], "no migration of a tool that is known"),
        (&[("sub/1_a.up.sql", "")], "sub below it has some"),
        (&[("1_a.up.sql", ""), ("2_b.sql", GOOSE)], "2_b.sql is named as by goose"),
        (&[("1_a.sql", GOOSE), ("2_b.sql", "-- migrate:up")], "two tools"),
        (&[("V1__a.sql", ""), ("1_a/up.sql", "")], "two tools"),
        (
            &[("1_a.sql", GOOSE), ("2_b.sql", "")],
            "2_b.sql: nothing in it says where goose's way up begins",
        ),
        (&[("1_a.sql", GOOSE), ("2_b.go", ""), ("3_c.go", "")], "3_c.go: code in another language"),
        (&[("V1__a.sql", ""), ("V2__b.java", "")], "V2__b.java: code"),
        (&[("1_a.sql", "-- +goose ENVSUB ON\n-- +goose Up\n")], "ENVSUB"),
        (&[("V1__a.sql", "SELECT 1;\nSELECT '${who}'")], "line 2: ${who}"),
        (&[("1_a.sql", "{{ template \"x\" }}\n---- create above / drop below ----\n")], "template"),
        (&[("1_a.up.sql", ""), ("01_b.up.sql", "")], "would get the version 00000000000001 of"),
        (
            &[("1_a.up.sql", ""), ("2_a.down.sql", "")],
            "2_a.down.sql: a way down without its way up",
        ),
        (&[("V1__a.sql", ""), ("U2__b.sql", "")], "no V file has its version"),
        (&[("123456789012345678901_a.up.sql", "")], "14 digits"),
        (&[("2_a.sql", "-- migrate:up"), ("10_b.sql", "-- migrate:up")], "sorts names as text"),
        (&[("1_a.sql", "-- +migrate Up"), ("init.sql", "-- +migrate Up")], "begins with no number"),
        (&[("1_a.sql", "SELECT 1;\n-- //@UNDO\nSELECT 2;")], "//@UNDO"),
    ] {
        let said = refused(found);
        assert!(said.contains(complaint), "{found:?}: {said}");
    }
}

#[test]
fn what_stays_behind_is_told() {
    let import = understood(&[
        ("V1__a.sql", ""),
        ("sub/V2__b.sql", ""),
        ("R__views.sql", ""),
        ("afterMigrate.sql", ""),
        ("B1__all.sql", ""),
    ]);
    assert_eq!(import.migrations.len(), 2);
    let left: Vec<_> = import.left.iter().map(|it| &it.path).collect();
    assert_eq!(left, ["R__views.sql", "afterMigrate.sql", "B1__all.sql"].map(Path::new));
    let import = understood(&[("U2__b.sql", ""), ("U1__a.sql", "")]);
    assert_eq!((import.tools, import.migrations.len()), (vec![Tool::Refinery], 2));
    let import = understood(&[("1_a.up.sql", ""), ("seeds/1_b.up.sql", "")]);
    assert_eq!(import.left[0].path, Path::new("seeds/1_b.up.sql"));
}

#[test]
fn a_name_is_made_to_fit() {
    for (old, new) in [
        ("1_Add Users.up.sql", "00000000000001_Add_Users.up.sql"),
        ("1_ไทย.up.sql", "00000000000001_migration.up.sql"),
        ("1_.up.sql", "00000000000001_migration.up.sql"),
        ("1_a.b.up.sql", "00000000000001_a_b.up.sql"),
    ] {
        assert_eq!(understood(&[(old, "")]).migrations[0].up_name(), new);
    }
    assert!(understood(&[("20230314095813_a.tx.up.sql", "")]).is_ours);
    assert!(!understood(&[("20230314095813_a b.up.sql", "")]).is_ours);
}

fn judged(tool: Tool, records: &[(&str, &str)]) -> Verdict {
    let found = match tool {
        Tool::Flyway => [("V1__a.sql", ""), ("V1.1__b.sql", ""), ("V2__c.sql", "")],
        Tool::Prisma => [
            ("20240101000001_a/migration.sql", ""),
            ("20240101000002_b/migration.sql", ""),
            ("20240101000003_c/migration.sql", ""),
        ],
        _ => [("1_a.up.sql", ""), ("2_b.up.sql", ""), ("10_c.up.sql", "")],
    };
    let record = |(entry, what): &(&str, &str)| Record {
        entry: (*entry).to_owned(),
        what: (*what).to_owned(),
    };
    let records: Vec<Record> = records.iter().map(record).collect();
    judge(tool, &understood(&found), &records)
}

#[test]
fn only_a_history_without_a_doubt_names_a_version() {
    let up_to = |version: &str| Verdict::UpTo(Version::parse(version).expect("digits"));
    let (migrate, sqlx) = (Tool::GolangMigrate, Tool::Sqlx);
    for (tool, records, expected) in [
        (migrate, &[("10", "up to")][..], Some(up_to("00000000000010"))),
        (migrate, &[("2", "up to")], Some(up_to("00000000000002"))),
        (migrate, &[("3", "up to")], None),
        (migrate, &[("2", "failed")], None),
        (migrate, &[], Some(Verdict::Nothing)),
        (sqlx, &[("1", "applied"), ("2", "applied")], Some(up_to("00000000000002"))),
        (sqlx, &[("1", "applied"), ("10", "applied")], None),
        (sqlx, &[("1", "applied"), ("5", "applied")], None),
        (sqlx, &[("1", "applied"), ("2", "failed")], None),
        (
            Tool::Goose,
            &[("1", "applied"), ("2", "applied"), ("2", "undone")],
            Some(up_to("00000000000001")),
        ),
        (Tool::Flyway, &[("1", "applied"), ("1.1", "applied")], Some(up_to("00000000000101"))),
        (Tool::Flyway, &[("1.5", "baseline"), ("2", "applied")], Some(up_to("00000000000200"))),
        (
            Tool::Flyway,
            &[("1", "applied"), ("1.1", "applied"), ("1.1", "undone")],
            Some(up_to("00000000000100")),
        ),
        (
            Tool::Prisma,
            &[("20240101000001_a", "undone"), ("20240101000001_a", "applied")],
            Some(up_to("20240101000001")),
        ),
        (Tool::Prisma, &[("20240101000001_a", "failed")], None),
    ] {
        let verdict = judged(tool, records);
        match expected {
            Some(expected) => assert_eq!(verdict, expected, "{tool} {records:?}"),
            None => assert!(matches!(verdict, Verdict::Doubt(_)), "{tool} {records:?}"),
        }
    }
}
