//! When to try again.

use std::time::Duration;

/// Tries again after a moment, a few times. The pauses are jittered and double up to some seconds.
/// In a bucket this comes on top of what the library tries by itself, for that leaves conditional
/// writes alone whose reply was lost.
#[derive(Debug)]
pub(crate) struct Retry {
    tries: u32,
    max: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self::up_to(5)
    }
}

impl Retry {
    const FIRST_PAUSE: Duration = Duration::from_millis(100);
    const MAX_DOUBLINGS: u32 = 5;

    /// So many times after the first.
    pub(crate) fn up_to(max: u32) -> Self {
        Self { tries: 0, max }
    }

    /// Whether nothing was tried before.
    pub(crate) fn is_first(&self) -> bool {
        self.tries == 0
    }

    /// Waits, unless it was tried often enough.
    pub(crate) async fn again(&mut self) -> bool {
        if self.tries >= self.max {
            return false;
        }
        let longest = Self::FIRST_PAUSE * 2_u32.pow(self.tries.min(Self::MAX_DOUBLINGS));
        self.tries += 1;
        tokio::time::sleep(longest.mul_f64(fastrand::f64())).await;
        true
    }
}
