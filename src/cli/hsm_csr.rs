//! `edgate hsm csr`: the request for a certificate, signed by the key in the token that the certificate will be for.

use std::net::IpAddr;

use clap::Args;
use edgate_hsm::{Admin, Algorithm, HsmError, Pkcs11Uri, PublicKey, Purpose};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData,
    SanType, SignatureAlgorithm, SigningKey,
};
use serde_json::json;

use super::hsm::{Failure, TokenArguments};
use super::{EXIT_YES, print_line};
use crate::tls::ecdsa_signature;

#[derive(Debug, Args)]
pub(super) struct CsrArguments {
    #[command(flatten)]
    token: TokenArguments,
    /// A DNS name that clients call this node by; may be given several times.
    #[arg(long = "dns", value_name = "NAME")]
    names: Vec<String>,
    /// An IP address that clients call this node by; may be given several times.
    #[arg(long = "ip", value_name = "ADDRESS")]
    addresses: Vec<IpAddr>,
    /// The subject's common name, where an authority wants one; clients look at the names above.
    #[arg(long, value_name = "NAME")]
    common_name: Option<String>,
}

/// The key, as far as a request needs it.
struct InToken<'a> {
    admin: &'a Admin,
    key: &'a Pkcs11Uri,
    public_key: PublicKey,
    // What the token said, which the library's error has no place for.
    refusal: std::cell::RefCell<Option<HsmError>>,
}

pub(super) fn run(arguments: &CsrArguments) -> Result<u8, Failure> {
    if arguments.names.is_empty() && arguments.addresses.is_empty() {
        return Err(Failure::Input(
            "say what clients call this node: --dns NAME, or --ip ADDRESS".to_owned(),
        ));
    }
    let refuse = |error: rcgen::Error| Failure::Input(format!("no request can be made of this: {error}"));
    let mut parameters = CertificateParams::new(arguments.names.clone()).map_err(refuse)?;
    parameters.subject_alt_names.extend(arguments.addresses.iter().copied().map(SanType::IpAddress));
    parameters.distinguished_name = DistinguishedName::new();
    if let Some(name) = &arguments.common_name {
        parameters.distinguished_name.push(DnType::CommonName, name.as_str());
    }
    let named = arguments.token.resolve()?;
    let (admin, key) = (named.admin()?, named.key()?);
    let public_key = admin.selftest(&key)?;
    let purpose = admin.keys()?.into_iter().find(|seen| seen.public_key == Some(public_key));
    if let Some(label) = purpose.and_then(|seen| seen.uri.object)
        && !label.starts_with(&format!("edgate/{}/", Purpose::TlsServer))
        && label.starts_with("edgate/")
    {
        return Err(Failure::Input(format!(
            "{label} is no {} key, and a key serves one purpose; make one with `edgate hsm keygen --purpose tls-server`",
            Purpose::TlsServer
        )));
    }
    let signing = InToken { admin: &admin, key: &key, public_key, refusal: None.into() };
    let request = parameters.serialize_request(&signing);
    if let Some(refusal) = signing.refusal.take() {
        return Err(Failure::Hsm(refusal));
    }
    let pem = request.and_then(|request| request.pem()).map_err(refuse)?;
    if arguments.token.json() {
        print_line(json!({"uri": key.to_string(), "public_key": public_key.to_string(), "request": pem}));
    } else {
        print_line(pem.trim_end());
    }
    Ok(EXIT_YES)
}

impl PublicKeyData for InToken<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.public_key.as_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.public_key {
            PublicKey::Ed25519(_) => &PKCS_ED25519,
            PublicKey::P256(_) => &PKCS_ECDSA_P256_SHA256,
        }
    }
}

impl SigningKey for InToken<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let algorithm = self.public_key.algorithm();
        match self.admin.sign_verified(self.key, &[algorithm], message) {
            Ok((_, signature)) => Ok(match algorithm {
                Algorithm::Ed25519 => signature.to_vec(),
                Algorithm::P256 => ecdsa_signature(&signature),
            }),
            Err(error) => {
                *self.refusal.borrow_mut() = Some(error);
                Err(rcgen::Error::RemoteKeyError)
            }
        }
    }
}
