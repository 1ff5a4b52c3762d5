//! A real executor on loopback, plain threads at the other end.

use std::future::Future;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::thread;

use glommio::{LocalExecutorBuilder, Placement, spawn_local};

use super::*;

fn run<T: Send + 'static, F: Future<Output = T> + 'static>(body: impl FnOnce() -> F + Send + 'static) -> T {
    let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(1 << 20);
    builder.spawn(|| async move { body().await }).unwrap().join().unwrap()
}

fn loopback() -> Listener {
    Listener::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap()
}

fn dial(listener: &Listener) -> TcpStream {
    TcpStream::connect(listener.local_addr()).unwrap()
}

#[test]
fn bytes_go_both_ways() {
    let listener = loopback();
    let mut client = dial(&listener);
    let echo = thread::spawn(move || {
        run(|| async move {
            let connection = listener.serve().unwrap().accept().await.unwrap();
            assert_eq!(connection.peer().ip(), Ipv4Addr::LOCALHOST);
            let (mut reader, mut writer) = connection.split();
            let mut buffer = [0; 100];
            loop {
                match reader.read(&mut buffer).await.unwrap() {
                    0 => return writer.finish(),
                    bytes => writer.write_all(&buffer[..bytes]).await.unwrap(),
                }
            }
        });
    });
    for round in 0..100_u8 {
        client.write_all(&[round; 10]).unwrap();
        let mut answer = [0; 10];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [round; 10]);
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    echo.join().unwrap();
}

/// More than the socket buffers of loopback hold.
const MUCH: usize = 64 << 20;

#[test]
fn reading_goes_on_while_a_write_waits() {
    let listener = loopback();
    let mut client = dial(&listener);
    let server = thread::spawn(move || {
        run(|| async move {
            let (mut reader, mut writer) = listener.serve().unwrap().accept().await.unwrap().split();
            let writing = spawn_local(async move { writer.write_all(&vec![7; MUCH]).await });
            let mut received = 0;
            let mut buffer = vec![0; 64 << 10];
            while received < MUCH {
                received += reader.read(&mut buffer).await.unwrap();
            }
            writing.await.unwrap();
        });
    });
    // The client reads nothing until all of its own bytes were taken.
    client.write_all(&vec![1; MUCH]).unwrap();
    let mut all = vec![0; MUCH];
    client.read_exact(&mut all).unwrap();
    assert!(all.iter().all(|byte| *byte == 7));
    server.join().unwrap();
}

#[test]
fn trying_never_waits() {
    let listener = loopback();
    let mut client = dial(&listener);
    let (full, wait_until_full) = std::sync::mpsc::channel();
    let server = thread::spawn(move || {
        run(|| async move {
            let connection = listener.serve().unwrap().accept().await.unwrap();
            let (mut reader, mut writer) = connection.split();
            let mut buffer = [0; 8];
            assert_eq!(reader.try_read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
            let chunk = vec![0; 1 << 20];
            let mut sent = 0;
            let error = loop {
                match writer.try_write(&chunk) {
                    Ok(bytes) => sent += bytes,
                    Err(error) => break error.kind(),
                }
            };
            assert_eq!(error, ErrorKind::WouldBlock);
            full.send(()).unwrap();
            reader.readable().await.unwrap();
            assert_eq!(reader.try_read(&mut buffer).unwrap(), 1);
            sent
        })
    });
    wait_until_full.recv().unwrap();
    client.write_all(b"x").unwrap();
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), server.join().unwrap());
}

#[test]
fn closing_wakes_the_other_half() {
    let listener = loopback();
    let mut client = dial(&listener);
    run(|| async move {
        let connection = listener.serve().unwrap().accept().await.unwrap();
        let closer = connection.closer();
        let (mut reader, mut writer) = connection.split();
        let reading = spawn_local(async move { reader.read(&mut [0; 8]).await });
        glommio::executor().yield_now().await;
        closer.close();
        assert_eq!(reading.await.unwrap(), 0);
        assert!(writer.try_write(b"late").is_err());
    });
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_peer_that_is_gone_is_an_error_not_a_panic() {
    let listener = loopback();
    let client = dial(&listener);
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    run(|| async move {
        let (mut reader, mut writer) = listener.serve().unwrap().accept().await.unwrap().split();
        assert!(reader.read(&mut [0; 8]).await.is_err());
        assert!(writer.write_all(b"x").await.is_err());
    });
}

#[test]
fn a_port_is_taken_once_and_the_error_says_so() {
    let listener = loopback();
    let error = Listener::bind(listener.local_addr()).unwrap_err();
    let start = format!("cannot listen on {}: another process listens there", listener.local_addr());
    assert!(error.to_string().starts_with(&start), "{error}");
    let elsewhere = Listener::bind("192.0.2.1:0".parse().unwrap()).unwrap_err();
    assert!(elsewhere.to_string().contains("no interface of this machine"), "{elsewhere}");
}

#[test]
fn a_burst_of_clients_waits_in_the_backlog() {
    let listener = loopback();
    let clients: Vec<_> = (0..500).map(|_| dial(&listener)).collect();
    run(|| async move {
        let acceptor = listener.serve().unwrap();
        for _ in 0..500 {
            acceptor.accept().await.unwrap();
        }
    });
    drop(clients);
}

#[test]
fn dialling_works_and_fails_clearly() {
    let listener = loopback();
    let address = listener.local_addr();
    run(move || async move {
        let acceptor = listener.serve().unwrap();
        let accepting = spawn_local(async move {
            let (_, mut writer) = acceptor.accept().await.unwrap().split();
            writer.write_all(b"welcome").await.unwrap();
        });
        let (mut reader, _writer) = Connection::connect(address).await.unwrap().split();
        let mut buffer = [0; 16];
        assert_eq!(reader.read(&mut buffer).await.unwrap(), 7);
        accepting.await;
        let error = Connection::connect(address).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    });
}
