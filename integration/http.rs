//! A client that shows what is on the wire: status and body, nothing interpreted.

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use reqwest::{Certificate, ClientBuilder, Identity, Method};
use serde_json::Value;
use tokio::runtime::Runtime;

/// Drives every client of this process.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// One token at one server.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

/// What a server answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `null` where there is no JSON.
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn data(&self) -> &Value {
        &self.body["data"]
    }

    /// The text at a JSON pointer; panics where there is none.
    pub(crate) fn text(&self, pointer: &str) -> String {
        let found = self.body.pointer(pointer).and_then(Value::as_str);
        found
            .unwrap_or_else(|| panic!("no text at {pointer}: {self}"))
            .to_owned()
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.body)
    }
}

fn builder(ca_pem: &str) -> ClientBuilder {
    let ca = Certificate::from_pem(ca_pem.as_bytes()).unwrap();
    reqwest::Client::builder()
        .tls_certs_only([ca])
        .timeout(Duration::from_secs(30))
}

impl Client {
    pub(crate) fn new(url: &str, ca_pem: &str, token: Option<&str>) -> Self {
        Self {
            http: builder(ca_pem).build().unwrap(),
            url: url.to_owned(),
            token: token.map(str::to_owned),
        }
    }

    /// A client without a token that shows a certificate; `pem` holds its chain and its key.
    pub(crate) fn showing(url: &str, ca_pem: &str, pem: &str) -> Self {
        let identity = Identity::from_pem(pem.as_bytes()).unwrap();
        Self {
            http: builder(ca_pem).identity(identity).build().unwrap(),
            url: url.to_owned(),
            token: None,
        }
    }

    /// The same connections, another token.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    /// Sends a request; the error is one of the connection.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, reqwest::Error> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.http.request(method, format!("{}/v1/{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header("X-Vault-Token", token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        RUNTIME.block_on(async {
            let response = request.send().await?;
            let status = response.status().as_u16();
            let bytes = response.bytes().await?;
            let body = serde_json::from_slice(&bytes).unwrap_or_default();
            Ok(Answer { status, body })
        })
    }

    /// Sends a request that is answered, whatever the answer.
    pub(crate) fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.send(method, path, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error:?}"))
    }

    pub(crate) fn read(&self, path: &str) -> Answer {
        self.succeed("GET", path, None)
    }

    pub(crate) fn write(&self, path: &str, body: &Value) -> Answer {
        self.succeed("POST", path, Some(body))
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.succeed("DELETE", path, None)
    }

    /// The names below `path`; none where it answers 404.
    pub(crate) fn list(&self, path: &str) -> Vec<String> {
        let answer = self.call("LIST", path, None);
        if answer.status == 404 {
            return Vec::new();
        }
        assert_eq!(answer.status, 200, "LIST {path}: {answer}");
        let names = answer.data()["keys"].as_array().unwrap();
        let text = |name: &Value| name.as_str().unwrap().to_owned();
        names.iter().map(text).collect()
    }

    fn succeed(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let answer = self.call(method, path, body);
        let done = (200..300).contains(&answer.status);
        assert!(done, "{method} {path}: {answer}");
        answer
    }
}
