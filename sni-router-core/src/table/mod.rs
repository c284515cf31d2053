//! The route table: the model compiled for look-ups.
