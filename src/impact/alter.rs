//! `ALTER …`: which lock each form takes (`AlterTableGetLockLevel` in the server's `commands/tablecmds.c`, and the
//! manual's page on ALTER TABLE), and what it does to the rows.

use super::words::Words;
use super::world::Effect;
use super::{Harm, Mode, NEW_CODE_FIRST, Name, Reader, SHORT, quoted};

/// Functions that are immutable or stable, as defaults use them: PostgreSQL keeps such a default in the catalog and
/// need not touch the rows.
pub const STEADY: [&str; 84] = [
    "now",
    "current_timestamp",
    "localtimestamp",
    "localtime",
    "current_time",
    "transaction_timestamp",
    "statement_timestamp",
    "date_trunc",
    "date_part",
    "extract",
    "make_date",
    "make_interval",
    "make_timestamp",
    "make_timestamptz",
    "to_timestamp",
    "to_date",
    "to_char",
    "to_number",
    "timezone",
    "age",
    "lower",
    "upper",
    "initcap",
    "md5",
    "sha256",
    "length",
    "char_length",
    "octet_length",
    "concat",
    "concat_ws",
    "format",
    "left",
    "right",
    "substr",
    "substring",
    "replace",
    "trim",
    "btrim",
    "ltrim",
    "rtrim",
    "lpad",
    "rpad",
    "repeat",
    "split_part",
    "string_to_array",
    "array_to_string",
    "array_length",
    "cardinality",
    "array_append",
    "array_cat",
    "array_fill",
    "abs",
    "round",
    "ceil",
    "floor",
    "trunc",
    "mod",
    "power",
    "sqrt",
    "greatest",
    "least",
    "coalesce",
    "nullif",
    "to_json",
    "to_jsonb",
    "json_build_object",
    "jsonb_build_object",
    "json_build_array",
    "jsonb_build_array",
    "jsonb_set",
    "current_setting",
    "current_schema",
    "current_database",
    "encode",
    "decode",
    "int4range",
    "int8range",
    "numrange",
    "tsrange",
    "tstzrange",
    "daterange",
    "to_tsvector",
    "pg_typeof",
    "to_regclass",
];

/// Functions that give another value each time.
const VOLATILE: [&str; 14] = [
    "random",
    "random_normal",
    "gen_random_uuid",
    "uuidv4",
    "uuidv7",
    "uuid_generate_v1",
    "uuid_generate_v1mc",
    "uuid_generate_v4",
    "clock_timestamp",
    "timeofday",
    "nextval",
    "setval",
    "set_config",
    "gen_random_bytes",
];

/// Types that bring a sequence along.
const SERIALS: [&str; 6] = [
    "serial",
    "bigserial",
    "smallserial",
    "serial2",
    "serial4",
    "serial8",
];

/// Types of PostgreSQL's own, by the first word that is written.
const BUILT_IN: [&str; 62] = [
    "smallint",
    "integer",
    "int",
    "bigint",
    "int2",
    "int4",
    "int8",
    "decimal",
    "numeric",
    "dec",
    "real",
    "double",
    "float",
    "float4",
    "float8",
    "money",
    "char",
    "character",
    "varchar",
    "text",
    "bpchar",
    "name",
    "bytea",
    "timestamp",
    "timestamptz",
    "date",
    "time",
    "timetz",
    "interval",
    "boolean",
    "bool",
    "point",
    "line",
    "lseg",
    "box",
    "path",
    "polygon",
    "circle",
    "cidr",
    "inet",
    "macaddr",
    "macaddr8",
    "bit",
    "varbit",
    "tsvector",
    "tsquery",
    "uuid",
    "xml",
    "json",
    "jsonb",
    "jsonpath",
    "oid",
    "regclass",
    "pg_lsn",
    "int4range",
    "int8range",
    "numrange",
    "tsrange",
    "tstzrange",
    "daterange",
    "national",
    "nchar",
];

/// Storage parameters that are changed under a weak lock; those of views are not among them.
const VIEW_OPTIONS: [&str; 4] = [
    "security_barrier",
    "security_invoker",
    "check_option",
    "user_catalog_table",
];

const BATCHES: &str = "add the column plain, fill it in batches, and then set its default";
const NOT_VALID: &str = "add it NOT VALID, and VALIDATE CONSTRAINT in a file of its own";
const UNDER_INDEX: &str =
    "CREATE UNIQUE INDEX CONCURRENTLY in a file of its own, then ADD … USING INDEX";
const BOTH_NAMES: &str = "let both names live (a view, or a second column) until all code is new";

impl Reader<'_> {
    pub(super) fn alter(&mut self, mut words: Words<'_>) {
        if words.takes("table all in tablespace")
            || words.takes("materialized view all in tablespace")
        {
            return self.related("every table in the tablespace", Mode::AccessExclusive);
        }
        if words.takes_one_of(&["table", "foreign table", "materialized view", "view"]) {
            return self.alter_table(words);
        }
        match words.word().as_str() {
            kind @ ("policy" | "rule" | "trigger") => {
                let _ = (kind, words.name());
                if words.takes("on")
                    && let Some(table) = words.parts()
                {
                    self.lock(&table, Mode::AccessExclusive);
                    self.subqueries(words);
                }
            }
            "sequence" => self.owned_by(words),
            "publication" => self.publication(words),
            "index" => self.alter_index(words),
            "domain" => self.alter_domain(words),
            "extension" => self.unknown("runs the extension's script"),
            "type" if words.has("cascade") => {
                self.related("tables of that type", Mode::AccessExclusive)
            }
            "type" => self.rename_of_type(words),
            "schema" => {
                let from = words.name();
                if words.takes("rename to")
                    && let (Some(from), Some(to)) = (from, words.name())
                {
                    self.breaks_schema(&from);
                    self.effects.push(Effect::RenamesSchema(from, to));
                }
            }
            _ => {}
        }
    }

    fn rename_of_type(&mut self, mut words: Words<'_>) {
        let name = words
            .parts()
            .and_then(|mut parts| parts.pop())
            .unwrap_or_default();
        if words.takes("rename") && !self.world.new_types.contains(&name) {
            let name = quoted(&name);
            self.breaks(format!("code that uses the old name in {name} fails"));
        }
    }

    fn alter_index(&mut self, mut words: Words<'_>) {
        let _ = words.takes("if exists");
        let Some(index) = words.parts() else { return };
        if words.takes("attach partition") {
            self.related("the tables of both indexes", Mode::AccessExclusive);
            let _ = index;
        }
    }

    fn alter_domain(&mut self, mut words: Words<'_>) {
        let _name = words.parts();
        let scans = words.takes("set not null")
            || words.takes("validate")
            || words.takes("add") && !words.has("not valid");
        if scans {
            self.related(
                "tables that use the domain, while their rows are checked",
                Mode::Share,
            );
        }
    }

    /// `ALTER TABLE`, and what has the same forms.
    fn alter_table(&mut self, mut words: Words<'_>) {
        let _ = words.takes("if exists");
        let Some(parts) = words.relation() else {
            return;
        };
        let table = self.world.resolve(&parts);
        if words.takes("rename") {
            return self.rename(&table, words);
        }
        if words.takes("set schema") {
            self.lock_name(&table, Mode::AccessExclusive);
            self.warn_if_old(
                Harm::BreaksOldCode,
                &table,
                "code that uses {} by its schema fails",
                BOTH_NAMES,
            );
            if let Some(schema) = words.name() {
                let to = Name {
                    schema,
                    name: table.name.clone(),
                };
                self.effects.push(Effect::Renames(table, to));
            }
            return;
        }
        if words.takes("attach partition") {
            return self.attach(&table, words);
        }
        if words.takes("detach partition") {
            return self.detach(&table, words);
        }
        for form in words.elements() {
            self.form(&table, form);
        }
    }

    fn warn_if_old(&mut self, harm: Harm, table: &Name, message: &str, safer: &str) {
        if self.world.is_old(table) {
            self.warn(harm, table, message, safer);
        }
    }

    fn rename(&mut self, table: &Name, mut words: Words<'_>) {
        self.lock_name(table, Mode::AccessExclusive);
        if words.takes("to") {
            self.warn_if_old(
                Harm::BreaksOldCode,
                table,
                "code that uses {} by this name fails",
                BOTH_NAMES,
            );
            if let Some(name) = words.name() {
                let to = Name {
                    schema: table.schema.clone(),
                    name,
                };
                self.effects.push(Effect::Renames(table.clone(), to));
            }
        } else if !words.takes("constraint") {
            let _ = words.takes("column");
            let column = quoted(&words.name().unwrap_or_default());
            let message = format!("code that uses column {column} of {{}} fails");
            self.warn_if_old(Harm::BreaksOldCode, table, &message, BOTH_NAMES);
        }
    }

    fn attach(&mut self, parent: &Name, mut words: Words<'_>) {
        let Some(parts) = words.parts() else { return };
        self.lock_name(parent, Mode::ShareUpdateExclusive);
        if self.world.is_old(parent) {
            self.related("its default partition", Mode::AccessExclusive);
            self.related("what its foreign keys reference", Mode::ShareRowExclusive);
        }
        if let Some(partition) = self.lock(&parts, Mode::AccessExclusive) {
            let safer = "first add a CHECK that implies the bounds, NOT VALID, and VALIDATE it";
            self.warn(
                Harm::Scan,
                &partition,
                "reads all of {} while nobody else can, unless a CHECK proves its bounds",
                safer,
            );
        }
    }

    fn detach(&mut self, parent: &Name, mut words: Words<'_>) {
        let Some(partition) = words.parts() else {
            return;
        };
        let is_gentle = words.takes("concurrently") || words.takes("finalize");
        let mode = if is_gentle {
            Mode::ShareUpdateExclusive
        } else {
            Mode::AccessExclusive
        };
        if self.lock_name(parent, mode) {
            if !is_gentle {
                let safer = "DETACH PARTITION … CONCURRENTLY, alone in its file";
                self.warn(
                    Harm::BlocksReads,
                    parent,
                    "keeps readers and writers of {} out",
                    safer,
                );
            }
            self.related(
                "its default partition, and what foreign keys link it to",
                mode,
            );
        }
        self.lock(&partition, Mode::AccessExclusive);
    }

    /// One form of those that can be listed.
    fn form(&mut self, table: &Name, mut words: Words<'_>) {
        let mode = match words.word().as_str() {
            "add" => self.add(table, words),
            "alter" => self.alter_column(table, words),
            "drop" => self.drop_form(table, words),
            "validate" => {
                let _ = words.takes("constraint");
                if let Some(constraint) = words.name() {
                    self.effects
                        .push(Effect::Validates(table.clone(), constraint));
                }
                if self.world.is_old(table) {
                    self.related(
                        "the table that it references, if it is a foreign key",
                        Mode::RowShare,
                    );
                }
                Mode::ShareUpdateExclusive
            }
            "set" => self.set_form(table, words),
            "reset" => self.options_mode(words),
            "cluster" => Mode::ShareUpdateExclusive,
            "enable" if words.takes("row level security") => {
                let message =
                    "hides every row of {} that no policy shows from code that is not its owner's";
                let safer = "create the policies before, in the same file";
                self.warn_if_old(Harm::BreaksOldCode, table, message, safer);
                Mode::AccessExclusive
            }
            "enable" | "disable" => {
                let _ = words.takes("always") || words.takes("replica");
                if words.at_word("trigger") {
                    Mode::ShareRowExclusive
                } else {
                    Mode::AccessExclusive
                }
            }
            "inherit" => self.with_parent(words, Mode::ShareUpdateExclusive),
            "no" if words.takes("inherit") => self.with_parent(words, Mode::AccessShare),
            // OWNER TO, REPLICA IDENTITY, FORCE ROW LEVEL SECURITY, OF type, OPTIONS (…), …
            _ => Mode::AccessExclusive,
        };
        self.lock_name(table, mode);
    }

    fn with_parent(&mut self, mut words: Words<'_>, mode: Mode) -> Mode {
        if let Some(parent) = words.parts() {
            self.lock(&parent, mode);
        }
        Mode::AccessExclusive
    }

    fn options_mode(&mut self, mut words: Words<'_>) -> Mode {
        let options = words.group().map(Words::elements).unwrap_or_default();
        let is_strong = options.iter().any(|option| {
            let name = option.rest().first().map(|token| token.stored_name());
            name.is_some_and(|name| VIEW_OPTIONS.contains(&name.as_str()))
        });
        if is_strong {
            Mode::AccessExclusive
        } else {
            Mode::ShareUpdateExclusive
        }
    }

    fn set_form(&mut self, table: &Name, mut words: Words<'_>) -> Mode {
        if words.at_symbol("(") {
            return self.options_mode(words);
        }
        if words.takes("without cluster") {
            return Mode::ShareUpdateExclusive;
        }
        let copies = words.takes_one_of(&["logged", "unlogged", "tablespace", "access method"]);
        if copies && self.world.is_old(table) {
            self.rewrites(table, "do it while nobody needs the table");
        }
        Mode::AccessExclusive
    }

    // ---- ADD ----

    fn add(&mut self, table: &Name, mut words: Words<'_>) -> Mode {
        let name = if words.takes("constraint") {
            words.name()
        } else {
            None
        };
        let starts = [
            "check",
            "foreign key",
            "primary key",
            "unique",
            "exclude",
            "not null",
        ];
        let is_constraint = name.is_some()
            || starts.iter().any(|start| {
                let mut ahead = words;
                ahead.takes(start)
            });
        match is_constraint {
            true => self.add_constraint(table, name, words),
            false => self.add_column(table, words),
        }
    }

    fn add_constraint(&mut self, table: &Name, name: Option<String>, mut words: Words<'_>) -> Mode {
        let is_valid = !words.has("not valid");
        if words.takes("foreign key") {
            let _columns = words.group();
            if words.takes("references")
                && let Some(target) = words.parts()
            {
                self.references(table, &target);
            }
            match is_valid {
                true => self.warn_if_old(
                    Harm::Scan,
                    table,
                    "reads all of {} while nobody can write to it",
                    NOT_VALID,
                ),
                false => {
                    self.warn_if_old(Harm::BlocksWrites, table, "keeps writers of {} out", SHORT)
                }
            }
            return Mode::ShareRowExclusive;
        }
        let message = "reads all of {} while nobody else can read or write it";
        if words.takes("check") {
            let column = words.group().and_then(not_null_of);
            self.add_check(table, name, column, is_valid);
            if is_valid {
                self.warn_if_old(Harm::Scan, table, message, NOT_VALID);
            }
        } else if words.takes("not null") {
            if is_valid {
                self.warn_if_old(Harm::Scan, table, message, NOT_VALID);
            }
        } else if !words.has("using index") {
            let message = "builds an index on {} while nobody else can read or write it";
            let safer = if words.at_word("exclude") {
                "do it while nobody needs the table"
            } else {
                UNDER_INDEX
            };
            self.warn_if_old(Harm::Scan, table, message, safer);
        }
        Mode::AccessExclusive
    }

    fn add_check(
        &mut self,
        table: &Name,
        name: Option<String>,
        column: Option<String>,
        is_valid: bool,
    ) {
        let Some(column) = column else { return };
        let constraint = name.unwrap_or_else(|| format!("{}_{column}_check", table.name));
        self.effects.push(Effect::AddsCheck {
            table: table.clone(),
            constraint,
            column,
            is_valid,
        });
    }

    fn add_column(&mut self, table: &Name, mut words: Words<'_>) -> Mode {
        let _ = words.takes("column");
        let _ = words.takes("if not exists");
        let _name = words.name();
        let type_name = words.parts().unwrap_or_default();
        let _ = words.group();
        let type_name = type_name.last().map_or("", String::as_str);
        let is_checked_domain = self.world.checked_domains.contains(type_name);
        if SERIALS.contains(&type_name) {
            self.rewrite_if_old(
                table,
                "add the column plain, fill it in batches, and then give it its sequence",
            );
        } else if words.has("generated") && words.has("stored") {
            self.rewrite_if_old(
                table,
                "keep a plain column by a trigger, and fill it in batches",
            );
        } else if words.has("as identity") {
            self.rewrite_if_old(
                table,
                "add the column plain, fill it in batches, and then make it an identity",
            );
        } else if is_checked_domain {
            // The domain's constraints are checked for each row, also where the value is NULL.
            self.rewrite_if_old(
                table,
                "add the column with the domain's base type, and a CHECK, NOT VALID",
            );
        } else if words.has("default") && !words.has("generated") {
            self.default(table, words);
        } else if words.has("not null") && !words.has("generated") {
            self.warn_if_old(
                Harm::BreaksOldCode,
                table,
                "fails if {} has rows; if not, code that inserts without this column fails",
                "add it with a DEFAULT, or without NOT NULL until all code gives it a value",
            );
        }
        self.column_constraints(table, words);
        Mode::AccessExclusive
    }

    fn rewrite_if_old(&mut self, table: &Name, safer: &str) {
        if self.world.is_old(table) {
            self.rewrites(table, safer);
        }
    }

    /// A default that is the same for all rows is kept in the catalog; one that is not is computed for each row.
    fn default(&mut self, table: &Name, mut words: Words<'_>) {
        let _ = words.seek("default");
        let rest = words.rest();
        let mut unknown = None;
        for pair in rest
            .windows(2)
            .filter(|pair| pair[0].is_name() && pair[1].is_symbol("("))
        {
            let name = pair[0].stored_name();
            if VOLATILE.contains(&name.as_str()) {
                return self.rewrite_if_old(table, BATCHES);
            }
            let ends = ["check", "references", "unique", "primary", "constraint"];
            if ends.contains(&name.as_str())
                || rest
                    .windows(2)
                    .any(|it| it[0].is_word("references") && it[1].text == pair[0].text)
            {
                break;
            }
            let is_type = BUILT_IN.contains(&name.as_str()) || name == "array" || name == "cast";
            if !is_type && !STEADY.contains(&name.as_str()) {
                unknown = Some(name);
            }
        }
        if let Some(name) = unknown {
            let message = format!("rewrites {{}} if {}() is volatile", quoted(&name));
            self.warn_if_old(Harm::MayRewrite, table, &message, BATCHES);
        }
    }

    fn column_constraints(&mut self, table: &Name, words: Words<'_>) {
        let mut target = words;
        if target.seek("references")
            && let Some(target) = target.parts()
        {
            self.references(table, &target);
        }
        if words.has("check") {
            let message = "reads all of {} while nobody else can read or write it";
            let safer = "add the column first, and its CHECK after it, NOT VALID";
            self.warn_if_old(Harm::Scan, table, message, safer);
        }
        if words.has("unique") || words.has("primary key") {
            let message = "builds an index on {} while nobody else can read or write it";
            self.warn_if_old(Harm::Scan, table, message, UNDER_INDEX);
        }
    }

    // ---- ALTER COLUMN, DROP ----

    fn alter_column(&mut self, table: &Name, mut words: Words<'_>) -> Mode {
        if words.takes("constraint") {
            self.related_if_old(table, "the table that it references", Mode::AccessExclusive);
            return Mode::AccessExclusive;
        }
        let _ = words.takes("column");
        let column = words.name().unwrap_or_default();
        if words.takes("set statistics") || words.takes("reset") {
            return Mode::ShareUpdateExclusive;
        }
        if words.takes("set data type") || words.takes("type") {
            let message = "rewrites {} unless the old type needs no conversion (varchar to text, a longer varchar)";
            self.warn_if_old(
                Harm::MayRewrite,
                table,
                message,
                "add a second column, copy in batches, and switch",
            );
        } else if words.takes("set not null") {
            let is_proven = self
                .world
                .proven
                .iter()
                .any(|it| it.0 == *table && it.1 == column);
            if !is_proven {
                let column = quoted(&column);
                let message = format!(
                    "reads all of {{}} while nobody else can, unless a valid CHECK proves {column} IS NOT NULL"
                );
                let safer = format!(
                    "ADD CHECK ({column} IS NOT NULL) NOT VALID; VALIDATE it in a file of its own; then this"
                );
                self.warn_if_old(Harm::Scan, table, &message, &safer);
            }
        } else if words.takes("set expression") {
            self.rewrite_if_old(table, "do it while nobody needs the table");
        } else if words.takes("set") && words.at_symbol("(") {
            return Mode::ShareUpdateExclusive;
        }
        Mode::AccessExclusive
    }

    fn related_if_old(&mut self, table: &Name, what: &str, mode: Mode) {
        if self.world.is_old(table) {
            self.related(what, mode);
        }
    }

    fn drop_form(&mut self, table: &Name, mut words: Words<'_>) -> Mode {
        let cascades = words.has("cascade");
        if words.takes("constraint") {
            self.related_if_old(
                table,
                "what it links to, if it is a foreign key or one needs it",
                Mode::AccessExclusive,
            );
        } else {
            let _ = words.takes("column");
            let _ = words.takes("if exists");
            let column = quoted(&words.name().unwrap_or_default());
            let message = format!("code that uses column {column} of {{}} fails");
            self.warn_if_old(Harm::BreaksOldCode, table, &message, NEW_CODE_FIRST);
            self.related_if_old(
                table,
                "what its foreign keys link it to",
                Mode::AccessExclusive,
            );
        }
        if cascades {
            self.related_if_old(
                table,
                "views and tables that depend on it",
                Mode::AccessExclusive,
            );
        }
        Mode::AccessExclusive
    }
}

/// The column of `column IS NOT NULL`, if that is all there is.
fn not_null_of(mut inside: Words<'_>) -> Option<String> {
    let column = inside.name()?;
    (inside.takes("is not null") && inside.is_over()).then_some(column)
}
