//! ringmain-wal
