//! A place in a statement's tokens. Its methods take what they expect and go on, or take nothing and say so. Pure.

use crate::sql::{Token, TokenKind};

/// A name as the server stores it, each part of `schema.table`.
pub type Parts = Vec<String>;

#[derive(Clone, Copy)]
pub struct Words<'t> {
    rest: &'t [Token<'t>],
}

impl<'t> Words<'t> {
    pub fn new(tokens: &'t [Token<'t>]) -> Words<'t> {
        Words { rest: tokens }
    }

    /// What has not been taken.
    pub fn rest(&self) -> &'t [Token<'t>] {
        self.rest
    }

    pub fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    fn advance(&mut self) {
        self.rest = self.rest.get(1..).unwrap_or_default();
    }

    pub fn at_word(&self, word: &str) -> bool {
        self.rest.first().is_some_and(|token| token.is_word(word))
    }

    pub fn at_symbol(&self, symbol: &str) -> bool {
        self.rest
            .first()
            .is_some_and(|token| token.is_symbol(symbol))
    }

    /// Takes these words, all of them or none.
    pub fn takes(&mut self, words: &str) -> bool {
        let before = *self;
        for word in words.split(' ') {
            if !self.at_word(word) {
                *self = before;
                return false;
            }
            self.advance();
        }
        true
    }

    /// Takes one of these phrases, if one stands here, and tells whether.
    pub fn takes_one_of(&mut self, phrases: &[&str]) -> bool {
        phrases.iter().any(|phrase| self.takes(phrase))
    }

    pub fn symbol(&mut self, symbol: &str) -> bool {
        let found = self.at_symbol(symbol);
        if found {
            self.advance();
        }
        found
    }

    /// Takes a word, whatever it is, in lower case; empty if there is none.
    pub fn word(&mut self) -> String {
        let token = self
            .rest
            .first()
            .filter(|token| token.kind == TokenKind::Word);
        let word = token.map(|token| token.text.to_ascii_lowercase());
        if word.is_some() {
            self.advance();
        }
        word.unwrap_or_default()
    }

    /// Takes an identifier.
    pub fn name(&mut self) -> Option<String> {
        let name = self
            .rest
            .first()
            .filter(|token| token.is_name())?
            .stored_name();
        self.advance();
        Some(name)
    }

    /// Takes `[schema.]name`.
    pub fn parts(&mut self) -> Option<Parts> {
        let mut parts = vec![self.name()?];
        while self.at_symbol(".") && self.rest.get(1).is_some_and(Token::is_name) {
            self.advance();
            parts.extend(self.name());
        }
        Some(parts)
    }

    /// Takes a table as most commands name it: `ONLY (t)`, `t *`.
    pub fn relation(&mut self) -> Option<Parts> {
        let in_parens = self.takes("only") && self.symbol("(");
        let parts = self.parts()?;
        let _ = self.symbol(if in_parens { ")" } else { "*" });
        Some(parts)
    }

    /// Takes `t, ONLY u, v *`, each with what stands in parentheses behind it.
    pub fn relations(&mut self) -> Vec<Parts> {
        let mut relations = Vec::new();
        while let Some(parts) = self.relation() {
            relations.push(parts);
            let _ = self.group();
            if !self.symbol(",") {
                break;
            }
        }
        relations
    }

    /// Takes what is in the parentheses that open here, if any.
    pub fn group(&mut self) -> Option<Words<'t>> {
        if !self.at_symbol("(") {
            return None;
        }
        let mut depth = 0_usize;
        let close = self.rest.iter().position(|token| {
            depth = depth_after(depth, token);
            depth == 0
        });
        let end = close.unwrap_or(self.rest.len());
        let inside = Words::new(self.rest.get(1..end).unwrap_or_default());
        self.rest = self.rest.get(end + 1..).unwrap_or_default();
        Some(inside)
    }

    /// Goes behind the next of these words outside parentheses; where there is none, stays.
    pub fn seek(&mut self, words: &str) -> bool {
        let before = *self;
        while !self.is_over() {
            if self.takes(words) {
                return true;
            }
            if self.group().is_none() {
                self.advance();
            }
        }
        *self = before;
        false
    }

    /// Returns true if and only if these words stand anywhere outside parentheses.
    pub fn has(mut self, words: &str) -> bool {
        self.seek(words)
    }

    /// What commas outside parentheses and brackets separate.
    pub fn elements(self) -> Vec<Words<'t>> {
        let mut depth = 0_usize;
        self.rest
            .split(|token| {
                depth = depth_after(depth, token);
                depth == 0 && token.is_symbol(",")
            })
            .map(Words::new)
            .collect()
    }
}

fn depth_after(depth: usize, token: &Token<'_>) -> usize {
    if token.is_symbol("(") || token.is_symbol("[") {
        depth + 1
    } else if token.is_symbol(")") || token.is_symbol("]") {
        depth.saturating_sub(1)
    } else {
        depth
    }
}
