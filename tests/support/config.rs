//! The configurations that most cases are small variations of.

/// Listener `web` on an IPv4 port and pool `web` with these entries. `settings` are lines of
/// `[pool.web]`, its sub-tables last; checks are off unless `settings` has them.
pub fn web(settings: &str, entries: &[String]) -> String {
    let health = if settings.contains("[pool.web.health]") {
        ""
    } else {
        "[pool.web.health]\nkind = \"none\"\n"
    };
    let backends = entries.join(", ");
    format!(
        "[listener.web]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n\
         [pool.web]\nbackends = [{backends}]\n{settings}\n{health}"
    )
}

/// `text` with what every case wants unless it says otherwise: an admin endpoint on a free
/// port, and a log that is easily read by a program. It goes last, so that the lines of a
/// fault stay where they are.
pub fn completed(text: &str) -> String {
    let mut text = text.to_owned();
    if !text.contains("[admin]") {
        text.push_str("\n[admin]\nbind = \"127.0.0.1:0\"\n");
    }
    if !text.contains("[log]") {
        text.push_str("\n[log]\nformat = \"json\"\n");
    }
    text
}
