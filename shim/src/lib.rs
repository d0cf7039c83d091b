//! The shim: parent of the containers.
#![forbid(unsafe_code)]
