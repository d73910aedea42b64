//! What the Secret of self-managed certificates holds, and how it is made.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::trust;

/// The keys of the Secret; the first and the last two are those of `kubernetes.io/tls` Secrets.
const AUTHORITIES: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const LEAF: &str = "tls.crt";
const LEAF_KEY: &str = "tls.key";

/// Certificates are valid from this long ago, so that clocks may differ; a tenth of their time at most, since it counts
/// for when they are renewed.
const BACKDATED: SignedDuration = SignedDuration::from_hours(1);

/// The certificate authorities, the newest first, the key of the newest, and the certificate to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Material {
    /// Never empty; all are to be trusted, the first one signs.
    authorities: Vec<Certificate>,
    authority_key: Key,
    leaf: Option<Leaf>,
}

/// A certificate and when it is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate (X.509, DER).
    pub der: CertificateDer<'static>,
    /// The first second of its validity.
    pub not_before: Timestamp,
    /// The last second of its validity.
    pub not_after: Timestamp,
}

/// A server's certificate with its chain and key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The server's own certificate first; never empty.
    pub chain: Vec<Certificate>,
    /// Its private key.
    pub key: Key,
}

/// A private key as PEM, which no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(pub String);

/// How long certificates are valid; they are renewed when a third of it is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of a certificate authority; at least three times that of a certificate, so that none outlives its authority.
    pub authority: SignedDuration,
    /// Of the certificate that is served.
    pub leaf: SignedDuration,
}

/// Why certificates cannot be used; the text holds nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// A key of the Secret is missing or empty.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Something that should be PEM is not, or holds something else.
    #[error("{what} cannot be read: {reason}")]
    Unreadable {
        /// The key of the Secret or the file.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A private key belongs to another certificate.
    #[error("{key} does not belong to {certificate}")]
    Mismatch {
        /// The key's name in the Secret, or its file.
        key: String,
        /// The certificate's.
        certificate: String,
    },
}

impl Material {
    /// Reads the Secret's data. A leaf that cannot be used is none: it can be made again.
    ///
    /// # Errors
    /// When there is no usable authority in it.
    pub fn parse(data: &BTreeMap<String, ByteString>) -> Result<Self, Unusable> {
        let field = |name: &'static str| {
            data.get(name)
                .map(|value| value.0.as_slice())
                .filter(|value| !value.is_empty())
                .ok_or(Unusable::Missing(name))
        };
        let authorities = certificates(AUTHORITIES, field(AUTHORITIES)?)?;
        let authority_key = key_of(AUTHORITY_KEY, field(AUTHORITY_KEY)?, AUTHORITIES, &authorities)?;
        let leaf = (|| {
            let chain = certificates(LEAF, field(LEAF)?)?;
            let key = key_of(LEAF_KEY, field(LEAF_KEY)?, LEAF, &chain)?;
            Ok::<_, Unusable>(Leaf { chain, key })
        })();
        Ok(Self { authorities, authority_key, leaf: leaf.ok() })
    }

    /// The Secret's data.
    pub fn data(&self) -> BTreeMap<String, ByteString> {
        let mut data = BTreeMap::from([
            (AUTHORITIES, encode(&self.authorities)),
            (AUTHORITY_KEY, self.authority_key.0.clone()),
        ]);
        if let Some(leaf) = &self.leaf {
            data.extend([(LEAF, encode(&leaf.chain)), (LEAF_KEY, leaf.key.0.clone())]);
        }
        data.into_iter().map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes()))).collect()
    }

    /// A new authority and a new leaf.
    ///
    /// # Errors
    /// Only if a certificate cannot be made at all, for names that are none; so with all of these.
    pub fn fresh(names: &[String], now: Timestamp, lifetimes: Lifetimes) -> Result<Self, rcgen::Error> {
        let (authority, authority_key) = new_authority(now, lifetimes)?;
        Self { authorities: vec![authority], authority_key, leaf: None }.with_new_leaf(names, now, lifetimes)
    }

    /// A new authority in front of those that are still valid; the leaf stays, so that nobody meets one that is not
    /// trusted yet.
    ///
    /// # Errors
    /// See [`Self::fresh`].
    pub fn with_new_authority(&self, now: Timestamp, lifetimes: Lifetimes) -> Result<Self, rcgen::Error> {
        let (authority, authority_key) = new_authority(now, lifetimes)?;
        let older = self.authorities.iter().filter(|older| older.not_after > now).cloned();
        let authorities = std::iter::once(authority).chain(older).collect();
        Ok(Self { authorities, authority_key, leaf: self.leaf.clone() })
    }

    /// A new leaf, signed by the newest authority.
    ///
    /// # Errors
    /// See [`Self::fresh`].
    pub fn with_new_leaf(
        &self,
        names: &[String],
        now: Timestamp,
        lifetimes: Lifetimes,
    ) -> Result<Self, rcgen::Error> {
        let authority = self.authority();
        let issuer = Issuer::from_ca_cert_der(&authority.der, KeyPair::from_pem(&self.authority_key.0)?)?;
        let mut parameters = CertificateParams::new(names)?;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.use_authority_key_identifier_extension = true;
        let end = now.saturating_add(lifetimes.leaf).unwrap_or(Timestamp::MAX).min(authority.not_after);
        name_and_date(&mut parameters, "whichpod-webhook", now, end);
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &issuer)?;
        let chain = vec![certificate_of(certificate.der().clone())?];
        let leaf = Some(Leaf { chain, key: Key(key.serialize_pem()) });
        Ok(Self { leaf, ..self.clone() })
    }

    /// The same without the authorities whose time is over.
    #[must_use]
    pub fn without_expired(&self, now: Timestamp) -> Self {
        let (newest, older) = self.authorities.split_at(1);
        let older = older.iter().filter(|older| older.not_after > now);
        Self { authorities: newest.iter().chain(older).cloned().collect(), ..self.clone() }
    }

    /// The authority that signs.
    pub fn authority(&self) -> &Certificate {
        &self.authorities[0]
    }

    /// All authorities to be trusted, the newest first.
    pub fn authorities(&self) -> &[Certificate] {
        &self.authorities
    }

    /// The certificate to serve, if there is one.
    pub fn leaf(&self) -> Option<&Leaf> {
        self.leaf.as_ref()
    }

    /// The authorities as a `caBundle` (PEM).
    pub fn bundle(&self) -> String {
        encode(&self.authorities)
    }

    /// Whether a `caBundle` holds exactly the authorities.
    pub fn is_bundle(&self, bundle: &[u8]) -> bool {
        trust::authorities(bundle)
            .is_ok_and(|trusted| trusted.iter().eq(self.authorities.iter().map(|authority| &authority.der)))
    }

    /// Whether the leaf is valid now for all these names, judged by the newest authority (`true`) or only by an older
    /// one (`false`); `None` if by none.
    pub fn leaf_is_current(&self, names: &[String], now: Timestamp) -> Option<bool> {
        let leaf = self.leaf.as_ref()?;
        let by = |authorities: &[Certificate]| {
            let trusted: Vec<_> = authorities.iter().map(|authority| authority.der.clone()).collect();
            !trusted.is_empty()
                && names.iter().all(|name| trust::verify(&leaf.chain, &trusted, name, now).is_ok())
        };
        let (newest, older) = self.authorities.split_at(1);
        if by(newest) {
            return Some(true);
        }
        by(older).then_some(false)
    }
}

impl Leaf {
    /// Reads a certificate chain and its key from PEM; the names are those of the files, for the error.
    ///
    /// # Errors
    /// When one of them cannot be read or they don't belong together.
    pub fn parse(chain: (&str, &[u8]), key: (&str, &[u8])) -> Result<Self, Unusable> {
        let certificates = certificates(chain.0, chain.1)?;
        let text = std::str::from_utf8(key.1).map_err(|error| unreadable(key.0, &error))?;
        Ok(Self { chain: certificates, key: Key(text.to_owned()) })
    }

    /// The end of its validity.
    pub fn not_after(&self) -> Timestamp {
        self.chain.iter().map(|certificate| certificate.not_after).min().unwrap_or(Timestamp::MIN)
    }
}

impl Certificate {
    /// When it is to be renewed: a third of its validity is left then.
    pub fn renew_at(&self) -> Timestamp {
        let left = self.not_after.duration_since(self.not_before) / 3;
        self.not_after.saturating_sub(left).unwrap_or(self.not_after)
    }

    /// Whether it is valid at this time.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

fn new_authority(now: Timestamp, lifetimes: Lifetimes) -> Result<(Certificate, Key), rcgen::Error> {
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let end = now.saturating_add(lifetimes.authority).unwrap_or(Timestamp::MAX);
    // Each has a name of its own, so that whoever looks at a bundle can tell them apart.
    name_and_date(&mut parameters, &format!("whichpod-webhook-ca {now}"), now, end);
    let key = KeyPair::generate()?;
    let certificate = parameters.self_signed(&key)?;
    Ok((certificate_of(certificate.der().clone())?, Key(key.serialize_pem())))
}

fn name_and_date(parameters: &mut CertificateParams, name: &str, now: Timestamp, end: Timestamp) {
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    let backdated = BACKDATED.min(end.duration_since(now) / 10);
    parameters.not_before = SystemTime::from(now.saturating_sub(backdated).unwrap_or(now)).into();
    parameters.not_after = SystemTime::from(end).into();
}

fn certificate_of(der: CertificateDer<'static>) -> Result<Certificate, rcgen::Error> {
    read(der).map_err(|_| rcgen::Error::CouldNotParseCertificate)
}

fn read(der: CertificateDer<'static>) -> Result<Certificate, String> {
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
    let time = |time: x509_parser::time::ASN1Time| {
        Timestamp::from_second(time.timestamp()).map_err(|error| error.to_string())
    };
    let (not_before, not_after) = (time(parsed.validity().not_before)?, time(parsed.validity().not_after)?);
    Ok(Certificate { der, not_before, not_after })
}

/// All certificates in a PEM text; at least one.
fn certificates(what: &str, text: &[u8]) -> Result<Vec<Certificate>, Unusable> {
    let mut certificates = Vec::new();
    for der in CertificateDer::pem_slice_iter(text) {
        let der = der.map_err(|error| unreadable(what, &error))?;
        certificates.push(read(der).map_err(|reason| unreadable(what, &reason))?);
    }
    if certificates.is_empty() {
        return Err(unreadable(what, &"it holds no certificate in PEM (BEGIN CERTIFICATE)"));
    }
    Ok(certificates)
}

/// The key in a PEM text, which must be that of the first certificate.
fn key_of(what: &str, text: &[u8], certificate: &str, chain: &[Certificate]) -> Result<Key, Unusable> {
    let text = std::str::from_utf8(text).map_err(|error| unreadable(what, &error))?;
    let key = KeyPair::from_pem(text).map_err(|error| unreadable(what, &error))?;
    let belongs = chain.first().is_some_and(|first| {
        X509Certificate::from_der(&first.der)
            .is_ok_and(|(_, parsed)| parsed.public_key().raw == key.subject_public_key_info())
    });
    if belongs {
        return Ok(Key(text.to_owned()));
    }
    Err(Unusable::Mismatch { key: what.to_owned(), certificate: certificate.to_owned() })
}

fn unreadable(what: &str, reason: &dyn fmt::Display) -> Unusable {
    Unusable::Unreadable { what: what.to_owned(), reason: reason.to_string() }
}

fn encode(certificates: &[Certificate]) -> String {
    let pems: Vec<_> = certificates
        .iter()
        .map(|certificate| pem::Pem::new("CERTIFICATE", certificate.der.as_ref()))
        .collect();
    pem::encode_many_config(&pems, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
}

#[cfg(test)]
mod tests;
