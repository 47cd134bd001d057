//! The two spellings of a DSN, taken apart into pairs of name and value. Pure; knows no parameter.

use crate::error::{Kind, Result, StoreError};

/// The pairs behind what follows `postgres://`:
/// `[user[:password]@][host[:port][,…]][/dbname][?name=value[&…]]`, each part percent-encoded.
///
/// # Errors
/// [`Kind::Invalid`]; quotes nothing that may be part of a password.
pub(super) fn url(rest: &str) -> Result<Vec<(String, String)>> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, dbname) = place.split_once('/').unwrap_or((place, ""));
    if dbname.contains('@') && !authority.contains('@') {
        return Err(invalid("the DSN has a `/` in its user or password: write it as %2F"));
    }
    let mut pairs = Vec::new();
    let mut push = |name: &str, value: &str| -> Result<()> {
        pairs.push((name.to_owned(), percent_decode(value)?));
        Ok(())
    };
    let hosts = match authority.rsplit_once('@') {
        None => authority,
        Some((credentials, hosts)) => {
            let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
            push("user", user)?;
            push("password", password)?;
            hosts
        }
    };
    if !hosts.is_empty() {
        let (names, ports) = split_hosts(hosts)?;
        push("host", &names)?;
        push("port", &ports)?;
    }
    push("dbname", dbname)?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| invalid("the DSN has a parameter without `=` after its `?`"))?;
        let name = percent_decode(name)?;
        push(&name, value)?;
    }
    Ok(pairs)
}

/// Hosts and ports apart, each joined by commas. An IPv6 address stands in brackets.
fn split_hosts(hosts: &str) -> Result<(String, String)> {
    let mut names = Vec::new();
    let mut ports = Vec::new();
    for one in hosts.split(',') {
        let (name, port) = match one.strip_prefix('[') {
            None => one.split_once(':').unwrap_or((one, "")),
            Some(rest) => {
                let (name, after) =
                    rest.split_once(']').ok_or_else(|| invalid("the DSN has a `[` without its `]` (an IPv6 address)"))?;
                match after.strip_prefix(':') {
                    Some(port) => (name, port),
                    None if after.is_empty() => (name, ""),
                    None => return Err(invalid("the DSN has text between `]` and the port")),
                }
            }
        };
        names.push(name);
        ports.push(port);
    }
    let ports = if ports.iter().all(|port| port.is_empty()) { String::new() } else { ports.join(",") };
    Ok((names.join(","), ports))
}

/// The pairs behind `name = value name='quoted \'value\''`.
///
/// # Errors
/// [`Kind::Invalid`]; quotes nothing that may be part of a password.
pub(super) fn key_values(text: &str) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or_else(|| invalid("the DSN has a word without `=`"))?;
        let name = name.trim_end();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(invalid("the DSN has a word without `=` (a value with a space in it stands in quotes: 'a b')"));
        }
        let (value, after) = value(after.trim_start())?;
        pairs.push((name.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// A value, quoted or not, and what follows it. A backslash takes the next character as it is.
fn value(text: &str) -> Result<(String, &str)> {
    let quoted = text.strip_prefix('\'');
    let body = quoted.unwrap_or(text);
    let mut out = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => out.extend(chars.next().map(|(_, c)| c)),
            '\'' if quoted.is_some() => return Ok((out, &body[at + 1..])),
            c if quoted.is_none() && c.is_whitespace() => return Ok((out, &body[at..])),
            '\0' => return Err(invalid("the DSN has a NUL character")),
            c => out.push(c),
        }
    }
    if quoted.is_some() { Err(invalid("the DSN has a quote that does not end")) } else { Ok((out, "")) }
}

/// Text behind `%xx`.
fn percent_decode(text: &str) -> Result<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(high), Some(low)) if (high, low) != (0, 0) => out.push((high * 16 + low) as u8),
            _ => return Err(invalid("the DSN has a `%` that is not followed by two hexadecimal digits (a `%` itself is %25)")),
        }
    }
    String::from_utf8(out).map_err(|_| invalid("the DSN does not decode to UTF-8"))
}

/// The reverse of [`percent_decode`].
pub(super) fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            byte => {
                let _ = std::fmt::Write::write_fmt(&mut out, format_args!("%{byte:02X}"));
            }
        }
    }
    out
}

fn invalid(message: &str) -> StoreError {
    StoreError::new(Kind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::dsn::{Dsn, Environment, Host, RootCert, SslMode, Target};
    use proptest::prelude::*;

    fn env() -> Environment {
        Environment { user: Some("me".into()), ..Environment::default() }
    }

    fn dsn(text: &str) -> Dsn {
        Dsn::parse(text, &env()).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn refusal(text: &str) -> String {
        Dsn::parse(text, &env()).unwrap_err().to_string()
    }

    #[test]
    fn a_url_with_everything() {
        let dsn =
            dsn("postgres://app:s%40crt@db1:5433,[::1],/app?sslmode=require&connect_timeout=3&target_session_attrs=read-write\
             &options=-c%20geqo%3Doff&application_name=x&port=1,2,3");
        assert_eq!(dsn.hosts.len(), 3);
        assert_eq!(dsn.hosts[0].to_string(), "db1:1", "the last `port` counts");
        assert_eq!(dsn.hosts[1].to_string(), "[::1]:2");
        assert_eq!((dsn.user.as_str(), dsn.dbname.as_str()), ("app", "app"));
        assert_eq!(dsn.password.as_ref().unwrap().reveal(), "s@crt");
        assert_eq!((dsn.sslmode, dsn.target), (SslMode::Require, Target::ReadWrite));
        assert_eq!(dsn.options.as_deref(), Some("-c geqo=off"));
        assert!(!format!("{dsn} {dsn:?}").contains("crt"));
    }

    #[test]
    fn key_values_with_quotes() {
        let dsn = dsn(r"host=/run/pg  port = 6000 dbname='my db' password='it\'s \\ fine' user=a\ b");
        assert_eq!(dsn.hosts[0].host, Host::Unix("/run/pg".into()));
        assert_eq!(dsn.hosts[0].port, 6000);
        assert_eq!((dsn.user.as_str(), dsn.dbname.as_str()), ("a b", "my db"));
        assert_eq!(dsn.password.unwrap().reveal(), r"it's \ fine");
    }

    #[test]
    fn sockets_and_defaults() {
        let dsn = dsn("postgresql://%2Frun%2Fpg/app");
        assert_eq!(dsn.hosts[0].host, Host::Unix("/run/pg".into()));
        assert_eq!(dsn.user, "me");
        assert_eq!(dsn.connect_timeout, Some(crate::pg::dsn::CONNECT_TIMEOUT));
        assert_eq!(super::super::dsn::Dsn::parse("host=h", &env()).unwrap().dbname, "me");
        assert_eq!(super::super::dsn::Dsn::parse("host=h connect_timeout=0", &env()).unwrap().connect_timeout, None);
    }

    #[test]
    fn sslrootcert_system_means_verify_full() {
        let dsn = dsn("postgres://h/d?sslrootcert=system");
        assert_eq!((dsn.sslmode, dsn.sslrootcert), (SslMode::VerifyFull, Some(RootCert::System)));
        assert!(refusal("postgres://h/d?sslrootcert=system&sslmode=require").contains("too weak"));
        assert!(refusal("postgres://h/d?sslmode=verify-full").contains("sslrootcert"));
    }

    #[test]
    fn refusals_name_the_parameter_and_what_is_allowed() {
        assert!(refusal("postgres://h/d?gssencmode=disable").contains("\"gssencmode\""));
        assert!(refusal("host=h sslmode=on").contains("verify-full"));
        assert!(refusal("postgres://h:0/d").contains("1 to 65535"));
        assert!(refusal("host=a,b port=1,2,3").contains("2 hosts but 3 ports"));
        assert!(refusal("/tmp/x").contains("postgres://"));
        assert!(!refusal("postgres://u:geh/eim@h/d").contains("geh"));
        assert!(!refusal("password=geh eim").contains("eim"));
    }

    proptest! {
        #[test]
        fn any_text_parses_or_is_refused(text in "(postgres://)?.{0,60}") {
            let _ = Dsn::parse(&text, &env()).map(|dsn| format!("{dsn:?}"));
        }

        #[test]
        fn any_pairs_parse_or_are_refused(text in r"((host|port|user|password|sslmode|dbname|x)[ ]{0,2}=[ ]{0,2}('[^']{0,5}'|[a-z0-9,\\/]{0,6}) ){0,5}") {
            let _ = Dsn::parse(&text, &env()).map(|dsn| dsn.to_string());
        }

        #[test]
        fn a_password_arrives_and_is_never_printed(secret in "[^\0]{6,20}") {
            prop_assume!(!"postgres://app@somewhere.example:5432/base?sslmode=require Dsn(****)".contains(&secret));
            let url = format!("postgres://app:{}@somewhere.example/base?sslmode=require", percent_encode(&secret));
            let quoted = secret.replace('\\', r"\\").replace('\'', r"\'");
            let pairs = format!("host=somewhere.example user=app dbname=base password='{quoted}'");
            for text in [url, pairs] {
                let dsn = dsn(&text);
                prop_assert_eq!(dsn.password.as_ref().unwrap().reveal(), &secret);
                let printed = format!("{dsn} {dsn:?} {:?}", dsn.password);
                prop_assert!(!printed.contains(&secret), "{printed}");
            }
        }

        #[test]
        fn what_is_printed_parses_to_the_same(user in "[^\0]{1,9}", db in "[^\0]{1,9}", port in 1u16..) {
            let text = format!("postgres://{}@h:{port},%2Frun/{}?sslmode=require", percent_encode(&user), percent_encode(&db));
            let first = dsn(&text);
            prop_assert_eq!(dsn(&first.to_string()), first);
        }
    }
}
