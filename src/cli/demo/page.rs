//! What a browser shows of a backend: its name, large, on its colour.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::backend::Identity;

/// The page, whole: its icon is in it, as a browser that asked for one would take the turn of
/// the next backend.
pub(super) fn html(identity: Identity, connection: u64) -> String {
    let Identity { name, colour } = identity;
    let icon = icon(identity);
    let icon = utf8_percent_encode(&icon, NON_ALPHANUMERIC);
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<link rel="icon" href="data:image/svg+xml,{icon}">
<style>
body {{ margin: 0; min-height: 100vh; display: grid; place-content: center; text-align: center;
       background: {colour}; color: #fff; font: 1.25rem/1.5 system-ui, sans-serif }}
h1 {{ margin: 0; font-size: 24vmin; line-height: 1.1 }}
p {{ margin: 0 1rem }}
</style>
</head>
<body>
<main>
<h1>{name}</h1>
<p>connection {connection} of this backend</p>
<p>Reload: the next backend answers.</p>
</main>
</body>
</html>
"#
    )
}

/// A disc of the backend's colour.
pub(super) fn icon(identity: Identity) -> String {
    let Identity { name, colour } = identity;
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><title>{name}</title><circle cx="8" cy="8" r="8" fill="{colour}"/></svg>"#
    )
}
