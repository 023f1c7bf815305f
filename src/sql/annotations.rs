//! Comments that tell a migration tool something: ours, and those of other tools, whose files are given to us as they are.

/// What a comment on a line of its own says to a migration tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Annotation {
    /// The author wants the file outside a transaction.
    NoTransaction,
    /// What follows undoes what stands before it.
    Down,
    /// It asks for what we do not do.
    Unsupported,
    /// It speaks to us, and we do not understand it.
    Unknown,
}

/// Reads a comment from its `--` to the end of its line. Each tool's spelling is taken with any spacing and in any case, as
/// most of them do.
pub(super) fn annotation(comment: &str) -> Option<Annotation> {
    let text = comment.trim_start_matches('-').to_ascii_lowercase();
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    let is = |command: &str| text == command || text.starts_with(&format!("{command} "));
    match text.as_str() {
        // goose, sqlx.
        "lockstep: no-transaction"
        | "lockstep:no-transaction"
        | "+goose no transaction"
        | "no-transaction" => Some(Annotation::NoTransaction),
        // dbmate, sql-migrate.
        _ if is("migrate:up") && words.contains(&"transaction:false") => {
            Some(Annotation::NoTransaction)
        }
        _ if is("+migrate up") && words.contains(&"notransaction") => {
            Some(Annotation::NoTransaction)
        }
        // goose, sql-migrate, dbmate, MyBatis.
        _ if is("+goose down") || is("+migrate down") || is("migrate:down") || is("//@undo") => {
            Some(Annotation::Down)
        }
        _ if is("+goose envsub on") => Some(Annotation::Unsupported),
        _ if text.starts_with("lockstep:") => Some(Annotation::Unknown),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tools_spelling_is_known() {
        use Annotation::{Down, NoTransaction, Unknown, Unsupported};
        for (comment, meaning) in [
            ("-- lockstep: no-transaction", Some(NoTransaction)),
            ("--lockstep:no-transaction\r", Some(NoTransaction)),
            ("-- +goose NO TRANSACTION", Some(NoTransaction)),
            ("-- no-transaction", Some(NoTransaction)),
            ("-- migrate:up transaction:false", Some(NoTransaction)),
            ("-- +migrate Up notransaction", Some(NoTransaction)),
            ("-- +goose Down", Some(Down)),
            ("--   +GOOSE   down", Some(Down)),
            ("--+goose down", Some(Down)),
            ("-- +migrate Down notransaction", Some(Down)),
            ("-- migrate:down", Some(Down)),
            ("--//@UNDO", Some(Down)),
            ("-- //@UNDO", Some(Down)),
            ("-- +goose ENVSUB ON", Some(Unsupported)),
            ("-- lockstep: no-transactions", Some(Unknown)),
            ("-- +goose Up", None),
            ("-- +goose StatementBegin", None),
            ("-- migrate:up", None),
            ("-- going down", None),
            ("-- no-transaction is needed here", None),
            ("-- +goose downhill", None),
            ("--", None),
        ] {
            assert_eq!(annotation(comment), meaning, "{comment}");
        }
    }
}
