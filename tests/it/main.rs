//! Tests that need neither an engine nor a network: the command line as users see it, and the rules of the source.

mod arch;
mod blog;
mod browser;
mod chapter;
mod chapter_http;
mod chart;
mod cli;
mod client;
mod conform;
#[path = "../conformance.rs"]
mod conformance;
mod control;
mod course;
mod dashboard;
mod deidentify;
mod doctor;
mod documents;
mod faults;
mod generated;
mod harness;
mod jobs;
mod keep;
mod killed;
mod postgres;
mod process;
mod prose;
mod recorded;
mod redis;
mod replicas;
mod restarted;
mod running;
mod schedules;
mod seeds;
mod serve;
mod store;
mod streams;
