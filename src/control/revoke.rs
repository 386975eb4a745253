//! What a client wants revoked, disabled or enabled: from a body to a change that can be stored.

use super::body;
use super::error::{ApiError, shortened};
use crate::decision::UnixSeconds;
use crate::json;
use crate::revocation::{Change, Effect, Switch, TargetKind};
use crate::store::StoredChange;
use crate::token::{Profile, TOKEN_BYTES_MAX};

/// Longest `jti`: none longer fits into a token, so every token can be revoked. `sub`, `sid` and `kid` likewise.
const NAME_IN_TOKEN_BYTES_MAX: usize = TOKEN_BYTES_MAX / 4 * 3;
/// Longest issuer or tenant.
const NAME_BYTES_MAX: usize = 1024;
/// Longest reason.
const REASON_BYTES_MAX: usize = 512;

const MEMBERS: &str = "kind, name, action, issuer, tenant, reason, expires_at, issued_until";

/// A request to revoke, disable or enable. Borrows from the body.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RevokeRequest<'a> {
    /// What kind of thing is meant; a token's own path does not say it.
    pub(super) kind: Option<TargetKind>,
    /// The `jti`, `sub`, `sid` or `kid`.
    pub(super) name: Option<&'a str>,
    /// What is to become of it.
    pub(super) action: Action,
    /// The token's `iss`; `None`: our own.
    pub(super) issuer: Option<&'a str>,
    pub(super) tenant: Option<&'a str>,
    pub(super) reason: &'a str,
    /// The token's `exp`, where the client knows it.
    pub(super) expires_at: Option<UnixSeconds>,
    /// A subject or session: what was issued in or before this second; `None`: until now.
    pub(super) issued_until: Option<UnixSeconds>,
}

/// What is to become of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Action {
    Disable,
    Enable,
    #[default]
    Revoke,
}

impl<'a> RevokeRequest<'a> {
    /// Reads a body; an empty one asks for all defaults.
    pub(super) fn parse(bytes: &'a [u8], scratch: &'a mut json::Scratch) -> Result<Self, ApiError> {
        let mut request = Self::default();
        if bytes.is_empty() {
            return Ok(request);
        }
        body::read_object(bytes, scratch, MEMBERS, |reader, name| {
            match name {
                "kind" => request.kind = Some(kind(body::text(reader, name, NAME_BYTES_MAX)?)?),
                "name" => request.name = Some(body::any_text(reader, name, NAME_IN_TOKEN_BYTES_MAX)?),
                "action" => request.action = action(body::text(reader, name, NAME_BYTES_MAX)?)?,
                "issuer" => request.issuer = Some(body::text(reader, name, NAME_BYTES_MAX)?),
                "tenant" => request.tenant = Some(body::text(reader, name, NAME_BYTES_MAX)?),
                "reason" => request.reason = body::text(reader, name, REASON_BYTES_MAX)?,
                "expires_at" => request.expires_at = Some(UnixSeconds(body::seconds(reader, name)?)),
                "issued_until" => request.issued_until = Some(UnixSeconds(body::seconds(reader, name)?)),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(request)
    }

    /// The token `jti` revoked, as `POST /v1/tokens/{id}/revoke` asks: the path says which and what.
    pub(super) fn token(
        self,
        jti: &'a str,
        issuers: &[Profile],
        own: Option<usize>,
        now: UnixSeconds,
        actor: &str,
    ) -> Result<StoredChange, ApiError> {
        if self.kind.is_some() || self.name.is_some() || self.action != Action::Revoke {
            return Err(ApiError::invalid(
                "the path says which token is revoked; send \"kind\", \"name\" and \"action\" to /v1/revocations",
            ));
        }
        Self { kind: Some(TargetKind::Token), name: Some(jti), ..self }.change(issuers, own, now, actor)
    }

    /// The change, checked: the issuer is one of ours, the times are possible, the parts go together.
    pub(super) fn change(
        &self,
        issuers: &[Profile],
        own: Option<usize>,
        now: UnixSeconds,
        actor: &str,
    ) -> Result<StoredChange, ApiError> {
        let Some(kind) = self.kind else {
            return Err(ApiError::invalid(format!("\"kind\" is missing; {KINDS}")));
        };
        self.check_members(kind)?;
        let (tenant, issuer) = if kind == TargetKind::Tenant {
            (self.known_tenant(issuers)?, "")
        } else {
            let profile = self.profile(issuers, own)?;
            (profile.tenant.as_str(), profile.issuer.as_str())
        };
        let effect = match (self.action, kind) {
            (Action::Enable, _) => Effect::Switched(Switch::Enabled),
            (Action::Disable, _) => Effect::Switched(Switch::Disabled),
            (Action::Revoke, TargetKind::Token) => {
                Effect::RefusedUntil(self.forget_at(self.profile(issuers, own)?, now)?)
            }
            (Action::Revoke, TargetKind::Subject | TargetKind::Session) => {
                Effect::IssuedUntil(self.watermark(self.profile(issuers, own)?, now)?)
            }
            (Action::Revoke, _) => Effect::Switched(Switch::Revoked),
        };
        let forget_at = match effect {
            Effect::RefusedUntil(second) => second,
            // The youngest token it refuses was issued in that second.
            Effect::IssuedUntil(second) => life_end(self.profile(issuers, own)?, second),
            Effect::Switched(_) => UnixSeconds(u64::MAX),
        };
        let name = self.name.unwrap_or("");
        if Change::new(kind, tenant, issuer, name, effect, 0).is_none() {
            return Err(ApiError::invalid(format!(
                "a {} cannot be {}d: subjects, kids, issuers and tenants can be disabled and enabled, everything can be \
                 revoked",
                kind.name(),
                self.action.name()
            )));
        }
        Ok(StoredChange {
            kind,
            tenant: tenant.to_owned(),
            issuer: issuer.to_owned(),
            name: name.to_owned(),
            effect,
            forget_at,
            changed_at: now,
            reason: self.reason.to_owned(),
            actor: actor.to_owned(),
            epoch: 0,
        })
    }

    /// Whether the members given belong to this kind and this action.
    fn check_members(&self, kind: TargetKind) -> Result<(), ApiError> {
        let named = !matches!(kind, TargetKind::Issuer | TargetKind::Tenant);
        match self.name {
            Some("") => return Err(ApiError::invalid("\"name\" is empty")),
            None if named => {
                let what = match kind {
                    TargetKind::Kid => "kid",
                    TargetKind::Session => "sid",
                    TargetKind::Subject => "sub",
                    TargetKind::Issuer | TargetKind::Tenant | TargetKind::Token => "jti",
                };
                let description = format!("\"name\" is missing: the {what} of the {}", kind.name());
                return Err(ApiError::invalid(description));
            }
            Some(_) if !named => {
                let description =
                    format!("\"name\" does not go with kind \"{0}\": say which with \"{0}\"", kind.name());
                return Err(ApiError::invalid(description));
            }
            Some(name) if kind == TargetKind::Token => check_jti(name)?,
            _ => {}
        }
        if kind == TargetKind::Tenant && self.issuer.is_some() {
            return Err(ApiError::invalid("\"issuer\" does not go with kind \"tenant\""));
        }
        if kind == TargetKind::Issuer && self.issuer.is_none() {
            return Err(ApiError::invalid("\"issuer\" is missing: which is to be refused as a whole"));
        }
        if self.expires_at.is_some() && kind != TargetKind::Token {
            return Err(ApiError::invalid("\"expires_at\" is a token's"));
        }
        let marked =
            matches!(kind, TargetKind::Subject | TargetKind::Session) && self.action == Action::Revoke;
        if self.issued_until.is_some() && !marked {
            return Err(ApiError::invalid(
                "\"issued_until\" belongs to the revocation of a subject or session",
            ));
        }
        Ok(())
    }

    fn known_tenant<'p>(&self, issuers: &'p [Profile]) -> Result<&'p str, ApiError> {
        let Some(tenant) = self.tenant else {
            return Err(ApiError::invalid("\"tenant\" is missing: which is to be refused as a whole"));
        };
        let known = issuers.iter().find(|profile| profile.tenant == tenant);
        known.map(|profile| profile.tenant.as_str()).ok_or_else(|| {
            let description = format!("no configured issuer belongs to tenant \"{}\"", shortened(tenant));
            ApiError::invalid(description)
        })
    }

    /// The watermark asked for. An issuer's clock may be ahead by its leeway; more is a mistake, and what were revoked
    /// then are tokens that do not exist yet.
    fn watermark(&self, profile: &Profile, now: UnixSeconds) -> Result<UnixSeconds, ApiError> {
        let issued_until = self.issued_until.unwrap_or(now);
        if issued_until > now.saturating_add(profile.leeway_s) {
            return Err(ApiError::invalid(format!(
                "\"issued_until\" {} is in the future (it is {} now, and this issuer's clock may differ by {} s)",
                issued_until.0, now.0, profile.leeway_s
            )));
        }
        if life_end(profile, issued_until) <= now {
            return Err(ApiError::invalid(format!(
                "\"issued_until\" {} is so long ago that every token it names has expired",
                issued_until.0
            )));
        }
        Ok(issued_until)
    }

    /// The issuer meant: `own`, or the one configured under the given `iss` and, where given, tenant.
    pub(super) fn profile<'p>(
        &self,
        issuers: &'p [Profile],
        own: Option<usize>,
    ) -> Result<&'p Profile, ApiError> {
        let named = match (self.issuer, own) {
            (None, Some(own)) => &issuers[own..=own],
            (None, None) => {
                return Err(ApiError::invalid("this node issues no tokens: say whose it is with \"issuer\""));
            }
            (Some(_), _) => issuers,
        };
        let mut matches = named.iter().filter(|profile| {
            self.issuer.is_none_or(|issuer| profile.issuer == issuer)
                && self.tenant.is_none_or(|tenant| profile.tenant == tenant)
        });
        match (matches.next(), matches.next()) {
            (Some(profile), None) => Ok(profile),
            (Some(_), Some(_)) => Err(ApiError::invalid(
                "several configured issuers have this \"issuer\"; say which with \"tenant\"",
            )),
            (None, _) => {
                let issuer = shortened(self.issuer.unwrap_or(&named[0].issuer));
                let of_tenant = self
                    .tenant
                    .map_or(String::new(), |tenant| format!(" of tenant \"{}\"", shortened(tenant)));
                let description =
                    format!("issuer \"{issuer}\"{of_tenant} is not configured, so none of its tokens pass");
                Err(ApiError::invalid(description))
            }
        }
    }

    /// When the revocation may be forgotten: the second from which the issuer's profile refuses the token as expired.
    ///
    /// Where the client gives no `exp`, the latest possible one is assumed. A token that passes now or later has an
    /// `iat` of at most `now + leeway` if it exists now (the issuer's clock may be ahead), an `exp` at most
    /// `max_lifetime_s` after that, and passes until `exp + leeway`. Without a limit on lifetimes the entry stays.
    pub(super) fn forget_at(&self, profile: &Profile, now: UnixSeconds) -> Result<UnixSeconds, ApiError> {
        let latest_exp = match profile.max_lifetime_s {
            Some(max) => now.saturating_add(profile.leeway_s).saturating_add(max),
            None => UnixSeconds(u64::MAX),
        };
        let exp = self.expires_at.unwrap_or(latest_exp);
        let forget_at = exp.saturating_add(profile.leeway_s);
        if forget_at <= now {
            return Err(ApiError::invalid(format!(
                "\"expires_at\" {} is in the past (it is {} now): the token is refused as expired already",
                exp.0, now.0
            )));
        }
        if exp > latest_exp {
            return Err(ApiError::invalid(format!(
                "\"expires_at\" {} is later than any token of this issuer may expire ({}): give seconds since 1970, \
                 or leave it out",
                exp.0, latest_exp.0
            )));
        }
        Ok(forget_at)
    }
}

/// When the last token issued at `issued_at` is refused as expired. Its `exp` counts from an `iat` of at most that.
pub(super) fn life_end(profile: &Profile, issued_at: UnixSeconds) -> UnixSeconds {
    match profile.max_lifetime_s {
        Some(life) => issued_at.saturating_add(life).saturating_add(profile.leeway_s),
        None => UnixSeconds(u64::MAX),
    }
}

impl Action {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Enable => "enable",
            Self::Revoke => "revoke",
        }
    }
}

const KINDS: &str = "say \"token\", \"subject\", \"session\", \"kid\", \"issuer\" or \"tenant\"";

fn kind(text: &str) -> Result<TargetKind, body::BodyError> {
    let unknown = || body::BodyError::Rule(format!("\"kind\" \"{}\" is unknown; {KINDS}", shortened(text)));
    TargetKind::from_name(text).ok_or_else(unknown)
}

fn action(text: &str) -> Result<Action, body::BodyError> {
    let known = [Action::Disable, Action::Enable, Action::Revoke];
    known.into_iter().find(|action| action.name() == text).ok_or_else(|| {
        let text = shortened(text);
        body::BodyError::Rule(format!(
            "\"action\" \"{text}\" is unknown; say \"revoke\", \"disable\" or \"enable\""
        ))
    })
}

/// A token's own name, as it stands in a path or body.
pub(super) fn check_jti(jti: &str) -> Result<(), ApiError> {
    if jti.is_empty() || jti.len() > NAME_IN_TOKEN_BYTES_MAX {
        return Err(ApiError::invalid(format!(
            "a token's id must be 1 to {NAME_IN_TOKEN_BYTES_MAX} bytes long"
        )));
    }
    // Three parts joined by dots that begin like a header: somebody put the token itself into the path.
    if jti.starts_with("eyJ") && jti.split('.').count() == 3 {
        return Err(ApiError::invalid(
            "this is a whole token; give its id (its \"jti\", which `edgate token inspect` shows)",
        ));
    }
    Ok(())
}
