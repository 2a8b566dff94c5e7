import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Device } from '../../../src/devices/device.ts';
import { A20Gate } from '../../../src/devices/legacy/a20.ts';
import { DebugConsole } from '../../../src/devices/legacy/debug-console.ts';
import { DebugExit, debugExitStatus } from '../../../src/devices/legacy/debug-exit.ts';
import { Panic, PVPANIC_CRASH_LOADED, PVPANIC_PANICKED } from '../../../src/devices/legacy/panic.ts';
import { PIT_CONTROL, PIT_HZ, Pit } from '../../../src/devices/legacy/pit.ts';
import { Port61 } from '../../../src/devices/legacy/port61.ts';
import { Port92 } from '../../../src/devices/legacy/port92.ts';
import { POST_CODE_HISTORY, PostCode } from '../../../src/devices/legacy/post-code.ts';
import { RESET_VALUE, ResetControl } from '../../../src/devices/legacy/reset-control.ts';
import { DeviceBench } from '../../support/device-bench.ts';

describe('port 0x61', () => {
  function bench() {
    const pit = new DeviceBench(new Pit());
    const port = new DeviceBench(new Port61(pit.device), { clock: pit.clock });
    return { pit, port, clock: pit.clock };
  }

  it('opens the gate of counter 2 and shows its output, as pit_calibrate_tsc polls it', () => {
    const { pit, port, clock } = bench();
    port.out(0, 0x01);
    pit.out(PIT_CONTROL, 0xb0);
    pit.out(2, 100);
    pit.out(2, 0);
    const counting = port.in(0) & 0x21;
    clock.advance((101 * 1e9) / PIT_HZ);
    expect([counting, port.in(0) & 0x21]).toEqual([0x01, 0x21]);
  });

  it('toggles the refresh bit every 15 microseconds', () => {
    const { port, clock } = bench();
    let changes = 0;
    let last = port.in(0) & 0x10;
    for (let i = 0; i < 3000; i++) {
      clock.advance(1000);
      const now = port.in(0) & 0x10;
      if (now !== last) changes++;
      last = now;
    }
    expect(changes).toBeGreaterThanOrEqual(197);
    expect(changes).toBeLessThanOrEqual(200);
  });

  it('stores the speaker and check bits and nothing else', () => {
    const { port } = bench();
    port.out(0, 0xfe);
    expect(port.in(0)).toBe(0x0e);
    port.device.reset();
    expect(port.in(0)).toBe(0x00);
  });
});

describe('port 0x92', () => {
  it('resets when bit 0 rises, and only then', () => {
    const port = new DeviceBench(new Port92());
    port.out(0, 0x02);
    const before = port.stops.length;
    port.out(0, 0x03);
    port.out(0, 0x03);
    expect([before, port.stops]).toEqual([0, [{ kind: 'reset', by: 'port 0x92' }]]);
  });

  it('shares the A20 gate', () => {
    const gate = new A20Gate();
    const port = new DeviceBench(new Port92(gate));
    port.out(0, 0x00);
    const closed = gate.enabled;
    gate.enabled = true;
    expect([closed, port.in(0)]).toEqual([false, 0x02]);
  });
});

describe('port 0xCF9', () => {
  it.each([
    ['at once', [RESET_VALUE]],
    ["as Linux's reboot=pci does it", [0x02, 0x06]],
    ['as a full reset', [0x0a, 0x0e]],
  ])('resets when RST_CPU rises: %s', (_how, values) => {
    const port = new DeviceBench(new ResetControl());
    for (const value of values) port.out(0, value);
    expect(port.stops).toEqual([{ kind: 'reset', by: 'port 0xcf9' }]);
  });

  it('does not reset without RST_CPU and reads back what exists', () => {
    const port = new DeviceBench(new ResetControl());
    port.out(0, 0xfb);
    expect([port.stops.length, port.in(0)]).toEqual([0, 0x0a]);
  });
});

describe('port 0x80', () => {
  it('keeps the last codes in order', () => {
    const port = new DeviceBench(new PostCode());
    const none = port.in(0);
    for (let code = 0; code < 100; code++) port.out(0, code);
    expect([none, port.in(0)]).toEqual([0, 99]);
    expect(port.device.codes).toEqual(
      Array.from({ length: POST_CODE_HISTORY }, (_, i) => 100 - POST_CODE_HISTORY + i),
    );
  });

  it('goes on after a restore', () => {
    const port = new DeviceBench(new PostCode());
    for (const code of [1, 2, 3]) port.out(0, code);
    const other = new DeviceBench(new PostCode());
    other.device.restore(port.device.save());
    other.out(0, 4);
    expect(other.device.codes).toEqual([1, 2, 3, 4]);
  });

  it('is written without waiting', () => {
    expect(new PostCode().registers).toEqual([{ offset: 0, size: 1, write: 'posted' }]);
  });
});

describe('port 0xE9', () => {
  it('is found by reading 0xE9 and delivers what is written', async () => {
    let text = '';
    const port = new DeviceBench(
      new DebugConsole((bytes) => {
        text += new TextDecoder().decode(bytes);
      }),
    );
    for (const byte of new TextEncoder().encode('debug\n')) port.out(0, byte);
    await port.device.close();
    expect([port.in(0), text]).toEqual([0xe9, 'debug\n']);
  });

  it('logs a sink that fails', async () => {
    const port = new DeviceBench(new DebugConsole(() => Promise.reject(new Error('EPIPE'))));
    port.out(0, 0x41);
    await port.device.flush();
    expect(port.logs).toEqual([{ level: 'error', message: expect.stringContaining('EPIPE') }]);
  });
});

describe('port 0xF4', () => {
  it.each([
    [1, 0x00, 1],
    [1, 0x10, 33],
    [2, 0x1234, 0x69],
    [4, 0xffffffff, 0xff],
    [4, 0x80000000, 1],
  ] as const)('ends the run when %i bytes are written: %i gives status %i', (size, value, status) => {
    const port = new DeviceBench(new DebugExit());
    port.out(0, value, size);
    expect(port.stops).toEqual([{ kind: 'exit', status, by: 'debug-exit' }]);
  });

  it('never gives the status of a power-off', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 0xffffffff }), (value) => {
        const status = debugExitStatus(value);
        expect(status % 2).toBe(1);
        expect(status).toBeLessThanOrEqual(255);
      }),
    );
  });

  it('ignores writes past its register', () => {
    const port = new DeviceBench(new DebugExit());
    port.out(1, 5);
    expect([port.stops, port.in(0, 4)]).toEqual([[], 0]);
  });
});

describe('port 0x505', () => {
  it('names the events it takes, ends the run on a panic and goes on for a crash kernel', () => {
    const port = new DeviceBench(new Panic());
    const events = port.in(0);
    port.out(0, PVPANIC_CRASH_LOADED);
    const afterCrash = port.stops.length;
    port.out(0, PVPANIC_PANICKED);
    expect([events, afterCrash]).toEqual([3, 0]);
    expect(port.logs.length).toBe(1);
    expect(port.stops).toEqual([{ kind: 'panic', message: expect.any(String), by: 'pvpanic' }]);
  });
});

describe('every small device', () => {
  const makers: [string, () => Device][] = [
    ['port61', () => new Port61({ gate2: true, out2: false })],
    ['port92', () => new Port92()],
    ['reset-control', () => new ResetControl()],
    ['post-code', () => new PostCode()],
    ['debug-console', () => new DebugConsole(() => {})],
    ['debug-exit', () => new DebugExit()],
    ['pvpanic', () => new Panic()],
  ];
  const stateful = makers.slice(0, 4);

  it.each(makers)('%s takes any accesses and can be saved, restored and reset', (name, make) => {
    const step = fc.record({
      offset: fc.nat(3),
      size: fc.constantFrom(1, 2, 4),
      value: fc.integer({ min: 0, max: 0xffffffff }),
      write: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        const port = new DeviceBench(make());
        const fresh = port.device.save();
        for (const { offset, size, value, write } of steps) {
          if (write) port.out(offset, value % 2 ** (8 * size), size as 1 | 2 | 4);
          else port.in(offset, size as 1 | 2 | 4);
        }
        const state = structuredClone(port.device.save());
        const other = new DeviceBench(make());
        other.device.restore(state);
        expect(other.device.save()).toEqual(state);
        // Bit 0 of port 0x61 is the gate of a counter, which saves itself.
        if (name !== 'port61') expect(other.in(0)).toBe(port.in(0));
        other.device.reset?.();
        expect(other.device.save()).toEqual(fresh);
        expect(port.device.name).toBe(name);
      }),
      { numRuns: 50 },
    );
  });

  it.each(stateful)('%s refuses a state that is not its own', (_name, make) => {
    expect(() => make().restore({ stored: -1, resetBit: 2, a20: 0, value: 'x', codes: [256] })).toThrow(
      expect.objectContaining({ code: 'TSV_E_STATE' }),
    );
  });
});
