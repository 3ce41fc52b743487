//! A tiny MCP server over stdio: `echo`, `progress`, `sleep`, `big`, `pid`, as many further tools as `ECHO_TOOLS` says, and
//! resources `bytes:N` of N bytes. Each sleep has a thread of its own, so it delays no other call.
use serde_json::{json, Value};
use std::io::{self, BufRead, Write};
use std::sync::{Arc, Mutex};

fn send(out: &Arc<Mutex<io::BufWriter<io::Stdout>>>, v: &Value) {
    let mut o = out.lock().unwrap();
    let _ = serde_json::to_writer(&mut *o, v);
    let _ = o.write_all(b"\n");
    if o.flush().is_err() {
        std::process::exit(0);
    }
}

fn text(id: &Value, s: String) -> Value {
    json!({"jsonrpc":"2.0","id":id,"result":{"content":[{"type":"text","text":s}],"isError":false}})
}

fn tools() -> Value {
    let mut tools = json!([
        {"name":"echo","description":"Echo a message","inputSchema":{"type":"object","properties":{"message":{"type":"string"}},"required":["message"]}},
        {"name":"progress","description":"Echo a message after three notices","inputSchema":{"type":"object","properties":{"message":{"type":"string"}},"required":["message"]}},
        {"name":"sleep","description":"Sleep ms then answer","inputSchema":{"type":"object","properties":{"ms":{"type":"integer"}},"required":["ms"]}},
        {"name":"big","description":"Answer with size bytes of text","inputSchema":{"type":"object","properties":{"size":{"type":"integer"}},"required":["size"]}},
        {"name":"pid","description":"Answer with the server's pid","inputSchema":{"type":"object","properties":{}}}
    ]);
    let more: usize = std::env::var("ECHO_TOOLS").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    for n in 0..more {
        let schema = json!({"type":"object","properties":{"a":{"type":"string","description":"an argument"},"b":{"type":"integer"}},"required":["a"]});
        tools.as_array_mut().unwrap().push(json!({"name":format!("tool_{n}"),"description":"One of many tools","inputSchema":schema}));
    }
    tools
}

fn main() {
    let out = Arc::new(Mutex::new(io::BufWriter::with_capacity(64 * 1024, io::stdout())));
    let stdin = io::stdin();
    let mut inp = io::BufReader::with_capacity(64 * 1024, stdin.lock());
    let mut line = Vec::with_capacity(4096);
    loop {
        line.clear();
        match inp.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        if line.iter().all(|b| b.is_ascii_whitespace()) {
            continue;
        }
        let req: Value = match serde_json::from_slice(&line) {
            Ok(v) => v,
            Err(e) => {
                send(&out, &json!({"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":e.to_string()}}));
                continue;
            }
        };
        let id = req.get("id").cloned();
        let method = req.get("method").and_then(Value::as_str).unwrap_or("").to_string();
        let Some(id) = id else { continue }; // notification
        match method.as_str() {
            "initialize" => {
                let pv = req.pointer("/params/protocolVersion").cloned().unwrap_or(json!("2025-06-18"));
                send(&out, &json!({"jsonrpc":"2.0","id":id,"result":{"protocolVersion":pv,"capabilities":{"tools":{"listChanged":false},"resources":{}},"serverInfo":{"name":"mcp-echo","version":"0.1.0"}}}));
            }
            "ping" => send(&out, &json!({"jsonrpc":"2.0","id":id,"result":{}})),
            "tools/list" => send(&out, &json!({"jsonrpc":"2.0","id":id,"result":{"tools":tools()}})),
            "tools/call" => {
                let name = req.pointer("/params/name").and_then(Value::as_str).unwrap_or("");
                match name {
                    "echo" => {
                        let m = req.pointer("/params/arguments/message").and_then(Value::as_str).unwrap_or("").to_string();
                        send(&out, &text(&id, m));
                    }
                    "progress" => {
                        if let Some(token) = req.pointer("/params/_meta/progressToken") {
                            for n in 1..=3 {
                                send(&out, &json!({"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":token,"progress":n,"total":3}}));
                            }
                        }
                        let m = req.pointer("/params/arguments/message").and_then(Value::as_str).unwrap_or("").to_string();
                        send(&out, &text(&id, m));
                    }
                    "pid" => send(&out, &text(&id, std::process::id().to_string())),
                    "big" => {
                        let n = req.pointer("/params/arguments/size").and_then(Value::as_u64).unwrap_or(0) as usize;
                        send(&out, &text(&id, "x".repeat(n.min(64 << 20))));
                    }
                    "sleep" => {
                        let ms = req.pointer("/params/arguments/ms").and_then(Value::as_u64).unwrap_or(0);
                        let out = out.clone();
                        std::thread::spawn(move || {
                            std::thread::sleep(std::time::Duration::from_millis(ms));
                            send(&out, &text(&id, format!("slept {ms}")));
                        });
                    }
                    other => send(&out, &json!({"jsonrpc":"2.0","id":id,"error":{"code":-32602,"message":format!("unknown tool {other}")}})),
                }
            }
            "resources/list" => send(&out, &json!({"jsonrpc":"2.0","id":id,"result":{"resources":[{"uri":"bytes:1024","name":"bytes"}]}})),
            "resources/read" => {
                let uri = req.pointer("/params/uri").and_then(Value::as_str).unwrap_or("").to_string();
                let n: usize = uri.strip_prefix("bytes:").and_then(|n| n.parse().ok()).unwrap_or(0);
                send(&out, &json!({"jsonrpc":"2.0","id":id,"result":{"contents":[{"uri":uri,"text":"x".repeat(n.min(64 << 20))}]}}));
            }
            other => send(&out, &json!({"jsonrpc":"2.0","id":id,"error":{"code":-32601,"message":format!("method not found: {other}")}})),
        }
    }
}
