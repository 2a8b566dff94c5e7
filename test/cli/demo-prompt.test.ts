import { expect, it } from 'vitest';
import { showsPrompt } from '../../src/cli/demo.ts';

it('knows the prompt of a shell, with and without the question for the cursor', () => {
  expect(showsPrompt('\r\n/ # ')).toBe(true);
  expect(showsPrompt('\r\n/ # \x1b[6n')).toBe(true);
  expect(showsPrompt('#1 SMP PREEMPT')).toBe(false);
  expect(showsPrompt('\r\n/ # ls')).toBe(false);
});
