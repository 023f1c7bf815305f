//! Did a migration run that bun recorded, or one whose record is gone? The catalog alone does not tell, the file does: it is
//! tried in a transaction that is rolled back, and each part of it twice. What runs once and not twice has not run before;
//! what fails at once because its work is there has; what runs twice tells nothing. Pure: the text, and what it answers.
//!
//! A part is what bun sends at once, which is a transaction: the file, or what stands between two lines `--bun:split`.
//! PL/pgSQL's `EXECUTE` refuses to end a transaction, so nothing that a file says is committed.

use std::fmt;
use std::ops::Range;

use crate::migration::{Migration, Version};
use crate::sql::quote::{escape_literal, literal};
use crate::sql::{self, Kind, Outside, Statement, sqlstate};

/// More is not sent twice.
const LONGEST: usize = 1 << 20;

/// A migration of which nobody knows whether it ran, and what the trial says.
#[derive(Clone, Debug)]
pub struct Doubt {
    pub version: Version,
    pub verdict: Verdict,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It would run now.
    NeverRan,
    /// Its work is there, as the server says.
    Ran(String),
    /// Of its parts so many are done; how many there are.
    InPart(usize, usize),
    /// What it left is half built.
    Unfinished(String),
    /// For this reason.
    Unknown(String),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version;
        match &self.verdict {
            Verdict::NeverRan => write!(f, "{version} would run now, so it most likely never did"),
            Verdict::Ran(why) => {
                write!(f, "{version} would fail now ({why}), so it most likely ran")
            }
            Verdict::InPart(done, of) => {
                write!(f, "{version} most likely ran in part: {done} of its {of} parts")
            }
            Verdict::Unfinished(why) => write!(f, "{version} began, and did not finish: {why}"),
            Verdict::Unknown(why) => write!(f, "whether {version} ran cannot be told: {why}"),
        }
    }
}

impl Doubt {
    /// The command to type once the lock is free, and when.
    pub fn remedy(&self) -> String {
        let version = self.version;
        match &self.verdict {
            Verdict::NeverRan | Verdict::Unfinished(_) => format!("lockstep forget {version}"),
            Verdict::Ran(_) => "lockstep up".to_owned(),
            Verdict::InPart(..) => "run the rest of it by hand, and then: lockstep up".to_owned(),
            Verdict::Unknown(_) => {
                format!("look for its work; if it is not there: lockstep forget {version}")
            }
        }
    }
}

/// The texts that bun sends to run the migration.
pub fn sent_by_bun(migration: &Migration) -> Vec<String> {
    let parts = parts(&migration.text).into_iter();
    let text = |part: Range<usize>| migration.text[part].replace("\r\n", "\n");
    parts.map(|it| text(it).trim().to_owned()).collect()
}

fn parts(text: &str) -> Vec<Range<usize>> {
    let (mut parts, mut begin, mut at) = (Vec::new(), 0, 0);
    for line in text.split_inclusive('\n') {
        if line.trim_end() == "--bun:split" {
            parts.push(begin..at);
            begin = at + line.len();
        }
        at += line.len();
    }
    parts.push(begin..text.len());
    parts
}

/// A migration that is to be tried, in parts; none is empty.
pub struct Trial<'a> {
    migration: &'a Migration,
    parts: Vec<Vec<&'a Statement>>,
}

const CURSOR: &str = "lockstep_doubt";

/// What the trial's last statement returns of each part.
pub const COLUMNS: [&str; 4] = ["code", "words", "place", "again"];

impl<'a> Trial<'a> {
    /// In the parts that bun makes transactions of. None if the file is not to be tried.
    pub fn by_part(migration: &'a Migration) -> Option<Trial<'a>> {
        let whole = 0..migration.text.len();
        let parts = if migration.file_name().ends_with(".tx.up.sql") {
            vec![whole]
        } else {
            parts(&migration.text)
        };
        let of = |part: Range<usize>| {
            let all = migration.script.statements.iter();
            all.filter(|it| part.contains(&it.range().start)).collect()
        };
        Trial::of(migration, parts.into_iter().map(of).collect())
    }

    /// Statement by statement. None if the file is not to be tried.
    pub fn by_statement(migration: &'a Migration) -> Option<Trial<'a>> {
        Trial::of(migration, migration.script.statements.iter().map(|it| vec![it]).collect())
    }

    fn of(migration: &'a Migration, mut parts: Vec<Vec<&'a Statement>>) -> Option<Trial<'a>> {
        parts.retain(|it| !it.is_empty());
        let is_fit = !parts.is_empty() && migration.text.len() <= LONGEST;
        is_fit.then_some(Trial { migration, parts })
    }

    /// The statements that try it, in a transaction that is rolled back; the last returns what is judged.
    pub fn statements(&self) -> [String; 2] {
        let parts = (1..).zip(&self.parts);
        let blocks = parts.map(|(number, it)| try_part(self.migration, number, it));
        let blocks: String = blocks.collect();
        // Once the timeout has passed there is no other, so that part is the last.
        let block = format!(
            include_str!("doubt/trial.sql"),
            cursor = CURSOR,
            blocks = blocks,
            count = self.parts.len(),
            columns = COLUMNS.join(", "),
        );
        [
            format!("DO LANGUAGE plpgsql {}", escape_literal(&block)),
            format!("FETCH ALL FROM {CURSOR}"),
        ]
    }

    /// Judges the [`COLUMNS`] of each part.
    pub fn verdict<'b>(&self, answers: impl Iterator<Item = [&'b str; 4]>) -> Verdict {
        judge(&self.read(answers), self.parts.len())
    }

    /// Whether no part would run now that tells anything, and the first is known to have run.
    pub fn is_there<'b>(&self, answers: impl Iterator<Item = [&'b str; 4]>) -> bool {
        let parts = self.read(answers);
        let is_there = |it: &Part| matches!(it, Part::Done(_) | Part::Blind);
        matches!(parts.first(), Some(Part::Done(_))) && parts.iter().all(is_there)
    }

    fn read<'b>(&self, answers: impl Iterator<Item = [&'b str; 4]>) -> Vec<Part> {
        let read = |(part, [code, words, place, again]): (&Vec<&Statement>, [&str; 4])| {
            let number = place.parse::<usize>().ok().and_then(|it| it.checked_sub(1));
            let failed = number.and_then(|it| part.get(it));
            let text = |it: &&Statement| sql::verb(&self.migration.text[it.range()]);
            of_part(code, words, &failed.map_or(String::new(), text), again)
        };
        self.parts.iter().zip(answers).map(read).collect()
    }
}

fn try_part(migration: &Migration, number: usize, statements: &[&Statement]) -> String {
    let text = |it: &&Statement| escape_literal(&stand_in(migration, it));
    let texts: Vec<String> = statements.iter().map(text).collect();
    format!(
        include_str!("doubt/part.sql"),
        texts = texts.join(", "),
        number = number,
        count = texts.len(),
        canceled = sqlstate::QUERY_CANCELED,
    )
}

/// What is tried in a statement's stead: itself, or, of what cannot run in a transaction, what does not take its time and
/// fails where that would.
fn stand_in(migration: &Migration, statement: &Statement) -> String {
    let text = &migration.text[statement.range()];
    let Kind::Outside(outside) = &statement.kind else {
        return text.to_owned();
    };
    match &**outside {
        // Whatever has the index's name is in its way.
        Outside::CreateIndex { index, table, .. } => format!(
            "DO LANGUAGE plpgsql {}",
            escape_literal(&format!(
                include_str!("doubt/index.sql"),
                table = literal(table),
                name = literal(index),
                invalid = sqlstate::INVALID_INDEX,
            ))
        ),
        Outside::DropIndex { indexes, .. } => format!("DROP INDEX {}", indexes.join(", ")),
        Outside::DetachPartition { table, partition } => {
            format!("ALTER TABLE {table} DETACH PARTITION {partition}")
        }
        Outside::ReindexConcurrently { .. } | Outside::Other => {
            "DO LANGUAGE plpgsql 'BEGIN END'".to_owned()
        }
    }
}

/// What the trial of one part says.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    New,
    Done(String),
    Invalid(String),
    /// It would run whether it ran or not.
    Blind,
    Odd(String),
}

fn of_part(code: &str, words: &str, verb: &str, again: &str) -> Part {
    const THERE: [&str; 6] = [
        sqlstate::DUPLICATE_TABLE,
        sqlstate::DUPLICATE_COLUMN,
        sqlstate::DUPLICATE_OBJECT,
        // A schema, a function, a row.
        "42P06",
        "42723",
        "23505",
    ];
    const GONE: [&str; 5] = ["42P01", "42703", "42704", "3F000", "42883"];
    let removes = verb.starts_with("DROP") || verb.starts_with("ALTER");
    let is_done = |code: &str| THERE.contains(&code) || GONE.contains(&code);
    match code {
        "" | sqlstate::QUERY_CANCELED if is_done(again) => Part::New,
        "" => Part::Blind,
        sqlstate::QUERY_CANCELED => Part::Odd("the trial takes too long".to_owned()),
        sqlstate::INVALID_INDEX => Part::Invalid(words.to_owned()),
        code if THERE.contains(&code) || removes && GONE.contains(&code) => {
            Part::Done(words.to_owned())
        }
        _ => Part::Odd(words.to_owned()),
    }
}

fn judge(parts: &[Part], of: usize) -> Verdict {
    let mut done = None;
    for (number, part) in parts.iter().enumerate() {
        match part {
            Part::Invalid(words) => return Verdict::Unfinished(words.clone()),
            Part::Odd(words) => return Verdict::Unknown(words.clone()),
            Part::Done(words) if number + 1 == of => return Verdict::Ran(words.clone()),
            Part::Done(_) => done = Some(number + 1),
            Part::New if number == 0 => return Verdict::NeverRan,
            Part::New if done == Some(number) => return Verdict::InPart(number, of),
            Part::New | Part::Blind => {}
        }
    }
    Verdict::Unknown("it would run whether it ran before or not".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each letter is a part: New, Done, Blind, Invalid, Odd.
    #[test]
    fn parts_are_judged_together() {
        use Verdict::{InPart, NeverRan, Ran, Unfinished, Unknown};
        let words = || "w".to_owned();
        let blind = || Unknown("it would run whether it ran before or not".to_owned());
        for (letters, verdict) in [
            ("N", NeverRan),
            ("NN", NeverRan),
            ("D", Ran(words())),
            ("BD", Ran(words())),
            ("DN", InPart(1, 2)),
            ("DDN", InPart(2, 3)),
            ("B", blind()),
            ("DB", blind()),
            ("BN", blind()),
            ("DBN", blind()),
            ("I", Unfinished(words())),
            ("DI", Unfinished(words())),
            ("O", Unknown(words())),
            ("DO", Unknown(words())),
        ] {
            let parts: Vec<Part> = letters
                .chars()
                .map(|letter| match letter {
                    'N' => Part::New,
                    'D' => Part::Done(words()),
                    'I' => Part::Invalid(words()),
                    'O' => Part::Odd(words()),
                    _ => Part::Blind,
                })
                .collect();
            assert_eq!(judge(&parts, parts.len()), verdict, "{letters}");
        }
    }

    #[test]
    fn bun_sends_what_stands_between_its_lines() {
        let texts = |text: &str| -> Vec<String> {
            parts(text).into_iter().map(|it| text[it].to_owned()).collect()
        };
        assert_eq!(texts("a\n--bun:split\nb\r\n--bun:split\r\nc"), ["a\n", "b\r\n", "c"]);
        assert_eq!(texts("a -- --bun:split\n"), ["a -- --bun:split\n"]);
        assert_eq!(texts(""), [""]);
    }

    #[test]
    fn what_is_gone_was_done_only_by_what_removes() {
        assert_eq!(of_part("42P01", "w", "DROP TABLE", ""), Part::Done("w".to_owned()));
        assert_eq!(of_part("42P01", "w", "INSERT", ""), Part::Odd("w".to_owned()));
        assert_eq!(of_part("57014", "w", "SELECT", "42P07"), Part::New);
    }
}
