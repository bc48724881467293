//! Client certificates whose holder proves to have the key, whoever issued them.
//!
//! **Invariant:** a certificate that passes says nothing about who the client is. It reaches
//! [`daypass_contract::Peer::certificates`] and no further; an auth method decides whom it trusts.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

/// Chains are two to four certificates long; what is beyond this was not made to be verified.
const LONGEST_CHAIN: usize = 8;
/// The bytes of a chain. Chains with post-quantum signatures have some twenty thousand.
const LARGEST_CHAIN: usize = 48 * 1024;

/// Asks clients for a certificate and takes any, or none.
#[derive(Debug)]
pub(super) struct KeyHolder(WebPkiSupportedAlgorithms);

impl KeyHolder {
    /// Signatures of the handshake are verified with `algorithms`.
    pub(super) fn new(algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self(algorithms)
    }
}

impl ClientCertVerifier for KeyHolder {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// No hints: a client shows what it has.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    /// Bounds what is kept for the connection. Nothing is trusted by this.
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let others: usize = intermediates.iter().map(|der| der.len()).sum();
        if intermediates.len() >= LONGEST_CHAIN || end_entity.len() + others > LARGEST_CHAIN {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // The listener speaks TLS 1.3 alone.
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    /// Proves that the client holds the key of `certificate`, by a signature over this very handshake.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::crypto::CryptoProvider;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, version};

    use super::*;

    struct Key {
        certificate: CertificateDer<'static>,
        key: rcgen::KeyPair,
    }

    fn key(name: &str) -> Key {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Key { certificate, key }
    }

    fn provider() -> Arc<CryptoProvider> {
        Arc::new(rustls::crypto::aws_lc_rs::default_provider())
    }

    fn signing(key: &rcgen::KeyPair) -> Arc<dyn rustls::sign::SigningKey> {
        let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        provider().key_provider.load_private_key(der).unwrap()
    }

    /// What the server saw of a client that shows `chain` and signs with `key`.
    fn shown(
        chain: Vec<CertificateDer<'static>>,
        key: Option<&rcgen::KeyPair>,
    ) -> Result<usize, Error> {
        let own = self::key("localhost");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(own.certificate.clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let client = match key {
            None => client.with_no_client_auth(),
            Some(key) => {
                // Not checked to be of one pair, as a thief's would not be.
                let shown = CertifiedKey::new(chain, signing(key));
                client.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)))
            }
        };
        let algorithms = provider().signature_verification_algorithms;
        let server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_client_cert_verifier(Arc::new(KeyHolder::new(algorithms)))
            .with_single_cert(
                vec![own.certificate],
                PrivateKeyDer::Pkcs8(own.key.serialize_der().into()),
            )
            .unwrap();
        let name = "localhost".try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        // A full handshake takes two flights from the client.
        for _ in 0..4 {
            let (mut sent, mut answered) = (Vec::new(), Vec::new());
            while client.wants_write() {
                client.write_tls(&mut sent).unwrap();
            }
            let mut sent = sent.as_slice();
            while !sent.is_empty() {
                server.read_tls(&mut sent).unwrap();
                server.process_new_packets()?;
            }
            while server.wants_write() {
                server.write_tls(&mut answered).unwrap();
            }
            let mut answered = answered.as_slice();
            while !answered.is_empty() {
                client.read_tls(&mut answered).unwrap();
                client.process_new_packets()?;
            }
        }
        assert!(!server.is_handshaking());
        Ok(server.peer_certificates().map_or(0, <[_]>::len))
    }

    #[test]
    fn who_holds_the_key_is_let_in_and_who_has_only_the_certificate_is_not() {
        let (one, other) = (key("one"), key("other"));
        let alone = vec![one.certificate.clone()];
        let many = |length| vec![one.certificate.clone(); length];
        let large: Vec<CertificateDer<'static>> = vec![
            one.certificate.clone(),
            CertificateDer::from(vec![0; LARGEST_CHAIN]),
        ];
        let cases = [
            ("nothing", vec![], None, Some(0)),
            ("its own", alone.clone(), Some(&one.key), Some(1)),
            ("stolen, without the key", alone, Some(&other.key), None),
            ("a long chain", many(LONGEST_CHAIN), Some(&one.key), Some(8)),
            (
                "too long a chain",
                many(LONGEST_CHAIN + 1),
                Some(&one.key),
                None,
            ),
            ("too large a chain", large, Some(&one.key), None),
            (
                "not a certificate",
                vec![CertificateDer::from(b"garbage".to_vec())],
                Some(&one.key),
                None,
            ),
        ];
        for (what, chain, key, want) in cases {
            assert_eq!(shown(chain, key).ok(), want, "{what}");
        }
    }
}
