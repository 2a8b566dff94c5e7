/** Disk images in guest-physical memory, on every engine. */
import { existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { openDisk, Vm, type VmConfig } from '../../src/index.ts';
import { loadNative } from '../../src/kvm/native.ts';
import { restoreMachine, saveMachine } from '../../src/machine/machine-state.ts';
import type { PmemConfig } from '../../src/machine/pmem.ts';
import { assemble } from '../support/assemble.ts';
import { hasAddon } from '../support/capabilities.ts';
import { ENGINES } from '../support/engines.ts';
import { RecordingDevice } from '../support/guests.ts';

const MIB = 2 ** 20;
/** Where a machine with little RAM has the first image, and the second: at whole 128 MiB. */
const FIRST = 0x1_0000_0000;
const SECOND = FIRST + 128 * MIB;
const RESULT = 0x3000;

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-pmem-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** An image whose bytes are `value`. */
function image(name: string, value: number, size = 3 * MIB): string {
  const path = join(folder, name);
  writeFileSync(path, Buffer.alloc(size, value));
  return path;
}

const open = async (path: string): Promise<PmemConfig> => ({
  backend: await openDisk(path, { readOnly: true }),
});

/** Maps 4 MiB at FIRST and at SECOND, runs the code with R8 and R9 there, and ends with status 1. */
const program = (source: string) => `
  mov rax, cr3; and rax, -4096; mov rbx, [rax]; and rbx, -4096
  mov qword ptr [rbx + 32], 0x200003
  mov rax, ${FIRST + 0x83}; mov [0x200000], rax; add rax, ${2 * MIB}; mov [0x200008], rax
  mov rax, ${SECOND + 0x83}; mov [0x200200], rax; add rax, ${2 * MIB}; mov [0x200208], rax
  mov r8, ${FIRST}; mov r9, ${SECOND}; mov rsp, 0x9000; cld
  ${source}
  xor eax, eax; mov dx, 0xf4; out dx, al; hlt`;

describe.each(ENGINES)('%s', (accel) => {
  const create = (source: string, pmem: readonly PmemConfig[], options: Partial<VmConfig> = {}) =>
    Vm.create({
      ...options,
      accel,
      memory: '4M',
      pmem,
      boot: { flat: assemble(program(source), 0x100000), mode: 'long64' },
    });
  const run = async (vm: Vm) => {
    vm.start();
    expect(await vm.exited).toMatchObject({ reason: 'exit', status: 1 });
  };

  it('shows images behind RAM, continued with zeros to 2 MiB', async () => {
    const paths = [image('one', 0x5a), image('two', 0x77)];
    await using vm = await create(
      `mov al, [r8]; mov [${RESULT}], al; mov al, [r8 + ${3 * MIB - 1}]; mov [${RESULT} + 1], al
       mov al, [r8 + ${3 * MIB}]; mov [${RESULT} + 2], al; mov al, [r9]; mov [${RESULT} + 3], al`,
      await Promise.all(paths.map(open)),
    );

    await run(vm);

    expect([...vm.memory.read(RESULT, 4)]).toEqual([0x5a, 0x5a, 0, 0x77]);
  });

  it('loses what a guest writes to a read-only one, and goes on', async () => {
    const path = image('read-only', 0x11);
    await using vm = await create(
      `mov byte ptr [r8], 1; mov word ptr [r8 + 0x1fff], 2; mov dword ptr [r8 + 8], 3; mov qword ptr [r8 + 16], 4
       lea rdi, [r8 + 0x100]; mov ecx, 64; mov al, 5; rep stosb
       mov eax, 6; xchg [r8 + 0x200], eax
       lea rsi, [r8]; mov rdi, ${RESULT}; mov ecx, 8; rep movsb
       mov al, [r8 + 0x100]; mov [${RESULT} + 8], al; mov al, [r8 + 0x2000]; mov [${RESULT} + 9], al
       mov al, [r8 + 0x200]; mov [${RESULT} + 10], al`,
      [await open(path)],
    );

    await run(vm);

    expect([...vm.memory.read(RESULT, 11)]).toEqual(new Array(11).fill(0x11));
    expect(readFileSync(path).every((byte) => byte === 0x11)).toBe(true);
  });

  it('lets a guest write to an overlay and execute it; the image stays as it is', async () => {
    const path = image('overlay', 0x22);
    await using vm = await create(
      `mov dword ptr [r8 + 0x1000], 0xc333b0; lea rax, [r8 + 0x1000]; call rax; mov [${RESULT}], al
       mov byte ptr [r8 + 0x1001], 0x44; lea rax, [r8 + 0x1000]; call rax; mov [${RESULT} + 1], al
       mov al, [r8]; mov [${RESULT} + 2], al`,
      [{ ...(await open(path)), overlay: true }],
    );

    await run(vm);

    expect([...vm.memory.read(RESULT, 3)]).toEqual([0x33, 0x44, 0x22]);
    expect(readFileSync(path).every((byte) => byte === 0x22)).toBe(true);
  });

  it('can be the target of a device, unless it is read-only', async () => {
    const paths = [image('target', 0x88), image('no-target', 0x99)];
    const code = 0x2000;
    await using vm = await create(
      `mov dword ptr [r8 + ${code}], 0xc333b0; lea rax, [r8 + ${code}]; call rax; mov [${RESULT}], al; out 0x99, al
       lea rax, [r8 + ${code}]; call rax; mov [${RESULT} + 1], al`,
      [{ ...(await open(paths[0])), overlay: true }, await open(paths[1])],
    );
    const seen: (number[][] | undefined)[] = [];
    const look = (gpa: number, length: number, isWrite: boolean) =>
      seen.push(vm.memory.dma(gpa, length, isWrite)?.map((view) => [...view]));
    const device = new RecordingDevice();
    device.write = () => {
      const [code33] = vm.memory.dma(FIRST + code, 2, true)!;
      code33[1] = 0x55;
      vm.memory.wrote(FIRST + code, 2);
      look(SECOND, 4, true);
      look(SECOND, 2, false);
      look(FIRST + 4 * MIB - 1, 2, true);
      look(FIRST - 1, 2, false);
    };
    vm.addDevice(device, { pio: [{ base: 0x99, size: 1 }] });

    await run(vm);

    expect([...vm.memory.read(RESULT, 2)]).toEqual([0x33, 0x55]);
    expect(seen).toEqual([undefined, [[0x99, 0x99]], undefined, undefined]);
  });

  it('goes on in a restored machine with what the guest had written', async () => {
    const path = image('saved', 0x10);
    const source = `mov byte ptr [r8 + 5], 0x44; mov byte ptr [${RESULT}], 1
      1: pause; cmp byte ptr [${RESULT} + 1], 0; je 1b
      mov al, [r8 + 5]; mov [${RESULT} + 2], al; mov al, [r8 + 6]; mov [${RESULT} + 3], al`;
    const pmem = async () => [{ ...(await open(path)), overlay: true }];
    await using vm = await create(source, await pmem());
    vm.start();
    while (vm.memory.readU8(RESULT) === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    await vm.pause();
    const state = structuredClone(await saveMachine(vm));
    await vm.close();

    await using next = await create(source, await pmem());
    await restoreMachine(next, state);
    next.memory.writeU8(RESULT + 1, 1);
    await run(next);

    expect([...next.memory.read(RESULT + 2, 2)]).toEqual([0x44, 0x10]);
  });

  const canMerge = hasAddon && existsSync('/sys/kernel/mm/ksm');
  it.runIf(canMerge)('can be shared with machines that have the same content', async () => {
    await using vm = await create('', [await open(image('merged', 3))], { mergeable: true });

    const [bytes] = vm.memory.dma(FIRST, 4096, false)!;
    const address = loadNative().addressOf(bytes);

    const areas = readFileSync('/proc/self/smaps', 'latin1').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
    const area = areas.find((text) => {
      const [first, end] = text.split(/[- ]/, 2).map((hex) => BigInt(`0x${hex}`));
      return address >= first && address < end;
    });
    expect(/^VmFlags:.* mg/m.test(area ?? '')).toBe(true);
  });

  it('is not harmed by a file that is cut off while it runs', async () => {
    const path = image('cut', 0x66);
    await using vm = await create(`mov al, [r8 + ${2 * MIB}]; mov [${RESULT}], al`, [await open(path)]);
    truncateSync(path, 0);

    await run(vm);

    expect(vm.memory.readU8(RESULT)).toBe(0x66);
  });

  it('is not created when a file was cut off before', async () => {
    const path = image('short', 0x66);
    const pmem = [await open(image('whole', 1)), await open(path)];
    truncateSync(path, MIB);

    await expect(create('', pmem)).rejects.toMatchObject({ code: 'TSV_E_DISK_IO' });

    // Nobody has them open any more.
    for (const name of ['whole', 'short']) await (await openDisk(join(folder, name)))[Symbol.asyncDispose]();
  });
});
