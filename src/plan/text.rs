//! A plan for people: what is added (`+`), changed (`~`) and removed (`-`), and at the end,
//! next to the prompt, what it comes to.

use std::fmt::Write;
use std::time::Duration;

use super::layout::{Line, Section, Tone};
use super::{
    BackendPlan, Covered, Fate, HashKeys, Kind, ListenerPlan, Moves, Plan, PoolPlan, Touched,
};
use crate::config::Effect;
use crate::config::diff::Change;
use crate::pool::overrides::Override;
use crate::terminal::escaped;

/// Moves of keys that are shown one by one.
const MOVES_SHOWN: usize = 5;

impl Plan {
    /// As text with aligned columns; with `colours`, as a terminal takes them.
    pub fn render(&self, colours: bool) -> String {
        let mut out = String::new();
        for section in self.sections() {
            section.write(&mut out, colours);
        }
        out += &self.summary();
        out
    }

    fn sections(&self) -> [Section; 7] {
        let listeners = self.listeners.iter().flat_map(listener);
        let pools = self.pools.iter().flat_map(pool);
        let keys = self
            .pools
            .iter()
            .filter_map(|p| Some((&*p.name, p.hash_keys.as_ref()?)));
        let fault = |text: String| Line::new(Tone::Removed, format!("  {}", escaped(&text)), []);
        let faults = self.faults.iter().map(|f| fault(headline(&f.to_string())));
        [
            Section::new("settings", self.settings.iter().map(setting).collect()),
            Section::new("listeners", listeners.collect()),
            Section::new("pools", pools.collect()),
            Section::new("hash keys", keys.flat_map(hash_keys).collect()),
            Section::new(
                "hidden by runtime changes",
                self.covered.iter().flat_map(covered).collect(),
            ),
            Section::new("runtime changes", self.runtime_changes()),
            Section::new("faults", faults.collect()),
        ]
    }

    fn runtime_changes(&self) -> Vec<Line> {
        let ended = self.runtime_changes.ended.iter().map(|ended| {
            let mut line = runtime_change(Tone::Removed, "-", &ended.change);
            line.cells.push(format!("ends: {}", ended.ended.reason()));
            line
        });
        let kept = self.runtime_changes.kept.iter().map(|kept| {
            let mut line = runtime_change(Tone::Plain, "=", kept);
            line.cells.push("kept".to_owned());
            line
        });
        let mut lines: Vec<_> = ended.chain(kept).collect();
        let all = self.runtime_changes.ended.iter().map(|ended| &ended.change);
        for (line, change) in lines.iter_mut().zip(all.chain(&self.runtime_changes.kept)) {
            let by = escaped(&change.stamp.by);
            line.cells
                .push(format!("since {} by {by}", seconds(change)));
        }
        lines
    }

    /// The verdict: how much, and what it does to whoever is connected.
    fn summary(&self) -> String {
        if !self.changes {
            return "nothing to change\n".to_owned();
        }
        let mut counts = [0usize; 3];
        let listeners = self.listeners.iter().map(|l| l.change);
        let backends = self
            .pools
            .iter()
            .flat_map(|p| p.backends.iter().map(|b| b.change));
        let pools = self.pools.iter().filter(|p| p.counts()).map(|p| p.change);
        for kind in listeners.chain(pools).chain(backends) {
            counts[kind as usize] += 1;
        }
        counts[Kind::Changed as usize] += self.settings.len();
        let [added, changed, removed] = counts;
        let mut out = format!("{added} added, {changed} changed, {removed} removed\n");
        let c = self.connections;
        let _ = match c.active {
            0 => writeln!(out, "no live connections"),
            1 => writeln!(out, "1 live connection: {}", self.fates()),
            _ => writeln!(out, "{} live connections: {}", c.active, self.fates()),
        };
        if !self.pending_restart.is_empty() {
            let keys = escaped(&self.pending_restart.join(", "));
            let _ = writeln!(out, "with the next start alone: {keys}");
        }
        if !self.faults.is_empty() {
            out += "a reload would be refused, see the faults above\n";
        }
        out
    }

    fn fates(&self) -> String {
        let c = self.connections;
        let fates = [
            (c.untouched, "untouched"),
            (c.kept, "left until they end"),
            (
                c.drained,
                "reset after their pool's drain_timeout unless they end before",
            ),
            (
                c.stranded,
                "held for a pool that goes, reset when their wait is over",
            ),
        ];
        let fates = fates.iter().filter(|(count, _)| *count > 0);
        let fates: Vec<_> = fates
            .map(|(count, fate)| format!("{count} {fate}"))
            .collect();
        fates.join(", ")
    }
}

impl PoolPlan {
    /// Whether it is more than the list of those backends that change.
    fn counts(&self) -> bool {
        self.change != Kind::Changed || !self.fields.is_empty()
    }
}

fn tone(kind: Kind) -> (Tone, char) {
    match kind {
        Kind::Added => (Tone::Added, '+'),
        Kind::Changed => (Tone::Changed, '~'),
        Kind::Removed => (Tone::Removed, '-'),
    }
}

/// A key that has no other owner than the process.
fn setting(change: &Change) -> Line {
    let mut line = field(Tone::Changed, Kind::Changed, change);
    line.name = format!("  ~ {}", line.cells.remove(0));
    line
}

/// One line for each key, the name before the first; without keys, the name alone.
fn fields(name: &str, kind: Kind, depth: usize, changes: &[Change]) -> Vec<Line> {
    let (tone, sign) = tone(kind);
    let indent = "  ".repeat(depth + 1);
    let name = format!("{indent}{sign} {}", escaped(name));
    let mut lines: Vec<_> = changes.iter().map(|c| field(tone, kind, c)).collect();
    match lines.first_mut() {
        Some(first) => first.name = name,
        None => lines.push(Line::new(tone, name, [])),
    }
    lines
}

fn field(tone: Tone, kind: Kind, change: &Change) -> Line {
    let written = |value| escaped(&Change::written(value));
    let value = match (&change.old, &change.new) {
        _ if change.hidden => "(not shown)".to_owned(),
        (Some(old), Some(new)) => format!("{} -> {}", written(old), written(new)),
        (None, Some(one)) if kind == Kind::Changed => format!("added {}", written(one)),
        (Some(one), None) if kind == Kind::Changed => format!("removed {}", written(one)),
        (None, Some(one)) | (Some(one), None) => written(one),
        (None, None) => String::new(),
    };
    let mut cells = vec![change.key.clone(), value];
    if kind == Kind::Changed {
        cells.push(effect(change.effect).to_owned());
    }
    Line {
        tone,
        name: String::new(),
        cells,
    }
}

fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::AtOnce => "",
        Effect::NewConnections => "for new connections",
        Effect::Restart => "with the next start",
    }
}

/// Puts a sentence behind the name where nothing stands there yet, else on a line of its own.
fn note(lines: &mut Vec<Line>, text: String) {
    match lines.last_mut() {
        Some(last) if last.cells.is_empty() => last.cells.push(text),
        _ => lines.push(Line::note(text)),
    }
}

fn listener(plan: &ListenerPlan) -> Vec<Line> {
    let mut lines = fields(&plan.name, plan.change, 0, &plan.fields);
    if let Some(was) = &plan.was {
        note(&mut lines, format!("was called {}", escaped(was)));
    }
    for taken in &plan.taken {
        let (address, from) = (&taken.address, escaped(&taken.from));
        let address = escaped(&address.to_string());
        note(
            &mut lines,
            format!("takes {address} over from {from}, its socket stays open"),
        );
    }
    if plan.change != Kind::Added && !plan.closed.is_empty() {
        let closed: Vec<_> = plan
            .closed
            .iter()
            .map(|a| escaped(&a.to_string()))
            .collect();
        note(&mut lines, format!("closes {}", closed.join(", ")));
    }
    if plan.change == Kind::Removed && plan.connections.active > 0 {
        note(&mut lines, touched(&plan.connections, plan.change));
    }
    lines
}

fn pool(plan: &PoolPlan) -> Vec<Line> {
    let mut lines = fields(&plan.name, plan.change, 0, &plan.fields);
    let c = &plan.connections;
    if c.stranded > 0 {
        let held = count(c.stranded, "held client");
        note(
            &mut lines,
            format!("{held}: nobody is left to serve, reset when the wait is over"),
        );
    }
    for backend in &plan.backends {
        lines.extend(self::backend(backend));
    }
    let last = plan.usable_after == 0 && plan.usable_before > 0;
    if last && plan.change == Kind::Changed {
        let mut warning = Line::note("no backend is left that takes new connections".to_owned());
        (warning.tone, warning.name) = (Tone::Removed, "    !".to_owned());
        lines.push(warning);
    }
    lines
}

fn backend(plan: &BackendPlan) -> Vec<Line> {
    let mut lines = fields(&plan.name, plan.change, 1, &plan.fields);
    if plan.moves {
        note(
            &mut lines,
            "another address: its health starts anew".to_owned(),
        );
    }
    if plan.change != Kind::Added && plan.connections.active > 0 {
        note(&mut lines, touched(&plan.connections, plan.change));
    }
    lines
}

fn touched(touched: &Touched, kind: Kind) -> String {
    let connections = count(touched.active, "live connection");
    let old = if kind == Kind::Changed {
        " to the old address"
    } else {
        ""
    };
    match touched.fate {
        Fate::Untouched => format!("{connections} untouched"),
        Fate::Kept => format!("{connections}{old}: no time limit, they go on until they end"),
        Fate::Drained => {
            let after = Duration::from_secs_f64(touched.drain_seconds.unwrap_or(0.0));
            let after = crate::config::format_duration(after);
            format!("{connections}{old}: reset after {after} unless they end before")
        }
    }
}

/// `1 live connection`, `2 live connections`.
fn count(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

fn hash_keys((pool, keys): (&str, &HashKeys)) -> Vec<Line> {
    let Moves {
        share,
        moves,
        not_listed,
    } = &keys.moves;
    let why = match keys.rehashed {
        true => "of the keys move: other bytes are hashed than before",
        false => "of the keys move",
    };
    let name = format!("  {pool}");
    let mut lines = vec![row(name, *share, why.to_owned())];
    let listed = match moves.len() + not_listed.count {
        // One line more is as good as a line that says that there is one more.
        all if all <= MOVES_SHOWN + 1 => moves.len(),
        _ => MOVES_SHOWN,
    };
    let (listed, rest) = moves.split_at(listed.min(moves.len()));
    for one in listed {
        let (from, to) = (escaped(&one.from), escaped(&one.to));
        lines.push(row(String::new(), one.share, format!("{from} -> {to}")));
    }
    let more = rest.len() + not_listed.count;
    if more > 0 {
        let share = rest.iter().map(|m| m.share).sum::<f64>() + not_listed.share;
        lines.push(row(String::new(), share, format!("{more} smaller moves")));
    }
    lines
}

/// A share of the keys, to the right of the widest.
fn row(name: String, share: f64, what: String) -> Line {
    let percent = format!("{:>5.1}%", share * 100.0);
    Line::new(Tone::Plain, name, [percent, what])
}

fn covered(covered: &Covered) -> Vec<Line> {
    let name = format!("{}/{}", covered.pool, covered.backend);
    fields(&name, Kind::Changed, 0, &covered.fields)
}

fn runtime_change(tone: Tone, sign: &str, of: &Override) -> Line {
    let backend = of
        .backend
        .iter()
        .map(|backend| format!("/{}", escaped(backend)));
    let name = format!("  {sign} {}{}", of.pool, backend.collect::<String>());
    let what = match of.change.field() {
        field @ ("added" | "removed" | "paused") => field.to_owned(),
        field => {
            let (file, runtime) = (plain(&of.change.file()), plain(&of.change.runtime()));
            format!("{field} {runtime}, file {file}")
        }
    };
    Line::new(tone, name, [what])
}

fn plain(value: &serde_json::Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// The first line of a problem: without the excerpt.
fn headline(problem: &str) -> String {
    problem.lines().next().unwrap_or_default().to_owned()
}

/// When a runtime change was made, to the second.
fn seconds(of: &Override) -> String {
    let at = jiff::Timestamp::try_from(of.stamp.since).unwrap_or_default();
    format!("{at:.0}")
}
