//! Talking to the outside, one file for each kind of it. No policy: what to do is decided above.

pub mod archive;
pub mod cluster;
pub mod dashboard;
pub mod debian;
pub mod docker;
pub mod download;
pub mod exec;
pub mod files;
pub mod go;
pub mod machine;
pub mod plain;
pub mod port;
pub mod registry;
