/** XSAVE and XRSTOR of x87 and SSE state against the host's processor. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { fxrstor, fxsave, xrstor, xsave } from '../../../src/tcg/fpu/fxsave.ts';
import { AreaX87State } from '../../../src/tcg/fpu/state.ts';
import { Random } from '../generate-cases.ts';
import { hostHas } from '../host-features.ts';

// Offsets in a case of xsave-oracle.c.
const AREA = 512;
const REQUESTED = 1088;
const RESTORES = 1092;
const SIGNAL = 1096;
const CASE_BYTES = 1152;
// Offsets in a save area (SDM vol. 1, 10.5.1 and 13.4.2).
const MXCSR = 24;
const MXCSR_MASK = 28;
const AVAILABLE = 416;
const XSTATE_BV = 512;
const XCOMP_BV = 520;

const FORM = { wide: true, longMode: true };
const XCR0 = 3;

const directory = mkdtempSync(join(tmpdir(), 'tsvisor-xsave-'));
afterAll(() => rmSync(directory, { recursive: true }));

function image(r: Random, view: DataView, at: number): void {
  for (let i = 0; i < AVAILABLE; i++) view.setUint8(at + i, r.u32());
  view.setUint32(at + MXCSR, r.below(0x1_0000), true);
  // Nobody sees whether pointers and opcodes of instructions that raised nothing are kept.
  for (let i = 6; i < MXCSR; i++) view.setUint8(at + i, 0);
}

function randomCase(r: Random): Uint8Array {
  const bytes = new Uint8Array(CASE_BYTES);
  const view = new DataView(bytes.buffer);
  image(r, view, 0);
  image(r, view, AREA);
  if (r.chance(10)) view.setUint32(AREA + MXCSR, 0x1_0000, true);
  // Components 3 and 4 are those of MPX, which no XCR0 of today has.
  view.setUint32(AREA + XSTATE_BV, r.chance(90) ? r.below(4) : r.pick([8, 17, 24]), true);
  if (r.chance(10)) view.setUint8(AREA + XCOMP_BV + r.below(16), 1);
  // Reserved behind that, but not looked at.
  if (r.chance(10)) view.setUint8(AREA + XCOMP_BV + 16 + r.below(40), 1);
  view.setUint32(REQUESTED, r.below(4), true);
  view.setUint32(RESTORES, r.below(2), true);
  return bytes;
}

/** Does in place what the oracle does. */
function emulate(bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, CASE_BYTES);
  const state = new AreaX87State(new ArrayBuffer(0x1000), 0);
  fxrstor(state, view, 0, FORM);
  const requested = view.getUint32(REQUESTED, true);
  if (view.getUint32(RESTORES, true) === 0) xsave(state, view, AREA, FORM, requested);
  else if (!xrstor(state, view, AREA, FORM, requested, XCR0)) {
    view.setUint32(SIGNAL, 11, true);
    return;
  }
  fxsave(state, view, 0, FORM);
}

test.runIf(hostHas('xsave'))('XSAVE and XRSTOR do what the processor does', () => {
  const program = join(directory, 'oracle');
  const source = join(import.meta.dirname, 'xsave-oracle.c');
  execFileSync(process.env.CC ?? 'cc', ['-O1', '-o', program, source], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const r = new Random(Number(process.env.TSV_TCG_SEED ?? 1));
  const cases = Array.from({ length: 2000 }, () => randomCase(r));
  const output = execFileSync(program, { input: Buffer.concat(cases), maxBuffer: 1 << 30 });
  const failures: string[] = [];
  cases.forEach((before, i) => {
    const wanted = new Uint8Array(output.subarray(i * CASE_BYTES, (i + 1) * CASE_BYTES));
    const got = before.slice();
    emulate(got);
    // Which bits MXCSR has is the processor's own.
    for (const bytes of [wanted, got])
      for (const at of [0, AREA]) bytes.fill(0, at + MXCSR_MASK, at + MXCSR_MASK + 4);
    const at = wanted.findIndex((byte, k) => byte !== got[k]);
    if (at >= 0) failures.push(`case ${i}, byte ${at}: processor ${wanted[at]}, tcg ${got[at]}`);
  });
  expect(failures.slice(0, 10)).toEqual([]);
});
