"""Audit devices with hvac. Run by audit_devices.rs; ADDRESS, CA and TOKEN say where, FILE what to write."""

import json
import os
import time

import hvac
from hvac import exceptions

root = hvac.Client(url=os.environ["ADDRESS"], token=os.environ["TOKEN"], verify=os.environ["CA"])
FILE = os.environ["FILE"]

before = root.sys.list_enabled_audit_devices()["data"]
assert "hvac/" not in before, before
root.sys.enable_audit_device(
    "file", description="by hvac", options={"file_path": FILE}, path="hvac", local=True
)
device = root.sys.list_enabled_audit_devices()["data"]["hvac/"]
assert device == {
    "type": "file",
    "description": "by hvac",
    "options": {"file_path": FILE},
    "path": "hvac/",
    "local": True,
}, device
try:
    root.sys.enable_audit_device("file", options={"file_path": FILE + "2"}, path="hvac")
    raise AssertionError("enabled twice")
except exceptions.InvalidRequest as error:
    assert "path already in use" in str(error), error
try:
    root.sys.enable_audit_device("file", options={"file_path": "/etc/hvac.log"}, path="other")
    raise AssertionError("wrote anywhere")
except exceptions.InvalidRequest as error:
    assert "audit.device_dirs" in str(error), error

root.sys.enable_secrets_engine("kv", path="plain", options={"version": "1"})
root.secrets.kv.v1.create_or_update_secret("a", {"k": "a-known-value"}, mount_point="plain")
wanted = root.sys.calculate_hash("hvac", "a-known-value")["data"]["hash"]
deadline = time.monotonic() + 60
while True:
    with open(FILE) as file:
        records = [json.loads(line) for line in file if line.endswith("\n")]
    found = [r for r in records if r.get("request", {}).get("data", {}) == {"k": wanted}]
    if found:
        break
    assert time.monotonic() < deadline, "the record does not arrive"
    time.sleep(0.05)
assert {record["type"] for record in found} <= {"request", "response"}, found
assert found[0]["request"]["path"] == "plain/a" and found[0]["auth"]["display_name"], found
assert found[0]["time"] and found[0]["request"]["id"] and found[0]["request"]["operation"] == "update"

root.sys.disable_audit_device("hvac")
root.sys.disable_audit_device("hvac")
assert "hvac/" not in root.sys.list_enabled_audit_devices()["data"]
