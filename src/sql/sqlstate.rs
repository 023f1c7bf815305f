//! SQLSTATEs by name: PostgreSQL's own, as the manual's appendix "PostgreSQL Error Codes" calls them, and those that our
//! own statements raise.

/// What is no number was read as one: how our own statements raise an error.
pub const INVALID_TEXT_REPRESENTATION: &str = "22P02";
/// No rule of `pg_hba.conf` lets us in.
pub const INVALID_AUTHORIZATION: &str = "28000";
/// There is no database of this name.
pub const INVALID_CATALOG_NAME: &str = "3D000";
/// The server is starting up, or shutting down.
pub const CANNOT_CONNECT_NOW: &str = "57P03";
pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
/// The statement may not run in a transaction block.
pub const ACTIVE_SQL_TRANSACTION: &str = "25001";
/// A routine that commits is called in a transaction block.
pub const INVALID_TRANSACTION_TERMINATION: &str = "2D000";
pub const SERIALIZATION_FAILURE: &str = "40001";
pub const DEADLOCK_DETECTED: &str = "40P01";
pub const INVALID_SCHEMA_NAME: &str = "3F000";
pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
pub const SYNTAX_ERROR: &str = "42601";
/// `statement_timeout` has passed, say.
pub const QUERY_CANCELED: &str = "57014";
/// A column, a table, and another object that is there already.
pub const DUPLICATE_COLUMN: &str = "42701";
pub const DUPLICATE_TABLE: &str = "42P07";
pub const DUPLICATE_OBJECT: &str = "42710";
/// `lock_timeout` has passed.
pub const LOCK_NOT_AVAILABLE: &str = "55P03";
/// An enum value is used in the transaction that adds it.
pub const UNSAFE_NEW_ENUM_VALUE_USAGE: &str = "55P04";

/// The SQLSTATE of a marker, which tells how far a migration has come.
pub const MARKER: &str = "LK000";
/// The file ended the transaction it ran in.
pub const TRANSACTION_ENDED: &str = "LK001";
/// The version is already recorded.
pub const ALREADY_RECORDED: &str = "LK002";
/// Our row is gone.
pub const LOCK_LOST: &str = "LK003";
/// The guard is not held on the server that W sees.
pub const OTHER_SERVER: &str = "LK004";
/// The index that a statement built is not valid.
pub const INVALID_INDEX: &str = "LK005";
/// The file deleted or changed our row.
pub const ROW_TAKEN: &str = "LK006";
/// The record is not there.
pub const NOT_RECORDED: &str = "LK007";
/// The record that was to be taken back is not there any more.
pub const NO_LONGER_RECORDED: &str = "LK008";
/// The record is still there.
pub const STILL_RECORDED: &str = "LK009";
/// The index of a statement's name is another one than the statement's.
pub const OTHER_INDEX: &str = "LK010";
/// A migration of the same history is running, by another name of it.
pub const WORK_LOCKED: &str = "LK011";
/// The message has taken long enough: its other files are for the next one.
pub const BATCH_TIME: &str = "LK013";
/// What this run committed last is not there any more.
pub const COMMIT_LOST: &str = "LK014";
/// A file that runs outside a transaction was done in part, and has changed since.
pub const HALF_WAY: &str = "LK012";

/// What the statements of a fenced transaction raise, with the words for it.
pub const OURS: [(&str, &str); 11] = [
    (TRANSACTION_ENDED, "the file ended its transaction"),
    (ALREADY_RECORDED, "already recorded"),
    (LOCK_LOST, "the migration lock was lost"),
    (COMMIT_LOST, "what this run committed last is gone"),
    (OTHER_SERVER, "the two connections reached different servers, or the guard is gone"),
    (INVALID_INDEX, "the index is INVALID"),
    (ROW_TAKEN, "the file took the row of the migration lock away"),
    (NOT_RECORDED, "the record did not stay"),
    (NO_LONGER_RECORDED, "no longer recorded"),
    (STILL_RECORDED, "the record did not go"),
    (WORK_LOCKED, "another migration of this history is running"),
];
