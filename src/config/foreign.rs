//! What people paste: connection strings and parameters that belong to somebody else's client. Each gets a sentence that
//! says whose it is, and what to write instead. None repeats more of a text than a scheme, which holds no secret.

/// Whose connection string this is, if it is none of PostgreSQL's.
pub(super) fn form(text: &str) -> Option<String> {
    let start = text.trim_start();
    let problem = if start.starts_with(['"', '\'', '`', '\u{201c}']) {
        "begins with a quote: leave out the quotes around it"
    } else if start.starts_with("psql ") {
        "begins with the word psql: give only the connection string behind it"
    } else if start.starts_with("DATABASE_URL=") || start.starts_with("export ") {
        "begins with the variable's own name: give only what stands behind the first ="
    } else if start.len() < text.len() && start.contains("://") {
        "begins with white space: leave it out"
    } else if has_semicolons(text) {
        "has semicolons between its parameters, which is ADO.NET's form: write host=… port=… dbname=… user=… password=…, with spaces between them"
    } else {
        return scheme(text);
    };
    Some(problem.to_owned())
}

fn scheme(text: &str) -> Option<String> {
    /// No scheme that anybody uses is longer.
    const LONGEST: usize = 30;
    let (scheme, _) = text.split_once("://")?;
    let is_one = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | ':' | '-');
    if scheme.is_empty() || scheme.len() > LONGEST || !scheme.chars().all(is_one) {
        return None;
    }
    let lower = scheme.to_ascii_lowercase();
    let is = |prefix| lower.starts_with(prefix);
    let owner = match lower.as_str() {
        "postgres" | "postgresql" => {
            return Some(format!("begins with {scheme}://: write it in small letters"));
        }
        "postgis" | "pgsql" | "pgx" | "pgx5" | "pg" | "psql" => "another client's name for",
        _ if is("jdbc:") => "JDBC's form of",
        _ if is("r2dbc:") => "R2DBC's form of",
        _ if is("prisma") => {
            return Some(format!(
                "begins with {scheme}://, which is the address of Prisma's proxy: give the URL of the database behind it, postgres://…"
            ));
        }
        _ if is("postgresql+") || is("postgres+") => "SQLAlchemy's form of",
        _ => return None,
    };
    Some(format!(
        "begins with {scheme}://, which is {owner} a URL: write postgres://user:password@host:port/database"
    ))
}

/// ADO.NET and ODBC put semicolons between their pairs.
fn has_semicolons(text: &str) -> bool {
    let (first, rest) = text.split_once(';').unwrap_or_default();
    let (key, value) = first.split_once('=').unwrap_or_default();
    let names = "server|host|data source|database|driver|dsn|user id|username|port";
    let key = key.trim().to_ascii_lowercase();
    names.split('|').any(|it| it == key)
        && !value.trim().contains(char::is_whitespace)
        && (rest.trim().is_empty() || rest.contains('='))
}

/// A word of ours for another client's, MySQL's or Node's mostly, or for one of ours in another spelling.
pub(super) fn meant(word: &str) -> String {
    let word = word.trim().to_ascii_lowercase().replace('_', "-");
    let ours = match word.as_str() {
        "no-verify" | "skip-verify" | "insecure" | "true" | "on" | "1" | "yes" | "enable"
        | "enabled" | "required" => "require",
        "false" | "off" | "0" | "no" | "none" | "disabled" => "disable",
        "preferred" => "prefer",
        "full" | "verify-identity" | "strict-verify" => "verify-full",
        _ => return word,
    };
    ours.to_owned()
}

/// What looks as if a shell, or whoever else, should have put a variable's value there.
pub(super) fn unexpanded(text: &str) -> Option<&'static str> {
    let opened = [("${", '}'), ("$(", ')'), ("{{", '}')];
    let is_there = opened
        .iter()
        .any(|(open, close)| text.split_once(open).is_some_and(|(_, rest)| rest.contains(*close)));
    is_there
        .then_some("holds ${…}, $(…) or {{…}}: if that was to be replaced by a value, it was not")
}

/// Whose parameter this is, and what to do instead.
pub(super) fn parameter(name: &str) -> Option<&'static str> {
    const PRISMAS: &str =
        "pgbouncer|connection_limit|pool_timeout|socket_timeout|statement_cache_size";
    const POOLS: &str = "pool|pool_size|max_overflow|pool_max_conns|pool_min_conns|\
        pool_max_conn_lifetime|pool_max_conn_idle_time|pool_health_check_period|max_connections|\
        min_connections|prepared_statements";
    const GO_DRIVERS: &str = "default_query_exec_mode|statement_cache_capacity|\
        description_cache_capacity|prefer_simple_protocol|binary_parameters";
    const JDBCS: &str = "sslfactory|sslhostnameverifier|sslResponseTimeout|ApplicationName|\
        reWriteBatchedInserts|stringtype";
    let is_of = |names: &str| names.split('|').any(|it| it == name);
    Some(match name {
        "database" | "db" => "did you mean dbname?",
        "username" | "user_id" | "uid" => "did you mean user?",
        "passwd" | "pwd" => "did you mean password?",
        "server" | "hostname" => "did you mean host?",
        "socket" => "it is dbmate's: write host=DIRECTORY",
        "schema" => {
            "it is Prisma's: leave it out, and write MIGRATIONS_TABLE=SCHEMA.bun_migrations for the history, and options=-c%20search_path%3DSCHEMA for the migrations"
        }
        _ if is_of(PRISMAS) => "it is Prisma's: leave it out",
        _ if is_of(POOLS) => {
            "it is for a pool of connections, of which Lockstep has none: leave it out"
        }
        _ if is_of(GO_DRIVERS) => "it is a Go driver's: leave it out",
        _ if is_of(JDBCS) => "it is JDBC's: leave it out",
        "timeout" | "dial_timeout" | "connectTimeout" | "connect_timeout_ms"
        | "connectionTimeout" | "loginTimeout" => {
            "it is another client's: write connect_timeout, in whole seconds"
        }
        "read_timeout" | "write_timeout" | "insecure" => "it is pgdriver's: leave it out",
        "statement_timeout" => {
            "it is a setting of the server, which Lockstep makes: write STATEMENT_TIMEOUT_SECONDS"
        }
        "lock_timeout" => {
            "it is a setting of the server, which Lockstep makes: write DDL_LOCK_TIMEOUT_SECONDS"
        }
        "timezone" | "TimeZone" | "idle_in_transaction_session_timeout" | "role" => {
            "it is a setting of the server: write options=-c%20NAME%3DVALUE, or leave it out"
        }
        "search_path" | "currentSchema" => {
            "it is a setting of the server: write options=-c%20search_path%3DSCHEMA, in key=value pairs options='-c search_path=SCHEMA'"
        }
        "ssl" => "write sslmode=require, or a stronger one; in a URL ssl=true is that, too",
        "uselibpqcompat" => "it is node-postgres's: leave it out",
        "encoding" | "charset" => "leave it out: it is UTF8 in any case",
        "tty" => "PostgreSQL has no use for it any more: leave it out",
        "api_key" => "it is for Prisma's proxy: give the URL of the database behind it",
        _ if name.starts_with("amp;") => "&amp; is HTML for &: write & alone",
        "x-migrations-table" => {
            "it is golang-migrate's: leave it out, and name the history by MIGRATIONS_TABLE"
        }
        _ if name.starts_with("x-") => "it is golang-migrate's: leave it out",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{loaded, refused};

    /// What is pasted, and a word of what is said about it.
    #[test]
    fn each_form_is_told_whose_it_is_and_nothing_secret() {
        for (text, expected) in [
            ("jdbc:postgresql://h/d?password=secret", "JDBC's form"),
            ("postgresql+psycopg2://u:secret@h/d", "SQLAlchemy's form"),
            ("prisma+postgres://accelerate.example/?api_key=secret", "Prisma's proxy"),
            ("r2dbc:postgresql://u:secret@h/d", "R2DBC's form"),
            ("pgsql://u:secret@h/d", "another client's name"),
            ("POSTGRES://u:secret@h/d", "small letters"),
            ("\"postgres://u:secret@h/d\"", "begins with a quote"),
            (" postgres://u:secret@h/d", "white space"),
            ("psql 'postgres://u:secret@h/d'", "the word psql"),
            ("DATABASE_URL=postgres://u:secret@h/d", "the variable's own name"),
            ("Server=h;Database=d;User Id=u;Password=secret;", "ADO.NET's form"),
            ("postgres://u:secret@h/d?schema=s", "it is Prisma's"),
            ("postgres://u:secret@h/d?x-migrations-table=m", "by MIGRATIONS_TABLE"),
            ("postgres://u:secret@h/d?x-statement-timeout=5", "golang-migrate's: leave it out"),
            ("postgres://u:secret@h/d?sslmode=disable&amp;port=1", "&amp; is HTML"),
            ("postgres://u:secret@h/d?statement_timeout=5", "STATEMENT_TIMEOUT_SECONDS"),
            ("postgres://u:secret@h/d?search_path=s", "write options=-c%20search_path%3DSCHEMA"),
            ("postgres://u:secret@h/d?sslmode=no-verify", "did you mean require?"),
            ("postgres://u:secret@h/d?sslmode=VERIFY_CA", "did you mean verify-ca?"),
        ] {
            let told = refused(&[("DATABASE_URL", text)]).join("\n");
            assert!(told.contains(expected), "{text}: {told}");
            assert!(!told.contains("secret"), "{text}: {told}");
        }
    }

    #[test]
    fn a_password_that_looks_like_a_variable_is_a_warning() {
        for (text, count) in [
            ("postgres://u:${DB_PASSWORD}@h/d", 1),
            ("postgres://u:$(DB_PASSWORD)@h/d", 1),
            ("host=h password={{pw}}", 1),
            ("postgres://u:a$b@h/d", 0),
        ] {
            assert_eq!(loaded(&[("DATABASE_URL", text)]).warnings.len(), count, "{text}");
        }
        // What has only a semicolon in common with that form is ours.
        loaded(&[("DATABASE_URL", "host=h password=a;b=c")]);
        loaded(&[("DATABASE_URL", "postgres://u:endpoint%3Dx;y@h/d")]);
    }
}
