//! A node that says back what it hears, and what comes of it under each rule.

use super::*;
use crate::process::{PATIENCE, free_ports, wait_for};
use crate::rng::Rng;

use ringmain_net::peer::{Lane, PEER_PROTOCOL, PeerHello};

/// The node that is dialled.
const ECHO: u32 = 2;

struct World {
    links: Links,
    port: u16,
    /// Bytes that the node has heard.
    heard: Arc<Mutex<usize>>,
}

fn echo(mut stream: TcpStream, heard: &Mutex<usize>) {
    let mut part = [0; 1024];
    while let Ok(length) = stream.read(&mut part) {
        *heard.lock().unwrap() += length;
        if length == 0 || stream.write_all(&part[..length]).is_err() {
            return;
        }
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let door = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let listens = door.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(0));
        let hears = heard.clone();
        thread::spawn(move || {
            for stream in door.incoming() {
                let hears = hears.clone();
                thread::spawn(move || echo(stream.unwrap(), &hears));
            }
        });
        let port = free_ports(1, &mut Rng::new(seed));
        Self { links: Links::new(&[Place { node: ECHO, dialled: port, listens }]), port, heard }
    }

    /// A connection of this node, with its hello said.
    fn dial(&self, node: u32) -> TcpStream {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&hello(node)).unwrap();
        stream
    }
}

fn hello(node: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let words = PeerHello {
        protocol: PEER_PROTOCOL,
        cluster: 7,
        node,
        incarnation: 1,
        shard: 0,
        shards: 1,
        groups: 3,
        to_node: ECHO,
        replaces: 0,
        lane: Lane::Messages as u8,
        host: "127.0.0.1",
        port: 1,
    };
    frame::encode(&mut bytes, 0, &words, &[]);
    bytes
}

#[track_caller]
fn hears(stream: &mut TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, expected);
}

#[track_caller]
fn hears_nothing(stream: &mut TcpStream) {
    stream.set_nonblocking(true).unwrap();
    assert_eq!(stream.read(&mut [0; 64]).unwrap_err().kind(), ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
}

#[track_caller]
fn is_over(mut stream: TcpStream) {
    assert!(matches!(stream.read(&mut [0; 64]), Ok(0) | Err(_)));
}

#[test]
fn everything_passes_and_is_recorded() {
    let world = World::new(1);
    world.links.record();
    let mut stream = world.dial(1);
    hears(&mut stream, &hello(1));
    stream.write_all(b"more").unwrap();
    hears(&mut stream, b"more");
    let expected = [hello(1), b"more".to_vec()].concat();
    assert_eq!(world.links.recorded((1, ECHO)), expected);
    assert_eq!(world.links.recorded((ECHO, 1)), expected);
    assert_eq!(world.links.recorded((3, ECHO)), [0; 0]);
}

#[test]
fn what_is_held_on_its_way_comes_when_it_is_healed() {
    let world = World::new(2);
    world.links.set((1, ECHO), Rule::Hold);
    let mut held = world.dial(1);
    let mut other = world.dial(3);
    hears(&mut other, &hello(3));
    hears_nothing(&mut held);
    assert_eq!(*world.heard.lock().unwrap(), hello(3).len());
    world.links.heal();
    hears(&mut held, &hello(1));
}

#[test]
fn what_is_held_on_its_way_back_was_heard() {
    let world = World::new(3);
    let mut stream = world.dial(1);
    hears(&mut stream, &hello(1));
    world.links.set((ECHO, 1), Rule::Hold);
    stream.write_all(b"more").unwrap();
    wait_for("it is heard", || (*world.heard.lock().unwrap() == hello(1).len() + 4).then_some(()));
    hears_nothing(&mut stream);
    world.links.heal();
    hears(&mut stream, b"more");
}

#[test]
fn the_end_of_a_connection_is_held_as_well() {
    let world = World::new(4);
    let mut stream = world.dial(1);
    hears(&mut stream, &hello(1));
    world.links.set((1, ECHO), Rule::Hold);
    drop(stream);
    let mut other = world.dial(3);
    hears(&mut other, &hello(3));
    assert_eq!(world.links.shared.state().wires.len(), 2);
    world.links.heal();
    wait_for("the node hangs up too", || (world.links.shared.state().wires.len() == 1).then_some(()));
}

#[test]
fn what_is_cut_ends_and_begins_again() {
    let world = World::new(5);
    let mut stream = world.dial(1);
    hears(&mut stream, &hello(1));
    world.links.set((1, ECHO), Rule::Cut);
    is_over(stream);
    is_over(world.dial(1));
    hears(&mut world.dial(3), &hello(3));
    world.links.heal();
    hears(&mut world.dial(1), &hello(1));
}

#[test]
fn what_is_delayed_comes_whole() {
    let world = World::new(6);
    world.links.set((1, ECHO), Rule::Delay(Duration::from_millis(2)));
    let mut stream = world.dial(1);
    hears(&mut stream, &hello(1));
    let bytes = vec![7; 3 * BUFFER_BYTES];
    let mut writer = stream.try_clone().unwrap();
    let said = bytes.clone();
    let writing = thread::spawn(move || writer.write_all(&said).unwrap());
    hears(&mut stream, &bytes);
    writing.join().unwrap();
}
