//! What was asked for → rustls's configuration.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use postgres::Client;
use postgres::config::SslNegotiation;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, ProtocolVersion, SignatureScheme, SupportedProtocolVersion,
};

use super::Outcome;
use super::certificate::Certificate;
use super::verifier::{Trust, Verifier, entries};
use super::words::{Fault, is_ours};
use crate::config::tls::{CertificateMode, Identity, Mode, Tls, Versions};

/// The protocol's name in the handshake, which PostgreSQL 17 asks for where there is no request before it.
const ALPN: &[u8] = b"postgresql";

/// Makes connections of one configuration. Each one has its own witness.
#[derive(Clone)]
pub struct Connector {
    base: Arc<ClientConfig>,
    trust: Arc<Trust>,
    identity: Option<Arc<CertifiedKey>>,
    certificate: CertificateMode,
    negotiation: SslNegotiation,
    witness: Arc<Witness>,
}

/// How far a connection came: the client library does not tell.
#[derive(Default, Debug)]
struct Witness {
    has_begun: AtomicBool,
    was_asked: AtomicBool,
    is_unable: AtomicBool,
    version: OnceLock<&'static str>,
}

impl Connector {
    /// None if TLS is not wanted.
    ///
    /// # Errors
    ///
    /// A file that cannot be used: which, and what is wrong with it.
    pub fn new(tls: &Tls) -> Result<Option<Connector>, String> {
        if tls.mode == Mode::Disable {
            return Ok(None);
        }
        let provider = Arc::new(ring::default_provider());
        let identity = tls.identity.as_ref().map(|it| certified(it, &provider));
        let trust = Arc::new(Trust::new(tls, provider.signature_verification_algorithms)?);
        let versions: &[&SupportedProtocolVersion] = match tls.versions {
            Versions::Both => rustls::DEFAULT_VERSIONS,
            Versions::Only12 => &[&rustls::version::TLS12],
            Versions::Only13 => &[&rustls::version::TLS13],
        };
        let nobody = Verifier::new(&trust, "");
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?;
        let mut base = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(nobody))
            .with_no_client_auth();
        base.enable_sni = !tls.hides_host;
        base.resumption = Resumption::disabled();
        if tls.negotiation == SslNegotiation::Direct {
            base.alpn_protocols = vec![ALPN.to_vec()];
        }
        Ok(Some(Connector {
            base: Arc::new(base),
            trust,
            identity: identity.transpose()?.map(Arc::new),
            certificate: tls.certificate,
            negotiation: tls.negotiation,
            witness: Arc::default(),
        }))
    }

    /// The same for another connection.
    pub fn afresh(&self) -> Connector {
        Connector { witness: Arc::default(), ..self.clone() }
    }

    /// How far this connection has come.
    pub fn outcome(&self) -> Outcome {
        let witness = &self.witness;
        match witness.version.get() {
            Some(version) => Outcome::Encrypted(version),
            None if witness.is_unable.load(Ordering::Acquire) => Outcome::Unable,
            None if witness.has_begun.load(Ordering::Acquire) => Outcome::Failed,
            None => Outcome::Plain,
        }
    }

    pub fn dial(self, client: &postgres::Config) -> Result<Client, postgres::Error> {
        client.connect(self)
    }

    /// What a connection to this host needs. Its name may be none that TLS knows; then it is not told.
    pub(super) fn of(&self, host: &str) -> (Arc<ClientConfig>, ServerName<'static>) {
        let mut config = ClientConfig::clone(&self.base);
        config.dangerous().set_certificate_verifier(Arc::new(Verifier::new(&self.trust, host)));
        config.client_auth_cert_resolver =
            Arc::new(Shown { identity: self.identity.clone(), witness: Arc::clone(&self.witness) });
        let nameless = || ServerName::from(Ipv4Addr::UNSPECIFIED);
        (Arc::new(config), ServerName::try_from(host.to_owned()).unwrap_or_else(|_| nameless()))
    }

    pub(super) fn begins(&self) {
        self.witness.has_begun.store(true, Ordering::Release);
    }

    /// What to say of a handshake that failed. Who ends it without a word may be a load balancer without a server, so it
    /// is worth another try.
    pub(super) fn broke(&self, error: io::Error) -> io::Error {
        let is_ours = is_ours(&error);
        self.witness.is_unable.store(is_ours, Ordering::Release);
        let words = match (error.kind(), self.negotiation) {
            (io::ErrorKind::UnexpectedEof, SslNegotiation::Postgres) => {
                "the server ended the connection during the TLS handshake"
            }
            (
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset,
                SslNegotiation::Direct,
            ) => {
                "the server ended the connection when TLS began; sslnegotiation=direct needs PostgreSQL 17 or later"
            }
            _ => return error,
        };
        io::Error::new(error.kind(), words)
    }

    /// Judges what the handshake has come to.
    pub(super) fn ends(&self, connection: &ClientConnection) -> io::Result<()> {
        let fault = |text: &str| Err(io::Error::other(Fault::from(text.to_owned())));
        if self.negotiation == SslNegotiation::Direct && connection.alpn_protocol() != Some(ALPN) {
            return fault(
                "the server does not take TLS without a request before it (sslnegotiation=direct)",
            );
        }
        if self.certificate == CertificateMode::Require
            && !self.witness.was_asked.load(Ordering::Acquire)
        {
            return fault(
                "the server did not ask for the client's certificate (sslcertmode=require)",
            );
        }
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
            _ => "TLS 1.3",
        };
        // There is one handshake.
        let _ = self.witness.version.set(version);
        Ok(())
    }
}

/// Shows our certificate, if we have one, to whoever asks; also one that rustls would not read. A key's debug form shows
/// its kind alone.
#[derive(Debug)]
struct Shown {
    identity: Option<Arc<CertifiedKey>>,
    witness: Arc<Witness>,
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.witness.was_asked.store(true, Ordering::Release);
        self.identity.clone()
    }

    /// Also if there is none: whether the server asks is of interest.
    fn has_certs(&self) -> bool {
        true
    }
}

fn certified(identity: &Identity, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let Identity { certificate, key } = identity;
    let chain: Vec<CertificateDer<'_>> =
        entries(certificate, "the client's certificate", "certificate")?;
    let (certificate, text, key) = (certificate.path.display(), &key.text, key.path.display());
    let first = Certificate::read(&chain[0]);
    let first =
        first.ok_or_else(|| format!("the client's certificate {certificate} cannot be read"))?;
    let der = PrivateKeyDer::from_pem_slice(text).ok();
    let der = der.or_else(|| PrivateKeyDer::try_from(text.clone()).ok()).ok_or_else(|| {
        format!("the client's key {key}: there is no key in the file that is not encrypted")
    })?;
    let loaded = provider.key_provider.load_private_key(der).map_err(|_| {
        format!("the client's key {key} is of a kind that Lockstep cannot use: RSA, P-256, P-384 and Ed25519 are those it can")
    })?;
    match loaded.public_key() {
        Some(public) if public.as_ref() != first.key => {
            Err(format!("the client's key {key} does not belong to the certificate {certificate}"))
        }
        _ => Ok(CertifiedKey::new(chain, loaded)),
    }
}
