//! The examples of docs/PIPELINE.md, run as they stand.

use super::*;

const PAGE: &str = include_str!("../../../../../docs/PIPELINE.md");

/// What the page says that comes out, or is over.
fn expected(word: &str, rest: &str) -> Option<Out> {
    match word {
        "out" => Some(Out::Value(
            serde_json::from_str(rest).unwrap_or_else(|_| panic!("{rest}")),
        )),
        "fault" => {
            let (name, code) = rest.split_once(' ').expect("a step and a word");
            let known = |text: &str| -> &'static str { text.to_owned().leak() };
            Some(Out::Fault(known(name), known(code)))
        }
        _ => None,
    }
}

#[test]
fn the_examples_of_the_page_do_what_it_says() {
    let blocks: Vec<&str> = PAGE.split("```pipeline\n").skip(1).collect();
    assert!(blocks.len() >= 15, "{} examples", blocks.len());
    for block in blocks {
        let block = block.split("```").next().unwrap_or_default();
        let (mut bench, mut made) = (Bench::new("[]"), Vec::new());
        for line in block.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let rest = rest.trim();
            if let Some(expected) = expected(word, rest) {
                assert!(!made.is_empty(), "nothing comes out at {line} of\n{block}");
                assert_eq!(made.remove(0), expected, "{line} of\n{block}");
                continue;
            }
            assert_eq!(made, [], "before {line} of\n{block}");
            match word {
                "pipe" => bench = Bench::new(rest),
                "in" => made = bench.push(rest),
                "wait" => made = bench.wait(alkhub_protocol::time::parse(rest).expect("a time")),
                "end" => made = bench.finish(),
                "over" => assert!(bench.run.is_over(), "{block}"),
                other => panic!("{other} in\n{block}"),
            }
        }
        assert_eq!(made, [], "at the end of\n{block}");
    }
}
