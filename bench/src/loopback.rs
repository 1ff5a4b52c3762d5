//! A message to and fro between two cores over TCP on loopback: parked in the kernel, and polled without ever parking.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::error::{Doing, Result};
use crate::latencies::Latencies;
use crate::machine::{Cores, on_core, pin};

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    Parked,
    Polled,
}

pub(crate) struct RoundTrips {
    pub(crate) parked: Latencies,
    pub(crate) polled: Latencies,
}

/// Both ways in turns, `each` in all for either.
pub(crate) fn round_trips(cores: Cores, message_bytes: usize, each: Duration) -> Result<RoundTrips> {
    const ROUNDS: u32 = 10;
    let mut result = RoundTrips { parked: Latencies::new(), polled: Latencies::new() };
    for _ in 0..ROUNDS {
        result.parked.add(&round(cores, message_bytes, each / ROUNDS, Waiting::Parked)?);
        // Two that poll on one core only wait for each other.
        if cores.server != cores.client {
            result.polled.add(&round(cores, message_bytes, each / ROUNDS, Waiting::Polled)?);
        }
    }
    Ok(result)
}

/// A connection over loopback that waits for nothing but the network: (server's side, client's side).
pub(crate) fn connect_pair() -> Result<(TcpStream, TcpStream)> {
    let doing = || "connecting over loopback".to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").doing(doing)?;
    let client = TcpStream::connect(listener.local_addr().doing(doing)?).doing(doing)?;
    let (server, _) = listener.accept().doing(doing)?;
    server.set_nodelay(true).doing(doing)?;
    client.set_nodelay(true).doing(doing)?;
    Ok((server, client))
}

/// Bytes a second from the client's core to the server's over one connection: the best of some turns, `each` in all.
pub(crate) fn bandwidth(cores: Cores, each: Duration) -> Result<f64> {
    const ROUNDS: u32 = 5;
    let rounds = (0..ROUNDS).map(|_| stream(cores, each / ROUNDS)).collect::<Result<Vec<_>>>()?;
    Ok(rounds.into_iter().fold(0.0, f64::max))
}

fn stream(cores: Cores, lasting: Duration) -> Result<f64> {
    const BLOCK_BYTES: usize = 256 << 10;
    let (mut server, mut client) = connect_pair()?;
    let started = Instant::now();
    std::thread::scope(|scope| {
        let received = scope.spawn(move || {
            pin(cores.server)?;
            let mut block = vec![0; BLOCK_BYTES];
            let mut bytes = 0;
            while read_whole(&mut server, &mut block)? {
                bytes += block.len() as u64;
            }
            Ok(bytes)
        });
        let sent = on_core(cores.client, move || {
            let block = vec![0x5A; BLOCK_BYTES];
            while started.elapsed() < lasting {
                client.write_all(&block).doing(|| "sending".to_owned())?;
            }
            Ok(())
        });
        let received = received.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        sent.map(|()| received as f64 / started.elapsed().as_secs_f64())
    })
}

fn round(cores: Cores, message_bytes: usize, lasting: Duration, waiting: Waiting) -> Result<Latencies> {
    let (server, client) = connect_pair()?;
    let set_blocking = |stream: &TcpStream| {
        stream.set_nonblocking(waiting == Waiting::Polled).doing(|| "changing a socket".to_owned())
    };
    set_blocking(&server)?;
    set_blocking(&client)?;
    std::thread::scope(|scope| {
        let echo = scope.spawn(move || {
            pin(cores.server)?;
            echo(server, message_bytes)
        });
        let latencies = on_core(cores.client, || ping(client, message_bytes, lasting));
        echo.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        latencies
    })
}

fn echo(mut stream: TcpStream, message_bytes: usize) -> Result<()> {
    let mut message = vec![0; message_bytes];
    while read_whole(&mut stream, &mut message)? {
        stream.write_all(&message).doing(|| "answering".to_owned())?;
    }
    Ok(())
}

fn ping(mut stream: TcpStream, message_bytes: usize, lasting: Duration) -> Result<Latencies> {
    let mut message = vec![0; message_bytes];
    let mut latencies = Latencies::new();
    let started = Instant::now();
    let mut before = started;
    while before - started < lasting {
        stream.write_all(&message).doing(|| "sending".to_owned())?;
        read_whole(&mut stream, &mut message)?;
        let after = Instant::now();
        latencies.record_duration(after - before);
        before = after;
    }
    Ok(latencies)
}

/// Fills `buffer`, by asking again and again where the socket does not block. False: the other side has closed.
fn read_whole(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => return Ok(false),
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).doing(|| "receiving".to_owned()),
        }
    }
    Ok(true)
}
