//! The method as a whole, with chains made for each case.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daypass_conformance::{Kind, Mounted, TestHost};
use daypass_contract::{BackendError, Clock as _, Login, Peer};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose as Usage, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{Cache, Cert};

/// A certificate authority.
struct Ca {
    der: Vec<u8>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}

impl Ca {
    fn root(name: &str) -> Self {
        Self::root_of(ca_params(name))
    }

    fn root_of(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            der: certificate.der().to_vec(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    fn below(&self, name: &str) -> Self {
        let (params, key) = (ca_params(name), KeyPair::generate().unwrap());
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self {
            der: certificate.der().to_vec(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    fn sign(&self, params: &CertificateParams) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, &self.issuer).unwrap().der().to_vec()
    }

    /// A list that ends `after` the test's beginning.
    fn list(&self, revoked: &[u64], after: Duration) -> String {
        let begin = OffsetDateTime::from(TestHost::new().clock.now());
        let params = CertificateRevocationListParams {
            this_update: begin - Duration::from_secs(60),
            next_update: begin + after,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from(*serial),
                    revocation_time: begin - Duration::from_secs(60),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

fn chain<'a>(certificates: &[&'a [u8]]) -> Vec<&'a [u8]> {
    certificates.to_vec()
}

/// What a client of `web.example.org` shows; cases change what they are about.
fn leaf() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    params.distinguished_name = DistinguishedName::new();
    let name = &mut params.distinguished_name;
    name.push(DnType::OrganizationalUnitName, "eng");
    name.push(DnType::CommonName, "web.example.org");
    params.subject_alt_names = vec![
        SanType::DnsName("web.example.org".try_into().unwrap()),
        SanType::Rfc822Name("web@example.org".try_into().unwrap()),
        SanType::URI("https://example.org/web".try_into().unwrap()),
    ];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![Usage::ClientAuth];
    params.serial_number = Some(SerialNumber::from(7));
    params.use_authority_key_identifier_extension = true;
    // UTF8String "blue".
    let text = b"\x0c\x04blue".to_vec();
    params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3, 45], text)];
    params
}

fn svid(uris: &[&str]) -> CertificateParams {
    let mut params = leaf();
    params.distinguished_name = DistinguishedName::new();
    let uris = uris.iter();
    params.subject_alt_names = uris
        .map(|uri| SanType::URI((*uri).try_into().unwrap()))
        .collect();
    params
}

struct World {
    host: TestHost,
    mount: Mounted,
}

impl World {
    fn new() -> Self {
        let host = TestHost::new();
        let (lent, cache) = (host.host(), Cache::default());
        let mount = Mounted::new(Arc::new(Cert { host: lent, cache }), &host);
        Self { host, mount }
    }

    async fn role(&self, name: &str, mut role: Value, certificate: &str) {
        role["certificate"] = json!(certificate);
        let path = format!("certs/{name}");
        self.mount.write(&path, role).await.unwrap();
    }

    async fn login_as(&self, name: &str, chain: &[&[u8]]) -> Result<Login, BackendError> {
        let certificates = chain.iter().map(|der| der.to_vec()).collect();
        let peer = Peer {
            certificates,
            ..Peer::default()
        };
        let body = json!({"name": name});
        self.mount.login("login", body, peer).await
    }

    async fn login(&self, chain: &[&[u8]]) -> Result<Login, BackendError> {
        self.login_as("", chain).await
    }

    /// The name that a login gives, or why there is none.
    async fn said(&self, chain: &[&[u8]]) -> String {
        match self.login(chain).await {
            Ok(login) => login.alias.name,
            Err(BackendError::LoginFailed(text)) => text.to_owned(),
            Err(error) => panic!("{error}"),
        }
    }
}

const UNTRUSTED: &str = "invalid certificate or no client certificate supplied";
const CONSTRAINTS: &str =
    "no chain matching all constraints could be found for this login certificate";
const NOT_NOW: &str = "the certificate, or one above it, has ended or not yet begun";
const REVOKED: &str = "the certificate, or one above it, is revoked";
const WEB: &str = "web.example.org";

#[tokio::test]
async fn a_certificate_of_a_trusted_ca_logs_in_as_the_role_says() {
    let (world, ca) = (World::new(), Ca::root("ca"));
    let role = json!({"token_policies": "web", "token_ttl": "10m", "display_name": "Web",
        "allowed_common_names": "web.*", "allowed_metadata_extensions": "1.2.3.45,1.2.3.99"});
    world.role("web", role, &ca.pem).await;
    let made = world.login(&[&ca.sign(&leaf())]).await.unwrap();
    assert_eq!(
        (made.alias.name.as_str(), made.display_name.as_str()),
        (WEB, "Web")
    );
    assert_eq!(made.token.token_policies, ["web"]);
    assert!(made.alias.metadata.is_empty());
    let mut metadata = json!(made.metadata);
    for id in ["authority_key_id", "subject_key_id"] {
        let text = metadata.as_object_mut().unwrap().remove(id).unwrap();
        let octets: Vec<&str> = text.as_str().unwrap().split(':').collect();
        assert!(
            octets.len() > 4 && octets.iter().all(|o| o.len() == 2),
            "{id} {text}"
        );
    }
    let rest = json!({"cert_name": "web", "common_name": WEB, "serial_number": "7",
        "1-2-3-45": "blue"});
    assert_eq!(metadata, rest);

    // A renewal asks again: the role's word now, its existence, the time.
    let renewed = world
        .mount
        .backend
        .renew_login(&made.renewal)
        .await
        .unwrap();
    assert_eq!(renewed.token_ttl, Duration::from_secs(600));
    let narrower = json!({"allowed_common_names": "db.*"});
    world.mount.write("certs/web", narrower).await.unwrap();
    let refused = world.mount.backend.renew_login(&made.renewal).await;
    assert_eq!(refused.unwrap_err().to_string(), CONSTRAINTS);
    world.mount.delete("certs/web").await.unwrap();
    let refused = world.mount.backend.renew_login(&made.renewal).await;
    assert!(refused.unwrap_err().to_string().contains("does not exist"));
    assert_eq!(world.said(&[&ca.sign(&leaf())]).await, UNTRUSTED);
}

#[tokio::test]
async fn chains_count_up_to_what_a_role_trusts_and_no_further() {
    let (root, other) = (Ca::root("root"), Ca::root("other"));
    let (middle, same_name) = (root.below("middle"), Ca::root("root"));
    let now = OffsetDateTime::from(TestHost::new().clock.now());
    let hour = Duration::from_secs(3600);
    let mut short = ca_params("short");
    short.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let short = Ca::root_of(short);
    let below_short = short.below("below");
    let mut ended = ca_params("ended");
    ended.not_after = now - hour;
    let ended = Ca::root_of(ended);
    let changed = |change: fn(&mut CertificateParams)| {
        let mut params = leaf();
        change(&mut params);
        params
    };
    let timed = |from: OffsetDateTime, to: OffsetDateTime| {
        let mut params = leaf();
        (params.not_before, params.not_after) = (from, to);
        params
    };
    let own_key = KeyPair::generate().unwrap();
    let own = leaf().self_signed(&own_key).unwrap();
    let mut signed_oddly = root.sign(&leaf());
    *signed_oddly.last_mut().unwrap() ^= 1;
    let (a_leaf, middle_leaf) = (root.sign(&leaf()), middle.sign(&leaf()));
    let usage = "the certificate is not for client authentication";
    let server = root.sign(&changed(|params| {
        params.extended_key_usages = vec![Usage::ServerAuth];
    }));
    let any = root.sign(&changed(|params| {
        params.extended_key_usages = vec![Usage::Any];
    }));
    let none = root.sign(&changed(|params| params.extended_key_usages = Vec::new()));
    let nameless = root.sign(&changed(|params| {
        params.distinguished_name = DistinguishedName::new();
    }));
    let twice = root.sign(&changed(|params| {
        // The same attribute, which rcgen does not recognize by its number.
        let name = DnType::CustomDnType(vec![2, 5, 4, 3]);
        params.distinguished_name.push(name, "root.example.org");
    }));
    let posing = root.sign(&changed(|params| {
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "spiffe://prod.example.org/web");
    }));
    let own_pem = own.pem();
    let cases = [
        (
            "nothing shown",
            &root.pem,
            chain(&[]),
            "no client certificate found",
        ),
        (
            "garbage",
            &root.pem,
            chain(&[b"garbage"]),
            "the client certificate cannot be read",
        ),
        ("signed by the CA", &root.pem, chain(&[&a_leaf]), WEB),
        (
            "with the CA along",
            &root.pem,
            chain(&[&a_leaf, &root.der]),
            WEB,
        ),
        ("another CA", &other.pem, chain(&[&a_leaf]), UNTRUSTED),
        (
            "a CA of the same name",
            &same_name.pem,
            chain(&[&a_leaf]),
            UNTRUSTED,
        ),
        (
            "the caller's own CA along",
            &other.pem,
            chain(&[&a_leaf, &root.der]),
            UNTRUSTED,
        ),
        (
            "a broken signature",
            &root.pem,
            chain(&[&signed_oddly]),
            UNTRUSTED,
        ),
        (
            "an intermediate",
            &root.pem,
            chain(&[&middle_leaf, &middle.der]),
            WEB,
        ),
        (
            "an intermediate left out",
            &root.pem,
            chain(&[&middle_leaf]),
            UNTRUSTED,
        ),
        (
            "the intermediate trusted",
            &middle.pem,
            chain(&[&middle_leaf]),
            WEB,
        ),
        (
            "beside the intermediate trusted",
            &middle.pem,
            chain(&[&a_leaf]),
            UNTRUSTED,
        ),
        (
            "a path too long",
            &short.pem,
            chain(&[&below_short.der, &short.der]),
            UNTRUSTED,
        ),
        ("a CA itself", &root.pem, chain(&[&middle.der]), UNTRUSTED),
        ("a server's", &root.pem, chain(&[&server]), usage),
        ("for any use", &root.pem, chain(&[&any]), usage),
        ("for no use in particular", &root.pem, chain(&[&none]), WEB),
        ("the certificate itself", &own_pem, chain(&[own.der()]), WEB),
        (
            "signed by what is not a CA",
            &own_pem,
            chain(&[&a_leaf, own.der()]),
            UNTRUSTED,
        ),
        (
            "two names",
            &root.pem,
            chain(&[&twice]),
            "the client certificate cannot be read",
        ),
        ("no name", &root.pem, chain(&[&nameless]), "no common name"),
        (
            "posing as a workload",
            &root.pem,
            chain(&[&posing]),
            "no common name",
        ),
    ];
    for (what, pem, chain, want) in cases {
        let world = World::new();
        world.role("r", json!({}), pem).await;
        let said = world.said(&chain).await;
        assert!(said.contains(want), "{what}: {said}");
    }
    let deep = below_short.sign(&leaf());
    let times = [
        ("now", root.sign(&timed(now - hour, now + hour)), &root, WEB),
        (
            "ended",
            root.sign(&timed(now - 2 * hour, now - hour)),
            &root,
            NOT_NOW,
        ),
        (
            "not begun",
            root.sign(&timed(now + hour, now + 2 * hour)),
            &root,
            NOT_NOW,
        ),
        ("the CA ended", ended.sign(&leaf()), &ended, NOT_NOW),
    ];
    for (what, certificate, trusted, want) in times {
        let world = World::new();
        world.role("r", json!({}), &trusted.pem).await;
        assert_eq!(world.said(&[&certificate]).await, want, "{what}");
    }
    let world = World::new();
    world.role("r", json!({}), &short.pem).await;
    assert_eq!(world.said(&[&deep, &below_short.der]).await, UNTRUSTED);
    assert_eq!(world.said(&[&short.sign(&leaf())]).await, WEB);
    // As time goes by.
    let world = World::new();
    world.role("r", json!({}), &root.pem).await;
    let certificate = root.sign(&timed(now - hour, now + hour));
    let made = world.login(&[&certificate]).await.unwrap();
    world.host.clock.advance(2 * hour);
    assert_eq!(world.said(&[&certificate]).await, NOT_NOW);
    let refused = world.mount.backend.renew_login(&made.renewal).await;
    assert_eq!(refused.unwrap_err().to_string(), NOT_NOW);
}

#[tokio::test]
async fn every_constraint_narrows() {
    let (world, ca) = (World::new(), Ca::root("ca"));
    let certificate = ca.sign(&leaf());
    let cases = [
        (json!({}), true),
        (json!({"allowed_common_names": "web.example.org"}), true),
        (json!({"allowed_common_names": ["db.*", "web.*"]}), true),
        (json!({"allowed_common_names": "example.org"}), false),
        (json!({"allowed_dns_sans": "*.example.org"}), true),
        (json!({"allowed_dns_sans": "*.example.com"}), false),
        (json!({"allowed_email_sans": "*@example.org"}), true),
        (json!({"allowed_email_sans": "web.example.org"}), false),
        (json!({"allowed_uri_sans": "https://example.org/*"}), true),
        (
            json!({"allowed_uri_sans": "https://example.org/*/x"}),
            false,
        ),
        (
            json!({"allowed_uri_sans": "spiffe://example.org/**"}),
            false,
        ),
        (json!({"allowed_names": "web@*"}), true),
        (json!({"allowed_names": "eng"}), false),
        (json!({"allowed_organizational_units": "eng,ops"}), true),
        (json!({"allowed_organizational_units": "ops"}), false),
        (json!({"required_extensions": "1.2.3.45:blue"}), true),
        (json!({"required_extensions": "1.2.3.45:bl*"}), true),
        (json!({"required_extensions": "1.2.3.45:red"}), false),
        (
            json!({"required_extensions": "1.2.3.45:*,1.2.3.46:*"}),
            false,
        ),
        (
            json!({"allowed_common_names": "web.*", "allowed_dns_sans": "db.*"}),
            false,
        ),
    ];
    for (role, want) in cases {
        world.mount.delete("certs/r").await.unwrap();
        world.role("r", role.clone(), &ca.pem).await;
        let said = world.said(&[&certificate]).await;
        assert_eq!(said, if want { WEB } else { CONSTRAINTS }, "{role}");
    }
    // The first that fits, by name; or the one that is asked for.
    world
        .role("r", json!({"allowed_common_names": "db.*"}), &ca.pem)
        .await;
    world.role("s", json!({}), &ca.pem).await;
    world.role("t", json!({}), &ca.pem).await;
    let role = |login: Login| login.metadata["cert_name"].clone();
    assert_eq!(role(world.login(&[&certificate]).await.unwrap()), "s");
    assert_eq!(
        role(world.login_as("T", &[&certificate]).await.unwrap()),
        "t"
    );
    assert!(world.login_as("r", &[&certificate]).await.is_err());
    assert!(world.login_as("nobody", &[&certificate]).await.is_err());
}

#[tokio::test]
async fn a_workload_is_known_by_its_spiffe_id_where_the_role_admits_it() {
    let (world, ca) = (World::new(), Ca::root("ca"));
    let admit = json!({"allowed_uri_sans": "spiffe://prod.example.org/ns/*/sa/web"});
    world.role("r", admit, &ca.pem).await;
    let good = "spiffe://prod.example.org/ns/a/sa/web";
    let broken = "the certificate has a SPIFFE ID and is not an X.509-SVID";
    let with = |change: fn(&mut CertificateParams)| {
        let mut params = svid(&["spiffe://prod.example.org/ns/a/sa/web"]);
        change(&mut params);
        params
    };
    let named = with(|params| {
        params.distinguished_name.push(DnType::CommonName, WEB);
    });
    let cases = [
        ("an SVID", svid(&[good]), good),
        ("with a common name", named.clone(), good),
        (
            "another path",
            svid(&["spiffe://prod.example.org/ns/a/sa/db"]),
            CONSTRAINTS,
        ),
        (
            "deeper",
            svid(&["spiffe://prod.example.org/ns/a/b/sa/web"]),
            CONSTRAINTS,
        ),
        (
            "another domain",
            svid(&["spiffe://evil.example.org/ns/a/sa/web"]),
            CONSTRAINTS,
        ),
        (
            "two IDs",
            svid(&[good, "spiffe://prod.example.org/x"]),
            broken,
        ),
        (
            "another URI besides",
            svid(&[good, "https://example.org/"]),
            broken,
        ),
        (
            "not an ID",
            svid(&["spiffe://prod.example.org/ns/../sa/web"]),
            broken,
        ),
        (
            "a domain's own",
            svid(&["spiffe://prod.example.org"]),
            broken,
        ),
        (
            "in capitals",
            svid(&["SPIFFE://prod.example.org/ns/a/sa/web"]),
            broken,
        ),
        (
            "for key agreement",
            with(|params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
            broken,
        ),
    ];
    for (what, params, want) in cases {
        let said = world.said(&[&ca.sign(&params)]).await;
        assert!(said.starts_with(want), "{what}: {said}");
    }
    let made = world.login(&[&ca.sign(&svid(&[good]))]).await.unwrap();
    assert_eq!(made.metadata["spiffe_id"], good);
    // A CA that is trusted for common names does not speak for a trust domain.
    world.mount.delete("certs/r").await.unwrap();
    world.role("r", json!({}), &ca.pem).await;
    assert_eq!(world.said(&[&ca.sign(&named)]).await, WEB);
    let said = world.said(&[&ca.sign(&svid(&[good]))]).await;
    assert!(said.contains("allowed_uri_sans"), "{said}");
}

#[tokio::test]
async fn lists_count_for_their_issuer_and_not_knowing_refuses() {
    let day = Duration::from_secs(86_400);
    let (root, impostor) = (Ca::root("root"), Ca::root("root"));
    let middle = root.below("middle");
    let (direct, below) = (root.sign(&leaf()), middle.sign(&leaf()));
    let stale = "has ended";
    let (short, long) = (chain(&[&direct]), chain(&[&below, &middle.der]));
    let cases = [
        ("none", vec![], &short, WEB),
        ("an empty one", vec![root.list(&[], day)], &short, WEB),
        ("on it", vec![root.list(&[7], day)], &short, REVOKED),
        (
            "another number",
            vec![root.list(&[8, 70], day)],
            &short,
            WEB,
        ),
        ("another CA's", vec![middle.list(&[7], day)], &short, WEB),
        ("below, on it", vec![middle.list(&[7], day)], &long, REVOKED),
        (
            "below, on the root's",
            vec![root.list(&[7], day)],
            &long,
            WEB,
        ),
        (
            "on an older one beside",
            vec![root.list(&[], day), root.list(&[7], day / 2)],
            &short,
            REVOKED,
        ),
    ];
    for (what, lists, chain, want) in cases {
        let world = World::new();
        world.role("r", json!({}), &root.pem).await;
        for (number, list) in lists.iter().enumerate() {
            let path = format!("crls/l{number}");
            world
                .mount
                .write(&path, json!({"crl": list}))
                .await
                .unwrap();
        }
        assert_eq!(world.said(chain).await, want, "{what}");
    }

    let world = World::new();
    world.role("r", json!({}), &root.pem).await;
    let made = world.login(&[&direct]).await.unwrap();
    let upload = |name: &str, list: String| {
        let path = format!("crls/{name}");
        let mount = &world.mount;
        async move { mount.write(&path, json!({"crl": list})).await }
    };
    // One that ends, until the next one is there.
    upload("l", root.list(&[], day / 24)).await.unwrap();
    assert_eq!(world.said(&[&direct]).await, WEB);
    world.host.clock.advance(day / 12);
    assert!(world.said(&[&direct]).await.contains(stale));
    let refused = world.mount.backend.renew_login(&made.renewal).await;
    assert!(refused.unwrap_err().to_string().contains(stale));
    upload("m", root.list(&[], day)).await.unwrap();
    assert_eq!(world.said(&[&direct]).await, WEB);
    // A revoked certificate's token is not renewed.
    upload("m", root.list(&[7], day)).await.unwrap();
    let refused = world.mount.backend.renew_login(&made.renewal).await;
    assert_eq!(refused.unwrap_err().to_string(), REVOKED);
    for name in ["l", "m"] {
        world.mount.delete(&format!("crls/{name}")).await.unwrap();
    }
    assert_eq!(world.said(&[&direct]).await, WEB);

    // Another key of the same name has lists of its own: this CA's certificates do not need them.
    upload("f", impostor.list(&[7], day)).await.unwrap();
    assert_eq!(world.said(&[&direct]).await, WEB);
    // One that bears the CA's own key identifier, and was changed.
    let mut forged = super::list::der_of(&root.list(&[], day)).unwrap();
    *forged.last_mut().unwrap() ^= 1;
    upload("f", STANDARD.encode(forged)).await.unwrap();
    assert!(
        world
            .said(&[&direct])
            .await
            .contains("was not signed by it")
    );
    upload("g", root.list(&[], day)).await.unwrap();
    assert_eq!(world.said(&[&direct]).await, WEB);

    // The certificate itself trusted: its issuer's list counts on the operator's word.
    let world = World::new();
    let pem = pem_of(&direct);
    world.role("r", json!({}), &pem).await;
    assert_eq!(world.said(&[&direct]).await, WEB);
    let list = json!({"crl": root.list(&[7], day)});
    world.mount.write("crls/l", list).await.unwrap();
    assert_eq!(world.said(&[&direct]).await, REVOKED);
}

fn pem_of(der: &[u8]) -> String {
    daypass_certs::Certificate::from_der(der).unwrap().pem()
}

#[tokio::test]
async fn lists_are_read_before_they_are_kept() {
    let (world, ca) = (World::new(), Ca::root("ca"));
    let day = Duration::from_secs(86_400);
    let list = ca.list(&[7, 300], day);
    let stored = world.mount.write("crls/Main", json!({"crl": list})).await;
    assert_eq!(stored.unwrap().kind, Kind::Nothing);
    let shown = world.mount.read("crls/main").await.unwrap();
    assert_eq!(shown["serials"], json!({"7": {}, "300": {}}));
    assert!(shown["next_update"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(
        world.mount.list("crls").await.unwrap()["keys"],
        json!(["main"])
    );
    let der = super::list::der_of(&list).unwrap();
    let base64 = STANDARD.encode(der);
    world
        .mount
        .write("crls/der", json!({"crl": base64}))
        .await
        .unwrap();
    world.host.clock.advance(2 * day);
    let cases = [
        (json!({"crl": list}), "has ended already"),
        (json!({}), "\"crl\": is required"),
        (json!({"crl": "junk"}), "failed to parse CRL"),
        (json!({"crl": "AAAA"}), "failed to parse CRL"),
        (json!({"crl": ca.pem}), "failed to parse CRL"),
        (
            json!({"url": "https://ca.example.org/crl"}),
            "not supported: url",
        ),
        (
            json!({"crl": list, "cdp": "x"}),
            "\"cdp\": is not known here",
        ),
    ];
    for (body, want) in cases {
        let said = world.mount.write("crls/x", body.clone()).await.unwrap_err();
        assert!(said.to_string().contains(want), "{body}: {said}");
    }
    world.mount.delete("crls/main").await.unwrap();
    world.mount.delete("crls/main").await.unwrap();
    let gone = world.mount.read("crls/main").await;
    assert!(matches!(gone, Err(BackendError::NotFound)));
}

#[tokio::test]
async fn roles_are_refused_where_they_would_not_mean_what_they_say() {
    let (world, ca) = (World::new(), Ca::root("ca"));
    let own = leaf().self_signed(&KeyPair::generate().unwrap()).unwrap();
    let both = format!("{}{}", own.pem(), ca.pem);
    let with = |field: &str, value: Value| {
        let mut role = json!({"certificate": ca.pem});
        role[field] = value;
        role
    };
    let cases = [
        (json!({}), "failed to parse certificate"),
        (
            json!({"certificate": "garbage"}),
            "failed to parse certificate",
        ),
        (
            json!({"certificate": both}),
            "holds CAs and other certificates",
        ),
        (
            with("allowed_uri_sans", json!("spiffe://*/web")),
            "\"allowed_uri_sans\"",
        ),
        (with("allowed_uri_sans", json!("*")), "\"allowed_uri_sans\""),
        (with("required_extensions", json!("blue")), "oid:value"),
        (with("allowed_metadata_extensions", json!("x")), "OID"),
        (
            with("allowed_common_name", json!("x")),
            "did you mean \"allowed_common_names\"?",
        ),
        (
            with("ocsp_enabled", json!(true)),
            "not supported: ocsp_enabled",
        ),
        (
            with("ocsp_servers_override", json!("http://x")),
            "not supported: ocsp",
        ),
        (
            with("token_strictly_bind_ip", json!("true")),
            "token_bound_cidrs",
        ),
        (with("token_policies", json!("root")), "token_policies"),
    ];
    for (role, want) in cases {
        let said = world
            .mount
            .write("certs/r", role.clone())
            .await
            .unwrap_err();
        assert!(said.to_string().contains(want), "{role}: {said}");
    }
    assert!(world.mount.read("certs/r").await.is_err());
    // An open role is taken, and said to be open.
    let warned = |role: Value| {
        let mount = &world.mount;
        async move {
            mount.delete("certs/r").await.unwrap();
            let answer = mount.write("certs/r", role).await.unwrap();
            answer
                .warnings
                .iter()
                .any(|text| text.contains("every certificate"))
        }
    };
    assert!(warned(json!({"certificate": ca.pem})).await);
    assert!(warned(with("allowed_common_names", json!(["a", "*"]))).await);
    assert!(!warned(with("allowed_common_names", json!("a*"))).await);
    assert!(!warned(with("required_extensions", json!("1.2.3:a"))).await);
    assert!(!warned(json!({"certificate": own.pem()})).await);
    // What is left out stays, and what is off may be sent.
    world
        .role(
            "w",
            json!({"allowed_dns_sans": "a", "ocsp_enabled": false}),
            &ca.pem,
        )
        .await;
    world
        .mount
        .write("certs/w", json!({"policies": "p", "token_type": ""}))
        .await
        .unwrap();
    let role = world.mount.read("certs/w").await.unwrap();
    assert_eq!(role["allowed_dns_sans"], json!(["a"]));
    assert_eq!(role["token_policies"], json!(["p"]));
    assert_eq!(role["display_name"], "w");
    assert_eq!(
        world.mount.list("certs").await.unwrap()["keys"],
        json!(["r", "w"])
    );
}

#[tokio::test]
async fn the_configuration_says_what_is_kept_with_the_entity() {
    let (world, ca) = (World::new(), Ca::root("ca"));
    world.role("r", json!({}), &ca.pem).await;
    let shown = world.mount.read("config").await.unwrap();
    let want = json!({"enable_identity_alias_metadata": false, "disable_binding": true});
    assert_eq!(shown.data, want);
    let certificate = ca.sign(&leaf());
    assert!(
        world
            .login(&[&certificate])
            .await
            .unwrap()
            .alias
            .metadata
            .is_empty()
    );
    let config = json!({"enable_identity_alias_metadata": true, "ocsp_cache_size": 0});
    let answer = world.mount.write("config", config).await.unwrap();
    assert!(answer.warnings.is_empty());
    let made = world.login(&[&certificate]).await.unwrap();
    assert_eq!(made.alias.metadata, made.metadata);
    // hvac sends this whenever it configures anything.
    let answer = world
        .mount
        .write("config", json!({"disable_binding": false}))
        .await;
    assert!(answer.unwrap().warnings[0].contains("stays true"));
    assert!(
        world
            .mount
            .write("config", json!({"ocsp_cache_size": 9}))
            .await
            .is_err()
    );
    assert!(
        world
            .mount
            .write("config", json!({"other": 9}))
            .await
            .is_err()
    );
    assert_eq!(
        world.mount.read("config").await.unwrap()["enable_identity_alias_metadata"],
        true
    );
}

#[tokio::test]
async fn a_login_reads_one_record_until_something_changes() {
    let (world, ca) = (World::new(), Ca::root("ca"));
    for number in 0..20 {
        world.role(&format!("r{number}"), json!({}), &ca.pem).await;
    }
    let certificate = ca.sign(&leaf());
    world.login(&[&certificate]).await.unwrap();
    let before = world.host.store.gets();
    world.login(&[&certificate]).await.unwrap();
    assert_eq!(world.host.store.gets() - before, 1);
    // Another node, with the same store and a memory of its own.
    let cache = Cache::default();
    let (lent, store) = (world.host.host(), &world.host);
    let other = Mounted::new(Arc::new(Cert { host: lent, cache }), store);
    for number in 0..20 {
        other.delete(&format!("certs/r{number}")).await.unwrap();
    }
    assert_eq!(world.said(&[&certificate]).await, UNTRUSTED);
}
