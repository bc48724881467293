"""What programs do with hvac's transit, against Daypass. Run by transit.rs.

ADDRESS, CA and TOKEN say where. Every step asserts what a program built on Vault relies on; signatures are
verified once more by cryptography, with nothing but the public key.
"""

import base64
import os

import hvac
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
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


def encode(text):
    return base64.b64encode(text.encode()).decode()


root = connect(os.environ["TOKEN"])
root.sys.enable_secrets_engine("transit")
transit = root.secrets.transit
TEXT, CONTEXT = encode("the quick brown fox"), encode("tenant 7")


def keys():
    transit.create_key("app")
    assert transit.list_keys()["data"]["keys"] == ["app"]
    read = transit.read_key("app")["data"]
    assert read["type"] == "aes256-gcm96" and read["latest_version"] == 1 and list(read["keys"]) == ["1"]
    first = transit.encrypt_data("app", TEXT)["data"]["ciphertext"]
    assert first.startswith("vault:v1:")
    transit.rotate_key("app")
    assert transit.read_key("app")["data"]["latest_version"] == 2
    assert transit.decrypt_data("app", first)["data"]["plaintext"] == TEXT
    transit.rotate_key("app")
    third = transit.rewrap_data("app", first)["data"]["ciphertext"]
    assert third.startswith("vault:v3:")
    # hvac itself refuses to make the two equal.
    transit.update_key_configuration("app", min_decryption_version=2, min_encryption_version=3)
    refused(exceptions.InvalidRequest, transit.decrypt_data, "app", first)
    trimmed = transit.trim_key("app", min_version=2)
    assert trimmed["data"]["min_available_version"] == 2
    refused(exceptions.InvalidRequest, transit.export_key, "app", "encryption-key")
    refused(exceptions.InvalidRequest, transit.delete_key, "app")
    transit.update_key_configuration("app", exportable=True, allow_plaintext_backup=True, deletion_allowed=True)
    assert list(transit.export_key("app", "encryption-key")["data"]["keys"]) == ["2", "3"]
    backup = transit.backup_key("app")["data"]["backup"]
    transit.delete_key("app")
    refused(exceptions.InvalidPath, transit.read_key, "app")
    transit.restore_key(backup)
    assert transit.decrypt_data("app", third)["data"]["plaintext"] == TEXT
    refused(exceptions.InvalidRequest, root.write_data, "transit/keys/x", data={"type": "nonsense"})


def encryption():
    transit.create_key("tenants", derived=True, convergent_encryption=True)
    one = transit.encrypt_data("tenants", TEXT, context=CONTEXT)["data"]["ciphertext"]
    assert transit.encrypt_data("tenants", TEXT, context=CONTEXT)["data"]["ciphertext"] == one
    assert transit.decrypt_data("tenants", one, context=CONTEXT)["data"]["plaintext"] == TEXT
    refused(exceptions.InvalidRequest, transit.decrypt_data, "tenants", one, context=encode("tenant 8"))

    bound = transit.encrypt_data("bound", TEXT, associated_data=CONTEXT)["data"]["ciphertext"]
    assert transit.decrypt_data("bound", bound, associated_data=CONTEXT)["data"]["plaintext"] == TEXT
    refused(exceptions.InvalidRequest, transit.decrypt_data, "bound", bound)
    texts = [encode(text) for text in ("a", "b", "c")]
    batch = [{"plaintext": text} for text in texts]
    results = transit.encrypt_data("bound", None, batch_input=batch)["data"]["batch_results"]
    batch = [{"ciphertext": one["ciphertext"]} for one in results]
    results = transit.decrypt_data("bound", None, batch_input=batch)["data"]["batch_results"]
    assert [one["plaintext"] for one in results] == texts

    data = transit.generate_data_key("bound", "plaintext", bits=512)["data"]
    assert len(base64.b64decode(data["plaintext"])) == 64
    assert transit.decrypt_data("bound", data["ciphertext"])["data"]["plaintext"] == data["plaintext"]
    assert "plaintext" not in transit.generate_data_key("bound", "wrapped")["data"]
    transit.create_key("rsa", key_type="rsa-2048")
    sealed = transit.encrypt_data("rsa", TEXT)["data"]["ciphertext"]
    assert transit.decrypt_data("rsa", sealed)["data"]["plaintext"] == TEXT


def signatures():
    message = b"the quick brown fox"
    for kind in ("ed25519", "ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "rsa-2048"):
        transit.create_key(kind, key_type=kind)
        for algorithm in ("pss", "pkcs1v15"):
            how = {"hash_algorithm": "sha2-512", "signature_algorithm": algorithm}
            signed = transit.sign_data(kind, TEXT, **how)["data"]["signature"]
            verify = transit.verify_signed_data
            assert verify(kind, TEXT, signature=signed, **how)["data"]["valid"] is True, (kind, algorithm)
            assert verify(kind, encode("x"), signature=signed, **how)["data"]["valid"] is False

            version = transit.read_key(kind)["data"]["keys"]["1"]
            raw = base64.b64decode(signed.split(":")[2])
            if kind == "ed25519":
                continue
            public = serialization.load_pem_public_key(version["public_key"].encode())
            if kind.startswith("ecdsa"):
                public.verify(raw, message, ec.ECDSA(hashes.SHA512()))
            elif algorithm == "pss":
                longest = padding.PSS(padding.MGF1(hashes.SHA512()), padding.PSS.MAX_LENGTH)
                public.verify(raw, message, longest, hashes.SHA512())
            else:
                public.verify(raw, message, padding.PKCS1v15(), hashes.SHA512())
    tag = transit.generate_hmac("rsa", TEXT, algorithm="sha2-384")["data"]["hmac"]
    body = {"input": TEXT, "hmac": tag, "algorithm": "sha2-384"}
    assert root.write_data("transit/verify/rsa", data=body)["data"]["valid"] is True
    empty = transit.hash_data(encode("hello"), algorithm="sha2-256", output_format="hex")["data"]["sum"]
    assert empty.startswith("2cf24dba"), empty
    random = transit.generate_random_bytes(n_bytes=16, output_format="hex")["data"]["random_bytes"]
    assert len(random) == 32


def capabilities():
    """Encrypting makes a key with `create`, and never with `update` alone."""
    for name, capability in (("maker", "create"), ("user", "update")):
        rules = f'path "transit/encrypt/*" {{ capabilities = ["{capability}"] }}'
        root.sys.create_or_update_policy(name, rules)
    token = lambda policy: root.auth.token.create(policies=[policy], ttl="1h")["auth"]["client_token"]
    maker, user = connect(token("maker")).secrets.transit, connect(token("user")).secrets.transit
    refused(exceptions.Forbidden, user.encrypt_data, "fresh", TEXT)
    maker.encrypt_data("fresh", TEXT)
    user.encrypt_data("fresh", TEXT)
    refused(exceptions.Forbidden, maker.encrypt_data, "fresh", TEXT)


for job in (keys, encryption, signatures, capabilities):
    job()
