//! `pool.NAME.on_backend_down`: a word, or a table of how fast and from when on.

use std::time::Duration;

use toml::Value as Toml;

use super::tables::ON_BACKEND_DOWN;
use super::units::format_duration;
use super::value::{Scope, Value};
use super::{OnBackendDown, Rate};

/// The key.
pub(super) const KEY: &str = "on_backend_down";

const KEEP: &str = "keep";
const RESET: &str = "reset";

/// The words that stand for one by themselves.
pub(super) fn words() -> Vec<&'static str> {
    vec![KEEP, RESET]
}

/// What the file says, of a pool or for all; where it is faulty what it is without a word.
pub(super) fn build(pool: &Scope<'_>) -> OnBackendDown {
    match pool.written(KEY).map(|at| &at.value) {
        Some(Value::Text(word)) if word == RESET => OnBackendDown::Reset,
        Some(Value::Section(section)) => {
            let scope = Scope::new(&ON_BACKEND_DOWN, Some(section), None);
            let after = scope.given::<Duration>("after");
            let paced = after.zip(scope.given::<Rate>("rate"));
            paced.map_or(OnBackendDown::Keep, |(after, rate)| OnBackendDown::Paced {
                after,
                rate,
            })
        }
        _ => OnBackendDown::Keep,
    }
}

impl OnBackendDown {
    /// As the file has it.
    pub(super) fn written(self) -> Toml {
        match self {
            Self::Keep => KEEP.into(),
            Self::Reset => RESET.into(),
            Self::Paced { after, rate } => {
                let mut table = toml::Table::new();
                table.insert("after".to_owned(), format_duration(after).into());
                table.insert("rate".to_owned(), rate.to_string().into());
                table.into()
            }
        }
    }
}
