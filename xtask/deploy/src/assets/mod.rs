//! Assets: what is built is packed reproducibly, named by its content, and published once.

pub mod bucket;
pub mod collect;
pub mod elf;
pub mod function_zip;
pub mod image;
pub mod pack;
pub mod publish;
pub mod registry;
pub mod store;
pub mod strip;

pub use publish::{Assets, Places};
