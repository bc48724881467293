"""What programs and people do with hvac to log in, against Daypass. Run by logins.rs.

ADDRESS, CA and TOKEN say where. Every step asserts what a program built on Vault relies on.
"""

import os

import hvac
from hvac import exceptions

ADDRESS, CA = os.environ["ADDRESS"], os.environ["CA"]


def connect(token=None):
    return hvac.Client(url=ADDRESS, token=token, verify=CA)


def refused(error, call, *args, **named):
    try:
        answer = call(*args, **named)
    except error as raised:
        return raised
    raise AssertionError(f"{call} was not refused: {answer}")


root = connect(os.environ["TOKEN"])
root.sys.create_or_update_policy("reader", 'path "secret/*" { capabilities = ["read"] }')
root.sys.enable_secrets_engine("kv", path="secret", options={"version": "1"})
root.secrets.kv.v1.create_or_update_secret("app", {"k": "v"})


def approle():
    root.sys.enable_auth_method("approle")
    role = root.auth.approle
    role.create_or_update_approle(
        "web",
        token_policies=["reader"],
        token_ttl="1h",
        secret_id_num_uses=10,
        secret_id_ttl="1h",
        token_bound_cidrs=["127.0.0.0/8"],
    )
    assert role.list_roles()["data"]["keys"] == ["web"]
    shown = role.read_role("web")["data"]
    assert shown["token_policies"] == ["reader"] and shown["token_ttl"] == 3600, shown
    role_id = role.read_role_id("web")["data"]["role_id"]
    made = role.generate_secret_id("web", metadata={"team": "web"}, cidr_list=["127.0.0.1/32"])["data"]
    secret_id, accessor = made["secret_id"], made["secret_id_accessor"]
    assert (made["secret_id_num_uses"], made["secret_id_ttl"]) == (10, 3600), made
    app = connect()
    auth = app.auth.approle.login(role_id, secret_id)["auth"]
    assert auth["metadata"] == {"role_name": "web", "team": "web"}, auth
    assert auth["policies"] == ["default", "reader"] and auth["renewable"], auth
    assert app.secrets.kv.v1.read_secret("app")["data"] == {"k": "v"}
    own = app.auth.token.lookup_self()["data"]
    assert own["path"] == "auth/approle/login" and own["display_name"] == "approle", own
    assert own["meta"] == auth["metadata"] and own["bound_cidrs"] == ["127.0.0.0/8"], own
    # A renewal asks the role as it is now.
    role.create_or_update_approle("web", token_ttl="2h")
    assert app.auth.token.renew_self()["auth"]["lease_duration"] == 7200

    looked_up = role.read_secret_id("web", secret_id)["data"]
    assert looked_up["secret_id_num_uses"] == 9 and looked_up["cidr_list"] == ["127.0.0.1/32"]
    assert role.read_secret_id_accessor("web", accessor)["data"] == looked_up
    assert role.list_secret_id_accessors("web")["data"]["keys"] == [accessor]
    refused(exceptions.InvalidRequest, role.generate_secret_id, "web", cidr_list=["nonsense"])
    refused(exceptions.InvalidPath, role.generate_secret_id, "none")
    role.destroy_secret_id_accessor("web", accessor)
    said = refused(exceptions.InvalidRequest, connect().auth.approle.login, role_id, secret_id)
    assert "invalid role or secret ID" in str(said)
    custom = role.create_custom_secret_id("web", "a secret of one's own")["data"]
    assert custom["secret_id"] == "a secret of one's own"
    role.update_role_id("web", "web-role")
    connect().auth.approle.login("web-role", custom["secret_id"])
    role.destroy_secret_id("web", custom["secret_id"])
    refused(exceptions.InvalidRequest, connect().auth.approle.login, "web-role", custom["secret_id"])

    # Delivered wrapped, a secret id is opened once, by whoever is to use it.
    wrap = role.generate_secret_id("web", wrap_ttl="5m")["wrap_info"]
    opened = connect(wrap["token"]).sys.unwrap()["data"]
    refused(exceptions.InvalidRequest, connect(wrap["token"]).sys.unwrap)
    connect().auth.approle.login("web-role", opened["secret_id"])

    role.delete_role("web")
    refused(exceptions.InvalidPath, role.read_role, "web")
    refused(exceptions.InvalidRequest, connect().auth.approle.login, "web-role", opened["secret_id"])
    refused(exceptions.InvalidRequest, app.auth.token.renew_self)


def userpass():
    root.sys.enable_auth_method("userpass", path="people")
    users = root.auth.userpass
    users.create_or_update_user("Ann", password="hunter2", policies="reader", mount_point="people")
    assert users.list_user(mount_point="people")["data"]["keys"] == ["ann"]
    shown = users.read_user("ann", mount_point="people")["data"]
    assert shown["policies"] == shown["token_policies"] == ["reader"], shown
    ann = connect()
    auth = ann.auth.userpass.login("ANN", "hunter2", mount_point="people")["auth"]
    assert auth["metadata"] == {"username": "ann"} and auth["policies"] == ["default", "reader"], auth
    assert ann.auth.token.lookup_self()["data"]["display_name"] == "people-ann"
    assert ann.secrets.kv.v1.read_secret("app")["data"] == {"k": "v"}
    users.update_password_on_user("ann", "hunter3", mount_point="people")
    said = []
    for name, password in [("ann", "hunter2"), ("nobody", "hunter2")]:
        login = connect().auth.userpass.login
        error = refused(exceptions.InvalidRequest, login, name, password, mount_point="people")
        said.append(error.errors)
    assert said == [["invalid username or password"]] * 2, said
    connect().auth.userpass.login("ann", "hunter3", mount_point="people")
    # Guessing locks a name out, and no other.
    users.create_or_update_user("bob", password="hunter2", mount_point="people")
    login = connect().auth.userpass.login
    for _ in range(5):
        refused(exceptions.InvalidRequest, login, "bob", "guess", mount_point="people")
    refused(exceptions.Forbidden, login, "Bob", "hunter2", mount_point="people")
    connect().auth.userpass.login("ann", "hunter3", mount_point="people")
    users.delete_user("ann", mount_point="people")
    refused(exceptions.InvalidPath, users.read_user, "ann", mount_point="people")
    refused(exceptions.InvalidRequest, ann.auth.token.renew_self)


approle()
userpass()
