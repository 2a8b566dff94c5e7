/** What the doctor finds: one check for each thing looked at. */

/** `fail`: something does not work because of it. `warn`: it works, but worse than it could. */
export type Verdict = 'ok' | 'warn' | 'fail';

/** A finding. */
export interface Check {
  /** Stable name for scripts. */
  readonly id: string;
  readonly title: string;
  readonly verdict: Verdict;
  /** What was found, one line. */
  readonly detail: string;
  /** What to do about it: a command where there is one. */
  readonly repair?: string;
  /** Figures for scripts. */
  readonly data?: Readonly<Record<string, unknown>>;
}

/** Findings on one subject. */
export interface Section {
  readonly title: string;
  readonly checks: readonly Check[];
}
