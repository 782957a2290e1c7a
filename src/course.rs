//! Chapters: what they are, where they are, and how one is judged.

pub mod catalogue;
pub mod chapter;
pub mod verify;
