/** System registers, caches, time, identification. */
import { DECODE } from '../decode/decoder.ts';
import { ACCESS } from '../emit/access.ts';
import { FLAG } from '../emit/rflags.ts';
import { GPR, S } from '../layout.ts';
import { GuestFault, VECTOR } from './fault.ts';
import { hostRandom } from './host-random.ts';
import { isCanonical } from './linear.ts';
import {
  address,
  type Operations,
  privileged,
  readOperand,
  readRegister,
  registerNumber,
  umip,
  writeOperand,
  writeRegister,
} from './operands.ts';
import { Leave, type Operation } from './operations.ts';
import { reportUnimplemented } from './unimplemented.ts';

const { RAX, RCX, RDX } = GPR;
const CR0_TS = 8n;
const KVM_EPERM = 1;
const KVM_ENOSYS = 1000;
const CR4 = { TSD: 4, DE: 8, PCE: 0x100, FSGSBASE: 1 << 16, PCIDE: 1 << 17, OSXSAVE: 1 << 18 } as const;

/** Types of INVPCID (SDM vol. 2). */
const INVPCID = { address: 0n, context: 1n, all: 3n } as const;

/** Writes EDX:EAX. */
function setEdxEax({ cpu }: Operation, value: bigint): void {
  const { state } = cpu;
  // In halves without further bigints: RDTSC is frequent.
  state.setU64(S.TEMP, value);
  state.setGpr32(RAX, state.i32(S.TEMP));
  state.setGpr32(RDX, state.i32(S.TEMP + 4));
}

function edxEax({ cpu }: Operation): bigint {
  return BigInt(cpu.state.gpr32(RAX)) | (BigInt(cpu.state.gpr32(RDX)) << 32n);
}

function storeTable(o: Operation, baseField: number, limitField: number): void {
  umip(o);
  const { state } = o.cpu;
  const bytes = o.system.segments.is64 ? 10 : 6;
  const image = new Uint8Array(10);
  const view = new DataView(image.buffer);
  view.setUint16(0, state.i32(limitField), true);
  view.setBigUint64(2, state.u64(baseField), true);
  o.system.linear.write(address(o, bytes, ACCESS.write), image.subarray(0, bytes));
}

function loadTable(o: Operation, baseField: number, limitField: number): void {
  privileged(o);
  const { state } = o.cpu;
  const long = o.system.segments.is64;
  const at = address(o, long ? 10 : 6);
  const limit = o.system.linear.get(at, 2);
  const base = o.system.linear.get(at + 2n, long ? 8 : 4);
  if (long && !isCanonical(base)) throw new GuestFault(VECTOR.GP);
  // With operands of 16 bits the base has 24.
  state.setU64(baseField, o.size === 2 ? base & 0xff_ffffn : base);
  state.setI32(limitField, Number(limit));
}

function random(o: Operation): void {
  const { peripherals } = o.system.registers;
  const value = peripherals.random?.() ?? hostRandom();
  writeRegister(o, 0, value);
  o.cpu.exports.setFlags(BigInt(FLAG.CF));
}

/** STAC and CLAC are undefined, not forbidden, to user code (SDM vol. 2). */
function setAc(o: Operation, eflags: number): void {
  if (o.cpu.state.cpl > 0) throw new GuestFault(VECTOR.UD);
  o.cpu.state.eflags = eflags;
  o.cpu.mmu.selectTlb();
}

function segmentBase(o: Operation, segment: number, write: boolean): void {
  if ((o.cpu.state.cr4 & CR4.FSGSBASE) === 0) throw new GuestFault(VECTOR.UD);
  if (!write) {
    writeRegister(o, 0, o.system.segments.base(segment));
    return;
  }
  const value = readRegister(o, 0);
  if (!isCanonical(value)) throw new GuestFault(VECTOR.GP);
  o.system.segments.setBase(segment, value);
}

/** DR4 and DR5 are DR6 and DR7 unless CR4.DE forbids them. */
function debugRegister(o: Operation, position: 0 | 1): number {
  privileged(o);
  const number = registerNumber(o, position);
  if (number > 7) throw new GuestFault(VECTOR.UD);
  if (number !== 4 && number !== 5) return number;
  if (o.cpu.state.cr4 & CR4.DE) throw new GuestFault(VECTOR.UD);
  return number + 2;
}

export const CONTROL_OPERATIONS: Operations = {
  UNDEFINED(o) {
    // The predecoder leaves its reason; UD2 and its kin have none.
    const reason = registerNumber(o, 0);
    if (reason === DECODE.tooLong) throw new GuestFault(VECTOR.GP);
    if (reason === DECODE.unavailable) throw new GuestFault(VECTOR.NM);
    if (reason === DECODE.invalid) reportUnimplemented(o);
    throw new GuestFault(VECTOR.UD);
  },
  HLT(o) {
    privileged(o);
    throw new Leave('halt', o.system.nextRip(o.pc));
  },
  CPUID: (o) => o.system.registers.executeCpuid(),
  RDTSC(o) {
    if (o.cpu.state.cr4 & CR4.TSD && o.cpu.state.cpl > 0) throw new GuestFault(VECTOR.GP);
    setEdxEax(o, o.system.registers.peripherals.tsc());
  },
  RDTSCP(o) {
    if (o.cpu.state.cr4 & CR4.TSD && o.cpu.state.cpl > 0) throw new GuestFault(VECTOR.GP);
    setEdxEax(o, o.system.registers.peripherals.tsc());
    o.cpu.state.setGpr32(RCX, o.cpu.state.i32(S.TSC_AUX));
  },
  RDPID: (o) => writeRegister(o, 0, o.cpu.state.u64(S.TSC_AUX), 8),
  RDPMC() {
    // No performance counters.
    throw new GuestFault(VECTOR.GP);
  },
  RDMSR(o) {
    privileged(o);
    setEdxEax(o, o.system.registers.readMsr(o.cpu.state.gpr32(RCX)));
  },
  WRMSR(o) {
    privileged(o);
    o.system.registers.writeMsr(o.cpu.state.gpr32(RCX), edxEax(o));
  },
  MOV_FROM_CR(o) {
    privileged(o);
    const value = o.system.registers.readCr(registerNumber(o, 1));
    writeRegister(o, 0, value, o.system.segments.is64 ? 8 : 4);
  },
  MOV_TO_CR(o) {
    privileged(o);
    const value = readRegister(o, 0, o.system.segments.is64 ? 8 : 4);
    o.system.registers.writeCr(registerNumber(o, 1), value);
  },
  MOV_FROM_DR(o) {
    const value = o.system.debug.read(debugRegister(o, 1));
    writeRegister(o, 0, value, o.system.segments.is64 ? 8 : 4);
  },
  MOV_TO_DR(o) {
    const number = debugRegister(o, 1);
    o.system.debug.write(number, readRegister(o, 0, o.system.segments.is64 ? 8 : 4));
  },
  CLTS(o) {
    privileged(o);
    o.cpu.state.setU64(S.CR0, o.cpu.state.u64(S.CR0) & ~CR0_TS);
    o.cpu.blocks.selectKey();
  },
  LMSW(o) {
    privileged(o);
    const old = o.cpu.state.u64(S.CR0);
    // LMSW can set PE but not clear it.
    const value = (readOperand(o, 0, 2) & 0xfn) | (old & 1n);
    o.system.registers.writeCr(0, (old & ~0xfn) | value);
  },
  SMSW(o) {
    umip(o);
    if (o.memory) writeOperand(o, o.cpu.state.u64(S.CR0), 2);
    else writeRegister(o, 0, o.cpu.state.u64(S.CR0));
  },
  SGDT: (o) => storeTable(o, S.GDT_BASE, S.GDT_LIMIT),
  SIDT: (o) => storeTable(o, S.IDT_BASE, S.IDT_LIMIT),
  LGDT: (o) => loadTable(o, S.GDT_BASE, S.GDT_LIMIT),
  LIDT: (o) => loadTable(o, S.IDT_BASE, S.IDT_LIMIT),
  INVLPG(o) {
    privileged(o);
    const at = address(o, 1);
    o.cpu.mmu.invalidatePage(Number(at & 0xffff_ffffn) | 0, Number(at >> 32n) | 0);
  },
  INVPCID(o) {
    privileged(o);
    const bytes = o.system.segments.is64 ? 8 : 4;
    const type = readRegister(o, 0, bytes);
    const at = address(o, 16);
    const pcid = o.system.linear.get(at, 8);
    const linear = o.system.linear.get(at + 8n, 8);
    const usesPcid = type === INVPCID.address || type === INVPCID.context;
    if (type > INVPCID.all || pcid >> 12n) throw new GuestFault(VECTOR.GP);
    if (usesPcid && pcid !== 0n && (o.cpu.state.cr4 & CR4.PCIDE) === 0) throw new GuestFault(VECTOR.GP);
    if (type === INVPCID.address && !isCanonical(linear)) throw new GuestFault(VECTOR.GP);
    o.cpu.mmu.flush();
  },
  INVD: (o) => privileged(o),
  WBINVD: (o) => privileged(o),
  XGETBV(o) {
    if ((o.cpu.state.cr4 & CR4.OSXSAVE) === 0) throw new GuestFault(VECTOR.UD);
    if (o.cpu.state.gpr32(RCX) !== 0) throw new GuestFault(VECTOR.GP);
    setEdxEax(o, o.cpu.state.u64(S.XCR0));
  },
  XSETBV(o) {
    if ((o.cpu.state.cr4 & CR4.OSXSAVE) === 0) throw new GuestFault(VECTOR.UD);
    privileged(o);
    const value = edxEax(o);
    // x87 is always there; beyond SSE nothing is.
    if (o.cpu.state.gpr32(RCX) !== 0 || (value & 1n) === 0n || value & ~3n) throw new GuestFault(VECTOR.GP);
    o.cpu.state.setU64(S.XCR0, value);
  },
  RDFSBASE: (o) => segmentBase(o, 4, false),
  RDGSBASE: (o) => segmentBase(o, 5, false),
  WRFSBASE: (o) => segmentBase(o, 4, true),
  WRGSBASE: (o) => segmentBase(o, 5, true),
  RDRAND: random,
  RDSEED: random,
  STAC: (o) => setAc(o, o.cpu.state.eflags | FLAG.AC),
  CLAC: (o) => setAc(o, o.cpu.state.eflags & ~FLAG.AC),
  VMCALL(o) {
    // There are no hypercalls (Linux Documentation/virt/kvm/x86/hypercalls.rst).
    o.cpu.state.setGpr(RAX, BigInt(o.cpu.state.cpl > 0 ? -KVM_EPERM : -KVM_ENOSYS));
  },
};
