//! The cluster's certificate authority and what it signs.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// A certificate authority that lives as long as the cluster.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its private key, both in PEM (RFC 7468).
#[derive(Debug, Clone)]
pub struct KeyedCertificate {
    /// The certificate alone, without its issuer's.
    pub certificate: String,
    /// The key in PKCS #8 (RFC 5958).
    pub key: String,
}

impl Authority {
    /// Makes a new one.
    pub fn new() -> Result<Self> {
        let mut parameters = named("whichpod test authority", None)?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?;
        Ok(Self { issuer })
    }

    /// The authority's own certificate, in PEM.
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A server's certificate for these DNS names and IP addresses.
    pub fn server(&self, names: &[&str]) -> Result<KeyedCertificate> {
        let first = names.first().context("a server's certificate needs a name")?;
        let mut parameters = named(first, None)?;
        parameters.subject_alt_names =
            CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())?
                .subject_alt_names;
        self.sign(parameters, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's certificate; Kubernetes takes the user from `name` and the group from `group`.
    pub(crate) fn client(&self, name: &str, group: &str) -> Result<KeyedCertificate> {
        self.sign(named(name, Some(group))?, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(
        &self,
        mut parameters: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<KeyedCertificate> {
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![usage];
        parameters.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        Ok(KeyedCertificate { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// A key pair in PEM: the private key, then the public one.
pub(crate) fn key_pair() -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

fn named(name: &str, group: Option<&str>) -> Result<CertificateParams> {
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        parameters.distinguished_name.push(DnType::OrganizationName, group);
    }
    Ok(parameters)
}
