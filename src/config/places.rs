//! Where the server may be: hosts, addresses and ports, as an endpoint or libpq's lists name them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::text::words::is_digits;

/// What libpq takes where no port is given.
pub(super) const DEFAULT_PORT: u16 = 5432;

/// One place where the server may be.
#[derive(Clone)]
pub struct Place {
    /// A name, an address or a socket directory: what messages, the password file and certificates call it.
    pub name: String,
    /// Given, so that the name need not be looked up.
    pub address: Option<IpAddr>,
    pub port: u16,
    /// What to show there. Each may have its own in the password file.
    pub password: Option<Vec<u8>>,
}

impl Place {
    pub fn is_socket(&self) -> bool {
        self.name.starts_with('/')
    }
}

/// A host and its port in one word.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { name, port, .. } = self;
        if name.contains(':') && !self.is_socket() {
            write!(f, "[{name}]:{port}")
        } else {
            write!(f, "{name}:{port}")
        }
    }
}

/// Reads `host:port`, `host`, `[::1]:port`, an address, or a socket directory. Its text is not repeated: who took it
/// for a URL may have put a password into it.
pub(super) fn endpoint(text: &str) -> Result<(String, Option<u16>), String> {
    const FORMS: &str = "host:port, host, [::1]:port or a socket directory";
    if text.contains("://") {
        return Err(format!("is a URL, which belongs into DATABASE_URL: use {FORMS}"));
    }
    let is_whole = text.starts_with('/') || text.parse::<Ipv6Addr>().is_ok();
    let split = host_and_rest(text).filter(|_| !is_whole);
    let (host, rest) = split.unwrap_or((text, ""));
    if !is_host(host) || host.contains(',') {
        return Err(format!("is not {FORMS}"));
    }
    if rest.is_empty() {
        return Ok((host.to_owned(), None));
    }
    let port = rest.strip_prefix(':').and_then(port_number);
    let problem = || format!("its port is not {PORT_NUMBER}: use {FORMS}");
    Ok((host.to_owned(), Some(port.ok_or_else(problem)?)))
}

/// What stands before the port, without brackets, and what follows it; none if a bracket is not closed.
pub(super) fn host_and_rest(text: &str) -> Option<(&str, &str)> {
    match text.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']'),
        None => Some(text.split_at(text.find(':').unwrap_or(text.len()))),
    }
}

pub(super) const PORT_NUMBER: &str = "a number from 1 to 65535";

pub(super) fn port_number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0).filter(|_| is_digits(text))
}

/// Returns true if and only if the text can be a host's name or address, or a directory with sockets.
pub(super) fn is_host(text: &str) -> bool {
    if text.starts_with('/') {
        return true;
    }
    if text.contains(':') {
        let (address, _zone) = text.split_once('%').unwrap_or((text, ""));
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let belongs = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    !text.is_empty() && text.chars().all(belongs)
}
