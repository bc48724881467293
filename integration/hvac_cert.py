"""What operators and machines do with hvac and certificates, against Daypass. Run by cert_logins.rs.

ADDRESS, CA and TOKEN say where; the folder holds web.pem and web.key of the CA in clients-ca.pem, and foreign.pem and
foreign.key of another. Every step asserts what a program built on Vault relies on.
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


def login(files, **named):
    client = connect()
    answer = client.auth.cert.login(cert_pem=f"{files}.pem", key_pem=f"{files}.key", **named)
    return client, answer["auth"]


root = connect(E["TOKEN"])
root.sys.create_or_update_policy("reader", 'path "secret/*" { capabilities = ["read"] }')
root.sys.enable_secrets_engine("kv", path="secret", options={"version": "1"})
root.secrets.kv.v1.create_or_update_secret("app", {"k": "v"})
root.sys.enable_auth_method("cert")
method = root.auth.cert
method.configure_tls_certificate()
method.create_ca_certificate_role(
    "web",
    certificate_file="clients-ca.pem",
    allowed_common_names="web.*",
    allowed_dns_sans="web.example.org",
    token_policies=["reader"],
    token_ttl="1h",
)
assert method.list_certificate_roles()["data"]["keys"] == ["web"]
role = method.read_ca_certificate_role("web")["data"]
assert role["allowed_common_names"] == ["web.*"] and role["display_name"] == "web", role
assert role["token_ttl"] == 3600 and role["certificate"].startswith("-----BEGIN"), role

for named in [{}, {"name": "web"}]:
    machine, auth = login("web", **named)
    assert auth["metadata"]["cert_name"] == "web", auth
    assert auth["metadata"]["common_name"] == "web.example.org", auth
    assert auth["policies"] == ["default", "reader"] and auth["lease_duration"] == 3600, auth
    assert machine.secrets.kv.v1.read_secret("app")["data"] == {"k": "v"}
    machine.auth.token.renew_self()
    machine.auth.token.revoke_self()
    refused(exceptions.Forbidden, machine.auth.token.lookup_self)

refused(exceptions.InvalidRequest, login, "foreign")
refused(exceptions.InvalidRequest, login, "web", name="other")
refused(exceptions.InvalidRequest, connect().write_data, "auth/cert/login", data={"name": "web"})
method.delete_certificate_role("web")
refused(exceptions.InvalidPath, method.read_ca_certificate_role, "web")
refused(exceptions.InvalidRequest, login, "web")
