//! Reading untrusted bytes: what the readers of several sources share.

pub(super) mod bytes;
pub(super) mod image_file;
pub(super) mod npy;
