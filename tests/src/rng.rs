//! The only source of chance in a run: splitmix64. Small, fast, and the same on every machine and for ever, so that a
//! seed from last year's report still replays.

#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// One that draws independently of this one: what it is asked does not shift what is drawn here.
    pub fn fork(&mut self) -> Self {
        Self(self.draw())
    }

    /// Below `bound`, which is above 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0);
        // The bias is below 2⁻³² for every bound used here.
        self.draw() % bound
    }

    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high);
        low + self.below(high - low + 1)
    }

    /// Many small values, few large ones: as likely between 1 and 2 as between high / 2 and high.
    pub fn skewed(&mut self, high: u64) -> u64 {
        assert!(high > 0);
        let bits = 64 - u64::from(high.leading_zeros());
        let bound = 1 << self.between(0, bits - 1);
        self.between(bound, 2 * bound - 1).min(high)
    }

    pub fn per_million(&mut self, chance: u64) -> bool {
        self.below(1_000_000) < chance
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len() as u64) as usize]
    }

    pub fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.draw().to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_is_for_ever() {
        let mut rng = Rng::new(1);
        assert_eq!([rng.draw(), rng.draw()], [0x910A_2DEC_8902_5CC1, 0xBEEB_8DA1_658E_EC67]);
    }

    #[test]
    fn draws_stay_within_their_bounds() {
        let mut rng = Rng::new(7);
        let mut seen = [0; 4];
        for _ in 0..1000 {
            assert!((3..=9).contains(&rng.between(3, 9)));
            let skewed = rng.skewed(1000);
            assert!((1..=1000).contains(&skewed));
            seen[rng.below(4) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| count > 150));
        assert!((0..1000).filter(|_| rng.skewed(1000) < 32).count() > 300);
        let mut bytes = [0; 11];
        rng.fill(&mut bytes);
        assert!(bytes[8..] != [0; 3]);
    }
}
