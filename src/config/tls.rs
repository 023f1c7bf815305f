//! TLS as it was asked for: libpq's `ssl…` parameters, and the files that they name → [`Tls`].
//!
//! Files are read here, and understood where certificates are. What libpq refuses as a value is refused even where no
//! connection would be encrypted. One thing is stricter than libpq: a root file that was named must exist.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use postgres::config::SslNegotiation;

use super::places::Place;
use super::server::Resolution;

/// How connections by TCP are encrypted: not at all, unless it is said.
#[derive(Clone, Default)]
pub struct Tls {
    pub mode: Mode,
    /// Who says first that the connection is to be encrypted.
    pub negotiation: SslNegotiation,
    pub roots: Roots,
    /// Certificates that are not good any more.
    pub revoked: Option<Material>,
    pub identity: Option<Identity>,
    pub certificate: CertificateMode,
    /// The host's name is not told before the connection is encrypted (SNI).
    pub hides_host: bool,
    pub versions: Versions,
}

/// libpq's `sslmode`, from the weakest to the strongest.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mode {
    #[default]
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

/// Who may have signed the server's certificate.
#[derive(Clone, Default)]
pub enum Roots {
    /// Anybody, even itself.
    #[default]
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

/// libpq's `sslcertmode`: whether our certificate is shown, and whether a server has to ask for it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum CertificateMode {
    Disable,
    #[default]
    Allow,
    Require,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Versions {
    #[default]
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

/// The words of the values.
const MODES: [(&str, Mode); 6] = [
    ("disable", Mode::Disable),
    ("allow", Mode::Allow),
    ("prefer", Mode::Prefer),
    ("require", Mode::Require),
    ("verify-ca", Mode::VerifyCa),
    ("verify-full", Mode::VerifyFull),
];

/// Where there is no TLS in this build, a demand for it is refused.
pub(super) const WITHOUT_TLS: &str =
    "TLS was asked for, but this build of Lockstep has none: build it with the cargo feature `tls`";

impl Resolution<'_, '_> {
    /// Complains of what cannot be kept; what is returned then counts for nothing.
    pub(super) fn tls(&mut self, places: Option<&[Place]>) -> Tls {
        use CertificateMode::{Allow, Disable, Require};
        use SslNegotiation::{Direct, Postgres};
        let negotiations = [("postgres", Postgres), ("direct", Direct)];
        let negotiation = self.choice("sslnegotiation", Postgres, &negotiations);
        let certificates = [("disable", Disable), ("allow", Allow), ("require", Require)];
        let mut certificate = self.choice("sslcertmode", Allow, &certificates);
        let hides_host = self.choice("sslsni", false, &[("1", false), ("0", true)]);
        let versions = self.versions();
        let mode = self.mode();
        if places.is_none_or(|places| places.iter().all(Place::is_socket)) {
            return Tls::default();
        }
        if cfg!(not(feature = "tls")) && mode >= Mode::Require {
            self.refuse_one("sslmode", WITHOUT_TLS);
            return Tls::default();
        }
        let needs = "needs sslmode=require or a stronger one";
        if mode < Mode::Require && negotiation == Direct {
            self.refuse_one("sslnegotiation", &format!("sslnegotiation=direct {needs}"));
        }
        if mode < Mode::Require && certificate == Require {
            certificate = Allow;
            self.refuse_one("sslcertmode", &format!("sslcertmode=require {needs}"));
        }
        let has = |key: &str| self.given.contains_key(key);
        if mode == Mode::VerifyFull && !has("host") && has("hostaddr") {
            self.refuse_one("hostaddr", "verify-full needs the name that the certificate is made out to: give the host, too");
        }
        if mode == Mode::Disable || cfg!(not(feature = "tls")) {
            return Tls { mode, ..Tls::default() };
        }
        Tls {
            mode,
            negotiation,
            roots: self.roots(mode),
            revoked: self.revoked(),
            identity: self.identity(certificate),
            certificate,
            hides_host,
            versions,
        }
    }

    fn trusts_the_system(&self) -> bool {
        self.given.get("sslrootcert").is_some_and(|it| it.value == b"system")
    }

    fn mode(&mut self) -> Mode {
        use Mode::{Prefer, VerifyFull};
        let by_system = self.trusts_the_system();
        let default = if by_system { VerifyFull } else { Prefer };
        let mode = self.choice("sslmode", default, &MODES);
        if by_system && mode != VerifyFull {
            self.refuse_one("sslmode", "sslrootcert=system needs sslmode=verify-full, which it is without any sslmode: anybody can have a certificate from one of the system's authorities");
        }
        mode
    }

    fn versions(&mut self) -> Versions {
        const HIGHEST: &str = "ssl_max_protocol_version";
        let all = ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"];
        let mut version = |key| {
            self.parsed(key, &format!("one of {}", all.join(", ")), |text| {
                all.iter().position(|it| it.eq_ignore_ascii_case(text))
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
        if self.trusts_the_system() {
            return Roots::System;
        }
        match self.material("sslrootcert", ".postgresql/root.crt") {
            Some(Some(material)) => return Roots::File(material),
            Some(None) if mode >= Mode::VerifyCa => self.refuse_one("sslmode", NO_ROOTS),
            _ => {}
        }
        Roots::Anybody
    }

    fn revoked(&mut self) -> Option<Material> {
        let list = self.material("sslcrl", ".postgresql/root.crl")?;
        if list.is_none() && self.given.contains_key("sslcrl") {
            let path = self.file("sslcrl", "")?;
            self.inquiry.warnings.push(format!(
                "no certificate is looked up in the revocation list {}: there is no such file",
                path.display()
            ));
        }
        list
    }

    fn identity(&mut self, mode: CertificateMode) -> Option<Identity> {
        if mode == CertificateMode::Disable {
            return None;
        }
        let certificate = self.material("sslcert", ".postgresql/postgresql.crt")?;
        if certificate.is_none() && mode == CertificateMode::Require {
            let problem =
                "sslcertmode=require, but there is no client certificate: name its file by sslcert";
            self.refuse_one("sslcertmode", problem);
        }
        let certificate = certificate?;
        let path = self.file("sslkey", ".postgresql/postgresql.key")?;
        let shown = path.display();
        let problem = match read_private(&path, Private::Key) {
            Ok(text) if String::from_utf8_lossy(&text).contains("ENCRYPTED") => format!(
                "is encrypted, which is not supported: \
                 openssl pkey -in {shown} -out NEW writes it without a password; keep NEW at mode 0600"
            ),
            Ok(text) => {
                let key = Material { path, text };
                return Some(Identity { certificate, key });
            }
            Err(error) => format!("cannot be used: {error}"),
        };
        self.refuse_file("sslkey", &format!("the client's key {shown} {problem}"));
        None
    }

    /// What the file holds that the parameter names, or the default one, if it is there; none at all after a complaint.
    fn material(&mut self, key: &'static str, default: &str) -> Option<Option<Material>> {
        let Some(path) = self.file(key, default) else {
            return Some(None);
        };
        let must_exist = key == "sslrootcert" && self.given.contains_key(key);
        match read(&path) {
            Ok(text) => Some(Some(Material { path, text })),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => Some(None),
            Err(error) => {
                self.refuse_file(key, &format!("cannot read {}: {error}", path.display()));
                None
            }
        }
    }

    /// Complains of a file, whether it was named or is the default one.
    fn refuse_file(&mut self, key: &'static str, problem: &str) {
        let own = super::parameters::find(key.as_bytes()).and_then(|it| it.variable.as_ref());
        if let Some(variable) = self.given.get(key).map(|it| it.variable).or(own) {
            self.inquiry.complain(variable, problem);
        }
    }
}

const NO_ROOTS: &str = "the server's certificate is to be verified, but it is not said by whom it may be signed: \
     name a file by sslrootcert, or write sslrootcert=system for the authorities that the system trusts";

fn read(path: &Path) -> io::Result<Vec<u8>> {
    /// More than all authorities of the world take; a wrong path, such as a device, must not fill the memory.
    const LARGEST: u64 = 16 * 1024 * 1024;
    let mut text = Vec::new();
    File::open(path)?.take(LARGEST).read_to_end(&mut text)?;
    Ok(text)
}

/// What libpq reads only if nobody but its owner has access to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Private {
    Passwords,
    /// One that is root's may be read by a group.
    Key,
}

/// Reads a plain file to which nobody has access who should not.
pub(super) fn read_private(path: &Path, what: Private) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a plain file"));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        const ROOTS: &str = ", or 0640 if it is root's";
        let (forbidden, or) = match what {
            Private::Passwords => (0o077, ""),
            Private::Key if metadata.uid() == 0 => (0o037, ROOTS),
            Private::Key => (0o077, ROOTS),
        };
        if metadata.mode() & forbidden != 0 {
            let problem = "group or others have access to it; its mode should be 0600";
            return Err(io::Error::other(format!("{problem}{or}")));
        }
    }
    read(path)
}
