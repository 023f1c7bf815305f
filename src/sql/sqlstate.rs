//! The SQLSTATEs that our own statements raise.

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
