//! Real threads and sockets on loopback, with ports that the system chose.

use super::*;
use crate::config::Address;
use crate::formation::form_reply;
use std::net::SocketAddr;
use std::path::Path;

fn listener() -> (TcpListener, Address) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, Address { host: "127.0.0.1".to_owned(), port })
}

fn config(node: u32, data: &Path, addresses: &[Address]) -> Config {
    let own = addresses[node as usize - 1].clone();
    let mut config = Config::new(node, data.to_owned(), own);
    config.shards = Some(1);
    let peer = |(node, address): (u32, &Address)| Peer { node, address: address.clone() };
    config.list_nodes((1..).zip(addresses).map(peer).collect()).unwrap();
    config.checked().unwrap()
}

/// Forms, and then answers as a shard would until everybody has formed.
fn serve(
    listener: TcpListener,
    config: &Config,
    formed: &flume::Sender<ClusterLayout>,
    done: flume::Receiver<()>,
) {
    // What a shard would listen on; the kernel keeps both while one process holds them.
    let kept = listener.try_clone().unwrap();
    let mut directory = DataDirectory::open(config, 1).unwrap();
    form_on(listener, &mut directory, config, &StopFlag::default()).unwrap();
    let layout = directory.identity().layout();
    formed.send(layout.clone()).unwrap();
    let own = config.own_address();
    let undone = move || matches!(done.try_recv(), Err(flume::TryRecvError::Empty));
    keep_answering(&kept, move || undone().then(|| form_reply(&layout, &own.host, own.port).0));
}

#[test]
fn three_nodes_form_over_sockets() {
    let data = tempfile::tempdir().unwrap();
    let (listeners, addresses): (Vec<_>, Vec<_>) = (0..3).map(|_| listener()).unzip();
    let (formed, layouts) = flume::bounded(3);
    let (end, done) = flume::bounded::<()>(0);
    let nodes: Vec<_> = (1..)
        .zip(listeners)
        .map(|(node, listener)| {
            let config = config(node, &data.path().join(node.to_string()), &addresses);
            let (formed, done) = (formed.clone(), done.clone());
            thread::spawn(move || serve(listener, &config, &formed, done))
        })
        .collect();
    let layouts: Vec<ClusterLayout> =
        (0..3).map(|_| layouts.recv_timeout(Duration::from_secs(30)).unwrap()).collect();
    drop(end);
    for node in nodes {
        node.join().unwrap();
    }
    for layout in &layouts {
        assert_eq!((layout.state, layout.groups), (State::Formed, 3));
        assert_eq!((layout.cluster, &layout.founders), (layouts[0].cluster, &layouts[0].founders));
        let read = crate::identity::Identity::read(&data.path().join(layout.node.to_string())).unwrap();
        assert_eq!(read.layout(), *layout);
    }
}

#[test]
fn stop_ends_the_wait_and_frees_the_port() {
    let data = tempfile::tempdir().unwrap();
    let (listener, own) = listener();
    // Nobody listens on port 1.
    let other = Address { host: "127.0.0.1".to_owned(), port: 1 };
    let config = config(1, data.path(), &[own.clone(), other]);
    let stop = StopFlag::default();
    assert!(!stop.stop(), "nobody waits yet");
    let stopping = stop.clone();
    let stopper = thread::spawn(move || {
        while !stopping.stop() {
            thread::yield_now()
        }
    });
    let mut directory = DataDirectory::open(&config, 1).unwrap();
    let failure = form_on(listener, &mut directory, &config, &stop).unwrap_err();
    stopper.join().unwrap();
    assert!(matches!(failure, Failure::Stopped));
    assert_eq!(directory.identity().state, State::Forming);
    drop(TcpListener::bind((own.host.as_str(), own.port)).unwrap());
}

#[test]
fn strangers_get_no_answer_and_do_no_harm() {
    let (listener, own) = listener();
    let (end, done) = flume::bounded::<()>(0);
    let layout = ClusterLayout {
        cluster: 7,
        node: 1,
        incarnation: 1,
        shards: 1,
        groups: 0,
        segment_bytes: 1 << 24,
        state: State::Forming,
        founders: Vec::new(),
        replaces: 0,
    };
    let card = form_reply(&layout, "h", 1).0;
    let shown = card.clone();
    let undone = move || matches!(done.try_recv(), Err(flume::TryRecvError::Empty));
    let answerer = thread::spawn(move || keep_answering(&listener, move || undone().then(|| shown.clone())));
    let address: SocketAddr = format!("{own}").parse().unwrap();
    // One says nothing, one says something else, and one is too long.
    let _silent = TcpStream::connect(address).unwrap();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[24, 0, 0, 0]] {
        TcpStream::connect(address).unwrap().write_all(bytes).unwrap();
    }
    let peer = Peer { node: 1, address: own };
    assert_eq!(ask(&peer, card.clone()).unwrap(), card);
    drop(end);
    answerer.join().unwrap();
}

#[test]
fn missing_nodes_are_named() {
    assert_eq!(names(&[2]), "node 2");
    assert_eq!(names(&[2, 3]), "nodes 2 and 3");
    assert_eq!(names(&[2, 3, 4]), "nodes 2, 3 and 4");
}
