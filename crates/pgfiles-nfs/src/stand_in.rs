//! What answers on the port of a server that is gone, so that whoever still has files of its mount open gets an error. A client that
//! was mounted `hard` asks for ever otherwise, and its programs wait for that.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::rpc::{self, Refusal};
use crate::server::{LAST_FRAGMENT, framed};

/// How often it is looked whether somebody comes, and whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Connections at a time; one more is closed at once.
const CONNECTIONS_MAX: usize = 16;

/// Who comes, and when somebody last said something.
struct Heard {
    connections: AtomicUsize,
    last: Mutex<Instant>,
}

impl Heard {
    fn last(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses every call with SYSTEM_ERR (RFC 5531 §9), which clients hand on as EIO, until `is_over`, which is told for how long
/// there was no call.
///
/// # Errors
/// The listener's.
pub fn refuse_all(listener: &TcpListener, is_over: impl Fn(Duration) -> bool) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let heard = Arc::new(Heard { connections: AtomicUsize::new(0), last: Mutex::new(Instant::now()) });
    while !is_over(heard.last().elapsed()) {
        match listener.accept() {
            Ok((stream, _)) if heard.connections.load(Ordering::Relaxed) < CONNECTIONS_MAX => {
                let heard = heard.clone();
                heard.connections.fetch_add(1, Ordering::Relaxed);
                std::thread::spawn(move || {
                    let _ = converse(stream, &heard);
                    heard.connections.fetch_sub(1, Ordering::Relaxed);
                });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(LOOK_EVERY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Until the client hangs up.
fn converse(mut stream: TcpStream, heard: &Heard) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    loop {
        *heard.last() = Instant::now();
        let mut xid = None;
        loop {
            let mut word = [0; 4];
            stream.read_exact(&mut word)?;
            let header = u32::from_be_bytes(word);
            let mut rest = u64::from(header & !LAST_FRAGMENT);
            if xid.is_none() && rest >= 4 {
                stream.read_exact(&mut word)?;
                (xid, rest) = (Some(u32::from_be_bytes(word)), rest - 4);
            }
            io::copy(&mut (&mut stream).take(rest), &mut io::sink())?;
            if header & LAST_FRAGMENT != 0 {
                break;
            }
        }
        let Some(xid) = xid else { return Ok(()) };
        let reply = framed(rpc::encode_refused(xid, Refusal::SystemError)).concat();
        stream.write_all(&reply)?;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn every_call_is_refused_until_it_is_over() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let serving = std::thread::spawn({
            let over = over.clone();
            move || refuse_all(&listener, |_| over.load(Ordering::Relaxed))
        });
        let mut client = TcpStream::connect(address).unwrap();
        for xid in [7_u32, 8] {
            // In two fragments.
            let parts = [12, xid, 0, 2, 8 | LAST_FRAGMENT, 100_003, 4];
            client.write_all(&parts.map(u32::to_be_bytes).concat()).unwrap();
            let mut reply = [0; 28];
            client.read_exact(&mut reply).unwrap();
            let words: Vec<u32> = reply.chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect();
            assert_eq!(words, [24 | LAST_FRAGMENT, xid, 1, 0, 0, 0, 5], "SYSTEM_ERR");
        }
        over.store(true, Ordering::Relaxed);
        serving.join().unwrap().unwrap();
    }
}
