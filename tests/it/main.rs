//! Tests that need neither an engine nor a network: the command line as users see it, and the rules of the source.

mod arch;
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
mod generated;
mod harness;
mod jobs;
mod killed;
mod postgres;
mod process;
mod prose;
mod running;
mod serve;
mod store;
mod streams;
