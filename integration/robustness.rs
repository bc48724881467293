//! Input that nobody well-meaning sends: cases made from the OpenAPI document, malformed HTTP, slow and
//! silent clients, floods. Others are answered meanwhile, memory stays bounded, and afterwards the server
//! ends in order with an audit log that verifies.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::server::Server;
use crate::{PATIENCE, tools, wait_for};

/// Small enough to run into within a test.
const LIMITS: &str = r#"
[[listeners]]
address = "127.0.0.2:0"
tls = false

[limits]
max_body_bytes = 65536
max_headers = 32
max_header_bytes = 16384
request_timeout = "10s"
"#;
/// What memory may grow by in a test, in bytes. Unbounded buffering of what is sent here takes more.
const GROWTH: u64 = 256 << 20;

/// A server with something in it, and what it used before anything was done to it.
struct Ordeal {
    server: Server,
    /// Where it speaks HTTP without TLS.
    plain: SocketAddr,
    resident: u64,
}

impl Ordeal {
    fn new(more: &str) -> Self {
        let server = Server::start(&format!("{LIMITS}{more}"));
        let plain = wait_for("it listens without TLS", PATIENCE, || {
            let log = server.log();
            let lines = log.lines().map(serde_json::from_str::<Value>);
            let mut addresses = lines.filter_map(|line| {
                let line = line.ok()?;
                let listening = line["message"] == "listening";
                listening.then(|| line["address"].as_str().map(str::to_owned))?
            });
            addresses.find(|address| address != server.address())
        });
        let root = server.root();
        root.write(
            "sys/mounts/secret",
            &json!({"type": "kv", "options": {"version": "2"}}),
        );
        root.write("secret/data/app", &json!({"data": {"k": "v"}}));
        let resident = resident(server.id());
        Self {
            server,
            plain: plain.parse().unwrap(),
            resident,
        }
    }

    /// Does `what`; a client on a connection of its own and one on new connections are answered all the
    /// while, and afterwards.
    fn during(&self, what: &str, act: impl FnOnce(&Self)) {
        let over = AtomicBool::new(false);
        let root = self.server.root();
        let ask = || {
            for client in [root.clone(), self.server.root()] {
                let began = Instant::now();
                let answer = client.read("secret/data/app");
                assert_eq!(answer.data()["data"]["k"], "v", "{what}: {answer}");
                assert!(began.elapsed() < PATIENCE, "{what}: {:?}", began.elapsed());
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    ask();
                    thread::sleep(Duration::from_millis(20));
                }
            });
            // Set also where `act` fails, so that the test ends.
            let _end = Raise(&over);
            act(self);
        });
        ask();
        let now = resident(self.server.id());
        assert!(
            now.saturating_sub(self.resident) < GROWTH,
            "{what}: memory grew from {} to {now} bytes",
            self.resident
        );
    }

    fn end(mut self) {
        assert!(self.server.stop().success());
        let log = self.server.log();
        assert!(!log.contains("panicked"), "a handler panicked");
        self.server.verify_audit();
    }

    fn connect(&self) -> TcpStream {
        connect(self.plain)
    }

    /// Sends `bytes` and gives what is answered until the server closes the connection.
    fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // The server may refuse before it has read everything.
        let _ = stream.write_all(bytes);
        to_end(&mut stream)
    }
}

struct Raise<'a>(&'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .set_write_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    stream
}

/// What arrives until the other side closes, or resets, the connection; panics where it never does.
fn to_end(stream: &mut TcpStream) -> String {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => all.extend_from_slice(&buffer[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!(
                    "the server keeps the connection: {:?}",
                    String::from_utf8_lossy(&all)
                )
            }
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// Bytes of memory that a process has.
fn resident(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kibibytes = line.split_whitespace().nth(1).unwrap();
    kibibytes.parse::<u64>().unwrap() * 1024
}

/// The statuses of every answer in what a connection carried.
fn statuses(said: &str) -> Vec<u16> {
    said.match_indices("HTTP/1.")
        .filter_map(|(at, _)| said.get(at + 9..at + 12)?.parse().ok())
        .collect()
}

#[test]
fn requests_made_from_the_openapi_document_are_answered_as_it_says() {
    if tools::skipped(&["clients"]) {
        return;
    }
    // A connection that is quiet for as long as `header_timeout` is closed, also between two requests: a run
    // that the machine holds up meanwhile would take that for a dropped one.
    let mut server = Server::start("\n[limits]\nheader_timeout = \"10m\"\n");
    let root = server.root();
    for (path, body) in [
        (
            "sys/mounts/secret",
            json!({"type": "kv", "options": {"version": "2"}}),
        ),
        (
            "sys/mounts/plain",
            json!({"type": "kv", "options": {"version": "1"}}),
        ),
        ("sys/mounts/database", json!({"type": "database"})),
        ("sys/mounts/transit", json!({"type": "transit"})),
        ("sys/mounts/pki", json!({"type": "pki"})),
        (
            "pki/root/generate/internal",
            json!({"common_name": "Root", "ttl": "8760h"}),
        ),
        (
            "pki/roles/web",
            json!({"allowed_domains": ["example.com"], "allow_subdomains": true}),
        ),
        ("sys/auth/approle", json!({"type": "approle"})),
        ("auth/approle/role/ci", json!({})),
        ("sys/auth/userpass", json!({"type": "userpass"})),
        ("sys/auth/jwt", json!({"type": "jwt"})),
        ("sys/auth/kubernetes", json!({"type": "kubernetes"})),
    ] {
        root.write(path, &body);
    }
    let said = tools::succeed(
        tools::from_venv("schemathesis")
            .arg("--no-color")
            .arg("--config-file")
            .arg(tools::root("integration/schemathesis.toml"))
            .arg("run")
            .arg(format!("{}/v1/sys/internal/specs/openapi", server.url()))
            .arg("--tls-verify")
            .arg(server.path("ca.pem"))
            .arg("-H")
            .arg(format!("X-Vault-Token: {}", server.root))
            .current_dir(server.folder()),
    );
    let generated = said
        .lines()
        .find_map(|line| line.trim().split_once(" generated")?.0.parse::<u32>().ok());
    assert!(generated.is_some_and(|cases| cases > 5000), "{said}");
    assert!(server.stop().success());
    assert!(!server.log().contains("panicked"));
    server.verify_audit();
}

#[test]
fn malformed_requests_are_refused() {
    let ordeal = Ordeal::new("");
    let long = "a".repeat(100_000);
    let many = "x-y: 1\r\n".repeat(100);
    let get = "GET /v1/sys/health HTTP/1.1\r\nHost: a\r\n";
    let post = "POST /v1/secret/data/x HTTP/1.1\r\nHost: a\r\n";
    let chunked = format!("{post}Transfer-Encoding: chunked\r\n");
    let cases: [(&str, Vec<u8>); 28] = [
        ("no request at all", b"\r\n\r\n\r\n".to_vec()),
        ("binary", vec![0x80; 4096]),
        ("NUL bytes", vec![0; 4096]),
        ("no version", b"GET /v1/sys/health\r\n\r\n".to_vec()),
        ("a strange version", b"GET / HTTP/9.9\r\n\r\n".to_vec()),
        ("an old version", b"GET / HTTP/0.9\r\n\r\n".to_vec()),
        ("a method that is none", b"G@T / HTTP/1.1\r\n\r\n".to_vec()),
        ("a space too much", b"GET  / HTTP/1.1\r\n\r\n".to_vec()),
        (
            "a path of one MB",
            [
                b"GET /",
                "a".repeat(1 << 20).as_bytes(),
                b" HTTP/1.1\r\n\r\n",
            ]
            .concat(),
        ),
        (
            "control characters in the path",
            b"GET /v1/\x01\x02 HTTP/1.1\r\n\r\n".to_vec(),
        ),
        (
            "a header without a name",
            format!("{get}: x\r\n\r\n").into(),
        ),
        ("a header without a colon", format!("{get}x\r\n\r\n").into()),
        (
            "a space before the colon",
            format!("{get}x : y\r\n\r\n").into(),
        ),
        ("a folded header", format!("{get}x: y\r\n z\r\n\r\n").into()),
        ("NUL in a header", format!("{get}x: \0\r\n\r\n").into()),
        ("a long header", format!("{get}x: {long}\r\n\r\n").into()),
        ("many headers", format!("{get}{many}\r\n").into()),
        (
            "a negative length",
            format!("{post}Content-Length: -1\r\n\r\n").into(),
        ),
        (
            "a length with a sign",
            format!("{post}Content-Length: +5\r\n\r\nhello").into(),
        ),
        (
            "a length beyond numbers",
            format!("{post}Content-Length: 99999999999999999999\r\n\r\n").into(),
        ),
        (
            "two lengths",
            format!("{post}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!").into(),
        ),
        (
            "two lengths in one",
            format!("{post}Content-Length: 5, 6\r\n\r\nhello!").into(),
        ),
        (
            "an encoding that is none",
            format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n").into(),
        ),
        (
            "chunked, but not at last",
            format!("{post}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n").into(),
        ),
        (
            "chunked in HTTP/1.0",
            chunked.replace("HTTP/1.1", "HTTP/1.0").into_bytes(),
        ),
        (
            "a chunk size that is none",
            format!("{chunked}\r\nzz\r\nhello\r\n0\r\n\r\n").into(),
        ),
        (
            "a chunk size beyond numbers",
            format!("{chunked}\r\n{}\r\n", "f".repeat(40)).into(),
        ),
        (
            "a chunk longer than its size",
            format!("{chunked}\r\n2\r\nhello\r\n0\r\n\r\n").into(),
        ),
    ];
    for (name, bytes) in cases {
        ordeal.during(name, |ordeal| {
            // Where the bytes may be the beginning of something, no more is to come.
            let mut stream = ordeal.connect();
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(Shutdown::Write);
            let said = to_end(&mut stream);
            let answered = statuses(&said);
            assert!(answered.len() <= 1, "{name}: {said}");
            for status in answered {
                assert!(
                    (400..500).contains(&status) || status == 505,
                    "{name}: {said}"
                );
            }
        });
    }
    ordeal.end();
}

#[test]
fn what_two_readers_could_understand_differently_is_answered_once_or_in_order() {
    let ordeal = Ordeal::new("");
    let smuggled = "GET /v1/sys/seal-status HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let post = "POST /v1/secret/data/x HTTP/1.1\r\nHost: a\r\n";
    // Of each, a reader that goes by the length takes what follows for the body; one that goes by the
    // chunks takes it for a request.
    for headers in [
        "Content-Length: 74\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 74\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Content-Length: 74\r\nTransfer-Encoding: \tchunked\r\n",
        "Content-Length: 74\r\nContent-Length: 5\r\n",
    ] {
        let said = ordeal.exchange(format!("{post}{headers}\r\n0\r\n\r\n{smuggled}").as_bytes());
        // Refused, or read by its chunks with the connection closed after it (RFC 9112, section 6.1):
        // what follows is never a request.
        let answered = statuses(&said);
        let refused = matches!(answered[..], [400 | 403]);
        assert!(refused && !said.contains("\"sealed\""), "{headers}: {said}");
    }

    let ask = |path: &str, more: &str| format!("GET /v1/{path} HTTP/1.1\r\nHost: a\r\n{more}\r\n");
    let close = "Connection: close\r\n";
    let pipelined = ask("sys/seal-status", "").repeat(50) + &ask("sys/leader", close);
    ordeal.during("pipelining", |ordeal| {
        let said = ordeal.exchange(pipelined.as_bytes());
        assert_eq!(statuses(&said), [200; 51], "{said}");
        assert!(
            said.rfind("\"sealed\"") < said.find("\"ha_enabled\""),
            "{said}"
        );
    });

    // A client that sends no more still gets its answer.
    let mut stream = ordeal.connect();
    stream
        .write_all(ask("sys/seal-status", "").as_bytes())
        .unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(statuses(&to_end(&mut stream)), [200]);
    ordeal.end();
}

#[test]
fn bodies_have_a_limit_whether_or_not_their_length_is_told() {
    let ordeal = Ordeal::new("");
    let head = format!(
        "POST /v1/secret/data/x HTTP/1.1\r\nHost: a\r\nX-Vault-Token: {}\r\n",
        ordeal.server.root
    );
    let chunk = format!("10000\r\n{}\r\n", "a".repeat(0x10000));
    let deep = |depth: usize| format!("{{\"data\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
    let told = |body: &str| {
        format!(
            "{head}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    for (name, bytes, status) in [
        (
            "a length told",
            format!(
                "{head}Content-Length: 100000000\r\n\r\n{}",
                "a".repeat(1 << 20)
            ),
            413,
        ),
        (
            "chunks without end",
            format!(
                "{head}Transfer-Encoding: chunked\r\n\r\n{}",
                chunk.repeat(64)
            ),
            413,
        ),
        ("deep nesting", told(&deep(30_000)), 400),
        (
            "one name many times",
            told(&format!("{{{}\"a\":1}}", "\"a\":1,".repeat(8000))),
            400,
        ),
        (
            "a huge number",
            told("{\"data\":{\"a\":1},\"options\":{\"cas\":1e400}}"),
            400,
        ),
        (
            "half a surrogate",
            told("{\"data\":{\"a\":\"\\ud800\"}}"),
            400,
        ),
        ("no UTF-8", told("{\"data\":{\"a\":\"\u{1}\"}}"), 400),
    ] {
        ordeal.during(name, |ordeal| {
            // A server that closes while much is on its way resets the connection, and the answer may be
            // lost with it: what cannot be is a success.
            let said = ordeal.exchange(bytes.as_bytes());
            let lost = said.is_empty() && status == 413;
            assert!(lost || statuses(&said) == [status], "{name}: {said}");
        });
    }
    ordeal.end();
}

#[test]
fn clients_that_dawdle_are_let_go() {
    let ordeal = Ordeal::new("max_connections = 48\nheader_timeout = \"2s\"\n");
    let get = b"GET /v1/sys/seal-status HTTP/1.1\r\nHost: a\r\nx-slow: ".as_slice();
    let post =
        b"POST /v1/secret/data/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n".as_slice();
    for (name, first) in [
        ("saying nothing", b"".as_slice()),
        ("a header byte by byte", get),
        ("a body byte by byte", post),
        ("half the preface of HTTP/2", b"PRI * HTTP/2.0\r\n"),
        (
            "HTTP/2 without a request",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        ),
    ] {
        ordeal.during(name, |ordeal| {
            // As many as there is room for, less the two of others.
            let mut streams: Vec<TcpStream> = (0..40).map(|_| ordeal.connect()).collect();
            for stream in &mut streams {
                stream.write_all(first).unwrap();
            }
            let deadline = Instant::now() + PATIENCE;
            let dawdles = first == get || first == post;
            while !streams.is_empty() {
                assert!(
                    Instant::now() < deadline,
                    "{name}: {} are still there",
                    streams.len()
                );
                thread::sleep(Duration::from_millis(100));
                streams.retain_mut(|stream| {
                    let sent = !dawdles || stream.write_all(b"a").is_ok();
                    sent && !ended(stream)
                });
            }
        });
    }
    ordeal.end();
}

/// Whether the other side has closed; what it said before is dropped.
fn ended(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    let ended = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break true,
            Ok(_) => {}
            Err(error) => break error.kind() != ErrorKind::WouldBlock,
        }
    };
    stream.set_nonblocking(false).unwrap();
    ended
}

#[test]
fn thousands_of_idle_connections_are_borne() {
    const IDLE: usize = 2000;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let ordeal = Ordeal::new("header_timeout = \"120s\"\n");
    let tls: SocketAddr = ordeal.server.address().parse().unwrap();
    ordeal.during("idle connections", |ordeal| {
        let open = |number: usize| match number % 3 {
            0 => connect(tls),
            1 => ordeal.connect(),
            _ => {
                let mut stream = ordeal.connect();
                stream
                    .write_all(b"GET /v1/sys/health HTTP/1.1\r\n")
                    .unwrap();
                stream
            }
        };
        let mut streams: Vec<TcpStream> = (0..IDLE).map(open).collect();
        for _ in 0..20 {
            let answer = ordeal.server.root().read("secret/data/app");
            assert_eq!(answer.data()["data"]["k"], "v");
        }
        // Those without TLS, which has a limit of its own, are all still served.
        for stream in streams.iter_mut().skip(2).step_by(3) {
            stream
                .write_all(b"Host: a\r\nConnection: close\r\n\r\n")
                .unwrap();
            assert_eq!(statuses(&to_end(stream)), [200]);
        }
    });
    ordeal.end();
}

#[test]
fn what_is_not_tls_is_let_go() {
    let ordeal = Ordeal::new("");
    let tls: SocketAddr = ordeal.server.address().parse().unwrap();
    // A record that says it is a handshake of 16 KiB, and none of it a ClientHello.
    let record = [[0x16, 3, 1, 0x40, 0].as_slice(), &[0xaa; 0x4000]].concat();
    for (name, bytes) in [
        ("HTTP", b"GET /v1/sys/health HTTP/1.1\r\n\r\n".to_vec()),
        ("zeroes", vec![0; 65_536]),
        ("a record of rubbish", record.clone()),
        ("many records of rubbish", record.repeat(64)),
        ("an alert", vec![0x15, 3, 3, 0, 2, 2, 40]),
        ("half a record", record[..100].to_vec()),
        ("nothing", Vec::new()),
    ] {
        ordeal.during(name, |_| {
            let mut stream = connect(tls);
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(Shutdown::Write);
            assert!(statuses(&to_end(&mut stream)).is_empty(), "{name}");
        });
    }
    // A client that connects by address names no server, as those of every test here; one by name does.
    let named = ordeal.server.url().replace("127.0.0.1", "localhost");
    for url in [ordeal.server.url(), named] {
        let status = tools::run(ordeal.server.command(&["status"]).env("DAYPASS_ADDR", url));
        assert!(status.status.success(), "{status:?}");
    }
    ordeal.end();
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[test]
fn floods_of_http_2_are_cut_off() {
    const HEADERS: u8 = 1;
    const RESET: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const CONTINUATION: u8 = 9;
    let ordeal = Ordeal::new("");
    let path = b"/v1/sys/seal-status";
    // `GET`, `http`, the authority and the path, in HPACK without its table.
    let mut head = vec![
        0x82,
        0x86,
        0x01,
        1,
        b'a',
        0x04,
        u8::try_from(path.len()).unwrap(),
    ];
    head.extend_from_slice(path);
    let streams = |count: u32| (0..count).map(|number| number * 2 + 1);
    let reset = |id| {
        [
            frame(HEADERS, 5, id, &head),
            frame(RESET, 0, id, &[0, 0, 0, 8]),
        ]
        .concat()
    };
    let rapid: Vec<u8> = streams(5000).flat_map(reset).collect();
    let open: Vec<u8> = streams(5000)
        .flat_map(|id| frame(HEADERS, 4, id, &head))
        .collect();
    let endless = [
        frame(HEADERS, 0, 1, &head),
        frame(CONTINUATION, 0, 1, &[0; 16_000]).repeat(500),
    ]
    .concat();
    for (name, frames) in [
        ("rapid reset", rapid),
        ("streams without end", open),
        (
            "SETTINGS",
            frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]).repeat(50_000),
        ),
        ("PING", frame(PING, 0, 0, &[7; 8]).repeat(50_000)),
        ("CONTINUATION", endless),
        (
            "a frame of a size that is not allowed",
            frame(HEADERS, 5, 1, &vec![0; 100_000]),
        ),
        ("HPACK that is none", frame(HEADERS, 5, 1, &[0xff; 1000])),
        ("a stream of the server's", frame(HEADERS, 5, 2, &head)),
    ] {
        ordeal.during(name, |ordeal| {
            let mut attackers: Vec<TcpStream> = (0..4).map(|_| ordeal.connect()).collect();
            for stream in &mut attackers {
                let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
                let _ = stream.write_all(&frame(SETTINGS, 0, 0, &[]));
                // Answers are not read: that is the flood. Where the server reads no more, this ends.
                let _ = stream.write_all(&frames);
            }
        });
    }
    ordeal.end();
}
