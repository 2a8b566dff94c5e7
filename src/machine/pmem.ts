/** A machine's persistent memory: where it lies, and what it takes. */
import { PMEM_ALIGNMENT } from '../devices/virtio/pmem/abi.ts';
import { VirtioPmem } from '../devices/virtio/pmem/pmem.ts';
import { PmemWriteGuard } from '../devices/virtio/pmem/write-guard.ts';
import { TsvError } from '../errors.ts';
import { loadNative, nativeMemory, nativeProblem } from '../kvm/native.ts';
import { releaseBytes } from '../memory/allocate.ts';
import { makeMergeable } from '../memory/backends.ts';
import { MMIO_HOLE_END } from '../memory/layout.ts';
import type { BlockBackend } from '../storage/backend.ts';
import type { ResolvedConfig } from './config.ts';
import type { Vm } from './vm.ts';

/**
 * A disk image in the guest's physical memory: /dev/pmem0 of a Linux guest, fastest with a file system that is mounted
 * read-only, and without a copy in the guest's page cache with `dax`. It takes as much of the host's memory as it has
 * content; machines with the same content share it when they are `mergeable`.
 */
export interface PmemConfig {
  /**
   * Where the content comes from: an image of `openDisk`, or an object of your own. It is read when the machine is
   * created, and closed then. Nothing is ever written to it.
   */
  backend: BlockBackend;
  /** The guest may write; that lasts as long as the machine. Default false: writes are lost, and flushing them fails. */
  overlay?: boolean;
}

/** Most bytes of one: what a WebAssembly memory has room for when it is aligned. */
const MAX_SIZE = 3 * 2 ** 30;
/** Linux manages memory by sections of this many bytes: memory of two kinds must not share one. */
const SECTION = 2 ** 27;

/** Bytes of guest memory for an image. Images that are not made of whole 2 MiB are continued with zeros. */
function roundedSize({ backend }: PmemConfig): number {
  return Math.ceil(backend.size / PMEM_ALIGNMENT) * PMEM_ALIGNMENT;
}

/** Bytes of all persistent memory of a machine. */
export function pmemSize({ pmem }: Pick<ResolvedConfig, 'pmem'>): number {
  return pmem.reduce((sum, config) => sum + roundedSize(config), 0);
}

/** @throws TSV_E_CONFIG, TSV_E_MEMORY_SIZE for images that cannot be persistent memory */
export function checkPmem({ pmem }: Pick<ResolvedConfig, 'pmem'>): void {
  for (const [i, { backend }] of pmem.entries()) {
    const { size } = backend;
    if (!Number.isSafeInteger(size) || size <= 0) {
      throw new TsvError('TSV_E_CONFIG', `The image for persistent memory ${i} is empty.`, {
        hint: 'Give an image with a file system.',
      });
    }
    if (size > MAX_SIZE) {
      const mib = Math.ceil(size / 2 ** 20);
      throw new TsvError('TSV_E_MEMORY_SIZE', `The image for persistent memory ${i} has ${mib} MiB.`, {
        hint: `At most ${MAX_SIZE / 2 ** 20} MiB can be mapped; use it as a disk.`,
      });
    }
  }
}

/** The machine's devices, and the content that is still on its way into them. */
export interface MachinePmem {
  readonly devices: readonly VirtioPmem[];
  /** Begins to read the images. @returns a promise that settles when the guest may see them */
  load(): Promise<void>;
}

/** Gives a machine the memory that its configuration asks for, behind its RAM. @throws TSV_E_MEMORY_SIZE, TSV_E_HOST_MEMORY */
export function addPmem(vm: Vm): MachinePmem {
  const ends = vm.memory.regions.map(({ gpa, size }) => gpa + size);
  let next = Math.max(MMIO_HOLE_END, ...ends);
  const { pmem } = vm.config;
  const devices = pmem.map((config, i) => {
    const size = roundedSize(config);
    const gpa = Math.ceil(next / SECTION) * SECTION;
    next = gpa + size;
    const readOnly = config.overlay !== true;
    const memory = vm.engine.allocateMemory(size);
    if (vm.config.mergeable) {
      const { byteOffset: offset, length } = memory;
      makeMergeable(
        [{ buffer: memory.buffer as SharedArrayBuffer, offset, length }],
        nativeMemory(loadNative()),
      );
    }
    const release = () => {
      if (nativeProblem() === undefined) releaseBytes(memory, nativeMemory(loadNative()));
    };
    const device = new VirtioPmem({ name: `virtio-pmem${i}`, gpa, memory, readOnly, release });
    if (readOnly) vm.addDevice(new PmemWriteGuard(device), { mmio: [{ base: gpa, size }] });
    vm.engine.mapMemory(gpa, memory, { readonly: readOnly });
    vm.memory.attach({ gpa, bytes: memory, readOnly });
    return device;
  });
  return {
    devices,
    async load() {
      await Promise.all(devices.map((device, i) => device.load(pmem[i].backend)));
    },
  };
}
