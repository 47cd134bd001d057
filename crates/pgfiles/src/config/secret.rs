//! A DSN without its password: the only form in which one is printed, logged or kept in a file. Pure.

const HIDDEN: &str = "***";
const SECRET_PARAMETERS: [&str; 2] = ["password", "sslpassword"];

/// The DSN with every password replaced by `***`. Total: text that is no DSN is masked where it looks like one.
pub fn mask_dsn(dsn: &str) -> String {
    if dsn.starts_with("local:") {
        return dsn.to_owned();
    }
    match dsn.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", mask_url(rest)),
        None => mask_pairs(dsn),
    }
}

/// `user:password@host/db?password=…`: the user part ends at the last `@` before the query, so that an unescaped `@`
/// or `/` in a password stays hidden.
fn mask_url(rest: &str) -> String {
    let (before, query) = match rest.find('?') {
        // A `?` in a password without escape: only an `@` that follows tells.
        Some(at) if rest[at..].contains('@') && !rest[..at].contains('@') => (rest, None),
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    let mut out = match before.rfind('@') {
        Some(at) => {
            let user = &before[..at];
            let shown = user.split_once(':').map_or(user.to_owned(), |(name, _)| format!("{name}:{HIDDEN}"));
            format!("{shown}{}", &before[at..])
        }
        None => before.to_owned(),
    };
    if let Some(query) = query {
        let shown: Vec<String> = query
            .split('&')
            .map(|pair| match pair.split_once('=') {
                Some((name, _)) if is_secret(name) => format!("{name}={HIDDEN}"),
                _ => pair.to_owned(),
            })
            .collect();
        out = format!("{out}?{}", shown.join("&"));
    }
    out
}

/// `host=… password='it''s \' secret' dbname=…`.
fn mask_pairs(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('=') {
        let (name, value) = rest.split_at(at);
        let value = &value[1..];
        let gap = value.len() - value.trim_start().len();
        let len = gap + value_len(&value[gap..]);
        out.push_str(name);
        out.push('=');
        out.push_str(if is_secret(name.trim()) { HIDDEN } else { &value[..len] });
        rest = &value[len..];
    }
    out.push_str(rest);
    out
}

/// How long a value of a key-value string is: to the closing quote, or to the next space.
fn value_len(value: &str) -> usize {
    let quoted = value.starts_with('\'');
    let mut escaped = false;
    for (at, c) in value.char_indices().skip(usize::from(quoted)) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' if quoted => return at + 1,
            c if !quoted && c.is_whitespace() => return at,
            _ => {}
        }
    }
    value.len()
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_PARAMETERS.contains(&name.as_str()) || name.contains('%')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden() {
        for (dsn, want) in [
            ("postgres://u:secret@h:5432/db", "postgres://u:***@h:5432/db"),
            ("postgres://u:se@cr/et@h/db", "postgres://u:***@h/db"),
            ("postgres://u:sec?ret@h/db", "postgres://u:***@h/db"),
            ("postgres://u@h/db?password=secret&sslmode=require", "postgres://u@h/db?password=***&sslmode=require"),
            ("postgres://h/db", "postgres://h/db"),
            ("host=h password=secret dbname=d", "host=h password=*** dbname=d"),
            (r"host=h password = 'it\'s secret' dbname=d", "host=h password =*** dbname=d"),
            ("password=secret", "password=***"),
            ("local:/var/x", "local:/var/x"),
        ] {
            assert_eq!(mask_dsn(dsn), want);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_masked_without_a_panic(text in ".{0,60}") {
            mask_dsn(&text);
        }
    }
}
