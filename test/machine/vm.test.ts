import { describe, expect, it } from 'vitest';
import { TsvError } from '../../src/errors.ts';
import type { KvmVm } from '../../src/kvm/vm.ts';
import { Vm } from '../../src/machine/vm.ts';
import { hasAddon } from '../support/capabilities.ts';
import { ENGINES } from '../support/engines.ts';
import { guestsOn, RecordingDevice } from '../support/guests.ts';

describe.each(ENGINES)('on %s', (accel) => {
  const { bareVm, longModeVm } = guestsOn(accel);

  describe('a flat guest on the bare board', () => {
    it('reaches a device through its port and ends with HLT', async () => {
      const device = new RecordingDevice((_, size) => (size === 2 ? 0x1234 : 0));
      await using vm = await bareVm('in ax, 0x42; out 0x44, ax; mov al, 7; out 0x46, al; hlt');
      vm.addDevice(device, { pio: [{ base: 0x42, size: 8 }] });

      vm.start();
      const exit = await vm.exited;

      expect(exit).toEqual({ reason: 'halt', status: 0, by: 'HLT' });
      expect(device.accesses).toEqual([
        ['read', 0, 2, 0x1234],
        ['write', 2, 2, 0x1234],
        ['write', 4, 1, 7],
      ]);
    });

    it('moves strings with rep ins and rep outs', async () => {
      let next = 0;
      const device = new RecordingDevice(() => next++);
      await using vm = await bareVm(`
        xor ax, ax; mov es, ax; mov ds, ax; cld
        mov dx, 0x50; mov di, 0x1000; mov cx, 5; rep insb
        mov dx, 0x50; mov si, 0x1000; mov cx, 5; rep outsb
        hlt`);
      vm.addDevice(device, { pio: [{ base: 0x50, size: 1 }] });

      vm.start();
      await vm.exited;

      expect(device.accesses.filter(([kind]) => kind === 'write').map(([, , , value]) => value)).toEqual([
        0, 1, 2, 3, 4,
      ]);
      expect([...vm.memory.read(0x1000, 5)]).toEqual([0, 1, 2, 3, 4]);
    });

    it('reads all ones where no device is, and counts it', async () => {
      await using vm = await bareVm(
        'in al, 0x99; mov [0x1000], al; mov eax, -1; in eax, dx; mov [0x1004], eax; hlt',
      );

      vm.start();
      await vm.exited;

      expect(vm.memory.readU8(0x1000)).toBe(0xff);
      expect(vm.memory.readU32(0x1004)).toBe(0xffffffff);
      expect(vm.stats().unclaimed).toBe(2);
    });

    it('awaits a device that answers later', async () => {
      const device = new RecordingDevice(() => new Promise((resolve) => setTimeout(() => resolve(0x5a), 20)));
      await using vm = await bareVm('in al, 0x42; mov [0x1000], al; hlt');
      vm.addDevice(device, { pio: [{ base: 0x42, size: 1 }] });

      vm.start();
      await vm.exited;

      expect(vm.memory.readU8(0x1000)).toBe(0x5a);
    });

    it('counts exits by reason', async () => {
      await using vm = await bareVm('mov cx, 100; 1: in al, 0x42; loop 1b; hlt');

      vm.start();
      await vm.exited;

      expect(vm.stats().exits).toEqual({ IO: 100, HLT: 1 });
    });
  });

  describe('a long-mode guest', () => {
    it('reaches an MMIO device with accesses of every width', async () => {
      const device = new RecordingDevice(() => 0x11223344);
      await using vm = await longModeVm(`
        mov rbx, 0xd0000000
        mov al, [rbx]; mov [rbx+1], al; mov ax, [rbx+2]; mov eax, [rbx+4]; mov rax, [rbx+8]
        mov rax, 0x1122334455667788; mov [rbx+16], rax
        hlt`);
      vm.addDevice(device, { mmio: [{ base: 0xd0000000, size: 0x1000 }] });

      vm.start();
      const exit = await vm.exited;

      expect(exit.reason).toBe('halt');
      expect(device.accesses.map(([kind, offset, size]) => [kind, offset, size])).toEqual([
        ['read', 0, 1],
        ['write', 1, 1],
        ['read', 2, 2],
        ['read', 4, 4],
        ['read', 8, 4],
        ['read', 12, 4],
        ['write', 16, 4],
        ['write', 20, 4],
      ]);
      expect(device.accesses.at(-2)?.[3]).toBe(0x55667788);
      expect(device.accesses.at(-1)?.[3]).toBe(0x11223344);
    });

    it('runs four vCPUs at once over the same memory', async () => {
      await using vm = await longModeVm(
        'mov ecx, 2000; 1: lock inc dword ptr [0x1000]; dec ecx; jnz 1b; hlt',
        {
          cpus: 4,
          startAll: true,
        },
      );

      vm.start();
      const exit = await vm.exited;

      expect(exit.reason).toBe('halt');
      expect(vm.memory.readU32(0x1000)).toBe(8000);
    });
  });

  describe('multiprocessor start', () => {
    it('starts the second vCPU in real mode with INIT and SIPI', async () => {
      // The BSP copies a trampoline to 0x3000 and starts vCPU 1 there (SDM vol. 3, 9.4.4.1); both meet in memory.
      await using vm = await longModeVm(
        `
        mov rsi, offset trampoline; mov edi, 0x3000; mov ecx, 32; cld; rep movsb
        mov ebx, 0xfee00000
        mov dword ptr [rbx+0xf0], 0x1ff
        mov dword ptr [rbx+0x310], 0x01000000; mov dword ptr [rbx+0x300], 0x4500
        mov ecx, 2000; 1: dec ecx; jnz 1b
        mov dword ptr [rbx+0x310], 0x01000000; mov dword ptr [rbx+0x300], 0x4603
        2: cmp byte ptr [0x4000], 0x77; jne 2b
        mov al, 1; out 0x55, al
        3: hlt; jmp 3b
        trampoline: .byte 0x31, 0xc0, 0x8e, 0xd8, 0xc6, 0x06, 0x00, 0x40, 0x77, 0xf4`,
        { cpus: 2, irqchip: 'kernel' },
      );
      const device = new RecordingDevice();
      const reached = new Promise<void>((resolve) => {
        device.write = () => resolve();
      });
      vm.addDevice(device, { pio: [{ base: 0x55, size: 1 }] });

      vm.start();
      await reached;
      await vm.pause();

      const { sregs } = await vm.readVcpu(1, 'sregs');
      expect(sregs.cs.selector).toBe(0x300);
      expect(vm.memory.readU8(0x4000)).toBe(0x77);
    });
  });

  describe('closing', () => {
    it.runIf(hasAddon)('gives the RAM back to the host', async () => {
      const vm = await bareVm('mov byte ptr [0x1000], 1; hlt');
      vm.start();
      await vm.exited;
      expect(vm.memory.readU8(0x1000)).toBe(1);

      await vm.close();

      expect(vm.memory.readU8(0x1000)).toBe(0);
    });
  });

  describe('pause and resume', () => {
    it('stops a spinning guest, reads and writes its registers, and goes on', async () => {
      await using vm = await longModeVm('mov eax, 1; 1: test eax, eax; jnz 1b; hlt');
      vm.start();
      await new Promise((resolve) => setTimeout(resolve, 20));

      await vm.pause();
      const { regs } = await vm.readVcpu(0, 'regs');
      expect(vm.state).toBe('paused');
      expect(regs.rax).toBe(1n);
      expect(regs.rip >= 0x100005n && regs.rip < 0x10000an).toBe(true);
      await vm.writeVcpu(0, { regs: { ...regs, rax: 0n } });
      vm.resume();

      expect((await vm.exited).reason).toBe('halt');
    });

    it('completes the access a vCPU is in before its state is read', async () => {
      await using vm = await bareVm('1: in al, 0x42; inc bx; jmp 1b');
      let reads = 0;
      vm.addDevice(new RecordingDevice(() => ++reads & 0xff), { pio: [{ base: 0x42, size: 1 }] });
      vm.start();
      for (let i = 0; i < 20; i++) {
        await new Promise((resolve) => setTimeout(resolve, 2));
        await vm.pause();
        const { regs } = await vm.readVcpu(0, 'regs');
        // IN is complete: RAX holds what the last read answered, whether INC has been executed or not.
        expect(Number(regs.rax & 0xffn)).toBe(reads & 0xff);
        vm.resume();
      }
    });

    it('lets guest time and kvm-clock stand still', async () => {
      await using vm = await bareVm('1: jmp 1b', { irqchip: 'kernel' });
      // kvm-clock of the tcg engine is guest time.
      const kvmClock = () => (accel === 'kvm' ? Number((vm.engine as KvmVm).clock) : vm.clock.now());
      vm.start();
      await vm.pause();
      const before = [vm.clock.now(), kvmClock()];

      await new Promise((resolve) => setTimeout(resolve, 60));
      const guest = vm.clock.now();
      const resumed = performance.now();
      vm.resume();
      const clock = kvmClock();
      const running = performance.now() - resumed;

      expect(guest).toBe(before[0]);
      // What kvm-clock has gained it gained since the resume, not during the pause.
      expect(clock - before[1]).toBeLessThanOrEqual((running + 1) * 1e6);
    });

    it('refuses register access while the machine runs', async () => {
      await using vm = await bareVm('1: jmp 1b');
      vm.start();

      await expect(vm.readVcpu(0, 'regs')).rejects.toMatchObject({ code: 'TSV_E_STATE' });
    });

    it('translates linear addresses through the guest page tables', async () => {
      await using vm = await longModeVm('hlt');

      expect(await vm.translate(0, 0x123456n)).toBe(0x123456);
      expect(await vm.translate(0, 0x7fff_0000_0000n)).toBeUndefined();
    });
  });

  describe('a run that ends badly', () => {
    it('stops a guest that spins with interrupts off', async () => {
      await using vm = await bareVm('cli; 1: jmp 1b');
      vm.start();
      await new Promise((resolve) => setTimeout(resolve, 20));

      const exit = await vm.stop('timeout');

      expect(exit).toMatchObject({ reason: 'timeout', status: 124 });
      expect(exit.registers?.[0].code.slice(0, 2)).toEqual(Uint8Array.of(0xeb, 0xfe));
    });

    it('reports a triple fault with registers', async () => {
      await using vm = await longModeVm('ud2');

      vm.start();
      const exit = await vm.exited;

      expect(exit).toMatchObject({ reason: 'triple-fault', status: 6 });
      expect(exit.error?.code).toBe('TSV_E_GUEST_TRIPLE_FAULT');
      expect(exit.registers).toHaveLength(1);
    });

    it('ends with the device named when a device throws', async () => {
      await using vm = await bareVm('in al, 0x42; hlt');
      const broken = new RecordingDevice(() => {
        throw new Error('out of ideas');
      }, 'thinker');
      vm.addDevice(broken, { pio: [{ base: 0x42, size: 1 }] });

      vm.start();
      const exit = await vm.exited;

      expect(exit).toMatchObject({ reason: 'error', status: 4 });
      expect(exit.error?.code).toBe('TSV_E_DEVICE');
      expect(exit.error?.message).toContain('thinker');
      expect(exit.error?.message).toContain('out of ideas');
    });

    it('ends with the device named when a device never answers', async () => {
      await using vm = await bareVm('in al, 0x42; hlt', { deviceTimeout: 50 });
      vm.addDevice(new RecordingDevice(() => new Promise(() => {}), 'sleeper'), {
        pio: [{ base: 0x42, size: 1 }],
      });

      vm.start();
      const exit = await vm.exited;

      expect(exit.error?.code).toBe('TSV_E_DEVICE_TIMEOUT');
      expect(exit.error?.message).toContain('sleeper');
    });

    it('can be stopped while a device does not answer', async () => {
      await using vm = await bareVm('in al, 0x42; hlt', { deviceTimeout: 0 });
      vm.addDevice(new RecordingDevice(() => new Promise(() => {})), { pio: [{ base: 0x42, size: 1 }] });
      vm.start();
      await new Promise((resolve) => setTimeout(resolve, 20));

      const exit = await vm.stop();

      expect(exit.reason).toBe('stopped');
    });
  });

  describe('bad configurations', () => {
    const boot = { flat: Uint8Array.of(0xf4) };
    it.each([
      ['no memory', { memory: 0 }, 'TSV_E_MEMORY_SIZE'],
      ['three bytes of memory', { memory: 3 }, 'TSV_E_MEMORY_SIZE'],
      ['10 TB of memory', { memory: '10T' }, 'TSV_E_MEMORY_SIZE'],
      ['more memory than the host has', { memory: '3T' }, 'TSV_E_MEMORY_SIZE'],
      ['no CPU', { cpus: 0 }, 'TSV_E_CPU_COUNT'],
      ['a million CPUs', { cpus: 1e6 }, 'TSV_E_CPU_COUNT'],
      ['half a CPU', { cpus: 1.5 }, 'TSV_E_CPU_COUNT'],
      ['an unknown CPU model', { cpu: 'pentium9' }, 'TSV_E_CPU_MODEL'],
      [
        'a PC without interrupt controllers',
        { board: 'pc' as const, irqchip: 'none' as const },
        'TSV_E_CONFIG',
      ],
      ['time that runs backwards', { timeScale: -1 }, 'TSV_E_CONFIG'],
      ['an entropy device on the bare board', { rng: true }, 'TSV_E_CONFIG'],
    ])('%s: a clear error', async (_, config, code) => {
      await expect(Vm.create({ accel, board: 'none', boot, ...config })).rejects.toMatchObject({ code });
    });

    it('leaves vCPUs that nothing can start alone', async () => {
      await using vm = await bareVm('mov byte ptr [0x1000], 1; hlt', { cpus: 3 });

      vm.start();

      expect((await vm.exited).reason).toBe('halt');
      expect(vm.memory.readU8(0x1000)).toBe(1);
    });

    it('refuses devices that overlap, names both, and keeps the first', async () => {
      await using vm = await bareVm('in al, 0x42; hlt');
      const first = new RecordingDevice(() => 1, 'first');
      vm.addDevice(first, { pio: [{ base: 0x40, size: 8 }] });

      const overlap = () =>
        vm.addDevice(new RecordingDevice(() => 2, 'second'), { pio: [{ base: 0x47, size: 2 }] });

      expect(overlap).toThrow(TsvError);
      expect(overlap).toThrow(/second.*first/);
      vm.start();
      await vm.exited;
      expect(first.accesses).toHaveLength(1);
    });

    it('refuses an MMIO device in RAM, a port beyond 0xffff, and an interrupt that does not exist', async () => {
      await using vm = await bareVm('hlt');
      const at = (options: object) => () => vm.addDevice(new RecordingDevice(), options);

      expect(at({ mmio: [{ base: 0x1000, size: 16 }] })).toThrow(/RAM/);
      expect(at({ pio: [{ base: 0xffff, size: 2 }] })).toThrow(/0xffff/);
      expect(at({ irq: [99] })).toThrow(/interrupt 99/);
    });
  });
});
