//! The OCI runtime as a library.
#![forbid(unsafe_code)]
