//! Compounds that once were, or might be, too much for a server: kept in `tests/corpus`, a file each, and replayed with every run.
//! A file: comments behind `#`, `expect` and the status of the last operation, and a line for each operation behind SEQUENCE: its
//! number and its arguments in hexadecimal digits.

use std::path::Path;

use pgfiles_testkit::nfs_client::{Claim, Compound, How, Xdr, attr};

use crate::served::served;

fn bytes(digits: &str) -> Vec<u8> {
    assert!(digits.len().is_multiple_of(2), "{digits}");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn operation(line: &str) -> (u32, Xdr) {
    let (number, arguments) = line.split_once(' ').unwrap_or((line, ""));
    (number.parse().unwrap(), Xdr(bytes(&arguments.replace(' ', ""))))
}

#[test]
fn what_was_kept_is_answered_as_it_should_be() {
    let served = served();
    let mut client = served.client();
    let opened = client.run(|all| all.root().open(b"o", (3, 0), &How::Create(vec![]), Claim::Name(b"file"))).ok();
    client.run(|all| all.path("file").write(opened.state(), 0, 2, &[7; 100_000])).ok();
    let mut files: Vec<_> = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")).unwrap().collect();
    files.sort_by_key(|file| file.as_ref().unwrap().file_name());
    assert!(files.len() >= 14);
    let mut wrong = Vec::new();
    for file in files {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let expected: u32 = lines.next().unwrap().strip_prefix("expect ").unwrap().parse().unwrap();
        let operations: Vec<_> = lines.map(operation).collect();
        let reply = client.run(|all: Compound| operations.into_iter().fold(all, |all, (number, xdr)| all.op(number, xdr)));
        if reply.status != expected {
            wrong.push(format!("{}: {} and not {expected}", path.display(), reply.status));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    client.run(|all| all.path("file").getattr(&[attr::SIZE])).ok();
}
