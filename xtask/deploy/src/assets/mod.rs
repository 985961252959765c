//! Assets: what is built is packed reproducibly, named by its content, and published once.

pub mod elf;
pub mod function_zip;
pub mod pack;
pub mod store;
pub mod strip;
