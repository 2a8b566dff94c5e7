/** Makes a case that fails as small as it fails: fewer instructions, less state. */
import { type Case, type CaseState, DATA, DATA_SIZE } from './oracle.ts';

/** A state as a program might begin with; RSP points into the data page. */
export function plainState(): CaseState {
  const gpr = Array.from({ length: 16 }, () => 0n);
  gpr[4] = BigInt(DATA + 2048);
  return {
    gpr,
    flags: 0,
    mxcsr: 0x1f80,
    xmm: new Uint8Array(256),
    fpr: new Uint8Array(128),
    fcw: 0x37f,
    fsw: 0,
    ftw: 0,
    data: new Uint8Array(DATA_SIZE),
  };
}

/**
 * @param fails whether a case still fails; it is asked some hundred times
 * @returns a case that fails, and has nothing that it could do without
 */
export function shrink(c: Case, fails: (smaller: Case) => boolean): Case {
  let best = c;
  const attempt = (smaller: Case): boolean => {
    if (!fails(smaller)) return false;
    best = smaller;
    return true;
  };
  let parts = [...(c.parts ?? [c.code])];
  // From the end: what an instruction needs comes before it.
  for (let i = parts.length - 1; i >= 0 && parts.length > 1; i--) {
    const fewer = parts.filter((_, at) => at !== i);
    if (attempt({ ...best, code: joined(fewer), parts: fewer })) parts = fewer;
  }
  const plain = plainState();
  const withState = (change: Partial<CaseState>) =>
    attempt({ ...best, before: { ...best.before, ...change } });
  for (const word of ['flags', 'mxcsr', 'fcw', 'fsw', 'ftw'] as const) {
    if (best.before[word] !== plain[word]) withState({ [word]: plain[word] });
  }
  for (let i = 0; i < 16; i++) {
    if (best.before.gpr[i] !== plain.gpr[i]) withState({ gpr: best.before.gpr.with(i, plain.gpr[i]) });
  }
  for (const bytes of ['xmm', 'fpr', 'data'] as const) {
    clear(best.before[bytes], (smaller) => withState({ [bytes]: smaller }));
  }
  return best;
}

/** Clears what may be cleared: all, or each half as far as it may. */
function clear(bytes: Uint8Array, attempt: (smaller: Uint8Array) => boolean): void {
  let current = bytes;
  const clearRange = (start: number, end: number): void => {
    if (current.subarray(start, end).every((byte) => byte === 0)) return;
    const smaller = current.slice().fill(0, start, end);
    if (attempt(smaller)) current = smaller;
    else if (end - start > 1) {
      const middle = (start + end) >> 1;
      clearRange(start, middle);
      clearRange(middle, end);
    }
  };
  clearRange(0, bytes.length);
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}
