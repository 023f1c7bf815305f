//! libpq's connection strings, URL and `key=value`, → parameters (PostgreSQL manual, "Connection Strings").
//!
//! Why not the driver's own parser: it stops at the first problem, and its words may repeat a part of the password.
//! Here no message repeats anything but the name of an unknown parameter, and not even that where a password that was
//! not escaped may have run into it.
//!
//! One thing is stricter than libpq: in a URL an `@` may stand only between user and host, and nowhere else unescaped.
//! Any password that breaks the URL apart contains a `/` or a `?` before that `@`, or an `@` of its own; so with this
//! rule it is always noticed, and no part of it can be taken for a host, a port or a database.

use super::foreign;
use super::parameters::{self, SECRETS, Treatment};
use super::places::host_and_rest;

/// A parameter with its value, which may be any bytes where they came percent-encoded.
pub(super) type Parameter = (&'static str, Vec<u8>);

/// Where the parameters gather, in the order in which they stand: of several with one name libpq takes the last.
pub(super) struct Parameters {
    pub parameters: Vec<Parameter>,
    /// What is wrong with single ones; the others are good nevertheless.
    pub problems: Vec<String>,
    /// The parameter before was a secret, or an unknown one that followed a secret: an unknown name may be a piece of
    /// it.
    pub after_secret: bool,
    /// How a secret must be written so that it does not run into what follows.
    remedy: &'static str,
}

/// Reads a connection string, in whichever of its two forms it is.
///
/// # Errors
///
/// The text has not the form of one; then nothing in it can be trusted to be what it seems.
pub(super) fn parse(text: &str) -> Result<Parameters, String> {
    if text.contains('\0') {
        return Err("holds a NUL".to_owned());
    }
    for scheme in ["postgresql://", "postgres://"] {
        if let Some(rest) = text.strip_prefix(scheme) {
            return parse_url(rest);
        }
    }
    if let Some(problem) = foreign::form(text) {
        return Err(problem);
    }
    match text.split_once('=') {
        Some((key, _)) if !key.contains("://") => parse_pairs(text),
        _ => Err(
            "is neither a URL that begins with postgres:// or postgresql:// nor key=value pairs"
                .to_owned(),
        ),
    }
}

impl Parameters {
    pub fn new(remedy: &'static str) -> Parameters {
        Parameters { parameters: Vec::new(), problems: Vec::new(), after_secret: false, remedy }
    }

    pub fn add(&mut self, key: &[u8], value: Vec<u8>) {
        let Some(parameter) = parameters::find(key) else {
            self.problems.push(self.unknown(key));
            return;
        };
        let key = parameter.key;
        self.after_secret = SECRETS.contains(&key);
        match parameter.treatment {
            // The older spelling of a mode.
            Treatment::Used if key == "requiressl" => {
                let mode = if value.starts_with(b"1") { "require" } else { "prefer" };
                self.parameters.push(("sslmode", mode.into()));
            }
            Treatment::Used => self.parameters.push((key, value)),
            Treatment::Refused(why, _) if !value.is_empty() => {
                self.problems.push(format!("{key} {why}"));
            }
            Treatment::Refused(..) | Treatment::Ignored => {}
        }
    }

    fn unknown(&self, key: &[u8]) -> String {
        /// No parameter's name is longer than half of this.
        const LONGEST: usize = 60;
        if self.after_secret {
            return format!("what follows a password is no parameter: {}", self.remedy);
        }
        let belongs = |byte: u8| matches!(byte, b'_' | b'-') || byte.is_ascii_alphanumeric();
        let is_shown = |name: &&str| name.len() <= LONGEST && name.bytes().all(belongs);
        let name = std::str::from_utf8(key).ok();
        let foreign = name.and_then(foreign::parameter);
        match (name.filter(is_shown), foreign) {
            (Some(name), Some(what)) => format!("unknown parameter \"{name}\": {what}"),
            (Some(name), None) => format!("unknown parameter \"{name}\""),
            (None, Some(what)) => what.to_owned(),
            (None, None) => "a parameter's name is none that is known".to_owned(),
        }
    }
}

/// `key=value` pairs, with single quotes and backslashes.
fn parse_pairs(text: &str) -> Result<Parameters, String> {
    const REMEDY: &str =
        "a value with a space or a quote in it is written as in password='it\\'s mine'";
    let mut found = Parameters::new(REMEDY);
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = rest.find(|c| c == '=' || is_space(c)).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        let Some(after) = after.trim_start_matches(is_space).strip_prefix('=') else {
            return Err(format!("a parameter has no \"=\" after its name: {REMEDY}"));
        };
        let (value, after) = pair_value(after.trim_start_matches(is_space))?;
        found.add(key.as_bytes(), value.into_bytes());
        rest = after.trim_start_matches(is_space);
    }
    Ok(found)
}

/// C's `isspace`.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

/// The value that `text` begins with, and what follows it.
fn pair_value(text: &str) -> Result<(String, &str), String> {
    let inner = text.strip_prefix('\'');
    let (quoted, text) = (inner.is_some(), inner.unwrap_or(text));
    let mut value = String::new();
    let mut chars = text.chars();
    loop {
        let rest = chars.as_str();
        match chars.next() {
            Some('\\') => value.extend(chars.next()),
            Some('\'') if quoted => return Ok((value, chars.as_str())),
            Some(c) if !quoted && is_space(c) => return Ok((value, rest)),
            Some(c) => value.push(c),
            None if quoted => return Err("a quoted value has no closing quote".to_owned()),
            None => return Ok((value, "")),
        }
    }
}

/// What follows `postgres://`: `[user[:password]@][host[:port][,…]][/database][?key=value[&…]]`.
fn parse_url(text: &str) -> Result<Parameters, String> {
    const REMEDY: &str = "in a URL write & as %26, = as %3D, % as %25";
    if text.contains(|c: char| c.is_ascii_whitespace() || c.is_ascii_control()) {
        return Err(
            "a URL holds no white space: write a space as %20, a line break as %0A".to_owned()
        );
    }
    let (credentials, rest) = split_credentials(text)?;
    let (hosts, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));

    let mut found = Parameters::new(REMEDY);
    if let Some(credentials) = credentials {
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        found.add(b"user", decoded("the user name", user)?);
        found.add(b"password", decoded("the password", password)?);
    }
    let (hosts, ports) = split_hosts(hosts)?;
    let database = path.strip_prefix('/').unwrap_or_default();
    found.add(b"host", hosts);
    found.add(b"port", ports.into_bytes());
    found.add(b"dbname", decoded("the database's name", database)?);
    found.after_secret = false;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(format!("a parameter has no \"=\" after its name: {REMEDY}"));
        };
        if value.contains('=') {
            return Err(format!("a parameter has more than one \"=\": {REMEDY}"));
        }
        let key = decoded("a parameter's name", key)?;
        let value = decoded("a parameter's value", value)?;
        match (key.as_slice(), value.as_slice()) {
            // JDBC's spelling, which libpq takes too.
            (b"ssl", b"true") => found.add(b"sslmode", b"require".to_vec()),
            _ => found.add(&key, value),
        }
    }
    Ok(found)
}

/// Returns what stands before the `@`, if there is one, and what stands behind it.
fn split_credentials(text: &str) -> Result<(Option<&str>, &str), String> {
    const REMEDY: &str = "(or use DATABASE_PASSWORD, which needs no escaping)";
    let Some((credentials, rest)) = text.split_once('@') else {
        return Ok((None, text));
    };
    if let Some(at) = credentials.find(['/', '?']) {
        let character = &credentials[at..=at];
        let code = if character == "/" { "%2F" } else { "%3F" };
        return Err(format!(
            "the user name or password holds an unescaped '{character}', or what follows it an unescaped '@'; \
             write '{character}' as {code} and '@' as %40 {REMEDY}"
        ));
    }
    if rest.contains('@') {
        return Err(format!(
            "the user name or password holds an unescaped '@'; write it as %40 {REMEDY}"
        ));
    }
    Ok((Some(credentials), rest))
}

/// The hosts and the ports, each with commas between them; the ports are empty if no host has one.
fn split_hosts(text: &str) -> Result<(Vec<u8>, String), String> {
    let (mut hosts, mut ports): (Vec<Vec<u8>>, Vec<&str>) = (Vec::new(), Vec::new());
    for one in text.split(',') {
        let (host, port) = host_and_rest(one)
            .ok_or("the host's address has no closing bracket: write [::1]:5432")?;
        if !port.is_empty() && !port.starts_with(':') {
            return Err(
                "only a port, a path or a comma can follow a host's closing bracket".to_owned()
            );
        }
        hosts.push(decoded("the host", host)?);
        ports.push(port.strip_prefix(':').unwrap_or_default());
    }
    if ports.iter().all(|port| port.is_empty()) {
        ports.clear();
    }
    Ok((hosts.join(&b","[..]), ports.join(",")))
}

fn decoded(what: &str, text: &str) -> Result<Vec<u8>, String> {
    let mut value = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            value.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        match (digit(), digit()) {
            (Some(0), Some(0)) => {
                return Err(format!("{what} holds %00, and PostgreSQL takes no NUL"));
            }
            (Some(high), Some(low)) => value.push((high * 16 + low) as u8),
            _ => {
                return Err(format!(
                    "{what} holds a '%' without two hexadecimal digits after it; write '%' itself as %25"
                ));
            }
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parameters that are not empty, as `key=value` with blanks between.
    fn listed(text: &str) -> String {
        let Parameters { parameters, problems, .. } =
            parse(text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
        assert_eq!(problems, Vec::<String>::new(), "{text}");
        let shown = parameters.iter().filter(|(_, value)| !value.is_empty());
        shown
            .map(|(key, value)| format!("{key}={}", value.escape_ascii()))
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn urls() {
        for (text, expected) in [
            ("postgres://", ""),
            ("postgresql://", ""),
            ("postgres://localhost", "host=localhost"),
            ("postgresql://localhost:5433", "host=localhost port=5433"),
            ("postgres://localhost/mydb", "host=localhost dbname=mydb"),
            ("postgres://user@localhost", "user=user host=localhost"),
            ("postgres://user:secret@localhost", "user=user password=secret host=localhost"),
            ("postgres://user:@localhost", "user=user host=localhost"),
            ("postgres://:secret@localhost", "password=secret host=localhost"),
            ("postgres://u:a:b:c@h", "user=u password=a:b:c host=h"),
            ("postgres://u:a#b@h/d", "user=u password=a#b host=h dbname=d"),
            (
                "postgres://u%40x:p%40%2F%3f%23%25@h/d%2Fe",
                "user=u@x password=p@/?#% host=h dbname=d/e",
            ),
            ("postgres://u:%ff@h", "user=u password=\\xff host=h"),
            ("postgres://u:a+b@h", "user=u password=a+b host=h"),
            (
                "postgres://other@localhost/otherdb?connect_timeout=10&application_name=myapp",
                "user=other host=localhost dbname=otherdb connect_timeout=10 application_name=myapp",
            ),
            (
                "postgres://host1:123,host2:456/somedb",
                "host=host1,host2 port=123,456 dbname=somedb",
            ),
            ("postgres://host1,host2/somedb", "host=host1,host2 dbname=somedb"),
            ("postgres://host1,host2:6/somedb", "host=host1,host2 port=,6 dbname=somedb"),
            ("postgres://[2001:db8::1234]/database", "host=2001:db8::1234 dbname=database"),
            ("postgres://u:p@[::1]:5433,h/d", "user=u password=p host=::1,h port=5433, dbname=d"),
            (
                "postgres://%2Fvar%2Flib%2Fpostgresql/dbname",
                "host=/var/lib/postgresql dbname=dbname",
            ),
            ("postgres:///dbname?host=/run/pg&port=6", "dbname=dbname host=/run/pg port=6"),
            ("postgres:///?user=u&password=a%26b%3d", "user=u password=a&b="),
            ("postgres://?host=h", "host=h"),
            ("postgres://h?&dbname=d&", "host=h dbname=d"),
            ("postgres://h/d?ssl=true", "host=h dbname=d sslmode=require"),
            (
                "postgres://h/d?sslmode=verify-full&sslrootcert=system",
                "host=h dbname=d sslmode=verify-full sslrootcert=system",
            ),
            ("postgres://h/d?sslcompression=0&krbsrvname=x&service=", "host=h dbname=d"),
        ] {
            assert_eq!(listed(text), expected, "{text}");
        }
    }

    #[test]
    fn pairs() {
        for (text, expected) in [
            ("host=h", "host=h"),
            ("host=h port=5432 dbname=d", "host=h port=5432 dbname=d"),
            ("  host = h\n\tport\t=\r5432  ", "host=h port=5432"),
            ("password='it\\'s' user=u", "password=it\\'s user=u"),
            ("password='a b'user=u", "password=a b user=u"),
            ("password='' user=u", "user=u"),
            ("password= user=u", "password=user=u"),
            ("password=a\\ b user=u", "password=a b user=u"),
            ("password=a\\\\b", "password=a\\\\b"),
            ("password=a'b'c", "password=a\\'b\\'c"),
            ("password=a\\", "password=a"),
            ("password=a=b", "password=a=b"),
            ("host=a user=b host=c", "host=a user=b host=c"),
            ("password=pässwörd", "password=p\\xc3\\xa4ssw\\xc3\\xb6rd"),
        ] {
            assert_eq!(listed(text), expected, "{text}");
        }
    }

    #[test]
    fn what_has_not_the_form_is_refused_without_an_echo() {
        let slash = "the user name or password holds an unescaped '/', or what follows it an unescaped '@'; \
                     write '/' as %2F and '@' as %40 (or use DATABASE_PASSWORD, which needs no escaping)";
        let question = &slash.replace('/', "?").replace("%2F", "%3F");
        let at = "the user name or password holds an unescaped '@'; write it as %40 \
                  (or use DATABASE_PASSWORD, which needs no escaping)";
        let neither =
            "is neither a URL that begins with postgres:// or postgresql:// nor key=value pairs";
        let no_equals = "a parameter has no \"=\" after its name: \
                         a value with a space or a quote in it is written as in password='it\\'s mine'";
        let percent = |what: &str| {
            format!(
                "{what} holds a '%' without two hexadecimal digits after it; write '%' itself as %25"
            )
        };
        for (text, problem) in [
            ("secret", neither),
            ("mysql://u:secret@h/d", neither),
            ("mysql://u:sec=ret@h/d", neither),
            ("host=h\0", "holds a NUL"),
            (
                "postgres://u:secret@h/d\n",
                "a URL holds no white space: write a space as %20, a line break as %0A",
            ),
            (
                "postgres://u:sec ret@h/d",
                "a URL holds no white space: write a space as %20, a line break as %0A",
            ),
            ("postgres://u:sec@ret@h/d", at),
            ("postgres://u:s@1/d@h/d", at),
            ("postgres://u:s@1/?x@h/d", at),
            ("postgres://u:sec/ret@h/d", slash),
            ("postgres://u:1/ret@h/d", slash),
            ("postgres://u:sec/r?et@h/d", slash),
            ("postgres://h/d?user=a@b", slash),
            ("postgres://u:sec?ret@h/d", question),
            ("postgres://h?password=sec@ret", question),
            ("postgres://u:se%zzret@h/d", &percent("the password")),
            ("postgres://u:secret%@h/d", &percent("the password")),
            ("postgres://u:secret%4@h/d", &percent("the password")),
            ("postgres://u:secret%€@h/d", &percent("the password")),
            ("postgres://u%:secret@h/d", &percent("the user name")),
            ("postgres://u:secret@h%/d", &percent("the host")),
            ("postgres://u:secret@h/%d", &percent("the database's name")),
            ("postgres://h/d?a%=b", &percent("a parameter's name")),
            ("postgres://h/d?password=%", &percent("a parameter's value")),
            ("postgres://u:se%00cret@h/d", "the password holds %00, and PostgreSQL takes no NUL"),
            ("postgres://[::1/d", "the host's address has no closing bracket: write [::1]:5432"),
            (
                "postgres://[::1]secret/d",
                "only a port, a path or a comma can follow a host's closing bracket",
            ),
            (
                "postgres://h/d?secret",
                "a parameter has no \"=\" after its name: in a URL write & as %26, = as %3D, % as %25",
            ),
            (
                "postgres://h/d?password=sec=ret",
                "a parameter has more than one \"=\": in a URL write & as %26, = as %3D, % as %25",
            ),
            ("password=sec ret", no_equals),
            ("password=sec ret host=h", no_equals),
            ("password='sec'ret", no_equals),
            ("password='secret", "a quoted value has no closing quote"),
            ("password='secret\\'", "a quoted value has no closing quote"),
        ] {
            assert_eq!(parse(text).err().as_deref(), Some(problem), "{text}");
        }
    }

    #[test]
    fn parameters_are_judged_one_by_one() {
        let spill = "what follows a password is no parameter: \
                     a value with a space or a quote in it is written as in password='it\\'s mine'";
        let url_spill =
            "what follows a password is no parameter: in a URL write & as %26, = as %3D, % as %25";
        let table: [(&str, &[&str]); 14] = [
            ("hots=h prot=1", &["unknown parameter \"hots\"", "unknown parameter \"prot\""]),
            ("hots=h password=x", &["unknown parameter \"hots\""]),
            ("Host=h", &["unknown parameter \"Host\""]),
            ("h:s=x", &["a parameter's name is none that is known"]),
            ("=x", &["unknown parameter \"\""]),
            ("password=a b=c d=e user=u f=g", &[spill, spill, "unknown parameter \"f\""]),
            ("sslpassword=a b=c", &[spill]),
            ("database=x", &["unknown parameter \"database\": did you mean dbname?"]),
            (
                "require_auth=scram-sha-256",
                &[
                    "require_auth is not supported: leave it out; channel_binding=require lets nothing but SCRAM pass",
                ],
            ),
            (
                "oauth_issuer=x scram_client_key=y",
                &[
                    "oauth_issuer is not supported: leave it out",
                    "scram_client_key is not supported: leave it out",
                ],
            ),
            ("postgres://u:p@h/d?hots=x", &["unknown parameter \"hots\""]),
            ("postgres://h/d?password=a&b=c", &[url_spill]),
            ("postgres://h/d?sslm-ode=yes", &["unknown parameter \"sslm-ode\""]),
            ("postgres://h/d?%73slmod=x", &["unknown parameter \"sslmod\""]),
        ];
        for (text, problems) in table {
            let parsed = parse(text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
            assert_eq!(parsed.problems, problems, "{text}");
        }
    }
}
