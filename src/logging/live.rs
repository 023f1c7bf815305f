//! The live line: the last line of a terminal, rewritten in place, where the log's lines come and go above it.
//!
//! It is drawn by one thread while another may write a record. Neither waits for the other: while there is a live line,
//! each record begins by erasing the line that the cursor is in, in the same write as its own text. So whichever comes
//! first, no two share a line.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use log::LevelFilter;

use super::SETTINGS;
use crate::text::Format;
use crate::text::terminal::shortened;

/// Whether one may be on the screen.
static DRAWN: AtomicBool = AtomicBool::new(false);

/// To the line's beginning, and erase all of it.
const ERASE: &str = "\r\x1b[K";

/// How many columns a live line has, if the log goes to a terminal that can have one.
pub fn columns() -> Option<usize> {
    let settings = SETTINGS.get()?;
    let is_read = settings.format == Format::Text && settings.level >= LevelFilter::Info;
    settings.layout.columns().filter(|_| is_read)
}

/// Draws the live line, over the one that is there.
pub fn draw(text: &str) {
    // A line that wraps could not be erased. If the terminal is narrower than we think, it cuts the line.
    const NO_WRAP: &str = "\r\x1b[?7l";
    const WRAP: &str = "\x1b[K\x1b[?7h";
    // A full line moves the cursor on.
    let text = shortened(text, columns().map_or(0, |columns| columns - 1));
    DRAWN.store(true, Ordering::SeqCst);
    write(&format!("{NO_WRAP}{text}{WRAP}"));
}

/// Erases the live line. Nobody may be drawing it any more.
pub fn clear() {
    if DRAWN.swap(false, Ordering::SeqCst) {
        write(ERASE);
    }
}

/// What a record begins with.
pub(super) fn before_record() -> &'static str {
    if DRAWN.load(Ordering::SeqCst) { ERASE } else { "" }
}

/// A terminal that has gone away is no reason to stop.
fn write(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
