//! How borrowed text and slices become archives, and how archives are written and read.
//!
//! The structs of `protocol` borrow what they carry (`&str`, `&[T]`), so that a frame is built without
//! copying its parts first; the two wrappers here give such fields the archived form of `String` and `Vec`.

use std::mem::MaybeUninit;

use rkyv::api::low::LowValidator;
use rkyv::api::serialize_using;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Failure, Fallible, Source, Strategy};
use rkyv::ser::allocator::SubAllocator;
use rkyv::ser::{Allocator, Serializer, Writer};
use rkyv::string::{ArchivedString, StringResolver};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::with::{ArchiveWith, SerializeWith};
use rkyv::{Archive, Place, Portable, Serialize};

/// Scratch for the resolvers of the longest list a frame may carry: lists are at most
/// `SHARDS_MAX` = 1024 addresses of 4 bytes, or `QUEUES_PER_LIST_MAX` = 256 queues of 12 bytes and the
/// levels of one of them. Groups, members and nodes are fewer.
const SCRATCH_BYTES: usize = 16 << 10;

/// What archives are written with: straight behind the bytes already in the vector, scratch on the stack.
pub(crate) type ArchiveWriter<'a> = Strategy<Serializer<&'a mut Vec<u8>, SubAllocator<'a>, ()>, Failure>;

/// A `&str` archived as a string.
pub(crate) struct Str;

impl ArchiveWith<&str> for Str {
    type Archived = ArchivedString;
    type Resolver = StringResolver;

    fn resolve_with(field: &&str, resolver: Self::Resolver, out: Place<Self::Archived>) {
        ArchivedString::resolve_from_str(field, resolver, out);
    }
}

impl<S: Fallible<Error: Source> + Writer + ?Sized> SerializeWith<&str, S> for Str {
    fn serialize_with(field: &&str, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        ArchivedString::serialize_from_str(field, serializer)
    }
}

/// A slice of plain structs archived as a vector, without any scratch: an item writes nothing beside itself.
pub(crate) struct Slice;

impl<T: Archive> ArchiveWith<&[T]> for Slice {
    type Archived = ArchivedVec<T::Archived>;
    type Resolver = VecResolver;

    fn resolve_with(field: &&[T], resolver: Self::Resolver, out: Place<Self::Archived>) {
        ArchivedVec::resolve_from_len(field.len(), resolver, out);
    }
}

impl<T: Serialize<S> + Copy, S: Fallible + Allocator + Writer + ?Sized> SerializeWith<&[T], S> for Slice {
    fn serialize_with(field: &&[T], serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        ArchivedVec::serialize_from_unknown_length_iter::<T, _, _>(&mut field.iter().copied(), serializer)
    }
}

/// Appends the archive of `value` to `out`.
pub(crate) fn append(out: &mut Vec<u8>, value: &impl for<'a> Serialize<ArchiveWriter<'a>>) {
    let mut scratch = [MaybeUninit::<u8>::uninit(); SCRATCH_BYTES];
    let mut serializer = Serializer::new(out, SubAllocator::new(&mut scratch), ());
    // The writer is a vector, which cannot fail, and the scratch holds the longest list allowed.
    serialize_using::<_, Failure>(value, &mut serializer).expect("lists in a frame are within their limits");
}

/// The archive of a `T`, checked. `None` if these bytes are not one.
pub(crate) fn read<T>(archive: &[u8]) -> Option<&T>
where
    T: Portable + for<'a> CheckBytes<LowValidator<'a, Failure>>,
{
    rkyv::api::low::access::<T, Failure>(archive).ok()
}
