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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_that_fell_back_say_nothing_and_most_do() {
        let mut balance = Balance::default();
        assert!((0..FEW).all(|_| !balance.fell_back()));
        assert!(balance.fell_back());
        // And it begins anew.
        assert!((0..FEW).all(|_| !balance.fell_back()));
    }

    #[test]
    fn as_many_as_were_opened_may_fall_back_for_ever() {
        let mut balance = Balance::default();
        for _ in 0..10_000 {
            balance.opened();
            assert!(!balance.fell_back());
        }
    }

    #[test]
    fn what_is_long_ago_does_not_outweigh_what_is_now() {
        let mut balance = Balance::default();
        (0..1_000_000).for_each(|_| balance.opened());
        let count = (0..).take_while(|_| !balance.fell_back()).count();
        assert!(count < 2 * LATELY as usize, "{count}");
    }
}
