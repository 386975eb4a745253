//! The requests of a run, built before it starts: distinct tokens, ready to send.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::thread;

use super::LoadError;
use super::http::Answer;
use crate::att::{Grant, Minter, tamper};
use crate::inputs::Random;

/// Where the requests go, from the URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// First address the host name stands for.
    pub address: SocketAddr,
    /// `HOST:PORT`, for the `Host` header.
    pub authority: String,
    /// Path with query.
    pub path: String,
    /// How the token travels.
    pub route: Route,
    /// Whether calls to the verify API ask for receipts.
    pub receipts: bool,
}

/// The two ways a verify request carries its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `GET` with `Authorization: Bearer`; the status is the verdict.
    ForwardAuth,
    /// `POST` of `{"token": …}`; the member `valid` of the answer is the verdict.
    VerifyApi,
}

impl Target {
    /// Takes `http://HOST:PORT/PATH` apart; a path that ends in `/tokens/verify` is the verify API.
    ///
    /// # Errors
    /// [`LoadError::Url`]: another scheme, no such host.
    pub fn parse(url: &str) -> Result<Self, LoadError> {
        let unusable = || LoadError::Url(url.to_owned());
        let rest = url.strip_prefix("http://").ok_or_else(unusable)?;
        let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        let with_port =
            if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
        let address = with_port.to_socket_addrs().ok().and_then(|mut all| all.next()).ok_or_else(unusable)?;
        let api = path.split('?').next().is_some_and(|p| p.ends_with("/tokens/verify"));
        let route = if api { Route::VerifyApi } else { Route::ForwardAuth };
        Ok(Self { address, authority: authority.to_owned(), path: path.to_owned(), route, receipts: false })
    }

    fn request(&self, token: &str) -> Vec<u8> {
        let Self { authority, path, .. } = self;
        match self.route {
            Route::ForwardAuth => {
                format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {token}\r\n\r\n")
            }
            Route::VerifyApi => {
                let receipt = if self.receipts { ",\"receipt\":true" } else { "" };
                let body = format!("{{\"token\":\"{token}\"{receipt}}}");
                let length = body.len();
                format!(
                    "POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\n\
                     Content-Length: {length}\r\n\r\n{body}"
                )
            }
        }
        .into_bytes()
    }
}

/// What a token deserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Genuine.
    Accepted,
    /// Its signature was tampered with.
    Rejected,
}

impl Verdict {
    /// Whether `answer` gives this verdict on `route`.
    #[must_use]
    pub fn agrees(self, route: Route, answer: &Answer<'_>) -> bool {
        match (route, self) {
            (Route::ForwardAuth, Self::Accepted) => answer.status == 200,
            (Route::ForwardAuth, Self::Rejected) => answer.status == 401,
            (Route::VerifyApi, Self::Accepted) => {
                answer.status == 200 && says_valid(answer.body) == Some(true)
            }
            // Both spellings of a refusal exist: 200 with a false verdict in it, and 401 with the same.
            (Route::VerifyApi, Self::Rejected) => {
                matches!(answer.status, 200 | 401) && says_valid(answer.body) == Some(false)
            }
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
        })
    }
}

/// How many tokens of which kind to make.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// Distinct tokens; the run cycles through them.
    pub count: usize,
    /// Share of them, 0.0 to 1.0, with a tampered signature.
    pub bad_share: f64,
    /// `iat`, in seconds since 1970.
    pub issued_at: u64,
    /// Seconds until `exp`.
    pub lifetime: u64,
    /// Tells this run's `jti` from another's, and decides which tokens are bad.
    pub seed: u64,
}

/// Distinct requests in one block of memory, with the verdict each deserves.
pub struct Pool {
    route: Route,
    bytes: Vec<u8>,
    // End of each request in `bytes`, and what its token deserves.
    requests: Vec<(usize, Verdict)>,
}

impl Pool {
    /// Mints the tokens on all processors and wraps each in a request.
    ///
    /// # Panics
    /// `tokens.count` is 0.
    #[must_use]
    pub fn mint(target: &Target, minter: &Minter, tokens: &Tokens) -> Self {
        assert!(tokens.count > 0, "a run needs a token");
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let share = tokens.count.div_ceil(workers);
        let parts: Vec<Vec<(Vec<u8>, Verdict)>> = thread::scope(|scope| {
            let started: Vec<_> = (0..tokens.count)
                .step_by(share)
                .map(|first| {
                    let numbers = first..(first + share).min(tokens.count);
                    scope.spawn(move || {
                        numbers.map(|number| request(target, minter, tokens, number as u64)).collect()
                    })
                })
                .collect();
            started.into_iter().map(|worker| worker.join().expect("minting does not panic")).collect()
        });
        let mut pool =
            Self { route: target.route, bytes: Vec::new(), requests: Vec::with_capacity(tokens.count) };
        for (request, verdict) in parts.into_iter().flatten() {
            pool.bytes.extend_from_slice(&request);
            pool.requests.push((pool.bytes.len(), verdict));
        }
        pool
    }

    /// How many distinct requests there are; never 0.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a pool is never empty")]
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// How all of them carry their tokens.
    #[must_use]
    pub const fn route(&self) -> Route {
        self.route
    }

    /// The bytes of request `index` and the verdict it deserves.
    #[must_use]
    pub fn request(&self, index: usize) -> (&[u8], Verdict) {
        let start = if index == 0 { 0 } else { self.requests[index - 1].0 };
        let (end, verdict) = self.requests[index];
        (&self.bytes[start..end], verdict)
    }
}

fn request(target: &Target, minter: &Minter, tokens: &Tokens, number: u64) -> (Vec<u8>, Verdict) {
    let token = minter.mint(&Grant {
        issued_at: tokens.issued_at,
        expires_at: tokens.issued_at + tokens.lifetime,
        token_id: &format!("{:016x}-{number:08}", tokens.seed),
        number,
    });
    let bad = Random::new(tokens.seed ^ number.wrapping_mul(0x9e37_79b9)).next_unit() < tokens.bad_share;
    if bad {
        (target.request(&tamper(&token)), Verdict::Rejected)
    } else {
        (target.request(&token), Verdict::Accepted)
    }
}

/// The top-level member `valid` of a JSON object.
fn says_valid(body: &[u8]) -> Option<bool> {
    #[derive(serde::Deserialize)]
    struct Verdict {
        valid: bool,
    }
    serde_json::from_slice::<Verdict>(body).ok().map(|verdict| verdict.valid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::att::Algorithm;
    use crate::inputs;

    fn tokens(count: usize, bad_share: f64) -> Tokens {
        Tokens { count, bad_share, issued_at: inputs::NOW, lifetime: 60, seed: 3 }
    }

    fn pool(url: &str, tokens: &Tokens) -> Pool {
        Pool::mint(&Target::parse(url).unwrap(), &inputs::minter(Algorithm::Ed25519), tokens)
    }

    fn answer(status: u16, body: &[u8]) -> Answer<'_> {
        Answer { status, body, keep_alive: true }
    }

    #[test]
    fn url_is_taken_apart_and_its_path_names_the_route() {
        let target = Target::parse("http://127.0.0.1:8080/auth/nginx").unwrap();
        assert_eq!(target.address, "127.0.0.1:8080".parse().unwrap());
        assert_eq!((target.path.as_str(), target.route), ("/auth/nginx", Route::ForwardAuth));
        assert_eq!(Target::parse("http://127.0.0.1:1/v1/tokens/verify").unwrap().route, Route::VerifyApi);
        assert_eq!(Target::parse("http://127.0.0.1").unwrap().address.port(), 80);
        for bad in ["https://127.0.0.1/", "127.0.0.1:80", "http://", "http://127.0.0.1:x/"] {
            assert!(matches!(Target::parse(bad), Err(LoadError::Url(_))), "{bad}");
        }
    }

    #[test]
    fn every_request_is_whole_and_carries_its_own_token() {
        let pool = pool("http://127.0.0.1:1/auth/nginx", &tokens(50, 0.0));
        let mut seen = std::collections::HashSet::new();
        for index in 0..pool.len() {
            let (bytes, verdict) = pool.request(index);
            assert_eq!(verdict, Verdict::Accepted);
            assert!(bytes.starts_with(b"GET /auth/nginx HTTP/1.1\r\n") && bytes.ends_with(b"\r\n\r\n"));
            assert!(seen.insert(bytes.to_vec()), "request {index} repeats");
        }
        assert_eq!(seen.len(), 50);
    }

    #[test]
    fn post_has_the_length_of_its_body() {
        let pool = pool("http://127.0.0.1:1/v1/tokens/verify", &tokens(1, 0.0));
        let text = String::from_utf8(pool.request(0).0.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        assert!(body.starts_with("{\"token\":\"ey") && body.ends_with("\"}"));
    }

    #[test]
    fn bad_share_decides_how_many_tokens_are_tampered_with() {
        let bad = |share| {
            let pool = pool("http://127.0.0.1:1/", &tokens(400, share));
            (0..pool.len()).filter(|i| pool.request(*i).1 == Verdict::Rejected).count()
        };
        assert_eq!(bad(0.0), 0);
        assert_eq!(bad(1.0), 400);
        assert!((60..140).contains(&bad(0.25)), "{} of 400", bad(0.25));
    }

    #[test]
    fn verdict_is_the_status_of_forward_auth_and_the_body_of_the_api() {
        let (get, post) = (Route::ForwardAuth, Route::VerifyApi);
        assert!(Verdict::Accepted.agrees(get, &answer(200, b"")));
        assert!(!Verdict::Accepted.agrees(get, &answer(204, b"")));
        assert!(Verdict::Rejected.agrees(get, &answer(401, b"")));
        assert!(!Verdict::Rejected.agrees(get, &answer(200, b"")));
        assert!(!Verdict::Rejected.agrees(get, &answer(503, b"")));
        assert!(Verdict::Accepted.agrees(post, &answer(200, br#"{"valid": true, "agent": "a"}"#)));
        assert!(!Verdict::Accepted.agrees(post, &answer(200, br#"{"valid": false}"#)));
        assert!(
            Verdict::Rejected.agrees(post, &answer(200, br#"{"claims": {"valid": true}, "valid": false}"#))
        );
        assert!(!Verdict::Rejected.agrees(post, &answer(200, b"")));
    }
}
