//! Manifests: texts of Kubernetes objects, and what they mean together.
