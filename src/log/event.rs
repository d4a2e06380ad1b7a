//! From a `tracing` event to a line for standard error.
//!
//! Events are rare next to connections, so they are formatted where they happen: what they
//! borrow need not be kept. Spans are not written; isobar has none, and says in each event
//! what it is about.

use std::error::Error;
use std::fmt::{self, Debug, Display};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::line::{Fields, Format, Head};
use super::writer::{Item, Queue};

/// Turns every event that reaches it into a line and queues it.
pub(super) struct EventLayer {
    queue: Queue,
    format: Arc<ArcSwap<Format>>,
}

impl EventLayer {
    /// A layer that writes in this format.
    pub(super) fn new(queue: Queue, format: Format) -> Self {
        let format = Arc::new(ArcSwap::from_pointee(format));
        Self { queue, format }
    }

    /// The format, for whoever changes it.
    pub(super) fn format(&self) -> Arc<ArcSwap<Format>> {
        Arc::clone(&self.format)
    }
}

impl<S: Subscriber> Layer<S> for EventLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let head = Head {
            time: SystemTime::now(),
            level: *event.metadata().level(),
            target: event.metadata().target(),
        };
        let mut line = Vec::with_capacity(256);
        (**self.format.load()).line(&mut line, &head, |fields| write(event, fields));
        self.queue.push(Item::Event(line));
    }
}

/// Writes what an event has.
pub(super) fn write(event: &Event<'_>, fields: &mut dyn Fields) {
    event.record(&mut Message(fields));
    event.record(&mut Others(fields));
}

/// The field that `tracing` macros make of their last argument.
pub(super) const MESSAGE: &str = "message";

struct Message<'a>(&'a mut dyn Fields);

impl Visit for Message<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == MESSAGE {
            self.0.message(&value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == MESSAGE {
            self.0.message(&Debugged(value));
        }
    }
}

struct Others<'a>(&'a mut dyn Fields);

impl Others<'_> {
    fn record(&mut self, field: &Field, write: impl FnOnce(&mut dyn Fields, &str)) {
        if field.name() != MESSAGE {
            write(self.0, key(field));
        }
    }
}

impl Visit for Others<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, |fields, key| fields.text(key, value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record(field, |fields, key| fields.integer(key, value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.record(field, |fields, key| fields.literal(key, &value));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.record(field, |fields, key| fields.literal(key, &value));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.record(field, |fields, key| fields.literal(key, &value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.record(field, |fields, key| fields.literal(key, &value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no number for the others.
        self.record(field, |fields, key| match value.is_finite() {
            true => fields.literal(key, &value),
            false => fields.display(key, &value),
        });
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.record(field, |fields, key| fields.display(key, &Chain(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record(field, |fields, key| fields.display(key, &Debugged(value)));
    }
}

/// The field's name, apart from the names of the head.
fn key(field: &Field) -> &'static str {
    match field.name() {
        "time" => "time_",
        "timestamp" => "timestamp_",
        "level" => "level_",
        "target" => "target_",
        "msg" => "msg_",
        name => name.strip_prefix("r#").unwrap_or(name),
    }
}

/// What `tracing` hands over as `Debug` is the `Display` of `%value` and of messages too.
struct Debugged<'a>(&'a dyn Debug);

impl Display for Debugged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An error and what caused it, on one line.
struct Chain<'a>(&'a (dyn Error + 'static));

impl Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self.0, f)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use serde_json::{Value, json};
    use tracing_subscriber::layer::SubscriberExt;

    use super::super::writer::SinkName;
    use super::*;

    /// The one line that `say` makes.
    fn line(format: Format, say: impl FnOnce()) -> String {
        let (queue, items) = Queue::new(SinkName::Stderr);
        let layer = EventLayer::new(queue, format);
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, say);
        let Ok(Item::Event(line)) = items.try_recv() else {
            panic!("no event");
        };
        assert!(items.try_recv().is_err(), "more than one line");
        String::from_utf8(line).expect("UTF-8")
    }

    fn text(say: impl FnOnce()) -> String {
        line(Format::Text { colour: false }, say)
    }

    #[test]
    fn the_message_comes_right_before_the_fields() {
        let address = "127.0.0.1:8080";
        let line = text(|| tracing::info!(listener = "web", address = %address, "listening"));
        let (_, rest) = line.split_once(" level=").expect("a level");
        assert_eq!(
            rest,
            "info target=isobar::log::event::tests msg=listening listener=web address=127.0.0.1:8080\n"
        );
    }

    #[test]
    fn a_message_of_several_words_is_quoted() {
        let line = text(|| tracing::warn!(target: "isobar::pool", "{} of {}", 1, 2));
        assert!(line.ends_with("level=warn target=isobar::pool msg=\"1 of 2\"\n"));
    }

    #[test]
    fn an_event_without_a_message_is_its_fields() {
        let line = text(|| tracing::debug!(a = 1, b = ?Some("x")));
        assert!(
            line.ends_with("tests a=1 b=\"Some(\\\"x\\\")\"\n"),
            "{line}"
        );
    }

    #[test]
    fn fields_keep_their_json_types() {
        let error = io::Error::other("disk \"full\"\n");
        let error: &(dyn Error + 'static) = &error;
        let line = line(Format::Json, || {
            tracing::error!(
                n = 3_u64,
                m = -3,
                big = u128::MAX,
                share = 0.5,
                nan = f64::NAN,
                up = false,
                name = "b\u{1b}",
                none = None::<u64>,
                error,
                r#type = "t",
                "went wrong: {}",
                1
            );
        });
        let mut value: Value = serde_json::from_str(&line).expect("JSON");
        let object = value.as_object_mut().expect("an object");
        assert!(object.remove("timestamp").is_some());
        // serde_json reads what is above u64 as a float.
        assert!(object.remove("big").is_some_and(|big| big.is_number()));
        let expected = json!({
            "level": "error", "target": "isobar::log::event::tests", "message": "went wrong: 1",
            "n": 3, "m": -3, "share": 0.5, "nan": "NaN", "up": false, "name": "b\u{1b}",
            "error": "disk \"full\"\n", "type": "t",
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_field_cannot_pass_for_the_head() {
        let line = line(Format::Json, || {
            tracing::info!(target = "10%", level = 9, "hi")
        });
        let value: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["target"], "isobar::log::event::tests");
        assert_eq!(value["target_"], "10%");
        assert_eq!(value["level_"], 9);
    }

    #[test]
    fn an_error_brings_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] io::Error);
        let error = Outer(io::Error::other("inner"));
        let error: &(dyn Error + 'static) = &error;
        let line = text(|| tracing::error!(error, "failed"));
        assert!(
            line.ends_with("msg=failed error=\"outer: inner\"\n"),
            "{line}"
        );
    }
}
