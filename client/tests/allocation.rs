//! The blocking client allocates nothing per message once its buffers have their size.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod fake;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use fake::Fake;
use ringmain_client::Message;
use ringmain_client::blocking::{Client, Consumer, Producer};

thread_local! {
    /// Allocations of this thread; the shard has its own.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// An allocator that counts cannot be written without this trait.
#[allow(unsafe_code)]
// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Publishes, and consumes what was published.
fn round(client: &Client, producer: &mut Producer, consumer: &mut Consumer, count: usize) {
    let payload = [7; 256];
    let (mut offered, mut finished, mut consumed) = (0, 0, 0);
    while finished < count || consumed < count {
        for _ in 0..16 {
            if offered < count && producer.offer(&Message::new(&payload)).is_ok() {
                offered += 1;
            }
        }
        finished += producer.poll(|completion| assert!(completion.result.is_ok()));
        consumed += consumer.poll(64, |delivery| delivery.ack()).unwrap();
        client.idle();
    }
}

#[test]
fn a_message_costs_no_allocation() {
    let fake = Fake::start();
    fake.add_queue("orders");
    let client = Client::builder().heartbeat(Duration::from_secs(30), Duration::from_secs(60));
    let client = client.connect(&fake.address()).unwrap();
    let mut producer = client.producer("orders").unwrap();
    let mut consumer = client.consumer("orders", 64).unwrap();
    round(&client, &mut producer, &mut consumer, 20_000);
    let before = ALLOCATIONS.with(Cell::get);
    round(&client, &mut producer, &mut consumer, 20_000);
    let allocations = ALLOCATIONS.with(Cell::get) - before;
    // Usually none. A buffer may still find that it needs more than it ever did.
    assert!(allocations < 50, "{allocations} allocations for 20,000 messages out and in");
}
