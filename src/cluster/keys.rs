//! The names of our keys in Redis.

/// Every key of one namespace. All carry the namespace in braces, so that one slot of a cluster holds them.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// String: a random name of the data set. Another name means that everything was lost.
    pub(super) dataset: String,
    /// String: the highest revocation epoch.
    pub(super) epoch: String,
    /// Sorted set: tokens on an allow list; the score is the second from which they are refused as expired.
    pub(super) listed: String,
    /// Sorted set: watermarks of subjects and sessions; the score is the second until which they count.
    pub(super) marks: String,
    /// String: the process that has had every claim since then, as `INFO` calls it.
    pub(super) server: String,
    /// String: the second since which no claim was lost, by the server's clock.
    pub(super) since: String,
    /// Stream: what changed, one entry per request.
    pub(super) stream: String,
    /// Hash: what is disabled or revoked as a whole, with the epoch that made it so.
    pub(super) switches: String,
    /// Sorted set: revoked tokens; the score is the second from which they are refused as expired.
    pub(super) tokens: String,
    /// Sorted set: tokens used that may be used once; the score is the second from which they are refused as expired.
    pub(super) used: String,
}

impl Keys {
    pub(super) fn new(namespace: &str) -> Self {
        let key = |name: &str| format!("{{{namespace}}}:{name}");
        Self {
            dataset: key("dataset"),
            epoch: key("epoch"),
            listed: key("listed"),
            marks: key("marks"),
            server: key("server"),
            since: key("since"),
            stream: key("stream"),
            switches: key("switches"),
            tokens: key("tokens"),
            used: key("used"),
        }
    }
}
