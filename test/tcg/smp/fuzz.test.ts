/** Hostile guests on several vCPUs: random code that changes itself and each other's never throws and never hangs. */
import { Worker } from 'node:worker_threads';
import { afterEach, expect, test } from 'vitest';
import { ENGINE, engineSize, PAGE_MAP_SIZE } from '../../../src/tcg/layout.ts';

const WASM_PAGE = 65536;
const VCPUS = 3;
const RAM = 0x40000;
const RUNS = Number(process.env.TSV_TCG_RUNS ?? 60);
const SEED = Number(process.env.TSV_TCG_SEED ?? 1);

const WORKER = `
import { workerData, parentPort } from 'node:worker_threads';
const load = (name) => import(new URL(name, workerData.dist).href);
const [{ Cpu }, { S, SEG }, { RIGHTS }, { GuestMemory }, { PageTableBuilder }] = await Promise.all(
  ['tcg/cpu.js', 'tcg/layout.js', 'tcg/system/segments.js', 'memory/guest-memory.js', 'memory/page-tables.js'].map(load));
const { memory, regions, index, vcpus, ram, runs } = workerData;
let seed = workerData.seed * 7919 + index;
const random = (below) => {
  seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
  return (seed >>> 8) % below;
};
const guest = new GuestMemory({ memories: [memory], regions });
const cpu = new Cpu({ memory, regions, index, vcpus, hasFeature: () => true });
const { state, system, mmu, log } = cpu;
// What comes up in random code by chance too rarely: locks across words and pages, REP MOVS, CMPXCHG16B, CPUID.
const snippets = ['f0ff4106', 'f0ff81fe0f0000', 'f3a4', 'f0480fc70e', '0fa2', 'f048874ffd', '48890f', 'ebfe'].map((hex) =>
  Buffer.from(hex, 'hex'));
for (let i = 0; i < runs; i++) {
  for (let n = 0; n < 64; n++) {
    const at = random(0x8000);
    if (random(2)) guest.write(at, snippets[random(snippets.length)]);
    else guest.write(at, Uint8Array.from({ length: 64 }, () => random(256)));
  }
  const tables = new PageTableBuilder(guest, { start: 0x10000 + index * 0x8000, end: 0x18000 + index * 0x8000 });
  const { cr3 } = tables.identityMap(0, 2 << 20, { user: true });
  log.clear();
  state.setI32(S.FAULT_VECTOR, -1);
  const cpl = random(2) * 3;
  state.setU64(S.CR0, 0x80050033n);
  state.setU64(S.CR3, cr3);
  state.setU64(S.CR4, 0x6a0n);
  state.setU64(S.EFER, 0xd01n);
  state.setI32(S.CPL, cpl);
  const all = RIGHTS.P | RIGHTS.S | RIGHTS.RW | RIGHTS.ACCESSED | RIGHTS.G | (cpl << 5);
  system.segments.set(SEG.CS, 0x10 | cpl, 0n, 0xffffffff, all | RIGHTS.CODE | RIGHTS.L);
  for (const segment of [SEG.ES, SEG.SS, SEG.DS, SEG.FS, SEG.GS]) {
    system.segments.set(segment, 0x18 | cpl, 0n, 0xffffffff, all | RIGHTS.DB);
  }
  cpu.rflags = 2n;
  for (let n = 0; n < 16; n++) state.setGpr(n, BigInt(random(ram)));
  state.rip = BigInt(random(0x8000));
  mmu.flush();
  mmu.selectTlb();
  for (let step = 0; step < 40; step++) {
    const outcome = cpu.run(500);
    if (outcome === 'device') log.pending.data.fill(random(256));
    if (outcome === 'shutdown' || outcome === 'halt') break;
  }
  log.clear();
}
parentPort.postMessage('done');
`;

const workers: Worker[] = [];
afterEach(async () => {
  await Promise.all(workers.splice(0).map((worker) => worker.terminate()));
});

test('random code on several vCPUs in the same memory runs or faults', { timeout: 120_000 }, async () => {
  const offset = Math.ceil(engineSize(VCPUS) / WASM_PAGE) * WASM_PAGE;
  const pages = (offset + RAM) / WASM_PAGE;
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const regions = [{ gpa: 0, size: RAM, memory: 0, offset }];
  const bytes = new Uint8Array(memory.buffer);
  // The page map has a byte for each page of the memory; the rest of its room is nobody's.
  const unused = bytes.length >>> 12;
  const ends = Array.from({ length: VCPUS }, (_, index) => {
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(WORKER)}`), {
      workerData: {
        dist: new URL('../../../dist/', import.meta.url).href,
        ...{ memory, regions, index, vcpus: VCPUS, ram: RAM, runs: RUNS, seed: SEED },
      },
    });
    workers.push(worker);
    return new Promise<string>((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
  });

  expect(await Promise.all(ends)).toEqual(Array.from({ length: VCPUS }, () => 'done'));
  expect(bytes.subarray(unused, PAGE_MAP_SIZE).every((byte) => byte === 0)).toBe(true);
  const words = new Int32Array(memory.buffer);
  expect([words[ENGINE.EXCLUSIVE >> 2], words[ENGINE.PAIR >> 2]]).toEqual([0, 0]);
});
