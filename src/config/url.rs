//! What is asked of every URL of a service elsewhere.

/// Whether it is over TLS, and its host with the port; `None` unless it is http or https, short, without a name or password in
/// it, and without any of `forbidden`.
pub(super) fn parts<'u>(url: &'u str, forbidden: &str) -> Option<(bool, &'u str)> {
    let plain = !url.contains(|c: char| {
        c.is_whitespace() || c.is_control() || "@#\\".contains(c) || forbidden.contains(c)
    });
    let (secure, rest) = match url.strip_prefix("https://") {
        Some(rest) => (true, rest),
        None => (false, url.strip_prefix("http://")?),
    };
    let host = rest.split(['/', '?']).next().filter(|host| !host.is_empty() && !host.starts_with(':'))?;
    (plain && url.len() <= URL_BYTES_MAX).then_some((secure, host))
}

/// The longest that is asked for anything.
const URL_BYTES_MAX: usize = 2048;
