//! PKCS#11 URIs (RFC 7512), as an operator writes them into a configuration.

use edgate_hsm::{Pkcs11Uri, URI_BYTES_MAX, UriRules};

/// What is read has one canonical form, which means the same; a PIN inside is never shown.
pub fn pkcs11_uri(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for rules in [UriRules::Production, UriRules::Development] {
        let uri = match Pkcs11Uri::parse(text, rules) {
            Ok(uri) => uri,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                continue;
            }
        };
        assert!(text.len() <= URI_BYTES_MAX);
        assert!(
            uri.pin_value.is_none() || rules == UriRules::Development,
            "a PIN in a URI is for trying things out"
        );
        let canonical = uri.to_string();
        // Escapes may make it longer than what may be read.
        if canonical.len() <= URI_BYTES_MAX {
            // Under the rules that allow no PIN: what is written never holds one.
            let again =
                Pkcs11Uri::parse(&canonical, UriRules::Production).expect("what is written can be read");
            assert_eq!(again.to_string(), canonical);
            assert_eq!(again, Pkcs11Uri { pin_value: None, ..uri });
        }
    }
}
