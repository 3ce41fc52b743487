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

type Writer = fn(&str) -> String;

/// The writers of all notations that the redactor reads.
const WRITERS: [(&str, Writer); 7] = [
    ("JSON", |text| serde_json::to_string(text).expect("JSON")),
    ("a URL", percent),
    ("a form", |text| percent(text).replace("%20", "+")),
    ("HTML", |text| {
        let escaped = text.replace('&', "&amp;").replace('<', "&lt;");
        escaped.replace('"', "&quot;").replace('\'', "&#x27;")
    }),
    ("repr of a text", |text| {
        let escaped = text.replace('\\', r"\\").replace('\'', r"\'");
        format!("'{}'", escaped.replace('\n', r"\n"))
    }),
    ("repr of bytes", |text| {
        let escaped = text.bytes().map(|byte| match byte {
            b'\\' | b'\'' => format!("\\{}", char::from(byte)),
            b' '..=b'~' => char::from(byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        });
        format!("b'{}'", escaped.collect::<String>())
    }),
    ("base64", |text| BASE64_STANDARD.encode(text)),
];

fn percent(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[test]
fn a_value_is_masked_in_three_notations_inside_each_other_beside_any_other_text() {
    let redactor = redactor_of(&[r#"Kq7"xZ é/9vT4mWq2LbN8rYc+&'k"#]);
    let value = r#"Kq7"xZ é/9vT4mWq2LbN8rYc+&'k"#;
    // Each of these words is a notation of its own, or looks like one.
    let beside = r" \xe9 %C3%A9 a+b &amp; \u0041 \n dGhpcyBpcyBiYXNlNjQ";
    let nothing: (&str, Writer) = ("nothing", str::to_owned);
    let all = || WRITERS.iter().chain([&nothing]);
    for (first, inner) in WRITERS {
        for (second, middle) in all() {
            for (third, outer) in all() {
                let spelled = outer(&middle(&inner(value)));
                let text = format!("{spelled}{beside}");
                let shown = redactor.mask(&text);
                let names = format!("{first} in {second} in {third}");
                assert!(shown.contains("***"), "{names}: {text}");
                // The quotes of the writers may be left.
                let left = shown.split("***").map(str::len).max();
                assert!(left <= Some(beside.len() + 24), "{names}: {shown}");
            }
        }
    }
}

#[test]
fn a_value_that_looks_like_an_escape_of_another_notation_is_masked() {
    for value in [r"100%41\new&amp;x", r"C:\temp\x41+%2B"] {
        let redactor = redactor_of(&[value]);
        for (name, writer) in WRITERS {
            let shown = redactor.mask(&writer(value));
            assert!(shown.contains("***"), "{name}: {shown}");
        }
    }
}

#[test]
fn a_value_is_masked_in_base64_of_several_parts() {
    let value = "a-long-value-".repeat(12);
    let encoded = BASE64_STANDARD.encode(&value);
    let lines: Vec<_> = encoded
        .as_bytes()
        .chunks(76)
        .map(String::from_utf8_lossy)
        .collect();
    for line_end in ["\n", "\r\n", "\n  ", "\0"] {
        let shown = masked(&value, &lines.join(line_end));
        assert_eq!(shown, "***");
    }
}

#[test]
fn a_value_in_base64_with_nul_that_a_cut_divides_is_masked() {
    let value = "a-long-value-".repeat(40);
    let encoded = BASE64_STANDARD.encode(&value).replace("", "\0");
    let cut = &encoded.as_bytes()[..encoded.len() / 2 + 1];
    assert!(cut.ends_with(b"\0"));
    assert_eq!(redactor_of(&[&value]).mask_cut(cut), "\0***");
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
fn an_encoded_value_that_a_cut_divides_is_masked() {
    let value: String = (0..1500)
        .map(|number| format!("{number:04}-part-"))
        .collect();
    let redactor = redactor_of(&[&value]);
    let base64: Writer = |text| BASE64_STANDARD.encode(text);
    let as_percents: Writer = |text| text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    for (name, spelled) in [
        ("base64", base64(&value)),
        ("base64 in base64", base64(&base64(&value))),
        ("percents", as_percents(&value)),
        ("base64 in percents", as_percents(&base64(&value))),
        ("percents in base64", base64(&as_percents(&value))),
    ] {
        for visible in [700, 1_500, 6_000] {
            let line = format!("an ordinary text before it: {}", &spelled[..visible]);
            let shown = redactor.mask_cut(line.as_bytes());
            assert_eq!(
                shown, "an ordinary text before it: ***",
                "{name}, {visible}"
            );
        }
    }
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
