//! `lockstep import DIRECTORY`: writes another tool's migrations into `MIGRATIONS_DIR` under our names, and tells from that
//! tool's own history what is applied already.
//!
//! Everything is read and judged before anything is written: the directory, the place for the new files, the database if
//! one is named, of which nothing but the catalog and the tool's table is read.

use std::path::{Path, PathBuf};

use log::info;
use postgres::SimpleQueryRow;

use super::run;
use super::{Answer, Context};
use crate::config::{self, Config, DivergencePolicy, Order};
use crate::error::Error;
use crate::files::{self, Problem};
use crate::import::history::{self, Place, Record, Verdict};
use crate::import::{self, Brought, Import};
use crate::migration::History;
use crate::plan::{self, Rules};
use crate::report::import::{Known, Report};
use crate::server::message::Message;
use crate::server::open::{self, application_name};
use crate::server::session::{Session, Trouble};
use crate::server::wait::Wait;
use crate::signals::Signals;
use crate::text::words::counted;

pub fn run(context: &Context<'_>, from: &Path) -> Result<Answer, Error> {
    let (config, to) = match config::names_a_database(context.environment) {
        true => {
            let config = context.readers_config()?;
            let to = config.migrations_dir.clone();
            (Some(config), to)
        }
        false => {
            let to = config::migrations_dir(context.environment).map_err(Error::Environment)?;
            (None, to)
        }
    };
    let found = files::import::read(from).map_err(Error::Files)?;
    let import = import::understand(&found).map_err(|it| Error::Files(located(from, it)))?;
    if !import.is_ours {
        files::import::is_free(&to).map_err(Error::Files)?;
    }
    let history = match &config {
        None => Known::NotAsked,
        Some(config) => read_history(config, &import, context.signals)?,
    };
    context.signals.check("nothing was written")?;
    let to = match import.is_ours {
        true => from,
        false => {
            let files = import.migrations.iter().flat_map(Brought::files);
            let files: Vec<(String, &str)> = files.collect();
            files::import::write(&to, &files).map_err(Error::Files)?;
            let count = counted(files.len(), "file");
            info!(written = files.len(); "{count} written into {}", to.display());
            &to
        }
    };
    let migrations = files::read(to).map_err(Error::Files)?;
    let untouched = History::default();
    let rules = match &config {
        Some(config) => run::rules(config),
        None => Rules {
            order: Order::Any,
            policy: DivergencePolicy::Refuse,
            own_tables: Vec::new(),
        },
    };
    let judged = plan::make(&migrations, &untouched, &rules);
    let report = Report {
        import: &import,
        from,
        to,
        refusal: judged.as_ref().err(),
        history: &history,
    };
    Ok(Answer::Done(
        report.text(config::layout(context.environment)),
    ))
}

/// The problems, with the directory in front of their paths.
fn located(directory: &Path, problems: Vec<Problem>) -> Vec<Problem> {
    let located = |it: Problem| {
        // Without a slash at the end, where the problem is about all of it.
        let path: PathBuf = directory.join(it.path).components().collect();
        Problem::new(path, it.problem)
    };
    problems.into_iter().map(located).collect()
}

const READING: &str = "reading the other tool's history";

/// Looks for the tables that tools of this kind keep, and reads the one that is there.
fn read_history(config: &Config, import: &Import, signals: &Signals) -> Result<Known, Error> {
    let failed = |trouble: Trouble| trouble.while_doing(READING);
    let mut patience = Wait::new(signals, config.database_wait);
    let runner = application_name(&config.server);
    let (search, found) = Message::asking(&history::search());
    let (mut session, answer) = open::open(&config.server, &runner, &search, &mut patience)?;
    let rows = answer.map_err(failed)?.into_rows(found);
    let places = rows.iter().filter_map(|row| {
        let (schema, name) = (row.get("schema")?, row.get("name")?);
        history::place(&import.tools, schema, name, row.get("columns")?)
    });
    let places: Vec<Place> = places.collect();
    let known = match places.as_slice() {
        [] => Known::NoTable(config.server.description.clone()),
        [place] => {
            let verdict = read_table(config, place, import, &mut session, signals)?;
            Known::Read(place.clone(), verdict)
        }
        several => Known::Several(several.iter().map(Place::quoted).collect()),
    };
    session.close();
    Ok(known)
}

fn read_table(
    config: &Config,
    place: &Place,
    import: &Import,
    session: &mut Session,
    signals: &Signals,
) -> Result<Verdict, Error> {
    let mut wait = Wait::new(signals, config.lock_wait);
    let rows = loop {
        match session.ask(&place.query()) {
            Ok(rows) => break rows,
            Err(trouble) => session.after_lock_timeout(trouble, READING, &mut wait)?,
        }
    };
    let text = |row: &SimpleQueryRow, column| row.get(column).unwrap_or_default().to_owned();
    let records = rows.iter().map(|row| Record {
        entry: text(row, "entry"),
        what: text(row, "what"),
    });
    let records: Vec<Record> = records.collect();
    Ok(history::judge(place.tool, import, &records))
}
