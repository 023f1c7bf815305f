//! What `import` did, and what is to be done next.

use std::path::Path;

use crate::import::history::{self, Place, Verdict};
use crate::import::{Brought, Import, listed};
use crate::plan::refusal::Refusal;
use crate::text::terminal::{Layout, hanging, paragraph, printable};
use crate::text::words::counted;

/// What is told of an import.
pub struct Report<'a> {
    pub import: &'a Import,
    /// Where the files came from, and where they are now.
    pub from: &'a Path,
    pub to: &'a Path,
    /// What an empty database would refuse.
    pub refusal: Option<&'a Refusal>,
    pub history: &'a Known,
}

/// What is known of the tool's own history.
pub enum Known {
    /// No database is named.
    NotAsked,
    /// There is no such table in this database.
    NoTable(String),
    /// There are several.
    Several(Vec<String>),
    /// What the table says.
    Read(Place, Verdict),
}

impl Report<'_> {
    pub fn text(&self, layout: Layout) -> String {
        let columns = layout.columns().unwrap_or(usize::MAX);
        let import = self.import;
        let (whose, from, to) = (listed(&import.tools), shown(self.from), shown(self.to));
        let count = counted(import.migrations.len(), "migration");
        let mut text = match import.is_ours {
            true => paragraph(
                &format!(
                    "{from}: {count}, whose names are Lockstep's already: nothing was written; set MIGRATIONS_DIR={from}"
                ),
                layout,
            ),
            false => {
                let head = format!("{count} of {whose}, from {from} to {to}:");
                let rows = import.migrations.iter().map(row);
                paragraph(&head, layout) + &rows.collect::<String>()
            }
        };
        if !import.left.is_empty() {
            text += "\nleft behind:\n";
            for left in &import.left {
                text += &hanging(&left.to_string(), 2, columns);
            }
        }
        if let Some(refusal) = self.refusal {
            text += "\nwhat `lockstep up` would refuse on an empty database:\n";
            for obstruction in &refusal.obstructions {
                text += &hanging(&obstruction.to_string(), 2, columns);
            }
        }
        text + &self.next(columns)
    }

    /// What is to be done next.
    fn next(&self, columns: usize) -> String {
        let mut text = "\nnext:\n".to_owned();
        let mut say = |line: &str| text += &hanging(line, 2, columns);
        if self.refusal.is_some() {
            say("mend what is refused above, in the new files");
        }
        let (whose, names) = (listed(&self.import.tools), self.tables());
        match self.history {
            Known::NotAsked => {
                say(&format!(
                    "on a database that {whose} has migrated, look in {names} for the newest version there,"
                ));
                say("and record all up to its new name: lockstep baseline VERSION");
                say(
                    "(with DATABASE_URL set, `lockstep import` reads that table and names the version)",
                );
            }
            Known::NoTable(database) => say(&format!(
                "{database} has no table {names}: nothing was applied there by {whose}, or under another table's name; if nothing was: lockstep up"
            )),
            Known::Several(places) => say(&format!(
                "which of these tables counts is for you to say: {}; then: lockstep baseline VERSION",
                places.join(", ")
            )),
            Known::Read(place, Verdict::Nothing) => {
                say(&format!(
                    "{} records nothing that is applied: lockstep up",
                    place.quoted()
                ));
            }
            Known::Read(place, Verdict::Doubt(doubts)) => {
                say(&format!(
                    "{} leaves a doubt, which is for you to settle:",
                    place.quoted()
                ));
                for doubt in doubts {
                    say(&format!("  {}", printable(doubt)));
                }
            }
            Known::Read(place, Verdict::UpTo(version)) => {
                let all = self.import.migrations.iter();
                let behind = all.filter(|it| it.version > *version);
                let left = match behind.count() {
                    0 => "all of them are applied".to_owned(),
                    count => format!("all but the newest {count} are applied"),
                };
                say(&format!("as {} says, {left}; record that:", place.quoted()));
                say(&format!("lockstep baseline {version}"));
            }
        }
        text
    }

    /// The tables that such tools keep.
    fn tables(&self) -> String {
        let mut names = history::names(&self.import.tools);
        names.dedup();
        names.join(" or ")
    }
}

fn shown(path: &Path) -> String {
    printable(&path.display().to_string()).into_owned()
}

/// What became of one migration.
fn row(migration: &Brought) -> String {
    let (up, new) = (&migration.up, migration.up_name());
    let mut row = format!("  {} → {new}\n", up.from);
    if let Some(down) = &migration.down {
        let from = match down.from == up.from {
            true => String::new(),
            false => down.from.clone(),
        };
        let width = up.from.chars().count();
        row += &format!("  {from:width$} → {}\n", migration.down_name());
    }
    row
}
