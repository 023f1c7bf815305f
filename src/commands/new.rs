//! `lockstep new NAME`: creates the two files of a migration, and answers with their paths. Needs no database.

use log::info;

use super::{Answer, Context};
use crate::config;
use crate::error::Error;
use crate::files::new;

pub fn run(context: &Context<'_>, wish: &str) -> Result<Answer, Error> {
    let directory = config::migrations_dir(context.environment).map_err(Error::Environment)?;
    let name = new::name_for(wish).ok_or_else(|| {
        Error::Unusable(format!(
            "unusable argument {wish:?} after \"new\": a NAME needs a letter or a digit (see `lockstep help new`)"
        ))
    })?;
    let created = new::create(&directory, &name).map_err(Error::Files)?;
    if created.with_directory {
        info!("created the directory {}", directory.display());
    }
    if name != wish {
        info!("the name is {name}, made of {wish:?}");
    }
    let paths = created.files.map(|it| format!("{}\n", it.display()));
    Ok(Answer::Done(paths.concat()))
}
