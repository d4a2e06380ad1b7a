use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixListener};

use super::super::testing::*;
use super::*;
use crate::config::{Health, SendProxy};

/// One line to answer a GET with.
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// States of the sockets of this machine between `client` and `server`, the client's side.
fn client_sockets(client: u16, server: u16) -> Vec<procfs::net::TcpState> {
    procfs::net::tcp()
        .expect("/proc/net/tcp")
        .into_iter()
        .filter(|entry| entry.local_address.port() == client)
        .filter(|entry| entry.remote_address.port() == server)
        .map(|entry| entry.state)
        .collect()
}

#[tokio::test]
async fn a_backend_that_accepts_passes_a_tcp_check() {
    let (_listener, address) = listener().await;
    check(&health(HealthKind::Tcp), &address)
        .await
        .expect("it listens");
}

#[tokio::test]
async fn a_backend_that_refuses_fails_a_check_of_every_kind() {
    let address = nobody().await;
    for kind in [
        HealthKind::Tcp,
        HealthKind::Tls,
        http(),
        exchange("PING\r\n", "+PONG"),
    ] {
        let failed = failure(&health(kind), &address).await;
        assert_eq!(failed, "connect: connection refused");
    }
}

/// The backend takes the connection only after FIN and RST of the check have come.
#[tokio::test]
async fn a_tcp_check_ends_cleanly_for_the_backend_and_leaves_no_socket_here() {
    let (listener, address) = listener().await;
    check(&health(HealthKind::Tcp), &address)
        .await
        .expect("it listens");
    let (mut stream, peer) = listener.accept().await.expect("a connection");
    let read = stream.read(&mut [0; 16]).await;
    assert_eq!(read.expect("an end, not a reset"), 0);
    let server = address.port().expect("a port");
    assert!(client_sockets(peer.port(), server).is_empty());
}

/// An accept queue that is full drops the handshakes that follow (listen(2)).
#[tokio::test]
async fn a_handshake_that_gets_no_answer_fails_as_a_connect() {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a port");
    let listener = socket.listen(0).expect("listens");
    let server = listener.local_addr().expect("an address");
    let _queued = TcpStream::connect(server).await.expect("fills the queue");
    let failed = failure(&hasty(HealthKind::Tcp), &server.into()).await;
    assert_eq!(failed, "connect: no answer within 200ms");
}

#[tokio::test]
async fn a_backend_that_accepts_and_says_nothing_fails_at_the_time_out() {
    for (kind, expected) in [
        (http(), "no answer within 200ms"),
        (exchange("", "hello"), "no answer within 200ms"),
        (HealthKind::Tls, "tls: no answer within 200ms"),
    ] {
        let (_listener, address) = listener().await;
        assert_eq!(failure(&hasty(kind), &address).await, expected);
    }
}

#[tokio::test]
async fn an_http_check_sends_one_complete_request() {
    let (address, request) = backend(|mut stream| async move {
        let request = read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(OK).await.expect("it listens");
        request
    })
    .await;
    let kind = HealthKind::Http {
        path: "/health?full=1".into(),
        host: String::new(),
        expect_status: vec![200..=200],
    };
    check(&health(kind), &address).await.expect("200");
    let expected = format!(
        "GET /health?full=1 HTTP/1.1\r\nhost: {address}\r\nuser-agent: isobar/{}\r\nconnection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(request.await.expect("a request"), expected);
}

#[tokio::test]
async fn an_http_check_sends_the_host_that_is_set() {
    let (address, request) = backend(|mut stream| async move {
        let request = read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(OK).await.expect("it listens");
        request
    })
    .await;
    let kind = HealthKind::Http {
        path: "/".into(),
        host: "app.example.com".into(),
        expect_status: vec![200..=200],
    };
    check(&health(kind), &address).await.expect("200");
    let request = request.await.expect("a request");
    assert!(
        request.contains("\r\nhost: app.example.com\r\n"),
        "{request}"
    );
}

#[tokio::test]
async fn an_http_answer_outside_the_accepted_codes_fails_with_both() {
    let (address, _) = backend(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await
    })
    .await;
    let failed = failure(&health(http()), &address).await;
    assert_eq!(failed, "status 503, expected 200-399");
}

/// The connection of a check on which a backend has answered and reset before the check says a
/// word.
async fn answered_and_reset(answer: &[u8]) -> (Stream, Address) {
    let (listener, address) = listener().await;
    let (none, turns) = ([], crate::net::Turns::default());
    let sources = crate::net::Sources::new(&none, &turns);
    let stream = tcp::open(&address, sources).await.expect("it listens");
    let (mut peer, _) = listener.accept().await.expect("the check");
    peer.write_all(answer).await.expect("it listens");
    peer.set_zero_linger().expect("a socket");
    drop(peer);
    // Loopback delivers within the system call; the runtime must only park once to see it.
    tokio::time::sleep(Duration::from_millis(1)).await;
    (stream, address)
}

#[tokio::test]
async fn an_http_answer_before_a_reset_counts() {
    let (stream, address) = answered_and_reset(OK).await;
    let question = Question::new("/", "", &[200..=200]).expect("valid");
    let answer = question.ask(stream, &address).await;
    assert!(answer.is_ok(), "{:?}", answer.err());
}

#[tokio::test]
async fn an_expected_answer_before_a_reset_counts() {
    let (mut stream, _) = answered_and_reset(b"+PONG\r\n").await;
    let mut heard = Vec::new();
    exchange::converse(&mut stream, b"PING\r\n", b"+PONG", &mut heard)
        .await
        .expect("the answer came first");
}

#[tokio::test]
async fn a_wrong_answer_before_a_reset_fails_and_is_counted() {
    let (mut stream, _) = answered_and_reset(b"-ERR").await;
    let mut heard = Vec::new();
    let failed = exchange::converse(&mut stream, b"PING\r\n", b"+PONG", &mut heard).await;
    let expected =
        "the answer (4 bytes) does not hold what health.expect wants, then the connection closed";
    assert_eq!(failed.expect_err("no pong").to_string(), expected);
}

#[tokio::test]
async fn a_reset_without_an_http_answer_fails() {
    let (address, _) = backend(|stream| async move {
        stream.set_zero_linger().expect("a socket");
    })
    .await;
    let failed = failure(&health(http()), &address).await;
    let known = [
        "no answer: connection reset by peer",
        "no answer: broken pipe",
    ];
    assert!(known.contains(&failed.as_str()), "{failed}");
}

#[tokio::test]
async fn an_end_without_an_http_answer_fails() {
    let (address, _) = backend(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
    })
    .await;
    let failed = failure(&health(http()), &address).await;
    assert_eq!(failed, "connection closed before an answer");
}

#[tokio::test]
async fn an_answer_that_is_not_http_fails_and_says_so() {
    let (address, _) = backend(|mut stream| async move {
        stream.write_all(b"220 mail.example.com ESMTP\r\n").await?;
        read_until(&mut stream, "\r\n\r\n").await;
        Ok::<_, std::io::Error>(())
    })
    .await;
    let failed = failure(&health(http()), &address).await;
    assert!(failed.starts_with("http: "), "{failed}");
}

/// The verdict is there with the head; the rest is read for a moment and for 64 KiB.
#[tokio::test]
async fn a_body_without_end_does_not_hold_an_http_check_up() {
    let (address, streamed) = backend(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        loop {
            stream.write_all(&[b'x'; 4096]).await?;
        }
        #[allow(unreachable_code, reason = "names the type of the error")]
        Ok::<(), std::io::Error>(())
    })
    .await;
    check(&health(http()), &address).await.expect("200");
    let ended = streamed.await.expect("the script plays");
    ended.expect_err("the check has left");
}

#[tokio::test]
async fn an_answer_in_pieces_passes_an_exchange_check() {
    let (address, _) = backend(|mut stream| async move {
        read_until(&mut stream, "PING\r\n").await;
        for piece in ["+P", "ON", "G"] {
            stream.write_all(piece.as_bytes()).await?;
            tokio::task::yield_now().await;
        }
        stream.read(&mut [0]).await
    })
    .await;
    let kind = exchange("PING\r\n", "+PONG");
    check(&health(kind), &address).await.expect("a pong");
}

#[tokio::test]
async fn a_backend_that_passed_an_exchange_check_sees_a_clean_end() {
    let (address, end) = backend(|mut stream| async move {
        read_until(&mut stream, "PING\r\n").await;
        stream.write_all(b"+PONG\r\n").await?;
        stream.read(&mut [0]).await
    })
    .await;
    let kind = exchange("PING\r\n", "+PONG");
    check(&health(kind), &address).await.expect("a pong");
    assert_eq!(end.await.expect("plays").expect("not a reset"), 0);
}

#[tokio::test]
async fn without_expected_bytes_any_byte_passes_and_none_does_not() {
    let (address, _) = backend(|mut stream| async move { stream.write_all(b"x").await }).await;
    check(&health(exchange("", "")), &address)
        .await
        .expect("a byte");
    let (address, _) = backend(|stream| async move { drop(stream) }).await;
    let failed = failure(&health(exchange("", "")), &address).await;
    assert_eq!(failed, "connection closed before an answer");
}

#[tokio::test]
async fn an_end_before_the_expected_bytes_fails_and_counts_what_came() {
    let (address, _) = backend(|mut stream| async move {
        read_until(&mut stream, "PING\r\n").await;
        stream.write_all(b"-ERR unknown\r\n").await
    })
    .await;
    let failed = failure(&health(exchange("PING\r\n", "+PONG")), &address).await;
    let expected =
        "the answer (14 bytes) does not hold what health.expect wants, then the connection closed";
    assert_eq!(failed, expected);
}

#[tokio::test]
async fn a_wrong_answer_on_an_open_connection_fails_at_the_time_out_and_is_counted() {
    let (address, _) = backend(|mut stream| async move {
        stream.write_all(b"-NOAUTH").await?;
        stream.read_to_end(&mut Vec::new()).await
    })
    .await;
    let failed = failure(&hasty(exchange("secret", "+PONG")), &address).await;
    assert_eq!(
        failed,
        "the answer (7 bytes) does not hold what health.expect wants within 200ms"
    );
}

#[tokio::test]
async fn the_expected_bytes_may_be_the_last_of_64_kib_and_not_later() {
    for (filler, passes) in [(65536 - 3, true), (65536 - 2, false)] {
        let (address, _) = backend(move |mut stream| async move {
            stream.write_all(&vec![b'.'; filler]).await?;
            stream.write_all(b"end").await?;
            stream.read(&mut [0]).await
        })
        .await;
        let result = check(&health(exchange("", "end")), &address).await;
        assert_eq!(result.is_ok(), passes, "{filler}: {result:?}");
        if let Err(error) = result {
            let text = error.to_string();
            assert!(text.ends_with(" wants in its first 64 KiB"), "{text}");
        }
    }
}

/// More is to be sent than the kernel takes for a backend that does not read.
#[tokio::test]
async fn an_answer_counts_although_the_backend_never_reads() {
    let (address, _) = backend(|mut stream| async move {
        stream.write_all(b"+PONG").await.expect("it listens");
        stream.readable().await.expect("something to read");
        std::future::pending::<()>().await;
    })
    .await;
    let flood = "x".repeat(16 << 20);
    let kind = exchange(&flood, "+PONG");
    check(&health(kind), &address).await.expect("a pong");
}

#[tokio::test]
async fn unix_sockets_can_be_checked_by_path_and_by_abstract_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("b.sock");
    let address: Address = format!("unix:{}", path.display()).parse().expect("valid");
    let failed = failure(&health(HealthKind::Tcp), &address).await;
    assert_eq!(failed, "connect: no such file or directory");
    let _listener = UnixListener::bind(&path).expect("a socket");
    check(&health(HealthKind::Tcp), &address)
        .await
        .expect("it listens");

    let name = format!("isobar-check-{}", std::process::id());
    let _listener = UnixListener::bind(format!("\0{name}")).expect("a socket");
    let address: Address = format!("unix:@{name}").parse().expect("valid");
    check(&health(HealthKind::Tcp), &address)
        .await
        .expect("it listens");
}

#[tokio::test]
async fn an_http_check_of_a_unix_socket_asks_for_localhost() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("b.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let request = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let request = read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(OK).await.expect("it listens");
        request
    });
    check(&health(http()), &Address::Unix(path))
        .await
        .expect("200");
    let request = request.await.expect("a request");
    assert!(request.contains("\r\nhost: localhost\r\n"), "{request}");
}

#[tokio::test]
async fn a_unix_socket_with_a_full_accept_queue_fails() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("b.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    rustix::net::listen(&listener, 0).expect("a shorter queue");
    let _queued = std::os::unix::net::UnixStream::connect(&path).expect("fills the queue");
    let failed = failure(&health(HealthKind::Tcp), &Address::Unix(path)).await;
    assert_eq!(failed, "connect: accept queue is full");
}

#[tokio::test]
async fn another_port_can_be_checked_and_its_failure_names_it() {
    let (_traffic, address) = listener().await;
    let dead = nobody().await;
    let settings = Health {
        port: dead.port().expect("a port"),
        ..health(HealthKind::Tcp)
    };
    let failed = failure(&settings, &address).await;
    let expected = format!("connect: connection refused (checked {dead})");
    assert_eq!(failed, expected);

    let alive = Health {
        port: address.port().expect("a port"),
        ..health(HealthKind::Tcp)
    };
    check(&alive, &dead).await.expect("that port listens");
}

#[test]
fn a_failure_long_after_its_deadline_says_nothing_of_the_backend() {
    let late = |took| or_held_up(ProbeError::Closed, took, SECOND).is_local();
    assert!(late(31 * SECOND));
    assert!(!late(SECOND + SECOND / 2));
    assert!(!late(SECOND / 2));
}

#[test]
fn a_pool_without_checks_has_none() {
    let none = Check::new(&health(HealthKind::None), SendProxy::Off).expect("valid settings");
    assert!(none.is_none());
}
