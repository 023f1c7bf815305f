//! `lockstep check`: tells whether the database is where the files are. It only reads, takes no lock, and judges as `up`
//! would. The answer is the whole of it; the log adds only warnings.

use super::run::{judge, look, warn_of_dead_row, warn_of_enum_use, warn_of_tolerated};
use super::{Answer, Context};
use crate::config;
use crate::error::Error;
use crate::files;
use crate::migration::Migration;
use crate::plan;
use crate::report::check::Report;
use crate::text::Format;

pub fn run(context: &Context<'_>, format: Format) -> Result<Answer, Error> {
    let config = context.readers_config()?;
    let migrations = files::read(&config.migrations_dir).map_err(Error::Files)?;
    let mut first = look(&config, context.signals, None)?;
    let (session, seen) = (&mut first.session, &first.observation);
    let judged = judge(&config, &migrations, session, seen, None);
    warn_of_dead_row(&config, session, seen, &mut first.wait)?;
    first.session.close();
    let entries = plan::classify(&migrations, &seen.history);
    let pending: Vec<&Migration> = plan::pending(&entries).collect();
    warn_of_enum_use(&pending, &seen.history);
    let report = Report {
        order: config.order,
        entries: &entries,
        observation: seen,
        judged: judged.as_ref(),
    };
    let text = match format {
        Format::Text => report.text(config::layout(context.environment)),
        Format::Json => report.json().document(),
    };
    match judged {
        Ok(plan) => {
            warn_of_tolerated(&plan);
            Ok(Answer::Done(text))
        }
        Err(error) => Ok(Answer::Found(text, Box::new(error))),
    }
}
