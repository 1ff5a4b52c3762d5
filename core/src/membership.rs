//! What can be asked about a group as such: who is in it, who leads it, and to change either.
//!
//! Lives inside the shard. A member is added as a learner, which gets everything and has no vote; once it has caught up
//! the leader gives it one. Whichever leader finds a learner does that, so a change that was begun is finished by the
//! next leader. One change at a time, through a joint configuration where more than one vote changes.

use crate::group::Group;
use crate::member::{Member, node_of, replica_id};
use crate::peers::Peers;
use crate::reply::{self, Asked, Reason};
use crate::shard::{Address, Shard};
use ringmain_net::protocol::{
    ChangeMembers, Code, Done, GroupInfo, GroupsShown, MemberInfo, MemberState, MoveLeader, NodeAddress,
};
use ringmain_replication::{Progress, Refusal};
use ringmain_wal::{GroupId, Index};

/// A learner that lacks no more entries than this gets a vote.
const CAUGHT_UP_ENTRIES: u64 = 64;

const NO_SUCH_GROUP: Reason = (Code::Unsupported, "this shard has no such group");
const NO_SUCH_NODE: Reason = (Code::Unsupported, "the group has no such member");
const LAST_MEMBER: Reason = (Code::Unsupported, "the last member of a group cannot be removed");
const PENDING: Reason = (Code::MembershipPending, "another change of the members is under way");
const BUSY: Reason = (Code::Busy, "the group is busy: try again");
const REPLACED: Reason =
    (Code::Unsupported, "the node is a member with another data directory by now: look at its status again");
const NO_INCARNATION: Reason = (Code::Malformed, "a data directory has an incarnation that is not 0");
const LEADER_FIRST: Reason = (Code::Busy, "the member leads the group, and is handing over");

impl Shard {
    /// Every node that this shard knows, itself included.
    pub(crate) fn node_addresses(&self) -> Vec<NodeAddress> {
        let own = self.options.addresses.first();
        let own = own.map(|own| NodeAddress {
            node: self.options.identity.node,
            host: own.host.clone(),
            port: own.port,
        });
        let others = self.peers.members().map(|member| NodeAddress {
            node: member.node,
            host: member.address.host.clone(),
            port: member.address.port,
        });
        let mut all: Vec<NodeAddress> = own.into_iter().chain(others).collect();
        all.sort_by_key(|node| node.node);
        all
    }

    pub(crate) fn on_show_groups(&mut self, asked: Asked) {
        let identity = self.options.identity;
        let groups = self.groups.iter().map(|group| group.describe(&self.peers)).collect();
        let shown = GroupsShown {
            node: identity.node,
            incarnation: identity.incarnation,
            shard: identity.shard,
            groups,
        };
        self.outbox.send(asked.connection, asked.request, &shown);
    }

    pub(crate) fn on_move_leader(&mut self, asked: Asked, wanted: MoveLeader) {
        let Some(ordinal) = self.leading(asked, wanted.group) else { return };
        let group = &mut self.groups[ordinal];
        match group.move_leader(wanted.node) {
            Ok(()) => {
                let done = Done { index: group.applied().0, count: 0 };
                self.outbox.send(asked.connection, asked.request, &done);
            }
            Err(reason) => reply::refuse(&mut self.outbox, asked, reason),
        }
    }

    pub(crate) fn on_change_members(&mut self, asked: Asked, wanted: &ChangeMembers<'_>) {
        let Some(ordinal) = self.leading(asked, wanted.group) else { return };
        let group = &mut self.groups[ordinal];
        let added = (wanted.add_node != 0).then(|| Member {
            node: wanted.add_node,
            incarnation: wanted.add_incarnation,
            address: Address { host: wanted.host.to_owned(), port: wanted.port },
        });
        let removed =
            (wanted.remove_node != 0).then(|| replica_id(wanted.remove_node, wanted.remove_incarnation));
        match group.change_members(added, removed) {
            // Also where it is so already: who asks once more may not have heard that it is certain.
            Ok(()) if group.changes.push(asked) => {}
            Ok(()) => reply::refuse(&mut self.outbox, asked, BUSY),
            Err(reason) => reply::refuse(&mut self.outbox, asked, reason),
        }
    }

    /// Answers those whose changes no single failure undoes any more.
    pub(crate) fn answer_changes(&mut self) {
        for group in &mut self.groups {
            let applied = group.applied();
            group.changes.answer(applied, &mut self.outbox);
        }
    }

    /// The ordinal of a group that this node leads; otherwise the asker was told who does.
    fn leading(&mut self, asked: Asked, group: u32) -> Option<usize> {
        match self.options.ordinal(GroupId(group)) {
            Some(ordinal) => self.serving(asked, None, ordinal),
            None => {
                reply::refuse(&mut self.outbox, asked, NO_SUCH_GROUP);
                None
            }
        }
    }
}

impl Group {
    fn describe(&self, peers: &Peers) -> GroupInfo {
        let replica = &self.replica;
        let progress: Vec<Progress> = replica.progress().collect();
        let members = replica.members();
        let describe = |member: &Member| {
            let id = member.replica();
            let known = progress.iter().find(|one| one.id == id);
            MemberInfo {
                node: member.node,
                incarnation: member.incarnation,
                host: member.address.host.clone(),
                port: member.address.port,
                is_voter: members.voters.contains(&id),
                is_active: known.is_some_and(|known| known.is_active || id == replica.id()),
                state: known.map_or(MemberState::Unknown, |known| self.state_of(known, peers)) as u8,
                matched: known.map_or(0, |known| known.matched.0),
            }
        };
        GroupInfo {
            group: self.id.0,
            leader: replica.leader().map_or(0, node_of),
            is_leader: self.is_leader(),
            term: self.term().0,
            committed: replica.committed().0,
            applied: self.applied().0,
            last: replica.last_index().0,
            members: self.book.members.iter().map(describe).collect(),
        }
    }

    fn state_of(&self, progress: &Progress, peers: &Peers) -> MemberState {
        if progress.id != self.replica.id() && peers.up(node_of(progress.id)).is_none() {
            return MemberState::Unreachable;
        }
        if progress.needs_checkpoint {
            return MemberState::ReceivesCheckpoint;
        }
        let lacks = self.replica.last_index().0.saturating_sub(progress.matched.0);
        if lacks <= CAUGHT_UP_ENTRIES { MemberState::Current } else { MemberState::Behind }
    }

    fn move_leader(&mut self, node: u32) -> Result<(), Reason> {
        let to = self.book.find_node(node).map(Member::replica).ok_or(NO_SUCH_NODE)?;
        if to == self.replica.id() {
            return Ok(());
        }
        self.replica.transfer_leadership(to).map_err(in_words)
    }

    /// What is so already is not done again, so that whoever did not hear the answer may ask once more.
    fn change_members(&mut self, added: Option<Member>, removed: Option<u64>) -> Result<(), Reason> {
        let has_incarnation = |replica: u64| replica != replica_id(node_of(replica), 0);
        if !added.iter().map(Member::replica).chain(removed).all(has_incarnation) {
            return Err(NO_INCARNATION);
        }
        let members = self.replica.members();
        let (mut voters, mut learners) = (members.voters, members.learners);
        let mut book = self.book.clone();
        if let Some(replica) = removed.filter(|replica| book.find(*replica).is_some()) {
            if replica == self.replica.id() {
                return self.leave();
            }
            voters.retain(|id| *id != replica);
            learners.retain(|id| *id != replica);
            book.remove(replica);
        } else if let Some(replica) = removed {
            let newcomer = added.as_ref().map(Member::replica);
            if book.find_node(node_of(replica)).is_some_and(|other| Some(other.replica()) != newcomer) {
                return Err(REPLACED);
            }
        }
        if let Some(member) = added.filter(|member| book.find(member.replica()).is_none()) {
            if book.find_node(member.node).is_some() {
                return Err((Code::Unsupported, "a node of this number is a member: remove it first"));
            }
            learners.push(member.replica());
            book.add(member);
        }
        if book == self.book {
            return Ok(());
        }
        if voters.is_empty() {
            return Err(LAST_MEMBER);
        }
        self.propose_members(&voters, &learners, &book)
    }

    /// The voters on other nodes are a majority by themselves: they have all that was acknowledged, and one of them can lead.
    pub(crate) fn is_spared(&self) -> bool {
        let (voters, node) = (self.replica.members().voters, node_of(self.replica.id()));
        let others = voters.iter().filter(|voter| node_of(**voter) != node).count();
        voters.len() < 2 * others
    }

    /// The member that was is gone for ever, and this one takes its place as a learner.
    pub(crate) fn replace_member(&mut self, before: u64, member: &Member) {
        let is_active = self.replica.progress().any(|peer| peer.id == before && peer.is_active);
        if self.book.find(before).is_some() && !is_active {
            // Refused while another change is under way: the next tick tries again.
            let _ = self.change_members(Some(member.clone()), Some(before));
        }
    }

    /// This member is to be removed: somebody else must lead first, and then be asked again.
    fn leave(&mut self) -> Result<(), Reason> {
        let me = self.replica.id();
        let able = self.replica.progress().filter(|peer| peer.id != me && peer.is_voter && peer.is_active);
        let best = able.max_by_key(|peer| peer.matched).map(|peer| peer.id).ok_or(LAST_MEMBER)?;
        self.replica.transfer_leadership(best).map_err(in_words)?;
        Err(LEADER_FIRST)
    }

    fn propose_members(
        &mut self,
        voters: &[u64],
        learners: &[u64],
        book: &crate::member::Book,
    ) -> Result<(), Reason> {
        let mut context = Vec::new();
        book.encode(&mut context);
        self.replica.propose_membership(voters, learners, context.into()).map(|_| ()).map_err(in_words)
    }

    /// Gives a vote to a learner that has caught up.
    pub(crate) fn promote(&mut self) {
        if !self.is_serving() {
            return;
        }
        let members = self.replica.members();
        if members.learners.is_empty() || !members.voters_outgoing.is_empty() {
            return;
        }
        let last = self.replica.last_index().0;
        // One that has acknowledged nothing lacks little of a short log all the same; whether it can keep anything is not
        // known, and with its vote the group might have no majority any more.
        let has_answered = |peer: &Progress| peer.is_active && peer.matched > Index(0);
        let is_ready = |peer: &Progress| {
            !peer.is_voter && has_answered(peer) && last <= peer.matched.0.saturating_add(CAUGHT_UP_ENTRIES)
        };
        let Some(ready) = self.replica.progress().find(is_ready).map(|peer| peer.id) else { return };
        let mut voters = members.voters;
        voters.push(ready);
        let learners: Vec<u64> = members.learners.into_iter().filter(|id| *id != ready).collect();
        let book = self.book.clone();
        // Refused while another change is under way: the next tick tries again.
        let _ = self.propose_members(&voters, &learners, &book);
    }
}

fn in_words(refusal: Refusal) -> Reason {
    match refusal {
        Refusal::NotLeader { .. } | Refusal::Busy => BUSY,
        Refusal::Membership => (Code::Unsupported, "the group cannot have these members"),
        Refusal::MembershipPending => PENDING,
    }
}
