//! What a timestamp token says, and whether it may be believed.
//!
//! The content is read with types of our own: the crate for RFC 3161 refuses times with fractions of a second, which some
//! authorities write.

use cms::{
    cert::CertificateChoices,
    content_info::ContentInfo,
    signed_data::{SignedData, SignerIdentifier, SignerInfo},
};
use der::{
    Any, Decode as _, Encode as _, Sequence,
    asn1::{Int, ObjectIdentifier, OctetString},
};
use jiff::{civil::DateTime, tz::TimeZone};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use x509_cert::{Certificate, attr::Attribute, spki::AlgorithmIdentifierOwned};

use super::{
    chain::{Authorities, Chain},
    fault::{StampClass, StampFault},
};
use crate::audit::hex::hex;

/// What whoever checks a token brings along.
#[derive(Debug, Clone, Copy)]
pub struct StampExpected<'a> {
    /// Who may have signed.
    pub authorities: &'a Authorities,
    /// The policy it must have been given under, as a dotted number.
    pub policy: Option<&'a str>,
    /// The nonce of the question, where it is at hand.
    pub nonce: Option<&'a [u8]>,
    /// The time it states must not be before this, in seconds since 1970.
    pub after: Option<i64>,
    /// Nor behind this.
    pub before: Option<i64>,
}

/// What a token established.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// When the bytes were there, by the authority's clock: seconds since 1970, rounded down.
    pub time: i64,
    /// The policy it was given under.
    pub policy: String,
    /// The token's number at its authority.
    pub serial: String,
    /// The name of the certificate that signed.
    pub signer: String,
}

impl Stamp {
    /// The time in RFC 3339.
    #[must_use]
    pub fn time_text(&self) -> String {
        jiff::Timestamp::from_second(self.time)
            .map_or_else(|_| self.time.to_string(), |time| time.to_string())
    }
}

/// RFC 3161 §2.4.1.
#[derive(Debug, Clone, PartialEq, Eq, Sequence)]
pub(super) struct MessageImprint {
    pub(super) hash_algorithm: AlgorithmIdentifierOwned,
    pub(super) hashed_message: OctetString,
}

/// RFC 3161 §2.4.2.
#[derive(Debug, Clone, PartialEq, Eq, Sequence)]
struct TstInfo {
    version: u8,
    policy: ObjectIdentifier,
    message_imprint: MessageImprint,
    serial_number: Int,
    gen_time: GenTime,
    #[asn1(optional = "true")]
    accuracy: Option<Accuracy>,
    #[asn1(default = "Default::default")]
    ordering: bool,
    #[asn1(optional = "true")]
    nonce: Option<Int>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    tsa: Option<Any>,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", constructed = "true", optional = "true")]
    extensions: Option<Accuracy>,
}

/// Fields that are passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Accuracy;

/// A GeneralizedTime, which here may have fractions of a second.
#[derive(Debug, Clone, PartialEq, Eq)]
struct GenTime(String);

/// RFC 5035 §3.
#[derive(Debug, Clone, PartialEq, Eq, Sequence)]
struct SigningCertificateV2 {
    certs: Vec<EssCertIdV2>,
    #[asn1(optional = "true")]
    policies: Option<Accuracy>,
}

/// RFC 5035 §4.
#[derive(Debug, Clone, PartialEq, Eq, Sequence)]
struct EssCertIdV2 {
    #[asn1(optional = "true")]
    hash_algorithm: Option<AlgorithmIdentifierOwned>,
    cert_hash: OctetString,
    #[asn1(optional = "true")]
    issuer_serial: Option<Accuracy>,
}

mod fields {
    //! How the two types above are read and written.

    use der::{
        DecodeValue, EncodeValue, ErrorKind, FixedTag, Header, Length, Reader, Tag, Writer,
        asn1::ObjectIdentifier,
    };

    use super::{Accuracy, GenTime};

    impl FixedTag for Accuracy {
        const TAG: Tag = Tag::Sequence;
    }

    impl<'a> DecodeValue<'a> for Accuracy {
        fn decode_value<R: Reader<'a>>(reader: &mut R, header: Header) -> der::Result<Self> {
            reader.read_slice(header.length)?;
            Ok(Self)
        }
    }

    impl EncodeValue for Accuracy {
        fn value_len(&self) -> der::Result<Length> {
            Ok(Length::ZERO)
        }

        fn encode_value(&self, _: &mut impl Writer) -> der::Result<()> {
            Ok(())
        }
    }

    impl FixedTag for GenTime {
        const TAG: Tag = Tag::GeneralizedTime;
    }

    impl<'a> DecodeValue<'a> for GenTime {
        fn decode_value<R: Reader<'a>>(reader: &mut R, header: Header) -> der::Result<Self> {
            let bytes = reader.read_slice(header.length)?;
            let text = std::str::from_utf8(bytes).map_err(|_| ErrorKind::DateTime)?;
            Ok(Self(text.to_owned()))
        }
    }

    impl EncodeValue for GenTime {
        fn value_len(&self) -> der::Result<Length> {
            self.0.len().try_into()
        }

        fn encode_value(&self, writer: &mut impl Writer) -> der::Result<()> {
            writer.write(self.0.as_bytes())
        }
    }

    /// id-ct-TSTInfo.
    pub(super) const TST_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");
    /// id-signedData.
    pub(super) const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
    /// id-contentType.
    pub(super) const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
    /// id-messageDigest.
    pub(super) const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
    /// id-aa-signingCertificateV2.
    pub(super) const SIGNING_CERTIFICATE_V2: ObjectIdentifier =
        ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.47");
    /// id-sha256.
    pub(in crate::audit::timestamp) const SHA_256: ObjectIdentifier =
        ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
    /// id-sha384.
    pub(super) const SHA_384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
    /// id-sha512.
    pub(super) const SHA_512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");
}

pub(super) use fields::SHA_256;
use fields::{CONTENT_TYPE, MESSAGE_DIGEST, SHA_384, SHA_512, SIGNED_DATA, SIGNING_CERTIFICATE_V2, TST_INFO};

/// Checks a token about `message`: imprint, nonce, policy, signature, the certificate that signed, its chain at the time
/// that the token states.
///
/// # Errors
/// [`StampFault`], the first reason why it proves nothing.
pub fn verify_stamp(token: &[u8], message: &[u8], expected: &StampExpected<'_>) -> Result<Stamp, StampFault> {
    let malformed = |what: &'static str| {
        move |error: der::Error| StampClass::Malformed.because(format!("{what}: {error}"))
    };
    if token.len() > super::TOKEN_BYTES_MAX {
        return Err(StampClass::Malformed.because(format!("longer than {} bytes", super::TOKEN_BYTES_MAX)));
    }
    let outer = ContentInfo::from_der(token).map_err(malformed("not a token"))?;
    if outer.content_type != SIGNED_DATA {
        return Err(StampClass::Malformed.because("not signed data"));
    }
    let signed: SignedData = outer.content.decode_as().map_err(malformed("signed data"))?;
    let content = &signed.encap_content_info;
    if content.econtent_type != TST_INFO {
        return Err(StampClass::Malformed.because("signed, but no timestamp"));
    }
    let content =
        content.econtent.as_ref().ok_or_else(|| StampClass::Malformed.because("it has no content"))?;
    let content: OctetString = content.decode_as().map_err(malformed("content"))?;
    let info = TstInfo::from_der(content.as_bytes()).map_err(malformed("content"))?;
    check_info(&info, message, expected)?;
    let time = seconds(&info.gen_time.0)?;
    let [signer] = signed.signer_infos.0.as_slice() else {
        return Err(StampClass::Malformed.because("it must have one signature"));
    };
    let certificates = certificates(&signed);
    let attributes = signer
        .signed_attrs
        .as_ref()
        .ok_or_else(|| StampClass::Malformed.because("it signs no attributes"))?;
    let attributes: Vec<&Attribute> = attributes.iter().collect();
    check_content(&attributes, signer, content.as_bytes())?;
    let certificate = signing_certificate(&attributes, signer, &certificates)?;
    let chain = Chain { certificate, others: &certificates };
    let signed_bytes = signer.signed_attrs.to_der().map_err(malformed("attributes"))?;
    chain.check_signature(&signed_bytes, signer)?;
    chain.check_usage()?;
    chain.check_path(expected.authorities, time)?;
    check_time(time, expected)?;
    Ok(Stamp {
        time,
        policy: info.policy.to_string(),
        serial: hex(info.serial_number.as_bytes()),
        signer: certificate.tbs_certificate.subject.to_string(),
    })
}

/// What the content says, before anything about who signed it.
fn check_info(info: &TstInfo, message: &[u8], expected: &StampExpected<'_>) -> Result<(), StampFault> {
    if info.version != 1 {
        return Err(StampClass::Malformed.because(format!("version {}", info.version)));
    }
    let imprint = &info.message_imprint;
    if imprint.hash_algorithm.oid != SHA_256 {
        let detail = format!("its imprint is made with {}, not with SHA-256", imprint.hash_algorithm.oid);
        return Err(StampClass::Unsupported.because(detail));
    }
    if imprint.hashed_message.as_bytes() != &Sha256::digest(message)[..] {
        return Err(StampClass::WrongImprint.because("it is about other bytes than these"));
    }
    if let Some(nonce) = expected.nonce
        && info.nonce.as_ref().map(Int::as_bytes) != Some(nonce)
    {
        return Err(StampClass::WrongNonce.because("its nonce is not the one that was asked with"));
    }
    let policy = info.policy.to_string();
    match expected.policy {
        Some(wanted) if wanted != policy => {
            Err(StampClass::WrongPolicy.because(format!("policy {policy}, not {wanted}")))
        }
        _ => Ok(()),
    }
}

fn check_time(time: i64, expected: &StampExpected<'_>) -> Result<(), StampFault> {
    let skewed = |side: &str, limit: i64| {
        Err(StampClass::Skewed.because(format!("it states {time} s since 1970, {side} {limit}")))
    };
    match (expected.after, expected.before) {
        (Some(after), _) if time < after => skewed("before", after),
        (_, Some(before)) if time > before => skewed("behind", before),
        _ => Ok(()),
    }
}

/// Whether the signed attributes are about this content.
fn check_content(attributes: &[&Attribute], signer: &SignerInfo, content: &[u8]) -> Result<(), StampFault> {
    let kind = value(attributes, CONTENT_TYPE)?.decode_as::<ObjectIdentifier>();
    if kind != Ok(TST_INFO) {
        return Err(StampClass::BadSignature.because("it signs content of another kind"));
    }
    let digest = value(attributes, MESSAGE_DIGEST)?.decode_as::<OctetString>();
    let computed = digest_of(&signer.digest_alg, content)?;
    if digest.map_or(true, |digest| digest.as_bytes() != computed) {
        return Err(StampClass::BadSignature.because("it signs other content"));
    }
    Ok(())
}

/// The one value of an attribute that must be there once.
fn value<'a>(attributes: &[&'a Attribute], oid: ObjectIdentifier) -> Result<&'a Any, StampFault> {
    let mut found = attributes.iter().filter(|attribute| attribute.oid == oid);
    match (found.next().map(|attribute| attribute.values.as_slice()), found.next()) {
        (Some([value]), None) => Ok(value),
        (Some(_), _) => Err(StampClass::Malformed.because(format!("attribute {oid} must be there once"))),
        (None, _) if oid == SIGNING_CERTIFICATE_V2 => {
            Err(StampClass::Unsupported
                .because("it does not name its certificate with SHA-256 (ESSCertIDv2)"))
        }
        (None, _) => Err(StampClass::Malformed.because(format!("attribute {oid} is missing"))),
    }
}

fn certificates(signed: &SignedData) -> Vec<Certificate> {
    let choices = signed.certificates.iter().flat_map(|set| set.0.iter());
    choices
        .filter_map(|choice| match choice {
            CertificateChoices::Certificate(certificate) => Some(certificate.clone()),
            CertificateChoices::Other(_) => None,
        })
        .collect()
}

/// The certificate that the signed attributes name, which must be the one that the signature names too.
fn signing_certificate<'a>(
    attributes: &[&Attribute],
    signer: &SignerInfo,
    certificates: &'a [Certificate],
) -> Result<&'a Certificate, StampFault> {
    let named = value(attributes, SIGNING_CERTIFICATE_V2)?
        .decode_as::<SigningCertificateV2>()
        .map_err(|error| StampClass::Malformed.because(format!("signing certificate: {error}")))?;
    let first =
        named.certs.first().ok_or_else(|| StampClass::Malformed.because("it names no certificate"))?;
    let sha_256 = AlgorithmIdentifierOwned { oid: SHA_256, parameters: None };
    let algorithm = first.hash_algorithm.as_ref().unwrap_or(&sha_256);
    for certificate in certificates {
        let bytes = certificate.to_der().map_err(|error| StampClass::Malformed.because(error))?;
        if digest_of(algorithm, &bytes)? != first.cert_hash.as_bytes() {
            continue;
        }
        let SignerIdentifier::IssuerAndSerialNumber(named) = &signer.sid else {
            return Err(StampClass::Unsupported.because("the signature names its certificate by a key id"));
        };
        let found = &certificate.tbs_certificate;
        return if (&named.issuer, &named.serial_number) == (&found.issuer, &found.serial_number) {
            Ok(certificate)
        } else {
            Err(StampClass::WrongSigner
                .because("signature and signed attributes name different certificates"))
        };
    }
    Err(StampClass::WrongSigner.because("the certificate that it names is not in it"))
}

fn digest_of(algorithm: &AlgorithmIdentifierOwned, bytes: &[u8]) -> Result<Vec<u8>, StampFault> {
    match algorithm.oid {
        SHA_256 => Ok(Sha256::digest(bytes).to_vec()),
        SHA_384 => Ok(Sha384::digest(bytes).to_vec()),
        SHA_512 => Ok(Sha512::digest(bytes).to_vec()),
        other => Err(StampClass::Unsupported.because(format!("digest algorithm {other}"))),
    }
}

/// Seconds since 1970 of a time in UTC, with or without fractions of a second.
fn seconds(text: &str) -> Result<i64, StampFault> {
    let read = || {
        let (whole, fraction) = text.strip_suffix('Z')?.split_at_checked(14)?;
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let fine =
            fraction.strip_prefix('.').map_or(fraction.is_empty(), |rest| !rest.is_empty() && digits(rest));
        let time = DateTime::strptime("%Y%m%d%H%M%S", whole).ok().filter(|_| fine && digits(whole))?;
        Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
    };
    read().ok_or_else(|| StampClass::Malformed.because(format!("{text:?} is no time")))
}
