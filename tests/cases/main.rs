//! Black-box tests with real clients and real peers, in one binary.
#![forbid(unsafe_code)]

mod ctr;
mod docker;
mod demo;
mod lifecycle;
mod tidy;
