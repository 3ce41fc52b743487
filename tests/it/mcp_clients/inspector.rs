//! The command line of the MCP Inspector, as a user types it.

use super::{Deployment, USERS, node, run};
use crate::remote::installed;

/// The exit codes of the Inspector.
const OK: i32 = 0;
const ERROR: i32 = 1;
const SIGN_IN: i32 = 3;
const TOOL_ERROR: i32 = 5;

/// The arguments, the exit code, and a text of the output for each era.
struct Case {
    path: &'static str,
    token: Option<&'static str>,
    arguments: &'static [&'static str],
    code: i32,
    shows: &'static str,
}

const CASES: [Case; 6] = [
    Case {
        path: "/mcp",
        token: None,
        arguments: &["--method", "tools/list"],
        code: OK,
        shows: "\"name\":\"fixture__echo\"",
    },
    Case {
        path: "/mcp",
        token: None,
        arguments: &[
            "--method",
            "tools/call",
            "--tool-name",
            "fixture__echo",
            "--tool-arg",
            "x=hi",
        ],
        code: OK,
        shows: USERS[0].1,
    },
    Case {
        path: "/mcp/servers/fixture/mcp",
        token: None,
        arguments: &["--method", "tools/call", "--tool-name", "echo"],
        code: OK,
        shows: USERS[0].1,
    },
    Case {
        path: "/mcp",
        token: None,
        arguments: &["--method", "tools/call", "--tool-name", "down__echo"],
        code: TOOL_ERROR,
        shows: "Server down could not be started",
    },
    Case {
        path: "/mcp",
        token: Some("wrong"),
        arguments: &["--method", "tools/list"],
        code: SIGN_IN,
        shows: "auth_required",
    },
    Case {
        path: "/mcp/servers/none/mcp",
        token: None,
        arguments: &["--method", "tools/list"],
        code: ERROR,
        shows: "error",
    },
];

async fn works(era: &str) {
    let deployment = Deployment::start().await;
    deployment.add_stdio("fixture").await;
    deployment.add_down("down").await;
    for case in CASES {
        let home = tempfile::TempDir::new().expect("a folder");
        let token = case.token.unwrap_or(&deployment.tokens[0]);
        let mut command = node(home.path());
        command
            .arg(installed(
                "clients/node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js",
            ))
            .arg("--cli")
            .arg(format!("{}{}", deployment.app.url, case.path))
            .args(["--transport", "http", "--protocol-era", era])
            .args(["--header", &format!("Authorization: Bearer {token}")])
            .args(case.arguments)
            .args(["--format", "json"])
            .env("MCP_INSPECTOR_SECRET_STORE", "memory");
        let output = run(command).await;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert_eq!(
            output.status.code(),
            Some(case.code),
            "{era} {:?}: {text}",
            case.arguments
        );
        assert!(
            text.contains(case.shows),
            "{era} {:?}: {text}",
            case.arguments
        );
    }
}

#[tokio::test]
async fn the_inspector_of_the_legacy_era_lists_and_calls() {
    works("legacy").await;
}

#[tokio::test]
async fn the_inspector_of_the_modern_era_lists_and_calls() {
    works("modern").await;
}

#[tokio::test]
async fn the_inspector_that_finds_the_era_lists_and_calls() {
    works("auto").await;
}
