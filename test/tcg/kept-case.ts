/**
 * Cases as files, fixtures/fuzz/instructions/*.json: code, what differs from a plain state before it, and what the real
 * processor made of it. They need no KVM to be replayed.
 */
import { hex, unhex } from '../fuzz/support.ts';
import type { Case, CaseState, CaseWidth, Result } from './oracle.ts';
import { plainState } from './shrink.ts';

/** Numbers as hexadecimal text; registers and bytes by their index or offset. */
interface KeptState {
  gpr?: Record<string, string>;
  flags?: string;
  mxcsr?: string;
  fcw?: string;
  fsw?: string;
  ftw?: string;
  xmm?: Record<string, string>;
  fpr?: Record<string, string>;
  data?: Record<string, string>;
}

/** A case and the processor's result of it. */
export interface KeptCase {
  /** What it shows. */
  about: string;
  code: string;
  width?: CaseWidth;
  /** Flags that are not compared. */
  undefinedFlags?: number;
  varies?: readonly number[];
  /** What differs from {@link plainState}. */
  before: KeptState;
  /** What differs from `before`; `vector` of the exception, if any. */
  after: (KeptState & { vector?: number }) | { fault: number };
}

const WORDS = ['flags', 'mxcsr', 'fcw', 'fsw', 'ftw'] as const;
/** Bytes that are kept as one. */
const GROUPS = { xmm: 16, fpr: 16, data: 16 } as const;
const VECTORS = ['xmm', 'fpr', 'data'] as const;

function changes(from: CaseState, to: CaseState): KeptState {
  const kept: KeptState = {};
  to.gpr.forEach((value, i) => {
    if (value !== from.gpr[i]) kept.gpr = { ...kept.gpr, [i]: value.toString(16) };
  });
  for (const word of WORDS) if (to[word] !== from[word]) kept[word] = to[word].toString(16);
  for (const name of VECTORS) {
    const size = GROUPS[name];
    for (let at = 0; at < to[name].length; at += size) {
      const text = hex(to[name].subarray(at, at + size));
      const key = name === 'data' ? at : at / size;
      if (text !== hex(from[name].subarray(at, at + size))) kept[name] = { ...kept[name], [key]: text };
    }
  }
  return kept;
}

function applied(state: CaseState, kept: KeptState): CaseState {
  const result = structuredClone(state);
  for (const [i, text] of Object.entries(kept.gpr ?? {})) result.gpr[Number(i)] = BigInt(`0x${text}`);
  for (const word of WORDS) {
    const text = kept[word];
    if (text !== undefined) result[word] = Number.parseInt(text, 16);
  }
  for (const name of VECTORS) {
    const unit = name === 'data' ? 1 : GROUPS[name];
    for (const [i, text] of Object.entries(kept[name] ?? {})) result[name].set(unhex(text), Number(i) * unit);
  }
  return result;
}

/** A case to be kept. @param wanted what the real processor makes of it */
export function keptCase(about: string, c: Case, wanted: Result, undefinedFlags = 0): KeptCase {
  const { code, before, width, varies } = c;
  return {
    about,
    code: hex(code),
    ...(width === 32 ? { width } : {}),
    ...(undefinedFlags === 0 ? {} : { undefinedFlags }),
    ...(varies === undefined || varies.length === 0 ? {} : { varies }),
    before: changes(plainState(), before),
    after:
      'fault' in wanted
        ? { fault: wanted.fault }
        : {
            ...changes(before, wanted.state),
            ...(wanted.vector === 0 ? {} : { vector: wanted.vector }),
          },
  };
}

/** The case, and the result it must have. */
export function caseOf(kept: KeptCase): { c: Case; wanted: Result } {
  const before = applied(plainState(), kept.before);
  const { after, width = 64, varies } = kept;
  const c: Case = { code: unhex(kept.code), before, width, varies };
  if ('fault' in after) return { c, wanted: { fault: after.fault } };
  return { c, wanted: { state: applied(before, after), vector: after.vector ?? 0 } };
}
