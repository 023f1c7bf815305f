//! `Plan` → what it really locks and rewrites: all pending files run in one transaction, which is rolled back.
//!
//! It takes no migration lock and writes no record; it refuses while a runner is at work. Whatever stands in a file,
//! nothing may be committed. So each statement is run by PL/pgSQL's `EXECUTE`, which refuses to begin or end a
//! transaction: also if the file has changed how the server reads literals, and our lexer and the server split it in
//! different places. What else is refused there is sent as it is if it has no backslash, since literals without one mean
//! the same to both.
//!
//! What no transaction takes back stays: a sequence's numbers, and whatever a function does to the world outside.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use log::{debug, info};
use postgres::SimpleQueryRow;
use postgres::error::{DbError, ErrorPosition};

use crate::apply;
use crate::commands::run::FirstLook;
use crate::config::Config;
use crate::error::{Before, Error, Failure, FailureOutcome, SqlError};
use crate::impact::{Mode, Name, World};
use crate::migration::Migration;
use crate::plan::Plan;
use crate::report::plan::Measured;
use crate::server::message::{Access, Message};
use crate::server::session::Trouble;
use crate::server::settings::{self, Settings, Span};
use crate::sql::place::{Place, Precision, offset};
use crate::sql::{self, Kind, Statement, quote, sqlstate};
use crate::text::words::below;

/// What every statement of every pending file did, in order.
///
/// # Errors
///
/// [`Error::Unusable`] before anything runs, if a file has to run outside a transaction; [`Error::Migration`] and
/// [`Error::TableWait`] as [`apply::run`].
pub fn run(
    config: &Config,
    first: &mut FirstLook,
    plan: &Plan<'_>,
    world: &World,
) -> Result<Vec<Measured>, Error> {
    refuse_what_runs_outside(plan)?;
    let mut rehearsal = Rehearsal {
        first,
        settings: Settings {
            lock_timeout: config.ddl_lock_timeout,
            statement_timeout: config.statement_timeout,
            span: Span::Idle,
            ..Settings::default()
        },
        world,
        first_tables: BTreeMap::new(),
        tables: BTreeMap::new(),
        locked_out: None,
    };
    let mut outcome = rehearsal.run(plan);
    let locked_out = rehearsal.locked_out;
    let FirstLook { session, runner, .. } = first;
    // The first error is the one that counts; without a session there is nothing to roll back.
    let rolled_back = session.roll_back();
    if let Err(trouble) = rolled_back.and_then(|()| session.reset(runner)) {
        debug!("rolling back the rehearsal: {trouble:?}");
    }
    if let (Err(Error::TableWait { blockers, .. }), Some(text)) = (&mut outcome, locked_out) {
        *blockers = apply::blockers(&text, NO_GUARD, |query, doing| session.ask(query, doing))?;
    }
    outcome
}

/// Returns true if and only if the file adds a value to an enum. If it does not, the new value that it uses is an earlier
/// file's, which `up` has committed by then.
fn adds_enum_value(migration: &Migration) -> bool {
    let mut statements = migration.statements();
    statements.any(|it| sql::added_enum_value(it).is_some())
}

fn refuse_what_runs_outside(plan: &Plan<'_>) -> Result<(), Error> {
    let outside = plan.pending.iter().filter_map(|migration| {
        let statement =
            migration.script.statements.iter().find(|it| {
                matches!(it.kind, Kind::Outside(_)) || migration.script.no_transaction
            })?;
        Some(describe(migration, statement))
    });
    let statements: Vec<String> = outside.collect();
    if statements.is_empty() { Ok(()) } else { Err(cannot_rehearse(&statements)) }
}

/// `statements` have to run outside a transaction, or after an earlier one's commit: file, line and command of each.
fn cannot_rehearse(statements: &[String]) -> Error {
    let statements = below(statements);
    Error::Unusable(format!(
        "a rehearsal is one transaction, and what is pending does not fit into one; nothing was changed{statements}"
    ))
}

/// File, line and verb.
fn describe(migration: &Migration, statement: &Statement) -> String {
    let line = Place::of(&migration.text, statement.range().start, Precision::Exact).line;
    let verb = sql::verb(&migration.text[statement.range()]);
    format!("{}:{line}: {verb}", migration.path.display())
}

/// A rehearsal holds no lock; no session has this number.
const NO_GUARD: i32 = 0;

#[derive(Clone, Default)]
struct Table {
    /// None, if it was dropped.
    name: Option<Name>,
    /// Where its rows are; none for a view, or a table with partitions.
    filenode: Option<String>,
    /// The strongest lock that we have on it.
    mode: Option<Mode>,
}

struct Rehearsal<'a> {
    first: &'a mut FirstLook,
    /// For each file anew.
    settings: Settings,
    world: &'a World,
    /// Those from before the rehearsal, by their numbers.
    first_tables: BTreeMap<u32, Table>,
    /// The same as the last look has found them.
    tables: BTreeMap<u32, Table>,
    /// The text that met a lock of somebody else's.
    locked_out: Option<String>,
}

impl Rehearsal<'_> {
    fn run(&mut self, plan: &Plan<'_>) -> Result<Vec<Measured>, Error> {
        self.ours(Message::begin(Access::Write, &self.settings), "beginning the rehearsal")?;
        self.first_tables = self.look("RIGHT")?;
        self.first_tables
            .retain(|_, it| it.name.as_ref().is_some_and(|name| self.world.is_old(name)));
        self.tables.clone_from(&self.first_tables);
        let of = plan.pending.len();
        let mut measured = Vec::new();
        for (number, migration) in plan.pending.iter().enumerate() {
            let (number, name) = (number + 1, migration.file_name());
            info!(version:% = migration.version, name, number, of; "{number}/{of} rehearsing {name}");
            measured.extend(self.file(migration)?);
        }
        Ok(measured)
    }

    fn ours(&mut self, mut message: Message, doing: &str) -> Result<(), Error> {
        message.add("SET LOCAL standard_conforming_strings TO on");
        self.first.session.send(&message).map(drop).map_err(|trouble| trouble.while_doing(doing))
    }

    fn query(&mut self, query: &str, doing: &str) -> Result<Vec<SimpleQueryRow>, Error> {
        let (message, asked) = Message::aside(query);
        let answer = self.first.session.send(&message);
        Ok(answer.map_err(|trouble| trouble.while_doing(doing))?.into_rows(asked))
    }

    fn file(&mut self, migration: &Migration) -> Result<Vec<Measured>, Error> {
        let mut all = Vec::new();
        for (number, statement) in migration.script.statements.iter().enumerate() {
            self.first.wait.signals().check("rehearsing; nothing stays")?;
            let text = &migration.text[statement.range()];
            let duration = self.theirs(migration, Some(number), &message_of(text))?;
            all.push(self.measure(text, duration)?);
        }
        self.check_constraints(migration)?;
        // What it leaves behind in the session is gone before the next one, as rule 8 has it.
        let mut reset = Message::behind(&settings::reset(&self.first.runner), &self.settings);
        reset.extend(&self.settings.statements());
        self.ours(reset, "resetting the session between two files")?;
        Ok(all)
    }

    /// Sends what stands for a statement of the file, or for its end, and returns how long that took.
    fn theirs(
        &mut self,
        migration: &Migration,
        statement: Option<usize>,
        message: &str,
    ) -> Result<Duration, Error> {
        let started = Instant::now();
        let outcome = self.first.session.execute_interruptibly(message);
        let took = started.elapsed();
        match outcome {
            Ok(()) => Ok(took),
            Err(Trouble::Sql(cause)) => Err(self.failure(migration, statement, &cause, took)),
            Err(trouble) => {
                let doing = format!("rehearsing {}; nothing stays", migration.file_name());
                Err(trouble.while_doing(&doing))
            }
        }
    }

    /// Checks the file's deferred constraints, where its commit would. `SET CONSTRAINTS ALL` would be shorter, but it would
    /// hold for the files behind this one too.
    fn check_constraints(&mut self, migration: &Migration) -> Result<(), Error> {
        let list = include_str!("constraints.sql");
        let rows = self.query(list, "asking for the deferrable constraints")?;
        let names = |column: &str| rows.first().and_then(|row| row.get(column));
        let Some(all) = names("all") else {
            return Ok(());
        };
        let mut message = format!("SET CONSTRAINTS {all} IMMEDIATE");
        if let Some(deferred) = names("deferred") {
            message.push_str(&format!("; SET CONSTRAINTS {deferred} DEFERRED"));
        }
        self.theirs(migration, None, &message).map(drop)
    }

    /// Which locks have come since the last look.
    fn measure(&mut self, text: &str, duration: Duration) -> Result<Measured, Error> {
        let mut found = self.look("LEFT")?;
        let mut measured = Measured { duration, ..Measured::default() };
        // TRUNCATE gives a table an empty file, ROLLBACK TO the one that it had.
        let writes = !["TRUNCATE", "ROLLBACK"].contains(&&*sql::verb(text));
        for (oid, table) in &mut self.tables {
            let Some(found) = found.remove(oid) else {
                // `ROLLBACK TO` may have given it back: nothing can have changed it.
                if table.mode.is_some() {
                    table.clone_from(&self.first_tables[oid]);
                }
                continue;
            };
            let shown = table.name.as_ref().map(|it| self.world.shown(it)).unwrap_or_default();
            if let Some(mode) = found.mode.filter(|_| found.mode > table.mode) {
                measured.locks.insert(shown.clone(), mode);
            }
            if found.name.is_some() && found.filenode != table.filenode && writes {
                measured.rewritten.push(shown);
            }
            *table = found;
        }
        Ok(measured)
    }

    /// The tables on which we have a lock, also one that was dropped; with a `RIGHT` join, all. It runs as the file's role
    /// and with its `search_path`, so all is qualified.
    fn look(&mut self, join: &str) -> Result<BTreeMap<u32, Table>, Error> {
        let look = format!(include_str!("locks.sql"), join = join);
        let mut tables: BTreeMap<u32, Table> = BTreeMap::new();
        for row in self.query(&look, "measuring the locks of a statement")? {
            let name = row.get("schema").zip(row.get("name"));
            let Some(oid) = row.get("oid").and_then(|oid| oid.parse().ok()) else {
                continue;
            };
            let table = tables.entry(oid).or_default();
            table.name = name.map(|(schema, name)| Name::new(schema, name));
            table.filenode = row.get("filenode").map(str::to_owned);
            table.mode = table.mode.max(mode(&row));
        }
        Ok(tables)
    }

    fn failure(
        &mut self,
        migration: &Migration,
        number: Option<usize>,
        cause: &DbError,
        waited: Duration,
    ) -> Error {
        let statement = number.and_then(|it| migration.script.statements.get(it));
        let text = statement.map(|it| &migration.text[it.range()]);
        let sql = without_our_words(cause, text.unwrap_or_default());
        let counts_bytes = self.first.observation.counts_bytes;
        let may_be_outside = |it: &&Statement| it.kind == Kind::MaybeOutside;
        let unfit = match cause.code().code() {
            sqlstate::ACTIVE_SQL_TRANSACTION => statement.filter(may_be_outside).map(|_| ""),
            sqlstate::UNSAFE_NEW_ENUM_VALUE_USAGE if !adds_enum_value(migration) => {
                Some(" uses an enum value that an earlier file has to commit first")
            }
            _ => None,
        };
        if let (Some(statement), Some(why)) = (statement, unfit) {
            let statements = vec![describe(migration, statement) + why];
            return cannot_rehearse(&statements);
        }
        match cause.code().code() {
            sqlstate::LOCK_NOT_AVAILABLE
            | sqlstate::DEADLOCK_DETECTED
            | sqlstate::SERIALIZATION_FAILURE => {
                self.locked_out = Some(text.unwrap_or(&migration.text).to_owned());
                Error::TableWait {
                    doing: migration.path.display().to_string(),
                    blockers: Vec::new(),
                    cause: Box::new(sql),
                    waited,
                    before: None,
                }
            }
            _ => Error::Migration(Box::new(Failure {
                file: migration.path.display().to_string(),
                place: number.map(|it| place(migration, it, cause, counts_bytes)),
                statement: match number {
                    Some(_) => apply::statement_label(migration, number),
                    None => Some("the file's deferred constraints".to_owned()),
                },
                outcome: FailureOutcome::RolledBack,
                cause: sql,
                before: Before::nothing(),
            })),
        }
    }
}

/// The message that runs a statement and nothing beside it. `E'…'` means the same whatever the file has set.
fn message_of(statement: &str) -> String {
    if is_refused_by_execute(statement) && !statement.contains('\\') {
        return statement.to_owned();
    }
    let block = format!("BEGIN EXECUTE {};END", quote::escape_literal(statement));
    format!("DO LANGUAGE plpgsql {}", quote::escape_literal(&block))
}

/// Savepoints, and `SELECT … INTO`.
fn is_refused_by_execute(statement: &str) -> bool {
    match sql::verb(statement).as_str() {
        "SAVEPOINT" | "RELEASE" | "ROLLBACK" => true,
        "SELECT" | "WITH" => sql::identifiers(statement).contains(&"into".to_owned()),
        _ => false,
    }
}

/// The place in the file: where the server says, else where the statement begins.
fn place(migration: &Migration, number: usize, cause: &DbError, counts_bytes: bool) -> Place {
    let text = migration.statement(number).unwrap_or_default();
    let position = match cause.position() {
        Some(ErrorPosition::Internal { position, query }) if query == text => Some(*position),
        Some(ErrorPosition::Original(position)) if message_of(text) == text => Some(*position),
        _ => None,
    };
    let offset = position.map(|it| offset(text, "", it as usize, counts_bytes).unwrap_or(0));
    apply::in_statement(migration, number, offset, cause)
}

/// The user has written neither our block nor the quotation of the statement that it brings along.
fn without_our_words(cause: &DbError, statement: &str) -> SqlError {
    let mut sql = SqlError::from(cause);
    if statement.is_empty() {
        return sql;
    }
    sql.query = sql.query.filter(|query| query != statement);
    if let Some(context) = sql.context.take() {
        // The outermost level is the last line.
        let inner = context.rsplit_once('\n').map_or("", |(inner, _)| inner);
        let inner = match inner.strip_suffix(&format!("\"{statement}\"")) {
            Some(before) => before.rsplit_once('\n').map_or("", |(before, _)| before),
            None => inner,
        };
        sql.context = Some(inner.to_owned()).filter(|inner| !inner.is_empty());
    }
    sql
}

/// The lock's mode.
fn mode(row: &SimpleQueryRow) -> Option<Mode> {
    let mut modes = Mode::ALL.iter().map(|(mode, _)| *mode);
    modes.find(|it| row.get("mode") == Some(&format!("{it:?}Lock")))
}
