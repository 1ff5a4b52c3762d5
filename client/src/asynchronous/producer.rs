//! Publishing from async code.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::Handle;
use super::budget::Budget;
use super::worker::{Command, OpenedProducer, Publish};
use crate::error::Error;
use crate::message::Message;
use crate::receipt::{Receipt, Sequence};

/// Publishes to one queue, in the order in which messages are handed over, with many publishes in flight.
///
/// A publish that is *refused* (a full queue, a busy shard) is left out, and those behind it are not held up.
#[derive(Clone, Debug)]
pub struct Producer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    handle: Arc<Handle>,
    id: u64,
    budget: Arc<Budget>,
    first_sequence: Sequence,
    message_bytes_max: u32,
}

/// Why a message was not taken, and the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrySendError {
    /// As it was given.
    pub message: Message<'static>,
    /// [`Error::Full`] if there was no room, which passes.
    pub error: Error,
}

impl fmt::Display for TrySendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for TrySendError {}

/// The receipt of a message that has been taken. Dropping it does not take the message back.
#[derive(Debug)]
#[must_use = "whether the message is durable is known when this is awaited"]
pub struct PendingReceipt {
    answer: flume::r#async::RecvFut<'static, Result<Receipt, Error>>,
}

impl Future for PendingReceipt {
    type Output = Result<Receipt, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or(Err(Error::Closed)))
    }
}

impl Producer {
    pub(super) async fn open(handle: &Arc<Handle>, queue: &str, name: &str) -> Result<Self, Error> {
        let (queue, name) = (queue.to_owned(), name.to_owned());
        let opened = handle.ask(|reply| Command::OpenProducer { queue, name, reply }).await?;
        let OpenedProducer { id, budget, first_sequence, message_bytes_max } = opened;
        let handle = Arc::clone(handle);
        Ok(Self { shared: Arc::new(Shared { handle, id, budget, first_sequence, message_bytes_max }) })
    }

    /// Publishes a message and waits for its receipt. While the window is full it waits for room first.
    ///
    /// Dropped before it is ready, the message may or may not have been taken; if it was, it is sent all the same.
    pub async fn send(&self, message: impl Into<Message<'static>>) -> Result<Receipt, Error> {
        self.enqueue(message).await?.await
    }

    /// Hands a message over, waiting for room if need be; the receipt is awaited apart. Messages are published in
    /// the order of these calls, so this is how one task keeps many in flight.
    pub async fn enqueue(&self, message: impl Into<Message<'static>>) -> Result<PendingReceipt, Error> {
        self.enqueue_batch(vec![message.into()]).await
    }

    /// Hands messages over as one publish: one sequence, one receipt, stored wholly or not at all. 1 to 16,384
    /// messages, together at most a frame (4 MiB unless the broker says otherwise).
    pub async fn enqueue_batch(&self, messages: Vec<Message<'static>>) -> Result<PendingReceipt, Error> {
        let bytes = self.measure(&messages)?;
        self.shared.budget.take(bytes).await;
        let (publish, pending) = self.publish(messages, bytes);
        self.shared.handle.say(publish).await?;
        Ok(pending)
    }

    /// Hands a message over if there is room now; [`Error::Full`] and the message if not.
    pub fn try_send(
        &self,
        message: impl Into<Message<'static>>,
    ) -> Result<PendingReceipt, Box<TrySendError>> {
        let message = message.into();
        let bytes = match self.measure(std::slice::from_ref(&message)) {
            Ok(bytes) => bytes,
            Err(error) => return Err(Box::new(TrySendError { message, error })),
        };
        if !self.shared.budget.try_take(bytes) {
            return Err(Box::new(TrySendError { message, error: Error::Full }));
        }
        let (publish, pending) = self.publish(vec![message], bytes);
        match self.shared.handle.try_say(publish) {
            Ok(()) => Ok(pending),
            Err(refused) => {
                let (command, error) = *refused;
                self.shared.budget.give(bytes);
                let message = match command {
                    Command::Publish(mut publish) => publish.messages.pop().unwrap_or_default(),
                    _ => Message::default(),
                };
                Err(Box::new(TrySendError { message, error }))
            }
        }
    }

    fn measure(&self, messages: &[Message<'_>]) -> Result<usize, Error> {
        let mut bytes = 0;
        for message in messages {
            message.head(self.shared.message_bytes_max)?;
            bytes += message.bytes();
        }
        Ok(bytes)
    }

    fn publish(&self, messages: Vec<Message<'static>>, bytes: usize) -> (Command, PendingReceipt) {
        let (reply, answer) = flume::bounded(1);
        let publish = Publish { producer: self.shared.id, messages, bytes, reply };
        (Command::Publish(publish), PendingReceipt { answer: answer.into_recv_async() })
    }

    /// The sequence that the first message of this producer gets: 1, or for a named one the next after the last that
    /// is stored.
    pub fn first_sequence(&self) -> Sequence {
        self.shared.first_sequence
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // What was taken is still sent. If there is no room to say so, the producer goes with its client.
        let _ = self.handle.try_say(Command::LeaveProducer { producer: self.id });
    }
}
