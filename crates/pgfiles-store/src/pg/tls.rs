//! TLS as libpq's `sslmode` means it, with rustls.
//!
//! `require` encrypts and checks nothing, unless it is told whom to trust; `verify-ca` checks that the certificate
//! leads to one of ours; `verify-full` also that it names the host. Differences from libpq: a certificate needs a
//! subjectAltName (a common name alone does not name a host), and the one in `sslrootcert` may be the server's own,
//! whose dates are then not looked at.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::dsn::{Dsn, RootCert, SslMode};
use super::passfile::key_is_private;
use crate::error::{Kind, Result, StoreError};

/// What a connection with TLS is made with. Reads the files of the DSN each time: certificates are renewed.
///
/// # Errors
/// [`Kind::Invalid`], naming the file and what is wrong with it.
pub(super) fn connector(dsn: &Dsn) -> Result<MakeRustlsConnect> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier::of(dsn, provider.clone())?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| StoreError::new(Kind::Other, format!("TLS is not available: {e}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match (&dsn.sslcert, &dsn.sslkey) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert, "sslcert")?;
            let secret = private_key(key)?;
            let with = builder.with_client_auth_cert(chain, secret);
            with.map_err(|e| unusable("sslcert", cert, &format!("it does not go with sslkey {}: {e}", key.display())))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(MakeRustlsConnect::new(config))
}

fn certificates(file: &Path, parameter: &str) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    let found = read.map_err(|e| unusable(parameter, file, &e.to_string()))?;
    if found.is_empty() {
        return Err(unusable(parameter, file, "it holds no certificate in PEM form"));
    }
    Ok(found)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    if !key_is_private(file) {
        return Err(unusable("sslkey", file, "others may read it: chmod 600"));
    }
    PrivateKeyDer::from_pem_file(file).map_err(|e| unusable("sslkey", file, &format!("{e} (an encrypted key is not supported)")))
}

fn unusable(parameter: &str, file: &Path, why: &str) -> StoreError {
    StoreError::new(Kind::Invalid, format!("{parameter} {} cannot be used: {why}", file.display()))
}

/// The certificates that the operating system trusts, read once.
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let load = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    };
    ROOTS.get_or_init(load).clone()
}

/// Checks a server's certificate as far as the mode asks.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// `None`: anybody.
    roots: Option<Arc<RootCertStore>>,
    /// The certificates of `sslrootcert` themselves: a server that shows one of them is trusted, whether or not it is an authority.
    pinned: Vec<CertificateDer<'static>>,
    names: bool,
}

impl Verifier {
    fn of(dsn: &Dsn, provider: Arc<CryptoProvider>) -> Result<Self> {
        let names = dsn.sslmode == SslMode::VerifyFull;
        let checks = dsn.sslmode >= SslMode::Require;
        let (roots, pinned) = match &dsn.sslrootcert {
            Some(RootCert::System) if checks => (Some(system_roots()), Vec::new()),
            Some(RootCert::File(file)) if checks => {
                let certs = certificates(file, "sslrootcert")?;
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certs.iter().cloned());
                (Some(Arc::new(roots)), certs)
            }
            _ => (None, Vec::new()),
        };
        Ok(Self { provider, roots, pinned, names })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let Some(roots) = &self.roots else { return Ok(ServerCertVerified::assertion()) };
        let cert = ParsedCertificate::try_from(end_entity)?;
        if !self.pinned.iter().any(|pinned| pinned == end_entity) {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&cert, roots, intermediates, now, algorithms)?;
        }
        if self.names {
            verify_server_name(&cert, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
