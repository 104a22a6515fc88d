//! What the libraries trace: warnings for the user, or the developer's log that `OBUILD_LOG` asks for.

use std::error::Error;
use std::fmt::{Debug, Write};
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::output;
use crate::progress::View;

/// The view that shows warnings now; without one they go to standard error.
static VIEW: RwLock<Option<Arc<dyn View>>> = RwLock::new(None);

/// Begins to show what the libraries trace, up to `level` unless `OBUILD_LOG` says otherwise.
pub(crate) fn start(level: LevelFilter) {
    match std::env::var_os("OBUILD_LOG") {
        Some(_) => tracing_subscriber::fmt()
            .with_writer(io::stderr)
            .with_ansi(false)
            .with_env_filter(EnvFilter::from_env("OBUILD_LOG"))
            .init(),
        None => tracing_subscriber::registry().with(Messages.with_filter(level)).init(),
    }
}

/// Lets `view` show the warnings from now on.
pub(crate) fn show_on(view: Option<Arc<dyn View>>) {
    *VIEW.write().unwrap_or_else(PoisonError::into_inner) = view;
}

/// Shows what the libraries tell like every other message.
struct Messages;

impl<S: Subscriber> Layer<S> for Messages {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let text = line.text();
        let view = VIEW.read().unwrap_or_else(PoisonError::into_inner).clone();
        match (*event.metadata().level(), view) {
            (Level::ERROR | Level::WARN, Some(view)) => view.warn(&text),
            (Level::ERROR, None) => output::note("error", text),
            (Level::WARN, None) => output::warn(text),
            (Level::INFO, _) => output::note("info", text),
            _ => output::note("debug", text),
        }
    }
}

/// An event as a line of text: the message, and its fields in parentheses.
#[derive(Default)]
struct Line {
    message: String,
    fields: Vec<String>,
}

impl Line {
    fn text(self) -> String {
        match self.fields.is_empty() {
            true => self.message,
            false => format!("{} ({})", self.message, self.fields.join(", ")),
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "error" => self.fields.push(format!("{value:?}")),
            name => self.fields.push(format!("{name} {value:?}")),
        }
    }

    fn record_error(&mut self, _: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        let mut next = value.source();
        while let Some(error) = next {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {error}");
            next = error.source();
        }
        self.fields.push(text);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Collect(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Collect {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut line = Line::default();
            event.record(&mut line);
            self.0.lock().unwrap().push(line.text());
        }
    }

    #[test]
    fn warnings_read_like_messages() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let collect = tracing_subscriber::registry().with(Collect(seen.clone()));
        tracing::subscriber::with_default(collect, || {
            tracing::warn!(home = %"/h", "removing a tree");
            let error = io::Error::other("on fire");
            tracing::warn!(%error, "failed");
            tracing::warn!(error = &error as &dyn Error, "failed again");
            tracing::warn!("plain {}", 1);
        });
        let expected =
            ["removing a tree (home /h)", "failed (on fire)", "failed again (on fire)", "plain 1"];
        assert_eq!(*seen.lock().unwrap(), expected);
    }
}
