/** The doctor on the tcg engine: whether it runs here, and how fast. */
import { toTsvError } from '../../errors.ts';
import { tcgSpeed } from '../../tcg/speed.ts';
import type { Check } from './check.ts';

/** Runs guest code on the engine. */
export function tcgCheck(): Check {
  const base = { id: 'engine.tcg', title: 'tcg' } as const;
  try {
    const mips = tcgSpeed();
    return {
      ...base,
      verdict: 'ok',
      detail: `usable, ${mips.toFixed(0)} million instructions a second`,
      data: { mips },
    };
  } catch (error) {
    const { code, message, hint } = toTsvError(
      error,
      'TSV_E_ENGINE',
      error instanceof Error ? error.message : String(error),
      'It needs WebAssembly with threads and SIMD, which every Node.js from 20.17 on has, and some 20 MiB of memory.',
    );
    return { ...base, verdict: 'fail', detail: `${code}: ${message}`, repair: hint };
  }
}
