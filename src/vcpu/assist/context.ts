/** One assisted instruction: its operands, the vCPU's registers and guest memory, written back when it completes. */
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { CR0, CR4, EFER } from '../entry.ts';
import type { Regs, Segment, Sregs } from '../state.ts';
import type { AssistCpu, AssistOptions } from './cpu.ts';
import type { CodeWidth, Instruction, MemoryOperand } from './decode.ts';
import { GuestFault, generalProtection, Unsupported, undefinedOpcode, VECTOR } from './fault.ts';
import { bytesInPage, translate } from './paging.ts';
import { VectorState } from './vector-state.ts';

/** RFLAGS bits (SDM vol. 1 3.4.3). */
export const FLAG = {
  CF: 1n << 0n,
  PF: 1n << 2n,
  AF: 1n << 4n,
  ZF: 1n << 6n,
  SF: 1n << 7n,
  TF: 1n << 8n,
  IF: 1n << 9n,
  DF: 1n << 10n,
  OF: 1n << 11n,
  IOPL: 3n << 12n,
  NT: 1n << 14n,
  RF: 1n << 16n,
  VM: 1n << 17n,
  AC: 1n << 18n,
} as const;

const GPR_NAMES = [
  'rax',
  'rcx',
  'rdx',
  'rbx',
  'rsp',
  'rbp',
  'rsi',
  'rdi',
  'r8',
  'r9',
  'r10',
  'r11',
  'r12',
  'r13',
  'r14',
  'r15',
] as const;
const SEGMENT_NAMES = ['es', 'cs', 'ss', 'ds', 'fs', 'gs'] as const;

/** State of the vCPU during an instruction. Nothing reaches the vCPU before {@link commit}. */
export class AssistContext {
  readonly cpu: AssistCpu;
  readonly guest: GuestMemory;
  readonly options: AssistOptions;
  readonly regs: Regs;
  readonly sregs: Sregs;
  /** Set by an instruction that changed {@link sregs}. */
  sregsChanged = false;
  #vectors: VectorState | undefined;

  constructor(cpu: AssistCpu, guest: GuestMemory, options: AssistOptions) {
    this.cpu = cpu;
    this.guest = guest;
    this.options = options;
    this.regs = cpu.get('regs');
    this.sregs = cpu.get('sregs');
  }

  /** Current privilege level: the DPL of SS (SDM vol. 3A 5.5). */
  get cpl(): number {
    return this.realMode ? 0 : this.sregs.ss.dpl;
  }
  get longMode(): boolean {
    return (this.sregs.efer & EFER.LMA) !== 0n;
  }
  get realMode(): boolean {
    return (this.sregs.cr0 & CR0.PE) === 0n;
  }
  /** Width of the code segment. */
  get width(): CodeWidth {
    if (this.longMode && this.sregs.cs.l === 1) return 64;
    return this.sregs.cs.db === 1 ? 32 : 16;
  }

  /** The vector registers, read from the vCPU when first used. */
  get vectors(): VectorState {
    this.#vectors ??= new VectorState(this.cpu);
    return this.#vectors;
  }

  /** Writes back what changed and moves RIP behind the instruction. */
  commit(instruction?: Instruction): void {
    if (instruction !== undefined) this.regs.rip = this.nextRip(instruction);
    // RF is cleared by every instruction that completes (SDM vol. 3B 18.3.1.1).
    this.regs.rflags &= ~FLAG.RF;
    if (this.sregsChanged) this.cpu.set('sregs', this.sregs);
    this.#vectors?.commit();
    this.cpu.set('regs', this.regs);
  }

  /** Address of the following instruction. */
  nextRip(instruction: Instruction): bigint {
    return BigInt.asUintN(this.width, this.regs.rip + BigInt(instruction.bytes.length));
  }

  // General registers.

  /** A register of `size` bytes. Byte registers 4 to 7 are AH to BH unless there is a REX prefix. */
  gpr(number: number, size: number, rex = true): bigint {
    if (size === 1 && !rex && number >= 4 && number < 8)
      return (this.regs[GPR_NAMES[number - 4]] >> 8n) & 0xffn;
    return BigInt.asUintN(size * 8, this.regs[GPR_NAMES[number]]);
  }

  /** Writes a register; 32-bit results are zero-extended (SDM vol. 1 3.4.1.1). */
  setGpr(number: number, size: number, value: bigint, rex = true): void {
    const bits = BigInt.asUintN(size * 8, value);
    if (size === 1 && !rex && number >= 4 && number < 8) {
      const name = GPR_NAMES[number - 4];
      this.regs[name] = (this.regs[name] & ~0xff00n) | (bits << 8n);
      return;
    }
    const name = GPR_NAMES[number];
    const kept = size >= 4 ? 0n : this.regs[name] & ~((1n << BigInt(size * 8)) - 1n);
    this.regs[name] = kept | bits;
  }

  /** Sets and clears flags. */
  setFlags(values: Partial<Record<'CF' | 'PF' | 'AF' | 'ZF' | 'SF' | 'OF', boolean>>): void {
    for (const [name, value] of Object.entries(values)) {
      const bit = FLAG[name as keyof typeof FLAG];
      this.regs.rflags = value ? this.regs.rflags | bit : this.regs.rflags & ~bit;
    }
  }

  // Operands.

  /** The r/m operand as an integer of `size` bytes. */
  rm(instruction: Instruction, size: number): bigint {
    return instruction.memory === undefined
      ? this.gpr(instruction.rm, size, instruction.rex)
      : this.readInt(this.linear(instruction, instruction.memory, size, false), size);
  }

  /** Writes the r/m operand. */
  setRm(instruction: Instruction, size: number, value: bigint): void {
    if (instruction.memory === undefined) this.setGpr(instruction.rm, size, value, instruction.rex);
    else this.writeInt(this.linear(instruction, instruction.memory, size, true), size, value);
  }

  /** Effective address of a memory operand, without the segment. */
  effectiveAddress(instruction: Instruction, operand: MemoryOperand): bigint {
    let address = BigInt(operand.displacement);
    if (operand.base >= 0) address += this.regs[GPR_NAMES[operand.base]];
    if (operand.index >= 0) address += this.regs[GPR_NAMES[operand.index]] * BigInt(operand.scale);
    if (operand.ripRelative) address += this.regs.rip + BigInt(instruction.bytes.length);
    return BigInt.asUintN(instruction.addressSize * 8, address);
  }

  /**
   * Linear address of `size` bytes at a memory operand, after the segment's checks.
   * @throws GuestFault #GP or #SS
   */
  linear(instruction: Instruction, operand: MemoryOperand, size: number, write: boolean): bigint {
    const offset = this.effectiveAddress(instruction, operand);
    return this.segmentLinear(SEGMENT_NAMES[operand.segment], offset, size, write);
  }

  /** Linear address in a segment (SDM vol. 3A 5.3). @throws GuestFault #GP or #SS */
  segmentLinear(name: (typeof SEGMENT_NAMES)[number], offset: bigint, size: number, write: boolean): bigint {
    const segment = this.sregs[name];
    if (this.width === 64) {
      const linear = BigInt.asUintN(64, offset + (name === 'fs' || name === 'gs' ? segment.base : 0n));
      const canonical = BigInt.asUintN(
        64,
        BigInt.asIntN((this.sregs.cr4 & CR4.LA57) !== 0n ? 57 : 48, linear),
      );
      if (canonical !== linear) throw new GuestFault(name === 'ss' ? VECTOR.SS : VECTOR.GP, 0);
      return linear;
    }
    if (!this.#segmentAllows(segment, offset, size, write)) {
      throw new GuestFault(name === 'ss' ? VECTOR.SS : VECTOR.GP, 0);
    }
    return BigInt.asUintN(32, segment.base + offset);
  }

  #segmentAllows(segment: Segment, offset: bigint, size: number, write: boolean): boolean {
    if (segment.unusable === 1 || segment.present === 0) return false;
    const code = (segment.type & 8) !== 0;
    if (!this.realMode && (write ? code || (segment.type & 2) === 0 : code && (segment.type & 2) === 0))
      return false;
    const last = offset + BigInt(size) - 1n;
    const expandDown = !code && (segment.type & 4) !== 0;
    if (!expandDown) return last <= BigInt(segment.limit);
    return offset > BigInt(segment.limit) && last <= (segment.db === 1 ? 0xffff_ffffn : 0xffffn);
  }

  // Linear memory.

  /** Reads bytes at a linear address. @throws GuestFault #PF, Unsupported outside RAM */
  read(linear: bigint, length: number, cpl = this.cpl): Uint8Array {
    const out = new Uint8Array(length);
    this.#pieces(linear, length, false, cpl, (gpa, done, size) => out.set(this.guest.read(gpa, size), done));
    return out;
  }

  /** Writes bytes at a linear address; nothing is written when any of them faults. */
  write(linear: bigint, bytes: Uint8Array, cpl = this.cpl): void {
    const pieces: [number, Uint8Array][] = [];
    this.#pieces(linear, bytes.length, true, cpl, (gpa, done, size) => {
      pieces.push([gpa, bytes.subarray(done, done + size)]);
    });
    for (const [gpa, piece] of pieces) this.guest.write(gpa, piece);
  }

  /** Reads an unsigned integer of `size` bytes. */
  readInt(linear: bigint, size: number, cpl = this.cpl): bigint {
    const bytes = this.read(linear, size, cpl);
    return bytes.reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n);
  }

  /** Writes the low `size` bytes of an integer. */
  writeInt(linear: bigint, size: number, value: bigint, cpl = this.cpl): void {
    const bytes = Uint8Array.from({ length: size }, (_, i) => Number((value >> BigInt(i * 8)) & 0xffn));
    this.write(linear, bytes, cpl);
  }

  /** Guest-physical address of memory that is to be changed in place; it must lie in one page. */
  writable(linear: bigint): number {
    const gpa = translate(this.guest, this.sregs, linear, this.#access(true, this.cpl));
    if (!this.guest.contains(gpa, 1)) throw new Unsupported('its operand is not RAM');
    return gpa;
  }

  #access(write: boolean, cpl: number) {
    // Implicit supervisor accesses ignore RFLAGS.AC (SDM vol. 3A 4.6.1).
    const ac = cpl === this.cpl && (this.regs.rflags & FLAG.AC) !== 0n;
    return { write, cpl, ac };
  }

  #pieces(
    linear: bigint,
    length: number,
    write: boolean,
    cpl: number,
    visit: (gpa: number, done: number, size: number) => void,
  ): void {
    let done = 0;
    while (done < length) {
      const at = BigInt.asUintN(this.longMode ? 64 : 32, linear + BigInt(done));
      const size = Math.min(length - done, bytesInPage(at));
      const gpa = translate(this.guest, this.sregs, at, this.#access(write, cpl));
      if (!this.guest.contains(gpa, size)) throw new Unsupported('its operand is not RAM');
      visit(gpa, done, size);
      done += size;
    }
  }

  // Conditions.

  /** #UD unless a CR4 bit is set. */
  requireCr4(bit: bigint): void {
    if ((this.sregs.cr4 & bit) === 0n) throw undefinedOpcode();
  }
  /** #GP unless at privilege level 0. */
  requireCpl0(): void {
    if (this.cpl !== 0) throw generalProtection();
  }
  /** #NM when the task-switched flag is set: the FPU belongs to another task. */
  requireFpu(): void {
    if ((this.sregs.cr0 & CR0.TS) !== 0n) throw new GuestFault(VECTOR.NM);
  }
  /** What every SSE instruction checks (SDM vol. 3A 14.1). */
  requireSse(): void {
    if ((this.sregs.cr0 & CR0.EM) !== 0n) throw undefinedOpcode();
    this.requireCr4(CR4.OSFXSR);
    this.requireFpu();
  }
  /** What every VEX-encoded vector instruction checks (SDM vol. 1 14.1.3). */
  requireAvx(): void {
    this.requireCr4(CR4.OSXSAVE);
    if (this.realMode || (this.vectors.xcr0 & 6n) !== 6n) throw undefinedOpcode();
    this.requireFpu();
  }
}
