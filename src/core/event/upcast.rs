//! Converts stored events of earlier types and versions into their current form.
//!
//! A stored event never changes, so this table only grows. A step may lead to a type that another
//! step converts again.

use std::borrow::Cow;

use serde_json::Value;

use super::{Actor, ActorKind, DecodeError, StoredEvent};

/// One conversion of a type and version into a later one.
struct Step {
    from: (&'static str, u16),
    to: (&'static str, u16),
    /// The subject of the later form, if the type changed its subject.
    subject: Option<&'static str>,
    /// The conversion of the data, if the data changed.
    data: Option<fn(&mut Value)>,
}

impl Step {
    const fn renamed(from: &'static str, to: &'static str) -> Self {
        Self {
            from: (from, 1),
            to: (to, 1),
            subject: None,
            data: None,
        }
    }

    const fn with_subject(self, subject: &'static str) -> Self {
        Self {
            subject: Some(subject),
            ..self
        }
    }

    const fn with_data(self, data: fn(&mut Value)) -> Self {
        Self {
            data: Some(data),
            ..self
        }
    }
}

/// All steps. The order has no meaning.
const STEPS: &[Step] = &[
    Step::renamed("server.era_found", "server.protocol_detected")
        .with_data(|data| rename_field(data, "era", "protocol")),
    Step::renamed("grant.refreshing", "grant.refresh_started"),
    Step::renamed("grant.not_refreshed", "grant.refresh_failed"),
    Step::renamed("job.returned", "job.requeued"),
    Step::renamed("job.forgotten", "job.expired"),
    Step::renamed("dead.kept", "dead_letter.stored").with_subject("dead_letters"),
    Step::renamed("dead.dropped", "dead_letter.removed").with_subject("dead_letters"),
    Step::renamed("request.kept", "idempotency.recorded").with_subject("idempotency"),
    Step::renamed("request.forgotten", "idempotency.expired").with_subject("idempotency"),
];

fn rename_field(data: &mut Value, from: &str, to: &str) {
    if let Some(fields) = data.as_object_mut()
        && let Some(value) = fields.remove(from)
    {
        fields.insert(to.to_owned(), value);
    }
}

/// Returns the actor that an earlier version stored as a word.
pub fn actor(word: &str) -> Option<Actor> {
    match word {
        "api" => Some(Actor::of_kind(ActorKind::Api)),
        "worker" => Some(Actor::worker()),
        _ => None,
    }
}

/// Returns every type and version that a step converts.
pub fn sources() -> impl Iterator<Item = (&'static str, u16)> {
    STEPS.iter().map(|step| step.from)
}

/// Returns the current form of a stored event. An event that no step converts stays as it is.
///
/// # Errors
/// [`DecodeError::Broken`] if the data of an earlier type are no JSON value.
pub fn current_form(stored: &StoredEvent) -> Result<Cow<'_, StoredEvent>, DecodeError> {
    let mut current = Cow::Borrowed(stored);
    while let Some(step) = step_from(&current) {
        current = Cow::Owned(apply(step, &current)?);
    }
    Ok(current)
}

fn step_from(stored: &StoredEvent) -> Option<&'static Step> {
    STEPS
        .iter()
        .find(|step| step.from == (stored.type_name.as_str(), stored.v))
}

fn apply(step: &Step, stored: &StoredEvent) -> Result<StoredEvent, DecodeError> {
    let data = match step.data {
        None => stored.data.clone(),
        Some(convert) => {
            let broken = |error| DecodeError::broken(stored, &error);
            let mut data = serde_json::from_str(stored.data.get()).map_err(broken)?;
            convert(&mut data);
            serde_json::value::to_raw_value(&data).map_err(broken)?
        }
    };
    let (type_name, v) = step.to;
    Ok(StoredEvent {
        type_name: type_name.to_owned(),
        v,
        subject: step.subject.unwrap_or(&stored.subject).to_owned(),
        data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event;

    #[test]
    fn every_step_leads_to_a_current_type() {
        let current: Vec<_> = event::schemas()
            .into_iter()
            .map(|(name, version, _)| (name, version))
            .collect();
        for step in STEPS {
            let mut last = step;
            for _ in STEPS {
                last = STEPS
                    .iter()
                    .find(|next| next.from == last.to)
                    .unwrap_or(last);
            }
            assert!(current.contains(&last.to), "{:?}", step.from);
            assert!(!current.contains(&step.from), "{:?} is current", step.from);
        }
    }

    #[test]
    fn no_type_and_version_has_two_steps() {
        let mut from: Vec<_> = sources().collect();
        from.sort_unstable();
        from.dedup();
        assert_eq!(from.len(), STEPS.len());
    }

    #[test]
    fn an_unknown_version_of_an_earlier_type_stays_unknown() {
        let stored = StoredEvent {
            type_name: "job.returned".to_owned(),
            v: 2,
            subject: "jobs".to_owned(),
            data: Default::default(),
        };
        assert_eq!(
            event::Event::decode(&stored),
            Err(DecodeError::unknown(&stored))
        );
    }
}
