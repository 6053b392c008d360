//! Bytes of images: in memory, or in a file that is mapped into it.

use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// The bytes of the images of a data set.
#[derive(Clone)]
pub(super) enum Pixels {
    /// In memory.
    Owned(Vec<u8>),
    /// In a part of a file; the system reads what is looked at, and may forget it again. Clones share the file.
    Mapped(Arc<Mmap>, Range<usize>),
}

impl Pixels {
    /// The bytes of `part` of a file, which must stay as it is.
    ///
    /// # Errors
    /// Whatever the system says; [`io::ErrorKind::UnexpectedEof`] if the file is shorter.
    pub fn map(file: &File, part: Range<usize>) -> io::Result<Self> {
        // SAFETY: the file is one of our own cache files, which are never written to after they got their name: a new one
        // takes the old one's place by a rename, which leaves the mapped bytes alone.
        let map = unsafe { Mmap::map(file)? };
        if part.end > map.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self::Mapped(Arc::new(map), part))
    }

    /// The bytes for changing; those of a file are copied first.
    pub fn to_mut(&mut self) -> &mut Vec<u8> {
        if let Self::Mapped(..) = self {
            *self = Self::Owned(self.to_vec());
        }
        match self {
            Self::Owned(bytes) => bytes,
            Self::Mapped(..) => unreachable!("they were copied above"),
        }
    }
}

impl Deref for Pixels {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Mapped(map, part) => &map[part.clone()],
        }
    }
}

impl PartialEq for Pixels {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Pixels {}
