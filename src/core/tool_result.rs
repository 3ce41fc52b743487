//! Tool results as raw JSON: the program passes a server's result on without changes to its values.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::failure::{Code, Failure};

/// The fields of a CallToolResult that decide the form of the response. `null` means absent, because some servers send
/// `null` for a missing field.
#[derive(Deserialize)]
struct ResultView<'a> {
    #[serde(borrow)]
    content: Option<Vec<&'a RawValue>>,
    #[serde(borrow, rename = "structuredContent")]
    structured: Option<&'a RawValue>,
    #[serde(rename = "isError")]
    is_error: Option<bool>,
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

/// The body of a response to a tool call.
pub struct ToolCallBody {
    /// The complete body, `{"success":true,"data":…}`.
    pub body: Vec<u8>,
    /// The tool reports a failure.
    pub is_error: bool,
}

/// Shapes a CallToolResult into the body of a response.
///
/// One text block becomes its string. One image or audio block becomes its base64 string and its MIME type. No block
/// but `structuredContent` becomes that value. Any other result becomes the array of blocks. With `raw` the result stays
/// unchanged. A field or a block that is `null` counts as absent.
///
/// # Errors
/// Fails if the result is no CallToolResult. Then the tool may have run.
pub fn shape_tool_result(result: &[u8], raw: bool) -> Result<ToolCallBody, Failure> {
    let view: ResultView = serde_json::from_slice(result).map_err(|_| no_tool_result())?;
    let is_error = view.is_error.unwrap_or(false);
    let mut body = Vec::with_capacity(result.len() + 128);
    if raw {
        append(&mut body, &[br#"{"success":true,"data":"#, result, b"}"]);
        return Ok(ToolCallBody { body, is_error });
    }
    let mut blocks = view.content.unwrap_or_default();
    blocks.retain(|block| block.get() != "null");
    append(&mut body, &[br#"{"success":true,"data":{"content":"#]);
    append_content(&mut body, &blocks, view.structured)?;
    let is_error_json: &[u8] = if is_error { b"true" } else { b"false" };
    append(&mut body, &[br#","isError":"#, is_error_json]);
    if let Some(structured) = view.structured {
        let value = structured.get().as_bytes();
        append(&mut body, &[br#","structuredContent":"#, value]);
    }
    if let Some(meta) = view.meta {
        append(&mut body, &[br#","meta":"#, meta.get().as_bytes()]);
    }
    append(&mut body, &[b"}}"]);
    Ok(ToolCallBody { body, is_error })
}

/// Appends the value of `content` and the field `contentType`.
fn append_content(
    body: &mut Vec<u8>,
    blocks: &[&RawValue],
    structured: Option<&RawValue>,
) -> Result<(), Failure> {
    if let [block] = blocks {
        let block: BlockView = serde_json::from_str(block.get()).map_err(|_| no_tool_result())?;
        if append_single_block(body, &block) {
            return Ok(());
        }
    }
    match (blocks, structured) {
        ([], Some(structured)) => append(body, &[structured.get().as_bytes()]),
        _ => append_array(body, blocks),
    }
    append(body, &[br#","contentType":"application/json""#]);
    Ok(())
}

/// Appends a text, image or audio block and its `contentType`. Returns false for any other block.
fn append_single_block(body: &mut Vec<u8>, block: &BlockView<'_>) -> bool {
    match (block.kind.as_ref(), block.text, block.data, block.mime) {
        ("text", Some(text), _, _) => {
            let text = text.get().as_bytes();
            append(body, &[text, br#","contentType":"text/plain""#]);
            true
        }
        ("image" | "audio", _, Some(data), Some(mime)) => {
            let data = data.get().as_bytes();
            let mime = mime.get().as_bytes();
            append(body, &[data, br#","contentType":"#, mime]);
            true
        }
        _ => false,
    }
}

fn append_array(body: &mut Vec<u8>, blocks: &[&RawValue]) {
    body.push(b'[');
    for (index, block) in blocks.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        append(body, &[block.get().as_bytes()]);
    }
    body.push(b']');
}

fn append(body: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        body.extend_from_slice(part);
    }
}

fn no_tool_result() -> Failure {
    Failure::new(
        Code::UpstreamError,
        "The MCP server answered with JSON that is no tool result",
    )
    .maybe_run()
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
    fn one_text_block_becomes_its_string() {
        let got = data(json!({"content":[{"type":"text","text":"a\"b\n"}]}));
        assert_eq!(
            got,
            json!({"content":"a\"b\n","contentType":"text/plain","isError":false})
        );
    }

    #[test]
    fn one_image_becomes_its_data_with_its_type() {
        let got = data(json!({"content":[{"type":"image","data":"AAA=","mimeType":"image/png"}]}));
        assert_eq!(
            got,
            json!({"content":"AAA=","contentType":"image/png","isError":false})
        );
    }

    #[test]
    fn structured_content_replaces_no_block() {
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
    fn several_blocks_become_an_array_and_meta_stays() {
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
    fn a_raw_result_keeps_every_byte() {
        let result = br#"{ "content" : [ {"text":"x","type":"text"} ] , "new":1.0 }"#;
        let body = shape_tool_result(result, true).expect("a result").body;
        assert_eq!(
            body,
            [br#"{"success":true,"data":"#, &result[..], b"}"].concat()
        );
    }

    #[test]
    fn json_that_is_no_result_is_a_failure() {
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

    #[test]
    fn null_fields_count_as_absent() {
        let got = data(json!({
            "content": [{"type": "text", "text": "x", "data": null}],
            "isError": null,
            "structuredContent": null,
            "_meta": null
        }));
        assert_eq!(
            got,
            json!({"content":"x","contentType":"text/plain","isError":false})
        );
        let got = data(json!({"content": null, "structuredContent": {"a": 1}}));
        assert_eq!(
            got,
            json!({"content":{"a":1},"contentType":"application/json","isError":false,"structuredContent":{"a":1}})
        );
        assert_eq!(data(json!({"content": null}))["content"], json!([]));
        assert_eq!(data(json!({}))["content"], json!([]));
    }

    #[test]
    fn null_blocks_count_as_absent() {
        let got = data(json!({"content": [null, {"type": "text", "text": "x"}]}));
        assert_eq!(got["content"], "x");
        let got = data(json!({"content": [null]}));
        assert_eq!(got["content"], json!([]));
    }

    #[test]
    fn a_null_flag_is_no_failure_of_a_raw_result() {
        let shaped = shape_tool_result(br#"{"content":[],"isError":null}"#, true);
        assert!(!shaped.expect("a result").is_error);
    }

    #[test]
    fn a_text_block_without_text_stays_an_array() {
        let blocks = json!([{"type":"text","text":null}]);
        assert_eq!(data(json!({"content": blocks}))["content"], blocks);
    }
}
