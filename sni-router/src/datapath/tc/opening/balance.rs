//! Whether opening without sockets pays.

/// How many connections were opened, and how many got a socket in the end, lately.
#[derive(Default)]
pub(super) struct Balance {
    opened: u32,
    fell_back: u32,
}

impl Balance {
    pub(super) fn opened(&mut self) {
        self.opened += 1;
        self.forget();
    }

    /// Answers whether too many have.
    pub(super) fn fell_back(&mut self) -> bool {
        self.fell_back += 1;
        if self.fell_back > FEW && self.fell_back > self.opened {
            *self = Self::default();
            return true;
        }
        self.forget();
        false
    }

    pub(super) fn forget(&mut self) {
        if self.opened + self.fell_back >= LATELY {
            self.opened /= 2;
            self.fell_back /= 2;
        }
    }
}

/// So many say nothing.
const FEW: u32 = 16;

/// So many are looked back upon, the older ones less.
const LATELY: u32 = 256;
