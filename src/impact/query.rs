//! Which tables a query names, and which functions it calls: SELECT, INSERT, UPDATE, DELETE, MERGE, and all that is
//! made of them. Pure.
//!
//! It walks over the tokens once, with a frame for each open parenthesis, and knows of the grammar only where a table
//! can stand: behind FROM, JOIN, INTO, USING, UPDATE and TABLE. It does not see what views, triggers, foreign keys and
//! functions lock in turn.

use super::Mode;
use super::words::{Parts, Words};
use crate::sql::{Token, TokenKind};

#[derive(Default)]
pub struct Query {
    pub tables: Vec<(Parts, Mode)>,
    /// Functions that are called, without those that PostgreSQL brings along and that lock nothing.
    pub calls: Vec<String>,
    /// The new table of a `SELECT … INTO`.
    pub creates: Option<Parts>,
}

/// What stands between two parentheses.
#[derive(Default)]
struct Frame {
    /// SELECT, INSERT, …
    verb: String,
    /// Nothing has been read of it yet, or only its WITH.
    at_start: bool,
    has_with: bool,
    in_from: bool,
    /// `FROM` here is an argument's: `extract(year FROM x)`.
    is_call: bool,
    /// A subquery or a join in a FROM, whose tables belong to the query around it.
    is_from_item: bool,
    expects: Option<Mode>,
    /// Tables of this query, and what they are called in it.
    tables: Vec<(usize, String)>,
}

/// What ends a FROM list.
const AFTER_FROM: [&str; 16] = [
    "where",
    "group",
    "having",
    "order",
    "limit",
    "offset",
    "fetch",
    "union",
    "intersect",
    "except",
    "window",
    "returning",
    "set",
    "values",
    "for",
    "when",
];

/// What may stand directly before a table.
const BEFORE_TABLE: [&str; 12] = [
    "from",
    "join",
    "into",
    "using",
    "update",
    "table",
    "only",
    "lateral",
    "rows",
    "temp",
    "temporary",
    "unlogged",
];

/// Functions whose arguments are separated by words.
const FROM_IN_ARGUMENTS: [&str; 5] = ["extract", "substring", "trim", "overlay", "position"];

impl Query {
    pub fn read(words: Words<'_>) -> Query {
        let mut reader = Reader {
            query: Query::default(),
            frames: vec![Frame {
                at_start: true,
                ..Frame::default()
            }],
            ctes: common_table_names(words.rest()),
            tokens: words.rest(),
            at: 0,
        };
        while reader.at < reader.tokens.len() {
            reader.step();
        }
        reader.query
    }
}

/// The names that a WITH gives to its queries.
fn common_table_names(tokens: &[Token<'_>]) -> Vec<String> {
    let mut names = Vec::new();
    for (at, token) in tokens
        .iter()
        .enumerate()
        .filter(|(_, token)| token.is_name())
    {
        let mut words = Words::new(&tokens[at + 1..]);
        let _columns = words.group();
        if words.takes("as") {
            let _ = words.takes("not materialized") || words.takes("materialized");
            let introduced = at.checked_sub(1).is_some_and(|before| {
                let before = &tokens[before];
                before.is_word("with") || before.is_word("recursive") || before.is_symbol(",")
            });
            if introduced && words.at_symbol("(") {
                names.push(token.stored_name());
            }
        }
    }
    names
}

struct Reader<'t> {
    query: Query,
    frames: Vec<Frame>,
    ctes: Vec<String>,
    tokens: &'t [Token<'t>],
    at: usize,
}

impl<'t> Reader<'t> {
    fn before(&self, back: usize) -> Option<&'t Token<'t>> {
        self.at.checked_sub(back).and_then(|at| self.tokens.get(at))
    }

    fn is_before(&self, word: &str) -> bool {
        self.before(1).is_some_and(|token| token.is_word(word))
    }

    fn words(&self) -> Words<'t> {
        Words::new(&self.tokens[self.at..])
    }

    fn frame(&mut self) -> &mut Frame {
        if self.frames.is_empty() {
            self.frames.push(Frame::default());
        }
        let last = self.frames.len() - 1;
        &mut self.frames[last]
    }

    fn step(&mut self) {
        let token = &self.tokens[self.at];
        if token.is_symbol("(") {
            self.open();
        } else if token.is_symbol(")") {
            self.close();
        } else if token.is_symbol(",") {
            let frame = self.frame();
            if frame.in_from {
                frame.expects = Some(Mode::AccessShare);
            }
        } else if token.is_symbol(";") {
            // Between the statements of a function's body.
            self.frames.truncate(1);
            *self.frame() = Frame {
                at_start: true,
                ..Frame::default()
            };
        } else if self.frame().expects.is_some() && token.is_name() && !self.is_noise(token) {
            return self.table();
        } else if token.kind == TokenKind::Word {
            self.keyword(&token.text.to_ascii_lowercase());
            self.note_call();
        } else {
            self.frame().expects = None;
            self.note_call();
        }
        self.at += 1;
    }

    /// What may stand between FROM and the table.
    fn is_noise(&self, token: &Token<'_>) -> bool {
        [
            "only",
            "lateral",
            "rows",
            "select",
            "values",
            "with",
            "from",
            "temp",
            "temporary",
            "unlogged",
        ]
        .iter()
        .any(|word| token.is_word(word))
            || (token.is_word("table") && self.is_before("into"))
    }

    fn open(&mut self) {
        let before = self.before(1);
        let called = before
            .filter(|token| token.is_name())
            .map(|token| token.text.to_ascii_lowercase());
        let is_call = called.is_some_and(|name| FROM_IN_ARGUMENTS.contains(&name.as_str()));
        let expects = self.frame().expects.take();
        let next = Words::new(&self.tokens[self.at + 1..]);
        let is_query = [
            "select", "with", "values", "insert", "update", "delete", "merge",
        ]
        .iter()
        .any(|word| next.at_word(word));
        let is_rows = before.is_some_and(|token| token.is_word("from"))
            && self.before(2).is_some_and(|token| token.is_word("rows"));
        let is_join = expects.is_some() && !is_query && !is_rows;
        self.frames.push(Frame {
            at_start: true,
            is_call,
            is_from_item: expects.is_some(),
            in_from: is_join,
            expects: expects.filter(|_| is_join),
            ..Frame::default()
        });
    }

    fn close(&mut self) {
        if self.frames.len() > 1
            && let Some(frame) = self.frames.pop()
            && frame.is_from_item
        {
            self.frame().tables.extend(frame.tables);
        }
    }

    /// A name where a table is expected; or a function's.
    fn table(&mut self) {
        let mut words = self.words();
        let parts = words.parts().unwrap_or_default();
        let taken = self.words().rest().len() - words.rest().len();
        let frame = self.frame();
        let mode = frame.expects.take().unwrap_or(Mode::AccessShare);
        let verb = frame.verb.clone();
        self.at += taken;
        if mode == Mode::AccessShare && words.at_symbol("(") {
            self.at -= 1;
            self.note_call();
            self.at += 1;
            return;
        }
        let mut before = self.tokens[..self.at - taken].iter().rev();
        let storage = ["temp", "temporary", "unlogged", "table"];
        let introduced = before.find(|token| !storage.iter().any(|word| token.is_word(word)));
        let is_new = verb == "select" && introduced.is_some_and(|token| token.is_word("into"));
        if is_new {
            self.query.creates = Some(parts);
            return;
        }
        let is_cte = parts.len() == 1 && self.ctes.contains(&parts[0]);
        if is_cte && mode == Mode::AccessShare {
            return;
        }
        let _ = words.symbol("*") || words.takes("as");
        let own = parts.last().cloned().unwrap_or_default();
        let alias = words.name().unwrap_or_default();
        let index = self.query.tables.len();
        self.query.tables.push((parts, mode));
        let frame = self.frame();
        frame.tables.push((index, alias));
        frame.tables.push((index, own));
    }

    /// Returns true if and only if a command begins here.
    fn begins(&mut self, previous: &str) -> bool {
        let before = [
            "union",
            "intersect",
            "except",
            "all",
            "explain",
            "analyze",
            "verbose",
            "atomic",
        ];
        let frame = self.frame();
        let is_behind_with = frame.has_with && frame.verb.is_empty() && previous == ")";
        let begins = frame.at_start || is_behind_with || before.contains(&previous);
        frame.at_start = false;
        begins
    }

    fn keyword(&mut self, word: &str) {
        let previous = self.before(1).map(|token| token.text.to_ascii_lowercase());
        let previous = previous.unwrap_or_default();
        let starts = self.begins(&previous);
        let is_distinct_from = previous == "distinct"
            && self
                .before(2)
                .is_some_and(|token| token.is_word("is") || token.is_word("not"));
        let next = Words::new(&self.tokens[self.at + 1..]);
        let frame = self.frame();
        let is_delete = previous == "delete" || previous == "merge";
        match word {
            "with" if starts => frame.has_with = true,
            "explain" | "analyze" | "verbose" | "begin" | "atomic" if starts => {
                frame.at_start = true
            }
            "select" | "values" if frame.verb.is_empty() || starts => frame.verb = word.to_owned(),
            "insert" | "delete" | "merge" if starts => frame.verb = word.to_owned(),
            "update" if starts => {
                frame.verb = word.to_owned();
                frame.expects = Some(Mode::RowExclusive);
            }
            "table" if starts || frame.verb == "insert" => frame.expects = Some(Mode::AccessShare),
            "from" if frame.is_call || is_distinct_from => {}
            "from" => {
                frame.in_from = !is_delete;
                frame.expects = Some(if is_delete {
                    Mode::RowExclusive
                } else {
                    Mode::AccessShare
                });
            }
            "join" => frame.expects = Some(Mode::AccessShare),
            "into" => frame.expects = Some(Mode::RowExclusive),
            "using" if frame.verb == "delete" || frame.verb == "merge" => {
                let mut inside = next;
                let is_columns = inside.group().is_some_and(|it| {
                    !it.at_word("select") && !it.at_word("with") && !it.at_word("values")
                });
                if !is_columns {
                    frame.in_from = true;
                    frame.expects = Some(Mode::AccessShare);
                }
            }
            "for" => self.row_locks(),
            _ => {}
        }
        let frame = self.frame();
        if AFTER_FROM.contains(&word) {
            frame.in_from = false;
        }
        if !BEFORE_TABLE.contains(&word) {
            frame.expects = None;
        }
    }

    /// `FOR UPDATE [OF t, …]` and its like.
    fn row_locks(&mut self) {
        let mut words = self.words();
        let _ = words.word();
        if !words.takes_one_of(&["update", "no key update", "share", "key share"]) {
            return;
        }
        let mut only: Vec<String> = Vec::new();
        if words.takes("of") {
            while let Some(name) = words.name() {
                only.push(name);
                if !words.symbol(",") {
                    break;
                }
            }
        }
        let named = std::mem::take(&mut self.frame().tables);
        for (index, name) in &named {
            if (only.is_empty() || only.contains(name))
                && let Some(table) = self.query.tables.get_mut(*index)
            {
                table.1 = table.1.max(Mode::RowShare);
            }
        }
        self.frame().tables = named;
    }

    /// A name directly before a parenthesis.
    fn note_call(&mut self) {
        let token = &self.tokens[self.at];
        let opens = self
            .tokens
            .get(self.at + 1)
            .is_some_and(|next| next.is_symbol("("));
        if !opens || !token.is_name() {
            return;
        }
        let name = token.stored_name();
        let is_quoted = token.kind != TokenKind::Word;
        if !is_quoted && (NO_CALLS.contains(&name.as_str()) || self.is_alias()) {
            return;
        }
        let schema = self
            .before(1)
            .filter(|it| it.is_symbol("."))
            .and(self.before(2))
            .map(Token::stored_name);
        let is_known = schema
            .as_deref()
            .is_none_or(|schema| schema == "pg_catalog")
            && (HARMLESS.contains(&name.as_str()) || super::alter::STEADY.contains(&name.as_str()));
        if !is_known && !self.query.calls.contains(&name) {
            self.query.calls.push(name);
        }
    }

    /// `AS x (a, b)`, `WITH x (a, b) AS`, `x::numeric(10, 2)`.
    fn is_alias(&self) -> bool {
        self.before(1).is_some_and(|before| {
            ["as", "with", "recursive"]
                .iter()
                .any(|word| before.is_word(word))
                || before.is_symbol("::")
        }) || self.ctes.contains(&self.tokens[self.at].stored_name())
    }
}

/// Words that stand before a parenthesis and call nothing.
const NO_CALLS: [&str; 62] = [
    "in",
    "and",
    "or",
    "not",
    "exists",
    "any",
    "some",
    "all",
    "values",
    "as",
    "over",
    "filter",
    "on",
    "using",
    "cast",
    "case",
    "when",
    "then",
    "else",
    "coalesce",
    "nullif",
    "greatest",
    "least",
    "row",
    "array",
    "group",
    "by",
    "where",
    "having",
    "select",
    "from",
    "join",
    "lateral",
    "with",
    "materialized",
    "union",
    "except",
    "intersect",
    "returning",
    "set",
    "is",
    "between",
    "like",
    "ilike",
    "similar",
    "distinct",
    "sets",
    "rollup",
    "cube",
    "numeric",
    "decimal",
    "varchar",
    "char",
    "character",
    "varying",
    "timestamp",
    "time",
    "bit",
    "explain",
    "limit",
    "offset",
    "conflict",
];

/// Functions of PostgreSQL's own that are volatile or of a kind of their own, and lock no table.
const HARMLESS: [&str; 54] = [
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "string_agg",
    "array_agg",
    "json_agg",
    "jsonb_agg",
    "json_object_agg",
    "jsonb_object_agg",
    "bool_and",
    "bool_or",
    "every",
    "row_number",
    "rank",
    "dense_rank",
    "ntile",
    "lag",
    "lead",
    "first_value",
    "last_value",
    "nth_value",
    "percentile_cont",
    "percentile_disc",
    "mode",
    "generate_series",
    "generate_subscripts",
    "unnest",
    "random",
    "gen_random_uuid",
    "clock_timestamp",
    "timeofday",
    "nextval",
    "currval",
    "lastval",
    "setval",
    "set_config",
    "pg_sleep",
    "jsonb_array_elements",
    "json_array_elements",
    "jsonb_array_elements_text",
    "json_array_elements_text",
    "jsonb_each",
    "jsonb_each_text",
    "jsonb_to_recordset",
    "json_to_recordset",
    "regexp_split_to_table",
    "regexp_matches",
    "string_to_table",
    "stddev",
    "variance",
    "pg_notify",
    "setseed",
];
