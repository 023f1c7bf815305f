//! Types of columns: whether another type means that the rows are written anew (`ATColumnChangeRequiresRewrite` in the
//! server's `commands/tablecmds.c`, and the support functions of the types with a length). Pure.

use std::collections::BTreeSet;

use crate::sql::Cursor;

/// A type by the name that `format_type` gives it, without its schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    pub name: String,
    modifiers: Vec<u32>,
}

/// What SQL calls otherwise.
const ALIASES: [(&str, &str); 14] = [
    ("integer", "int|int4"),
    ("smallint", "int2"),
    ("bigint", "int8"),
    ("boolean", "bool"),
    ("real", "float4"),
    ("double precision", "float8|float"),
    ("numeric", "decimal|dec"),
    ("character varying", "varchar"),
    ("character", "char|bpchar"),
    ("bit varying", "varbit"),
    ("timestamp without time zone", "timestamp"),
    ("timestamp with time zone", "timestamptz"),
    ("time without time zone", "time"),
    ("time with time zone", "timetz"),
];

impl Type {
    /// Takes a type as a column's definition has it.
    pub fn read(words: &mut Cursor<'_>) -> Type {
        let mut name = words.parts().unwrap_or_default().pop().unwrap_or_default();
        let more = |phrase| format!(" {phrase}");
        name.extend(words.first_of("precision|varying").map(more));
        let modifiers = words.list().into_iter();
        let mut modifiers: Vec<u32> = modifiers.filter_map(|mut it| it.number()).collect();
        let zone = words.first_of("with time zone|without time zone");
        name.extend(zone.map(more));
        let is_alias = |others: &str| others.split('|').any(|it| it == name);
        if let Some((standard, _)) = ALIASES.iter().find(|(_, others)| is_alias(others)) {
            (*standard).clone_into(&mut name);
        }
        if ["character", "bit"].contains(&name.as_str()) && modifiers.is_empty() {
            modifiers.push(1);
        }
        if words.symbol("[") || words.takes("array") {
            name.push_str("[]");
        }
        let _ = words.number().is_some() | words.symbol("]");
        Type { name, modifiers }
    }

    /// Returns true if and only if every value of this type is one of the new type as it stands on disk.
    pub fn is_kept_by(&self, new: &Type, coercible: &BTreeSet<(String, String)>) -> bool {
        if self.name != new.name {
            let pair = (self.name.clone(), new.name.clone());
            return new.modifiers.is_empty() && coercible.contains(&pair);
        }
        match (new.name.as_str(), &*self.modifiers, &*new.modifiers) {
            (_, old, new) if old == new => true,
            (name, ..) if name.ends_with("[]") => false,
            ("character varying" | "bit varying" | "numeric", _, []) => true,
            ("character varying" | "bit varying", [old], [new]) => new >= old,
            ("numeric", [old, old_scale @ ..], [new, new_scale @ ..]) => {
                let scale = |it: &[u32]| it.first().copied().unwrap_or(0);
                new >= old && scale(old_scale) == scale(new_scale)
            }
            (name, old, new) if name.starts_with("time") || name == "interval" => {
                let precision = |it: &[u32]| it.first().copied().unwrap_or(6);
                precision(new) >= precision(old)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_which_values_stay_as_they_are() {
        let pair = |old: &str, new: &str| (old.to_owned(), new.to_owned());
        let coercible =
            BTreeSet::from([pair("character varying", "text"), pair("text", "character varying")]);
        for (old, new, stays) in [
            ("character varying(10)", "text", true),
            ("character varying(10)", "varchar(20)", true),
            ("character varying(10)", "varchar", true),
            ("character varying(10)", "varchar(9)", false),
            ("text", "varchar", true),
            ("text", "varchar(9)", false),
            ("integer", "bigint", false),
            ("integer", "int4", true),
            ("character(1)", "char", true),
            ("character(1)", "char(2)", false),
            ("numeric(4,2)", "decimal(6, 2)", true),
            ("numeric(4,2)", "numeric(6,3)", false),
            ("numeric(4,0)", "numeric(6)", true),
            ("numeric(4,2)", "numeric", true),
            ("numeric", "numeric(6)", false),
            ("timestamp(3) without time zone", "timestamp", true),
            ("timestamp without time zone", "timestamp(3)", false),
            ("timestamp with time zone", "timestamptz", true),
            ("timestamp without time zone", "timestamptz", false),
            ("double precision", "float", true),
            ("text[]", "text[]", true),
            ("character varying[]", "text[]", false),
            ("public.mood", "mood", true),
        ] {
            let read = |text: &str| Type::read(&mut Cursor::new(text));
            let kept = read(old).is_kept_by(&read(new), &coercible);
            assert_eq!(kept, stays, "{old} to {new}");
        }
    }
}
