//! A connection that takes longer: what goes through it arrives half of the delay later, in each direction.

use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Starts it before a port of this machine; gives back its own port.
pub async fn start(to: u16, delay: Duration) -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::join!(pass(from_client, to_server, delay / 2), pass(from_server, to_client, delay / 2));
            });
        }
    });
    Ok(port)
}

/// Ends with either side.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let reader = async move {
        loop {
            let mut bytes = vec![0; 64 << 10];
            match from.read(&mut bytes).await {
                Ok(count) if count > 0 => bytes.truncate(count),
                _ => return,
            }
            if sender.send((Instant::now() + delay, bytes)).await.is_err() {
                return;
            }
        }
    };
    let writer = async move {
        while let Some((due, bytes)) = arriving.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(reader, writer);
}
