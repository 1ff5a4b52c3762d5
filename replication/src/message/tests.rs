use raft::eraftpb::Entry;

use super::*;

const RECEIVER: Receiver = Receiver { id: 1, term: 5, last_index: 10, is_leader: true };

fn message(kind: MessageType) -> Message {
    Message { msg_type: kind, from: 2, to: 1, term: 5, ..Default::default() }
}

fn append(places: &[(u64, u64)]) -> Message {
    let mut message = message(MessageType::MsgAppend);
    (message.index, message.log_term) = (10, 4);
    let entries = places.iter().map(|&(index, term)| Entry { index, term, ..Default::default() });
    message.entries = entries.collect::<Vec<_>>().into();
    message
}

fn verdict(message: &Message) -> Result<(), MessageError> {
    examine(message, &RECEIVER)
}

#[test]
fn ordinary_messages_pass() {
    assert_eq!(verdict(&append(&[(11, 4), (12, 5)])), Ok(()));
    assert_eq!(verdict(&append(&[])), Ok(()));
    for kind in [
        MessageType::MsgAppendResponse,
        MessageType::MsgRequestVote,
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgRequestPreVote,
        MessageType::MsgRequestPreVoteResponse,
        MessageType::MsgHeartbeat,
        MessageType::MsgHeartbeatResponse,
    ] {
        assert_eq!(verdict(&message(kind)), Ok(()), "{kind:?}");
    }
}

#[test]
fn messages_for_others_are_refused() {
    for (from, to) in [(2, 3), (0, 1), (1, 1)] {
        let message = Message { from, to, ..message(MessageType::MsgHeartbeat) };
        assert_eq!(verdict(&message), Err(MessageError::Address { from, to }));
    }
}

#[test]
fn kinds_that_peers_do_not_send_are_refused() {
    for kind in [
        MessageType::MsgHup,
        MessageType::MsgBeat,
        MessageType::MsgPropose,
        MessageType::MsgUnreachable,
        MessageType::MsgSnapStatus,
        MessageType::MsgCheckQuorum,
        MessageType::MsgTransferLeader,
        MessageType::MsgReadIndex,
        MessageType::MsgReadIndexResp,
    ] {
        assert_eq!(verdict(&message(kind)), Err(MessageError::Kind), "{kind:?}");
    }
}

#[test]
fn impossible_checkpoints_are_refused() {
    let mut sound = message(MessageType::MsgSnapshot);
    sound.mut_snapshot().data = vec![7; 8].into();
    sound.mut_snapshot().mut_metadata().index = 9;
    sound.mut_snapshot().mut_metadata().term = 2;
    sound.mut_snapshot().mut_metadata().mut_conf_state().voters = vec![1, 2];
    assert_eq!(verdict(&sound), Ok(()));
    let spoilers: [fn(&mut Message); 6] = [
        |message| message.mut_snapshot().data = vec![7; 9].into(),
        |message| message.mut_snapshot().mut_metadata().index = 0,
        |message| message.mut_snapshot().mut_metadata().term = u64::MAX,
        |message| message.mut_snapshot().mut_metadata().mut_conf_state().voters.clear(),
        |message| message.mut_snapshot().mut_metadata().mut_conf_state().learners = vec![1],
        |message| message.mut_snapshot().mut_metadata().mut_conf_state().voters = vec![1, 0],
    ];
    for spoil in spoilers {
        let mut message = sound.clone();
        spoil(&mut message);
        assert!(matches!(verdict(&message), Err(MessageError::Malformed { .. })));
    }
    let mut elsewhere = message(MessageType::MsgHeartbeat);
    elsewhere.set_snapshot(sound.take_snapshot());
    assert!(matches!(verdict(&elsewhere), Err(MessageError::Malformed { .. })));
}

#[test]
fn contradicting_entries_are_refused() {
    for places in [&[(12, 5)][..], &[(11, 5), (13, 5)], &[(11, 5), (12, 4)], &[(11, 3)], &[(11, 6)]] {
        assert!(matches!(verdict(&append(places)), Err(MessageError::Malformed { .. })), "{places:?}");
    }
    let mut unreadable = append(&[(11, 5)]);
    unreadable.mut_entries()[0].set_entry_type(EntryType::EntryConfChangeV2);
    unreadable.mut_entries()[0].data = vec![0xff].into();
    assert!(matches!(verdict(&unreadable), Err(MessageError::Malformed { .. })));
    unreadable.mut_entries()[0].set_entry_type(EntryType::EntryConfChange);
    assert!(matches!(verdict(&unreadable), Err(MessageError::Malformed { .. })));
}

#[test]
fn impossible_numbers_are_refused() {
    for change in [
        (|m: &mut Message| m.term = 0) as fn(&mut Message),
        |m| m.term = u64::MAX,
        |m| m.index = u64::MAX,
        |m| m.commit = NUMBER_MAX + 1,
        |m| m.log_term = 6,
        |m| m.entries = vec![Entry::default()].into(),
    ] {
        let mut bad = message(MessageType::MsgHeartbeat);
        change(&mut bad);
        assert!(matches!(verdict(&bad), Err(MessageError::Malformed { .. })), "{bad:?}");
    }
}

#[test]
fn commit_beyond_our_log_means_that_entries_are_lost() {
    let mut heartbeat = message(MessageType::MsgHeartbeat);
    heartbeat.commit = 10;
    assert_eq!(verdict(&heartbeat), Ok(()));
    heartbeat.commit = 11;
    assert_eq!(verdict(&heartbeat), Err(MessageError::LostEntries { commit: 11, last: 10 }));
    // A leader of the past may know of entries that were replaced since.
    heartbeat.term = 4;
    assert_eq!(verdict(&heartbeat), Ok(()));
}

#[test]
fn acknowledgement_of_nothing_is_refused() {
    let mut answer = message(MessageType::MsgAppendResponse);
    answer.index = 11;
    assert!(matches!(verdict(&answer), Err(MessageError::Malformed { .. })));
    let crashed = Receiver { is_leader: false, ..RECEIVER };
    assert_eq!(examine(&answer, &crashed), Ok(()));
    answer.reject = true;
    assert_eq!(verdict(&answer), Ok(()));
    answer.request_snapshot = 3;
    assert_eq!(verdict(&answer), Err(MessageError::Kind));
}
