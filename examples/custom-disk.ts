/** Linux reads a disk that is not a file: a TypeScript object makes up each sector when it is asked for. */
import { type BlockBackend, buildInitramfs, fetchBusybox, fetchKernel, Vm } from 'tsvisor';

const SECTOR = 512;

/** A disk whose sectors say what they are. */
class NumberedDisk implements BlockBackend {
  readonly size = 2 ** 30;
  readonly readOnly = true;

  async read(offset: number, into: readonly Uint8Array[]) {
    for (const buffer of into) {
      for (let at = 0; at < buffer.length; at += SECTOR, offset += SECTOR)
        buffer.set(Buffer.from(`This is sector ${offset / SECTOR}.\n`.padEnd(SECTOR, '.')), at);
    }
  }
  async write() {
    throw new Error('read-only');
  }
  async flush() {}
  async [Symbol.asyncDispose]() {}
}

const kernel = await fetchKernel();
await using vm = await Vm.create({
  accel: 'tcg',
  memory: '256M',
  disks: [{ backend: new NumberedDisk() }],
  boot: {
    kernel: kernel.vmlinuz,
    initrd: await buildInitramfs({
      busybox: await fetchBusybox(),
      modules: { root: kernel.modules, names: ['virtio_mmio', 'virtio_blk'] },
      command: 'dd if=/dev/vda bs=512 skip=1234567 count=1 2>/dev/null | head -n 1',
    }),
    cmdline: 'console=ttyS0 quiet panic=-1 cryptomgr.notests',
  },
});
vm.console.onData((bytes) => {
  process.stdout.write(bytes);
});
vm.start();
console.log(`The guest ended with ${(await vm.exited).reason}.`);
