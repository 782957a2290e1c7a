//! The environment of the course: what it is made of, and how it is made and removed.

pub mod plan;
