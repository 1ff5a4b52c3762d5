//! What removes many messages at once.

use super::{Checker, Doom, Lease, MessageId, Stored, Violation};

/// A purge that the broker has taken and not answered.
#[derive(Debug)]
pub struct Purge {
    queue: u64,
    /// Ready when it was asked.
    sure: Vec<MessageId>,
    /// On their way before it: gone as soon as they are there.
    coming: Vec<MessageId>,
    maybe: Vec<MessageId>,
}

#[derive(Debug)]
pub struct Delete {
    queue: u64,
}

impl Checker {
    /// Takes what is ready now, and leaves what is held.
    pub fn purge_asked(&self, queue: u64) -> Purge {
        let mut purge = Purge { queue, sure: Vec::new(), coming: Vec::new(), maybe: Vec::new() };
        for &id in self.queues.get(&queue).into_iter().flat_map(|queue| &queue.live) {
            let message = &self.messages[&id];
            match (message.stored, message.lease) {
                (Stored::Gone | Stored::Refused, _) => {}
                (Stored::OnItsWay { .. }, _) => purge.coming.push(id),
                (Stored::Perhaps | Stored::PerhapsGone, _) => purge.maybe.push(id),
                (Stored::Surely, Lease::None) => purge.sure.push(id),
                (Stored::Surely, Lease::Returning { .. }) => purge.maybe.push(id),
                (Stored::Surely, Lease::Held { .. } | Lease::Settling { .. }) => {}
            }
        }
        purge
    }

    pub fn purge_done(&mut self, purge: Purge, count: u64) -> Result<(), Violation> {
        // A purge before this one may have taken some.
        let is_there = |id: &&MessageId| self.messages[id].stored == Stored::Surely;
        // Or another queue has this name by now, and nothing of this one is left.
        let may_be_another = self.queues.get(&purge.queue).is_some_and(|queue| queue.may_be_deleted);
        let low = if may_be_another { 0 } else { purge.sure.iter().filter(is_there).count() as u64 };
        let high = (purge.sure.len() + purge.coming.len() + purge.maybe.len()) as u64;
        if count < low || count > high {
            let queue = purge.queue;
            return Err(format!("exact: {count} of queue {queue} were purged, it should be {low} to {high}"));
        }
        for id in purge.sure.into_iter().chain(purge.coming) {
            let message = self.message(id)?;
            match message.stored {
                Stored::OnItsWay { .. } => message.doom = Doom::Surely,
                Stored::Perhaps => message.doom = Doom::Perhaps,
                Stored::Surely | Stored::PerhapsGone => message.stored = Stored::Gone,
                Stored::Gone | Stored::Refused => {}
            }
            self.update(id);
        }
        purge.maybe.into_iter().try_for_each(|id| self.perhaps_removed(id))
    }

    /// Its answer is lost.
    pub fn purge_abandoned(&mut self, purge: Purge) -> Result<(), Violation> {
        let all = purge.sure.into_iter().chain(purge.coming).chain(purge.maybe);
        all.collect::<Vec<_>>().into_iter().try_for_each(|id| self.perhaps_removed(id))
    }

    pub fn delete_asked(&self, queue: u64) -> Delete {
        Delete { queue }
    }

    /// `count`: what the broker said was in it; none if it said only that there is no such queue.
    pub fn delete_done(&mut self, delete: &Delete, count: Option<u64>) -> Result<(), Violation> {
        let Some(queue) = self.queues.get(&delete.queue) else { return Ok(()) };
        let live: Vec<MessageId> = queue.live.iter().copied().collect();
        let is_sure = |id: &&MessageId| {
            let message = &self.messages[id];
            message.stored == Stored::Surely && !matches!(message.lease, Lease::Settling { .. })
        };
        let (low, high) = (live.iter().filter(is_sure).count() as u64, live.len() as u64);
        if count.is_some_and(|count| count < low || count > high) {
            let queue = delete.queue;
            return Err(format!("exact: {count:?} were in queue {queue}, it should be {low} to {high}"));
        }
        if count.is_none() && low > 0 && !queue.may_be_deleted {
            return Err(format!("durable: queue {} with {low} messages is gone", delete.queue));
        }
        for id in live {
            self.message(id)?.stored = Stored::Gone;
            self.set_lease(id, Lease::None);
        }
        let consumers = self.consumers.iter().filter(|(_, consumer)| consumer.queue == delete.queue);
        for consumer in consumers.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.consumers.remove(&consumer);
        }
        Ok(())
    }

    /// Its answer is lost.
    pub fn delete_abandoned(&mut self, delete: &Delete) -> Result<(), Violation> {
        let Some(queue) = self.queues.get_mut(&delete.queue) else { return Ok(()) };
        queue.may_be_deleted = true;
        queue.live.iter().copied().collect::<Vec<_>>().into_iter().try_for_each(|id| self.perhaps_removed(id))
    }

    fn perhaps_removed(&mut self, id: MessageId) -> Result<(), Violation> {
        let message = self.message(id)?;
        match message.stored {
            Stored::OnItsWay { .. } | Stored::Perhaps => message.doom = Doom::Perhaps,
            Stored::Surely | Stored::PerhapsGone => {
                (message.stored, message.doom) = (Stored::PerhapsGone, Doom::Perhaps);
            }
            Stored::Gone | Stored::Refused => {}
        }
        self.update(id);
        Ok(())
    }
}
