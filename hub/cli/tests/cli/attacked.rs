//! A hub under the memory limit that its pods have by default, attacked at once in every known way of making it keep
//! things, next to a spoke and a client that behave: those see no failure.
//!
//! Peers are bare sockets, since no library sends what these send. Where a memory cgroup can be made, the kernel
//! enforces the limit; elsewhere the peak of the process is compared with it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::{Dev, SOON};

/// The memory limit of a hub's pod (`operator/src/hub/build/template.rs`).
const LIMIT_BYTES: u64 = 512 * 1024 * 1024;

/// A payload just under the limit of one message.
const LARGE: usize = 1_000_000;

/// How many calls the well-behaved client makes after everything is in place.
const CALLS_AT_THE_END: usize = 20;

/// A hub that is attacked.
struct Attacked {
    dev: Dev,
    /// How many attackers have not done their worst yet.
    busy: AtomicUsize,
    over: AtomicBool,
    /// Sockets on which somebody reads until the end.
    read: Mutex<Vec<TcpStream>>,
}

/// An attacker that has not done its worst yet.
struct Busy<'a>(&'a AtomicUsize);

/// A WebSocket as bytes.
struct Socket(TcpStream);

/// The memory cgroup of one process; it goes when the process has.
struct Group(PathBuf);

// === impl Attacked ===

impl Attacked {
    fn http(&self, method: &str, path: &str, body: &str) -> Value {
        let mut socket = self.connect();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {}\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n",
            self.dev.key(),
            body.len()
        );
        socket.write_all(request.as_bytes()).expect("written");
        socket.write_all(body.as_bytes()).expect("written");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a blank line");
        assert!(head.starts_with("HTTP/1.1 20"), "{method} {path}: {answer}");
        serde_json::from_str(body).expect("JSON")
    }

    fn key(&self, scopes: &[&str], spoke: Option<&str>) -> String {
        let create = json!({ "name": "test", "scopes": scopes, "spoke": spoke });
        let created = self.http("POST", "/v1/admin/keys", &create.to_string());
        created["data"]["key"].as_str().expect("a key").to_owned()
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.dev.url.replace("http://", "")).expect("connects");
        socket.set_nodelay(true).expect("set");
        socket.set_read_timeout(Some(SOON)).expect("set");
        socket
    }

    fn socket(&self, key: &str) -> Socket {
        let mut socket = self.connect();
        let handshake = format!(
            "GET /v1/ws?access_token={key} HTTP/1.1\r\nhost: hub\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        socket.write_all(handshake.as_bytes()).expect("written");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).expect("an answer");
            answer.extend(byte);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{answer:?}");
        // An attacker is not held up by a hub that no longer reads from it.
        socket.set_write_timeout(Some(Duration::from_secs(2))).expect("set");
        Socket(socket)
    }

    /// Does the worst, then keeps what it holds until the end.
    fn attack<T>(&self, worst: impl FnOnce(&Self) -> T) {
        let busy = Busy(&self.busy);
        let held = worst(self);
        drop(busy);
        while !self.over.load(Ordering::Acquire) {
            std::thread::park_timeout(Duration::from_millis(50));
        }
        drop(held);
    }

    /// A second handle of a socket, by which its reader is woken at the end.
    fn read_until_the_end(&self, socket: &Socket) -> Socket {
        let clone = || socket.0.try_clone().expect("cloned");
        self.read.lock().expect("not poisoned").push(clone());
        Socket(clone())
    }

    /// Lets everybody go.
    fn end(&self) {
        self.over.store(true, Ordering::Release);
        for socket in &*self.read.lock().expect("not poisoned") {
            drop(socket.shutdown(Shutdown::Both));
        }
    }

    // --- attackers ---

    /// Registrations of half a million entries, all wrong, whose answers nobody reads.
    fn wrong_entries(&self) -> Vec<Socket> {
        let key = self.key(&["spoke"], Some("wrong"));
        let entries = "1,".repeat(LARGE / 2 - 100);
        let register = format!(r#"{{"type":"hub.register","id":"r","payload":{{"operations":[{entries}1]}}}}"#);
        self.each(10, &key, |socket, _| socket.try_send(&register))
    }

    /// Registrations with much about the host, and again and again with other long descriptions.
    fn long_words(&self) -> Vec<Socket> {
        let key = self.key(&["spoke"], Some("wordy"));
        let words = "x".repeat(LARGE - 10_000);
        let host =
            format!(r#"{{"type":"hub.register","id":"r","payload":{{"hostInfo":"{words}","labels":{{"a":"b"}}}}}}"#);
        let mut sockets = self.each(40, &key, |socket, _| socket.try_send(&host));
        let mut again = self.socket(&key);
        for number in 0..100 {
            let operation = json!({
                "namespace": "wordy", "name": "op", "type": "query", "inputSchema": true, "outputSchema": true,
                "description": format!("{number}{words}"),
            });
            let register = json!({ "type": "hub.register", "id": "r", "payload": { "operations": [operation] } });
            again.try_send(&register.to_string());
            drop(again.try_next());
        }
        sockets.push(again);
        sockets
    }

    /// As many subscriptions as connections allow.
    fn subscriptions(&self) -> Vec<Socket> {
        let key = self.key(&["events:subscribe:*"], None);
        self.each(6, &key, |socket, at| {
            for number in 0..10_000 {
                socket.try_send(&format!(
                    r#"{{"type":"__subscribe","id":"","payload":"some.topic:{at}-{number}"}}"#
                ));
            }
        })
    }

    /// Large calls to a spoke that reads them and never answers.
    fn unanswered_calls(&self) -> Vec<Socket> {
        let mut spoke = self.socket(&self.key(&["spoke"], Some("slow")));
        spoke.register("slow", "op");
        let mut reader = self.read_until_the_end(&spoke);
        std::thread::spawn(move || while reader.try_next().is_some() {});
        let key = self.key(&["call:slow.*"], None);
        let input = "x".repeat(LARGE);
        let mut callers = self.each(6, &key, |socket, at| {
            for number in 0..50 {
                socket.try_send(&call(&format!("{at}-{number}"), "slow.op", &input));
            }
        });
        callers.push(spoke);
        callers
    }

    /// Messages that never end.
    fn unfinished_messages(&self) -> Vec<Socket> {
        let key = self.key(&[], None);
        let mut begun = header(LARGE + 1);
        begun.extend(std::iter::repeat_n(b' ', LARGE));
        self.each(300, &key, |socket, _| socket.try_write(&begun))
    }

    /// Bodies of requests that never end, of a key that may do nothing.
    fn unfinished_bodies(&self) -> Vec<TcpStream> {
        let key = self.key(&[], None);
        let head = format!(
            "POST /v1/call/lab.echo HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {key}\r\n\
             content-length: 1048576\r\n\r\n"
        );
        let begun = [head.as_bytes(), &[b' '; LARGE]].concat();
        let each = (0..300).map(|_| {
            let mut socket = self.connect();
            socket.set_write_timeout(Some(Duration::from_secs(2))).expect("set");
            // An error means that it was disconnected, or is no longer read.
            drop(socket.write_all(&begun));
            socket
        });
        each.collect()
    }

    /// Events for readers that do not read, each with a topic of its own.
    fn unread_events(&self) -> Vec<Socket> {
        let key = self.key(&["events:subscribe:fill"], None);
        let readers = self.each(30, &key, |socket, at| {
            socket.try_send(&format!(r#"{{"type":"__subscribe","id":"","payload":"fill:{at}"}}"#));
            drop(socket.try_next());
        });
        let payload = json!("x".repeat(LARGE)).to_string();
        for _ in 0..10 {
            for at in 0..readers.len() {
                self.http("POST", &format!("/v1/events/fill/{at}"), &payload);
            }
        }
        readers
    }

    /// Refused calls without end, whose refusals nobody reads.
    fn refused_calls(&self) {
        let key = self.key(&[], None);
        let refused = call("r", "text.upper", "x");
        let frame = [header(refused.len()), refused.into_bytes()].concat().repeat(100);
        let mut socket = self.socket(&key);
        for _ in 0..2_000 {
            if socket.0.write_all(&frame).is_err() {
                socket = self.socket(&key);
            }
        }
    }

    /// Opens sockets and does something with each.
    fn each(&self, count: usize, key: &str, mut worst: impl FnMut(&mut Socket, usize)) -> Vec<Socket> {
        let mut sockets = Vec::new();
        for at in 0..count {
            let mut socket = self.socket(key);
            worst(&mut socket, at);
            sockets.push(socket);
        }
        sockets
    }

    // --- those who behave ---

    /// Answers until the end.
    fn behaving_spoke(&self, spoke: &mut Socket) {
        while let Some(message) = spoke.try_next() {
            if message["type"] != "call.requested" {
                continue;
            }
            let payload = json!({ "requestId": message["payload"]["requestId"], "output": "done" });
            spoke.try_send(&json!({ "type": "call.responded", "id": message["id"], "payload": payload }).to_string());
        }
    }

    /// Calls all the time, and some more times once all attackers have done their worst; returns what went wrong.
    fn behaving_client(&self, client: &mut Socket) -> Vec<String> {
        let (mut failures, mut number, mut left) = (Vec::new(), 0, CALLS_AT_THE_END);
        while left > 0 {
            let id = format!("c-{number}");
            client.try_send(&call(&id, "text.upper", "x"));
            let Some(answer) = client.try_next() else {
                failures.push("the hub has closed the connection".to_owned());
                break;
            };
            if answer["type"] != "call.responded" || answer["payload"]["requestId"] != *id {
                failures.push(answer.to_string());
            }
            number += 1;
            left -= usize::from(self.busy.load(Ordering::Acquire) == 0);
            std::thread::park_timeout(Duration::from_millis(20));
        }
        failures
    }
}

/// A call in text.
fn call(id: &str, operation: &str, input: &str) -> String {
    format!(r#"{{"type":"call.requested","id":"{id}","payload":{{"operationId":"{operation}","input":"{input}"}}}}"#)
}

/// The header of a text message, masked with zeros, which leaves it as it is.
fn header(length: usize) -> Vec<u8> {
    let length = u64::try_from(length).expect("a length").to_be_bytes();
    [&[0x81, 0x80 | 127], &length[..], &[0; 4]].concat()
}

// === impl Socket ===

impl Socket {
    fn send(&mut self, text: &str) {
        let frame = [&header(text.len()), text.as_bytes()].concat();
        self.0.write_all(&frame).expect("the hub reads");
    }

    /// Sends as an attacker: whether the hub accepts it does not matter.
    fn try_send(&mut self, text: &str) {
        self.try_write(&[&header(text.len()), text.as_bytes()].concat());
    }

    fn try_write(&mut self, bytes: &[u8]) {
        // An error means that it was disconnected, or is no longer read.
        drop(self.0.write_all(bytes));
    }

    fn register(&mut self, namespace: &str, name: &str) {
        let operation = json!({
            "namespace": namespace, "name": name, "type": "query", "inputSchema": true, "outputSchema": true,
        });
        self.send(&json!({ "type": "hub.register", "id": "r", "payload": { "operations": [operation] } }).to_string());
        let answer = self.next();
        assert_eq!(answer["type"], "call.responded", "{answer}");
    }

    /// The next message of the hub.
    fn next(&mut self) -> Value {
        self.try_next().expect("the hub answers")
    }

    /// The next message of the hub; `None` when it has closed the connection.
    fn try_next(&mut self) -> Option<Value> {
        loop {
            let mut start = [0; 2];
            self.0.read_exact(&mut start).ok()?;
            let length = match start[1] {
                126 => {
                    let mut length = [0; 2];
                    self.0.read_exact(&mut length).ok()?;
                    u64::from(u16::from_be_bytes(length))
                }
                127 => {
                    let mut length = [0; 8];
                    self.0.read_exact(&mut length).ok()?;
                    u64::from_be_bytes(length)
                }
                short => u64::from(short),
            };
            let mut payload = vec![0; usize::try_from(length).expect("a length")];
            self.0.read_exact(&mut payload).ok()?;
            match start[0] & 0x0F {
                0x1 => return serde_json::from_slice(&payload).ok(),
                0x8 => return None,
                0x9 => self.try_write(&[0x8A, 0x80, 0, 0, 0, 0]),
                _ => {}
            }
        }
    }
}

// === impl Busy ===

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

// === impl Group ===

impl Group {
    /// Puts a process under a limit on the memory it takes from now on; `None` if no group can be made.
    fn of(pid: u32, limit_bytes: u64) -> Option<Self> {
        let (root, limit) = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ]
        .into_iter()
        .find(|(root, _)| std::path::Path::new(root).join("cgroup.procs").exists())?;
        let group = Self(PathBuf::from(root).join(format!("alkhub-test-{pid}")));
        std::fs::create_dir(&group.0).ok()?;
        std::fs::write(group.0.join(limit), limit_bytes.to_string()).ok()?;
        std::fs::write(group.0.join("cgroup.procs"), pid.to_string()).ok()?;
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}

/// A line of the kernel's status of a process, in bytes.
fn status_bytes(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the hub runs");
    let line = status.lines().find(|line| line.starts_with(field)).expect("Linux");
    let kilobytes: u64 = line
        .split_whitespace()
        .nth(1)
        .expect("a number")
        .parse()
        .expect("a number");
    kilobytes * 1024
}

#[test]
fn a_hub_under_its_memory_limit_survives_every_attack_at_once_and_serves_who_behaves() {
    let dev = Dev::start();
    let pid = dev.program.pid();
    // What it took before it joined the group is not counted there.
    let group = Group::of(pid, LIMIT_BYTES - status_bytes(pid, "VmRSS"));
    let hub = Attacked {
        dev,
        busy: AtomicUsize::new(8),
        over: AtomicBool::new(false),
        read: Mutex::default(),
    };
    let mut spoke = hub.socket(&hub.key(&["spoke"], Some("text")));
    spoke.register("text", "upper");
    let _woken = hub.read_until_the_end(&spoke);
    let mut client = hub.socket(&hub.key(&["call:text.*"], None));

    let failures = std::thread::scope(|scope| {
        scope.spawn(|| hub.behaving_spoke(&mut spoke));
        scope.spawn(|| hub.attack(Attacked::wrong_entries));
        scope.spawn(|| hub.attack(Attacked::long_words));
        scope.spawn(|| hub.attack(Attacked::subscriptions));
        scope.spawn(|| hub.attack(Attacked::unanswered_calls));
        scope.spawn(|| hub.attack(Attacked::unfinished_messages));
        scope.spawn(|| hub.attack(Attacked::unfinished_bodies));
        scope.spawn(|| hub.attack(Attacked::unread_events));
        scope.spawn(|| hub.attack(Attacked::refused_calls));
        let failures = hub.behaving_client(&mut client);
        hub.end();
        failures
    });

    let peak = status_bytes(pid, "VmHWM");
    let said = format!(
        "peak of the hub: {} MiB, in a group of its own: {}",
        peak >> 20,
        group.is_some()
    );
    assert_eq!(failures, Vec::<String>::new(), "{said}");
    assert!(peak < LIMIT_BYTES, "{said}");
    drop(hub);
    drop(group);
}
