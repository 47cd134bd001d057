//! A connection that takes longer: what goes through it arrives late, in bursts, or a few bytes at a time.
//!
//! By threads that sleep: the timers of an async runtime round up to a millisecond, which may be the delay itself.

use std::io::{Read as _, Result, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How slow a link is.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// Everything arrives half of this later, in each direction.
    Late(Duration),
    /// Answers arrive at multiples of this only: nothing, and then all at once, on all connections together.
    Bursts(Duration),
    /// Answers arrive in pieces of 1, 2, 3 … bytes, a millisecond apart.
    Dribbles,
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Request,
    Answer,
}

impl Pace {
    fn due(self, began: Instant, direction: Direction) -> Instant {
        let now = Instant::now();
        match self {
            Pace::Late(delay) => now + delay / 2,
            Pace::Bursts(every) if direction == Direction::Answer => {
                let since = now.duration_since(began).as_nanos() % every.as_nanos().max(1);
                now + every.saturating_sub(Duration::from_nanos(u64::try_from(since).unwrap_or(0)))
            }
            Pace::Bursts(_) | Pace::Dribbles => now,
        }
    }
}

/// Starts it before a port of this machine; gives back its own port. It ends with the process.
///
/// # Errors
/// Where there is no port to be had.
pub fn start(to: u16, pace: Pace) -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    let began = Instant::now();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            if let Err(error) = client.and_then(|client| between(client, to, pace, began)) {
                eprintln!("a slow connection: {error}");
            }
        }
    });
    Ok(port)
}

fn between(client: TcpStream, to: u16, pace: Pace, began: Instant) -> Result<()> {
    let server = TcpStream::connect(("127.0.0.1", to))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    pass(client.try_clone()?, server.try_clone()?, pace, began, Direction::Request);
    pass(server, client, pace, began, Direction::Answer);
    Ok(())
}

/// Ends with either side.
fn pass(mut from: TcpStream, mut to: TcpStream, pace: Pace, began: Instant, direction: Direction) {
    let (sender, arriving) = mpsc::sync_channel::<(Instant, Vec<u8>)>(1024);
    std::thread::spawn(move || {
        loop {
            let mut bytes = vec![0; 64 << 10];
            match from.read(&mut bytes) {
                Ok(count) if count > 0 => bytes.truncate(count),
                _ => return,
            }
            if sender.send((pace.due(began, direction), bytes)).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        for (due, bytes) in arriving {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let passed = match pace {
                Pace::Dribbles if direction == Direction::Answer => dribble(&mut to, &bytes),
                _ => to.write_all(&bytes),
            };
            if passed.is_err() {
                return;
            }
        }
        // The other side may be gone already.
        let _ = to.shutdown(Shutdown::Write);
    });
}

fn dribble(to: &mut TcpStream, mut bytes: &[u8]) -> Result<()> {
    for size in 1.. {
        if bytes.is_empty() {
            break;
        }
        let (piece, rest) = bytes.split_at(bytes.len().min(size));
        to.write_all(piece)?;
        bytes = rest;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
