//! A file that is open already, for a service that would open it by its path.
//!
//! The store opens downloads without following links. Opened again by path, the file could be
//! another one by then.

use std::fs::{File, Metadata};
use std::future::{Ready, ready};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tower_http::services::fs::{Backend, File as ServedFile};

/// Stands for a file system that has this one file under every path.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    file: Arc<File>,
    metadata: Metadata,
}

impl Opened {
    /// Reads what the system says of the file. Blocks.
    pub(super) fn new(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { file: Arc::new(file), metadata })
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.metadata.len()
    }
}

impl Backend for Opened {
    type File = Reader;
    type Metadata = Metadata;
    type OpenFuture = Ready<io::Result<Reader>>;
    type MetadataFuture = Ready<io::Result<Metadata>>;

    fn open(&self, _: PathBuf) -> Self::OpenFuture {
        let metadata = self.metadata.clone();
        let file = self.file.try_clone().map(tokio::fs::File::from_std);
        ready(file.map(|file| Reader { file, metadata }))
    }

    fn metadata(&self, _: PathBuf) -> Self::MetadataFuture {
        ready(Ok(self.metadata.clone()))
    }
}

/// Reads the file, from wherever it is sought to.
#[derive(Debug)]
pub(super) struct Reader {
    file: tokio::fs::File,
    metadata: Metadata,
}

impl ServedFile for Reader {
    type Metadata = Metadata;
    type MetadataFuture<'a> = Ready<io::Result<Metadata>>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        ready(Ok(self.metadata.clone()))
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_read(context, buffer)
    }
}

impl AsyncSeek for Reader {
    fn start_seek(mut self: Pin<&mut Self>, position: io::SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.file).start_seek(position)
    }

    fn poll_complete(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.file).poll_complete(context)
    }
}
