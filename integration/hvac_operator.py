"""What operators do with hvac, against Daypass: root tokens, new key shares, key rotation.

Run by operator.rs. ADDRESS, CA, TOKEN and KEYS (unseal keys, comma separated) say where.
"""

import base64
import os

import hvac
from hvac import exceptions

ADDRESS, CA = os.environ["ADDRESS"], os.environ["CA"]
KEYS = os.environ["KEYS"].split(",")
root = hvac.Client(url=ADDRESS, token=os.environ["TOKEN"], verify=CA)


def refused(error, call, *args, **named):
    try:
        answer = call(*args, **named)
    except error as raised:
        return raised
    raise AssertionError(f"{call} was not refused: {answer}")


def generate_root():
    before = root.sys.read_root_generation_progress()
    assert not before["started"] and before["required"] == 2, before
    refused(exceptions.InvalidRequest, root.sys.start_root_token_generation, otp="short")
    otp = "A" * before["otp_length"]
    begun = root.sys.start_root_token_generation(otp=otp)
    assert begun["started"] and begun["progress"] == 0, begun
    refused(exceptions.InvalidRequest, root.sys.start_root_token_generation)
    refused(exceptions.InvalidRequest, root.sys.generate_root, key=KEYS[0], nonce="other")
    one = root.sys.generate_root(key=KEYS[0], nonce=begun["nonce"])
    assert one["progress"] == 1 and not one["complete"], one
    refused(exceptions.InvalidRequest, root.sys.generate_root, key=KEYS[0], nonce=begun["nonce"])
    done = root.sys.generate_root(key=KEYS[1], nonce=begun["nonce"])
    assert done["complete"] and done["encoded_root_token"] == done["encoded_token"], done
    hidden = done["encoded_token"]
    hidden = base64.b64decode(hidden + "=" * (-len(hidden) % 4))
    token = bytes(one ^ other for one, other in zip(hidden, otp.encode())).decode()
    made = hvac.Client(url=ADDRESS, token=token, verify=CA)
    assert made.auth.token.lookup_self()["data"]["policies"] == ["root"]
    made.auth.token.revoke_self()
    root.sys.start_root_token_generation()
    assert root.sys.cancel_root_generation().status_code == 204


def rekey():
    global KEYS
    before = root.sys.read_rekey_progress()
    assert not before["started"] and before["required"] == 2, before
    refused(exceptions.InvalidRequest, root.sys.rekey, key=KEYS[0], nonce="other")
    begun = root.sys.start_rekey(secret_shares=4, secret_threshold=2, require_verification=True)
    assert begun["n"] == 4 and begun["t"] == 2 and begun["verification_required"], begun
    made = root.sys.rekey_multi(KEYS[:2], nonce=begun["nonce"])
    assert made["complete"] and len(made["keys"]) == 4, made
    there = root.sys.read_rekey_verify_progress()
    assert there["nonce"] == made["verification_nonce"] and there["progress"] == 0, there
    root.sys.rekey_verify(made["keys"][0], nonce=there["nonce"])
    there = root.sys.cancel_rekey_verify()
    nonce = root.sys.read_rekey_verify_progress()["nonce"]
    done = root.sys.rekey_verify_multi(made["keys"][1:3], nonce=nonce)
    assert done["complete"], done
    KEYS = made["keys_base64"]
    refused(exceptions.InvalidRequest, root.sys.read_backup_keys)
    refused(exceptions.InvalidRequest, root.sys.start_rekey, recovery_key=True)
    root.sys.start_rekey(secret_shares=1, secret_threshold=1)
    root.sys.cancel_rekey()
    # The new keys, and only those, unseal.
    root.sys.seal()
    opened = root.sys.submit_unseal_keys(KEYS[2:])
    assert not opened["sealed"] and opened["n"] == 4, opened


def rotate():
    term = root.sys.get_encryption_key_status()["data"]["term"]
    root.sys.rotate_encryption_key()
    assert root.sys.get_encryption_key_status()["data"]["term"] == term + 1


def look():
    assert root.sys.read_leader_status()["ha_enabled"] is False
    assert root.sys.is_initialized() and not root.sys.is_sealed()
    root.sys.step_down()
    assert root.sys.read_seal_status()["recovery_seal"] is False


for step in (generate_root, rekey, rotate, look):
    step()
    print(step.__name__)
