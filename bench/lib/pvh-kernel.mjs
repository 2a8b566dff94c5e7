/**
 * A kernel for small 64-bit guests: an ELF file with a PVH entry point, which `tsvisor run --kernel` and QEMU's
 * `-kernel` both enter in 32-bit protected mode without paging (Xen docs/misc/pvh.pandoc). It switches to long mode with
 * the low GiB mapped to itself in pages of 2 MiB, and goes on with the guest's code.
 */
export const imm16 = (value) => [value & 0xff, (value >> 8) & 0xff];
export const imm32 = (value) => [...imm16(value), ...imm16(value >>> 16)];

const LOAD = 0x100000;
/** Offsets from LOAD. Tables and code are in the file; what lies behind them is zero. */
const GDT = 0x100;
const GDTR = 0x1f0;
const ENTRY = 0x200;
const CODE = 0x300;
const PML4 = 0x1000;
const PDPT = 0x2000;
const PD = 0x3000;
const TABLE = 0x4000;
const FILE_SIZE = 0x5000;
const MEMORY_SIZE = 0x100000;

/** Where the guest finds its table of bytes, room to write to, and its stack. */
export const TABLE_ADDRESS = LOAD + TABLE;
export const ROOM = LOAD + 0x10000;
export const STACK = LOAD + MEMORY_SIZE;
/** Size of the table. */
export const TABLE_SIZE = FILE_SIZE - TABLE;

const IA32_EFER = 0xc0000080;

const TO_LONG_MODE = [
  ...[0x0f, 0x01, 0x15, ...imm32(LOAD + GDTR)], // lgdt [GDTR]
  ...[0xb8, ...imm32(LOAD + PML4)], //             mov eax, PML4
  ...[0x0f, 0x22, 0xd8], //                        mov cr3, eax
  ...[0x0f, 0x20, 0xe0], //                        mov eax, cr4
  ...[0x0c, 0x20], //                              or al, 0x20: PAE
  ...[0x0f, 0x22, 0xe0], //                        mov cr4, eax
  ...[0xb9, ...imm32(IA32_EFER)], //               mov ecx, IA32_EFER
  ...[0x0f, 0x32], //                              rdmsr
  ...[0x80, 0xcc, 0x01], //                        or ah, 1: LME
  ...[0x0f, 0x30], //                              wrmsr
  ...[0x0f, 0x20, 0xc0], //                        mov eax, cr0
  ...[0x0d, ...imm32(0x80000000)], //              or eax, PG
  ...[0x0f, 0x22, 0xc0], //                        mov cr0, eax
  ...[0xea, ...imm32(LOAD + CODE), 8, 0], //       jmp 8:CODE
];

const HEADER_SIZE = 64;
const SEGMENT_HEADER_SIZE = 56;
const PT_LOAD = 1;
const PT_NOTE = 4;
const READ_WRITE_EXECUTE = 7;
const EM_X86_64 = 62;
const XEN_ELFNOTE_PHYS32_ENTRY = 18;
const NOTE = HEADER_SIZE + 2 * SEGMENT_HEADER_SIZE;
/** The note's three words, its name "Xen" and an 8-byte address. */
const NOTE_SIZE = 24;

/** Flat segments: 64-bit code, data. */
const DESCRIPTORS = [0n, 0x00af9b000000ffffn, 0x00cf93000000ffffn];
const PRESENT_WRITABLE = 3n;
const LARGE = 0x80n;

/**
 * The kernel as a file.
 * @param code 64-bit code for any address, at most 3 KiB; its stack is not set up
 * @param table {@link TABLE_SIZE} bytes for {@link TABLE_ADDRESS}
 */
export function pvhKernel(code, table) {
  const file = new Uint8Array(HEADER_SIZE + 0x1000 + FILE_SIZE);
  const image = 0x1000;
  const view = new DataView(file.buffer);
  const u64 = (at, value) => view.setBigUint64(at, BigInt(value), true);
  const u32 = (at, value) => view.setUint32(at, value, true);
  const u16 = (at, value) => view.setUint16(at, value, true);

  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]); // 64-bit, little-endian (System V ABI, "ELF Header")
  u16(16, 2); // ET_EXEC
  u16(18, EM_X86_64);
  u32(20, 1);
  u64(24, LOAD + ENTRY);
  u64(32, HEADER_SIZE);
  u16(52, HEADER_SIZE);
  u16(54, SEGMENT_HEADER_SIZE);
  u16(56, 2);
  const segment = (at, type, offset, address, fileSize, memorySize) => {
    u32(at, type);
    u32(at + 4, READ_WRITE_EXECUTE);
    u64(at + 8, offset);
    u64(at + 16, address);
    u64(at + 24, address);
    u64(at + 32, fileSize);
    u64(at + 40, memorySize);
    u64(at + 48, type === PT_LOAD ? 0x1000 : 4);
  };
  segment(HEADER_SIZE, PT_LOAD, image, LOAD, FILE_SIZE, MEMORY_SIZE);
  segment(HEADER_SIZE + SEGMENT_HEADER_SIZE, PT_NOTE, NOTE, 0, NOTE_SIZE, NOTE_SIZE);
  u32(NOTE, 4);
  u32(NOTE + 4, 8);
  u32(NOTE + 8, XEN_ELFNOTE_PHYS32_ENTRY);
  file.set(Buffer.from('Xen\0'), NOTE + 12);
  u64(NOTE + 16, LOAD + ENTRY);

  DESCRIPTORS.forEach((descriptor, i) => {
    u64(image + GDT + i * 8, descriptor);
  });
  u16(image + GDTR, DESCRIPTORS.length * 8 - 1);
  u32(image + GDTR + 2, LOAD + GDT);
  u64(image + PML4, BigInt(LOAD + PDPT) | PRESENT_WRITABLE);
  u64(image + PDPT, BigInt(LOAD + PD) | PRESENT_WRITABLE);
  for (let i = 0; i < 512; i++) u64(image + PD + i * 8, BigInt(i << 21) | PRESENT_WRITABLE | LARGE);
  if (CODE + code.length > PML4 || table.length > TABLE_SIZE) throw new Error('The guest is too large.');
  file.set(TO_LONG_MODE, image + ENTRY);
  file.set(code, image + CODE);
  file.set(table, image + TABLE);
  return file;
}
