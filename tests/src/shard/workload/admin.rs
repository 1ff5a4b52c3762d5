//! The administrator: makes queues, counts them without end, and sometimes empties or deletes one.

use ringmain_net::protocol::{
    CreateQueue, DeleteQueue, ListQueues, Metadata, Ping, PurgeQueue, QueueSettings, Reply, ShowQueue,
};

use super::{Context, hello};

#[derive(Debug)]
pub(super) struct Admin {
    queues: Vec<(String, QueueSettings)>,

    is_greeted: bool,
    request: u64,
    /// Shown in turn.
    next: usize,
}

impl Admin {
    pub(super) fn new(queues: Vec<(String, QueueSettings)>) -> Self {
        Self { queues, is_greeted: false, request: 0, next: 0 }
    }

    pub(super) fn disconnected(&mut self) {
        self.is_greeted = false;
    }

    pub(super) fn connected(&mut self, context: &mut Context<'_>) {
        self.request += 1;
        context.say(self.request, &hello());
    }

    pub(super) fn act(&mut self, context: &mut Context<'_>) {
        if !self.is_greeted {
            return;
        }
        self.request += 1;
        let number = self.request;
        self.next = (self.next + 1) % self.queues.len();
        let (name, _) = &self.queues[self.next];
        match context.rng.below(200) {
            0 if !context.is_calm => context.say(number, &DeleteQueue { name: "passing" }),
            1 if !context.is_calm => context.say(number, &PurgeQueue { name }),
            2 if !context.is_calm => context.hangs_up = true,
            3 => context.say(number, &ListQueues { group: 0, after: "", limit: 3 }),
            4 => context.say(number, &Metadata),
            5 => context.say(number, &Ping),
            6..=12 => self.create(context),
            _ => context.say(number, &ShowQueue { name }),
        }
    }

    /// All of them: those that are there stay as they are.
    fn create(&mut self, context: &mut Context<'_>) {
        for (name, settings) in &self.queues {
            self.request += 1;
            context.say(self.request, &CreateQueue { name, settings: settings.clone() });
        }
    }

    pub(super) fn heard(&mut self, _request: u64, reply: &Reply<'_>, context: &mut Context<'_>) {
        if let Reply::Welcome(_) = reply {
            self.is_greeted = true;
            self.create(context);
        }
    }
}
