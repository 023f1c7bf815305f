//! TLS as it was asked for: libpq's `ssl…` parameters, and the files that they name → [`Tls`].
//!
//! Files are read here, and understood where certificates are. What libpq refuses as a value is refused even where no
//! connection would be encrypted. One thing is stricter than libpq: a root file that was named must exist.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::places::Place;
use super::server::{Resolution, os_string};
use super::variables;

/// How connections by TCP are encrypted.
#[derive(Clone)]
pub struct Tls {
    pub mode: Mode,
    pub negotiation: Negotiation,
    pub roots: Roots,
    /// Certificates that are not good any more.
    pub revoked: Option<Material>,
    pub identity: Option<Identity>,
    pub demand: Demand,
    pub introduction: Introduction,
    pub versions: Versions,
}

/// libpq's `sslmode`, from the weakest to the strongest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mode {
    Disable,
    /// Only if the server insists.
    Allow,
    /// If it can be had.
    Prefer,
    Require,
    /// And the server's certificate is signed by somebody who is trusted.
    VerifyCa,
    /// And it is made out to the host that was asked for.
    VerifyFull,
}

/// Who says first that the connection is to be encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Negotiation {
    Postgres,
    Direct,
}

/// Who may have signed the server's certificate.
#[derive(Clone)]
pub enum Roots {
    /// Anybody, even itself.
    Anybody,
    System,
    File(Material),
}

/// What we show to a server that asks who we are.
#[derive(Clone)]
pub struct Identity {
    pub certificate: Material,
    pub key: Material,
}

/// Whether a server has to ask for our certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Demand {
    MayAsk,
    MustAsk,
}

/// Whether the host's name is told before the connection is encrypted (SNI).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Introduction {
    Named,
    Nameless,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Versions {
    Both,
    Only12,
    Only13,
}

/// A file and what it holds.
#[derive(Clone)]
pub struct Material {
    pub path: PathBuf,
    pub text: Vec<u8>,
}

impl Tls {
    /// For local sockets, and for whoever wants none.
    fn none() -> Tls {
        Tls {
            mode: Mode::Disable,
            negotiation: Negotiation::Postgres,
            roots: Roots::Anybody,
            revoked: None,
            identity: None,
            demand: Demand::MayAsk,
            introduction: Introduction::Named,
            versions: Versions::Both,
        }
    }
}

/// The words of the values.
const MODES: [(&str, Mode); 6] = [
    ("disable", Mode::Disable),
    ("allow", Mode::Allow),
    ("prefer", Mode::Prefer),
    ("require", Mode::Require),
    ("verify-ca", Mode::VerifyCa),
    ("verify-full", Mode::VerifyFull),
];

/// What one may be set to do about the client's certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CertificateMode {
    Disable,
    Allow,
    Require,
}

/// Where there is no TLS in this build, a demand for it is refused.
pub(super) const WITHOUT_TLS: &str =
    "TLS was asked for, but this build of Lockstep has none: build it with the cargo feature `tls`";

impl Resolution<'_, '_> {
    /// Complains of what cannot be kept; what is returned then counts for nothing.
    pub(super) fn tls(&mut self, places: Option<&[Place]>) -> Tls {
        let negotiations = [
            ("postgres", Negotiation::Postgres),
            ("direct", Negotiation::Direct),
        ];
        let negotiation = self.choice("sslnegotiation", &negotiations);
        let certificates = [
            ("disable", CertificateMode::Disable),
            ("allow", CertificateMode::Allow),
            ("require", CertificateMode::Require),
        ];
        let certificates = self.choice("sslcertmode", &certificates);
        let introductions = [("1", Introduction::Named), ("0", Introduction::Nameless)];
        let introduction = self.choice("sslsni", &introductions);
        let versions = self.versions();
        let mode = self.mode();
        if places.is_none_or(|places| places.iter().all(Place::is_socket)) {
            return Tls::none();
        }
        if cfg!(not(feature = "tls")) && mode >= Mode::Require {
            self.refuse_one("sslmode", WITHOUT_TLS);
            return Tls::none();
        }
        let mut certificates = certificates.unwrap_or(CertificateMode::Allow);
        let needs = "needs sslmode=require or a stronger one";
        if mode < Mode::Require && negotiation == Some(Negotiation::Direct) {
            self.refuse_one("sslnegotiation", &format!("sslnegotiation=direct {needs}"));
        }
        if mode < Mode::Require && certificates == CertificateMode::Require {
            certificates = CertificateMode::Allow;
            self.refuse_one("sslcertmode", &format!("sslcertmode=require {needs}"));
        }
        if mode == Mode::VerifyFull
            && !self.given.contains_key("host")
            && self.given.contains_key("hostaddr")
        {
            self.refuse_one("hostaddr", "verify-full needs the name that the certificate is made out to: give the host, too");
        }
        if mode == Mode::Disable || cfg!(not(feature = "tls")) {
            return Tls {
                mode,
                ..Tls::none()
            };
        }
        Tls {
            mode,
            negotiation: negotiation.unwrap_or(Negotiation::Postgres),
            roots: self.roots(mode),
            revoked: self.revoked(),
            identity: match certificates {
                CertificateMode::Disable => None,
                _ => self.identity(certificates),
            },
            demand: match certificates {
                CertificateMode::Require => Demand::MustAsk,
                _ => Demand::MayAsk,
            },
            introduction: introduction.unwrap_or(Introduction::Named),
            versions,
        }
    }

    fn mode(&mut self) -> Mode {
        // The switch means the system's certificates, unless others are named.
        let switch = variables::SSL.variable.name;
        let is_switched_on = self
            .given
            .get("sslmode")
            .is_some_and(|it| it.variable.name == switch && it.value == b"verify-full");
        if is_switched_on && !self.given.contains_key("sslrootcert") {
            self.trust_the_system = true;
        }
        let given = self.given.get("sslrootcert");
        let by_system = given.is_some_and(|it| it.value == b"system");
        self.trust_the_system |= by_system;
        let mode = self.choice("sslmode", &MODES);
        if by_system && mode.is_some_and(|mode| mode != Mode::VerifyFull) {
            self.refuse_one("sslmode", "sslrootcert=system needs sslmode=verify-full, which it is without any sslmode: anybody can have a certificate from one of the system's authorities");
        }
        mode.unwrap_or(if by_system {
            Mode::VerifyFull
        } else {
            Mode::Prefer
        })
    }

    fn versions(&mut self) -> Versions {
        const HIGHEST: &str = "ssl_max_protocol_version";
        let versions = [("tlsv1", 0), ("tlsv1.1", 1), ("tlsv1.2", 2), ("tlsv1.3", 3)];
        let mut version = |key| {
            self.parsed(key, "one of TLSv1, TLSv1.1, TLSv1.2, TLSv1.3", |text| {
                let text = text.to_ascii_lowercase();
                versions
                    .iter()
                    .find(|(name, _)| *name == text)
                    .map(|(_, version)| *version)
            })
        };
        let (lowest, highest) = (version("ssl_min_protocol_version"), version(HIGHEST));
        match (lowest.unwrap_or(2), highest.unwrap_or(3)) {
            (_, 0 | 1) => self.complain(HIGHEST, "is too old: TLSv1.2 is the oldest there is"),
            (3, 2) => self.complain(HIGHEST, "is older than ssl_min_protocol_version"),
            (3, _) => return Versions::Only13,
            (_, 2) => return Versions::Only12,
            _ => {}
        }
        Versions::Both
    }

    fn roots(&mut self, mode: Mode) -> Roots {
        if self.trust_the_system {
            return Roots::System;
        }
        let is_named = self.given.contains_key("sslrootcert");
        let path = self.file("sslrootcert", "root.crt");
        match path.map(|path| (read(&path), path)) {
            Some((Ok(material), _)) => return Roots::File(material),
            Some((Err(error), path)) if is_named || error.kind() != io::ErrorKind::NotFound => {
                self.unreadable("sslrootcert", &path, &error);
            }
            _ if mode >= Mode::VerifyCa => self.refuse_one("sslmode", NO_ROOTS),
            _ => {}
        }
        Roots::Anybody
    }

    fn revoked(&mut self) -> Option<Material> {
        let path = self.file("sslcrl", "root.crl")?;
        match read(&path) {
            Ok(material) => return Some(material),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.unreadable("sslcrl", &path, &error);
            }
            Err(_) if self.given.contains_key("sslcrl") => self.inquiry.warnings.push(format!(
                "no certificate is looked up in the revocation list {}: there is no such file",
                path.display()
            )),
            Err(_) => {}
        }
        None
    }

    fn identity(&mut self, mode: CertificateMode) -> Option<Identity> {
        let path = self.file("sslcert", "postgresql.crt");
        let certificate = path.map(|path| (read(&path), path));
        let certificate = match certificate {
            Some((Ok(certificate), _)) => certificate,
            Some((Err(error), path)) if error.kind() != io::ErrorKind::NotFound => {
                self.unreadable("sslcert", &path, &error);
                return None;
            }
            _ => {
                if mode == CertificateMode::Require {
                    self.refuse_one("sslcertmode", "sslcertmode=require, but there is no client certificate: name its file by sslcert");
                }
                return None;
            }
        };
        let key = self.file("sslkey", "postgresql.key")?;
        let read = check_key(&key).and_then(|()| read(&key).map_err(|error| error.to_string()));
        match read {
            Ok(key) if String::from_utf8_lossy(&key.text).contains("ENCRYPTED") => {
                let path = key.path.display();
                self.refuse_file("sslkey", &format!(
                    "the client's key {path} is encrypted, which is not supported: \
                     openssl pkey -in {path} -out NEW writes it without a password; keep NEW at mode 0600"
                ));
                None
            }
            Ok(key) => Some(Identity { certificate, key }),
            Err(problem) => {
                let path = key.display();
                self.refuse_file(
                    "sslkey",
                    &format!("the client's key {path} cannot be used: {problem}"),
                );
                None
            }
        }
    }

    /// The file that the parameter names, or the default one.
    fn file(&mut self, key: &str, default: &str) -> Option<PathBuf> {
        match self.given.get(key) {
            Some(given) => Some(PathBuf::from(os_string(given.value.clone())?)),
            None => {
                let home = self.inquiry.environment.home.as_ref()?;
                Some(home.join(".postgresql").join(default))
            }
        }
    }

    fn unreadable(&mut self, key: &'static str, path: &Path, error: &io::Error) {
        self.refuse_file(key, &format!("cannot read {}: {error}", path.display()));
    }

    /// Complains of a file, whether it was named or is the default one.
    fn refuse_file(&mut self, key: &'static str, problem: &str) {
        let parameter = super::parameters::find(key.as_bytes());
        let own = parameter.and_then(|it| it.variable.as_ref());
        if let Some(variable) = self.given.get(key).map(|it| it.variable).or(own) {
            self.inquiry.complain(variable, problem);
        }
    }
}

const NO_ROOTS: &str = "the server's certificate is to be verified, but it is not said by whom it may be signed: \
     name a file by sslrootcert, or write sslrootcert=system for the authorities that the system trusts";

fn read(path: &Path) -> io::Result<Material> {
    /// More than all authorities of the world take; a wrong path, such as a device, must not fill the memory.
    const LARGEST: u64 = 16 * 1024 * 1024;
    let mut text = Vec::new();
    File::open(path)?.take(LARGEST).read_to_end(&mut text)?;
    Ok(Material {
        path: path.to_owned(),
        text,
    })
}

/// libpq's rule: nobody but the owner has access to a key; a group may read one that is root's.
fn check_key(path: &Path) -> Result<(), String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a plain file".to_owned());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
        if metadata.mode() & forbidden != 0 {
            return Err("group or others have access to it; its mode should be 0600, or 0640 if it is root's".to_owned());
        }
    }
    Ok(())
}
