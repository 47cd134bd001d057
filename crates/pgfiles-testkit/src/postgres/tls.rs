//! Certificates for a test server: an authority, the server's for `localhost` and 127.0.0.1, a client's for `postgres`.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use super::RunAs;

/// Paths of PEM files. The client's key is readable by this process only.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The authority that signed both: `sslrootcert`.
    pub ca: PathBuf,
    /// The server's certificate.
    pub server_cert: PathBuf,
    /// The server's key.
    pub server_key: PathBuf,
    /// A certificate with the common name `postgres`: `sslcert`.
    pub client_cert: PathBuf,
    /// Its key: `sslkey`.
    pub client_key: PathBuf,
}

impl TlsFiles {
    pub(super) fn create(dir: &Path, run_as: RunAs) -> Self {
        let files = Self {
            ca: dir.join("ca.crt"),
            server_cert: dir.join("server.crt"),
            server_key: dir.join("server.key"),
            client_cert: dir.join("client.crt"),
            client_key: dir.join("client.key"),
        };
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "pgfiles test authority");
        let key = KeyPair::generate().expect("a key");
        write(&files.ca, &authority.self_signed(&key).expect("a certificate").pem(), 0o644);
        let issuer = Issuer::new(authority, key);
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let (cert, key) = signed(&issuer, names, "localhost", ExtendedKeyUsagePurpose::ServerAuth);
        write(&files.server_cert, &cert, 0o644);
        write(&files.server_key, &key, 0o600);
        run_as.give(&files.server_key, 0o600);
        let (cert, key) = signed(&issuer, Vec::new(), "postgres", ExtendedKeyUsagePurpose::ClientAuth);
        write(&files.client_cert, &cert, 0o644);
        write(&files.client_key, &key, 0o600);
        files
    }
}

fn signed(issuer: &Issuer<'_, KeyPair>, names: Vec<String>, common: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name.push(DnType::CommonName, common);
    params.extended_key_usages.push(usage);
    let key = KeyPair::generate().expect("a key");
    (params.signed_by(&key, issuer).expect("a certificate").pem(), key.serialize_pem())
}

fn write(path: &Path, text: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).expect("a certificate file");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}
