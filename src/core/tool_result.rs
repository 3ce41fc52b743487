//! Tools and their results, as raw JSON: what a server says is passed on untouched.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::failure::{Code, Failure};

/// A CallToolResult, read where it lies: only what decides the shape of the answer.
#[derive(Deserialize)]
struct ResultView<'a> {
    #[serde(borrow, default)]
    content: Vec<&'a RawValue>,
    #[serde(borrow, rename = "structuredContent")]
    structured: Option<&'a RawValue>,
    #[serde(rename = "isError", default)]
    is_error: bool,
    #[serde(borrow, rename = "_meta")]
    meta: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct BlockView<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow, rename = "mimeType")]
    mime: Option<&'a RawValue>,
}

/// A tool's answer, ready to be written.
pub struct ToolCallBody {
    /// The whole body, `{"success":true,"data":…}`.
    pub body: Vec<u8>,
    /// The tool says that it failed.
    pub is_error: bool,
}

/// Shapes a CallToolResult into the body of an answer.
///
/// One text block is its string; one image or audio block its base64 string with its MIME type;
/// no block but `structuredContent` is that; anything else is the array of blocks. With `raw` the
/// result stands there untouched.
pub fn shape_tool_result(result: &[u8], raw: bool) -> Result<ToolCallBody, Failure> {
    let nonsense = || {
        Failure::new(
            Code::UpstreamError,
            "The MCP server answered with something that is not a tool result",
        )
        .maybe_run()
    };
    let view: ResultView = serde_json::from_slice(result).map_err(|_| nonsense())?;
    let mut body = Vec::with_capacity(result.len() + 128);
    if raw {
        put(&mut body, &[br#"{"success":true,"data":"#, result, b"}"]);
        return Ok(ToolCallBody {
            body,
            is_error: view.is_error,
        });
    }
    let single = match view.content.as_slice() {
        [block] => Some(serde_json::from_str::<BlockView>(block.get()).map_err(|_| nonsense())?),
        _ => None,
    };
    put(&mut body, &[br#"{"success":true,"data":{"content":"#]);
    match (&single, view.structured) {
        (
            Some(BlockView {
                kind,
                text: Some(text),
                ..
            }),
            _,
        ) if kind == "text" => {
            put(
                &mut body,
                &[text.get().as_bytes(), br#","contentType":"text/plain""#],
            );
        }
        (
            Some(BlockView {
                kind,
                data: Some(data),
                mime: Some(mime),
                ..
            }),
            _,
        ) if kind == "image" || kind == "audio" => {
            put(
                &mut body,
                &[
                    data.get().as_bytes(),
                    br#","contentType":"#,
                    mime.get().as_bytes(),
                ],
            );
        }
        (None, Some(structured)) if view.content.is_empty() => {
            put(
                &mut body,
                &[
                    structured.get().as_bytes(),
                    br#","contentType":"application/json""#,
                ],
            );
        }
        _ => {
            body.push(b'[');
            for (n, block) in view.content.iter().enumerate() {
                put(
                    &mut body,
                    &[if n > 0 { b"," } else { b"" }, block.get().as_bytes()],
                );
            }
            put(&mut body, &[br#"],"contentType":"application/json""#]);
        }
    }
    put(
        &mut body,
        &[
            br#","isError":"#,
            if view.is_error { b"true" } else { b"false" },
        ],
    );
    for (key, value) in [
        (&br#","structuredContent":"#[..], view.structured),
        (br#","meta":"#, view.meta),
    ] {
        if let Some(value) = value {
            put(&mut body, &[key, value.get().as_bytes()]);
        }
    }
    put(&mut body, &[b"}}"]);
    Ok(ToolCallBody {
        body,
        is_error: view.is_error,
    })
}

fn put(body: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        body.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn data(result: Value) -> Value {
        let body = shape_tool_result(result.to_string().as_bytes(), false)
            .expect("a result")
            .body;
        serde_json::from_slice::<Value>(&body).expect("JSON")["data"].take()
    }

    #[test]
    fn one_text_block_is_its_string() {
        let got = data(json!({"content":[{"type":"text","text":"a\"b\n"}]}));
        assert_eq!(
            got,
            json!({"content":"a\"b\n","contentType":"text/plain","isError":false})
        );
    }

    #[test]
    fn one_image_is_its_data_with_its_type() {
        let got = data(json!({"content":[{"type":"image","data":"AAA=","mimeType":"image/png"}]}));
        assert_eq!(
            got,
            json!({"content":"AAA=","contentType":"image/png","isError":false})
        );
    }

    #[test]
    fn structured_content_stands_alone_or_beside() {
        let alone = data(json!({"content":[],"structuredContent":{"a":1}}));
        assert_eq!(
            alone,
            json!({"content":{"a":1},"contentType":"application/json","isError":false,"structuredContent":{"a":1}})
        );
        let beside =
            data(json!({"content":[{"type":"text","text":"x"}],"structuredContent":{"a":1}}));
        assert_eq!(
            beside,
            json!({"content":"x","contentType":"text/plain","isError":false,"structuredContent":{"a":1}})
        );
    }

    #[test]
    fn several_blocks_are_an_array_and_meta_is_kept() {
        let blocks =
            json!([{"type":"text","text":"a"},{"type":"resource_link","uri":"x://y","name":"n"}]);
        let got = data(json!({"content":blocks,"isError":true,"_meta":{"k":1}}));
        assert_eq!(
            got,
            json!({"content":blocks,"contentType":"application/json","isError":true,"meta":{"k":1}})
        );
        let empty = data(json!({"content":[]}));
        assert_eq!(
            empty,
            json!({"content":[],"contentType":"application/json","isError":false})
        );
        let link = json!([{"type":"resource_link","uri":"x://y","name":"n"}]);
        assert_eq!(data(json!({"content":link}))["content"], link);
    }

    #[test]
    fn raw_is_untouched_to_the_byte() {
        let result = br#"{ "content" : [ {"text":"x","type":"text"} ] , "new":1.0 }"#;
        let body = shape_tool_result(result, true).expect("a result").body;
        assert_eq!(
            body,
            [br#"{"success":true,"data":"#, &result[..], b"}"].concat()
        );
    }

    #[test]
    fn what_is_no_result_is_a_failure() {
        for bad in [
            "null",
            "[]",
            "3",
            r#"{"content":"text"}"#,
            r#"{"content":[3]}"#,
        ] {
            assert!(shape_tool_result(bad.as_bytes(), false).is_err(), "{bad}");
        }
    }
}
