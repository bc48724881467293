//! Where a connection leads: `connection_url` and the TLS that its `sslmode` asks for, with the meanings
//! that PostgreSQL documents for libpq.
//!
//! | `sslmode` | encrypted | certificate chain | host name |
//! |---|---|---|---|
//! | `disable` | no | – | – |
//! | `prefer` | where the server can | – | – |
//! | `require` | yes | checked where `tls_ca` is set | – |
//! | `verify-ca` | yes | checked | – |
//! | `verify-full` | yes | checked | checked |
//!
//! **Invariant:** a URL that does not say is `verify-full`: nothing falls back to less by itself (libpq's
//! default, `prefer`, does).

use std::sync::Arc;

use daypass_contract::{BackendError, Secret};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_postgres::Socket;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::connection::Config;

/// What stands in the URL for the account while it is parsed; the real one never does.
const STAND_IN: &str = "daypass";
const USERNAME: &str = "{{username}}";
const PASSWORD: &str = "{{password}}";

/// How to reach a server.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) config: tokio_postgres::Config,
    pub(super) tls: Tls,
}

/// Makes TLS sessions, for the name the certificate is to hold.
#[derive(Clone)]
pub(super) struct Tls {
    connect: MakeRustlsConnect,
    server_name: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// Moves an account that is part of `connection_url` to the fields made for it, so that it can be hidden
/// and rotated.
pub(super) fn normalize(config: &mut Config) -> Result<(), BackendError> {
    let url = config.connection_url.clone();
    let Some((scheme, rest)) = split_scheme(&url) else {
        let inline = |word: &str| word.starts_with("password=") && word != "password={{password}}";
        if url.split_ascii_whitespace().any(inline) {
            return Err(invalid(
                "holds a password; put it into the field `password`",
            ));
        }
        return Ok(());
    };
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let holds_account = |pair: &str| pair.starts_with("user=") || pair.starts_with("password=");
    if query.split('&').any(holds_account) {
        return Err(invalid(
            "holds an account in its query; use the fields `username` and `password`",
        ));
    }
    // A password may hold `/` or `@` unescaped; a host cannot hold `@`.
    let Some((account, address)) = address.rsplit_once('@') else {
        return Ok(());
    };
    let (username, password) = account.split_once(':').unwrap_or((account, ""));
    let decode = |text: &str| percent_decode(text).ok_or_else(|| invalid("is not percent-encoded"));
    if username != USERNAME && !username.is_empty() {
        config.username = decode(username)?;
    }
    if password != PASSWORD && !password.is_empty() {
        config.password = Secret::new(decode(password)?);
    }
    let query = rest.split_once('?').map(|(_, query)| format!("?{query}"));
    config.connection_url = format!(
        "{scheme}{USERNAME}:{PASSWORD}@{address}{}",
        query.unwrap_or_default()
    );
    Ok(())
}

impl Target {
    /// Reads a connection's URL and TLS settings.
    pub(super) fn of(config: &Config) -> Result<Self, BackendError> {
        let (url, mode) = take_sslmode(&config.connection_url)?;
        let url = url.replace(USERNAME, STAND_IN).replace(PASSWORD, STAND_IN);
        // The parser's own message may quote the URL.
        let mut parsed: tokio_postgres::Config = url.parse().map_err(|_| {
            invalid(
                "is neither a URL (postgresql://host:port/database?option=value) nor a list of \
                 key=value, with options that are known here; for certificates use the tls_ fields",
            )
        })?;
        if parsed.get_hosts().is_empty() && parsed.get_hostaddrs().is_empty() {
            return Err(invalid("names no host"));
        }
        let only_sockets = !parsed.get_hosts().is_empty()
            && parsed
                .get_hosts()
                .iter()
                .all(|host| matches!(host, Host::Unix(_)));
        // There is no TLS on a Unix socket, and no need for it.
        let mode = if only_sockets { Mode::Disable } else { mode };
        parsed.ssl_mode(match mode {
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
        });
        if parsed.get_application_name().is_none() {
            parsed.application_name("daypass");
        }
        let connect_timeout = parsed.get_connect_timeout().copied();
        parsed.connect_timeout(
            connect_timeout
                .unwrap_or(config.request_timeout)
                .min(config.request_timeout),
        );
        let password = config.password.expose();
        let target = Self {
            config: parsed,
            tls: Tls {
                connect: MakeRustlsConnect::new(client_config(config, mode)?),
                server_name: config.tls_server_name.clone(),
            },
        };
        Ok(target.for_account(&config.username, password))
    }

    /// The same server, as another account.
    pub(super) fn for_account(mut self, username: &str, password: &[u8]) -> Self {
        if !username.is_empty() {
            self.config.user(username);
        }
        if !password.is_empty() {
            self.config.password(password);
        }
        self
    }

    /// The same server, in another database.
    pub(super) fn in_database(mut self, database: &str) -> Self {
        self.config.dbname(database);
        self
    }
}

impl MakeTlsConnect<Socket> for Tls {
    type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;
    type TlsConnect = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;
    type Error = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Error;

    fn make_tls_connect(&mut self, host: &str) -> Result<Self::TlsConnect, Self::Error> {
        let name = self.server_name.as_deref().unwrap_or(host);
        MakeTlsConnect::<Socket>::make_tls_connect(&mut self.connect, name)
    }
}

fn invalid(problem: &str) -> BackendError {
    BackendError::field("connection_url", problem)
}

fn split_scheme(url: &str) -> Option<(&str, &str)> {
    ["postgresql://", "postgres://"]
        .into_iter()
        .find_map(|scheme| url.strip_prefix(scheme).map(|rest| (scheme, rest)))
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// The URL without its `sslmode`, which the driver does not know in full.
fn take_sslmode(url: &str) -> Result<(String, Mode), BackendError> {
    let (head, options, separator) = match (split_scheme(url), url.split_once('?')) {
        (Some(_), Some((head, query))) => (Some(head), query, "&"),
        (Some(_), None) => (Some(url), "", "&"),
        (None, _) => (None, url, " "),
    };
    let mut mode = Mode::VerifyFull;
    let mut others = Vec::new();
    for option in options.split(separator) {
        match option.trim().strip_prefix("sslmode=") {
            Some(text) => mode = Mode::parse(text)?,
            None if option.is_empty() => {}
            None => others.push(option),
        }
    }
    let others = others.join(separator);
    let url = match head {
        Some(head) if others.is_empty() => head.to_owned(),
        Some(head) => format!("{head}?{others}"),
        None => others,
    };
    Ok((url, mode))
}

impl Mode {
    fn parse(text: &str) -> Result<Self, BackendError> {
        Ok(match text.trim_matches('\'') {
            "disable" => Self::Disable,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => {
                return Err(invalid(
                    "has an sslmode other than disable, prefer, require, verify-ca and verify-full",
                ));
            }
        })
    }
}

fn client_config(config: &Config, mode: Mode) -> Result<ClientConfig, BackendError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let unusable = |field: &'static str| move |_| BackendError::field(field, "cannot be used");
    let verifier: Arc<dyn ServerCertVerifier> = match (mode, &config.tls_ca) {
        (Mode::Disable | Mode::Prefer, Some(_)) => {
            return Err(BackendError::field(
                "tls_ca",
                "is not looked at with sslmode=disable or sslmode=prefer; use verify-full",
            ));
        }
        (Mode::Disable | Mode::Prefer | Mode::Require, None) => {
            Arc::new(Unverified(Arc::clone(&provider)))
        }
        (Mode::Require | Mode::VerifyCa | Mode::VerifyFull, ca) => {
            let roots = Arc::new(match ca {
                Some(pem) => roots_of(pem)?,
                None => platform_roots()?,
            });
            let full = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                .build()
                .map_err(|_| BackendError::field("tls_ca", "holds no usable certificate"))?;
            if mode == Mode::VerifyFull {
                full
            } else {
                Arc::new(AnyName(full))
            }
        }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| BackendError::Internal(error.into()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match (&config.tls_certificate, &config.private_key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(chain), Some(key)) => {
            let chain = certificates("tls_certificate", chain)?;
            let key = PrivateKeyDer::from_pem_slice(key.expose())
                .map_err(|_| BackendError::field("private_key", "expected a key in PEM"))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(unusable("private_key"))
        }
        (Some(_), None) => Err(BackendError::field(
            "private_key",
            "is required beside tls_certificate",
        )),
        (None, Some(_)) => Err(BackendError::field(
            "tls_certificate",
            "is required beside private_key",
        )),
    }
}

fn certificates(
    field: &'static str,
    pem: &str,
) -> Result<Vec<CertificateDer<'static>>, BackendError> {
    let wanted = || BackendError::field(field, "expected certificates in PEM");
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|_| wanted())?;
    if found.is_empty() {
        return Err(wanted());
    }
    Ok(found)
}

fn roots_of(pem: &str) -> Result<RootCertStore, BackendError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("tls_ca", pem)? {
        roots
            .add(certificate)
            .map_err(|_| BackendError::field("tls_ca", "holds a certificate that is no CA's"))?;
    }
    Ok(roots)
}

fn platform_roots() -> Result<RootCertStore, BackendError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(BackendError::field(
            "tls_ca",
            "is required to verify the server: this machine has no certificates of its own",
        ));
    }
    Ok(roots)
}

/// `verify-ca`: the chain counts, the name does not.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        // The name is checked last, when the chain is known to be good.
        match self
            .0
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        {
            Err(rustls::Error::InvalidCertificate(
                NotValidForName | NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// `prefer` and `require`: encrypted, to whoever answers. Only where the operator wrote that down.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config;

    #[test]
    fn an_account_in_the_url_is_moved_to_its_fields() {
        let cases = [
            // given, kept, username, password
            ("postgresql://h/d", "postgresql://h/d", "", ""),
            (
                "postgres://u:p@h:1/d?a=b",
                "postgres://{{username}}:{{password}}@h:1/d?a=b",
                "u",
                "p",
            ),
            (
                "postgres://u@h",
                "postgres://{{username}}:{{password}}@h",
                "u",
                "",
            ),
            (
                "postgres://u:a%2Fb%40c@h",
                "postgres://{{username}}:{{password}}@h",
                "u",
                "a/b@c",
            ),
            (
                "postgres://u:a/b@c@h/d",
                "postgres://{{username}}:{{password}}@h/d",
                "u",
                "a/b@c",
            ),
            (
                "postgres://{{username}}:{{password}}@h/d?x=y@z",
                "postgres://{{username}}:{{password}}@h/d?x=y@z",
                "",
                "",
            ),
            (
                "host=h user={{username}} password={{password}}",
                "host=h user={{username}} password={{password}}",
                "",
                "",
            ),
        ];
        for (given, kept, username, password) in cases {
            let mut config = config(given);
            normalize(&mut config).unwrap();
            assert_eq!(config.connection_url, kept, "{given}");
            assert_eq!(config.username, username, "{given}");
            assert!(config.password.ct_eq(password.as_bytes()), "{given}");
        }
        for given in [
            "postgres://h/d?user=u&password=p",
            "host=h password=p",
            "postgres://u:%zz@h",
        ] {
            let error = normalize(&mut config(given)).unwrap_err().to_string();
            assert!(
                error.starts_with("field \"connection_url\""),
                "{given}: {error}"
            );
        }
    }

    #[test]
    fn the_driver_is_told_what_the_url_says() {
        let cases = [
            ("postgres://h/d", Ok(SslMode::Require)),
            ("postgres://h/d?sslmode=disable", Ok(SslMode::Disable)),
            (
                "postgres://h/d?application_name=a&sslmode=prefer",
                Ok(SslMode::Prefer),
            ),
            (
                "postgres://h/d?sslmode=require&connect_timeout=3",
                Ok(SslMode::Require),
            ),
            ("host=h dbname=d sslmode=disable", Ok(SslMode::Disable)),
            ("host=h dbname='d e'", Ok(SslMode::Require)),
            ("postgres://%2Frun%2Fpostgresql/d", Ok(SslMode::Disable)),
            ("postgres://h/d?sslmode=allow", Err("sslmode other than")),
            ("postgres:///d", Err("names no host")),
            ("postgres://h/d?sslkey=x", Err("use the tls_ fields")),
            ("nonsense", Err("is neither a URL")),
        ];
        for (url, want) in cases {
            match (Target::of(&config(url)), want) {
                (Ok(target), Ok(mode)) => assert_eq!(target.config.get_ssl_mode(), mode, "{url}"),
                (Err(error), Err(want)) => {
                    let error = error.to_string();
                    assert!(error.contains(want), "{url}: {error}");
                }
                (Ok(_), Err(want)) => panic!("{url}: should fail with {want}"),
                (Err(error), Ok(_)) => panic!("{url}: {error}"),
            }
        }
        let target = Target::of(&config("postgres://{{username}}:{{password}}@h/d")).unwrap();
        assert_eq!(
            target.config.get_user(),
            Some(STAND_IN),
            "until an account is set"
        );
        let target = target.for_account("a@b", b"p/w").in_database("other");
        assert_eq!(target.config.get_user(), Some("a@b"));
        assert_eq!(target.config.get_password(), Some(&b"p/w"[..]));
        assert_eq!(target.config.get_dbname(), Some("other"));
    }
}
