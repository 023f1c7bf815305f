//! A place in a statement, and the words that stand there.

use std::collections::{HashMap, HashSet};
use std::iter;

use super::lexer::{Lexer, Token, TokenKind};
use super::quote;

/// A place in a statement. Its methods take what they expect and go on, or take nothing and say so.
#[derive(Clone)]
pub struct Cursor<'a> {
    lexer: Lexer<'a>,
    pub(super) token: Option<Token<'a>>,
}

/// A name as the server stores it, each part of `schema.table`.
pub type Parts = Vec<String>;

impl<'a> Cursor<'a> {
    /// Before the statement's first token.
    pub fn new(statement: &'a str) -> Self {
        Cursor::within(statement, 0, statement.len())
    }

    /// Before the first token of a part of the text.
    fn within(text: &'a str, begin: usize, end: usize) -> Self {
        let mut cursor = Cursor { lexer: Lexer::new(&text[..end], begin), token: None };
        cursor.advance();
        cursor
    }

    /// Returns true if and only if all is taken.
    pub fn is_over(&self) -> bool {
        self.token.is_none()
    }

    pub fn advance(&mut self) {
        self.token = self.lexer.find(|token| token.kind != TokenKind::Backslash);
    }

    pub fn at_word(&self, word: &str) -> bool {
        self.token.as_ref().is_some_and(|token| token.is_word(word))
    }

    pub fn at_symbol(&self, symbol: &str) -> bool {
        let token = self.token.as_ref();
        token.is_some_and(|token| token.is_symbol(symbol))
    }

    pub(super) fn at_literal(&self) -> bool {
        let token = self.token.as_ref();
        token.is_some_and(|it| matches!(it.kind, TokenKind::Literal | TokenKind::Dollar))
    }

    /// Takes these words, all of them or none.
    pub fn takes(&mut self, words: &str) -> bool {
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

    /// Takes the first of these phrases, which bars separate, that stands here.
    pub fn first_of<'p>(&mut self, phrases: &'p str) -> Option<&'p str> {
        phrases.split('|').find(|phrase| self.takes(phrase))
    }

    /// Goes behind these phrases, which bars separate, as often as one of them stands here.
    pub fn skip(&mut self, phrases: &str) {
        while self.first_of(phrases).is_some() {}
    }

    pub fn symbol(&mut self, symbol: &str) -> bool {
        let found = self.at_symbol(symbol);
        if found {
            self.advance();
        }
        found
    }

    /// Takes a word, whatever it is, in upper case.
    pub(super) fn upper_word(&mut self) -> Option<String> {
        let word = self.token.as_ref().filter(|token| token.kind == TokenKind::Word)?;
        let word = quote::clip(word.text, quote::NAME_BYTES).to_ascii_uppercase();
        self.advance();
        Some(word)
    }

    /// Takes a word, whatever it is, in lower case; empty if there is none.
    pub fn lower_word(&mut self) -> String {
        self.upper_word().unwrap_or_default().to_ascii_lowercase()
    }

    /// Takes an identifier and returns it as the server would store it.
    pub fn name(&mut self) -> Option<String> {
        let token = self.token.clone().filter(Token::is_name)?;
        self.advance();
        let mut escape = '\\';
        if token.is_unicode_name() && self.takes("uescape") && self.at_literal() {
            let literal = self.token.as_ref().map_or("", |token| token.text);
            escape = literal.trim_matches('\'').chars().next().unwrap_or(escape);
            self.advance();
        }
        Some(quote::stored_name(token.text, escape))
    }

    /// Takes a plain literal, and returns what it says.
    pub fn literal(&mut self) -> Option<String> {
        let token = self.token.as_ref();
        let literal = token.and_then(|token| quote::unquoted_literal(token.text))?;
        self.advance();
        Some(literal)
    }

    /// Takes a whole number.
    pub fn number(&mut self) -> Option<u32> {
        let token = self.token.as_ref();
        let number = token.and_then(|token| token.text.parse().ok())?;
        self.advance();
        Some(number)
    }

    /// Takes `[schema.]name` and returns it as written, so that `to_regclass` takes it. It knows
    /// no `U&"…"`, which is therefore decoded.
    pub(super) fn qualified_name(&mut self) -> Option<String> {
        let mut written = String::new();
        loop {
            let token = self.token.clone()?;
            let name = self.name()?;
            written.push_str(&if token.is_unicode_name() {
                quote::identifier(&name)
            } else {
                token.text.to_owned()
            });
            if !self.symbol(".") {
                return Some(written);
            }
            written.push('.');
        }
    }

    /// Takes `[schema.]name`, part for part.
    pub fn parts(&mut self) -> Option<Parts> {
        let mut parts = vec![self.name()?];
        while self.symbol(".") {
            parts.extend(self.name());
        }
        Some(parts)
    }

    /// Takes `t, ONLY (u), v *`, each with what stands in parentheses behind it.
    pub fn tables(&mut self) -> Vec<Parts> {
        let mut tables = Vec::new();
        while let Some(parts) = self.table() {
            tables.push(parts);
            self.skip_group();
            if !self.symbol(",") {
                break;
            }
        }
        tables
    }

    /// Takes a table as most commands name it, part for part: `ONLY (t)`, `t *`.
    pub fn table(&mut self) -> Option<Parts> {
        self.perhaps_only(Cursor::parts)
    }

    /// Takes a table as `ALTER TABLE` and `CREATE INDEX … ON` name it: `ONLY (t)`, `t *`.
    pub(super) fn relation(&mut self) -> Option<String> {
        self.perhaps_only(Cursor::qualified_name)
    }

    fn perhaps_only<T>(&mut self, name: fn(&mut Self) -> Option<T>) -> Option<T> {
        let in_parens = self.takes("only") && self.symbol("(");
        let name = name(self)?;
        let _ = self.symbol(if in_parens { ")" } else { "*" });
        Some(name)
    }

    /// Goes behind the next of these words outside parentheses; where there is none, stays.
    pub fn seek(&mut self, words: &str) -> bool {
        let before = self.clone();
        while !self.is_over() {
            if self.takes(words) {
                return true;
            }
            if !self.skip_group() {
                self.advance();
            }
        }
        *self = before;
        false
    }

    /// Returns true if and only if these words stand anywhere from here on, outside parentheses.
    pub fn has(&self, words: &str) -> bool {
        self.clone().seek(words)
    }

    pub fn skip_group(&mut self) -> bool {
        self.group().is_some()
    }

    /// Takes what begins the definition of a function or a procedure.
    pub(super) fn takes_new_routine(&mut self) -> bool {
        self.first_of("create or replace|create").is_some()
            && self.first_of("function|procedure").is_some()
    }

    /// Takes what is in the parentheses that open here, if any.
    pub fn group(&mut self) -> Option<Cursor<'a>> {
        if !self.at_symbol("(") {
            return None;
        }
        let (text, begin) = (self.lexer.text, self.lexer.at);
        let (mut depth, mut end) = (0, text.len());
        while let Some(token) = self.token.take() {
            depth = match token.text {
                "(" => depth + 1,
                ")" => depth - 1,
                _ => depth,
            };
            self.advance();
            if depth == 0 {
                end = token.start;
                break;
            }
        }
        Some(Cursor::within(text, begin, end))
    }

    /// Takes the list in the parentheses that open here, if any.
    pub fn list(&mut self) -> Vec<Cursor<'a>> {
        self.group().map(Cursor::elements).unwrap_or_default()
    }

    /// What commas outside parentheses and brackets separate, from here on.
    pub fn elements(mut self) -> Vec<Cursor<'a>> {
        let text = self.lexer.text;
        let mut begin = self.token.as_ref().map_or(text.len(), |it| it.start);
        let (mut found, mut depth) = (Vec::new(), 0_usize);
        while let Some(token) = self.token.take() {
            depth = match token.text {
                "(" | "[" => depth + 1,
                ")" | "]" => depth.saturating_sub(1),
                _ => depth,
            };
            if depth == 0 && token.is_symbol(",") {
                found.push(Cursor::within(text, begin, token.start));
                begin = token.end();
            }
            self.advance();
        }
        let last = Cursor::within(text, begin, text.len());
        found.extend(Some(last).filter(|it| !it.is_over()));
        found
    }

    /// The names directly before a parenthesis, from here on: functions that are called, and types with a length.
    pub fn calls(self) -> impl Iterator<Item = String> {
        self.names().filter(|(_, is_called)| *is_called).map(|(name, _)| name)
    }

    /// The names from here on, each with whether a parenthesis follows directly.
    fn names(mut self) -> impl Iterator<Item = (String, bool)> {
        iter::from_fn(move || {
            while !self.is_over() {
                match self.name() {
                    Some(name) => return Some((name, self.at_symbol("("))),
                    None => self.advance(),
                }
            }
            None
        })
    }

    /// Takes a list of options, `(name value, name = value, name)`, if there is one, and tells whether each is on; of two
    /// with one name the last counts.
    pub fn options(&mut self) -> HashMap<String, bool> {
        let mut options = HashMap::new();
        for mut option in self.list() {
            let Some(name) = option.name() else { continue };
            // As defGetBoolean in the server's commands/define.c.
            let mut is_on = true;
            while let Some(value) = option.token.take() {
                let value = value.text.trim_matches(['\'', '"']).to_ascii_lowercase();
                is_on = !["false", "off", "0"].contains(&value.as_str());
                option.advance();
            }
            options.insert(name, is_on);
        }
        options
    }
}

/// Every word and quoted identifier of the statement as the server would store it, each once, in
/// order: among them are the names of all the tables that the statement names.
pub fn identifiers(statement: &str) -> Vec<String> {
    let mut known = HashSet::new();
    let names = Cursor::new(statement).names().map(|(name, _)| name);
    names.filter(|name| known.insert(name.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_identifiers_as_the_server_stores_them() {
        let text =
            "INSERT INTO S.\"My \"\"T\" (a, B) SELECT a, 'c', $$d$$, 1e5 FROM U&\"\\0078\" -- e";
        let expected = ["insert", "into", "s", "My \"T", "a", "b", "select", "from", "x"];
        assert_eq!(identifiers(text), expected);
        assert_eq!(identifiers("\"A\" a A \"a\""), ["A", "a"]);
    }
}
