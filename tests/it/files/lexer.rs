//! The lexer against PostgreSQL itself: where `src/sql/` splits a text, what it thinks of a statement's kind.
//!
//! There are two judges. psql splits a text to send it; it is told so by a server of ours that only listens. And the
//! server's parser says of a text whether it is no command, one, or several. Both are asked about SQL written by hand
//! to be hard, about SQL from a generator, and, where `make regress` has fetched it, about PostgreSQL's own regression
//! suite.

use std::fs;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use postgres::SimpleQueryMessage;

use crate::support::{DEADLINE, Scratch, server};

/// The binary has no library, so these are its files themselves. Their unit tests come along; they are the same here.
#[path = "../../../src/sql"]
#[allow(dead_code, reason = "the binary uses what is not used here")]
mod script {
    mod annotations;
    mod checksum;
    mod cursor;
    mod enums;
    mod index;
    mod kinds;
    mod lexer;
    mod obstacles;
    mod quote;
    mod statements;
    pub mod tests;
    mod verb;

    pub use kinds::Kind;
    pub use lexer::without_comments;
    pub use obstacles::{Obstacle, ObstacleKind};
    pub use statements::{Statement, parse};
    pub use verb::verb;
}

use script::{Kind, ObstacleKind, parse};

// --------------------------------------------------------------------------------------------- by hand

/// Each is one command to the server, however many semicolons it holds.
const HARD: [&str; 49] = [
    "SELECT ';'",
    "SELECT 'it''s; one'",
    "SELECT 'a\\'",
    "SELECT E'a\\';b'",
    "SELECT e'\\\\' || ';'",
    "SELECT E'\\'\\'' || ';'\n",
    "SELECT 'a'\n  ';b'",
    "SELECT 'a' -- ';\n  ';b' -- '\n",
    "SELECT U&'d\\0061t;' UESCAPE '!'",
    "SELECT U&'!0061;' UESCAPE '!', u&';'",
    "SELECT U&\"\\0061;\" FROM (VALUES (1)) AS t (\"a;\")",
    "SELECT N';', n'\\'",
    "SELECT B'01'\n'10', X'1f'",
    "SELECT $$;$$, $a$;$$;$a$, $ä$;$ä$, $_1$;$_1$",
    "SELECT $a$ $A$;' $A$ $b$; $a$",
    "SELECT $$'$$ AS a$$, $$;$$ AS \"$\"",
    "SELECT 1 AS a$b$, ';' AS c$b$",
    "SELECT 1 AS x$1$y, ';'",
    "SELECT 1 AS \";\", 2 AS \"\"\"; \", 3 AS \"'\"",
    "SELECT 1 -- ; '\n, 2",
    "SELECT 1 /* ; ' */, 2 /* /* ; */ $$ ; */",
    "SELECT /*/*/**/;*/*/ 1",
    "SELECT 1 /***//*;**/ + /*'*/ 2",
    "SELECT 2*/**/-1, 2 *-/*;*/ 1",
    "SELECT 1+--;\n1",
    "SELECT 1 <-- ;\n 2",
    "SELECT 4 OPERATOR(pg_catalog.@>/*;*/) 5 AS no WHERE false",
    "SELECT (ARRAY[1,2])[1:2], (ARRAY[1,2])[:1], '{1}'::int[]",
    "SELECT 1.5e-3, .5, 1., 1.e5, 1::numeric(3,1)::text",
    "SELECT 1 AS \u{e9}t\u{e9}, ';' AS \"\u{1f418};\"",
    "SELECT CASE WHEN true THEN ';' ELSE 'END;' END AS end",
    "(SELECT 1) UNION (SELECT 2)",
    "((SELECT ';'))",
    "WITH a AS (SELECT ';') TABLE a",
    "VALUES (';'), ($$;$$)",
    "DO $do$ BEGIN PERFORM 1; RAISE NOTICE $$;$$; END $do$",
    "CREATE RULE r AS ON INSERT TO t DO ALSO (DELETE FROM t; INSERT INTO t VALUES (';'))",
    "CREATE RULE r AS ON INSERT TO t DO ALSO (;;SELECT 1;; SELECT 2;)",
    "CREATE FUNCTION f() RETURNS int LANGUAGE SQL BEGIN ATOMIC SELECT 1; SELECT 2; END",
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC END",
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC; ;END",
    "CREATE OR REPLACE FUNCTION f(a int = (1)) RETURNS int BEGIN ATOMIC SELECT CASE WHEN a > 0 THEN 1 END; END",
    "CREATE OR REPLACE PROCEDURE p() BEGIN ATOMIC INSERT INTO t VALUES (';'); DELETE FROM t; END",
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT (SELECT CASE 1 WHEN 1 THEN 2 END); RETURN 1; END",
    "CREATE FUNCTION \"begin\"(\"atomic\" int) RETURNS int AS ';' LANGUAGE sql",
    "CREATE PROCEDURE f() LANGUAGE plpgsql AS 'BEGIN COMMIT; END;'",
    "CREATE TABLE begin (atomic int, \"end;\" text DEFAULT ';')",
    "CREATE VIEW v AS SELECT 1 AS begin, 2 AS atomic, 3 AS end",
    "PREPARE p (int) AS SELECT $1, $1+1",
];

/// Here psql is wrong: it reads line by line, so it forgets that a literal was `E'…'`; and in a function it counts every
/// `BEGIN`, `CASE` and `END`. The server takes the text as a whole.
const HARDER: [&str; 4] = [
    "CREATE FUNCTION begin() RETURNS text AS $$ SELECT ';' $$ LANGUAGE sql",
    "SELECT E'a'\n'\\';'",
    "CREATE FUNCTION f(begin int) RETURNS int LANGUAGE sql RETURN begin + 1",
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 AS end, 2 AS case; SELECT 3; END",
];

#[test]
fn splits_hard_sql_into_what_is_one_command_each_to_psql_and_the_server() {
    let scratch = Scratch::new();
    let mut parser = Parser::connect(&scratch);
    let mut random = Random(0x6c6f_636b_7374_6570);
    let all: Vec<&str> = HARD.into_iter().chain(HARDER).collect();
    for _ in 0..4 {
        let (text, written) = joined(&HARD, &mut random);
        assert_eq!(against_psql(&text, &ranges(&text)), [""; 0], "{text}");
        assert_split(&text, &written, &mut parser);
        let (text, written) = joined(&all, &mut random);
        assert_split(&text, &written, &mut parser);
    }
}

/// The text is split as it was written, and each statement is one command to the server.
fn assert_split(text: &str, written: &[Range<usize>], parser: &mut Parser) {
    let tally = against_the_server(text, &ranges(text), parser);
    assert_eq!(tally.disagreements, [""; 0], "{text}");
    let found: Vec<&str> = ranges(text).into_iter().map(|range| &text[range]).collect();
    let unlike =
        found.iter().zip(parser.verdicts(&found)).filter(|(_, verdict)| *verdict != Verdict::One);
    assert_eq!(unlike.collect::<Vec<_>>(), [], "{text}");
    assert_eq!(found.len(), written.len(), "{text}");
    for (found, written) in ranges(text).into_iter().zip(written) {
        // What stands before the semicolon may end in a comment, which is no part of the statement's tokens.
        assert_eq!(found.start, written.start, "{text}");
        assert!(found.end >= text[..written.end].trim_end().len(), "{text}");
    }
}

/// Who reads a file of several statements as fewer or more would lose or tear one; so the judges have to notice.
#[test]
fn the_judges_notice_a_split_that_is_too_fine_or_too_coarse() {
    let scratch = Scratch::new();
    let mut parser = Parser::connect(&scratch);
    let verdicts = parser.verdicts(&[
        "SELECT 1; SELECT 2",
        "SELECT 1",
        "SELECT (1",
        "SELECT FROM nowhere",
        "SELECT ';",
    ]);
    assert_eq!(
        verdicts,
        [Verdict::Several, Verdict::One, Verdict::None, Verdict::One, Verdict::None]
    );
    let rule = "CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2)";
    let torn = rule.find(';').expect("a semicolon");
    let pieces = [0..torn, torn + 1..rule.len()];
    assert_eq!(against_the_server(rule, &pieces, &mut parser).disagreements.len(), 1);
    let two = "SELECT 1; SELECT 2";
    let both = 0..two.len();
    assert_eq!(
        against_the_server(two, std::slice::from_ref(&both), &mut parser).disagreements.len(),
        1
    );
    assert_eq!(against_psql(two, &[both]).len(), 1);
    assert_eq!(against_psql(rule, &pieces).len(), 1);
}

// ---------------------------------------------------------------------------------------- from a generator

/// What can be a value in a list, on its own and run by the server: every way of quoting, and every place where a
/// semicolon is none.
const VALUES: [&str; 30] = [
    "1",
    "1.5e-3",
    ".5",
    "-1",
    "- -1",
    "+1",
    "2*-1",
    "NULL",
    "';'",
    "'it''s;'",
    "'\\'",
    "E'\\';\\\\'",
    "e'\\n;'",
    "'a'\n';b'",
    "'a' -- ';\n ';b'",
    "N';'",
    "U&'\\0061;'",
    "U&'!0061;' UESCAPE '!'",
    "B'01'",
    "x'1F;'::text WHERE false UNION SELECT ';'",
    "$$;$$",
    "$a$;$$;'$a$",
    "$\u{e9}$;$\u{e9}$",
    "1 AS \";\"",
    "1 AS \"\"\";\"",
    "1 AS a$b$",
    "(SELECT ';')",
    "CASE WHEN true THEN ';' END",
    "ARRAY[1,2]::text",
    "'\u{1f418};'::text COLLATE \"C\"",
];

#[test]
fn finds_as_many_statements_in_generated_texts_as_the_server_runs() {
    let scratch = Scratch::new();
    let mut parser = Parser::connect(&scratch);
    let mut client = scratch.client();
    let mut random = Random(0x0005_eed5);
    for round in 0..60 {
        let statements: Vec<String> = (0..1 + random.below(12))
            .map(|_| format!("SELECT{}{}", random.gap(), random.pick(&VALUES)))
            .collect();
        let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
        let (text, _) = joined(&statements, &mut random);
        let messages = client.simple_query(&text);
        let ran = messages.map(|messages| {
            let complete = |message: &&SimpleQueryMessage| {
                matches!(message, SimpleQueryMessage::CommandComplete(_))
            };
            messages.iter().filter(complete).count()
        });
        let ours = parse(&text).statements.len();
        match ran {
            Ok(ran) => assert_eq!(ours, ran, "{text}"),
            Err(error) => assert!(error.as_db_error().is_some(), "{error:?}"),
        }
        let tally = judged_by_the_server(&text, &mut parser);
        assert_eq!(tally.disagreements, [""; 0], "{text}");
        assert_eq!(ours, statements.len(), "{text}");
        if round < 10 {
            let ranges = ranges(&text);
            assert_eq!(against_psql(&text, &ranges), [""; 0], "{text}");
        }
    }
}

/// Where quotes, parentheses and comments are opened and never closed, psql's word is all there is. It has two words of
/// its own that are left out: a backslash, and a colon before a name. And it takes any `BEGIN` in a function for the
/// beginning of a body, where the server wants `BEGIN ATOMIC`.
#[test]
fn splits_any_text_as_psql_does() {
    const FRAGMENTS: [&str; 41] = [
        "SELECT 1",
        "a",
        "\u{e9}",
        "\u{1f418}",
        ";",
        ";",
        ";",
        ";",
        "(",
        ")",
        "'",
        "'",
        "''",
        "\"",
        "$$",
        "$a$",
        "$",
        "$1",
        "E'",
        "U&\"",
        "U&'",
        "B'",
        "N'",
        "\n",
        "\n",
        " ",
        "\t",
        "--",
        "-- x\n",
        "/*",
        "*/",
        "+",
        "-",
        "@",
        "1e5",
        "0x1",
        "CREATE ",
        "RULE ",
        "END",
        "1..2",
        "CASE ",
    ];
    let mut random = Random(0xfeed_5eed);
    for _ in 0..80 {
        let text: String = (0..1 + random.below(60)).map(|_| *random.pick(&FRAGMENTS)).collect();
        assert_eq!(against_psql(&text, &ranges(&text)), [""; 0], "{text}");
    }
}

/// 32 times the text takes 32 times the time; if something is read again for every token, 1024 times. The machine may be
/// busy, so it is the shortest of several times that counts, and the limit is far from both.
#[test]
#[ignore = "it measures time: make soak"]
fn needs_linear_time() {
    let bytes: Vec<String> = (1..0x80).map(|byte: u8| char::from(byte).to_string()).collect();
    for piece in bytes.iter().map(String::as_str).chain(script::tests::PIECES) {
        assert_linear("", piece);
    }
    for opening in OPENINGS {
        for piece in ["(", ",", "a.", "(a),", "+"] {
            assert_linear(opening, piece);
        }
    }
}

fn assert_linear(opening: &str, piece: &str) {
    let row = |bytes: usize| opening.to_owned() + &piece.repeat(bytes / piece.len());
    let texts = [row(1 << 9), row(1 << 14)];
    let mut shortest = [Duration::MAX; 2];
    for _ in 0..100 {
        for (text, shortest) in texts.iter().zip(&mut shortest) {
            let begin = Instant::now();
            parse(text);
            *shortest = begin.elapsed().min(*shortest);
        }
        if shortest[1] < 5 * 32 * shortest[0] {
            return;
        }
    }
    panic!("{opening:?} and many {piece:?}: {shortest:?}");
}

const OPENINGS: [&str; 7] = [
    "CREATE INDEX CONCURRENTLY ON t ((",
    "CREATE INDEX CONCURRENTLY ",
    "REINDEX (",
    "DROP INDEX CONCURRENTLY a,",
    "ALTER TABLE ",
    "CREATE FUNCTION f() BEGIN ATOMIC ",
    "COPY ",
];

/// xorshift: the same texts every time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("less than a usize")
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// What may stand between two tokens.
    fn gap(&mut self) -> String {
        const GAPS: [&str; 9] = [
            " ",
            "\n",
            "\t",
            "\r\n",
            " -- ; '\n",
            "/* ; */",
            "/* /* ' */ \" */",
            " --\r\n",
            "/***/ ",
        ];
        (0..1 + self.below(3)).map(|_| *self.pick(&GAPS)).collect()
    }
}

/// The statements with semicolons, and much or little else, between them; and where they are.
fn joined(statements: &[&str], random: &mut Random) -> (String, Vec<Range<usize>>) {
    let mut text = random.gap();
    let mut ranges = Vec::new();
    for statement in statements {
        let start = text.len();
        text.push_str(statement);
        ranges.push(start..text.len());
        if random.below(2) == 0 {
            text.push_str(&random.gap());
        }
        text.push(';');
        for _ in 0..random.below(3) {
            text.push_str(&random.gap());
            text.push_str(["", ";"][random.below(2)]);
        }
    }
    (text, ranges)
}

// ------------------------------------------------------------------------ PostgreSQL's regression suite

/// Not part of this repository, and `make test` does without the network: so this part is left out, and says so, until
/// `make regress` has fetched it.
#[test]
fn agrees_with_psql_and_the_server_about_postgresqls_own_regression_suite() {
    let Some(files) = regression_suite() else {
        tell(
            "SKIPPED: PostgreSQL's regression suite is not here, so the lexer was not compared on it: make regress",
        );
        return;
    };
    let scratch = Scratch::new();
    let mut parser = Parser::connect(&scratch);
    let mut total = Tally::default();
    let mut kinds = Kinds::new(&scratch);
    let mut aside = Aside::default();
    let mut compared = 0;
    for path in &files {
        if path.ends_with("psql.sql") {
            aside.about_psql += 1;
            continue;
        }
        let Ok(text) = String::from_utf8(fs::read(path).expect("a file")) else {
            aside.not_utf_8 += 1;
            continue;
        };
        compared += 1;
        let text = without_psql(&text, &mut aside);
        let mut tally = judged(&text, &mut parser);
        kinds.compare(&text);
        for disagreement in &mut tally.disagreements {
            *disagreement = format!("{}: {disagreement}", path.display());
        }
        total.add(tally);
    }
    tell(&format!(
        "PostgreSQL's regression suite: {compared} files, {} statements; {} are one command each to the server, {} it \
         refuses; psql splits all where we do; {} disagreements.\n  set aside: {} files that are not UTF-8, {} of psql's commands only, {} lines \
         of psql's commands, {} of its variables, {} lines of COPY data, {} COPY without data\n  kinds: {} compared in a transaction block, \
         {} set aside because they fail before that matters, {} disagreements",
        total.agreed + total.refused,
        total.agreed,
        total.refused,
        total.disagreements.len(),
        aside.not_utf_8,
        aside.about_psql,
        aside.psql_lines,
        aside.psql_variables,
        aside.copy_lines,
        aside.copies_without_data,
        kinds.compared,
        kinds.undecided,
        kinds.disagreements.len(),
    ));
    assert!(total.agreed > 10_000, "that is no regression suite");
    assert_eq!(total.disagreements.join("\n"), "");
    assert_eq!(kinds.disagreements.join("\n"), "");
}

/// Past the capturing of a passing test's output.
fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn regression_suite() -> Option<Vec<PathBuf>> {
    let directory = std::env::var_os("LOCKSTEP_REGRESS_SQL")?;
    let mut files: Vec<PathBuf> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("LOCKSTEP_REGRESS_SQL={}: {error}", directory.display()))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .collect();
    files.sort();
    Some(files)
}

/// What of the files was not compared.
#[derive(Default)]
struct Aside {
    not_utf_8: usize,
    /// The test of psql's commands: what psql does with half a query is no matter here.
    about_psql: usize,
    psql_lines: usize,
    psql_variables: usize,
    copy_lines: usize,
    copies_without_data: usize,
}

/// The text without what only psql knows: its commands, of which some end a statement, and the data after a COPY.
fn without_psql(text: &str, aside: &mut Aside) -> String {
    let mut text = take_psql_variables(text, aside);
    loop {
        let obstacles = parse(&text).obstacles;
        let mut found = false;
        // From the end, so that the offsets stay true. A line may hide another command, hence the loop.
        for obstacle in obstacles.iter().rev() {
            if let ObstacleKind::PsqlCommand(command) = &obstacle.kind {
                take_psql_command(&mut text, obstacle.offset, command, aside);
                found = true;
            }
        }
        if found {
            continue;
        }
        let copy = |obstacle: &&script::Obstacle| obstacle.kind == ObstacleKind::CopyFromStdin;
        match obstacles.iter().find(copy) {
            Some(copy) => take_copy_data(&mut text, copy.offset, aside),
            None => return text,
        }
    }
}

fn take_psql_command(text: &mut String, at: usize, command: &str, aside: &mut Aside) {
    if command.starts_with("\\;") {
        text.replace_range(at..at + 2, " ;");
        return;
    }
    aside.psql_lines += 1;
    let sends = ["\\g", "\\crosstabview", "\\watch"];
    let sends = sends.iter().any(|it| command.starts_with(it));
    let end = text[at..].find('\n').map_or(text.len(), |end| at + end);
    text.replace_range(at..end, if sends { ";" } else { "" });
}

/// psql puts its own variables into a query, quoted or not: `:'USER'`.
fn take_psql_variables(text: &str, aside: &mut Aside) -> String {
    let mut taken = text.to_owned();
    for name in [
        "USER",
        "LAST_ERROR_MESSAGE",
        "LAST_ERROR_SQLSTATE",
        "ERROR",
        "SQLSTATE",
        "ROW_COUNT",
        "VERBOSITY",
    ] {
        for quote in ["", "'", "\""] {
            let variable = format!(":{quote}{name}");
            aside.psql_variables += taken.matches(&variable).count();
            taken = taken.replace(&variable, &variable[1..]);
        }
    }
    taken
}

/// Takes away the data, if it looks like data: where the COPY is meant to fail, SQL follows. And makes it a COPY from a
/// file, so that neither we nor psql look for data.
fn take_copy_data(text: &mut String, at: usize, aside: &mut Aside) {
    let statement = parse(&text[at..]).statements.swap_remove(0).range();
    let (start, end) = (at + statement.start, at + statement.end);
    let data = text[end..].find('\n').map(|line| end + line);
    let data_end = data.and_then(|data| text[data..].find("\n\\.\n").map(|mark| data + mark + 3));
    match data.zip(data_end).map(|(data, data_end)| data..data_end) {
        Some(data) if !text[data.clone()].lines().any(|line| line.ends_with(';')) => {
            aside.copy_lines += text[data.clone()].lines().count();
            text.replace_range(data, "");
        }
        _ => aside.copies_without_data += 1,
    }
    let lower = text[start..end].to_ascii_lowercase();
    let word = lower.rfind("stdin").or_else(|| lower.rfind("stdout")).expect("stdin");
    text.replace_range(start + word..start + word + "stdin".len(), "'std'");
}

/// The kinds of statements, compared with what the server says when it meets them in a transaction block, which is
/// rolled back.
struct Kinds {
    client: postgres::Client,
    compared: usize,
    undecided: usize,
    disagreements: Vec<String>,
}

impl Kinds {
    fn new(scratch: &Scratch) -> Kinds {
        let mut client = scratch.client();
        client
            .batch_execute("SET statement_timeout = '5s'; SET lock_timeout = '1s'; SET client_min_messages = 'error'")
            .expect("settings");
        Kinds { client, compared: 0, undecided: 0, disagreements: Vec::new() }
    }

    fn compare(&mut self, text: &str) {
        const COMMANDS: [&str; 16] = [
            "create",
            "drop",
            "alter",
            "reindex",
            "cluster",
            "vacuum",
            "discard",
            "commit prepared",
            "rollback prepared",
            "analyze",
            "refresh",
            "comment",
            "lock",
            "security",
            "import",
            "checkpoint",
        ];
        for statement in parse(text).statements {
            let sql = &text[statement.range()];
            let lower = sql.to_ascii_lowercase();
            if !COMMANDS.iter().any(|command| lower.starts_with(command))
                || parse(sql)
                    .obstacles
                    .iter()
                    .any(|it| matches!(it.kind, ObstacleKind::TransactionControl(_)))
            {
                continue;
            }
            let refused = self.is_refused_in_a_block(sql);
            match (statement.kind, refused) {
                (Kind::Plain, false) | (Kind::MaybeOutside, _) | (Kind::Outside(_), true) => {
                    self.compared += 1
                }
                (Kind::Outside(_), false) => self.undecided += 1,
                (Kind::Plain, true) => self
                    .disagreements
                    .push(format!("the server refuses it in a transaction: {sql}")),
            }
        }
    }

    fn is_refused_in_a_block(&mut self, sql: &str) -> bool {
        self.client.batch_execute("BEGIN").expect("BEGIN");
        let error = self.client.batch_execute(sql).err();
        self.client.batch_execute("ROLLBACK").expect("ROLLBACK");
        error.is_some_and(|error| {
            let error = error.as_db_error().expect("an answer");
            error.code().code() == "25001"
                && error.message().contains("cannot run inside a transaction block")
        })
    }
}

// ------------------------------------------------------------------------------------------- the comparison

#[derive(Default)]
struct Tally {
    /// One command each.
    agreed: usize,
    /// No command to the server, nor part of one together with its neighbours.
    refused: usize,
    disagreements: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.agreed += other.agreed;
        self.refused += other.refused;
        self.disagreements.extend(other.disagreements);
    }
}

fn ranges(text: &str) -> Vec<Range<usize>> {
    parse(text).statements.iter().map(script::Statement::range).collect()
}

fn judged(text: &str, parser: &mut Parser) -> Tally {
    let mut tally = judged_by_the_server(text, parser);
    tally.disagreements.extend(against_psql(text, &ranges(text)));
    tally
}

fn judged_by_the_server(text: &str, parser: &mut Parser) -> Tally {
    against_the_server(text, &ranges(text), parser)
}

/// None may be several commands. And what is no command must not be a piece of one: not together with one or two that
/// come next.
fn against_the_server(text: &str, ranges: &[Range<usize>], parser: &mut Parser) -> Tally {
    let pieces: Vec<&str> = ranges.iter().map(|range| &text[range.clone()]).collect();
    let verdicts = parser.verdicts(&pieces);
    let mut tally = Tally::default();
    let mut together = Vec::new();
    for (index, verdict) in verdicts.iter().enumerate() {
        match verdict {
            Verdict::One => tally.agreed += 1,
            Verdict::Several => tally
                .disagreements
                .push(format!("several commands to the server: {}", pieces[index])),
            Verdict::None => tally.refused += 1,
        }
        for last in index + 1..(index + 4).min(pieces.len()) {
            if verdicts[index..=last].contains(&Verdict::None) {
                together.push(&text[ranges[index].start..ranges[last].end]);
            }
        }
    }
    let verdicts = parser.verdicts(&together);
    for (together, _) in
        together.iter().zip(verdicts).filter(|(_, verdict)| *verdict == Verdict::One)
    {
        tally.disagreements.push(format!("one command to the server: {together}"));
    }
    tally
}

/// Where psql ends its queries is where our statements end.
fn against_psql(text: &str, ranges: &[Range<usize>]) -> Vec<String> {
    let mut ours = ranges.iter();
    let mut at = 0;
    for query in psql_queries(text) {
        // A semicolon on its own is a query to psql.
        if is_empty(&query) {
            continue;
        }
        let Some(expected) = ours.next() else {
            return vec![format!("psql sends more: {query}")];
        };
        let agrees = |found: &Range<usize>| {
            let before =
                found.start <= expected.start && is_empty(&text[found.start..expected.start]);
            // What is open at the end of the text goes on to there; psql drops its last line break.
            let end = expected.end.min(text.trim_end_matches('\n').len());
            before && end <= found.end && is_empty(&text[end..found.end])
        };
        let Some(found) = places(text, at, &query).find(agrees) else {
            return vec![format!("psql sends this: {query}\nand we: {}", &text[expected.clone()])];
        };
        at = found.end;
    }
    let left = ours.map(|range| format!("psql does not send: {}", &text[range.clone()]));
    left.take(1).collect()
}

fn is_empty(text: &str) -> bool {
    parse(text).statements.is_empty()
}

/// Where the query may be in the text; psql leaves out lines in which there is nothing.
fn places(text: &str, from: usize, query: &str) -> impl Iterator<Item = Range<usize>> {
    let matches = |start: usize| {
        let mut at = start;
        for byte in query.bytes() {
            while text.as_bytes().get(at) == Some(&b'\n') && byte != b'\n' {
                at += 1;
            }
            if text.as_bytes().get(at) != Some(&byte) {
                return None;
            }
            at += 1;
        }
        Some(start..at)
    };
    (from..text.len()).filter_map(matches)
}

// -------------------------------------------------------------------------------------- the server's parser

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The grammar refuses it.
    None,
    One,
    Several,
}

/// A connection on which nothing is run: a statement is prepared only, and the server says by what error whether a text
/// is more than one.
struct Parser {
    input: BufReader<TcpStream>,
    output: BufWriter<TcpStream>,
}

impl Parser {
    fn connect(scratch: &Scratch) -> Parser {
        let server = server();
        let stream =
            TcpStream::connect((server.host.as_str(), server.port)).expect("the test server");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let mut parser = Parser {
            input: BufReader::new(stream.try_clone().expect("a stream")),
            output: BufWriter::new(stream),
        };
        let start_up = format!(
            "\0\u{3}\0\0user\0postgres\0database\0{}\0client_encoding\0UTF8\0\0",
            scratch.database
        );
        write_message(&mut parser.output, None, start_up.as_bytes());
        parser.output.flush().expect("a server that listens");
        parser.error_before_ready();
        parser
    }

    /// If a text and another command are several commands, then the grammar takes the text; if it is not several
    /// itself, it is one.
    fn verdicts(&mut self, texts: &[&str]) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        // The server must never have to wait for us to read.
        for texts in texts.chunks(50) {
            for text in texts {
                for text in [(*text).to_owned(), format!("{text}\n;SELECT 1")] {
                    write_message(
                        &mut self.output,
                        Some(b'P'),
                        format!("\0{text}\0\0\0").as_bytes(),
                    );
                    write_message(&mut self.output, Some(b'S'), b"");
                }
            }
            self.output.flush().expect("a server that listens");
            for _ in texts {
                let alone = self.error_before_ready();
                let in_company = self.error_before_ready();
                verdicts.push(match (alone.contains(SEVERAL), in_company.contains(SEVERAL)) {
                    (true, _) => Verdict::Several,
                    (false, true) => Verdict::One,
                    (false, false) => Verdict::None,
                });
            }
        }
        verdicts
    }

    /// The fields of the error that comes before the server is ready again, if one does.
    fn error_before_ready(&mut self) -> String {
        let mut error = String::new();
        loop {
            let (kind, body) = read_message(&mut self.input).expect("an answer");
            match kind {
                b'E' => error = String::from_utf8_lossy(&body).into_owned(),
                b'Z' => return error,
                _ => {}
            }
        }
    }
}

const SEVERAL: &str = "cannot insert multiple commands into a prepared statement";

fn write_message(output: &mut impl Write, kind: Option<u8>, body: &[u8]) {
    let length = u32::try_from(body.len() + 4).expect("a message");
    output.write_all(kind.as_slice()).expect("a peer");
    output.write_all(&length.to_be_bytes()).expect("a peer");
    output.write_all(body).expect("a peer");
}

fn read_message(input: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut kind = [0];
    input.read_exact(&mut kind)?;
    Ok((kind[0], read_body(input)?))
}

fn read_body(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length)).expect("a length");
    let mut body = vec![0; length - 4];
    input.read_exact(&mut body)?;
    Ok(body)
}

// ---------------------------------------------------------------------------------------------------- psql

/// What psql sends, query by query, when it is given this text.
fn psql_queries(text: &str) -> Vec<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let listening = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("psql connects");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        listen(&stream)
    });
    let mut psql = Command::new(server().bindir.join("psql"))
        .args(["-X", "-q", "-w", "-h", "127.0.0.1", "-U", "nobody", "-d", "nothing", "-f", "-"])
        .args(["-p", &port.to_string()])
        .env_clear()
        .envs([("PGSSLMODE", "disable"), ("PGGSSENCMODE", "disable"), ("PGCLIENTENCODING", "UTF8")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("psql");
    let mut input = psql.stdin.take().expect("a pipe");
    input.write_all(text.as_bytes()).expect("psql reads");
    drop(input);
    let queries = listening.join().expect("psql's queries");
    psql.wait().expect("psql ends");
    queries
}

/// The server that only listens: whatever it is asked, it is done.
fn listen(stream: &TcpStream) -> Vec<String> {
    let mut input = BufReader::new(stream.try_clone().expect("a stream"));
    let mut output = BufWriter::new(stream);
    read_body(&mut input).expect("a start-up message");
    write_message(&mut output, Some(b'R'), &[0; 4]);
    for setting in
        ["server_version\x0015.0\0", "standard_conforming_strings\0on\0", "client_encoding\0UTF8\0"]
    {
        write_message(&mut output, Some(b'S'), setting.as_bytes());
    }
    write_message(&mut output, Some(b'Z'), b"I");
    output.flush().expect("psql listens");
    let mut queries = Vec::new();
    while let Ok((b'Q', mut query)) = read_message(&mut input) {
        query.pop_if(|last| *last == 0);
        queries.push(String::from_utf8(query).expect("what psql was given"));
        write_message(&mut output, Some(b'C'), b"DONE\0");
        write_message(&mut output, Some(b'Z'), b"I");
        output.flush().expect("psql listens");
    }
    queries
}
