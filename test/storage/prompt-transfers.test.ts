/** When a transfer is done on the event loop, and when it is not. */
import { expect, test } from 'vitest';
import { PromptTransfers } from '../../src/storage/prompt-transfers.ts';

function transfers() {
  let now = 1000;
  const prompt = new PromptTransfers(() => now);
  return {
    prompt,
    /** A transfer that takes so many milliseconds. */
    run: (took: number) =>
      prompt.run(() => {
        now += took;
        return 512;
      }),
    wait: (ms: number) => {
      now += ms;
    },
  };
}

test('small transfers are done at once as long as they are quick', () => {
  const { prompt, run } = transfers();
  for (let i = 0; i < 5; i++) {
    expect(prompt.accepts(4096)).toBe(true);
    expect(run(0.05)).toBe(512);
  }
  expect(prompt.accepts(65536)).toBe(true);
  expect(prompt.accepts(65537)).toBe(false);
});

test('one that has waited for a disk sends the next ones to the thread pool, longer each time', () => {
  const { prompt, run, wait } = transfers();
  const pauses = [20, 40, 80, 160, 320, 640, 1280, 2000, 2000];
  for (const pause of pauses) {
    run(8);
    expect(prompt.accepts(512)).toBe(false);
    wait(pause - 1);
    expect(prompt.accepts(512)).toBe(false);
    wait(1);
    expect(prompt.accepts(512)).toBe(true);
  }
  // Quick again: what was learnt is unlearnt step by step.
  for (let i = 0; i < 10; i++) run(0.01);
  run(8);
  wait(20);
  expect(prompt.accepts(512)).toBe(true);
});

test('a failure is passed on', () => {
  const { prompt } = transfers();
  const fail = () => {
    throw new Error('EIO');
  };
  expect(() => prompt.run(fail)).toThrow('EIO');
});
