//! Tests that need neither an engine nor a network: the command line as users see it, and the rules of the source.

mod arch;
mod chapter;
mod chart;
mod cli;
mod client;
mod control;
mod doctor;
mod generated;
mod harness;
mod jobs;
mod postgres;
mod process;
mod serve;
mod store;
