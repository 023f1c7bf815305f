//! What exists when a statement runs: what the catalog told before the plan, as far as the statements before this one have
//! left it. Pure.
//!
//! What did not exist before the plan can block nobody, so of that only what a name may mean is kept, and what links it to
//! older tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::Mode;
use super::types::Type;
use crate::sql::Parts;
use crate::sql::quote::bare_or_quoted;

/// A table's, a view's or an index's name, with the schema where it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    pub schema: String,
    pub name: String,
}

impl Name {
    pub fn new(schema: &str, name: &str) -> Name {
        let (schema, name) = (schema.to_owned(), name.to_owned());
        Name { schema, name }
    }
}

impl fmt::Display for Name {
    /// Qualified and quoted as in SQL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (schema, name) = (bare_or_quoted(&self.schema), bare_or_quoted(&self.name));
        write!(f, "{schema}.{name}")
    }
}

/// A table, a view or a materialized view.
#[derive(Clone, Debug, Default)]
pub struct Relation {
    /// It is from before the plan: somebody may use it.
    pub is_old: bool,
    /// The strongest lock on it since the file began.
    pub held: Option<Mode>,
    /// The types of those that the plan may alter.
    pub columns: BTreeMap<String, Type>,
}

/// What a table hangs on, another one that it is a part of or that one of its columns references; what an index is on; and
/// what proves that a column has no NULL.
#[derive(Clone, Debug, Default)]
pub struct Link {
    pub kind: LinkKind,
    pub table: Name,
    pub target: Name,
    /// The constraint's name, none for `NOT NULL`; its columns, and what they reference; of one that the plan has made, only
    /// what it says.
    pub name: String,
    pub columns: Vec<String>,
    pub target_columns: Vec<String>,
    pub is_not_valid: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkKind {
    #[default]
    ForeignKey,
    Partition,
    Child,
    Index,
    /// `NOT NULL`, or `CHECK (column IS NOT NULL)`.
    NotNull,
}

/// What statements can name.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Now, and at the beginning of each file.
    pub search_path: Vec<String>,
    pub first_path: Vec<String>,
    /// By the names they have now.
    pub relations: BTreeMap<Name, Relation>,
    pub links: Vec<Link>,
    /// Functions, and domains with a check, whose values are computed for each row.
    pub volatile: BTreeSet<String>,
    /// Domains: whether their values stay as they are is for their base type to say.
    pub domains: BTreeSet<String>,
    /// Pairs of types between which a value stays as it is.
    pub coercible: BTreeSet<(String, String)>,
}

impl World {
    /// A file begins: what the one before has set is gone, and so are its locks.
    pub fn begin_file(&mut self) {
        self.reset_search_path();
        self.commit();
    }

    /// A transaction ends, and its locks with it.
    pub fn commit(&mut self) {
        for relation in self.relations.values_mut() {
            relation.held = None;
        }
    }

    pub fn reset_search_path(&mut self) {
        self.search_path.clone_from(&self.first_path);
    }

    /// Returns true if and only if it is a table from before the plan.
    pub fn is_old(&self, table: &Name) -> bool {
        self.relations.get(table).is_some_and(|it| it.is_old)
    }

    /// What these parts of a name mean, as the server would look it up; if there is no such table or index, what would be
    /// created.
    pub fn resolve(&self, parts: &Parts) -> Name {
        let new = self.new_name(parts);
        if parts.len() > 1 {
            return new;
        }
        let mut places = self.search_path.iter().map(|it| Name::new(it, &new.name));
        let is_linked = |name: &Name| self.links.iter().any(|it| it.table == *name);
        places.find(|it| self.relations.contains_key(it) || is_linked(it)).unwrap_or(new)
    }

    /// What a new table of this name would be.
    pub fn new_name(&self, parts: &Parts) -> Name {
        let schema = parts.iter().nth_back(1).or(self.search_path.first());
        let name = parts.last().map_or("", String::as_str);
        Name::new(schema.map_or("", String::as_str), name)
    }

    /// The name as a session with the role's `search_path` may write it.
    pub fn shown(&self, name: &Name) -> String {
        if self.first_path.contains(&name.schema) {
            bare_or_quoted(&name.name)
        } else {
            name.to_string()
        }
    }

    /// The table of an index.
    pub fn table_of_index(&self, parts: &Parts) -> Option<Name> {
        let index = self.resolve(parts);
        let mut links = self.links.iter().filter(|it| it.kind == LinkKind::Index);
        Some(links.find(|it| it.table == index)?.target.clone())
    }

    pub fn drop(&mut self, name: &Name) {
        self.relations.remove(name);
        self.links.retain(|it| it.table != *name && it.target != *name);
    }

    pub fn rename(&mut self, from: &Name, to: Name) {
        let ends = self.links.iter_mut().flat_map(|it| [&mut it.table, &mut it.target]);
        ends.filter(|name| **name == *from).for_each(|name| name.clone_from(&to));
        let relation = self.relations.remove(from);
        self.relations.extend(relation.map(|it| (to, it)));
    }
}
