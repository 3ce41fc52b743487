//! The redactor finds a value in every spelling, and its cost does not depend on the number of values.

use super::*;
use crate::time::clock::monotonic;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use uuid::Uuid;

fn redactor_of(values: &[&str]) -> Redactor {
    let redactor = Redactor::default();
    for value in values {
        redactor.hold(ValueId(Uuid::new_v4()), value);
    }
    redactor
}

fn masked(value: &str, text: &str) -> String {
    redactor_of(&[value]).mask(text)
}

#[test]
fn a_value_is_masked_wherever_it_occurs() {
    assert_eq!(masked("ghp_x", "token ghp_x, ghp_x!"), "token ***, ***!");
    assert_eq!(masked("ghp_x", "ghp_xghp_x"), "***");
    assert_eq!(masked("x", "nothing to hide"), "nothing to hide");
    assert_eq!(masked("", "nothing to hide"), "nothing to hide");
    assert_eq!(
        masked("-----BEGIN-----\nabcdefghij\nklm\n", "read abcdefghij"),
        "read ***"
    );
}

#[test]
fn a_value_is_masked_in_every_spelling_of_json() {
    for (value, text) in [
        ("a\"b\nc", r#"{"k":"a\"b\nc"}"#),
        ("pässwörd", r#"{"k":"p\u00e4ssw\u00F6rd"}"#),
        ("a&b<c>", r#"{"k":"a\u0026b\u003cc\u003E"}"#),
        ("a/b/😀", r#"{"k":"a\/b\/\ud83d\uDE00"}"#),
        ("plain", r#"{"k":"\u0070\u006c\u0061\u0069\u006E"}"#),
    ] {
        assert_eq!(masked(value, text), r#"{"k":"***"}"#, "{text}");
    }
    let twice = r#"{"k":"{\"k\":\"a\\\"b\\u0021\"}"}"#;
    assert_eq!(masked("a\"b!", twice), r#"{"k":"{\"k\":\"***\"}"}"#);
}

#[test]
fn a_value_is_masked_as_python_and_urls_write_it() {
    assert_eq!(masked("it's\tmine", r"'it\'s\tmine'"), "'***'");
    assert_eq!(masked("schön", r"b'sch\xc3\xb6n'"), "b'***'");
    assert_eq!(masked("schön", r"'sch\xf6n'"), "'***'");
    assert_eq!(masked("a b/ü&c", "?q=a%20b%2F%C3%BC%26c&x=1"), "?q=***&x=1");
    assert_eq!(masked("a b/c", "q=a+b%2fc"), "q=***");
    assert_eq!(masked("<a'b>", "<p>&lt;a&#39;b&gt;</p>"), "<p>***</p>");
}

#[test]
fn a_value_is_masked_in_base64_at_each_offset() {
    let value = "s3cret?>value";
    for before in ["", "u", "us", "usr:"] {
        for after in ["", ":", ":x", ":xyz"] {
            let text = format!("{before}{value}{after}");
            for encoded in [
                BASE64_STANDARD.encode(&text),
                BASE64_URL_SAFE_NO_PAD.encode(&text),
            ] {
                let line = format!("Authorization: Basic {encoded}");
                let shown = masked(value, &line);
                assert!(shown.contains("***"), "{line} is shown as {shown}");
                let middle = &encoded[before.len() * 4 / 3 + 2..][..12];
                assert!(!shown.contains(middle), "{line} is shown as {shown}");
            }
        }
    }
}

#[test]
fn a_value_is_masked_in_notations_inside_each_other_beside_any_other_text() {
    let value = r#"Kq7"xZ é/9vT4mWq2LbN8rYc"#;
    let percent = |text: &str| {
        utf8_percent_encode(text, NON_ALPHANUMERIC)
            .to_string()
            .replace("%20", "+")
    };
    let json = |text: &str| serde_json::to_string(text).expect("JSON");
    let base64 = |text: &str| BASE64_STANDARD.encode(text);
    let body = format!(r#"{{"k":{}}}"#, json(value));
    for spelled in [
        percent(&percent(value)),
        percent(&json(value)),
        json(&json(value)),
        json(&percent(value)),
        base64(&body),
        base64(&percent(value)),
        base64(&base64(value)),
        percent(&base64(&body)),
    ] {
        // Each of these words is a notation of its own, or looks like one.
        for beside in ["", r" \n \x41 a+b %20 &amp; \u0041 dGhpcyBpcyBiYXNlNjQ"] {
            let text = format!("{spelled}{beside}");
            let shown = masked(value, &text);
            // What is left of the value are the characters that its first and last ones share with others in base64.
            let left = shown.split("***").map(str::len).max();
            assert!(
                left <= Some(beside.len() + 16),
                "{text} is shown as {shown}"
            );
        }
    }
}

#[test]
fn a_value_is_masked_in_base64_of_several_lines() {
    let value = "a-long-value-".repeat(12);
    let encoded = BASE64_STANDARD.encode(&value);
    let lines: Vec<_> = encoded
        .as_bytes()
        .chunks(76)
        .map(String::from_utf8_lossy)
        .collect();
    for line_end in ["\n", "\r\n"] {
        let shown = masked(&value, &lines.join(line_end));
        assert_eq!(shown, "***");
    }
}

#[test]
fn json_stays_json() {
    let redactor = redactor_of(&["a<b>/1234", "5678"]);
    let spelled = r#"{"x a\u003Cb\u003e\/1234":["\u0061<b>/1234",5678,{"n":1.0}]}"#;
    assert_eq!(
        redactor.mask_json(spelled),
        r#"{"x ***":["***","***",{"n":1.0}]}"#
    );
    assert_eq!(
        redactor.mask_json(r#"{ "untouched": 1.00 }"#),
        r#"{ "untouched": 1.00 }"#
    );
    assert_eq!(redactor.mask_json("cut off: a<b>/1234"), "cut off: ***");
}

#[test]
fn values_beside_a_secret_keep_their_text() {
    let redactor = redactor_of(&["a<b>/1234", "5678"]);
    assert_eq!(
        redactor.mask_json(
            r#"{"n":1.00,"big":98765432109876543210987,"z":[-0.0,{"k":"a<b>/1234"}],"e":"\u0041","n":56.78e2}"#
        ),
        r#"{"n":1.00,"big":98765432109876543210987,"z":[-0.0,{"k":"***"}],"e":"\u0041","n":"***.0"}"#
    );
}

#[test]
fn json_that_is_nested_too_deeply_is_masked_as_a_text() {
    let redactor = redactor_of(&["deep-secret"]);
    let depth = 100_000;
    let json = format!("{}\"deep-secret\"{}", "[".repeat(depth), "]".repeat(depth));
    let masked = redactor.mask_json(&json);
    assert!(masked.contains("\"***\"") && !masked.contains("deep"));
}

#[test]
fn a_value_that_a_cut_divides_is_masked() {
    let long = "0123456789abcdef".repeat(8 * 1024);
    let redactor = redactor_of(&[&long, "another-long-value-of-this-line"]);
    let line = format!("first another-long-value-of-this-line then {long}");
    let shown = redactor.mask_cut(&line.as_bytes()[..64 * 1024]);
    assert_eq!(shown, "first *** then ***");
    let filler = "words ".repeat(100);
    for visible in 1..31 {
        let line = format!("{filler}{}", &"another-long-value-of-this-line"[..visible]);
        assert!(!redactor.mask_cut(line.as_bytes()).contains("an"));
    }
    assert_eq!(Redactor::default().mask_cut(b"nothing"), "nothing");
}

#[test]
fn two_long_values_in_one_line_are_masked() {
    let first = "1-of-two-long-ones".repeat(4000);
    let second = "2-of-two-long-ones".repeat(4000);
    let redactor = redactor_of(&[&first, &second]);
    assert_eq!(redactor.mask(&format!("{first} {second}")), "*** ***");
}

#[test]
fn a_longer_value_goes_before_one_inside_it() {
    assert_eq!(
        redactor_of(&["abc", "abcdef"]).mask("abcdef abc"),
        "*** ***"
    );
}

#[test]
fn a_value_is_masked_for_as_long_as_it_is_stored() {
    let redactor = Redactor::default();
    let stored = ValueId(Uuid::new_v4());
    let other = ValueId(Uuid::new_v4());
    let short = ValueId(Uuid::new_v4());
    for (id, value) in [(stored, "stored"), (other, "other"), (short, "abc")] {
        redactor.hold(id, value);
        redactor.release(id);
    }
    redactor.expire(|_| false);
    assert_eq!(redactor.mask("stored other abc"), "*** *** ***");
    for value in redactor.held.lock().values_mut() {
        value.last_call -= GRACE;
    }
    redactor.expire(|id| id != other);
    assert_eq!(redactor.mask("stored other abc"), "*** other abc");
    redactor.expire(|_| false);
    assert_eq!(redactor.mask("stored"), "stored");
}

/// Returns the time of 200 lines while `values` values are known.
fn time_of_lines(values: usize) -> Duration {
    let redactor = Redactor::default();
    for number in 0..values {
        let id = ValueId(Uuid::new_v4());
        redactor.hold(id, &format!("ghp_{number:08}-token-of-one-user-of-many"));
    }
    let line =
        r#"2025-01-01 INFO {"user":"ana","path":"/a%20b","note":"said \"hello\""} served in 12 ms"#;
    let start = monotonic();
    for _ in 0..200 {
        assert_eq!(redactor.mask(line), line);
    }
    start.elapsed()
}

#[test]
fn the_cost_of_a_line_does_not_grow_with_the_number_of_users() {
    let few = (0..5).map(|_| time_of_lines(10)).min();
    let many = (0..5).map(|_| time_of_lines(4000)).min();
    assert!(
        many < few.map(|time| time * 5),
        "{many:?} instead of {few:?}"
    );
}

#[test]
fn a_call_never_waits_for_a_line() {
    let redactor = redactor_of(&["a-value-that-is-known"]);
    let line = "a line without a value ".repeat(10_000);
    std::thread::scope(|scope| {
        let masking = scope.spawn(|| redactor.mask(&line));
        let mut calls = 0;
        // A call that waited for the line would add one value at most.
        while !masking.is_finished() && calls < 50 {
            redactor.hold(ValueId(Uuid::new_v4()), &format!("value-{calls}-of-a-call"));
            calls += 1;
        }
        assert!(calls >= 50, "{calls} calls");
    });
}
