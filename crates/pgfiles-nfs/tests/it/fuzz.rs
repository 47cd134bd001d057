//! Compounds of hostile values, and bytes that were compounds once: no panic, no connection that is left without an answer, nothing
//! outside the prefix. Seeded: a failure names its seed. PGFILES_TEST_FUZZ_SECONDS and PGFILES_TEST_SEED make it longer and another one.

use std::time::{Duration, Instant};

use pgfiles_store::Prefix;
use pgfiles_store::store::Store as _;
use pgfiles_testkit::nfs_client::{Claim, Client, Compound, How, Xdr, attr};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::served::served;

/// Compounds of a run in CI.
const COMPOUNDS: u64 = 4_000;

/// What was seen so far, to be used again in the wrong place.
#[derive(Default)]
struct Seen {
    handles: Vec<Vec<u8>>,
    ids: Vec<[u8; 16]>,
}

struct Hostile<'s> {
    random: StdRng,
    seen: &'s Seen,
}

impl Hostile<'_> {
    fn u32(&mut self) -> u32 {
        let some = [
            0,
            1,
            2,
            3,
            4,
            5,
            7,
            8,
            31,
            32,
            64,
            255,
            256,
            1024,
            4096,
            65_536,
            1 << 20,
            (1 << 20) + 1,
            1 << 31,
            u32::MAX - 1,
            u32::MAX,
        ];
        if self.random.random_ratio(1, 10) { self.random.random() } else { *some.choose(&mut self.random).unwrap() }
    }

    fn u64(&mut self) -> u64 {
        let some = [0, 1, 4095, 1 << 20, 1 << 32, 1 << 43, (1 << 43) + 1, i64::MAX as u64, 1 << 63, u64::MAX - 1, u64::MAX];
        if self.random.random_ratio(1, 10) { self.random.random() } else { *some.choose(&mut self.random).unwrap() }
    }

    fn name(&mut self) -> Vec<u8> {
        let some: [&[u8]; 14] = [
            b"",
            b".",
            b"..",
            b"/",
            b"a",
            b"b",
            b"dir",
            b"file",
            b"\0",
            b"a/b",
            b"../../etc/passwd",
            b"\xff\xfe",
            &[b'n'; 255],
            &[b'n'; 256],
        ];
        some.choose(&mut self.random).unwrap().to_vec()
    }

    fn handle(&mut self) -> Vec<u8> {
        let Some(known) = self.seen.handles.choose(&mut self.random).cloned() else { return vec![0; 32] };
        let mut handle = known;
        if self.random.random_ratio(1, 4) {
            let at = self.random.random_range(0..handle.len());
            handle[at] ^= self.random.random::<u8>();
        }
        if self.random.random_ratio(1, 20) {
            handle.truncate(self.random.random_range(0..handle.len()));
        }
        handle
    }

    fn id(&mut self) -> [u8; 16] {
        let mut id = self.seen.ids.choose(&mut self.random).copied().unwrap_or([0; 16]);
        match self.random.random_range(0..6) {
            0 => id[self.random.random_range(0..16)] ^= self.random.random::<u8>(),
            1 => id = [0; 16],
            2 => id = [0xff; 16],
            3 => id[..4].copy_from_slice(&[0; 4]),
            _ => {}
        }
        id
    }

    fn values(&mut self) -> Vec<(u32, Xdr)> {
        let mut out = Vec::new();
        for number in [attr::SIZE, attr::MODE, attr::OWNER, attr::TIME_ACCESS_SET, attr::TIME_MODIFY_SET, 60, 95] {
            if !self.random.random_ratio(1, 4) {
                continue;
            }
            let value = match number {
                attr::SIZE => Xdr::default().u64(self.u64()),
                attr::MODE => Xdr::default().u32(self.u32()),
                attr::OWNER => Xdr::default().opaque(&self.name()),
                _ => Xdr::default().u32(self.u32()).u64(self.u64()).u32(self.u32()),
            };
            out.push((number, value));
        }
        out
    }

    fn numbers(&mut self) -> Vec<u32> {
        (0..self.random.random_range(0..20)).map(|_| self.random.random_range(0..96)).collect()
    }

    fn operation(&mut self, all: Compound) -> Compound {
        let (name, other, id) = (self.name(), self.name(), self.id());
        match self.random.random_range(0..34) {
            0..=2 => all.root(),
            3..=6 => all.handle(&self.handle()),
            7 => all.lookup(&name),
            8 => all.lookup_parent(),
            9 => all.getfh(),
            10 => all.getattr(&self.numbers()),
            11 => all.setattr(id, &self.values()),
            12 => all.save(),
            13 => all.restore(),
            14 => all.access(self.u32()),
            15 | 16 => {
                let how = match self.random.random_range(0..4) {
                    0 => How::Existing,
                    1 => How::Create(self.values()),
                    2 => How::Guarded(self.values()),
                    _ => How::Exclusive(self.u64().to_be_bytes(), self.values()),
                };
                let claim = match self.random.random_range(0..4) {
                    0 => Claim::Previous,
                    1 => Claim::Handle,
                    _ => Claim::Name(&name),
                };
                let modes = if self.random.random_ratio(2, 3) {
                    (self.random.random_range(1..4), self.random.random_range(0..2))
                } else {
                    (self.u32(), self.u32())
                };
                all.open(&other, modes, &how, claim)
            }
            17 => all.close(id),
            18 => all.downgrade(id, self.u32(), self.u32()),
            19 => all.read(id, self.u64(), self.u32()),
            20 => {
                let bytes = vec![7; self.random.random_range(0..3000)];
                all.write(id, self.u64(), self.u32(), &bytes)
            }
            21 => all.commit(),
            22 => all.mkdir(&name, self.u32() & 0o7777),
            23 => all.symlink(&name, &other),
            24 => all.node(self.random.random_range(0..10), Some((self.u32(), self.u32())), &name, 0o644),
            25 => all.remove(&name),
            26 => all.rename(&name, &other),
            27 => all.link(&name),
            28 => all.readdir(self.u64(), *b"pgfiles1", self.u32(), &self.numbers()),
            29 => all.lock_new(self.u32(), self.random.random_ratio(1, 5), (self.u64(), self.u64()), id, &other),
            30 => all.lock(self.u32(), (self.u64(), self.u64()), id),
            31 => all.locku((self.u64(), self.u64()), id),
            32 => all.openattr(),
            _ => {
                let words = (0..self.random.random_range(0..12)).fold(Xdr::default(), |out, _| out.u32(self.u32()));
                all.op(self.random.random_range(0..70), words)
            }
        }
    }
}

/// What is being asked, named where the test fails.
struct Asked<'c>(u64, &'c Compound);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("PGFILES_TEST_SEED={} and what came before: {:02x?}", self.0, self.1.encode());
        }
    }
}

#[test]
fn hostile_compounds_are_answered_and_leave_the_prefix_alone() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seconds = number("PGFILES_TEST_FUZZ_SECONDS");
    let start_seed = number("PGFILES_TEST_SEED").unwrap_or(1);
    let served = served();
    let mut client = served.client();
    let mut seen = Seen::default();
    seen.handles.push(client.ask(|all| all.root().getfh()).ok().handle());
    seen.handles.push(client.run(|all| all.root().mkdir(b"dir", 0o755).getfh()).ok().handle());
    let opened = client.run(|all| all.root().open(b"o", (3, 0), &How::Create(vec![]), Claim::Name(b"file")).getfh()).ok();
    seen.handles.push(opened.handle());
    seen.ids.push(opened.state());
    seen.ids.push(client.run(|all| all.path("file").lock_new(2, false, (5, 10), opened.state(), b"p")).ok().state());
    let start = Instant::now();
    let mut done = 0;
    while seconds.map_or(done < COMPOUNDS, |seconds| start.elapsed() < Duration::from_secs(seconds)) {
        let seed = start_seed + done;
        done += 1;
        let mut hostile = Hostile { random: StdRng::seed_from_u64(seed), seen: &seen };
        let count = hostile.random.random_range(1..12);
        client.sequence += 1;
        let start = Compound::new().sequence(client.session, 0, client.sequence, hostile.random.random_ratio(1, 2));
        let compound = (0..count).fold(start, |all, _| hostile.operation(all));
        let _asked = Asked(seed, &compound);
        let mut arguments = compound.encode();
        let spoiled = hostile.random.random_ratio(1, 5);
        if spoiled {
            // Behind the tag, the minor version, the count, and SEQUENCE.
            for _ in 0..hostile.random.random_range(1..6) {
                let at = hostile.random.random_range(60.min(arguments.len() - 1)..arguments.len());
                arguments[at] = hostile.random.random();
            }
            if hostile.random.random_ratio(1, 4) {
                arguments.truncate(hostile.random.random_range(60..=arguments.len().max(60)).min(arguments.len()));
            }
        }
        let record = client.connection.call_record((100_003, 4, 1), &arguments);
        let framed = [&(record.len() as u32 | 1 << 31).to_be_bytes()[..], &record].concat();
        client.connection.send_raw(&framed).unwrap();
        if spoiled {
            let reply = client.connection.receive().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            // Carried out, or arguments that cannot be read; never a fault of the server's own.
            assert!(reply.len() >= 24 && [0, 4].contains(&reply[23]), "seed {seed}: {reply:?}");
            // Where SEQUENCE was not reached its number was not used.
            if reply.len() < 44 {
                client.sequence -= 1;
            }
            continue;
        }
        let reply = client.connection.reply();
        for answer in reply.answers {
            match answer.got {
                pgfiles_testkit::nfs_client::Got::Handle(handle) if seen.handles.len() < 200 => seen.handles.push(handle),
                pgfiles_testkit::nfs_client::Got::Open { id, .. } | pgfiles_testkit::nfs_client::Got::StateId(id)
                    if seen.ids.len() < 200 =>
                {
                    seen.ids.push(id);
                }
                _ => {}
            }
        }
    }
    // It goes on, and nothing was made elsewhere.
    let mut fresh: Client = served.client_of("fresh");
    fresh.run(|all| all.root().getattr(&[attr::TYPE])).ok();
    let all = served.runtime.block_on(served.store.tree(&Prefix::default(), None, 10_000)).unwrap();
    for head in &all {
        assert!(head.key.as_str().starts_with("agents/7/"), "{}", head.key);
    }
    println!("{done} compounds, {} handles and {} stateids known, {} names", seen.handles.len(), seen.ids.len(), all.len());
}
