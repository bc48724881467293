// node-vault from the first request to a server on. See session.py for what it needs; NODE_PATH names the folder
// with the package, and NODE_EXTRA_CA_CERTS the server's authority.
"use strict";
const assert = require("node:assert/strict");
const { setTimeout: pause } = require("node:timers/promises");
const nodeVault = require("node-vault");

const endpoint = process.env.ADDRESS;
// The library takes on the token of every answer that has one, even of one that made a token for another.
const connect = (token) => nodeVault({ apiVersion: "v1", endpoint, token });
const anyone = connect();
const root = connect();
// Some of the library's requests are older than OpenBao, which no longer answers them. Daypass does.
const older = process.env.SERVER === "daypass";
let keys;

const asRoot = () => connect(root.token);

const refused = async (status, promise) => {
  const error = await promise.then(
    () => assert.fail("it was not refused"),
    (error) => error,
  );
  assert.equal(error.response?.statusCode, status, error.message);
  return error.message;
};

const poll = async (what, ask) => {
  const deadline = Date.now() + 60_000;
  while (!(await ask())) {
    assert.ok(Date.now() < deadline, what);
    await pause(50);
  }
};

const steps = {
  async init() {
    assert.deepEqual(await anyone.initialized(), { initialized: false });
    const made = await anyone.init({ secret_shares: 3, secret_threshold: 2 });
    keys = made.keys;
    root.token = made.root_token;
    assert.equal((await anyone.unseal({ key: keys[0] })).progress, 1);
    assert.equal((await anyone.unseal({ reset: true })).progress, 0);
    await anyone.unseal({ key: keys[1] });
    assert.equal((await anyone.unseal({ key: keys[2] })).sealed, false);
    const status = await anyone.status();
    assert.deepEqual([status.sealed, status.t, status.n], [false, 2, 3]);
    const health = await anyone.health();
    assert.deepEqual([health.initialized, health.sealed], [true, false]);
    assert.equal((await anyone.leader()).ha_enabled, false);
  },

  async secrets() {
    await root.mount({ mount_point: "secret", type: "kv", options: { version: "2" }, description: "kept" });
    assert.equal((await root.mounts()).data["secret/"].description, "kept");
    await refused(400, root.mount({ mount_point: "secret", type: "kv" }));
    assert.equal((await root.write("secret/data/app", { data: { k: "v" } })).data.version, 1);
    assert.equal((await root.update("secret/data/app", { data: { more: "w" } })).data.version, 2);
    const read = await root.read("secret/data/app");
    assert.deepEqual(read.data.data, { k: "v", more: "w" });
    assert.deepEqual((await root.read("secret/data/app?version=1")).data.data, { k: "v" });
    assert.deepEqual((await root.list("secret/metadata")).data.keys, ["app"]);
    await root.write("secret/destroy/app", { versions: [1] });
    await refused(404, root.read("secret/data/app?version=1"));
    assert.match(await refused(404, root.read("secret/data/none")), /404/);
    await root.mount({ mount_point: "plain", type: "kv", options: { version: "1" } });
    await root.write("plain/a", { k: "v" });
    assert.deepEqual((await root.read("plain/a")).data, { k: "v" });
    await root.delete("plain/a");
    await refused(404, root.read("plain/a"));
    await root.remount({ from: "plain", to: "moved" });
    await poll("moved", async () => "moved/" in (await root.mounts()).data);
    await root.unmount({ mount_point: "moved" });
    assert.ok(!("moved/" in (await root.mounts()).data));
  },

  async policies() {
    await root.addPolicy({ name: "reader", rules: 'path "secret/data/*" { capabilities = ["read"] }' });
    assert.ok((await root.policies()).data.policies.includes("reader"));
    assert.match((await root.getPolicy({ name: "reader" })).data.rules, /secret/);
    await root.addPolicy({ name: "other", rules: 'path "x" { capabilities = ["deny"] }' });
    await root.removePolicy({ name: "other" });
    assert.ok(!(await root.policies()).data.policies.includes("other"));
  },

  async tokens() {
    const made = (await asRoot().tokenCreate({ policies: ["reader"], ttl: "1h", renewable: true })).auth;
    assert.deepEqual(made.policies, ["default", "reader"]);
    const reader = connect(made.client_token);
    assert.equal((await reader.tokenLookupSelf()).data.accessor, made.accessor);
    assert.equal((await reader.tokenRenewSelf({ increment: "30m" })).auth.lease_duration, 1800);
    assert.equal((await asRoot().tokenRenew({ token: made.client_token, increment: "20m" })).auth.lease_duration, 1200);
    assert.equal((await root.tokenLookup({ token: made.client_token })).data.id, made.client_token);
    assert.equal((await root.tokenLookupAccessor({ accessor: made.accessor })).data.id, "");
    assert.ok((await root.tokenAccessors()).data.keys.includes(made.accessor));
    assert.equal((await reader.read("secret/data/app")).data.data.k, "v");
    await refused(403, reader.write("secret/data/app", { data: {} }));
    await root.addTokenRole({ role_name: "ci", allowed_policies: "reader", orphan: true });
    assert.equal((await root.getTokenRole({ role_name: "ci" })).data.orphan, true);
    assert.deepEqual((await root.tokenRoles()).data.keys, ["ci"]);
    assert.equal((await asRoot().tokenCreateRole({ role_name: "ci", policies: ["reader"] })).auth.orphan, true);
    await root.removeTokenRole({ role_name: "ci" });
    const orphan = (await asRoot().tokenCreateOrphan({ ttl: "1h" })).auth;
    await root.tokenRevokeAccessor({ accessor: orphan.accessor });
    await root.tokenRevoke({ token: made.client_token });
    await refused(403, reader.tokenLookupSelf());

    // A token that the library keeps alive by itself.
    const short = connect((await asRoot().tokenCreate({ policies: ["reader"], ttl: "2s" })).auth.client_token);
    let renewed = 0;
    short.on("token:renewed", () => renewed++);
    await short.startTokenRenewal();
    await poll("it is renewed twice", () => renewed >= 2);
    short.stopAllRenewals();
    await poll("it ends", () => short.tokenLookupSelf().then(() => false, (error) => error.response?.statusCode === 403));
  },

  async approle() {
    await root.enableAuth({ mount_point: "approle", type: "approle", description: "machines" });
    assert.equal((await root.auths()).data["approle/"].type, "approle");
    await root.addApproleRole({ role_name: "app", policies: "reader", token_ttl: 600 });
    assert.deepEqual((await root.getApproleRole({ role_name: "app" })).data.token_policies, ["reader"]);
    assert.deepEqual((await root.approleRoles()).data.keys, ["app"]);
    await root.updateApproleRoleId({ role_name: "app", role_id: "known" });
    assert.equal((await root.getApproleRoleId({ role_name: "app" })).data.role_id, "known");
    const made = (await root.getApproleRoleSecret({ role_name: "app" })).data;
    assert.deepEqual((await root.approleSecretAccessors({ role_name: "app" })).data.keys, [made.secret_id_accessor]);
    const looked = await root.approleSecretLookup({ role_name: "app", secret_id: made.secret_id });
    assert.equal(looked.data.secret_id_accessor, made.secret_id_accessor);
    const machine = connect();
    const { auth } = await machine.approleLogin({ role_id: "known", secret_id: made.secret_id });
    assert.deepEqual([auth.policies, auth.lease_duration], [["default", "reader"], 600]);
    // The library uses the login's token from here on.
    assert.equal((await machine.read("secret/data/app")).data.data.k, "v");
    await refused(400, connect().approleLogin({ role_id: "known", secret_id: "wrong" }));
    await root.approleSecretDestroy({ role_name: "app", secret_id: made.secret_id });
    await refused(400, connect().approleLogin({ role_id: "known", secret_id: made.secret_id }));
    await root.deleteApproleRole({ role_name: "app" });
    await root.disableAuth({ mount_point: "approle" });
    await refused(403, machine.tokenLookupSelf());
  },

  async userpass() {
    await root.enableAuth({ mount_point: "userpass", type: "userpass" });
    await root.write("auth/userpass/users/ann", { password: "first", token_policies: "reader" });
    const ann = connect();
    await ann.userpassLogin({ username: "ann", password: "first" });
    assert.equal((await ann.tokenLookupSelf()).data.display_name, "userpass-ann");
    await refused(400, connect().userpassLogin({ username: "ann", password: "wrong" }));
  },

  async wrapping() {
    const wrapped = await root.request({
      method: "POST", path: "/sys/wrapping/wrap", json: { a: "b" }, headers: { "X-Vault-Wrap-TTL": "60s" },
    });
    const opened = await asRoot().unwrap({ token: wrapped.wrap_info.token });
    assert.deepEqual(opened.data, { a: "b" });
    await refused(400, asRoot().unwrap({ token: wrapped.wrap_info.token }));
  },

  async database() {
    await root.mount({ mount_point: "database", type: "database" });
    const address = `127.0.0.1:${process.env.PGPORT}/postgres?sslmode=disable`;
    await root.write("database/config/pg", {
      plugin_name: "postgresql-database-plugin", allowed_roles: "*", connection_url: `postgresql://{{username}}:{{password}}@${address}`,
      username: process.env.PGUSER, password: process.env.PGPASSWORD,
    });
    await root.write("database/roles/app", {
      db_name: "pg", default_ttl: "1h",
      creation_statements: `CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`,
    });
    const made = await root.generateDatabaseCredentials({ databasePath: "database", name: "app" });
    assert.equal(made.lease_duration, 3600);
    assert.equal((await root.renew({ lease_id: made.lease_id, increment: 300 })).lease_duration, 300);
    await root.revoke({ lease_id: made.lease_id });
    await refused(400, root.renew({ lease_id: made.lease_id }));
    await root.read("database/creds/app");
    if (older) {
      await root.revokePrefix({ path_prefix: "database/creds" });
    } else {
      await root.write("sys/leases/revoke-prefix/database/creds", {});
    }
    await poll("no lease is left", () => root.list("sys/leases/lookup/database/creds").then(() => false, () => true));
  },

  async keys() {
    const before = (await root.read("sys/key-status")).data.term;
    await (older ? root.rotate() : root.request({ method: "POST", path: "/sys/rotate" }));
    assert.equal((await root.read("sys/key-status")).data.term, before + 1);
    const begun = await root.generateRootInit();
    await root.generateRootUpdate({ key: keys[0], nonce: begun.nonce });
    const done = await root.generateRootUpdate({ key: keys[1], nonce: begun.nonce });
    assert.ok(done.complete && done.encoded_token);
    await root.generateRootInit();
    await root.generateRootCancel();
    await root.seal();
    await refused(503, root.read("secret/data/app"));
  },
};

(async () => {
  for (const [name, step] of Object.entries(steps)) {
    try {
      await step();
      console.log("passed", name);
    } catch (error) {
      process.exitCode = 1;
      console.log("FAILED", name, error.message);
      console.log(error.stack);
    }
  }
})();
