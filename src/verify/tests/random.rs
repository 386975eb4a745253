//! Random numbers of a printed seed.

/// splitmix64 (Vigna). `EDGATE_TEST_SEED` repeats a run.
pub(in crate::verify) struct Random(u64);

impl Random {
    pub(in crate::verify) fn new() -> Self {
        let seed = std::env::var("EDGATE_TEST_SEED").ok().map(|text| text.parse().expect("a number"));
        let seed = seed.unwrap_or_else(|| {
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes).expect("random numbers");
            u64::from_le_bytes(bytes)
        });
        println!("EDGATE_TEST_SEED={seed}");
        Self(seed)
    }

    pub(in crate::verify) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(in crate::verify) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }

    /// A number below `bound`.
    pub(in crate::verify) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
