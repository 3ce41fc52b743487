//! The report of a failed test: the end of each log, and then the message of the panic again. CI keeps only the end of a
//! long output, so the message comes last.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::{panic, thread};

/// The lines of each log that a report shows.
const SHOWN_LINES: usize = 40;

thread_local! {
    /// The messages of the panics on this thread.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(vec![]) };
}

/// Keeps the messages of all panics of this process for the reports.
pub fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            PANICS.with_borrow_mut(|panics| panics.push(panic.to_string()));
            print(panic);
        }));
    });
}

/// Prints the report of the test on this thread, and saves the whole logs, because they may be long.
pub fn print(logs: &[&Path]) {
    let folder = folder();
    for log in logs {
        let text = fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let name = log.file_name().unwrap_or_default();
        eprintln!("--- the end of {}\n{}", name.display(), last_lines(&text));
        let saved = fs::create_dir_all(&folder)
            .and_then(|()| fs::write(folder.join(name), text.as_bytes()));
        if let Err(error) = saved {
            eprintln!("--- the log cannot be saved: {error}");
        }
    }
    eprintln!("--- the whole logs are in {}", folder.display());
    for panic in PANICS.with_borrow(Clone::clone) {
        eprintln!("--- the test failed: {panic}");
    }
}

/// Returns the last lines of a log, and a line that says how many lines are left out.
pub fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    let left_out = lines.len().saturating_sub(SHOWN_LINES);
    let shown = lines[left_out..].join("\n");
    if left_out == 0 {
        shown
    } else {
        format!("({left_out} earlier lines)\n{shown}")
    }
}

/// Returns the folder for the logs of the test on this thread.
fn folder() -> PathBuf {
    let thread = thread::current();
    let test = thread.name().unwrap_or("unnamed").replace("::", ".");
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("failed")
        .join(test)
}

#[test]
fn a_report_shows_the_end_of_a_long_log() {
    assert_eq!(last_lines("one\ntwo"), "one\ntwo");
    let lines: Vec<_> = (1..=SHOWN_LINES + 2).map(|n| n.to_string()).collect();
    let shown = last_lines(&lines.join("\n"));
    let shown: Vec<_> = shown.lines().collect();
    assert_eq!(shown[..2], ["(2 earlier lines)", "3"]);
    assert_eq!(shown.len(), SHOWN_LINES + 1);
}

#[test]
fn the_message_of_a_panic_is_kept() {
    keep_panics();
    let panicked = panic::catch_unwind(|| panic!("a reason with the number {}", 7));
    assert!(panicked.is_err());
    let kept = PANICS.with_borrow(|panics| panics.join("\n"));
    assert!(kept.contains("a reason with the number 7"), "{kept}");
    assert!(kept.contains("failure_report.rs"), "{kept}");
}
