//! A port that leads to the program, so that a test knows `PUBLIC_URL` before the program starts.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::harness::App;

/// The port. Connections wait until the program has started.
pub struct Front {
    pub url: String,
    program: watch::Sender<String>,
}

impl Front {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        // The issuers are at 127.0.0.1, so a browser takes them for another site.
        let url = format!("http://localhost:{port}");
        let (program, address) = watch::channel(String::new());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass_on(stream, address.clone()));
            }
        });
        Self { url, program }
    }

    pub fn lead_to(&self, app: &App) {
        let address = app.url.strip_prefix("http://").expect("a URL");
        self.program.send_replace(address.to_owned());
    }
}

async fn pass_on(mut stream: TcpStream, mut address: watch::Receiver<String>) {
    let Ok(address) = address
        .wait_for(|address| !address.is_empty())
        .await
        .map(|address| address.clone())
    else {
        return;
    };
    if let Ok(mut program) = TcpStream::connect(address).await {
        let _ = copy_bidirectional(&mut stream, &mut program).await;
    }
}
