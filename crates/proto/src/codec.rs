//! The codec of both services: prost, with buffers for small messages.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Initial length of a buffer. tonic's default is 8 KiB for each direction of a stream, and a session
/// keeps its streams for days. Most messages have a few hundred bytes; for larger ones a buffer grows.
const BUFFER_LEN: usize = 512;

/// Maximum length of messages that are sent together. tonic's default.
const SEND_LEN: usize = 32 * 1024;

/// Encodes `T` and decodes `U`.
#[derive(Debug)]
pub struct SmallCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER_LEN, SEND_LEN))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER_LEN, SEND_LEN))
    }
}
