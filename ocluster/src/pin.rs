//! TLS in which the server is known by its public key and nothing else: no authority, no host name, no dates.

use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
};

use crate::identity::Identity;

/// The SHA-256 of the public key in a certificate.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> Result<[u8; 32], Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    Ok(Sha256::digest(parsed.subject_public_key_info().as_ref()).into())
}

/// Accepts the server with one public key.
#[derive(Debug)]
pub(crate) struct PinnedServer {
    expected: [u8; 32],
    provider: Arc<CryptoProvider>,
    /// The fingerprint of a server that was turned away.
    turned_away: OnceLock<[u8; 32]>,
}

impl PinnedServer {
    /// Accepts the server whose key has this SHA-256.
    pub(crate) fn new(expected: [u8; 32]) -> Arc<Self> {
        let provider = Arc::new(ring::default_provider());
        Arc::new(Self { expected, provider, turned_away: OnceLock::new() })
    }

    /// The fingerprint of the server that was not the right one, if it came to that.
    pub(crate) fn turned_away(&self) -> Option<[u8; 32]> {
        self.turned_away.get().copied()
    }

    /// TLS as this client wants it, with a key made for this connection. Nothing is remembered between connections.
    pub(crate) fn config(self: &Arc<Self>, identity: Identity) -> Result<ClientConfig, Error> {
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(self.clone())
            .with_client_auth_cert(vec![identity.certificate], identity.key)?;
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }
}

impl ServerCertVerifier for PinnedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = fingerprint(end_entity)?;
        // Both are public: there is nothing to be learnt from how long this takes.
        if found == self.expected {
            return Ok(ServerCertVerified::assertion());
        }
        self.turned_away.get_or_init(|| found);
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
