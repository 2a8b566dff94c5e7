// needs: kvm
/** vCPU threads on the host CPUs they were given. */
import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { bareVm } from '../support/guests.ts';

/** Host CPUs that each thread of this process may run on, as /proc writes such lists. */
function allowedCpus(): string[] {
  return readdirSync('/proc/self/task').map((tid) => {
    const status = readFileSync(`/proc/self/task/${tid}/status`, 'utf8');
    return /^Cpus_allowed_list:\s*(.*)$/m.exec(status)?.[1] ?? '';
  });
}

describe('a pinned vCPU', () => {
  it('has a thread that runs on its host CPU only, the others run where they like', async () => {
    const all = allowedCpus()[0];
    const one = all.split(/[-,]/)[0];
    const count = (cpus: string) => allowedCpus().filter((list) => list === cpus).length;
    const before = { pinned: count(one), free: count(all) };
    await using vm = await bareVm('1: jmp 1b', { cpus: 2, affinity: [[Number(one)]] });
    vm.start();

    // At least one: threads that KVM itself starts from there inherit it.
    expect(count(one)).toBeGreaterThan(before.pinned);
    expect(count(all)).toBeGreaterThan(before.free);
  });

  it('on a host CPU that is not there is refused', async () => {
    await expect(bareVm('hlt', { affinity: [[1023]] })).rejects.toMatchObject({
      code: 'TSV_E_CONFIG',
      message: expect.stringContaining('1023'),
    });
  });
});
