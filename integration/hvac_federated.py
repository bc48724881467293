"""What operators and pipelines do with hvac and tokens of other issuers, against Daypass. Run by
federated_logins.rs.

ADDRESS, CA and TOKEN say where; ISSUER, CLUSTER (and their CAs) are local servers; GITHUB, FOREIGN and POD
are tokens. Every step asserts what a program built on Vault relies on.
"""

import os

import hvac
from hvac import exceptions

E = os.environ


def connect(token=None):
    return hvac.Client(url=E["ADDRESS"], token=token, verify=E["CA"])


def refused(error, call, *args, **named):
    try:
        answer = call(*args, **named)
    except error as raised:
        return str(raised)
    raise AssertionError(f"{call} was not refused: {answer}")


root = connect(E["TOKEN"])
root.sys.create_or_update_policy("reader", 'path "secret/*" { capabilities = ["read"] }')
root.sys.enable_secrets_engine("kv", path="secret", options={"version": "1"})
root.secrets.kv.v1.create_or_update_secret("app", {"k": "v"})


def jwt():
    root.sys.enable_auth_method("jwt")
    method = root.auth.jwt
    github = "https://token.actions.githubusercontent.com"
    method.configure(
        jwks_url=E["ISSUER"] + "/jwks",
        jwks_ca_pem=E["ISSUER_CA"],
        bound_issuer=github,
        jwt_supported_algs=["RS256"],
        default_role="deploy",
    )
    shown = method.read_config()["data"]
    assert shown["bound_issuer"] == github and shown["jwt_supported_algs"] == ["RS256"], shown
    said = refused(
        exceptions.InvalidRequest,
        method.create_role,
        name="open",
        user_claim="repository",
        allowed_redirect_uris=None,
        bound_audiences=["daypass"],
    )
    assert "repository" in said, said
    method.create_role(
        name="deploy",
        role_type="jwt",
        user_claim="repository",
        allowed_redirect_uris=[],
        bound_audiences=["daypass"],
        bound_claims={"repository": "octo-org/app", "ref": ["refs/heads/main"]},
        claim_mappings={"ref": "ref", "environment": "environment"},
        token_policies=["reader"],
        token_ttl="1h",
    )
    assert method.list_roles()["data"]["keys"] == ["deploy"]
    role = method.read_role("deploy")["data"]
    assert role["bound_claims"]["repository"] == "octo-org/app" and role["token_ttl"] == 3600, role
    job = connect()
    auth = job.auth.jwt.jwt_login(role="deploy", jwt=E["GITHUB"])["auth"]
    assert auth["metadata"] == {"role": "deploy", "ref": "refs/heads/main", "environment": "production"}, auth
    assert auth["policies"] == ["default", "reader"], auth
    assert job.secrets.kv.v1.read_secret("app")["data"] == {"k": "v"}
    own = job.auth.token.lookup_self()["data"]
    assert own["path"] == "auth/jwt/login" and own["display_name"] == "jwt-octo-org/app", own
    job.auth.token.renew_self()
    job.auth.token.revoke_self()
    refused(exceptions.Forbidden, job.auth.token.lookup_self)
    for token in [E["FOREIGN"], E["GITHUB"][:-8] + "AAAAAAAA", "x"]:
        said = refused(exceptions.InvalidRequest, connect().auth.jwt.jwt_login, "deploy", token)
        assert "evil" not in said, said
    method.delete_role("deploy")
    refused(exceptions.InvalidPath, method.read_role, "deploy")
    refused(exceptions.InvalidPath, method.list_roles)


def kubernetes():
    root.sys.enable_auth_method("kubernetes")
    method = root.auth.kubernetes
    method.configure(
        kubernetes_host=E["CLUSTER"],
        kubernetes_ca_cert=E["CLUSTER_CA"],
        token_reviewer_jwt="reviewer",
        disable_local_ca_jwt=True,
    )
    shown = method.read_config()
    assert shown["kubernetes_host"] == E["CLUSTER"] and "token_reviewer_jwt" not in shown, shown
    refused(exceptions.InvalidRequest, method.create_role, "all", "*", "*")
    method.create_role(
        "app",
        bound_service_account_names=["app"],
        bound_service_account_namespaces=["prod"],
        policies=["reader"],
        ttl="1h",
        audience="daypass",
        alias_name_source="serviceaccount_name",
    )
    assert method.list_roles()["keys"] == ["app"]
    role = method.read_role("app")
    assert role["token_policies"] == ["reader"] and role["audience"] == "daypass", role
    pod = connect()
    auth = pod.auth.kubernetes.login(role="app", jwt=E["POD"])["auth"]
    assert auth["metadata"]["service_account_namespace"] == "prod", auth
    assert auth["lease_duration"] == 3600, auth
    assert pod.secrets.kv.v1.read_secret("app")["data"] == {"k": "v"}
    assert pod.auth.token.lookup_self()["data"]["display_name"] == "kubernetes-prod-app"
    refused(exceptions.InvalidRequest, connect().auth.kubernetes.login, "app", E["GITHUB"])
    method.delete_role("app")
    refused(exceptions.InvalidPath, method.read_role, "app")


jwt()
kubernetes()
