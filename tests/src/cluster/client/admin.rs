//! The administrator of one queue: makes it, counts it without end, and sometimes empties or deletes it.

use ringmain_net::protocol::{
    Code, CreateQueue, DeleteQueue, ListQueues, Metadata, PurgeQueue, QueueSettings, Reply, ShowGroups,
    ShowQueue,
};

use super::Context;

#[derive(Debug)]
pub(super) struct Admin {
    queue: String,
    ordinal: usize,
    settings: QueueSettings,
    /// The queue may be emptied and deleted.
    is_fickle: bool,

    is_there: bool,
    request: u64,
    deletion: u64,
}

impl Admin {
    pub(super) fn new(queue: &str, ordinal: usize, settings: QueueSettings, is_fickle: bool) -> Self {
        let queue = queue.to_owned();
        Self { queue, ordinal, settings, is_fickle, is_there: false, request: 0, deletion: 0 }
    }

    pub(super) fn lost(&mut self) {
        self.is_there = false;
    }

    pub(super) fn act(&mut self, context: &mut Context<'_>) {
        self.request += 1;
        let number = self.request;
        let name = &self.queue;
        let is_fickle = self.is_fickle && !context.is_calm;
        match context.rng.below(60) {
            _ if !self.is_there => {
                self.is_there = true;
                context.say(number, &CreateQueue { name, settings: self.settings.clone() });
            }
            0 if is_fickle => {
                context.oracle.purge_asked(context.pipe, number, self.ordinal);
                context.say(number, &DeleteQueue { name });
                (self.is_there, self.deletion) = (false, number);
            }
            1 if is_fickle => {
                context.oracle.purge_asked(context.pipe, number, self.ordinal);
                context.say(number, &PurgeQueue { name });
            }
            2 if !context.is_calm => context.hangs_up = true,
            3 => context.say(number, &ListQueues { group: 0, after: "", limit: 3 }),
            4 => context.say(number, &Metadata),
            5 => context.say(number, &ShowGroups),
            _ => {
                context.oracle.show_asked(context.pipe, number, self.ordinal);
                context.say(number, &ShowQueue { name });
            }
        }
    }

    pub(super) fn heard(
        &mut self,
        request: u64,
        reply: &Reply<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        match reply {
            Reply::Done(_) if request == self.deletion => context.report.deleted += 1,
            Reply::Refused(refused) => match refused.code() {
                Code::NoSuchQueue | Code::Busy | Code::DiskFull => self.is_there = false,
                Code::ShuttingDown => {}
                code => {
                    return Err(format!("honest: {code:?}, {}, is told to a sound client", refused.detail));
                }
            },
            _ => {}
        }
        Ok(())
    }
}
