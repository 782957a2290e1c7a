//! The lab's certificates: what each must be, how one is made, and what is wrong with one that is there.
//!
//! Pure: bytes and a time in, bytes or a [`Defect`] out. [`super::step::certificates`] keeps the files.
//!
//! Every certificate has a new P-256 key. Serial numbers are 16 bytes of the digest of that key: positive and at most 20
//! bytes as RFC 5280 (4.1.2.2) asks, and never the same twice, because no key is used twice.

use std::fmt;
use std::net::IpAddr;

use anyhow::{Context, Result, anyhow};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::LabName;
use crate::drive::files::Digest;

const DAY: i64 = 24 * 60 * 60;
/// How long the authority is valid. Whoever holds its key can speak for the lab, and some people will put it into a
/// trust store, so not the customary ten years; a lab that lives longer gets a new one from the next `up`.
const AUTHORITY_SECONDS: i64 = 2 * 365 * DAY;
/// How long the others are valid: below the 398 days beyond which browsers refuse a server's certificate.
const LEAF_SECONDS: i64 = 365 * DAY;
/// What is valid for less than this is made again.
const RENEW_SECONDS: i64 = 30 * DAY;
/// How far the beginning lies back, for clocks that are behind: that of a virtual machine after a sleep, for one.
const SKEW_SECONDS: i64 = 60 * 60;

/// The names by which the dashboard is reached: on this machine, and as a Service of the namespace `job-dashboard`.
pub const SERVER_NAMES: [&str; 7] = [
    "localhost",
    "127.0.0.1",
    "::1",
    "job-dashboard",
    "job-dashboard.job-dashboard",
    "job-dashboard.job-dashboard.svc",
    "job-dashboard.job-dashboard.svc.cluster.local",
];

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// It signs the others.
    Authority,
    /// A server shows it.
    Server,
    /// A client shows it.
    Client,
}

/// What a certificate must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// The name of its files without `.crt` and `.key`.
    pub file: &'static str,
    /// The common name of its subject.
    pub common_name: String,
    /// DNS names and IP addresses that it is valid for.
    pub names: Vec<String>,
    /// What it is for.
    pub usage: Usage,
}

/// Returns the profile of a lab's authority.
pub fn authority(lab: &LabName) -> Profile {
    Profile {
        file: "ca",
        common_name: format!("labctl {lab} CA"),
        names: Vec::new(),
        usage: Usage::Authority,
    }
}

/// Returns the profiles of what the authority signs: the dashboard's server and the client `learner`.
pub fn leaves() -> Vec<Profile> {
    vec![
        Profile {
            file: "server",
            common_name: "job-dashboard".to_owned(),
            names: SERVER_NAMES.map(str::to_owned).into(),
            usage: Usage::Server,
        },
        Profile {
            file: "learner",
            common_name: "learner".to_owned(),
            names: Vec::new(),
            usage: Usage::Client,
        },
    ]
}

/// A certificate and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate in PEM.
    pub certificate: String,
    /// The private key in PEM (PKCS #8).
    pub key: String,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key must not get into a log by way of `{:?}`.
        f.debug_struct("Pair")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// What is wrong with a certificate; the text follows the name of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Defect {
    /// The certificate or the key is not what its file's name says.
    Unreadable(String),
    /// The key is not that of the certificate.
    Key,
    /// It is not valid yet.
    Early,
    /// It is no longer valid.
    Expired,
    /// It is valid for so many days only.
    Expires(i64),
    /// It is valid for other names.
    Names {
        /// The names that it lacks.
        lacks: Vec<String>,
        /// The names that it should not have.
        has: Vec<String>,
    },
    /// Its subject is another.
    Subject(String),
    /// It may not be used for what it is for, or for more than that.
    Usage,
    /// Another authority signed it.
    Issuer,
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(why) => write!(f, "cannot be read: {why}"),
            Self::Key => f.write_str("does not fit its key"),
            Self::Early => f.write_str("is not valid yet; is the clock right?"),
            Self::Expired => f.write_str("has expired"),
            Self::Expires(0) => f.write_str("expires today"),
            Self::Expires(days) => write!(f, "expires in {days} days"),
            Self::Names { lacks, has } if has.is_empty() => write!(f, "is not for {}", lacks.join(", ")),
            Self::Names { lacks, has } if lacks.is_empty() => write!(f, "is also for {}", has.join(", ")),
            Self::Names { lacks, has } => {
                write!(f, "is for {}, and not for {}", has.join(", "), lacks.join(", "))
            }
            Self::Subject(name) => write!(f, "is that of `{name}`"),
            Self::Usage => f.write_str("may not be used for what it is for"),
            Self::Issuer => f.write_str("is signed by another authority"),
        }
    }
}

/// Makes a certificate with a new key; without an authority one that signs itself.
///
/// `now` is in seconds since 1970. A certificate never outlives its authority.
///
/// # Errors
/// The authority cannot be read, or the system has no random numbers.
pub fn make(profile: &Profile, signer: Option<&Pair>, now: i64) -> Result<Pair> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("make a key")?;
    let mut lifetime = match profile.usage {
        Usage::Authority => AUTHORITY_SECONDS,
        Usage::Server | Usage::Client => LEAF_SECONDS,
    };
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "labctl");
    name.push(DnType::CommonName, profile.common_name.as_str());
    params.distinguished_name = name;
    params.serial_number = Some(serial(&key));
    params.subject_alt_names = profile
        .names
        .iter()
        .map(|name| alternative(name))
        .collect::<Result<_>>()?;
    params.use_authority_key_identifier_extension = true;
    (params.is_ca, params.key_usages, params.extended_key_usages) = match profile.usage {
        Usage::Authority => (
            // Path length 0: what it signs cannot sign in turn.
            IsCa::Ca(BasicConstraints::Constrained(0)),
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign],
            vec![],
        ),
        Usage::Server => (
            IsCa::ExplicitNoCa,
            vec![KeyUsagePurpose::DigitalSignature],
            vec![ExtendedKeyUsagePurpose::ServerAuth],
        ),
        Usage::Client => (
            IsCa::ExplicitNoCa,
            vec![KeyUsagePurpose::DigitalSignature],
            vec![ExtendedKeyUsagePurpose::ClientAuth],
        ),
    };
    if let Some(signer) = signer {
        let end = parsed(&signer.certificate, |authority| {
            authority.validity().not_after.timestamp()
        })
        .map_err(|why| anyhow!("read the authority: {why}"))?;
        lifetime = lifetime.min(end - now);
    }
    params.not_before = OffsetDateTime::from_unix_timestamp(now - SKEW_SECONDS).context("tell the time")?;
    params.not_after = OffsetDateTime::from_unix_timestamp(now + lifetime).context("tell the time")?;
    let certificate = match signer {
        None => params.self_signed(&key),
        Some(signer) => {
            let signing = KeyPair::from_pem(&signer.key).context("read the authority's key")?;
            let issuer = Issuer::from_ca_cert_pem(&signer.certificate, signing).context("read the authority")?;
            params.signed_by(&key, &issuer)
        }
    }
    .context("sign the certificate")?;
    Ok(Pair {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

/// Returns a serial number that no other certificate has.
fn serial(key: &KeyPair) -> SerialNumber {
    let digest = Digest::of(&key.subject_public_key_info()).hex();
    let mut bytes: Vec<u8> = (0..32)
        .step_by(2)
        .filter_map(|at| u8::from_str_radix(&digest[at..at + 2], 16).ok())
        .collect();
    // Positive, and not beginning with a zero byte, which DER would drop.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn alternative(name: &str) -> Result<SanType> {
    Ok(match name.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into().with_context(|| format!("`{name}` is not a DNS name"))?),
    })
}

/// Says what is wrong with a certificate and its key, if anything. `authority` is the certificate, in PEM, that must have
/// signed it; for an authority its own.
///
/// # Errors
/// The first defect that is found.
pub fn examine(profile: &Profile, pair: &Pair, authority: &str, now: i64) -> Result<(), Defect> {
    let key = KeyPair::from_pem(&pair.key).map_err(|error| Defect::Unreadable(format!("its key: {error}")))?;
    let examined = parsed(&pair.certificate, |certificate| {
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err(Defect::Key);
        }
        examine_time(certificate, now)?;
        let subject = certificate.subject().iter_common_name().next();
        let subject = subject.and_then(|name| name.as_str().ok()).unwrap_or_default();
        if subject != profile.common_name {
            return Err(Defect::Subject(subject.to_owned()));
        }
        examine_names(certificate, &profile.names)?;
        if !usage_fits(certificate, profile.usage) {
            return Err(Defect::Usage);
        }
        parsed(authority, |signer| {
            let signed = certificate.issuer() == signer.subject()
                && certificate.verify_signature(Some(signer.public_key())).is_ok();
            if signed { Ok(()) } else { Err(Defect::Issuer) }
        })
        .unwrap_or(Err(Defect::Issuer))
    });
    examined.unwrap_or_else(|why| Err(Defect::Unreadable(why)))
}

fn examine_time(certificate: &X509Certificate<'_>, now: i64) -> Result<(), Defect> {
    let validity = certificate.validity();
    if validity.not_before.timestamp() > now {
        return Err(Defect::Early);
    }
    let left = validity.not_after.timestamp() - now;
    if left < 0 {
        Err(Defect::Expired)
    } else if left < RENEW_SECONDS {
        Err(Defect::Expires(left / DAY))
    } else {
        Ok(())
    }
}

fn examine_names(certificate: &X509Certificate<'_>, wanted: &[String]) -> Result<(), Defect> {
    let extension = certificate
        .subject_alternative_name()
        .map_err(|error| Defect::Unreadable(error.to_string()))?;
    let there: Vec<String> = extension
        .iter()
        .flat_map(|names| &names.value.general_names)
        .map(|name| match name {
            GeneralName::DNSName(name) => (*name).to_owned(),
            GeneralName::IPAddress(bytes) => address(bytes),
            other => other.to_string(),
        })
        .collect();
    let without = |all: &[String], these: &[String]| -> Vec<String> {
        all.iter().filter(|name| !these.contains(name)).cloned().collect()
    };
    let (lacks, has) = (without(wanted, &there), without(&there, wanted));
    if lacks.is_empty() && has.is_empty() {
        Ok(())
    } else {
        Err(Defect::Names { lacks, has })
    }
}

fn address(bytes: &[u8]) -> String {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .map_or_else(|_| format!("{bytes:02x?}"), |address| address.to_string())
}

fn usage_fits(certificate: &X509Certificate<'_>, usage: Usage) -> bool {
    let constraints = certificate.basic_constraints().ok().flatten().map(|found| found.value);
    let is_ca = constraints.is_some_and(|found| found.ca);
    let keys = certificate.key_usage().ok().flatten().map(|found| found.value);
    let extended = certificate.extended_key_usage().ok().flatten().map(|found| found.value);
    match usage {
        Usage::Authority => {
            is_ca
                && constraints.is_some_and(|found| found.path_len_constraint == Some(0))
                && keys.is_some_and(x509_parser::extensions::KeyUsage::key_cert_sign)
        }
        Usage::Server => !is_ca && extended.is_some_and(|found| found.server_auth && !found.client_auth),
        Usage::Client => !is_ca && extended.is_some_and(|found| found.client_auth && !found.server_auth),
    }
}

/// Parses a certificate in PEM and gives it to `look`.
fn parsed<T>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> T) -> Result<T, String> {
    let block = Pem::iter_from_buffer(pem.as_bytes())
        .next()
        .ok_or("there is no certificate in it")?
        .map_err(|error| error.to_string())?;
    if block.label != "CERTIFICATE" {
        return Err(format!("it is a {}", block.label));
    }
    let (rest, certificate) = X509Certificate::from_der(&block.contents).map_err(|error| error.to_string())?;
    if !rest.is_empty() {
        return Err("something follows the certificate".to_owned());
    }
    Ok(look(&certificate))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

    use super::*;

    fn lab() -> LabName {
        LabName::parse("demo").expect("a lab's name")
    }

    fn now() -> i64 {
        i64::try_from(UnixTime::now().as_secs()).expect("a time")
    }

    fn make_authority(now: i64) -> Pair {
        make(&authority(&lab()), None, now).expect("an authority")
    }

    #[test]
    fn what_is_made_is_found_sound() {
        let ca = make_authority(now());
        assert_eq!(examine(&authority(&lab()), &ca, &ca.certificate, now()), Ok(()));
        for profile in leaves() {
            let pair = make(&profile, Some(&ca), now()).expect("a certificate");
            assert_eq!(
                examine(&profile, &pair, &ca.certificate, now()),
                Ok(()),
                "{}",
                profile.file
            );
        }
    }

    #[test]
    fn each_defect_is_seen_for_what_it_is() {
        let start = now();
        let ca = make_authority(start);
        let server = &leaves()[0];
        let pair = make(server, Some(&ca), start).expect("a certificate");
        let other = make(server, Some(&ca), start).expect("a certificate");
        let look = |pair: &Pair, now| examine(server, pair, &ca.certificate, now).expect_err("a defect");

        let mixed = Pair {
            key: other.key.clone(),
            ..pair.clone()
        };
        assert_eq!(look(&mixed, start), Defect::Key);
        assert_eq!(look(&pair, start - 2 * SKEW_SECONDS), Defect::Early);
        assert_eq!(look(&pair, start + 366 * DAY), Defect::Expired);
        assert_eq!(look(&pair, start + 336 * DAY), Defect::Expires(29));
        assert_eq!(examine(server, &pair, &ca.certificate, start + 334 * DAY), Ok(()));

        let foreign = make_authority(start);
        let signed = make(server, Some(&foreign), start).expect("a certificate");
        assert_eq!(look(&signed, start), Defect::Issuer, "same name, another key");

        let fewer = Profile {
            names: vec!["localhost".into(), "10.0.0.1".into()],
            ..server.clone()
        };
        let narrow = make(&fewer, Some(&ca), start).expect("a certificate");
        let Defect::Names { lacks, has } = look(&narrow, start) else {
            panic!("other names");
        };
        assert_eq!((lacks.len(), has), (6, vec!["10.0.0.1".to_owned()]));

        let client = Profile {
            usage: Usage::Client,
            ..server.clone()
        };
        let wrong = make(&client, Some(&ca), start).expect("a certificate");
        assert_eq!(look(&wrong, start), Defect::Usage);
        let named = Profile {
            common_name: "somebody".into(),
            ..server.clone()
        };
        let wrong = make(&named, Some(&ca), start).expect("a certificate");
        assert_eq!(look(&wrong, start), Defect::Subject("somebody".into()));

        for text in ["", "junk", &pair.key, &pair.certificate[..200]] {
            let broken = Pair {
                certificate: text.to_owned(),
                ..pair.clone()
            };
            assert!(matches!(look(&broken, start), Defect::Unreadable(_)), "{text}");
            let broken = Pair {
                key: text.to_owned(),
                ..pair.clone()
            };
            if text != pair.key {
                assert!(matches!(look(&broken, start), Defect::Unreadable(_)), "{text}");
            }
        }
    }

    #[test]
    fn a_certificate_ends_with_its_authority_at_the_latest() {
        let ca = make_authority(now());
        let late = now() + AUTHORITY_SECONDS - 60 * DAY;
        let pair = make(&leaves()[0], Some(&ca), late).expect("a certificate");
        let end = |pem: &str| parsed(pem, |found| found.validity().not_after.timestamp()).expect("a certificate");
        assert_eq!(end(&pair.certificate), end(&ca.certificate));
    }

    #[test]
    fn the_form_is_that_of_rfc_5280() {
        let ca = make_authority(now());
        let mut serials = std::collections::BTreeSet::new();
        for _ in 0..50 {
            let pair = make(&leaves()[1], Some(&ca), now()).expect("a certificate");
            let (serial, version, critical) = parsed(&pair.certificate, |found| {
                let critical = |oid: &str| {
                    found
                        .extensions()
                        .iter()
                        .find(|extension| extension.oid.to_id_string() == oid)
                        .map(|extension| extension.critical)
                };
                (
                    found.raw_serial().to_vec(),
                    found.version().0,
                    // Basic constraints, key usage, authority key identifier.
                    ["2.5.29.19", "2.5.29.15", "2.5.29.35"].map(critical),
                )
            })
            .expect("a certificate");
            assert_eq!(version, 2, "version 3 is written as 2");
            assert_eq!(critical, [Some(true), Some(true), Some(false)]);
            assert_eq!(serial.len(), 16);
            assert!(serial[0] & 0x80 == 0, "positive");
            assert!(serials.insert(serial), "used twice");
        }
    }

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
    }

    fn private(pem: &str) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("a key")
    }

    fn roots(ca: &Pair) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(der(&ca.certificate)).expect("an authority");
        Arc::new(roots)
    }

    /// Does a mutual TLS handshake in memory, as chapter 09 does over the network.
    fn handshake(server: (&Pair, &Pair), client: (&Pair, &Pair), name: &str) -> Result<(), rustls::Error> {
        crate::world::install_crypto();
        let (server_ca, server) = server;
        let (client_ca, client) = client;
        let verifier = WebPkiClientVerifier::builder(roots(server_ca))
            .build()
            .expect("a verifier");
        let server = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![der(&server.certificate)], private(&server.key))?;
        let client = ClientConfig::builder()
            .with_root_certificates(roots(client_ca))
            .with_client_auth_cert(vec![der(&client.certificate)], private(&client.key))?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut client = ClientConnection::new(Arc::new(client), name)?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).expect("memory");
            server.read_tls(&mut wire.as_slice()).expect("memory");
            server.process_new_packets()?;
            let mut wire = Vec::new();
            server.write_tls(&mut wire).expect("memory");
            client.read_tls(&mut wire.as_slice()).expect("memory");
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn a_tls_library_accepts_them_for_their_names_and_no_others() {
        let ca = make_authority(now());
        let [server, learner] = [0, 1].map(|at| make(&leaves()[at], Some(&ca), now()).expect("a certificate"));
        for name in SERVER_NAMES {
            handshake((&ca, &server), (&ca, &learner), name).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        for name in ["example.org", "127.0.0.2", "x.job-dashboard"] {
            handshake((&ca, &server), (&ca, &learner), name).expect_err(name);
        }
        let foreign = make_authority(now());
        let stranger = make(&leaves()[1], Some(&foreign), now()).expect("a certificate");
        handshake((&ca, &server), (&ca, &stranger), "localhost").expect_err("a client of another authority");
        handshake((&ca, &server), (&foreign, &learner), "localhost").expect_err("a server of another authority");
        handshake((&ca, &server), (&ca, &server), "localhost").expect_err("a server's certificate on a client");
        handshake((&ca, &learner), (&ca, &learner), "localhost").expect_err("a client's certificate on a server");
    }
}
