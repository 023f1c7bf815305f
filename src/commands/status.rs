//! `lockstep status`: shows the database, the lock, and every migration. It only reads, and answers while a runner is at
//! work.

use super::run::own_tables;
use super::{Answer, Context};
use crate::config;
use crate::error::Error;
use crate::files;
use crate::lock::state;
use crate::plan;
use crate::report::status::Report;
use crate::text::Format;

pub fn run(context: &Context<'_>, format: Format) -> Result<Answer, Error> {
    let config = context.readers_config()?;
    let migrations = files::read(&config.migrations_dir).map_err(Error::Files)?;
    let facts = state::ask(&config, context.signals)?;
    facts.observation.refuse_if_lost(&config, &migrations)?;
    let history = &facts.observation.history;
    let entries = plan::classify(&migrations, history);
    let own_tables = own_tables(&config);
    let mut taken = plan::known_versions(&migrations, history);
    let refused = plan::pending(&entries).map(|it| {
        let found = plan::obstructions_of_up_file(it, &own_tables, &mut taken);
        (it.version, found)
    });
    let report = Report {
        config: &config,
        facts: &facts,
        entries: &entries,
        refused: &refused.filter(|(_, found)| !found.is_empty()).collect(),
    };
    Ok(Answer::Asked(match format {
        Format::Text => report.text(config::layout(context.environment)),
        Format::Json => report.json().document(),
    }))
}
