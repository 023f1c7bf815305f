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
    /// Those that the plan may alter.
    pub columns: BTreeMap<String, Column>,
}

#[derive(Clone, Debug, Default)]
pub struct Column {
    pub of: Option<Type>,
    /// Constraints `CHECK (column IS NOT NULL)`, and whether they are valid; without a name, `NOT NULL`.
    pub proofs: BTreeMap<String, bool>,
}

/// What a table hangs on: another one that it is a part of, or that one of its columns references.
#[derive(Clone, Debug, Default)]
pub struct Link {
    pub kind: LinkKind,
    pub table: Name,
    pub target: Name,
    /// The foreign key's name, its columns, and what they reference; of one that the plan has made, only what it says.
    pub name: String,
    pub columns: Vec<String>,
    pub target_columns: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkKind {
    #[default]
    ForeignKey,
    Partition,
    Child,
}

/// What statements can name.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Now, and at the beginning of each file.
    pub search_path: Vec<String>,
    pub first_path: Vec<String>,
    /// By the names they have now.
    pub relations: BTreeMap<Name, Relation>,
    /// The table of each index.
    pub indexes: BTreeMap<Name, Name>,
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

    /// What these parts of a name mean, as the server would look it up; if there is no such table, where it would be
    /// created.
    pub fn resolve(&self, parts: &Parts) -> Name {
        self.look_up(parts, |name| self.relations.contains_key(name))
    }

    /// The name as a session with the role's `search_path` may write it.
    pub fn shown(&self, name: &Name) -> String {
        match self.first_path.contains(&name.schema) {
            true => bare_or_quoted(&name.name),
            false => name.to_string(),
        }
    }

    /// The table of an index.
    pub fn table_of_index(&self, parts: &Parts) -> Option<Name> {
        let index = self.look_up(parts, |name| self.indexes.contains_key(name));
        self.indexes.get(&index).cloned()
    }

    fn look_up(&self, parts: &Parts, exists: impl Fn(&Name) -> bool) -> Name {
        let name = parts.last().map_or("", String::as_str);
        if let [.., schema, _] = parts.as_slice() {
            return Name::new(schema, name);
        }
        let mut found = self.search_path.iter().map(|it| Name::new(it, name));
        let first = self.search_path.first().map_or("", String::as_str);
        found.find(exists).unwrap_or_else(|| Name::new(first, name))
    }

    /// Creates a table or a view, and says where.
    pub fn create(&mut self, parts: &Parts) -> Name {
        let name = self.look_up(parts, |_| true);
        self.relations.entry(name.clone()).or_default();
        name
    }

    pub fn drop(&mut self, name: &Name) {
        self.relations.remove(name);
        self.indexes.retain(|_, table| table != name);
        self.links
            .retain(|it| it.table != *name && it.target != *name);
    }

    pub fn rename(&mut self, from: &Name, to: Name) {
        let links = self.links.iter_mut();
        let ends = links.flat_map(|it| [&mut it.table, &mut it.target]);
        let names = ends.chain(self.indexes.values_mut());
        names
            .filter(|name| **name == *from)
            .for_each(|name| name.clone_from(&to));
        if let Some(relation) = self.relations.remove(from) {
            self.relations.insert(to, relation);
        }
    }

    /// A column of a table that is there.
    pub fn column(&mut self, table: &Name, column: &str) -> Option<&mut Column> {
        let columns = &mut self.relations.get_mut(table)?.columns;
        Some(columns.entry(column.to_owned()).or_default())
    }

    /// The proofs of a table's columns.
    pub fn proofs(&mut self, table: &Name) -> impl Iterator<Item = &mut BTreeMap<String, bool>> {
        let relation = self.relations.get_mut(table).into_iter();
        relation.flat_map(|it| it.columns.values_mut().map(|it| &mut it.proofs))
    }

    /// The tables at the other end of those links that are asked for.
    pub fn linked(&self, table: &Name, asked: impl Fn(&Link) -> bool) -> Vec<Name> {
        let links = self.links.iter().filter(|it| asked(it));
        let ends = links.flat_map(|it| [&it.table, &it.target]);
        ends.filter(|it| *it != table).cloned().collect()
    }
}
