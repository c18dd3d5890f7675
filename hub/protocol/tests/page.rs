//! The frames that docs/PROTOCOL.md shows are valid: each one is read, and is what the page says it is.

use alkhub_protocol::CloseCode;
use alkhub_protocol::error::Code;
use alkhub_protocol::frame::Frame;
use bytes::Bytes;

const PAGE: &str = include_str!("../../../docs/PROTOCOL.md");

#[test]
fn every_frame_on_the_page_is_read() {
    let frames: Vec<&str> = PAGE.lines().filter(|line| line.starts_with("{\"type\":")).collect();

    assert!(frames.len() >= 12, "only {} frames found on the page", frames.len());
    for text in frames {
        let read = Frame::decode(&Bytes::from_static(text.as_bytes()));
        assert!(
            read.is_ok(),
            "{text}: {}",
            read.err().map(|e| e.to_string()).unwrap_or_default()
        );
    }
}

#[test]
fn every_code_on_the_page_is_a_code() {
    let rows = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter(|row| row.starts_with(|c: char| c.is_ascii_uppercase()));
    let mut codes: Vec<&str> = rows
        .flat_map(|row| row.split(" | ").next().unwrap_or_default().split(", "))
        .map(|code| code.trim_matches('`'))
        .collect();
    codes.sort_unstable();

    assert!(codes.len() >= 20, "{codes:?}");
    for code in codes {
        assert!(
            !matches!(code.parse(), Ok(Code::Domain(_))),
            "{code} is no code of the hub's"
        );
    }
}

#[test]
fn the_table_of_close_codes_has_each_code_that_a_hub_sends_and_no_other() {
    let section = PAGE.split("\n## Close codes\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().expect("its text");
    let cells = section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let mut listed: Vec<u16> = cells
        .flat_map(|cell| cell.split(", "))
        .filter_map(|number| number.parse().ok())
        .collect();
    listed.sort_unstable();
    listed.dedup();

    let sent: Vec<u16> = CloseCode::ALL.iter().map(|code| code.number()).collect();
    assert_eq!(listed, sent);
}
