"""What sessions with clients share: the server, PostgreSQL, the `bao` command, waiting, and running steps.

Run by sessions.rs. ADDRESS and CA say where the server is, SERVER whether it is Daypass or OpenBao, BAO which
`bao` to run, DEVICES where audit devices may write; PGPORT, PGUSER and PGPASSWORD name the PostgreSQL server.
The server is fresh: not initialized.
"""

import json
import os
import shlex
import subprocess
import time
import traceback

ADDRESS, CA = os.environ["ADDRESS"], os.environ["CA"]
DAYPASS = os.environ["SERVER"] == "daypass"
PATIENCE = 60

CREATE = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"
POSTGRES = f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{os.environ['PGPORT']}/postgres?sslmode=disable"


def poll(what, ask):
    deadline = time.monotonic() + PATIENCE
    while not (answer := ask()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return answer


def psql(user=None, password=None, sql="SELECT current_user"):
    """What PostgreSQL answers, or None if it does not let the user in."""
    login = {
        "PGUSER": user or os.environ["PGUSER"],
        "PGPASSWORD": password or os.environ["PGPASSWORD"],
        "PGHOST": "127.0.0.1",
        "PGDATABASE": "postgres",
        "PGSSLMODE": "disable",
    }
    done = subprocess.run(
        ["psql", "-XtAc", sql], env={**os.environ, **login}, capture_output=True, text=True, timeout=PATIENCE
    )
    return done.stdout.strip() if done.returncode == 0 else None


class Bao:
    """The `bao` command with a token, or without one."""

    def __init__(self, token=""):
        self.token = token

    def run(self, line, text=None, **environment):
        named = {"BAO_ADDR": ADDRESS, "BAO_CACERT": CA, "BAO_MAX_RETRIES": "0", **environment}
        if self.token:
            named["BAO_TOKEN"] = self.token
        words = [os.environ["BAO"], *shlex.split(line)]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("BAO")}
        return subprocess.run(
            words, env={**inherited, **named}, input=text, capture_output=True, text=True, timeout=PATIENCE
        )

    def exits(self, code, line, **named):
        """Runs a line that must end so, and answers all it printed."""
        done = self.run(line, **named)
        assert done.returncode == code, f"bao {line}: exit {done.returncode}, not {code}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def says(self, line, **named):
        """Runs a line that must succeed, and answers what it printed to standard output."""
        done = self.run(line, **named)
        assert done.returncode == 0, f"bao {line}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def json(self, line, code=0, **named):
        done = self.run(line, BAO_FORMAT="json", **named)
        assert done.returncode == code, f"bao {line}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def refuses(self, line, *parts, code=2, **named):
        """Runs a line that must fail, saying all of `parts`."""
        said = self.exits(code, line, **named)
        for part in parts:
            assert part in said, f"bao {line}: does not say {part!r}:\n{said}"
        return said


def same(found, **wanted):
    """Whether `found` has all of `wanted`."""
    for name, value in wanted.items():
        assert found.get(name) == value, f"{name} is {found.get(name)!r}, not {value!r}: {found}"


def run(steps):
    """Runs the steps in their order, all of them, so that one run shows all that differs."""
    failed = 0
    for step in steps:
        began = time.monotonic()
        try:
            step()
            print("passed", step.__name__, f"{time.monotonic() - began:.1f}s")
        except Exception as error:  # Whatever it is, the next step is run.
            failed += 1
            print("FAILED", step.__name__, repr(error)[:200])
            traceback.print_exc()
    raise SystemExit(1 if failed else 0)
