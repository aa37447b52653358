//! Readers of sparse files.

use super::*;

const MIB: u64 = 1 << 20;

impl ReadFixture {
    /// Creates a file of `size` bytes that stores only `stored`.
    fn sparse(size: u64, stored: &[(u64, &[u8])]) -> Self {
        let fixture = Self::new(0);
        let file = OpenOptions::new().write(true).open(fixture.path()).unwrap();
        file.set_len(size).unwrap();
        for (offset, bytes) in stored {
            file.write_all_at(bytes, *offset).unwrap();
        }
        let content = fs::read(fixture.path()).unwrap();
        Self { content, ..fixture }
    }

    fn reader_of_holes(&self, resume: Option<Prefix>) -> Reader {
        let extents = ExtentKinds { hole: true, ..ExtentKinds::default() };
        Reader { extents, ..self.reader(resume) }
    }
}

fn stored(sent: &Sent) -> u64 {
    sent.header.as_ref().unwrap().source.as_ref().unwrap().stored
}

#[test]
fn holes_are_not_sent() {
    for consistency in [Consistency::DoubleRead, Consistency::Stat] {
        let size = 20 * MIB + 5;
        let fixture = ReadFixture::sparse(size, &[(3 * MIB, &[7; 4096]), (9 * MIB, b"x")]);
        let reader = Reader { consistency, ..fixture.reader_of_holes(None) };
        let (sent, result) = run(&reader, |_| {});
        assert_eq!(result, Ok(()));
        check_whole(&fixture, &sent, 0);
        assert_eq!(sent.assembly.holes, size - sent.assembly.plain);
        assert_eq!(stored(&sent), sent.assembly.plain);
        assert!(sent.assembly.plain <= 128 * 1024, "{}", sent.assembly.plain);
    }
}

#[test]
fn a_file_that_stores_nothing_is_holes_only() {
    let fixture = ReadFixture::sparse(70 * MIB, &[]);
    let (sent, result) = run(&fixture.reader_of_holes(None), |_| {});
    assert_eq!(result, Ok(()));
    check_whole(&fixture, &sent, 0);
    assert_eq!((stored(&sent), sent.assembly.holes), (0, 70 * MIB));
}

#[test]
fn without_the_capability_zeros_are_sent() {
    let fixture = ReadFixture::sparse(3 * MIB, &[(MIB, b"x")]);
    let (sent, result) = run(&fixture.reader(None), |_| {});
    assert_eq!(result, Ok(()));
    check_whole(&fixture, &sent, 0);
    assert_eq!((stored(&sent), sent.assembly.plain), (3 * MIB, 3 * MIB));
}

#[test]
fn an_upload_resumes_in_a_hole_or_behind_it() {
    let fixture = ReadFixture::sparse(6 * MIB, &[(0, b"begin"), (4 * MIB, b"x")]);
    for offset in [1, MIB, 2 * MIB + 77, 4 * MIB - 10, 4 * MIB, 5 * MIB, 6 * MIB] {
        let bytes = &fixture.content[..usize::try_from(offset).unwrap()];
        let prefix = Prefix { len: offset, digest: Blake3::of(bytes) };
        let (sent, result) = run(&fixture.reader_of_holes(Some(prefix)), |_| {});
        assert_eq!(result, Ok(()), "at {offset}");
        check_whole(&fixture, &sent, bytes.len());
        assert!(sent.assembly.plain <= 256 * 1024, "at {offset}: {}", sent.assembly.plain);
    }
}

#[test]
fn holes_of_a_grown_file_stay_holes() {
    let fixture = ReadFixture::sparse(6 * MIB, &[(2 * MIB, &[7; 4096]), (5 * MIB, b"x")]);
    let base = &fixture.content[..4 << 20];
    let mut reader = fixture.reader_of_holes(None);
    reader.extents.copy = true;
    reader.order.base =
        filepull_core::base_offer::BaseOffer::new(base.len() as u64, Blake3::of(base), [7; 32]);
    let (sent, result) = run_with_base(&reader, base, |_| {});
    assert_eq!(result, Ok(()));
    check_whole(&fixture, &sent, 0);
    let Assembly { copied, plain, .. } = sent.assembly;
    assert!((4096..=64 * 1024).contains(&copied), "{copied}");
    assert!(plain <= 64 * 1024, "{plain}");
}

/// Runs a reader of a file of 4 MiB that stores 4 KiB at 1 MiB, and calls `change` at the first step of
/// the second reading: the times have been compared.
fn change_before_second_reading(
    change: impl Fn(&ReadFixture),
) -> (ReadFixture, Sent, Result<(), ReadError>) {
    let fixture = ReadFixture::sparse(4 * MIB, &[(MIB, &[7; 4096])]);
    let mut is_sending = true;
    let (sent, result) = run(&fixture.reader_of_holes(None), |step| {
        if is_sending && matches!(step, Step::Read) {
            is_sending = false;
            change(&fixture);
        }
    });
    assert!(!is_sending);
    (fixture, sent, result)
}

#[test]
fn a_write_into_a_hole_is_a_change() {
    for offset in [2 * MIB, 4 * MIB - 1] {
        let (_fixture, sent, result) =
            change_before_second_reading(|fixture| fixture.write_at(offset, b"!"));
        check_changed(&sent, &result);
    }
}

#[test]
fn bytes_that_become_a_hole_are_a_change() {
    let (_fixture, sent, result) = change_before_second_reading(|fixture| {
        let file = OpenOptions::new().write(true).open(fixture.path()).unwrap();
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, flags, MIB, 4096).unwrap();
    });
    check_changed(&sent, &result);
}

#[test]
fn zeros_that_the_disk_stores_later_are_the_same_bytes() {
    let mut first = FirstReading::new(ReadFixture::new(0).reader(None).open_file.stat, true);
    first.update(&Part::Zeros(2 * MIB));
    let fixture = ReadFixture::sparse(2 * MIB, &[(MIB, &[0; 4096])]);
    let reader = fixture.reader_of_holes(None);
    assert!(!reader.stores_the_same(&first, || Step::Read, &mut |_| Ok(())).unwrap());
    let mut reading = FirstReading::new(reader.open_file.stat, true);
    reading.update(&Part::Zeros(2 * MIB));
    assert_eq!(reader.check_unchanged(&reading, || Step::Read, &mut |_| Ok(())), Ok(()));
}

#[test]
fn a_truncated_sparse_file_has_changed() {
    let fixture = ReadFixture::sparse(64 * MIB, &[(MIB, b"x"), (60 * MIB, b"y")]);
    let mut is_truncated = false;
    let (sent, result) = run(&fixture.reader_of_holes(None), |step| {
        if matches!(step, Step::Extents(_)) && !std::mem::replace(&mut is_truncated, true) {
            let file = OpenOptions::new().write(true).open(fixture.path()).unwrap();
            file.set_len(10).unwrap();
        }
    });
    assert!(is_truncated);
    check_changed(&sent, &result);
}
