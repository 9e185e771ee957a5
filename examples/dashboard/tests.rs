//! The page in a real browser: it draws what is left, and follows the clicks.

use tokio::net::TcpListener;
use traffik::http::serve;
use traffik::{InMemory, ManualClock};

use super::app::app;
use super::browser::Browser;

/// What the page draws: what is left of each limit.
const DRAWN: &str = "return [...document.querySelectorAll('#limits g')].map(g => Number(g.dataset.remaining)).join(' ')";
const SAID: &str = "return document.getElementById('said').textContent";

/// Waits until the page shows it.
async fn shows(browser: &Browser, script: &str, expected: &str) {
    let mut shown = String::new();
    for _ in 0..500 {
        browser.run(script).await.as_str().unwrap_or_default().clone_into(&mut shown);
        if shown == expected {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{shown:?} is shown, and not {expected:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_draws_what_is_left_while_one_clicks() {
    let clock = ManualClock::new();
    let backend = InMemory::builder().clock(clock.clone()).build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let page = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { serve(listener, app(&backend).unwrap()).await });

    let browser = Browser::open(&page).await;
    shows(&browser, DRAWN, "10 15 40").await;
    for left in (0..10).rev() {
        browser.click("#click").await;
        shows(&browser, DRAWN, &format!("{left} {} {}", left + 5, left + 30)).await;
    }
    shows(&browser, SAID, "counted").await;
    browser.click("#click").await;
    shows(&browser, SAID, "denied, retry after 1 s").await;
    let bar = "return document.querySelector('#limits g rect.left').getAttribute('width') + \
               document.querySelector('#limits g rect.left').classList";
    shows(&browser, bar, "0left none").await;
    // Without a click it follows the time.
    clock.advance(std::time::Duration::from_secs(2));
    shows(&browser, "return document.querySelector('#limits g').dataset.remaining", "4").await;
    browser.close().await;
}
