//! Every variable, once: its name, its default, what it means, and how its value is read. [`super::load`] reads them
//! from here, the help pages and the manual's table are made of it, and there is no other way to read one.

use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use super::parameters::PARAMETERS;
use super::places::endpoint;
use super::table_name::{LONGEST_IDENTIFIER, TableName};
use super::values::{boolean, choice, level, server_timeout, wait};
use super::{DivergencePolicy, Order};
use crate::text::Format;

/// What is said of a variable.
pub struct Variable {
    pub name: &'static str,
    /// As a user would write it, or in words with the values in backticks; empty: there is none.
    pub default: &'static str,
    /// What the variable is, on one line of Markdown; the first clause, up to a semicolon, stands for it in help pages.
    pub meaning: &'static str,
}

/// A variable with a value that is read, which so is its default.
pub struct Setting<T: 'static> {
    pub variable: Variable,
    pub parse: fn(&str) -> Result<T, String>,
}

/// What the journal's name appends to the history's.
pub(super) const JOURNAL_SUFFIX: &str = "_journal";

/// Defines each variable, and their list in the order in which they stand here.
macro_rules! variables {
    ($list:ident: $($name:ident: $type:ty = $value:expr;)*) => {
        $(pub static $name: $type = $value;)*
        static $list: &[&Variable] = &[$($name.variable()),*];
    };
}

variables! { CONNECTION:
    RUN: Setting<bool> = setting("RUN_DATABASE_MIGRATIONS", "false", boolean,
        "the switch of the bare `lockstep`; `lockstep up` needs none");
    URL: Variable = variable("DATABASE_URL", "",
        "`postgres://user:password@host/name` or `key=value`; whatever libpq takes: ports, several hosts, parameters behind a `?`");
    URL_FILE: Variable = variable("DATABASE_URL_FILE", "",
        "a file that holds the above; one line break at its end does not count");
    ENDPOINT: Setting<(String, Option<u16>)> = setting("DATABASE_ENDPOINT_URL", "", endpoint,
        "`host:port`, `host`, `[::1]:port`, or a socket directory");
    DATABASE: Setting<String> = setting("DATABASE_NAME", "", text, "the database");
    USERNAME: Setting<String> = setting("DATABASE_USERNAME", "", text, "the user");
    PASSWORD: Variable = variable("DATABASE_PASSWORD", "", "the password, any characters, no escaping");
    PASSWORD_FILE: Variable = variable("DATABASE_PASSWORD_FILE", "",
        "a file that holds it; one line break at its end does not count");
    SSL: Setting<bool> = setting("DATABASE_SSL_ENABLED", "", boolean,
        "`true` is `sslmode=verify-full`; by the system's certificates, unless `sslrootcert` names others; `false` is `sslmode=disable`");
}

variables! { SETTINGS:
    MIGRATIONS_DIR: Setting<PathBuf> = setting("MIGRATIONS_DIR", "migrations", |text| Ok(text.into()),
        "where the files are; subdirectories count");
    HISTORY_TABLE: Setting<TableName> = setting("MIGRATIONS_TABLE", "bun_migrations",
        |text| TableName::parse(text, LONGEST_IDENTIFIER - JOURNAL_SUFFIX.len()),
        "the history; `table` or `schema.table`, the table's name at most 55 bytes");
    LOCKS_TABLE: Setting<TableName> = setting("MIGRATION_LOCKS_TABLE", "bun_migration_locks",
        |text| TableName::parse(text, LONGEST_IDENTIFIER),
        "the locks; `table` or `schema.table`");
    DATABASE_WAIT: Setting<Duration> = setting("DATABASE_WAIT_SECONDS", "60", wait,
        "how long to wait for the server; 0: one try");
    LOCK_WAIT: Setting<Duration> = setting("MIGRATION_LOCK_WAIT_SECONDS", "300", wait,
        "how long to wait for another runner; 0: one try");
    MIGRATION_WAIT: Setting<Duration> = setting("MIGRATION_WAIT_SECONDS", "300", wait,
        "how long `lockstep wait` waits; in all: for the server, and for others to migrate; 0: look once");
    DDL_LOCK_TIMEOUT: Setting<Duration> = setting("DDL_LOCK_TIMEOUT_SECONDS", "5", server_timeout,
        "how long a statement waits for a lock; PostgreSQL's `lock_timeout` inside a migration's transaction; 0: no limit");
    DDL_LOCK_RETRY: Setting<Duration> = setting("DDL_LOCK_RETRY_SECONDS", "120", wait,
        "how long a locked-out file is tried again; as a whole, and also after a deadlock");
    STATEMENT_TIMEOUT: Setting<Duration> = setting("STATEMENT_TIMEOUT_SECONDS", "0", server_timeout,
        "how long a statement may take; PostgreSQL's `statement_timeout` inside a migration's transaction; 0: no limit, whatever the role's default is");
    ORDER: Setting<Order> = setting("MIGRATION_ORDER", "any",
        |text| choice(text, &[("any", Order::Any), ("strict", Order::Strict)]),
        "`strict`: refuse late-merged files; `any`: pending files older than what is applied run, with a warning");
    DIVERGENCE: Setting<DivergencePolicy> = setting("MIGRATION_DIVERGENCE", "refuse",
        |text| choice(text, &[("refuse", DivergencePolicy::Refuse), ("warn", DivergencePolicy::Warn)]),
        "`warn`: go on if history and files disagree; `refuse`: exit 5");
    LOG_LEVEL: Setting<LevelFilter> = setting("LOG_LEVEL", "INFO", level,
        "`TRACE`, `DEBUG`, `INFO`, `WARN`, `ERROR`, in any case");
    LOG_FORMAT: Setting<Format> = setting("LOG_FORMAT", "text",
        |text| choice(text, &[("text", Format::Text), ("json", Format::Json)]),
        "`text` or `json`; off a terminal, the default of the bare `lockstep` is `json`");
    QUERIES: Setting<bool> = setting("DATABASE_QUERY_LOGGING_ENABLED", "false", boolean,
        "log every statement, whatever `LOG_LEVEL` is");
    SERVICE_DIRECTORY: Variable = variable("PGSYSCONFDIR", "/etc/postgresql-common", "where the system's `pg_service.conf` is");
    HOME: Variable = variable("HOME", "", "where `.pgpass`, `.pg_service.conf` and `.postgresql` are");
    COLUMNS: Variable = variable("COLUMNS", "", "the width of the terminal, where it is to be another than the terminal says");
    NO_COLOR: Variable = variable("NO_COLOR", "", "not empty: no colours on a terminal");
    TERM: Variable = variable("TERM", "", "`dumb`: no colours on a terminal, and no line that is rewritten in place");
}

/// Every variable, in the order of the manual and of complaints: what the connection is made of, libpq's, all others.
pub fn all() -> impl Iterator<Item = &'static Variable> {
    let libpqs = PARAMETERS.iter().filter_map(|it| it.variable.as_ref());
    let (first, last) = (CONNECTION.iter().copied(), SETTINGS.iter().copied());
    first.chain(libpqs).chain(last)
}

pub(super) const fn variable(
    name: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Variable {
    Variable { name, default, meaning }
}

const fn setting<T>(
    name: &'static str,
    default: &'static str,
    parse: fn(&str) -> Result<T, String>,
    meaning: &'static str,
) -> Setting<T> {
    Setting { variable: variable(name, default, meaning), parse }
}

impl Variable {
    const fn variable(&self) -> &Variable {
        self
    }
}

impl<T> Setting<T> {
    const fn variable(&self) -> &Variable {
        &self.variable
    }

    /// The default's value, of a setting that has one which is no words.
    pub(super) fn default(&self) -> T {
        let value = (self.parse)(self.variable.default);
        value.unwrap_or_else(|problem| panic!("the default of {}: {problem}", self.variable.name))
    }
}

/// What is taken as it stands.
fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANUAL: &str = include_str!("../manual/environment.md");
    const README: &str = include_str!("../../README.md");
    const HEADER: &str = "| variable | default | meaning |\n|---|---|---|\n";

    /// The rows of the page's table of variables.
    fn rows(page: &'static str) -> Vec<&'static str> {
        let (_, rows) = page.split_once(HEADER).expect("the table");
        rows.lines().take_while(|row| row.starts_with('|')).collect()
    }

    fn default_cell(variable: &Variable) -> String {
        match variable.default {
            "" => String::new(),
            words if words.contains(' ') => format!("{words} "),
            value => format!("`{value}` "),
        }
    }

    #[test]
    fn the_manual_has_this_table() {
        let row = |it: &Variable| {
            let default = default_cell(it);
            format!("| `{}` | {default}| {} |", it.name, it.meaning)
        };
        let expected: Vec<String> = all().map(row).collect();
        assert!(
            rows(MANUAL) == expected,
            "paste into src/manual/environment.md:\n\n{HEADER}{}\n",
            expected.join("\n")
        );
    }

    #[test]
    fn readmes_choice_has_the_same_defaults() {
        for row in rows(README) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let defaults = cells[1].split(", ").map(|name| name.trim_matches('`')).map(|name| {
                let variable = all().find(|it| it.name == name);
                let variable = variable.unwrap_or_else(|| panic!("there is no {name}"));
                default_cell(variable).trim().to_owned()
            });
            let mut defaults: Vec<String> = defaults.filter(|it| !it.is_empty()).collect();
            defaults.dedup();
            assert_eq!(cells[2], defaults.join(", "), "{row}");
        }
    }

    #[test]
    fn each_stands_once() {
        let mut names: Vec<&str> = all().map(|it| it.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
