//! Chapters and posts: what they are, where they are, how a chapter is worked on and judged, and the book made of them.
//!
//! | module | what it owns |
//! |---|---|
//! | [`catalogue`], [`chapter`], [`setup`] | `chapter.yaml` and the folder around it, read strictly |
//! | [`workspace`], [`progress`], [`python`] | the learner's files, what was done, the packages they need |
//! | [`stage`], [`subject`] | what the chapter's programs and checks may use; the learner's server |
//! | [`act`] | start, solve, reset |
//! | [`verify`], [`watch`], [`last`] | judging, judging again, what the last judgement saw |
//! | [`explain`], [`hint`] | what is asked, and help |
//! | [`selftest`] | proving that a chapter's checks can fail |
//! | [`snippet`], [`book`] | the commands printed in a text, run; the pages made of the texts |

pub mod act;
pub mod book;
pub mod catalogue;
pub mod chapter;
pub mod explain;
pub mod hint;
pub mod last;
pub mod progress;
pub mod python;
pub mod selftest;
pub mod setup;
pub mod snippet;
pub mod stage;
pub mod subject;
pub mod verify;
pub mod watch;
pub mod workspace;
