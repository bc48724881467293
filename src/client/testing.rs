//! A server of canned answers, for tests of the client and of the commands.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use daypass_contract::Secret;
use reqwest::header::HeaderMap;

use super::{Client, Settings};

/// What a request looked like: method, path with query, headers, body.
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// One canned answer: status and body. A body that starts with `{` is JSON.
pub(crate) type Canned = (u16, &'static str);

/// A server with canned answers by `METHOD /path?query`, which remembers what it was asked.
pub(crate) struct Server {
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub(crate) fn with(answers: &[(&str, Canned)]) -> Self {
        let answers: BTreeMap<String, Canned> = answers
            .iter()
            .map(|(line, canned)| ((*line).to_owned(), *canned))
            .collect();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        listener.set_nonblocking(true).unwrap();
        let log = Arc::clone(&seen);
        let app = Router::new().fallback(move |request: Request| {
            let (answers, log) = (answers.clone(), Arc::clone(&log));
            async move { answer(request, &answers, &log).await }
        });
        // The thread ends with the test's process.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, app).await.unwrap();
            });
        });
        Self { address, seen }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(Settings {
            address: self.address.clone(),
            token: Some(Secret::new("s.token")),
            ..Settings::default()
        })
        .ok()
        .unwrap()
    }

    /// What was asked since the last time: `METHOD /path?query body`.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.take()
            .into_iter()
            .map(|seen| format!("{} {}", seen.line, seen.body).trim_end().to_owned())
            .collect()
    }

    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

async fn answer(
    request: Request,
    answers: &BTreeMap<String, Canned>,
    log: &Mutex<Vec<Seen>>,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let line = format!("{} {}", parts.method, parts.uri.path_and_query().unwrap());
    log.lock().unwrap().push(Seen {
        line: line.clone(),
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    });
    let (status, text) = answers
        .get(&line)
        .copied()
        .unwrap_or((404, r#"{"errors":[]}"#));
    let kind = if text.starts_with('{') {
        "application/json"
    } else {
        "text/plain"
    };
    Response::builder()
        .status(status)
        .header("content-type", kind)
        .header("location", "http://127.0.0.1:1/")
        .body(Body::from(text))
        .unwrap()
}
