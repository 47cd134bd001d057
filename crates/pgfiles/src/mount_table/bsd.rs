//! The table of macOS and the BSDs: what mount(8) lists.

use super::Mounted;

#[cfg(not(target_os = "linux"))]
pub(super) fn all() -> Vec<Mounted> {
    let output = std::process::Command::new("mount").stdin(std::process::Stdio::null()).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter_map(parse).collect()
}

/// `<socket>:/ on /Users/me/work (nfs, nodev, nosuid)`.
fn parse(line: &str) -> Option<Mounted> {
    let (rest, options) = line.rsplit_once(" (")?;
    let (source, at) = rest.split_once(" on ")?;
    let kind = options.split([',', ')']).next()?;
    Some(Mounted { at: at.into(), kind: kind.into(), source: source.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_list() {
        let listed = parse("</tmp/x/s>:/ on /Users/me/my work (nfs, nodev, nosuid, mounted by me)");
        assert_eq!(listed, Some(Mounted { at: "/Users/me/my work".into(), kind: "nfs".into(), source: "</tmp/x/s>:/".into() }));
        assert!(listed.is_some_and(|mounted| mounted.is_local_nfs()));
        assert_eq!(parse("nonsense"), None);
    }
}
