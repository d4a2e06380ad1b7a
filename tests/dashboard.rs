//! The dashboard in a real browser, with real traffic.

mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::browser::Browser;
use support::{Backend, Isobar, scaled, wait_until, web};

const FAST: &str = "[pool.web.health]\ninterval = \"100ms\"\ntimeout = \"100ms\"\n\
                    fast_interval = \"50ms\"\nrise = 1\nfall = 1\n";

fn page(isobar: &Isobar) -> String {
    format!("http://{}/", isobar.admin())
}

/// Three backends that are up, and a window with the page.
fn scene(admin: &str) -> (Isobar, Vec<Backend>, Browser) {
    let backends: Vec<_> = ["oak", "pine", "birch"].map(Backend::named).into();
    let entries: Vec<_> = backends.iter().map(Backend::entry).collect();
    let isobar = Isobar::start(&format!("{}{admin}", web(FAST, &entries)));
    for backend in &backends {
        isobar.wait_state("web", backend.name(), "up");
    }
    let browser = Browser::start(1280, 1400);
    browser.open(&page(&isobar));
    (isobar, backends, browser)
}

fn row(backend: &str) -> String {
    format!("[data-backend='web/{backend}']")
}

/// Clients that come one after another, for as long as `work` takes.
fn under_load(isobar: &Isobar, work: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                isobar.visit("web");
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        work();
        stop.store(true, SeqCst);
    });
}

/// Asserts that it asked nobody else, and that its console is empty.
fn check(browser: &Browser, isobar: &Isobar) {
    let own = page(isobar);
    let requests = browser.requests();
    let kinds: BTreeSet<_> = requests
        .iter()
        .filter_map(|url| url.strip_prefix(&own)?.split('?').next())
        .collect();
    for path in ["", "stats", "events", "series", "connections"] {
        assert!(kinds.contains(path), "{path} was not asked for: {kinds:?}");
    }
    let foreign: Vec<_> = requests
        .iter()
        .filter(|url| !url.starts_with(&own) && !url.starts_with("data:"))
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    let console = browser.notes("browser");
    assert!(console.is_empty(), "{console:?}");
}

/// 1. All three are up, and traffic shows.
/// 2. One is killed: the page says so within two seconds of the balancer, with the cause.
/// 3. Another is drained by clicks, with a confirmation; isobar has it in its statistics.
/// 4. The event list has both. Nobody else was asked, the console is empty.
#[test]
#[ignore = "needs chromium and chromium-driver"]
fn a_backend_that_dies_is_seen_and_one_is_drained_by_clicking() {
    let (isobar, backends, browser) = scene("");
    under_load(&isobar, || {
        wait_until("all are up on the page, and traffic shows", || {
            backends.iter().all(|backend| {
                let text = browser.text(&row(backend.name()));
                text.contains("up") && text.contains("/s")
            })
        });
        wait_until("new connections are counted", || {
            let script = "return document.querySelectorAll('#numbers dd')[1].textContent";
            let text = browser.run(script).as_str().unwrap_or_default().to_owned();
            text.ends_with("/s") && !text.starts_with('0')
        });
        backends[0].stop();
        isobar.wait_state("web", "oak", "down");
        let known = Instant::now();
        wait_until("the page says so", || {
            browser.text(&row("oak")).contains("down")
        });
        let took = known.elapsed();
        assert!(took < scaled(Duration::from_secs(2)), "after {took:?}");
        assert!(browser.text(&row("oak")).contains("refused"));
        browser.run(&format!(
            "const s = document.querySelector(\"{} select\"); s.value = 'drain'; \
             s.dispatchEvent(new Event('change'));",
            row("pine")
        ));
        let asked = browser.text("#change-dialog");
        assert!(asked.contains("Drain web/pine"), "{asked}");
        assert_eq!(isobar.stat("/pools/web/backends/pine/admin"), "ready");
        browser.click("#change-yes");
        isobar.wait_state("web", "pine", "draining");
        wait_until("the page shows it", || {
            browser.text(&row("pine")).contains("draining")
        });
        wait_until("the events have both", || {
            let events = browser.text("#event-list");
            events.contains("web/oak is down") && events.contains("web/pine is draining")
        });
    });
    check(&browser, &isobar);
}

/// A token is asked for, a wrong one again, and kept for the tab.
#[test]
#[ignore = "needs chromium and chromium-driver"]
fn the_page_asks_for_the_token_where_one_is_needed() {
    let admin = "[admin]\nbind = \"127.0.0.1:0\"\ntoken = \"s3cret\"\n";
    let (mut isobar, _backends, browser) = scene(admin);
    isobar.show_token("s3cret");
    wait_until("reads need none on loopback", || {
        browser.text(&row("oak")).contains("up")
    });
    let drain = |browser: &Browser| {
        browser.run(&format!(
            "const s = document.querySelector(\"{} select\"); s.value = 'drain'; \
             s.dispatchEvent(new Event('change'));",
            row("oak")
        ));
        browser.click("#change-yes");
    };
    let is_asked = || browser.run("return document.getElementById('token-dialog').open") == true;
    drain(&browser);
    wait_until("it asks", is_asked);
    browser.write("#token", "wrong");
    browser.click("#token-dialog .main");
    wait_until("it asks again", || {
        is_asked() && browser.text("#token-why").contains("not accepted")
    });
    browser.write("#token", "s3cret");
    browser.click("#token-dialog .main");
    isobar.wait_state("web", "oak", "draining");
    let kept = browser.run("return [sessionStorage.length, localStorage.length]");
    assert_eq!(kept, json!([1, 0]));
}

#[test]
#[ignore = "needs chromium and chromium-driver"]
fn a_read_only_endpoint_offers_no_change() {
    let disabled = |browser: &Browser| {
        let select = format!("document.querySelector(\"{} select\")", row("oak"));
        browser.run(&format!("return {select} && {select}.disabled"))
    };
    for (read_only, expected) in [(true, json!(true)), (false, json!(false))] {
        let admin = format!("[admin]\nbind = \"127.0.0.1:0\"\nread_only = {read_only}\n");
        let (_isobar, _backends, browser) = scene(&admin);
        wait_until("its row is there", || disabled(&browser) == expected);
    }
}

/// 1. A backend is killed. Its name is clicked: the page says why it is down, since when, and how
///    long the check took.
/// 2. An operator forces another one, which is shown by name of who did it.
/// 3. Numbers of latency and quality are there.
#[test]
#[ignore = "needs chromium and chromium-driver"]
fn a_click_on_a_backend_shows_its_history_and_how_well_it_is_reached() {
    let (isobar, backends, browser) = scene("");
    let held: Vec<_> = (0..3).map(|_| isobar.stay("web")).collect();
    held.iter().for_each(|(client, _)| client.write("more"));
    wait_until("a round trip was sampled", || {
        isobar.count("/pools/web/backends/pine/rtt_seconds/count") > 0
    });
    backends[0].stop();
    isobar.wait_state("web", "oak", "down");
    browser.click(&format!("{} .name", row("oak")));
    wait_until("it says why", || {
        let text = browser.text("#backend-history");
        text.contains("connect: connection refused") && text.contains("checks")
    });
    let state = browser.text("#backend-state");
    assert!(state.contains("is down"), "{state}");
    let faults = browser.run(include_str!("dashboard/readable.js"));
    assert_eq!(faults, json!([]));
    browser.click("#backend-dialog menu button");
    browser.click(&format!("{} .name", row("pine")));
    let number = "const of = document.querySelectorAll('#backend-quality tr')[2]; \
                  return [...of.children].map(cell => cell.textContent)";
    wait_until("the round trip is told", || {
        let cells = browser.run(number);
        cells[0] == "Round trip" && cells[1].as_str().is_some_and(|text| text.ends_with("ms"))
    });
    wait_until("what was sent is told", || {
        let text = browser.text("#backend-retransmitted");
        text.contains("0.00") && text.contains("in all 0\u{202f}B of 4\u{202f}B")
    });
    isobar.set("web/pine", "{\"state\": \"drain\"}");
    let by = isobar.stat("/pools/web/backends/pine/health/history");
    let by = by.as_array().and_then(|all| all.last()?["by"].as_str());
    let by = by.expect("who it was").to_owned();
    wait_until("it says who did it, while it is open", || {
        let text = browser.text("#backend-history");
        text.contains("draining") && text.contains(&by)
    });
    drop(held);
    check(&browser, &isobar);
}

/// Names, labels and contrast, in light and in dark.
#[test]
#[ignore = "needs chromium and chromium-driver"]
fn everybody_can_read_the_page() {
    let (isobar, backends, browser) = scene("");
    backends[0].stop();
    isobar.set("web/pine", "{\"state\": \"drain\"}");
    for (backend, state) in [("oak", "down"), ("pine", "draining")] {
        wait_until("it is on the page", || {
            browser.text(&row(backend)).contains(state)
        });
    }
    for scheme in ["light", "dark"] {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        browser.emulate("Emulation.setEmulatedMedia", &features);
        wait_until("the scheme is in use", || {
            browser.run(&format!(
                "return matchMedia('(prefers-color-scheme: {scheme})').matches"
            )) == true
        });
        // Colours may be on their way to others.
        std::thread::sleep(Duration::from_millis(400));
        let faults = browser.run(include_str!("dashboard/readable.js"));
        assert_eq!(faults, json!([]), "{scheme}");
    }
    let phone = json!({"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": true});
    browser.emulate("Emulation.setDeviceMetricsOverride", &phone);
    wait_until("nothing is wider than a phone", || {
        browser.run("return document.documentElement.scrollWidth") == 390
    });
    assert_eq!(
        browser.run(include_str!("dashboard/readable.js")),
        json!([])
    );
}

/// A thousand backends: rows come in portions, one that is down comes first, `/stats` is asked
/// for every five seconds at most.
#[test]
#[ignore = "needs chromium and chromium-driver"]
fn a_thousand_backends_are_shown_without_asking_all_the_time() {
    let one = Backend::named("one");
    let entries: Vec<_> = (0..1000)
        .map(|n| format!("{{ name = \"b{n}\", address = \"{}\" }}", one.address()))
        .collect();
    let isobar = Isobar::start(&web("[pool.web.health]\nkind = \"none\"\n", &entries));
    let browser = Browser::start(1280, 1400);
    browser.open(&page(&isobar));
    wait_until("they are there", || {
        browser.text("#pool-list").contains("1000 of 1000 usable")
    });
    let rows = || browser.run("return document.querySelectorAll('[data-backend]').length");
    assert_eq!(rows(), 100);
    browser.write("#find", "b99");
    wait_until("those are found", || rows() == 11);
    isobar.set("web/b997", "{\"state\": \"maintenance\"}");
    wait_until("the change is there at once", || {
        browser.text(&row("b997")).contains("maintenance")
    });
    browser.requests();
    let begun = Instant::now();
    std::thread::sleep(Duration::from_secs(11));
    let stats = browser.requests();
    let stats = stats.iter().filter(|url| url.ends_with("/stats")).count();
    let most = 1 + usize::try_from(begun.elapsed().as_secs() / 5).expect("a count");
    assert!((1..=most).contains(&stats), "{stats} times, {most} at most");
    if let Ok(into) = std::env::var(PICTURES) {
        browser.run("const f = document.getElementById('find'); f.value = ''; f.dispatchEvent(new Event('input'))");
        browser.picture(&PathBuf::from(into).join("dashboard-1000.png"));
    }
}

/// Names the directory that pictures for the documentation are written into.
const PICTURES: &str = "ISOBAR_PICTURES";

/// Makes the pictures of the documentation: `ISOBAR_PICTURES=docs/images cargo test --test
/// dashboard -- --ignored pictures`. They need some minutes of traffic to show.
#[test]
#[ignore = "needs chromium and chromium-driver"]
fn pictures() {
    // Where nobody wants them there is nothing to do; with them the case takes minutes.
    let Ok(into) = std::env::var(PICTURES) else {
        return;
    };
    let into = PathBuf::from(into);
    let (isobar, backends, browser) = scene("");
    under_load(&isobar, || {
        std::thread::sleep(Duration::from_secs(100));
        isobar.set("web/birch", "{\"weight\": 2}");
        std::thread::sleep(Duration::from_secs(30));
        backends[0].stop();
        std::thread::sleep(Duration::from_secs(20));
        browser.picture(&into.join("dashboard.png"));
        let scheme =
            |value: &str| json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        browser.emulate("Emulation.setEmulatedMedia", &scheme("dark"));
        std::thread::sleep(Duration::from_secs(2));
        browser.picture(&into.join("dashboard-dark.png"));
        browser.emulate("Emulation.setEmulatedMedia", &scheme("light"));
        let phone: Value =
            json!({"width": 390, "height": 1400, "deviceScaleFactor": 1, "mobile": true});
        browser.emulate("Emulation.setDeviceMetricsOverride", &phone);
        std::thread::sleep(Duration::from_secs(2));
        browser.picture(&into.join("dashboard-phone.png"));
    });
}
