//! The table as the contents of the kernel's maps.
