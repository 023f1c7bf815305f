//! The few parts of a certificate that `rustls-webpki` does not tell, or does not tell of every certificate that
//! PostgreSQL takes: X.509 (RFC 5280), read from its DER without copying.

use std::net::IpAddr;

use sha2::Digest as _;
use time::{Date, Month, OffsetDateTime};

/// One element of DER.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    /// Tag, length and content.
    whole: &'a [u8],
}

/// Elements that stand one behind the other.
#[derive(Clone)]
struct Elements<'a>(&'a [u8]);

impl<'a> Iterator for Elements<'a> {
    type Item = Element<'a>;

    /// None at the end, and where it is no DER.
    fn next(&mut self) -> Option<Element<'a>> {
        let text = self.0;
        let (&tag, after) = text.split_first()?;
        let (&first, after) = after.split_first()?;
        let (length, after) = match first {
            0..=0x7f => (usize::from(first), after),
            0x81..=0x83 => {
                let (bytes, after) = after.split_at_checked(usize::from(first & 0x7f))?;
                let joined = |sum, byte: &u8| sum << 8 | usize::from(*byte);
                (bytes.iter().fold(0, joined), after)
            }
            _ => return None,
        };
        let (content, rest) = after.split_at_checked(length)?;
        self.0 = rest;
        Some(Element { tag, content, whole: &text[..text.len() - rest.len()] })
    }
}

impl<'a> Elements<'a> {
    /// The content of the next one, which has this tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|it| it.tag == tag).map(|it| it.content)
    }
}

const OCTETS: u8 = 0x04;
const BITS: u8 = 0x03;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;

const COMMON_NAME: [u8; 3] = [0x55, 4, 3];
const ALTERNATIVE_NAMES: [u8; 3] = [0x55, 0x1d, 17];

/// A certificate's parts, as they are encoded.
pub struct Certificate<'a> {
    /// What is signed.
    pub signed: &'a [u8],
    /// Without version and extensions, as they were before there was a version 3.
    pub is_plain: bool,
    pub issuer: &'a [u8],
    pub subject: &'a [u8],
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    /// The `SubjectPublicKeyInfo`.
    pub key: &'a [u8],
    /// The content of the `AlgorithmIdentifier` of the signature.
    pub algorithm: &'a [u8],
    pub signature: &'a [u8],
    extensions: Elements<'a>,
}

/// Whom a certificate is made out to.
pub struct Names<'a> {
    pub common: Option<&'a str>,
    pub hosts: Vec<&'a str>,
    pub addresses: Vec<IpAddr>,
}

impl<'a> Certificate<'a> {
    pub fn read(der: &'a [u8]) -> Option<Certificate<'a>> {
        let mut outer = Elements(Elements(der).expect(SEQUENCE)?);
        let signed = outer.next()?;
        let algorithm = outer.expect(SEQUENCE)?;
        let (_unused_bits, signature) = outer.expect(BITS)?.split_first()?;
        let mut body = Elements(signed.content);
        let is_plain = body.0.first() != Some(&0xa0);
        if !is_plain {
            body.next()?;
        }
        let (_serial, _algorithm) = (body.next()?, body.next()?);
        let issuer = body.next()?.whole;
        let mut validity = Elements(body.expect(SEQUENCE)?);
        let subject = body.next()?.whole;
        let key = body.next()?.whole;
        let extensions = body.find(|it| it.tag == 0xa3);
        let extensions = extensions.and_then(|it| Elements(it.content).expect(SEQUENCE));
        Some(Certificate {
            signed: signed.whole,
            is_plain,
            issuer,
            subject,
            not_before: moment(&validity.next()?)?,
            not_after: moment(&validity.next()?)?,
            key,
            algorithm,
            signature,
            extensions: Elements(extensions.unwrap_or_default()),
        })
    }

    pub fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }

    pub fn names(&self) -> Names<'a> {
        let mut names =
            Names { common: common_name(self.subject), hosts: Vec::new(), addresses: Vec::new() };
        let Some(alternatives) = self.extension(ALTERNATIVE_NAMES) else {
            return names;
        };
        for name in Elements(Elements(alternatives).expect(SEQUENCE).unwrap_or_default()) {
            match name.tag {
                0x82 => names.hosts.extend(std::str::from_utf8(name.content)),
                0x87 => {
                    let v4 = <[u8; 4]>::try_from(name.content).map(IpAddr::from);
                    let v6 = <[u8; 16]>::try_from(name.content).map(IpAddr::from);
                    names.addresses.extend(v4.or(v6));
                }
                _ => {}
            }
        }
        names
    }

    /// The common name of whoever signed it.
    pub fn issuer_name(&self) -> Option<&'a str> {
        common_name(self.issuer)
    }

    fn extension(&self, wanted: [u8; 3]) -> Option<&'a [u8]> {
        self.extensions.clone().find_map(|extension| {
            let mut parts = Elements(extension.content);
            if parts.expect(OID)? != wanted {
                return None;
            }
            parts.find(|part| part.tag == OCTETS).map(|it| it.content)
        })
    }
}

/// The last one, which is the most specific.
fn common_name(name: &[u8]) -> Option<&str> {
    let pairs = Elements(Elements(name).expect(SEQUENCE)?).flat_map(|set| Elements(set.content));
    let names = pairs.filter_map(|pair| {
        let mut pair = Elements(pair.content);
        let is_name = pair.expect(OID)? == COMMON_NAME;
        let value = pair.next()?.content;
        is_name.then(|| std::str::from_utf8(value).ok())?
    });
    names.last()
}

/// Reads a UTCTime or a GeneralizedTime.
fn moment(time: &Element<'_>) -> Option<OffsetDateTime> {
    let text = std::str::from_utf8(time.content).ok()?.strip_suffix('Z')?;
    let century = match time.tag {
        UTC_TIME if text < "50" => "20",
        UTC_TIME => "19",
        _ => "",
    };
    let text = format!("{century}{text}");
    let part = |at: usize| text.get(at..at + 2)?.parse::<u8>().ok();
    let year = text.get(..4)?.parse().ok()?;
    let month = Month::try_from(part(4)?).ok()?;
    let date = Date::from_calendar_date(year, month, part(6)?).ok()?;
    Some(date.with_hms(part(8)?, part(10)?, part(12)?).ok()?.assume_utc())
}

/// What binds a password's proof to the connection (RFC 5929, `tls-server-end-point`): the hash of the certificate, by
/// the algorithm of its signature, but by none that is weaker than SHA-256. None where the algorithm has no hash, as
/// Ed25519.
pub fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    const RSA: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1];
    const ECDSA: [u8; 6] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4];
    const SHA2: [u8; 8] = [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2];
    let mut algorithm = Elements(Certificate::read(der)?.algorithm);
    let oid = algorithm.expect(OID)?;
    let last = match (oid.strip_prefix(&RSA), oid.strip_prefix(&ECDSA)) {
        // PSS names its hash in its parameters; SHA-1, if it does not.
        (Some([10]), _) => {
            let mut parts = algorithm.0.windows(9);
            parts.find_map(|it| it.strip_prefix(&SHA2)).map_or(1, |it| it[0])
        }
        (Some([4 | 5 | 11]), _) | (_, Some([1] | [3, 2])) => 1,
        (Some([12]), _) | (_, Some([3, 3])) => 2,
        (Some([13]), _) | (_, Some([3, 4])) => 3,
        _ => return None,
    };
    Some(match last {
        3 => sha2::Sha512::digest(der).to_vec(),
        2 => sha2::Sha384::digest(der).to_vec(),
        _ => sha2::Sha256::digest(der).to_vec(),
    })
}
