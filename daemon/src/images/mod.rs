//! Images: what their manifests say, and how they are unpacked, imported and exported.

pub mod media;
pub mod platform;
pub mod walk;
