//! Looks host names up beside the thread that drives a client: the system's resolver may take many seconds.
//!
//! Each name is asked for on a thread of its own, once however many wait for it, and so many at a time. A thread that hangs
//! in the name service is left to itself; its answer comes late or never.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, mpsc};
use std::thread;

use mio::Waker;

use crate::options::Address;

/// Names that are looked up at the same time; the others wait for their turn.
const LOOKUPS_MAX: usize = 8;

/// Where a name leads, or why it leads nowhere.
type Found = Result<Vec<SocketAddr>, String>;
type Answer = (Address, Found);

/// What a helper thread does with a name.
pub(crate) type LookUp = fn(&Address) -> Found;

#[derive(Debug)]
pub(crate) struct Resolver {
    look_up: LookUp,
    /// Wakes the driving thread where that sleeps.
    waker: Option<Arc<Waker>>,
    answers: (mpsc::Sender<Answer>, mpsc::Receiver<Answer>),

    /// Each with a thread. Invariant: at most `LOOKUPS_MAX`.
    under_way: BTreeSet<Address>,
    /// Links that wait for an address, and how often theirs was dialled in vain. Each link is there at most once.
    waiting: VecDeque<(usize, Address, u32)>,
    answered: VecDeque<(usize, Result<SocketAddr, String>)>,
}

/// The socket address, where the host is an IP address and no name.
pub(crate) fn literal(address: &Address) -> Option<SocketAddr> {
    let ip: IpAddr = address.host.parse().ok()?;
    Some(SocketAddr::new(ip, address.port))
}

/// What the system says.
pub(crate) fn ask_system(address: &Address) -> Found {
    let found = (address.host.as_str(), address.port).to_socket_addrs();
    found.map(Iterator::collect).map_err(|error| error.to_string())
}

impl Resolver {
    pub(crate) fn new(look_up: LookUp, waker: Option<Arc<Waker>>) -> Self {
        Self {
            look_up,
            waker,
            answers: mpsc::channel(),
            under_way: BTreeSet::new(),
            waiting: VecDeque::new(),
            answered: VecDeque::new(),
        }
    }

    /// The answer for this link comes from [`Resolver::poll`]; of several addresses, each further try gets the next.
    pub(crate) fn ask(&mut self, link: usize, address: Address, attempt: u32) {
        self.forget(link);
        self.waiting.push_back((link, address, attempt));
        self.begin();
    }

    /// The link waits no more.
    pub(crate) fn forget(&mut self, link: usize) {
        self.waiting.retain(|(waits, ..)| *waits != link);
        self.answered.retain(|(waits, _)| *waits != link);
    }

    /// A link whose name was looked up, and where to connect it.
    pub(crate) fn poll(&mut self) -> Option<(usize, Result<SocketAddr, String>)> {
        while let Ok((address, found)) = self.answers.1.try_recv() {
            self.under_way.remove(&address);
            self.on_found(&address, &found);
            self.begin();
        }
        self.answered.pop_front()
    }

    fn on_found(&mut self, address: &Address, found: &Found) {
        let answered = &mut self.answered;
        self.waiting.retain(|(link, wanted, attempt)| {
            if wanted == address {
                answered.push_back((*link, choose(found, *attempt)));
            }
            wanted != address
        });
    }

    /// Starts as many threads as may run.
    fn begin(&mut self) {
        for (_, address, _) in &self.waiting {
            if self.under_way.len() == LOOKUPS_MAX || self.under_way.contains(address) {
                continue;
            }
            let (look_up, name, answers) = (self.look_up, address.clone(), self.answers.0.clone());
            let waker = self.waker.clone();
            let work = move || {
                let found = look_up(&name);
                // A client that is gone needs no answer, and no waking.
                let _ = answers.send((name, found));
                let _ = waker.map(|waker| waker.wake());
            };
            // Without a thread the link waits until dialling has taken too long, and is tried again.
            if thread::Builder::new().name("ringmain-lookup".to_owned()).spawn(work).is_ok() {
                self.under_way.insert(address.clone());
            }
        }
        assert!(self.under_way.len() <= LOOKUPS_MAX);
    }
}

fn choose(found: &Found, attempt: u32) -> Result<SocketAddr, String> {
    let found = found.as_ref().map_err(Clone::clone)?;
    let target = found.get(attempt as usize % found.len().max(1));
    target.copied().ok_or_else(|| "the host has no address".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, MutexGuard};

    use super::*;

    /// While it is held, the name service says nothing.
    static SILENT: Mutex<()> = Mutex::new(());
    static ASKED: AtomicUsize = AtomicUsize::new(0);

    fn address(host: &str) -> Address {
        Address { host: host.to_owned(), port: 7411 }
    }

    fn slowly(address: &Address) -> Found {
        ASKED.fetch_add(1, Ordering::SeqCst);
        drop(SILENT.lock().unwrap());
        match address.host.as_str() {
            "nowhere" => Ok(Vec::new()),
            "nobody" => Err("no such host".to_owned()),
            _ => Ok([1, 2].map(|last| SocketAddr::from(([10, 0, 0, last], address.port))).to_vec()),
        }
    }

    fn until<T>(mut ask: impl FnMut() -> Option<T>) -> T {
        loop {
            match ask() {
                Some(answer) => return answer,
                None => thread::yield_now(),
            }
        }
    }

    #[test]
    fn address_needs_no_thread() {
        assert_eq!(literal(&address("10.0.0.1")).unwrap().to_string(), "10.0.0.1:7411");
        assert_eq!(literal(&address("::1")).unwrap().to_string(), "[::1]:7411");
        assert_eq!(literal(&address("mq1.example")), None);
    }

    #[test]
    fn slow_name_service_holds_up_nobody_and_few_threads() {
        let silence: MutexGuard<'_, ()> = SILENT.lock().unwrap();
        let mut resolver = Resolver::new(slowly, None);
        // One name that two links want, the second of them for another try, and more names than may be asked for.
        resolver.ask(0, address("name"), 0);
        resolver.ask(1, address("name"), 1);
        for link in 2..20 {
            resolver.ask(link, address(&format!("name-{link}")), 0);
        }
        until(|| (ASKED.load(Ordering::SeqCst) == LOOKUPS_MAX).then_some(()));
        assert_eq!(resolver.poll(), None);
        assert_eq!(resolver.under_way.len(), LOOKUPS_MAX);
        resolver.forget(19);
        resolver.ask(18, address("nobody"), 0);
        resolver.ask(17, address("nowhere"), 0);
        drop(silence);
        let mut answers: Vec<_> = (0..19).map(|_| until(|| resolver.poll())).collect();
        answers.sort();
        let told = |link: usize| answers[link].1.clone().map(|found| found.to_string());
        assert_eq!(told(0), Ok("10.0.0.1:7411".to_owned()));
        assert_eq!(told(1), Ok("10.0.0.2:7411".to_owned()));
        assert_eq!(told(17), Err("the host has no address".to_owned()));
        assert_eq!(told(18), Err("no such host".to_owned()));
        assert!(answers.iter().map(|(link, _)| *link).eq(0..19));
        // What 17, 18 and 19 had wanted before its turn came was never asked for.
        assert_eq!(ASKED.load(Ordering::SeqCst), 18);
        assert_eq!((resolver.poll(), resolver.under_way.len()), (None, 0));
    }
}
