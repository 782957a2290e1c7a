//! The job-dashboard: the server that `labctl serve` runs and that the course deploys.
//!
//! | module | what it owns |
//! |---|---|
//! | [`server`] | the listener, connections, their limits, and how the server stops |
//! | [`http`] | routes and what is around them: request ids, the access log, limits, problems |
//! | [`service`] | what can be asked of the dashboard, whoever asks: no HTTP in it |
//! | [`control`] | what makes jobs happen: begins them, writes down how they are, stores their output |
//! | [`job`] | a job's id, states and spec; pure |
//! | [`log`] | lines of output, how they are packed, and the hub where viewers find them |
//! | [`runner`] | what runs jobs: child processes, Kubernetes |
//! | [`store`] | where jobs are kept: SQLite, PostgreSQL |
//! | [`health`] | whether the server is alive and ready |
//! | [`trace`] | the log |
//!
//! # Security
//! Whoever reaches the address may read everything served. In this first form that is only whether the server works and
//! which version it is, so any address may be listened on. Once the server runs jobs, an address beyond the loopback
//! one will need authentication.

pub mod control;
pub mod health;
pub mod http;
pub mod job;
pub mod log;
pub mod page;
pub mod runner;
pub mod server;
pub mod service;
pub mod store;
pub mod trace;
