//! SQL text → tokens, statements, their kinds; and the checksum of a file.
//!
//! The server splits a message into statements itself. Lockstep has to know them too: for the log,
//! for a checksum that survives reformatting, to run alone what cannot run in a transaction, and to
//! refuse what would end the transaction under our feet. So this file reads SQL as PostgreSQL reads
//! it (the manual's chapter 4.1 "Lexical Structure", the server's `scan.l`) and splits it where
//! psql splits it (`psqlscan.l`), and knows of the grammar no more than the first words of some
//! commands. Where psql is wrong it sides with the server: psql forgets at a line's end that a literal
//! was `E'…'`, and counts every `BEGIN`, `CASE` and `END` of a function. `tests/it/files/lexer.rs` compares it
//! with both.
//!
//! It is pure, takes any text without failing (what is wrong with a statement the server says
//! better), needs linear time and no recursion, and keeps of a file only what its caller needs
//! later. It must not guess: a word counts only where the server would take it for the keyword.
//!
//! `standard_conforming_strings` is taken to be on, PostgreSQL's default since 9.1.

#[path = "sql/place.rs"]
pub mod place;
#[path = "sql/sqlstate.rs"]
pub mod sqlstate;

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use sha2::{Digest, Sha256};

/// What a name is cut to: the server's `NAMEDATALEN`, less C's zero byte.
const NAME_BYTES: usize = 63;

/// How much of a psql command's word is kept for the message; psql's own commands have up to 18
/// letters.
const PSQL_WORD_BYTES: usize = 40;

/// How many parentheses around an expression are looked into for its name: more than anybody
/// writes, and each is a pass over the expression.
const EXPRESSION_DEPTH: usize = 16;

/// Reads a migration file.
///
/// Offsets of statements are 32 bits wide: the server takes no message above 1 GiB, so a longer
/// text is no migration.
pub fn parse(text: &str) -> Script {
    Splitter::new(text).run()
}

/// A migration file's text, understood.
#[derive(Debug)]
pub struct Script {
    /// In order; what is empty (`;;`, only comments) is no statement.
    pub statements: Vec<Statement>,
    /// What cannot be run from a file, in order of position.
    pub obstacles: Vec<Obstacle>,
    /// The `\restrict` and `\unrestrict` lines of a pg_dump, as byte ranges without the line break.
    /// psql obeys them, the server would not understand them: they must be blanked before sending.
    pub psql_lines: Vec<Range<usize>>,
    /// Of all the statements.
    pub checksum: Checksum,
}

/// What a file does, as a number: equal for two texts that differ only in what does not matter.
///
/// This definition is frozen; journals hold checksums made by it. SHA-256 over, for every statement
/// in order, each of its tokens and after each a zero byte, then `;` and a zero byte, whether or
/// not the text has that semicolon. Tokens are PostgreSQL's, written as in the text, except that
///
/// - ASCII letters outside quotes are lower-cased: words, numbers, the `E` of `E'…'`, the `U` of
///   `U&"…"`;
/// - CR LF inside quotes (single, double, dollar) counts as LF;
/// - what stands between the parts of a continued literal (`'a'`, line break, `'b'`) counts as one
///   LF;
/// - a literal and its prefix are one token (to the server `N'…'` is two), and so are a number and
///   the letters right behind it, which the server mostly refuses.
///
/// White space, comments, a leading byte-order mark, empty statements, psql's commands and the data
/// after `COPY … FROM STDIN` do not count. A semicolon in parentheses or in a `BEGIN ATOMIC` body
/// is a token like any other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Checksum(pub [u8; 32]);

impl Checksum {
    /// Reads what `Display` writes: 64 hexadecimal digits.
    pub fn parse_hex(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(Checksum(bytes))
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// One statement: where it stands, and its kind.
#[derive(Debug, PartialEq, Eq)]
pub struct Statement {
    /// Byte offset of the first token.
    pub start: u32,
    /// Byte offset of its semicolon; if the text ends without one, of the end of its last token.
    pub end: u32,
    /// How it can be run.
    pub kind: Kind,
}

impl Statement {
    /// The bytes of the text that are this statement.
    pub fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// How a statement can be run: what the server's `PreventInTransactionBlock` guards, PostgreSQL 15
/// to 18.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// In a transaction.
    Plain,
    /// The server refuses it in a transaction block.
    Outside(Box<Outside>),
    /// The server refuses it in a transaction block if what it names is of a certain kind, which
    /// the text does not tell: `REINDEX TABLE`, `REINDEX INDEX` and `CLUSTER` of something
    /// partitioned, `DROP SUBSCRIPTION` of one with a slot.
    MaybeOutside,
}

/// A statement that runs alone, with what is needed to see in the catalog whether it ran. Tables,
/// and indexes in lists, are written as in the text, without comments and white space, as
/// `to_regclass` takes them.
#[derive(Debug, PartialEq, Eq)]
pub enum Outside {
    /// `CREATE INDEX CONCURRENTLY` with a name; one without is `Other`, and an obstacle.
    CreateIndex {
        /// `UNIQUE` is written.
        unique: bool,
        /// `IF NOT EXISTS` is written.
        if_not_exists: bool,
        /// The name as the server stores it: folded or unquoted, and cut.
        index: String,
        /// The table as written.
        table: String,
    },
    /// `DROP INDEX CONCURRENTLY`.
    DropIndex {
        /// `IF EXISTS` is written.
        if_exists: bool,
        /// As written; the server takes one only, and says so.
        indexes: Vec<String>,
    },
    /// `REINDEX … CONCURRENTLY`, in either spelling.
    ReindexConcurrently {
        /// What kind of thing is rebuilt.
        target: ReindexTarget,
        /// Its name as written; `SYSTEM` and `DATABASE` need none.
        name: Option<String>,
    },
    /// `ALTER TABLE … DETACH PARTITION … CONCURRENTLY`.
    DetachPartition {
        /// The partitioned table as written.
        table: String,
        /// The partition as written.
        partition: String,
    },
    /// `VACUUM`, `CREATE DATABASE`, `ALTER SYSTEM` and the others.
    Other,
}

/// What a `REINDEX` is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReindexTarget {
    /// One index.
    Index,
    /// One table's indexes.
    Table,
    /// One schema's.
    Schema,
    /// The database's.
    Database,
    /// The catalogs'.
    System,
}

/// Something that cannot be run from a migration file.
#[derive(Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// Byte offset of the statement, or of the backslash.
    pub offset: usize,
    /// What it is.
    pub kind: ObstacleKind,
}

/// Why something cannot be run from a migration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObstacleKind {
    /// It would begin or end a transaction in the midst of ours: `COMMIT`, `START TRANSACTION`,
    /// `PREPARE TRANSACTION`, …
    TransactionControl(&'static str),
    /// The data would have to come after it, as psql and nobody else does.
    CopyFromStdin,
    /// There is nobody to take the data.
    CopyToStdout,
    /// A command of psql, by its word as written: `\d`, `\connect`. The rest of its line is taken
    /// for its arguments.
    PsqlCommand(String),
    /// If the build is cut short, its leftover could not be found again.
    UnnamedConcurrentIndex {
        /// The name that the server would choose, as far as the text tells, ready to paste: quoted
        /// where it must be.
        proposal: String,
    },
    /// It must run alone, and the file holds other statements.
    SharedFile {
        /// What [`verb`] says of the statement.
        command: String,
    },
}

/// The statement's command for logs and messages, in upper case: `INSERT`, `CREATE TABLE`, `DROP
/// INDEX CONCURRENTLY`; `SQL` if it does not begin with a word.
pub fn verb(statement: &str) -> String {
    let mut cursor = Cursor::new(statement);
    if cursor.symbol("(") {
        return "SELECT".to_owned();
    }
    if let Some(phrase) = cursor.first_of(&COMMAND_PHRASES) {
        return phrase.to_owned();
    }
    match cursor.upper_word() {
        Some(first) if first == "REINDEX" => {
            let concurrently = reindex(cursor).is_some_and(|reindex| reindex.concurrently);
            if concurrently {
                "REINDEX CONCURRENTLY".to_owned()
            } else {
                first
            }
        }
        Some(first) if ["CREATE", "ALTER", "DROP"].contains(&first.as_str()) => {
            object_verb(&first, cursor)
        }
        Some(first) => first,
        None => "SQL".to_owned(),
    }
}

/// Commands of several words, apart from those that `CREATE`, `ALTER` or `DROP` something.
const COMMAND_PHRASES: [&str; 13] = [
    "START TRANSACTION",
    "PREPARE TRANSACTION",
    "COMMIT PREPARED",
    "ROLLBACK PREPARED",
    "REFRESH MATERIALIZED VIEW",
    "IMPORT FOREIGN SCHEMA",
    "REASSIGN OWNED",
    "SECURITY LABEL",
    "SET CONSTRAINTS",
    "DISCARD ALL",
    "DISCARD PLANS",
    "DISCARD SEQUENCES",
    "DROP OWNED",
];

/// Objects of several words.
const OBJECT_PHRASES: [&str; 15] = [
    "MATERIALIZED VIEW",
    "FOREIGN TABLE",
    "FOREIGN DATA WRAPPER",
    "EVENT TRIGGER",
    "ACCESS METHOD",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "TEXT SEARCH CONFIGURATION",
    "TEXT SEARCH DICTIONARY",
    "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE",
    "USER MAPPING",
    "DEFAULT PRIVILEGES",
    "LARGE OBJECT",
    "INDEX CONCURRENTLY",
];

/// What may stand between `CREATE` and the object, and is no part of the command's name.
const CREATE_MODIFIERS: [&str; 12] = [
    "OR REPLACE",
    "GLOBAL",
    "LOCAL",
    "TEMPORARY",
    "TEMP",
    "UNLOGGED",
    "UNIQUE",
    "RECURSIVE",
    "TRUSTED",
    "PROCEDURAL",
    "CONSTRAINT",
    "DEFAULT",
];

fn object_verb(first: &str, mut cursor: Cursor<'_>) -> String {
    if first == "ALTER" && concurrent_detach(cursor.clone()).is_some() {
        return "DETACH PARTITION CONCURRENTLY".to_owned();
    }
    while first == "CREATE" && cursor.first_of(&CREATE_MODIFIERS).is_some() {}
    match cursor.first_of(&OBJECT_PHRASES) {
        Some(phrase) => format!("{first} {phrase}"),
        None => cursor
            .upper_word()
            .map_or(first.to_owned(), |object| format!("{first} {object}")),
    }
}

/// Every word and quoted identifier of the statement as the server would store it, each once, in
/// order: among them are the names of all the tables that the statement names.
pub fn identifiers(statement: &str) -> Vec<String> {
    let mut cursor = Cursor::new(statement);
    let mut known = HashSet::new();
    let mut names = Vec::new();
    while cursor.token.is_some() {
        match cursor.name() {
            Some(name) if known.insert(name.clone()) => names.push(name),
            Some(_) => {}
            None => cursor.advance(),
        }
    }
    names
}

/// The statement without its comments, except between the parts of one string.
pub fn without_comments(statement: &str) -> String {
    let mut bare = String::new();
    let mut end = 0;
    for token in Lexer::new(statement, 0) {
        let gap = &statement[end..token.start];
        if !gap.is_empty() {
            bare.push(' ');
        }
        bare.push_str(token.text);
        end = token.start + token.text.len();
    }
    bare
}

/// The statement's tokens, the first `limit` of them.
pub fn tokens(statement: &str, limit: usize) -> Vec<Token<'_>> {
    Lexer::new(statement, 0)
        .filter(|token| token.kind != TokenKind::Backslash)
        .take(limit)
        .collect()
}

// ---- Splitting: tokens → statements, and the checksum on the way ----

/// Walks the text once. Each statement, when it ends, is looked at by [`kind_of`] and
/// [`obstacle_in`], which read as many of its tokens again as they need.
struct Splitter<'a> {
    text: &'a str,
    /// Where the text begins: behind its byte-order mark.
    begin: usize,
    lexer: Lexer<'a>,
    hasher: Sha256,
    open: Option<OpenStatement>,
    /// No line `\.` follows; remembered, or a file of nothing but COPY statements would be searched
    /// over and over.
    no_more_copy_data: bool,
    script: Script,
}

impl<'a> Splitter<'a> {
    fn new(text: &'a str) -> Self {
        let begin = if text.starts_with('\u{feff}') {
            '\u{feff}'.len_utf8()
        } else {
            0
        };
        Splitter {
            text,
            begin,
            lexer: Lexer::new(text, begin),
            hasher: Sha256::new(),
            open: None,
            no_more_copy_data: false,
            script: Script {
                statements: Vec::new(),
                obstacles: Vec::new(),
                psql_lines: Vec::new(),
                checksum: Checksum([0; 32]),
            },
        }
    }

    fn run(mut self) -> Script {
        while let Some(token) = self.lexer.next() {
            if token.kind == TokenKind::Backslash {
                self.psql_line(&token);
            } else if token.is_symbol(";")
                && self
                    .open
                    .as_ref()
                    .is_none_or(OpenStatement::ends_at_semicolon)
            {
                self.end_statement(token.start);
            } else {
                self.open
                    .get_or_insert_with(|| OpenStatement::new(token.start))
                    .take(&token);
                hash_token(&mut self.hasher, &token);
            }
        }
        let end = self.open.as_ref().map_or(0, |open| open.end);
        self.end_statement(end);
        self.refuse_company();
        let mut script = self.script;
        // A psql command within a statement comes before it here, since the statement is judged at
        // its end.
        script.obstacles.sort_by_key(|obstacle| obstacle.offset);
        script.statements.shrink_to_fit();
        script.checksum = Checksum(self.hasher.finalize().into());
        script
    }

    fn end_statement(&mut self, end: usize) {
        let Some(open) = self.open.take() else { return };
        self.hasher.update(b";\0");
        let statement = &self.text[open.start..end];
        let obstacle = obstacle_in(statement);
        if obstacle == Some(ObstacleKind::CopyFromStdin) {
            self.skip_copy_data();
        }
        self.script.obstacles.extend(obstacle.map(|kind| Obstacle {
            offset: open.start,
            kind,
        }));
        self.script.statements.push(Statement {
            start: offset(open.start),
            end: offset(end),
            kind: kind_of(statement),
        });
    }

    /// What follows `COPY … FROM STDIN;` up to a line `\.` is no SQL. One complaint about the
    /// statement is worth more than fifty about its data.
    fn skip_copy_data(&mut self) {
        if self.no_more_copy_data {
            return;
        }
        let rest = &self.text[self.lexer.at..];
        let end = rest
            .match_indices("\\.")
            .map(|(at, mark)| (at, at + mark.len()))
            .find(|&(start, end)| {
                let after = &rest[end..];
                rest[..start].ends_with('\n')
                    && (after.is_empty() || after.starts_with('\n') || after.starts_with("\r\n"))
            });
        match end {
            Some((_, end)) => self.lexer.at += end,
            None => self.no_more_copy_data = true,
        }
    }

    fn psql_line(&mut self, token: &Token<'_>) {
        let before = &self.text[self.begin..token.start];
        let line = before.rsplit(['\n', '\r']).next().unwrap_or(before);
        let first_on_its_line = line.bytes().all(is_space);
        let command = token.text[1..]
            .split([' ', '\t', '\x0b', '\x0c', '\\'])
            .next()
            .unwrap_or_default();
        if first_on_its_line && (command == "restrict" || command == "unrestrict") {
            self.script.psql_lines.push(token.start..token.end());
        } else {
            let kind = ObstacleKind::PsqlCommand(format!("\\{}", clip(command, PSQL_WORD_BYTES)));
            self.script.obstacles.push(Obstacle {
                offset: token.start,
                kind,
            });
        }
    }

    fn refuse_company(&mut self) {
        if self.script.statements.len() < 2 {
            return;
        }
        let alone = self
            .script
            .statements
            .iter()
            .filter(|statement| matches!(statement.kind, Kind::Outside(_)));
        self.script
            .obstacles
            .extend(alone.map(|statement| Obstacle {
                offset: statement.start as usize,
                kind: ObstacleKind::SharedFile {
                    command: verb(&self.text[statement.range()]),
                },
            }));
    }
}

fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// A statement whose end is not yet seen. Its semicolon is the first one outside parentheses and
/// outside the `BEGIN ATOMIC … END` body that only functions and procedures have.
struct OpenStatement {
    start: usize,
    /// The end of its last token so far.
    end: usize,
    parens: usize,
    opening: Opening,
    bodies: usize,
    previous: Previous,
}

/// How far the statement has matched `CREATE [OR REPLACE] FUNCTION|PROCEDURE`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opening {
    Nothing,
    Create,
    CreateOr,
    CreateOrReplace,
    Routine,
    SomethingElse,
}

/// The token before this one, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Previous {
    Begin,
    /// `ATOMIC`, or a semicolon: a body's `END` comes directly after one of them and nowhere else.
    /// The `END` of a `CASE` never does, nor does a column called so, which is why neither has to
    /// be counted.
    BodyBreak,
    Other,
}

impl OpenStatement {
    fn new(start: usize) -> Self {
        let (opening, previous) = (Opening::Nothing, Previous::Other);
        OpenStatement {
            start,
            end: start,
            parens: 0,
            opening,
            bodies: 0,
            previous,
        }
    }

    fn ends_at_semicolon(&self) -> bool {
        self.parens == 0 && self.bodies == 0
    }

    fn take(&mut self, token: &Token<'_>) {
        self.end = token.end();
        if token.is_symbol("(") {
            self.parens += 1;
        } else if token.is_symbol(")") {
            self.parens = self.parens.saturating_sub(1);
        }
        self.opening = match self.opening {
            Opening::Nothing if token.is_word("create") => Opening::Create,
            Opening::Create if token.is_word("or") => Opening::CreateOr,
            Opening::CreateOr if token.is_word("replace") => Opening::CreateOrReplace,
            Opening::Create | Opening::CreateOrReplace if token.is_word("function") => {
                Opening::Routine
            }
            Opening::Create | Opening::CreateOrReplace if token.is_word("procedure") => {
                Opening::Routine
            }
            Opening::Routine => Opening::Routine,
            _ => Opening::SomethingElse,
        };
        if self.opening == Opening::Routine && self.parens == 0 {
            self.follow_body(token);
        }
    }

    fn follow_body(&mut self, token: &Token<'_>) {
        let was = self.previous;
        self.previous = Previous::Other;
        if token.is_word("begin") {
            self.previous = Previous::Begin;
        } else if token.is_word("atomic") && was == Previous::Begin {
            self.bodies += 1;
            self.previous = Previous::BodyBreak;
        } else if token.is_symbol(";") {
            self.previous = Previous::BodyBreak;
        } else if token.is_word("end") && was == Previous::BodyBreak {
            self.bodies = self.bodies.saturating_sub(1);
        }
    }
}

/// Adds a token to the checksum as [`Checksum`] defines it.
fn hash_token(hasher: &mut Sha256, token: &Token<'_>) {
    match token.kind {
        TokenKind::Word | TokenKind::Number | TokenKind::Symbol => hash_folded(hasher, token.text),
        TokenKind::Dollar => hash_quoted(hasher, token.text),
        TokenKind::QuotedName => {
            let (prefix, quoted) = token.text.split_at(token.text.find('"').unwrap_or(0));
            hash_folded(hasher, prefix);
            hash_quoted(hasher, quoted);
        }
        TokenKind::Literal => {
            let (prefix, quoted) = token.text.split_at(token.text.find('\'').unwrap_or(0));
            hash_folded(hasher, prefix);
            hash_literal(hasher, quoted, Quoting::of(prefix));
        }
        TokenKind::Backslash => return,
    }
    hasher.update(b"\0");
}

fn hash_literal(hasher: &mut Sha256, literal: &str, quoting: Quoting) {
    let mut part = 0;
    loop {
        let end = part_end(literal.as_bytes(), part, quoting);
        hash_quoted(hasher, &literal[part..end]);
        match continuation(literal.as_bytes(), end) {
            Some(next) => part = next,
            None => return,
        }
        hasher.update(b"\n");
    }
}

fn hash_folded(hasher: &mut Sha256, text: &str) {
    for piece in text.as_bytes().chunks(64) {
        let mut folded = [0; 64];
        let folded = &mut folded[..piece.len()];
        folded.copy_from_slice(piece);
        folded.make_ascii_lowercase();
        hasher.update(folded);
    }
}

fn hash_quoted(hasher: &mut Sha256, text: &str) {
    for (index, piece) in text.split("\r\n").enumerate() {
        if index > 0 {
            hasher.update(b"\n");
        }
        hasher.update(piece);
    }
}

// ---- Judging: what kind of statement is it? ----

/// Each arm names what in the server's `tcop/utility.c`, or in the command's own file, calls
/// `PreventInTransactionBlock`.
fn kind_of(statement: &str) -> Kind {
    let mut cursor = Cursor::new(statement);
    match cursor.lower_word().as_str() {
        "create" => create_kind(cursor),
        "drop" => drop_kind(cursor),
        "alter" => alter_kind(cursor),
        "reindex" => reindex_kind(cursor),
        "cluster" => {
            let _ = cursor.skip_group() || cursor.takes("verbose");
            if cursor.token.is_none() {
                outside(Outside::Other)
            } else {
                Kind::MaybeOutside
            }
        }
        "vacuum" => outside(Outside::Other),
        "discard" if cursor.takes("all") => outside(Outside::Other),
        "commit" | "rollback" if cursor.takes("prepared") => outside(Outside::Other),
        _ => Kind::Plain,
    }
}

fn outside(what: Outside) -> Kind {
    Kind::Outside(Box::new(what))
}

fn create_kind(mut cursor: Cursor<'_>) -> Kind {
    if cursor.takes("database") || cursor.takes("tablespace") {
        return outside(Outside::Other);
    }
    if cursor.takes("subscription") {
        // Only creating the slot, on the other server, could not be undone.
        let without_slot = cursor.seek("with") && {
            let options = cursor.options();
            options.is_off("create_slot") || options.is_off("connect")
        };
        return if without_slot {
            Kind::Plain
        } else {
            outside(Outside::Other)
        };
    }
    let unique = cursor.takes("unique");
    if !cursor.takes("index concurrently") {
        return Kind::Plain;
    }
    match IndexHeader::read(&mut cursor) {
        Some(IndexHeader {
            if_not_exists,
            index: Some(index),
            table,
        }) => outside(Outside::CreateIndex {
            unique,
            if_not_exists,
            index,
            table,
        }),
        _ => outside(Outside::Other),
    }
}

fn drop_kind(mut cursor: Cursor<'_>) -> Kind {
    if cursor.takes("database") || cursor.takes("tablespace") {
        return outside(Outside::Other);
    }
    if cursor.takes("subscription") {
        return Kind::MaybeOutside;
    }
    if !cursor.takes("index concurrently") {
        return Kind::Plain;
    }
    let if_exists = cursor.takes("if exists");
    let mut indexes: Vec<String> = cursor.qualified_name().into_iter().collect();
    while cursor.symbol(",") {
        indexes.extend(cursor.qualified_name());
    }
    outside(Outside::DropIndex { if_exists, indexes })
}

fn alter_kind(mut cursor: Cursor<'_>) -> Kind {
    if cursor.takes("system") {
        return outside(Outside::Other);
    }
    if cursor.takes("database") {
        let _name = cursor.name();
        let moves = if cursor.takes("set") {
            cursor.takes("tablespace")
        } else {
            // An option's name, which may be quoted.
            let _ = cursor.takes("with");
            cursor.name().as_deref() == Some("tablespace")
        };
        return if moves {
            outside(Outside::Other)
        } else {
            Kind::Plain
        };
    }
    if cursor.takes("subscription") {
        return alter_subscription_kind(cursor);
    }
    concurrent_detach(cursor).map_or(Kind::Plain, outside)
}

/// As the manual's page on ALTER SUBSCRIPTION lists them; `failover` is of PostgreSQL 17,
/// `two_phase` of 18.
fn alter_subscription_kind(mut cursor: Cursor<'_>) -> Kind {
    let _name = cursor.name();
    let refuses = if cursor.takes("refresh") {
        true
    } else if cursor.takes("set publication")
        || cursor.takes("add publication")
        || cursor.takes("drop publication")
    {
        !(cursor.seek("with") && cursor.options().is_off("refresh"))
    } else if cursor.takes("set") {
        let options = cursor.options();
        options.has("failover") || options.is_off("two_phase")
    } else {
        false
    };
    if refuses {
        outside(Outside::Other)
    } else {
        Kind::Plain
    }
}

/// `TABLE t DETACH PARTITION p CONCURRENTLY`, after `ALTER`.
fn concurrent_detach(mut cursor: Cursor<'_>) -> Option<Outside> {
    if !cursor.takes("table") {
        return None;
    }
    let _ = cursor.takes("if exists");
    let table = cursor.relation()?;
    if !cursor.takes("detach partition") {
        return None;
    }
    let partition = cursor.qualified_name()?;
    cursor
        .takes("concurrently")
        .then_some(Outside::DetachPartition { table, partition })
}

fn reindex_kind(cursor: Cursor<'_>) -> Kind {
    match reindex(cursor) {
        Some(Reindex {
            target,
            concurrently: true,
            name,
        }) => outside(Outside::ReindexConcurrently { target, name }),
        Some(Reindex {
            target: ReindexTarget::Index | ReindexTarget::Table,
            ..
        }) => Kind::MaybeOutside,
        Some(_) => outside(Outside::Other),
        None => Kind::Plain,
    }
}

struct Reindex {
    target: ReindexTarget,
    concurrently: bool,
    name: Option<String>,
}

/// `[(options)] TABLE [CONCURRENTLY] t`, after `REINDEX`.
fn reindex(mut cursor: Cursor<'_>) -> Option<Reindex> {
    let option = cursor.options().is_on("concurrently");
    let target = [
        ("index", ReindexTarget::Index),
        ("table", ReindexTarget::Table),
        ("schema", ReindexTarget::Schema),
        ("database", ReindexTarget::Database),
        ("system", ReindexTarget::System),
    ]
    .into_iter()
    .find_map(|(word, target)| cursor.takes(word).then_some(target))?;
    let concurrently = cursor.takes("concurrently") || option;
    Some(Reindex {
        target,
        concurrently,
        name: cursor.qualified_name(),
    })
}

/// What stands between `CREATE INDEX CONCURRENTLY` and the columns.
struct IndexHeader {
    if_not_exists: bool,
    index: Option<String>,
    table: String,
}

impl IndexHeader {
    fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        let if_not_exists = cursor.takes("if not exists");
        let index = if cursor.takes("on") {
            None
        } else {
            let name = cursor.name()?;
            if !cursor.takes("on") {
                return None;
            }
            Some(name)
        };
        Some(IndexHeader {
            if_not_exists,
            index,
            table: cursor.relation()?,
        })
    }
}

/// Returns why the statement, whatever else the file holds, cannot be run from it.
fn obstacle_in(statement: &str) -> Option<ObstacleKind> {
    let mut cursor = Cursor::new(statement);
    let control = match cursor.lower_word().as_str() {
        "begin" => "BEGIN",
        "start" if cursor.takes("transaction") => "START TRANSACTION",
        "commit" if !cursor.takes("prepared") => "COMMIT",
        "end" => "END",
        "abort" => "ABORT",
        "rollback" if !cursor.takes("prepared") => {
            let _ = cursor.takes("work") || cursor.takes("transaction");
            if cursor.takes("to") {
                return None;
            }
            "ROLLBACK"
        }
        // PREPARE transaction AS … prepares a statement of that name.
        "prepare" if cursor.takes("transaction") && cursor.at_literal() => "PREPARE TRANSACTION",
        "copy" => return copy_obstacle(cursor),
        "create" => return unnamed_index(cursor),
        _ => return None,
    };
    Some(ObstacleKind::TransactionControl(control))
}

fn copy_obstacle(mut cursor: Cursor<'_>) -> Option<ObstacleKind> {
    let _ = cursor.takes("binary");
    if !cursor.skip_group() {
        cursor.qualified_name()?;
        cursor.skip_group();
    }
    let obstacle = if cursor.takes("from") {
        ObstacleKind::CopyFromStdin
    } else if cursor.takes("to") {
        ObstacleKind::CopyToStdout
    } else {
        return None;
    };
    // The server takes either word for either direction.
    (cursor.takes("stdin") || cursor.takes("stdout")).then_some(obstacle)
}

fn unnamed_index(mut cursor: Cursor<'_>) -> Option<ObstacleKind> {
    let _ = cursor.takes("unique");
    if !cursor.takes("index concurrently") {
        return None;
    }
    let header = IndexHeader::read(&mut cursor)?;
    if header.index.is_some() {
        return None;
    }
    if cursor.takes("using") {
        let _method = cursor.name();
    }
    let mut columns = element_names(&cursor.group());
    if cursor.takes("include") {
        columns.extend(element_names(&cursor.group()));
    }
    let name = index_name(&last_name(&header.table), &columns);
    let bare = !name.starts_with(|first: char| first.is_ascii_digit() || first == '$')
        && name
            .bytes()
            .all(|byte| is_word_byte(byte) && !byte.is_ascii_uppercase());
    let proposal = if bare { name } else { quote(&name) };
    Some(ObstacleKind::UnnamedConcurrentIndex { proposal })
}

// ---- The same index on another table ----

/// `CREATE INDEX CONCURRENTLY`, written anew with another name, for another table, and without `CONCURRENTLY` and `IF NOT
/// EXISTS`; the rest, from `USING` or the columns on, is to the letter. None of other statements. `name` and `table` are
/// written as they are to stand there.
pub fn index_on(statement: &str, name: &str, table: &str) -> Option<String> {
    let mut cursor = Cursor::new(statement);
    if !cursor.takes("create") {
        return None;
    }
    let unique = if cursor.takes("unique") {
        "UNIQUE "
    } else {
        ""
    };
    if !cursor.takes("index concurrently") {
        return None;
    }
    IndexHeader::read(&mut cursor)?;
    let rest = &statement[cursor.token?.start..];
    // It may end in a comment.
    Some(format!("CREATE {unique}INDEX {name} ON {table} {rest}\n"))
}

// ---- Enum values that are used where they are added ----

/// A value that a file adds to an enum and uses: the server refuses that in one transaction.
#[derive(Debug, PartialEq, Eq)]
pub struct EnumUse {
    /// The type as written.
    pub type_name: String,
    pub value: String,
    /// The statement that adds the value, counted from 0.
    pub added: usize,
    /// The first statement behind it that holds the value as a literal.
    pub used: usize,
}

/// The first enum value that the file adds and then seems to use. A literal may be something else than the enum's value,
/// so this is for a warning.
pub fn enum_use(text: &str, statements: &[Statement]) -> Option<EnumUse> {
    let texts: Vec<&str> = statements.iter().map(|it| &text[it.range()]).collect();
    texts.iter().enumerate().find_map(|(added, statement)| {
        let (type_name, value) = added_enum_value(statement)?;
        let uses = texts[added + 1..]
            .iter()
            .position(|other| uses_literal(other, &value))?;
        Some(EnumUse {
            type_name,
            value,
            added,
            used: added + 1 + uses,
        })
    })
}

/// The type, and the value that `ALTER TYPE … ADD VALUE` adds to it.
pub fn added_enum_value(statement: &str) -> Option<(String, String)> {
    let mut cursor = Cursor::new(statement);
    if !cursor.takes("alter type") {
        return None;
    }
    let type_name = cursor.qualified_name()?;
    if !cursor.takes("add value") {
        return None;
    }
    let _ = cursor.takes("if not exists");
    Some((type_name, literal_value(&cursor.token?)?))
}

/// Returns true if and only if the statement holds the value as a literal, or is a `DO` block that does. `ALTER TYPE`
/// may name it as a neighbour, and what is in a function's body does not run now.
fn uses_literal(statement: &str, value: &str) -> bool {
    let mut cursor = Cursor::new(statement);
    if cursor.takes("alter type") {
        return false;
    }
    let quoted = format!("'{}'", value.replace('\'', "''"));
    let is_block = cursor.at_word("do");
    let mut tokens = Lexer::new(statement, 0);
    tokens.any(|token| match token.kind {
        TokenKind::Dollar if is_block => token.text.contains(&quoted),
        _ => literal_value(&token).is_some_and(|it| it == value),
    })
}

/// What a plain literal says: `'it''s'`. One with escapes or in several parts is not looked into.
fn literal_value(token: &Token<'_>) -> Option<String> {
    if token.kind != TokenKind::Literal {
        return None;
    }
    let inner = token.text.strip_prefix('\'')?.strip_suffix('\'')?;
    Some(inner.replace("''", "'"))
}

// ---- The name that the server would give an index ----

/// `table_column1_column2_idx`, as `ChooseIndexName` and `makeObjectName` put it together in the
/// server's `commands/indexcmds.c`, when nothing else has that name.
fn index_name(table: &str, columns: &[String]) -> String {
    let mut addition = String::new();
    let mut names: Vec<String> = Vec::new();
    for column in columns {
        let name = unlike(column, &names);
        if !names.is_empty() {
            addition.push('_');
        }
        addition.push_str(&name);
        names.push(name);
        if addition.len() > NAME_BYTES {
            break;
        }
    }
    let room = NAME_BYTES - "__idx".len();
    let (mut table_bytes, mut addition_bytes) = (table.len(), addition.len());
    while table_bytes + addition_bytes > room {
        if table_bytes > addition_bytes {
            table_bytes -= 1;
        } else {
            addition_bytes -= 1;
        }
    }
    format!(
        "{}_{}_idx",
        clip(table, table_bytes),
        clip(&addition, addition_bytes)
    )
}

/// The second `expr` is `expr1`, and so on.
fn unlike(name: &str, taken: &[String]) -> String {
    let mut candidate = name.to_owned();
    let mut number = 0;
    while taken.contains(&candidate) {
        number += 1;
        let digits = number.to_string();
        candidate = format!("{}{digits}", clip(name, NAME_BYTES - digits.len()));
    }
    candidate
}

/// The names of an index's columns: the column's own, the function's, or `expr`.
fn element_names(tokens: &[Token<'_>]) -> Vec<String> {
    let mut depth = 0_usize;
    let elements = tokens.split(|token| {
        depth = depth_after(depth, token);
        depth == 0 && token.is_symbol(",")
    });
    elements
        .map(|element| match element.first() {
            Some(first) if first.is_symbol("(") => expression_name(inside_group(element).0),
            // What follows a column or a function is its collation, operator class and order.
            _ => name_at(element).map(|(name, _)| name),
        })
        .map(|name| name.unwrap_or_else(|| "expr".to_owned()))
        .collect()
}

/// As `FigureIndexColname`: a column or a function call gives its own name; else the outermost cast
/// gives its type's. Of expressions only these and parentheses are understood; that is enough for a
/// proposal.
fn expression_name(mut tokens: &[Token<'_>]) -> Option<String> {
    let mut cast = None;
    for _ in 0..EXPRESSION_DEPTH {
        let (inner, name, mut rest) = match tokens.first()? {
            first if first.is_symbol("(") => {
                let (inner, rest) = inside_group(tokens);
                (inner, None, rest)
            }
            first if first.is_name() => {
                let (name, rest) = name_at(tokens)?;
                (&tokens[..0], Some(name), rest)
            }
            _ => (&tokens[..0], None, &tokens[1..]),
        };
        let mut outer_cast = None;
        while rest.first().is_some_and(|token| token.is_symbol("::")) {
            let (type_name, after) = type_at(&rest[1..])?;
            outer_cast = Some(type_name);
            rest = after;
        }
        cast = cast.or(outer_cast);
        if !rest.is_empty() || (name.is_none() && inner.is_empty()) {
            return cast;
        }
        if name.is_some() {
            return name;
        }
        tokens = inner;
    }
    cast
}

/// A column or a function call at the beginning, by its last name, and what follows it.
fn name_at<'t, 'a>(mut tokens: &'t [Token<'a>]) -> Option<(String, &'t [Token<'a>])> {
    let mut name = tokens.first().filter(|token| token.is_name())?;
    tokens = &tokens[1..];
    while let [dot, next, ..] = tokens
        && dot.is_symbol(".")
        && next.is_name()
    {
        name = next;
        tokens = &tokens[2..];
    }
    let stored = stored_name(name.text, '\\');
    if !tokens.first().is_some_and(|token| token.is_symbol("(")) {
        return Some((stored, tokens));
    }
    // TRIM(…) is the grammar's word for the function btrim.
    let stored = if name.is_word("trim") {
        "btrim".to_owned()
    } else {
        stored
    };
    Some((stored, inside_group(tokens).1))
}

/// A type's name at the beginning as the catalog has it, and what follows it.
fn type_at<'t, 'a>(tokens: &'t [Token<'a>]) -> Option<(String, &'t [Token<'a>])> {
    let (name, mut rest) = name_at(tokens)?;
    let first = tokens.first()?;
    let mut takes = |word: &str| {
        let found = rest.first().is_some_and(|token| token.is_word(word));
        if found {
            rest = &rest[1..];
        }
        found
    };
    let stored = match name.as_str() {
        _ if first.kind != TokenKind::Word => name,
        "int" | "integer" => "int4".to_owned(),
        "smallint" => "int2".to_owned(),
        "bigint" => "int8".to_owned(),
        "real" => "float4".to_owned(),
        "float" => "float8".to_owned(),
        "double" if takes("precision") => "float8".to_owned(),
        "decimal" | "dec" => "numeric".to_owned(),
        "boolean" => "bool".to_owned(),
        "char" | "character" if takes("varying") => "varchar".to_owned(),
        "char" | "character" => "bpchar".to_owned(),
        "time" | "timestamp" if takes("with") => format!("{name}tz"),
        _ => name,
    };
    while takes("time") || takes("zone") || takes("without") {}
    Some((stored, rest))
}

/// Splits at the parenthesis that closes the first one.
fn inside_group<'t, 'a>(tokens: &'t [Token<'a>]) -> (&'t [Token<'a>], &'t [Token<'a>]) {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate() {
        depth = depth_after(depth, token);
        if depth == 0 {
            return (
                tokens.get(1..index).unwrap_or_default(),
                &tokens[index + 1..],
            );
        }
    }
    (tokens.get(1..).unwrap_or_default(), &[])
}

fn depth_after(depth: usize, token: &Token<'_>) -> usize {
    if token.is_symbol("(") {
        depth + 1
    } else if token.is_symbol(")") {
        depth.saturating_sub(1)
    } else {
        depth
    }
}

fn last_name(qualified: &str) -> String {
    let mut cursor = Cursor::new(qualified);
    let mut last = cursor.name();
    while cursor.symbol(".") {
        last = cursor.name().or(last);
    }
    last.unwrap_or_default()
}

// ---- Reading a statement's first words ----

/// A place in a statement. Its methods take what they expect and go on, or take nothing and say so.
#[derive(Clone)]
struct Cursor<'a> {
    lexer: Lexer<'a>,
    token: Option<Token<'a>>,
}

impl<'a> Cursor<'a> {
    fn new(statement: &'a str) -> Self {
        let mut cursor = Cursor {
            lexer: Lexer::new(statement, 0),
            token: None,
        };
        cursor.advance();
        cursor
    }

    fn advance(&mut self) {
        self.token = self.lexer.find(|token| token.kind != TokenKind::Backslash);
    }

    fn at_word(&self, word: &str) -> bool {
        self.token.as_ref().is_some_and(|token| token.is_word(word))
    }

    fn at_symbol(&self, symbol: &str) -> bool {
        self.token
            .as_ref()
            .is_some_and(|token| token.is_symbol(symbol))
    }

    fn at_literal(&self) -> bool {
        let kind = self.token.as_ref().map(|token| token.kind);
        matches!(kind, Some(TokenKind::Literal | TokenKind::Dollar))
    }

    /// Takes these words, all of them or none.
    fn takes(&mut self, words: &str) -> bool {
        let before = self.clone();
        for word in words.split(' ') {
            if !self.at_word(word) {
                *self = before;
                return false;
            }
            self.advance();
        }
        true
    }

    /// Takes the first of these phrases that stands here.
    fn first_of<'p>(&mut self, phrases: &[&'p str]) -> Option<&'p str> {
        phrases.iter().copied().find(|phrase| self.takes(phrase))
    }

    fn symbol(&mut self, symbol: &str) -> bool {
        let found = self.at_symbol(symbol);
        if found {
            self.advance();
        }
        found
    }

    /// Takes a word, whatever it is, in upper case.
    fn upper_word(&mut self) -> Option<String> {
        let word = self
            .token
            .as_ref()
            .filter(|token| token.kind == TokenKind::Word)?;
        let word = clip(word.text, NAME_BYTES).to_ascii_uppercase();
        self.advance();
        Some(word)
    }

    /// Takes a word, whatever it is, in lower case; empty if there is none.
    fn lower_word(&mut self) -> String {
        self.upper_word().unwrap_or_default().to_ascii_lowercase()
    }

    /// Takes an identifier and returns it as the server would store it.
    fn name(&mut self) -> Option<String> {
        let token = self.token.clone().filter(Token::is_name)?;
        self.advance();
        let mut escape = '\\';
        if token.is_unicode_name() && self.takes("uescape") && self.at_literal() {
            let literal = self.token.as_ref().map_or("", |token| token.text);
            escape = literal.trim_matches('\'').chars().next().unwrap_or(escape);
            self.advance();
        }
        Some(stored_name(token.text, escape))
    }

    /// Takes `[schema.]name` and returns it as written, so that `to_regclass` takes it. It knows
    /// no `U&"…"`, which is therefore decoded.
    fn qualified_name(&mut self) -> Option<String> {
        let mut written = String::new();
        loop {
            let token = self.token.clone()?;
            let name = self.name()?;
            written.push_str(&if token.is_unicode_name() {
                quote(&name)
            } else {
                token.text.to_owned()
            });
            if !self.symbol(".") {
                return Some(written);
            }
            written.push('.');
        }
    }

    /// Takes a table as `ALTER TABLE` and `CREATE INDEX … ON` name it: `ONLY (t)`, `t *`.
    fn relation(&mut self) -> Option<String> {
        let in_parens = self.takes("only") && self.symbol("(");
        let name = self.qualified_name()?;
        let _ = if in_parens {
            self.symbol(")")
        } else {
            self.symbol("*")
        };
        Some(name)
    }

    /// Goes behind the next such word outside parentheses.
    fn seek(&mut self, word: &str) -> bool {
        while self.token.is_some() {
            if self.takes(word) {
                return true;
            }
            if !self.skip_group() {
                self.advance();
            }
        }
        false
    }

    fn skip_group(&mut self) -> bool {
        let mut depth = 0;
        let found = self.at_symbol("(");
        while let Some(token) = self.token.as_ref().filter(|_| found) {
            depth = depth_after(depth, token);
            self.advance();
            if depth == 0 {
                break;
            }
        }
        found
    }

    /// Takes what is in the parentheses that open here, if any.
    fn group(&mut self) -> Vec<Token<'a>> {
        let mut tokens = Vec::new();
        let mut behind = self.clone();
        if behind.skip_group() {
            let end = behind
                .token
                .as_ref()
                .map_or(usize::MAX, |token| token.start);
            self.advance();
            while let Some(token) = self.token.take().filter(|token| token.start < end) {
                tokens.push(token);
                self.advance();
            }
            tokens.pop_if(|token| token.is_symbol(")"));
            *self = behind;
        }
        tokens
    }

    /// Takes a list of options, `(name value, name = value, name)`, if there is one.
    fn options(&mut self) -> Options {
        let tokens = self.group();
        let mut options = Vec::new();
        for option in tokens.split(|token| token.is_symbol(",")) {
            let [name, value @ ..] = option else { continue };
            // As defGetBoolean in the server's commands/define.c.
            let off = value.last().is_some_and(|value| {
                let value = value.text.trim_matches(['\'', '"']);
                ["false", "off", "0"]
                    .iter()
                    .any(|off| off.eq_ignore_ascii_case(value))
            });
            options.push((stored_name(name.text, '\\'), !off));
        }
        Options(options)
    }
}

/// Options and whether each is on; of two with one name the last counts.
struct Options(Vec<(String, bool)>);

impl Options {
    fn value(&self, name: &str) -> Option<bool> {
        self.0
            .iter()
            .rev()
            .find(|(other, _)| other == name)
            .map(|&(_, on)| on)
    }

    fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    fn is_on(&self, name: &str) -> bool {
        self.value(name) == Some(true)
    }

    fn is_off(&self, name: &str) -> bool {
        self.value(name) == Some(false)
    }
}

/// An identifier as the server stores it: a word folded, a quoted one unquoted, either cut.
fn stored_name(written: &str, escape: char) -> String {
    let Some((prefix, quoted)) = written.split_once('"') else {
        return clip(written, NAME_BYTES).to_ascii_lowercase();
    };
    let unquoted = quoted
        .strip_suffix('"')
        .unwrap_or(quoted)
        .replace("\"\"", "\"");
    let decoded = if prefix.is_empty() {
        unquoted
    } else {
        decode_unicode(&unquoted, escape)
    };
    clip(&decoded, NAME_BYTES).to_owned()
}

/// What `U&"…"` means: `\0061` and `\+000061` are characters by number, `\\` is a backslash. What
/// is wrong stays as it is; the server refuses it.
fn decode_unicode(text: &str, escape: char) -> String {
    let mut decoded = String::new();
    let mut rest = text.chars();
    let mut high_surrogate: Option<u32> = None;
    while let Some(letter) = rest.next() {
        if letter != escape {
            decoded.push(letter);
            continue;
        }
        let after = rest.as_str();
        let (digits, width) = match after.strip_prefix('+') {
            Some(digits) => (digits.get(..6), 7),
            None => (after.get(..4), 4),
        };
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let Some(code) = code else {
            decoded.push(rest.next().unwrap_or(escape));
            continue;
        };
        rest = after[width..].chars();
        let code = match high_surrogate.take() {
            Some(high) if (0xDC00..0xE000).contains(&code) => {
                0x10000 + ((high - 0xD800) << 10) + (code - 0xDC00)
            }
            _ => code,
        };
        high_surrogate = (0xD800..0xDC00).contains(&code).then_some(code);
        decoded.extend(char::from_u32(code));
    }
    decoded
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The longest beginning of whole characters that has at most so many bytes; the server cuts the
/// same way.
fn clip(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

// ---- Lexing: text → tokens ----

/// One token of PostgreSQL's, or one command line of psql's.
#[derive(Clone, Debug)]
pub struct Token<'a> {
    pub kind: TokenKind,
    start: usize,
    pub text: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A keyword or an identifier without quotes.
    Word,
    /// `"…"`, `U&"…"`.
    QuotedName,
    /// `'…'` with its prefix and its continuations.
    Literal,
    /// `$tag$…$tag$`.
    Dollar,
    /// `1.5e-3`, `$1`.
    Number,
    /// An operator or a punctuation mark.
    Symbol,
    /// A backslash and the rest of its line: a command of psql's.
    Backslash,
}

impl Token<'_> {
    fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// Returns true if and only if this is that keyword, in any case, not quoted.
    pub fn is_word(&self, word: &str) -> bool {
        self.kind == TokenKind::Word && self.text.eq_ignore_ascii_case(word)
    }

    pub fn is_symbol(&self, symbol: &str) -> bool {
        self.kind == TokenKind::Symbol && self.text == symbol
    }

    fn is_unicode_name(&self) -> bool {
        self.kind == TokenKind::QuotedName && !self.text.starts_with('"')
    }

    pub fn is_name(&self) -> bool {
        matches!(self.kind, TokenKind::Word | TokenKind::QuotedName)
    }

    /// The identifier as the server stores it.
    pub fn stored_name(&self) -> String {
        stored_name(self.text, '\\')
    }
}

/// Walks over a text, a token at a time. What is opened and never closed, a literal or a comment,
/// ends with the text.
///
/// Every byte that has a meaning to PostgreSQL is ASCII, and bytes above are letters; so tokens
/// begin and end between characters.
#[derive(Clone)]
struct Lexer<'a> {
    text: &'a str,
    at: usize,
    /// Up to here every byte is a `+` or `-` of its own; remembered, or a long row of them would be
    /// read over and over.
    signs_until: usize,
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blank();
        let start = self.at;
        let bytes = self.text.as_bytes();
        let (kind, end) = match *bytes.get(start)? {
            b'\'' => (
                TokenKind::Literal,
                literal_end(bytes, start, Quoting::Doubled),
            ),
            b'"' => (TokenKind::QuotedName, quoted_name_end(bytes, start)),
            b'\\' => (TokenKind::Backslash, line_end(bytes, start)),
            b'$' => self.dollar(start),
            b'0'..=b'9' => (TokenKind::Number, number_end(bytes, start)),
            b'.' if byte_at(bytes, start + 1).is_ascii_digit() => {
                (TokenKind::Number, number_end(bytes, start))
            }
            first if starts_word(first) => word(bytes, start),
            first if is_operator_byte(first) => (TokenKind::Symbol, self.operator_end(start)),
            first => {
                let double = matches!(
                    (first, byte_at(bytes, start + 1)),
                    (b':', b':' | b'=') | (b'.', b'.')
                );
                (TokenKind::Symbol, start + if double { 2 } else { 1 })
            }
        };
        self.at = end;
        Some(Token {
            kind,
            start,
            text: &self.text[start..end],
        })
    }
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str, at: usize) -> Self {
        Lexer {
            text,
            at,
            signs_until: 0,
        }
    }

    /// Goes behind white space and comments.
    fn skip_blank(&mut self) {
        let bytes = self.text.as_bytes();
        loop {
            match (byte_at(bytes, self.at), byte_at(bytes, self.at + 1)) {
                (first, _) if is_space(first) => self.at += 1,
                (b'-', b'-') => self.at = line_end(bytes, self.at),
                (b'/', b'*') => self.at = comment_end(bytes, self.at),
                _ => return,
            }
        }
    }

    /// An operator is as long as it can be, but a comment ends it, and it ends in `+` or `-` only
    /// if it also has one of the characters that no operator of standard SQL has: `a=-1` compares
    /// with a negative number, `a@-b` does not.
    fn operator_end(&mut self, start: usize) -> usize {
        if start < self.signs_until {
            return start + 1;
        }
        let bytes = self.text.as_bytes();
        let mut end = start + 1;
        while is_operator_byte(byte_at(bytes, end)) && !starts_comment(bytes, end) {
            end += 1;
        }
        let run = &bytes[start..end];
        let signs = run
            .iter()
            .rev()
            .take_while(|&&byte| byte == b'+' || byte == b'-')
            .count();
        let core = &run[..run.len() - signs];
        if core.iter().any(|byte| b"~!@#^&|`?%".contains(byte)) {
            return end;
        }
        self.signs_until = end;
        start + core.len().max(1)
    }

    /// A dollar quote, a parameter, or a lone dollar sign.
    fn dollar(&self, start: usize) -> (TokenKind, usize) {
        let bytes = self.text.as_bytes();
        let mut end = start + 1;
        if byte_at(bytes, end).is_ascii_digit() {
            let digits = plain_digits_end(bytes, end);
            return (TokenKind::Number, junk_end(bytes, digits));
        }
        if starts_word(byte_at(bytes, end)) {
            while is_word_byte(byte_at(bytes, end)) && byte_at(bytes, end) != b'$' {
                end += 1;
            }
        }
        if byte_at(bytes, end) != b'$' {
            return (TokenKind::Symbol, start + 1);
        }
        let body = end + 1;
        let tag = &self.text[start..body];
        let close = self.text[body..].find(tag);
        (
            TokenKind::Dollar,
            close.map_or(bytes.len(), |close| body + close + tag.len()),
        )
    }
}

/// How a literal writes what would end it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quoting {
    /// `''` is a quote: `'…'`, `N'…'`, `U&'…'`.
    Doubled,
    /// So is `\'`: `E'…'`.
    Backslash,
    /// Not at all: `B'…'`, `X'…'`.
    Never,
}

impl Quoting {
    fn of(prefix: &str) -> Self {
        match prefix {
            "e" | "E" => Quoting::Backslash,
            "b" | "B" | "x" | "X" => Quoting::Never,
            _ => Quoting::Doubled,
        }
    }
}

/// A word; or, if it is one of a few single letters and a quotation mark follows at once, what that
/// begins.
fn word(bytes: &[u8], start: usize) -> (TokenKind, usize) {
    let end = word_end(bytes, start);
    let second = byte_at(bytes, start + 1);
    let third = byte_at(bytes, start + 2);
    let literal = |open, quoting| (TokenKind::Literal, literal_end(bytes, open, quoting));
    match (bytes[start].to_ascii_lowercase(), second, third) {
        (b'e', b'\'', _) => literal(end, Quoting::Backslash),
        (b'b' | b'x', b'\'', _) => literal(end, Quoting::Never),
        (b'n', b'\'', _) => literal(end, Quoting::Doubled),
        (b'u', b'&', b'\'') => literal(end + 1, Quoting::Doubled),
        (b'u', b'&', b'"') => (TokenKind::QuotedName, quoted_name_end(bytes, end + 1)),
        _ => (TokenKind::Word, end),
    }
}

/// The end of a literal whose first quote is at `open`, with all its continuations.
fn literal_end(bytes: &[u8], open: usize, quoting: Quoting) -> usize {
    let mut end = part_end(bytes, open, quoting);
    while let Some(next) = continuation(bytes, end) {
        end = part_end(bytes, next, quoting);
    }
    end
}

fn part_end(bytes: &[u8], open: usize, quoting: Quoting) -> usize {
    let mut at = open + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if quoting == Quoting::Backslash => at += 2,
            b'\'' if quoting != Quoting::Never && byte_at(bytes, at + 1) == b'\'' => at += 2,
            b'\'' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The quote that continues a literal which closed before `at`: one that only white space with a
/// line break, and `--` comments, keep apart from it.
fn continuation(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut broken = false;
    loop {
        match byte_at(bytes, at) {
            b'\'' if broken => return Some(at),
            b'\n' | b'\r' => broken = true,
            b'-' if byte_at(bytes, at + 1) == b'-' => {
                at = line_end(bytes, at);
                continue;
            }
            other if is_space(other) => {}
            _ => return None,
        }
        at += 1;
    }
}

fn quoted_name_end(bytes: &[u8], open: usize) -> usize {
    let mut at = open + 1;
    while at < bytes.len() {
        match (bytes[at], byte_at(bytes, at + 1)) {
            (b'"', b'"') => at += 2,
            (b'"', _) => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Letters right behind a number belong to it. The server refuses them as "trailing junk", except
/// the `x1F` of `0x1F` and its like, but they keep a `$` behind them from opening a quote.
fn number_end(bytes: &[u8], start: usize) -> usize {
    let mut end = digits_end(bytes, start);
    let mut junk = junk_end(bytes, plain_digits_end(bytes, start));
    // 1..10 is a range in PL/pgSQL, not a number with a point.
    if byte_at(bytes, end) == b'.' && byte_at(bytes, end + 1) != b'.' {
        junk = junk.max(junk_end(bytes, plain_digits_end(bytes, end + 1)));
        end = digits_end(bytes, end + 1);
    }
    if byte_at(bytes, end).eq_ignore_ascii_case(&b'e') {
        let signed = matches!(byte_at(bytes, end + 1), b'+' | b'-');
        let exponent = end + if signed { 2 } else { 1 };
        if byte_at(bytes, exponent).is_ascii_digit() {
            end = digits_end(bytes, exponent);
        }
    }
    junk_end(bytes, end).max(junk)
}

/// The end of digits with underscores between them.
fn digits_end(bytes: &[u8], at: usize) -> usize {
    let mut end = plain_digits_end(bytes, at);
    while end > at && byte_at(bytes, end) == b'_' && byte_at(bytes, end + 1).is_ascii_digit() {
        end = plain_digits_end(bytes, end + 1);
    }
    end
}

fn plain_digits_end(bytes: &[u8], mut at: usize) -> usize {
    while byte_at(bytes, at).is_ascii_digit() {
        at += 1;
    }
    at
}

fn junk_end(bytes: &[u8], at: usize) -> usize {
    if starts_word(byte_at(bytes, at)) {
        word_end(bytes, at)
    } else {
        at
    }
}

fn word_end(bytes: &[u8], mut at: usize) -> usize {
    while is_word_byte(byte_at(bytes, at)) {
        at += 1;
    }
    at
}

fn line_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && bytes[at] != b'\n' && bytes[at] != b'\r' {
        at += 1;
    }
    at
}

/// The end of a `/* comment */`; comments nest.
fn comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while at < bytes.len() {
        match (bytes[at], byte_at(bytes, at + 1)) {
            (b'/', b'*') => depth += 1,
            (b'*', b'/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

fn starts_comment(bytes: &[u8], at: usize) -> bool {
    matches!(
        (byte_at(bytes, at), byte_at(bytes, at + 1)),
        (b'-', b'-') | (b'/', b'*')
    )
}

/// The byte, or zero behind the end: a byte that begins nothing and belongs to nothing.
fn byte_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'\x0b' | b'\x0c')
}

fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || !byte.is_ascii()
}

fn is_word_byte(byte: u8) -> bool {
    starts_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

fn is_operator_byte(byte: u8) -> bool {
    b"~!@#^&|`?+-*/%<>=".contains(&byte)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<&str> {
        Lexer::new(text, 0).map(|token| token.text).collect()
    }

    fn statements(text: &str) -> Vec<&str> {
        parse(text)
            .statements
            .iter()
            .map(|statement| &text[statement.range()])
            .collect()
    }

    fn obstacles(text: &str) -> Vec<(usize, ObstacleKind)> {
        parse(text)
            .obstacles
            .into_iter()
            .map(|obstacle| (obstacle.offset, obstacle.kind))
            .collect()
    }

    /// The kind of a text's only statement.
    fn kind(text: &str) -> Kind {
        let mut script = parse(text);
        assert_eq!(script.statements.len(), 1, "{text}");
        script.statements.remove(0).kind
    }

    fn control(command: &'static str) -> ObstacleKind {
        ObstacleKind::TransactionControl(command)
    }

    fn psql(command: &str) -> ObstacleKind {
        ObstacleKind::PsqlCommand(command.to_owned())
    }

    #[test]
    fn reads_tokens_as_the_server_does() {
        let cases: &[(&str, &[&str])] = &[
            ("a \t\n\r\x0b\x0cb", &["a", "b"]),
            ("a--x\nb--y\rc--z", &["a", "b", "c"]),
            ("a/*x*/b/*/*y*/;*/c/**/d/*/e", &["a", "b", "c", "d"]),
            ("a/***//*//**/**/b", &["a", "b"]),
            ("a/* 'x */b", &["a", "b"]),
            ("'a''b' 'c\\' 'd", &["'a''b'", "'c\\'", "'d"]),
            ("''''", &["''''"]),
            ("E'a\\'b' e'\\\\' E'\\", &["E'a\\'b'", "e'\\\\'", "E'\\"]),
            ("fooE'x\\' _E'y\\'", &["fooE", "'x\\'", "_E", "'y\\'"]),
            ("E 'x\\'", &["E", "'x\\'"]),
            ("E'a'\n'b\\'c' d", &["E'a'\n'b\\'c'", "d"]),
            (
                "'a' -- x'\n -- y\n 'b\\' c",
                &["'a' -- x'\n -- y\n 'b\\'", "c"],
            ),
            ("'a' --x\r'b'", &["'a' --x\r'b'"]),
            ("'a' 'b'", &["'a'", "'b'"]),
            ("'a' /**/\n'b'", &["'a'", "'b'"]),
            ("'a'\n/**/'b'", &["'a'", "'b'"]),
            ("'a'\n-'b'", &["'a'", "-", "'b'"]),
            ("'a'\nE'b'", &["'a'", "E'b'"]),
            ("b'01'\n'10' X'1f''2'", &["b'01'\n'10'", "X'1f'", "'2'"]),
            ("n'a''b\\' N'c'", &["n'a''b\\'", "N'c'"]),
            (
                "U&'a\\' u&\"b\"\"c\" u&x U&",
                &["U&'a\\'", "u&\"b\"\"c\"", "u", "&", "x", "U", "&"],
            ),
            ("U&'a'\n'b' au&'c'", &["U&'a'\n'b'", "au", "&", "'c'"]),
            ("\"a\"\"b\"c\"d", &["\"a\"\"b\"", "c", "\"d"]),
            ("\"a\"\n\"b\"", &["\"a\"", "\"b\""]),
            ("$$a'b$$c", &["$$a'b$$", "c"]),
            ("$a$ $$ $b$ $A$ $b$a$ x", &["$a$ $$ $b$ $A$ $b$a$", "x"]),
            ("$é$;$é$ $_1$;$_1$", &["$é$;$é$", "$_1$;$_1$"]),
            ("a$$b$ c$1 $", &["a$$b$", "c$1", "$"]),
            (
                "$foo bar $1 $12$x",
                &["$", "foo", "bar", "$1", "$12", "$", "x"],
            ),
            ("$1$$;$$ $a$b", &["$1", "$$;$$", "$a$b"]),
            ("héllo$x été \u{a0}", &["héllo$x", "été", "\u{a0}"]),
            (
                "1.5e-3 1..10 .5 1. 1.e5",
                &["1.5e-3", "1", "..", "10", ".5", "1.", "1.e5"],
            ),
            (
                "0x1F 1_000 0b10 1e+ 1.2.3",
                &["0x1F", "1_000", "0b10", "1e", "+", "1.2", ".3"],
            ),
            (
                "1a$b$ 2e5x 1e5$a$ 1_0$a$ 1.5_0$a$",
                &["1a$b$", "2e5x", "1e5$a$", "1_0$a$", "1.5_0$a$"],
            ),
            (
                "1$$ $$ 1_0.5e-1_0 1.$$ $$",
                &["1", "$$ $$", "1_0.5e-1_0", "1.", "$$ $$"],
            ),
            (
                "a::b:=c=>d e:f",
                &["a", "::", "b", ":=", "c", "=>", "d", "e", ":", "f"],
            ),
            (
                "a=-1 b@-1 c*-+d",
                &["a", "=", "-", "1", "b", "@-", "1", "c", "*", "-", "+", "d"],
            ),
            (
                "a+++b a-+-b",
                &["a", "+", "+", "+", "b", "a", "-", "+", "-", "b"],
            ),
            (
                "a->>b<=c!=d||e",
                &["a", "->>", "b", "<=", "c", "!=", "d", "||", "e"],
            ),
            ("a@--b\nc*/*d*/e", &["a", "@", "c", "*", "e"]),
            ("a+--b\nc", &["a", "+", "c"]),
            (
                "(a)[1],b.c;",
                &["(", "a", ")", "[", "1", "]", ",", "b", ".", "c", ";"],
            ),
            ("a \\d b\n'\\e'\\f", &["a", "\\d b", "'\\e'", "\\f"]),
        ];
        for (text, expected) in cases {
            assert_eq!(tokens(text), *expected, "{text}");
        }
    }

    #[test]
    fn splits_where_psql_splits() {
        let body = "BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; END";
        let function = format!("CREATE OR REPLACE FUNCTION f() RETURNS int {body}");
        let procedure = format!("create /**/ procedure p(x int DEFAULT (1)) {body}");
        let labels = "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 AS end, t.end, 2 END; \
                      SELECT 1 AS case; END";
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            (" ;; -- x\n /* ; */ ;", &[]),
            ("\u{feff}SELECT 1", &["SELECT 1"]),
            ("a;b ; c -- d", &["a", "b ", "c"]),
            ("a -- ;\n b;c", &["a -- ;\n b", "c"]),
            (
                "a ';' \";\" $$;$$ E'\\';'/*;*/;b",
                &["a ';' \";\" $$;$$ E'\\';'/*;*/", "b"],
            ),
            (
                "CREATE RULE r AS ON INSERT TO t DO (a;b);c",
                &["CREATE RULE r AS ON INSERT TO t DO (a;b)", "c"],
            ),
            ("a);(b;c));d", &["a)", "(b;c))", "d"]),
            ("a (b; c", &["a (b; c"]),
            (&format!("{function};x"), &[&function, "x"]),
            (&format!("{procedure}; x"), &[&procedure, "x"]),
            (&format!("{labels};x"), &[labels, "x"]),
            (
                "CREATE FUNCTION f() BEGIN ATOMIC END;x",
                &["CREATE FUNCTION f() BEGIN ATOMIC END", "x"],
            ),
            (
                "CREATE FUNCTION begin() AS $$a;b$$;x",
                &["CREATE FUNCTION begin() AS $$a;b$$", "x"],
            ),
            (
                "CREATE FUNCTION f() begin;x",
                &["CREATE FUNCTION f() begin", "x"],
            ),
            (
                "CREATE FUNCTION f() \"begin\" atomic;x",
                &["CREATE FUNCTION f() \"begin\" atomic", "x"],
            ),
            (
                "CREATE TABLE begin atomic;x",
                &["CREATE TABLE begin atomic", "x"],
            ),
            ("DO $$BEGIN x; END$$;y", &["DO $$BEGIN x; END$$", "y"]),
            ("a\n\\restrict x;y\nb;c", &["a\n\\restrict x;y\nb", "c"]),
            ("SELECT 'open; b", &["SELECT 'open; b"]),
            ("a;/* open; b", &["a"]),
        ];
        for (text, expected) in cases {
            assert_eq!(statements(text), *expected, "{text}");
        }
    }

    #[test]
    fn knows_what_runs_in_a_transaction() {
        let plain = [
            "SELECT 1",
            "CREATE INDEX a ON t (x)",
            "CREATE INDEX \"concurrently\" ON t (x)",
            "CREATE TABLE concurrently (x int)",
            "CREATE TABLE vacuum (x int)",
            "DROP INDEX a",
            "DROP INDEX \"concurrently\"",
            "ALTER TABLE t DETACH PARTITION p",
            "ALTER TABLE t DETACH PARTITION p FINALIZE",
            "ALTER TABLE t DETACH PARTITION \"concurrently\"",
            "ALTER TABLE t ADD detach int",
            "ALTER TYPE t ADD VALUE 'x'",
            "ALTER DATABASE d SET search_path TO a",
            "ALTER DATABASE tablespace RENAME TO d",
            "REFRESH MATERIALIZED VIEW CONCURRENTLY v",
            "ANALYZE t",
            "CHECKPOINT",
            "DISCARD PLANS",
            "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p WITH (create_slot = false)",
            "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p WITH (enabled, connect = 'OFF')",
            "ALTER SUBSCRIPTION s ENABLE",
            "ALTER SUBSCRIPTION s SET (slot_name = NONE, two_phase)",
            "ALTER SUBSCRIPTION s SET PUBLICATION p, q WITH (refresh = 0)",
            "ALTER SUBSCRIPTION s OWNER TO refresh",
            "CREATE FUNCTION f() AS $$ VACUUM $$",
            "SELECT 'VACUUM; CREATE DATABASE x'",
            "(VACUUM)",
            "\"vacuum\"",
            "COMMIT",
            "ROLLBACK",
        ];
        for text in plain {
            assert_eq!(kind(text), Kind::Plain, "{text}");
        }
        let maybe = [
            "REINDEX TABLE t",
            "reindex (verbose) index i",
            "REINDEX (CONCURRENTLY off) TABLE t",
            "REINDEX (CONCURRENTLY, CONCURRENTLY 0) TABLE t",
            "REINDEX TABLE \"concurrently\"",
            "CLUSTER t USING i",
            "CLUSTER VERBOSE t",
            "CLUSTER (VERBOSE) t",
            "DROP SUBSCRIPTION s",
        ];
        for text in maybe {
            assert_eq!(kind(text), Kind::MaybeOutside, "{text}");
        }
        let other = [
            "VACUUM",
            "vacuum (full, analyze) t",
            "/**/ Vacuum -- x\n FULL t",
            "CLUSTER",
            "CLUSTER VERBOSE",
            "CLUSTER (VERBOSE)",
            "CREATE DATABASE d",
            "DROP DATABASE IF EXISTS d WITH (FORCE)",
            "CREATE TABLESPACE s LOCATION '/x'",
            "DROP TABLESPACE s",
            "ALTER DATABASE d SET TABLESPACE s",
            "ALTER DATABASE \"d\" WITH TABLESPACE s",
            "ALTER DATABASE d TABLESPACE = s",
            "ALTER DATABASE d WITH \"tablespace\" s",
            "ALTER SYSTEM RESET ALL",
            "REINDEX SCHEMA s",
            "REINDEX DATABASE",
            "REINDEX (VERBOSE) SYSTEM d",
            "DISCARD ALL",
            "COMMIT PREPARED 'x'",
            "ROLLBACK PREPARED 'x'",
            "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p",
            "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p WITH (create_slot, connect = true)",
            "ALTER SUBSCRIPTION s REFRESH PUBLICATION",
            "ALTER SUBSCRIPTION s ADD PUBLICATION p",
            "ALTER SUBSCRIPTION s DROP PUBLICATION p WITH (refresh = on)",
            "ALTER SUBSCRIPTION s SET (failover = false)",
            "ALTER SUBSCRIPTION s SET (two_phase = off)",
        ];
        for text in other {
            assert_eq!(kind(text), outside(Outside::Other), "{text}");
        }
    }

    #[test]
    fn names_the_index_that_is_built_concurrently() {
        let long = "é".repeat(40);
        let cases: &[(&str, bool, bool, &str, &str)] = &[
            (
                "CREATE INDEX CONCURRENTLY a ON t (x)",
                false,
                false,
                "a",
                "t",
            ),
            (
                "create /**/ unique index concurrently Foo on Bar(x)",
                true,
                false,
                "foo",
                "Bar",
            ),
            (
                "CREATE INDEX CONCURRENTLY IF NOT EXISTS \"A\"\"b\" ON ONLY s . \"T\"\"t\" (x)",
                false,
                true,
                "A\"b",
                "s.\"T\"\"t\"",
            ),
            (
                "CREATE INDEX CONCURRENTLY if ON ONLY (t) (x)",
                false,
                false,
                "if",
                "t",
            ),
            (
                "CREATE INDEX CONCURRENTLY U&\"d\\0061t\" ON U&\"!0061b\" UESCAPE '!' . c (x)",
                false,
                false,
                "dat",
                "\"ab\".c",
            ),
            (
                &format!("CREATE INDEX CONCURRENTLY {long} ON t (x)"),
                false,
                false,
                &long[..62],
                "t",
            ),
        ];
        for &(text, unique, if_not_exists, index, table) in cases {
            let (index, table) = (index.to_owned(), table.to_owned());
            let expected = Outside::CreateIndex {
                unique,
                if_not_exists,
                index,
                table,
            };
            assert_eq!(kind(text), outside(expected), "{text}");
            assert_eq!(verb(text), "CREATE INDEX CONCURRENTLY");
        }
    }

    #[test]
    fn names_what_other_concurrent_commands_work_on() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let drop = |if_exists, indexes| Outside::DropIndex {
            if_exists,
            indexes: names(indexes),
        };
        let rebuild = |target, name: Option<&str>| {
            let name = name.map(str::to_owned);
            Outside::ReindexConcurrently { target, name }
        };
        let detach = |table: &str, partition: &str| {
            let (table, partition) = (table.to_owned(), partition.to_owned());
            Outside::DetachPartition { table, partition }
        };
        let cases = [
            ("DROP INDEX CONCURRENTLY a", drop(false, &["a"])),
            (
                "DROP INDEX CONCURRENTLY IF EXISTS a, s.\"B\" CASCADE",
                drop(true, &["a", "s.\"B\""]),
            ),
            (
                "REINDEX INDEX CONCURRENTLY s.i",
                rebuild(ReindexTarget::Index, Some("s.i")),
            ),
            (
                "REINDEX (CONCURRENTLY, VERBOSE) TABLE t",
                rebuild(ReindexTarget::Table, Some("t")),
            ),
            (
                "REINDEX (concurrently 'on') SCHEMA s",
                rebuild(ReindexTarget::Schema, Some("s")),
            ),
            (
                "REINDEX (verbose) DATABASE CONCURRENTLY",
                rebuild(ReindexTarget::Database, None),
            ),
            (
                "REINDEX (CONCURRENTLY 1) SYSTEM d",
                rebuild(ReindexTarget::System, Some("d")),
            ),
            (
                "REINDEX (CONCURRENTLY false) INDEX CONCURRENTLY i",
                rebuild(ReindexTarget::Index, Some("i")),
            ),
            (
                "ALTER TABLE t DETACH PARTITION p CONCURRENTLY",
                detach("t", "p"),
            ),
            (
                "ALTER TABLE IF EXISTS ONLY s.t * DETACH PARTITION s /**/ . p CONCURRENTLY",
                detach("s.t", "s.p"),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(kind(text), outside(expected), "{text}");
        }
    }

    #[test]
    fn finds_what_cannot_be_run_and_where() {
        use ObstacleKind::{CopyFromStdin, CopyToStdout};
        let cases: &[(&str, &[(usize, ObstacleKind)])] = &[
            (
                "BEGIN; x; COMMIT",
                &[(0, control("BEGIN")), (10, control("COMMIT"))],
            ),
            (
                "begin isolation level serializable",
                &[(0, control("BEGIN"))],
            ),
            (
                "a;\nSTART /**/ TRANSACTION READ ONLY",
                &[(3, control("START TRANSACTION"))],
            ),
            (
                "END; ABORT WORK",
                &[(0, control("END")), (5, control("ABORT"))],
            ),
            ("COMMIT AND CHAIN", &[(0, control("COMMIT"))]),
            (
                "ROLLBACK; ROLLBACK WORK AND CHAIN",
                &[(0, control("ROLLBACK")), (10, control("ROLLBACK"))],
            ),
            ("ROLLBACK TO a; ROLLBACK TRANSACTION TO SAVEPOINT a", &[]),
            ("ROLLBACK work to a; SAVEPOINT a; RELEASE a", &[]),
            (
                "PREPARE TRANSACTION 'x'",
                &[(0, control("PREPARE TRANSACTION"))],
            ),
            (
                "PREPARE transaction AS SELECT 1; PREPARE commit AS SELECT 1",
                &[],
            ),
            ("SELECT 1 AS begin; \"commit\"; 'rollback'; (commit)", &[]),
            ("DO $$ BEGIN COMMIT; END $$", &[]),
            ("COPY t FROM STDIN", &[(0, CopyFromStdin)]),
            (
                "COPY s.t (a, b) FROM stdin WITH (FORMAT csv)",
                &[(0, CopyFromStdin)],
            ),
            ("COPY BINARY t FROM stdin", &[(0, CopyFromStdin)]),
            (
                "COPY t TO STDOUT; COPY (SELECT 1 FROM stdin) TO stdout",
                &[(0, CopyToStdout), (18, CopyToStdout)],
            ),
            (
                "COPY t FROM STDOUT; COPY t TO STDIN",
                &[(0, CopyFromStdin), (20, CopyToStdout)],
            ),
            (
                "COPY t FROM 'stdin'; COPY t FROM PROGRAM 'stdin'; COPY t TO '/stdout'",
                &[],
            ),
            (
                "COPY (SELECT 1 FROM t) TO 'x'; COPY stdin FROM 'x'; COPY t (stdin) FROM 'x'",
                &[],
            ),
            (
                "COPY t FROM STDIN;\n1\tit's\n\\N\t\\.\n\\.\nCOMMIT",
                &[(0, CopyFromStdin), (35, control("COMMIT"))],
            ),
            (
                "COPY t FROM STDIN;\r\n'\r\n\\.\r\nCOPY t FROM STDIN;\n(\n\\.",
                &[(0, CopyFromStdin), (27, CopyFromStdin)],
            ),
            (
                "COPY t FROM STDIN; COMMIT",
                &[(0, CopyFromStdin), (19, control("COMMIT"))],
            ),
            (
                "\\d t; COMMIT\nSELECT 1 \\gset;\n;COMMIT",
                &[
                    (0, psql("\\d")),
                    (22, psql("\\gset;")),
                    (30, control("COMMIT")),
                ],
            ),
            ("\\connect\\d", &[(0, psql("\\connect"))]),
            (
                "a (\\i b\n);VACUUM",
                &[
                    (3, psql("\\i")),
                    (
                        10,
                        ObstacleKind::SharedFile {
                            command: "VACUUM".to_owned(),
                        },
                    ),
                ],
            ),
            (
                "x\\restrict a\n\\restricted\n\\\\",
                &[
                    (1, psql("\\restrict")),
                    (13, psql("\\restricted")),
                    (25, psql("\\")),
                ],
            ),
            ("'\\d' E'\\d' \"\\d\" $$\\d$$ -- \\d\n /* \\d */", &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(obstacles(text), *expected, "{text}");
        }
    }

    #[test]
    fn refuses_a_statement_that_must_be_alone_and_is_not() {
        let text =
            "CREATE INDEX CONCURRENTLY a ON t (x);\nREINDEX TABLE t;\nDROP INDEX CONCURRENTLY b";
        let shared = |command: &str| ObstacleKind::SharedFile {
            command: command.to_owned(),
        };
        let expected = [
            (0, shared("CREATE INDEX CONCURRENTLY")),
            (55, shared("DROP INDEX CONCURRENTLY")),
        ];
        assert_eq!(obstacles(text), expected);
        assert_eq!(obstacles("-- alone\nVACUUM;;\n-- really\n"), []);
    }

    #[test]
    fn skips_the_lines_that_pg_dump_writes_for_psql() {
        let text = "\u{feff}\\restrict abc\r\nSELECT 1\n \t\\unrestrict abc\n;\\unrestrict";
        let script = parse(text);
        let lines: Vec<&str> = script
            .psql_lines
            .iter()
            .map(|line| &text[line.clone()])
            .collect();
        assert_eq!(lines, ["\\restrict abc", "\\unrestrict abc"]);
        assert_eq!(script.checksum, parse("SELECT 1").checksum);
        assert_eq!(obstacles(text), [(46, psql("\\unrestrict"))]);
    }

    /// The names are what PostgreSQL 15 gave to these indexes.
    #[test]
    fn leaves_comments_out_and_every_token_as_it_is() {
        for (text, bare) in [
            (
                "CREATE /* a\n /* b */ */ INDEX--c\ni ON \"S\".t(a->>'b -- c', $$/* d */$$)  -- e",
                "CREATE INDEX i ON \"S\".t(a->>'b -- c', $$/* d */$$)",
            ),
            ("'a' -- b\n'c'/*d*/::text", "'a' -- b\n'c' ::text"),
            ("a\t \tb", "a b"),
        ] {
            assert_eq!(without_comments(text), bare);
            assert_eq!(parse(text).checksum, parse(bare).checksum);
        }
    }

    #[test]
    fn proposes_the_index_name_that_the_server_would_choose() {
        let long = "a".repeat(63);
        let wide = "é".repeat(31);
        let cases = [
            ("t (a)", "t_a_idx"),
            (
                "s.t USING btree (a DESC, \"b\" text_pattern_ops) INCLUDE (c)",
                "t_a_b_c_idx",
            ),
            (
                "ONLY t (lower(a), pg_catalog.upper(b))",
                "t_lower_upper_idx",
            ),
            ("t ((a + 1), (b + 1), (a || b))", "t_expr_expr1_expr2_idx"),
            ("t (a, (a))", "t_a_a1_idx"),
            ("t (((lower(a))))", "t_lower_idx"),
            ("t ((d ->> 'x'))", "t_expr_idx"),
            ("t (((d ->> 'x')::int), (b::text))", "t_int4_b_idx"),
            (
                "t ((('x' || a)::varchar(10)), ((a || 'y')::character varying))",
                "t_varchar_varchar1_idx",
            ),
            ("t (coalesce(a, b), trim(a))", "t_coalesce_btrim_idx"),
            (
                "t (a COLLATE \"C\", (b) COLLATE \"C\" DESC NULLS LAST)",
                "t_a_b_idx",
            ),
            ("t ((a IS NULL))", "t_expr_idx"),
            ("\"T t\" (a)", "\"T t_a_idx\""),
        ];
        for (rest, proposal) in cases {
            let text = format!("CREATE UNIQUE INDEX CONCURRENTLY ON {rest} WHERE true");
            let expected = ObstacleKind::UnnamedConcurrentIndex {
                proposal: proposal.to_owned(),
            };
            assert_eq!(obstacles(&text), [(0, expected)], "{text}");
            assert_eq!(kind(&text), outside(Outside::Other), "{text}");
        }
        let names =
            |names: &[&str]| -> Vec<String> { names.iter().map(|&name| name.to_owned()).collect() };
        assert_eq!(
            index_name(&long, &names(&["b"])),
            format!("{}_b_idx", "a".repeat(57))
        );
        assert_eq!(
            index_name("t", &names(&[&long, "b"])),
            format!("t_{}_idx", "a".repeat(57))
        );
        assert_eq!(
            index_name(&long, &names(&[&long])),
            format!("{}_{}_idx", "a".repeat(29), "a".repeat(29))
        );
        assert_eq!(
            index_name(&wide, &names(&[&wide])),
            format!("{}_{}_idx", "é".repeat(14), "é".repeat(14))
        );
    }

    #[test]
    fn writes_the_index_for_another_table() {
        for (statement, expected) in [
            (
                "create unique index concurrently if not exists I on only s.t using gin (a) where b -- end",
                Some("CREATE UNIQUE INDEX i2 ON x.y using gin (a) where b -- end\n"),
            ),
            (
                "CREATE INDEX CONCURRENTLY \"A \"\"b\" ON t/**/(lower(t.a)) INCLUDE (c)",
                Some("CREATE INDEX i2 ON x.y (lower(t.a)) INCLUDE (c)\n"),
            ),
            ("CREATE INDEX CONCURRENTLY i t (a)", None),
            ("CREATE INDEX i ON t (a)", None),
            ("CREATE INDEX CONCURRENTLY i ON t", None),
            ("REINDEX TABLE CONCURRENTLY t", None),
        ] {
            assert_eq!(
                index_on(statement, "i2", "x.y").as_deref(),
                expected,
                "{statement}"
            );
        }
    }

    #[test]
    fn finds_an_enum_value_that_is_used_where_it_is_added() {
        let found = |text: &str| {
            let found = enum_use(text, &parse(text).statements);
            found.map(|it| format!("{} {} {} {}", it.type_name, it.value, it.added, it.used))
        };
        let add = "ALTER TYPE s.t ADD VALUE IF NOT EXISTS 'it''s' BEFORE 'b';";
        for (text, expected) in [
            (
                format!("{add} SELECT 1; INSERT INTO x VALUES ('it''s')"),
                Some("s.t it's 0 2"),
            ),
            (
                format!("{add} DO $$ BEGIN PERFORM 'it''s'; END $$"),
                Some("s.t it's 0 1"),
            ),
            (
                format!("SELECT 'it''s'; {add} ALTER TABLE x ALTER y SET DEFAULT 'it''s'::s.t"),
                Some("s.t it's 1 2"),
            ),
            (format!("SELECT 'it''s'; {add}"), None),
            (format!("{add} SELECT 'its', \"it's\", 1 -- 'it''s'"), None),
            (
                format!("{add} ALTER TYPE s.t ADD VALUE 'c' AFTER 'it''s'"),
                None,
            ),
            (
                format!(
                    "{add} CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 'it''s'; END $$"
                ),
                None,
            ),
        ] {
            assert_eq!(found(&text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn names_commands() {
        let cases = [
            ("select 1", "SELECT"),
            ("(SELECT 1) UNION SELECT 2", "SELECT"),
            ("WITH a AS (SELECT 1) INSERT INTO t TABLE a", "WITH"),
            ("INSERT INTO t VALUES (1)", "INSERT"),
            ("/* x */ create -- y\n table t ()", "CREATE TABLE"),
            ("CREATE TEMP TABLE t ()", "CREATE TABLE"),
            ("CREATE OR REPLACE FUNCTION f()", "CREATE FUNCTION"),
            ("CREATE UNIQUE INDEX i ON t (x)", "CREATE INDEX"),
            ("CREATE CONSTRAINT TRIGGER x", "CREATE TRIGGER"),
            ("CREATE MATERIALIZED VIEW v", "CREATE MATERIALIZED VIEW"),
            ("ALTER DEFAULT PRIVILEGES GRANT", "ALTER DEFAULT PRIVILEGES"),
            (
                "ALTER TEXT SEARCH DICTIONARY d",
                "ALTER TEXT SEARCH DICTIONARY",
            ),
            ("ALTER TABLE t ADD x int", "ALTER TABLE"),
            (
                "ALTER TABLE t DETACH PARTITION p CONCURRENTLY",
                "DETACH PARTITION CONCURRENTLY",
            ),
            ("DROP INDEX CONCURRENTLY i", "DROP INDEX CONCURRENTLY"),
            ("DROP OWNED BY u", "DROP OWNED"),
            ("REINDEX (CONCURRENTLY) TABLE t", "REINDEX CONCURRENTLY"),
            ("REINDEX TABLE t", "REINDEX"),
            (
                "REFRESH MATERIALIZED VIEW CONCURRENTLY v",
                "REFRESH MATERIALIZED VIEW",
            ),
            ("start transaction", "START TRANSACTION"),
            ("COMMIT PREPARED 'x'", "COMMIT PREPARED"),
            ("CREATE", "CREATE"),
            ("1", "SQL"),
            ("", "SQL"),
        ];
        for (text, expected) in cases {
            assert_eq!(verb(text), expected, "{text}");
        }
    }

    #[test]
    fn lists_identifiers_as_the_server_stores_them() {
        let text =
            "INSERT INTO S.\"My \"\"T\" (a, B) SELECT a, 'c', $$d$$, 1e5 FROM U&\"\\0078\" -- e";
        let expected = [
            "insert", "into", "s", "My \"T", "a", "b", "select", "from", "x",
        ];
        assert_eq!(identifiers(text), expected);
        assert_eq!(identifiers("\"A\" a A \"a\""), ["A", "a"]);
        assert_eq!(
            stored_name("U&\"\\D83D\\DE00\\\\\\+000061\\zz\"", '\\'),
            "😀\\azz"
        );
        assert_eq!(
            stored_name(&format!("\"{}\"", "é".repeat(40)), '\\'),
            "é".repeat(31)
        );
    }

    /// If this fails, every journal in the field reports its migrations as modified.
    #[test]
    fn never_changes_the_checksum_of_a_text() {
        let text = "\u{feff}-- a licence\r\n\\restrict x\r\nCREATE TABLE T (\"A\" int DEFAULT 1E5, b text);;\r\n\
                    INSERT INTO t VALUES (E'a\\'\r\nb' -- c\r\n 'd', U&\"E\", $q$\r\n$q$, 1+-1)";
        let pinned = "769a7b25faad78f4d6f726b9a83b2b59371b31203c3b63514e438be592ed9745";
        assert_eq!(parse(text).checksum.to_string(), pinned);
        assert_eq!(Checksum::parse_hex(pinned), Some(parse(text).checksum));
        let by_hand = b"create\0table\0t\0(\0\"A\"\0int\0default\x001e5\0,\0b\0text\0)\0;\0\
            insert\0into\0t\0values\0(\0e'a\\'\nb'\n'd'\0,\0u&\"E\"\0,\0$q$\n$q$\0,\x001\0+\0-\x001\0)\0;\0";
        assert_eq!(
            parse(text).checksum.0,
            <[u8; 32]>::from(Sha256::digest(by_hand))
        );
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(format!("{:?}", parse("-- nothing;\n;").checksum), empty);
        for bad in [
            "",
            &pinned[1..],
            &format!("{pinned}0"),
            &format!("+{}", &pinned[1..]),
            &"é".repeat(32),
        ] {
            assert_eq!(Checksum::parse_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn keeps_the_checksum_when_only_the_form_changes() {
        let same = [
            (
                "SELECT a, 'b' FROM t;",
                "select\n  A , -- x\n 'b'\r\nfrom/**/T",
            ),
            ("a;b", ";a;;\n;b;"),
            ("a 'x\ny' \"p\nq\" $$\n$$", "a 'x\r\ny' \"p\r\nq\" $$\r\n$$"),
            ("E'a'\n'b'", "e'a' -- x\r\n\r\n   'b'"),
            ("a", "\u{feff}a"),
            ("a;", "\\restrict x\na;\n\\unrestrict x\n"),
            ("COPY t FROM STDIN", "COPY t FROM STDIN;\n1\n\\.\n"),
            ("0X1f", "0x1F"),
        ];
        for (one, other) in same {
            assert_eq!(
                parse(one).checksum,
                parse(other).checksum,
                "{one} | {other}"
            );
        }
        let different = [
            ("a b", "ab"),
            ("a;b", "a b"),
            ("'a' 'b'", "'a'\n'b'"),
            ("'a''b'", "'a'\n'b'"),
            ("'a'", "'A'"),
            ("a", "\"a\""),
            ("\"a\"", "\"A\""),
            ("$a$x$a$", "$A$x$A$"),
            ("'a b'", "'a  b'"),
            ("'a\nb'", "'a b'"),
            ("'-- a'", "'-- b'"),
            ("a;b", "b;a"),
            ("a (b;)", "a (b)"),
            ("a - -b", "a -\n"),
            ("é", "É"),
            ("a", ""),
        ];
        for (one, other) in different {
            assert_ne!(
                parse(one).checksum,
                parse(other).checksum,
                "{one} | {other}"
            );
        }
    }

    /// What a text is made of by repeating one of these. `tests/it/files/lexer.rs` measures how long it takes to read.
    pub const PIECES: [&str; 57] = [
        "(",
        ")",
        "[",
        "'",
        "\"",
        "$",
        "$a",
        "$a$",
        "$a$b",
        "$$",
        "E'",
        "U&\"",
        "\u{1f418}",
        "\\;",
        "CASE ",
        "CREATE FUNCTION f() BEGIN ATOMIC ",
        "/",
        "/*",
        "*/",
        "-",
        "--",
        "+",
        "@",
        "*",
        "=-",
        "\\",
        "\\\n",
        "\n\\.",
        "\\restrict\n",
        "a",
        "a;",
        ";",
        "E'\\",
        "E'\\\\",
        "''",
        "'\n",
        "' --",
        "'--\n",
        "1",
        "1e",
        "1_",
        ".",
        "..",
        ":",
        "é",
        "\r",
        "\u{feff}",
        "U&",
        "a.",
        "a,",
        "\n",
        "BEGIN;",
        "END;",
        "COPY t FROM STDIN;",
        "COPY t FROM STDIN;\n\\.\n",
        "VACUUM;",
        "BEGIN ATOMIC ",
    ];

    /// Nobody writes these, so nothing else would notice what they break.
    #[test]
    fn keeps_its_promises_for_long_rows_of_anything() {
        for piece in PIECES {
            check(&piece.repeat((1 << 12) / piece.len()));
        }
    }

    /// Fragments glued at random, with a fixed seed: what [`check`] asserts holds for any text.
    #[test]
    fn keeps_its_promises_for_any_text() {
        let fragments = [
            "SELECT 1",
            "a",
            "é",
            "\u{feff}",
            ";",
            ";",
            ";",
            "(",
            ")",
            "'",
            "''",
            "\"",
            "$$",
            "$a$",
            "$",
            "$1",
            "E'",
            "e'\\'",
            "U&\"",
            "U&'",
            "B'",
            "\\",
            "\\d x",
            "\\restrict x",
            "\n",
            "\n",
            "\r\n",
            " ",
            " ",
            "\t",
            "--",
            "-- x\n",
            "/*",
            "*/",
            "+",
            "-",
            "@",
            "::",
            "..",
            ".",
            "1e5",
            "0x1",
            "_",
            "CREATE ",
            "FUNCTION f() ",
            "BEGIN ATOMIC ",
            "END",
            "INDEX ",
            "CONCURRENTLY ",
            "ON t ",
            "VACUUM",
            "COMMIT",
            "COPY t FROM STDIN",
            "\n\\.\n",
            "REINDEX ",
            "TABLE t ",
            "ALTER ",
            "DETACH PARTITION p ",
            ",",
            "ROLLBACK ",
            "TO ",
            "UESCAPE '!'",
            "CLUSTER ",
            "WITH (x = off)",
            "SUBSCRIPTION s ",
        ];
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).expect("less than a usize")
        };
        for _ in 0..20_000 {
            let text: String = (0..random(24))
                .map(|_| fragments[random(fragments.len())])
                .collect();
            check(&text);
            check_set_apart(&text, &mut random);
        }
    }

    /// Other white space and other comments between the tokens change neither the split nor the kinds nor the checksum.
    fn check_set_apart(text: &str, random: &mut impl FnMut(usize) -> usize) {
        let script = parse(text);
        let line_counts = |obstacle: &Obstacle| {
            matches!(
                obstacle.kind,
                ObstacleKind::PsqlCommand(_) | ObstacleKind::CopyFromStdin
            )
        };
        if script.obstacles.iter().any(line_counts) || !script.psql_lines.is_empty() {
            return;
        }
        let begin = text.len() - text.strip_prefix('\u{feff}').unwrap_or(text).len();
        let mut apart = String::new();
        let mut after_literal = false;
        for token in Lexer::new(text, begin) {
            // A line break between two literals would make them one.
            let gaps = [
                " ",
                "\t",
                "/* ; */",
                "/*'/**/*/ ",
                "\r\n",
                " -- ;\n",
                "\n\n",
            ];
            apart.push_str(gaps[random(if after_literal { 4 } else { gaps.len() })]);
            apart.push_str(token.text);
            after_literal = token.kind == TokenKind::Literal;
        }
        let other = parse(&apart);
        assert_eq!(other.checksum, script.checksum, "{text}\n{apart}");
        let kinds = |script: &Script| -> Vec<String> {
            let kind = |statement: &Statement| format!("{:?}", statement.kind);
            script.statements.iter().map(kind).collect()
        };
        assert_eq!(kinds(&other), kinds(&script), "{text}\n{apart}");
    }

    /// Tokens are in order, and between them are only white space and comments.
    fn check_tokens(text: &str) {
        let mut end = 0;
        for token in Lexer::new(text, 0) {
            assert!(end <= token.start && token.start < token.end(), "{text}");
            assert!(
                Lexer::new(&text[end..token.start], 0).next().is_none(),
                "{text}"
            );
            end = token.end();
        }
        assert!(Lexer::new(&text[end..], 0).next().is_none(), "{text}");
    }

    /// Statements are in order, apart, and between characters; between them is nothing that they
    /// should hold; each, read alone, is itself; and they are all that the checksum covers.
    fn check(text: &str) {
        check_tokens(text);
        let script = parse(text);
        let copies = script
            .obstacles
            .iter()
            .any(|obstacle| obstacle.kind == ObstacleKind::CopyFromStdin);
        let mut end = if text.starts_with('\u{feff}') { 3 } else { 0 };
        for statement in &script.statements {
            let range = statement.range();
            assert!(end <= range.start && range.start < range.end, "{text}");
            assert!(
                copies || is_empty_between(&text[end..range.start]),
                "{text}"
            );
            end = range.end;
            let alone = &text[range];
            if !alone.starts_with('\u{feff}') {
                let alone = parse(alone);
                assert_eq!(alone.statements.len(), 1, "{text}");
                assert_eq!(alone.statements[0].kind, statement.kind, "{text}");
            }
        }
        assert!(copies || is_empty_between(&text[end..]), "{text}");
        assert!(
            script
                .obstacles
                .is_sorted_by_key(|obstacle| obstacle.offset),
            "{text}"
        );
        assert!(
            script
                .obstacles
                .iter()
                .all(|obstacle| text.is_char_boundary(obstacle.offset)),
            "{text}"
        );
        for line in &script.psql_lines {
            assert!(
                text[line.clone()].starts_with('\\') && !text[line.clone()].contains('\n'),
                "{text}"
            );
        }
        if !copies {
            let alone: Vec<&str> = script
                .statements
                .iter()
                .map(|statement| &text[statement.range()])
                .collect();
            let again = parse(&format!(";{}", alone.join("\n;\n")));
            assert_eq!(again.checksum, script.checksum, "{text}");
        }
    }

    fn is_empty_between(gap: &str) -> bool {
        Lexer::new(gap, 0).all(|token| token.is_symbol(";") || token.kind == TokenKind::Backslash)
    }
}
