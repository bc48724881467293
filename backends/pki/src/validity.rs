//! How long a certificate lasts: what was asked for, within the role, the mount and the issuer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use daypass_contract::{BackendError, System, TtlWish};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::role::Role;
use crate::state::{LeafNotAfter, LoadedIssuer};

/// The longest duration that is reckoned with: 10,000 years.
const ENDLESS: Duration = Duration::from_secs(10_000 * 366 * 86_400);

/// What a request asks for. `not_after` is text in RFC 3339, empty for none.
pub(crate) fn asked(
    now: SystemTime,
    ttl: Option<Duration>,
    not_after: &str,
) -> Result<Option<Duration>, BackendError> {
    let ttl = ttl.filter(|ttl| !ttl.is_zero());
    if not_after.is_empty() {
        return Ok(ttl);
    }
    if ttl.is_some() {
        let problem = "cannot be given together with ttl";
        return Err(BackendError::field("not_after", problem));
    }
    let end = parse_instant("not_after", not_after)?;
    match left(now, end) {
        Some(ttl) => Ok(Some(ttl)),
        None => Err(BackendError::field("not_after", "is in the past")),
    }
}

/// The time until `end`, where there is any.
fn left(now: SystemTime, end: SystemTime) -> Option<Duration> {
    end.duration_since(now).ok().filter(|left| !left.is_zero())
}

/// The same, with what the role says.
pub(crate) fn wish(
    now: SystemTime,
    asked: Option<Duration>,
    role: &Role,
) -> Result<TtlWish, BackendError> {
    if role.not_after.is_empty() {
        return Ok(TtlWish {
            asked,
            default: role.ttl,
            max: role.max_ttl,
        });
    }
    let end = parse_instant("not_after", &role.not_after)?;
    let Some(left) = left(now, end) else {
        let problem = "the role's not_after has passed: set a later one, or a ttl";
        return Err(BackendError::InvalidRole(problem.into()));
    };
    Ok(TtlWish {
        asked,
        default: Some(left),
        max: Some(role.max_ttl.map_or(left, |max| max.min(left))),
    })
}

/// When a certificate ends that nobody leases, and advice where it is sooner than was asked.
pub(crate) fn end(
    now: SystemTime,
    wish: TtlWish,
    system: &dyn System,
    issuer: Option<&LoadedIssuer>,
) -> Result<(SystemTime, Option<String>), BackendError> {
    let ttl = wish
        .asked
        .or(wish.default)
        .unwrap_or_else(|| system.default_ttl());
    let most = wish.max.unwrap_or(ENDLESS).min(system.max_ttl());
    let capped = (ttl > most).then(|| {
        format!(
            "ttl is longer than the role or the mount allows: it was cut to {}s",
            most.as_secs()
        )
    });
    let end = now
        .checked_add(ttl.min(most).min(ENDLESS))
        .ok_or_else(|| BackendError::field("ttl", "is too long"))?;
    let end = match issuer {
        Some(issuer) => within(issuer, now, end)?,
        None => end,
    };
    Ok((end, capped))
}

/// The wish of a lease: as [`end`], with the issuer's own end as one more limit.
pub(crate) fn leased(
    now: SystemTime,
    wish: TtlWish,
    system: &dyn System,
    issuer: &LoadedIssuer,
) -> Result<TtlWish, BackendError> {
    end(now, wish, system, Some(issuer))?;
    let left = left(now, issuer.certificate.validity().not_after()).unwrap_or_default();
    Ok(TtlWish {
        max: Some(wish.max.unwrap_or(left).min(left)),
        ..wish
    })
}

/// `end`, or that of the issuer where it is sooner and the issuer's `leaf_not_after_behavior` allows that.
fn within(
    issuer: &LoadedIssuer,
    now: SystemTime,
    end: SystemTime,
) -> Result<SystemTime, BackendError> {
    let last = issuer.certificate.validity().not_after();
    if left(now, last).is_none() {
        let problem = "the issuer's own certificate has expired: make another the default";
        return Err(BackendError::InvalidRole(problem.into()));
    }
    if end <= last {
        return Ok(end);
    }
    match issuer.record.leaf_not_after_behavior {
        LeafNotAfter::Truncate => Ok(last),
        LeafNotAfter::Err => Err(BackendError::InvalidRequest(format!(
            "the certificate would end after its issuer, which ends at {}: ask for a shorter ttl, or set \
             the issuer's leaf_not_after_behavior to \"truncate\"",
            rfc3339(last)
        ))),
    }
}

/// Reads RFC 3339.
pub(crate) fn parse_instant(field: &'static str, text: &str) -> Result<SystemTime, BackendError> {
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .and_then(|at| u64::try_from(at.unix_timestamp()).ok())
        .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
        .ok_or_else(|| BackendError::field(field, "expected a time such as 2030-12-31T23:59:59Z"))
}

/// Writes RFC 3339.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos())
        .ok()
        .and_then(|nanos| OffsetDateTime::from_unix_timestamp_nanos(nanos).ok())
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// Whole seconds since the epoch.
pub(crate) fn unix(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
