//! A set of priorities: 256 bits.

#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PrioritySet([u64; 4]);

impl PrioritySet {
    pub(crate) fn contains(&self, priority: u8) -> bool {
        self.0[usize::from(priority >> 6)] >> (priority & 63) & 1 == 1
    }

    pub(crate) fn insert(&mut self, priority: u8) {
        self.0[usize::from(priority >> 6)] |= 1 << (priority & 63);
    }

    pub(crate) fn remove(&mut self, priority: u8) {
        self.0[usize::from(priority >> 6)] &= !(1 << (priority & 63));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub(crate) fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|&word| word != 0)?;
        Some((word as u32 * 64 + 63 - self.0[word].leading_zeros()) as u8)
    }

    /// How many members are lower.
    pub(crate) fn rank(&self, priority: u8) -> usize {
        let word = usize::from(priority >> 6);
        let lower: u32 = self.0[..word].iter().map(|word| word.count_ones()).sum();
        let below = (1u64 << (priority & 63)) - 1;
        (lower + (self.0[word] & below).count_ones()) as usize
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=u8::MAX).filter(|&priority| self.contains(priority))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_and_the_highest_follow_the_members() {
        let mut set = PrioritySet::default();
        assert_eq!(set.highest(), None);
        for (count, priority) in [0u8, 63, 64, 127, 128, 200, 255].into_iter().enumerate() {
            assert_eq!(set.rank(priority), count);
            set.insert(priority);
            assert_eq!(set.highest(), Some(priority));
            assert_eq!(set.len(), count + 1);
        }
        assert_eq!(set.rank(64), 2);
        set.remove(255);
        assert_eq!(set.highest(), Some(200));
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 127, 128, 200]);
    }
}
