//! The NFS server by itself, with the client of the testkit: what a kernel adds to it is not in these rows.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pgfiles_testkit::nfs_client::{CURRENT, Claim, Client, Compound, Connection, How, STAT, StateId, address_said};

use crate::measure::{Measure, each};
use crate::place::Place;
use crate::work::{Found, Sizes};

/// Requests on their way at a time, over one connection, as eight processes of a client have them.
const SLOTS: usize = 8;
const MIB: usize = 1 << 20;
/// What many creations leave to be done behind is done by then, and not counted with what comes after.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing of it is kept.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    fn start(place: &Place<'_>) -> Result<(Self, SocketAddr)> {
        let mut command = place.pgfiles(&["serve-nfs", "--listen", "127.0.0.1:0", "--allow-other"]);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("serve-nfs")?;
        let address = address_said(child.stderr.take().context("no stderr")?);
        Ok((Self(child), address))
    }

    /// Processor time so far, in seconds.
    fn cpu(&self) -> Result<f64> {
        const TICKS_PER_SECOND: f64 = 100.0;
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let fields: Vec<&str> = text.rsplit(") ").next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).context("no times in /proc/PID/stat");
        Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
    }
}

/// Processor time of the server for one operation, in seconds.
struct Costs {
    getattr: f64,
    read: f64,
    write: f64,
}

impl Costs {
    /// Of `count` of each, the reads and writes of 4 KiB of a file that is open.
    fn of(server: &Server, client: &mut Client, (file, id): (&[u8], StateId), count: usize) -> Result<Self> {
        let mut cost = |what: &str, ask: &mut dyn FnMut(&mut Client) -> u32| -> Result<f64> {
            let before = server.cpu()?;
            for _ in 0..count {
                ensure!(ask(client) == 0, "{what}");
            }
            Ok((server.cpu()? - before) / count as f64)
        };
        let piece = [7; 4096];
        Ok(Self {
            getattr: cost("GETATTR", &mut |client| client.ask(|all| all.root().getattr(STAT)).status)?,
            write: cost("WRITE", &mut |client| client.ask(|all| all.handle(file).write(id, 0, 0, &piece)).status)?,
            read: cost("READ", &mut |client| client.ask(|all| all.handle(file).read(id, 0, 4096)).status)?,
        })
    }
}

/// Creations by eight slots at once, large reads and writes, and the processor's time of single operations before and after many
/// files were opened and closed.
pub fn nfs(place: &mut Place<'_>, sizes: &Sizes, _given: &Path) -> Result<Found> {
    if !place.kind.is_pgfiles() {
        return Ok(vec![]);
    }
    let (server, address) = Server::start(place)?;
    let mut client = Client::new(Connection::tcp(address), b"bench", 1);
    let open = |client: &mut Client, name: &[u8]| {
        let all = client.run(|all| all.root().open(b"o", (3, 0), &How::Create(vec![]), Claim::Name(name)).getfh()).ok();
        (all.handle(), all.state())
    };
    let asked = sizes.ops * 10;
    let (small, small_id) = open(&mut client, b"small");
    let fresh = Costs::of(&server, &mut client, (&small, small_id), asked)?;

    let files = sizes.names / SLOTS * SLOTS;
    let mut connection = Connection::tcp(address);
    let body = vec![7; 4096];
    let how = How::Create(vec![]);
    let began = Instant::now();
    for round in 0..files / SLOTS {
        for slot in 0..SLOTS {
            let name = format!("{slot}-{round}");
            let start = Compound::new().sequence(client.session, slot as u32 + 1, round as u32 + 1, true).root();
            let save = start.open(name.as_bytes(), (2, 0), &how, Claim::Name(name.as_bytes())).write(CURRENT, 0, 0, &body);
            connection.send(&save.close(CURRENT))?;
        }
        for _ in 0..SLOTS {
            ensure!(connection.reply().status == 0, "a creation");
        }
    }
    let created = began.elapsed().as_secs_f64() / files as f64;
    std::thread::sleep(SETTLED_AFTER);
    let after = Costs::of(&server, &mut client, (&small, small_id), asked)?;

    let (file, id) = open(&mut client, b"large");
    let pieces = sizes.random / MIB;
    let piece: Vec<u8> = (0..MIB).map(|n| ((n * 31) >> 4) as u8).collect();
    let began = Instant::now();
    for n in 0..pieces {
        ensure!(client.ask(|all| all.handle(&file).write(id, (n * MIB) as u64, 0, &piece)).status == 0, "WRITE");
    }
    ensure!(client.ask(|all| all.handle(&file).commit()).status == 0, "COMMIT");
    let written = pieces as f64 / began.elapsed().as_secs_f64();
    let began = Instant::now();
    let mut taken = Vec::new();
    for n in 0..pieces {
        let one = Instant::now();
        ensure!(client.ask(|all| all.handle(&file).read(id, (n * MIB) as u64, MIB as u32)).status == 0, "READ");
        taken.push(one.elapsed().as_secs_f64());
    }
    let read = Measure { p50: pieces as f64 / began.elapsed().as_secs_f64(), p99: None, ..each(taken) };
    Ok(vec![
        ("NFS: create 4 KiB, 8 at once, per file", Measure::one(created), files),
        ("NFS: write 1 MiB at a time + COMMIT", Measure::one(written), pieces),
        ("NFS: read 1 MiB at a time", read, pieces),
        ("NFS: processor of a GETATTR", Measure::one(fresh.getattr), asked),
        ("NFS: processor of a GETATTR, later", Measure::one(after.getattr), asked),
        ("NFS: processor of a READ of 4 KiB", Measure::one(fresh.read), asked),
        ("NFS: processor of a READ of 4 KiB, later", Measure::one(after.read), asked),
        ("NFS: processor of a WRITE of 4 KiB", Measure::one(fresh.write), asked),
        ("NFS: processor of a WRITE of 4 KiB, later", Measure::one(after.write), asked),
    ])
}
