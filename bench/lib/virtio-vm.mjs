/** A program: runs a kernel with a disk under kvm, its console on stdout. `node virtio-vm.mjs KERNEL DISK EVENTFDS` */
import { openDisk, Vm } from '../../dist/index.js';

const [kernel, disk, eventfds] = process.argv.slice(2);
const vm = await Vm.create({
  accel: 'kvm',
  memory: '128M',
  boot: { kernel },
  disks: [{ backend: await openDisk(disk) }],
  eventfds,
});
vm.console.onData((bytes) => void process.stdout.write(bytes));
vm.start();
process.exitCode = (await vm.exited).status;
await vm.close();
