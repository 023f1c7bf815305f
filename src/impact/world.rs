//! What exists when a statement runs: the tables from before the plan, as far as the statements before this one have
//! left them. Pure.
//!
//! What did not exist before the plan can block nobody, so only that is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::words::Parts;
use crate::sql::quote::bare_or_quoted as quoted;

/// A table's, a view's or an index's name, with the schema where it was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    pub schema: String,
    pub name: String,
}

impl fmt::Display for Name {
    /// Qualified and quoted as in SQL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", quoted(&self.schema), quoted(&self.name))
    }
}

/// What statements can name.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Of the session, without what does not exist.
    pub search_path: Vec<String>,
    /// Tables, views and materialized views from before the plan, by the names they have now.
    pub tables: BTreeSet<Name>,
    /// Those of them that have partitions or children.
    pub parents: BTreeSet<Name>,
    /// The table of each index.
    pub indexes: BTreeMap<Name, Name>,
    /// What the plan has created meanwhile.
    pub created: BTreeSet<Name>,
    /// Types that the plan has created.
    pub new_types: BTreeSet<String>,
    /// Domains with constraints, from before the plan and since.
    pub checked_domains: BTreeSet<String>,
    /// `CHECK (column IS NOT NULL)` constraints that the plan has added without looking at the rows: table, constraint
    /// and column.
    pub unproven: Vec<(Name, String, String)>,
    /// Table and column of those that it has looked at the rows for.
    pub proven: Vec<(Name, String)>,
    before_file: Vec<String>,
}

/// What a statement changes in the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Creates(Name),
    Drops(Name),
    Renames(Name, Name),
    CreatesIndex(Name, Name),
    CreatesType(String),
    CreatesCheckedDomain(String),
    RenamesSchema(String, String),
    SearchPath(Vec<String>),
    DefaultSearchPath,
    AddsCheck {
        table: Name,
        constraint: String,
        column: String,
        is_valid: bool,
    },
    Validates(Name, String),
}

impl World {
    pub fn new(
        search_path: Vec<String>,
        tables: BTreeSet<Name>,
        indexes: BTreeMap<Name, Name>,
        checked_domains: BTreeSet<String>,
    ) -> World {
        World {
            before_file: search_path.clone(),
            search_path,
            tables,
            indexes,
            checked_domains,
            ..World::default()
        }
    }

    pub fn with_parents(self, parents: BTreeSet<Name>) -> World {
        World { parents, ..self }
    }

    /// A file begins: what the one before has set is gone.
    pub fn begin_file(&mut self) {
        self.search_path.clone_from(&self.before_file);
    }

    /// Returns true if and only if it is a table from before the plan.
    pub fn is_old(&self, table: &Name) -> bool {
        self.tables.contains(table)
    }

    /// What these parts of a name mean, as the server would look it up; if there is no such table, where it would be
    /// created.
    pub fn resolve(&self, parts: &Parts) -> Name {
        self.look_up(parts, |name| {
            self.tables.contains(name) || self.created.contains(name)
        })
    }

    /// Where these parts of a name mean a thing to be created.
    pub fn resolve_new(&self, parts: &Parts) -> Name {
        self.look_up(parts, |_| true)
    }

    /// Returns true if and only if there is such a table or view now.
    pub fn exists(&self, parts: &Parts) -> bool {
        let name = self.resolve(parts);
        self.tables.contains(&name) || self.created.contains(&name)
    }

    /// The name as a session with the role's `search_path` may write it.
    pub fn shown(&self, name: &Name) -> String {
        match self.before_file.contains(&name.schema) {
            true => quoted(&name.name),
            false => name.to_string(),
        }
    }

    /// The table of an index.
    pub fn table_of_index(&self, parts: &Parts) -> Option<&Name> {
        let index = self.look_up(parts, |name| self.indexes.contains_key(name));
        self.indexes.get(&index)
    }

    fn look_up(&self, parts: &Parts, exists: impl Fn(&Name) -> bool) -> Name {
        let name = parts.last().cloned().unwrap_or_default();
        let within = |schema: &str| Name {
            schema: schema.to_owned(),
            name: name.clone(),
        };
        if let [.., schema, _] = parts.as_slice() {
            return within(schema);
        }
        let found = self
            .search_path
            .iter()
            .map(|schema| within(schema))
            .find(exists);
        let first = self.search_path.first().map_or("", String::as_str);
        found.unwrap_or_else(|| within(first))
    }

    pub fn apply(&mut self, effect: &Effect) {
        match effect {
            Effect::Creates(name) => drop(self.created.insert(name.clone())),
            Effect::Drops(name) => {
                self.tables.remove(name);
                self.parents.remove(name);
                self.created.remove(name);
                self.indexes
                    .retain(|index, table| index != name && table != name);
            }
            Effect::Renames(from, to) => self.rename(from, to),
            Effect::CreatesIndex(index, table) => {
                self.indexes.insert(index.clone(), table.clone());
            }
            Effect::CreatesType(name) => drop(self.new_types.insert(name.clone())),
            Effect::CreatesCheckedDomain(name) => drop(self.checked_domains.insert(name.clone())),
            Effect::RenamesSchema(from, to) => {
                let all: Vec<Name> = self.tables.iter().chain(&self.created).cloned().collect();
                for name in all.into_iter().filter(|name| name.schema == *from) {
                    let renamed = Name {
                        schema: to.clone(),
                        name: name.name.clone(),
                    };
                    self.rename(&name, &renamed);
                }
            }
            Effect::DefaultSearchPath => self.begin_file(),
            Effect::SearchPath(path) => self.search_path.clone_from(path),
            Effect::AddsCheck {
                table,
                column,
                is_valid: true,
                ..
            } => self.proven.push((table.clone(), column.clone())),
            Effect::AddsCheck {
                table,
                constraint,
                column,
                is_valid: false,
            } => self
                .unproven
                .push((table.clone(), constraint.clone(), column.clone())),
            Effect::Validates(table, constraint) => {
                let validated = self
                    .unproven
                    .iter()
                    .filter(|it| it.0 == *table && it.1 == *constraint);
                self.proven
                    .extend(validated.map(|it| (it.0.clone(), it.2.clone())));
            }
        }
    }

    fn rename(&mut self, from: &Name, to: &Name) {
        if self.parents.remove(from) {
            self.parents.insert(to.clone());
        }
        if self.tables.remove(from) {
            self.tables.insert(to.clone());
        }
        if self.created.remove(from) {
            self.created.insert(to.clone());
        }
        self.indexes
            .values_mut()
            .filter(|table| *table == from)
            .for_each(|table| table.clone_from(to));
    }
}
