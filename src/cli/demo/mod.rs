//! `mcp-api demo`: runs the program with real input, step by step, and shows the command of each step.

mod keys;
mod show;
mod story;
mod vendor;

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::pin::{Pin, pin};
use std::process::ExitCode;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::show::Show;
use super::client::{ApiClient, ClientError};
use super::error::{CliError, CommandResult};
use crate::app;
use crate::app::StartError;
use crate::config::{BadConfig, Config, Env, Keys, LogConfig};
use crate::telemetry::logging;

/// The folder of all files of the demo.
const FOLDER: &str = "data-demo";

pub(super) fn run() -> CommandResult {
    let env = Env::of_process()?;
    logging::start(&log_config(&env)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    runtime.block_on(demo(&env))
}

async fn demo(env: &Env) -> CommandResult {
    let mut stop = pin!(app::stop_signal().map_err(CliError::Signal)?);
    let show = Show::new();
    show.title("One API serves a real MCP server to two users, each with a secret.");
    let created = DirBuilder::new().recursive(true).mode(0o700).create(FOLDER);
    created.map_err(|source| CliError::Write {
        path: FOLDER.into(),
        source,
    })?;

    show.step("Start mcp-api in this process");
    show.command(&format!("DATA_DIR={FOLDER} {} serve", show::program()));
    let shown = match serve(config(env)?, stop.as_mut(), &show).await {
        Err(StartError::Listen { port, source, .. })
            if port != 0 && source.kind() == io::ErrorKind::AddrInUse =>
        {
            show.result(&format!(
                "port {port} is in use, so mcp-api uses a free port"
            ));
            let mut config = config(env)?;
            config.listen.port = 0;
            serve(config, stop, &show).await?
        }
        served => served?,
    };
    shown?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the program until it stops, and shows the steps while it runs. A failed step stops the program.
async fn serve(
    config: Config,
    stop: Pin<&mut impl Future<Output = ()>>,
    show: &Show,
) -> Result<Result<(), ClientError>, StartError> {
    let token = config
        .access
        .admin_token
        .as_ref()
        .map(|token| token.to_string());
    let end = CancellationToken::new();
    let (send_url, receive_url) = oneshot::channel();
    let stop = async {
        tokio::select! {
            () = stop => end.cancel(),
            () = end.cancelled() => {}
        }
    };
    let serving = app::serve_until(stop, config, |url| {
        let _ = send_url.send(url.to_owned());
    });
    let showing = async {
        // Without a URL, the program could not start.
        let Ok(url) = receive_url.await else {
            return Ok(());
        };
        show.result(&format!("mcp-api listens on {url}"));
        let api = ApiClient::new(url, token);
        tokio::select! {
            biased;
            () = end.cancelled() => Ok(()),
            shown = story::run(&api, show) => {
                if shown.is_err() {
                    end.cancel();
                }
                shown
            }
        }
    };
    let (served, shown) = tokio::join!(serving, showing);
    served.map(|()| shown)
}

/// Returns the configuration of the environment, with the folder and the key of the demo.
fn config(env: &Env) -> Result<Config, BadConfig> {
    let mut config = Config::read(env)?;
    config.data_dir.path = FOLDER.into();
    config.packages.move_to(Path::new(FOLDER))?;
    config.keys = Keys {
        current: None,
        is_weak: false,
        old: Vec::new(),
    };
    Ok(config)
}

/// Returns a log configuration that keeps the steps readable. The warning about a new key is left out, because only the
/// demo uses this key.
fn log_config(env: &Env) -> Result<LogConfig, BadConfig> {
    let mut log = LogConfig::read(env)?;
    if !env.has("RUST_LOG") {
        log.filter = "warn,mcp_api::app=error".into();
    }
    Ok(log)
}
