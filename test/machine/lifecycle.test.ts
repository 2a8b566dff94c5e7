// needs: kvm
/** A machine's life as a program sees it: states, console, events, counters, pinning, and every way a guest can end. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { readdirSync, readFileSync } from 'node:fs';
import pino from 'pino';
import { afterEach, describe, expect, it } from 'vitest';
import type { Device, DeviceContext } from '../../src/devices/device.ts';
import type { VmConfig } from '../../src/machine/config.ts';
import { VmConsole } from '../../src/machine/console.ts';
import type { VmExit } from '../../src/machine/exit.ts';
import { LogLimit } from '../../src/machine/log.ts';
import { PanicWatch } from '../../src/machine/panic-watch.ts';
import { Vm } from '../../src/machine/vm.ts';
import { assemble, CODE16 } from '../support/assemble.ts';
import { bareVm, longModeVm, RecordingDevice } from '../support/guests.ts';

const SPIN = '1: jmp 1b';
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** A real-mode guest on the PC board. */
function pcVm(source: string, options: Partial<VmConfig> = {}): Promise<Vm> {
  return Vm.create({ memory: '4M', boot: { flat: assemble(CODE16 + source, 0x7c00) }, ...options });
}

/** Writes text to COM1 and goes on. */
function print(text: string): string {
  const label = `t${Math.random().toString(36).slice(2)}`;
  const bytes = [...new TextEncoder().encode(text)].join(', ');
  return `
    cld; xor ax, ax; mov ds, ax; mov si, offset ${label}; mov cx, ${bytes.split(',').length}; mov dx, 0x3f8
    ${label}_next: lodsb; out dx, al; loop ${label}_next; jmp ${label}_end
    ${label}: .byte ${bytes}
    ${label}_end:`;
}

const POWER_OFF = 'mov dx, 0x604; mov ax, 0x3400; out dx, ax; 9: hlt; jmp 9b';

const subscriptions: (() => void)[] = [];
afterEach(() => {
  for (const end of subscriptions.splice(0)) end();
});

/** Collects what is published about one machine. */
function published<T>(name: string, pick: (message: T) => unknown): { of(vm: Vm): unknown[] } {
  const all: [Vm, unknown][] = [];
  const listener = (message: unknown) => all.push([(message as { vm: Vm }).vm, pick(message as T)]);
  subscribe(name, listener);
  subscriptions.push(() => unsubscribe(name, listener));
  return { of: (vm) => all.filter(([of]) => of === vm).map(([, what]) => what) };
}

describe('states', () => {
  it('are published as they change', async () => {
    const states = published<{ state: string }>('tsvisor:state', ({ state }) => state);
    const exits = published<{ exit: VmExit }>('tsvisor:exit', ({ exit }) => exit);
    const vm = await bareVm(SPIN);

    vm.start();
    await vm.pause();
    vm.resume();
    await vm.pause();
    vm.start();
    const exit = await vm.stop();

    expect(states.of(vm)).toEqual(['running', 'paused', 'running', 'paused', 'running', 'stopped']);
    expect(exits.of(vm)).toEqual([exit]);
  });

  it('refuse what does not fit them', async () => {
    const vm = await bareVm(SPIN);
    const state = expect.objectContaining({ code: 'TSV_E_STATE' });

    expect(() => vm.resume()).toThrow(state);
    await expect(vm.pause()).rejects.toMatchObject({ code: 'TSV_E_STATE' });
    vm.start();
    expect(() => vm.start()).toThrow(state);
    await expect(vm.writeVcpu(0, {})).rejects.toMatchObject({ code: 'TSV_E_STATE' });
    await vm.close();
    expect(() => vm.start()).toThrow(state);
    expect(() => vm.resume()).toThrow(state);
    await expect(vm.pause()).rejects.toMatchObject({ code: 'TSV_E_STATE' });
    await expect(vm.readVcpu(0, 'regs')).rejects.toMatchObject({ code: 'TSV_E_STATE' });
    await expect(vm.nmi(0)).rejects.toMatchObject({ code: 'TSV_E_STATE' });
    expect(() => vm.addDevice(new RecordingDevice())).toThrow(state);
    await expect(vm.readVcpu(7, 'regs')).rejects.toMatchObject({ code: 'TSV_E_CPU_COUNT' });
  });

  it('end once: closing twice, stopping and disposing give the first reason', async () => {
    const vm = await bareVm(SPIN);
    vm.start();

    const [first, second] = await Promise.all([vm.stop('timeout'), vm.stop(), vm.close(), vm.close()]);
    await vm[Symbol.asyncDispose]();

    expect(first).toMatchObject({ reason: 'timeout', status: 124 });
    expect(second).toBe(first);
  });

  it('of a machine that never started end too', async () => {
    const vm = await bareVm('hlt');

    await vm.close();

    expect(await vm.exited).toEqual({ reason: 'stopped', status: 0, by: 'host' });
    expect(vm.state).toBe('stopped');
  });

  it('survive pauses and resumes at every moment', async () => {
    await using vm = await longModeVm('mov dx, 0x42; 1: in al, dx; inc rbx; jmp 1b', {
      cpus: 2,
      startAll: true,
    });
    vm.addDevice(new RecordingDevice(() => 1), { pio: [{ base: 0x42, size: 1 }] });
    vm.start();
    let last = 0n;

    for (let i = 0; i < 40; i++) {
      // Several at once count as one.
      await Promise.all([vm.pause(), vm.pause()]);
      expect(vm.state).toBe('paused');
      const { regs } = await vm.readVcpu(i % 2, 'regs');
      if (i % 2 === 0) {
        expect(regs.rbx).toBeGreaterThanOrEqual(last);
        last = regs.rbx;
      }
      vm.resume();
      if (i % 3 === 0) await sleep(1);
    }

    expect(vm.state).toBe('running');
    expect(last).toBeGreaterThan(0n);
  });

  it('end at stopped when a pause meets the guest ending itself', async () => {
    const states = published<{ state: string }>('tsvisor:state', ({ state }) => state);
    for (let i = 0; i < 15; i++) {
      const vm = await bareVm(`mov cx, ${i * 40 + 1}; 1: in al, 0x42; loop 1b; hlt`);
      vm.start();
      await sleep(i % 3);

      await vm.pause().catch((error) => expect(error.code).toBe('TSV_E_STATE'));

      if (vm.state === 'paused') vm.resume();
      expect((await vm.exited).reason).toBe('halt');
      expect(vm.state).toBe('stopped');
      const seen = states.of(vm);
      expect(seen.indexOf('stopped')).toBe(seen.length - 1);
    }
  });

  it('end at stopped when a pause meets a stop', async () => {
    for (let i = 0; i < 10; i++) {
      const vm = await bareVm('1: in al, 0x42; jmp 1b');
      vm.addDevice(new RecordingDevice(() => sleep(i % 3).then(() => 1)), { pio: [{ base: 0x42, size: 1 }] });
      vm.start();
      await sleep(2);

      const [, exit] = await Promise.all([vm.pause(), vm.stop()]);

      expect(exit.reason).toBe('stopped');
      expect(vm.state).toBe('stopped');
    }
  });

  it('end at stopped when a pause waits for a device that never answers', async () => {
    const vm = await bareVm('in al, 0x42; hlt', { deviceTimeout: 0 });
    vm.addDevice(new RecordingDevice(() => new Promise(() => {})), { pio: [{ base: 0x42, size: 1 }] });
    vm.start();
    await sleep(10);

    const paused = vm.pause();
    await sleep(10);
    await vm.close();

    await paused;
    expect(vm.state).toBe('stopped');
  });
});

describe('two machines at once', () => {
  it('run, and end, on their own', async () => {
    await using one = await bareVm('1: in al, 0x42; jmp 1b');
    await using other = await bareVm('1: in al, 0x42; jmp 1b');
    const devices = [new RecordingDevice(() => 1), new RecordingDevice(() => 2)];
    one.addDevice(devices[0], { pio: [{ base: 0x42, size: 1 }] });
    other.addDevice(devices[1], { pio: [{ base: 0x42, size: 1 }] });

    one.start();
    other.start();
    await sleep(20);
    await one.close();
    const before = devices[1].accesses.length;
    await sleep(20);

    expect(other.state).toBe('running');
    expect(devices[1].accesses.length).toBeGreaterThan(before);
    await other.pause();
    expect(Number((await other.readVcpu(0, 'regs')).regs.rax & 0xffn)).toBe(2);
  });
});

describe('devices that come and go while the guest runs', () => {
  it('are seen from the next access on, and not called after they are gone', async () => {
    await using vm = await bareVm('1: in al, 0x42; mov [0x1000], al; jmp 1b');
    vm.start();
    const seen: number[] = [];

    for (let i = 1; i <= 10; i++) {
      const device = new RecordingDevice(() => i, `device${i}`);
      vm.addDevice(device, { pio: [{ base: 0x42, size: 1 }] });
      while (vm.memory.readU8(0x1000) !== i) await sleep(1);
      seen.push(i);
      await vm.removeDevice(device);
      const calls = device.accesses.length;
      while (vm.memory.readU8(0x1000) !== 0xff) await sleep(1);
      expect(device.accesses.length).toBe(calls);
    }

    expect(seen).toHaveLength(10);
    expect(vm.devices).toHaveLength(0);
  });

  it('leave no interrupt raised behind', async () => {
    await using vm = await pcVm(SPIN);
    let raise = () => {};
    const levels: number[] = [];
    const setIrqLine = vm.engine.setIrqLine.bind(vm.engine);
    vm.engine.setIrqLine = (gsi, level) => {
      if (gsi === 5) levels.push(level);
      setIrqLine(gsi, level);
    };
    const device: Device = {
      name: 'stuck',
      attach(context: DeviceContext) {
        raise = () => context.irq().raise();
      },
      save: () => ({}),
      restore() {},
    };
    vm.addDevice(device, { irq: [5] });
    vm.start();

    raise();
    await vm.removeDevice(device);

    expect(levels).toEqual([1, 0]);
  });

  it('must have names of their own, and may fail to attach without leaving a trace', async () => {
    await using vm = await bareVm(SPIN);
    vm.addDevice(new RecordingDevice(undefined, 'twin'), {});
    const broken: Device = {
      name: 'broken',
      attach() {
        throw new Error('no cable');
      },
      save: () => ({}),
      restore() {},
    };

    expect(() => vm.addDevice(new RecordingDevice(undefined, 'twin'), {})).toThrow(/twin/);
    expect(() => vm.addDevice(broken, { pio: [{ base: 0x42, size: 1 }] })).toThrow('no cable');
    expect(() => vm.addDevice(new RecordingDevice(), { pio: [{ base: 0x42, size: 1 }] })).not.toThrow();
    expect(vm.devices.map(({ name }) => name)).toEqual(['twin', 'recorder']);
  });

  it('that do not close in time, or fail to, do not keep the machine from ending', async () => {
    const lines: string[] = [];
    const log = pino({ level: 'error' }, { write: (line: string) => void lines.push(line) });
    const vm = await bareVm('hlt', { deviceTimeout: 30, log });
    const closing = (name: string, close: () => Promise<void>): Device => ({
      name,
      close,
      save: () => ({}),
      restore() {},
    });
    vm.addDevice(closing('sleeper', () => new Promise(() => {})));
    vm.addDevice(closing('thrower', () => Promise.reject(new Error('no'))));
    let last = false;
    vm.addDevice(
      closing('last', async () => {
        last = true;
      }),
    );

    vm.start();
    const exit = await vm.exited;

    expect(exit.reason).toBe('halt');
    expect(lines.map((line) => JSON.parse(line).device)).toEqual(['sleeper', 'thrower']);
    expect(last).toBe(true);
  });
});

describe('the end a guest brings about', () => {
  it.each([
    ['ACPI power-off', POWER_OFF, { reason: 'poweroff', status: 0 }],
    ['reset through port 0xCF9', 'mov dx, 0xcf9; mov al, 6; out dx, al; hlt', { reason: 'reset', status: 0 }],
    [
      'reset through the keyboard controller',
      'mov al, 0xfe; out 0x64, al; hlt',
      { reason: 'reset', status: 0 },
    ],
    ['reset through port 0x92', 'mov al, 1; out 0x92, al; hlt', { reason: 'reset', status: 0 }],
    ['exit 1', 'mov al, 0; out 0xf4, al; hlt', { reason: 'exit', status: 1 }],
    ['exit 7', 'mov al, 3; out 0xf4, al; hlt', { reason: 'exit', status: 7 }],
    ['exit 255', 'mov al, 0x7f; out 0xf4, al; hlt', { reason: 'exit', status: 255 }],
    ['pvpanic', 'mov dx, 0x505; mov al, 1; out dx, al; hlt', { reason: 'panic', status: 6 }],
    [
      'a triple fault',
      'lidt [zero]; mov eax, cr0; or al, 1; mov cr0, eax; ud2; zero: .word 0, 0, 0',
      { reason: 'triple-fault', status: 6 },
    ],
  ])('%s', async (_, source, expected) => {
    await using vm = await pcVm(source);

    vm.start();
    const exit = await vm.exited;

    expect(exit).toMatchObject(expected);
    expect(exit.by).not.toBe('');
    if (expected.status === 6) expect(exit.registers).toHaveLength(1);
  });

  it('a kernel panic on the console, when it can reset nothing', async () => {
    await using vm = await pcVm(
      `${print('[    1.0] Kernel panic - not syncing: Attempted to kill init!\r\n[    1.1] CPU: 0\r\n[    1.2] ---[ end Kernel panic - not syncing: Attempted to kill init! ]---\r\n')} ${SPIN}`,
    );

    vm.start();
    const exit = await vm.exited;

    expect(exit).toMatchObject({ reason: 'panic', status: 6 });
    expect(exit.error?.code).toBe('TSV_E_GUEST_PANIC');
    expect(exit.error?.message).toContain('Attempted to kill init!');
    expect(exit.registers).toHaveLength(1);
  });

  it('a panic that may go on to reset is still a panic', async () => {
    await using vm = await pcVm(
      `${print('Kernel panic - not syncing: x\n---[ end Kernel panic - not syncing: x ]---\n')}
       mov dx, 0xcf9; mov al, 6; out dx, al; hlt`,
      { stopOnPanic: false },
    );

    vm.start();

    expect(await vm.exited).toMatchObject({ reason: 'panic', status: 6 });
  });

  it('halting does not, where an interrupt may come', async () => {
    await using vm = await pcVm('sti; 1: hlt; jmp 1b');

    vm.start();
    await sleep(30);

    expect(vm.state).toBe('running');
  });

  it('of two guests that end at once only the first counts', async () => {
    await using vm = await longModeVm('mov eax, edi; out 0xf4, al; hlt', {
      board: 'pc',
      memory: '8M',
      cpus: 2,
      startAll: true,
    });

    vm.start();
    const exit = await vm.exited;

    expect([1, 3]).toContain(exit.status);
  });
});

/** Setting the port up clears its FIFO: what is typed before is lost, as on hardware. */
const READY = "mov dx, 0x3f8; mov al, '>'; out dx, al;";

describe('the console', () => {
  it('matches output across pieces, in order, and leaves the rest', async () => {
    await using vm = await pcVm(`${print('hello world\nlogin: ')} ${SPIN}`);
    vm.start();

    const [first, second] = await Promise.all([vm.console.expect(/w(or)ld/), vm.console.expect(/login: /)]);

    expect(first[1]).toBe('or');
    expect(second[0]).toBe('login: ');
    expect(vm.console.pending).toBe('');
  });

  it('answers what is typed', async () => {
    await using vm = await pcVm(`
      mov dx, 0x3fb; mov al, 3; out dx, al; mov dx, 0x3fa; mov al, 1; out dx, al; ${READY}
      1: mov dx, 0x3fd; 2: in al, dx; test al, 1; jz 2b
      mov dx, 0x3f8; in al, dx; xor al, 0x20; out dx, al; jmp 1b`);
    vm.start();
    await vm.console.expect(/>/);

    vm.console.write('abc');
    vm.console.write(new TextEncoder().encode('xyz'));

    expect((await vm.console.expect(/ABCXYZ/))[0]).toBe('ABCXYZ');
  });

  it('gives the guest more input than its port can hold, in order', async () => {
    await using vm = await pcVm(`
      mov dx, 0x3fa; mov al, 1; out dx, al; ${READY} xor ebx, ebx; xor ecx, ecx
      1: mov dx, 0x3fd; 2: in al, dx; test al, 1; jz 2b
      mov dx, 0x3f8; in al, dx; movzx eax, al; rol ebx, 1; add ebx, eax; inc ecx; cmp al, 10; jne 1b
      mov [0x1000], ebx; mov [0x1004], ecx; hlt; ${POWER_OFF}`);
    const text = `${'0123456789abcdef'.repeat(200)}\n`;
    let sum = 0;
    for (const byte of Buffer.from(text)) sum = (((sum << 1) | (sum >>> 31)) + byte) | 0;
    vm.start();
    await vm.console.expect(/>/);

    vm.console.write(text);
    while (vm.memory.readU32(0x1004) === 0) await sleep(2);

    expect(vm.memory.readU32(0x1004)).toBe(text.length);
    expect(vm.memory.readU32(0x1000)).toBe(sum >>> 0);
  });

  it('says what was there instead when the time is over, and when the machine ends', async () => {
    await using vm = await pcVm(`${print('nothing of the kind')} ${SPIN}`);
    vm.start();
    await vm.console.expect(/nothing/);

    const late = vm.console.expect(/login/, { timeout: 20 });
    await expect(late).rejects.toMatchObject({ code: 'TSV_E_CONSOLE_TIMEOUT', message: /of the kind/ });
    const never = vm.console.expect(/login/, { timeout: 0 });
    void vm.stop();

    await expect(never).rejects.toMatchObject({
      code: 'TSV_E_CONSOLE_TIMEOUT',
      message: /ended \(stopped\)/,
    });
    await expect(vm.console.expect(/login/)).rejects.toMatchObject({ code: 'TSV_E_CONSOLE_TIMEOUT' });
  });

  it('is a stream that ends with the machine, whole', async () => {
    const text = 'The quick brown fox jumps over the lazy dog.\n'.repeat(20);
    await using vm = await pcVm(`${print(text)} ${POWER_OFF}`);
    const stream = vm.console.readable;
    vm.start();

    let output = '';
    for await (const bytes of stream) output += bytes;

    expect(output).toBe(text);
    expect((await vm.exited).reason).toBe('poweroff');
    for await (const _ of vm.console.readable) expect.unreachable();
  });

  it('goes on without a stream that was destroyed', async () => {
    await using vm = await pcVm(`1: mov al, 0x41; mov dx, 0x3f8; out dx, al; jmp 1b`);
    const stream = vm.console.readable;
    vm.start();
    await new Promise((resolve) => stream.once('data', resolve));

    stream.destroy();
    await vm.console.expect(/A{4000}/);

    expect(vm.state).toBe('running');
  });

  it('keeps characters whole that arrive in pieces', () => {
    const machine = new VmConsole(() => {});
    for (const byte of new TextEncoder().encode('täst €')) machine.receive(Uint8Array.of(byte));

    expect(machine.pending).toBe('täst €');
  });
});

describe('a guest that floods the serial port', () => {
  const FLOOD = `mov dx, 0x3f8; mov ebx, 0; 1: mov al, 0x41; out dx, al; inc ebx; mov [0x1000], ebx; jmp 1b`;
  /** Both buffers of the port, and the ring. */
  const MOST = 2 * 128 * 1024 + 1024 + 1;

  it('is held back by a listener that takes its time', async () => {
    await using vm = await pcVm(FLOOD);
    let taken = 0;
    let letGo = () => {};
    vm.console.onData((bytes) => {
      taken += bytes.length;
      return new Promise((resolve) => {
        letGo = resolve;
      });
    });
    vm.start();
    let before = -1;
    while (vm.memory.readU32(0x1000) !== before) {
      before = vm.memory.readU32(0x1000);
      await sleep(100);
    }

    expect(vm.memory.readU32(0x1000) - taken).toBeLessThanOrEqual(MOST);
    letGo();
    while (vm.memory.readU32(0x1000) <= before) await sleep(1);
    letGo();
    const closed = vm.close();
    const timer = setInterval(() => letGo(), 1);
    await closed;
    clearInterval(timer);
  });

  it('is held back by a stream that nobody reads, which still ends', async () => {
    await using vm = await pcVm(FLOOD);
    const stream = vm.console.readable;
    vm.start();
    let before = -1;
    while (vm.memory.readU32(0x1000) !== before) {
      before = vm.memory.readU32(0x1000);
      await sleep(100);
    }

    expect(before).toBeLessThan(4 * MOST);
    expect(stream.readableLength).toBeLessThan(4 * MOST);
    await vm.stop();
    let length = 0;
    for await (const bytes of stream) length += bytes.length;
    expect(length).toBeLessThanOrEqual(vm.memory.readU32(0x1000) + 1);
  });

  it('keeps neither timers nor its own end from their turn', async () => {
    await using vm = await pcVm(FLOOD);
    vm.start();

    for (let i = 0; i < 20; i++) await sleep(1);
    await vm.pause();
    vm.resume();

    expect((await vm.stop()).reason).toBe('stopped');
  });

  it('does not flood the log by what it does wrong', async () => {
    let lines = 0;
    const log = pino({ level: 'debug' }, { write: () => void lines++ });
    // A sleep state that the machine does not have, over and over.
    await using vm = await pcVm(
      'xor ebx, ebx; mov dx, 0x604; mov ax, 0x2400; 1: out dx, ax; inc ebx; mov [0x1000], ebx; jmp 1b',
      { log },
    );
    vm.start();
    while (vm.memory.readU32(0x1000) < 2000) await sleep(5);

    const seconds = Math.ceil(vm.clock.now() / 1e9) + 1;
    await vm.pause();

    expect(lines).toBeGreaterThan(0);
    expect(lines).toBeLessThanOrEqual(20 * seconds);
  });
});

describe('tracing', () => {
  it('publishes what was asked for, and nothing else', async () => {
    const lines = published<{ lines: string[] }>('tsvisor:trace', (message) => message.lines);
    const source = 'mov al, 0x55; out 0x42, al; in al, 0x99; hlt';
    const traced = async (trace: VmConfig['trace']) => {
      await using vm = await bareVm(source, { trace });
      vm.addDevice(new RecordingDevice(), { pio: [{ base: 0x42, size: 1 }] });
      vm.start();
      await vm.exited;
      return lines.of(vm).flat();
    };

    expect(await traced([])).toEqual([]);
    expect(await traced(['mmio'])).toEqual([]);
    expect(await traced(['io'])).toEqual([
      'vcpu0 io write 0x42/1 0x55',
      'vcpu0 io read 0x99/1 0xff (unclaimed)',
    ]);
    expect(await traced(['exits'])).toEqual(['vcpu0 exit IO', 'vcpu0 exit IO', 'vcpu0 exit HLT']);
  });

  it('covers MMIO and every vCPU', async () => {
    const lines = published<{ lines: string[] }>('tsvisor:trace', (message) => message.lines);
    await using vm = await longModeVm('mov rbx, 0xd0000000; mov [rbx], edi; hlt', {
      cpus: 2,
      startAll: true,
      trace: ['mmio'],
    });
    vm.start();
    await vm.exited;

    expect(lines.of(vm).flat().sort()).toEqual([
      'vcpu0 mmio write 0xd0000000/4 0x0 (unclaimed)',
      'vcpu1 mmio write 0xd0000000/4 0x1 (unclaimed)',
    ]);
  });

  it('arrives while the guest goes on', async () => {
    const lines = published<{ lines: string[] }>('tsvisor:trace', (message) => message.lines);
    await using vm = await bareVm('1: in al, 0x99; jmp 1b', { trace: ['io'] });
    vm.start();

    while (lines.of(vm).length < 3) await sleep(1);

    expect(vm.state).toBe('running');
  });
});

describe('counters', () => {
  it('can be read while the guest runs, over all vCPUs', async () => {
    await using vm = await longModeVm('1: in al, 0x99; jmp 1b', { cpus: 2, startAll: true });
    vm.start();

    while ((vm.stats().exits.IO ?? 0) < 1000) await sleep(1);
    while (vm.stats().unclaimed < 1000) await sleep(1);

    const first = vm.stats();
    expect(first.entries).toBeGreaterThanOrEqual(first.exits.IO - 2);
    await vm.pause();
    const paused = vm.stats();
    expect(paused.unclaimed).toBe(paused.exits.IO);
    await sleep(5);
    expect(vm.stats()).toEqual(paused);
  });
});

describe('pinning', () => {
  const allowed = (tid: string) => {
    try {
      return /^Cpus_allowed_list:\s*(\S+)/m.exec(readFileSync(`/proc/self/task/${tid}/status`, 'utf8'))?.[1];
    } catch {
      // The thread has ended since it was listed.
    }
  };
  /** Threads of this process but those that KVM starts from a vCPU's thread, which inherit its CPUs (kvm-nx-lpage-...). */
  const threads = () => readdirSync('/proc/self/task').filter((tid) => !name(tid)?.startsWith('kvm'));
  const name = (tid: string) => {
    try {
      return readFileSync(`/proc/self/task/${tid}/comm`, 'utf8');
    } catch {
      // As above.
    }
  };

  it('puts each vCPU thread where it was told, and no other thread', async () => {
    const before = new Set(threads());
    const own = allowed(String(process.pid));
    await using vm = await longModeVm(SPIN, { cpus: 2, startAll: true, affinity: [[0]] });
    vm.start();

    const lists = threads()
      .filter((tid) => !before.has(tid))
      .map(allowed)
      .filter((list) => list !== undefined && list !== own);

    // A Node worker may have helpers, which inherit nothing: exactly one thread is pinned.
    expect(lists).toEqual(['0']);
    expect(allowed(String(process.pid))).toBe(own);
  });
});

describe('the panic watch', () => {
  it('finds the whole message however the output is cut', () => {
    const report =
      'ok\r\n[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n[    1.1] Call Trace:\r\n[    1.2] ---[ end Kernel panic - not syncing: VFS ]---\r\n';
    for (let size = 1; size < 80; size++) {
      const messages: string[] = [];
      const watch = new PanicWatch((message) => messages.push(message));

      for (let at = 0; at < report.length; at += size)
        watch.receive(Buffer.from(report.slice(at, at + size)));

      expect(messages, `pieces of ${size}`).toEqual(['VFS: Unable to mount root fs']);
    }
  });

  it('waits for the end of the report, and reports once', () => {
    const messages: string[] = [];
    const watch = new PanicWatch((message) => messages.push(message));
    const say = (text: string) => watch.receive(Buffer.from(text));

    say('Kernel panic - not syncing: one\n');
    const early = [...messages];
    say(`${'trace\n'.repeat(2000)}Rebooting in 5 seconds..`);
    say('Kernel panic - not syncing: two\n---[ end Kernel panic - not syncing: two');

    expect(early).toEqual([]);
    expect(messages).toEqual(['one']);
  });
});

describe('the limit of what devices log', () => {
  it('admits a few lines a second and says how many were left out', () => {
    const limit = new LogLimit();

    const first = Array.from({ length: 25 }, () => limit.admit(0));
    const later = [limit.admit(1000), limit.admit(1001)];

    expect(first.filter((count) => count !== undefined)).toEqual(new Array(10).fill(0));
    expect(later).toEqual([15, 0]);
  });
});
