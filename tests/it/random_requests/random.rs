//! A generator that repeats its values for the same seed (SplitMix64).

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a number below a limit.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }

    /// Returns true once in a number of times.
    pub fn is_once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn choose<'a, T: ?Sized>(&mut self, values: &[&'a T]) -> &'a T {
        values[self.below(values.len())]
    }

    /// Returns bytes that a header may hold (RFC 9110, section 5.5), also bytes that are no UTF-8.
    pub fn header_bytes(&mut self, length: usize) -> Vec<u8> {
        let byte = |random: &mut Self| match random.below(8) {
            0 => 0x80 + random.below(0x80) as u8,
            _ => 0x21 + random.below(0x5e) as u8,
        };
        (0..length).map(|_| byte(self)).collect()
    }

    /// Returns any text of a few characters.
    pub fn text(&mut self) -> String {
        let length = self.below(12);
        let character = |random: &mut Self| match random.below(6) {
            0 => random.choose(&[
                "\0", "\n", "\u{7f}", "\"", "\\", "/", "%", "€", "😀", "\u{202e}",
            ]),
            1 => random.choose(&["..", "--", "{}", "' or 1=1", "${package}", "<b>"]),
            _ => random.choose(&["a", "B", "7", "-", "_", "."]),
        };
        (0..length).map(|_| character(self)).collect()
    }
}
