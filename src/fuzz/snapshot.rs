//! What is restored from bytes.

use std::hash::Hasher;
use std::io::Cursor;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use siphasher::sip::SipHasher13;

use crate::{FixedWindow, InMemory, ManualClock, SlidingWindowLog, Throttle};

/// Whatever bytes a snapshot has, it is an error with a place, or a memory that works and can be written again.
///
/// The bytes are taken as a file, and, with other bytes around them, as the frames of a file whose checksums are right:
/// else no byte but the first would ever be looked at.
pub fn snapshot(bytes: &[u8]) {
    check(bytes.to_vec());
    check(sealed(bytes));
}

fn check(file: Vec<u8>) {
    let clock = ManualClock::new();
    let build = |file| {
        let builder = InMemory::builder().number_of_shards(1).clock(clock.clone());
        builder.restore_from(Cursor::new(file)).build()
    };
    let Ok(backend) = build(file) else { return };
    let bytes = at_once(backend.snapshot(Vec::new())).expect("memory takes all bytes");
    let again = build(bytes).expect("what was written is read");
    assert_eq!(again.key_count(), backend.key_count());
    for backend in [&backend, &again] {
        let builder = || Throttle::builder("t").backend(backend.clone());
        let throttles = [
            builder().rates(["5/min", "9/h"]).build(),
            builder().rate("7/h").strategy(FixedWindow::new()).build(),
            builder().rate("7/h").strategy(SlidingWindowLog::new()).build(),
        ];
        for throttle in throttles.into_iter().flatten() {
            // A state that its strategy cannot read is the error policy's matter.
            let _ = at_once(throttle.peek("a"));
            let _ = at_once(throttle.hit("a"));
            let _ = at_once(throttle.inspect("a"));
        }
    }
}

/// Returns a file of frames: each byte of a kind, a length in one byte, and as many bytes.
fn sealed(mut bytes: &[u8]) -> Vec<u8> {
    let (mut file, mut checksum) = (Vec::new(), SipHasher13::new_with_keys(3, 5));
    let mut seal = |part: &[u8], file: &mut Vec<u8>| {
        checksum.write(part);
        let sum = checksum.finish().to_le_bytes();
        checksum.write(&sum);
        file.extend_from_slice(part);
        file.extend_from_slice(&sum);
    };
    let mut header = b"\x89traffik\x01\0\0\0".to_vec();
    for word in [3u64, 5, 1_704_067_200_000_000] {
        header.extend_from_slice(&word.to_le_bytes());
    }
    seal(&header, &mut file);
    while let [kind, length, rest @ ..] = bytes {
        let (payload, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        let mut frame = vec![*kind];
        frame.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        frame.extend_from_slice(payload);
        seal(&frame, &mut file);
        bytes = rest;
    }
    file
}

/// Without a runtime nothing in memory waits.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("it waits for nobody"),
    }
}
