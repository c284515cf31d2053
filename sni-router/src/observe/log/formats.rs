//! How lines look: those of the access log may look different from the others.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{self, Json, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::{ACCESS, Format};

/// The formats of both.
#[derive(Clone, Copy)]
pub(super) struct Formats {
    pub(super) access: Format,
    pub(super) others: Format,
}

/// Writes each event in the format of its kind.
pub(super) struct Lines {
    formats: Formats,
    text: format::Format,
    json: format::Format<Json>,
}

impl Lines {
    pub(super) fn new(formats: Formats) -> Self {
        let json = format::format()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false);
        Self {
            formats,
            text: format::format(),
            json,
        }
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'l> LookupSpan<'l>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let format = match event.metadata().target() {
            ACCESS => self.formats.access,
            _ => self.formats.others,
        };
        match format {
            Format::Text => self.text.format_event(context, writer, event),
            Format::Json => self.json.format_event(context, writer, event),
        }
    }
}
