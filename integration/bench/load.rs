//! The load generator: `wrk`, told what to ask by a Lua script.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::server::Server;
use crate::settings::Settings;

/// What a round of requests showed.
#[derive(Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) duration: Duration,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

impl Measured {
    pub(crate) fn per_second(&self) -> f64 {
        self.requests as f64 / self.duration.as_secs_f64()
    }
}

/// What is asked.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) method: &'static str,
    /// Below `/v1/`. `{n}` stands for a number that no other request has.
    pub(crate) path: String,
    /// JSON. `{ttl}` stands for the seconds until [`Ask::ends_at`].
    pub(crate) body: Option<String>,
    /// JSON, sent in turns instead of `body` where there are any.
    pub(crate) bodies: Vec<String>,
    /// Whether the token is sent.
    pub(crate) token: bool,
    /// An instant, in seconds since the epoch.
    pub(crate) ends_at: u64,
}

impl Ask {
    pub(crate) fn get(path: &str) -> Self {
        Self {
            method: "GET",
            path: path.to_owned(),
            body: None,
            bodies: Vec::new(),
            token: true,
            ends_at: 0,
        }
    }

    pub(crate) fn post(path: &str, body: &str) -> Self {
        Self {
            method: "POST",
            body: Some(body.to_owned()),
            ..Self::get(path)
        }
    }

    /// The script. `first` is the first number.
    fn script(&self, server: &Server, first: u64) -> String {
        let token = if self.token {
            format!("wrk.headers[\"X-Vault-Token\"] = \"{}\"", server.token)
        } else {
            String::new()
        };
        let body = self.body.as_deref().unwrap_or_default();
        // Formatting each request costs wrk time, so it is done only where they differ.
        let request = if !self.bodies.is_empty() {
            r"local made = {}
request = function()
  n = n % #bodies + 1
  made[n] = made[n] or wrk.format(nil, path, nil, bodies[n])
  return made[n]
end"
        } else if self.path.contains("{n}") || body.contains("{ttl}") {
            r#"request = function()
  n = n + 1
  local ttl = tostring(ends_at - os.time())
  return wrk.format(nil, (path:gsub("{n}", tostring(n))), nil, (wrk.body:gsub("{ttl}", ttl)))
end"#
        } else {
            ""
        };
        let bodies: Vec<String> = self
            .bodies
            .iter()
            .map(|body| format!("[[{body}]]"))
            .collect();
        format!(
            r#"local n, ends_at, path = {first}, {ends_at}, "/v1/{path}"
wrk.method = "{method}"
wrk.path = path
wrk.body = [[{body}]]
local bodies = {{ {bodies} }}
wrk.headers["Content-Type"] = "application/json"
{token}
{request}
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("BENCH %d %d %d %d %d\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"#,
            ends_at = self.ends_at,
            path = self.path,
            method = self.method,
            bodies = bodies.join(",\n"),
        )
    }

    /// Asks for `duration`.
    pub(crate) fn load(
        &self,
        server: &Server,
        settings: &Settings,
        duration: Duration,
        first: u64,
    ) -> Measured {
        run(server, settings, duration, &self.script(server, first))
    }

    /// Asks until there were at least so many answers; returns how many a second.
    pub(crate) fn repeat(&self, server: &Server, settings: &Settings, times: usize) -> f64 {
        let (mut answers, mut seconds) = (0.0, 0.0);
        let mut next = Duration::from_secs(2);
        // wrk knows only how long to ask, so it is told again and again.
        while answers < times as f64 {
            let round = self.load(server, settings, next, answers as u64);
            assert_eq!(
                round.errors,
                0,
                "{}: {} refused",
                server.kind.name(),
                self.path
            );
            answers += round.requests as f64;
            seconds += round.duration.as_secs_f64();
            let missing = (times as f64 - answers) / (answers / seconds);
            next = Duration::from_secs_f64(missing.clamp(1.0, 60.0));
        }
        answers / seconds
    }
}

fn run(server: &Server, settings: &Settings, duration: Duration, script: &str) -> Measured {
    let mut file = tempfile::NamedTempFile::new().expect("a script");
    std::io::Write::write_all(&mut file, script.as_bytes()).expect("a script");
    let text = wrk(settings, duration, file.path(), &server.address);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("BENCH "))
        .unwrap_or_else(|| panic!("wrk does not tell what it saw:\n{text}"));
    let numbers: Vec<u64> = line
        .split(' ')
        .map(|number| number.parse().expect("a number"))
        .collect();
    Measured {
        requests: numbers[0],
        duration: Duration::from_micros(numbers[1]),
        p50: Duration::from_micros(numbers[2]),
        p99: Duration::from_micros(numbers[3]),
        errors: numbers[4],
    }
}

fn wrk(settings: &Settings, duration: Duration, script: &Path, address: &str) -> String {
    let output = Command::new("wrk")
        .args(["--threads", "1", "--timeout", "60s", "--connections"])
        .arg(settings.connections.to_string())
        .arg("--duration")
        .arg(format!("{}s", duration.as_secs()))
        .arg("--script")
        .arg(script)
        .arg(address)
        .output()
        .unwrap_or_else(|error| panic!("wrk: {error}; run scripts/install-bench-tools.sh"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "wrk: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}
