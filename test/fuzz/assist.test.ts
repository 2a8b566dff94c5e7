/** The emulation assist on random instructions, registers, segments and page tables, without any KVM below it. */
import { describe, expect, it } from 'vitest';
import { TsvError } from '../../src/errors.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { assistInstruction, injectException } from '../../src/vcpu/assist/index.ts';
import { OPERATIONS } from '../../src/vcpu/assist/table.ts';
import { CR0, CR4, EFER, realModeEntry } from '../../src/vcpu/entry.ts';
import type { Regs, Segment, Sregs, VcpuState } from '../../src/vcpu/state.ts';
import { Random as EncodingRandom, encode } from '../vcpu/assist/generate.ts';
import { TestCpu } from '../vcpu/assist/machine.ts';
import { Corpus, canariesAround, hex, patience, Random, unhex } from './support.ts';

const SECONDS = 8;
const RAM = 0x10000;
const SLACK = 0x10000;
const MODES = [
  'real',
  'protected16',
  'protected32',
  'legacy-paging',
  'pae',
  'compatibility',
  'long',
] as const;
type Mode = (typeof MODES)[number];
const SEGMENTS = ['cs', 'ds', 'es', 'fs', 'gs', 'ss', 'tr', 'ldt'] as const;

/** An input; 64-bit values as hexadecimal text. */
interface Input {
  code: string;
  regs: Record<keyof Regs, string>;
  sregs: string;
  memorySeed: number;
  xcr0: string;
}

const host = new WebAssembly.Memory({ initial: 3, maximum: 3, shared: true });
const memory = new GuestMemory({
  memories: [host],
  regions: [{ gpa: 0, size: RAM, memory: 0, offset: SLACK }],
});
const canaries = canariesAround(memory);

const packed = (value: unknown) =>
  JSON.stringify(value, (_, v) => (typeof v === 'bigint' ? `0x${v.toString(16)}n` : v));
const unpacked = <T>(text: string): T =>
  JSON.parse(text, (_, v) =>
    typeof v === 'string' && /^0x[0-9a-f]+n$/.test(v) ? BigInt(v.slice(0, -1)) : v,
  );

function makeInput(random: Random): Input {
  const mode = random.pick(MODES);
  const { regs, sregs } = realModeEntry({ cs: 0, ip: 0 });
  for (const name of Object.keys(regs) as (keyof Regs)[])
    regs[name] = random.chance(60) ? BigInt(random.below(RAM)) : random.evil64();
  regs.rflags = (random.chance(50) ? 0x202n : BigInt(random.u32() & 0x3f7fd7)) | 2n;
  // Often at the end of a page or of RAM.
  regs.rip = BigInt(random.chance(30) ? 0x1000 * random.below(17) - random.below(16) : random.below(RAM));
  if (regs.rip < 0n || random.chance(3)) regs.rip = random.evil64();
  setMode(sregs, mode, random);
  if (random.chance(40)) mutate(sregs, random);
  return {
    code: hex(makeCode(random)),
    regs: Object.fromEntries(
      Object.entries(regs).map(([k, v]) => [k, `0x${v.toString(16)}`]),
    ) as Input['regs'],
    sregs: packed(sregs),
    memorySeed: random.u32(),
    xcr0: `0x${(random.chance(80) ? 7n : random.evil64()).toString(16)}`,
  };
}

function makeCode(random: Random): Uint8Array {
  const kind = random.below(10);
  if (kind < 2) return random.bytes(15);
  const operation = random.pick(OPERATIONS);
  const code = [...encode(operation, new EncodingRandom(random.u32()), true)];
  const prefixes = [0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0x48, 0x41];
  if (kind < 5) while (random.chance(50)) code.unshift(random.pick(prefixes));
  if (kind === 9) code[random.below(code.length)] = random.below(256);
  return Uint8Array.from([...code, ...random.bytes(15)].slice(0, 15));
}

function setMode(sregs: Sregs, mode: Mode, random: Random): void {
  const protectedMode = mode !== 'real';
  const long = mode === 'long' || mode === 'compatibility';
  const cpl = protectedMode && random.chance(40) ? 3 : 0;
  if (protectedMode) {
    sregs.cr0 |= CR0.PE | (random.chance(50) ? CR0.WP : 0n);
    for (const name of SEGMENTS) {
      Object.assign(sregs[name], { limit: 0xffffffff, g: 1, dpl: cpl, selector: 8 * random.below(8) + cpl });
    }
    sregs.cs.db = mode === 'protected16' || mode === 'long' ? 0 : 1;
    sregs.ss.db = random.below(2);
    sregs.tr.s = 0;
    sregs.ldt.s = 0;
  }
  if (['legacy-paging', 'pae', 'compatibility', 'long'].includes(mode)) sregs.cr0 |= CR0.PG;
  if (mode !== 'legacy-paging') sregs.cr4 |= CR4.PAE;
  if (long) sregs.efer |= EFER.LME | EFER.LMA | EFER.NXE;
  if (mode === 'long') sregs.cs.l = 1;
  if (random.chance(70)) sregs.cr4 |= CR4.OSFXSR | CR4.OSXSAVE | CR4.OSXMMEXCPT | CR4.FSGSBASE;
  if (random.chance(20)) sregs.cr4 |= CR4.SMAP;
  if (random.chance(10) && long) sregs.cr4 |= CR4.LA57;
  sregs.cr3 = BigInt(random.below(RAM >> 12) << 12);
  for (const table of [sregs.gdt, sregs.idt]) {
    table.base = BigInt(random.below(RAM));
    table.limit = random.below(0x1000);
  }
  for (const name of ['tr', 'ldt'] as const) sregs[name].base = BigInt(random.below(RAM));
}

/** Any value that struct kvm_sregs can hold. */
function mutate(sregs: Sregs, random: Random): void {
  do {
    const segment: Segment = sregs[random.pick(SEGMENTS)];
    switch (random.below(8)) {
      case 0:
        segment.base = random.evil64();
        break;
      case 1:
        segment.limit = random.evil32();
        break;
      case 2:
        segment.type = random.below(16);
        break;
      case 3:
        Object.assign(segment, { present: random.below(2), unusable: random.below(2) });
        break;
      case 4:
        Object.assign(segment, { db: random.below(2), l: random.below(2), s: random.below(2) });
        break;
      case 5:
        Object.assign(segment, { dpl: random.below(4), selector: random.below(0x10000) });
        break;
      case 6:
        Object.assign(random.pick([sregs.gdt, sregs.idt]), {
          base: random.evil64(),
          limit: random.below(0x10000),
        });
        break;
      default:
        sregs[random.pick(['cr0', 'cr3', 'cr4', 'efer'] as const)] ^= random.evil64();
    }
  } while (random.chance(60));
}

/** Page tables that lead somewhere more often than not: present entries that point into RAM, or at its end. */
function fillMemory(seed: number): void {
  const random = new Random(seed);
  const words = new Uint32Array(host.buffer, SLACK, RAM >> 2);
  const noise = random.below(4);
  for (let i = 0; i < words.length; i += 2) {
    const page = random.below((RAM >> 12) + 1) << 12;
    words[i] =
      random.below(4) < noise ? random.u32() : page | (random.u32() & 0x67) | (random.chance(90) ? 1 : 0);
    words[i + 1] = random.below(8) < noise ? random.u32() : 0;
  }
}

const cpu = new TestCpu();
const INITIAL = structuredClone(cpu.state);

function load(input: Input): void {
  cpu.state = structuredClone(INITIAL);
  cpu.msrs.clear();
  cpu.sets.length = 0;
  cpu.state.regs = Object.fromEntries(
    Object.entries(input.regs).map(([name, value]) => [name, BigInt(value)]),
  ) as unknown as Regs;
  cpu.state.sregs = unpacked<Sregs>(input.sregs);
  cpu.state.xcrs = [{ xcr: 0, value: BigInt(input.xcr0) }];
}

/** Puts the code where RIP leads as far as that is simple to say; elsewhere the memory's own bytes are executed. */
function placeCode(input: Input): void {
  const { cr0, cs, efer } = cpu.state.sregs;
  const paged = (cr0 & CR0.PG) !== 0n;
  const base = (efer & EFER.LMA) !== 0n && cs.l === 1 ? 0n : cs.base;
  const at = Number(BigInt.asUintN(32, base + BigInt(input.regs.rip)));
  const code = unhex(input.code);
  for (let i = 0; i < code.length; i++)
    if (!paged && memory.contains(at + i, 1)) memory.writeU8(at + i, code[i]);
}

function checkState(state: VcpuState): void {
  for (const value of Object.values(state.regs)) {
    expect(typeof value).toBe('bigint');
    if (value < 0n || value >= 1n << 64n) throw new Error(`a register holds ${value}`);
  }
  const limits: Partial<Record<keyof Segment, number>> = {
    limit: 2 ** 32 - 1,
    selector: 0xffff,
    type: 15,
    dpl: 3,
    present: 1,
    unusable: 1,
    db: 1,
    l: 1,
    s: 1,
    g: 1,
    avl: 1,
  };
  for (const name of SEGMENTS) {
    const segment = state.sregs[name];
    if (segment.base < 0n || segment.base >= 1n << 64n) throw new Error(`${name}.base is ${segment.base}`);
    for (const [field, most] of Object.entries(limits)) {
      const value = segment[field as 'limit'];
      if (!Number.isInteger(value) || value < 0 || value > most)
        throw new Error(`${name}.${field} is ${value}`);
    }
  }
}

const outcomes = new Map<string, number>();
const mnemonics = new Set<string>();

function run(input: Input): void {
  fillMemory(input.memorySeed);
  load(input);
  placeCode(input);
  const before = packed([cpu.state.regs, cpu.state.sregs]);
  let result: ReturnType<typeof assistInstruction>;
  try {
    result = assistInstruction(
      cpu,
      memory,
      { lock: new Int32Array(new SharedArrayBuffer(4)) },
      unhex(input.code),
    );
  } catch (error) {
    if (error instanceof TsvError && error.code !== 'TSV_E_INTERNAL') return;
    throw error;
  }
  checkState(cpu.state);
  outcomes.set(result.kind, (outcomes.get(result.kind) ?? 0) + 1);
  if (result.kind === 'completed') mnemonics.add(result.mnemonic);
  if (result.kind === 'unsupported') {
    expect(packed([cpu.state.regs, cpu.state.sregs])).toBe(before);
    expect(result.reason).not.toMatch(/undefined|NaN|\[object/);
  }
  if (result.kind === 'exception') {
    expect(result.vector).toBeGreaterThanOrEqual(0);
    expect(result.vector).toBeLessThan(32);
    if (result.errorCode !== undefined) expect(result.errorCode >>> 0).toBe(result.errorCode);
    injectException(cpu, result);
    checkState(cpu.state);
  }
}

describe('the emulation assist', () => {
  it(
    'answers any instruction in any state with a result, and touches nothing but guest RAM',
    async () => {
      const count = await new Corpus<Input>('assist').run({ seconds: SECONDS, make: makeInput }, run);

      expect(canaries).toHaveLength(2);
      expect(canaries.every((canary) => canary.intact)).toBe(true);
      // The fuzzer is of no use unless it gets everywhere.
      expect([...outcomes.keys()].sort()).toEqual(['completed', 'exception', 'unsupported']);
      expect(mnemonics.size, `${count} cases`).toBeGreaterThan(50);
    },
    patience(SECONDS),
  );
});
