//! Node 2 as a follower, which acknowledges as much as it is told to, and what node 1 answers clients meanwhile.

use super::*;
use ringmain_net::peer::encode_replicate;
use ringmain_net::protocol::ChangeMembers;

const CLIENT: ConnectionId = ConnectionId(50);

struct Led {
    world: World,
    term: u64,
    /// The last entry that node 2 has received, and the last one that it acknowledges.
    last: u64,
    acknowledges: u64,
    /// By entry: how much was committed in the eyes of the leader when it sent it.
    committed: BTreeMap<u64, u64>,
}

impl Led {
    /// Node 1 leads, and has a client.
    fn new() -> Self {
        let mut world = World::new();
        assert_eq!(world.call(MESSAGES, &hello(0)), None);
        world.make_room();
        let (last, acknowledges, committed) = (0, u64::MAX, BTreeMap::new());
        let mut led = Self { world, term: 0, last, acknowledges, committed };
        led.pass(40);
        assert!(led.world.shard.groups[0].is_serving());
        assert_eq!(led.world.greet(CLIENT), None);
        led.acknowledges = led.last;
        led
    }

    /// So many ticks pass, with all that is said and written in them.
    fn pass(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.world.now = self.world.now.after_ns(TICK_NS);
            self.world.step(Input::Turn);
            self.world.write();
            self.listen();
            self.world.write();
        }
    }

    /// Hears what node 1 says, and answers.
    fn listen(&mut self) {
        let mut answers = Vec::new();
        let Self { world, term, last, committed, .. } = self;
        world.heard(MESSAGES, |said| {
            let PeerFrame::Replicate(view) = said else { return };
            *term = view.head.term;
            match view.head.kind {
                MessageKind::RequestPreVote => answers.push(MessageKind::RequestPreVoteResponse),
                MessageKind::RequestVote => answers.push(MessageKind::RequestVoteResponse),
                MessageKind::Heartbeat => answers.push(MessageKind::HeartbeatResponse),
                MessageKind::Append => {
                    for (entry, _) in view.entries() {
                        *last = entry.index;
                        committed.entry(entry.index).or_insert(view.head.commit);
                    }
                    answers.push(MessageKind::AppendResponse);
                }
                kind => panic!("{kind:?}"),
            }
        });
        answers.into_iter().for_each(|kind| self.answer(kind));
    }

    fn answer(&mut self, kind: MessageKind) {
        let index = if kind == MessageKind::AppendResponse { self.last.min(self.acknowledges) } else { 0 };
        self.say(kind, self.term, index);
    }

    fn say(&mut self, kind: MessageKind, term: u64, index: u64) {
        let head = ReplicateHead { index, ..head(kind, term) };
        let mut bytes = Vec::new();
        encode_replicate(&mut bytes, &head, std::iter::empty());
        self.world.step(Input::Received { connection: MESSAGES, bytes: &bytes });
    }

    /// Node 2 has so many entries more on its disk.
    fn acknowledge(&mut self, entries: u64) {
        self.acknowledges += entries;
        self.answer(MessageKind::AppendResponse);
        self.pass(2);
    }

    fn ask_to_add_third(&mut self) {
        let (group, add_node, add_incarnation) = (0, 3, 1);
        let (host, port, remove_node, remove_incarnation) = ("node3", 7411, 0, 0);
        let change =
            ChangeMembers { group, add_node, add_incarnation, host, port, remove_node, remove_incarnation };
        let mut bytes = Vec::new();
        encode(&mut bytes, 2, &change, &[]);
        self.world.step(Input::Received { connection: CLIENT, bytes: &bytes });
        self.pass(2);
    }

    fn members(&self) -> usize {
        self.world.shard.groups[0].book.members.len()
    }

    /// What the client was told since: "done", or the code of the refusal.
    fn told(&mut self) -> Option<String> {
        let said = self.world.said.remove(&CLIENT)?;
        match Reply::decode(&split(&said, PEER_FRAME_BYTES_MAX).unwrap().unwrap()).unwrap() {
            Reply::Done(_) => Some("done".to_owned()),
            Reply::Refused(refused) => Some(format!("{:?}", refused.code())),
            reply => panic!("{reply:?}"),
        }
    }
}

#[test]
fn each_second_tick_passes_by_while_nothing_is_to_be_done() {
    let mut led = Led::new();
    let first = led.world.shard.tick_at;
    led.pass(1);
    assert_eq!(led.world.shard.next_tick(), first.after_ns(2 * TICK_NS));
    let nobody_leads = World::greeted().shard;
    assert_eq!(nobody_leads.next_tick(), nobody_leads.tick_at);
}

#[test]
fn a_process_that_was_stopped_makes_up_for_one_tick() {
    let mut led = Led::new();
    led.world.now = led.world.now.after_ns(100 * TICK_NS);
    assert_eq!(led.world.shard.ticks_due(led.world.now), 2);
    assert_eq!(led.world.shard.tick_at, led.world.now.after_ns(TICK_NS));
    assert_eq!(led.world.shard.ticks_due(led.world.now.after_ns(TICK_NS)), 1);
}

#[test]
fn a_change_is_done_when_an_entry_behind_it_is_committed() {
    let mut led = Led::new();
    let before = led.last;
    led.ask_to_add_third();
    let change = led.last;
    assert_eq!(change, before + 1);
    led.acknowledge(1);
    assert_eq!((led.members(), led.told()), (3, None), "only the leader knows that it is committed");
    led.pass(10);
    assert_eq!((led.last, led.told()), (change + 1, None));
    assert_eq!(led.committed[&(change + 1)], change, "whoever has the witness has been told");
    led.acknowledge(1);
    assert_eq!(led.told().as_deref(), Some("done"));
    led.pass(10);
    assert_eq!(led.last, change + 1, "nobody waits for more");
}

#[test]
fn a_change_that_is_asked_for_again_is_done_as_late() {
    let mut led = Led::new();
    led.ask_to_add_third();
    led.acknowledge(1);
    led.ask_to_add_third();
    assert_eq!(led.told(), None);
    led.acknowledge(1);
    assert_eq!(led.told().as_deref(), Some("done"));
    led.ask_to_add_third();
    assert_eq!(led.told(), None, "who asks does not know whether it was certain");
    led.acknowledge(1);
    assert_eq!(led.told().as_deref(), Some("done"));
}

#[test]
fn a_change_is_asked_of_the_next_leader_where_this_one_leads_no_more() {
    let mut led = Led::new();
    led.ask_to_add_third();
    led.acknowledge(1);
    assert_eq!((led.members(), led.told()), (3, None));
    led.say(MessageKind::Heartbeat, led.term + 1, 0);
    led.world.step(Input::Turn);
    assert_eq!(led.told().as_deref(), Some("NotLeader"));
}
