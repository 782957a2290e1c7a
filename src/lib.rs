//! labctl: one binary that makes a Kubernetes course's lab, judges its chapters and serves its dashboard.
//!
//! # The house
//! One person should be able to hold this in their head. `main.rs` parses, builds the [`world::World`], dispatches,
//! reports and exits. Everything else is here:
//!
//! | module | what it owns |
//! |---|---|
//! | [`cli`] | clap only: one file a verb, `Args` and `run` |
//! | [`lab`] | the environment: the plan of steps, the steps, the machine, the teardown |
//! | [`course`] | chapters and posts: the typed `chapter.yaml`, the catalogue, snippets that are run, the book |
//! | [`check`] | the check engine: spec, matchers, judge (pure), schedule, probes, explanations |
//! | [`dashboard`] | the job-dashboard server |
//! | [`prose`] | rules for text: spans, copyediting, padding, chapters, white space, the editor's server |
//! | [`world`] | the one place where drivers are built |
//! | [`drive`] | talking to the outside, one file each, no policy |
//! | [`report`] | events and how they are shown; nothing else prints |
//! | [`config`] | settings; nothing else reads the environment |
//! | [`error`] | codes, exit codes, diagnoses |
//!
//! Imports go down only: `cli` -> {`course`, `lab`, `check`, `dashboard`, `prose`} -> `world` -> `drive` -> `report` ->
//! `config` -> `error`; [`assets`] (embedded files) is used from any of them. Domain modules do not import each other,
//! except `course` -> {`check`, `lab`, `prose`}. `tests/it/arch.rs` keeps this true.
//!
//! # Rules
//! - A criterion that is not met is a value; `Err` means that labctl could not do its job.
//! - A step of `up` is believed by what it observes, never by what it did ([`lab::plan`]).
//! - Everything that labctl creates carries the label [`config::LABEL`]; teardown removes by it, then looks again.
//! - The world is never guessed: our own kubeconfig, the cluster's UID, no ambient context.

pub mod assets;
pub mod check;
pub mod cli;
pub mod config;
pub mod course;
pub mod dashboard;
pub mod drive;
pub mod error;
pub mod lab;
pub mod prose;
pub mod report;
pub mod world;
