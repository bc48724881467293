//! vaultrs: a client whose answers are typed, so that a field that is missing or of another type is an error.

use std::collections::HashMap;

use serde_json::{Value, json};
use vaultrs::api::ResponseWrapper as _;
use vaultrs::api::auth::approle::requests::SetAppRoleRequest;
use vaultrs::api::database::requests::{PostgreSQLConnectionRequest, SetRoleRequest};
use vaultrs::api::kv2::requests::{ReadSecretRequest, SetSecretMetadataRequest};
use vaultrs::api::pki::requests::{GenerateCertificateRequest, GenerateRootRequest};
use vaultrs::api::token::requests::{CreateTokenRequest, SetTokenRoleRequest};
use vaultrs::auth::{approle, userpass};
use vaultrs::client::{Client as _, VaultClient, VaultClientSettingsBuilder};
use vaultrs::error::ClientError;
use vaultrs::sys::{self, ServerStatus};
use vaultrs::{cubbyhole, database, kv1, kv2, pki, token};

use daypass_conformance::Postgres;

use crate::server::Server;
use crate::tools;

fn connect(server: &Server, token: &str) -> VaultClient {
    let settings = VaultClientSettingsBuilder::default()
        .address(server.url())
        .ca_certs(vec![server.path("ca.pem").to_str().unwrap().to_owned()])
        .token(token)
        .build()
        .unwrap();
    VaultClient::new(settings).unwrap()
}

fn refused<T>(status: u16, answer: Result<T, ClientError>) {
    match answer {
        Err(ClientError::APIError { code, .. }) => assert_eq!(code, status),
        Err(other) => panic!("refused otherwise: {other}"),
        Ok(_) => panic!("not refused"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vaultrs_understands_every_answer() {
    if tools::skipped(&["postgresql"]) {
        return;
    }
    let postgres = tokio::task::spawn_blocking(crate::database::postgres)
        .await
        .unwrap();
    let mut server = Server::prepare("");
    server.launch();
    let anyone = connect(&server, "");
    assert!(matches!(
        sys::status(&anyone).await.unwrap(),
        ServerStatus::UNINITIALIZED
    ));
    let made = sys::start_initialization(&anyone, 2, 2, None)
        .await
        .unwrap();
    assert!(matches!(
        sys::status(&anyone).await.unwrap(),
        ServerStatus::SEALED
    ));
    for key in &made.keys {
        let answer = sys::unseal(&anyone, Some(key.clone()), None, None).await;
        assert_eq!(answer.unwrap().threshold, 2);
    }
    assert!(matches!(
        sys::status(&anyone).await.unwrap(),
        ServerStatus::OK
    ));
    let root = connect(&server, &made.root_token);

    secrets(&root).await;
    tokens(&server, &root).await;
    logins(&server, &root).await;
    certificates(&root).await;
    database_users(&root, &postgres).await;

    sys::seal(&root).await.unwrap();
    refused(503, token::lookup_self(&root).await);
}

async fn secrets(root: &VaultClient) {
    sys::mount::enable(root, "plain", "kv", None).await.unwrap();
    let mut versioned = vaultrs::api::sys::requests::EnableEngineRequest::builder();
    versioned.options(HashMap::from([("version".to_owned(), "2".to_owned())]));
    sys::mount::enable(root, "secret", "kv", Some(&mut versioned))
        .await
        .unwrap();
    let mounts = sys::mount::list(root).await.unwrap();
    assert_eq!(mounts["secret/"].mount_type, "kv");

    let data = HashMap::from([("k", "v")]);
    kv1::set(root, "plain", "a", &data).await.unwrap();
    let read: HashMap<String, String> = kv1::get(root, "plain", "a").await.unwrap();
    assert_eq!(read["k"], "v");
    assert_eq!(kv1::list(root, "plain", "").await.unwrap().data.keys, ["a"]);
    kv1::delete(root, "plain", "a").await.unwrap();
    refused(404, kv1::get::<Value>(root, "plain", "a").await);

    assert_eq!(
        kv2::set(root, "secret", "app", &data)
            .await
            .unwrap()
            .version,
        1
    );
    let two = json!({"k": "w"});
    assert_eq!(
        kv2::set(root, "secret", "app", &two).await.unwrap().version,
        2
    );
    assert_eq!(
        kv2::read::<Value>(root, "secret", "app").await.unwrap(),
        two
    );
    let one: Value = kv2::read_version(root, "secret", "app", 1).await.unwrap();
    assert_eq!(one, json!({"k": "v"}));
    let mut metadata = SetSecretMetadataRequest::builder();
    metadata.max_versions(5_u64).cas_required(false);
    kv2::set_metadata(root, "secret", "app", Some(&mut metadata))
        .await
        .unwrap();
    let metadata = kv2::read_metadata(root, "secret", "app").await.unwrap();
    assert_eq!((metadata.current_version, metadata.max_versions), (2, 5));
    kv2::delete_versions(root, "secret", "app", vec![1])
        .await
        .unwrap();
    kv2::undelete_versions(root, "secret", "app", vec![1])
        .await
        .unwrap();
    kv2::destroy_versions(root, "secret", "app", vec![1])
        .await
        .unwrap();
    // The library does not understand the refusal of a destroyed version: what is left of it.
    let gone = kv2::read_version::<Value>(root, "secret", "app", 1).await;
    assert!(gone.is_err());
    assert_eq!(kv2::list(root, "secret", "").await.unwrap(), ["app"]);
    kv2::config::read(root, "secret").await.unwrap();

    let mut note = HashMap::new();
    note.insert("k", "v");
    cubbyhole::set(root, "cubbyhole", "note", &note)
        .await
        .unwrap();
    let read: Value = cubbyhole::get(root, "cubbyhole", "note").await.unwrap();
    assert_eq!(read, json!({"k": "v"}));
    cubbyhole::delete(root, "cubbyhole", "note").await.unwrap();

    // Wrapped: the answer of any request, opened once.
    let request = ReadSecretRequest::builder()
        .mount("secret")
        .path("app")
        .build()
        .unwrap();
    let wrapped = request.wrap(root).await.unwrap();
    assert_eq!(
        wrapped.lookup(root).await.unwrap().creation_path,
        "secret/data/app"
    );
    assert_eq!(wrapped.unwrap(root).await.unwrap().data, two);
    assert!(wrapped.unwrap(root).await.is_err());

    sys::policy::set(
        root,
        "reader",
        "path \"secret/data/*\" { capabilities = [\"read\"] }",
    )
    .await
    .unwrap();
    let listed = sys::policy::list(root).await.unwrap();
    assert!(listed.policies.contains(&"reader".to_owned()));
    assert!(
        sys::policy::read(root, "reader")
            .await
            .unwrap()
            .rules
            .contains("secret")
    );
    assert_eq!(
        sys::tools::random(root, None)
            .await
            .unwrap()
            .random_bytes
            .len(),
        44
    );
    sys::remount::remount(root, "plain", "moved").await.unwrap();
}

async fn tokens(server: &Server, root: &VaultClient) {
    let mut wish = CreateTokenRequest::builder();
    wish.policies(vec!["reader".to_owned()]).ttl("1h");
    let made = token::new(root, Some(&mut wish)).await.unwrap();
    assert_eq!(made.token_policies, ["default", "reader"]);
    let reader = connect(server, &made.client_token);
    let own = token::lookup_self(&reader).await.unwrap();
    assert_eq!(
        (own.creation_ttl, own.path.as_str()),
        (3600, "auth/token/create")
    );
    assert_eq!(
        token::lookup(root, &made.client_token)
            .await
            .unwrap()
            .accessor,
        own.accessor
    );
    assert_eq!(
        token::lookup_accessor(root, &own.accessor)
            .await
            .unwrap()
            .id,
        ""
    );
    assert_eq!(
        token::renew_self(&reader, Some("30m"))
            .await
            .unwrap()
            .lease_duration,
        1800
    );
    let renewed = token::renew(root, &made.client_token, Some("20m")).await;
    assert_eq!(renewed.unwrap().lease_duration, 1200);
    kv2::read::<Value>(&reader, "secret", "app").await.unwrap();
    refused(403, kv2::set(&reader, "secret", "app", &json!({})).await);
    let mut role = SetTokenRoleRequest::builder();
    role.allowed_policies(vec!["reader".to_owned()])
        .orphan(true);
    token::role::set(root, "ci", Some(&mut role)).await.unwrap();
    assert!(token::role::read(root, "ci").await.unwrap().orphan);
    assert_eq!(token::role::list(root).await.unwrap().keys, ["ci"]);
    assert!(token::new_role(root, "ci", None).await.unwrap().orphan);
    token::role::delete(root, "ci").await.unwrap();
    let orphan = token::new_orphan(root, None).await.unwrap();
    token::revoke_accessor(root, &orphan.accessor)
        .await
        .unwrap();
    token::tidy(root).await.unwrap();
    token::revoke_self(&reader).await.unwrap();
    refused(403, token::lookup_self(&reader).await);
}

async fn logins(server: &Server, root: &VaultClient) {
    sys::auth::enable(root, "approle", "approle", None)
        .await
        .unwrap();
    assert_eq!(
        sys::auth::list(root).await.unwrap()["approle/"].mount_type,
        "approle"
    );
    let mut role = SetAppRoleRequest::builder();
    role.token_policies(vec!["reader".to_owned()])
        .token_ttl("10m");
    approle::role::set(root, "approle", "app", Some(&mut role))
        .await
        .unwrap();
    let read = approle::role::read(root, "approle", "app").await.unwrap();
    assert_eq!((read.token_ttl, read.bind_secret_id), (600, true));
    assert_eq!(
        approle::role::list(root, "approle").await.unwrap().keys,
        ["app"]
    );
    approle::role::update_id(root, "approle", "app", "known")
        .await
        .unwrap();
    assert_eq!(
        approle::role::read_id(root, "approle", "app")
            .await
            .unwrap()
            .role_id,
        "known"
    );
    let secret = approle::role::secret::generate(root, "approle", "app", None)
        .await
        .unwrap();
    let accessors = approle::role::secret::list(root, "approle", "app")
        .await
        .unwrap();
    assert_eq!(
        accessors.keys,
        std::slice::from_ref(&secret.secret_id_accessor)
    );
    approle::role::secret::read(root, "approle", "app", &secret.secret_id)
        .await
        .unwrap();
    approle::role::secret::read_accessor(root, "approle", "app", &secret.secret_id_accessor)
        .await
        .unwrap();
    let mut machine = connect(server, "");
    let auth = approle::login(&machine, "approle", "known", &secret.secret_id)
        .await
        .unwrap();
    assert_eq!(
        (auth.lease_duration, auth.token_type.as_str()),
        (600, "service")
    );
    machine.set_token(&auth.client_token);
    kv2::read::<Value>(&machine, "secret", "app").await.unwrap();
    approle::role::secret::delete(root, "approle", "app", &secret.secret_id)
        .await
        .unwrap();
    refused(
        400,
        approle::login(&machine, "approle", "known", &secret.secret_id).await,
    );

    sys::auth::enable(root, "people", "userpass", None)
        .await
        .unwrap();
    userpass::user::set(root, "people", "ann", "first", None)
        .await
        .unwrap();
    assert_eq!(
        userpass::user::list(root, "people").await.unwrap().keys,
        ["ann"]
    );
    userpass::login(&machine, "people", "ann", "first")
        .await
        .unwrap();
    userpass::user::update_password(root, "people", "ann", "second")
        .await
        .unwrap();
    refused(
        400,
        userpass::login(&machine, "people", "ann", "first").await,
    );
    sys::auth::disable(root, "people").await.unwrap();
}

async fn certificates(root: &VaultClient) {
    sys::mount::enable(root, "pki", "pki", None).await.unwrap();
    let mut authority = GenerateRootRequest::builder();
    authority
        .common_name("Root")
        .key_type("ec")
        .key_bits(256_u64)
        .ttl("240h");
    pki::cert::ca::generate(root, "pki", "internal", Some(&mut authority))
        .await
        .unwrap();
    let mut role = vaultrs::api::pki::requests::SetRoleRequest::builder();
    role.allowed_domains(vec!["example.org".to_owned()])
        .allow_subdomains(true);
    role.key_type("ec").key_bits(256_u64);
    pki::role::set(root, "pki", "web", Some(&mut role))
        .await
        .unwrap();
    pki::role::read(root, "pki", "web").await.unwrap();
    let mut wish = GenerateCertificateRequest::builder();
    wish.common_name("a.example.org").ttl("1h");
    let issued = pki::cert::generate(root, "pki", "web", Some(&mut wish))
        .await
        .unwrap();
    assert_eq!(issued.private_key_type, "ec");
    assert!(
        pki::cert::list(root, "pki")
            .await
            .unwrap()
            .contains(&issued.serial_number)
    );
    pki::cert::read(root, "pki", &issued.serial_number)
        .await
        .unwrap();
    pki::cert::revoke(root, "pki", &issued.serial_number)
        .await
        .unwrap();
    pki::cert::crl::rotate(root, "pki").await.unwrap();
}

async fn database_users(root: &VaultClient, postgres: &Postgres) {
    sys::mount::enable(root, "database", "database", None)
        .await
        .unwrap();
    let mut connection = PostgreSQLConnectionRequest::builder();
    connection
        .plugin_name("postgresql-database-plugin")
        .connection_url(postgres.url_of("{{username}}", "{{password}}", "postgres"))
        .username(Postgres::USER)
        .password(Postgres::PASSWORD)
        .allowed_roles(vec!["app".to_owned()]);
    database::connection::postgres(root, "database", "pg", Some(&mut connection))
        .await
        .unwrap();
    let read = database::connection::read(root, "database", "pg")
        .await
        .unwrap();
    assert_eq!(read.allowed_roles, ["app"]);
    let mut role = SetRoleRequest::builder();
    role.db_name("pg")
        .default_ttl("1h")
        .creation_statements(vec![
            "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}'".to_owned(),
        ]);
    database::role::set(root, "database", "app", Some(&mut role))
        .await
        .unwrap();
    assert_eq!(
        database::role::read(root, "database", "app")
            .await
            .unwrap()
            .default_ttl,
        3600
    );
    let made = database::role::creds(root, "database", "app")
        .await
        .unwrap();
    postgres
        .query_as(&made.username, &made.password, "postgres", "SELECT 1")
        .unwrap();
    sys::mount::disable(root, "database").await.unwrap();
}
