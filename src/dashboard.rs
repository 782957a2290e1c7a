//! The job-dashboard: the server that `labctl serve` runs and that the course deploys.
//!
//! | module | what it owns |
//! |---|---|
//! | [`server`] | the listener, connections, their limits, and how the server stops |
//! | [`http`] | routes and what is around them: request ids, the access log, limits, problems |
//! | [`health`] | whether the server is alive and ready |
//! | [`trace`] | the log |
//!
//! # Security
//! Whoever reaches the address may read everything served. In this first form that is only whether the server works and
//! which version it is, so any address may be listened on. Once the server runs jobs, an address beyond the loopback
//! one will need authentication.

pub mod health;
pub mod http;
pub mod server;
pub mod trace;
