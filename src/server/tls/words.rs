//! What rustls refuses, in words that say what to do.

use std::error::Error;
use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError};

use crate::server::causes;

/// What is wrong with a certificate, in our own words.
#[derive(Debug)]
pub struct Fault {
    pub words: String,
    /// Whether we cannot check what libpq may be able to.
    pub is_ours: bool,
}

impl From<String> for Fault {
    fn from(words: String) -> Fault {
        Fault { words, is_ours: false }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl Error for Fault {}

const NOTHING_IN_COMMON: &str = "the server and Lockstep have no way of encryption in common \
     (Lockstep: TLS 1.2 and 1.3 with ECDHE, AES-GCM or ChaCha20; keys of RSA, P-256, P-384 and Ed25519; \
     the curves X25519, P-256 and P-384)";

/// What TLS has against the server, or the server against us by TLS's own means; no try will change it. None if the error
/// is another one.
pub fn fault(error: &postgres::Error) -> Option<String> {
    causes(error).find_map(|cause| {
        // What an io::Error was made of does not count as its source.
        let hidden = cause.downcast_ref().and_then(io::Error::get_ref);
        hidden.and_then(|hidden| of(hidden)).or_else(|| of(cause))
    })
}

/// Whether a handshake failed for want of something that Lockstep lacks and libpq may have.
pub fn is_ours(error: &io::Error) -> bool {
    match error.get_ref().and_then(|it| it.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => {
            let fault = other.0.downcast_ref::<Fault>();
            fault.is_some_and(|fault| fault.is_ours)
        }
        Some(rustls::Error::AlertReceived(alert)) => matches!(
            alert,
            AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity
        ),
        Some(rustls::Error::PeerIncompatible(_)) => true,
        _ => false,
    }
}

fn of(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(fault) = error.downcast_ref::<Fault>() {
        return Some(fault.to_string());
    }
    let error = error.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => other.0.to_string(),
        rustls::Error::PeerIncompatible(_) => format!("{NOTHING_IN_COMMON}: {error}"),
        rustls::Error::AlertReceived(alert) => alerted(*alert),
        _ => format!("TLS: {error}"),
    })
}

fn alerted(alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    match alert {
        Alert::HandshakeFailure | Alert::ProtocolVersion | Alert::InsufficientSecurity => {
            NOTHING_IN_COMMON.to_owned()
        }
        Alert::CertificateRequired => {
            "the server wants a client certificate: name its file by sslcert".to_owned()
        }
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => {
            format!("the server does not take the client's certificate: {alert:?}")
        }
        _ => format!("the server ended the TLS handshake: {alert:?}"),
    }
}
