//! Images as content.

pub mod archive;
pub mod closure;
pub mod dashboard;
pub mod layer;
pub mod store;
