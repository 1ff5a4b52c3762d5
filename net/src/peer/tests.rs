//! Every frame in bytes, and the way back.
