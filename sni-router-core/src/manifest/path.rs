//! Paths of fields, as problems print them: `spec.certificates[0].secret`.

use std::fmt;

use super::names::is_plain;

/// A path that grows and shrinks with a walk through a value.
#[derive(Debug, Default)]
pub(super) struct Path {
    text: String,
    /// Where each step begins in `text`.
    steps: Vec<usize>,
}

impl Path {
    pub(super) fn push_field(&mut self, name: &str) {
        self.steps.push(self.text.len());
        if !is_plain(name) {
            self.text += &format!("[{name:?}]");
            return;
        }
        if !self.text.is_empty() {
            self.text.push('.');
        }
        self.text += name;
    }

    pub(super) fn push_index(&mut self, index: usize) {
        self.steps.push(self.text.len());
        self.text += &format!("[{index}]");
    }

    pub(super) fn pop(&mut self) {
        self.text.truncate(self.steps.pop().unwrap_or(0));
    }

    /// The path of a field below, as text.
    pub(super) fn with_field(&mut self, name: &str) -> String {
        self.push_field(name);
        let text = self.text.clone();
        self.pop();
        text
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `metadata.annotations["ingress.citrix.com/listener"]`
pub(super) fn annotation(name: &str) -> String {
    format!("metadata.annotations[{name:?}]")
}

/// The path one step up, or `None` at the top.
pub(super) fn parent(path: &str) -> Option<&str> {
    let end = match path.ends_with("\"]") {
        // Keys in brackets may hold dots and brackets themselves.
        true => path.rfind("[\"")?,
        false => path.rfind(['.', '['])?,
    };
    Some(&path[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_grows_and_shrinks_by_steps() {
        let mut path = Path::default();
        path.push_field("spec");
        path.push_field("certificates");
        path.push_index(0);
        assert_eq!(path.with_field("secret"), "spec.certificates[0].secret");
        path.pop();
        path.pop();
        assert_eq!(path.with_field("a/b.c"), "spec[\"a/b.c\"]");
        path.pop();
        assert_eq!(path.to_string(), "");
    }

    #[test]
    fn parent_is_one_step_up() {
        assert_eq!(parent("spec.a[0]"), Some("spec.a"));
        assert_eq!(parent("spec.a"), Some("spec"));
        assert_eq!(parent("m.annotations[\"x.y/z\"]"), Some("m.annotations"));
        assert_eq!(parent("spec"), None);
    }
}
