//! Sizes and spans of time as people write them: "1GB", "512MiB", "30s". Pure.

use std::time::Duration;

const BYTES: [(&str, u64); 12] = [
    ("", 1),
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("pb", 1_000_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("pib", 1 << 50),
];

const SPANS: [(&str, f64); 6] = [("", 1.0), ("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3_600.0), ("d", 86_400.0)];

/// The longest span that is read: a hundred years, so that sums with the clock stay in range.
const SPAN_SECONDS_MAX: f64 = 100.0 * 365.25 * 86_400.0;

/// Bytes: a number, `kB`, `MB` … (powers of 1000) or `KiB`, `MiB` … (powers of 1024) after it, in any case.
pub fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let unit = unit.to_ascii_lowercase();
    let (_, factor) = BYTES.iter().find(|(name, _)| *name == unit)?;
    let exact = number.parse::<u64>().ok().and_then(|n| n.checked_mul(*factor));
    exact.or_else(|| {
        let size = number.parse::<f64>().ok()? * *factor as f64;
        (number.contains('.') && size < 1e18).then_some(size as u64)
    })
}

/// A span of time: a number with `ms`, `s`, `m`, `h` or `d` after it; bare, it is seconds.
pub fn span(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let (_, factor) = SPANS.iter().find(|(name, _)| *name == unit)?;
    let seconds = number.parse::<f64>().ok()? * factor;
    (seconds <= SPAN_SECONDS_MAX).then(|| Duration::from_secs_f64(seconds))
}

/// Digits with at most one point, then the unit.
fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    number.starts_with(|c: char| c.is_ascii_digit()).then(|| (number, unit.trim()))
}

/// Bytes for people: "3.4 MB".
pub fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1000.0;
    let mut unit = 0;
    while size >= 999.95 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// A span for people: "450 ms", "12 s", "3 min", "2 h", "4 d".
pub fn show_span(span: Duration) -> String {
    match span.as_secs() {
        0 => format!("{} ms", span.as_millis()),
        s @ 1..120 => format!("{s} s"),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, want) in
            [("0", 0), ("1GB", 1_000_000_000), ("1GiB", 1 << 30), ("512 mb", 512_000_000), ("1.5kB", 1_500), ("7", 7)]
        {
            assert_eq!(bytes(text), Some(want), "{text}");
        }
        for bad in ["lots", "", "-1", "1XB", "GB", "99999999999999TB", "1e9", "1.2.3GB"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn spans() {
        for (text, want) in
            [("30s", 30_000), ("500ms", 500), ("2m", 120_000), ("1h", 3_600_000), ("0", 0), ("1.5s", 1_500), ("7", 7_000)]
        {
            assert_eq!(span(text), Some(Duration::from_millis(want)), "{text}");
        }
        for bad in ["soon", "", "-1s", "1w", "s", "9999999999999h"] {
            assert_eq!(span(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_for_people() {
        for (n, want) in [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (999_999, "1.0 MB"), (3_400_000, "3.4 MB")] {
            assert_eq!(show_bytes(n), want);
        }
    }
}
