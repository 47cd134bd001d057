//! `sslmode`, against a server with a certificate.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use pgfiles_store::Result;
use pgfiles_store::error::Kind;
use pgfiles_store::pg::connect::{Connection, Connector, Need};
use pgfiles_store::pg::dsn::{Dsn, Environment};
use pgfiles_testkit::postgres::{Options, Postgres, TlsFiles};
use rcgen::{CertificateParams, KeyPair};

/// Accepts TLS with a password-less role `postgres`, plain from the role `plain` only, and the role `carded` with a client certificate.
fn server() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER.get_or_init(|| {
        let hba = "local all all trust\nhostnossl all plain 127.0.0.0/8 trust\nhostssl all carded 127.0.0.0/8 trust clientcert=verify-ca\n\
                   hostssl all postgres 127.0.0.0/8 trust\n";
        let conf = vec![("listen_addresses".into(), "127.0.0.1,127.0.0.2".into())];
        let server = Postgres::start(Options { tls: true, hba: Some(hba.into()), conf, ..Options::default() });
        let roles = "CREATE ROLE plain LOGIN; CREATE ROLE carded LOGIN";
        std::thread::scope(|scope| {
            scope.spawn(|| runtime().block_on(async { server.connect("postgres").await.batch_execute(roles).await.unwrap() }));
        });
        server
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn files() -> &'static TlsFiles {
    server().tls_files().unwrap()
}

async fn open(user: &str, host: &str, more: &str) -> Result<Connection> {
    let text = format!("host={host} port={} user={user} dbname=postgres {more}", server().port());
    Connector::new(Dsn::parse(&text, &Environment::default())?, "test").open(Need::Server).await
}

/// Whether the session is encrypted, or why there is none.
async fn encrypted(user: &str, host: &str, more: &str) -> std::result::Result<bool, (Kind, String)> {
    let connection = open(user, host, more).await.map_err(|e| (e.kind(), e.to_string()))?;
    let ssl = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    Ok(connection.client.query_typed(ssl, &[]).await.unwrap()[0].get(0))
}

fn refused(result: std::result::Result<bool, (Kind, String)>, words: &str) {
    let (kind, said) = result.unwrap_err();
    assert_eq!(kind, Kind::Unauthorized, "{said}");
    assert!(said.contains(words), "{said:?} lacks {words:?}");
}

/// A certificate that signed nothing here.
fn stranger(dir: &Path) -> PathBuf {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let file = dir.join("stranger.crt");
    std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
    file
}

#[tokio::test]
async fn modes_that_check_nothing() {
    assert_eq!(encrypted("postgres", "127.0.0.1", "sslmode=require").await, Ok(true));
    assert_eq!(encrypted("postgres", "localhost", "").await, Ok(true), "prefer takes TLS");
    assert_eq!(encrypted("plain", "127.0.0.1", "sslmode=disable").await, Ok(false));
    assert_eq!(encrypted("plain", "127.0.0.1", "sslmode=allow").await, Ok(false), "allow takes plain");
    assert_eq!(encrypted("postgres", "127.0.0.1", "sslmode=allow").await, Ok(true), "and TLS where plain is refused");
    assert_eq!(encrypted("plain", "127.0.0.1", "sslmode=prefer").await, Ok(false), "prefer takes plain where TLS is refused");
    refused(encrypted("postgres", "127.0.0.1", "sslmode=disable").await, "refused role postgres");
    refused(encrypted("plain", "127.0.0.1", "sslmode=require").await, "refused role plain");
}

#[tokio::test]
async fn a_socket_needs_no_tls() {
    let dir = server().socket_dir().display().to_string();
    let root = files().ca.display();
    assert_eq!(encrypted("postgres", &dir, &format!("sslmode=verify-full sslrootcert={root}")).await, Ok(false));
}

#[tokio::test]
async fn certificates_are_checked_against_sslrootcert() {
    let dir = tempfile::tempdir().unwrap();
    let (good, wrong) = (files().ca.display().to_string(), stranger(dir.path()).display().to_string());
    for mode in ["require", "verify-ca", "verify-full"] {
        let with = |root: &str| format!("sslmode={mode} sslrootcert={root}");
        assert_eq!(encrypted("postgres", "localhost", &with(&good)).await, Ok(true), "{mode}");
        assert_eq!(encrypted("postgres", "127.0.0.1", &with(&good)).await, Ok(true), "{mode}: an address is a name too");
        refused(encrypted("postgres", "localhost", &with(&wrong)).await, "sslrootcert");
    }
    refused(encrypted("postgres", "localhost", "sslmode=verify-full sslrootcert=system").await, "sslrootcert");
    let own = files().server_cert.display().to_string();
    let pinned = format!("sslmode=verify-full sslrootcert={own}");
    assert_eq!(encrypted("postgres", "localhost", &pinned).await, Ok(true), "the server's own certificate");
}

#[tokio::test]
async fn only_verify_full_looks_at_the_name() {
    // An address that the certificate does not name.
    let (root, host) = (files().ca.display(), "127.0.0.2");
    assert_eq!(encrypted("postgres", host, &format!("sslmode=verify-ca sslrootcert={root}")).await, Ok(true));
    refused(encrypted("postgres", host, &format!("sslmode=verify-full sslrootcert={root}")).await, "another host");
}

#[tokio::test]
async fn client_certificates() {
    let (cert, key) = (files().client_cert.display(), files().client_key.display());
    let card = format!("sslmode=require sslcert={cert} sslkey={key}");
    assert_eq!(encrypted("carded", "127.0.0.1", &card).await, Ok(true));
    let without = encrypted("carded", "127.0.0.1", "sslmode=require").await;
    refused(without, "client certificate");
    let dir = tempfile::tempdir().unwrap();
    let open_key = dir.path().join("key");
    std::fs::copy(&files().client_key, &open_key).unwrap();
    std::fs::set_permissions(&open_key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let bad = format!("sslmode=require sslcert={cert} sslkey={}", open_key.display());
    let (kind, said) = encrypted("carded", "127.0.0.1", &bad).await.unwrap_err();
    assert!(kind == Kind::Invalid && said.contains("chmod 600"), "{said}");
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    for parameter in ["sslrootcert", "sslcert"] {
        let more = format!("sslmode=verify-ca sslrootcert={} {parameter}=/nonexistent sslkey=/dev/null", files().ca.display());
        let more = if parameter == "sslrootcert" { more.replace(" sslkey=/dev/null", "") } else { more };
        let (kind, said) = encrypted("postgres", "127.0.0.1", &more).await.unwrap_err();
        assert!(kind == Kind::Invalid && said.contains(parameter) && said.contains("/nonexistent"), "{said}");
    }
}

#[tokio::test]
async fn a_server_without_tls() {
    let text =
        |mode: &str| format!("host=127.0.0.1 port={} user=postgres dbname=postgres sslmode={mode}", Postgres::shared().port());
    let open = async |mode: &str| {
        let dsn = Dsn::parse(&text(mode), &Environment::default()).unwrap();
        Connector::new(dsn, "test").open(Need::Server).await.map(drop).map_err(|e| (e.kind(), e.to_string()))
    };
    assert_eq!(open("prefer").await, Ok(()), "prefer falls back");
    let (kind, said) = open("require").await.unwrap_err();
    assert_eq!(kind, Kind::Unauthorized);
    assert!(said.contains("does not support TLS") && said.contains("sslmode=require"), "{said}");
}
