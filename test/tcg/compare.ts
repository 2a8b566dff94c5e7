/** How a case's results on two processors differ. */
import { FLAG } from '../../src/tcg/emit/rflags.ts';
import type { Case, Result } from './oracle.ts';

const COMPARED = FLAG.CF | FLAG.PF | FLAG.AF | FLAG.ZF | FLAG.SF | FLAG.OF | FLAG.DF;

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

/**
 * The first difference, or undefined.
 * @param undefinedFlags flags of RFLAGS that are not compared
 */
export function difference(c: Case, wanted: Result, got: Result, undefinedFlags = 0): string | undefined {
  if ('fault' in wanted || 'fault' in got) {
    const text = (x: Result) => ('fault' in x ? `fault ${x.fault}` : 'no fault');
    return text(wanted) === text(got) ? undefined : `processor: ${text(wanted)}, tcg: ${text(got)}`;
  }
  if (wanted.vector !== got.vector) return `vector: processor ${wanted.vector}, tcg ${got.vector}`;
  const [a, b] = [wanted.state, got.state];
  for (let i = 0; i < 16; i++) {
    if (a.gpr[i] !== b.gpr[i])
      return `r${i}: processor ${a.gpr[i].toString(16)}, tcg ${b.gpr[i].toString(16)} (was ${c.before.gpr[i].toString(16)})`;
  }
  const mask = ~undefinedFlags & COMPARED;
  if ((a.flags ^ b.flags) & mask)
    return `flags: processor ${(a.flags & mask).toString(16)}, tcg ${(b.flags & mask).toString(16)}`;
  for (let i = 0; i < 16; i++) {
    const slice = (s: Uint8Array) => s.subarray(i * 16, i * 16 + 16);
    const [x, y] = [hex(slice(a.xmm)), hex(slice(b.xmm))];
    if (x !== y) return `xmm${i}: processor ${x}, tcg ${y} (was ${hex(slice(c.before.xmm))})`;
  }
  for (let i = 0; i < 8; i++) {
    const slice = (s: Uint8Array) => s.subarray(i * 16, i * 16 + 10);
    const [x, y] = [hex(slice(a.fpr)), hex(slice(b.fpr))];
    if (x !== y) return `r${i} of x87: processor ${x}, tcg ${y} (was ${hex(slice(c.before.fpr))})`;
  }
  for (const word of ['fsw', 'ftw', 'fcw', 'mxcsr'] as const) {
    if (a[word] !== b[word])
      return `${word.toUpperCase()}: processor ${a[word].toString(16)}, tcg ${b[word].toString(16)}`;
  }
  const at = a.data.findIndex((byte, i) => byte !== b.data[i] && !c.varies?.includes(i));
  return at < 0
    ? undefined
    : `data+${at}: processor ${a.data[at].toString(16)}, tcg ${b.data[at].toString(16)}`;
}
