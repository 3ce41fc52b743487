//! Checks the list of modules that `tests/run` does not run in the distributed setup.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::source::sources;

/// Returns the modules of `tests/it` by their paths in the test binary, and whether they contain tests.
fn test_modules() -> BTreeMap<String, bool> {
    let mut modules = BTreeMap::new();
    for file in sources("tests/it") {
        let module = file
            .path
            .trim_start_matches("tests/it/")
            .trim_end_matches(".rs");
        let module = module.trim_end_matches("/mod").replace('/', "::");
        let has_tests = file.text.contains("#[test]") || file.text.contains("#[tokio::test");
        modules.insert(module, has_tests);
    }
    modules
}

/// Returns what is wrong with the list of modules that `tests/run` does not run in the distributed setup.
fn opt_out_faults(list: &str, modules: &BTreeMap<String, bool>) -> Vec<String> {
    let mut faults = Vec::new();
    for line in list
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let Some((module, reason)) = line.split_once(": ") else {
            faults.push(format!("`{line}` has no reason; write `module: reason`"));
            continue;
        };
        if reason.trim().is_empty() {
            faults.push(format!("{module} has no reason; write `module: reason`"));
        }
        if !modules.contains_key(module) {
            faults.push(format!(
                "{module} is no module of tests/it; remove the line"
            ));
        }
        // `--skip nats::` skips every test whose path contains the text, so that it also skips `services::nats`.
        for (other, has_tests) in modules {
            if *has_tests && other != module && other.ends_with(module) {
                faults.push(format!(
                    "{module} also skips {other}; rename one of the modules"
                ));
            }
        }
    }
    faults
}

#[test]
fn every_module_that_opts_out_of_the_distributed_setup_exists_and_has_a_reason() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/embedded_only.txt");
    let list = fs::read_to_string(path).expect("the list");
    let faults = opt_out_faults(&list, &test_modules());
    assert!(
        faults.is_empty(),
        "tests/it/embedded_only.txt:\n{}",
        faults.join("\n")
    );
}

#[test]
fn every_rule_for_the_opt_out_list_can_fail() {
    let modules = BTreeMap::from([
        ("nats".to_owned(), true),
        ("services::nats".to_owned(), true),
    ]);
    let faults = |line: &str| opt_out_faults(line, &modules).join("\n");
    assert!(faults("nats").contains("has no reason"));
    assert!(faults("nats:  ").contains("has no reason"));
    assert!(faults("absent: it is gone").contains("no module"));
    assert!(faults("nats: a reason").contains("also skips services::nats"));
    assert_eq!(faults("# a comment\n\nservices::nats: a reason"), "");
}
