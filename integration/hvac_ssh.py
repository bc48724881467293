"""What programs do with hvac's ssh module, against Daypass. Run by ssh.rs.

ADDRESS, CA and TOKEN say where. The folder has a key pair `user` made by ssh-keygen. What it signs is left in
`user-cert.pub` for the caller to judge.
"""

import os
from pathlib import Path

import hvac
from hvac import exceptions

root = hvac.Client(url=os.environ["ADDRESS"], token=os.environ["TOKEN"], verify=os.environ["CA"])
ssh = root.secrets.ssh
key = Path("user.pub").read_text()


def refused(call, *args, **named):
    try:
        answer = call(*args, **named)
    except exceptions.InvalidRequest as raised:
        return str(raised)
    raise AssertionError(f"{call} was not refused: {answer}")


root.sys.enable_secrets_engine("ssh")
made = ssh.submit_ca_information(key_type="ed25519")["data"]
assert made["public_key"].startswith("ssh-ed25519 "), made
assert ssh.read_public_key()["data"]["public_key"] == made["public_key"]

ssh.create_role(
    name="deploy",
    key_type="ca",
    allow_user_certificates=True,
    allowed_users="deploy,backup",
    default_user="deploy",
    allowed_extensions="permit-pty",
    default_extensions={"permit-pty": ""},
    ttl="5m",
    max_ttl="10m",
)
role = ssh.read_role("deploy")["data"]
assert role["allowed_users"] == "deploy,backup" and role["ttl"] == 300, role
assert ssh.list_roles()["data"]["keys"] == ["deploy"]

signed = ssh.sign_ssh_key(name="deploy", public_key=key)["data"]
assert int(signed["serial_number"], 16), signed
Path("user-cert.pub").write_text(signed["signed_key"])
assert "does not allow" in refused(ssh.sign_ssh_key, name="deploy", public_key=key, valid_principals="root")
assert "larger than maximum" in refused(ssh.sign_ssh_key, name="deploy", public_key=key, ttl="11m")
assert "extensions" in refused(
    ssh.sign_ssh_key, name="deploy", public_key=key, extensions={"permit-port-forwarding": ""}
)
assert "host" in refused(ssh.sign_ssh_key, name="deploy", public_key=key, cert_type="host")

ssh.delete_role("deploy")
refused(ssh.sign_ssh_key, name="deploy", public_key=key)
ssh.delete_ca_information()
refused(ssh.read_public_key)
