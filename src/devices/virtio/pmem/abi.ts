/** Numbers of the persistent memory device (virtio 1.2 section 5.19). */

/** Offsets in struct virtio_pmem_config, section 5.19.4: 64-bit address and length of the memory. */
export const PMEM_CONFIG = { START: 0, SIZE: 8, LENGTH: 16 } as const;

/** Request types, section 5.19.6. */
export const PMEM_REQ_TYPE = { FLUSH: 0 } as const;

/** Answers to a request, section 5.19.6. */
export const PMEM_RESP_TYPE = { OK: 0, EIO: 1 } as const;

/** Bytes of a request (its type), and of an answer. */
export const PMEM_REQ_SIZE = 4;
export const PMEM_RESP_SIZE = 4;

/** What start and size are multiples of: Linux adds such memory by subsections (SUBSECTION_SIZE). */
export const PMEM_ALIGNMENT = 2 ** 21;
