//! Where the scheduler listens, and who may come in.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};

use crate::cut::Stream;
use crate::identity::Identity;
use crate::pin::fingerprint;
use crate::uri::{Address, Server};

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A listening socket, with or without TLS.
pub(super) struct Listener {
    socket: Socket,
    tls: Option<TlsAcceptor>,
    pub(super) address: Address,
    pub(super) server: Server,
}

impl Listener {
    /// Listens at `address` with the key of `identity`.
    pub(super) async fn bind(address: &Address, identity: Option<&Key>) -> io::Result<Self> {
        let (socket, address) = match address {
            Address::Tcp { host, port } => {
                let socket = TcpListener::bind((&**host, *port)).await?;
                let port = socket.local_addr()?.port();
                (Socket::Tcp(socket), Address::Tcp { host: host.clone(), port })
            }
            Address::Unix(path) => {
                (Socket::Unix(UnixListener::bind(path)?), Address::Unix(PathBuf::from(path)))
            }
        };
        let server = identity.map_or(Server::Insecure, |key| Server::Sha256(key.digest));
        Ok(Self { socket, tls: identity.map(|key| key.acceptor.clone()), address, server })
    }

    /// The next client at the door.
    pub(super) async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match &self.socket {
            Socket::Tcp(socket) => {
                let (stream, _) = socket.accept().await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Socket::Unix(socket) => Box::new(socket.accept().await?.0),
        })
    }

    /// Lets a client in, once it has shown a certificate where TLS is wanted.
    pub(super) async fn let_in(&self, stream: Box<dyn Stream>) -> io::Result<Box<dyn Stream>> {
        match &self.tls {
            None => Ok(stream),
            Some(tls) => Ok(Box::new(tls.accept(stream).await?)),
        }
    }
}

/// The scheduler's key, which outlives its restarts.
#[derive(Clone)]
pub(super) struct Key {
    acceptor: TlsAcceptor,
    digest: [u8; 32],
}

impl Key {
    pub(super) fn new() -> Self {
        let identity = Identity::fresh().expect("a key can be made");
        let digest = fingerprint(&identity.certificate).expect("it is a certificate");
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(AnyClient(provider.clone()));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![identity.certificate], identity.key)
            .expect("the key is the certificate's");
        Self { acceptor: Arc::new(config).into(), digest }
    }
}

/// Takes any client that has some certificate, as OCaml's servers do.
#[derive(Debug)]
struct AnyClient(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        fingerprint(end_entity).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
