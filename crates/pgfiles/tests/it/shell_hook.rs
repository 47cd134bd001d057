//! The hooks in the real shells, with real mounts: a stand-in for `pgfiles` mounts a tmpfs, in a mount namespace of its own.
//! (That the real program works with them is shown by the test of the README's demo.)

use std::path::Path;
use std::process::Command;

use pgfiles::shell_hook::Shell;

const STAND_IN: &str = r#"#!/bin/sh
case "$1" in
    mount) [ "$2" != refused ] || exit 3; echo "hook=$PGFILES_SHELL_HOOK"; mount -t tmpfs none "$2" ;;
    unmount) umount -l "$2" ;;
    *) echo "args=$#:$2"; exit 7 ;;
esac
"#;

/// Typed in bash and zsh; fish differs in two words.
const TYPED: &str = r#"
cd /
cd "$GROUND/work dir"
CDPATH=/tmp
pgfiles mount .
echo inside > file
ls "$GROUND/work dir"
[ . -ef "$GROUND/work dir" ] && echo entered
pgfiles unmount .
[ -e file ] || echo left
[ . -ef "$GROUND/work dir" ] && echo re-entered
pgfiles mount refused; echo "code $?"
pgfiles cat 'a b'; echo "code $?"
cd sub
pgfiles mount "$GROUND/other"
echo "in $(basename "$PWD")"
cd /usr; cd "$GROUND/work dir"; pgfiles mount .; cd - > /dev/null; pwd
pgfiles unmount "$GROUND/work dir"
cd "$GROUND/work dir"
pgfiles mount "$GROUND"; echo "code $?"
"#;

const SAID: &str = "\
hook=SHELL
file
entered
left
re-entered
code 3
args=2:a b
code 7
hook=SHELL
in sub
hook=SHELL
/usr
hook=SHELL
code 0
";

fn run(shell: Shell, program: &str, options: &[&str]) {
    let works = |program: &str, args: &[&str]| Command::new(program).args(args).output().is_ok_and(|out| out.status.success());
    if !works(program, &["-c", "true"]) {
        eprintln!("skipped, because {program} is not installed");
        return;
    }
    let namespace: &[&str] = if rustix::process::geteuid().is_root() { &["-m"] } else { &["-rm"] };
    if !works("unshare", &[namespace, &["mount", "-t", "tmpfs", "none", "/mnt"]].concat()) {
        eprintln!("skipped, because no mount namespace can be had here");
        return;
    }
    let ground = tempfile::tempdir().expect("a directory");
    for dir in ["bin", "work dir/sub", "other"] {
        std::fs::create_dir_all(ground.path().join(dir)).expect("made");
    }
    let stand_in = ground.path().join("bin/pgfiles");
    std::fs::write(&stand_in, STAND_IN).expect("written");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&stand_in, std::fs::Permissions::from_mode(0o755)).expect("executable");

    let typed = match shell {
        Shell::Fish => TYPED.replace("CDPATH=/tmp", "set CDPATH /tmp").replace("$?", "$status"),
        _ => TYPED.to_owned(),
    };
    let script = format!("{}\n{typed}", shell.hook());
    let path = format!("{}:{}", ground.path().join("bin").display(), std::env::var("PATH").expect("PATH"));
    let out = Command::new("unshare")
        .args(namespace)
        .arg(program)
        .args(options)
        .args(["-c", &script])
        .env("PATH", path)
        .env("GROUND", ground.path())
        .env("HOME", ground.path())
        .env_remove("PGFILES_SHELL_HOOK")
        .current_dir(Path::new("/"))
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let talk = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(said, SAID.replace("SHELL", &format!("{shell:?}").to_lowercase()), "stderr: {talk}");
    assert!(talk.contains("is not there any more"), "{talk}");
}

#[test]
fn bash() {
    run(Shell::Bash, "bash", &["--norc"]);
}

#[test]
fn zsh() {
    run(Shell::Zsh, "zsh", &["-f"]);
}

#[test]
fn fish() {
    run(Shell::Fish, "fish", &["--no-config"]);
}
