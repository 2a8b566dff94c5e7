/** XSAVE, XRSTOR and their variants, XGETBV and XSETBV, LDMXCSR, STMXCSR, EMMS (Intel SDM vol. 1 chapter 13). */
import { CR4 } from '../entry.ts';
import { MSR } from '../msrs.ts';
import type { AssistContext } from './context.ts';
import type { Instruction } from './decode.ts';
import { generalProtection, Unsupported, undefinedOpcode } from './fault.ts';
import type { Operation, Outcome } from './operation.ts';
import { require128, requireNoSecondSource, requireVectors } from './vector-operands.ts';
import { FCW_INIT, MXCSR_INIT, XSAVE, XSTATE } from './vector-state.ts';

const RAX = 0;
const RCX = 1;
const RDX = 2;
/** XCOMP_BV: the area is compacted. */
const COMPACTED = 1n << 63n;
const HEADER_SIZE = 64;

/** A state component above SSE. Offsets in bytes from the start of the area, in standard format. */
interface Component {
  bit: bigint;
  size: number;
  offset: number;
  /** In compacted format it starts on a 64-byte boundary. */
  aligned: boolean;
}

/** The components the guest's CPUID describes. */
function components(context: AssistContext): Component[] {
  return context.cpu
    .get('cpuid')
    .filter((leaf) => leaf.function === 0xd && leaf.index >= 2 && leaf.index < 63 && (leaf.ecx & 1) === 0)
    .sort((a, b) => a.index - b.index)
    .map(({ index, eax, ebx, ecx }) => ({
      bit: 1n << BigInt(index),
      size: eax,
      offset: ebx,
      aligned: (ecx & 2) !== 0,
    }));
}

/** What XCR0 may hold: leaf 0xD sub-leaf 0. */
function supportedXcr0(context: AssistContext): bigint {
  const leaf = context.cpu.get('cpuid').find((entry) => entry.function === 0xd && entry.index === 0);
  return leaf === undefined ? 0n : (BigInt(leaf.edx) << 32n) | BigInt(leaf.eax);
}

/** Components the instruction asks for: EDX:EAX within XCR0. */
function requested(context: AssistContext): bigint {
  const mask = (context.gpr(RDX, 4) << 32n) | context.gpr(RAX, 4);
  return mask & context.vectors.xcr0;
}

/** Checks common to all, and the area's address. */
function areaAddress(context: AssistContext, instruction: Instruction, write: boolean): bigint {
  if (instruction.memory === undefined) throw undefinedOpcode();
  context.requireCr4(CR4.OSXSAVE);
  context.requireFpu();
  const linear = context.linear(instruction, instruction.memory, XSAVE.HEADER_END, write);
  if (linear % 64n !== 0n) throw generalProtection();
  return linear;
}

/** Components not in their initial state; MXCSR counts for SSE with the compacting forms. */
function inUse(context: AssistContext): bigint {
  const { vectors } = context;
  return vectors.present & vectors.xcr0;
}

/** The pieces of the processor's area to store: [offset in the guest's area, bytes]. */
function pieces(
  context: AssistContext,
  wanted: bigint,
  layout: (component: Component) => number,
): [number, Uint8Array][] {
  const { area } = context.vectors;
  const out: [number, Uint8Array][] = [];
  if ((wanted & XSTATE.X87) !== 0n) {
    out.push([XSAVE.FCW, area.slice(XSAVE.FCW, XSAVE.MXCSR)]);
    out.push([XSAVE.ST0, area.slice(XSAVE.ST0, XSAVE.XMM0)]);
  }
  if ((wanted & XSTATE.SSE) !== 0n) out.push([XSAVE.XMM0, area.slice(XSAVE.XMM0, XSAVE.LEGACY_SIZE)]);
  for (const component of components(context)) {
    if ((wanted & component.bit) === 0n) continue;
    const { offset, size } = component;
    if (offset + size > area.length) throw new Unsupported('a state component beyond the XSAVE area');
    out.push([layout(component), area.slice(offset, offset + size)]);
  }
  return out;
}

/** Offsets in compacted format of the components in `format` (SDM vol. 1 13.4.3). */
function compactedOffsets(all: readonly Component[], format: bigint): Map<bigint, number> {
  const offsets = new Map<bigint, number>();
  let at = XSAVE.HEADER_END as number;
  for (const { bit, size, aligned } of all) {
    if ((format & bit) === 0n) continue;
    if (aligned) at = Math.ceil(at / 64) * 64;
    offsets.set(bit, at);
    at += size;
  }
  return offsets;
}

/** XSAVE and XSAVEOPT: standard format. */
function save(optimised: boolean) {
  return (context: AssistContext, instruction: Instruction): Outcome => {
    const linear = areaAddress(context, instruction, true);
    const rfbm = requested(context);
    const used = inUse(context);
    const stored = optimised ? rfbm & used : rfbm;
    const parts = pieces(context, stored, (component) => component.offset);
    if ((rfbm & (XSTATE.SSE | XSTATE.AVX)) !== 0n) parts.push(mxcsrPiece(context));
    const old = context.readInt(linear + BigInt(XSAVE.XSTATE_BV), 8);
    store(context, linear, parts, (old & ~rfbm) | (rfbm & used), undefined);
    return undefined;
  };
}

/** XSAVEC and, without supervisor state, XSAVES: compacted format. */
function saveCompacted(supervisor: boolean) {
  return (context: AssistContext, instruction: Instruction): Outcome => {
    if (supervisor) requireNoSupervisorState(context);
    const linear = areaAddress(context, instruction, true);
    const rfbm = requested(context);
    const sseInUse = context.vectors.mxcsr !== MXCSR_INIT ? XSTATE.SSE : 0n;
    const stored = rfbm & (inUse(context) | sseInUse);
    const offsets = compactedOffsets(components(context), rfbm);
    const parts = pieces(context, stored, (component) => offsets.get(component.bit)!);
    if ((stored & XSTATE.SSE) !== 0n) parts.push(mxcsrPiece(context));
    store(context, linear, parts, stored, COMPACTED | rfbm);
    return undefined;
  };
}

function mxcsrPiece(context: AssistContext): [number, Uint8Array] {
  return [XSAVE.MXCSR, context.vectors.area.slice(XSAVE.MXCSR, XSAVE.ST0)];
}

function store(
  context: AssistContext,
  linear: bigint,
  parts: readonly [number, Uint8Array][],
  xstateBv: bigint,
  xcompBv: bigint | undefined,
): void {
  const header = new Uint8Array(xcompBv === undefined ? 8 : 16);
  const view = new DataView(header.buffer);
  view.setBigUint64(0, xstateBv, true);
  if (xcompBv !== undefined) view.setBigUint64(8, xcompBv, true);
  for (const [offset, bytes] of [...parts, [XSAVE.XSTATE_BV, header] as const]) {
    context.write(linear + BigInt(offset), bytes);
  }
}

/** XSAVES and XRSTORS are their user-state forms as long as IA32_XSS is 0. */
function requireNoSupervisorState(context: AssistContext): void {
  context.requireCpl0();
  if (context.cpu.getMsrs([MSR.IA32_XSS])[0].data !== 0n)
    throw new Unsupported('supervisor state components');
}

/** XRSTOR, both formats, and XRSTORS, compacted only. */
function restore(supervisor: boolean) {
  return (context: AssistContext, instruction: Instruction): Outcome => {
    if (supervisor) requireNoSupervisorState(context);
    const linear = areaAddress(context, instruction, false);
    const { vectors } = context;
    const rfbm = requested(context);
    const header = context.read(linear + BigInt(XSAVE.XSTATE_BV), HEADER_SIZE);
    const view = new DataView(header.buffer);
    const xstateBv = view.getBigUint64(0, true);
    const xcompBv = view.getBigUint64(8, true);
    const compacted = (xcompBv & COMPACTED) !== 0n;
    checkHeader(vectors.xcr0, xstateBv, xcompBv, header, supervisor);

    const all = components(context);
    const offsets = compacted ? compactedOffsets(all, xcompBv) : undefined;
    const { area } = vectors;
    const loaded = rfbm & xstateBv;
    const source = (at: number, size: number) => context.read(linear + BigInt(at), size);
    const mxcsr = loadMxcsr(source, rfbm, xstateBv, compacted);
    const reads: [number, Uint8Array][] = [];
    if ((loaded & XSTATE.X87) !== 0n) {
      reads.push(
        [XSAVE.FCW, source(XSAVE.FCW, XSAVE.MXCSR)],
        [XSAVE.ST0, source(XSAVE.ST0, XSAVE.XMM0 - XSAVE.ST0)],
      );
    }
    if ((loaded & XSTATE.SSE) !== 0n) {
      reads.push([XSAVE.XMM0, source(XSAVE.XMM0, XSAVE.LEGACY_SIZE - XSAVE.XMM0)]);
    }
    for (const { bit, offset, size } of all) {
      if (offset + size > area.length) throw new Unsupported('a state component beyond the XSAVE area');
      if ((loaded & bit) !== 0n) reads.push([offset, source(offsets?.get(bit) ?? offset, size)]);
    }

    initialise(area, rfbm & ~xstateBv, all);
    for (const [at, bytes] of reads) area.set(bytes, at);
    vectors.present = (vectors.present & ~rfbm) | loaded;
    if (mxcsr !== undefined) vectors.mxcsr = mxcsr;
    return undefined;
  };
}

/** SDM vol. 1 13.8: what makes XRSTOR fault. */
function checkHeader(
  xcr0: bigint,
  xstateBv: bigint,
  xcompBv: bigint,
  header: Uint8Array,
  supervisor: boolean,
): void {
  const compacted = (xcompBv & COMPACTED) !== 0n;
  if (supervisor && !compacted) throw generalProtection();
  if ((xstateBv & ~xcr0) !== 0n) throw generalProtection();
  if (!compacted) {
    // Standard form: XCOMP_BV and the bytes after it are reserved.
    if (header.subarray(8, 24).some((byte) => byte !== 0)) throw generalProtection();
    return;
  }
  const format = xcompBv & ~COMPACTED;
  if ((format & ~xcr0) !== 0n || (xstateBv & ~format) !== 0n) throw generalProtection();
  if (header.subarray(16).some((byte) => byte !== 0)) throw generalProtection();
}

/** MXCSR after XRSTOR, or undefined when it stays. The standard form loads it for AVX as well. */
function loadMxcsr(
  source: (at: number, size: number) => Uint8Array,
  rfbm: bigint,
  xstateBv: bigint,
  compacted: boolean,
): number | undefined {
  if (compacted) {
    if ((rfbm & XSTATE.SSE) === 0n) return undefined;
    if ((xstateBv & XSTATE.SSE) === 0n) return MXCSR_INIT;
  } else if ((rfbm & (XSTATE.SSE | XSTATE.AVX)) === 0n) return undefined;
  const mxcsr = new DataView(source(XSAVE.MXCSR, 4).buffer).getUint32(0, true);
  checkMxcsr(mxcsr);
  return mxcsr;
}

/** Bits of MXCSR that exist. */
const MXCSR_MASK = 0xffff;

function checkMxcsr(mxcsr: number): void {
  if ((mxcsr & ~MXCSR_MASK) !== 0) throw generalProtection();
}

function initialise(area: Uint8Array, bits: bigint, all: readonly Component[]): void {
  if ((bits & XSTATE.X87) !== 0n) {
    area.fill(0, XSAVE.FCW, XSAVE.MXCSR);
    area.fill(0, XSAVE.ST0, XSAVE.XMM0);
    new DataView(area.buffer).setUint16(XSAVE.FCW, FCW_INIT, true);
  }
  if ((bits & XSTATE.SSE) !== 0n) area.fill(0, XSAVE.XMM0, XSAVE.LEGACY_SIZE);
  for (const { bit, offset, size } of all) if ((bits & bit) !== 0n) area.fill(0, offset, offset + size);
}

function xgetbv(context: AssistContext): Outcome {
  context.requireCr4(CR4.OSXSAVE);
  const index = context.gpr(RCX, 4);
  if (index > 1n) throw generalProtection();
  const value = index === 0n ? context.vectors.xcr0 : inUse(context);
  context.setGpr(RAX, 4, value);
  context.setGpr(RDX, 4, value >> 32n);
  return undefined;
}

function xsetbv(context: AssistContext): Outcome {
  context.requireCr4(CR4.OSXSAVE);
  context.requireCpl0();
  const value = (context.gpr(RDX, 4) << 32n) | context.gpr(RAX, 4);
  const bad =
    context.gpr(RCX, 4) !== 0n ||
    (value & XSTATE.X87) === 0n ||
    (value & ~supportedXcr0(context)) !== 0n ||
    ((value & XSTATE.AVX) !== 0n && (value & XSTATE.SSE) === 0n);
  if (bad) throw generalProtection();
  context.vectors.xcr0 = value;
  return undefined;
}

/** LDMXCSR and STMXCSR, and their VEX forms. */
function moveMxcsr(mnemonic: string, group: number, write: boolean, encoding: 'legacy' | 'vex'): Operation {
  return {
    mnemonic,
    encoding,
    map: 1,
    opcode: 0xae,
    prefix: 0,
    group,
    form: 'memory',
    run(context, instruction) {
      requireVectors(context, instruction);
      requireNoSecondSource(instruction);
      require128(instruction);
      if (write) {
        context.setRm(instruction, 4, BigInt(context.vectors.mxcsr));
        return undefined;
      }
      const mxcsr = Number(context.rm(instruction, 4));
      checkMxcsr(mxcsr);
      context.vectors.mxcsr = mxcsr;
      return undefined;
    },
  };
}

export const EXTENDED_STATE: readonly Operation[] = [
  { mnemonic: 'xsave', map: 1, opcode: 0xae, prefix: 0, group: 4, form: 'memory', run: save(false) },
  { mnemonic: 'xrstor', map: 1, opcode: 0xae, prefix: 0, group: 5, form: 'memory', run: restore(false) },
  { mnemonic: 'xsaveopt', map: 1, opcode: 0xae, prefix: 0, group: 6, form: 'memory', run: save(true) },
  { mnemonic: 'xrstors', map: 1, opcode: 0xc7, prefix: 0, group: 3, form: 'memory', run: restore(true) },
  {
    mnemonic: 'xsavec',
    map: 1,
    opcode: 0xc7,
    prefix: 0,
    group: 4,
    form: 'memory',
    run: saveCompacted(false),
  },
  { mnemonic: 'xsaves', map: 1, opcode: 0xc7, prefix: 0, group: 5, form: 'memory', run: saveCompacted(true) },
  { mnemonic: 'xgetbv', map: 1, opcode: 0x01, prefix: 0, group: 2, form: 'register', rm: 0, run: xgetbv },
  { mnemonic: 'xsetbv', map: 1, opcode: 0x01, prefix: 0, group: 2, form: 'register', rm: 1, run: xsetbv },
  moveMxcsr('ldmxcsr', 2, false, 'legacy'),
  moveMxcsr('stmxcsr', 3, true, 'legacy'),
  moveMxcsr('vldmxcsr', 2, false, 'vex'),
  moveMxcsr('vstmxcsr', 3, true, 'vex'),
  {
    mnemonic: 'emms',
    map: 1,
    opcode: 0x77,
    prefix: 0,
    run(context) {
      context.requireFpu();
      const { vectors } = context;
      const { area } = vectors;
      // The abridged tag word: no register in use.
      area[XSAVE.FTW] = 0;
      // TOP becomes 0; the area holds the registers as ST(0) to ST(7), so they move by the old TOP.
      const top = (area[XSAVE.FSW + 1] >> 3) & 7;
      area[XSAVE.FSW + 1] &= ~0x38;
      const registers = area.slice(XSAVE.ST0, XSAVE.XMM0);
      for (let i = 0; i < 8; i++) {
        const from = ((i - top) & 7) * 16;
        area.set(registers.subarray(from, from + 16), XSAVE.ST0 + i * 16);
      }
      vectors.touch(XSTATE.X87);
      return undefined;
    },
  },
];
