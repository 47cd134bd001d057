//! From what the server or the connection said to a [`StoreError`]: the SQLSTATE decides, never the text.

use std::error::Error as _;
use std::io;

use tokio_postgres::Error;
use tokio_postgres::error::DbError;

use super::dsn::{Dsn, Endpoint, Host};
use crate::error::{Kind, StoreError};

/// The kind that an SQLSTATE stands for (Postgres, appendix A; PF… are raised by our own functions).
pub fn kind_of(code: &str) -> Kind {
    match code {
        "PF001" => Kind::NotFound,
        "PF002" => Kind::Conflict,
        "PF003" => Kind::NotEmpty,
        "PF004" => Kind::Invalid,
        "PF005" => Kind::ServerChanged,
        "PF006" => Kind::Unsupported,
        "PF007" => Kind::BodyGone,
        "PF008" => Kind::TooManyLinks,
        "PF009" => Kind::CrossesGrant,
        // Serialization failure, deadlock, a lock that was not to be had, a race for the same row.
        "40001" | "40P01" | "55P03" | "23505" => Kind::Retry,
        "53100" => Kind::NoSpace,
        "25006" => Kind::ReadOnly,
        "42501" => Kind::Forbidden,
        // No such database, schema, table, function, column.
        "3D000" | "3F000" | "42P01" | "42883" | "42703" => Kind::NotInitialised,
        "0A000" => Kind::Unsupported,
        "XX001" | "XX002" => Kind::Corrupt,
        // Cancelled (a statement_timeout, or our own bound): nothing was done.
        "57014" => Kind::Unavailable,
        _ => match code.get(..2) {
            // Connection exception; too many connections, out of memory; shutting down, starting up.
            Some("08" | "53" | "57") => Kind::Unavailable,
            Some("28") => Kind::Unauthorized,
            Some("40") => Kind::Retry,
            // Data exception, constraint.
            Some("22" | "23") => Kind::Invalid,
            // A limit of the server: index entry, size of a value.
            Some("54") => Kind::NoSpace,
            _ => Kind::Other,
        },
    }
}

/// Whether a request that ended with this SQLSTATE may have been carried out: the session ended under it.
fn leaves_unknown(code: &str) -> bool {
    matches!(code, "57P01" | "57P02" | "57P03" | "57P05" | "40003") || code.starts_with("08")
}

/// Where and as whom; for sentences.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// `db:5432`.
    pub(super) server: String,
    /// The database.
    pub(super) dbname: String,
    /// The role.
    pub(super) user: String,
}

impl Place {
    /// One server of a DSN.
    pub(super) fn of(dsn: &Dsn, end: &Endpoint) -> Self {
        Self { server: end.to_string(), dbname: dsn.dbname.clone(), user: dsn.user.clone() }
    }
}

/// What became of a request that was sent on an open connection.
pub(super) fn request(error: Error, place: &Place, what: &str) -> StoreError {
    let Some(db) = error.as_db_error() else {
        let why = reason(&error);
        let message = format!("{what}: the connection to {} was lost: {why}", place.server);
        return StoreError::new(Kind::Unavailable, message).unknown_outcome().with_source(error);
    };
    let code = db.code().code().to_owned();
    let said = StoreError::new(kind_of(&code), sentence(db, &code, place, what));
    let said = match op_of(db) {
        Some(op) => said.at_op(op),
        None => said,
    };
    let said = if leaves_unknown(&code) { said.unknown_outcome() } else { said };
    said.with_source(error)
}

/// The operation that our functions name in DETAIL.
fn op_of(db: &DbError) -> Option<usize> {
    if !db.code().code().starts_with("PF") {
        return None;
    }
    let detail: serde_json::Value = serde_json::from_str(db.detail()?).ok()?;
    usize::try_from(detail.get("op")?.as_u64()?).ok()
}

fn sentence(db: &DbError, code: &str, place: &Place, what: &str) -> String {
    let (said, Place { server, dbname, user }) = (db.message(), place);
    match kind_of(code) {
        _ if code.starts_with("PF") => said.to_owned(),
        Kind::NotInitialised if code == "3D000" => {
            let steps = format!("`CREATE DATABASE {dbname}` there and run `pgfiles init`");
            format!("{server} has no database {dbname}: {steps}, or name another in the DSN")
        }
        Kind::NotInitialised => {
            format!("the database {dbname} on {server} is not ready for pgfiles ({said}): run `pgfiles init`")
        }
        Kind::Forbidden => format!(
            "{what}: role {user} may not: {said}; the table's owner can GRANT SELECT, INSERT, UPDATE, DELETE ON pgfiles TO {user}, \
             or `pgfiles grant` it a prefix"
        ),
        Kind::ReadOnly => format!("{what}: {server} accepts no writes ({said}): is it a standby?"),
        Kind::NoSpace => format!("{what}: no room on {server}: {said}"),
        Kind::Unavailable if code == "53300" => format!("{server} has no connection left for role {user}: {said}"),
        _ => format!("{what} on {server}: {said} (SQLSTATE {code})"),
    }
}

/// Why no connection came about.
pub(super) fn connect(error: Error, dsn: &Dsn, end: &Endpoint, has_password: bool, exposed_passfile: bool) -> StoreError {
    let place = Place::of(dsn, end);
    let Place { server, user, .. } = &place;
    if let Some(db) = error.as_db_error() {
        let code = db.code().code().to_owned();
        let message = match kind_of(&code) {
            Kind::Unauthorized if code == "28P01" && has_password => {
                format!("{server} refused the password of role {user}; check it in the DSN, PGPASSWORD or ~/.pgpass")
            }
            Kind::Unauthorized => format!("{server} refused role {user}: {}", db.message()),
            Kind::Unavailable if code != "53300" => format!("cannot reach Postgres at {server}: {}", db.message()),
            _ => sentence(db, &code, &place, "connecting"),
        };
        return StoreError::new(kind_of(&code), message).with_source(error);
    }
    if let Some(tls) = tls_cause(&error) {
        let message = format!("no TLS with {server}: {tls}; {}", tls_advice(tls, dsn));
        return StoreError::new(Kind::Unauthorized, message).with_source(error);
    }
    if let Some(io) = io_cause(&error) {
        let message = format!("cannot reach Postgres at {server}: {}", io_reason(io, end));
        return StoreError::new(Kind::Unavailable, message).with_source(error);
    }
    if error.is_closed() {
        let message = format!("cannot reach Postgres at {server}: it closed the connection; is it a Postgres server?");
        return StoreError::new(Kind::Unavailable, message).with_source(error);
    }
    // What is left came about on our side of the connection: no TLS where it must be, no password where one is asked for.
    // Both are one kind, so that only the sentence hangs on the words of the driver.
    let message = if error.to_string().contains("TLS") {
        format!("no TLS with {server}: {}; sslmode={} asks for it", reason(&error), dsn.sslmode.as_str())
    } else if has_password {
        format!("cannot connect to {server} as {user}: {}", reason(&error))
    } else if exposed_passfile {
        format!(
            "password needed for user {user} at {server}; the password file is passed over because others may read it: chmod 600"
        )
    } else {
        format!("password needed for user {user} at {server}: put it in the DSN, PGPASSWORD or ~/.pgpass")
    };
    StoreError::new(Kind::Unauthorized, message).with_source(error)
}

/// The innermost cause in words.
fn reason(error: &Error) -> String {
    if error.is_closed() {
        return "it was closed".to_owned();
    }
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        words = inner.to_string();
        cause = inner.source();
    }
    words
}

fn io_cause(error: &Error) -> Option<&io::Error> {
    error.source().and_then(|cause| cause.downcast_ref::<io::Error>())
}

/// rustls reports through an `io::Error`, in the handshake and after it.
fn tls_cause(error: &Error) -> Option<&rustls::Error> {
    io_cause(error)?.get_ref()?.downcast_ref::<rustls::Error>()
}

/// Whether TLS itself failed, as opposed to what was said over it.
pub(super) fn is_tls(error: &Error) -> bool {
    tls_cause(error).is_some()
}

fn tls_advice(error: &rustls::Error, dsn: &Dsn) -> String {
    use rustls::CertificateError as C;
    match error {
        rustls::Error::InvalidCertificate(C::UnknownIssuer) => {
            "is sslrootcert the authority that signed the server's certificate?".into()
        }
        rustls::Error::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
            "the certificate names another host: connect by that name, or use sslmode=verify-ca".into()
        }
        rustls::Error::InvalidCertificate(_) => "the server's certificate is not usable".into(),
        rustls::Error::AlertReceived(_) if dsn.sslcert.is_none() => {
            "does the server ask for a client certificate (sslcert, sslkey)?".into()
        }
        rustls::Error::AlertReceived(_) => "does the server trust the certificate in sslcert?".into(),
        _ => format!("sslmode={}", dsn.sslmode.as_str()),
    }
}

fn io_reason(error: &io::Error, end: &Endpoint) -> String {
    match (error.kind(), &end.host) {
        (io::ErrorKind::ConnectionRefused, _) => "connection refused; is it running?".into(),
        (io::ErrorKind::NotFound, Host::Unix(_)) => "there is no such socket; is it running?".into(),
        (io::ErrorKind::PermissionDenied, Host::Unix(_)) => "no permission to open the socket".into(),
        (io::ErrorKind::TimedOut, _) => "no answer in time".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_kinds() {
        for (code, kind) in [
            ("PF001", Kind::NotFound),
            ("PF005", Kind::ServerChanged),
            ("PF007", Kind::BodyGone),
            ("53300", Kind::Unavailable),
            ("57P01", Kind::Unavailable),
            ("57P03", Kind::Unavailable),
            ("08006", Kind::Unavailable),
            ("40001", Kind::Retry),
            ("40P01", Kind::Retry),
            ("53100", Kind::NoSpace),
            ("25006", Kind::ReadOnly),
            ("42501", Kind::Forbidden),
            ("28P01", Kind::Unauthorized),
            ("28000", Kind::Unauthorized),
            ("3D000", Kind::NotInitialised),
            ("42P01", Kind::NotInitialised),
            ("42883", Kind::NotInitialised),
            ("22P02", Kind::Invalid),
            ("P0001", Kind::Other),
            ("", Kind::Other),
            ("é", Kind::Other),
        ] {
            assert_eq!(kind_of(code), kind, "{code}");
        }
    }
}
