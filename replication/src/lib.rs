//! ringmain-replication
