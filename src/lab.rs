//! The environment of the course: what it is made of, and how it is made and removed.

pub mod access;
pub mod capability;
pub mod certificate;
pub mod doctor;
pub mod engine;
pub mod image;
pub mod machine;
pub mod plan;
pub mod programs;
pub mod recipe;
pub mod record;
pub mod status;
pub mod step;
pub mod teardown;
pub mod tools;
pub mod up;
pub mod versions;
