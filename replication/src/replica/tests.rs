use super::*;
use crate::{Entry, EntryKind, Lacking};

/// One record of the group: the hard state and perhaps an entry.
type Record = (HardState, Option<Entry>);

/// A replica, its durable records, and what it said so far.
struct Node {
    options: Options,
    replica: Replica,
    effects: Effects,
    durable: Vec<Record>,
    /// On their way to the disk, by the token of their write.
    pending: Vec<(u64, Vec<Record>)>,
    committed: u64,
    applied: Vec<Bytes>,
    /// What a restart starts from: base, membership and the part of `applied` it stands for.
    checkpoint: ((Index, Term), Vec<u8>, usize),
    roles: Vec<RoleChange>,
    sent: Vec<Message>,
}

fn options(id: u64, voters: &[u64]) -> Options {
    let voters = voters.to_vec();
    Options { group: GroupId(7), id, voters, seed: 42, rank: 1, log_bytes_max: LOG_BYTES_MAX }
}

impl Node {
    fn new(id: u64, voters: &[u64]) -> Self {
        let options = options(id, voters);
        let replica = Replica::new(options.clone(), Restored::empty()).unwrap();
        let mut node = Self {
            options,
            replica,
            effects: Effects::default(),
            durable: Vec::new(),
            pending: Vec::new(),
            committed: 0,
            applied: Vec::new(),
            checkpoint: Default::default(),
            roles: Vec::new(),
            sent: Vec::new(),
        };
        node.drive();
        node
    }

    fn drive(&mut self) {
        self.replica.drive(&mut self.effects);
        self.replica.check();
        let effects = &mut self.effects;
        for write in effects.writes.drain(..) {
            let mut records: Vec<_> = (0..write.entries.len())
                .map(|at| (write.hard_state_at(at), Some(write.entries[at].clone())))
                .collect();
            if records.is_empty() {
                records.push((write.hard_state, None));
            }
            self.pending.push((write.token, records));
        }
        if let Some((term, index)) = effects.committed {
            assert_eq!(term, self.replica.term());
            assert!(index.0 > self.committed);
            self.committed = index.0;
        }
        self.applied.extend(effects.apply.drain(..).map(|entry| entry.data).filter(|data| !data.is_empty()));
        self.roles.extend(effects.role);
        self.sent.append(&mut effects.messages);
        effects.clear();
    }

    /// The next write becomes durable.
    fn persist(&mut self) {
        let (token, records) = self.pending.remove(0);
        self.durable.extend(records);
        self.replica.on_persisted(token);
        self.drive();
    }

    fn persist_all(&mut self) {
        while !self.pending.is_empty() {
            self.persist();
        }
    }

    fn propose(&mut self, data: &'static str) -> u64 {
        let (term, index) = self.replica.propose(Bytes::from_static(data.as_bytes())).unwrap();
        assert_eq!(term, self.replica.term());
        self.drive();
        index.0
    }

    fn take_checkpoint(&mut self) {
        self.checkpoint = (self.replica.applied(), self.replica.conf_state(), self.applied.len());
        self.replica.compact(self.replica.applied().0);
        self.replica.check();
    }

    fn restored(&self) -> Restored {
        let (base, conf_state, _) = self.checkpoint.clone();
        let mut restored = Restored { base, conf_state, applied: base.0, ..Restored::empty() };
        for (hard_state, entry) in &self.durable {
            match entry {
                Some(entry) => restored.append(entry.clone(), *hard_state).unwrap(),
                None => restored.note(*hard_state),
            }
        }
        restored
    }

    /// The process dies with `kept` of the records on their way written, and comes back.
    fn crash(&mut self, kept: usize) {
        let pending = std::mem::take(&mut self.pending);
        self.durable.extend(pending.into_iter().flat_map(|(_, records)| records).take(kept));
        self.replica = Replica::new(self.options.clone(), self.restored()).unwrap();
        self.replica.check();
        self.applied.truncate(self.checkpoint.2);
        (self.committed, self.effects) = (0, Effects::default());
        self.roles.clear();
        self.sent.clear();
        self.drive();
    }
}

#[test]
fn lone_voter_leads_at_once_and_commits_only_what_is_durable() {
    let mut node = Node::new(1, &[1]);
    assert!(node.replica.is_leader());
    let leader = RoleChange { role: Role::Leader, term: Term(1), leader: Some(1) };
    assert_eq!(node.roles, [leader]);
    assert_eq!(node.propose("a"), 2);
    assert_eq!(node.propose("b"), 3);
    assert_eq!((node.committed, node.applied.len()), (0, 0));
    assert!(!node.replica.is_serving());
    node.persist();
    assert_eq!(node.committed, 1);
    assert!(node.replica.is_serving());
    node.persist_all();
    assert_eq!(node.committed, 3);
    assert_eq!(node.applied, ["a", "b"]);
    assert!(node.sent.is_empty());
}

#[test]
fn one_report_covers_all_writes_before_it() {
    let mut node = Node::new(1, &[1]);
    node.propose("a");
    node.propose("b");
    let (token, _) = *node.pending.last().unwrap();
    node.replica.on_persisted(token);
    node.pending.clear();
    node.drive();
    assert_eq!(node.committed, 3);
    assert!(node.replica.is_quiet());
}

#[test]
fn lone_voter_survives_a_restart_at_every_step() {
    // In every run one crash after `steps` steps, with `kept` records of those on their way.
    for (steps, kept) in (0..24).flat_map(|steps| (0..4).map(move |kept| (steps, kept))) {
        let mut node = Node::new(1, &[1]);
        let mut acknowledged: Vec<Bytes> = Vec::new();
        let mut proposed: Vec<(u64, &'static str)> = Vec::new();
        let mut term = 0;
        for step in 0..40 {
            match step % 5 {
                0 | 1 => {
                    let data = ["a", "b", "c", "d", "e", "f", "g"][step % 7];
                    proposed.push((node.propose(data), data));
                }
                4 if step % 15 == 14 => node.take_checkpoint(),
                _ if node.pending.is_empty() => node.replica.tick(),
                _ => node.persist(),
            }
            node.drive();
            let (now, rest): (Vec<_>, Vec<_>) =
                proposed.into_iter().partition(|(index, _)| *index <= node.committed);
            acknowledged.extend(now.iter().map(|(_, data)| Bytes::from_static(data.as_bytes())));
            proposed = rest;
            if step == steps {
                node.crash(kept);
                proposed.clear();
                assert!(node.replica.is_leader());
                // A term of which nothing is durable was never heard of by anyone: it may come again.
                assert!(node.replica.term().0 > term || node.durable.is_empty(), "a term is led once");
            }
            term = node.replica.term().0;
        }
        node.persist_all();
        let mut left = node.applied.iter();
        assert!(acknowledged.iter().all(|data| left.any(|applied| applied == data)), "{steps} {kept}");
    }
}

#[test]
fn restart_with_a_commit_index_behind_the_state_machine() {
    let mut node = Node::new(1, &[1]);
    node.propose("a");
    node.persist_all();
    node.take_checkpoint();
    let restored = node.restored();
    assert!(restored.hard_state.commit < restored.applied.0, "the commit itself wrote no record");
    node.crash(0);
    assert_eq!(node.replica.committed().0, 2);
    node.propose("b");
    node.persist_all();
    assert_eq!(node.applied, ["a", "b"]);
}

#[test]
fn commit_index_beyond_the_log_is_corruption() {
    let mut node = Node::new(1, &[1]);
    for data in ["a", "b", "c"] {
        node.propose(data);
        node.persist_all();
    }
    let mut restored = node.restored();
    assert_eq!(restored.hard_state.commit, 3);
    restored.entries.truncate(2);
    let error = Replica::new(options(1, &[1]), restored).err();
    assert_eq!(error, Some(Error::CommitBeyondLog { commit: 3, last: 2 }));
}

#[test]
fn checkpoint_alone_is_enough_to_restart() {
    let mut node = Node::new(1, &[1]);
    node.propose("a");
    node.persist_all();
    node.take_checkpoint();
    // Every record of the group was recycled; the checkpoint has the hard state.
    let hard_state = node.replica.hard_state();
    node.durable = vec![(hard_state, None)];
    node.crash(0);
    assert!(node.replica.is_leader());
    assert_eq!((node.replica.base(), node.replica.term()), ((Index(2), Term(1)), Term(2)));
    assert_eq!(node.propose("b"), 4);
    node.persist_all();
    assert_eq!(node.committed, 4);
}

#[test]
fn lone_voter_keeps_nothing_it_has_applied() {
    let mut node = Node::new(1, &[1]);
    for _ in 0..1000 {
        node.propose("batch");
        node.persist_all();
        assert!(node.replica.log_bytes() <= 4 * (ENTRY_BYTES_OVERHEAD + 5));
    }
    assert_eq!(node.replica.base().0, Index(1001));
}

#[test]
fn follower_keeps_entries_for_the_time_when_it_leads() {
    let mut node = Node::new(2, &[1, 2]);
    let large = |from: u64| {
        let mut message = append(1, 2, 1, (from, u64::from(from > 0)), 3);
        message
            .entries
            .iter_mut()
            .for_each(|entry| entry.data = vec![0; (LOG_BYTES_MAX / LOG_KEPT_SHARE) as usize / 2].into());
        message
    };
    for from in [0, 3] {
        node.replica.on_message(large(from)).unwrap();
        node.drive();
        node.persist_all();
    }
    assert_eq!(node.replica.applied().0, Index(6));
    assert_eq!(node.replica.base().0, Index(0), "there is no checkpoint yet");
    node.replica.compact(Index(6));
    assert_eq!(node.replica.base().0, Index(5), "what is kept is bounded");
    node.replica.check();
}

/// Entries of `term` behind `before`, all of them committed.
fn append(from: u64, to: u64, term: u64, before: (u64, u64), count: u64) -> Message {
    let mut message = Message { msg_type: MessageType::MsgAppend, from, to, term, ..Default::default() };
    (message.index, message.log_term) = before;
    message.commit = before.0 + count;
    let entry = |at| eraftpb::Entry { index: before.0 + at, term, data: "x".into(), ..Default::default() };
    message.entries = (1..=count).map(entry).collect::<Vec<_>>().into();
    message
}

/// What makes a follower continue behind a checkpoint.
fn checkpoint(from: u64, to: u64, (term, index): (u64, u64), voters: &[u64]) -> Message {
    let mut message = Message { msg_type: MessageType::MsgSnapshot, from, to, term, ..Default::default() };
    message.mut_snapshot().data = 77_u64.to_le_bytes().to_vec().into();
    message.mut_snapshot().mut_metadata().index = index;
    message.mut_snapshot().mut_metadata().term = term;
    message.mut_snapshot().mut_metadata().mut_conf_state().voters = voters.to_vec();
    message
}

#[test]
fn a_checkpoint_takes_the_place_of_the_log_once_it_is_durable() {
    let mut node = Node::new(2, &[1, 2, 3]);
    node.replica.on_message(append(1, 2, 1, (0, 0), 2)).unwrap();
    node.drive();
    node.persist_all();
    node.sent.clear();
    let message = checkpoint(1, 2, (3, 50), &[1, 2, 4]);
    assert_eq!(crate::checkpoint_named(&message), Some((77, Index(50), Term(3))));
    node.replica.on_message(message).unwrap();
    node.replica.drive(&mut node.effects);
    let installs: Vec<_> = node.effects.writes.iter().filter_map(|write| write.install.clone()).collect();
    assert_eq!(installs.len(), 1);
    assert_eq!((installs[0].transfer, installs[0].index, installs[0].term), (77, Index(50), Term(3)));
    node.drive();
    assert!(node.sent.is_empty(), "its acknowledgement waits for the disk");
    assert_eq!((node.replica.applied(), node.replica.base()), ((Index(50), Term(3)), (Index(50), Term(3))));
    assert_eq!(node.replica.voters(), [1, 2, 4]);
    node.persist_all();
    assert_eq!(node.sent.last().map(|answer| (answer.index, answer.reject)), Some((50, false)));
    node.replica.on_message(append(1, 2, 3, (50, 3), 1)).unwrap();
    node.drive();
    node.persist_all();
    assert_eq!(node.replica.applied().0, Index(51));
    // It has that already.
    node.replica.on_message(checkpoint(1, 2, (3, 50), &[1, 2, 4])).unwrap();
    node.drive();
    assert_eq!(node.replica.applied().0, Index(51));
}

#[test]
fn a_checkpoint_that_leaves_the_follower_out_is_not_taken() {
    let mut node = Node::new(2, &[1, 2, 3]);
    node.replica.on_message(checkpoint(1, 2, (3, 50), &[1, 3])).unwrap();
    node.drive();
    node.persist_all();
    assert_eq!(node.replica.applied().0, Index(0));
}

#[test]
fn a_newcomer_follows_a_leader_that_it_does_not_know() {
    let mut node = Node::new(4, &[1, 2, 3]);
    for _ in 0..100 {
        node.replica.tick();
        node.drive();
    }
    assert!(node.sent.is_empty(), "it stands for no election");
    node.replica.on_message(append(1, 4, 1, (0, 0), 3)).unwrap();
    node.drive();
    node.persist_all();
    assert_eq!(node.sent.last().map(|answer| (answer.to, answer.index)), Some((1, 3)));
}

#[test]
fn a_lone_leader_is_asked_and_answers_itself() {
    let mut node = Node::new(1, &[1]);
    node.persist_all();
    node.replica.read_index(9);
    node.replica.drive(&mut node.effects);
    assert_eq!(node.effects.reads, [(9, Index(1))]);
}

#[test]
fn acknowledgement_waits_for_the_disk() {
    let mut node = Node::new(2, &[1, 2, 3]);
    node.replica.on_message(append(1, 2, 1, (0, 0), 2)).unwrap();
    node.drive();
    assert!(node.sent.is_empty());
    // A message that writes nothing: its answer covers entries that are still on their way.
    node.replica.on_message(append(1, 2, 1, (2, 1), 0)).unwrap();
    node.drive();
    assert!(node.sent.is_empty());
    assert!(node.applied.is_empty());
    node.persist_all();
    let indices: Vec<u64> = node.sent.iter().map(|message| message.index).collect();
    assert_eq!(indices, [2, 2]);
    assert_eq!(node.applied.len(), 2);
}

#[test]
fn record_never_speaks_of_a_commit_beyond_its_entry() {
    let mut node = Node::new(2, &[1, 2, 3]);
    node.replica.on_message(append(1, 2, 1, (0, 0), 3)).unwrap();
    node.drive();
    let commits: Vec<u64> = node.pending[0].1.iter().map(|(hard_state, _)| hard_state.commit).collect();
    assert_eq!(commits, [1, 2, 3]);
    node.crash(1);
    assert_eq!(node.replica.last_index(), Index(1));
}

#[test]
fn vote_waits_for_the_disk_and_survives_a_restart() {
    let mut node = Node::new(2, &[1, 2, 3]);
    let ask =
        |from| Message { msg_type: MessageType::MsgRequestVote, from, to: 2, term: 1, ..Default::default() };
    node.replica.on_message(ask(1)).unwrap();
    node.drive();
    assert!(node.sent.is_empty());
    node.persist_all();
    assert_eq!(node.sent.pop().map(|vote| (vote.to, vote.reject)), Some((1, false)));
    node.crash(0);
    node.replica.on_message(ask(3)).unwrap();
    node.drive();
    node.persist_all();
    assert_eq!(node.sent.pop().map(|vote| (vote.to, vote.reject)), Some((3, true)));
}

#[test]
fn answers_held_behind_a_stalled_disk_are_bounded() {
    let mut node = Node::new(2, &[1, 2, 3]);
    node.replica.on_message(append(1, 2, 1, (0, 0), 1)).unwrap();
    for _ in 0..2 * MESSAGES_HELD_MAX {
        let kind = MessageType::MsgHeartbeat;
        let message = Message { msg_type: kind, from: 1, to: 2, term: 1, ..Default::default() };
        node.replica.on_message(message).unwrap();
        node.drive();
    }
    assert!(node.replica.held.iter().map(|held| held.messages.len()).sum::<usize>() <= MESSAGES_HELD_MAX);
    node.persist_all();
    assert!(!node.sent.is_empty());
}

#[test]
fn proposal_that_nobody_can_take_is_refused() {
    let mut node = Node::new(2, &[1, 2, 3]);
    let refused = node.replica.propose(Bytes::from_static(b"x"));
    assert_eq!(refused, Err(Refusal::NotLeader { leader: None }));
    node.replica.on_message(append(1, 2, 1, (0, 0), 0)).unwrap();
    let refused = node.replica.propose(Bytes::from_static(b"x"));
    assert_eq!(refused, Err(Refusal::NotLeader { leader: Some(1) }));
}

#[test]
fn uncommitted_bytes_are_bounded() {
    let mut node = Node::new(1, &[1]);
    let batch = Bytes::from(vec![7; 4 << 20]);
    let taken = (0..64).take_while(|_| node.replica.propose(batch.clone()).is_ok()).count();
    assert_eq!(taken as u64, UNCOMMITTED_BYTES_MAX / batch.len() as u64);
    assert_eq!(node.replica.propose(batch.clone()), Err(Refusal::Busy));
    node.drive();
    node.persist_all();
    assert_eq!(node.committed, 1 + taken as u64);
    assert!(node.replica.propose(batch).is_ok());
}

#[test]
fn removed_leader_steps_down() {
    let mut node = Node::new(1, &[1]);
    node.persist_all();
    // Not to be had through propose_voters: it happens when a leader inherits the proposal of an earlier one.
    let mut change =
        membership::change(node.replica.node.store().conf_state(), &[1, 2, 3], &[], Bytes::new()).unwrap();
    node.replica.node.propose_conf_change(Vec::new(), change).unwrap();
    node.drive();
    node.persist_all();
    assert_eq!(node.replica.voters(), [1, 2, 3]);
    let present = node.replica.node.store().conf_state();
    assert!(!present.voters_outgoing.is_empty() || node.replica.is_leader());
    answer_all(&mut node, &[2, 3]);
    change = membership::change(node.replica.node.store().conf_state(), &[2, 3], &[], Bytes::new()).unwrap();
    node.replica.node.propose_conf_change(Vec::new(), change).unwrap();
    node.drive();
    answer_all(&mut node, &[2, 3]);
    assert_eq!(node.replica.voters(), [2, 3]);
    assert!(!node.replica.is_leader());
    // This is what ended the process.
    let last = node.replica.last_index().0;
    let _ = node.replica.on_message(answer(2, node.replica.term().0, last));
    node.drive();
}

fn answer(from: u64, term: u64, index: u64) -> Message {
    Message { msg_type: MessageType::MsgAppendResponse, from, to: 1, term, index, ..Default::default() }
}

/// The peers acknowledge whatever the leader has, until nothing new comes of it.
fn answer_all(node: &mut Node, peers: &[u64]) {
    for _ in 0..4 {
        for &peer in peers {
            node.persist_all();
            if node.replica.is_leader() {
                let _ =
                    node.replica.on_message(answer(peer, node.replica.term().0, node.replica.last_index().0));
            }
            node.drive();
        }
    }
}

#[test]
fn membership_survives_a_restart_with_and_without_a_checkpoint() {
    for with_checkpoint in [false, true] {
        let mut node = Node::new(1, &[1]);
        node.persist_all();
        assert_eq!(node.replica.propose_membership(&[2], &[], Bytes::new()), Err(Refusal::Membership));
        assert_eq!(node.replica.propose_membership(&[1], &[], Bytes::new()), Err(Refusal::Membership));
        node.replica.propose_membership(&[1, 2], &[], Bytes::new()).unwrap();
        assert_eq!(
            node.replica.propose_membership(&[1, 3], &[], Bytes::new()),
            Err(Refusal::MembershipPending)
        );
        node.drive();
        node.persist_all();
        assert_eq!(node.replica.voters(), [1, 2]);
        if with_checkpoint {
            node.take_checkpoint();
        }
        answer_all(&mut node, &[2]);
        node.propose("x");
        node.persist_all();
        node.crash(0);
        assert_eq!(node.replica.voters(), [1, 2], "checkpoint: {with_checkpoint}");
        assert!(!node.replica.is_leader(), "two voters elect, one does not");
    }
}

#[test]
fn lone_leader_of_a_learner_speaks_only_in_a_durable_term() {
    let mut state = membership::initial(&[1]).unwrap();
    state.learners = vec![2];
    let hard_state = HardState { term: 1, vote: 1, commit: 0 };
    let conf_state = membership::encode(&state);
    let entries = vec![Entry { term: Term(1), index: Index(1), kind: EntryKind::Normal, data: Bytes::new() }];
    let restored = Restored { hard_state, conf_state, entries, ..Restored::empty() };
    let mut replica = Replica::new(options(1, &[1]), restored).unwrap();
    let mut effects = Effects::default();
    replica.campaign();
    replica.drive(&mut effects);
    assert!(replica.is_leader());
    assert!(effects.messages.is_empty());
    assert_eq!(effects.writes[0].hard_state.term, 2);
    replica.on_persisted(effects.writes[0].token);
    replica.drive(&mut effects);
    assert!(!effects.messages.is_empty());
}

#[test]
fn options_that_make_no_sense_are_refused() {
    assert!(Replica::new(options(0, &[1]), Restored::empty()).is_err());
    assert!(Replica::new(options(1, &[]), Restored::empty()).is_err());
    let restored = Restored { conf_state: vec![1, 2, 3], ..Restored::empty() };
    assert!(Replica::new(options(1, &[1]), restored).is_err());
}

#[test]
fn silence_while_a_checkpoint_is_being_written_ends_nothing() {
    let mut node = Node::new(2, &[1, 2, 3]);
    node.replica.on_message(checkpoint(1, 2, (3, 50), &[1, 2, 3])).unwrap();
    node.drive();
    assert!(!node.pending.is_empty());
    for _ in 0..3 * ELECTION_TICKS {
        node.replica.tick();
        node.drive();
    }
    node.persist_all();
    assert_eq!(node.replica.applied(), (Index(50), Term(3)));
}

#[test]
fn handover_while_a_checkpoint_is_being_written_ends_nothing() {
    let mut node = Node::new(2, &[1, 2, 3]);
    node.replica.on_message(checkpoint(1, 2, (3, 50), &[1, 2, 3])).unwrap();
    node.drive();
    let kind = MessageType::MsgTimeoutNow;
    node.replica
        .on_message(Message { msg_type: kind, from: 1, to: 2, term: 3, ..Default::default() })
        .unwrap();
    node.drive();
    node.persist_all();
    assert_eq!(node.replica.applied(), (Index(50), Term(3)));
}

#[test]
fn lone_voter_with_a_volatile_log_is_not_told_to_stand() {
    let mut node = Node::new(1, &[1]);
    node.persist_all();
    // A leader of a later term, as far as the bytes say.
    node.replica.on_message(append(2, 1, 5, (1, 1), 1)).unwrap();
    let kind = MessageType::MsgTimeoutNow;
    node.replica
        .on_message(Message { msg_type: kind, from: 2, to: 1, term: 5, ..Default::default() })
        .unwrap();
    node.drive();
    node.persist_all();
    assert!(node.replica.is_leader());
}

#[test]
fn lone_voter_with_a_learner_waits_for_its_disk_before_it_stands() {
    let mut state = membership::initial(&[1]).unwrap();
    state.learners = vec![2];
    let restored = Restored { conf_state: membership::encode(&state), ..Restored::empty() };
    let mut replica = Replica::new(options(1, &[1]), restored).unwrap();
    let mut effects = Effects::default();
    replica.on_message(append(2, 1, 5, (0, 0), 3)).unwrap();
    replica.drive(&mut effects);
    for _ in 0..3 * ELECTION_TICKS {
        replica.tick();
        replica.drive(&mut effects);
    }
    assert!(!replica.is_leader());
}

#[test]
fn replica_that_is_no_voter_does_not_campaign() {
    let mut node = Node::new(4, &[1, 2, 3]);
    node.replica.campaign();
    node.drive();
    node.persist_all();
    assert!(node.sent.is_empty());
}

#[test]
fn checkpoint_of_an_impossible_membership_is_refused() {
    let bad: [fn(&mut eraftpb::ConfState); 3] = [
        |state| state.auto_leave = true,
        |state| state.voters.push(2),
        |state| {
            state.voters_outgoing = vec![1, 2, 3];
            state.learners_next = vec![3];
            state.auto_leave = true;
        },
    ];
    for (at, change) in bad.into_iter().enumerate() {
        let outcome = std::panic::catch_unwind(|| {
            let mut node = Node::new(2, &[1, 2, 3]);
            let mut message = checkpoint(1, 2, (3, 50), &[1, 2, 3]);
            change(message.mut_snapshot().mut_metadata().mut_conf_state());
            let refused = node.replica.on_message(message).is_err();
            node.drive();
            refused
        });
        assert_eq!(outcome.ok(), Some(true), "{at}");
    }
}

#[test]
fn members_beyond_the_limit_take_effect_nowhere() {
    let mut node = Node::new(2, &[1, 2, 3]);
    let mut change = eraftpb::ConfChangeV2::default();
    let many = (100..200).map(|id| {
        let mut one = eraftpb::ConfChangeSingle::default();
        one.set_change_type(eraftpb::ConfChangeType::AddLearnerNode);
        one.node_id = id;
        one
    });
    change.set_changes(many.collect::<Vec<_>>().into());
    let mut message = append(1, 2, 1, (0, 0), 1);
    message.entries[0].set_entry_type(EntryType::EntryConfChangeV2);
    message.entries[0].data = protobuf::Message::write_to_bytes(&change).unwrap().into();
    node.replica.on_message(message).unwrap();
    node.drive();
    node.persist_all();
    assert!(!node.replica.conf_state().is_empty());
}

/// A leader with a learner that has nothing yet; of the leader's entries none is in memory but the last ones.
fn leader_of_a_newcomer(readable_from: u64) -> Node {
    let mut node = Node::new(1, &[1]);
    node.replica.set_readable_from(Index(readable_from));
    for data in ["a", "b", "c"] {
        node.propose(data);
        node.persist_all();
    }
    assert_eq!((node.replica.base().0, node.replica.floor()), (Index(4), Index(readable_from - 1)));
    node.replica.propose_membership(&[1], &[2], Bytes::new()).unwrap();
    node.drive();
    node.persist_all();
    let asked = node.sent.iter().rev().find(|message| message.msg_type == MessageType::MsgAppend);
    let asked = asked.expect("a newcomer is asked where it stands").index;
    let term = node.replica.term().0;
    node.replica.on_message(Message { reject: true, ..answer(2, term, asked) }).unwrap();
    node.sent.clear();
    node.drive();
    node
}

fn entries(node: &Node, range: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    let all = node.durable.iter().filter_map(|(_, entry)| entry.clone());
    all.filter(|entry| range.contains(&entry.index.0)).collect()
}

#[test]
fn a_follower_is_sent_what_was_read_back() {
    let mut node = leader_of_a_newcomer(1);
    assert!(node.sent.is_empty(), "nothing that it lacks is in memory");
    assert_eq!(node.replica.checkpoint_wanted(), None);
    let lacking = Lacking { id: 2, next: Index(1), matched: Index(0), may_be_sent: true };
    assert_eq!(node.replica.lacking().collect::<Vec<_>>(), [lacking]);
    assert!(!node.replica.on_read_back(2, entries(&node, 2..=3)), "that is not what it is to have next");
    assert!(!node.replica.on_read_back(3, entries(&node, 1..=3)), "that is nobody");
    assert_eq!(node.replica.missing().collect::<Vec<_>>(), [Index(1)]);
    let found = entries(&node, 1..=2);
    assert!(node.replica.on_read_back(2, found.clone()));
    node.drive();
    let sent: Vec<Entry> = node.sent.drain(..).flat_map(|message| message.entries).map(into_entry).collect();
    assert_eq!(sent, found);
    // Where it stands was a guess: it has to answer before it gets more.
    assert!(node.replica.lacking().all(|one| !one.may_be_sent));
    node.replica.on_message(answer(2, node.replica.term().0, 2)).unwrap();
    let lacking = Lacking { id: 2, next: Index(3), matched: Index(2), may_be_sent: true };
    assert_eq!(node.replica.lacking().collect::<Vec<_>>(), [lacking]);
    let rest = entries(&node, 3..=node.replica.base().0.0);
    let last = rest.last().map(|entry| entry.index).expect("there is more");
    assert!(node.replica.on_read_back(2, rest));
    assert_eq!(node.replica.lacking().count(), 0, "the others are in memory");
    node.drive();
    node.replica.on_message(answer(2, node.replica.term().0, last.0)).unwrap();
    node.drive();
    let sent = node.sent.iter().flat_map(|message| &message.entries).map(|entry| entry.index).max();
    assert_eq!(sent, Some(node.replica.last_index().0));
}

fn into_entry(engine: eraftpb::Entry) -> Entry {
    entry::from_engine(&engine)
}

#[test]
fn what_the_log_has_not_is_brought_by_a_checkpoint() {
    let mut node = leader_of_a_newcomer(2);
    assert_eq!((node.replica.lacking().count(), node.replica.missing().count()), (0, 0));
    assert_eq!(node.replica.checkpoint_wanted(), Some(2));
    // It had the whole log until now.
    node = leader_of_a_newcomer(1);
    node.replica.set_readable_from(Index(3));
    node.replica.check();
    assert_eq!(node.replica.lacking().count(), 0);
    assert_eq!(node.replica.checkpoint_wanted(), Some(2));
    assert!(!node.replica.on_read_back(2, entries(&node, 1..=2)));
}

#[test]
fn what_can_be_read_back_is_known_after_a_restart() {
    let mut node = Node::new(1, &[1]);
    node.replica.set_readable_from(Index(1));
    for data in ["a", "b"] {
        node.propose(data);
        node.persist_all();
    }
    node.take_checkpoint();
    let mut past = Terms::default();
    for entry in entries(&node, 1..=3) {
        past.push(entry.index, entry.term);
    }
    let restored = Restored { past: Some(past), ..node.restored() };
    let replica = Replica::new(options(1, &[1]), restored).unwrap();
    replica.check();
    assert_eq!(
        (replica.floor(), replica.base().0, replica.term_of(Index(1))),
        (Index(0), Index(3), Some(Term(1)))
    );
    let past = Some(Terms::behind((Index(1), Term(1))));
    let restored = Restored { past, ..node.restored() };
    let error = Replica::new(options(1, &[1]), restored).err();
    assert_eq!(error, Some(Error::Gap { expected: 3, found: 1 }));
}

/// Silent ticks until a replica of this place stands for election.
fn ticks_until_it_stands(rank: usize, seed: u64) -> usize {
    let options = Options { rank, seed, ..options(2, &[1, 2, 3]) };
    let mut replica = Replica::new(options, Restored::empty()).unwrap();
    let mut effects = Effects::default();
    (1..)
        .find(|_| {
            replica.tick();
            replica.drive(&mut effects);
            !effects.messages.is_empty()
        })
        .unwrap()
}

#[test]
fn who_is_before_another_in_line_stands_sooner() {
    for seed in 0..50 {
        let ticks: Vec<usize> = (0..ELECTION_RANKS).map(|rank| ticks_until_it_stands(rank, seed)).collect();
        assert!(ticks.is_sorted_by(|a, b| a < b), "{ticks:?}");
        assert!(ELECTION_TICKS <= ticks[0]);
        assert!(ticks[ELECTION_RANKS - 1] < 2 * ELECTION_TICKS);
    }
}

/// The leader of three, of whom one has voted for it.
fn leader() -> Replica {
    let mut replica = Replica::new(options(1, &[1, 2, 3]), Restored::empty()).unwrap();
    let mut effects = Effects::default();
    replica.campaign();
    for kind in [MessageType::MsgRequestPreVoteResponse, MessageType::MsgRequestVoteResponse] {
        replica.drive(&mut effects);
        effects.writes.drain(..).for_each(|write| replica.on_persisted(write.token));
        let vote = Message { msg_type: kind, from: 2, to: 1, term: 1, ..Default::default() };
        replica.on_message(vote).unwrap();
    }
    replica.drive(&mut effects);
    assert!(replica.is_leader());
    replica
}

#[test]
fn member_is_active_for_an_election_timeout_after_it_was_heard() {
    let mut replica = leader();
    let active = |replica: &Replica| {
        let mut all: Vec<_> = replica.progress().map(|peer| (peer.id, peer.is_active)).collect();
        all.sort_unstable();
        all
    };
    assert_eq!(active(&replica), [(1, true), (2, true), (3, false)]);
    for _ in 1..ELECTION_TICKS {
        replica.tick();
        assert_eq!(active(&replica), [(1, true), (2, true), (3, false)]);
    }
    // A leader that hears no majority for so long steps down.
    (0..ELECTION_TICKS).for_each(|_| replica.tick());
    assert!(active(&replica).is_empty());
}
