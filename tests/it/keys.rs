//! Key rotation: during calls, interrupted and resumed, in one process and in many.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::harness::{Answer, App, answer, refused};
use crate::process::{binary, owned};
use crate::processes::signal;

const OLD: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const NEW: &str = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeffe0e1e2e3e4e5e6e7e8e9eaebecedeeef";

/// Returns the argument `token` that the tool gets in a call of this user.
async fn seen(app: &App, user: &str) -> Value {
    let answer = app.call(user, "fixture", "arguments", json!({})).await.ok();
    let args: Value =
        serde_json::from_str(answer["data"]["content"].as_str().expect("a text")).expect("JSON");
    args["token"].clone()
}

async fn set(app: &App, users: std::ops::Range<usize>) {
    for some in users.collect::<Vec<_>>().chunks(50) {
        let set = some.iter().map(async |n| {
            app.set_secret(&format!("u{n}"), "fixture", "token", &format!("s{n}"))
                .await
        });
        join_all(set).await;
    }
}

/// Checks that each of these users has the user's own secret.
async fn all_seen(app: &App, users: std::ops::Range<usize>) {
    for n in users {
        assert_eq!(seen(app, &format!("u{n}")).await, format!("s{n}"));
    }
}

/// Rotates the keys and returns the report.
async fn rotate(app: &App) -> Value {
    app.send(Method::POST, "/keys/rotate", None).await.ok()
}

/// Starts a rotation or joins the running rotation, and returns the job id.
async fn begin(app: &App) -> String {
    let request = app
        .http
        .post(format!("{}/keys/rotate", app.url))
        .header("Prefer", "respond-async");
    let accepted = answer(request).await;
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    accepted.body["jobId"].as_str().expect("an id").to_owned()
}

fn path(job: &str) -> String {
    format!("/jobs/{job}?username=mcp-api")
}

/// Returns the job after its end.
async fn end_of(app: &App, job: &str) -> Value {
    app.until(&format!("{}&wait=10s", path(job)), |body| {
        body["job"]["answer"].is_object()
    })
    .await["job"]
        .take()
}

async fn keys(app: &App) -> (u64, u64, bool) {
    let keys = app.get("/keys").await.ok();
    assert_eq!(keys["unreadable"], 0, "{keys}");
    (
        keys["values"].as_u64().expect("values"),
        keys["earlier"].as_u64().expect("earlier"),
        keys["alone"] == true,
    )
}

fn run(app: &App) -> Output {
    Command::new(binary())
        .args(["rotate-keys", "--url", &app.url])
        .current_dir(app.dir.path())
        .output()
        .expect("run")
}

/// Calls without a pause until `stop` is set. The tool must get the secret in every call.
fn caller(app: &App, user: &'static str, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<usize> {
    let (http, url) = (app.http.clone(), format!("{}/mcp/tool/call", app.url));
    tokio::spawn(async move {
        let mut calls = 0;
        while !stop.load(Ordering::Relaxed) {
            let call = json!({ "username": user, "serverName": "fixture", "methodName": "arguments", "args": {} });
            let answer = answer(http.post(&url).json(&call)).await.ok();
            assert!(
                answer["data"]["content"]
                    .as_str()
                    .expect("a text")
                    .contains(&user.replace('u', "s"))
            );
            calls += 1;
        }
        calls
    })
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr]
        .map(String::from_utf8_lossy)
        .concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_rotation_the_new_key_alone_suffices() {
    let mut app = App::embedded_with(&[("SECRETS_KEY", OLD)]);
    app.register_fixture("fixture").await.ok();
    set(&app, 0..200).await;
    assert_eq!(keys(&app).await, (200, 0, true));
    app.terminate();
    assert!(refused(app.dir.path(), &[("SECRETS_KEY", NEW)]).contains("SECRETS_KEYS_OLD"));

    app.restart_with(&[("SECRETS_KEY", NEW), ("SECRETS_KEYS_OLD", OLD)]);
    assert_eq!(keys(&app).await, (200, 200, false));
    all_seen(&app, 100..140).await;

    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = ["u3", "u150"]
        .into_iter()
        .map(|user| caller(&app, user, stop.clone()))
        .collect();
    // Two rotations at the same time, and changes during them.
    let (first, second, ()) = std::thread::scope(|scope| {
        let runs = [scope.spawn(|| run(&app)), scope.spawn(|| run(&app))];
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(set(&app, 200..240))
        });
        let [first, second] = runs.map(|run| run.join().expect("a run"));
        (first, second, ())
    });
    for output in [first, second] {
        let said = said(&output);
        assert!(
            output.status.success() && said.ends_with("SECRETS_KEYS_OLD can be removed.\n"),
            "{said}"
        );
        assert!(!said.contains(OLD) && !said.contains(NEW));
    }
    stop.store(true, Ordering::Relaxed);
    for caller in join_all(callers).await {
        assert!(caller.expect("every call saw its secret") > 0);
    }
    // The values are the secrets and the answers of the jobs.
    let (values, earlier, alone) = keys(&app).await;
    assert!(
        values > 240 && earlier == 0 && alone,
        "{earlier} of {values}"
    );
    let again = rotate(&app).await;
    assert_eq!(
        (&again["finished"], &again["rewrapped"]),
        (&json!(true), &json!(0)),
        "an ended rotation does not block a new one"
    );

    app.terminate();
    app.restart_with(&[("SECRETS_KEY", NEW)]);
    all_seen(&app, 0..240).await;
    app.terminate();
    assert!(
        refused(app.dir.path(), &[("SECRETS_KEY", OLD)]).contains("SECRETS_KEY is not the key")
    );
    let log = app.log();
    assert!(!log.contains(OLD) && !log.contains(NEW));
    app.restart();
}

/// A restarted program continues the job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_survives_a_kill_at_any_time() {
    let mut app = App::embedded_with(&[("SECRETS_KEY", OLD)]);
    app.register_fixture("fixture").await.ok();
    set(&app, 0..1500).await;
    let (mut current, mut earlier) = (OLD, NEW);
    let mut attempts = Vec::new();
    for after in [0, 10, 20, 40, 80] {
        // The keys alternate, so that each rotation rewraps every value.
        (current, earlier) = (earlier, current);
        app.kill();
        app.restart_with(&[("SECRETS_KEY", current), ("SECRETS_KEYS_OLD", earlier)]);
        let job = begin(&app).await;
        // This is no wait for a condition. The kill hits another phase each time.
        sleep(Duration::from_millis(after)).await;
        app.kill_and_restart();
        let job = end_of(&app, &job).await;
        assert_eq!(
            (&job["state"], &job["answer"]["body"]["finished"]),
            (&json!("succeeded"), &json!(true)),
            "{job}"
        );
        let (values, left, alone) = keys(&app).await;
        assert!(left == 0 && alone, "{left} of {values} are left");
        attempts.push(job["attempts"].as_u64().expect("attempts"));
    }
    assert!(
        attempts.contains(&2),
        "one rotation was killed while it ran: {attempts:?}"
    );
    app.kill();
    app.restart_with(&[("SECRETS_KEY", current)]);
    all_seen(&app, 0..150).await;
}

#[tokio::test]
async fn a_rotation_without_values_succeeds_and_an_unreachable_program_fails() {
    let app = App::embedded();
    assert_eq!(
        rotate(&app).await["finished"],
        true,
        "the program has no sealed values"
    );
    let nowhere = Command::new(binary())
        .args(["rotate-keys", "--url", "https://127.0.0.1"])
        .output()
        .expect("run");
    assert!(!nowhere.status.success());
}

/// Stops these processes together and starts them one by one with other keys.
fn swap(app: &mut App, which: &[usize], with: &[(&str, &str)]) {
    which
        .iter()
        .for_each(|n| signal(app.processes[*n].pid(), "TERM"));
    let dir = app.dir.path().to_owned();
    for n in which {
        let process = &mut app.processes[*n];
        process.wait();
        process
            .env
            .retain(|(name, _)| !name.starts_with("SECRETS_KEY"));
        process.env.extend(owned(with));
        process.restart(&dir);
    }
}

const BEFORE: [(&str, &str); 2] = [("SECRETS_KEY", OLD), ("SECRETS_KEYS_OLD", NEW)];
const AFTER: [(&str, &str); 2] = [("SECRETS_KEY", NEW), ("SECRETS_KEYS_OLD", OLD)];

/// The operator restarts one process after another, and the rotation misses no value.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_change_their_key_one_by_one() {
    let mut app = App::distributed(2, &BEFORE);
    app.until("/readyz", |body| body["success"] == true).await;
    app.register_fixture("fixture").await.ok();
    set(&app, 0..60).await;
    // If only a facade has the new key, no worker rewraps a value.
    swap(&mut app, &[0], &AFTER);
    app.url = app.processes[0].url.clone();
    app.until("/readyz", |body| body["success"] == true).await;
    let early = rotate(&app).await;
    assert_eq!(
        (&early["finished"], &early["rewrapped"]),
        (&json!(false), &json!(0)),
        "{early}"
    );
    assert!(
        early["waitsFor"]
            .as_array()
            .is_some_and(|workers| !workers.is_empty()),
        "{early}"
    );
    swap(&mut app, &[1], &AFTER);

    // The worker with the new key executes the job and waits for the other worker.
    let mut client = Command::new(binary());
    let client = client
        .args(["rotate-keys", "--url", &app.url])
        .current_dir(app.dir.path());
    let mut client = client.stdout(Stdio::piped()).spawn().expect("a run");
    let mut lines = BufReader::new(client.stdout.take().expect("its output"))
        .lines()
        .map_while(Result::ok);
    assert!(
        lines.any(|line| line.ends_with(" values")),
        "the client shows the progress"
    );
    let first = begin(&app).await;
    signal(client.id(), "INT");
    let last = lines.last().expect("a last line");
    assert!(
        last.starts_with("The job continues") && last.contains(&first),
        "{last}"
    );
    assert_eq!(client.wait().expect("an end").code(), Some(130));
    let shown = app
        .until(&path(&first), |body| {
            body["job"]["progress"]["line"].is_string()
        })
        .await["job"]
        .take();
    assert_eq!(
        (&shown["state"], &shown["progress"]["phase"]),
        (&json!("running"), &json!("rewrapping")),
        "{shown}"
    );
    let job = end_of(&app, &first).await;
    let body = &job["answer"]["body"];
    assert_eq!(
        (&body["finished"], body["waitsFor"].as_array().map(Vec::len)),
        (&json!(false), Some(1)),
        "{job}"
    );

    // The worker of the second rotation stops, and the restarted workers continue the job.
    let second = begin(&app).await;
    assert_ne!(first, second);
    assert_eq!(
        begin(&app).await,
        second,
        "only one rotation runs at a time"
    );
    app.until(&path(&second), |body| body["job"]["state"] == "running")
        .await;
    swap(&mut app, &[1, 2], &AFTER);
    let job = end_of(&app, &second).await;
    assert!(
        job["answer"]["body"]["finished"] == true && job["attempts"].as_u64() > Some(1),
        "{job}"
    );
    let output = run(&app);
    assert!(output.status.success(), "{}", said(&output));

    set(&app, 60..80).await;
    let (_, earlier, alone) = keys(&app).await;
    assert_eq!((earlier, alone), (0, true));
    swap(&mut app, &[0], &[("SECRETS_KEY", NEW)]);
    app.url = app.processes[0].url.clone();
    swap(&mut app, &[1, 2], &[("SECRETS_KEY", NEW)]);
    app.until("/readyz", |body| body["success"] == true).await;
    all_seen(&app, 0..80).await;
}

/// A cancelled rotation stops and does not block a new rotation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_is_cancelled_like_any_job() {
    let mut app = App::distributed(2, &BEFORE);
    app.until("/readyz", |body| body["success"] == true).await;
    swap(&mut app, &[0, 1], &AFTER);
    app.url = app.processes[0].url.clone();
    app.until("/readyz", |body| body["success"] == true).await;
    let job = begin(&app).await;
    app.until(&path(&job), |body| body["job"]["state"] == "running")
        .await;
    app.get(&format!("/jobs/{job}"))
        .await
        .fails(404, "job_not_found");
    app.delete(&path(&job)).await.ok();
    assert_eq!(end_of(&app, &job).await["state"], "cancelled");
    assert_ne!(begin(&app).await, job);
}

/// A facade with an old configuration seals jobs with a key that the workers have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_facade_with_an_earlier_key_seals_jobs_for_the_workers() {
    let mut app = App::distributed(1, &BEFORE);
    let behind = app.add_with("api", &[("SECRETS_KEY", OLD), ("SECRETS_KEYS_OLD", "")]);
    let behind = app.processes[behind].url.clone();
    app.until("/readyz", |body| body["success"] == true).await;
    app.register_fixture("fixture").await.ok();
    swap(&mut app, &[1], &AFTER);
    let ahead = app.add_with("api", &AFTER);
    let own = std::mem::replace(&mut app.url, app.processes[ahead].url.clone());
    app.until("/readyz", |body| body["success"] == true).await;
    assert_eq!(rotate(&app).await["finished"], true);
    app.url = own;
    swap(&mut app, &[1], &[("SECRETS_KEY", NEW)]);
    let http = app.http.clone();
    let later = async |url: &str| {
        let call =
            json!({ "serverName": "fixture", "methodName": "echo", "args": { "message": "x" } });
        answer(
            http.post(format!("{url}/mcp/tool/call"))
                .json(&call)
                .header("Prefer", "respond-async"),
        )
        .await
    };
    let ends = async |app: &App, accepted: Answer| {
        assert_eq!(accepted.status, 202, "{}", accepted.body);
        let id = accepted.body["jobId"].as_str().expect("an id").to_owned();
        let job = app
            .until(&format!("/jobs/{id}?wait=10s"), |body| {
                body["job"]["answer"].is_object()
            })
            .await;
        assert_eq!(job["job"]["state"], "succeeded", "{job}");
    };
    let refused = later(&behind).await.fails(503, "unavailable");
    assert!(refused.contains("SECRETS_KEY"), "{refused}");
    ends(&app, later(&app.url).await).await;

    // Without a worker, the facade uses the key that the workers reported last.
    signal(app.processes[1].pid(), "TERM");
    app.processes[1].wait();
    later(&behind).await.fails(503, "unavailable");
    let accepted = later(&app.url).await;
    let dir = app.dir.path().to_owned();
    app.processes[1].restart(&dir);
    ends(&app, accepted).await;
}
