//! Whoever looks after the cluster: replaces members that are lost, and moves leaders about.

use ringmain_net::protocol::{ChangeMembers, Code, GroupInfo, MoveLeader, Reply, ShowGroups};

use super::Context;
use crate::cluster::machine_at;

#[derive(Debug)]
pub(super) struct Operator {
    groups: usize,

    /// Looked after at the moment.
    group: usize,
    request: u64,
    waits: bool,
}

impl Operator {
    pub(super) fn new(groups: usize) -> Self {
        Self { groups, group: 0, request: 0, waits: false }
    }

    pub(super) fn lost(&mut self) {
        self.waits = false;
    }

    pub(super) fn act(&mut self, context: &mut Context<'_>) {
        if !self.waits {
            self.waits = true;
            self.request += 1;
            context.say(self.request, &ShowGroups);
        }
    }

    /// Answers where to go instead.
    pub(super) fn heard(
        &mut self,
        _request: u64,
        reply: &Reply<'_>,
        context: &mut Context<'_>,
    ) -> Option<usize> {
        match reply {
            Reply::GroupsShown(shown) => {
                self.waits = false;
                let info = shown.groups.get(self.group)?;
                if !info.is_leader {
                    let leader = info.leader as usize;
                    if leader == 0 {
                        // Perhaps only this node does not know, and another one is asked for the same group.
                        context.hangs_up = context.rng.one_in(4);
                        if !context.hangs_up {
                            self.next();
                        }
                        return None;
                    }
                    return Some(leader - 1);
                }
                self.look_after(info, context);
                None
            }
            Reply::Done(_) => {
                context.report.changes += 1;
                None
            }
            Reply::Refused(refused) if refused.code() == Code::Removed => machine_at("n1"),
            _ => None,
        }
    }

    fn next(&mut self) {
        self.group = (self.group + 1) % self.groups;
    }

    /// One step towards the members that the group is to have.
    fn look_after(&mut self, info: &GroupInfo, context: &mut Context<'_>) {
        self.request += 1;
        let wanted = |node: u32, incarnation: u32| {
            context.goal.iter().any(|member| (member.node, member.incarnation) == (node, incarnation))
        };
        let stale = info.members.iter().find(|member| !wanted(member.node, member.incarnation));
        let missing = context.goal.iter().find(|member| {
            !info
                .members
                .iter()
                .any(|known| (known.node, known.incarnation) == (member.node, member.incarnation))
        });
        if stale.is_none() && missing.is_none() {
            if !context.is_calm && context.rng.one_in(30) && !info.members.is_empty() {
                let node = context.rng.pick(&info.members).node;
                context.report.moves += 1;
                context.say(self.request, &MoveLeader { group: info.group, node });
            }
            return self.next();
        }
        let is_replaced =
            stale.is_some_and(|stale| missing.is_some_and(|missing| missing.node == stale.node));
        let removes = stale.filter(|_| is_replaced || missing.is_none() || context.rng.one_in(2));
        let adds = missing.filter(|missing| {
            let is_in_the_way = info.members.iter().any(|member| member.node == missing.node);
            removes.is_none() || is_replaced || !is_in_the_way && context.rng.one_in(2)
        });
        let change = ChangeMembers {
            group: info.group,
            add_node: adds.map_or(0, |member| member.node),
            add_incarnation: adds.map_or(0, |member| member.incarnation),
            host: adds.map_or("", |member| &member.address.host),
            port: adds.map_or(0, |member| member.address.port),
            remove_node: removes.map_or(0, |member| member.node),
            remove_incarnation: removes.map_or(0, |member| member.incarnation),
        };
        context.say(self.request, &change);
        if context.rng.one_in(3) {
            self.next();
        }
    }
}
