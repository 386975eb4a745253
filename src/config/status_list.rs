//! The status list that this node publishes: `signing.status_list_uri` and `signing.status_list_capacity`.

use super::ConfigError;
use super::file::{in_range, wrong};

/// The longest uri of a list; `status_list` has the same limit.
const URI_BYTES_MAX: usize = 512;

/// The most places: with two bits each what a list may take at most, 4 MiB.
pub(super) const CAPACITY_MAX: u64 = 16 << 20;

/// A list of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusList {
    /// Where others fetch it: `signing.status_list_uri`.
    pub uri: String,
    /// How many tokens it has places for: `signing.status_list_capacity`.
    pub capacity: u32,
}

pub(super) fn check_status_list(
    uri: Option<String>,
    capacity: Option<u64>,
) -> Result<Option<StatusList>, ConfigError> {
    const URI: &str = "signing.status_list_uri";
    const CAPACITY: &str = "signing.status_list_capacity";
    let Some(uri) = uri else {
        return match capacity {
            None => Ok(None),
            Some(capacity) => {
                Err(wrong(CAPACITY, capacity, "there is no list", format!("add {URI}, or leave it out")))
            }
        };
    };
    let plain = |part: &str| {
        let named = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte));
        named && !matches!(part, "" | "." | "..")
    };
    let path = uri.strip_prefix("https://").or_else(|| uri.strip_prefix("http://")).and_then(|rest| {
        let (host, path) = rest.split_once('/')?;
        let host_is_named = !host.is_empty() && !host.contains(|c: char| c == '@' || c.is_whitespace());
        host_is_named.then_some(path)
    });
    if uri.len() > URI_BYTES_MAX || !path.is_some_and(|path| path.split('/').all(plain)) {
        let problem = format!("not a URL of at most {URI_BYTES_MAX} bytes with a host and a plain path");
        let fix = "write what others fetch, such as \"https://edgate.example.com/v1/status-lists/1\"";
        return Err(wrong(URI, format!("{uri:?}"), problem, fix));
    }
    let capacity = in_range(CAPACITY, capacity.unwrap_or(CAPACITY_DEFAULT), 1, CAPACITY_MAX)?;
    Ok(Some(StatusList { uri, capacity: u32::try_from(capacity).expect("24 bits") }))
}

/// A million tokens at once: 256 KiB, a few hundred bytes compressed while few are revoked.
const CAPACITY_DEFAULT: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(uri: Option<&str>, capacity: Option<u64>) -> Result<Option<StatusList>, String> {
        check_status_list(uri.map(str::to_owned), capacity).map_err(|error| error.to_string())
    }

    #[test]
    fn a_list_is_where_others_fetch_it() {
        assert_eq!(check(None, None), Ok(None));
        let uri = "https://edgate.example.com:8443/v1/status-lists/own-1".to_owned();
        let list = StatusList { uri: uri.clone(), capacity: 1 << 20 };
        assert_eq!(check(Some(&uri), None), Ok(Some(list)));
        let long = format!("https://h/{}", "x".repeat(URI_BYTES_MAX));
        for bad in [
            "",
            "/v1/status-lists/1",
            "https://h",
            "https://h/",
            "https:///1",
            "https://a@h/1",
            "https://h/../1",
            "https://h/1?x",
            "https://h/a//b",
            "ftp://h/1",
            &long,
        ] {
            let error = check(Some(bad), None).unwrap_err();
            assert!(error.starts_with("signing.status_list_uri = "), "{error}");
        }
        for capacity in [0, CAPACITY_MAX + 1] {
            assert!(check(Some(&uri), Some(capacity)).unwrap_err().contains("signing.status_list_capacity"));
        }
        assert!(check(None, Some(7)).unwrap_err().contains("there is no list"));
    }
}
