//! Several files in one message, each in a transaction of its own: with the fence, the check and the record that it would
//! have alone, so that each is applied exactly once, for the same reasons.
//!
//! Our own statements are prepared at the message's head, and dropped at its end: to plan them costs the server more than
//! many a file. One message is one session of the server's, also behind a transaction pooler. The first error ends a
//! message, so what commits is a beginning of the batch.

use std::collections::BTreeMap;
use std::time::Duration;

use postgres::SimpleQueryRow;

use super::Locked;
use crate::error::Error;
use crate::history::guard;
use crate::history::record::{self, Entry, Started};
use crate::migration::{Migration, Version};
use crate::server::message::{Access, Message};
use crate::server::session::{Answer, Listener, Trouble};
use crate::server::settings::{self, Names, Settings};
use crate::server::wait::Wait;
use crate::sql::quote::literal;
use crate::sql::sqlstate;
use crate::text::words::joined;

/// A file that shares its message.
pub struct Member<'a> {
    pub migration: &'a Migration,
    /// Its text, as it is sent.
    pub text: String,
}

/// What came of a batch.
pub struct Outcome {
    /// What the first files took, which are applied.
    pub applied: Vec<Duration>,
    /// The SQLSTATE of why there are fewer than all. What failed is rolled back.
    pub failed: Option<String>,
}

/// Reads what a record takes note of.
const TIMES: &str = "extract(epoch FROM finished_at - started_at)";

impl Locked {
    /// Applies the files, one after the other, up to the first that fails, or until the message has taken long enough. They
    /// belong to this group.
    ///
    /// # Errors
    ///
    /// What the connection meets. If it is lost, nobody knows which of them committed.
    pub fn run_batch(
        &mut self,
        batch: &[Member<'_>],
        group: i64,
        settings: Settings,
        (doing, wait): (&str, &mut Wait),
        listener: &mut dyn Listener,
    ) -> Result<Outcome, Error> {
        let text = self.batch_text(batch, group, &settings.on(self.dialect));
        let (told, failed) = match self.work.ask_patiently(text, listener) {
            Ok(answer) => (Some(applied_in(&answer, batch)), None),
            Err(trouble @ Trouble::Sql(_)) => {
                self.work.send(&self.rolling_back()).map_err(|it| it.while_doing(doing))?;
                (None, Some(trouble.words().0.to_owned()))
            }
            Err(trouble) => {
                let doing = format!("{doing}, of which some may be committed");
                return Err(trouble.while_doing(&doing));
            }
        };
        // A trigger may have put a record elsewhere than where its statement returns it from.
        let applied = match told.filter(|it| it.len() == batch.len()) {
            Some(all) => all,
            None => {
                let query = self.applied_of(batch);
                let (message, _) = Message::asking_under(&Settings::of_catalog().retried(), &query);
                applied_in(&self.work.send_patiently(&message, doing, wait)?, batch)
            }
        };
        let last = batch[..applied.len()].last();
        let last = last.map(|it| self.recorded(&Entry::of(it.migration).version));
        self.has_committed(applied.len() as i64, last);
        Ok(Outcome { applied, failed })
    }

    fn batch_text(&self, batch: &[Member<'_>], group: i64, settings: &Settings) -> String {
        let prepared = self.prepare(group, settings).text();
        let members = (self.known()..).zip(batch);
        let members = members.map(|(known, it)| self.transaction_of(it, known).text());
        let reset = settings::reset(&self.runner).join("; ");
        format!("/* lockstep batch */ {prepared};\n{};\n{reset}", joined(members, ";\n"))
    }

    /// The transaction of one file. What the one before it has left is undone first, in the same transaction: if that fails,
    /// all is undone behind the message. The fence makes the settings, since each statement costs as much as many of them.
    fn transaction_of(&self, member: &Member<'_>, known: i64) -> Message {
        let Entry { version, file_name, checksum } = Entry::of(member.migration);
        let mut message = Message::begin_as_set(Access::Write);
        message.extend(&settings::RESETS);
        message.add(record::announce(member.migration.version));
        message.add("EXECUTE lockstep_fence");
        message.add(format!("\n{}\n", member.text));
        message.add("SET CONSTRAINTS ALL IMMEDIATE");
        message.add("SET LOCAL search_path TO pg_catalog, pg_temp");
        // A plan for any version is as good as one for this.
        message.add("SET LOCAL plan_cache_mode TO force_generic_plan");
        message
            .add(format!("EXECUTE lockstep_record({version}, {file_name}, {checksum}, {known})"));
        message.add(format!("EXECUTE lockstep_check({version})"));
        message.add("COMMIT");
        message
    }

    /// Prepares our statements, in a transaction, so that a pooler keeps the session if it fails. In a block: a prepared
    /// statement keeps the text that it came in, and the server copies that each time it is executed.
    fn prepare(&self, group: i64, settings: &Settings) -> Message {
        let entry = Entry::of_parameters();
        let version = &entry.version;
        let names = Names::Catalog;
        let mut message = Message::begin(Access::Write, &Settings { names, ..*settings });
        let set =
            |name, value, is_local| format!("pg_catalog.set_config('{name}', {value}, {is_local})");
        let values = settings.values().into_iter();
        let values = values.map(|(name, value)| set(name, literal(&value), true));
        let own = settings::of_connection(&self.runner).into_iter();
        let own = own.map(|(name, value)| set(name, value, false));
        let sets = values.chain(own);
        // To all transactions of a message, this is when it came.
        let is_late = "pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pg_catalog.transaction_timestamp() \
                       OPERATOR(pg_catalog.>) '1 s'::pg_catalog.interval";
        let late = self.words(sqlstate::BATCH_TIME);
        // First the timeouts, which the row's lock is waited for under.
        let fence = format!(
            "fence AS SELECT pg_catalog.num_nulls({}, pg_catalog.pg_advisory_unlock_all()::text, {}), {}",
            joined(sets, ", "),
            record::BEGINS,
            guard::failing(&format!("WHEN {is_late} THEN {late} {}", self.fence()))
        );
        // What others have recorded has no second record, and so fails the check.
        let newer = self.of_newer(&record::records(version), "$4");
        let started = Started::InBatch(format!("NOT EXISTS (SELECT{newer})"));
        let record = format!(
            "record(text, text, text, int8) AS {} RETURNING version, {TIMES} AS seconds",
            record::record(&self.tables, &entry, group, &self.runner, &started)
        );
        let not_recorded = self.words(sqlstate::NOT_RECORDED);
        let case = format!(" WHEN NOT {} THEN {not_recorded}", self.recorded(version));
        let check = format!("check(text) AS {}", self.fail_unless_fenced(&case));
        let prepared = [fence, record, check]
            .map(|it| format!("EXECUTE {};", literal(&format!("PREPARE lockstep_{it}"))));
        let block = format!("BEGIN {} END", prepared.concat());
        message.add(format!("DO LANGUAGE plpgsql {}", literal(&block)));
        // Once a message: one message is one session, which no crash outlives.
        message.extend(&self.fail_unless_kept());
        message.add("COMMIT");
        message
    }

    /// The query for those of the files that this run has applied.
    fn applied_of(&self, batch: &[Member<'_>]) -> String {
        let versions = joined(batch.iter().map(|it| it.migration.version), ",");
        format!(
            "SELECT version, {TIMES} AS seconds FROM {} j WHERE version = ANY ({}::text[]) \
             AND finished_at IS NOT NULL AND runner = {} \
             AND EXISTS (SELECT FROM {} h WHERE h.id = j.history_id AND h.name = j.version)",
            self.tables.journal,
            literal(&format!("{{{versions}}}")),
            literal(&self.runner),
            self.tables.history,
        )
    }
}

/// What the files took that are applied, as the answer tells: a beginning of the batch.
fn applied_in(answer: &Answer, batch: &[Member<'_>]) -> Vec<Duration> {
    let read = |row: &SimpleQueryRow| {
        let version = Version::parse(row.try_get("version").ok()??)?;
        let seconds: f64 = row.try_get("seconds").ok()??.parse().ok()?;
        Some((version, Duration::try_from_secs_f64(seconds).unwrap_or_default()))
    };
    let times: BTreeMap<Version, Duration> = answer.all_rows().filter_map(read).collect();
    batch.iter().map_while(|it| times.get(&it.migration.version).copied()).collect()
}
