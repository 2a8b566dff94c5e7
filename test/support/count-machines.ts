/** Counts the machines that each test process runs on KVM, for the summary of global-setup.ts. */
import { subscribe } from 'node:diagnostics_channel';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

const directory = process.env.TSVISOR_TEST_COUNTS;
let count = 0;

if (directory !== undefined) {
  subscribe('tsvisor:state', (message) => {
    const { vm, state } = message as { vm: { accel: { engine: string } }; state: string };
    if (state !== 'stopped' || vm.accel.engine !== 'kvm') return;
    writeFileSync(join(directory, String(process.pid)), String(++count));
  });
}
