//! `POST /v1/tokens/{id}/revoke`: a token is refused from the moment this answers.

use super::body;
use super::error::{ApiError, shortened};
use crate::decision::UnixSeconds;
use crate::json;
use crate::token::{Profile, TOKEN_BYTES_MAX};

/// Longest `jti`: none longer fits into a token, so every token can be revoked.
const JTI_BYTES_MAX: usize = TOKEN_BYTES_MAX / 4 * 3;
/// Longest issuer or tenant.
const NAME_BYTES_MAX: usize = 1024;
/// Longest reason.
const REASON_BYTES_MAX: usize = 512;

const MEMBERS: &str = "issuer, tenant, reason, expires_at";

/// A request to revoke. Borrows from the body.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RevokeRequest<'a> {
    /// The token's `iss`; `None`: our own.
    pub(super) issuer: Option<&'a str>,
    pub(super) tenant: Option<&'a str>,
    pub(super) reason: &'a str,
    /// The token's `exp`, where the client knows it.
    pub(super) expires_at: Option<UnixSeconds>,
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
                "issuer" => request.issuer = Some(body::text(reader, name, NAME_BYTES_MAX)?),
                "tenant" => request.tenant = Some(body::text(reader, name, NAME_BYTES_MAX)?),
                "reason" => request.reason = body::text(reader, name, REASON_BYTES_MAX)?,
                "expires_at" => request.expires_at = Some(UnixSeconds(body::seconds(reader, name)?)),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(request)
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

/// A token's own name, as it stands in the path.
pub(super) fn check_jti(jti: &str) -> Result<(), ApiError> {
    if jti.is_empty() || jti.len() > JTI_BYTES_MAX {
        return Err(ApiError::invalid(format!(
            "the token id in the path must be 1 to {JTI_BYTES_MAX} bytes long"
        )));
    }
    // Three parts joined by dots that begin like a header: somebody put the token itself into the path.
    if jti.starts_with("eyJ") && jti.split('.').count() == 3 {
        return Err(ApiError::invalid(
            "the path holds a whole token; put its id there (its \"jti\", which `edgate token inspect` shows)",
        ));
    }
    Ok(())
}
