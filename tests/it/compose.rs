//! Tests `docker-compose.yml` and the `Dockerfile` without Docker: the test reads the commands and variables of every
//! service from the file, and starts them as plain processes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{answer, fixture, python};
use crate::process::Process;
use crate::processes::{assert_no_process_left, signal};
use crate::services::mongod::Mongod;
use crate::services::{free_port, installed, spawn};
use mcp_api::config::{OF_COMPOSE, variables};

/// The variables of the images.
const IMAGE_VARIABLES: &[&str] = &[
    "MONGO_INITDB_ROOT_USERNAME",
    "MONGO_INITDB_ROOT_PASSWORD",
    "MONGO_USER_PASSWORD",
];

fn text(name: &str) -> String {
    fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).expect(name)
}

/// Returns the file with the values of its variables, as compose reads it, and the names of the variables.
fn compose(env: &HashMap<&str, String>) -> (Value, BTreeSet<String>) {
    let (mut asked, mut done, file) = (BTreeSet::new(), String::new(), text("docker-compose.yml"));
    let mut rest = file.as_str();
    while let Some((before, after)) = rest.split_once("${") {
        let (inside, after) = after.split_once('}').expect("a variable ends");
        let name = inside.split(':').next().expect("a name");
        let default = inside
            .split_once(":-")
            .map(|(_, default)| default.to_owned());
        let value = env.get(name).cloned().or(default);
        asked.insert(name.to_owned());
        done += before;
        done += &value.unwrap_or_else(|| panic!("{name} is required: {inside}"));
        rest = after;
    }
    done += rest;
    let mut value: serde_yaml_ng::Value = serde_yaml_ng::from_str(&done).expect("YAML");
    value.apply_merge().expect("merge keys");
    // `<<` is nested in two levels.
    value.apply_merge().expect("merge keys");
    (serde_json::to_value(value).expect("plain values"), asked)
}

fn secrets() -> HashMap<&'static str, String> {
    HashMap::from([
        ("ADMIN_TOKEN", "0123456789abcdef".into()),
        ("SECRETS_KEY", "ab".repeat(32)),
        ("NATS_PASSWORD", "natspassword".into()),
        ("MONGO_PASSWORD", "p@ss/word".into()),
        ("MONGO_ROOT_PASSWORD", "rootpassword".into()),
    ])
}

fn environment(service: &Value) -> BTreeMap<String, String> {
    let pairs = service["environment"].as_object().into_iter().flatten();
    pairs
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect()
}

#[test]
fn every_variable_is_known_and_only_the_api_is_published() {
    let (file, asked) = compose(&secrets());
    let known: BTreeSet<_> = variables().iter().map(|variable| variable.name).collect();
    let services = file["services"].as_object().expect("services");
    assert_eq!(
        services.keys().collect::<Vec<_>>(),
        ["api", "mongo", "nats", "worker"]
    );
    for (name, service) in services {
        for variable in environment(service).keys() {
            assert!(
                known.contains(variable.as_str()) || IMAGE_VARIABLES.contains(&variable.as_str()),
                "{name}: {variable}"
            );
        }
        assert_eq!(
            service.get("ports").is_some(),
            name == "api",
            "{name} publishes a port"
        );
        assert!(
            service.get("container_name").is_none(),
            "{name} could not be scaled"
        );
        assert_eq!(service["restart"], "unless-stopped", "{name}");
        if ["api", "worker"].contains(&name.as_str()) {
            assert_eq!(service["init"], true, "{name}");
            // The period is longer than DRAIN_TIMEOUT, which no service sets.
            assert_eq!(service["stop_grace_period"], "40s", "{name}");
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let volume = volume
                .as_str()
                .expect("a text")
                .split(':')
                .next()
                .expect("a name");
            assert!(
                file["volumes"]
                    .as_object()
                    .expect("volumes")
                    .contains_key(volume),
                "{volume}"
            );
        }
        if ["nats", "mongo"].contains(&name.as_str()) {
            assert!(service["healthcheck"]["test"].is_array(), "{name}");
            assert_eq!(
                services["worker"]["depends_on"][name]["condition"],
                "service_healthy"
            );
        }
    }
    assert_eq!(services["mongo"]["volumes"], json!(["mongo:/data/db"]));
    assert_eq!(services["nats"]["volumes"], json!(["nats:/data"]));
    assert!(
        file["configs"]["nats"]["content"]
            .as_str()
            .expect("a text")
            .contains("store_dir: \"/data\"")
    );
    let published = services["api"]["ports"][0].as_str().expect("a port");
    assert!(published.starts_with("127.0.0.1:"), "{published}");
    assert_eq!(services["worker"]["deploy"]["replicas"], 2);
    let example = text("example.env");
    let source = text("docker-compose.yml");
    for secret in secrets().into_keys() {
        let all = source.matches(&format!("${{{secret}")).count();
        assert!(
            all > 0 && all == source.matches(&format!("${{{secret}:?")).count(),
            "{secret} is not required"
        );
    }
    for name in asked {
        let of_compose = OF_COMPOSE.iter().any(|(own, _)| *own == name);
        assert!(
            of_compose || known.contains(name.as_str()),
            "{name} is in neither list"
        );
        assert!(example.contains(&name), "example.env does not say {name}");
    }
}

/// Returns whether a tag names an exact version, such as `7.0.39` or `2.12.12-alpine`.
fn is_exact(tag: &str) -> bool {
    let version = tag.split('-').next().expect("a version");
    let numbers: Vec<_> = version.split('.').collect();
    let is_number =
        |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    numbers.len() == 3 && numbers.iter().all(is_number)
}

#[test]
fn every_image_has_an_exact_version() {
    let (file, _) = compose(&secrets());
    let of_compose = file["services"].as_object().expect("services").values();
    let of_compose = of_compose.map(|service| service["image"].as_str().expect("an image"));
    let dockerfile = text("Dockerfile");
    let of_dockerfile = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("FROM "));
    let of_dockerfile = of_dockerfile.map(|from| from.split(' ').next().expect("an image"));
    let images: Vec<_> = of_compose
        .filter(|image| *image != "mcp-api")
        .chain(of_dockerfile)
        .collect();
    assert_eq!(images.len(), 5, "{images:?}");
    for image in images {
        let (_, tag) = image.split_once(':').expect("a tag");
        assert!(is_exact(tag), "{image}");
    }
    assert!(is_exact("1.2.3-a") && !is_exact("1.2") && !is_exact("latest"));
}

/// Returns the user that MongoDB's image creates by the script of the file, as a command.
fn database_user(file: &Value, variables: &BTreeMap<String, String>) -> mongodb::bson::Document {
    let mount = &file["services"]["mongo"]["configs"][0];
    let target = mount["target"].as_str().expect("a path");
    assert!(target.starts_with("/docker-entrypoint-initdb.d/") && target.ends_with(".js"));
    let script = file["configs"][mount["source"].as_str().expect("a name")]["content"]
        .as_str()
        .expect("a script");
    let object = script
        .split_once("db.getSiblingDB(\"admin\").createUser(")
        .and_then(|(_, rest)| rest.split_once(");"))
        .expect("a user")
        .0;
    // The object is YAML too.
    let user: Value = serde_yaml_ng::from_str(object).expect("an object");
    let password = user["pwd"].as_str().expect("a password");
    let password = password.strip_prefix("process.env.").expect("a variable");
    let roles = json!([{ "role": "readWrite", "db": "mcp" }]);
    assert_eq!(
        user["roles"], roles,
        "the program has more rights than it needs"
    );
    assert_eq!(user["user"], "mcp");
    mongodb::bson::doc! {
        "createUser": "mcp", "pwd": &variables[password],
        "roles": [{ "role": "readWrite", "db": "mcp" }],
    }
}

#[test]
fn the_image_knows_its_variables_and_is_not_root() {
    let file = text("Dockerfile");
    let known: BTreeSet<_> = variables().iter().map(|variable| variable.name).collect();
    let set = file
        .lines()
        .filter_map(|line| line.strip_prefix("ENV "))
        .flat_map(str::split_whitespace);
    let names: Vec<_> = set
        .map(|pair| pair.split('=').next().expect("a name"))
        .collect();
    assert!(names.contains(&"HOST"), "{names:?}");
    names
        .iter()
        .for_each(|name| assert!(known.contains(name), "{name}"));
    let user = file
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("USER "))
        .expect("a user");
    assert_ne!(user, "root");
    assert!(file.contains("HEALTHCHECK") && file.contains("CMD [\"mcp-api\", \"serve\"]"));
    // The image uses the Rust version of Cargo.toml.
    let rust = text("Cargo.toml")
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = ").map(str::to_owned));
    assert!(file.contains(&format!(
        "rust:{}",
        rust.expect("a version").trim_matches('"')
    )));
}

/// Starts the services as compose does, on ports of this machine.
#[tokio::test]
async fn the_commands_and_variables_of_every_service_work_together() {
    let (file, _) = compose(&secrets());
    let services = &file["services"];
    let dir = TempDir::new().expect("a folder");

    let nats_port = free_port();
    let args = services["nats"]["command"]
        .as_array()
        .expect("a command")
        .iter();
    let mut args: Vec<String> = args
        .map(|arg| arg.as_str().expect("a text").to_owned())
        .collect();
    let mount = &services["nats"]["configs"][0];
    let config = file["configs"][mount["source"].as_str().expect("a name")]["content"]
        .as_str()
        .expect("a text");
    // Replaces the volume, and the ports that a container does not share.
    let store = dir.path().join("nats").display().to_string();
    let config = config
        .replace("/data", &store)
        .replace("8222", &free_port().to_string());
    let placed = dir.path().join("nats.conf");
    fs::write(&placed, config).expect("a file");
    let target = mount["target"].as_str().expect("a path");
    args.iter_mut()
        .filter(|arg| *arg == target)
        .for_each(|arg| *arg = placed.display().to_string());
    args.extend([
        "--addr".into(),
        "127.0.0.1".into(),
        "--port".into(),
        nats_port.to_string(),
    ]);
    fs::create_dir(dir.path().join("nats")).expect("a folder");
    let _nats = spawn(
        &dir.path().join("nats"),
        &installed("nats/nats-server"),
        &args,
    );

    // The image creates both users on an empty volume.
    let root = environment(&services["mongo"]);
    let mongo = Mongod::start_with(&["--auth"]);
    let alone = format!("mongodb://127.0.0.1:{}/?directConnection=true", mongo.port);
    let administrator = mongodb::bson::doc! {
        "createUser": &root["MONGO_INITDB_ROOT_USERNAME"], "pwd": &root["MONGO_INITDB_ROOT_PASSWORD"],
        "roles": ["root"],
    };
    crate::services::mongod::command(&alone, administrator).await;
    let as_root = format!(
        "mongodb://{}:{}@127.0.0.1:{}/?directConnection=true&authSource=admin",
        root["MONGO_INITDB_ROOT_USERNAME"], root["MONGO_INITDB_ROOT_PASSWORD"], mongo.port
    );
    crate::services::mongod::command(&as_root, database_user(&file, &root)).await;
    assert_ne!(
        root["MONGO_INITDB_ROOT_USERNAME"],
        environment(&services["api"])["MONGO_USER"]
    );

    let start = |n: usize, service: &str| {
        let mut env: Vec<_> = environment(&services[service]).into_iter().collect();
        for (_, value) in &mut env {
            *value = value.replace("@nats:4222", &format!("@127.0.0.1:{nats_port}"));
            *value = value.replace("mongo:27017", &format!("127.0.0.1:{}", mongo.port));
        }
        // The image sets HOST. The port is free, because these processes share one machine.
        env.extend([
            ("HOST".into(), "0.0.0.0".into()),
            ("PORT".into(), "0".into()),
        ]);
        let folder = dir.path().to_owned();
        let log = folder.join(format!("log.{n}"));
        tokio::task::spawn_blocking(move || Process::start(&folder, log, env))
    };
    let starting = [start(0, "api"), start(1, "worker"), start(2, "worker")];
    let mut processes = Vec::new();
    for process in starting {
        processes.push(process.await.expect("started"));
    }
    let url = processes[0].url.replace("0.0.0.0", "127.0.0.1");
    let http = reqwest::Client::new();
    let send = async |method: reqwest::Method, path: &str, body: Value| {
        let request = http
            .request(method, format!("{url}{path}"))
            .bearer_auth("0123456789abcdef");
        answer(request.json(&body)).await
    };
    let post = reqwest::Method::POST;
    answer(http.get(format!("{url}/mcp/servers")))
        .await
        .fails(401, "unauthenticated");
    let server =
        json!({ "name": "fixture", "command": python(), "args": ["-u", fixture("server.py")] });
    assert_eq!(
        send(post.clone(), "/mcp/servers", server).await.ok()["server"]["status"],
        "connected"
    );
    for user in ["ana", "ben"] {
        let secret = json!({ "username": user, "serverName": "fixture", "secretName": "message", "secretValue": format!("for {user}") });
        send(post.clone(), "/secrets/set", secret).await.ok();
    }
    for user in ["ana", "ben"] {
        let call =
            json!({ "username": user, "serverName": "fixture", "methodName": "echo", "args": {} });
        let said = send(post.clone(), "/mcp/tool/call", call).await.ok();
        assert_eq!(said["data"]["content"], format!("for {user}"));
    }
    for process in &mut processes {
        signal(process.pid(), "TERM");
        assert_eq!(process.wait().code(), Some(0));
    }
    let logs: String = (0..3)
        .map(|n| fs::read_to_string(dir.path().join(format!("log.{n}"))).expect("a log"))
        .collect();
    for (name, secret) in secrets() {
        assert!(!logs.contains(&secret), "a log holds {name}");
    }
    assert_no_process_left(dir.path());
}
