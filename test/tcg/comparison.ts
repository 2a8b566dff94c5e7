/** The differential fuzzer's two sides; a case that they disagree on is shrunk and becomes a fixture. */
import { Corpus, hex } from '../fuzz/support.ts';
import { difference } from './compare.ts';
import { type KeptCase, keptCase } from './kept-case.ts';
import { type Case, NOT_RUN, Oracle, Subject } from './oracle.ts';
import { shrink } from './shrink.ts';

/** Where failing cases go; kept-cases.test.ts replays them. */
export const KEPT_CASES = 'instructions';
/** Failures that are shrunk and kept in one run: more would be more of the same. */
const MOST_KEPT = 10;

/** What a comparison leaves out. */
export interface Leniency {
  /** Flags that the instruction leaves undefined. */
  undefinedFlags?: number;
  /** Exceptions on the processor's side count for nothing: it is emulated, and lacks instructions. */
  faults?: boolean;
}

/** The real processor and the tcg engine. Dispose of it. */
export class Comparison implements Disposable {
  readonly oracle = new Oracle();
  readonly subject = new Subject();
  readonly #corpus = new Corpus<KeptCase>(KEPT_CASES);
  #kept = 0;

  /**
   * A software KVM rarely repeats an instruction that it was interrupted in: what differs must differ twice.
   * @returns how the results differ, or undefined
   */
  difference(c: Case, { undefinedFlags, faults = false }: Leniency = {}): string | undefined {
    const once = () => {
      const wanted = this.oracle.run(c);
      if ('fault' in wanted && (faults || wanted.fault <= NOT_RUN)) return undefined;
      return difference(c, wanted, this.subject.run(c), undefinedFlags);
    };
    return once() === undefined ? undefined : once();
  }

  /**
   * Compares the results; a case that fails is made small and kept.
   * @param name of the case, unique and fit for a file
   * @returns what is wrong, or undefined
   */
  check(name: string, c: Case, leniency: Leniency = {}): string | undefined {
    const found = this.difference(c, leniency);
    if (found === undefined) return undefined;
    if (this.#kept >= MOST_KEPT) return `${name}: ${hex(c.code)}: ${found}`;
    this.#kept++;
    const small = shrink(c, (smaller) => this.difference(smaller, leniency) !== undefined);
    const about = this.difference(small, leniency) ?? found;
    const kept = keptCase(about, small, this.oracle.run(small), leniency.undefinedFlags);
    return `${name}: ${hex(small.code)}: ${about}, kept as ${this.#corpus.keep(kept, name)}`;
  }

  [Symbol.dispose](): void {
    this.oracle[Symbol.dispose]();
  }
}
