//! Whether a certificate that a role trusts stands behind the one that a caller shows.
//!
//! **Invariant:** chains are built and verified by webpki (RFC 5280, section 6); what it leaves to its caller
//! is checked here: the trusted certificate's own time and path length, and revocation of the whole chain.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

use daypass_certs::Certificate;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{
    ALL_VERIFICATION_ALGS, EndEntityCert, Error, KeyUsage, VerifiedPath, anchor_from_trusted_cert,
};

use super::list::{self, List};
use super::refusal::Refusal;
use super::shown::Shown;

/// The certificates between the one shown and `trusted`, nearest first; none where they are the same.
///
/// # Errors
/// Why `trusted` does not stand behind it.
pub(super) fn behind(
    trusted: &Certificate,
    shown: &Shown,
    lists: &[List],
    now: SystemTime,
) -> Result<Vec<Vec<u8>>, Refusal> {
    if trusted.der() == shown.leaf.der() {
        check_time(trusted, now)?;
        if !shown.for_clients {
            return Err(Refusal::NotForClients);
        }
        return check_revocation(&[trusted], lists, now).map(|()| Vec::new());
    }
    if !trusted.is_ca() {
        return Err(Refusal::Untrusted);
    }
    let anchor = CertificateDer::from(trusted.der());
    let anchors = [anchor_from_trusted_cert(&anchor).map_err(|_| Refusal::Untrusted)?];
    let leaf = CertificateDer::from(shown.leaf.der());
    let leaf = EndEntityCert::try_from(&leaf).map_err(|_| Refusal::Unreadable)?;
    let time = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    // webpki tries the next path after a refusal; of several, the one that says most is kept.
    let refused: Cell<Option<Refusal>> = Cell::new(None);
    let check = |path: &VerifiedPath<'_>| {
        check_path(path, trusted, shown, lists, now).map_err(|refusal| {
            refused.set(refused.get().max(Some(refusal)));
            Error::UnknownIssuer
        })
    };
    let verified = leaf.verify_for_usage(
        ALL_VERIFICATION_ALGS,
        &anchors,
        &shown.others,
        UnixTime::since_unix_epoch(time),
        KeyUsage::client_auth(),
        None,
        Some(&check),
    );
    match verified {
        Ok(path) => Ok(path
            .intermediate_certificates()
            .map(|certificate| certificate.der().to_vec())
            .collect()),
        Err(error) => Err(refused.get().unwrap_or(match error {
            Error::CertExpired { .. } | Error::CertNotValidYet { .. } => Refusal::NotNow,
            Error::RequiredEkuNotFoundContext(_) => Refusal::NotForClients,
            _ => Refusal::Untrusted,
        })),
    }
}

fn check_path(
    path: &VerifiedPath<'_>,
    trusted: &Certificate,
    shown: &Shown,
    lists: &[List],
    now: SystemTime,
) -> Result<(), Refusal> {
    check_time(trusted, now)?;
    let between = path
        .intermediate_certificates()
        .map(|certificate| Certificate::from_der(&certificate.der()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Refusal::Unreadable)?;
    let below = between
        .iter()
        .filter(|certificate| certificate.issuer() != certificate.subject())
        .count();
    if trusted
        .path_len()
        .is_some_and(|most| u32::try_from(below).is_ok_and(|below| below > most))
    {
        return Err(Refusal::Untrusted);
    }
    let chain: Vec<&Certificate> = [&shown.leaf]
        .into_iter()
        .chain(&between)
        .chain([trusted])
        .collect();
    check_revocation(&chain, lists, now)
}

/// Looks for every certificate of a chain, nearest first, in the lists of its issuer.
fn check_revocation(
    chain: &[&Certificate],
    lists: &[List],
    now: SystemTime,
) -> Result<(), Refusal> {
    for (index, certificate) in chain.iter().enumerate() {
        let issuer = chain.get(index + 1).copied();
        // What a root says of itself proves nothing.
        if issuer.is_some() || certificate.issuer() != certificate.subject() {
            list::check(lists, certificate, issuer, now)?;
        }
    }
    Ok(())
}

fn check_time(certificate: &Certificate, now: SystemTime) -> Result<(), Refusal> {
    let validity = certificate.validity();
    if now < validity.not_before() || now > validity.not_after() {
        return Err(Refusal::NotNow);
    }
    Ok(())
}
