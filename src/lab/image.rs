//! Images as content: what labctl makes itself, what the engine holds, and how both get into the cluster.

pub mod archive;
pub mod closure;
pub mod dashboard;
pub mod layer;
pub mod load;
pub mod shelf;
pub mod store;
pub mod wiring;
