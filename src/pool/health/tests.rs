use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A backend, its clock, and whether others of its pool are usable.
struct Bench {
    health: Health,
    now: Instant,
    alone: bool,
}

impl Bench {
    fn new(rise: u32, fall: u32) -> Self {
        let now = Instant::now();
        let thresholds = Thresholds {
            rise: NonZeroU32::new(rise).expect("at least 1"),
            fall: NonZeroU32::new(fall).expect("at least 1"),
            patience: SECOND,
        };
        Self {
            health: Health::new(thresholds, now),
            now,
            alone: false,
        }
    }

    fn up(rise: u32, fall: u32) -> Self {
        let mut bench = Self::new(rise, fall);
        bench.feed("+");
        bench
    }

    /// Feeds one result a second, `+` passed and `-` failed; gives the states after each
    /// as `S`, `U`, `D`.
    fn feed(&mut self, results: &str) -> String {
        results.chars().map(|result| self.step(result)).collect()
    }

    fn step(&mut self, result: char) -> char {
        self.now += SECOND;
        self.health.record(result == '+', self.alone, self.now);
        match self.health.state() {
            State::Starting => 'S',
            State::Up => 'U',
            State::Down => 'D',
        }
    }

    fn needed(&self) -> u32 {
        self.health.passes_needed(self.now)
    }

    /// Passed checks until an up backend that is taken down now is back.
    fn flap(&mut self) -> u32 {
        while self.step('-') == 'U' {}
        let promised = self.needed();
        let mut passes = 1;
        while self.step('+') == 'D' {
            passes += 1;
        }
        assert_eq!(passes, promised, "passes_needed tells the truth");
        passes
    }
}

#[test]
fn the_first_result_alone_decides() {
    assert_eq!(Bench::new(5, 5).feed("+"), "U");
    assert_eq!(Bench::new(5, 5).feed("-"), "D");
}

#[test]
fn only_failures_in_a_row_take_a_backend_down() {
    assert_eq!(Bench::up(2, 3).feed("--+--+---"), "UUUUUUUUD");
}

#[test]
fn only_passes_in_a_row_bring_a_backend_back() {
    let mut bench = Bench::up(2, 3);
    assert_eq!(bench.feed("---+-++"), "UUDDDDU");
}

#[test]
fn a_transition_is_told_once_with_both_states() {
    let mut bench = Bench::up(1, 2);
    let mut told = Vec::new();
    for passed in [false, false, false, true, true] {
        told.push(bench.health.record(passed, false, bench.now));
    }
    let down = Transition {
        from: State::Up,
        to: State::Down,
    };
    let up = Transition {
        from: State::Down,
        to: State::Up,
    };
    assert_eq!(told, [None, Some(down), None, Some(up), None]);
}

#[test]
fn alone_in_its_pool_one_pass_brings_a_backend_back() {
    let mut bench = Bench::up(5, 1);
    bench.flap();
    bench.alone = true;
    assert_eq!(bench.feed("-+"), "DU");
}

#[test]
fn alone_in_its_pool_failures_still_need_to_be_fall_in_a_row() {
    let mut bench = Bench::up(5, 3);
    bench.alone = true;
    assert_eq!(bench.feed("--+---"), "UUUUUD");
}

#[test]
fn a_flapping_backend_needs_more_passes_each_time_up_to_eight_times_rise() {
    let mut bench = Bench::up(2, 3);
    let passes: Vec<u32> = (0..6).map(|_| bench.flap()).collect();
    assert_eq!(passes, [2, 4, 8, 16, 16, 16]);
}

#[test]
fn five_quiet_minutes_halve_what_a_flapping_backend_needs() {
    let mut bench = Bench::up(1, 1);
    let last_down = {
        while bench.flap() < 8 {}
        bench.step('-');
        bench.now
    };
    let needed_after = |minutes: u64| {
        let at = last_down + Duration::from_secs(minutes * 60);
        bench.health.passes_needed(at)
    };
    assert_eq!(
        [0, 4, 5, 9, 10, 15, 60].map(needed_after),
        [8, 8, 4, 4, 2, 1, 1]
    );
}

#[test]
fn a_backend_that_fails_now_and_then_is_never_held_back() {
    let mut bench = Bench::up(2, 3);
    for _ in 0..5 {
        assert_eq!(bench.flap(), 2);
        bench.now += FORGIVE_AFTER;
    }
}

#[test]
fn a_backend_that_starts_dead_has_not_flapped() {
    let mut bench = Bench::new(1, 1);
    assert_eq!(bench.feed("-+"), "DU");
    assert_eq!(bench.flap(), 1);
    assert_eq!(bench.flap(), 2);
}

#[test]
fn without_a_result_a_backend_counts_as_up_after_the_timeout() {
    let mut bench = Bench::new(2, 3);
    let due = bench.health.assumed_up_at().expect("it is starting");
    assert_eq!(bench.health.assume_up(due - Duration::from_nanos(1)), None);
    let assumed = bench.health.assume_up(due).expect("a transition");
    assert_eq!((assumed.from, assumed.to), (State::Starting, State::Up));
    assert!(!bench.health.decided() && !bench.health.settled());
    assert_eq!(bench.health.assumed_up_at(), None);
}

#[test]
fn the_first_result_decides_alone_also_after_the_assumption() {
    let mut bench = Bench::new(2, 3);
    bench.now += SECOND;
    bench.health.assume_up(bench.now);
    assert_eq!(bench.feed("-++"), "DDU");
    assert_eq!(bench.flap(), 2, "an assumption is no flap");
}

#[test]
fn a_backend_without_checks_is_up_and_settled_from_the_start() {
    let bench = Bench::new(2, 3);
    let health = Health::unchecked(bench.health.thresholds, bench.now);
    assert_eq!(health.state(), State::Up);
    assert!(health.settled() && health.decided());
    assert_eq!(health.passes_needed(bench.now), 0);
}

#[test]
fn a_backend_is_unsettled_while_a_change_is_in_the_air() {
    let mut bench = Bench::new(2, 2);
    let mut settled = vec![bench.health.settled()];
    for result in "+-+--+-++".chars() {
        bench.step(result);
        settled.push(bench.health.settled());
    }
    let expected = [
        false, true, false, true, false, true, false, true, false, true,
    ];
    assert_eq!(settled, expected);
}

#[test]
fn a_failed_connect_unsettles_an_up_backend_until_the_next_result() {
    let mut bench = Bench::up(2, 3);
    bench.health.suspect();
    assert!(!bench.health.settled());
    bench.feed("+");
    assert!(bench.health.settled());
}

#[test]
fn a_failed_connect_changes_nothing_for_a_down_backend() {
    let mut bench = Bench::new(2, 3);
    bench.feed("-");
    bench.health.suspect();
    assert!(bench.health.settled());
}

#[test]
fn new_thresholds_keep_state_and_rows() {
    let mut bench = Bench::up(2, 5);
    bench.feed("--");
    let since = bench.health.since();
    let fall = NonZeroU32::new(3).expect("at least 1");
    let thresholds = bench.health.thresholds;
    bench.health.retune(Thresholds { fall, ..thresholds });
    assert_eq!(bench.health.since(), since);
    assert_eq!(bench.feed("-"), "D");
}

#[test]
fn checks_that_begin_anew_forget_the_state_but_not_the_flaps() {
    let mut bench = Bench::up(1, 1);
    bench.flap();
    bench.health.restart(bench.now);
    assert_eq!(bench.health.state(), State::Starting);
    assert_eq!(bench.feed("+"), "U");
    assert_eq!(bench.flap(), 2);
}
