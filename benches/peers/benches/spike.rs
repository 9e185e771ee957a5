use governor::{
    Quota, RateLimiter, clock::QuantaClock, middleware::NoOpMiddleware,
    state::keyed::DashMapStateStore,
};
use std::future::Future;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::Instant;
use traffik::*;

fn block<F: Future>(f: F) -> F::Output {
    let mut f = std::pin::pin!(f);
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match f.as_mut().poll(&mut cx) {
        std::task::Poll::Ready(v) => v,
        _ => panic!(),
    }
}
type Gov = RateLimiter<
    String,
    DashMapStateStore<String>,
    QuantaClock,
    NoOpMiddleware<governor::clock::QuantaInstant>,
>;
fn ours(t: &Throttle, keys: &[String], order: &[u32], accessors: bool) -> f64 {
    let s = Instant::now();
    for &i in order {
        let d = block(t.hit(keys[i as usize].as_str())).unwrap();
        if accessors {
            black_box((d.is_allowed(), d.remaining(), d.retry_after(), d.reset_after()));
        } else {
            black_box(d.is_allowed());
        }
    }
    s.elapsed().as_nanos() as f64 / order.len() as f64
}
#[inline(never)]
fn mk(keys: &[String], order: &[u32]) -> f64 {
    use traffik::key::KeyPart;
    let s = Instant::now();
    for &i in order {
        let p = [KeyPart::bytes(keys[i as usize].as_bytes())];
        let k = Key::new("b", &p);
        black_box(k.hash());
    }
    s.elapsed().as_nanos() as f64 / order.len() as f64
}
#[inline(never)]
fn direct(b: &InMemory, t: &Throttle, keys: &[String], order: &[u32], dynamic: bool) -> f64 {
    use traffik::key::KeyPart;
    let dy: &dyn Backend = black_box(b);
    let s = Instant::now();
    for &i in order {
        let p = [KeyPart::bytes(keys[i as usize].as_bytes())];
        let k = Key::new("b", &p);
        let step = traffik::strategy::Step::new(t.limits(), 1, traffik::strategy::Op::Take);
        let d = if dynamic {
            dy.try_apply(&k, &step).unwrap().unwrap()
        } else {
            b.try_apply(&k, &step).unwrap().unwrap()
        };
        black_box(d.is_allowed());
    }
    s.elapsed().as_nanos() as f64 / order.len() as f64
}
fn clk(order: &[u32]) -> f64 {
    let c = SystemClock::new();
    let s = Instant::now();
    for _ in order {
        black_box(c.now());
    }
    s.elapsed().as_nanos() as f64 / order.len() as f64
}
fn gov(g: &Gov, keys: &[String], order: &[u32]) -> f64 {
    let s = Instant::now();
    for &i in order {
        black_box(g.check_key(&keys[i as usize]).is_ok());
    }
    s.elapsed().as_nanos() as f64 / order.len() as f64
}
fn main() {
    println!("decision {} bytes", size_of::<Decision>());
    let only: usize = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(0);
    for n in [1000usize, 1_000_000] {
        if only != 0 && only != n {
            continue;
        }
        let keys: Vec<String> = (0..n).map(|i| format!("key:{i:07}")).collect();
        let rate = Rate::per_second(1_000_000);
        let mem = InMemory::builder().max_keys(None).build().unwrap();
        let t = Throttle::builder("b").rate(rate).backend(mem.clone()).build().unwrap();
        let t2 = Throttle::builder("b2")
            .rates([rate, Rate::per_minute(50_000_000)])
            .backend(InMemory::builder().max_keys(None).build().unwrap())
            .build()
            .unwrap();
        let g: Gov = RateLimiter::keyed(Quota::per_second(NonZeroU32::new(1_000_000).unwrap()));
        let mut x = 12345u64;
        let order: Vec<u32> = (0..2_000_000)
            .map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                (x % n as u64) as u32
            })
            .collect();
        let all: Vec<u32> = (0..n as u32).collect();
        ours(&t, &keys, &all, true);
        if only == 0 {
            ours(&t2, &keys, &all, true);
        }
        gov(&g, &keys, &all);
        if std::env::var("CG").is_ok() {
            let o = if std::env::var("LOOP").is_ok() { &order[..] } else { &order[..200_000] };
            if std::env::var("LOOP").is_ok() {
                for _ in 0..20 {
                    if std::env::var("LOOP").as_deref() == Ok("2") {
                        ours(&t2, &keys, o, true);
                    } else {
                        ours(&t, &keys, o, true);
                    }
                }
            }
            if std::env::var("CG").unwrap() == "o" {
                if std::env::var("LOOP").as_deref() == Ok("2") {
                    ours(&t2, &keys, o, true);
                } else {
                    ours(&t, &keys, o, true);
                }
            } else {
                gov(&g, &keys, o);
            }
            return;
        }
        for _ in 0..3 {
            println!(
                "clock {:.1} key {:.1} direct {:.1} dyn {:.1} ours {:.1}",
                clk(&order),
                mk(&keys, &order),
                direct(&mem, &t, &keys, &order, false),
                direct(&mem, &t, &keys, &order, true),
                ours(&t, &keys, &order, true)
            );
        }
        let mut r = vec![];
        for _ in 0..9 {
            let a = ours(&t, &keys, &order, true);
            let b = gov(&g, &keys, &order);
            let c = if only == 0 { ours(&t2, &keys, &order, true) } else { 0.0 };
            let d = ours(&t, &keys, &order, false);
            // two threads
            let s = Instant::now();
            std::thread::scope(|sc| {
                for _ in 0..2 {
                    sc.spawn(|| ours(&t, &keys, &order, true));
                }
            });
            let a2 = s.elapsed().as_nanos() as f64 / order.len() as f64;
            let s = Instant::now();
            std::thread::scope(|sc| {
                for _ in 0..2 {
                    sc.spawn(|| gov(&g, &keys, &order));
                }
            });
            let b2 = s.elapsed().as_nanos() as f64 / order.len() as f64;
            r.push([a, b, c, d, a2, b2]);
        }
        let med = |i: usize| {
            let mut v: Vec<f64> = r.iter().map(|x| x[i]).collect();
            v.sort_by(f64::total_cmp);
            v[v.len() / 2]
        };
        println!(
            "{n}: ours {:.1} gov {:.1} ratio {:.2} | two limits {:.1} ratio {:.2} | verdict only {:.1} | 2 threads ours {:.1} gov {:.1} ratio {:.2}",
            med(0),
            med(1),
            med(1) / med(0),
            med(2),
            med(1) / med(2),
            med(3),
            med(4),
            med(5),
            med(5) / med(4)
        );
    }
}
