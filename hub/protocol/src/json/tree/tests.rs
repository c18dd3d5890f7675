//! What a tree keeps of a text, and what it refuses.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn tree(text: &str) -> Tree<'_> {
    Tree::parse(text.as_bytes()).expect("a tree")
}

fn number(text: &str) -> Number<'_> {
    match tree(text) {
        Tree::Number(number) => number,
        other => panic!("{other:?}"),
    }
}

fn canonical(text: &str) -> String {
    let mut written = String::new();
    tree(text).write_canonical(&mut written);
    written
}

#[test]
fn numbers_stay_as_they_were_written() {
    let text = "[1.10,1e400,123456789012345678901234567890,-0,0.1E+2]";

    assert_eq!(canonical(text), text);
}

#[test]
fn members_are_sorted_and_white_space_goes() {
    assert_eq!(
        canonical(" { \"b\" : [ 1 , true ] ,\n\"a\": { } , \"\\u0061b\": null, \"\": \"\\\"\\\\\" } "),
        r#"{"":"\"\\","a":{},"ab":null,"b":[1,true]}"#
    );
}

#[test]
fn a_second_member_of_one_name_is_refused_with_its_place() {
    for (text, path, name) in [
        (r#"{"a":"x","a":1}"#, "", "a"),
        (r#"{"a":[{},{"x/y":{"b":1,"c":2,"b":1}}]}"#, "/a/1/x~1y", "b"),
        (r#"{"a":1,"\u0061":1}"#, "", "a"),
    ] {
        let error = Tree::parse(text.as_bytes()).expect_err(text);
        let TreeError::Duplicate { path: at, name: own } = error else {
            panic!("{error:?}")
        };
        assert_eq!((at.as_str(), own.as_str()), (path, name), "{text}");
    }
}

#[test]
fn half_a_surrogate_pair_is_refused_with_its_place() {
    for (text, path) in [
        (r#""cut \ud83d""#, ""),
        (r#"{"a":["x","\ude00"]}"#, "/a/1"),
        (r#"{"a":{"\ud83d":1}}"#, "/a"),
    ] {
        let error = Tree::parse(text.as_bytes()).expect_err(text);
        assert!(
            matches!(&error, TreeError::Surrogate { path: at } if at == path),
            "{text}: {error:?}"
        );
    }
    assert_eq!(tree(r#""\ud83d\ude00""#), Tree::String(Cow::Borrowed("😀")));
}

#[test]
fn what_is_no_json_has_no_tree() {
    for text in ["", "{", "[1,]", "{\"a\" 1}", "01", "nul", "1 2", "\"\n\""] {
        assert!(
            matches!(Tree::parse(text.as_bytes()), Err(TreeError::Json(_))),
            "{text}"
        );
    }
}

#[test]
fn one_number_has_one_decimal_however_it_is_written() {
    for same in [
        &["1", "1.0", "1e0", "10e-1", "0.1E+1", "100000e-5"][..],
        &["0", "-0", "0.000", "0e99", "0e99999999999999999999"],
        &["-1200", "-1.2e3", "-12e2"],
        &["123456789012345678901234567890", "1.2345678901234567890123456789e29"],
    ] {
        for text in same {
            assert_eq!(number(text).decimal(), number(same[0]).decimal(), "{text}");
        }
    }
    let (one, other) = ("0.1000000000000000055511151231257827", "0.1");
    assert_ne!(number(one).decimal(), number(other).decimal());
    assert_eq!(number("1e99999999999999999999").decimal(), None);
}

#[test]
fn a_whole_number_has_no_fraction_left() {
    for (text, whole) in [
        ("1.0", true),
        ("1e400", true),
        ("12.5e1", true),
        ("1.5", false),
        ("0.0", true),
        ("1e-1", false),
    ] {
        assert_eq!(
            number(text).decimal().map(|decimal| decimal.is_whole()),
            Some(whole),
            "{text}"
        );
    }
}

#[test]
fn numbers_beyond_64_bits_are_told() {
    for text in [
        "0",
        "18446744073709551615",
        "-9223372036854775808",
        "1e20",
        "0.30000000000000004",
        "1e-300",
        "0e999",
    ] {
        assert!(number(text).fits_64_bits(), "{text}");
    }
    for text in [
        "18446744073709551617",
        "1e400",
        "1e-400",
        "0.300000000000000041",
        "1e99999999999999999999",
    ] {
        assert!(!number(text).fits_64_bits(), "{text}");
    }
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(".{0,6}", inner, 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_tree_is_what_serde_reads(value in json(), pretty: bool) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let text = text.expect("writes");

        let again: Value = serde_json::from_str(&canonical(&text)).expect("JSON");

        prop_assert_eq!(again, value);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[\\[\\]{}\",:0-9eE+.\\-\\\\u a-z]{0,40}") {
        let wanted = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();

        match Tree::parse(text.as_bytes()) {
            Ok(_) => prop_assert!(wanted),
            Err(TreeError::Json(_)) => prop_assert!(!wanted),
            Err(TreeError::Duplicate { .. } | TreeError::Surrogate { .. }) => prop_assert!(wanted),
        }
    }
}
