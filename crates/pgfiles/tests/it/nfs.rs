//! `pgfiles serve-nfs`, with a client of the protocol: what it writes is there for SQL, what a killed server and a stopped Postgres do
//! to who has files open, and who is let in.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use pgfiles_testkit::nfs_client::{Claim, Client, Connection, Got, How, address_said, op};
use pgfiles_testkit::postgres::{Options, Postgres};
use rustix::process::{Pid, Signal, kill_process};

use crate::user::{User, block_on, eventually, ran};

const DELAY: u32 = 10_008;
const BAD_SESSION: u32 = 10_052;

/// The program, serving.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(user: &User, listen: &str) -> Self {
        let mut command = user.command(["serve-nfs", "--listen", listen, "--allow-other"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let address = address_said(child.stderr.take().unwrap());
        Self { child, address }
    }

    fn connect(&self) -> Connection {
        Connection::tcp(self.address)
    }

    fn end(mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn create(client: &mut Client, name: &str) -> (Vec<u8>, [u8; 16]) {
    let reply = client.run(|all| all.root().open(b"o", (3, 0), &How::Create(vec![]), Claim::Name(name.as_bytes())).getfh()).ok();
    (reply.handle(), reply.state())
}

fn text(user: &User, key: &str) -> Vec<String> {
    user.sql(&format!("SELECT convert_from(pgfiles_read('{key}'), 'UTF8')"))
}

#[test]
fn what_is_written_over_nfs_is_there_for_sql_and_what_sql_writes_for_nfs() {
    let mut user = User::with_table();
    user.set("PGFILES_PREFIX", "agents/7");
    user.set("PGFILES_CACHE_METADATA_TTL", "0");
    let server = Server::start(&user, "127.0.0.1:0");
    let mut client = Client::new(server.connect(), b"it", 1);
    let (file, id) = create(&mut client, "f");
    client.run(|all| all.handle(&file).write(id, 0, 0, b"over nfs").commit()).ok();
    assert_eq!(text(&user, "agents/7/f"), ["over nfs"]);
    user.sql("SELECT pgfiles_write('agents/7/g', 'by sql')");
    let reply = client.ask(|all| all.path("g").read([0; 16], 0, 100)).ok();
    assert_eq!(*reply.of(op::READ), Got::Read { eof: true, data: b"by sql".to_vec() });
    let status = user.status();
    assert_eq!((status[0]["backend"].as_str(), status[0]["state"].as_str()), (Some("nfs"), Some("ok")));
    // Written and not committed by its client: the end commits it.
    client.run(|all| all.handle(&file).write(id, 0, 0, b"OVER")).ok();
    assert_eq!(server.end(Signal::TERM), Some(0));
    assert_eq!(text(&user, "agents/7/f"), ["OVER nfs"]);
    assert_eq!(user.status(), serde_json::json!([]));
}

/// RFC 8881 §8.4.2, §18.3: another write verifier, and what was open is taken back.
#[test]
fn a_killed_server_is_taken_up_again_by_its_clients() {
    let user = User::with_table();
    let server = Server::start(&user, "127.0.0.1:0");
    let address = server.address.to_string();
    let mut client = Client::new(server.connect(), b"it", 1);
    let (file, id) = create(&mut client, "f");
    let reply = client.run(|all| all.handle(&file).write(id, 0, 0, b"safe ").commit()).ok();
    let Got::Verifier(before) = *reply.of(op::COMMIT) else { panic!("{reply:?}") };
    client.run(|all| all.handle(&file).write(id, 5, 0, b"not yet")).ok();
    assert_eq!(server.end(Signal::KILL), None);
    let server = Server::start(&user, &address);
    client.connection = server.connect();
    assert_eq!(client.run(|all| all.handle(&file)).status, BAD_SESSION);
    let mut client = Client::before_reclaim(server.connect(), b"it", 1);
    let id = client.run(|all| all.handle(&file).open(b"o", (3, 0), &How::Existing, Claim::Previous)).ok().state();
    client.reclaim_complete();
    let reply = client.run(|all| all.handle(&file).write(id, 5, 0, b"sent again")).ok();
    let Got::Written { verifier, .. } = *reply.of(op::WRITE) else { panic!("{reply:?}") };
    assert_ne!(verifier, before, "what was not committed is to be sent again");
    client.run(|all| all.handle(&file).commit()).ok();
    assert_eq!(text(&user, "f"), ["safe sent again"]);
}

/// NFS.md §2: while Postgres is away the client is told to ask again, and everything heals.
#[test]
fn an_outage_is_a_delay() {
    let postgres = Postgres::start(Options::default());
    let mut user = User::alone();
    let database = block_on(postgres.database());
    user.set("PGFILES_DSN", &database.dsn());
    user.database = Some(database);
    user.run(["init"]).ok();
    let server = Server::start(&user, "127.0.0.1:0");
    let mut client = Client::new(server.connect(), b"it", 1);
    let (file, id) = create(&mut client, "f");
    client.run(|all| all.handle(&file).write(id, 0, 0, b"kept")).ok();
    postgres.kill_all();
    assert_eq!(client.run(|all| all.handle(&file).commit()).status, DELAY);
    assert_eq!(client.run(|all| all.handle(&file).close(id)).status, DELAY);
    postgres.start_again();
    eventually("healed", || client.run(|all| all.handle(&file).commit()).status == 0);
    client.run(|all| all.handle(&file).close(id)).ok();
    assert_eq!(text(&user, "f"), ["kept"]);
}

/// AUTH_SYS is believed, so only root and the user of the daemon may speak.
#[test]
fn another_user_of_the_machine_is_not_let_in() {
    let user = User::with_table();
    let server = Server::start(&user, "127.0.0.1:0");
    let connects = |uid: Option<u32>| {
        let asks = "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); s.settimeout(10)\n\
                    s.sendall(bytes.fromhex('80000028' '00000001' '00000000' '00000002' '000186a3' '00000004') + bytes(20))\n\
                    print(len(s.recv(100)))";
        let mut command = Command::new("python3");
        command.args(["-c", asks]).arg(server.address.port().to_string());
        if let Some(uid) = uid {
            command.uid(uid).gid(uid);
        }
        ran(command.output().unwrap())
    };
    assert_eq!(connects(None).ok(), "28\n");
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped, because only root can be another user");
        return;
    }
    let theirs = connects(Some(65_533));
    assert!(theirs.code != 0 || theirs.stdout == "0\n", "{theirs:?}");
    assert_eq!(connects(None).ok(), "28\n");
}

#[test]
fn a_socket_lies_where_nobody_else_may_go() {
    use std::os::unix::fs::PermissionsExt as _;
    let user = User::with_table();
    let dir = user.dir("open");
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let serve = |path: &Path| user.run([Path::new("serve-nfs"), Path::new("--socket"), path]);
    serve(&dir.join("s")).fails(1, &["others may enter", "chmod 700"]);
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(dir.join("file"), "x").unwrap();
    serve(&dir.join("file")).fails(4, &["is no socket"]);
    serve(&dir.join("x".repeat(100))).fails(2, &["100 bytes"]);
    serve(Path::new("/nowhere/s")).fails(3, &["/nowhere"]);
    user.run(["serve-nfs", "--listen", "127.0.0.1"]).fails(2, &["--listen"]);
    let mut command = user.command([Path::new("serve-nfs"), Path::new("--socket"), &dir.join("s")]);
    let mut child = command.spawn().unwrap();
    eventually("it listens", || std::os::unix::net::UnixStream::connect(dir.join("s")).is_ok());
    let mut client = Client::new(Connection::unix(&dir.join("s")), b"it", 1);
    client.run(|all| all.root().mkdir(b"d", 0o755)).ok();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!dir.join("s").exists(), "nothing is left");
}

#[test]
fn a_port_that_is_taken_and_a_server_that_is_not_there() {
    let mut user = User::with_table();
    let server = Server::start(&user, "127.0.0.1:0");
    let taken = server.address.to_string();
    user.run(["serve-nfs", "--listen", &taken]).fails(1, &["cannot listen on", "--listen"]);
    user.set("PGFILES_DSN", "postgres://localhost:1/none");
    user.run(["serve-nfs", "--listen", "127.0.0.1:0"]).fails(5, &["localhost:1"]);
}
