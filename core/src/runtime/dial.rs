//! Connecting to peers, on the shard's thread.
//!
//! One task finds addresses, for a name may have to be asked for on a helper thread, whose waker must belong to a task
//! that lives as long as the shard. Connecting itself takes a short task for each, so that a peer that does not answer
//! keeps nobody else waiting.

use super::signal::Signal;
use super::{Host, on_helper_thread, sleep};
use crate::peers::Dial;
use crate::shard::Input;
use futures_lite::FutureExt;
use ringmain_net::peer::Lane;
use ringmain_net::socket::Connection;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::time::Duration;

/// A peer that does not answer within this time is not there.
const CONNECT_WITHIN: Duration = Duration::from_millis(500);

/// Peers to be dialled.
#[derive(Default)]
pub(crate) struct Dials {
    waiting: RefCell<VecDeque<Dial>>,
    due: Signal,
}

impl Dials {
    pub(super) fn push(&self, dials: impl Iterator<Item = Dial>) {
        self.waiting.borrow_mut().extend(dials);
        self.due.raise();
    }

    fn pop(&self) -> Option<Dial> {
        self.waiting.borrow_mut().pop_front()
    }
}

/// Dials as long as the shard lives.
pub(super) async fn dial(host: Rc<Host>) {
    loop {
        host.dials.due.wait().await;
        while let Some(dial) = host.dials.pop() {
            if host.is_over.get() {
                return;
            }
            match resolve(&dial.address.host, dial.address.port).await {
                Some(address) => host.device(connect(host.clone(), (dial.node, dial.lane), address)),
                None => {
                    host.say(format!("node {}: nobody knows the host {}", dial.node, dial.address.host));
                    host.step(Input::Dialled { node: dial.node, lane: dial.lane, connection: None });
                }
            }
        }
    }
}

async fn resolve(host: &str, port: u16) -> Option<SocketAddr> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, port));
    }
    let host = host.to_owned();
    let find = move || (host.as_str(), port).to_socket_addrs().ok().and_then(|mut found| found.next());
    on_helper_thread(find).await
}

async fn connect(host: Rc<Host>, (node, lane): (u32, Lane), address: SocketAddr) {
    let in_time = async { Connection::connect(address).await.ok() };
    let too_late = async {
        sleep(CONNECT_WITHIN).await;
        None
    };
    let connection = in_time.or(too_late).await.filter(|_| !host.is_over.get());
    let Some(connection) = connection else {
        host.step(Input::Dialled { node, lane, connection: None });
        return;
    };
    if lane == Lane::Bulk {
        connection.lower_priority();
    }
    let id = host.next_connection();
    host.link(id, connection);
    host.step(Input::Dialled { node, lane, connection: Some(id) });
}
