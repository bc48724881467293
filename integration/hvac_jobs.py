"""What people do with hvac, against Daypass: the three jobs, and what lies around them.

Run by clients.rs. ADDRESS, CA, TOKEN and KEYS (unseal keys, comma separated) say where; PGPORT, PGUSER
and PGPASSWORD name the PostgreSQL server. Every step asserts what a program built on Vault relies on.
"""

import os
import subprocess
import time
import traceback

import hvac
from hvac import exceptions

ADDRESS, CA = os.environ["ADDRESS"], os.environ["CA"]
KEYS = os.environ["KEYS"].split(",")
PATIENCE = 60


def connect(token=None):
    return hvac.Client(url=ADDRESS, token=token, verify=CA)


root = connect(os.environ["TOKEN"])


def refused(error, call, *args, **named):
    try:
        answer = call(*args, **named)
    except error as raised:
        return raised
    raise AssertionError(f"{call} was not refused: {answer}")


def poll(what, ask):
    deadline = time.monotonic() + PATIENCE
    while not ask():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def token_of(**wish):
    return connect(root.auth.token.create(**wish)["auth"]["client_token"])


def psql(user, password, sql="SELECT current_user"):
    environment = {
        **os.environ,
        "PGUSER": user,
        "PGPASSWORD": password,
        "PGHOST": "127.0.0.1",
        "PGDATABASE": "postgres",
        "PGSSLMODE": "disable",
    }
    done = subprocess.run(
        ["psql", "-XtAc", sql], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    return done.stdout.strip() if done.returncode == 0 else None


def kv_v2():
    root.sys.enable_secrets_engine("kv", path="secret", options={"version": "2"}, description="kept")
    kv = root.secrets.kv.v2
    written = kv.create_or_update_secret("app/db", {"user": "a", "password": "one"})
    assert written["data"]["version"] == 1, written
    assert kv.create_or_update_secret("app/db", {"password": "two"}, cas=1)["data"]["version"] == 2
    refused(exceptions.InvalidRequest, kv.create_or_update_secret, "app/db", {}, cas=1)
    assert kv.patch("app/db", {"extra": "three"})["data"]["version"] == 3
    read = kv.read_secret_version("app/db", raise_on_deleted_version=True)
    assert read["data"]["data"] == {"password": "two", "extra": "three"}, read
    assert read["data"]["metadata"]["version"] == 3
    first = kv.read_secret_version("app/db", version=1, raise_on_deleted_version=True)
    assert first["data"]["data"]["user"] == "a"

    kv.update_metadata("app/db", max_versions=5, custom_metadata={"owner": "ci"})
    metadata = kv.read_secret_metadata("app/db")["data"]
    assert metadata["current_version"] == 3 and sorted(metadata["versions"]) == ["1", "2", "3"]
    assert metadata["custom_metadata"] == {"owner": "ci"} and metadata["max_versions"] == 5

    kv.delete_secret_versions("app/db", [1])
    refused(
        exceptions.InvalidPath, kv.read_secret_version, "app/db", version=1, raise_on_deleted_version=True
    )
    kv.undelete_secret_versions("app/db", [1])
    kv.read_secret_version("app/db", version=1, raise_on_deleted_version=True)
    kv.destroy_secret_versions("app/db", [1])
    assert kv.read_secret_metadata("app/db")["data"]["versions"]["1"]["destroyed"] is True
    kv.delete_latest_version_of_secret("app/db")
    gone = kv.read_secret_version("app/db", raise_on_deleted_version=False)
    assert gone["data"]["data"] is None and gone["data"]["metadata"]["deletion_time"], gone

    assert kv.list_secrets("app")["data"]["keys"] == ["db"]
    assert kv.list_secrets("")["data"]["keys"] == ["app/"]
    kv.delete_metadata_and_all_versions("app/db")
    refused(exceptions.InvalidPath, kv.list_secrets, "app")
    kv.configure(max_versions=3, cas_required=True)
    assert kv.read_configuration("secret")["data"]["cas_required"] is True
    refused(exceptions.InvalidRequest, kv.create_or_update_secret, "x", {"a": "b"})
    kv.configure(max_versions=3, cas_required=False)


def kv_v1():
    root.sys.enable_secrets_engine("kv", path="plain", options={"version": "1"})
    kv = root.secrets.kv.v1
    kv.create_or_update_secret("a", {"k": "v"}, mount_point="plain")
    assert kv.read_secret("a", mount_point="plain")["data"] == {"k": "v"}
    assert kv.list_secrets("", mount_point="plain")["data"]["keys"] == ["a"]
    kv.delete_secret("a", mount_point="plain")
    refused(exceptions.InvalidPath, kv.read_secret, "a", mount_point="plain")
    # The unversioned way of reading and writing.
    root.write_data("plain/b", data={"k": "w"})
    assert root.read("plain/b")["data"] == {"k": "w"}
    assert root.list("plain")["data"]["keys"] == ["b"]
    root.delete("plain/b")
    assert root.read("plain/b") is None


def certificates():
    root.sys.enable_secrets_engine("pki", path="pki", config={"max_lease_ttl": "87600h"})
    pki = root.secrets.pki
    made = pki.generate_root("internal", "Test root", {"key_type": "ec", "ttl": "87600h"})
    ca = made["data"]["certificate"]
    assert pki.read_ca_certificate().strip() == ca.strip()
    role = {"allowed_domains": "example.org", "allow_subdomains": True, "key_type": "ec", "ttl": "1h"}
    pki.create_or_update_role("web", role)
    assert pki.list_roles()["data"]["keys"] == ["web"]
    assert pki.read_role("web")["data"]["allowed_domains"] == ["example.org"]

    issued = pki.generate_certificate("web", "a.example.org", {"ttl": "10m"})["data"]
    for field in ("certificate", "issuing_ca", "ca_chain", "private_key", "private_key_type"):
        assert issued[field], field
    assert abs(issued["expiration"] - time.time() - 600) < 60, issued["expiration"]
    with open("ca.crt", "w") as file:
        file.write(issued["issuing_ca"])
    with open("web.crt", "w") as file:
        file.write(issued["certificate"])
    subprocess.run(["openssl", "verify", "-CAfile", "ca.crt", "web.crt"], check=True)
    refused(exceptions.InvalidRequest, pki.generate_certificate, "web", "a.example.net")

    serial = issued["serial_number"]
    assert serial in pki.list_certificates()["data"]["keys"]
    assert pki.read_certificate(serial)["data"]["certificate"].strip() == issued["certificate"].strip()
    assert pki.revoke_certificate(serial)["data"]["revocation_time"] > 0
    with open("crl.pem", "w") as file:
        file.write(pki.read_crl())
    check = ["openssl", "verify", "-crl_check", "-CRLfile", "crl.pem", "-CAfile", "ca.crt", "web.crt"]
    assert b"revoked" in subprocess.run(check, capture_output=True).stderr


def database():
    root.sys.enable_secrets_engine("database", path="database")
    admin, secret = os.environ["PGUSER"], os.environ["PGPASSWORD"]
    root.secrets.database.configure(
        "pg",
        plugin_name="postgresql-database-plugin",
        connection_url="postgresql://{{username}}:{{password}}@127.0.0.1:"
        + os.environ["PGPORT"]
        + "/postgres?sslmode=disable",
        allowed_roles=["app", "short"],
        username=admin,
        password=secret,
    )
    connection = root.secrets.database.read_connection("pg")["data"]
    assert secret not in str(connection), connection
    assert root.secrets.database.list_connections()["data"]["keys"] == ["pg"]
    create = ["CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"]
    for name, ttl in (("app", "1h"), ("short", "2s")):
        root.secrets.database.create_role(name, "pg", create, default_ttl=ttl, max_ttl="2h")
    assert root.secrets.database.list_roles()["data"]["keys"] == ["app", "short"]

    issued = root.secrets.database.generate_credentials("app")
    assert issued["lease_id"].startswith("database/creds/app/") and issued["renewable"] is True
    assert issued["lease_duration"] == 3600, issued["lease_duration"]
    user, password = issued["data"]["username"], issued["data"]["password"]
    assert psql(user, password) == user

    lease = issued["lease_id"]
    looked = root.sys.read_lease(lease)["data"]
    assert looked["id"] == lease and looked["renewable"] is True and 3500 < looked["ttl"] <= 3600
    assert looked["expire_time"] and looked["issue_time"] and looked["last_renewal"] is None
    renewed = root.sys.renew_lease(lease, increment=120)
    assert renewed["lease_id"] == lease and renewed["lease_duration"] == 120, renewed
    assert root.sys.read_lease(lease)["data"]["ttl"] <= 120
    listed = root.sys.list_leases("database/creds/app")["data"]["keys"]
    assert listed == [lease.rsplit("/", 1)[1]]
    assert root.sys.list_leases("database/creds")["data"]["keys"] == ["app/"]
    root.sys.revoke_lease(lease)
    assert psql(user, password) is None, "a revoked user logs in"
    refused(exceptions.InvalidRequest, root.sys.read_lease, lease)
    refused(exceptions.InvalidPath, root.sys.list_leases, "database/creds/app")

    # A lease that ends by itself takes its user along.
    issued = root.secrets.database.generate_credentials("short")["data"]
    assert psql(issued["username"], issued["password"]) == issued["username"]
    exists = f"SELECT count(*) FROM pg_roles WHERE rolname = '{issued['username']}'"
    poll("the user is gone when its lease ends", lambda: psql(admin, secret, exists) == "0")

    # A token takes what it was issued along.
    child = token_of(policies=["root"], ttl="1h")
    issued = child.secrets.database.generate_credentials("app")["data"]
    child.auth.token.revoke_self()
    exists = f"SELECT count(*) FROM pg_roles WHERE rolname = '{issued['username']}'"
    poll("the user is gone with its token", lambda: psql(admin, secret, exists) == "0")

    for _ in range(3):
        root.secrets.database.generate_credentials("app")
    root.sys.revoke_prefix("database/creds/app")
    count = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'"
    poll("revoked by prefix", lambda: psql(admin, secret, count) == "0")
    refused(exceptions.InvalidRequest, root.secrets.database.create_role, "x", "pg", [], default_ttl="x")
    refused(exceptions.InvalidRequest, root.secrets.database.generate_credentials, "unknown")


def tokens():
    wish = {"policies": ["reader"], "ttl": "1h", "display_name": "ci", "meta": {"job": "7"}, "num_uses": 20}
    made = root.auth.token.create(**wish)["auth"]
    for field in ("client_token", "accessor", "policies", "token_policies", "metadata", "lease_duration"):
        assert field in made, field
    assert made["policies"] == ["default", "reader"] and made["lease_duration"] == 3600
    assert made["renewable"] is True and made["token_type"] == "service" and made["orphan"] is False
    assert made["num_uses"] == 20 and made["metadata"] == {"job": "7"}, made
    assert made["entity_id"] == "" and made["mfa_requirement"] is None

    child = connect(made["client_token"])
    assert child.is_authenticated()
    own = child.auth.token.lookup_self()["data"]
    assert own["id"] == made["client_token"] and own["accessor"] == made["accessor"]
    assert own["display_name"] == "token-ci" and own["meta"] == {"job": "7"}
    assert own["path"] == "auth/token/create" and own["type"] == "service"
    assert own["creation_ttl"] == 3600 and 3500 < own["ttl"] <= 3600 and own["num_uses"] < 20
    looked = root.auth.token.lookup(made["client_token"])["data"]
    assert looked["accessor"] == made["accessor"]
    by_accessor = root.auth.token.lookup_accessor(made["accessor"])["data"]
    assert by_accessor["id"] == "" and by_accessor["display_name"] == "token-ci"
    assert made["accessor"] in root.auth.token.list_accessors()["data"]["keys"]

    assert child.auth.token.renew_self(increment="30m")["auth"]["lease_duration"] == 1800
    assert root.auth.token.renew(made["client_token"], increment="2h")["auth"]["lease_duration"] == 7200
    assert root.auth.token.renew_accessor(made["accessor"], increment="1h")["auth"]["client_token"] == ""
    # Without an increment a renewal gives the first period again.
    assert child.auth.token.renew_self()["auth"]["lease_duration"] == 3600

    grandchild = connect(token_of(policies=["root"]).auth.token.create(ttl="1h")["auth"]["client_token"])
    assert grandchild.is_authenticated()
    root.auth.token.revoke_accessor(made["accessor"])
    assert not child.is_authenticated()
    refused(exceptions.Forbidden, child.auth.token.lookup_self)
    refused(exceptions.Forbidden, root.auth.token.lookup, made["client_token"])
    refused(exceptions.Forbidden, connect("hvs.nonsense").auth.token.lookup_self)

    parent = token_of(policies=["root"], ttl="1h")
    below = connect(parent.auth.token.create(ttl="1h")["auth"]["client_token"])
    orphan = connect(parent.auth.token.create_orphan(ttl="1h")["auth"]["client_token"])
    assert orphan.auth.token.lookup_self()["data"]["orphan"] is True
    root.auth.token.revoke(parent.token)
    poll("a child goes with its parent", lambda: not below.is_authenticated())
    assert orphan.is_authenticated()
    orphan.auth.token.revoke_self()

    limited = token_of(policies=["default"], num_uses=2)
    limited.auth.token.lookup_self()
    limited.auth.token.lookup_self()
    refused(exceptions.Forbidden, limited.auth.token.lookup_self)

    periodic = token_of(policies=["default"], period="90s")
    assert periodic.auth.token.lookup_self()["data"]["period"] == 90
    assert periodic.auth.token.renew_self()["auth"]["lease_duration"] == 90
    batch = root.auth.token.create(type="batch", policies=["default"], ttl="1h")["auth"]
    assert batch["token_type"] == "batch" and batch["accessor"] == "" and batch["renewable"] is False
    assert connect(batch["client_token"]).auth.token.lookup_self()["data"]["type"] == "batch"


def policies():
    rules = 'path "secret/data/app/*" { capabilities = ["read"] }\npath "secret/data/app/no" { capabilities = ["deny"] }'
    root.sys.create_or_update_policy("reader", rules)
    assert root.sys.read_policy("reader")["rules"] == rules
    assert {"default", "reader", "root"} <= set(root.sys.list_policies()["policies"])
    root.sys.create_or_update_acl_policy("other", rules)
    assert root.sys.read_acl_policy("other")["data"]["policy"] == rules
    assert "other" in root.sys.list_acl_policies()["data"]["keys"]
    root.sys.delete_acl_policy("other")
    refused(exceptions.InvalidPath, root.sys.read_acl_policy, "other")
    refused(exceptions.InvalidRequest, root.sys.create_or_update_policy, "bad", "path {")
    refused(exceptions.InvalidRequest, root.sys.delete_policy, "root")

    reader = token_of(policies=["reader"], ttl="1h")
    root.secrets.kv.v2.create_or_update_secret("app/a", {"k": "v"})
    root.secrets.kv.v2.create_or_update_secret("app/no", {"k": "v"})
    kv = reader.secrets.kv.v2
    assert kv.read_secret_version("app/a", raise_on_deleted_version=True)["data"]["data"] == {"k": "v"}
    for call, args in (
        (kv.read_secret_version, ("app/no", None, "secret", True)),
        (kv.create_or_update_secret, ("app/a", {"k": "w"})),
        (kv.list_secrets, ("app",)),
        (reader.sys.list_mounted_secrets_engines, ()),
        (reader.sys.seal, ()),
        (reader.read, ("nowhere/at/all",)),
    ):
        refused(exceptions.Forbidden, call, *args)
    paths = ["secret/data/app/a", "secret/data/app/no", "sys/seal"]
    found = reader.sys.get_capabilities(paths)
    assert found["data"]["secret/data/app/a"] == ["read"], found
    assert found["data"]["secret/data/app/no"] == ["deny"] and found["data"]["sys/seal"] == ["deny"]
    assert root.sys.get_capabilities(["any"])["data"]["any"] == ["root"]
    assert root.sys.get_capabilities(paths, token=reader.token)["data"] == found["data"]
    accessor = reader.auth.token.lookup_self()["data"]["accessor"]
    assert root.sys.get_capabilities(paths, accessor=accessor)["data"] == found["data"]


def mounts():
    mounted = root.sys.list_mounted_secrets_engines()["data"]
    assert mounted["secret/"]["type"] == "kv" and mounted["secret/"]["options"]["version"] == "2"
    assert mounted["secret/"]["description"] == "kept" and mounted["secret/"]["accessor"]
    assert mounted["sys/"]["type"] == "system"
    assert "token/" in root.sys.list_auth_methods()["data"]
    root.sys.enable_secrets_engine("kv", path="team/kv", options={"version": "2"})
    root.sys.tune_mount_configuration("team/kv", default_lease_ttl="1h", max_lease_ttl="2h", description="t")
    tuned = root.sys.read_mount_configuration("team/kv")["data"]
    assert (tuned["default_lease_ttl"], tuned["max_lease_ttl"]) == (3600, 7200), tuned
    refused(exceptions.InvalidRequest, root.sys.enable_secrets_engine, "kv", path="team/kv")
    refused(exceptions.InvalidRequest, root.sys.enable_secrets_engine, "nonsense", path="n")
    root.secrets.kv.v2.create_or_update_secret("a", {"k": "v"}, mount_point="team/kv")
    root.sys.move_backend("team/kv", "moved")
    poll("moved", lambda: "moved/" in root.sys.list_mounted_secrets_engines()["data"])
    moved = root.secrets.kv.v2.read_secret_version("a", mount_point="moved", raise_on_deleted_version=True)
    assert moved["data"]["data"] == {"k": "v"}
    root.sys.disable_secrets_engine("moved")
    assert "moved/" not in root.sys.list_mounted_secrets_engines()["data"]
    refused(exceptions.InvalidPath, root.secrets.kv.v2.list_secrets, "", mount_point="moved")


def seal():
    anyone = connect()
    assert anyone.sys.is_initialized() and not anyone.sys.is_sealed()
    health = anyone.sys.read_health_status(method="GET")
    assert health["initialized"] is True and health["sealed"] is False and health["standby"] is False
    assert anyone.sys.read_health_status().status_code == 200
    assert anyone.sys.read_leader_status()["ha_enabled"] in (True, False)
    status = anyone.sys.read_seal_status()
    assert (status["t"], status["n"], status["progress"]) == (2, 3, 0) and status["type"] == "shamir"
    refused(exceptions.Forbidden, anyone.sys.seal)

    root.sys.seal()
    assert anyone.sys.is_sealed()
    assert anyone.sys.read_health_status().status_code == 503
    refused(exceptions.VaultDown, root.auth.token.lookup_self)
    assert anyone.sys.submit_unseal_key(KEYS[0])["progress"] == 1
    assert anyone.sys.submit_unseal_key(reset=True)["progress"] == 0
    opened = anyone.sys.submit_unseal_keys(KEYS[:2])
    assert opened["sealed"] is False, opened
    assert root.auth.token.lookup_self()["data"]["policies"] == ["root"]
    refused(exceptions.InvalidRequest, anyone.sys.initialize)
    before = root.read("sys/key-status")["data"]["term"]
    root.sys.rotate_encryption_key()
    assert root.read("sys/key-status")["data"]["term"] == before + 1


JOBS = (kv_v2, kv_v1, certificates, database, policies, tokens, mounts, seal)
failed = 0
for job in JOBS:
    try:
        job()
        print("passed", job.__name__)
    except Exception as error:  # Every job is run, so that one run shows all that differs.
        failed += 1
        print("FAILED", job.__name__, repr(error))
        traceback.print_exc()
raise SystemExit(1 if failed else 0)
