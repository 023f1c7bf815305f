//! A place in a statement, and the words that stand there.

use std::collections::HashSet;

use super::lexer::{Lexer, Token, TokenKind};
use super::quote;

/// A place in a statement. Its methods take what they expect and go on, or take nothing and say so.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    lexer: Lexer<'a>,
    pub(super) token: Option<Token<'a>>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(statement: &'a str) -> Self {
        let mut cursor = Cursor {
            lexer: Lexer::new(statement, 0),
            token: None,
        };
        cursor.advance();
        cursor
    }

    pub(super) fn advance(&mut self) {
        self.token = self.lexer.find(|token| token.kind != TokenKind::Backslash);
    }

    pub(super) fn at_word(&self, word: &str) -> bool {
        self.token.as_ref().is_some_and(|token| token.is_word(word))
    }

    pub(super) fn at_symbol(&self, symbol: &str) -> bool {
        self.token
            .as_ref()
            .is_some_and(|token| token.is_symbol(symbol))
    }

    pub(super) fn at_literal(&self) -> bool {
        let kind = self.token.as_ref().map(|token| token.kind);
        matches!(kind, Some(TokenKind::Literal | TokenKind::Dollar))
    }

    /// Takes these words, all of them or none.
    pub(super) fn takes(&mut self, words: &str) -> bool {
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
    pub(super) fn first_of<'p>(&mut self, phrases: &[&'p str]) -> Option<&'p str> {
        phrases.iter().copied().find(|phrase| self.takes(phrase))
    }

    pub(super) fn symbol(&mut self, symbol: &str) -> bool {
        let found = self.at_symbol(symbol);
        if found {
            self.advance();
        }
        found
    }

    /// Takes a word, whatever it is, in upper case.
    pub(super) fn upper_word(&mut self) -> Option<String> {
        let word = self
            .token
            .as_ref()
            .filter(|token| token.kind == TokenKind::Word)?;
        let word = quote::clip(word.text, quote::NAME_BYTES).to_ascii_uppercase();
        self.advance();
        Some(word)
    }

    /// Takes a word, whatever it is, in lower case; empty if there is none.
    pub(super) fn lower_word(&mut self) -> String {
        self.upper_word().unwrap_or_default().to_ascii_lowercase()
    }

    /// Takes an identifier and returns it as the server would store it.
    pub(super) fn name(&mut self) -> Option<String> {
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

    /// Takes a table as `ALTER TABLE` and `CREATE INDEX … ON` name it: `ONLY (t)`, `t *`.
    pub(super) fn relation(&mut self) -> Option<String> {
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
    pub(super) fn seek(&mut self, word: &str) -> bool {
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

    pub(super) fn skip_group(&mut self) -> bool {
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
    pub(super) fn group(&mut self) -> Vec<Token<'a>> {
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
    pub(super) fn options(&mut self) -> Options {
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
            options.push((quote::stored_name(name.text, '\\'), !off));
        }
        Options(options)
    }
}

/// Options and whether each is on; of two with one name the last counts.
pub(super) struct Options(Vec<(String, bool)>);

impl Options {
    pub(super) fn value(&self, name: &str) -> Option<bool> {
        self.0
            .iter()
            .rev()
            .find(|(other, _)| other == name)
            .map(|&(_, on)| on)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    pub(super) fn is_on(&self, name: &str) -> bool {
        self.value(name) == Some(true)
    }

    pub(super) fn is_off(&self, name: &str) -> bool {
        self.value(name) == Some(false)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_identifiers_as_the_server_stores_them() {
        let text =
            "INSERT INTO S.\"My \"\"T\" (a, B) SELECT a, 'c', $$d$$, 1e5 FROM U&\"\\0078\" -- e";
        let expected = [
            "insert", "into", "s", "My \"T", "a", "b", "select", "from", "x",
        ];
        assert_eq!(identifiers(text), expected);
        assert_eq!(identifiers("\"A\" a A \"a\""), ["A", "a"]);
    }
}
