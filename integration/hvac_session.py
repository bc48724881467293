"""hvac's modules from the first request to a server on. See session.py for what it needs.

hvac_jobs.py, hvac_operator.py and hvac_audit.py go deeper into what this session only passes by: secrets,
certificates, database users, policies, tokens, keys and audit devices.
"""

import os

import hvac
from hvac import exceptions

from session import ADDRESS, CA, CREATE, DAYPASS, POSTGRES, poll, psql, run, same


def connect(token=None):
    return hvac.Client(url=ADDRESS, token=token, verify=CA or True)


def refused(error, call, *args, **named):
    try:
        answer = call(*args, **named)
    except error as raised:
        return raised
    raise AssertionError(f"{call} was not refused: {answer}")


def is_out(client):
    return not client.is_authenticated()


anyone, root = connect(), connect()
keys = []


def init():
    assert not anyone.sys.is_initialized() and anyone.sys.is_sealed()
    assert anyone.sys.read_init_status() == {"initialized": False}
    assert anyone.sys.read_health_status().status_code == 501
    refused(exceptions.InvalidRequest, anyone.sys.initialize, secret_shares=2, secret_threshold=3)
    made = anyone.sys.initialize(secret_shares=3, secret_threshold=2)
    assert len(made["keys"]) == len(made["keys_base64"]) == 3, made
    keys.extend(made["keys"])
    root.token = made["root_token"]
    assert anyone.sys.is_initialized() and anyone.sys.is_sealed()
    assert anyone.sys.read_health_status().status_code == 503
    same(anyone.sys.submit_unseal_key(keys[0]), sealed=True, progress=1, t=2, n=3)
    same(anyone.sys.submit_unseal_keys(keys[1:]), sealed=False)
    health = anyone.sys.read_health_status(method="GET")
    same(health, initialized=True, sealed=False, standby=False)
    assert root.is_authenticated() and not anyone.is_authenticated()
    assert root.sys.read_leader_status()["ha_enabled"] is False
    assert root.sys.get_encryption_key_status()["data"]["term"] == 1


def policies():
    text = 'path "secret/data/*" { capabilities = ["read"] }'
    root.sys.create_or_update_policy("reader", text)
    assert root.sys.read_policy("reader")["data"]["rules"] == text
    listed = root.sys.list_policies()["data"]["policies"]
    assert sorted(listed) == ["default", "reader", "root"], listed
    root.sys.create_or_update_acl_policy("writer", {"path": {"secret/*": {"capabilities": ["create", "update"]}}})
    assert "secret/*" in root.sys.read_acl_policy("writer")["data"]["policy"]
    listed = root.sys.list_acl_policies()["data"]["keys"]
    assert sorted(listed) == ["default", "reader", "root", "writer"], listed
    root.sys.delete_acl_policy("writer")
    refused(exceptions.InvalidPath, root.sys.read_acl_policy, "writer")
    root.sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
    root.secrets.kv.v2.create_or_update_secret("app", {"k": "v"})
    found = root.sys.get_capabilities(["secret/data/app"])
    assert found["data"]["secret/data/app"] == ["root"], found


def reads(auth):
    """A client of this login, which must be able to read what `reader` opens."""
    client = connect(auth["client_token"])
    read = client.secrets.kv.v2.read_secret_version("app", raise_on_deleted_version=True)
    assert read["data"]["data"] == {"k": "v"}
    return client


def approle():
    root.sys.enable_auth_method("approle", description="machines", config={"default_lease_ttl": "1h"})
    same(root.sys.list_auth_methods()["data"]["approle/"], type="approle", description="machines")
    api = root.auth.approle
    api.create_or_update_approle(
        "app", token_policies=["reader"], token_ttl="10m", token_max_ttl="1h", secret_id_num_uses=3, secret_id_ttl="1h"
    )
    same(api.read_role("app")["data"], token_policies=["reader"], token_ttl=600, secret_id_num_uses=3, bind_secret_id=True)
    assert api.list_roles()["data"]["keys"] == ["app"]
    api.update_role_id("app", "known")
    assert api.read_role_id("app")["data"]["role_id"] == "known"
    made = api.generate_secret_id("app", metadata={"job": "7"}, cidr_list=["127.0.0.1/32"])["data"]
    secret_id, accessor = made["secret_id"], made["secret_id_accessor"]
    assert api.list_secret_id_accessors("app")["data"]["keys"] == [accessor]
    same(api.read_secret_id("app", secret_id)["data"], metadata={"job": "7"}, cidr_list=["127.0.0.1/32"])
    same(api.read_secret_id_accessor("app", accessor)["data"], secret_id_accessor=accessor, secret_id_num_uses=3)
    login = connect()
    auth = login.auth.approle.login("known", secret_id)["auth"]
    same(
        auth,
        policies=["default", "reader"],
        token_policies=["default", "reader"],
        lease_duration=600,
        renewable=True,
        token_type="service",
        orphan=True,
        num_uses=0,
        metadata={"role_name": "app", "job": "7"},
    )
    # hvac uses the login's token from here on.
    assert login.token == auth["client_token"]
    client = reads(auth)
    same(client.auth.token.renew_self(increment="5m")["auth"], lease_duration=300)
    refused(exceptions.InvalidRequest, anyone.auth.approle.login, "known", "wrong", use_token=False)
    refused(exceptions.InvalidRequest, anyone.auth.approle.login, "unknown", secret_id, use_token=False)
    api.destroy_secret_id("app", secret_id)
    refused(exceptions.InvalidRequest, anyone.auth.approle.login, "known", secret_id, use_token=False)
    made = api.create_custom_secret_id("app", "by-hand")["data"]
    reads(anyone.auth.approle.login("known", "by-hand", use_token=False)["auth"])
    api.destroy_secret_id_accessor("app", made["secret_id_accessor"])
    refused(exceptions.InvalidRequest, anyone.auth.approle.login, "known", "by-hand", use_token=False)
    # A secret id that nobody but its machine sees.
    wrapped = api.generate_secret_id("app", wrap_ttl="60s")["wrap_info"]
    opened = connect(wrapped["token"]).sys.unwrap()["data"]
    reads(anyone.auth.approle.login("known", opened["secret_id"], use_token=False)["auth"])
    api.delete_role("app")
    refused(exceptions.InvalidPath, api.read_role, "app")
    refused(exceptions.InvalidRequest, anyone.auth.approle.login, "known", opened["secret_id"], use_token=False)


def userpass():
    root.sys.enable_auth_method("userpass", path="people")
    api = root.auth.userpass
    api.create_or_update_user("ann", "first", policies="reader", mount_point="people")
    assert "password" not in api.read_user("ann", mount_point="people")["data"]
    assert api.list_user(mount_point="people")["data"]["keys"] == ["ann"]
    auth = anyone.auth.userpass.login("ann", "first", use_token=False, mount_point="people")["auth"]
    same(auth, policies=["default", "reader"], metadata={"username": "ann"})
    ann = reads(auth)
    same(ann.auth.token.lookup_self()["data"], display_name="people-ann", path="auth/people/login/ann")
    api.update_password_on_user("ann", "second", mount_point="people")
    login = anyone.auth.userpass.login
    refused(exceptions.InvalidRequest, login, "ann", "first", use_token=False, mount_point="people")
    login("ann", "second", use_token=False, mount_point="people")
    api.delete_user("ann", mount_point="people")
    refused(exceptions.InvalidRequest, login, "ann", "second", use_token=False, mount_point="people")

    root.sys.tune_auth_method("people", default_lease_ttl="10m", max_lease_ttl="20m", description="tuned")
    same(root.sys.read_auth_method_tuning("people")["data"], default_lease_ttl=600, max_lease_ttl=1200, description="tuned")
    root.sys.disable_auth_method("people")
    assert "people/" not in root.sys.list_auth_methods()["data"]
    poll("who came in through it is out", lambda: is_out(ann))


def tokens():
    api = root.auth.token
    api.create_or_update_role("ci", allowed_policies=["reader"], orphan=True, renewable=False, path_suffix="ci-jobs", token_period="10m")
    same(api.read_role("ci")["data"], name="ci", allowed_policies=["reader"], orphan=True, renewable=False, token_period=600)
    assert api.list_roles()["data"]["keys"] == ["ci"]
    auth = api.create(policies=["reader"], role_name="ci", no_default_policy=True)["auth"]
    same(auth, policies=["reader"], orphan=True, renewable=False, lease_duration=600)
    reads(auth)
    refused(exceptions.InvalidRequest, api.create, policies=["root"], role_name="ci")
    refused(exceptions.InvalidRequest, api.create, role_name="none")
    batch = api.create(policies=["reader"], type="batch", ttl="5m")["auth"]
    same(batch, token_type="batch", renewable=False, accessor="", orphan=False)
    reads(batch)
    refused(exceptions.InvalidRequest, connect(batch["client_token"]).auth.token.renew_self)
    parent = connect(api.create(policies=["root"], ttl="1h")["auth"]["client_token"])
    child = connect(parent.auth.token.create(ttl="1h")["auth"]["client_token"])
    root.auth.token.revoke_and_orphan_children(parent.token)
    assert is_out(parent) and child.lookup_token()["data"]["orphan"] is True
    child.logout(revoke_token=True)
    root.auth.token.tidy()
    api.delete_role("ci")
    refused(exceptions.InvalidPath, api.read_role, "ci")


def wrapping():
    wrapped = root.sys.wrap(payload={"a": "b"}, ttl=90)["wrap_info"]
    same(wrapped, ttl=90, creation_path="sys/wrapping/wrap")
    same(root.write_data("sys/wrapping/lookup", data={"token": wrapped["token"]})["data"], creation_ttl=90)
    again = root.write_data("sys/wrapping/rewrap", data={"token": wrapped["token"]})["wrap_info"]
    refused(exceptions.InvalidRequest, root.sys.unwrap, wrapped["token"])
    # With the wrapping token as the caller's own.
    assert connect(again["token"]).sys.unwrap()["data"] == {"a": "b"}
    refused(exceptions.InvalidRequest, root.sys.unwrap, again["token"])
    token = root.auth.token.create(policies=["reader"], ttl="1h", wrap_ttl="1m")
    assert token["auth"] is None and token["wrap_info"]["wrapped_accessor"], token
    reads(root.sys.unwrap(token["wrap_info"]["token"])["auth"])
    root.write_data("cubbyhole/note", data={"k": "v"})
    assert root.read("cubbyhole/note")["data"] == {"k": "v"}
    root.delete("cubbyhole/note")


def leases():
    root.sys.enable_secrets_engine("database")
    api = root.secrets.database
    admin, secret = os.environ["PGUSER"], os.environ["PGPASSWORD"]
    api.configure("pg", plugin_name="postgresql-database-plugin", connection_url=POSTGRES, allowed_roles="*",
                  username=admin, password=secret)
    api.create_role("app", "pg", [CREATE], default_ttl="1h", max_ttl="2h")
    same(api.read_role("app")["data"], db_name="pg", default_ttl=3600)
    made = [api.generate_credentials("app") for _ in range(3)]
    same(root.sys.renew_lease(made[0]["lease_id"], increment=300), lease_duration=300)
    same(root.sys.read_lease(made[0]["lease_id"])["data"], id=made[0]["lease_id"], renewable=True)
    root.sys.revoke_lease(made[0]["lease_id"])
    login = lambda made: psql(made["data"]["username"], made["data"]["password"])
    assert login(made[0]) is None and login(made[1])
    root.sys.revoke_prefix("database/creds/app")
    poll("revoked by prefix", lambda: login(made[1]) is None and login(made[2]) is None)
    api.reset_connection("pg")
    last = api.generate_credentials("app")
    root.sys.revoke_force("database/creds/app")
    refused(exceptions.InvalidRequest, root.sys.read_lease, last["lease_id"])
    api.delete_role("app")
    api.delete_connection("pg")
    root.sys.disable_secrets_engine("database")


def quotas():
    root.sys.enable_secrets_engine("kv", path="limited", options={"version": "1"})
    root.sys.create_or_update_quota("slow", rate=2, path="limited", interval="1h")
    same(root.sys.read_quota("slow")["data"], name="slow", rate=2, interval=3600, type="rate-limit")
    assert root.sys.list_quotas()["data"]["keys"] == ["slow"]
    # hvac looks first whether there is a secret: two requests.
    root.secrets.kv.v1.create_or_update_secret("a", {"k": "v"}, mount_point="limited")
    refused(exceptions.RateLimitExceeded, root.secrets.kv.v1.read_secret, "a", mount_point="limited")
    root.sys.delete_quota("slow")
    root.secrets.kv.v1.read_secret("a", mount_point="limited")
    refused(exceptions.InvalidPath, root.sys.read_quota, "slow")


def what_is_not_there():
    """Enterprise's and others' features answer an error that hvac knows."""
    if DAYPASS:
        refused(exceptions.VaultError, root.sys.create_namespace, "team")
    refused(exceptions.VaultError, root.sys.list_egp_policies)
    refused(exceptions.VaultError, root.sys.read_raft_config)
    refused(exceptions.VaultError, root.sys.enable_secrets_engine, "gcp")
    refused(exceptions.VaultError, root.sys.enable_auth_method, "github")


def seal():
    root.sys.seal()
    refused(exceptions.VaultDown, root.auth.token.lookup_self)
    same(anyone.sys.submit_unseal_keys(keys[:2]), sealed=False)
    poll("it serves again", lambda: reads({"client_token": root.token}))


run((init, policies, approle, userpass, tokens, wrapping, leases, quotas, what_is_not_there, seal))
