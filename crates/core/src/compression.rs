//! zstd for the bytes of an upload. Each upload has one stream: later bytes are compressed with the
//! help of earlier ones. The stream is flushed at the end of each extent, so that every extent can
//! be decoded as soon as it arrives.
//!
//! A resumed upload has a new [`Encoder`] and a new [`Decoder`]: nothing of the stream is kept.

use std::fmt;
use std::io;

use zstd::stream::raw;
use zstd::stream::raw::{CParameter, DParameter, InBuffer, Operation, OutBuffer};

use crate::CHUNK_LEN;

/// The level of compression. Measured in docs/decisions.md, "zstd".
pub const LEVEL: i32 = 3;

/// How far back the stream may refer, as a power of two: 1 MiB. Each side keeps that much of the
/// file in memory for each upload, and the server rejects a stream that needs more.
const WINDOW_LOG: u32 = 20;

/// Length of the sample of a block, in bytes.
const SAMPLE_LEN: usize = 16 * 1024;

/// Maximum length of what [`Encoder::encode`] returns for [`CHUNK_LEN`] bytes. zstd adds 3 bytes to
/// each block that it cannot compress, 18 bytes to the stream, and 3 bytes to each flush (RFC 8878,
/// 3.1.1).
pub const MAX_ENCODED_LEN: usize = CHUNK_LEN + 64;

/// Why a stream cannot be encoded or decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// zstd rejected the bytes, or has no memory. The reason is a text of the library.
    #[error("zstd: {0}")]
    Zstd(String),
    /// The bytes decode to more or fewer bytes than their extent covers.
    #[error("an extent of {announced} bytes decodes to {decoded} bytes, or more")]
    Length {
        /// The number of bytes of the file that the extent covers.
        announced: usize,
        /// The number of decoded bytes. Decoding stops after the first byte too many.
        decoded: usize,
    },
}

impl From<io::Error> for CompressionError {
    fn from(error: io::Error) -> Self {
        Self::Zstd(error.to_string())
    }
}

/// Compresses the data of one upload.
pub struct Encoder {
    stream: raw::Encoder<'static>,
    output: Vec<u8>,
}

/// Decompresses the data of one upload.
pub struct Decoder {
    stream: raw::Decoder<'static>,
    output: Vec<u8>,
}

impl Encoder {
    /// Starts a stream.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new() -> Result<Self, CompressionError> {
        let mut stream = raw::Encoder::new(LEVEL)?;
        stream.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
        Ok(Self { stream, output: Vec::new() })
    }

    /// Compresses the next bytes of the file, at most [`CHUNK_LEN`], and returns what decodes to all
    /// of them.
    ///
    /// # Errors
    /// There is no memory.
    pub fn encode(&mut self, bytes: &[u8]) -> Result<&[u8], CompressionError> {
        let mut input = InBuffer::around(bytes);
        let mut len = 0;
        loop {
            if len == self.output.len() {
                self.output.resize(len + MAX_ENCODED_LEN, 0);
            }
            let mut output = OutBuffer::around(&mut self.output[len..]);
            let is_read = input.pos() == bytes.len();
            let n_left = if is_read {
                self.stream.flush(&mut output)?
            } else {
                self.stream.run(&mut input, &mut output)?
            };
            len += output.pos();
            if is_read && n_left == 0 {
                return Ok(&self.output[..len]);
            }
        }
    }
}

impl Decoder {
    /// Starts a stream.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new() -> Result<Self, CompressionError> {
        let mut stream = raw::Decoder::new()?;
        stream.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
        Ok(Self { stream, output: Vec::new() })
    }

    /// Decompresses an extent that covers `announced` bytes of the file.
    ///
    /// # Errors
    /// The bytes are malformed, or decode to another number of bytes. The stream cannot be continued.
    pub fn decode(&mut self, bytes: &[u8], announced: usize) -> Result<&[u8], CompressionError> {
        // One more byte shows that the extent is too long, without decoding the rest.
        self.output.resize(announced + 1, 0);
        let mut input = InBuffer::around(bytes);
        let mut output = OutBuffer::around(&mut self.output[..]);
        loop {
            let before = (input.pos(), output.pos());
            self.stream.run(&mut input, &mut output)?;
            let is_stuck = (input.pos(), output.pos()) == before;
            if is_stuck || announced < output.pos() || input.pos() == bytes.len() {
                break;
            }
        }
        let decoded = output.pos();
        if decoded != announced || input.pos() != bytes.len() {
            return Err(CompressionError::Length { announced, decoded });
        }
        Ok(&self.output[..announced])
    }
}

/// Returns whether zstd makes `block` at least 5 % shorter, judged by a sample from its middle.
///
/// Compressed pictures, archives and encrypted bytes do not shrink: zstd would only take time.
///
/// # Errors
/// There is no memory.
pub fn shrinks(block: &[u8]) -> Result<bool, CompressionError> {
    let start = block.len().saturating_sub(SAMPLE_LEN) / 2;
    let sample = &block[start..block.len().min(start + SAMPLE_LEN)];
    let encoded = zstd::bulk::compress(sample, 1)?;
    Ok(encoded.len() <= sample.len() / 20 * 19)
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encoder")
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decoder")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that do not shrink.
    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn text(len: usize) -> Vec<u8> {
        let lines = (0..).flat_map(|n| format!("line {n}: till {} is ready\n", n % 7).into_bytes());
        lines.take(len).collect()
    }

    fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let random = prop::collection::vec(any::<u8>(), 1..3000);
        let repeated = (any::<u8>(), 1..CHUNK_LEN + 1).prop_map(|(byte, len)| vec![byte; len]);
        prop::collection::vec(prop_oneof![random, repeated], 1..20)
    }

    proptest! {
        #[test]
        fn every_piece_is_decoded_as_soon_as_it_arrives(pieces in pieces()) {
            let mut encoder = Encoder::new().unwrap();
            let mut decoder = Decoder::new().unwrap();
            for piece in pieces {
                let encoded = encoder.encode(&piece).unwrap();
                prop_assert!(encoded.len() <= MAX_ENCODED_LEN);
                prop_assert_eq!(decoder.decode(encoded, piece.len()).unwrap(), &piece);
            }
        }

        #[test]
        fn any_bytes_are_decoded_or_rejected(
            encoded in prop::collection::vec(any::<u8>(), 0..300),
            is_stream: bool,
            announced in 0..CHUNK_LEN,
        ) {
            let magic: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
            let bytes = [if is_stream { magic } else { &[] }, &encoded].concat();
            let mut decoder = Decoder::new().unwrap();
            if let Ok(decoded) = decoder.decode(&bytes, announced) {
                prop_assert_eq!(decoded.len(), announced);
            }
        }
    }

    #[test]
    fn bytes_that_do_not_shrink_fit_into_the_maximum() {
        let mut encoder = Encoder::new().unwrap();
        for chunk in noise(20 * CHUNK_LEN).chunks(CHUNK_LEN) {
            let n_encoded = encoder.encode(chunk).unwrap().len();
            assert!((CHUNK_LEN..=MAX_ENCODED_LEN).contains(&n_encoded), "{n_encoded}");
        }
    }

    #[test]
    fn a_piece_that_is_longer_than_a_chunk_is_encoded_completely() {
        // The flush has 100,000 bytes left, more than the output has space for.
        let piece = noise((1 << 20) + 100_000);
        let mut encoder = Encoder::new().unwrap();
        let encoded = encoder.encode(&piece).unwrap().to_vec();
        let mut decoder = Decoder::new().unwrap();
        assert!(decoder.decode(&encoded, piece.len()).unwrap() == piece);
    }

    #[test]
    fn decoding_stops_after_the_announced_length() {
        let encoded = Encoder::new().unwrap().encode(&vec![0; CHUNK_LEN]).unwrap().to_vec();
        assert!(encoded.len() < 100, "{} bytes", encoded.len());
        for announced in [0, 1, 4096, CHUNK_LEN - 1] {
            let mut decoder = Decoder::new().unwrap();
            let found = decoder.decode(&encoded, announced);
            let decoded = announced + 1;
            assert_eq!(found, Err(CompressionError::Length { announced, decoded }));
            assert!(decoder.output.capacity() <= MAX_ENCODED_LEN);
        }
        let found = Decoder::new().unwrap().decode(&encoded, CHUNK_LEN + 1).map(<[u8]>::len);
        let length = CompressionError::Length { announced: CHUNK_LEN + 1, decoded: CHUNK_LEN };
        assert_eq!(found, Err(length));
    }

    #[test]
    fn a_stream_that_needs_more_memory_than_the_window_is_rejected() {
        let mut stream = raw::Encoder::new(LEVEL).unwrap();
        stream.set_parameter(CParameter::WindowLog(WINDOW_LOG + 1)).unwrap();
        let mut encoder = Encoder { stream, output: Vec::new() };
        let encoded = encoder.encode(b"abc").unwrap();
        let found = Decoder::new().unwrap().decode(encoded, 3).map(<[u8]>::len);
        assert!(matches!(&found, Err(CompressionError::Zstd(_))), "{found:?}");
    }

    #[test]
    fn a_stream_cannot_be_continued_by_another_decoder_or_encoder() {
        let mut encoder = Encoder::new().unwrap();
        let first = encoder.encode(&text(5000)).unwrap().to_vec();
        let second = encoder.encode(&text(5000)).unwrap().to_vec();
        let mut decoder = Decoder::new().unwrap();
        assert!(decoder.decode(&second, 5000).is_err());

        let mut decoder = Decoder::new().unwrap();
        decoder.decode(&first, 5000).unwrap();
        let other = Encoder::new().unwrap().encode(&text(5000)).unwrap().to_vec();
        assert!(decoder.decode(&other, 5000).is_err());
    }

    #[test]
    fn only_a_block_that_shrinks_is_worth_the_time() {
        assert_eq!(shrinks(&text(1 << 20)), Ok(true));
        assert_eq!(shrinks(&text(300)), Ok(true));
        assert_eq!(shrinks(&noise(1 << 20)), Ok(false));
        assert_eq!(shrinks(b""), Ok(false));
    }
}
