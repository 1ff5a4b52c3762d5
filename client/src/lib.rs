//! ringmain-client
