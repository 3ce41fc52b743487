//! Finds circles of imports between files of different folders.

use std::collections::{BTreeMap, BTreeSet};

use super::imports::{imported_paths, module_of};
use super::source::Source;

/// Returns every circle of imports that contains files of two folders, as a sentence for each file and folder.
pub fn circle_faults(files: &[Source]) -> BTreeSet<(String, String)> {
    let by_module: BTreeMap<_, _> = files
        .iter()
        .map(|file| (module_of(&file.path), file.path.as_str()))
        .collect();
    let modules: BTreeSet<_> = by_module.keys().cloned().collect();
    let mut imports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for file in files {
        for path in imported_paths(&file.path, &file.text, &modules) {
            let target = file_of(&path, &by_module);
            imports
                .entry(&file.path)
                .or_default()
                .extend(target.filter(|target| *target != file.path));
        }
    }
    let reached: BTreeMap<_, _> = imports
        .keys()
        .map(|file| (*file, reachable(file, &imports)))
        .collect();
    let mut faults = BTreeSet::new();
    for (file, targets) in &imports {
        for target in targets {
            let is_circle = reached.get(target).is_some_and(|back| back.contains(file));
            if is_circle && folder(file) != folder(target) {
                let fault = format!("is in a circle of imports with {}", folder(target));
                faults.insert(((*file).to_owned(), fault));
            }
        }
    }
    faults
}

fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn file_of<'a>(path: &str, files: &BTreeMap<String, &'a str>) -> Option<&'a str> {
    let mut path = path;
    loop {
        if let Some(file) = files.get(path) {
            return Some(file);
        }
        path = path.rsplit_once("::")?.0;
    }
}

fn reachable<'a>(
    start: &'a str,
    imports: &BTreeMap<&'a str, BTreeSet<&'a str>>,
) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut waiting = vec![start];
    while let Some(file) = waiting.pop() {
        for target in imports.get(file).into_iter().flatten() {
            if reached.insert(*target) {
                waiting.push(target);
            }
        }
    }
    reached
}

#[test]
fn a_circle_between_two_folders_is_a_fault() {
    let file = |path: &str, text: &str| Source {
        path: path.into(),
        text: text.into(),
    };
    let circle = [
        file("src/http/jobs/mod.rs", "use crate::http::state::ApiState;"),
        file(
            "src/http/state.rs",
            "use super::jobs; fn f(_: jobs::Query) {}",
        ),
    ];
    assert_eq!(circle_faults(&circle).len(), 2);
    let siblings = [
        file("src/http/a.rs", "use super::b::B;"),
        file("src/http/b.rs", "use super::a::A;"),
    ];
    assert!(circle_faults(&siblings).is_empty());
}
