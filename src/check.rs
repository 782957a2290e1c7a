//! The check engine: what a chapter asks, how the world is looked at, and what that comes to.
//!
//! | module | what it owns |
//! |---|---|
//! | [`spec`] | a check as it is written in `chapter.yaml`, read strictly |
//! | [`ask`] | what a check asks, one type for each kind |
//! | [`matcher`] | what may be asked of one value |
//! | [`probe`] | looking at the world: the only part that talks to it |
//! | [`evidence`] | what was seen, as plain data |
//! | [`judge`] | a pure function of what is asked and what was seen |
//! | [`schedule`] | needs, locks, waiting |
//! | [`explain`] | the text of a failure |
//!
//! Four verdicts are four different things: pass, fail, error (nobody can tell) and skip (a needed check did not pass).

pub mod ask;
pub mod evidence;
pub mod explain;
pub mod judge;
pub mod matcher;
pub mod probe;
pub mod schedule;
pub mod spec;
