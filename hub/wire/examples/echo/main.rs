//! An echo over `alkhub-wire` in both roles, against which Autobahn's test suite runs (`make autobahn`).
//!
//! It also serves as the crate's example: `upgrade` has the handshake, `socket` the loop around a `Decoder` and a
//! `Batch`.
//!
//! ```text
//! echo serve 127.0.0.1:0            echoes until it is killed; its first line is its address
//! echo visit 127.0.0.1:9001 AGENT   echoes each case of a fuzzing server, then asks for the report on AGENT
//! ```

mod socket;
mod upgrade;

use std::io::Write as _;

use alkhub_wire::Role;
use anyhow::{Context as _, Result, bail};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use socket::Socket;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", address] => serve(address).await,
        ["visit", address, agent] => visit(address, agent).await,
        _ => bail!("usage: echo serve ADDRESS, or echo visit ADDRESS AGENT"),
    }
}

async fn serve(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
    let tasks = TaskTracker::new();
    loop {
        let (stream, _) = listener.accept().await?;
        tasks.spawn(async move {
            if let Err(error) = serve_one(stream).await {
                eprintln!("a connection broke: {error:#}");
            }
        });
    }
}

async fn serve_one(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let (stream, rest) = upgrade::accept(stream).await?;
    echo(Socket::new(Role::Server, stream, rest)).await
}

async fn visit(address: &str, agent: &str) -> Result<()> {
    let (_, count) = open(address, "/getCaseCount")
        .await?
        .next()
        .await?
        .context("the server does not say how many cases it has")?;
    let count: u32 = std::str::from_utf8(&count)?.parse()?;
    for case in 1..=count {
        let socket = open(address, &format!("/runCase?case={case}&agent={agent}")).await?;
        if let Err(error) = echo(socket).await {
            eprintln!("case {case} broke: {error:#}");
        }
    }
    echo(open(address, &format!("/updateReports?agent={agent}")).await?).await
}

async fn open(address: &str, path: &str) -> Result<Socket> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (stream, rest) = upgrade::request(stream, address, path).await?;
    Ok(Socket::new(Role::Client, stream, rest))
}

async fn echo(mut socket: Socket) -> Result<()> {
    while let Some((kind, data)) = socket.next().await? {
        socket.send(kind, data);
    }
    Ok(())
}
