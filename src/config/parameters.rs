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
    /// Harmless: it is about Kerberos or compression, which we have not.
    Ignored,
    /// It asks for something that would be wrong to ignore: why, in a connection string and, if there is one, in a variable.
    Refused(&'static str, &'static str),
}

use Treatment::{Ignored, Refused, Used};

const NOT_SUPPORTED: Treatment = Refused("is not supported: leave it out", "");
const REQUIRE_AUTH: Treatment = Refused(
    "is not supported: leave it out; channel_binding=require lets nothing but SCRAM pass",
    "is not supported: unset it; PGCHANNELBINDING=require lets nothing but SCRAM pass",
);
const CRL_DIRECTORY: Treatment = Refused(
    "is not supported: put the lists into one file and name it by sslcrl",
    "is not supported: put the lists into one file and name it by PGSSLCRL",
);
const KEY_LOG: Treatment =
    Refused("is not supported: it would write the session's secrets to a file; leave it out", "");

#[rustfmt::skip]
pub static PARAMETERS: [Parameter; 53] = [
    both("host", Used, "PGHOST", "a socket directory, else `localhost`",
        "a name, an address or a socket directory; several with commas"),
    both("hostaddr", Used, "PGHOSTADDR", "", "numeric addresses, to save looking up the name"),
    both("port", Used, "PGPORT", "5432", "the port"),
    both("dbname", Used, "PGDATABASE", "the user's name", "the database"),
    both("user", Used, "PGUSER", "the system's user", "the user"),
    both("password", Used, "PGPASSWORD", "", "the password"),
    both("passfile", Used, "PGPASSFILE", "~/.pgpass",
        "libpq's password file; ignored, with a warning, unless its mode is 0600 or stricter"),
    both("service", Used, "PGSERVICE", "", "the section of libpq's service file to read"),
    both("servicefile", Used, "PGSERVICEFILE", "~/.pg_service.conf",
        "libpq's service file; after it `pg_service.conf` in `PGSYSCONFDIR`"),
    both("connect_timeout", Used, "PGCONNECT_TIMEOUT", "10",
        "whole seconds for one address, until the session is open; 0 is the default"),
    both("application_name", Used, "PGAPPNAME", "lockstep/<version>",
        "how we are called in `pg_stat_activity`, followed by host and process id"),
    both("options", Used, "PGOPTIONS", "", "start-up options; PgBouncer refuses them"),
    both("target_session_attrs", Used, "PGTARGETSESSIONATTRS", "any",
        "which of several hosts to take: `any`, `read-write`, `read-only`, `primary`, `standby`, `prefer-standby`"),
    both("load_balance_hosts", Used, "PGLOADBALANCEHOSTS", "disable", "`random`: try several hosts in random order"),
    both("sslmode", Used, "PGSSLMODE", "prefer",
        "`disable`, `allow`, `prefer`, `require`, `verify-ca`, `verify-full`; a local socket is never encrypted"),
    both("requiressl", Used, "PGREQUIRESSL", "", "`1` is `sslmode=require`, where that says nothing"),
    both("sslnegotiation", Used, "PGSSLNEGOTIATION", "postgres",
        "`direct`: TLS from the first byte on; PostgreSQL 17 and later"),
    both("sslrootcert", Used, "PGSSLROOTCERT", "~/.postgresql/root.crt",
        "who may sign the server's certificate: a file, or `system`"),
    both("sslcrl", Used, "PGSSLCRL", "~/.postgresql/root.crl", "a file of revoked certificates"),
    both("sslcrldir", CRL_DIRECTORY, "PGSSLCRLDIR", "", "refused: use `PGSSLCRL`"),
    both("sslcert", Used, "PGSSLCERT", "~/.postgresql/postgresql.crt", "the client's certificate; with those between it and its root"),
    both("sslkey", Used, "PGSSLKEY", "~/.postgresql/postgresql.key",
        "its key; not encrypted, and with a mode of 0600 or stricter, or 0640 if it is root's"),
    both("sslcertmode", Used, "PGSSLCERTMODE", "allow",
        "`disable`: show no certificate; `require`: refuse a server that does not ask for one"),
    both("sslsni", Used, "PGSSLSNI", "1", "`0`: do not tell the host's name before the connection is encrypted"),
    both("ssl_min_protocol_version", Used, "PGSSLMINPROTOCOLVERSION", "TLSv1.2",
        "`TLSv1.2` or `TLSv1.3`; older ones mean `TLSv1.2`"),
    both("ssl_max_protocol_version", Used, "PGSSLMAXPROTOCOLVERSION", "", "`TLSv1.2` or `TLSv1.3`"),
    both("channel_binding", Used, "PGCHANNELBINDING", "prefer",
        "`require`: the password's proof must be bound to the TLS connection; `disable`, `prefer`"),
    both("gssencmode", Used, "PGGSSENCMODE", "prefer",
        "`disable` or `prefer`, which change nothing; `require` is refused"),
    both("require_auth", REQUIRE_AUTH, "PGREQUIREAUTH", "", "refused, because ignoring it would be wrong"),
    both("requirepeer", Used, "PGREQUIREPEER", "", "refused where a host is a socket, because ignoring it would be wrong"),
    both("min_protocol_version", Used, "PGMINPROTOCOLVERSION", "3.0", "`3.0`; `3.2` and `latest` are refused"),
    both("max_protocol_version", Used, "PGMAXPROTOCOLVERSION", "3.0", "`3.0`, `3.2` or `latest`; it is 3.0 in any case"),
    only("fallback_application_name", Used),
    only("client_encoding", Used),
    only("keepalives", Used),
    only("keepalives_idle", Used),
    only("keepalives_interval", Used),
    only("keepalives_count", Used),
    only("tcp_user_timeout", Used),
    only("replication", Used),
    only("sslcompression", Ignored),
    only("sslpassword", Ignored),
    only("sslkeylogfile", KEY_LOG),
    only("krbsrvname", Ignored),
    only("gsslib", Ignored),
    only("gssdelegation", Ignored),
    only("scram_client_key", NOT_SUPPORTED),
    only("scram_server_key", NOT_SUPPORTED),
    only("oauth_issuer", NOT_SUPPORTED),
    only("oauth_client_id", NOT_SUPPORTED),
    only("oauth_client_secret", NOT_SUPPORTED),
    only("oauth_scope", NOT_SUPPORTED),
    only("oauth_ca_file", NOT_SUPPORTED),
];

/// What no complaint may repeat, nor anything that may be a piece of it.
pub(super) const SECRETS: [&str; 5] =
    ["password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret"];

/// A parameter of the connection string that a variable stands for, too.
const fn both(
    key: &'static str,
    treatment: Treatment,
    name: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Parameter {
    Parameter { key, treatment, variable: Some(variable(name, default, meaning)) }
}

/// A parameter that stands in connection strings only.
const fn only(key: &'static str, treatment: Treatment) -> Parameter {
    Parameter { key, treatment, variable: None }
}

/// The parameter of this name.
pub(super) fn find(key: &[u8]) -> Option<&'static Parameter> {
    PARAMETERS.iter().find(|it| it.key.as_bytes() == key)
}
