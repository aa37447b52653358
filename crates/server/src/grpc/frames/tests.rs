//! Parses messages that prost encoded, split into frames at any byte.

use filepull_proto::v1::upload_request::Kind;
use filepull_proto::v1::{DataChunk, UploadHeader, UploadTrailer};
use proptest::prelude::*;
use tonic::Code;

use super::*;

fn message() -> impl Strategy<Value = Option<Kind>> {
    let offset = prop_oneof![Just(0), 0..1_u64 << 62];
    let bytes = prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    prop_oneof![
        8 => (offset, bytes.clone()).prop_map(|(offset, data)| Some(Kind::Chunk(DataChunk { offset, data }))),
        1 => bytes.prop_map(|blake3| Some(Kind::Trailer(UploadTrailer { total_size: 7, blake3, ..UploadTrailer::default() }))),
        1 => ".{0,40}".prop_map(|transfer_id| {
            Some(Kind::Header(UploadHeader { transfer_id, ..UploadHeader::default() }))
        }),
        1 => Just(None),
    ]
}

fn on_the_wire(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut wire = Vec::new();
    for message in messages {
        wire.push(0);
        wire.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        wire.extend(message);
    }
    wire
}

/// Parses `wire`, split at `cuts`.
fn parse(wire: &[u8], cuts: &[prop::sample::Index]) -> Result<Vec<UploadFrame>, Status> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
    cuts.extend([0, wire.len()]);
    cuts.sort_unstable();
    let mut parser = Parser::default();
    let mut arrived = Vec::new();
    for cut in cuts.windows(2) {
        parser.push(Bytes::copy_from_slice(&wire[cut[0]..cut[1]]));
        while let Some(next) = parser.next()? {
            arrived.push(next);
        }
    }
    assert_eq!(parser.len, parser.frames.iter().map(Bytes::len).sum::<usize>());
    Ok(arrived)
}

/// Joins bytes of chunks that follow each other. A chunk that arrived as a message becomes bytes.
fn joined(arrived: Vec<UploadFrame>) -> Vec<UploadFrame> {
    let mut joined: Vec<UploadFrame> = Vec::new();
    for next in arrived {
        let next = match next {
            UploadFrame::Message(UploadRequest { kind: Some(Kind::Chunk(chunk)) })
                if !chunk.data.is_empty() =>
            {
                UploadFrame::Bytes { offset: chunk.offset, bytes: chunk.data }
            }
            other @ (UploadFrame::Message(_) | UploadFrame::Bytes { .. }) => other,
        };
        match (joined.last_mut(), next) {
            (
                Some(UploadFrame::Bytes { offset, bytes }),
                UploadFrame::Bytes { offset: next_offset, bytes: next },
            ) if offset.checked_add(bytes.len() as u64) == Some(next_offset) => {
                *bytes = [&bytes[..], &next[..]].concat().into();
            }
            (_, next) => joined.push(next),
        }
    }
    joined
}

proptest! {
    #[test]
    fn any_split_of_any_messages_reads_as_prost_does(
        kinds in prop::collection::vec(message(), 0..8),
        cuts: Vec<prop::sample::Index>,
    ) {
        let messages: Vec<_> = kinds.into_iter().map(|kind| UploadRequest { kind }).collect();
        let encoded: Vec<Vec<u8>> = messages.iter().map(|message| message.encode_to_vec()).collect();
        let arrived = parse(&on_the_wire(&encoded), &cuts).unwrap();
        let expected = messages.into_iter().map(UploadFrame::Message).collect();
        prop_assert_eq!(joined(arrived), joined(expected));
    }

    /// The parser accepts or rejects any bytes exactly as prost does.
    #[test]
    fn any_bytes_read_as_prost_reads_them(
        message in prop::collection::vec(prop_oneof![Just(0x12), Just(0x08), Just(1), any::<u8>()], 0..60),
        cuts: Vec<prop::sample::Index>,
    ) {
        let arrived = parse(&on_the_wire(std::slice::from_ref(&message)), &cuts);
        match UploadRequest::decode(&message[..]) {
            Ok(decoded) => {
                prop_assert_eq!(joined(arrived.unwrap()), joined(vec![UploadFrame::Message(decoded)]));
            }
            Err(_) => prop_assert!(arrived.is_err()),
        }
    }
}

#[test]
fn a_chunk_is_not_copied() {
    let data = Bytes::from(vec![7; 64 * 1024]);
    let chunk = Kind::Chunk(DataChunk { offset: 1 << 40, data });
    let message = UploadRequest { kind: Some(chunk) }.encode_to_vec();
    let wire = Bytes::from(on_the_wire(&[message]));
    let mut parser = Parser::default();
    parser.push(wire.clone());
    let Ok(Some(UploadFrame::Bytes { offset, bytes })) = parser.next() else { panic!("no chunk") };
    assert_eq!((offset, bytes.len()), (1 << 40, 64 * 1024));
    assert_eq!(bytes.as_ptr(), wire[wire.len() - bytes.len()..].as_ptr());
}

#[test]
fn a_message_too_long_or_compressed_is_rejected_before_it_is_collected() {
    let rejected = |wire: &[u8]| parse(wire, &[]).unwrap_err().code();
    assert_eq!(rejected(&[0, 0, 4, 0, 1]), Code::OutOfRange);
    assert_eq!(rejected(&[0, 255, 255, 255, 255]), Code::OutOfRange);
    assert_eq!(rejected(&[1, 0, 0, 0, 1]), Code::Unimplemented);
}

#[test]
fn a_chunk_longer_than_allowed_is_rejected_in_any_encoding() {
    let rejected = |chunk: Vec<u8>| parse(&on_the_wire(&[chunk]), &[]).unwrap_err().code();
    let data = Bytes::from(vec![7; CHUNK_LEN + 1]);
    let chunk = DataChunk { offset: 0, data: data.clone() };
    let plain = UploadRequest { kind: Some(Kind::Chunk(chunk)) }.encode_to_vec();
    assert_eq!(rejected(plain.clone()), Code::OutOfRange);
    // With an unknown field, prost decodes the message.
    let other_encoding = [plain, vec![15 << 3, 1]].concat();
    assert_eq!(rejected(other_encoding), Code::OutOfRange);
}
