/** Constants of the qcow2 format, named as in QEMU's docs/interop/qcow2 (all numbers are big-endian). */

/** "QFI\xfb". */
export const MAGIC = 0x514649fb;

export const MIN_CLUSTER_BITS = 9;
/** QEMU's limit. */
export const MAX_CLUSTER_BITS = 21;

export const V2_HEADER_LENGTH = 72;
/** Least length of a version 3 header. */
export const V3_HEADER_LENGTH = 104;
/** Offset of compression_type, the one additional field. */
export const COMPRESSION_TYPE_OFFSET = 104;

/** Offsets in the header of fields that are changed in place. */
export const INCOMPATIBLE_FEATURES_OFFSET = 72;
export const AUTOCLEAR_FEATURES_OFFSET = 88;
export const REFCOUNT_TABLE_FIELDS_OFFSET = 48;

/** Bits of incompatible_features. */
export const INCOMPATIBLE_DIRTY = 1n << 0n;
export const INCOMPATIBLE_CORRUPT = 1n << 1n;
export const INCOMPATIBLE_DATA_FILE = 1n << 2n;
export const INCOMPATIBLE_COMPRESSION = 1n << 3n;
export const INCOMPATIBLE_EXTENDED_L2 = 1n << 4n;

/** Bits of compatible_features. */
export const COMPATIBLE_LAZY_REFCOUNTS = 1n << 0n;

/** Bits of autoclear_features. */
export const AUTOCLEAR_BITMAPS = 1n << 0n;

/** Header extension types. */
export const EXTENSION_END = 0;
export const EXTENSION_BACKING_FORMAT = 0xe2792aca;
export const EXTENSION_FEATURE_NAMES = 0x6803f857;
export const EXTENSION_BITMAPS = 0x23852875;

/** Bytes of an entry of the feature name table. */
export const FEATURE_NAME_SIZE = 48;

/** Values of compression_type. */
export const COMPRESSION_ZLIB = 0;
export const COMPRESSION_ZSTD = 1;

export const MAX_BACKING_NAME = 1023;
/** QEMU's limits, which also bound what a hostile image can make us keep in memory. */
export const MAX_L1_SIZE = 32 << 20;
export const MAX_REFCOUNT_TABLE_SIZE = 8 << 20;
export const MAX_SNAPSHOTS = 65536;
export const MAX_SNAPSHOT_EXTRA = 1024;

/** Bytes of an entry of the L1, L2 and refcount tables. */
export const ENTRY_SIZE = 8;

/** Upper halves of table entries. */
export const COPIED_HIGH = 0x80000000;
export const COMPRESSED_HIGH = 0x40000000;
/** Bits 32-55: those of an offset. */
export const OFFSET_HIGH = 0x00ffffff;
/** Bits 9-31. */
export const OFFSET_LOW = 0xfffffe00;
/** Reserved bits: 0-8 of the lower half (bit 0 of L2 entries is the zero flag in version 3). */
export const RESERVED_LOW = 0x1ff;
/** Bits 56-62 of an L1 entry, 56-61 of an L2 entry. */
export const L1_RESERVED_HIGH = 0x7f000000;
export const L2_RESERVED_HIGH = 0x3f000000;
/** Lower half of an L2 entry: the cluster reads as zeros. */
export const ZERO_LOW = 1;

/** Sectors that compressed data is counted in. */
export const COMPRESSED_SECTOR = 512;

/** Offsets are numbers; what is beyond is refused. */
export const MAX_OFFSET = Number.MAX_SAFE_INTEGER;
