//! Images: what their manifests say, and how they are fetched and unpacked, imported and exported.

pub mod archive;
pub mod export;
pub mod fetch;
pub mod locks;
pub mod names;
pub mod platform;
pub mod track;
pub mod unpack;
pub mod walk;
pub mod work;
