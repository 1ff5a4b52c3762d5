//! What people write, and what is found in a data directory: the configuration, the identity, sizes and times.

use std::cell::OnceCell;
use std::fs;

use ringmain_core::config::{Address, Advertised, Bytes, Config, Peer, Period};
use ringmain_core::identity::Identity;
use tempfile::TempDir;

use super::Target;
use super::mutation::leave;

pub(super) const CONFIG: Target = Target {
    name: "config",
    samples,
    repair: leave,
    feed,
    // A table of TOML owns its keys and values, and a refusal quotes the line it complains about.
    memory_bytes: 64 << 10,
    memory_per_byte: 256,
};

const WHOLE: &str = r#"
node = 3
data = "d"
listen = "[::1]:9000"
advertise = "broker"
shards = 4
spin = true
[limits]
connections_max = 10
segment_bytes = "64MiB"
cache_bytes_max = 134217728
hello_timeout = "2s"
[[nodes]]
id = 1
address = "10.0.0.1:7411"
[[nodes]]
id = 3
address = "broker:9000"
"#;
const IDENTITY: &str = "# Whose data\nformat = 1\ncluster = \"0x0123456789abcdef\"\nnode = 1\nincarnation = 7\n\
                        shards = 2\nsegment_bytes = 67108864\ncreated = \"2026-03-21T17:04:05Z\"\n";
const MEMBER: &str = "format = 2\nstate = \"formed\"\ncluster = \"0x0123456789abcdef\"\nnode = 1\nincarnation = 7\n\
                      shards = 2\ngroups = 2\nsegment_bytes = 67108864\ncreated = \"\"\n\
                      [[founders]]\nnode = 1\nincarnation = 7\nhost = \"h\"\nport = 7411\n\
                      [[founders]]\nnode = 2\nincarnation = 9\nhost = \"\"\nport = 0\n";

fn samples() -> Vec<Vec<u8>> {
    let texts = [
        WHOLE,
        IDENTITY,
        MEMBER,
        "node = 1\ndata = \"d\"\nlisten = \"h:1\"\n",
        "node = 1\ndata = \"d\"\nlisten = \"h:1\"\n[limits]\nsegment_bytes = \"12MiB\"\n",
        "1.5GiB",
        "250ms",
        "h:7411",
        "[::1]:1",
        "2=h:7411",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

thread_local! {
    static DIRECTORY: OnceCell<TempDir> = const { OnceCell::new() };
}

fn feed(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(config) = Config::parse(&text) {
        // Whatever is accepted makes options that a log accepts.
        let segment_bytes = config.limits.segment_bytes.0;
        assert!(ringmain_wal::LogOptions::allows_segment_bytes(segment_bytes), "{segment_bytes}");
        assert!(config.limits.entry_bytes_max() < segment_bytes);
        std::hint::black_box(config.checked().is_ok());
    }
    std::hint::black_box(text.parse::<Address>().map(|address| address.to_string()).is_ok());
    std::hint::black_box(text.parse::<Advertised>().map(|advertised| advertised.to_string()).is_ok());
    std::hint::black_box(text.parse::<Peer>().map(|peer| peer.address.to_string()).is_ok());
    std::hint::black_box(text.parse::<Bytes>().map(|bytes| bytes.to_string()).is_ok());
    std::hint::black_box(text.parse::<Period>().map(|period| period.to_string()).is_ok());
    DIRECTORY.with(|directory| {
        let directory = directory.get_or_init(|| tempfile::tempdir().expect("there is room for a file"));
        fs::write(directory.path().join("identity.toml"), bytes).expect("there is room for a file");
        std::hint::black_box(Identity::read(directory.path()).map_err(|error| error.to_string()).is_ok());
    });
}
