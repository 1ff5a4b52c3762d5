//! Crowds at the port of a node of a cluster: whoever fills its seats keeps the other nodes out of none.

use ringmain_client::blocking::Client;
use ringmain_client::{Message, QueueSettings};
use ringmain_net::protocol::{Code, Ping, Reply};
use ringmain_tests::nemesis::{Fleet, Rule};
use ringmain_tests::process::{PATIENCE, wait_for};
use ringmain_tests::rng::Rng;

use crate::process::program;
use crate::raw::{Raw, encoded, hello};

/// One in each of three groups, of which each node leads one, as long as it is there.
const QUEUES: [&str; 3] = ["q", "r", "v"];
/// More than there are seats for all who are no clients.
const SILENT: usize = 400;

/// Nodes with as many clients as they may have. Of two that are full neither can call the other, unless peers have seats.
const FULL: [u32; 2] = [1, 3];

/// Three nodes, of which the first leads the queue that its client publishes to.
struct World {
    fleet: Fleet,
    client: Client,
    queue: &'static str,
    published: u64,
    crowd: Vec<Raw>,
}

impl World {
    fn new(directory: &std::path::Path, seed: u64) -> Self {
        // Nobody is ended by the time that he has for a hello.
        let limits = [("connections_max", "20"), ("hello_timeout", "\"1h\"")];
        let fleet = Fleet::start_with(&program(), directory, 3, &mut Rng::new(seed), &limits);
        let client = fleet.client();
        for queue in QUEUES {
            client.create_queue(queue, &QueueSettings::default()).unwrap();
        }
        let queue = wait_for("node 1 leads", || {
            QUEUES.into_iter().find(|queue| fleet.leader_of(&client, queue) == Some(1))
        });
        let mut world = Self { fleet, client, queue, published: 0, crowd: Vec::new() };
        world.publish();
        FULL.into_iter().for_each(|node| world.fill(node));
        world
    }

    fn address(&self, node: u32) -> String {
        format!("127.0.0.1:{}", self.fleet.port(node))
    }

    /// Clients of the node, until there is no seat for another one.
    fn fill(&mut self, node: u32) {
        let (address, before) = (self.address(node), self.crowd.len());
        loop {
            let mut raw = Raw::connect(&address);
            raw.say(&encoded(&hello(0), &[]));
            let is_welcome = raw.next(|reply| match reply {
                Reply::Welcome(_) => true,
                Reply::Closing(closing) => {
                    assert_eq!(Code::from(closing.code), Code::TooMany);
                    false
                }
                reply => panic!("{reply:?}"),
            });
            if !is_welcome {
                break;
            }
            self.crowd.push(raw);
        }
        let welcome = self.crowd.len() - before;
        assert!((10..=20).contains(&welcome), "{welcome} are welcome");
    }

    fn publish(&mut self) {
        self.client.producer(self.queue).unwrap().publish(&Message::new("x"), PATIENCE).unwrap();
        self.published += 1;
    }

    /// A node dies and comes back, and those that are full lose each other. Each time a majority is needed in which they
    /// have to find each other again.
    fn disturb(&mut self) {
        self.fleet.kill(2);
        self.publish();
        self.fleet.restart(2);
        for (from, to) in [(1, 3), (3, 1)] {
            self.fleet.links().set((from, to), Rule::Cut);
        }
        self.publish();
        self.fleet.links().heal();
        self.fleet.kill(2);
        self.publish();
        self.fleet.restart(2);
        self.publish();
    }

    /// The crowd was there all the time; when it has gone, the cluster is seen to be whole.
    fn end(mut self) {
        for raw in &mut self.crowd {
            raw.ask(&Ping, &[]);
            assert!(raw.next(|reply| matches!(reply, Reply::Pong)));
        }
        self.crowd.clear();
        let connect = self.fleet.connect();
        wait_for("the cluster is whole", || {
            let status = program().run(&["cluster", "status", "--connect", &connect]);
            (status.code == Some(0)).then_some(())
        });
        let shown = self.client.show_queue(self.queue).unwrap();
        assert_eq!((shown.ready, shown.published), (self.published, self.published));
        self.fleet.check_alive();
        self.fleet.stop_all();
    }
}

#[test]
fn nodes_full_of_clients_let_their_peers_in() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new(directory.path(), 21);
    world.disturb();
    world.end();
}

#[test]
fn a_flood_of_silent_and_slow_strangers_lets_peers_in() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new(directory.path(), 22);
    let some = encoded(&hello(0), &[])[..20].to_vec();
    let mut strangers = Vec::new();
    for (node, at) in FULL.into_iter().flat_map(|node| (0..SILENT).map(move |at| (node, at))) {
        let mut raw = Raw::connect(&world.address(node));
        if at % 2 == 0 {
            raw.say(&some);
        }
        strangers.push(raw);
    }
    world.disturb();
    for node in FULL {
        let sockets = world.fleet.running_mut(node).unwrap().sockets();
        assert!(sockets < 200, "{sockets} sockets");
    }
    // Whoever has said hello stays, and who has not may still be heard.
    strangers.iter_mut().for_each(|raw| _ = raw.say(&some));
    drop(strangers);
    world.end();
}
