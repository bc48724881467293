"""What people do with hvac's identity module, against Daypass, and what a cloud does with identity tokens.

Run by identity.rs. ADDRESS, CA and TOKEN say where. PyJWT fetches the published keys and verifies: it
shares nothing with the server.
"""

import json
import os
import ssl

import hvac
import jwt
import requests
from hvac import exceptions

ADDRESS, CA = os.environ["ADDRESS"], os.environ["CA"]


def connect(token=None):
    return hvac.Client(url=ADDRESS, token=token, verify=CA)


def refused(error, call, *args, **named):
    try:
        answer = call(*args, **named)
    except error as raised:
        return str(raised)
    raise AssertionError(f"{call} was not refused: {answer}")


root = connect(os.environ["TOKEN"])
identity = root.secrets.identity
root.sys.enable_auth_method("userpass")
root.sys.enable_auth_method("userpass", path="people")
ACCESSOR = root.sys.list_auth_methods()["data"]["userpass/"]["accessor"]
OTHER = root.sys.list_auth_methods()["data"]["people/"]["accessor"]
TEMPLATE = """{"name": {{identity.entity.name}}, "team": {{identity.entity.metadata.team}},
 "groups": {{identity.entity.groups.names}}, "user": {{identity.entity.aliases.%s.name}}}"""


def rotate(key):
    # hvac's own rotate_named_key writes to the key itself.
    root.adapter.post(f"/v1/identity/oidc/key/{key}/rotate", json={"verification_ttl": "1h"})


def login(name):
    auth = root.auth.userpass
    auth.create_or_update_user(name, password="a good password", policies=["tokens"])
    client = connect()
    return client, client.auth.userpass.login(name, "a good password")["auth"]


def entities():
    made = identity.create_or_update_entity("web", metadata={"team": "a"}, policies=["one", "two"])
    web = made["data"]["id"]
    assert made["data"] == {"aliases": None, "id": web, "name": "web"}, made
    assert identity.create_or_update_entity("web", metadata={"team": "b"}).status_code == 204
    shown = identity.read_entity(web)["data"]
    assert shown["metadata"] == {"team": "b"} and shown["policies"] == ["one", "two"], shown
    assert shown["namespace_id"] == "root" and not shown["disabled"], shown
    assert shown["aliases"] == [] and shown["merged_entity_ids"] is None, shown
    for field in ["creation_time", "last_update_time", "direct_group_ids", "group_ids", "inherited_group_ids"]:
        assert field in shown, field
    assert identity.read_entity_by_name("WEB")["data"]["id"] == web
    identity.update_entity(web, name="web2")
    refused(exceptions.InvalidPath, identity.read_entity_by_name, "web")
    identity.create_or_update_entity_by_name("other", policies=["x"])
    assert "in use" in refused(exceptions.InvalidRequest, identity.update_entity, web, name="other")
    assert "root" in refused(
        exceptions.InvalidRequest, identity.create_or_update_entity, "bad", policies=["root"]
    )
    listed = identity.list_entities()["data"]
    assert web in listed["keys"] and listed["key_info"][web] == {"name": "web2"}, listed
    assert identity.list_entities(method="GET")["data"] == listed
    assert identity.list_entities_by_name()["data"]["keys"] == ["other", "web2"]
    assert identity.lookup_entity(name="web2")["data"]["id"] == web
    assert identity.lookup_entity(name="nobody").status_code == 204
    return web, identity.read_entity_by_name("other")["data"]["id"]


def aliases(web, other):
    made = identity.create_or_update_entity_alias("a", canonical_id=web, mount_accessor=ACCESSOR)
    alias = made["data"]["id"]
    assert made["data"] == {"canonical_id": web, "id": alias}, made
    shown = identity.read_entity_alias(alias)["data"]
    assert shown["mount_path"] == "auth/userpass/" and shown["mount_type"] == "userpass", shown
    assert shown["canonical_id"] == web and shown["local"] is False, shown
    text = refused(
        exceptions.InvalidRequest, identity.create_or_update_entity_alias, "b", web, ACCESSOR
    )
    assert "already exists" in text, text
    identity.update_entity_alias(alias, name="a2", canonical_id=other, mount_accessor=OTHER)
    assert identity.read_entity(web)["data"]["aliases"] == []
    found = identity.lookup_entity(alias_name="a2", alias_mount_accessor=OTHER)["data"]
    assert found["id"] == other and found["aliases"][0]["id"] == alias, found
    assert identity.list_entity_aliases()["data"]["key_info"][alias]["name"] == "a2"
    brief = identity.list_entities()["data"]["key_info"][other]["aliases"]
    assert brief[0]["mount_path"] == "auth/people/", brief
    identity.merge_entities(from_entity_ids=[other], to_entity_id=web)
    shown = identity.read_entity(web)["data"]
    assert shown["merged_entity_ids"] == [other], shown
    assert shown["aliases"][0]["merged_from_canonical_ids"] == [other], shown
    refused(exceptions.InvalidPath, identity.read_entity, other)
    identity.delete_entity_alias(alias)
    refused(exceptions.InvalidPath, identity.read_entity_alias, alias)


def groups(web):
    made = identity.create_or_update_group(
        "inner", metadata={"k": "v"}, policies=["in"], member_entity_ids=[web]
    )
    inner = made["data"]["id"]
    identity.create_or_update_group("outer", policies=["out"], member_group_ids=[inner])
    outer = identity.read_group_by_name("outer")["data"]
    assert outer["member_group_ids"] == [inner] and outer["type"] == "internal", outer
    assert outer["alias"] == {} and outer["member_entity_ids"] is None, outer
    assert identity.read_group(inner)["data"]["parent_group_ids"] == [outer["id"]]
    shown = identity.read_entity(web)["data"]
    assert shown["direct_group_ids"] == [inner], shown
    assert shown["inherited_group_ids"] == [outer["id"]], shown
    assert shown["group_ids"] == [inner, outer["id"]], shown
    text = refused(
        exceptions.InvalidRequest,
        identity.update_group,
        inner,
        "inner",
        member_group_ids=[outer["id"]],
    )
    assert "cyclic" in text, text
    listed = identity.list_groups()["data"]["key_info"][inner]
    assert listed == {"name": "inner", "num_member_entities": 1, "num_parent_groups": 1}, listed
    assert identity.list_groups_by_name()["data"]["keys"] == ["inner", "outer"]
    assert identity.lookup_group(name="inner")["data"]["id"] == inner
    external = identity.create_or_update_group("team", group_type="external", policies=["team"])
    external = external["data"]["id"]
    alias = identity.create_or_update_group_alias(
        "devs", mount_accessor=ACCESSOR, canonical_id=external
    )["data"]
    assert alias["canonical_id"] == external, alias
    shown = identity.read_group(external)["data"]["alias"]
    assert shown["name"] == "devs" and shown["mount_path"] == "auth/userpass/", shown
    identity.update_group_alias(alias["id"], "devs2", ACCESSOR, canonical_id=external)
    assert identity.read_group_alias(alias["id"])["data"]["name"] == "devs2"
    assert alias["id"] in identity.list_group_aliases()["data"]["keys"]
    identity.delete_group_alias(alias["id"])
    identity.delete_group(outer["id"])
    identity.delete_group_by_name("team")
    assert identity.list_groups_by_name()["data"]["keys"] == ["inner"]


def policies_of_an_entity_follow_at_once():
    client, auth = login("ann")
    assert auth["entity_id"] and auth["token_policies"] == ["default", "tokens"], auth
    assert auth["entity_id"] == client.auth.token.lookup_self()["data"]["entity_id"]
    refused(exceptions.Forbidden, client.sys.list_policies)
    root.sys.create_or_update_policy("lister", 'path "sys/policy" { capabilities = ["read"] }')
    made = identity.create_or_update_group("listers", policies=["lister"])["data"]["id"]
    identity.update_group(made, "listers", member_entity_ids=[auth["entity_id"]])
    assert "lister" in client.sys.list_policies()["data"]["policies"]
    again = login("ann")[1]
    assert again["entity_id"] == auth["entity_id"] and again["identity_policies"] == ["lister"], again
    identity.delete_group(made)
    refused(exceptions.Forbidden, client.sys.list_policies)
    identity.update_entity(auth["entity_id"], disabled=True)
    refused(exceptions.Forbidden, client.auth.token.lookup_self)
    refused(exceptions.Forbidden, connect().auth.userpass.login, "ann", "a good password")
    identity.update_entity(auth["entity_id"], disabled=False)
    refused(exceptions.Forbidden, client.auth.token.lookup_self)
    client, auth = login("ann")
    identity.delete_entity(auth["entity_id"])
    refused(exceptions.Forbidden, client.auth.token.lookup_self)
    assert login("ann")[1]["entity_id"] != auth["entity_id"]


def tokens():
    root.sys.create_or_update_policy(
        "tokens", 'path "identity/oidc/token/*" { capabilities = ["read"] }'
    )
    client, auth = login("bob")
    identity.update_entity(auth["entity_id"], metadata={"team": 'x", "admin": "y'})
    identity.create_or_update_group("ops", member_entity_ids=[auth["entity_id"]])
    name = identity.read_entity(auth["entity_id"])["data"]["name"]
    refused(exceptions.InvalidRequest, identity.configure_tokens_backend, issuer="nonsense")
    identity.configure_tokens_backend(issuer=ADDRESS)
    assert identity.read_tokens_backend_configuration()["data"]["issuer"] == ADDRESS
    described = requests.get(
        f"{ADDRESS}/v1/identity/oidc/.well-known/openid-configuration", verify=CA, timeout=60
    )
    assert described.headers["cache-control"] == "public, max-age=60", described.headers
    assert described.json() == identity.read_well_known_configurations(), described.text
    issuer, keys_url = described.json()["issuer"], described.json()["jwks_uri"]
    assert issuer == f"{ADDRESS}/v1/identity/oidc", issuer
    context = ssl.create_default_context(cafile=CA)

    def verified(token):
        # A new client each time: nothing kept.
        key = jwt.PyJWKClient(keys_url, ssl_context=context).get_signing_key_from_jwt(token)
        return jwt.decode(token, key, algorithms=[algorithm], audience="cloud", issuer=issuer)

    for algorithm in ["ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "EdDSA"]:
        role = algorithm.lower()
        identity.create_named_key(
            role, rotation_period="1h", verification_ttl="1h", allowed_client_ids="cloud",
            algorithm=algorithm,
        )
        shown = identity.read_named_key(role)["data"]
        assert shown == {
            "algorithm": algorithm,
            "allowed_client_ids": ["cloud"],
            "rotation_period": 3600,
            "verification_ttl": 3600,
        }, shown
        text = refused(exceptions.InvalidRequest, identity.create_or_update_role, role, role, ttl="2h")
        assert "verification_ttl" in text, text
        identity.create_or_update_role(
            role, role, template=TEMPLATE % ACCESSOR, client_id="cloud", ttl="10m"
        )
        made = client.secrets.identity.generate_signed_id_token(role)["data"]
        assert made["client_id"] == "cloud" and made["ttl"] == 600, made
        claims = verified(made["token"])
        assert claims["exp"] - claims["iat"] == 600, claims
        del claims["exp"], claims["iat"]
        assert claims == {
            "iss": issuer,
            "sub": auth["entity_id"],
            "aud": "cloud",
            "namespace": "root",
            "name": name,
            "team": 'x", "admin": "y',
            "groups": ["ops"],
            "user": "bob",
        }, claims
        rotate(role)
        verified(made["token"])
        after = client.secrets.identity.generate_signed_id_token(role)["data"]["token"]
        verified(after)
        kid = [jwt.get_unverified_header(token)["kid"] for token in (made["token"], after)]
        assert kid[0] != kid[1], kid
        rotate(role)

    token = after
    assert identity.introspect_signed_id_token(token) == {"active": True}
    assert identity.introspect_signed_id_token(token, "cloud")["active"]
    assert not identity.introspect_signed_id_token(token, "other")["active"]
    head, body, signature = token.split(".")
    forged = f"{head}.{body}.{'A' * len(signature)}"
    assert not identity.introspect_signed_id_token(forged)["active"]
    rotate("eddsa")
    text = refused(exceptions.InvalidRequest, identity.delete_named_key, "eddsa")
    assert "eddsa" in text, text
    assert "eddsa" in identity.list_named_keys()["data"]["keys"]
    assert identity.list_roles()["data"]["keys"] == sorted(
        ["es256", "es384", "es512", "rs256", "rs384", "rs512", "eddsa"]
    )
    identity.delete_role("eddsa")
    identity.delete_named_key("eddsa")
    refused(jwt.PyJWKClientError, verified, token)
    # Who has no entity is nobody to speak of.
    text = refused(exceptions.InvalidRequest, identity.generate_signed_id_token, "es256")
    assert "no entity" in text, text
    published = identity.read_active_public_keys()["keys"]
    assert not any("d" in key or "p" in key for key in published), json.dumps(published)
    identity.update_entity(auth["entity_id"], disabled=True)
    shown = identity.introspect_signed_id_token(made["token"])
    assert not shown["active"], shown


web, other = entities()
aliases(web, other)
groups(web)
policies_of_an_entity_follow_at_once()
tokens()
