//! Packages: installed, upgraded, looked after. What was built is proven before anybody hears of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::context::Context;
use super::install::{Around, Progress, Resolved, Silence, Wanted, around};
use super::jobs::{Running, Unfinished};
use super::mcp::{Masker, try_out};
use super::{secrets, servers};
use crate::ask::Question;
use crate::config::OnStart;
use crate::core::catalog::{Catalog, Server};
use crate::core::command::{
    Area, CheckPackages, Checked, Command, InstallPackage, RegisterServer, SettleServer, Settled, UpgradePackage,
};
use crate::core::event::{Actor, Event};
use crate::core::failure::{Code, Failure};
use crate::core::job;
use crate::core::names::{CommandId, ServerId, ServerName, ValueId};
use crate::core::package::{self, FOLDER, Install, Package, Recipe, Source, Upgrade};
use crate::core::server::{Live, ServerConfig, Status, Transport};
use crate::execute::now_ms;
use crate::seal::{Kind, ServerPlace};
use crate::telemetry::bug;
use crate::view::{PackageView, ServerView, Told};

/// What stopping a server may take, and a little more.
const STOPS: Duration = Duration::from_secs(20);
/// Registries asked at once.
const AT_ONCE: usize = 4;
/// A change of servers rarely comes alone.
const REST: Duration = Duration::from_millis(500);
/// Processes that start within that time have started together.
const TOGETHER: Duration = Duration::from_secs(600);
/// How often is looked for what others have left behind.
const SWEEP: Duration = Duration::from_secs(3600);

#[derive(Serialize)]
struct Answer {
    success: bool,
    package: PackageView,
    server: ServerView,
}

/// Carries a job out, unless somebody cancels it or this worker is to leave: nothing of it is to be seen before its
/// end, and it can be done twice.
pub async fn begin<F: Future<Output = Result<Bytes, Failure>> + Send + 'static>(
    running: &Running,
    work: impl FnOnce(Arc<dyn Progress>) -> F,
) -> Result<Bytes, Unfinished> {
    let work = work(running.progress.clone()).boxed();
    tokio::select! {
        done = work => Ok(done?),
        () = running.stop.cancelled() => Err(job::cancelled().into()),
        () = running.draining.cancelled() => Err(Unfinished::NotBegun),
    }
}

/// Installs a package and registers the server that it is.
pub async fn install(
    context: Arc<Context>,
    progress: Arc<dyn Progress>,
    command: InstallPackage,
) -> Result<Bytes, Failure> {
    let context = &*context;
    let name = command.register.name.clone();
    // Whoever was here before has perhaps not got as far as its answer.
    if !happened(context, command.register.id).await? {
        let mut kept: Vec<ValueId> = command.register.sealed.iter().map(|sealed| sealed.value).collect();
        if let Err(failure) = build_and_register(context, &progress, command, &mut kept).await {
            secrets::drop_values(context, &kept).await;
            context.installer.sweep(&context.follow).await;
            return Err(failure);
        }
    }
    answer(context, &progress, &name).await
}

async fn build_and_register(
    context: &Context,
    progress: &Arc<dyn Progress>,
    command: InstallPackage,
    kept: &mut Vec<ValueId>,
) -> Result<(), Failure> {
    let InstallPackage { package: name, version, source, mut register } = command;
    if context.follow.catalog().server(register.name.as_str()).is_some() {
        let taken = format!("Server with name {} already exists", register.name);
        return Err(Failure::new(Code::ServerAlreadyExists, taken));
    }
    servers::put_all(context, &register.sealed).await?;
    let around = around(&context.pool.keep, register.server, &source, progress.clone(), Arc::default()).await?;
    let wanted = Wanted { name: &name, version: version.as_ref().map(|version| version.as_str()), source: &source };
    let is_child = matches!(register.config.transport, Transport::Stdio { .. });
    let (recipe, version, built) = match context.installer.resolve(&wanted, &around).await {
        Ok(Resolved { version, lock, digest }) => {
            let built = context.installer.build(&name, &source, &digest, &lock, &around).await?;
            let entry = match &mut register.config.transport {
                Transport::Stdio { command, args, .. } if command == FOLDER => {
                    let entry = context.installer.entry(&name, &source, &built)?;
                    command.clone_from(&entry.command);
                    args.splice(..0, entry.args.clone());
                    Some(entry)
                }
                Transport::Stdio { command, .. } => {
                    if let Some(own) = context.installer.own_program(&source, &built, command) {
                        *command = own;
                    }
                    None
                }
                Transport::StreamableHttp(_) => None,
            };
            let lock = keep_lock(context, register.server, &lock).await?;
            kept.push(lock);
            (Some(Recipe { digest, lock, entry }), version, Some(built))
        }
        // A server behind a URL is there already, whatever registries know of it.
        Err(failure) if failure.code == Code::PackageNotFound && !is_child => {
            (None, version.map_or_else(|| "unknown".into(), |version| version.to_string()), None)
        }
        Err(failure) => return Err(failure),
    };
    let package = Package { name, version, source, recipe };
    let (id, server) = (register.id, register.name.clone());
    let install = Install { register, package, at: now_ms() };
    let events = package::install(&context.follow.catalog(), &install)?;
    if install.register.enabled && is_child {
        progress.phase("starting");
        prove(context, install.register.server, &events, &install.package).await?;
    }
    let source = install.package.source.clone();
    context.execute.change(id, Actor::Api, move |catalog| package::install(catalog, &install)).await?;
    if let Some(built) = &built {
        context.installer.link(&source, &server, built);
    }
    Ok(())
}

/// Gives a package another version, while the old one runs.
pub async fn upgrade(
    context: Arc<Context>,
    progress: Arc<dyn Progress>,
    command: UpgradePackage,
) -> Result<Bytes, Failure> {
    let context = &*context;
    let name = command.name.clone();
    if !happened(context, command.id).await? {
        let mut kept = Vec::new();
        let upgraded = build_and_switch(context, &progress, command, &mut kept).await;
        if !matches!(upgraded, Ok(true)) {
            secrets::drop_values(context, &kept).await;
            context.installer.sweep(&context.follow).await;
        }
        upgraded?;
    }
    answer(context, &progress, &name).await
}

/// Whether there was anything to do.
async fn build_and_switch(
    context: &Context,
    progress: &Arc<dyn Progress>,
    command: UpgradePackage,
    kept: &mut Vec<ValueId>,
) -> Result<bool, Failure> {
    let catalog = Arc::clone(&context.follow.catalog());
    let server = package::installed_by(&catalog, command.name.as_str())?;
    let from = server.package.as_ref().map(|installed| installed.package.clone()).ok_or_else(Failure::internal)?;
    let around = around(&context.pool.keep, server.id, &from.source, progress.clone(), Arc::default()).await?;
    let version = command.version.as_ref().map(|version| version.as_str());
    let wanted = Wanted { name: &from.name, version, source: &from.source };
    let Resolved { version, lock, digest } = context.installer.resolve(&wanted, &around).await?;
    // The version that is there stays as it was proven, whatever has become of its dependencies.
    if from.version == version && from.recipe.is_some() {
        return Ok(false);
    }
    let built = context.installer.build(&from.name, &from.source, &digest, &lock, &around).await?;
    let found = from.recipe.as_ref().is_some_and(|recipe| recipe.entry.is_some());
    let entry = if found { Some(context.installer.entry(&from.name, &from.source, &built)?) } else { None };
    let lock = keep_lock(context, server.id, &lock).await?;
    kept.push(lock);
    let package = Package { version, recipe: Some(Recipe { digest, lock, entry }), ..from.clone() };
    let upgrade = Upgrade { server: server.id, from: from.clone(), package, at: now_ms() };
    let events = package::upgrade(&catalog, &upgrade)?;
    if server.enabled && server.remote().is_none() {
        progress.phase("starting");
        prove(context, server.id, &events, &upgrade.package).await?;
    }
    let package = upgrade.package.clone();
    context.execute.change(command.id, Actor::Api, move |catalog| package::upgrade(catalog, &upgrade)).await?;
    context.installer.link(&package.source, &command.name, &built);
    let old: Vec<_> = from.recipe.iter().map(|recipe| recipe.lock).collect();
    secrets::drop_values(context, &old).await;
    Ok(true)
}

async fn keep_lock(context: &Context, server: ServerId, lock: &str) -> Result<ValueId, Failure> {
    let value = ValueId(Uuid::now_v7());
    let place = ServerPlace { server, kind: Kind::Lock, name: "", value };
    let kept = context.pool.keep.put(place, lock).await;
    kept.map_err(|error| Failure::unavailable(format!("The package's lock could not be kept: {error}")))?;
    Ok(value)
}

/// Starts the server as it would be after these events.
async fn prove(context: &Context, server: ServerId, events: &[Event], package: &Package) -> Result<(), Failure> {
    let mut after = Catalog::clone(&context.follow.catalog());
    events.iter().for_each(|event| after.apply(event));
    let server = after.server_by_id(server).cloned().ok_or_else(Failure::internal)?;
    let digest = package.recipe.as_ref().map(|recipe| recipe.digest.as_str()).unwrap_or_default();
    let gone = || bug("what was just built is gone");
    let built = context.installer.built(&package.source, digest).ok_or_else(gone)?;
    try_out(&context.pool, &server, built).await
}

/// Whether the command was carried out already.
async fn happened(context: &Context, id: CommandId) -> Result<bool, Failure> {
    let found = context.follow.log().find(id).await.map_err(|_| Failure::unavailable("The store cannot be reached"))?;
    match found {
        Some(position) => Ok(context.follow.reach(position, STOPS).await),
        None => Ok(false),
    }
}

/// The package, and its server once it runs as it is to.
async fn answer(context: &Context, progress: &Arc<dyn Progress>, name: &ServerName) -> Result<Bytes, Failure> {
    progress.phase("connecting");
    let settled = settle(context, name).await;
    let catalog = Arc::clone(&context.follow.catalog());
    let server = package::installed_by(&catalog, name.as_str())?;
    let folders = context.installer.folders();
    let told = Told { logs: settled.logs, session_id: None };
    let package = PackageView::new(server, folders).ok_or_else(Failure::internal)?;
    let answer = Answer { success: true, package, server: ServerView::new(server, settled.live, told, folders) };
    Ok(serde_json::to_vec(&answer).map_err(bug)?.into())
}

/// Asks the worker that runs the server, or is to run it. It is installed all the same where nobody answers.
async fn settle(context: &Context, name: &ServerName) -> Settled {
    let unknown = |why: Failure| Settled {
        live: Live { error: Some(why.message), ..Live::of(Status::Connecting) },
        logs: vec![],
    };
    let catalog = Arc::clone(&context.follow.catalog());
    let Some(server) = catalog.server(name.as_str()) else { return unknown(Failure::server_not_found(name)) };
    let body = match serde_json::to_vec(&SettleServer { name: name.clone() }) {
        Ok(body) => body.into(),
        Err(error) => return unknown(bug(error)),
    };
    let time = STOPS + Duration::from_millis(server.config.startup_timeout_ms());
    let (area, held, command) = (Area::Servers, server.held(), SettleServer::NAME);
    let question = Question { area, server: held, command, call: None, body, traceparent: None, time };
    match context.asker.ask(question).await {
        Ok(answered) => serde_json::from_slice(&answered.body).unwrap_or_else(|error| unknown(bug(error))),
        Err(failure) => unknown(failure),
    }
}

/// Asks the registries for the newest versions, and tells the log what is news.
pub async fn check(context: Arc<Context>, command: CheckPackages) -> Result<Vec<Checked>, Failure> {
    let catalog = Arc::clone(&context.follow.catalog());
    let servers: Vec<_> = command.servers.iter().filter_map(|id| catalog.server_by_id(*id).cloned()).collect();
    let checks = servers.into_iter().map(|server| {
        let context = context.clone();
        async move { Checked { server: server.id, latest: latest(&context, &server).await } }.boxed()
    });
    let checks: Vec<_> = checks.collect();
    let checked: Vec<Checked> = futures::stream::iter(checks).buffered(AT_ONCE).collect().await;
    let found = checked.iter().filter_map(|checked| Some((checked.server, checked.latest.as_ref().ok()?.clone())));
    let found: Vec<_> = found.collect();
    if !package::record_latest(&catalog, &found).is_empty() {
        let id = CommandId(Uuid::now_v7());
        context.execute.change(id, Actor::Worker, move |catalog| Ok(package::record_latest(catalog, &found))).await?;
    }
    Ok(checked)
}

async fn latest(context: &Context, server: &Server) -> Result<String, Failure> {
    let gone = || Failure::new(Code::PackageNotFound, format!("Package of server {} not found", server.name));
    let package = &server.package.as_ref().ok_or_else(gone)?.package;
    let masker = Arc::<Masker>::default();
    let around: Around = around(&context.pool.keep, server.id, &package.source, Arc::new(Silence), masker).await?;
    context.installer.latest(&package.name, &package.source, &around).await
}

/// Has those packages installed that are to be there from the beginning; of many workers one does it.
pub async fn install_missing(context: Arc<Context>) {
    let wanted = context.installer.on_start().iter();
    for OnStart { package, version, server: name } in wanted {
        if context.follow.catalog().server(name.as_str()).is_some() {
            continue;
        }
        let transport = Transport::Stdio { command: FOLDER.into(), args: vec![], env: BTreeMap::new() };
        let config = ServerConfig::new(transport);
        let (id, server) = (CommandId(Uuid::now_v7()), ServerId(Uuid::now_v7()));
        let register = RegisterServer {
            id,
            key: None,
            server,
            name: name.clone(),
            config,
            enabled: true,
            session: None,
            sealed: vec![],
        };
        let (package, version, source) = (package.clone(), version.clone(), Source::Node);
        let command = InstallPackage { package, version, source, register };
        // Processes that start together want the same.
        let when = (now_ms() / TOGETHER.as_millis() as u64).to_string();
        if let Err(failure) = context.queue.upkeep_of(name, &command, &when).await {
            tracing::warn!(server = %name, %failure, "a package of INSTALL_ON_START is not being installed");
        }
    }
}

/// Removes files that nobody needs, whenever there may be some: at start, after changes, and now and then.
pub async fn keep_clean(context: Arc<Context>, draining: CancellationToken) {
    let mut moves = context.follow.moves();
    let mut known = None;
    loop {
        let changed = context.follow.catalog().servers_changed;
        if known != Some(changed) {
            known = Some(changed);
            context.installer.sweep(&context.follow).await;
        }
        tokio::select! {
            () = draining.cancelled() => return,
            moved = moves.changed() => if moved.is_err() { return },
            () = context.installer.freed.notified() => known = None,
            () = tokio::time::sleep(SWEEP) => known = None,
        }
        tokio::time::sleep(REST).await;
    }
}
