//! The README says what is so: its code compiles and runs here, and its tables are those of the guide.

use std::error::Error;
use std::path::Path;

type Outcomes = Result<(), Box<dyn Error>>;

#[tokio::test]
#[allow(unused_variables, reason = "a reader has something to do with the wait")]
async fn the_first_example_runs() -> Outcomes {
    use traffik::{InMemory, LifespanExt, Outcome, Throttle};

    let backend = InMemory::new();
    let life = backend.lifespan().await?;

    let throttle =
        Throttle::builder("api:items").rate("100/min burst 150").backend(backend).build()?;

    let decision = throttle.hit("alice").await?;
    match decision.outcome() {
        Outcome::Allowed => {} // serve; decision.remaining() units are left
        Outcome::Denied { retry_after } => {} // 429 Too Many Requests, Retry-After: retry_after
        Outcome::Never => {}   // 403: the limit is 0, or the cost above the burst
    }

    life.close().await?;
    assert_eq!(decision.remaining(), 149);
    Ok(())
}

#[tokio::test]
async fn the_other_examples_run() -> Outcomes {
    use traffik::{FixedWindow, HitOptions, InMemory, Rate, Throttle};

    let (backend, user_id) = (InMemory::new(), 7_u64);
    let throttle = Throttle::builder("api")
        .rate("20/s")
        .named("burst")
        .limit("5000/day", FixedWindow::new())
        .named("daily")
        .backend(backend)
        .build()?;

    let plan = HitOptions::new().replace_rates([Rate::per_minute(600)]).cost(5).leave(20);
    let decision = throttle.hit_with(("tenant-7", user_id), plan).await?;

    let tokens = Throttle::builder("tokens").rate("1000/min").backend(InMemory::new()).build()?;

    let permit = tokens.reserve("tenant-7", 400).await?; // an estimate, or a denial as an error
    let used = 150; // the model's answer says how many
    permit.settle(used).await?;

    assert_eq!(tokens.peek("tenant-7").await?.remaining(), 850);
    assert_eq!(
        (throttle.limits()[0].name(), throttle.limits()[1].name()),
        ("burst".into(), "daily".into())
    );
    assert_eq!(decision.remaining(), 595);
    Ok(())
}

#[tokio::test]
async fn the_example_of_a_fallback_runs() -> Outcomes {
    use traffik::decorator::Resilience;
    use traffik::lifespan::{LifespanOptions, Start};
    use traffik::{DecidedBy, InMemory, LifespanExt, Throttle};

    let redis = test_support::Scripted::new();
    redis.plays(test_support::Play::Refuse(traffik::ErrorKind::Unavailable));
    let backend = Resilience::recommended().fallback(InMemory::new()).around(redis)?;
    let life = backend.lifespan_with(LifespanOptions::new().start(Start::Degraded)).await?;
    let api = Throttle::builder("api").rate("100/min").backend(backend.clone()).build()?;

    assert_eq!(api.hit("alice").await?.decided_by(), DecidedBy::Fallback);
    drop(life);
    Ok(())
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Without what a formatter may change.
fn without_space(text: &str) -> String {
    text.split_whitespace().collect::<String>().replace(",)", ")")
}

#[test]
fn its_code_is_that_of_the_tests_above() {
    let readme = read("README.md");
    let tests = ["tests/core/readme.rs", "tests/http/readme.rs", "examples/axum_minimal.rs"];
    let tests: String = tests.map(|file| without_space(&read(file))).concat();
    let blocks: Vec<_> =
        readme.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 7, "add a test for a new example");
    for block in blocks {
        assert!(tests.contains(&without_space(block)), "in no test:\n{block}");
    }
}

#[test]
fn its_tables_are_those_of_the_guide() {
    let readme = read("README.md");
    for name in ["strategies", "backends", "policies", "features"] {
        let file = format!("docs/tables/{name}.md");
        assert!(readme.contains(&read(&file)), "README.md has another table than {file}");
    }
}
