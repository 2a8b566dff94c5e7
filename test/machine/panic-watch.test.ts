import { describe, expect, it } from 'vitest';
import { PanicWatch } from '../../src/machine/panic-watch.ts';

describe('the panic watch', () => {
  it('finds the whole message however the output is cut', () => {
    const report =
      'ok\r\n[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n[    1.1] Call Trace:\r\n[    1.2] ---[ end Kernel panic - not syncing: VFS ]---\r\n';
    for (let size = 1; size < 80; size++) {
      const messages: string[] = [];
      const watch = new PanicWatch((message) => messages.push(message));

      for (let at = 0; at < report.length; at += size)
        watch.receive(Buffer.from(report.slice(at, at + size)));

      expect(messages, `pieces of ${size}`).toEqual(['VFS: Unable to mount root fs']);
    }
  });

  it('waits for the end of the report, and reports once', () => {
    const messages: string[] = [];
    const watch = new PanicWatch((message) => messages.push(message));
    const say = (text: string) => watch.receive(Buffer.from(text));

    say('Kernel panic - not syncing: one\n');
    const early = [...messages];
    say(`${'trace\n'.repeat(2000)}Rebooting in 5 seconds..`);
    say('Kernel panic - not syncing: two\n---[ end Kernel panic - not syncing: two');

    expect(early).toEqual([]);
    expect(messages).toEqual(['one']);
  });

  it('waits for the last character of the last line', () => {
    const messages: string[] = [];
    const watch = new PanicWatch((message) => messages.push(message));
    const say = (text: string) => watch.receive(Buffer.from(text));

    say('Kernel panic - not syncing: one\r\n---[ end Kernel panic - not syncing: one ]---\r');
    const early = [...messages];
    say('\n');

    expect(early).toEqual([]);
    expect(messages).toEqual(['one']);
  });
});
