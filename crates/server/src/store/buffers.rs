//! The memory of direct writes and reads: a few aligned buffers, which all partials share.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, PoisonError};

/// Length of a buffer in bytes. One write takes a whole batch of a fast upload, or a whole copy.
pub(crate) const BUFFER_LEN: usize = 1024 * 1024;

/// Alignment of a buffer in memory, and the largest alignment of a file that direct writes support.
pub(crate) const MAX_ALIGN: usize = 64 * 1024;

/// Maximum number of buffers. One is filled while the other is written. A job that finds none waits
/// until another job has written its bytes: a disk that is busy gains little from more writes.
const MAX_BUFFERS: usize = 2;

/// At most [`MAX_BUFFERS`] buffers, created when they are first needed and then kept.
#[derive(Debug, Default)]
pub(crate) struct BufferPool {
    buffers: Mutex<PoolState>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct PoolState {
    free: Vec<AlignedBuffer>,
    n_created: usize,
}

/// [`BUFFER_LEN`] bytes whose address is a multiple of [`MAX_ALIGN`].
#[derive(Debug, Default)]
struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
}

impl AlignedBuffer {
    fn new() -> Self {
        let bytes = vec![0; BUFFER_LEN + MAX_ALIGN];
        let address = bytes.as_ptr().addr();
        Self { start: address.next_multiple_of(MAX_ALIGN) - address, bytes }
    }
}

/// A buffer of the pool. Dropping it returns it.
#[derive(Debug)]
pub(crate) struct PooledBuffer<'a> {
    pool: &'a BufferPool,
    buffer: AlignedBuffer,
}

impl BufferPool {
    /// Returns a buffer, which still has the bytes of its last use. Blocks while all are in use.
    pub(crate) fn take(&self) -> PooledBuffer<'_> {
        let buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let used_up =
            |buffers: &mut PoolState| buffers.free.is_empty() && MAX_BUFFERS <= buffers.n_created;
        let waited = self.returned.wait_while(buffers, used_up);
        let mut buffers = waited.unwrap_or_else(PoisonError::into_inner);
        let buffer = buffers.free.pop().unwrap_or_else(|| {
            buffers.n_created += 1;
            AlignedBuffer::new()
        });
        PooledBuffer { pool: self, buffer }
    }
}

impl Drop for PooledBuffer<'_> {
    fn drop(&mut self) {
        let mut buffers = self.pool.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        buffers.free.push(std::mem::take(&mut self.buffer));
        drop(buffers);
        self.pool.returned.notify_one();
    }
}

impl Deref for PooledBuffer<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer.bytes[self.buffer.start..][..BUFFER_LEN]
    }
}

impl DerefMut for PooledBuffer<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.buffer.bytes[self.buffer.start..][..BUFFER_LEN]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn many_jobs_share_a_few_aligned_buffers() {
        let pool = BufferPool::default();
        let mut in_use: Vec<PooledBuffer<'_>> = (0..MAX_BUFFERS).map(|_| pool.take()).collect();
        for buffer in &mut in_use {
            assert_eq!((buffer.as_ptr().addr() % MAX_ALIGN, buffer.len()), (0, BUFFER_LEN));
            buffer[BUFFER_LEN - 1] = 1;
        }
        let (sender, taken) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                let pool = &pool;
                let sender = sender.clone();
                scope.spawn(move || {
                    let buffer = pool.take();
                    sender.send(buffer[BUFFER_LEN - 1]).unwrap();
                });
            }
            let early = taken.recv_timeout(Duration::from_millis(100));
            assert!(early.is_err(), "a job does not wait for a buffer");
            drop(in_use);
            assert!((0..20).all(|_| taken.recv().unwrap() == 1), "a buffer was not used again");
        });
    }
}
