//! Readers of a file of which the server has a base.

use filepull_core::base_offer::BaseOffer;

use super::*;

/// A base, as the server offers it.
fn offer(base: &[u8]) -> Option<BaseOffer> {
    BaseOffer::new(base.len() as u64, Blake3::of(base), [7; 32])
}

fn prefix(bytes: &[u8]) -> Prefix {
    Prefix { len: bytes.len() as u64, digest: Blake3::of(bytes) }
}

impl ReadFixture {
    fn reader_with_base(&self, resume: Option<Prefix>, base: &[u8]) -> Reader {
        let mut reader = self.reader(resume);
        reader.extents = ExtentKinds { copy: true, ..ExtentKinds::default() };
        reader.order.base = offer(base);
        reader
    }
}

#[test]
fn a_grown_file_copies_the_base_and_sends_the_rest() {
    let fixture = ReadFixture::new(LEN);
    for base_len in [1, BLOCK_LEN, LEN - 1, LEN] {
        let base = &fixture.content[..base_len];
        let (sent, result) = run_with_base(&fixture.reader_with_base(None, base), base, |_| {});
        assert_eq!(result, Ok(()));
        check_whole(&fixture, &sent, 0);
        assert!(!sent.header.unwrap().wants_blocks);
        assert_eq!(sent.assembly.copied, base_len as u64);
        assert_eq!(sent.assembly.plain, (LEN - base_len) as u64);
    }
}

#[test]
fn a_resumed_upload_copies_the_rest_of_the_base() {
    let fixture = ReadFixture::new(LEN);
    let base = &fixture.content[..BLOCK_LEN + 9];
    for offset in [1, BLOCK_LEN, BLOCK_LEN + 9, BLOCK_LEN + 10, LEN] {
        let resume = Some(prefix(&fixture.content[..offset]));
        let (sent, result) = run_with_base(&fixture.reader_with_base(resume, base), base, |_| {});
        assert_eq!(result, Ok(()));
        check_whole(&fixture, &sent, offset);
        assert_eq!(sent.assembly.copied, base.len().saturating_sub(offset) as u64);
    }
}

#[test]
fn a_prefix_that_differs_does_not_prevent_copies_and_a_base_that_differs_does_not_prevent_a_resume()
{
    let fixture = ReadFixture::new(LEN);
    let base = &fixture.content[..LEN - 5];
    let other = Some(Prefix { len: 9, digest: Blake3::of(b"other") });
    let (sent, result) = run_with_base(&fixture.reader_with_base(other, base), base, |_| {});
    assert_eq!(result, Ok(()));
    check_whole(&fixture, &sent, 0);
    assert_eq!(sent.assembly.copied, base.len() as u64);

    // A base of one chunk has no list, so everything after the prefix is data.
    let base = b"another version";
    let resume = Some(prefix(&fixture.content[..BLOCK_LEN]));
    let (sent, result) = run_with_base(&fixture.reader_with_base(resume, base), base, |_| {});
    assert_eq!(result, Ok(()));
    check_whole(&fixture, &sent, BLOCK_LEN);
    assert_eq!((sent.assembly.copied, sent.assembly.plain), (0, (LEN - BLOCK_LEN) as u64));
}

#[test]
fn bytes_that_the_server_has_are_read_once_before_the_second_reading() {
    let fixture = ReadFixture::new(LEN);
    let base = &fixture.content[..LEN - 5];
    let reader = fixture.reader_with_base(None, base);
    let mut n_read = 0;
    let mut n_read_before_trailer = 0;
    let (_sent, result) = run_with_base(&reader, base, |step| {
        n_read += usize::from(matches!(step, Step::Read));
        if matches!(step, Step::Send(Kind::Trailer(_))) {
            n_read_before_trailer = n_read;
        }
    });
    assert_eq!(result, Ok(()));
    // The comparison, then the second reading.
    assert_eq!(n_read_before_trailer, 2 * LEN.div_ceil(BLOCK_LEN));
}

#[test]
fn a_change_behind_the_comparison_is_detected() {
    let fixture = ReadFixture::new(LEN);
    let base = &fixture.content[..LEN - 5];
    let mut written = false;
    let (sent, result) = run_with_base(&fixture.reader_with_base(None, base), base, |step| {
        if matches!(step, Step::Send(Kind::Header(_))) {
            written = true;
            fixture.write_at(3, b"!");
        }
    });
    assert!(written);
    check_changed(&sent, &result);
}

#[test]
fn a_list_of_blocks_is_requested_only_where_it_pays() {
    let fixture = ReadFixture::new(LEN);
    let check = |base: &[u8], expected: bool| {
        let reader = fixture.reader_with_base(None, base);
        let start = reader.find_start(&mut |_| Ok(())).unwrap();
        assert_eq!(reader.needed_list(&start).is_some(), expected, "{}", base.len());
    };
    let mut changed = fixture.content.clone();
    changed[0] ^= 1;
    check(&changed, true);
    check(&changed[..BLOCK_LEN], true);
    check(&[&changed[..], b"longer"].concat(), true);
    check(&fixture.content, false);
    check(&changed[..CHUNK_LEN], false);
    // The list would be longer than the file.
    let small = ReadFixture::new(5000);
    let base = vec![1; 5 << 20];
    let reader = small.reader_with_base(None, &base);
    let start = reader.find_start(&mut |_| Ok(())).unwrap();
    assert!(reader.needed_list(&start).is_none());
}

#[test]
fn without_the_capability_no_byte_is_copied() {
    let fixture = ReadFixture::new(LEN);
    let base = fixture.content.clone();
    let mut reader = fixture.reader_with_base(None, &base);
    reader.order.if_changed = true;
    reader.extents.copy = false;
    let (sent, result) = run_with_base(&reader, &base, |_| {});
    assert_eq!(result, Ok(()));
    check_whole(&fixture, &sent, 0);
    assert_eq!((sent.assembly.plain, sent.is_unchanged), (LEN as u64, false));
}

#[test]
fn only_a_file_that_equals_the_base_is_unchanged() {
    let fixture = ReadFixture::new(LEN);
    let content = &fixture.content;
    let mut other = content.clone();
    *other.last_mut().unwrap() ^= 1;
    let longer = [&content[..], b"x"].concat();
    let bases =
        [(&content[..], true), (&content[..LEN - 1], false), (&other, false), (&longer, false)];
    let consistencies = [Consistency::DoubleRead, Consistency::Stat];
    for ((base, expected), consistency) in
        bases.into_iter().flat_map(|base| consistencies.map(|consistency| (base, consistency)))
    {
        let mut reader = fixture.reader_with_base(None, base);
        reader.consistency = consistency;
        reader.order.if_changed = true;
        // Without a list the rest of a changed file is data.
        reader.order.base.as_mut().unwrap().blocks = None;
        let (sent, result) = run_with_base(&reader, base, |_| {});
        assert_eq!((result, sent.is_unchanged), (Ok(()), expected), "{}", base.len());
        assert_eq!(sent.header.is_none(), expected);
        if !expected {
            check_whole(&fixture, &sent, 0);
        }
    }
}

#[test]
fn a_file_that_equals_the_base_is_sent_without_if_changed() {
    let fixture = ReadFixture::new(LEN);
    let base = &fixture.content;
    let (sent, result) = run_with_base(&fixture.reader_with_base(None, base), base, |_| {});
    assert_eq!((result, sent.is_unchanged), (Ok(()), false));
    check_whole(&fixture, &sent, 0);
    assert_eq!((sent.assembly.copied, sent.assembly.sent), (LEN as u64, 0));
}

#[test]
fn a_file_that_changes_while_it_is_compared_is_not_unchanged() {
    let content = ReadFixture::new(LEN).content;
    for consistency in [Consistency::DoubleRead, Consistency::Stat] {
        let fixture = ReadFixture::new(LEN);
        let mut reader = fixture.reader_with_base(None, &content);
        reader.order.if_changed = true;
        reader.consistency = consistency;
        let mut n_read = 0;
        let (sent, result) = run_with_base(&reader, &content, |step| {
            n_read += usize::from(matches!(step, Step::Read));
            if n_read == 2 {
                fixture.write_at(0, b"changed");
                let file = OpenOptions::new().write(true).open(fixture.path()).unwrap();
                file.set_modified(std::time::UNIX_EPOCH).unwrap();
            }
        });
        assert!(!sent.is_unchanged);
        check_changed(&sent, &result);
    }
}

#[test]
fn a_write_that_the_times_do_not_show_prevents_unchanged() {
    let fixture = ReadFixture::new(LEN);
    let mut reader = fixture.reader_with_base(None, &fixture.content);
    reader.order.if_changed = true;
    reader.keepalive_interval = Duration::ZERO;
    let mut n_read = 0;
    let (sent, result) = run_with_base(&reader, &fixture.content, |step| {
        n_read += usize::from(matches!(step, Step::Proving));
        // The first step of the second reading: the times have been compared.
        if n_read == LEN.div_ceil(BLOCK_LEN) + 1 {
            fixture.write_at(LEN as u64 - 1, b"!");
        }
    });
    assert!(!sent.is_unchanged);
    check_changed(&sent, &result);
}

#[test]
fn a_file_that_shrank_below_the_base_or_is_empty_is_sent() {
    for len in [0, 100, LEN] {
        let fixture = ReadFixture::new(len);
        let base = [&fixture.content[..], b"more"].concat();
        let mut reader = fixture.reader_with_base(None, &base);
        reader.order.if_changed = true;
        reader.order.base.as_mut().unwrap().blocks = None;
        let (sent, result) = run_with_base(&reader, &base, |_| {});
        assert_eq!((result, sent.is_unchanged), (Ok(()), false));
        check_whole(&fixture, &sent, 0);
    }
}
