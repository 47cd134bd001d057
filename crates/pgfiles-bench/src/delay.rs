//! A connection that takes longer: what goes through it arrives half of the delay later, in each direction.
//!
//! By threads that sleep: the timers of an async runtime round up to a millisecond, which is the delay itself.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Starts it before a port of this machine; gives back its own port.
pub fn start(to: u16, delay: Duration) -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            if let Err(error) = client.and_then(|client| between(client, to, delay / 2)) {
                eprintln!("a delayed connection: {error}");
            }
        }
    });
    Ok(port)
}

fn between(client: TcpStream, to: u16, delay: Duration) -> std::io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", to))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    pass(client.try_clone()?, server.try_clone()?, delay);
    pass(server, client, delay);
    Ok(())
}

/// Ends with either side.
fn pass(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sender, arriving) = mpsc::sync_channel::<(Instant, Vec<u8>)>(1024);
    std::thread::spawn(move || {
        loop {
            let mut bytes = vec![0; 64 << 10];
            match from.read(&mut bytes) {
                Ok(count) if count > 0 => bytes.truncate(count),
                _ => return,
            }
            if sender.send((Instant::now() + delay, bytes)).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        for (due, bytes) in arriving {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
        // The other side may be gone already.
        let _ = to.shutdown(Shutdown::Write);
    });
}
