//! The job-dashboard: the server that `labctl serve` runs and that the course deploys.
//!
//! | module | what it owns |
//! |---|---|
//! | [`server`] | the listener, connections, their limits, and how the server stops |
//! | [`auth`] | who may ask: the local user, or whoever has a token |
//! | [`http`] | routes and what is around them: request ids, the access log, limits, problems |
//! | [`page`] | the pages: HTML that the server makes, with little script |
//! | [`service`] | what can be asked of the dashboard, whoever asks: no HTTP in it |
//! | [`control`] | what makes jobs happen: begins them, writes down how they are, stores their output |
//! | [`job`] | a job's id, states and spec, templates and schedules; pure |
//! | [`log`] | lines of output, how they are packed, the hub where viewers find them, and the way there from other servers |
//! | [`runner`] | what runs jobs: child processes, Kubernetes |
//! | [`store`] | where jobs, and who did what, are kept: SQLite, PostgreSQL |
//! | [`health`] | whether the server is alive and ready |
//! | [`trace`] | the log |
//!
//! # Security
//! A job is a program that runs with the server's rights, so whoever may create one may do what the server may. Without
//! tokens the server listens on loopback addresses alone, answers under loopback names alone (DNS rebinding), and takes
//! nothing that changes something from a page of another site; then whoever reaches it is its user. On every other
//! address it wants a token of its token file ([`auth::tokens`]), or runs no jobs at all and serves health and version,
//! which anybody may read.
//!
//! Every call of [`service`] says who asks, and the owner is part of every statement of the [`store`]: a job of
//! somebody else does not exist. What is created, changed and deleted is written down with who did it, in the same
//! transaction, and sealed ([`store::audit`]).

pub mod auth;
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
