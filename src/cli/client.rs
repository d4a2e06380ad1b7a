//! Talks to the admin endpoint of a running balancer: one request, one answer.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::AbortHandle;

use super::endpoint::Endpoint;
use super::{ConfigArgs, Failure};
use crate::config::{self, Admin};
use crate::terminal::{escaped, replaced};

/// From the look-up of the name to the last byte of the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Statistics of ten thousand backends have a tenth of this.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// Which balancer is asked, and as whom.
#[derive(Debug, Args)]
pub(super) struct AdminArgs {
    /// Admin endpoint, http://HOST:PORT or unix:PATH [default: [admin] bind of the configuration]
    #[arg(long, value_name = "URL")]
    admin: Option<Endpoint>,
    /// File that holds the bearer token [default: $ISOBAR_TOKEN, then [admin] token]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
}

impl AdminArgs {
    /// The file that is named on the command line.
    pub(super) fn file(&self) -> Option<&Path> {
        self.config.config.as_deref()
    }
}

/// The way to one balancer.
#[derive(Debug)]
pub(super) struct Client {
    endpoint: Endpoint,
    token: Option<HeaderValue>,
}

impl Client {
    /// Where it is.
    pub(super) fn endpoint(&self) -> String {
        self.endpoint.to_string()
    }

    /// Finds the balancer and the token.
    ///
    /// The token of the file is for the endpoint of the file: with `--admin` it is sent only
    /// where the file is named too.
    pub(super) fn new(args: &AdminArgs) -> Result<Self, Failure> {
        Self::knowing(args, None)
    }

    /// The same where the file that is named has been read already: standard input cannot be
    /// read twice.
    pub(super) fn knowing(args: &AdminArgs, text: Option<&str>) -> Result<Self, Failure> {
        let file = match (&args.admin, &args.config.config) {
            (Some(_), None) => None,
            _ => Some(admin_section(args, text)?),
        };
        let endpoint = match (&args.admin, &file) {
            (Some(endpoint), _) => endpoint.clone(),
            (None, Some(admin)) => Endpoint::of(admin).map_err(|why| {
                Failure::invalid(format_args!("{why}; name the endpoint with --admin"))
            })?,
            (None, None) => unreachable!("without --admin there is a file"),
        };
        let token = token(args, file.map(|admin| admin.token).unwrap_or_default())?;
        Ok(Self { endpoint, token })
    }

    /// The body of the answer to a GET.
    ///
    /// `path` is percent-encoded.
    pub(super) fn get(&self, path: &str) -> Result<Bytes, Failure> {
        self.ask(&Asked::new(Method::GET, path))
    }

    /// The body of the answer.
    fn ask(&self, asked: &Asked) -> Result<Bytes, Failure> {
        match self.exchange(asked)? {
            (StatusCode::OK | StatusCode::CREATED, body) => Ok(body),
            (status, body) => Err(refused(status, &body)),
        }
    }

    /// The answer, whatever it is.
    fn exchange(&self, asked: &Asked) -> Result<(StatusCode, Bytes), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::failed)?;
        let answer = runtime.block_on(self.answer(asked));
        // A look-up of a name may hang in a thread.
        runtime.shutdown_background();
        answer
    }

    /// The same for whoever has a runtime.
    async fn answer(&self, asked: &Asked) -> Result<(StatusCode, Bytes), Failure> {
        let answer = tokio::time::timeout(asked.patience, self.talk(asked))
            .await
            .unwrap_or(Err(Unanswered::Timeout(asked.patience)));
        let answer = answer.map_err(|why| self.unanswered(why))?;
        Ok((answer.status(), answer.into_body()))
    }

    /// The answer to a GET, or with a body to a PUT, read as JSON, for whoever has a runtime.
    pub(super) async fn fetch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<&serde_json::Value>,
        patience: Duration,
    ) -> Result<T, Failure> {
        let method = body.map_or(Method::GET, |_| Method::PUT);
        let asked = Asked {
            body: body.map(|body| body.to_string().into()),
            patience,
            ..Asked::new(method, path)
        };
        match self.answer(&asked).await? {
            (StatusCode::OK, body) => self.read(path, &body),
            (status, body) => Err(refused(status, &body)),
        }
    }

    /// An answer to a GET that has no end, from after the event with the id `last` on.
    pub(super) async fn follow(&self, path: &str, last: Option<u64>) -> Result<Endless, Failure> {
        let asked = Asked {
            last,
            ..Asked::new(Method::GET, path)
        };
        let begun = tokio::time::timeout(asked.patience, self.begin(&asked))
            .await
            .unwrap_or(Err(Unanswered::Timeout(asked.patience)));
        let (answer, talking) = begun.map_err(|why| self.unanswered(why))?;
        match answer.status() {
            StatusCode::OK => Ok(Endless {
                body: answer.into_body(),
                _talking: talking,
            }),
            status => Err(refused(status, b"")),
        }
    }

    /// The answer to a GET, read as JSON.
    pub(super) fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.read(path, &self.get(path)?)
    }

    /// Asks for a change; the answer, read as JSON.
    pub(super) fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<T, Failure> {
        let body = body.map(|body| body.to_string().into());
        let asked = Asked {
            body,
            ..Asked::new(method, path)
        };
        self.read(path, &self.ask(&asked)?)
    }

    /// Asks for something that may take as long as `patience`; the answer, read as JSON. The
    /// exit code for a configuration that the balancer refuses is that of an invalid one.
    pub(super) fn order<T: DeserializeOwned>(
        &self,
        path: &str,
        patience: Duration,
    ) -> Result<T, Failure> {
        let asked = Asked {
            patience,
            ..Asked::new(Method::POST, path)
        };
        match self.exchange(&asked)? {
            (StatusCode::OK, body) => self.read(path, &body),
            (StatusCode::UNPROCESSABLE_ENTITY, body) => Err(invalid(&body, None)),
            (status, body) => Err(refused(status, &body)),
        }
    }

    /// Asks for something to be deleted that may not be there; `None`: it is not.
    pub(super) fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Failure> {
        match self.exchange(&Asked::new(Method::DELETE, path))? {
            (StatusCode::OK, body) => self.read(path, &body).map(Some),
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, body) => Err(refused(status, &body)),
        }
    }

    /// Asks for something that has to do with a configuration: `text`, read from `file`, or the
    /// balancer's own. What is wrong with it is told as `isobar check` tells it.
    pub(super) fn configure(
        &self,
        method: Method,
        path: &str,
        text: Option<String>,
        file: Option<&Path>,
    ) -> Result<Bytes, Failure> {
        let asked = Asked {
            body: text.map(Bytes::from),
            kind: "application/toml",
            ..Asked::new(method, path)
        };
        match self.exchange(&asked)? {
            (StatusCode::OK, body) => Ok(body),
            (StatusCode::UNPROCESSABLE_ENTITY, body) => Err(invalid(&body, file)),
            (status, body) => Err(refused(status, &body)),
        }
    }

    pub(super) fn read<T: DeserializeOwned>(&self, path: &str, body: &[u8]) -> Result<T, Failure> {
        serde_json::from_slice(body).map_err(|error| {
            Failure::failed(format_args!(
                "{} answers, but not as isobar does: {path}: {error}",
                self.endpoint
            ))
        })
    }

    async fn talk(&self, asked: &Asked) -> Result<Response<Bytes>, Unanswered> {
        let (answer, _talking) = self.begin(asked).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(Unanswered::Http)?.to_bytes();
        Ok(Response::from_parts(head, body))
    }

    /// Until the head of the answer is there.
    async fn begin(&self, asked: &Asked) -> Result<(Response<Incoming>, Talking), Unanswered> {
        match &self.endpoint {
            Endpoint::Tcp(authority) => {
                let stream = TcpStream::connect(authority)
                    .await
                    .map_err(Unanswered::Connect)?;
                send(stream, self.request(asked, authority)).await
            }
            Endpoint::Unix(socket) => {
                let stream = UnixStream::connect(unix_name(socket))
                    .await
                    .map_err(Unanswered::Connect)?;
                send(stream, self.request(asked, "localhost")).await
            }
        }
    }

    fn request(&self, asked: &Asked, host: &str) -> Request<Full<Bytes>> {
        let mut request = Request::builder()
            .method(&asked.method)
            .uri(&asked.path)
            .header(HOST, host);
        if asked.body.is_some() {
            request = request.header(CONTENT_TYPE, asked.kind);
        }
        if let Some(last) = asked.last {
            request = request.header("last-event-id", last);
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        request
            .body(Full::new(asked.body.clone().unwrap_or_default()))
            .expect("host and path were parsed or encoded before")
    }

    fn unanswered(&self, why: Unanswered) -> Failure {
        let endpoint = &self.endpoint;
        match why {
            Unanswered::Http(error) => Failure::unanswered(format_args!(
                "what answers at {endpoint} is no isobar: {error}"
            )),
            why => Failure::unanswered(format_args!(
                "no balancer answers at {endpoint}: {why}; start one with `isobar run`, \
                 or name another endpoint with --admin"
            )),
        }
    }
}

/// A request.
#[derive(Debug)]
struct Asked {
    method: Method,
    /// Percent-encoded.
    path: String,
    body: Option<Bytes>,
    /// Of the body.
    kind: &'static str,
    /// How long the answer may take.
    patience: Duration,
    /// The event after which those begin that are asked for.
    last: Option<u64>,
}

impl Asked {
    fn new(method: Method, path: &str) -> Self {
        Self {
            method,
            path: path.to_owned(),
            body: None,
            kind: "application/json",
            patience: TIMEOUT,
            last: None,
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("{0}")]
    Connect(io::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Ended(hyper::Error),
    #[error("{0}")]
    Http(Box<dyn std::error::Error + Send + Sync>),
}

async fn send<S>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<(Response<Incoming>, Talking), Unanswered>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let http = |error: hyper::Error| match error.is_parse() {
        true => Unanswered::Http(error.into()),
        // A balancer that ends says nothing any more.
        false => Unanswered::Ended(error),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let talking = Talking(tokio::spawn(connection).abort_handle());
    let answer = sender.send_request(request).await.map_err(http)?;
    Ok((answer, talking))
}

/// The connection of an answer, as long as anybody wants it.
#[derive(Debug)]
struct Talking(AbortHandle);

impl Drop for Talking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer that comes piece by piece.
#[derive(Debug)]
pub(super) struct Endless {
    body: Incoming,
    _talking: Talking,
}

impl Endless {
    /// The next piece; `None`: there are no more.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            let frame = self.body.frame().await?.ok()?;
            if let Ok(piece) = frame.into_data() {
                return Some(piece);
            }
        }
    }
}

/// tokio takes a leading NUL for the abstract namespace, we write `@`.
fn unix_name(path: &std::path::Path) -> PathBuf {
    match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => format!("\0{name}").into(),
        None => path.to_owned(),
    }
}

fn admin_section(args: &AdminArgs, text: Option<&str>) -> Result<Admin, Failure> {
    let read = |path: PathBuf| {
        let admin = match text {
            Some(text) => config::admin_of(text, &path),
            None => config::load_admin(&path),
        };
        admin.map_err(Failure::problems)
    };
    args.config.find().and_then(read).map_err(|mut failure| {
        failure.message.push_str(match (&args.admin, text) {
            (_, Some(_)) => "",
            (None, None) => {
                "\nor name the endpoint of the running balancer with --admin, without -c"
            }
            (Some(_), None) => "\nor leave -c out: with --admin it is only asked for the token",
        });
        failure
    })
}

/// `--token-file`, else `$ISOBAR_TOKEN`, else the configuration's; empty: none.
fn token(args: &AdminArgs, of_config: String) -> Result<Option<HeaderValue>, Failure> {
    let token = match (&args.token_file, std::env::var("ISOBAR_TOKEN")) {
        (Some(path), _) => std::fs::read_to_string(path).map_err(|error| {
            Failure::invalid(format_args!("--token-file {}: {error}", path.display()))
        })?,
        (None, Ok(token)) if !token.is_empty() => token,
        _ => of_config,
    };
    bearer(token.trim())
}

fn bearer(token: &str) -> Result<Option<HeaderValue>, Failure> {
    if token.is_empty() {
        return Ok(None);
    }
    // The message must not show the token.
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| Failure::invalid("the token holds characters that HTTP cannot carry"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// What the balancer says instead of an answer.
fn refused(status: StatusCode, body: &[u8]) -> Failure {
    #[derive(serde::Deserialize)]
    struct Refusal {
        error: String,
    }
    let why = match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => replaced(&refusal.error),
        Err(_) => format!("the admin endpoint answers {status}"),
    };
    let remedy = match status {
        StatusCode::UNAUTHORIZED => " (give the token with --token-file or $ISOBAR_TOKEN)",
        _ => "",
    };
    Failure::failed(format_args!("{why}{remedy}"))
}

/// What is wrong with a configuration; what was sent is known here by its own name.
fn invalid(body: &[u8], file: Option<&Path>) -> Failure {
    #[derive(serde::Deserialize)]
    struct Invalid {
        problems: Vec<Problem>,
    }
    #[derive(serde::Deserialize)]
    struct Problem {
        file: String,
        line: usize,
        column: usize,
        message: String,
    }
    let Ok(Invalid { problems }) = serde_json::from_slice(body) else {
        return Failure {
            code: 2,
            ..refused(StatusCode::UNPROCESSABLE_ENTITY, body)
        };
    };
    let line = |problem: Problem| {
        let own = file.filter(|_| problem.file == "request");
        let file = own.map_or(problem.file, |path| path.display().to_string());
        let place = match problem.line {
            0 => String::new(),
            line => format!(":{line}:{}", problem.column),
        };
        escaped(&format!("{file}{place}: {}", problem.message))
    };
    let lines: Vec<_> = problems.into_iter().map(line).collect();
    Failure::problems(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_repeats_what_the_balancer_says() {
        let failure = refused(StatusCode::NOT_FOUND, br#"{"error": "no pool \"x\""}"#);
        assert_eq!(
            (failure.code, &*failure.message),
            (1, "error: no pool \"x\"")
        );
        let failure = refused(StatusCode::UNAUTHORIZED, b"<html>");
        assert!(failure.message.contains("--token-file"));
    }

    #[test]
    fn a_token_is_never_shown() {
        let token = bearer("s3cret").expect("a token");
        assert!(!format!("{token:?}").contains("s3cret"));
        let failure = bearer("s3\ncret").expect_err("no header");
        assert!(!failure.message.contains("cret"));
    }
}
