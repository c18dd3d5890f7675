//! Commands that come just after a hub has died, when its address leads nowhere for a moment.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use alkhub_test_support::Port;
use tokio::time::Instant;

use crate::fixture::{World, wait};

/// What a note about another attempt says.
const AGAIN: &str = "it is tried again";

/// The next connection.
fn connection(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).expect("ours");
    let stream = wait("a connection", || {
        let taken = listener.accept().map_err(|error| error.to_string());
        taken.map(|(stream, _)| stream)
    });
    stream.set_nonblocking(false).expect("ours");
    let limit = Some(Duration::from_secs(60));
    stream.set_read_timeout(limit).expect("ours");
    stream
}

/// A request as it was sent.
fn request(stream: &mut TcpStream) -> String {
    let (mut read, mut part) = (Vec::new(), [0; 1024]);
    while !read.ends_with(b"\r\n\r\n\"x\"") {
        match stream.read(&mut part).expect("a request") {
            0 => panic!("it ended: {}", String::from_utf8_lossy(&read)),
            count => read.extend_from_slice(&part[..count]),
        }
    }
    String::from_utf8(read).expect("UTF-8")
}

/// The connections that a listener was given and has not taken.
fn waiting(listener: &TcpListener) -> usize {
    listener.incoming().map_while(Result::ok).count()
}

#[test]
fn a_call_that_nobody_takes_is_made_when_a_hub_comes() {
    let port = Port::free();
    let url = format!("http://127.0.0.1:{port}");
    let world = World::new();
    let call = [
        "call",
        "a.b",
        "\"x\"",
        "--url",
        &url,
        "--token",
        "x",
        "--timeout",
        "60s",
    ];
    let mut call = world.start(&call);
    call.notes(AGAIN);

    let listener = TcpListener::bind(("127.0.0.1", port.number())).expect("a free port");
    let mut stream = connection(&listener);
    let sent = request(&mut stream);
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 13\r\nconnection: close\r\n\r\n";
    stream
        .write_all(format!("{answer}{{\"data\":\"ok\"}}").as_bytes())
        .expect("it reads");

    assert!(call.ended().success(), "{}", call.err());
    assert_eq!(call.out(), "ok\n");
    assert!(sent.starts_with("POST /v1/call/a.b "), "{sent}");
    assert_eq!(
        call.err().lines().count(),
        1,
        "one note, however many attempts: {}",
        call.err()
    );
    assert_eq!(waiting(&listener), 0, "it was sent once");
}

#[test]
fn a_call_that_was_sent_is_not_made_again() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let world = World::new();
    let mut call = world.start(&["call", "a.b", "\"x\"", "--url", &url, "--token", "x"]);

    let stream = connection(&listener);
    stream.peek(&mut [0]).expect("a request");
    // What was not read makes this a reset.
    drop(stream);

    assert_eq!(call.ended().code(), Some(9), "{}", call.err());
    assert!(!call.err().contains(AGAIN), "{}", call.err());
    assert_eq!(waiting(&listener), 0, "it was sent once");
}

#[test]
fn a_connection_that_is_reset_before_anything_is_sent_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("https://{}", listener.local_addr().expect("bound"));
    let world = World::new();
    let mut call = world.start(&["call", "a.b", "\"x\"", "--url", &url, "--token", "x", "--timeout", "3s"]);

    for _ in 0..2 {
        let stream = connection(&listener);
        stream.peek(&mut [0]).expect("the begin of a handshake");
        drop(stream);
    }
    drop(listener);

    assert_eq!(call.ended().code(), Some(3), "{}", call.err());
}

#[test]
fn attempts_end_with_the_time_limit_and_an_address_that_is_wrong_is_told_at_once() {
    let port = Port::free();
    let url = format!("http://127.0.0.1:{port}");
    let world = World::new();
    let began = Instant::now();

    let limited = world.fails(3, &["call", "a.b", "--url", &url, "--token", "x", "--timeout", "500ms"]);
    let unknown = world.fails(
        3,
        &["call", "a.b", "--url", "http://no-such-host.invalid", "--token", "x"],
    );
    let spent = began.elapsed();
    let listed = world.run(&["operations", "--url", &url, "--token", "x"]);

    assert!(limited.contains("cannot reach the hub"), "{limited}");
    assert!(unknown.contains("cannot reach the hub"), "{unknown}");
    assert!(spent < Duration::from_secs(4), "{spent:?}");
    let said = String::from_utf8_lossy(&listed.stderr);
    assert_eq!(listed.status.code(), Some(3), "{said}");
    assert!(said.contains(AGAIN) && said.lines().count() == 2, "{said}");
}
