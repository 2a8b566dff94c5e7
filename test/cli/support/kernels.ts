/** Kernels that are small enough for tests, and caches with them. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { fakeBusybox } from './guests.ts';

/** A bzImage with a GZIP payload (Linux Documentation/arch/x86/boot.rst). */
export function bzImage(payload: Uint8Array): Uint8Array {
  const setup = 1024;
  const packed = gzipSync(payload);
  const offset = 16;
  const size = Math.ceil((offset + packed.length) / 16) * 16;
  const image = Buffer.alloc(setup + size);
  image[0x1f1] = 1; // setup_sects
  image.writeUInt32LE(size / 16, 0x1f4); // syssize
  image.writeUInt16LE(0xaa55, 0x1fe); // boot_flag
  image.writeUInt16LE(0x66eb, 0x200); // jump, up to the end of the header
  image.write('HdrS', 0x202, 'latin1');
  image.writeUInt16LE(0x020f, 0x206); // version 2.15
  image[0x211] = 1; // LOADED_HIGH
  image.writeUInt32LE(0x100000, 0x214); // code32_start
  image.writeUInt32LE(0x200000, 0x230); // kernel_alignment
  image.writeUInt16LE(1, 0x236); // XLF_KERNEL_64
  image.writeUInt32LE(2047, 0x238); // cmdline_size
  image.writeUInt32LE(offset, 0x248); // payload_offset
  image.writeUInt32LE(packed.length, 0x24c); // payload_length
  image.writeUInt32LE(0x1000000, 0x260); // init_size
  packed.copy(image, setup + offset);
  return image;
}

/** Puts a kernel into a cache as if it had been fetched. @returns the path of its bzImage */
export function cacheKernel(cache: string, vmlinux: Uint8Array): string {
  const root = join(cache, 'linux-image-1-test_1');
  mkdirSync(join(root, 'boot'), { recursive: true });
  mkdirSync(join(root, 'lib/modules/1-test/kernel'), { recursive: true });
  const vmlinuz = join(root, 'boot/vmlinuz-1-test');
  writeFileSync(vmlinuz, bzImage(vmlinux));
  writeFileSync(join(root, 'boot/config-1-test'), 'CONFIG_X=y\n');
  const note = { name: 'linux-image-1-test', version: '1', root };
  writeFileSync(join(cache, 'linux-image-cloud-amd64.json'), JSON.stringify(note));
  return vmlinuz;
}

/** The same for busybox. */
export function cacheBusybox(cache: string): void {
  const root = join(cache, 'busybox-static_1');
  mkdirSync(join(root, 'bin'), { recursive: true });
  writeFileSync(join(root, 'bin/busybox'), fakeBusybox());
  writeFileSync(
    join(cache, 'busybox-static.json'),
    JSON.stringify({ name: 'busybox-static', version: '1', root }),
  );
}
