//! `GET /metrics`: the declared families with what is counted now.
//!
//! Names, labels and help come from [`families`]; a sample names its family and gives the
//! values of its labels, nothing else. No core is asked for anything: counts are read where
//! the cores write them.

mod collect;
mod format;

pub(super) use format::Format;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabel, EncodeLabelSet,
    LabelSetEncoder, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use super::Running;
use crate::metrics::families::{Family, Kind, Label};
use crate::metrics::histogram::Histogram;
use collect::Snapshot;

/// Everything in `format`.
///
/// # Errors
/// None in practice: a string takes everything.
pub(super) fn expose(running: &Arc<Running>, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot::of(running)));
    let mut text = String::new();
    format.encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.write(&mut Families(encoder))
    }
}

/// Where families are written, one after the other.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    /// Writes a family: its description, then what `samples` gives.
    fn family(
        &mut self,
        family: &'static Family,
        samples: impl FnOnce(&mut Samples<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let unit = family.unit();
        let name = unit.map_or(family.stem(), |unit| {
            let stem = family.stem();
            &stem[..stem.len() - unit.len() - 1]
        });
        let unit = unit.map(|unit| match unit {
            "bytes" => Unit::Bytes,
            _ => Unit::Seconds,
        });
        let kind = match family.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
            Kind::Info => MetricType::Info,
        };
        let encoder = self
            .0
            .encode_descriptor(name, family.help, unit.as_ref(), kind)?;
        samples(&mut Samples { family, encoder })
    }
}

/// Where the samples of one family are written.
struct Samples<'a> {
    family: &'static Family,
    encoder: MetricEncoder<'a>,
}

impl Samples<'_> {
    fn counter(&mut self, labels: &[&str], value: impl EncodeCounterValue) -> fmt::Result {
        let labels = Labels::new(self.family, labels);
        let exemplar = None::<&Exemplar<NoLabelSet, f64>>;
        let mut encoder = self.encoder.encode_family(&labels)?;
        encoder.encode_counter(&value, exemplar)
    }

    fn gauge(&mut self, labels: &[&str], value: impl EncodeGaugeValue) -> fmt::Result {
        let labels = Labels::new(self.family, labels);
        self.encoder.encode_family(&labels)?.encode_gauge(&value)
    }

    fn info(&mut self, labels: &[&str]) -> fmt::Result {
        self.encoder.encode_info(&Labels::new(self.family, labels))
    }

    fn histogram(&mut self, labels: &[&str], histogram: &Histogram) -> fmt::Result {
        let labels = Labels::new(self.family, labels);
        let seen = histogram.buckets();
        let bounds = histogram.scale().bounds.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(seen.counts).collect();
        let mut encoder = self.encoder.encode_family(&labels)?;
        encoder.encode_histogram::<NoLabelSet>(seen.sum, seen.count, &buckets, None)
    }

    /// One counter for each value of the last label, which is a closed set.
    fn counters(&mut self, labels: &[&str], value: impl Fn(usize) -> u64) -> fmt::Result {
        self.each(labels, |samples, labels, index| {
            samples.counter(labels, value(index))
        })
    }

    /// One gauge for each value of the last label, which is a closed set.
    fn gauges(&mut self, labels: &[&str], value: impl Fn(usize) -> usize) -> fmt::Result {
        self.each(labels, |samples, labels, index| {
            samples.gauge(labels, value(index))
        })
    }

    fn each(
        &mut self,
        labels: &[&str],
        mut write: impl FnMut(&mut Self, &[&str], usize) -> fmt::Result,
    ) -> fmt::Result {
        let words = self
            .family
            .labels
            .last()
            .map_or(&[][..], |label| label.values);
        let mut labels = labels.to_vec();
        for (index, word) in words.iter().enumerate() {
            labels.push(word);
            write(self, &labels, index)?;
            labels.pop();
        }
        Ok(())
    }
}

/// The values of a family's labels, in the order of its declaration.
struct Labels<'a> {
    labels: &'static [Label],
    values: &'a [&'a str],
}

impl<'a> Labels<'a> {
    fn new(family: &'static Family, values: &'a [&'a str]) -> Self {
        debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
        Self {
            labels: family.labels,
            values,
        }
    }
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        for (label, value) in self.labels.iter().zip(self.values) {
            (label.name, *value).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}
