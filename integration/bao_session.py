"""A day with the `bao` command: init to seal. See session.py for what it needs."""

import json
import os
import re
import subprocess

from session import CREATE, DAYPASS, POSTGRES, Bao, poll, psql, run, same

anyone, root = Bao(), Bao()
keys = []


def write(name, text):
    with open(name, "w") as file:
        file.write(text)
    return name


def openssl(*words):
    return subprocess.run(["openssl", *words], check=True, capture_output=True, text=True).stdout


def init():
    anyone.exits(2, "operator init -status")
    sealed = anyone.json("status", code=2)
    same(sealed, initialized=False, sealed=True, type="shamir", t=0, n=0, progress=0)
    anyone.refuses("operator unseal abcd")
    anyone.refuses("operator init -key-shares=2 -key-threshold=3")
    made = anyone.json("operator init -key-shares=5 -key-threshold=3")
    same(made, unseal_shares=5, unseal_threshold=3)
    assert len(made["unseal_keys_b64"]) == len(made["unseal_keys_hex"]) == 5, made
    keys.extend(made["unseal_keys_b64"])
    root.token = made["root_token"]
    anyone.exits(0, "operator init -status")
    anyone.refuses("operator init", "already initialized")


def unseal():
    same(anyone.json("status", code=2), initialized=True, sealed=True, t=3, n=5, progress=0)
    root.refuses("token lookup", "sealed")
    first = anyone.json(f"operator unseal {keys[0]}")
    same(first, sealed=True, progress=1)
    assert first["nonce"]
    # A share given twice counts once.
    same(anyone.json(f"operator unseal {keys[0]}"), progress=1)
    same(anyone.json("operator unseal -reset"), sealed=True, progress=0)
    for key in keys[1:3]:
        anyone.says(f"operator unseal {key}")
    same(anyone.json(f"operator unseal {keys[4]}"), sealed=False, progress=0)
    open_ = anyone.json("status")
    same(open_, initialized=True, sealed=False, t=3, n=5, recovery_seal=False)
    assert open_["cluster_id"] and open_["cluster_name"] and open_["version"] and open_["storage_type"], open_
    text = anyone.says("status")
    assert re.search(r"Sealed +false", text) and re.search(r"Threshold +3", text), text
    same(root.json("token lookup")["data"], policies=["root"], display_name="root", path="auth/token/root", ttl=0)


def kv_versioned():
    root.says("secrets enable -path=secret -description=kept kv-v2")
    root.refuses("secrets enable -path=secret kv", "path is already in use at secret/")
    made = root.json("kv put -cas=0 secret/app/db user=a password=one")["data"]
    same(made, version=1, destroyed=False, deletion_time="", custom_metadata=None)
    root.refuses("kv put -cas=0 secret/app/db user=b", "check-and-set parameter did not match the current version")
    write("db.json", json.dumps({"user": "b", "password": "two"}))
    same(root.json("kv put -mount=secret app/db @db.json")["data"], version=2)
    write("password", "three")
    same(root.json("kv put secret/app/db user=c password=@password")["data"], version=3)
    same(root.json("kv put secret/app/db -", text='{"user": "d", "password": "four"}')["data"], version=4)
    same(root.json("kv patch secret/app/db extra=more")["data"], version=5)
    same(root.json("kv patch -method=rw secret/app/db extra=rw")["data"], version=6)
    root.refuses("kv patch secret/app/none extra=x", "404")
    read = root.json("kv get secret/app/db")["data"]
    assert read["data"] == {"user": "d", "password": "four", "extra": "rw"}, read
    same(read["metadata"], version=6, destroyed=False, deletion_time="")
    text = root.says("kv get -version=3 secret/app/db")
    assert "Secret Path" in text and re.search(r"password +three", text), text
    root.says("kv metadata put -max-versions=4 -cas-required=true -delete-version-after=1h secret/app/meta")
    root.refuses("kv put secret/app/meta k=v", "check-and-set parameter required for this call")
    root.says("kv put -cas=0 secret/app/meta k=v")
    root.says("kv metadata patch -custom-metadata=owner=ci -custom-metadata=team=x secret/app/meta")
    root.says("kv metadata patch -remove-custom-metadata=team secret/app/meta")
    same(
        root.json("kv metadata get secret/app/meta")["data"],
        custom_metadata={"owner": "ci"},
        cas_required=True,
        max_versions=4,
        delete_version_after="1h0m0s",
        current_version=1,
    )
    root.says("kv delete secret/app/db")
    gone = root.json("kv get secret/app/db")["data"]
    assert gone["data"] is None and gone["metadata"]["deletion_time"], gone
    root.says("kv delete -versions=2,3 secret/app/db")
    root.says("kv undelete -versions=2,6 secret/app/db")
    root.says("kv destroy -versions=3 secret/app/db")
    versions = root.json("kv metadata get secret/app/db")["data"]["versions"]
    assert versions["3"]["destroyed"] and not versions["2"]["deletion_time"], versions
    root.refuses("kv get -version=3 -field=user secret/app/db")
    same(root.json("kv rollback -version=2 secret/app/db")["data"], version=7)
    assert root.says("kv get -field=password secret/app/db") == "two"
    assert root.json("kv list secret") == ["app/"]
    assert root.json("kv list secret/app") == ["db", "meta"]
    root.refuses("kv list secret/none", "No value found at secret/metadata/none")
    root.refuses("kv get secret/none", "No value found at secret/data/none")
    root.says("kv metadata delete secret/app/meta")
    assert root.json("kv list -mount=secret app") == ["db"]
    root.says("write secret/config max_versions=9")
    same(root.json("read secret/config")["data"], max_versions=9, cas_required=False)
    read = root.json("read secret/data/app/db version=6")["data"]["data"]
    assert read["extra"] == "rw", read
    assert root.json("read secret/subkeys/app/db")["data"]["subkeys"] == {"user": None, "password": None}
    root.says("kv patch -cas=7 secret/app/db user=e")
    root.refuses("kv patch -cas=7 secret/app/db user=f", "check-and-set")


def kv_plain():
    root.says("secrets enable -path=plain -version=1 kv")
    assert "Success! Data written to: plain/a" in root.says("kv put plain/a k=v ttl=30m")
    assert root.json("read plain/a")["data"] == {"k": "v", "ttl": "30m"}
    root.says("kv put plain/b/c k=w")
    assert root.json("list plain") == ["a", "b/"]
    assert root.says("kv get -field=k plain/b/c") == "w"
    root.refuses("kv patch plain/a k=x")
    assert "Success" in root.says("delete plain/a")
    assert "Success" in root.says("delete plain/a")
    root.refuses("read plain/a", "No value found at plain/a")
    root.refuses("kv metadata get plain/b/c", "not supported on KV Version 1", code=1)
    root.refuses("read nowhere/at/all")
    root.refuses("write nowhere/at/all k=v", "no handler for route")


READER = 'path "secret/data/app/*" {\n  capabilities = ["read"]\n}\n'


def policies():
    write("reader.hcl", 'path "secret/data/app/*" { capabilities = ["read"] }')
    assert "Success" in root.says("policy fmt reader.hcl")
    assert open("reader.hcl").read().strip() == READER.strip()
    assert "Success! Uploaded policy: reader" in root.says("policy write reader reader.hcl")
    assert root.says("policy read reader") .strip() == READER.strip()
    root.says("policy write lister -", text='path "secret/metadata/*" { capabilities = ["list"] }')
    assert root.json("policy list") == ["default", "lister", "reader", "root"]
    assert root.json("list sys/policies/acl") == ["default", "lister", "reader", "root"]
    same(root.json("read sys/policies/acl/reader")["data"], name="reader", policy=READER)
    root.refuses("policy write bad -", text='path "x" { capabilities = ["fly"] }')
    root.refuses("policy read none", "No policy named: none")
    root.refuses("policy delete root")
    root.refuses("policy delete default")
    root.refuses("policy write root -", text=READER)
    assert "Success" in root.says("policy delete lister")
    assert "Success" in root.says("policy delete lister")
    # What a line would need is told from what it does.
    hint = root.says("kv get -output-policy -mount=secret app/db")
    assert 'path "secret/data/app/db"' in hint and '"read"' in hint, hint
    assert "/v1/secret/data/app/db" in root.says("kv get -output-curl-string -mount=secret app/db")


def token(line, **named):
    return root.json(f"token create {line}", **named)["auth"]


def tokens():
    made = token("-policy=reader -ttl=30m -display-name=ci -metadata=job=7 -use-limit=0 -explicit-max-ttl=2h")
    same(
        made,
        policies=["default", "reader"],
        token_policies=["default", "reader"],
        metadata={"job": "7"},
        lease_duration=1800,
        renewable=True,
        entity_id="",
        orphan=False,
    )
    reader = Bao(made["client_token"])
    assert reader.says("kv get -field=user secret/app/db") == "e"
    reader.refuses("kv put secret/app/db user=x", "permission denied")
    reader.refuses("kv get secret/other", "permission denied")
    reader.refuses("secrets list", "permission denied")
    assert reader.says("token capabilities secret/data/app/db").strip() == "read"
    assert root.says(f"token capabilities {reader.token} secret/data/none").strip() == "deny"
    same(
        root.json(f"write sys/capabilities-accessor accessor={made['accessor']} paths=secret/data/app/db")["data"],
        capabilities=["read"],
    )
    own = reader.json("token lookup")["data"]
    same(
        own,
        id=reader.token,
        accessor=made["accessor"],
        display_name="token-ci",
        meta={"job": "7"},
        creation_ttl=1800,
        explicit_max_ttl=7200,
        orphan=False,
        type="service",
        path="auth/token/create",
        renewable=True,
    )
    assert own["expire_time"] and own["issue_time"] and 1700 < own["ttl"] <= 1800, own
    assert root.json(f"token renew -increment=45m {reader.token}")["auth"]["lease_duration"] == 2700
    assert root.json(f"token renew -accessor -increment=10m {made['accessor']}")["auth"]["lease_duration"] == 600
    same(reader.json("token renew")["auth"], client_token=reader.token, renewable=True)
    # Not beyond its greatest age.
    assert 7000 < reader.json("token renew -increment=9h")["auth"]["lease_duration"] <= 7200
    same(root.json(f"token lookup -accessor {made['accessor']}")["data"], id="", display_name="token-ci")

    once = Bao(token("-use-limit=2 -policy=reader")["client_token"])
    once.says("token lookup")
    once.says("token lookup")
    once.refuses("token lookup", "permission denied")

    periodic = token("-period=1h -policy=default")
    same(root.json(f"token lookup {periodic['client_token']}")["data"], period=3600, creation_ttl=3600)
    own = token("-id=known-to-all -no-default-policy -policy=reader -orphan")
    same(own, client_token="known-to-all", policies=["reader"], orphan=True)
    root.refuses("token create -id=known-to-all")

    batch = token("-type=batch -policy=reader -ttl=5m")
    same(batch, renewable=False, accessor="", lease_duration=300)
    batch = Bao(batch["client_token"])
    assert batch.says("kv get -field=user secret/app/db") == "e"
    same(batch.json("token lookup")["data"], type="batch", accessor="")
    batch.refuses("token renew", "batch tokens cannot be renewed")
    batch.refuses("token revoke -self", "batch tokens cannot be revoked")
    root.refuses("token create -type=batch -period=1h")
    root.refuses("token create -type=paper", "400")

    parent = Bao(token("-policy=root -ttl=1h")["client_token"])
    child = Bao(parent.json("token create -ttl=1h")["auth"]["client_token"])
    orphan = Bao(parent.json("token create -ttl=1h -orphan")["auth"]["client_token"])
    kept = Bao(parent.json("token create -ttl=1h")["auth"]["client_token"])
    middle = Bao(parent.json("token create -ttl=1h")["auth"]["client_token"])
    below = Bao(middle.json("token create -ttl=1h")["auth"]["client_token"])
    root.says(f"token revoke -mode=orphan {middle.token}")
    middle.refuses("token lookup", "permission denied")
    same(below.json("token lookup")["data"], orphan=True)
    root.says(f"token revoke {parent.token}")
    for gone in (child, kept):
        poll("children go with their parent", lambda: gone.run("token lookup").returncode == 2)
    orphan.says("token lookup")
    accessor = orphan.json("token lookup")["data"]["accessor"]
    assert accessor in root.json("list auth/token/accessors")
    root.says(f"token revoke -accessor {accessor}")
    orphan.refuses("token lookup", "permission denied")
    reader.says("token revoke -self")
    reader.refuses("token lookup", "permission denied")
    Bao("nonsense").refuses("token lookup", "permission denied")
    root.says("write -f auth/token/tidy")

    # The command keeps the token of a login in its home.
    text = token("-policy=default -ttl=1h")["client_token"]
    anyone.says("login -no-print -", text=text)
    assert anyone.json("token lookup")["data"]["id"] == text
    assert open(os.path.expanduser("~/.vault-token")).read() == text
    anyone.says("token revoke -self")
    os.remove(os.path.expanduser("~/.vault-token"))
    anyone.refuses("login -no-print nonsense", "permission denied")


def token_roles():
    root.says(
        "write auth/token/roles/ci allowed_policies=reader,default orphan=true token_period=10m "
        "renewable=true path_suffix=ci-jobs token_explicit_max_ttl=1h"
    )
    same(
        root.json("read auth/token/roles/ci")["data"],
        name="ci",
        allowed_policies_glob=[],
        orphan=True,
        renewable=True,
        path_suffix="ci-jobs",
        token_period=600,
        token_explicit_max_ttl=3600,
        token_type="default-service",
    )
    made = token("-role=ci -policy=reader")
    same(made, orphan=True, lease_duration=600, policies=["default", "reader"])
    same(root.json(f"token lookup {made['client_token']}")["data"], role="ci", path="auth/token/create/ci/ci-jobs")
    root.refuses("token create -role=ci -policy=root")
    root.refuses("token create -role=none", "unknown role")
    root.says("write auth/token/roles/nightly token_type=batch orphan=true renewable=false disallowed_policies=root")
    assert root.json("list auth/token/roles") == ["ci", "nightly"]
    same(root.json(f"token lookup {token('-role=nightly -policy=reader')['client_token']}")["data"], type="batch")
    root.says("delete auth/token/roles/nightly")
    root.refuses("read auth/token/roles/nightly", "No value found")


def wrapping():
    wrapped = root.json("kv get -wrap-ttl=90s secret/app/db")["wrap_info"]
    same(wrapped, ttl=90, creation_path="secret/data/app/db", wrapped_accessor="")
    looked = root.json(f"write sys/wrapping/lookup token={wrapped['token']}")["data"]
    same(looked, creation_ttl=90, creation_path="secret/data/app/db")
    assert looked["creation_time"]
    assert anyone.json(f"unwrap {wrapped['token']}")["data"]["data"]["user"] == "e"
    anyone.refuses(f"unwrap {wrapped['token']}", "wrapping token is not valid or does not exist")

    # By the token's own hand, one field.
    wrapped = root.json("token create -policy=reader -ttl=1h -wrap-ttl=1m")["wrap_info"]
    assert wrapped["wrapped_accessor"], wrapped
    text = Bao(wrapped["token"]).says("unwrap -field=token").strip()
    same(Bao(text).json("token lookup")["data"], accessor=wrapped["wrapped_accessor"], policies=["default", "reader"])

    wrapped = root.json("write -wrap-ttl=5m sys/wrapping/wrap a=1 b=two")["wrap_info"]
    again = root.json(f"write sys/wrapping/rewrap token={wrapped['token']}")["wrap_info"]
    same(again, ttl=300, creation_path="sys/wrapping/wrap")
    anyone.refuses(f"unwrap {wrapped['token']}")
    assert anyone.json(f"unwrap {again['token']}")["data"] == {"a": "1", "b": "two"}
    # A wrapping token opens nothing else.
    wrapped = root.json("write -wrap-ttl=5m sys/wrapping/wrap a=1")["wrap_info"]
    Bao(wrapped["token"]).refuses("read secret/data/app/db", "permission denied")
    root.refuses("unwrap nonsense")

    mine = Bao(token("-policy=default -ttl=1h")["client_token"])
    mine.says("write cubbyhole/note k=v")
    assert mine.says("read -field=k cubbyhole/note") == "v"
    assert mine.json("list cubbyhole") == ["note"]
    root.refuses("read cubbyhole/note", "No value found")
    mine.says("delete cubbyhole/note")


def approle():
    root.says("auth enable -description=machines approle")
    root.refuses("auth enable approle", "path is already in use at")
    root.says(
        "write auth/approle/role/app token_policies=reader token_ttl=20m token_max_ttl=1h "
        "secret_id_ttl=1h secret_id_num_uses=2"
    )
    same(
        root.json("read auth/approle/role/app")["data"],
        bind_secret_id=True,
        secret_id_num_uses=2,
        secret_id_ttl=3600,
        token_policies=["reader"],
        token_ttl=1200,
        token_max_ttl=3600,
        token_type="default",
        local_secret_ids=False,
    )
    role_id = root.says("read -field=role_id auth/approle/role/app/role-id")
    made = root.json("write -f auth/approle/role/app/secret-id")
    same(made["data"], secret_id_num_uses=2, secret_id_ttl=3600)
    secret_id, accessor = made["data"]["secret_id"], made["data"]["secret_id_accessor"]
    login = f"write auth/approle/login role_id={role_id} secret_id="
    auth = anyone.json(login + secret_id)["auth"]
    same(auth, policies=["default", "reader"], lease_duration=1200, renewable=True, orphan=True)
    same(auth["metadata"], role_name="app")
    machine = Bao(auth["client_token"])
    assert machine.says("kv get -field=user secret/app/db") == "e"
    own = machine.json("token lookup")["data"]
    same(own, path="auth/approle/login", display_name="approle", orphan=True, type="service")
    assert root.json("list auth/approle/role/app/secret-id") == [accessor]
    looked = root.json(f"write auth/approle/role/app/secret-id/lookup secret_id={secret_id}")["data"]
    same(looked, secret_id_accessor=accessor, secret_id_num_uses=1, cidr_list=[], token_bound_cidrs=[])
    looked = root.json(f"write auth/approle/role/app/secret-id-accessor/lookup secret_id_accessor={accessor}")["data"]
    same(looked, secret_id_accessor=accessor, secret_id_num_uses=1)
    anyone.says(login + secret_id)
    anyone.refuses(login + secret_id, "invalid role or secret ID")
    anyone.refuses(login + "nonsense", "invalid role or secret ID")
    anyone.refuses("write auth/approle/login role_id=nonsense secret_id=x", "invalid role or secret ID")

    # Delivered as people do: wrapped, opened by the machine alone.
    wrapped = root.json("write -f -wrap-ttl=1m auth/approle/role/app/secret-id")["wrap_info"]
    same(wrapped, creation_path="auth/approle/role/app/secret-id")
    secret_id = Bao(wrapped["token"]).says("unwrap -field=secret_id")
    anyone.says(login + secret_id)
    root.says(f"write auth/approle/role/app/secret-id/destroy secret_id={secret_id}")
    anyone.refuses(login + secret_id)
    made = root.json("write auth/approle/role/app/custom-secret-id secret_id=chosen-by-hand metadata={\\\"k\\\":\\\"v\\\"}")
    assert anyone.json(login + "chosen-by-hand")["auth"]["metadata"] == {"role_name": "app", "k": "v"}
    accessor = made["data"]["secret_id_accessor"]
    root.says(f"write auth/approle/role/app/secret-id-accessor/destroy secret_id_accessor={accessor}")
    anyone.refuses(login + "chosen-by-hand")

    root.says("write auth/approle/role/near token_policies=reader secret_id_bound_cidrs=127.0.0.0/8 token_bound_cidrs=127.0.0.1/32")
    root.says("write auth/approle/role/near/role-id role_id=near")
    secret_id = root.says("write -f -field=secret_id auth/approle/role/near/secret-id")
    auth = anyone.json(f"write auth/approle/login role_id=near secret_id={secret_id}")["auth"]
    same(root.json(f"token lookup {auth['client_token']}")["data"], bound_cidrs=["127.0.0.1"])
    root.says("write auth/approle/role/far token_policies=reader secret_id_bound_cidrs=192.0.2.0/24")
    root.says("write auth/approle/role/far/role-id role_id=far")
    secret_id = root.says("write -f -field=secret_id auth/approle/role/far/secret-id")
    anyone.refuses(f"write auth/approle/login role_id=far secret_id={secret_id}")
    assert root.json("list auth/approle/role") == ["app", "far", "near"]
    root.says("write auth/approle/role/app/token-ttl token_ttl=5m")
    same(root.json("read auth/approle/role/app/token-ttl")["data"], token_ttl=300)
    root.says("delete auth/approle/role/far")
    root.refuses("read auth/approle/role/far", "No value found")
    root.says("write -f auth/approle/tidy/secret-id")
    machine.says("token revoke -self")


def userpass():
    root.says("auth enable -path=people userpass")
    root.says("write auth/people/users/ann password=first token_policies=reader token_ttl=1h")
    same(root.json("read auth/people/users/ann")["data"], token_policies=["reader"], token_ttl=3600)
    assert "password" not in root.json("read auth/people/users/ann")["data"]
    login = "login -method=userpass -path=people -token-only -no-store username=ann"
    text = anyone.says(f"{login} password=first").strip()
    own = Bao(text).json("token lookup")["data"]
    same(own, display_name="people-ann", path="auth/people/login/ann", meta={"username": "ann"})
    anyone.refuses(f"{login} password=wrong", "invalid username or password")
    anyone.refuses(f"{login.replace('ann', 'bob')} password=x", "invalid username or password")
    root.says("write auth/people/users/ann/password password=second")
    anyone.refuses(f"{login} password=first")
    anyone.says(f"{login} password=second")
    root.says("write auth/people/users/ann/policies token_policies=default")
    made = anyone.json("write auth/people/login/ann password=second")["auth"]
    same(made, policies=["default"])
    # Asked for on standard input.
    anyone.says("login -method=userpass -path=people -no-print username=ann password=-", text="second")
    same(anyone.json("token lookup")["data"], display_name="people-ann")
    os.remove(os.path.expanduser("~/.vault-token"))
    assert root.json("list auth/people/users") == ["ann"]
    root.says("delete auth/people/users/ann")
    anyone.refuses(f"{login} password=second")


def auth_methods():
    listed = root.json("auth list -detailed")
    same(listed["approle/"], type="approle", description="machines")
    assert {"approle/", "people/", "token/"} <= set(listed), listed
    text = root.says("auth list")
    assert re.search(r"people/ +userpass +\S*userpass_", text), text
    root.says("auth tune -default-lease-ttl=10m -max-lease-ttl=20m -description=tuned people")
    tuned = root.json("read sys/auth/people/tune")["data"]
    same(tuned, default_lease_ttl=600, max_lease_ttl=1200, description="tuned")
    root.says("write auth/people/users/eve password=secret token_policies=default")
    assert anyone.json("write auth/people/login/eve password=secret")["auth"]["lease_duration"] == 600
    root.says("auth move auth/people auth/staff")
    poll("moved", lambda: "staff/" in root.json("auth list"))
    made = anyone.json("write auth/staff/login/eve password=secret")["auth"]
    eve = Bao(made["client_token"])
    eve.says("token lookup")
    root.says("auth disable staff")
    assert "staff/" not in root.json("auth list")
    # Who came in through it is out.
    poll("its tokens are gone", lambda: eve.run("token lookup").returncode == 2)
    root.refuses("auth disable token")
    root.refuses("auth enable nonsense")
    assert "Success" in root.says("auth disable nowhere")


def pki():
    root.says("secrets enable -max-lease-ttl=87600h pki")
    made = root.json("write pki/root/generate/internal common_name=Root key_type=ec ttl=87600h")["data"]
    assert made["serial_number"] and "private_key" not in made, made
    write("root.crt", made["certificate"])
    root.says("write pki/config/urls issuing_certificates=http://ca.example.org/ca crl_distribution_points=http://ca.example.org/crl")
    root.says("secrets enable -path=sub -max-lease-ttl=8760h pki")
    csr = root.json("write sub/intermediate/generate/internal common_name=Sub key_type=ec")["data"]["csr"]
    write("sub.csr", csr)
    signed = root.json("write pki/root/sign-intermediate csr=@sub.csr ttl=4380h format=pem_bundle")["data"]
    write("sub.crt", signed["certificate"])
    set_ = root.json("write sub/intermediate/set-signed certificate=@sub.crt")["data"]
    assert set_["imported_issuers"], set_
    root.says("write sub/roles/web allowed_domains=example.org allow_subdomains=true key_type=ec ttl=1h max_ttl=2h")
    issued = root.json("write sub/issue/web common_name=a.example.org alt_names=b.example.org ttl=90m")["data"]
    assert issued["private_key_type"] == "ec" and issued["ca_chain"], issued
    write("chain.crt", "\n".join(issued["ca_chain"]))
    write("leaf.crt", issued["certificate"])
    openssl("verify", "-CAfile", "root.crt", "-untrusted", "chain.crt", "leaf.crt")
    text = openssl("x509", "-noout", "-text", "-in", "leaf.crt")
    assert "DNS:a.example.org, DNS:b.example.org" in text or "DNS:b.example.org, DNS:a.example.org" in text, text
    root.refuses("write sub/issue/web common_name=a.example.com", "allowed by th")
    openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "c.key",
            "-out", "c.csr", "-subj", "/CN=c.example.org")
    signed = root.json("write sub/sign/web csr=@c.csr common_name=c.example.org")["data"]
    assert "private_key" not in signed, signed
    write("c.crt", signed["certificate"])
    serial = signed["serial_number"]
    same(root.json(f"read sub/cert/{serial}")["data"], revocation_time=0)
    assert serial in root.json("list sub/certs")
    assert root.json(f"write sub/revoke serial_number={serial}")["data"]["revocation_time"] > 0
    root.says("read sub/crl/rotate")
    write("crl.pem", root.json("read sub/cert/crl")["data"]["certificate"])
    assert serial.replace(":", "").upper() in openssl("crl", "-noout", "-text", "-in", "crl.pem")
    verified = root.says("pki verify-sign pki/issuer/default sub/issuer/default")
    assert re.search(r"signature_match +true", verified), verified
    assert "sub/issuer/" in root.says("pki list-intermediates pki/issuer/default")


def database():
    root.says("secrets enable database")
    admin, secret = os.environ["PGUSER"], os.environ["PGPASSWORD"]
    root.says(
        "write database/config/pg plugin_name=postgresql-database-plugin allowed_roles=app,short "
        f"connection_url={POSTGRES} username={admin} password={secret}"
    )
    connection = root.json("read database/config/pg")["data"]
    same(connection, plugin_name="postgresql-database-plugin", allowed_roles=["app", "short"])
    assert secret not in str(connection), connection
    write("create.sql", CREATE)
    for name, ttl in (("app", "1h"), ("short", "2s")):
        root.says(f"write database/roles/{name} db_name=pg creation_statements=@create.sql default_ttl={ttl} max_ttl=2h")
    same(root.json("read database/roles/app")["data"], db_name="pg", default_ttl=3600, max_ttl=7200)
    made = root.json("read database/creds/app")
    same(made, lease_duration=3600, renewable=True)
    assert made["lease_id"].startswith("database/creds/app/"), made
    login = lambda made: psql(made["data"]["username"], made["data"]["password"])
    assert login(made) == made["data"]["username"]

    lease = made["lease_id"]
    looked = root.json(f"lease lookup {lease}")["data"]
    same(looked, id=lease, renewable=True, last_renewal=None)
    assert looked["expire_time"] and looked["issue_time"] and 3500 < looked["ttl"] <= 3600, looked
    same(root.json(f"lease renew -increment=5m {lease}"), lease_id=lease, lease_duration=300, renewable=True)
    assert root.json(f"lease lookup {lease}")["data"]["last_renewal"]
    # Not beyond what the role allows.
    assert 7100 < root.json(f"lease renew -increment=9h {lease}")["lease_duration"] <= 7200
    assert root.json("list sys/leases/lookup/database/creds/app") == [lease.rsplit("/", 1)[1]]
    root.says(f"lease revoke -sync {lease}")
    assert login(made) is None, "a revoked user logs in"
    root.refuses(f"lease lookup {lease}", "lease")
    root.refuses(f"lease renew {lease}", "lease")
    short = root.json("read database/creds/short")
    same(short, lease_duration=2)
    several = [root.json("read database/creds/app") for _ in range(2)]
    assert "Success" in root.says("lease revoke -prefix -sync database/creds/app")
    assert [login(made) for made in several] == [None, None]
    owner = Bao(token("-policy=root -ttl=1h")["client_token"])
    made = owner.json("read database/creds/app")
    owner.says("token revoke -self")
    poll("the user goes with the token", lambda: login(made) is None)
    poll("the user goes when the lease ends", lambda: login(short) is None)
    made = root.json("read database/creds/app")
    assert "Success" in root.says("lease revoke -force -prefix database/creds/app")

    root.says("write -f database/reset/pg")
    root.refuses("read database/creds/none", "unknown role: none")
    root.refuses("write database/config/bad plugin_name=postgresql-database-plugin connection_url=postgresql://127.0.0.1:1/x")
    assert root.json("list database/roles") == ["app", "short"]


def audit():
    path = os.path.join(os.environ["DEVICES"], "ops.log")
    os.makedirs(os.environ["DEVICES"], exist_ok=True)
    root.says(f"audit enable -path=ops -description=operators file file_path={path}")
    root.refuses(f"audit enable -path=ops file file_path={path}2", "path already in use")
    same(root.json("audit list -detailed")["ops/"], type="file", description="operators", options={"file_path": path})
    assert re.search(r"ops/ +file", root.says("audit list"))
    root.says("kv put secret/audited value=a-known-value")
    hashed = root.says("write -field=hash sys/audit-hash/ops input=a-known-value")
    assert hashed.startswith("hmac-sha256:"), hashed

    def recorded():
        with open(path) as file:
            records = [json.loads(line) for line in file if line.endswith("\n")]
        return [record for record in records if record.get("request", {}).get("data", {}) == {"data": {"value": hashed}, "options": {}}]

    record = poll("the record arrives", recorded)[0]
    same(record["request"], path="secret/data/audited", mount_type="kv")
    assert "a-known-value" not in open(path).read()
    root.says("audit disable ops")
    listed = root.run("audit list")
    assert listed.returncode in (0, 2) and "ops/" not in listed.stdout, listed
    root.refuses("audit enable nonsense")


def quotas():
    root.says("secrets enable -path=limited -version=1 kv")
    root.says("write sys/quotas/rate-limit/slow path=limited rate=2 interval=1h")
    limit = root.json("read sys/quotas/rate-limit/slow")["data"]
    same(limit, name="slow", rate=2, interval=3600, type="rate-limit")
    assert limit["path"].rstrip("/") == "limited", limit
    assert root.json("list sys/quotas/rate-limit") == ["slow"]
    for number in range(2):
        root.says(f"write limited/{number} k=v")
    root.refuses("write limited/3 k=v", "429", "rate limit")
    root.says("write sys/quotas/rate-limit/slow path=limited rate=1000 interval=1s")
    root.says("write limited/3 k=v")
    root.says("read sys/quotas/config")
    root.says("delete sys/quotas/rate-limit/slow")
    root.refuses("read sys/quotas/rate-limit/slow", "No value found")
    root.refuses("write sys/quotas/rate-limit/bad rate=0")
    if DAYPASS:  # Vault Enterprise's; OpenBao has none.
        root.says("write sys/quotas/lease-count/few path=database max_leases=1")
        same(root.json("read sys/quotas/lease-count/few")["data"], max_leases=1, type="lease-count")
        root.says("read database/creds/app")
        root.refuses("read database/creds/app", "429")
        root.says("lease revoke -prefix -sync database/creds/app")
        root.says("delete sys/quotas/lease-count/few")


def mounts():
    listed = root.json("secrets list -detailed")
    same(listed["secret/"], type="kv", description="kept", options={"version": "2"})
    for name in ("accessor", "config", "uuid", "local", "seal_wrap", "external_entropy_access"):
        assert name in listed["secret/"], (name, listed["secret/"])
    same(listed["cubbyhole/"], type="cubbyhole")
    same(listed["sys/"], type="system")
    text = root.says("secrets list")
    assert re.search(r"secret/ +kv +kv_\S+ +kept", text), text
    root.says("secrets tune -default-lease-ttl=1h -max-lease-ttl=2h -description=tuned limited")
    same(
        root.json("read sys/mounts/limited/tune")["data"],
        default_lease_ttl=3600,
        max_lease_ttl=7200,
        description="tuned",
        options={"version": "1"},
    )
    same(root.json("read sys/mounts/limited")["data"], type="kv", description="tuned")
    root.says("kv put limited/a k=v")
    if DAYPASS:
        root.refuses("kv enable-versioning limited", "501", "enable a new one and copy")
    else:
        root.says("kv enable-versioning limited")
        assert poll("versioned", lambda: root.run("kv get -field=k limited/a").stdout) == "v"
    root.refuses("secrets move limited secret")
    root.says("secrets move limited moved/here")
    poll("moved", lambda: "moved/here/" in root.json("secrets list"))
    assert root.says("kv get -field=k moved/here/a") == "v"
    root.refuses("kv get limited/a")
    root.says("secrets disable moved/here")
    assert "moved/here/" not in root.json("secrets list")
    assert "Success" in root.says("secrets disable nowhere")
    root.refuses("secrets disable sys")
    root.refuses("secrets enable nonsense")
    root.says("secrets disable database")
    assert psql(sql="SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'") == "0"


def helpers():
    assert root.says("print token").strip() == root.token
    assert root.says("plugin list").count("kv"), "no plugins"
    assert "Version" in root.says("version-history")
    assert root.json("operator key-status")["term"] >= 1
    root.says("operator members")
    root.says("operator step-down")
    sums = root.json("write sys/tools/hash input=aGVsbG8= format=hex")["data"]["sum"]
    assert sums == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", sums
    assert len(root.says("write -field=random_bytes sys/tools/random/16 format=hex")) == 32


def generate_root():
    begun = root.json("operator generate-root -init")
    same(begun, started=True, progress=0, required=3, complete=False)
    otp, nonce = begun["otp"], begun["nonce"]
    assert len(otp) == begun["otp_length"], begun
    root.refuses("operator generate-root -init", "already in progress")
    same(root.json("operator generate-root -status"), started=True, nonce=nonce, progress=0)
    root.refuses(f"operator generate-root -nonce=other {keys[0]}")
    for number, key in enumerate(keys[:2]):
        same(root.json(f"operator generate-root -nonce={nonce} {key}"), progress=number + 1, complete=False)
    done = root.json(f"operator generate-root -nonce={nonce} {keys[2]}")
    same(done, complete=True, progress=3)
    decoded = root.json(f"operator generate-root -decode={done['encoded_token']} -otp={otp}")
    made = Bao(decoded["token"] if isinstance(decoded, dict) else decoded)
    same(made.json("token lookup")["data"], policies=["root"], orphan=True, ttl=0)
    made.says("token revoke -self")
    root.says("operator generate-root -init")
    root.says("operator generate-root -cancel")
    same(root.json("operator generate-root -status"), started=False, progress=0)


def rekey():
    global keys
    begun = root.json("operator rotate-keys -init -key-shares=4 -key-threshold=2 -verify")
    same(begun, started=True, t=2, n=4, progress=0, required=3, verification_required=True)
    nonce = begun["nonce"]
    for key in keys[:2]:
        root.says(f"operator rotate-keys -nonce={nonce} {key}")
    same(root.json("operator rotate-keys -status"), started=True, progress=2)
    made = root.json(f"operator rotate-keys -nonce={nonce} {keys[2]}")
    same(made, complete=True, verification_required=True)
    new = made["keys_base64"]
    verify = made["verification_nonce"]
    same(root.json(f"operator rotate-keys -verify -nonce={verify} {new[0]}"), progress=1)
    assert "verification successful" in root.says(f"operator rotate-keys -verify -nonce={verify} {new[1]}")
    keys = new
    root.says("operator rotate-keys -init -key-shares=1 -key-threshold=1")
    root.says("operator rotate-keys -cancel")
    same(root.json("operator rotate-keys -status"), started=False)


def rotate():
    before = root.json("operator key-status")
    after = root.json("operator rotate")
    assert root.json("operator key-status")["term"] == before["term"] + 1, after
    assert re.search(r"Key Term +2", root.says("operator key-status"))
    assert root.says("kv get -field=user secret/app/db") == "e"


def seal():
    anyone.refuses("operator seal", "permission denied")
    assert "Success" in root.says("operator seal")
    same(anyone.json("status", code=2), initialized=True, sealed=True, t=2, n=4)
    root.refuses("kv get secret/app/db", "sealed")
    for key in keys[2:4]:
        anyone.says(f"operator unseal {key}")
    assert poll("unsealed", lambda: root.run("kv get -field=user secret/app/db").stdout) == "e"
    assert anyone.run("status", BAO_ADDR="https://127.0.0.1:1").returncode == 1


run((
    init, unseal, kv_versioned, kv_plain, policies, tokens, token_roles, wrapping, approle, userpass, auth_methods,
    pki, database, audit, quotas, mounts, helpers, generate_root, rekey, rotate, seal,
))
