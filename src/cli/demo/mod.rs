//! `mcp-api demo`: the main job on real input, step by step, each with the line that does the same.

mod show;
mod story;

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::pin::{Pin, pin};
use std::process::ExitCode;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::show::Show;
use super::CommandResult;
use super::client::ApiClient;
use crate::app;
use crate::app::StartError;
use crate::config::{BadConfig, Config, Env, Keys, LogConfig};
use crate::telemetry::logging;

/// Everything of the demo, so that deleting it leaves nothing behind.
const FOLDER: &str = "data-demo";

pub fn run() -> CommandResult {
    let env = Env::of_process()?;
    logging::start(&log(&env)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(demo(&env))
}

async fn demo(env: &Env) -> CommandResult {
    let mut stop = pin!(app::stop_signal()?);
    let show = Show::new();
    show.title("One API in front of a real MCP server, for two users with a secret each.");
    let made = DirBuilder::new().recursive(true).mode(0o700).create(FOLDER);
    made.map_err(|error| format!("the folder {FOLDER} cannot be made: {error}"))?;

    show.step("Start mcp-api: the whole program, in this very process");
    show.command(&format!("DATA_DIR={FOLDER} {} serve", show::program()));
    let shown = match serve(config(env)?, stop.as_mut(), &show).await {
        Err(StartError::Listen { port, source, .. })
            if port != 0 && source.kind() == io::ErrorKind::AddrInUse =>
        {
            show.result(&format!("port {port} is taken, so a free one is used"));
            let mut config = config(env)?;
            config.listen.port = 0;
            serve(config, stop, &show).await?
        }
        served => served?,
    };
    shown?;
    Ok(ExitCode::SUCCESS)
}

/// Serves until the end and tells the story meanwhile. A story that goes wrong is the end, too.
async fn serve(
    config: Config,
    stop: Pin<&mut impl Future<Output = ()>>,
    show: &Show,
) -> Result<Result<(), String>, StartError> {
    let token = config
        .access
        .admin_token
        .as_ref()
        .map(|token| token.to_string());
    let end = CancellationToken::new();
    let (tell, told) = oneshot::channel();
    let stop = async {
        tokio::select! {
            () = stop => end.cancel(),
            () = end.cancelled() => {}
        }
    };
    let serving = app::serve_until(stop, config, |url| {
        let _ = tell.send(url.to_owned());
    });
    let showing = async {
        // It could not start: there is nothing to tell.
        let Ok(url) = told.await else { return Ok(()) };
        show.result(&format!("it listens on {url}"));
        let api = ApiClient::new(url, token);
        tokio::select! {
            biased;
            () = end.cancelled() => Ok(()),
            shown = story::tell(&api, show) => {
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

/// What the environment says, on a folder and with a key of the demo's own.
fn config(env: &Env) -> Result<Config, BadConfig> {
    let mut config = Config::read(env)?;
    config.place.data_dir = FOLDER.into();
    config.packages.lie_in(Path::new(FOLDER))?;
    config.keys = Keys {
        current: None,
        old: Vec::new(),
    };
    Ok(config)
}

/// Logs that do not talk over the steps. The key that is made is the demo's own: nobody needs a copy.
fn log(env: &Env) -> Result<LogConfig, BadConfig> {
    let mut log = LogConfig::read(env)?;
    if !env.has("RUST_LOG") {
        log.filter = "warn,mcp_api::app=error".into();
    }
    Ok(log)
}
