/** Debian's cloud kernel with the drivers that it brings. */
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { buildInitramfs } from '../../../src/boot/initramfs/build.ts';
import { VirtioConsole } from '../../../src/devices/virtio/console/console.ts';
import { fetchBusybox, fetchKernel } from '../../../src/host/kernel-fetch.ts';
import { Vm } from '../../../src/index.ts';
import type { BlockBackend } from '../../../src/storage/backend.ts';
import { untilPoweroff } from './support/linux.ts';

/** Only a guest that hangs takes so long, ms. */
const LIMIT = 300_000;
const MIB = 2 ** 20;

/** 32 MiB that outlive a machine. */
class Content implements BlockBackend {
  readonly size = 32 * MIB;
  readonly readOnly = false;
  readonly bytes = new Uint8Array(this.size);
  flushes = 0;
  async read(offset: number, into: readonly Uint8Array[]): Promise<void> {
    let at = offset;
    for (const view of into) {
      view.set(this.bytes.subarray(at, at + view.length));
      at += view.length;
    }
  }
  async write(offset: number, from: readonly Uint8Array[]): Promise<void> {
    let at = offset;
    for (const view of from) {
      this.bytes.set(view, at);
      at += view.length;
    }
  }
  async flush(): Promise<void> {
    this.flushes++;
  }
  async discard(): Promise<void> {}
  async [Symbol.asyncDispose](): Promise<void> {}
}

/** Boots with disk, entropy and a console of two ports. @returns the serial console's output, and the ports' */
async function run(transport: 'mmio' | 'pci', cpus: number, disk: Content, script: string) {
  const kernel = await fetchKernel({});
  const root = join(kernel.vmlinuz, '../..', 'lib/modules', kernel.version);
  const names = ['virtio_mmio', 'virtio_pci', 'virtio_blk', 'virtio_rng', 'virtio_console'];
  const initrd = await buildInitramfs({
    busybox: await fetchBusybox(),
    modules: { root, names },
    command: script,
  });
  const ports = ['', ''];
  const terminal = new VirtioConsole({
    columns: 132,
    rows: 43,
    ports: [0, 1].map((i) => ({
      name: i === 0 ? undefined : 'org.example.stream',
      onOutput: (bytes: Uint8Array) => {
        ports[i] += Buffer.from(bytes).toString('latin1');
        if (i === 1 && ports[1] === 'ready\n') terminal.receive(Buffer.from('from the host\n'), 1);
      },
    })),
  });
  await using vm = await Vm.create({
    accel: 'tcg',
    cpus,
    memory: '256M',
    transport,
    disks: [{ backend: disk, serial: 'content' }],
    virtio: [terminal],
    rng: true,
    boot: { kernel: kernel.vmlinuz, initrd, cmdline: 'console=ttyS0 panic=-1 cryptomgr.notests quiet' },
  });
  return { output: await untilPoweroff(vm, LIMIT), ports };
}

const WAIT = 'i=0; until [ -e /dev/hvc0 ] || [ $i = 50 ]; do sleep 0.1; i=$((i+1)); done';

it(
  'drives disk, entropy and console over MMIO, and finds over PCI what it wrote',
  async () => {
    const disk = new Content();
    const first = await run(
      'mmio',
      1,
      disk,
      `echo "serial $(cat /sys/block/vda/serial) $(cat /sys/block/vda/size)"
       dd if=/dev/urandom of=/tmp/data bs=1M count=6 2>/dev/null
       dd if=/tmp/data of=/dev/vda bs=64k seek=3 conv=fsync 2>/dev/null
       md5sum < /tmp/data
       echo "rng $(cat /sys/class/misc/hw_random/rng_current) $(dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c)"
       ${WAIT}; echo "size $(stty -F /dev/hvc0 size)"; echo terminal > /dev/hvc0
       p=$(grep -l org.example.stream /sys/class/virtio-ports/*/name); p=/dev/$(basename $(dirname $p))
       exec 3<>$p; echo ready >&3; read -r line <&3; echo "port: $line"; exec 3>&-; true`,
    );
    const sum = /^([0-9a-f]{32})/m.exec(first.output)?.[1];
    expect(sum).toBeDefined();
    expect(first.output).toContain(`serial content ${(32 * MIB) / 512}\n`);
    expect(first.output).toContain('rng virtio_rng.0 64\n');
    expect(first.output).toContain('size 43 132\n');
    expect(first.output).toContain('port: from the host\n');
    expect(first.ports).toEqual([expect.stringContaining('terminal'), 'ready\n']);
    expect(disk.flushes).toBeGreaterThan(0);

    const second = await run(
      'pci',
      2,
      disk,
      `dd if=/dev/vda bs=64k skip=3 count=96 2>/dev/null | md5sum
       (dd if=/dev/vda bs=64k skip=3 count=48 2>/dev/null & dd if=/dev/vda bs=64k skip=51 count=48 of=/tmp/b 2>/dev/null; wait) > /tmp/a
       cat /tmp/a /tmp/b | md5sum
       grep -c 'PCI-MSI.*virtio0-req' /proc/interrupts`,
    );
    expect(second.output.match(/^[0-9a-f]{32}/gm)).toEqual([sum, sum]);
    expect(second.output).toMatch(/^2$/m);
  },
  2 * LIMIT,
);
