//! Whether a thread that waits for us has a signal to see to.
//!
//! The library answers the kernel's FUSE_INTERRUPT with "not known", after which the kernel sends none and lets the caller
//! wait for the answer, whatever comes. So who may wait for long, for a lock, looks for itself.

/// Whether a signal that is not blocked is pending for a thread. False where that cannot be known: another pid namespace, or a
/// /proc that hides other users' processes.
pub(crate) fn is_pending(thread: u32) -> bool {
    thread != 0 && std::fs::read_to_string(format!("/proc/{thread}/status")).is_ok_and(|status| says_pending(&status))
}

/// Ignored signals are not even queued (`man 5 proc`, `man 7 signal`).
fn says_pending(status: &str) -> bool {
    let mask = |name: &str| {
        let text = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(text.trim(), 16).ok()
    };
    let (Some(own), Some(shared), Some(blocked)) = (mask("SigPnd:"), mask("ShdPnd:"), mask("SigBlk:")) else { return false };
    (own | shared) & !blocked != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_signal_counts_unless_it_is_blocked() {
        let status = |own, shared, blocked| format!("Name:\tx\nSigPnd:\t{own}\nShdPnd:\t{shared}\nSigBlk:\t{blocked}\n");
        assert!(!says_pending(&status("0000000000000000", "0000000000000000", "0000000000000000")));
        assert!(says_pending(&status("0000000000000100", "0000000000000000", "0000000000000000")), "SIGKILL");
        assert!(says_pending(&status("0000000000000000", "0000000000000002", "0000000000000000")), "SIGINT");
        assert!(!says_pending(&status("0000000000000000", "0000000000000002", "0000000000000002")));
        assert!(!says_pending("Name: x"));
    }

    #[test]
    fn nothing_is_pending_for_this_thread() {
        assert!(!is_pending(std::process::id()));
        assert!(!is_pending(0));
    }
}
