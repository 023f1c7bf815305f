//! What `import` did, and what is to be done next.

use std::path::Path;

use crate::files::Problem;
use crate::import::history::{self, Place, Verdict};
use crate::import::{Brought, Import};
use crate::plan::Obstruction;
use crate::text::terminal::{Layout, hanging, paragraph, printable};
use crate::text::words::{counted, joined};

/// What is told of an import.
pub struct Report<'a> {
    pub import: &'a Import,
    /// Where the files came from, and where they are now.
    pub from: &'a Path,
    pub to: &'a Path,
    /// What an empty database would refuse.
    pub refused: Vec<Obstruction>,
    pub history: &'a Known,
}

/// What is known of the tool's own history.
pub enum Known {
    /// No database is named.
    NotAsked,
    /// There is no such table in this database.
    NoTable(String),
    /// There are several.
    Several(Vec<Place>),
    /// What the table says.
    Read(Place, Verdict),
}

impl Report<'_> {
    pub fn text(&self, layout: Layout) -> String {
        let columns = layout.columns().unwrap_or(usize::MAX);
        let import = self.import;
        let whose = joined(&import.tools, " or ");
        let (from, to) = (shown(self.from), shown(self.to));
        let count = counted(import.migrations.len(), "migration");
        let head = if import.is_ours {
            format!(
                "{from}: {count}, whose names are Lockstep's already: nothing was written; set MIGRATIONS_DIR={from}"
            )
        } else {
            format!("{count} of {whose}, from {from} to {to}:")
        };
        let mut text = paragraph(&head, layout);
        if !import.is_ours {
            text.extend(import.migrations.iter().map(row));
        }
        let list = |title: &str, lines: &[String]| match lines {
            [] => String::new(),
            lines => {
                let lines = lines.iter().map(|line| hanging(line, 2, columns));
                format!("\n{title}:\n{}", lines.collect::<String>())
            }
        };
        let left: Vec<String> = import.left.iter().map(Problem::to_string).collect();
        let refused: Vec<String> = self.refused.iter().map(Obstruction::to_string).collect();
        text += &list("left behind", &left);
        text += &list("what `lockstep up` would refuse on an empty database", &refused);
        text + &list("next", &self.next())
    }

    /// What is to be done next.
    fn next(&self) -> Vec<String> {
        let tools = &self.import.tools;
        let (whose, names) = (joined(tools, " or "), joined(history::names(tools), " or "));
        let next = match self.history {
            Known::NotAsked => format!(
                "on a database that {whose} has migrated, look in {names} for the newest version there,\n\
                 and record all up to its new name: lockstep baseline VERSION\n\
                 (with DATABASE_URL set, `lockstep import` reads that table and names the version)"
            ),
            Known::NoTable(database) => format!(
                "{database} has no table {names}: nothing was applied there by {whose}, or under another table's name; \
                 if nothing was: lockstep up"
            ),
            Known::Several(places) => format!(
                "which of these tables counts is for you to say: {}; then: lockstep baseline VERSION",
                joined(places.iter().map(|it| &it.table), ", ")
            ),
            Known::Read(Place { table, .. }, Verdict::Nothing) => {
                format!("{table} records nothing that is applied: lockstep up")
            }
            Known::Read(Place { table, .. }, Verdict::Doubt(doubts)) => {
                let doubts: String = doubts.iter().map(|doubt| format!("\n  {doubt}")).collect();
                format!("{table} leaves a doubt, which is for you to settle:{doubts}")
            }
            Known::Read(Place { table, .. }, Verdict::UpTo(version)) => {
                let all = self.import.migrations.iter();
                let left = match all.filter(|it| it.version > *version).count() {
                    0 => "all of them are applied".to_owned(),
                    count => format!("all but the newest {count} are applied"),
                };
                format!("as {table} says, {left}; record that:\nlockstep baseline {version}")
            }
        };
        let mut next: Vec<String> = next.lines().map(str::to_owned).collect();
        if !self.refused.is_empty() {
            next.insert(0, "mend what is refused above, in the new files".to_owned());
        }
        next
    }
}

fn shown(path: &Path) -> String {
    printable(&path.display().to_string()).into_owned()
}

/// What became of one migration.
fn row(migration: &Brought) -> String {
    let (up, new) = (&migration.up.from, migration.up_name());
    let down = migration.down.iter().map(|down| {
        let from = if down.from == *up { "" } else { &down.from };
        let width = up.chars().count();
        format!("  {from:width$} → {}\n", migration.down_name())
    });
    format!("  {up} → {new}\n{}", down.collect::<String>())
}
