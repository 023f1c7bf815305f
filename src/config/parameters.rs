//! Every parameter of a connection that libpq knows: what it is to us, and which of libpq's variables stands for it.
//! One line each; what is used is read in [`super::server`].

use super::variables::{Variable, variable};

/// A parameter of a connection string.
pub struct Parameter {
    pub key: &'static str,
    pub treatment: Treatment,
    /// Ours to read only if something would be wrong without it. `PGCLIENTENCODING` is not: we speak UTF-8 only.
    pub variable: Option<Variable>,
}

/// What a parameter is to us.
pub enum Treatment {
    Used,
    /// Harmless: it is about TLS files or Kerberos, which this build has not, or about keepalives, which the lock's
    /// promises rest on and which are therefore set by us.
    Ignored,
    /// It asks for something that would be wrong to ignore: why, in a connection string and in a variable.
    Refused(&'static str, &'static str),
}

use Treatment::{Ignored, Refused, Used};

const NOT_SUPPORTED: Treatment = Refused(
    "is not supported: leave it out",
    "is not supported: unset it",
);
const SERVICE: &str =
    "is not supported: say in DATABASE_URL, as key=value pairs, what the service file says";
const WRONG: &str = "refused, because ignoring it would be wrong";

#[rustfmt::skip]
pub static PARAMETERS: [Parameter; 52] = [
    both("host", Used, "PGHOST", "a socket directory, else `localhost`",
        "a name, an address or a socket directory; several with commas"),
    both("hostaddr", Used, "PGHOSTADDR", "", "numeric addresses, to save looking up the name"),
    both("port", Used, "PGPORT", "5432", "the port"),
    both("dbname", Used, "PGDATABASE", "the user's name", "the database"),
    both("user", Used, "PGUSER", "the system's user", "the user"),
    both("password", Used, "PGPASSWORD", "", "the password"),
    both("passfile", Used, "PGPASSFILE", "~/.pgpass",
        "libpq's password file; ignored, with a warning, unless its mode is 0600 or stricter"),
    both("connect_timeout", Used, "PGCONNECT_TIMEOUT", "10", "whole seconds for one try to connect; 0 is the default"),
    both("application_name", Used, "PGAPPNAME", "lockstep/<version>",
        "how we are called in `pg_stat_activity`, followed by host and process id"),
    both("options", Used, "PGOPTIONS", "", "start-up options; PgBouncer refuses them"),
    both("target_session_attrs", Used, "PGTARGETSESSIONATTRS", "any",
        "of several hosts, take one that is `any`, `read-write` or `read-only`"),
    both("load_balance_hosts", Used, "PGLOADBALANCEHOSTS", "disable", "`random`: try several hosts in random order"),
    both("sslmode", Used, "PGSSLMODE", "disable",
        "`disable`, `allow`, `prefer`: no TLS; `require` and stronger are refused, except for a local socket"),
    both("sslnegotiation", Used, "PGSSLNEGOTIATION", "postgres", "`direct` is refused: it means TLS"),
    both("channel_binding", Used, "PGCHANNELBINDING", "prefer",
        "`disable` or `prefer`; `require` is refused: it means TLS"),
    both("gssencmode", Used, "PGGSSENCMODE", "prefer",
        "`disable` or `prefer`, which change nothing; `require` is refused"),
    both("service", Refused(SERVICE, SERVICE), "PGSERVICE", "",
        "refused, unless the URL or the endpoint names the host: say in `DATABASE_URL` what the service file says"),
    both("require_auth", NOT_SUPPORTED, "PGREQUIREAUTH", "", WRONG),
    both("requirepeer", NOT_SUPPORTED, "PGREQUIREPEER", "", WRONG),
    only("fallback_application_name", Used),
    only("client_encoding", Used),
    only("keepalives", Ignored),
    only("keepalives_idle", Ignored),
    only("keepalives_interval", Ignored),
    only("keepalives_count", Ignored),
    only("tcp_user_timeout", Ignored),
    only("sslcompression", Ignored),
    only("sslcert", Ignored),
    only("sslkey", Ignored),
    only("sslkeylogfile", Ignored),
    only("sslpassword", Ignored),
    only("sslcertmode", Ignored),
    only("sslrootcert", Ignored),
    only("sslcrl", Ignored),
    only("sslcrldir", Ignored),
    only("sslsni", Ignored),
    only("ssl_min_protocol_version", Ignored),
    only("ssl_max_protocol_version", Ignored),
    only("krbsrvname", Ignored),
    only("gsslib", Ignored),
    only("gssdelegation", Ignored),
    only("max_protocol_version", Ignored),
    only("min_protocol_version", NOT_SUPPORTED),
    only("servicefile", Refused(SERVICE, SERVICE)),
    only("replication", NOT_SUPPORTED),
    only("scram_client_key", NOT_SUPPORTED),
    only("scram_server_key", NOT_SUPPORTED),
    only("oauth_issuer", NOT_SUPPORTED),
    only("oauth_client_id", NOT_SUPPORTED),
    only("oauth_client_secret", NOT_SUPPORTED),
    only("oauth_scope", NOT_SUPPORTED),
    only("oauth_ca_file", NOT_SUPPORTED),
];

/// What no complaint may repeat, nor anything that may be a piece of it.
pub(super) const SECRETS: [&str; 5] = [
    "password",
    "sslpassword",
    "scram_client_key",
    "scram_server_key",
    "oauth_client_secret",
];

/// A parameter of the connection string that a variable stands for, too.
const fn both(
    key: &'static str,
    treatment: Treatment,
    name: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Parameter {
    Parameter {
        key,
        treatment,
        variable: Some(variable(name, default, meaning)),
    }
}

/// A parameter that stands in connection strings only.
const fn only(key: &'static str, treatment: Treatment) -> Parameter {
    Parameter {
        key,
        treatment,
        variable: None,
    }
}

/// The parameter of this name.
pub(super) fn find(key: &[u8]) -> Option<&'static Parameter> {
    PARAMETERS.iter().find(|it| it.key.as_bytes() == key)
}
