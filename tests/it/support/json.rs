//! A strict reader of JSON documents, for what commands answer: which fields there are, of which types, with which values.

use std::collections::BTreeMap;

use crate::support::Outcome;

impl Outcome {
    /// The types that each field of the document has, by its path: `lock.holder.pid`, `migrations[].state`. Objects and
    /// lists count as fields, but not the document itself.
    #[track_caller]
    pub fn json_paths(&self) -> BTreeMap<String, Vec<&'static str>> {
        let mut found: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
        for (path, kind, _) in self.json() {
            let kinds = found.entry(path).or_default();
            if !kinds.contains(&kind) {
                kinds.push(kind);
                kinds.sort_unstable();
            }
        }
        found
    }

    /// The value of the field with this path, as text.
    #[track_caller]
    pub fn json_value(&self, path: &str) -> String {
        let found = self.json().into_iter().find(|(it, _, _)| it == path);
        let (_, _, value) = found.unwrap_or_else(|| panic!("no field {path}\n{self}"));
        value
    }

    #[track_caller]
    fn json(&self) -> Vec<(String, &'static str, String)> {
        let mut reader = Reader { rest: &self.stdout, found: Vec::new() };
        let read = reader.value("");
        assert!(read.is_some() && reader.rest == "\n", "no JSON at {:?}\n{self}", reader.rest);
        reader.found
    }
}

struct Reader<'a> {
    rest: &'a str,
    found: Vec<(String, &'static str, String)>,
}

impl Reader<'_> {
    fn value(&mut self, path: &str) -> Option<()> {
        self.blanks();
        let at = self.found.len();
        let (kind, text) = match self.rest.chars().next()? {
            '{' => {
                self.list('{', '}', |reader| {
                    let name = reader.string()?;
                    reader.sign(':')?;
                    let dot = if path.is_empty() { "" } else { "." };
                    reader.value(&format!("{path}{dot}{name}"))
                })?;
                ("object", String::new())
            }
            '[' => {
                self.list('[', ']', |reader| reader.value(&format!("{path}[]")))?;
                ("list", String::new())
            }
            '"' => ("string", self.string()?),
            _ => {
                let end = self.rest.find([',', '}', ']', '\n'])?;
                let (word, rest) = self.rest.split_at(end);
                self.rest = rest;
                let kind = match word {
                    "null" => "null",
                    "true" | "false" => "boolean",
                    word if word.parse::<i64>().is_ok() => "integer",
                    _ => return None,
                };
                (kind, word.to_owned())
            }
        };
        let is_element = path.ends_with("[]") && kind == "object";
        if !path.is_empty() && !is_element {
            self.found.insert(at, (path.to_owned(), kind, text));
        }
        Some(())
    }

    fn list(
        &mut self,
        open: char,
        close: char,
        mut entry: impl FnMut(&mut Self) -> Option<()>,
    ) -> Option<()> {
        self.sign(open)?;
        if self.sign(close).is_some() {
            return Some(());
        }
        loop {
            self.blanks();
            entry(self)?;
            if self.sign(',').is_none() {
                return self.sign(close);
            }
        }
    }

    fn blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\n']);
    }

    /// Goes on behind a sign, if it comes next.
    fn sign(&mut self, sign: char) -> Option<()> {
        let rest = self.rest.trim_start_matches([' ', '\n']);
        self.rest = rest.strip_prefix(sign)?;
        Some(())
    }

    fn string(&mut self) -> Option<String> {
        let mut value = String::new();
        let mut characters = self.rest.strip_prefix('"')?.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.rest = &self.rest[at + 2..];
                    return Some(value);
                }
                '\\' => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    't' => value.push('\t'),
                    'r' => value.push('\r'),
                    'u' => {
                        let digits = (0..4).filter_map(|_| characters.next());
                        let digits: String = digits.map(|(_, digit)| digit).collect();
                        value.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?);
                    }
                    plain @ ('"' | '\\') => value.push(plain),
                    _ => return None,
                },
                control if control.is_control() => return None,
                plain => value.push(plain),
            }
        }
        None
    }
}
