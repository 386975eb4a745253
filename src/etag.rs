//! Comparing what a client has with what there is (RFC 9110 §13.1.2).

/// Whether an `If-None-Match` value names `etag`, which is quoted and strong; a weak name counts as well.
#[must_use]
pub fn names(if_none_match: &[u8], etag: &str) -> bool {
    if_none_match.trim_ascii() == b"*"
        || if_none_match.split(|byte| *byte == b',').any(|given| {
            let given = given.trim_ascii();
            given.strip_prefix(b"W/").unwrap_or(given) == etag.as_bytes()
        })
}
