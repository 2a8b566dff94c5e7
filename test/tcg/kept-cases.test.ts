/** Cases that the tcg engine once had wrong, or that are easily got wrong, with what the real processor makes of them. */
import { expect, test } from 'vitest';
import { Corpus } from '../fuzz/support.ts';
import { difference } from './compare.ts';
import { caseOf, type KeptCase, keptCase } from './kept-case.ts';
import { Subject } from './oracle.ts';

const subject = new Subject();

test.each(new Corpus<KeptCase>('instructions').inputs())('%s', (_, kept) => {
  const { c, wanted } = caseOf(kept);
  expect(difference(c, wanted, subject.run(c), kept.undefinedFlags)).toBeUndefined();
  // What is on file says all of it.
  expect(keptCase(kept.about, c, wanted, kept.undefinedFlags)).toEqual(kept);
});
