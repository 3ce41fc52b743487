//! Stands in for the API of Perplexity, because the demo has no account there. Each reply names the key of its request.

use std::io;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The largest request, in bytes.
const MAX_REQUEST: u64 = 1 << 20;

/// Listens on loopback until the process ends. Returns the URL.
pub(super) async fn start() -> io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // The server reports a request without a reply.
            tokio::spawn(reply(stream));
        }
    });
    Ok(url)
}

/// Reads one request and writes one search result.
async fn reply(mut stream: TcpStream) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader.take(MAX_REQUEST));
    let mut key = "no key".to_owned();
    let mut body_length = 0;
    let mut line = String::new();
    while reader.read_line(&mut line).await? > 2 {
        if let Some((name, value)) = line.split_once(':') {
            match name.to_ascii_lowercase().as_str() {
                "authorization" => key = value.trim().trim_start_matches("Bearer ").to_owned(),
                "content-length" => body_length = value.trim().parse().unwrap_or_default(),
                _ => {}
            }
        }
        line.clear();
    }
    tokio::io::copy(&mut reader.take(body_length), &mut tokio::io::sink()).await?;
    let title = format!("the API received {key}");
    let found =
        json!({ "results": [{ "title": title, "url": "http://127.0.0.1/", "snippet": "" }] });
    let found = found.to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        found.len()
    );
    writer.write_all(head.as_bytes()).await?;
    writer.write_all(found.as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reply_names_the_key_of_its_request() {
        let url = start().await.expect("a listener");
        let address = url.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let request =
            "POST /search HTTP/1.1\r\nAuthorization: Bearer k1\r\nContent-Length: 2\r\n\r\n{}";
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.expect("a reply");
        assert!(reply.contains("the API received k1"), "{reply}");
    }
}
