//! Who the server is: the check of its certificate, as libpq does it.
//!
//! rustls's own check refuses three kinds of certificate that PostgreSQL's manual tells people to make, and that libpq
//! takes: a self-signed one that is in the root file itself, one of X.509 version 1, and one whose name is only its common
//! name. It also has no way to check the chain without the name (`verify-ca`). So the chain is `rustls-webpki`'s work,
//! and the rest is done here. The signature of the handshake is checked in every mode: without it whoever shows a
//! certificate need not own it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, ServerName, SignatureVerificationAlgorithm,
    SubjectPublicKeyInfoDer, TrustAnchor, UnixTime,
};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, SignatureScheme};
use time::OffsetDateTime;
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RawPublicKeyEntity, RevocationOptionsBuilder, anchor_from_trusted_cert,
};

use super::certificate::{Certificate, Names};
use super::words::Fault;
use crate::config::tls::{Material, Mode, Roots, Tls};

/// Whom to trust.
#[derive(Debug)]
pub struct Trust {
    supported: WebPkiSupportedAlgorithms,
    /// None: anybody.
    store: Option<Store>,
    crls: Vec<CertRevocationList<'static>>,
    /// Where these are from.
    crl_file: String,
    checks_name: bool,
}

/// The certificates of a root file, or the system's.
#[derive(Debug)]
struct Store {
    all: Vec<CertificateDer<'static>>,
    roots: Vec<Root>,
    /// What has an issuer of its own is no root; it may help to find one.
    between: Vec<CertificateDer<'static>>,
    /// Where these are from.
    place: String,
}

#[derive(Debug)]
struct Root {
    anchor: TrustAnchor<'static>,
    subject: Vec<u8>,
    key: SubjectPublicKeyInfoDer<'static>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl Trust {
    pub fn new(tls: &Tls, supported: WebPkiSupportedAlgorithms) -> Result<Trust, String> {
        let crls = tls.revoked.as_ref().map(crls).transpose()?;
        let crl_file = tls.revoked.as_ref().map(|it| it.path.display().to_string());
        Ok(Trust {
            supported,
            store: match &tls.roots {
                Roots::Anybody => None,
                Roots::System => Some(Store::of_the_system()?),
                Roots::File(file) => Some(Store::of_the_file(file)?),
            },
            crls: crls.unwrap_or_default(),
            crl_file: crl_file.unwrap_or_default(),
            checks_name: tls.mode == Mode::VerifyFull,
        })
    }
}

/// What a PEM file holds of one thing, of which it is to hold some. In messages the file is `called` so.
pub fn entries<T: PemObject>(file: &Material, called: &str, thing: &str) -> Result<Vec<T>, String> {
    let entries: Result<Vec<T>, _> = T::pem_slice_iter(&file.text).collect();
    let problem = match entries {
        Ok(entries) if !entries.is_empty() => return Ok(entries),
        Ok(_) => format!("there is no {thing} in the file"),
        Err(error) => error.to_string(),
    };
    Err(format!("{called} {}: {problem}", file.path.display()))
}

fn crls(file: &Material) -> Result<Vec<CertRevocationList<'static>>, String> {
    const CALLED: &str = "the revocation list";
    let lists = entries(file, CALLED, "list")?.into_iter();
    let read = |list: CertificateRevocationListDer<'_>| OwnedCertRevocationList::from_der(&list);
    let lists: Result<Vec<_>, _> = lists.map(|list| read(list).map(Into::into)).collect();
    lists.map_err(|error| format!("{CALLED} {}: {error}", file.path.display()))
}

impl Store {
    fn of_the_file(file: &Material) -> Result<Store, String> {
        const CALLED: &str = "the root certificates";
        let all = entries::<CertificateDer<'_>>(file, CALLED, "certificate")?;
        let place = file.path.display().to_string();
        if all.iter().any(|der| Certificate::read(der).is_some()) {
            Ok(Store::of(all, place))
        } else {
            Err(format!("{CALLED} {place}: none of them can be read"))
        }
    }

    fn of_the_system() -> Result<Store, String> {
        let found = rustls_native_certs::load_native_certs();
        let store = Store::of(found.certs, "the system's root certificates".to_owned());
        if !store.roots.is_empty() {
            return Ok(store);
        }
        let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        let errors =
            if errors.is_empty() { String::new() } else { format!(" ({})", errors.join("; ")) };
        Err(format!(
            "the system has no root certificates{errors}: install the package ca-certificates, or mount \
             /etc/ssl/certs/ca-certificates.crt into the container, or name such a file by SSL_CERT_FILE"
        ))
    }

    fn of(all: Vec<CertificateDer<'static>>, place: String) -> Store {
        let (mut roots, mut between) = (Vec::new(), Vec::new());
        for der in &all {
            match Certificate::read(der) {
                Some(shape) if shape.is_self_issued() => {
                    roots.extend(anchor_from_trusted_cert(der).ok().map(|anchor| Root {
                        anchor: anchor.to_owned(),
                        subject: shape.subject.to_vec(),
                        key: shape.key.to_vec().into(),
                        not_before: shape.not_before,
                        not_after: shape.not_after,
                    }));
                }
                Some(_) => between.push(der.clone()),
                None => {}
            }
        }
        Store { all, roots, between, place }
    }
}

/// The check for one host.
#[derive(Debug)]
pub struct Verifier {
    trust: Arc<Trust>,
    host: String,
}

impl Verifier {
    pub fn new(trust: &Arc<Trust>, host: &str) -> Verifier {
        Verifier { trust: Arc::clone(trust), host: host.to_owned() }
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Fault> {
        let Some(store) = &self.trust.store else {
            return Ok(());
        };
        let shape = Certificate::read(leaf).ok_or_else(|| "cannot be read".to_owned())?;
        in_time(&shape, now)?;
        let is_pinned =
            shape.is_self_issued() && store.all.iter().any(|it| it.as_ref() == leaf.as_ref());
        if is_pinned && self.trust.crls.is_empty() {
            // It is trusted itself, whatever it may be used for.
        } else if shape.is_plain {
            self.check_plain(store, &shape, now)?;
        } else {
            self.check_chain(store, leaf, between, now)
                .map_err(|error| self.words(store, &shape, &error))?;
        }
        if self.trust.checks_name { Ok(check_name(&shape.names(), &self.host)?) } else { Ok(()) }
    }

    /// A certificate of version 1 says nothing about its use: it must be signed by a root directly.
    fn check_plain(
        &self,
        store: &Store,
        shape: &Certificate<'_>,
        now: UnixTime,
    ) -> Result<(), Fault> {
        if !self.trust.crls.is_empty() {
            let words = "is of X.509 version 1, and cannot be looked up in a revocation list";
            return Err(words.to_owned().into());
        }
        let algorithms = self.trust.supported.all.iter();
        let algorithms = algorithms.filter(|it| it.signature_alg_id().as_ref() == shape.algorithm);
        let algorithms: Vec<_> = algorithms.copied().collect();
        let mut issuers = store.valid(now).filter(|root| root.subject == shape.issuer);
        if issuers.any(|it| has_signed(&it.key, &algorithms, shape.signed, shape.signature)) {
            Ok(())
        } else {
            Err(self.words(store, shape, &webpki::Error::UnknownIssuer))
        }
    }

    fn check_chain(
        &self,
        store: &Store,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let trust = &self.trust;
        let anchors: Vec<_> = store.valid(now).map(|root| root.anchor.clone()).collect();
        let between: Vec<_> = between.iter().chain(&store.between).cloned().collect();
        let crls: Vec<_> = trust.crls.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&crls).ok();
        let revocation =
            revocation.map(|it| it.with_expiration_policy(ExpirationPolicy::Enforce).build());
        let leaf = EndEntityCert::try_from(leaf)?;
        let (supported, usage) = (trust.supported.all, KeyUsage::server_auth());
        leaf.verify_for_usage(supported, &anchors, &between, now, usage, revocation, None)?;
        Ok(())
    }

    /// What is wrong, in words that follow "the server's certificate".
    fn words(&self, store: &Store, shape: &Certificate<'_>, error: &webpki::Error) -> Fault {
        let (place, crl) = (&store.place, &self.trust.crl_file);
        let issuer = shape.issuer_name().unwrap_or("somebody without a name");
        let words = match error {
            webpki::Error::UnknownIssuer | webpki::Error::CaUsedAsEndEntity
                if shape.is_self_issued() =>
            {
                format!("is signed by itself, and is not among {place}: put it there, or make one that is signed by an authority")
            }
            webpki::Error::UnknownIssuer => {
                format!("is signed by {issuer:?}, from where nothing leads to a root that is good now among {place}")
            }
            webpki::Error::CaUsedAsEndEntity => {
                "is an authority's (CA:TRUE), not a server's: make one with basicConstraints=CA:FALSE".to_owned()
            }
            webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => {
                "is good now, but one between it and its root is not".to_owned()
            }
            webpki::Error::CertRevoked => format!("is revoked, or one between it and its root is, says {crl}"),
            webpki::Error::UnknownRevocationStatus => {
                format!("cannot be looked up: {crl} has no list for each authority between it and its root")
            }
            webpki::Error::CrlExpired { .. } => format!("cannot be looked up: a list in {crl} has expired"),
            webpki::Error::RequiredEkuNotFoundContext(_) => {
                "is not for a server: its extendedKeyUsage lacks serverAuth".to_owned()
            }
            error => {
                let cause = match error {
                    webpki::Error::UnsupportedSignatureAlgorithmContext(_)
                    | webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
                        "it is signed in a way that Lockstep does not know (it knows RSA, P-256, P-384 and Ed25519; \
                         RSA-PSS only with a salt as long as the hash)".to_owned()
                    }
                    error => error.to_string(),
                };
                return Fault {
                    words: format!("or one between it and its root cannot be checked: {cause}"),
                    is_ours: true,
                };
            }
        };
        words.into()
    }
}

impl Store {
    fn valid(&self, now: UnixTime) -> impl Iterator<Item = &Root> {
        let now = moment(now);
        self.roots.iter().filter(move |root| (root.not_before..=root.not_after).contains(&now))
    }
}

fn in_time(shape: &Certificate<'_>, now: UnixTime) -> Result<(), String> {
    let (now, first, last) = (moment(now), shape.not_before, shape.not_after);
    if now > last {
        return Err(format!("has expired on {}", last.date()));
    }
    if now < first {
        let day = first.date();
        return Err(format!("is not good before {day}; is this machine's clock right?"));
    }
    Ok(())
}

fn moment(time: UnixTime) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

/// libpq's rule: the common name counts if there is no alternative name of the host's kind.
fn check_name(names: &Names<'_>, host: &str) -> Result<(), String> {
    let address: Option<IpAddr> = host.parse().ok();
    let is_named = names.hosts.iter().any(|name| fits(name, host))
        || address.is_some_and(|address| names.addresses.contains(&address));
    let has_alternatives = match address {
        Some(_) => !names.addresses.is_empty(),
        None => !names.hosts.is_empty(),
    };
    let common = names.common.filter(|_| !has_alternatives);
    if is_named || common.is_some_and(|name| fits(name, host)) {
        return Ok(());
    }
    let hosts = names.hosts.iter().copied().chain(common).map(|name| format!("{name:?}"));
    let addresses = names.addresses.iter().map(ToString::to_string);
    let all: Vec<String> = hosts.chain(addresses).collect();
    let all = if all.is_empty() { "nobody".to_owned() } else { all.join(", ") };
    Err(format!("is made out to {all}, not to {host:?}"))
}

/// A wildcard stands for one label.
fn fits(name: &str, host: &str) -> bool {
    let is_covered = |rest: &str| {
        let (first, behind) = host.split_once('.').unwrap_or((host, ""));
        !first.is_empty() && !rest.is_empty() && behind.eq_ignore_ascii_case(rest)
    };
    name.eq_ignore_ascii_case(host) || name.strip_prefix("*.").is_some_and(is_covered)
}

fn bad(problem: Fault) -> rustls::Error {
    let fault = Fault { words: format!("the server's certificate {problem}"), ..problem };
    CertificateError::Other(OtherError(Arc::new(fault))).into()
}

/// The key of a certificate of version 1, which webpki does not read.
fn plain_key(cert: &CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'static>> {
    Some(Certificate::read(cert).filter(|it| it.is_plain)?.key.to_vec().into())
}

/// Returns true if and only if the key's owner has signed the message, by one of these algorithms.
fn has_signed(
    key: &SubjectPublicKeyInfoDer<'_>,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
    message: &[u8],
    signature: &[u8],
) -> bool {
    let verifies = |key: RawPublicKeyEntity<'_>| {
        let mut algorithms = algorithms.iter();
        algorithms.any(|it| key.verify_signature(*it, message, signature).is_ok())
    };
    RawPublicKeyEntity::try_from(key).is_ok_and(verifies)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(leaf, between, now).map_err(bad)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let supported = &self.trust.supported;
        let Some(key) = plain_key(cert) else {
            return verify_tls12_signature(message, cert, signed, supported);
        };
        let mut mapped = supported.mapping.iter().filter(|it| it.0 == signed.scheme);
        if mapped.any(|it| has_signed(&key, it.1, message, signed.signature())) {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(CertificateError::BadSignature.into())
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let supported = &self.trust.supported;
        match plain_key(cert) {
            Some(key) => verify_tls13_signature_with_raw_key(message, &key, signed, supported),
            None => verify_tls13_signature(message, cert, signed, supported),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.supported.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Alternative names and addresses, the common name, the host, and whether that fits.
    type Row =
        (&'static [&'static str], &'static [[u8; 4]], Option<&'static str>, &'static str, bool);

    #[test]
    fn names_are_compared_as_libpq_does() {
        let table: [Row; 16] = [
            (&["db.test"], &[], None, "db.test", true),
            (&["db.test"], &[], None, "DB.Test", true),
            (&["db.test"], &[], None, "db.test.", false),
            (&["db.test"], &[], Some("other.test"), "other.test", false),
            (&[], &[[127, 0, 0, 1]], Some("other.test"), "other.test", true),
            (&[], &[], Some("db.test"), "db.test", true),
            (&["*.db.test"], &[], None, "a.db.test", true),
            (&["*.db.test"], &[], None, "a.b.db.test", false),
            (&["*.db.test"], &[], None, "db.test", false),
            (&["*.db.test"], &[], None, ".db.test", false),
            (&[], &[], Some("*.db.test"), "a.db.test", true),
            (&["*"], &[], None, "db", false),
            (&[], &[[127, 0, 0, 1]], None, "127.0.0.1", true),
            (&["127.0.0.1"], &[], None, "127.0.0.1", true),
            (&["db.test"], &[], Some("127.0.0.1"), "127.0.0.1", true),
            (&[], &[[127, 0, 0, 2]], Some("127.0.0.1"), "127.0.0.1", false),
        ];
        for (hosts, addresses, common, host, expected) in table {
            let names = Names {
                common,
                hosts: hosts.to_vec(),
                addresses: addresses.iter().map(|it| IpAddr::from(*it)).collect(),
            };
            let checked = check_name(&names, host);
            assert_eq!(checked.is_ok(), expected, "{hosts:?} {addresses:?} {common:?} {host}");
        }
    }
}
