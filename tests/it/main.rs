//! Tests that need neither an engine nor a network: the command line as users see it, and the rules of the source.

mod arch;
mod chapter;
mod chart;
mod cli;
mod control;
mod dashboard;
mod doctor;
mod harness;
mod killed;
mod process;
mod running;
mod serve;
