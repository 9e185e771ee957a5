//! What a call adds to the future of the task that makes it.

use std::time::Duration;

use traffik::{HitOptions, InMemory, Throttle, all};

#[tokio::test]
async fn calls_are_small_futures() {
    let throttle = Throttle::builder("sizes").rate("9/s").backend(InMemory::new()).build().unwrap();
    let key = "user:4711";
    let receipt = || async { throttle.hit(key).await.unwrap().receipt().unwrap() };
    let sizes = [
        ("hit", size_of_val(&throttle.hit(key))),
        ("hit_with", size_of_val(&throttle.hit_with(key, HitOptions::new()))),
        ("peek", size_of_val(&throttle.peek(key))),
        ("peek_with", size_of_val(&throttle.peek_with(key, HitOptions::new()))),
        ("enforce", size_of_val(&throttle.enforce(key))),
        ("enforce_with", size_of_val(&throttle.enforce_with(key, HitOptions::new()))),
        ("refund", size_of_val(&throttle.refund(key, receipt().await))),
        ("settle", size_of_val(&throttle.settle(key, receipt().await, 1))),
        ("charge", size_of_val(&throttle.charge(key, 1))),
        ("take_up_to", size_of_val(&throttle.take_up_to(key, 1))),
        ("drain", size_of_val(&throttle.drain(key))),
        ("reserve", size_of_val(&throttle.reserve(key, 1))),
        ("acquire", size_of_val(&throttle.acquire(key).into_future())),
        ("inspect", size_of_val(&throttle.inspect(key))),
        ("block", size_of_val(&throttle.block(key, Duration::from_secs(1)))),
        ("reset", size_of_val(&throttle.reset(key))),
        ("hit_many", size_of_val(&throttle.hit_many([key]))),
        ("all", size_of_val(&all().hit(&throttle, key).into_future())),
    ];
    for (call, size) in sizes {
        let most = match call {
            "hit" | "peek" => 320,
            "hit_with" | "peek_with" => 480,
            _ => 720,
        };
        assert!(size <= most, "{call} adds {size} bytes to the future that awaits it: {sizes:?}");
    }
}
