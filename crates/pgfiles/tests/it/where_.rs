//! Standing underneath a mount, beside one, and in one that is gone, with real mounts in a mount namespace of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use pgfiles::where_::{Standing, mount_hint};

/// Set in the process that runs inside the namespace.
const INSIDE: &str = "WHERE_TEST_INSIDE";

#[test]
fn standing_is_told() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let namespace: &[&str] = if rustix::process::geteuid().is_root() { &["-m"] } else { &["-rm"] };
    let works = Command::new("unshare").args(namespace).args(["mount", "-t", "tmpfs", "none", "/mnt"]).output();
    if !works.is_ok_and(|out| out.status.success()) {
        eprintln!("skipped, because no mount namespace can be had here");
        return;
    }
    // A shell in between, as the parent that stands where its child does.
    let me = std::env::current_exe().expect("this test");
    let out = Command::new("unshare")
        .args(namespace)
        .args([
            "bash",
            "-c",
            "mkdir -p \"$1\" && cd \"$1\" && \"$2\" --exact where_::standing_is_told --no-capture; exit $?",
            "bash",
        ])
        .arg(ground().0)
        .arg(me)
        .env(INSIDE, "1")
        .env_remove("PGFILES_SHELL_HOOK")
        .output()
        .expect("runs");
    let _ = std::fs::remove_dir_all(ground().1);
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
}

/// The directory to stand in, and the one to remove afterwards.
fn ground() -> (PathBuf, PathBuf) {
    let top = std::env::temp_dir().join("pgfiles-where-test");
    (top.join("a dir/sub"), top)
}

fn inside() {
    let sub = std::env::current_dir().expect("we stand somewhere");
    let dir = sub.parent().expect("not the root").to_owned();
    assert_eq!(Standing::of_me(), Standing::Here(sub.clone()));
    assert_eq!(mount_hint(), None);

    // Over the directory that we and our parent stand in.
    mount(&sub);
    std::fs::write("left here", "").expect("written underneath");
    assert!(!sub.join("left here").exists(), "the mount does not show it");
    let names = vec!["left here".to_owned()];
    let underneath =
        |mountpoint: &Path| Standing::Underneath { path: sub.clone(), mountpoint: Some(mountpoint.into()), names: names.clone() };
    assert_eq!(Standing::of_me(), underneath(&sub));
    assert_eq!(Standing::of_process(std::process::id()), Some(underneath(&sub)));
    let said = Standing::of_me().explain().expect("said");
    for part in ["`cd .`", "left here", sub.to_str().expect("UTF-8")] {
        assert!(said.contains(part), "{part} is missing in: {said}");
    }
    let hint = mount_hint().expect("our parent stands there");
    assert!(hint.contains("`cd .`") && hint.contains("shell-hook bash"), "{hint}");

    // Entered, left, and unmounted under us.
    std::env::set_current_dir(&sub).expect("entered");
    assert_eq!(Standing::of_me(), Standing::Here(sub.clone()));
    unmount(&sub);
    assert!(matches!(Standing::of_me(), Standing::Gone(_)), "{:?}", Standing::of_me());
    assert!(Standing::of_me().explain().expect("said").contains("cd "));

    // Over a directory above, which has no such directory below.
    std::env::set_current_dir(&sub).expect("entered");
    mount(&dir);
    assert_eq!(Standing::of_me(), underneath(&dir));
}

fn mount(on: &Path) {
    assert!(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(on).current_dir("/").status().expect("runs").success());
}

fn unmount(from: &Path) {
    assert!(Command::new("umount").arg("-l").arg(from).current_dir("/").status().expect("runs").success());
}
