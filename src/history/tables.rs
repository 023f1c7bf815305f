//! What our tables are called, and how they are created.

use postgres::SimpleQueryRow;

use super::Tables;
use crate::config::{Config, TableName};
use crate::server::message::{Access, Message, Slot};
use crate::server::settings::Settings;
use crate::sql::quote::literal;

/// SQL expressions for history, journal and locks table: their qualified and quoted names, or NULL where there is none in
/// the snapshot.
pub(super) fn expressions(config: &Config) -> [String; 3] {
    [&config.history_table, &config.journal_table, &config.locks_table].map(qualified)
}

/// An SQL expression, of type regclass: the table, or NULL if it does not exist. A name without a schema is found as in any
/// statement.
fn found(table: &TableName) -> String {
    format!("pg_catalog.to_regclass({})", literal(&table.quoted()))
}

/// An SQL expression: the table's qualified and quoted name, or NULL. What is found may be younger than the snapshot.
fn qualified(table: &TableName) -> String {
    format!(
        "(SELECT pg_catalog.format('%s.%I', relnamespace::pg_catalog.regnamespace, relname) FROM pg_catalog.pg_class \
         WHERE oid OPERATOR(pg_catalog.=) {})",
        found(table)
    )
}

/// The message that creates whichever tables are absent: bun's two exactly as bun does, and the journal; and where in its
/// answer is what they are called.
///
/// Any number of runners may do so at once, without a lock. `CREATE TABLE IF NOT EXISTS` fails in such a race, so a
/// failure is caught (and so never reaches the server's log) and whatever the winner created is taken.
pub fn create(config: &Config) -> (Message, Slot) {
    // On disk before anybody relies on them, so that no crash takes them back.
    let mut message = Message::begin(Access::Write, &Settings::default().retried().on_disk());
    let tables = [
        (
            &config.history_table,
            "{id}, name VARCHAR, group_id BIGINT, \
             migrated_at TIMESTAMPTZ NOT NULL DEFAULT current_timestamp, PRIMARY KEY (id)",
        ),
        (&config.locks_table, "{id}, table_name VARCHAR, PRIMARY KEY (id), UNIQUE (table_name)"),
        (
            &config.journal_table,
            "version VARCHAR NOT NULL PRIMARY KEY, file_name VARCHAR NOT NULL, checksum VARCHAR NOT NULL, \
             started_at TIMESTAMPTZ NOT NULL, finished_at TIMESTAMPTZ, duration_ms BIGINT, runner VARCHAR NOT NULL, \
             history_id BIGINT, statement VARCHAR, done BIGINT",
        ),
    ];
    let blocks = tables.map(|(table, columns)| create_table(table, columns)).concat();
    message.add(format!("DO LANGUAGE plpgsql $lockstep$ BEGIN {blocks} END $lockstep$"));
    let [history, journal, locks] = expressions(config);
    let names =
        message.add(format!("SELECT {history} AS history, {journal} AS journal, {locks} AS locks"));
    message.add("COMMIT");
    (message, names)
}

/// The tables as such a row calls them, if all are there.
pub fn named(row: &SimpleQueryRow) -> Option<Tables> {
    let text = |name: &str| row.get(name).map(str::to_owned);
    Some(Tables { history: text("history")?, journal: text("journal")?, locks: text("locks")? })
}

/// `{id}` in `columns` stands for a serial column. Such a column is its own sequence and a default, and that is how it
/// is written here: of a `BIGSERIAL` the server chooses the sequence's name, and avoids the names that it sees at that
/// moment, also those of somebody who is about to give up. That name is chosen by the server where the usual one is
/// taken, or would be too long.
fn create_table(table: &TableName, columns: &str) -> String {
    let sequence = table.suffixed("_id_seq");
    let is_usual = match columns.contains("{id}") && sequence.name.len() <= LONGEST_NAME {
        true => format!("{} IS NULL", found(&sequence)),
        false => "false".to_owned(),
    };
    let target = literal(&table.quoted());
    let create = |id: &str| {
        let columns = literal(&format!(" ({})", columns.replace("{id}", id)));
        format!(
            "EXECUTE 'CREATE TABLE ' OPERATOR(pg_catalog.||) {target} OPERATOR(pg_catalog.||) {columns};"
        )
    };
    format!(
        include_str!("create.sql"),
        exists = found(table),
        is_usual = is_usual,
        target = target,
        sequence = literal(&sequence.quoted()),
        create_with_sequence = create("id BIGINT NOT NULL"),
        create_serial = create("id BIGSERIAL NOT NULL"),
    )
}

/// The longest name that the server does not cut short, in bytes.
const LONGEST_NAME: usize = 63;

/// The query for the rights on history and journal that our role lacks to roll anything back, beside those that it needs
/// to apply.
pub fn lacks_to_erase(tables: &Tables) -> String {
    let (history, journal) = (literal(&tables.history), literal(&tables.journal));
    format!(
        "SELECT string_agg(format('DELETE on %s', t), ', ') AS lacks FROM (VALUES ({history}), ({journal})) r(t) \
         WHERE NOT has_table_privilege(t, 'DELETE')"
    )
}
