/**
 * Linear to guest-physical translation with the access checks and the accessed and dirty bits of the processor
 * (Intel SDM vol. 3A chapter 4), for every paging mode.
 */
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { CR0, CR4, EFER } from '../entry.ts';
import type { Sregs } from '../state.ts';
import { GuestFault, generalProtection, PF_ERROR, Unsupported, VECTOR } from './fault.ts';

/** What an access wants. */
export interface Access {
  readonly write: boolean;
  /** Privilege of the access: CPL, or 0 for descriptor tables and other implicit accesses. */
  readonly cpl: number;
  /** RFLAGS.AC, which suspends SMAP for explicit supervisor accesses. */
  readonly ac: boolean;
}

const P = 1;
const RW = 2;
const US = 4;
const A = 0x20;
const D = 0x40;
const PS = 0x80;
const PAGE = 4096;

interface Mode {
  levels: number;
  /** Bytes of an entry. */
  entry: 4 | 8;
  /** Bits of the index into each table. */
  bits: number;
}

function modeOf(sregs: Sregs): Mode {
  if ((sregs.cr4 & CR4.PAE) === 0n) return { levels: 2, entry: 4, bits: 10 };
  if ((sregs.efer & EFER.LMA) === 0n) return { levels: 3, entry: 8, bits: 9 };
  return { levels: (sregs.cr4 & CR4.LA57) !== 0n ? 5 : 4, entry: 8, bits: 9 };
}

/**
 * Translates one byte's address; what follows in the same 4 KiB page is contiguous.
 * @throws GuestFault #PF, or #GP for a non-canonical address; Unsupported when the tables are outside RAM
 */
export function translate(memory: GuestMemory, sregs: Sregs, linear: bigint, access: Access): number {
  if ((sregs.cr0 & CR0.PG) === 0n) return Number(BigInt.asUintN(32, linear));
  const mode = modeOf(sregs);
  if (mode.levels >= 4) {
    const width = mode.levels === 5 ? 57 : 48;
    if (BigInt.asUintN(64, BigInt.asIntN(width, linear)) !== linear) throw generalProtection();
  }
  const user = access.cpl === 3;
  const fault = (bits: number) =>
    new GuestFault(VECTOR.PF, bits | (access.write ? PF_ERROR.W : 0) | (user ? PF_ERROR.U : 0), linear);

  let table = Number(BigInt.asUintN(52, sregs.cr3) & (mode.levels === 3 ? ~0x1fn : ~0xfffn));
  let rights = RW | US;
  const path: { at: number; low: number }[] = [];
  for (let level = mode.levels; ; level--) {
    const shift = 12 + mode.bits * (level - 1);
    const index = Number((linear >> BigInt(shift)) & BigInt((1 << mode.bits) - 1));
    const at = table + index * mode.entry;
    if (!memory.contains(at, mode.entry)) throw new Unsupported('page tables outside RAM');
    const low = memory.readU32(at);
    const high = mode.entry === 8 ? memory.readU32(at + 4) : 0;
    if ((low & P) === 0) throw fault(0);
    // PAE's page-directory-pointer entries have no rights and no accessed bit.
    const pdpte = mode.levels === 3 && level === 3;
    if (!pdpte) {
      rights &= low;
      path.push({ at, low });
    }
    const large = level > 1 && level < 4 && (low & PS) !== 0 && !pdpte;
    if (level > 3 && (low & PS) !== 0) throw fault(PF_ERROR.P | PF_ERROR.RSVD);
    if (level > 1 && !large) {
      table = (high & 0xfffff) * 2 ** 32 + ((low & ~0xfff) >>> 0);
      continue;
    }
    checkRights(sregs, rights, access, () => fault(PF_ERROR.P));
    markUsed(memory, path, access.write);
    const size = 2 ** shift;
    const base = (high & 0xfffff) * 2 ** 32 + ((low & ~0xfff) >>> 0);
    // A 4 MiB page has its upper address bits in bits 13 to 20 (PSE-36).
    const physical =
      mode.entry === 4 && large
        ? ((low & 0xffc00000) >>> 0) + ((low >>> 13) & 0xff) * 2 ** 32
        : base - (base % size);
    return physical + Number(linear & BigInt(size - 1));
  }
}

/** SDM vol. 3A 4.6.1. */
function checkRights(sregs: Sregs, rights: number, access: Access, fault: () => GuestFault): void {
  const userPage = (rights & US) !== 0;
  const writable = (rights & RW) !== 0;
  if (access.cpl === 3) {
    if (!userPage || (access.write && !writable)) throw fault();
    return;
  }
  if (access.write && !writable && (sregs.cr0 & CR0.WP) !== 0n) throw fault();
  if (userPage && (sregs.cr4 & CR4.SMAP) !== 0n && !access.ac) throw fault();
}

/** Sets accessed bits on the way and the dirty bit of the leaf, atomically (SDM vol. 3A 4.8). */
function markUsed(memory: GuestMemory, path: readonly { at: number; low: number }[], write: boolean): void {
  path.forEach(({ at, low }, i) => {
    const bits = A | (write && i === path.length - 1 ? D : 0);
    if ((low & bits) === bits) return;
    const bytes = memory.bytes(at, 4);
    Atomics.or(new Int32Array(bytes.buffer, bytes.byteOffset, 1), 0, bits);
  });
}

/** Bytes from `linear` to the end of its 4 KiB page. */
export function bytesInPage(linear: bigint): number {
  return PAGE - Number(linear & BigInt(PAGE - 1));
}
