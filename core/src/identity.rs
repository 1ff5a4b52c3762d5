//! Whose data a directory holds. `identity.toml` says it in words a person can read, `lock` keeps a second process out, and
//! everything else in the directory is the log's. A directory that is not certainly this node's is refused and left as it
//! is: nothing here ever deletes, moves or overwrites what somebody else wrote.
//!
//! ```text
//! DIR/identity.toml   written when the directory is made and again when its node becomes part of a cluster, never
//!                     afterwards: to identity.toml.new, made durable, renamed
//! DIR/lock            held with flock(2) as long as the process lives; the text in it is the holder's process id
//! DIR/shard-0000/ …   the log of each shard
//! DIR/spared-0000 …   there as long as the other nodes can make that shard whole
//! ```

mod document;
mod spared;

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::{Bytes, Config};
use crate::formation::{ClusterLayout, Founder, State};
use document::{FORMAT, Refusal};
pub(crate) use spared::Spared;

const IDENTITY: &str = "identity.toml";
const IDENTITY_NEW: &str = "identity.toml.new";
const LOCK: &str = "lock";
/// A whole identity has about 400 bytes, and with seven founders of the longest names 2.5 KiB; what is longer is none.
const IDENTITY_BYTES_MAX: u64 = 4096;

/// What every record of the log repeats, and what can never change once there is a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// 0 while forming.
    pub cluster: u64,
    pub node: u32,
    /// Another one for each time that a node starts with an empty directory, so that a wiped node is not taken for its old self.
    pub incarnation: u32,
    pub shards: u32,
    /// Groups of one shard, one for each founder; 0 while forming.
    pub groups: u32,
    pub segment_bytes: u64,
    /// When the directory was made, in UTC.
    pub created: String,
    pub state: State,
    /// The nodes that the cluster was formed from, by id; none while forming.
    pub founders: Vec<Founder>,
    /// The incarnation whose log was found rotten and is set aside; 0: none.
    pub replaces: u32,
    /// Where that log is being moved, until it is there.
    aside: String,
}

/// A data directory that is this node's, locked until this value is dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    identity: Identity,
    fresh: bool,
    /// Held for its lock.
    _lock: File,
}

/// Why a directory is refused. Whatever the reason, nothing in it has been changed.
#[derive(Debug)]
pub enum IdentityError {
    /// The system refused: `doing` says what was being done.
    System {
        path: PathBuf,
        doing: &'static str,
        source: io::Error,
    },
    NotADirectory {
        path: PathBuf,
    },
    InUse {
        path: PathBuf,
        process: String,
    },
    /// It holds files, and none of them says that it is a node's.
    NotOurs {
        path: PathBuf,
        found: String,
    },
    Unreadable {
        path: PathBuf,
        why: String,
    },
    NewerFormat {
        path: PathBuf,
        format: u32,
    },
    OtherNode {
        path: PathBuf,
        found: u32,
        expected: u32,
    },
    OtherShards {
        path: PathBuf,
        found: u32,
        expected: u32,
    },
    OtherSegments {
        path: PathBuf,
        found: u64,
        expected: u64,
    },
    /// It waits for other nodes, and the configuration names none.
    NobodyToFormWith {
        path: PathBuf,
    },
    NoPorts {
        why: String,
    },
}

impl DataDirectory {
    /// Opens the data directory of this node, or makes it when it does not exist or is empty.
    ///
    /// `cores` is the number of shards of a new directory for which the configuration names none.
    pub fn open(config: &Config, cores: u32) -> Result<Self, IdentityError> {
        assert!(cores >= 1);
        let path = config.data.as_path();
        make_directory(path)?;
        // Look before the lock file is made: a directory of somebody else stays as it is.
        let known = path.join(IDENTITY).try_exists().map_err(system(path, "looking for identity.toml"))?;
        if !known {
            refuse_strangers(path)?;
        }
        let lock = acquire_lock(path)?;
        // Look again under the lock: another process may have made the directory its own in between.
        let fresh = !path.join(IDENTITY).try_exists().map_err(system(path, "looking for identity.toml"))?;
        let identity = if fresh {
            refuse_strangers(path)?;
            let identity = Identity::draw(config, cores)?;
            identity.write(path)?;
            identity
        } else {
            Identity::read(path)?.fitted(config)?
        };
        identity.refuse_other(config)?;
        let mut directory = Self { path: path.to_owned(), identity, fresh, _lock: lock };
        directory.set_aside()?;
        Ok(directory)
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory was made by this start: there is no log in it yet.
    pub fn fresh(&self) -> bool {
        self.fresh
    }

    /// Makes it durable that the node is part of this cluster, or waits to be. Returns once nothing can undo it.
    pub fn settle(&mut self, layout: &ClusterLayout) -> Result<(), IdentityError> {
        assert_eq!(layout.replica(), self.identity.layout().replica());
        assert_eq!(layout.segment_bytes, self.identity.segment_bytes);
        assert_eq!(layout.refusal(), None);
        match self.identity.state {
            State::Forming => assert_ne!(layout.state, State::Forming),
            // What a log was begun with never changes.
            State::Joining | State::Formed => {
                assert_eq!(layout.state, State::Formed);
                assert_eq!((layout.cluster, layout.shards), (self.identity.cluster, self.identity.shards));
                assert_eq!(
                    (layout.groups, &layout.founders),
                    (self.identity.groups, &self.identity.founders)
                );
            }
        }
        let identity = Identity {
            cluster: layout.cluster,
            shards: layout.shards,
            groups: layout.groups,
            state: layout.state,
            founders: layout.founders.clone(),
            replaces: if layout.state == State::Formed { 0 } else { self.identity.replaces },
            ..self.identity.clone()
        };
        identity.write(&self.path)?;
        self.identity = identity;
        Ok(())
    }

    /// The log is not what was written to it: it is set aside, where nobody deletes it, and the node goes on as another
    /// replica, which knows nothing yet and has promised nothing. Answers where the log is now.
    ///
    /// 1. The new identity is durable first. Were the log moved first, a crash would leave the old identity with an empty
    ///    log: a replica that votes again where it has voted.
    /// 2. Then the log is moved; after a crash the next start goes on with it before it makes a log of its own.
    pub fn quarantine(&mut self) -> Result<PathBuf, IdentityError> {
        let taken = |name: &String| self.path.join(name).exists();
        let names = (1..).map(|number| format!("quarantined-{number}"));
        let aside = names.into_iter().find(|name| !taken(name)).expect("numbers do not end");
        let random = getrandom::u32().map_err(|error| {
            system(&self.path, "drawing a random incarnation")(io::Error::other(error.to_string()))
        })?;
        let replaces = self.identity.incarnation;
        let mut incarnation = random.max(1);
        if incarnation == replaces {
            incarnation = incarnation.wrapping_add(1).max(1);
        }
        let (state, identity) = (State::Joining, self.identity.clone());
        let identity = Identity { incarnation, state, replaces, aside: aside.clone(), ..identity };
        identity.write(&self.path)?;
        self.identity = identity;
        self.set_aside()?;
        Ok(self.path.join(aside))
    }

    /// Moves the log of a former life to where the identity says, if it says so.
    fn set_aside(&mut self) -> Result<(), IdentityError> {
        if self.identity.aside.is_empty() {
            return Ok(());
        }
        let aside = self.path.join(&self.identity.aside);
        let move_all = || -> io::Result<()> {
            fs::create_dir_all(&aside)?;
            for shard in 0..self.identity.shards {
                let from = self.shard_path(shard);
                if from.exists() {
                    fs::rename(&from, aside.join(from.file_name().unwrap_or_default()))?;
                }
            }
            File::open(&aside)?.sync_all()?;
            File::open(&self.path)?.sync_all()
        };
        move_all().map_err(system(&self.path, "setting a rotten log aside"))?;
        let identity = Identity { aside: String::new(), ..self.identity.clone() };
        identity.write(&self.path)?;
        self.identity = identity;
        Ok(())
    }

    /// What is known of whether the other nodes can do without this shard's log.
    pub(crate) fn spared(&self, shard: u32) -> Spared {
        assert!(shard < self.identity.shards);
        Spared::new(&self.path, shard)
    }

    /// The other nodes have all that was acknowledged, and can make this one whole.
    pub fn is_spared(&self) -> bool {
        (0..self.identity.shards).all(|shard| self.spared(shard).holds())
    }

    /// Where one shard keeps its log.
    pub fn shard_path(&self, shard: u32) -> PathBuf {
        assert!(shard < self.identity.shards);
        self.path.join(format!("shard-{shard:04}"))
    }
}

impl Identity {
    /// Reads the identity of a stopped or running node; takes no lock and changes nothing.
    pub fn read(directory: &Path) -> Result<Self, IdentityError> {
        let path = directory.join(IDENTITY);
        let mut text = String::new();
        let file = File::open(&path).map_err(system(&path, "opening it"))?;
        let unreadable = |why: String| IdentityError::Unreadable { path: path.clone(), why };
        match file.take(IDENTITY_BYTES_MAX + 1).read_to_string(&mut text) {
            Ok(bytes) if bytes as u64 > IDENTITY_BYTES_MAX => {
                return Err(unreadable("it is too long".to_owned()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(unreadable("it is not text".to_owned()));
            }
            Err(error) => return Err(system(&path, "reading it")(error)),
        }
        document::parse(&text).map_err(|refusal| match refusal {
            Refusal::Why(why) => unreadable(why),
            Refusal::NewerFormat(format) => IdentityError::NewerFormat { path: path.clone(), format },
        })
    }

    /// What the shards of the node, and other nodes, are told of it.
    pub fn layout(&self) -> ClusterLayout {
        ClusterLayout {
            cluster: self.cluster,
            node: self.node,
            incarnation: self.incarnation,
            shards: self.shards,
            groups: self.groups,
            segment_bytes: self.segment_bytes,
            state: self.state,
            founders: self.founders.clone(),
            replaces: self.replaces,
        }
    }

    fn draw(config: &Config, cores: u32) -> Result<Self, IdentityError> {
        let refused = |error: getrandom::Error| {
            system(&config.data, "drawing a random cluster id")(io::Error::other(error.to_string()))
        };
        let random = getrandom::u64().map_err(refused)?;
        let incarnation = getrandom::u32().map_err(refused)?;
        // 0 means "any cluster" to a client and "not yet" to a node.
        let (cluster, incarnation) = (random.max(1), incarnation.max(1));
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let forming = Self {
            cluster: 0,
            node: config.node,
            incarnation,
            shards: config.shards.unwrap_or(cores),
            groups: 0,
            segment_bytes: config.limits.segment_bytes.0,
            created: utc(elapsed.as_secs()),
            state: State::Forming,
            founders: Vec::new(),
            replaces: 0,
            aside: String::new(),
        };
        if !config.peers.is_empty() {
            return Ok(forming);
        }
        let itself = Founder { node: config.node, incarnation, address: config.own_address() };
        Ok(Self { cluster, groups: 1, state: State::Formed, founders: vec![itself], ..forming })
    }

    /// What a log fixes may still change while there is none: whoever runs nodes that do not fit together mends it so.
    fn fitted(self, config: &Config) -> Result<Self, IdentityError> {
        let shards = config.shards.unwrap_or(self.shards);
        let segment_bytes = config.limits.segment_bytes.0;
        let fits = (shards, segment_bytes) == (self.shards, self.segment_bytes);
        if fits || self.state != State::Forming || self.node != config.node {
            return Ok(self);
        }
        let fitted = Self { shards, segment_bytes, ..self };
        fitted.write(&config.data)?;
        Ok(fitted)
    }

    /// Durable before anything refers to it: the file first, then its name, then the directory that holds the name.
    fn write(&self, directory: &Path) -> Result<(), IdentityError> {
        let text = document::write(self);
        let path = directory.join(IDENTITY_NEW);
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&path, directory.join(IDENTITY))?;
            File::open(directory)?.sync_all()
        };
        write().map_err(system(directory, "writing identity.toml"))
    }

    fn refuse_other(&self, config: &Config) -> Result<(), IdentityError> {
        let path = || config.data.clone();
        if self.node != config.node {
            return Err(IdentityError::OtherNode { path: path(), found: self.node, expected: config.node });
        }
        if let Some(expected) = config.shards.filter(|shards| *shards != self.shards) {
            return Err(IdentityError::OtherShards { path: path(), found: self.shards, expected });
        }
        let expected = config.limits.segment_bytes.0;
        if self.segment_bytes != expected {
            return Err(IdentityError::OtherSegments { path: path(), found: self.segment_bytes, expected });
        }
        if self.state == State::Forming && config.peers.is_empty() {
            return Err(IdentityError::NobodyToFormWith { path: path() });
        }
        config.port_refusal(self.shards).map_or(Ok(()), |why| Err(IdentityError::NoPorts { why }))
    }
}

fn make_directory(path: &Path) -> Result<(), IdentityError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(IdentityError::NotADirectory { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path).map_err(system(path, "making the directory"))?;
            // The name of a new directory is durable once its parent is.
            let parent =
                path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let synced = File::open(parent).and_then(|parent| parent.sync_all());
            synced.map_err(system(parent, "making the new directory's name durable"))
        }
        Err(error) => Err(system(path, "looking at it")(error)),
    }
}

/// A directory without an identity may hold only what an interrupted first start, or a freshly made filesystem, leaves there.
fn refuse_strangers(path: &Path) -> Result<(), IdentityError> {
    for entry in fs::read_dir(path).map_err(system(path, "listing it"))? {
        let name = entry.map_err(system(path, "listing it"))?.file_name();
        if name != LOCK && name != IDENTITY_NEW && name != "lost+found" {
            let found = name.to_string_lossy().into_owned();
            return Err(IdentityError::NotOurs { path: path.to_owned(), found });
        }
    }
    Ok(())
}

fn acquire_lock(directory: &Path) -> Result<File, IdentityError> {
    let path = directory.join(LOCK);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = file.map_err(system(&path, "opening the lock file"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut process = String::new();
            // The holder's number is a courtesy; without it the refusal is just as right.
            let _ = (&file).take(32).read_to_string(&mut process);
            return Err(IdentityError::InUse {
                path: directory.to_owned(),
                process: process.trim().to_owned(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(system(&path, "locking it")(error)),
    }
    let mut record = || {
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())
    };
    record().map_err(system(&path, "writing to the lock file"))?;
    Ok(file)
}

fn system(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::System { path, doing, source }
}

/// Seconds since 1970 as `2026-03-21T17:04:05Z`, in the Gregorian calendar (Hinnant's `civil_from_days`).
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years run from March, so that the day of a leap year is the last one; eras of 400 years repeat.
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

impl fmt::Display for IdentityError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System { path, doing, source } => {
                write!(formatter, "{}: {doing}: {source}", path.display())
            }
            Self::NotADirectory { path } => {
                write!(formatter, "{}: is a file, not a directory", path.display())
            }
            Self::InUse { path, process } if process.is_empty() => {
                write!(formatter, "{}: another process uses this data directory", path.display())
            }
            Self::InUse { path, process } => {
                write!(formatter, "{}: process {process} uses this data directory", path.display())
            }
            Self::NotOurs { path, found } => write!(
                formatter,
                "{}: is not empty and is no data directory of Ringmain (it holds `{found}` and no identity.toml); \
                 nothing in it was changed",
                path.display()
            ),
            Self::Unreadable { path, why } => write!(
                formatter,
                "{}: cannot be understood: {why}; nothing was changed. Bring the file back from a copy, or start with an empty directory",
                path.display()
            ),
            Self::NewerFormat { path, format } => write!(
                formatter,
                "{}: is in format {format}, and this program knows formats up to {FORMAT}: it was made by a newer one",
                path.display()
            ),
            Self::OtherNode { path, found, expected } => write!(
                formatter,
                "{}: is the data directory of node {found}, and this is node {expected}",
                path.display()
            ),
            Self::OtherShards { path, found, expected } => write!(
                formatter,
                "{}: was made for {found} shards, and this node is to have {expected}; the number is fixed when the directory is made",
                path.display()
            ),
            Self::OtherSegments { path, found, expected } => write!(
                formatter,
                "{}: has segments of {}, and limits.segment_bytes is {}; the size is fixed when the directory is made",
                path.display(),
                Bytes(*found),
                Bytes(*expected)
            ),
            Self::NobodyToFormWith { path } => write!(
                formatter,
                "{}: was made to form a cluster with other nodes, and the configuration lists none; \
                 list them, or start alone with an empty directory",
                path.display()
            ),
            Self::NoPorts { why } => formatter.write_str(why),
        }
    }
}

impl std::error::Error for IdentityError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Self::System { source, .. } = self { Some(source) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Address;

    fn config(path: &Path) -> Config {
        Config::new(1, path.to_owned(), Address { host: "127.0.0.1".to_owned(), port: 0 })
    }

    fn refusal(config: &Config) -> String {
        DataDirectory::open(config, 2).unwrap_err().to_string()
    }

    /// Every name, size and content below the directory.
    fn listing(path: &Path) -> Vec<(String, Vec<u8>)> {
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        let read = |path: PathBuf| (path.display().to_string(), fs::read(path).unwrap_or_default());
        let mut listing: Vec<_> = entries.map(read).collect();
        listing.sort();
        listing
    }

    #[test]
    fn an_identity_survives_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(&directory.path().join("a/b"));
        let first = DataDirectory::open(&config, 2).unwrap();
        assert!(first.fresh());
        let identity = first.identity().clone();
        assert_eq!((identity.node, identity.shards, identity.segment_bytes), (1, 2, 64 << 20));
        drop(first);
        // The number of cores changes, the number of shards does not.
        let second = DataDirectory::open(&config, 16).unwrap();
        assert!(!second.fresh());
        assert_eq!(*second.identity(), identity);
        assert!(second.shard_path(1).ends_with("a/b/shard-0001"));
    }

    #[test]
    fn node_alone_is_a_cluster_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(&config(directory.path()), 2).unwrap();
        let layout = directory.identity().layout();
        assert_eq!((layout.state, layout.groups), (State::Formed, 1));
        assert_eq!(layout.founding_replicas(), [layout.replica()]);
        assert_ne!(layout.cluster, 0);
    }

    #[test]
    fn forming_survives_a_restart_and_ends_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::new(1, directory.path().to_owned(), "h:7411".parse().unwrap());
        config.list_nodes(vec!["2=i:7411".parse().unwrap()]).unwrap();
        let first = DataDirectory::open(&config, 2).unwrap().identity().layout();
        assert_eq!((first.state, first.cluster), (State::Forming, 0));
        // There is no log yet, and nothing that a number of shards would have fixed.
        config.shards = Some(3);
        let first = ClusterLayout { shards: 3, ..first };
        let mut second = DataDirectory::open(&config, 2).unwrap();
        assert_eq!(second.identity().layout(), first);

        let founder = |peer: crate::config::Peer| Founder {
            node: peer.node,
            incarnation: if peer.node == 1 { first.incarnation } else { 9 },
            address: peer.address,
        };
        let founders = config.nodes().into_iter().map(founder).collect();
        let formed = ClusterLayout { cluster: 7, groups: 2, state: State::Formed, founders, ..first };
        second.settle(&formed).unwrap();
        drop(second);
        assert_eq!(DataDirectory::open(&config, 2).unwrap().identity().layout(), formed);
        config.shards = Some(4);
        assert!(refusal(&config).contains("was made for 3 shards"));
    }

    #[test]
    fn forming_alone_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::new(1, directory.path().to_owned(), "h:7411".parse().unwrap());
        config.list_nodes(vec!["2=i:7411".parse().unwrap()]).unwrap();
        drop(DataDirectory::open(&config, 2).unwrap());
        config.peers.clear();
        assert!(refusal(&config).contains("was made to form a cluster with other nodes"));
    }

    #[test]
    fn one_process_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        let _first = DataDirectory::open(&config, 2).unwrap();
        assert!(
            refusal(&config).ends_with(&format!("process {} uses this data directory", std::process::id()))
        );
    }

    #[test]
    fn a_directory_of_another_node_is_refused_untouched() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path());
        drop(DataDirectory::open(&config, 2).unwrap());
        let before = fs::read(directory.path().join(IDENTITY)).unwrap();
        config.node = 2;
        assert!(refusal(&config).ends_with("is the data directory of node 1, and this is node 2"));
        config.node = 1;
        config.shards = Some(3);
        assert!(refusal(&config).contains("was made for 2 shards, and this node is to have 3"));
        config.shards = None;
        config.limits.segment_bytes = Bytes(128 << 20);
        assert!(refusal(&config).contains("has segments of 64 MiB, and limits.segment_bytes is 128 MiB"));
        assert_eq!(fs::read(directory.path().join(IDENTITY)).unwrap(), before);
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused_untouched() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("thesis.tex"), "years of work").unwrap();
        let before = listing(directory.path());
        assert!(
            refusal(&config(directory.path())).contains("is not empty and is no data directory of Ringmain")
        );
        assert_eq!(listing(directory.path()), before);
        let file = directory.path().join("thesis.tex");
        assert!(refusal(&config(&file)).ends_with("is a file, not a directory"));
    }

    #[test]
    fn a_first_start_that_was_interrupted_is_made_good() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(LOCK), "12345\n").unwrap();
        fs::write(directory.path().join(IDENTITY_NEW), "format = ").unwrap();
        assert!(DataDirectory::open(&config(directory.path()), 2).unwrap().fresh());
    }

    #[test]
    fn a_broken_identity_is_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        drop(DataDirectory::open(&config, 2).unwrap());
        let path = directory.path().join(IDENTITY);
        let whole = fs::read_to_string(&path).unwrap();
        for (text, fragment) in [
            (String::new(), "missing field `format`"),
            (whole[..whole.len() / 2].to_owned(), "cannot be understood"),
            (whole.replace("format = 2", "format = 9"), "was made by a newer one"),
            (whole.replace("node = 1", "node = 0"), "must be at least 1"),
            (whole.replace("0x", ""), "is no cluster id"),
            (whole.replace("shards", "shade"), "unknown field"),
            ("#".repeat(10_000), "it is too long"),
        ] {
            fs::write(&path, &text).unwrap();
            let why = refusal(&config);
            assert!(why.contains(fragment), "{text:?} was refused with {why:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        fs::write(&path, [0xff; 64]).unwrap();
        assert!(refusal(&config).contains("it is not text"));
    }

    #[test]
    fn node_is_spared_once_each_of_its_shards_is() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        let made = DataDirectory::open(&config, 2).unwrap();
        assert!(!made.is_spared());
        made.spared(0).record(true).unwrap();
        assert!(!made.is_spared());
        made.spared(1).record(true).unwrap();
        assert!(made.is_spared());
        drop(made);
        let again = DataDirectory::open(&config, 2).unwrap();
        assert!(again.is_spared());
        let mut second = again.spared(1);
        for (is_spared, times) in [(true, 2), (false, 2), (true, 1), (false, 1)] {
            (0..times).for_each(|_| second.record(is_spared).unwrap());
            assert_eq!(again.is_spared(), is_spared);
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_774_112_645, "2026-03-21T17:04:05Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), date);
        }
    }
}
