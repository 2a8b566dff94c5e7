/** Memory besides RAM, the dirty log and stores by devices, on every engine. */
import { describe, expect, it } from 'vitest';
import type { Vm } from '../../src/machine/vm.ts';
import { ENGINES } from '../support/engines.ts';
import { guestsOn, RecordingDevice } from '../support/guests.ts';

const EXTRA = 0x800_0000;
const RESULT = 0x3000;

async function run(vm: Vm): Promise<void> {
  vm.start();
  expect(await vm.exited).toMatchObject({ reason: 'halt' });
}

describe.each(ENGINES)('%s', (engine) => {
  const { longModeVm } = guestsOn(engine);

  it('lets the guest read ROM, and sends what it writes there to the bus', async () => {
    const vm = await longModeVm(`
      mov rsi, ${EXTRA}; mov al, [rsi + 5]; mov byte ptr [rsi + 5], 0x11; mov ah, [rsi + 5]
      add byte ptr [rsi + 6], 1
      mov [${RESULT}], ax; hlt`);
    const rom = vm.engine.allocateMemory(100);
    rom[5] = 0x77;
    rom[6] = 0x21;
    vm.engine.mapMemory(EXTRA, rom, { readonly: true });
    const device = new RecordingDevice();
    vm.addDevice(device, { mmio: [{ base: EXTRA, size: 4096 }] });

    await run(vm);

    expect(vm.memory.readU16(RESULT)).toBe(0x7777);
    expect([rom[5], rom[6]]).toEqual([0x77, 0x21]);
    expect(device.accesses).toEqual([
      ['write', 5, 1, 0x11],
      ['write', 6, 1, 0x22],
    ]);
    await vm.close();
  });

  it('lets the guest execute and write memory that was mapped, until it is gone', async () => {
    const vm = await longModeVm(`
      mov rsi, ${EXTRA}; call rsi; mov [${RESULT}], al
      out 0x80, al
      mov al, [rsi]; mov [${RESULT} + 1], al; hlt`);
    const ram = vm.engine.allocateMemory(4096);
    // mov al, 0x5a; mov [rsi + 0x100], al; ret
    ram.set([0xb0, 0x5a, 0x88, 0x86, 0, 1, 0, 0, 0xc3]);
    const slot = vm.engine.mapMemory(EXTRA, ram);
    const remover = new (class extends RecordingDevice {
      override write(): void {
        vm.engine.unmapMemory(slot);
      }
    })();
    vm.addDevice(remover, { pio: [{ base: 0x80, size: 1 }] });

    await run(vm);

    expect(ram[0x100]).toBe(0x5a);
    expect([vm.memory.readU8(RESULT), vm.memory.readU8(RESULT + 1)]).toEqual([0x5a, 0xff]);
    await vm.close();
  });

  it('refuses memory that overlaps, or is not made of pages', async () => {
    const vm = await longModeVm('hlt');
    vm.engine.mapMemory(EXTRA, vm.engine.allocateMemory(8192));

    expect(() => vm.engine.mapMemory(EXTRA + 4096, vm.engine.allocateMemory(4096))).toThrow();
    expect(() => vm.engine.mapMemory(EXTRA + 0x10001, vm.engine.allocateMemory(4096))).toThrow();
    await vm.close();
  });

  it('executes code that a device has written over what ran before', async () => {
    const code = 0x5000;
    const vm = await longModeVm(`
      mov rsi, ${code}; call rsi; mov [${RESULT}], al; out 0x80, al; call rsi; mov [${RESULT} + 1], al; hlt`);
    vm.memory.write(code, Uint8Array.of(0xb0, 1, 0xc3));
    const writer = new (class extends RecordingDevice {
      override write(): void {
        vm.memory.writeU8(code + 1, 2);
      }
    })();
    vm.addDevice(writer, { pio: [{ base: 0x80, size: 1 }] });

    await run(vm);

    expect([vm.memory.readU8(RESULT), vm.memory.readU8(RESULT + 1)]).toEqual([1, 2]);
    await vm.close();
  });

  it('logs the pages that the guest writes, from each reading to the next', async () => {
    const vm = await longModeVm(
      `mov byte ptr [0x200000], 1; out 0x80, al; mov byte ptr [0x201000], 1; push rax; hlt`,
      { dirtyLog: true },
    );
    vm.engine.takeDirtyLog();
    const logs: number[][] = [];
    const take = () => {
      const [log] = vm.engine.takeDirtyLog();
      logs.push(
        [...log.runs()].flatMap(({ page, count }) => Array.from({ length: count }, (_, i) => page + i)),
      );
    };
    const reader = new (class extends RecordingDevice {
      override write(): void {
        take();
      }
    })();
    vm.addDevice(reader, { pio: [{ base: 0x80, size: 1 }] });

    vm.start();
    await vm.exited;

    expect(logs[0]).toContain(0x200);
    expect(logs[0]).not.toContain(0x201);
    await vm.close();
  });
});
