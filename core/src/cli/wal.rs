//! `ringmain wal …`: the log of a stopped node, read with plain reads.

use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};

use ringmain_wal::inspect::{Report, dump, verify};

use super::Failure;
use super::args::{Format, Wal};

pub(super) fn run(wal: Wal) -> Result<(), Failure> {
    let mut out = Out { stdout: BufWriter::new(io::stdout().lock()), unread: false };
    let report = match wal {
        Wal::Verify { directory, output } => {
            let report = verify(&directory).map_err(Failure::told)?;
            match output {
                Format::Text => report.write_text(&mut out)?,
                Format::Json => report.write_json(&mut out)?,
            }
            report
        }
        Wal::Dump { directory } => dumped(dump(&directory, &mut out), &out)?,
    };
    out.flush()?;
    if report.is_sound() { Ok(()) } else { Err(Failure::Judged) }
}

/// A dump that nobody reads to its end is no failure, though the log's own error cannot say so.
fn dumped(report: Result<Report, ringmain_wal::Error>, out: &Out) -> Result<Report, Failure> {
    report.map_err(|error| if out.unread { Failure::Unread } else { Failure::told(error) })
}

/// Stdout, and whether its reader has gone.
struct Out {
    stdout: BufWriter<StdoutLock<'static>>,
    unread: bool,
}

impl Out {
    fn note<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.unread |= result.as_ref().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe);
        result
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.stdout.write(bytes);
        self.note(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.stdout.flush();
        self.note(result)
    }
}
