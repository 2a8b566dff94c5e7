/** Small guests for every mechanism of the system: each prints the same on tcg, on KVM, and on paper (SDM). */
import { describe, expect, it } from 'vitest';
import { probeKvm } from '../../src/kvm/probe.ts';
import { ENGINES } from '../support/engines.ts';
import type { GuestCase } from './case.ts';
import { runGuest } from './run.ts';
import { TOPICS } from './topics.ts';

const isSoftware = ENGINES.includes('kvm') && probeKvm().software;

/** Why this host's KVM cannot run a guest. */
const lacking = (guest: GuestCase) => guest.notOnKvm ?? (isSoftware ? guest.notOnSoftwareKvm : undefined);

if (ENGINES.includes('kvm')) {
  for (const guest of Object.values(TOPICS).flat()) {
    const lacks = lacking(guest);
    if (lacks !== undefined) console.warn(`guests: left out on this KVM: ${guest.name}: ${lacks}`);
  }
}

describe.each(ENGINES)('on %s', (accel) => {
  describe.each(Object.entries(TOPICS))('%s', (_, cases) => {
    for (const guest of cases) {
      const lacks = accel === 'kvm' ? lacking(guest) : undefined;
      const name = lacks === undefined ? guest.name : `${guest.name} (not on this KVM: ${lacks})`;
      it.skipIf(lacks !== undefined)(name, { timeout: 60_000 }, async () => {
        const { output, ends } = await runGuest(accel, guest);

        expect(output).toBe(guest.output);
        expect(ends).toBe(guest.ends ?? 'halt');
      });
    }
  });
});
