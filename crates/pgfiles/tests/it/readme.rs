//! What the README says is run: its two commands are there, the demo works and leaves nothing behind, and so do the lines of its picture.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pgfiles");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).expect("README.md")
}

/// The fenced blocks of the README in one language, in order.
fn blocks(language: &str) -> Vec<String> {
    let text = readme();
    let fence = format!("```{language}\n");
    let parts = text.split(&fence).skip(1);
    parts.filter_map(|part| part.split_once("```")).map(|(block, _)| block.to_owned()).collect()
}

/// Why nothing can be mounted here, if so.
fn no_mounts() -> Option<String> {
    let opened = std::fs::File::options().read(true).write(true).open("/dev/fuse");
    opened.err().map(|e| format!("/dev/fuse cannot be opened: {e}"))
}

fn assert_worked(out: &Output) -> String {
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{}\n{said}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
    said
}

fn nothing_is_mounted_under(dir: &Path) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!table.contains(dir.to_str().expect("UTF-8")), "{table}");
}

#[test]
fn the_two_commands_stand_in_the_first_screen() {
    let text = readme();
    let first_screen: Vec<&str> = text.lines().take(24).collect();
    for command in ["scripts/demo", "scripts/test"] {
        assert!(first_screen.iter().any(|line| line.starts_with(command)), "{command}");
        let meta = std::fs::metadata(root().join(command)).expect("it is there");
        assert!(std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o111 == 0o111, "{command} can be run");
    }
    let ci = std::fs::read_to_string(root().join(".ci/run")).expect(".ci/run");
    assert!(ci.contains("scripts/test"), "CI calls the second");
}

/// The pages for people, with their paths from the root.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = std::fs::read_dir(root().join("docs")).expect("docs");
    let docs = docs.map(|entry| Path::new("docs").join(entry.expect("read").file_name()));
    let all = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "ARCHITECTURE.md"].map(PathBuf::from).into_iter().chain(docs);
    all.map(|page| (page.clone(), std::fs::read_to_string(root().join(&page)).expect("a page"))).collect()
}

#[test]
fn the_links_lead_somewhere() {
    for (page, text) in pages() {
        let from = root().join(page.parent().expect("a directory"));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            assert!(link.starts_with("https://") || from.join(link).exists(), "{}: {link}", page.display());
        }
        // Files that are named in the text.
        for name in text.split('`').skip(1).step_by(2).filter(|name| !name.contains([' ', '*', '<', '{'])) {
            let is_ours =
                ["crates/", "docs/", "scripts/", "packaging/", ".github/", ".ci/"].iter().any(|dir| name.starts_with(dir));
            assert!(!is_ours || root().join(name).exists(), "{}: {name}", page.display());
        }
    }
}

/// What the page for troubles quotes is said somewhere in the program.
#[test]
fn messages_that_are_explained_are_said() {
    fn sources(dir: &Path, all: &mut String) {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("read").path();
            if path.is_dir() {
                sources(&path, all);
            } else if path.extension().is_some_and(|end| end == "rs") {
                all.push_str(&std::fs::read_to_string(&path).expect("a source"));
            }
        }
    }
    let mut all = String::new();
    for name in ["pgfiles", "pgfiles-store"] {
        sources(&root().join("crates").join(name).join("src"), &mut all);
    }
    // Sentences that are broken over lines.
    let all: String = all.replace("\\\n", " ").split_whitespace().collect::<Vec<_>>().join(" ");
    let page = std::fs::read_to_string(root().join("docs/troubleshooting.md")).expect("the page");
    let headings: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert!(headings.len() > 20);
    for heading in headings {
        let message = heading.trim_matches('`').trim();
        assert!(all.contains(message), "{message:?} is said nowhere");
    }
}

#[test]
fn the_demo_works_and_leaves_nothing() {
    if let Some(why) = no_mounts() {
        eprintln!("skipped, because {why}");
        return;
    }
    let ground = Ground::new();
    let out = Command::new(root().join("scripts/demo"))
        .env("DEMO_PGFILES", PROGRAM)
        .env("TMPDIR", &ground.dir)
        // Settings of the user who tries it must not matter.
        .env("PGFILES_PREFIX", "elsewhere/")
        .env("PGFILES_READ_ONLY", "true")
        .current_dir("/")
        .output()
        .expect("runs");
    let said = assert_worked(&out);
    for part in ["$ pgfiles init", "$ pgfiles mount .", "$ cd .", "$ pgfiles restore output/result.json 1", "All of it worked"] {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
    nothing_is_mounted_under(&ground.dir);
    assert_eq!(std::fs::read_dir(&ground.dir).expect("read").count(), 0, "its directory is removed");
}

#[test]
fn the_picture_works_as_printed() {
    if let Some(why) = no_mounts() {
        eprintln!("skipped, because {why}");
        return;
    }
    let ground = Ground::new();
    let shell = blocks("sh");
    let picture = shell.iter().find(|block| block.contains("pgfiles mount .")).expect("the picture");
    let versions = shell.iter().find(|block| block.contains("pgfiles restore")).expect("versions");
    let dsn = format!("local:{}/postgres?stop_after=0.2", ground.dir.display());
    let (head, unmount) = picture.split_once("pgfiles unmount").expect("the last line");
    let typed = format!("{head}\n{versions}\npgfiles unmount{unmount}\ncd .\nls -A\n").replace("postgres://db/app", &dsn);
    let script = |shell_hook: &str, typed: &str| format!("set -e\n{shell_hook}\n{typed}");
    for (hook, typed) in
        [("", typed.clone()), ("eval \"$(pgfiles shell-hook bash)\"", typed.replace("\ncd .", "\n: in by the hook"))]
    {
        let out = ground.bash(&script(hook, &typed));
        let said = assert_worked(&out);
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines.contains(&r#"{"status":"done"}"#), "{said}");
        assert!(!lines.contains(&"output"), "unmounted, the directory is empty: {said}");
        assert!(lines.iter().any(|line| line.trim_start().starts_with('1')), "a line for version 1: {said}");
    }
    nothing_is_mounted_under(&ground.dir);
}

/// A directory for one test that the private server's user may pass through, with `pgfiles` in a `PATH` of its own.
struct Ground {
    dir: PathBuf,
}

impl Ground {
    fn new() -> Ground {
        use std::os::unix::fs::PermissionsExt;
        let dir = PathBuf::from(format!("/tmp/pgfiles-readme-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&dir).expect("made");
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).expect("passable");
        Ground { dir }
    }

    fn bash(&self, script: &str) -> Output {
        let (bin, work) = (self.dir.join("bin"), self.dir.join("work"));
        std::fs::create_dir_all(&bin).expect("made");
        std::fs::create_dir_all(&work).expect("made");
        let _ = std::os::unix::fs::symlink(PROGRAM, bin.join("pgfiles"));
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("PATH"));
        let mut command = Command::new("bash");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PGFILES_")) {
            command.env_remove(name);
        }
        command.args(["-c", script]).current_dir(&work).env("PATH", path).env("AGENT_ID", "7");
        for name in ["XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"] {
            command.env(name, self.dir.join("home"));
        }
        command.output().expect("runs")
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-lq").arg(self.dir.join("work")).output();
        let until = Instant::now() + Duration::from_secs(30);
        while self.dir.join("postgres/data/postmaster.pid").exists() && Instant::now() < until {
            std::thread::yield_now();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
