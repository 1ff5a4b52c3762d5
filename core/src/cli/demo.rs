//! `ringmain demo`: a broker that carries this host's own telemetry, is killed halfway, and loses nothing.

mod telemetry;
mod verdict;
mod view;
