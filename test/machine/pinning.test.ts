// needs: addon
/** vCPU threads on the host CPUs they were given. */
import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { ENGINES } from '../support/engines.ts';
import { guestsOn } from '../support/guests.ts';

/** Host CPUs that a thread of this process may run on, as /proc writes such lists. */
function allowed(tid: string): string | undefined {
  return field(tid, 'status', /^Cpus_allowed_list:\s*(\S+)/m);
}

/** Threads of this process but those that KVM starts from a vCPU's thread, which inherit its CPUs (kvm-nx-lpage-...). */
function threads(): string[] {
  return readdirSync('/proc/self/task').filter((tid) => !field(tid, 'comm', /(.*)/)?.startsWith('kvm'));
}

function field(tid: string, file: string, pattern: RegExp): string | undefined {
  try {
    return pattern.exec(readFileSync(`/proc/self/task/${tid}/${file}`, 'utf8'))?.[1];
  } catch {
    // The thread has ended since it was listed.
  }
}

describe.each(ENGINES)('pinning on %s', (accel) => {
  const { bareVm, longModeVm } = guestsOn(accel);

  it('puts each vCPU thread where it was told, and no other thread', async () => {
    const before = new Set(threads());
    const own = allowed(String(process.pid));
    await using vm = await longModeVm('1: jmp 1b', { cpus: 2, startAll: true, affinity: [[0]] });
    vm.start();

    const lists = threads()
      .filter((tid) => !before.has(tid))
      .map(allowed)
      .filter((list) => list !== undefined && list !== own);

    // A Node worker may have helpers, which inherit nothing: exactly one thread is pinned.
    expect(lists).toEqual(['0']);
    expect(allowed(String(process.pid))).toBe(own);
  });

  it('to a host CPU that is not there is refused', async () => {
    await expect(bareVm('hlt', { affinity: [[1000]] })).rejects.toMatchObject({
      code: 'TSV_E_CONFIG',
      message: expect.stringContaining('1000'),
    });
  });
});
