//! Asking and answering while there is no shard yet: ordinary threads, blocking sockets, a deadline on everything.
//!
//! One thread for each peer asks it, and is left to itself at the end: it may hang in the name service. One thread accepts on
//! the port of the first shard, and is waited for, since the shard needs that port. Each connection has a short thread of its
//! own, so that a stranger who says nothing keeps nobody waiting.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringmain_net::frame::{self, Frame, HELLO_BYTES_MAX};
use ringmain_net::peer::{self, FORM_BYTES_MAX, FormHello, FormReply, PeerFrame};

use super::{ClusterLayout, Decision, Formation, State, joining_advice};
use crate::config::{Config, Peer};
use crate::failure::Failure;
use crate::identity::DataDirectory;

const ASK_EVERY: Duration = Duration::from_millis(100);
/// For a connection, and then again for question and answer. A round trip around the world takes 300 ms.
const ANSWER_WITHIN: Duration = Duration::from_millis(750);
/// How soon a stop, or the end, is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Lines for the person at the terminal, at most so often.
const SAY_EVERY: Duration = Duration::from_secs(2);
/// Nodes that are started together find each other sooner, and say nothing.
const SAY_AFTER: Duration = Duration::from_secs(1);
/// Connections that are answered at the same time; the others wait in the kernel.
const ANSWERS_MAX: usize = 32;
/// Addresses of one host name that are tried.
const ADDRESSES_MAX: usize = 4;

/// Ends a start that still waits for other nodes, from another thread.
#[derive(Clone, Debug, Default)]
pub struct StopFlag {
    stage: Arc<AtomicU8>,
}

const IDLE: u8 = 0;
const WAITING: u8 = 1;
const STOPPED: u8 = 2;

impl StopFlag {
    /// Ends the wait. False if there is none: the node does not wait for others, or no longer.
    pub fn stop(&self) -> bool {
        self.stage.compare_exchange(WAITING, STOPPED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn begin(&self) {
        self.stage.store(WAITING, Ordering::SeqCst);
    }

    fn is_stopped(&self) -> bool {
        self.stage.load(Ordering::SeqCst) == STOPPED
    }

    fn end(&self) -> Result<(), Failure> {
        let ended = self.stage.compare_exchange(WAITING, IDLE, Ordering::SeqCst, Ordering::SeqCst);
        ended.map(|_| ()).map_err(|_| Failure::Stopped)
    }
}

/// Makes the directory one of a cluster, if it is not yet. Returns once that is durable; the port is free again then.
pub fn form(directory: &mut DataDirectory, config: &Config, stop: &StopFlag) -> Result<(), Failure> {
    if directory.identity().state == State::Forming {
        let listener = crate::node::listen_before_shards(config)?;
        form_on(listener, directory, config, stop)?;
    }
    if let Some(advice) = joining_advice(&directory.identity().layout(), &config.own_address()) {
        eprintln!("{advice}");
    }
    Ok(())
}

fn form_on(
    listener: TcpListener,
    directory: &mut DataDirectory,
    config: &Config,
    stop: &StopFlag,
) -> Result<(), Failure> {
    stop.begin();
    let formation = Formation::new(config, directory.identity().layout());
    let exchange = Arc::new(Exchange { state: Mutex::new(Exchanged { formation, is_over: false }) });
    let outcome = exchange.run(listener, config, stop);
    let settled = outcome.and_then(|layout| directory.settle(&layout).map_err(Failure::Identity));
    settled.and(stop.end())
}

/// What the threads share.
struct Exchange {
    state: Mutex<Exchanged>,
}

struct Exchanged {
    formation: Formation,
    /// Nothing more is heard or answered. Set together with the decision, so that what this node says of itself ends with it.
    is_over: bool,
}

impl Exchange {
    /// Asks and answers until it is clear which cluster this node belongs to. The port is free again afterwards.
    fn run(
        self: &Arc<Self>,
        listener: TcpListener,
        config: &Config,
        stop: &StopFlag,
    ) -> Result<ClusterLayout, Failure> {
        let answering = Arc::clone(self);
        let answerer =
            spawn("answer".to_owned(), move || keep_answering(&listener, move || answering.card()))?;
        let started = config.peers.iter().try_for_each(|peer| {
            let (asking, peer) = (Arc::clone(self), peer.clone());
            spawn(format!("ask-{}", peer.node), move || asking.keep_asking(&peer)).map(drop)
        });
        let outcome = started.and_then(|()| self.wait(config.node, stop));
        self.state().is_over = true;
        // It ends as soon as it has no card to show, and has no reason to panic.
        let _ = answerer.join();
        outcome
    }

    fn wait(&self, node: u32, stop: &StopFlag) -> Result<ClusterLayout, Failure> {
        let mut herald = Herald::new();
        while !stop.is_stopped() {
            match self.decide() {
                // What all know is on its way around.
                Decision::Wait { missing } if missing.is_empty() => {}
                Decision::Wait { missing } => {
                    herald.say(format!("node {node} waits for {} to form the cluster", names(&missing)));
                }
                Decision::Refuse { why } => {
                    herald.say(format!("node {node} waits, since the nodes do not fit together: {why}"));
                }
                Decision::Form(layout) | Decision::Adopt(layout) | Decision::Join(layout) => {
                    return Ok(layout);
                }
            }
            thread::sleep(LOOK_EVERY);
        }
        Err(Failure::Stopped)
    }

    fn decide(&self) -> Decision {
        let mut state = self.state();
        let decision = state.formation.decide();
        state.is_over = match decision {
            Decision::Wait { .. } | Decision::Refuse { .. } => state.is_over,
            Decision::Form(_) | Decision::Adopt(_) | Decision::Join(_) => true,
        };
        decision
    }

    /// What this node says of itself, as long as it is undecided.
    fn card(&self) -> Option<peer::Formation> {
        let state = self.state();
        (!state.is_over).then(|| state.formation.card())
    }

    /// One question at a time, each on a connection of its own: an answer that comes after the next question was asked
    /// comes nowhere. The rules rely on that order.
    fn keep_asking(&self, peer: &Peer) {
        while let Some(card) = self.card() {
            let reply = ask(peer, card);
            let mut state = self.state();
            if state.is_over {
                return;
            }
            match reply {
                Ok(reply) => state.formation.on_reply(peer.node, reply),
                // Why a peer does not answer matters to nobody while it may be starting.
                Err(_) => state.formation.on_silence(peer.node),
            }
            drop(state);
            thread::sleep(ASK_EVERY);
        }
    }

    fn state(&self) -> MutexGuard<'_, Exchanged> {
        // A holder that panicked broke an invariant of ours, and the node must not go on.
        self.state.lock().expect("no holder of the lock panics")
    }
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Failure> {
    let spawned = thread::Builder::new().name(name).spawn(body);
    spawned.map_err(|source| Failure::System {
        doing: "starting a thread that talks to the other nodes",
        source,
    })
}

fn ask(peer: &Peer, card: peer::Formation) -> io::Result<peer::Formation> {
    let addresses = (peer.address.host.as_str(), peer.address.port).to_socket_addrs()?;
    let mut connected = Err(io::ErrorKind::NotFound.into());
    for address in addresses.take(ADDRESSES_MAX) {
        connected = TcpStream::connect_timeout(&address, ANSWER_WITHIN);
        if connected.is_ok() {
            break;
        }
    }
    let mut stream = connected?;
    let mut question = Vec::new();
    // Nobody needs the asker's list, and a first frame must be short.
    let hello = FormHello(peer::Formation { founders: Vec::new(), ..card });
    frame::encode(&mut question, 1, &hello, &[]);
    send(&mut stream, &question)?;
    receive(&mut stream, FORM_BYTES_MAX, |frame| match PeerFrame::decode(frame) {
        Ok(PeerFrame::FormReply(reply)) => Some(reply),
        _ => None,
    })
}

/// Answers whoever asks with what `card` gives, until it gives nothing.
fn keep_answering(
    listener: &TcpListener,
    card: impl Fn() -> Option<peer::Formation> + Send + Sync + 'static,
) {
    let card = Arc::new(card);
    // An accept that blocks could not be ended. Without it the port is answered by nobody, which others see as silence.
    if let Err(error) = listener.set_nonblocking(true) {
        eprintln!("other nodes get no answer: {error}");
        return;
    }
    while card().is_some() {
        // One is held here, one by each thread.
        let accepted = if Arc::strong_count(&card) <= ANSWERS_MAX {
            listener.accept()
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        };
        let Ok((stream, _)) = accepted else {
            thread::sleep(LOOK_EVERY);
            continue;
        };
        let card = Arc::clone(&card);
        // A stranger's connection that fails, or a thread that the system refuses: whoever asked asks again.
        let _ = thread::Builder::new().name("answer-one".to_owned()).spawn(move || answer(stream, &*card));
    }
}

fn answer(mut stream: TcpStream, card: impl Fn() -> Option<peer::Formation>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let request = receive(&mut stream, HELLO_BYTES_MAX, |frame| match PeerFrame::decode(frame) {
        Ok(PeerFrame::FormHello(_)) => Some(frame.request),
        _ => None,
    })?;
    let Some(card) = card() else {
        return Ok(());
    };
    let mut reply = Vec::new();
    frame::encode(&mut reply, request, &FormReply(card), &[]);
    send(&mut stream, &reply)
}

fn send(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(bytes)
}

/// Reads one whole frame; `take` says what is wanted of it.
fn receive<T>(
    stream: &mut TcpStream,
    frame_bytes_max: u32,
    take: impl Fn(&Frame<'_>) -> Option<T>,
) -> io::Result<T> {
    let deadline = Instant::now() + ANSWER_WITHIN;
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let bytes = stream.read(&mut buffer)?;
        if bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        received.extend_from_slice(&buffer[..bytes]);
        if let Some(frame) = frame::split(&received, frame_bytes_max).map_err(io::Error::other)? {
            return take(&frame).ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
    }
}

/// Tells the person at the terminal what has changed, and not too often.
struct Herald {
    said: String,
    /// Not before this moment.
    next: Instant,
}

impl Herald {
    fn new() -> Self {
        Self { said: String::new(), next: Instant::now() + SAY_AFTER }
    }

    fn say(&mut self, text: String) {
        let now = Instant::now();
        if now < self.next || text == self.said {
            return;
        }
        eprintln!("{text}");
        (self.said, self.next) = (text, now + SAY_EVERY);
    }
}

/// `node 2`, `nodes 2 and 3`, `nodes 2, 3 and 4`.
fn names(nodes: &[u32]) -> String {
    match nodes {
        [] => "nobody".to_owned(),
        [node] => format!("node {node}"),
        [others @ .., last] => {
            let others: Vec<String> = others.iter().map(u32::to_string).collect();
            format!("nodes {} and {last}", others.join(", "))
        }
    }
}

#[cfg(test)]
mod tests;
