"""`bao agent` and `bao proxy`, as machines run them. See session.py for what it needs.

A machine logs in by role id and a secret id that was handed to it wrapped; the agent keeps its token, renders
secrets, database users and certificates into files and renews or replaces them; it stands between the machine's
programs and the server; and it runs a program with secrets in its environment.
"""

import json
import os
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request

from session import ADDRESS, CA, CREATE, PATIENCE, POSTGRES, Bao, poll, psql, run, same

anyone, root = Bao(), Bao()


def write(name, text):
    with open(name, "w") as file:
        file.write(text)


def read(name):
    try:
        with open(name) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Daemon:
    """`bao agent` or `bao proxy` with a configuration, for as long as the block lasts."""

    def __init__(self, kind, config):
        server = f'vault {{\n  address = "{ADDRESS}"\n' + (f'  ca_cert = "{CA}"\n' if CA else "") + "}\n"
        write(f"{kind}.hcl", server + config)
        self.kind = kind

    def __enter__(self):
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("BAO", "VAULT"))}
        self.log = open(f"{self.kind}.log", "a+")
        self.process = subprocess.Popen(
            [os.environ["BAO"], self.kind, f"-config={self.kind}.hcl", "-log-level=debug"],
            env=environment, stdout=self.log, stderr=subprocess.STDOUT,
        )
        return self

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait(PATIENCE)
        if error[0]:
            self.log.seek(0)
            print(self.log.read()[-6000:])
        self.log.close()

    def waits(self, what, ask):
        def look():
            assert self.process.poll() is None, f"{self.kind} ended with {self.process.returncode}"
            return ask()

        return poll(what, look)


def machine(wrapped=False):
    """Puts the files into place by which a machine logs in."""
    write("role-id", "machine")
    if wrapped:
        made = root.json("write -f -wrap-ttl=5m auth/approle/role/machine/secret-id")["wrap_info"]["token"]
    else:
        made = root.says("write -f -field=secret_id auth/approle/role/machine/secret-id")
    write("secret-id", made)


AUTO_AUTH = """
auto_auth {
  method "approle" {
    config = {
      role_id_file_path = "role-id"
      secret_id_file_path = "secret-id"
      remove_secret_id_file_after_reading = %s
    }
  }
  sink "file" {
    config = { path = "token" }
  }
}
"""

WRAPPED = AUTO_AUTH % 'true\n      secret_id_response_wrapping_path = "auth/approle/role/machine/secret-id"'


def prepare():
    made = anyone.json("operator init -key-shares=1 -key-threshold=1")
    anyone.says(f"operator unseal {made['unseal_keys_b64'][0]}")
    root.token = made["root_token"]
    poll("it serves", lambda: root.run("token lookup").returncode == 0)
    root.says("secrets enable -path=secret -version=2 kv")
    root.says("kv put secret/app user=ann password=one")
    root.says("secrets enable -max-lease-ttl=87600h pki")
    root.says("write pki/root/generate/internal common_name=Root key_type=ec ttl=87600h")
    root.says("write pki/roles/web allowed_domains=example.org allow_subdomains=true key_type=ec ttl=8s max_ttl=1h")
    root.says("secrets enable database")
    root.says(
        f"write database/config/pg plugin_name=postgresql-database-plugin allowed_roles=* connection_url={POSTGRES} "
        f"username={os.environ['PGUSER']} password={os.environ['PGPASSWORD']}"
    )
    write("create.sql", CREATE)
    root.says("write database/roles/app db_name=pg creation_statements=@create.sql default_ttl=3s max_ttl=6s")
    root.says("write database/roles/long db_name=pg creation_statements=@create.sql default_ttl=1h")
    root.says(
        "policy write machine -",
        text="""
        path "secret/data/*" { capabilities = ["read"] }
        path "pki/issue/web" { capabilities = ["update"] }
        path "database/creds/*" { capabilities = ["read"] }
        path "sys/leases/revoke" { capabilities = ["update"] }
        path "auth/token/create" { capabilities = ["update"] }
        """,
    )
    root.says("auth enable approle")
    root.says("write auth/approle/role/machine token_policies=machine token_ttl=3s token_max_ttl=1h secret_id_ttl=10m")
    root.says("write auth/approle/role/machine/role-id role_id=machine")


TEMPLATES = """
template_config {
  static_secret_render_interval = "1s"
  exit_on_retry_failure = true
}
template {
  contents = "{{ with secret \\"secret/data/app\\" }}{{ .Data.data.user }}:{{ .Data.data.password }}:{{ .Data.metadata.version }}{{ end }}"
  destination = "kv.out"
}
template {
  contents = "{{ with secret \\"database/creds/app\\" }}{{ .Data.username }} {{ .Data.password }}{{ end }}"
  destination = "database.out"
}
template {
  contents = "{{ with pkiCert \\"pki/issue/web\\" \\"common_name=a.example.org\\" }}{{ .Cert }}{{ .CA }}{{ .Key }}{{ end }}"
  destination = "pki.out"
}
"""


def templates():
    machine(wrapped=True)
    with Daemon("agent", WRAPPED + TEMPLATES) as agent:
        token = agent.waits("the token is in its sink", lambda: read("token"))
        # A wrapped secret id is good for one login, and was taken away.
        assert not os.path.exists("secret-id")
        own = Bao(token)
        same(own.json("token lookup")["data"], policies=["default", "machine"], creation_ttl=3)

        agent.waits("the secret is rendered", lambda: read("kv.out") == "ann:one:1")
        first_user = agent.waits("the user is rendered", lambda: read("database.out")).split()
        assert psql(*first_user) == first_user[0], first_user
        first_certificate = agent.waits("the certificate is rendered", lambda: read("pki.out"))
        assert first_certificate.count("BEGIN CERTIFICATE") == 2 and "PRIVATE KEY" in first_certificate

        root.says("kv patch secret/app password=two")
        agent.waits("a new version is rendered", lambda: read("kv.out") == "ann:two:2")
        second = agent.waits(
            "another user is rendered when the first one's lease ends",
            lambda: read("database.out").split() not in ([], first_user) and read("database.out").split(),
        )
        assert psql(*second) == second[0], second
        poll("the first user is gone", lambda: psql(*first_user) is None)
        agent.waits("another certificate is rendered", lambda: read("pki.out") not in ("", first_certificate))
        # The token was renewed past its first three seconds, and is still the first one.
        assert read("token") == token
        assert own.json("token lookup")["data"]["ttl"] <= 3
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(PATIENCE) == 0


def ask(port, path, body=None, token=None, method=None):
    """One request to the agent, in the clear."""
    headers = {"X-Vault-Token": token} if token else {}
    data = None if body is None else json.dumps(body).encode()
    wish = urllib.request.Request(f"http://127.0.0.1:{port}/v1/{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(wish, timeout=PATIENCE) as answer:
            return answer.status, json.loads(answer.read() or b"null"), answer.headers
    except urllib.error.HTTPError as refused:
        return refused.code, json.loads(refused.read() or b"null"), refused.headers


def stand_between():
    machine()
    port = free_port()
    config = AUTO_AUTH % "false" + f"""
    cache {{}}
    api_proxy {{ use_auto_auth_token = true }}
    listener "tcp" {{
      address = "127.0.0.1:{port}"
      tls_disable = true
    }}
    """
    os.path.exists("token") and os.remove("token")
    with Daemon("agent", config) as agent:
        token = agent.waits("the token is in its sink", lambda: read("token"))
        # Programs need no token of their own.
        status, answer, _ = ask(port, "secret/data/app")
        assert status == 200 and answer["data"]["data"]["user"] == "ann", answer
        status, answer, _ = ask(port, "auth/token/lookup-self")
        # The agent says what its token may, and keeps the token.
        same(answer["data"], policies=["default", "machine"], id=None, accessor=None)
        assert ask(port, "sys/mounts")[0] == 403
        # A leased answer is given again from the cache, and renewed by the agent.
        status, user, headers = ask(port, "database/creds/long")
        assert status == 200 and headers["X-Cache"] == "MISS", (user, headers)
        status, again, headers = ask(port, "database/creds/long")
        assert headers["X-Cache"] == "HIT" and again["data"] == user["data"], (again, headers)
        login = lambda: psql(user["data"]["username"], user["data"]["password"])
        assert login()
        # A token made through the agent is kept, too.
        status, made, headers = ask(port, "auth/token/create", {"ttl": "1h", "policies": ["machine"]})
        assert status == 200 and headers["X-Cache"] == "MISS", made
        child = made["auth"]["client_token"]
        assert ask(port, "auth/token/create", {"ttl": "1h", "policies": ["machine"]})[1]["auth"]["client_token"] == child
        status, other, headers = ask(port, "database/creds/long", token=child)
        assert headers["X-Cache"] == "MISS" and other["data"] != user["data"], other
        # Revoking a lease through the agent takes it out of the cache.
        status, answer, _ = ask(port, "sys/leases/revoke", {"lease_id": user["lease_id"]}, method="PUT")
        assert status == 204, (status, answer)
        assert login() is None
        status, fresh, headers = ask(port, "database/creds/long")
        assert headers["X-Cache"] == "MISS" and fresh["data"] != user["data"], headers
        # What is not the server's to answer.
        assert ask(port, "secret/data/none")[0] == 404
        through = Bao().run("kv get -field=user secret/app", BAO_ADDR=f"http://127.0.0.1:{port}")
        assert through.stdout == "ann", through


def supervise():
    machine()
    for name in ("runs", "token"):
        os.path.exists(name) and os.remove(name)
    config = AUTO_AUTH % "false" + """
    template_config { static_secret_render_interval = "1s" }
    env_template "APP_PASSWORD" {
      contents = "{{ with secret \\"secret/data/app\\" }}{{ .Data.data.password }}{{ end }}"
      error_on_missing_key = true
    }
    env_template "APP_USER" {
      contents = "{{ with secret \\"database/creds/long\\" }}{{ .Data.username }}{{ end }}"
    }
    exec {
      command = ["sh", "-c", "echo $APP_USER $APP_PASSWORD >> runs; exec sleep 600"]
      restart_on_secret_changes = "always"
      restart_stop_signal = "SIGTERM"
    }
    """
    with Daemon("agent", config) as agent:
        first = agent.waits("the program runs", lambda: read("runs").splitlines())[0].split()
        assert first[1] == "two" and re.match(r"v-", first[0]), first
        root.says("kv patch secret/app password=three")
        second = agent.waits("it runs again", lambda: read("runs").splitlines()[1:])[0].split()
        assert second == [first[0], "three"], (first, second)
    # Its program's end is its own.
    config = config.replace("exec sleep 600", "exit 7")
    with Daemon("agent", config) as agent:
        assert agent.process.wait(PATIENCE) == 7


def proxy():
    machine()
    port = free_port()
    os.path.exists("token") and os.remove("token")
    config = AUTO_AUTH % "false" + f"""
    api_proxy {{
      use_auto_auth_token = "force"
      enforce_consistency = "never"
    }}
    listener "tcp" {{
      address = "127.0.0.1:{port}"
      tls_disable = true
      require_request_header = true
    }}
    """
    with Daemon("proxy", config) as proxy:
        token = proxy.waits("the token is in its sink", lambda: read("token"))
        assert ask(port, "secret/data/app")[0] == 412
        through = Bao("nonsense").json("token lookup", BAO_ADDR=f"http://127.0.0.1:{port}")
        same(through["data"], policies=["default", "machine"], id=None)
        assert Bao().says("kv get -field=password secret/app", BAO_ADDR=f"http://127.0.0.1:{port}") == "three"
        # Past its first three seconds the proxy renews, or logs in again after its end.
        root.says(f"token revoke {token}")
        said = lambda: Bao().run("kv get -field=password secret/app", BAO_ADDR=f"http://127.0.0.1:{port}").stdout
        proxy.waits("it logs in again", lambda: said() == "three" and read("token") != token)


def exit_after_auth():
    machine(wrapped=True)
    os.path.exists("token") and os.remove("token")
    with Daemon("agent", "exit_after_auth = true\n" + WRAPPED) as agent:
        assert agent.process.wait(PATIENCE) == 0
    Bao(read("token")).says("token lookup")
    # The same wrapped secret id a second time: somebody else opened it, and the agent says so.
    write("secret-id", "nonsense")
    with Daemon("agent", "exit_after_auth = true\n" + WRAPPED) as agent:
        agent.waits("it refuses", lambda: "error" in read("agent.log").rsplit("auth.handler", 1)[-1].lower())


run((prepare, templates, stand_between, supervise, proxy, exit_after_auth))
