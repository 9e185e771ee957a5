//! Bodies, readers and writers whose bytes wait for their turn, on a paused clock.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{poll, stream};
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use test_support::RuntimeClock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use traffik::http::ThrottledBodyError;
use traffik::{Error, Throttle};

use crate::support::SECOND;

/// On the paused clock of the runtime, which goes on by itself when all wait.
fn bytes_per_second(rate: &str) -> Throttle {
    Throttle::builder("bytes").rate(rate).backend(RuntimeClock::memory()).build().unwrap()
}

async fn took(work: impl Future<Output = ()>) -> Duration {
    let start = Instant::now();
    work.await;
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_body_comes_whole_and_no_faster_than_its_rate() {
    let throttle = bytes_per_second("1000B/s burst 100B");
    let text: Bytes = (0..5_050_u32).map(|byte| byte.to_le_bytes()[0]).collect();
    let body = throttle.throttle_body("alice", Full::new(text.clone())).unwrap();
    assert_eq!(body.size_hint().exact(), Some(5_050));
    let mut sizes = Vec::new();
    let mut read = Vec::new();
    let time = took(async {
        let mut body = pin!(body);
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            sizes.push(data.len());
            read.extend_from_slice(&data);
        }
        assert!(body.is_end_stream());
    });
    let time = time.await;
    assert_eq!(read, text);
    assert!(sizes.iter().all(|size| *size <= 100), "none above the burst: {sizes:?}");
    // All but the burst has to wait.
    assert!((4.95..5.1).contains(&time.as_secs_f64()), "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn frames_and_trailers_come_in_their_order() {
    let throttle = bytes_per_second("1kB/s burst 10B");
    let trailers = HeaderMap::from_iter([("a".parse().unwrap(), HeaderValue::from_static("b"))]);
    let frames = ["one", "", "two, which is longer than a burst", "three"];
    let frames = frames.map(|text| Ok::<_, &str>(Frame::data(Bytes::from(text))));
    let frames = frames.into_iter().chain([Ok(Frame::trailers(trailers.clone()))]);
    let body = throttle.throttle_body("alice", StreamBody::new(stream::iter(frames))).unwrap();
    let collected = body.collect().await.unwrap();
    assert_eq!(collected.trailers(), Some(&trailers));
    assert_eq!(collected.to_bytes(), "onetwo, which is longer than a burstthree");
}

#[tokio::test(start_paused = true)]
async fn an_error_ends_a_body() {
    let closed = bytes_per_second("0B/s");
    let mut body = pin!(closed.throttle_body("alice", Full::<Bytes>::from("text")).unwrap());
    let error = body.frame().await.unwrap().unwrap_err();
    assert!(matches!(error, ThrottledBodyError::Throttle(Error::Denied(_))), "{error:?}");
    assert!(body.frame().await.is_none() && body.is_end_stream());

    let slow = bytes_per_second("1B/s burst 1B");
    let body = slow.throttle_body("alice", Full::<Bytes>::from("text")).unwrap();
    let error = body.timeout(SECOND / 2).collect().await.unwrap_err();
    assert!(matches!(error, ThrottledBodyError::Throttle(Error::Denied(_))), "{error:?}");

    let frames = stream::iter([Ok(Frame::data(Bytes::from("a"))), Err("cut")]);
    let body = bytes_per_second("1kB/s").throttle_body("alice", StreamBody::new(frames)).unwrap();
    assert!(matches!(body.collect().await.unwrap_err(), ThrottledBodyError::Body("cut")));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_goes_away_gives_back_what_it_reserved() {
    let throttle = bytes_per_second("10B/s burst 10B");
    let mut body =
        Box::pin(throttle.throttle_body("alice", Full::<Bytes>::from("0123456789abcde")).unwrap());
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "0123456789");
    assert!(poll!(body.frame()).is_pending(), "five are reserved");
    drop(body);
    tokio::time::advance(SECOND / 2).await;
    assert_eq!(throttle.peek("alice").await.unwrap().remaining(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_reader_reads_all_and_no_faster_than_its_rate() {
    let throttle = bytes_per_second("1kB/s burst 100B");
    let text: Vec<u8> = (0..3_000_u32).map(|byte| byte.to_le_bytes()[0]).collect();
    let mut reader = throttle.throttle_reader("alice", &text[..]).unwrap();
    let mut read = Vec::new();
    let time = took(async {
        // In pieces that fit nothing.
        let mut piece = [0; 37];
        loop {
            match reader.read(&mut piece).await.unwrap() {
                0 => break,
                count => read.extend_from_slice(&piece[..count]),
            }
        }
    });
    let time = time.await;
    assert_eq!(read, text);
    assert!((2.9..3.05).contains(&time.as_secs_f64()), "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reader_without_anything_takes_nothing() {
    let throttle = bytes_per_second("10B/s");
    let (_writer, silent) = tokio::io::duplex(64);
    let mut reader = throttle.throttle_reader("alice", silent).unwrap();
    let mut room = [0; 8];
    assert!(poll!(pin!(reader.read(&mut room))).is_pending());
    assert_eq!(throttle.peek("alice").await.unwrap().remaining(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_writer_writes_all_and_no_faster_than_its_rate() {
    let throttle = bytes_per_second("1kB/s burst 100B");
    let text: Vec<u8> = (0..3_000_u32).map(|byte| byte.to_le_bytes()[0]).collect();
    let mut writer = throttle.throttle_writer("alice", Vec::new()).unwrap();
    let time = took(async {
        writer.write_all(&text).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let time = time.await;
    assert_eq!(writer.get_ref(), &text);
    assert!((2.9..3.05).contains(&time.as_secs_f64()), "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn a_writer_gives_back_what_was_not_written() {
    let throttle = bytes_per_second("100B/min");
    // Takes eight bytes, and no more.
    let (narrow, _reader) = tokio::io::duplex(8);
    let mut writer = throttle.throttle_writer("alice", narrow).unwrap();
    assert_eq!(writer.write(&[0; 50]).await.unwrap(), 8);
    assert_eq!(throttle.peek("alice").await.unwrap().remaining(), 50, "42 are free for the next");
    drop(writer);
    assert_eq!(throttle.peek("alice").await.unwrap().remaining(), 92);
}

#[tokio::test(start_paused = true)]
async fn a_reader_and_a_writer_say_why_nothing_passes() {
    let closed = bytes_per_second("0B/s");
    let error = closed.throttle_writer("alice", Vec::new()).unwrap().write(b"a").await.unwrap_err();
    let denied = error.get_ref().unwrap().downcast_ref::<Error>().unwrap();
    assert!(matches!(denied, Error::Denied(_)), "{denied:?}");
    let mut reader = closed.throttle_reader("alice", &b"a"[..]).unwrap();
    assert!(reader.read(&mut [0; 1]).await.unwrap_err().get_ref().unwrap().is::<Error>());
}
