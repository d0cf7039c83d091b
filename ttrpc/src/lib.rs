//! ttrpc: the protocol between daemon and shim, client and server, unary calls and streams.
#![forbid(unsafe_code)]
