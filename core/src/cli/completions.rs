//! `ringmain completions SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::args::Arguments;
use super::{Failure, output};

pub(super) fn print(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "ringmain", &mut script);
    output::print_text(&String::from_utf8_lossy(&script))
}
