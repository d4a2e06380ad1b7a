//! `${NAME}` in strings.
//!
//! `${NAME}` is replaced by the value of the environment variable, `$$` by a dollar; any other
//! dollar stands for itself. What a variable holds is not looked at again.

/// A string after replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replaced {
    /// What it says now.
    pub(super) text: String,
    /// Whether it holds the value of a variable, which is never shown again.
    pub(super) replaced: bool,
}

/// A `${…}` that cannot be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EnvFault {
    /// The text from the `$` on to the end of the reference, as written.
    pub(super) written: String,
    /// What is wrong with it.
    pub(super) message: String,
}

/// Replaces every reference in `text`, or says what is wrong with each that cannot be.
pub(super) fn replace(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Replaced, Vec<EnvFault>> {
    let mut out = String::with_capacity(text.len());
    let mut faults = Vec::new();
    let (mut rest, mut replaced) = (text, false);
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar..];
        let length = if rest.starts_with("${") {
            replaced = true;
            let length = rest.find('}').map_or(rest.len(), |brace| brace + 1);
            match value(&rest[..length], env) {
                Ok(value) => out.push_str(&value),
                Err(fault) => faults.push(fault),
            }
            length
        } else {
            out.push('$');
            if rest.starts_with("$$") { 2 } else { 1 }
        };
        rest = &rest[length..];
    }
    out.push_str(rest);
    match faults.is_empty() {
        true => Ok(Replaced {
            text: out,
            replaced,
        }),
        false => Err(faults),
    }
}

/// Doubles the dollars of a text, so that [`replace`] gives it back.
pub(super) fn escape(text: &str) -> String {
    text.replace('$', "$$")
}

/// The value of one `${NAME}`.
fn value(written: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, EnvFault> {
    let fault = |message: String| EnvFault {
        written: written.to_owned(),
        message,
    };
    let Some(name) = written.strip_prefix("${").and_then(|w| w.strip_suffix('}')) else {
        return Err(fault(
            "`${` without a `}`; a dollar is written `$$`".to_owned(),
        ));
    };
    if !is_name(name) {
        let message = "between `${` and `}` stands the name of an environment variable alone";
        return Err(fault(format!("{message}; a dollar is written `$$`")));
    }
    env(name).ok_or_else(|| fault(format!("the environment variable `{name}` is not set")))
}

/// A name as POSIX has them (Base Definitions, 8.1), lower case included.
fn is_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(word) && !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("10.0.0.1".to_owned()),
            "NESTED" => Some("${HOST}$$".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn references_and_double_dollars_are_replaced_and_nothing_else() {
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("${HOST}:80", "10.0.0.1:80"),
            ("a${HOST}b${HOST}", "a10.0.0.1b10.0.0.1"),
            ("${EMPTY}", ""),
            ("$$", "$"),
            ("$${HOST}", "${HOST}"),
            ("$$$$", "$$"),
            ("$4\r\nPING $", "$4\r\nPING $"),
            ("${NESTED}", "${HOST}$$"),
        ] {
            let done = replace(text, &env).expect(text);
            assert_eq!(done.text, expected, "{text}");
            assert_eq!(
                done.replaced,
                text.replace("$$", "").contains("${"),
                "{text}"
            );
        }
    }

    #[test]
    fn every_reference_that_cannot_be_replaced_is_a_fault() {
        let faults = replace("${NO}-${}-${A:-b}-${", &env).expect_err("four faults");
        let written: Vec<_> = faults.iter().map(|f| &*f.written).collect();
        assert_eq!(written, ["${NO}", "${}", "${A:-b}", "${"]);
        assert_eq!(
            faults[0].message,
            "the environment variable `NO` is not set"
        );
    }

    #[test]
    fn an_escaped_text_reads_back_as_itself() {
        for text in ["$", "$$", "${HOST}", "a$b"] {
            let done = replace(&escape(text), &env).expect("nothing to replace");
            assert_eq!((&*done.text, done.replaced), (text, false));
        }
    }
}
