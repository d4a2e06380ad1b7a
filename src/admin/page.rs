//! `GET /`: the dashboard, a page of one piece.
//!
//! Everything is part of the page and of the binary. The policy lets a browser load nothing, run
//! nothing but this script, and ask nobody but this endpoint: what a backend's name or an event
//! says cannot become more than text.

use std::fmt::Write;
use std::sync::LazyLock;

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};

const PAGE: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/app.js");

/// Where the number used once goes that lets the page's own style and script through.
const NONCE: &str = "%NONCE%";

/// The page, but for that number.
static WHOLE: LazyLock<String> =
    LazyLock::new(|| PAGE.replace("%STYLE%", STYLE).replace("%SCRIPT%", SCRIPT));

/// Nothing from anywhere, in nobody's frame; the style and the script are part of the page
/// (Content Security Policy Level 3, W3C).
fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    )
}

/// 128 bits that nobody can guess.
fn nonce() -> String {
    let drawn: [u8; 16] = rand::random();
    drawn.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The page.
pub(super) async fn index() -> Response {
    let nonce = nonce();
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy(&nonce)),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
    ];
    (headers, Html(WHOLE.replace(NONCE, &nonce))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_of_one_piece() {
        assert_eq!(WHOLE.matches(NONCE).count(), 2);
        for left in ["%STYLE%", "%SCRIPT%", "https://", "//cdn"] {
            assert!(!WHOLE.contains(left), "{left}");
        }
        // The namespace of SVG is a name, nothing that is fetched.
        assert_eq!(
            WHOLE.matches("http://").count(),
            WHOLE.matches("http://www.w3.org/2000/svg").count()
        );
        // What would end the script or the style early.
        assert!(!SCRIPT.contains("</") && !STYLE.contains("</"));
    }

    #[test]
    fn no_two_pages_have_the_same_number() {
        assert_eq!(nonce().len(), 32);
        assert_ne!(nonce(), nonce());
        assert_eq!(policy("abc").matches("'nonce-abc'").count(), 2);
    }
}
