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

/// A table and what it inherits from.
#[derive(Clone, Debug)]
pub struct Child {
    pub table: Name,
    pub parent: Name,
    pub is_partition: bool,
}

/// One column of a foreign key, and what it references.
#[derive(Clone, Debug)]
pub struct ForeignKey {
    pub name: String,
    pub table: Name,
    pub column: String,
    pub target: Name,
    /// None is told where it is the primary key's.
    pub target_column: Option<String>,
}

/// A constraint `CHECK (column IS NOT NULL)`, or, without a name, `NOT NULL`.
#[derive(Clone, Debug)]
pub struct Check {
    pub name: String,
    pub table: Name,
    pub column: String,
    pub is_valid: bool,
}

/// What statements can name.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Of the session, without what does not exist.
    pub search_path: Vec<String>,
    /// Tables, views and materialized views from before the plan, by the names they have now.
    pub tables: BTreeSet<Name>,
    /// The table of each index.
    pub indexes: BTreeMap<Name, Name>,
    pub children: Vec<Child>,
    pub foreign_keys: Vec<ForeignKey>,
    pub checks: Vec<Check>,
    /// Types of the columns of tables that the plan alters.
    pub columns: BTreeMap<Name, BTreeMap<String, Type>>,
    /// Domains, and whether a value must pass a check.
    pub domains: BTreeMap<String, bool>,
    /// Names of volatile functions.
    pub volatile: BTreeSet<String>,
    /// Pairs of types between which a value stays as it is.
    pub coercible: BTreeSet<(String, String)>,
    /// What the plan has created meanwhile.
    created: BTreeSet<Name>,
    /// The strongest lock on each table since the file began.
    held: BTreeMap<Name, Mode>,
    before_file: Vec<String>,
}

impl World {
    /// The same, with this `search_path` at the beginning of each file.
    pub fn with_search_path(self, search_path: Vec<String>) -> World {
        World {
            before_file: search_path.clone(),
            search_path,
            ..self
        }
    }

    /// A file begins: what the one before has set is gone, and so are its locks.
    pub fn begin_file(&mut self) {
        self.reset_search_path();
        self.held.clear();
    }

    pub fn reset_search_path(&mut self) {
        self.search_path.clone_from(&self.before_file);
    }

    /// Returns true if and only if it is a table from before the plan.
    pub fn is_old(&self, table: &Name) -> bool {
        self.tables.contains(table)
    }

    /// What these parts of a name mean, as the server would look it up; if there is no such table, where it would be
    /// created.
    pub fn resolve(&self, parts: &Parts) -> Name {
        self.look_up(parts, |name| self.is_there(name))
    }

    /// Returns true if and only if there is such a table or view now.
    pub fn exists(&self, parts: &Parts) -> bool {
        self.is_there(&self.resolve(parts))
    }

    fn is_there(&self, name: &Name) -> bool {
        self.tables.contains(name) || self.created.contains(name)
    }

    /// The name as a session with the role's `search_path` may write it.
    pub fn shown(&self, name: &Name) -> String {
        match self.before_file.contains(&name.schema) {
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
        self.created.insert(name.clone());
        name
    }

    pub fn drop(&mut self, name: &Name) {
        self.tables.remove(name);
        self.created.remove(name);
        self.columns.remove(name);
        self.indexes
            .retain(|index, table| index != name && table != name);
        self.children
            .retain(|it| it.table != *name && it.parent != *name);
        self.foreign_keys
            .retain(|it| it.table != *name && it.target != *name);
        self.checks.retain(|it| it.table != *name);
    }

    pub fn rename(&mut self, from: &Name, to: &Name) {
        for names in [&mut self.tables, &mut self.created] {
            if names.remove(from) {
                names.insert(to.clone());
            }
        }
        if let Some(columns) = self.columns.remove(from) {
            self.columns.insert(to.clone(), columns);
        }
        if let Some(mode) = self.held.remove(from) {
            self.held.insert(to.clone(), mode);
        }
        let children = self.children.iter_mut();
        let children = children.flat_map(|it| [&mut it.table, &mut it.parent]);
        let keys = self.foreign_keys.iter_mut();
        let keys = keys.flat_map(|it| [&mut it.table, &mut it.target]);
        let checks = self.checks.iter_mut().map(|it| &mut it.table);
        let indexes = self.indexes.values_mut();
        let all = children.chain(keys).chain(checks).chain(indexes);
        all.filter(|name| **name == *from)
            .for_each(|name| name.clone_from(to));
    }

    pub fn hold(&mut self, table: &Name, mode: Mode) {
        let held = self.held.entry(table.clone()).or_insert(mode);
        *held = mode.max(*held);
    }

    /// The strongest lock that the file has on the table so far.
    pub fn held(&self, table: &Name) -> Option<Mode> {
        self.held.get(table).copied()
    }

    /// Returns true if and only if a valid constraint says that the column has no NULL.
    pub fn is_proven(&self, table: &Name, column: &str) -> bool {
        let mut checks = self.checks.iter();
        checks.any(|it| it.is_valid && it.table == *table && it.column == column)
    }

    /// The tables that reference the column.
    pub fn referencing(&self, table: &Name, column: &str) -> Vec<Name> {
        let meets = |key: &&ForeignKey| {
            let target = key.target_column.as_deref();
            key.target == *table && target.is_none_or(|it| it == column)
        };
        let keys = self.foreign_keys.iter().filter(meets);
        keys.map(|key| key.table.clone()).collect()
    }

    /// The tables that the table's foreign keys reference: those keys that are asked for.
    pub fn targets(&self, table: &Name, asked: impl Fn(&ForeignKey) -> bool) -> Vec<Name> {
        let keys = self.foreign_keys.iter();
        let keys = keys.filter(|key| key.table == *table && key.target != *table && asked(key));
        keys.map(|key| key.target.clone()).collect()
    }

    pub fn drop_constraint(&mut self, table: &Name, name: &str) {
        self.foreign_keys
            .retain(|key| key.table != *table || key.name != name);
        self.checks
            .retain(|it| it.table != *table || it.name != name);
    }

    /// Drops a column with what hangs on it.
    pub fn drop_column(&mut self, table: &Name, column: &str) {
        self.foreign_keys
            .retain(|key| key.table != *table || key.column != column);
        self.checks
            .retain(|it| it.table != *table || it.column != column);
        if let Some(columns) = self.columns.get_mut(table) {
            columns.remove(column);
        }
    }
}
