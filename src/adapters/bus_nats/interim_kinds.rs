//! The kinds of messages before the reply that the sender of an ask takes, as the header `Mcp-Interim`: for example
//! `progress,log=warning`. Without a level, `log` stands for the default.

use crate::core::mcp::log_level::{LogLevel, WantedLog};
use crate::ports::bus::{InterimKind, InterimKinds};

/// Returns the header for these kinds.
pub(super) fn encode(kinds: InterimKinds) -> String {
    let progress = kinds
        .progress
        .then(|| InterimKind::Progress.as_str().to_owned());
    let name = InterimKind::Log.as_str();
    let log = kinds.log.map(|wanted| match wanted {
        WantedLog::Default => name.to_owned(),
        WantedLog::From(level) => format!("{name}={}", level.as_str()),
    });
    let kinds: Vec<_> = progress.into_iter().chain(log).collect();
    kinds.join(",")
}

/// Returns the kinds in a header. Other kinds belong to later versions.
pub(super) fn parse(header: &str) -> InterimKinds {
    let mut kinds = InterimKinds::default();
    for kind in header.split(',').map(str::trim) {
        let (name, level) = match kind.split_once('=') {
            Some((name, level)) => (name, LogLevel::parse(level)),
            None => (kind, None),
        };
        if name == InterimKind::Progress.as_str() {
            kinds.progress = true;
        } else if name == InterimKind::Log.as_str() {
            kinds.log = Some(level.map_or(WantedLog::Default, WantedLog::From));
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_every_kind_and_level() {
        let logs = LogLevel::ALL.map(WantedLog::From).into_iter();
        let logs = logs.chain([WantedLog::Default]).map(Some).chain([None]);
        for log in logs {
            for progress in [false, true] {
                let kinds = InterimKinds { progress, log };
                assert_eq!(parse(&encode(kinds)), kinds);
            }
        }
        assert_eq!(
            encode(parse(" progress , request, log=later")),
            "progress,log"
        );
    }
}
