//! The leases of a group: delivered messages that are not settled. Leader-local; a step-down forgets them all.
//!
//! A slab with lists threaded through it. A lease is in one list of its queue — `waiting`, in deadline order, because a
//! queue's lease length never changes; or `settling`, once its end is proposed — and, while waiting, in its consumer's.

use std::ops::Index;

use crate::command::QueueId;
use crate::time::Time;

pub(crate) const NO_LEASE: u32 = u32::MAX;

/// 1,048,576 × 56 bytes = 56 MiB a group, and sixteen consumers with the largest credit.
pub(crate) const LEASES_MAX: u32 = 1 << 20;

#[derive(Copy, Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) queue: QueueId,
    pub(crate) sequence: u64,
    pub(crate) deadline: Time,
    /// Slot of the consumer; means nothing once settling.
    pub(crate) consumer: u32,
    pub(crate) priority: u8,
    /// Its end is proposed: it neither expires nor can be settled again.
    pub(crate) is_settling: bool,
    links: [Links; 2],
}

const _: () = assert!(size_of::<Lease>() <= 56);

#[derive(Copy, Clone, Debug)]
struct Links {
    previous: u32,
    next: u32,
}

const UNLINKED: Links = Links { previous: NO_LEASE, next: NO_LEASE };

/// Which of a lease's two lists.
#[derive(Copy, Clone, Debug)]
pub(crate) enum By {
    Queue = 0,
    Consumer = 1,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct List {
    head: u32,
    tail: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { head: NO_LEASE, tail: NO_LEASE }
    }
}

impl List {
    pub(crate) fn first(&self) -> Option<u32> {
        (self.head != NO_LEASE).then_some(self.head)
    }
}

#[derive(Debug)]
pub(crate) struct Leases {
    slots: Vec<Lease>,
    /// Free slots, linked by their queue links.
    free: u32,
    count: u32,
}

impl Leases {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: NO_LEASE, count: 0 }
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    pub(crate) fn is_full(&self) -> bool {
        self.count == LEASES_MAX
    }

    pub(crate) fn open(
        &mut self,
        queue: QueueId,
        (priority, sequence): (u8, u64),
        consumer: u32,
        deadline: Time,
    ) -> u32 {
        assert!(!self.is_full());
        let links = [UNLINKED; 2];
        let lease = Lease { queue, sequence, deadline, consumer, priority, is_settling: false, links };
        self.count += 1;
        if self.free == NO_LEASE {
            self.slots.push(lease);
            return (self.slots.len() - 1) as u32;
        }
        let at = self.free;
        self.free = self.slots[at as usize].links[By::Queue as usize].next;
        self.slots[at as usize] = lease;
        at
    }

    /// The lease is in no list any more.
    pub(crate) fn close(&mut self, at: u32) {
        self.slots[at as usize].links[By::Queue as usize].next = self.free;
        self.free = at;
        self.count -= 1;
    }

    pub(crate) fn begin_settling(&mut self, at: u32) {
        let lease = &mut self.slots[at as usize];
        assert!(!lease.is_settling);
        lease.is_settling = true;
    }

    pub(crate) fn push(&mut self, list: &mut List, by: By, at: u32) {
        let links = &mut self.slots[at as usize].links[by as usize];
        *links = Links { previous: list.tail, next: NO_LEASE };
        match list.tail {
            NO_LEASE => list.head = at,
            tail => self.slots[tail as usize].links[by as usize].next = at,
        }
        list.tail = at;
    }

    pub(crate) fn unlink(&mut self, list: &mut List, by: By, at: u32) {
        let links = std::mem::replace(&mut self.slots[at as usize].links[by as usize], UNLINKED);
        match links.previous {
            NO_LEASE => {
                assert_eq!(list.head, at);
                list.head = links.next;
            }
            previous => self.slots[previous as usize].links[by as usize].next = links.next,
        }
        match links.next {
            NO_LEASE => {
                assert_eq!(list.tail, at);
                list.tail = links.previous;
            }
            next => self.slots[next as usize].links[by as usize].previous = links.previous,
        }
    }

    pub(crate) fn iter(&self, list: List, by: By) -> impl Iterator<Item = (u32, &Lease)> {
        let step = move |at: u32| (at != NO_LEASE).then(|| (at, &self.slots[at as usize]));
        std::iter::successors(step(list.head), move |(_, lease)| step(lease.links[by as usize].next))
    }
}

impl Index<u32> for Leases {
    type Output = Lease;

    fn index(&self, at: u32) -> &Lease {
        &self.slots[at as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_keep_their_order_through_any_removal() {
        let mut leases = Leases::new();
        let mut list = List::default();
        let open = |leases: &mut Leases, sequence| leases.open(QueueId(1), (0, sequence), 0, Time::ZERO);
        let at: Vec<u32> = (0..5).map(|sequence| open(&mut leases, sequence)).collect();
        for &lease in &at {
            leases.push(&mut list, By::Queue, lease);
        }
        for removed in [2, 0, 4] {
            leases.unlink(&mut list, By::Queue, at[removed]);
            leases.close(at[removed]);
        }
        let left: Vec<u64> = leases.iter(list, By::Queue).map(|(_, lease)| lease.sequence).collect();
        assert_eq!(left, [1, 3]);
        assert_eq!(open(&mut leases, 9), at[4], "the last freed slot is used again");
        assert_eq!(leases.count(), 3);
    }
}
