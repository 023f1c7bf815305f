//! `lockstep plan`: tells what `up` would do, by reading the files, or by running them and rolling back.

mod rehearse;

use super::run::{look, plan_for, read_files, refuse_what_cannot_be_written_to};
use super::run::{say_ahead, warn_of_enum_use, warn_of_tolerated};
use super::{Answer, Context};
use crate::apply::outside::partitioned;
use crate::cli::Planning;
use crate::config;
use crate::error::Error;
use crate::impact::catalog;
use crate::lock;
use crate::report;
use crate::text::Format;

pub fn run(context: &Context<'_>, format: Format, planning: Planning) -> Result<Answer, Error> {
    let config = context.config()?;
    let migrations = read_files(&config)?;
    let mut first = look(&config, context.signals, None)?;
    let (session, observation) = (&mut first.session, &first.observation);
    observation.refuse_if_lost(&config, &migrations)?;
    let plan = plan_for(&config, &migrations, &observation.history)?;
    partitioned::refuse(session, &plan.pending)?;
    warn_of_tolerated(&plan);
    say_ahead(&plan);
    warn_of_enum_use(&plan.pending, &observation.history);
    let runner = lock::at_work(session, observation)?;
    let world = catalog::read(session, &plan.pending)?;
    let mut shown = report::plan::Answer::new(&plan, &migrations, world.clone(), runner.clone());
    if planning == Planning::Rehearse && !plan.pending.is_empty() {
        refuse_what_cannot_be_written_to(&config, observation, "migrations are pending")?;
        if let Some(runner) = runner {
            return Err(Error::NoLock(format!(
                "a rehearsal would get into the way of another runner: {runner}\n  \
                 hint: run again when it is done"
            )));
        }
        shown.add_measurements(rehearse::run(&config, &mut first, &plan, &world)?);
    }
    first.session.close();
    context.signals.check("the plan was made")?;
    Ok(Answer::Asked(match format {
        Format::Text => shown.text(config::layout(context.environment)),
        Format::Json => shown.json(),
    }))
}
