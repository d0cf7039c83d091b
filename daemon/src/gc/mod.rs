//! Garbage collection: what no root reaches is deleted.

pub mod time;
