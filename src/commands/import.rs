//! `lockstep import DIRECTORY`: writes another tool's migrations into `MIGRATIONS_DIR` under our names, and tells from that
//! tool's own history what is applied already.
//!
//! Everything is read and judged before anything is written: the directory, the place for the new files, the database if
//! one is named, of which nothing but the catalog and the tool's table is read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use log::info;

use super::{Answer, Context, run};
use crate::config::{self, Config};
use crate::error::Error;
use crate::files::{self, Problem};
use crate::import::history::{self, Place, Record};
use crate::import::{self, Brought, Import};
use crate::plan;
use crate::report::import::{Known, Report};
use crate::server::message::Message;
use crate::server::open;
use crate::server::settings::Settings;
use crate::server::wait::Wait;
use crate::signals::Signals;
use crate::text::words::counted;

pub fn run(context: &Context<'_>, from: &Path) -> Result<Answer, Error> {
    let config = if config::names_a_database(context.environment) {
        Some(context.readers_config()?)
    } else {
        None
    };
    let to = config::migrations_dir(context.environment).map_err(Error::Environment)?;
    let found = files::import::read(from).map_err(Error::Files)?;
    let import = import::understand(&found).map_err(|it| Error::Files(located(from, it)))?;
    if !import.is_ours {
        files::import::is_free(&to).map_err(|problem| Error::Files(problem.into()))?;
    }
    let history = match &config {
        None => Known::NotAsked,
        Some(config) => read_history(config, &import, context.signals)?,
    };
    context.signals.check("nothing was written")?;
    let to = if import.is_ours { from } else { &to };
    if !import.is_ours {
        let files = import.migrations.iter().flat_map(Brought::files);
        let files: Vec<(String, &str)> = files.collect();
        files::import::write(to, &files).map_err(Error::Files)?;
        let count = counted(files.len(), "file");
        info!(written = files.len(); "{count} written into {}", to.display());
    }
    let migrations = files::read(to).map_err(Error::Files)?;
    let own_tables = config.as_ref().map(run::own_tables).unwrap_or_default();
    let refused = migrations
        .iter()
        .flat_map(|it| plan::obstructions_of_up_file(it, &own_tables, &mut BTreeSet::new()));
    let report =
        Report { import: &import, from, to, refused: refused.collect(), history: &history };
    Ok(Answer::Done(report.text(config::layout(context.environment))))
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

/// Looks for the tables that tools of this kind keep, and reads the one that is there.
fn read_history(config: &Config, import: &Import, signals: &Signals) -> Result<Known, Error> {
    const READING: &str = "reading the other tool's history";
    let mut patience = Wait::new(signals, config.database_wait);
    let (search, found) = Message::asking(&history::search(&import.tools));
    let (mut session, answer) = open::open(&config.server, &search, &mut patience)?;
    let rows = answer.map_err(|trouble| trouble.while_doing(READING))?.into_rows(found);
    let places = rows.iter().filter_map(|row| {
        let (schema, name) = (row.get("schema")?, row.get("name")?);
        history::place(&import.tools, schema, name, row.get("columns")?)
    });
    let places: Vec<Place> = places.collect();
    let mut wait = Wait::new(signals, config.lock_wait);
    let known = match places.as_slice() {
        [] => Known::NoTable(config.server.description.clone()),
        [place] => {
            let settings = Settings::of_catalog().retried();
            let (message, asked) = Message::asking_under(&settings, &place.query);
            let answer = session.send_patiently(&message, READING, &mut wait)?;
            let records = answer.rows(asked).filter_map(|row| {
                let (entry, what) = (row.get("entry")?.to_owned(), row.get("what")?.to_owned());
                Some(Record { entry, what })
            });
            let verdict = history::judge(place.tool, import, &records.collect::<Vec<_>>());
            Known::Read(place.clone(), verdict)
        }
        several => Known::Several(several.to_vec()),
    };
    session.close();
    Ok(known)
}
