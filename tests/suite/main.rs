//! The one integration binary: everything that needs more than one module, or a real server.
//!
//! `scripts/test` brings the servers and runs it; `scripts/test NAME` runs a part. A test that
//! needs a server which is not there fails and names the command that brings it: nothing is
//! skipped in silence, nothing is ignored.

mod dashboard;
mod support;
mod tidy;
