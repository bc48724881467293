//! What a mount answers to.

use std::sync::Arc;

use daypass_contract::route::Form;
use daypass_contract::{Access, BackendRoutes, Call, Effect, NoFields, Operation};

use crate::issuers::{self, ByIssuer};
use crate::public::{self, Public};
use crate::{Pki, ca, config, crl, import, issue, records, revocation, role};

use Operation::{Delete, List, Patch, Read, Write};

/// An endpoint that serves something public of the default issuer, or of the one in the path.
macro_rules! public {
    ($routes:ident, $pki:ident, $pattern:literal, $summary:expr, $what:expr) => {
        let serve = |pki: Arc<Pki>, call: Call, _: NoFields| async move {
            public::public(&pki, call.now, "default", $what).await
        };
        $routes
            .answer($pki, Read, $pattern, $summary, serve)
            .written(Form::Bytes($what.media_type()))
            .access = Access::Anyone;
    };
    ($routes:ident, $pki:ident, of $pattern:literal, $summary:expr, $what:expr) => {
        let serve = |pki: Arc<Pki>, call: Call, request: ByIssuer| async move {
            public::public(&pki, call.now, &request.issuer_ref, $what).await
        };
        $routes
            .answer($pki, Read, $pattern, $summary, serve)
            .written(Form::Bytes($what.media_type()))
            .access = Access::Anyone;
    };
}

pub(crate) fn routes(pki: &Arc<Pki>) -> BackendRoutes {
    let mut routes = BackendRoutes::default();
    let r = &mut routes;

    r.plan(
        pki,
        Write,
        "issue/{role}",
        "Issues a key and its certificate.",
        issue::issue,
    );
    r.plan(
        pki,
        Write,
        "sign/{role}",
        "Signs a CSR as the role allows.",
        issue::sign,
    );
    let summary = "Signs a CSR as it stands, as a leaf.";
    r.plan(pki, Write, "sign-verbatim", summary, issue::sign_verbatim);
    let summary = "Signs a CSR as it stands, as a leaf, for as long as the role says.";
    r.plan(
        pki,
        Write,
        "sign-verbatim/{role}",
        summary,
        issue::sign_verbatim,
    );

    r.answer(pki, List, "roles", "Lists roles.", role::list_names);
    r.answer(pki, Read, "roles/{name}", "Reads a role.", role::read);
    r.answer(pki, Write, "roles/{name}", "Writes a role.", role::write);
    r.answer(
        pki,
        Patch,
        "roles/{name}",
        "Changes fields of a role.",
        role::patch,
    );
    r.answer(pki, Delete, "roles/{name}", "Deletes a role.", role::delete);

    let summary = "Revokes a certificate.";
    r.answer(pki, Write, "revoke", summary, revocation::revoke_request);
    r.answer(
        pki,
        List,
        "certs",
        "Lists serial numbers.",
        records::list_serials,
    );
    let summary = "Lists revoked serial numbers.";
    r.answer(
        pki,
        List,
        "certs/revoked",
        summary,
        revocation::list_revoked,
    );
    let summary = "Reads a certificate by its serial number.";
    r.answer(pki, Read, "cert/{serial}", summary, records::read)
        .access = Access::Anyone;
    let summary = "Reads the default issuer's certificate.";
    r.answer(pki, Read, "cert/ca", summary, public::read_ca)
        .access = Access::Anyone;
    let summary = "Reads the default issuer's chain.";
    r.answer(pki, Read, "cert/ca_chain", summary, public::read_ca_chain)
        .access = Access::Anyone;
    let summary = "Reads the default issuer's CRL.";
    r.answer(pki, Read, "cert/crl", summary, public::read_crl)
        .access = Access::Anyone;
    r.answer(
        pki,
        Write,
        "tidy",
        "Deletes what has expired.",
        records::tidy,
    );

    public!(
        r,
        pki,
        "ca",
        "Serves the default issuer's certificate in DER.",
        Public::Certificate
    );
    public!(
        r,
        pki,
        "ca/pem",
        "Serves it in PEM.",
        Public::CertificatePem
    );
    public!(
        r,
        pki,
        "ca_chain",
        "Serves the default issuer's chain in PEM.",
        Public::ChainPem
    );
    public!(
        r,
        pki,
        "crl",
        "Serves the default issuer's CRL in DER.",
        Public::Crl
    );
    public!(r, pki, "crl/pem", "Serves it in PEM.", Public::CrlPem);
    let rotate = r.answer(
        pki,
        Read,
        "crl/rotate",
        "Builds every CRL anew.",
        crl::rotate,
    );
    rotate.effect = Effect::Change;

    let summary = "Generates a key and a root.";
    r.answer(
        pki,
        Write,
        "root/generate/{kind}",
        summary,
        ca::generate_root,
    );
    let summary = "Signs a CA below an issuer of this mount.";
    r.answer(
        pki,
        Write,
        "root/sign-intermediate",
        summary,
        ca::sign_intermediate,
    );
    let summary = "Deletes every issuer and every key.";
    r.answer(pki, Delete, "root", summary, issuers::delete_root)
        .access = Access::Sudo;
    let summary = "Generates a key and a CSR.";
    r.answer(
        pki,
        Write,
        "intermediate/generate/{kind}",
        summary,
        ca::generate_intermediate,
    );
    let summary = "Takes the certificate for a key of this mount.";
    r.answer(
        pki,
        Write,
        "intermediate/set-signed",
        summary,
        import::set_signed,
    );

    let summary = "Imports CA certificates and keys.";
    r.answer(pki, Write, "config/ca", summary, import::import_bundle);
    r.answer(
        pki,
        Write,
        "issuers/import/bundle",
        summary,
        import::import_bundle,
    );
    let summary = "Imports CA certificates.";
    r.answer(
        pki,
        Write,
        "issuers/import/cert",
        summary,
        import::import_certificates,
    );
    r.answer(
        pki,
        List,
        "issuers",
        "Lists issuers.",
        issuers::list_issuers,
    );
    r.answer(pki, List, "keys", "Lists keys.", issuers::list_keys);
    r.answer(
        pki,
        Delete,
        "key/{key_ref}",
        "Deletes an unused key.",
        issuers::delete_key,
    );
    let pattern = "issuer/{issuer_ref}";
    r.answer(pki, Read, pattern, "Reads an issuer.", issuers::read_issuer);
    r.answer(
        pki,
        Write,
        pattern,
        "Changes an issuer.",
        issuers::update_issuer,
    );
    r.answer(
        pki,
        Patch,
        pattern,
        "Changes an issuer.",
        issuers::update_issuer,
    );
    r.answer(
        pki,
        Delete,
        pattern,
        "Deletes an issuer, not its key.",
        issuers::delete_issuer,
    );
    let summary = "Reads an issuer's certificate and chain.";
    let endpoint = r.answer(
        pki,
        Read,
        "issuer/{issuer_ref}/json",
        summary,
        issuers::read_issuer_json,
    );
    endpoint.access = Access::Anyone;
    let summary = "Reads an issuer's CRL.";
    let endpoint = r.answer(
        pki,
        Read,
        "issuer/{issuer_ref}/crl",
        summary,
        public::read_issuer_crl,
    );
    endpoint.access = Access::Anyone;
    let summary = "Serves an issuer's certificate in DER.";
    public!(r, pki, of "issuer/{issuer_ref}/der", summary, Public::Certificate);
    let summary = "Serves an issuer's certificate in PEM.";
    public!(r, pki, of "issuer/{issuer_ref}/pem", summary, Public::CertificatePem);
    let summary = "Serves an issuer's CRL in DER.";
    public!(r, pki, of "issuer/{issuer_ref}/crl/der", summary, Public::Crl);
    let summary = "Serves an issuer's CRL in PEM.";
    public!(r, pki, of "issuer/{issuer_ref}/crl/pem", summary, Public::CrlPem);

    r.answer(
        pki,
        Read,
        "config/urls",
        "Reads the URLs of certificates.",
        config::read_urls,
    );
    r.answer(
        pki,
        Write,
        "config/urls",
        "Sets the URLs of certificates.",
        config::write_urls,
    );
    r.answer(
        pki,
        Read,
        "config/crl",
        "Reads how CRLs are built.",
        config::read_crl,
    );
    r.answer(
        pki,
        Write,
        "config/crl",
        "Sets how CRLs are built.",
        config::write_crl,
    );
    let summary = "Reads the default issuer.";
    r.answer(
        pki,
        Read,
        "config/issuers",
        summary,
        config::read_issuers_config,
    );
    let summary = "Sets the default issuer.";
    r.answer(
        pki,
        Write,
        "config/issuers",
        summary,
        config::write_issuers_config,
    );
    routes
}
