/** Instructions whose operands need preparing, against the processor this test runs on. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { assistInstruction } from '../../../src/vcpu/assist/index.ts';
import { makeRecord, Random } from './generate.ts';
import { AT, GPR, MEMORY, MEMORY_SIZE, Oracle, physical, STATE, TestCpu } from './machine.ts';

const SEED = Number(process.env.TSV_TEST_SEED ?? 20240607);
const CASES = 300;
const RAX = 0;
const RCX = 1;
const RDX = 2;
const RBX = 3;

let oracle: Oracle;
/** One vCPU for all records, because each loads its whole state. */
const cpu = new TestCpu();
beforeAll(() => {
  oracle = new Oracle();
});
afterAll(() => oracle.close());

function setGpr(record: Uint8Array, number: number, value: bigint): void {
  new DataView(record.buffer).setBigUint64(AT.gpr + 8 * number, value, true);
}

interface After {
  signal: number;
  record: Uint8Array;
}

function emulate(record: Uint8Array): After {
  cpu.loadRecord(record);
  const result = assistInstruction(cpu, cpu.memory);
  expect(result.kind).not.toBe('unsupported');
  const after = cpu.memory.read(physical(STATE), record.length);
  const view = new DataView(after.buffer);
  for (const [i, name] of GPR.entries()) view.setBigUint64(AT.gpr + 8 * i, cpu.state.regs[name], true);
  view.setBigUint64(AT.rflags, cpu.state.regs.rflags, true);
  after.set(cpu.state.xsave.subarray(0, 1024), AT.xsave);
  return {
    signal: result.kind === 'completed' ? 0 : result.kind === 'exception' && result.vector === 6 ? 4 : 11,
    record: after,
  };
}

/** Ranges of an XSAVE area that both sides define: not FIP/FDP, not reserved bytes, not MXCSR_MASK, not the header. */
function areaText(bytes: Uint8Array): string[] {
  const part = (at: number, length: number) => Buffer.from(bytes.subarray(at, at + length)).toString('hex');
  const registers = Array.from({ length: 8 }, (_, i) => part(32 + 16 * i, 10));
  return [part(0, 5), part(24, 4), ...registers, part(160, 256), part(576, 256)];
}

function compare(records: readonly Uint8Array[], memoryText: (memory: Uint8Array) => unknown): number {
  const native = oracle.run(records);
  let executed = 0;
  for (const [i, record] of records.entries()) {
    const ours = emulate(record);
    const signal = new DataView(native[i].buffer, native[i].byteOffset).getUint32(AT.signal, true);
    const text = ({ signal, record }: After) =>
      signal !== 0
        ? { signal }
        : {
            signal,
            gprs: Buffer.from(record.subarray(AT.gpr, AT.gpr + 128)).toString('hex'),
            zf: record[AT.rflags] & 0xd5,
            area: areaText(record.subarray(AT.xsave)),
            memory: memoryText(record.subarray(AT.memory, AT.memory + MEMORY_SIZE)),
          };
    const head = {
      code: Buffer.from(record.subarray(0, 15)).toString('hex'),
      memory: Buffer.from(record.subarray(AT.memory, AT.memory + 32)).toString('hex'),
      rax: record[AT.gpr],
    };
    expect({ head, ...text(ours) }).toEqual({ head, ...text({ signal, record: native[i] }) });
    if (signal === 0) executed++;
  }
  return executed;
}

const wholeMemory = (memory: Uint8Array) => Buffer.from(memory).toString('hex');

test.each([
  ['cmpxchg8b', [0x0f, 0xc7, 0x0b], 0, 8],
  ['lock cmpxchg8b', [0xf0, 0x0f, 0xc7, 0x4b, 0x03], 3, 8],
  ['cmpxchg16b', [0x48, 0x0f, 0xc7, 0x0b], 0, 16],
  ['lock cmpxchg16b', [0xf0, 0x48, 0x0f, 0xc7, 0x4b, 0x10], 16, 16],
  ['cmpxchg16b, misaligned', [0x48, 0x0f, 0xc7, 0x4b, 0x08], 8, 16],
] as const)('%s', (what, code, displacement, size) => {
  const random = new Random(SEED);
  const records = Array.from({ length: CASES }, () => {
    const record = makeRecord(code, random);
    const at = AT.memory + 512 + displacement;
    if (random.chance(50)) {
      // Equal, or different in one bit.
      const half = size / 2;
      record.fill(0, AT.gpr + 8 * RAX, AT.gpr + 8 * RAX + 8);
      record.fill(0, AT.gpr + 8 * RDX, AT.gpr + 8 * RDX + 8);
      record.set(record.slice(at, at + half), AT.gpr + 8 * RAX);
      record.set(record.slice(at + half, at + size), AT.gpr + 8 * RDX);
      if (random.chance(30)) record[AT.gpr + 8 * random.pick([RAX, RDX])] ^= 0x10;
    }
    return record;
  });

  const executed = compare(records, wholeMemory);

  expect(executed).toBe(what.endsWith('misaligned') ? 0 : CASES);
});

/** Gives a record sensible x87 state in its own area, and RBX pointing to a 64-byte aligned area in memory. */
function prepareState(record: Uint8Array, random: Random): void {
  const view = new DataView(record.buffer);
  x87(record.subarray(AT.xsave), random);
  setGpr(record, RBX, BigInt(MEMORY));
  setGpr(record, RAX, BigInt(random.below(8)));
  setGpr(record, RDX, 0n);
  view.setBigUint64(AT.xsave + 512, 7n, true);
}

function x87(area: Uint8Array, random: Random): void {
  const view = new DataView(area.buffer, area.byteOffset, 832);
  area.fill(0, 0, 24);
  view.setUint16(0, 0x37f & ~(random.below(4) << 8), true);
  view.setUint16(2, random.below(8) << 11, true);
  area[4] = random.below(256);
  for (let i = 0; i < 8; i++) {
    area.fill(0, 32 + 16 * i, 48 + 16 * i);
    area.set(random.bytes(10), 32 + 16 * i);
  }
}

/** The area an XSAVE wrote: what is defined of it, and its header. */
function savedArea(memory: Uint8Array): unknown {
  const header = Buffer.from(memory.subarray(512, 576)).toString('hex');
  return { header, area: areaText(memory) };
}

test.each([
  ['xsave64', [0x48, 0x0f, 0xae, 0x23]],
  ['xsaveopt64', [0x48, 0x0f, 0xae, 0x33]],
  ['xsavec64', [0x48, 0x0f, 0xc7, 0x23]],
] as const)('%s', (_, code) => {
  const random = new Random(SEED);
  const records = Array.from({ length: CASES }, () => {
    const record = makeRecord(code, random);
    prepareState(record, random);
    record.fill(0, AT.memory + 520, AT.memory + 576);
    return record;
  });

  const executed = compare(records, savedArea);

  expect(executed).toBe(CASES);
});

test('xrstor64, both formats, good and bad headers', () => {
  const random = new Random(SEED);
  const records = Array.from({ length: CASES * 2 }, () => {
    const record = makeRecord([0x48, 0x0f, 0xae, 0x2b], random);
    prepareState(record, random);
    const memory = record.subarray(AT.memory);
    const view = new DataView(memory.buffer, memory.byteOffset, 832);
    x87(memory, random);
    view.setUint32(24, random.chance(90) ? random.u32() & 0xffff : 0x80000000 | random.u32(), true);
    memory.fill(0, 512, 576);
    view.setBigUint64(512, BigInt(random.below(8)), true);
    if (random.chance(50)) view.setBigUint64(520, (1n << 63n) | BigInt(random.below(8)), true);
    if (random.chance(10)) view.setBigUint64(512, 1n << 62n, true);
    if (random.chance(10)) memory[random.pick([528, 535, 540, 575])] = 1;
    return record;
  });

  const executed = compare(records, wholeMemory);

  expect(executed).toBeGreaterThan(CASES / 4);
});

test('an XSAVE area must be aligned', () => {
  const record = makeRecord([0x48, 0x0f, 0xae, 0x63, 0x20], new Random(SEED));
  prepareState(record, new Random(SEED));

  expect(compare([record], wholeMemory)).toBe(0);
});

test.each([
  ['ldmxcsr', [0x0f, 0xae, 0x13]],
  ['vldmxcsr', [0xc5, 0xf8, 0xae, 0x13]],
] as const)('%s', (_, code) => {
  const random = new Random(SEED);
  const records = Array.from({ length: 60 }, () => {
    const record = makeRecord(code, random);
    const value = random.chance(80) ? random.u32() & 0xffff : 0x80000000;
    new DataView(record.buffer).setUint32(AT.memory + 512, value, true);
    return record;
  });

  expect(compare(records, wholeMemory)).toBeGreaterThan(30);
});

test('emms', () => {
  const random = new Random(SEED);
  const record = makeRecord([0x0f, 0x77], random);
  prepareState(record, random);

  expect(compare([record], wholeMemory)).toBe(1);
});

test('xgetbv of XCR0 has the components this vCPU enabled', () => {
  const record = makeRecord([0x0f, 0x01, 0xd0], new Random(SEED));
  setGpr(record, RCX, 0n);
  const { signal, record: after } = emulate(record);

  const view = new DataView(after.buffer);
  expect(signal).toBe(0);
  expect(view.getBigUint64(AT.gpr + 8 * RAX, true)).toBe(7n);
  expect(view.getBigUint64(AT.gpr + 8 * RDX, true)).toBe(0n);
});
