//! Who signed a token, and whether that certificate may: its signature, its usage, its chain at a stated time.

use std::{fs, path::Path, time::Duration};

use cms::signed_data::SignerInfo;
use der::{Decode as _, Encode as _, asn1::ObjectIdentifier};
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, SignatureVerificationAlgorithm, UnixTime,
    pem::PemObject as _,
};
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert, ring,
};
use x509_cert::{Certificate, ext::pkix::ExtendedKeyUsage};

use super::fault::{StampClass, StampFault};

/// Who may sign timestamps, as whoever checks them says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    lists: Vec<CertificateRevocationListDer<'static>>,
}

impl Authorities {
    /// Reads them from files: certificates, and lists of what was revoked.
    ///
    /// # Errors
    /// In words, with the file that cannot be read or used.
    pub fn load(certificates: &Path, lists: Option<&Path>) -> Result<Self, String> {
        let read =
            |path: &Path| fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
        let named = |path: &Path, error: String| format!("{}: {error}", path.display());
        let trusted = Self::read(&read(certificates)?).map_err(|error| named(certificates, error))?;
        match lists {
            Some(path) => trusted.with_lists(&read(path)?).map_err(|error| named(path, error)),
            None => Ok(trusted),
        }
    }

    /// Reads certificates of authorities in PEM.
    ///
    /// # Errors
    /// In words, where there is none or one that cannot be used.
    pub fn read(certificates: &[u8]) -> Result<Self, String> {
        let read = CertificateDer::pem_slice_iter(certificates).collect::<Result<Vec<_>, _>>();
        let certificates = read.map_err(|error| format!("not certificates in PEM: {error}"))?;
        if certificates.is_empty() {
            return Err("it holds no certificate".to_owned());
        }
        for certificate in &certificates {
            anchor_from_trusted_cert(certificate)
                .map_err(|error| format!("a certificate that cannot be used: {error}"))?;
        }
        Ok(Self { certificates, lists: Vec::new() })
    }

    /// With lists of what they revoked, in PEM or one in DER: each certificate of a chain is held to them from now on.
    ///
    /// # Errors
    /// In words, where there is none or one that cannot be used.
    pub fn with_lists(self, lists: &[u8]) -> Result<Self, String> {
        let read = CertificateRevocationListDer::pem_slice_iter(lists).collect::<Result<Vec<_>, _>>();
        let mut read = read.map_err(|error| format!("not revocation lists in PEM: {error}"))?;
        if read.is_empty() {
            read.push(CertificateRevocationListDer::from(lists.to_vec()));
        }
        for list in &read {
            BorrowedCertRevocationList::from_der(list)
                .map_err(|error| format!("not a revocation list that can be used: {error}"))?;
        }
        Ok(Self { lists: read, ..self })
    }
}

/// The certificate that signed, and those that came with it.
pub(super) struct Chain<'a> {
    pub(super) certificate: &'a Certificate,
    pub(super) others: &'a [Certificate],
}

impl Chain<'_> {
    /// Whether the certificate's key made the signature over these bytes.
    pub(super) fn check_signature(&self, bytes: &[u8], signer: &SignerInfo) -> Result<(), StampFault> {
        let der = encode(self.certificate)?;
        let certificate = end_entity(&der)?;
        let algorithms = algorithms(signer.signature_algorithm.oid, signer.digest_alg.oid);
        if algorithms.is_empty() {
            let (signature, digest) = (signer.signature_algorithm.oid, signer.digest_alg.oid);
            return Err(StampClass::Unsupported
                .because(format!("signature algorithm {signature} with digest {digest}")));
        }
        let signature = signer.signature.as_bytes();
        let mut verified =
            algorithms.iter().map(|algorithm| certificate.verify_signature(*algorithm, bytes, signature));
        if verified.any(|verified| verified.is_ok()) {
            return Ok(());
        }
        Err(StampClass::BadSignature.because("its signature does not verify"))
    }

    /// Whether the certificate is one for timestamps alone, and says so critically (RFC 3161 §2.3).
    pub(super) fn check_usage(&self) -> Result<(), StampFault> {
        let extensions = self.certificate.tbs_certificate.extensions.iter().flatten();
        let mut usages = extensions.filter(|extension| extension.extn_id == EXT_KEY_USAGE);
        let wrong = |detail: &str| Err(StampClass::WrongUsage.because(detail));
        match (usages.next(), usages.next()) {
            (Some(usage), None) if !usage.critical => wrong("its extended key usage is not critical"),
            (Some(usage), None) => match ExtendedKeyUsage::from_der(usage.extn_value.as_bytes()) {
                Ok(purposes) if purposes.0 == [TIME_STAMPING] => Ok(()),
                Ok(_) => wrong("its certificate is not for timestamps alone"),
                Err(error) => wrong(&error.to_string()),
            },
            _ => wrong("its certificate does not say what it is for"),
        }
    }

    /// Whether the chain led to one of the authorities at that time.
    pub(super) fn check_path(&self, authorities: &Authorities, time: i64) -> Result<(), StampFault> {
        let der = encode(self.certificate)?;
        let certificate = end_entity(&der)?;
        let anchors = authorities.certificates.iter().filter_map(|one| anchor_from_trusted_cert(one).ok());
        let anchors: Vec<_> = anchors.collect();
        let others = self.others.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        let seconds = u64::try_from(time).map_err(|_| StampClass::Skewed.because("it is before 1970"))?;
        let lists =
            authorities.lists.iter().filter_map(|list| BorrowedCertRevocationList::from_der(list).ok());
        let lists: Vec<CertRevocationList<'_>> = lists.map(CertRevocationList::from).collect();
        let lists: Vec<_> = lists.iter().collect();
        // Whoever gives lists wants to know: lists that say nothing about a certificate of the chain, or that had expired
        // at the time it states, are no answer.
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let verified = certificate.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &others,
            UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
            KeyUsage::required_if_present(TIME_STAMPING.as_bytes()),
            revocation,
            None,
        );
        verified.map(|_| ()).map_err(|error| path_fault(&error))
    }
}

fn path_fault(error: &webpki::Error) -> StampFault {
    use webpki::Error;
    let class = match error {
        Error::CertExpired { .. } | Error::CertNotValidYet { .. } => StampClass::Expired,
        Error::CertRevoked | Error::UnknownRevocationStatus | Error::CrlExpired { .. } => StampClass::Revoked,
        Error::RequiredEkuNotFoundContext(_) => StampClass::WrongUsage,
        _ => StampClass::UnknownAuthority,
    };
    class.because(match error {
        Error::CertExpired { .. } => {
            "a certificate of its chain had expired at the time it states".to_owned()
        }
        Error::CertNotValidYet { .. } => {
            "a certificate of its chain was not valid yet at the time it states".to_owned()
        }
        Error::CertRevoked => "a certificate of its chain was revoked".to_owned(),
        Error::UnknownRevocationStatus => {
            "the revocation lists given do not cover each certificate of its chain".to_owned()
        }
        Error::CrlExpired { .. } => {
            "a revocation list given was to be replaced before the time it states: take a later one"
                .to_owned()
        }
        other => format!("its chain does not lead to an authority that was given: {other}"),
    })
}

fn encode(certificate: &Certificate) -> Result<CertificateDer<'static>, StampFault> {
    certificate.to_der().map(CertificateDer::from).map_err(|error| StampClass::Malformed.because(error))
}

fn end_entity<'a>(der: &'a CertificateDer<'a>) -> Result<EndEntityCert<'a>, StampFault> {
    EndEntityCert::try_from(der)
        .map_err(|error| StampClass::Malformed.because(format!("its certificate cannot be read: {error}")))
}

/// What may have made a signature of this algorithm over this digest: one per curve.
fn algorithms(
    signature: ObjectIdentifier,
    digest: ObjectIdentifier,
) -> Vec<&'static dyn SignatureVerificationAlgorithm> {
    let (signature, digest) = (signature.to_string(), digest.to_string());
    match (signature.as_str(), digest.as_str()) {
        (RSA, "2.16.840.1.101.3.4.2.1") | ("1.2.840.113549.1.1.11", _) => {
            vec![ring::RSA_PKCS1_2048_8192_SHA256]
        }
        (RSA, "2.16.840.1.101.3.4.2.2") | ("1.2.840.113549.1.1.12", _) => {
            vec![ring::RSA_PKCS1_2048_8192_SHA384]
        }
        (RSA, "2.16.840.1.101.3.4.2.3") | ("1.2.840.113549.1.1.13", _) => {
            vec![ring::RSA_PKCS1_2048_8192_SHA512]
        }
        ("1.2.840.10045.4.3.2", _) => vec![ring::ECDSA_P256_SHA256, ring::ECDSA_P384_SHA256],
        ("1.2.840.10045.4.3.3", _) => vec![ring::ECDSA_P256_SHA384, ring::ECDSA_P384_SHA384],
        ("1.3.101.112", _) => vec![ring::ED25519],
        _ => vec![],
    }
}

/// rsaEncryption: the digest says with what.
const RSA: &str = "1.2.840.113549.1.1.1";
/// id-ce-extKeyUsage.
const EXT_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
/// id-kp-timeStamping.
const TIME_STAMPING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.8");
