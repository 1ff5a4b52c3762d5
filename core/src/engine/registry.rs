//! Things that are named by numbers which are never used again and found without searching.
//!
//! An id is `ordinal << 52 | serial << slot bits | slot`: the ordinal names the group among those of its shard, the slot
//! finds the thing, the serial tells it from those that were there before. A new thing takes the lowest free slot, so equal registries stay equal whatever their past. Blocks of 64
//! are shared with checkpoint images and copied when next written to: an image of 131,072 queues is 2,048 pointers.

use std::collections::BTreeSet;
use std::sync::Arc;

const BLOCK_SLOTS: usize = 64;
/// Above it stands the ordinal of the group.
const ORDINAL_SHIFT: u32 = 52;
/// Groups of one shard: a consumer's number has four bits for them.
pub(crate) const GROUPS_PER_SHARD_MAX: u32 = 16;

/// The group, among those of its shard, that gave this id.
pub(crate) fn ordinal_of(id: u64) -> usize {
    (id >> ORDINAL_SHIFT) as usize
}

type Block<T> = [Option<(u64, Arc<T>)>; BLOCK_SLOTS];

#[derive(Debug)]
pub(crate) struct Registry<T> {
    slot_bits: u32,
    /// Of the group among those of its shard.
    ordinal: u32,
    blocks: Image<T>,
    /// Free slots below `slots`.
    free: BTreeSet<u32>,
    /// No slot from here on was ever used.
    slots: u32,
    /// Of the last id given.
    serial: u64,
}

/// The contents at one moment.
#[derive(Debug)]
pub(crate) struct Image<T>(Vec<Arc<Block<T>>>);

impl<T> Clone for Image<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Image<T> {
    /// The thing in the first used slot at `slot` or behind it.
    pub(crate) fn next_used(&self, slot: u32) -> Option<(u32, &T)> {
        let mut slot = slot as usize;
        while let Some(block) = self.0.get(slot / BLOCK_SLOTS) {
            let rest = &block[slot % BLOCK_SLOTS..];
            if let Some(at) = rest.iter().position(Option::is_some) {
                let (_, value) = rest[at].as_ref()?;
                return Some(((slot + at) as u32, value));
            }
            slot = (slot / BLOCK_SLOTS + 1) * BLOCK_SLOTS;
        }
        None
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flat_map(|block| block.iter().flatten()).map(|(_, value)| &**value)
    }
}

impl<T: Clone> Registry<T> {
    pub(crate) fn new(slot_bits: u32, ordinal: u32) -> Self {
        assert!(ordinal < GROUPS_PER_SHARD_MAX);
        Self { slot_bits, ordinal, blocks: Image(Vec::new()), free: BTreeSet::new(), slots: 0, serial: 0 }
    }

    pub(crate) fn count(&self) -> u32 {
        self.slots - self.free.len() as u32
    }

    pub(crate) fn is_full(&self) -> bool {
        self.count() == 1 << self.slot_bits
    }

    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    fn slot(&self, id: u64) -> usize {
        (id & ((1 << self.slot_bits) - 1)) as usize
    }

    pub(crate) fn find(&self, id: u64) -> Option<&T> {
        let slot = self.slot(id);
        let (found, value) = self.blocks.0.get(slot / BLOCK_SLOTS)?[slot % BLOCK_SLOTS].as_ref()?;
        (*found == id).then_some(value)
    }

    pub(crate) fn find_mut(&mut self, id: u64) -> Option<&mut T> {
        let slot = self.slot(id);
        let block = Arc::make_mut(self.blocks.0.get_mut(slot / BLOCK_SLOTS)?);
        let (found, value) = block[slot % BLOCK_SLOTS].as_mut()?;
        (*found == id).then(|| Arc::make_mut(value))
    }

    /// Puts in the thing that `make` makes of its id.
    pub(crate) fn insert(&mut self, make: impl FnOnce(u64) -> T) -> u64 {
        assert!(!self.is_full());
        self.serial += 1;
        assert!(self.serial < 1 << (ORDINAL_SHIFT - self.slot_bits), "the top 12 bits are the group's");
        let slot = self.free.pop_first().unwrap_or(self.slots);
        self.slots = self.slots.max(slot + 1);
        let id = u64::from(self.ordinal) << ORDINAL_SHIFT | self.serial << self.slot_bits | u64::from(slot);
        self.put(slot as usize, id, make(id));
        id
    }

    pub(crate) fn remove(&mut self, id: u64) -> Option<Arc<T>> {
        self.find(id)?;
        let slot = self.slot(id);
        let block = Arc::make_mut(self.blocks.0.get_mut(slot / BLOCK_SLOTS)?);
        let (_, value) = block[slot % BLOCK_SLOTS].take()?;
        self.free.insert(slot as u32);
        Some(value)
    }

    /// Puts in a thing from a checkpoint; they come in slot order. False: out of order, or an id that was never given.
    #[must_use]
    pub(crate) fn restore(&mut self, id: u64, value: T) -> bool {
        let slot = self.slot(id) as u32;
        let serial = (id & ((1 << ORDINAL_SHIFT) - 1)) >> self.slot_bits;
        let is_ours = id >> ORDINAL_SHIFT == u64::from(self.ordinal);
        if !is_ours || slot < self.slots || serial == 0 || serial > self.serial {
            return false;
        }
        self.free.extend(self.slots..slot);
        self.slots = slot + 1;
        self.put(slot as usize, id, value);
        true
    }

    /// False: such an id was never given.
    #[must_use]
    pub(crate) fn restore_serial(&mut self, serial: u64) -> bool {
        self.serial = serial;
        serial < 1 << (ORDINAL_SHIFT - self.slot_bits)
    }

    pub(crate) fn image(&self) -> Image<T> {
        self.blocks.clone()
    }

    pub(crate) fn next_used(&self, slot: u32) -> Option<(u32, &T)> {
        self.blocks.next_used(slot)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.blocks.iter()
    }

    fn put(&mut self, slot: usize, id: u64, value: T) {
        while self.blocks.0.len() <= slot / BLOCK_SLOTS {
            self.blocks.0.push(Arc::new([const { None }; BLOCK_SLOTS]));
        }
        // The loop above made room for the slot.
        let block = self.blocks.0.get_mut(slot / BLOCK_SLOTS).expect("the block is there");
        let place = &mut Arc::make_mut(block)[slot % BLOCK_SLOTS];
        assert!(place.is_none());
        *place = Some((id, Arc::new(value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_never_given_twice_and_slots_are() {
        let mut registry = Registry::new(4, 0);
        let first = registry.insert(|_| "first");
        let second = registry.insert(|_| "second");
        assert_eq!(registry.remove(first).as_deref(), Some(&"first"));
        let third = registry.insert(|_| "third");
        assert_eq!(registry.slot(first), registry.slot(third));
        assert_eq!(registry.find(first), None);
        assert_eq!(registry.find(third), Some(&"third"));
        assert_eq!(registry.find(second), Some(&"second"));
        assert_eq!(registry.find(99), None);
        assert_eq!(registry.remove(first), None);
    }

    #[test]
    fn a_restored_registry_gives_the_same_ids() {
        let mut registry = Registry::new(10, 3);
        let ids: Vec<u64> = (0..200).map(|value| registry.insert(|_| value)).collect();
        for id in ids.iter().filter(|id| *id % 3 != 0 || **id & 1023 > 150) {
            registry.remove(*id);
        }
        let mut restored = Registry::new(10, 3);
        assert!(restored.restore_serial(registry.serial()));
        for value in registry.iter() {
            assert!(restored.restore(ids[*value], *value));
        }
        assert!(!restored.restore(ids[0], 0), "out of order");
        for value in 1_000..1_400 {
            assert_eq!(registry.insert(|_| value), restored.insert(|_| value));
        }
    }

    #[test]
    fn an_image_does_not_see_what_comes_later() {
        let mut registry = Registry::new(10, 3);
        let id = registry.insert(|_| 1);
        let image = registry.image();
        *registry.find_mut(id).unwrap() = 2;
        registry.insert(|_| 3);
        assert_eq!(image.iter().copied().collect::<Vec<_>>(), [1]);
        assert_eq!(registry.iter().copied().collect::<Vec<_>>(), [2, 3]);
    }
}
