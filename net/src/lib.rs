//! ringmain-net
