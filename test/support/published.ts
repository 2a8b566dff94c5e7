/** What machines publish on node:diagnostics_channel, one machine's messages at a time. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { afterEach } from 'vitest';
import type { Vm } from '../../src/machine/vm.ts';

const subscriptions: (() => void)[] = [];
afterEach(() => {
  for (const end of subscriptions.splice(0)) end();
});

/** Collects what is published on a channel until the end of the test. @param pick what to keep of a message */
export function published<T>(name: string, pick: (message: T) => unknown): { of(vm: Vm): unknown[] } {
  const all: [Vm, unknown][] = [];
  const listener = (message: unknown) => all.push([(message as { vm: Vm }).vm, pick(message as T)]);
  subscribe(name, listener);
  subscriptions.push(() => unsubscribe(name, listener));
  return { of: (vm) => all.filter(([of]) => of === vm).map(([, what]) => what) };
}
