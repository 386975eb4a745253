//! The one DER structure that is written here.

use der::asn1::UintRef;
use der::{Encode as _, Sequence};

/// `ECDSA-Sig-Value` (RFC 3279 §2.2.3).
#[derive(Sequence)]
struct EcdsaSignature<'a> {
    r: UintRef<'a>,
    s: UintRef<'a>,
}

/// The form in which TLS and X.509 carry an ECDSA signature on P-256, from r and s of 32 bytes each, big-endian, as a token
/// gives them.
#[must_use]
pub fn ecdsa_signature(fixed: &[u8; 64]) -> Vec<u8> {
    let (r, s) = fixed.split_at(32);
    let encode = || EcdsaSignature { r: UintRef::new(r)?, s: UintRef::new(s)? }.to_der();
    encode().expect("two numbers of 32 bytes have an encoding")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_short_as_they_can_be_and_never_negative() {
        let mut fixed = [0; 64];
        (fixed[31], fixed[32]) = (0x7f, 0x80);
        let expected = [&[0x30, 0x26, 0x02, 0x01, 0x7f, 0x02, 0x21, 0x00, 0x80][..], &[0; 31]].concat();
        assert_eq!(ecdsa_signature(&fixed), expected);
        let expected =
            [&[0x30, 0x46, 0x02, 0x21, 0x00][..], &[0xff; 32], &[0x02, 0x21, 0x00], &[0xff; 32]].concat();
        assert_eq!(ecdsa_signature(&[0xff; 64]), expected);
    }
}
