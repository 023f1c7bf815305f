//! Who holds the guard, and what it is doing: for whoever waits, and for whoever asks.

use std::fmt;

use postgres::SimpleQueryRow;

use crate::error::Error;
use crate::files::name;
use crate::history::Tables;
use crate::history::guard::{guard_lock, key};
use crate::server::blocker::{self, age};
use crate::server::glance::Seen;
use crate::server::session::Session;
use crate::sql;
use crate::text::words::listed;

/// The runner that holds the guard, as far as our role may see it: of other roles' sessions the server shows the
/// application name only.
#[derive(Clone, Default)]
pub struct Holder {
    /// Of the session that holds the guard.
    pub pid: String,
    pub application: Option<String>,
    pub address: Option<String>,
    /// Since when, in RFC 3339, in UTC.
    pub since: Option<String>,
    pub held_for: Option<String>,
    pub work: Option<Work>,
}

/// What the holder's other session is executing.
#[derive(Clone, Default)]
pub struct Work {
    pub pid: String,
    /// The file's name.
    pub migration: Option<String>,
    /// `3/16`, in a file with several statements.
    pub statement: Option<String>,
    /// The statement's text, if it runs outside a transaction.
    pub sql: Option<String>,
    /// Since when, in RFC 3339, in UTC.
    pub since: Option<String>,
    pub running_for: Option<String>,
    /// How far an index build is.
    pub index_build: Option<IndexBuild>,
    /// Who is in its way.
    pub waits_for: Option<String>,
}

/// How far an index build is, as the server tells.
#[derive(Clone, Default)]
pub struct IndexBuild {
    pub phase: String,
    /// Of the phase, if it is one that can be measured.
    pub percent: Option<i64>,
}

impl fmt::Display for IndexBuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.phase)?;
        let mut percent = self.percent.iter();
        percent.try_for_each(|it| write!(f, ", {it} %"))
    }
}

/// Asks who holds the guard; none if nobody does, as nobody can without our tables. On a standby nobody is seen.
///
/// # Errors
///
/// What the connection meets.
pub fn find(session: &mut Session, tables: Option<&Tables>) -> Result<Option<Holder>, Error> {
    let Some(tables) = tables else {
        return Ok(None);
    };
    Ok(session.ask(&query(tables), "asking who holds the lock")?.first().map(read))
}

/// A session of another program.
#[derive(Clone)]
pub struct Stranger {
    /// In words.
    pub words: String,
    /// Its transaction, if it is in one; every statement is.
    pub transaction: Option<String>,
    /// What it runs, or ran last, if that is for us to see.
    pub query: String,
    /// Whether the server has cut that.
    pub is_cut: bool,
}

/// Client sessions on this database that are not ours, the longest connected first: a bun process that has the lock may be
/// any of them.
///
/// # Errors
///
/// What the connection meets.
pub fn strangers(session: &mut Session) -> Result<Vec<Stranger>, Error> {
    let rows = session.ask(&strangers_query(), "asking who else is connected")?;
    Ok(rows.iter().map(Stranger::read).collect())
}

/// The query for them. It runs with a `search_path` of `pg_catalog`. It asks the functions below the views, which a fresh
/// session plans in half the time.
pub(super) fn strangers_query() -> String {
    format!(include_str!("strangers.sql"), age = age("COALESCE(a.xact_start, a.query_start)"))
}

impl Stranger {
    pub(super) fn read(row: &SimpleQueryRow) -> Stranger {
        Stranger {
            words: row.get("words").unwrap_or_default().to_owned(),
            transaction: row.get("virtualxid").map(str::to_owned),
            query: row.get("query").unwrap_or_default().to_owned(),
            is_cut: row.get("cut") == Some("t"),
        }
    }

    /// Returns true if and only if it is at work on one of these texts, as bun sends them.
    pub fn is_at_one_of(&self, texts: &[String]) -> bool {
        let query = self.query.trim();
        let is = |text: &String| text == query || self.is_cut && text.starts_with(query);
        self.transaction.is_some() && !query.is_empty() && texts.iter().any(is)
    }
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)?;
        if self.transaction.is_none() {
            return Ok(());
        }
        if self.query.to_lowercase().contains("password") {
            return write!(f, ": {}", sql::verb(&self.query));
        }
        let query: Vec<&str> = self.query.split_whitespace().collect();
        let shown: String = query.join(" ").chars().take(SHOWN).collect();
        write!(f, ": {shown}")
    }
}

/// How much of a statement is shown, in characters.
const SHOWN: usize = 80;

/// A message of ours begins with a comment that names the file, if it is about one, and a marker appends the statement's
/// number to the application name.
pub fn query(tables: &Tables) -> String {
    format!(
        include_str!("holder.sql"),
        held_for = age("a.xact_start"),
        held_since = rfc3339("a.xact_start"),
        running_since = rfc3339("w.query_start"),
        running_for = age("w.query_start"),
        blocking_for = age("b.xact_start"),
        prepared = blocker::words(),
        locks = blocker::FROM,
        guard_lock = guard_lock(&key(tables)),
    )
}

/// What the holder's other session does, as [`query`] tells.
pub fn seen(row: &SimpleQueryRow) -> Seen {
    let work = read(row).work.unwrap_or_default();
    Seen {
        progress: work.index_build.as_ref().map(IndexBuild::to_string),
        blocked_by: work.waits_for,
    }
}

/// A runner's name without its process id, which means something on its own machine only.
fn without_process(application: &str) -> &str {
    let parts = application.split_once(' ');
    let Some((name, process)) = parts.and_then(|(_, rest)| rest.rsplit_once('/')) else {
        return application;
    };
    let is_ours = !name.is_empty() && process.bytes().all(|it| it.is_ascii_digit() || it == b' ');
    if is_ours && application.starts_with("lockstep/") {
        &application[..application.len() - process.len() - 1]
    } else {
        application
    }
}

fn rfc3339(time: &str) -> String {
    format!("pg_catalog.to_char({time} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')")
}

fn read(row: &SimpleQueryRow) -> Holder {
    let text = |name: &str| row.get(name).filter(|it| !it.is_empty()).map(str::to_owned);
    Holder {
        pid: text("pid").unwrap_or_default(),
        application: text("application_name"),
        address: text("client_addr"),
        since: text("held_since"),
        held_for: text("held_for"),
        work: text("work_pid").map(|pid| Work {
            pid,
            migration: text("migration"),
            statement: text("statement"),
            sql: text("sql").map(|sql| sql.split_whitespace().collect::<Vec<_>>().join(" ")),
            since: text("running_since"),
            running_for: text("running_for"),
            index_build: text("phase").map(|phase| IndexBuild {
                phase,
                percent: text("percent").and_then(|it| it.parse().ok()),
            }),
            waits_for: text("waits_for"),
        }),
    }
}

impl Holder {
    /// Who it is.
    pub fn who(&self) -> String {
        let application = self.application.as_deref().map(without_process);
        listed([
            said("pid ", Some(&self.pid)),
            said("", application),
            said("from ", self.address.as_ref()),
        ])
    }

    /// What it does, and for how long it has.
    pub fn now(&self) -> String {
        let Some(work) = &self.work else {
            return listed([said("for ", self.held_for.as_ref())]);
        };
        listed([
            said("running ", work.migration.as_deref().map(name::title)),
            said("statement ", work.statement.as_ref()),
            said("", work.sql.as_deref().map(sql::verb)),
            said("for ", work.running_for.as_ref()),
            said("blocked by ", work.waits_for.as_ref()),
            said("", work.index_build.as_ref()),
        ])
    }
}

fn said(what: &str, value: Option<impl fmt::Display>) -> Option<String> {
    value.map(|it| format!("{what}{it}"))
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&listed([Some(self.who()), Some(self.now()).filter(|it| !it.is_empty())]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_has_one_process_id_that_of_its_session() {
        for (application, shown) in [
            ("psql", "psql"),
            ("my app/12", "my app/12"),
            ("lockstep/0.2.0 a-b/123", "lockstep/0.2.0 a-b"),
            ("lockstep/0.2.0 a/12 3", "lockstep/0.2.0 a"),
            ("lockstep/0.2.0 a", "lockstep/0.2.0 a"),
        ] {
            assert_eq!(without_process(application), shown);
        }
    }
}
