//! The demo's MCP server, from npm.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::AsyncReadExt;

use super::FOLDER;
use super::show::Show;
use crate::workers::guard::{self, Guarded};

const PACKAGE: &str = "@modelcontextprotocol/server-everything";
const VERSION: &str = "2026.8.31";
/// Lines of npm's own words that are shown when it fails: the reason comes first.
const LINES: usize = 8;
/// How long npm may take.
const LIMIT: Duration = Duration::from_secs(300);
/// How a guard ends whose child could not be started.
const NOT_FOUND: i32 = 127;
/// The beginnings of what npm is told by the environment: registries, certificates.
const OF_NPM: [&str; 3] = ["npm_config_", "node_", "ssl_cert_"];

/// The program that npm installs.
pub fn command() -> PathBuf {
    Path::new(FOLDER).join("node_modules/.bin/mcp-server-everything")
}

/// Installs the server into the folder, unless it is there.
pub async fn install(show: &Show) -> Result<(), String> {
    show.step(&format!("Install a real MCP server into ./{FOLDER}"));
    show.command(&format!("npm install --prefix {FOLDER} {PACKAGE}@{VERSION}"));
    run("node", &["--version"]).await?;
    if installed() {
        show.result("it is there already");
        return Ok(());
    }
    let began = Instant::now();
    let package = format!("{PACKAGE}@{VERSION}");
    let mut args = vec!["install", "--prefix", FOLDER, &package];
    // Nothing of a package runs before the server itself does; without a network it ends soon.
    args.extend(["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
    args.extend(["--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=4000"]);
    run("npm", &args).await?;
    if !installed() {
        return Err(format!("npm did not install {PACKAGE} {VERSION} into {FOLDER}"));
    }
    show.result(&format!("installed in {:.1} s", began.elapsed().as_secs_f64()));
    Ok(())
}

/// Whether npm has finished with this version: it writes that file last.
fn installed() -> bool {
    let lock = std::fs::read(Path::new(FOLDER).join("node_modules/.package-lock.json")).unwrap_or_default();
    let lock: Value = serde_json::from_slice(&lock).unwrap_or_default();
    lock["packages"][format!("node_modules/{PACKAGE}")]["version"] == VERSION && command().exists()
}

/// Runs a program under a guard, so that nothing of it outlives the demo.
async fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
    let env: Vec<_> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| OF_NPM.iter().any(|prefix| name.to_ascii_lowercase().starts_with(prefix)))
        .collect();
    let cannot = |error: io::Error| format!("{program} cannot be run: {error}");
    let Guarded { stdin, mut stdout, mut stderr, mut process } =
        guard::spawn(program, &args, env.iter().map(|(name, value)| (name, value)), LIMIT * 2).map_err(cannot)?;
    drop(stdin);
    let mut said = [Vec::new(), Vec::new()];
    let [complained, told] = &mut said;
    let ended = async {
        tokio::try_join!(stderr.read_to_end(complained), stdout.read_to_end(told))?;
        process.ended().await
    };
    let ended = tokio::time::timeout(LIMIT, ended).await;
    let ended = ended.map_err(|_| format!("{program} was not ready after five minutes; is there a network?"))?;
    match ended.map_err(cannot)?.code() {
        Some(0) => Ok(()),
        Some(NOT_FOUND) => Err(format!(
            "{program} was not found: the demo runs a real MCP server, which needs Node.js 20 or newer with npm"
        )),
        _ => {
            let said = said.concat();
            let said: Vec<_> = String::from_utf8_lossy(&said).lines().take(LINES).map(str::to_owned).collect();
            Err(format!("{program} {} failed:\n{}", args.join(" "), said.join("\n")))
        }
    }
}
