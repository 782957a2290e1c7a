//! Chapters and posts: what they are, how a chapter is judged, what their snippets come to, and the book made of them.

pub mod book;
pub mod catalogue;
pub mod chapter;
pub mod snippet;
pub mod verify;
