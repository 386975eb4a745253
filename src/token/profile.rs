//! What one issuer's tokens must look like, and the checks of header and claims against it.

use crate::decision::{Rejection, UnixSeconds};
use crate::token::AGENT_TASK_TYP;
use crate::token::claims::{ClaimName, ClaimSet, Claims};
use crate::token::header::{AlgorithmSet, Header};

/// Leeway unless configured, in seconds: clocks under NTP differ by less, and a revoked token gains nothing by it.
const LEEWAY_S: u64 = 30;

/// Longest lifetime unless configured, in seconds: one day.
const MAX_LIFETIME_S: u64 = 86_400;

/// The rules for one issuer's tokens; built from configuration, immutable.
#[derive(Debug, Clone)]
pub struct Profile {
    /// The issuer's name in configuration, logs and metrics.
    pub name: String,
    /// The tenant the issuer belongs to.
    pub tenant: String,
    /// `iss`, compared byte by byte (C4).
    pub issuer: String,
    /// Audiences of which a token must name one (C5). If empty, every demand must name one.
    pub audiences: Vec<String>,
    /// Spellings of `alg` that are allowed (H3, H4).
    pub algorithms: AlgorithmSet,
    /// Media types that are allowed (H9).
    pub types: TypeSet,
    /// Seconds by which the issuer's clock may differ from ours (C3).
    pub leeway_s: u64,
    /// Longest time from `iat` to `exp` in seconds (C3); `None` for no limit.
    pub max_lifetime_s: Option<u64>,
    /// Claims that must be present. `iss`, `aud` and `exp` always must.
    pub required: ClaimSet,
    /// Whether padded segments are tolerated (F6).
    pub padded: bool,
}

/// The kinds of token with rules of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProfileKind {
    /// `typ` absent or `JWT` (RFC 7519).
    Jwt,
    /// `typ` `at+jwt` (RFC 9068).
    AccessToken,
    /// `typ` `att+jwt`: the Agent Task Token.
    AgentTask,
}

/// Which `typ` are accepted; one that is present and not among them is refused (H9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeSet {
    /// Media types without `application/`.
    names: Vec<String>,
    absent_allowed: bool,
}

/// What the caller of a verification asks of the token beyond its issuer's profile.
#[derive(Debug, Clone, Copy, Default)]
pub struct Demand<'a> {
    /// An audience that must be among the token's.
    pub audience: Option<&'a str>,
    /// Scopes that must all be among the token's.
    pub scopes: &'a [&'a str],
}

impl Profile {
    /// A profile with the defaults of `kind`; the fields are public for what configuration changes.
    #[must_use]
    pub fn new(
        kind: ProfileKind,
        name: String,
        tenant: String,
        issuer: String,
        audiences: Vec<String>,
    ) -> Self {
        Self {
            name,
            tenant,
            issuer,
            audiences,
            algorithms: AlgorithmSet::BOTH,
            types: kind.types(),
            leeway_s: LEEWAY_S,
            max_lifetime_s: Some(MAX_LIFETIME_S),
            required: kind.required(),
            padded: false,
        }
    }

    /// Compares the untrusted header with the profile.
    ///
    /// # Errors
    /// The first rule that is broken. `Ok` means nothing but that verifying is worthwhile.
    pub fn check_header(&self, header: &Header<'_>) -> Result<(), Rejection> {
        if header.padded && !self.padded {
            return Err(Rejection::TokenMalformed);
        }
        if !self.algorithms.contains(header.algorithm) {
            return Err(Rejection::AlgorithmNotAllowed);
        }
        if !self.types.allows(header) {
            return Err(Rejection::TypeNotAllowed);
        }
        Ok(())
    }

    /// Decides on the claims of a verified token, at `now`.
    ///
    /// The key that verified it must be this issuer's; `iss` is compared here (C4).
    ///
    /// # Errors
    /// The first rule that is broken, scopes last: `ScopeMissing` means that the token is good for other uses.
    pub fn check_claims(
        &self,
        claims: &Claims<'_>,
        now: UnixSeconds,
        demand: &Demand<'_>,
    ) -> Result<(), Rejection> {
        if claims.agent_task_malformed && self.types.names.iter().any(|name| name == AGENT_TASK_TYP) {
            return Err(Rejection::ClaimsMalformed);
        }
        if !claims.present.contains_all(self.required.union(ProfileKind::Jwt.required())) {
            return Err(Rejection::ClaimMissing);
        }
        // Names that say nothing are missing too; an empty `jti` could not be revoked.
        if claims.jti.is_some_and(|jti| jti.0.is_empty()) || claims.sub == Some("") {
            return Err(Rejection::ClaimMissing);
        }
        if claims.iss != Some(self.issuer.as_str()) {
            return Err(Rejection::IssuerMismatch);
        }
        self.check_audience(claims, demand)?;
        self.check_time(claims, now)?;
        if demand.scopes.iter().all(|scope| claims.scope.contains(scope)) {
            Ok(())
        } else {
            Err(Rejection::ScopeMissing)
        }
    }

    /// C5. A demanded audience narrows what the profile accepts; it replaces it only where that names none.
    fn check_audience(&self, claims: &Claims<'_>, demand: &Demand<'_>) -> Result<(), Rejection> {
        let ours = match demand.audience {
            Some(_) if self.audiences.is_empty() => true,
            _ => claims.aud.iter().any(|aud| self.audiences.iter().any(|audience| audience == aud)),
        };
        let demanded = demand.audience.is_none_or(|audience| claims.aud.contains(&audience));
        if ours && demanded { Ok(()) } else { Err(Rejection::AudienceMismatch) }
    }

    /// C3.
    fn check_time(&self, claims: &Claims<'_>, now: UnixSeconds) -> Result<(), Rejection> {
        let exp = claims.exp.ok_or(Rejection::ClaimMissing)?;
        let latest = now.saturating_add(self.leeway_s);
        if now >= exp.saturating_add(self.leeway_s) {
            return Err(Rejection::Expired);
        }
        if claims.nbf.is_some_and(|nbf| nbf > latest) {
            return Err(Rejection::NotYetValid);
        }
        if claims.iat.is_some_and(|iat| iat > latest) {
            return Err(Rejection::IssuedInFuture);
        }
        // Without `iat` it was issued now at the latest, which makes the shortest lifetime it can have.
        let issued = claims.iat.unwrap_or(latest);
        match self.max_lifetime_s {
            Some(max) if exp.since(issued) > max => Err(Rejection::LifetimeTooLong),
            _ => Ok(()),
        }
    }
}

impl ProfileKind {
    /// The media types of this kind.
    #[must_use]
    pub fn types(self) -> TypeSet {
        let names = |name: &str| vec![name.to_owned()];
        match self {
            Self::Jwt => TypeSet { names: names("jwt"), absent_allowed: true },
            Self::AccessToken => TypeSet { names: names("at+jwt"), absent_allowed: false },
            Self::AgentTask => TypeSet { names: names(AGENT_TASK_TYP), absent_allowed: false },
        }
    }

    /// The claims that a token of this kind must have.
    #[must_use]
    pub fn required(self) -> ClaimSet {
        use ClaimName::{Aud, ClientId, Cns, Exp, Iat, Iss, Jti, Nbf, Own, Scope, Sub, Task};
        match self {
            Self::Jwt => ClaimSet::from_iter([Iss, Aud, Exp]),
            // RFC 9068 §2.2 (C6).
            Self::AccessToken => ClaimSet::from_iter([Iss, Exp, Aud, Sub, ClientId, Iat, Jti]),
            Self::AgentTask => {
                ClaimSet::from_iter([Iss, Sub, Aud, Iat, Nbf, Exp, Jti, Scope, Task, Cns, Own])
            }
        }
    }
}

impl TypeSet {
    /// Exactly these media types, with or without `application/`; `absent_allowed` says whether `typ` may be absent.
    #[must_use]
    pub fn listed(names: impl IntoIterator<Item = String>, absent_allowed: bool) -> Self {
        let bare = |name: String| {
            let name = name.to_ascii_lowercase();
            name.strip_prefix("application/").map_or(name.clone(), str::to_owned)
        };
        Self { names: names.into_iter().map(bare).collect(), absent_allowed }
    }

    fn allows(&self, header: &Header<'_>) -> bool {
        match header.typ {
            None => self.absent_allowed,
            Some(_) => self.names.iter().any(|name| header.is_type(name)),
        }
    }
}
