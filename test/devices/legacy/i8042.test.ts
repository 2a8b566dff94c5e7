import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { A20Gate } from '../../../src/devices/legacy/a20.ts';
import { I8042_COMMAND as COMMAND, I8042_DATA as DATA, I8042 } from '../../../src/devices/legacy/i8042.ts';
import { DeviceBench } from '../../support/device-bench.ts';

const OBF = 0x01;
const IBF = 0x02;
const AUX = 0x20;
const TIMEOUT = 0x40;

function bench() {
  const a20 = new A20Gate();
  const device = new I8042(a20);
  const port = new DeviceBench(device);
  return { port, device, a20, irq: port.irq() };
}
type Port = DeviceBench<I8042>;

/** Everything in the output buffer, each byte announced by the status register. */
function drain(port: Port): number[] {
  const bytes: number[] = [];
  while (port.in(COMMAND) & OBF && bytes.length < 100) bytes.push(port.in(DATA));
  return bytes;
}
function command(port: Port, value: number, data?: number): number[] {
  expect(port.in(COMMAND) & IBF).toBe(0);
  port.out(COMMAND, value);
  if (data !== undefined) port.out(DATA, data);
  return drain(port);
}
function keyboard(port: Port, ...bytes: number[]): number[] {
  return bytes.flatMap((byte) => {
    port.out(DATA, byte);
    return drain(port);
  });
}

describe('controller commands', () => {
  it.each([
    ['self test', 0xaa, 0x55],
    ['keyboard interface test', 0xab, 0x00],
    ['password test: none', 0xa4, 0xf1],
    ['auxiliary test: no port', 0xa9, 0x01],
    ['input port: not locked', 0xc0, 0x80],
    ['test inputs', 0xe0, 0x00],
  ])('answer the %s', (_name, value, answer) => {
    expect(command(bench().port, value)).toEqual([answer]);
  });

  it('read and write the command byte and the RAM', () => {
    const { port } = bench();
    command(port, 0x60, 0x74);
    command(port, 0x7f, 0xab);
    expect([command(port, 0x20), command(port, 0x3f)]).toEqual([[0x74], [0xab]]);
  });

  it('switch the keyboard interface in the command byte', () => {
    const { port } = bench();
    command(port, 0xad);
    const off = command(port, 0x20)[0] & 0x10;
    command(port, 0xae);
    expect([off, command(port, 0x20)[0] & 0x10]).toEqual([0x10, 0]);
  });

  it("answer Linux's auxiliary port probe at once: the loop comes back from the keyboard side", () => {
    const { port } = bench();
    port.out(COMMAND, 0xd3);
    port.out(DATA, 0x5a);
    expect(port.in(COMMAND) & (OBF | AUX)).toBe(OBF);
    expect(drain(port)).toEqual([0x5a]);
  });

  it('time out on bytes for the auxiliary device', () => {
    const { port } = bench();
    port.out(COMMAND, 0xd4);
    port.out(DATA, 0xff);
    expect(port.in(COMMAND) & TIMEOUT).toBe(TIMEOUT);
    expect(drain(port)).toEqual([0xfe]);
    expect(port.in(COMMAND) & TIMEOUT).toBe(0);
  });

  it('open and close the A20 gate by the output port and by command', () => {
    const { port, a20 } = bench();
    const seen = [];
    command(port, 0xd1, 0xdd);
    seen.push(a20.enabled, command(port, 0xd0)[0] & 2);
    command(port, 0xdf);
    seen.push(a20.enabled, command(port, 0xd0)[0] & 2);
    command(port, 0xdd);
    seen.push(a20.enabled);
    expect(seen).toEqual([false, 0, true, 2, false]);
  });

  it.each([
    ['pulse of the reset line', (port: Port) => command(port, 0xfe)],
    ['output port without the reset bit', (port: Port) => command(port, 0xd1, 0xde)],
  ])('reset the machine by %s', (_name, act) => {
    const { port } = bench();
    act(port);
    expect(port.stops).toEqual([{ kind: 'reset', by: 'keyboard controller' }]);
  });

  it('do not reset by a pulse of no line', () => {
    const { port } = bench();
    command(port, 0xff);
    expect(port.stops).toEqual([]);
  });

  it('show in the status whether the last write was a command', () => {
    const { port } = bench();
    port.out(COMMAND, 0xab);
    const afterCommand = port.in(COMMAND) & 0x08;
    port.out(DATA, 0xee);
    expect([afterCommand, port.in(COMMAND) & 0x08]).toEqual([0x08, 0]);
  });
});

describe('the keyboard', () => {
  it('resets, identifies itself and takes its settings without translation', () => {
    const { port } = bench();
    command(port, 0x60, 0x05);
    expect(keyboard(port, 0xff)).toEqual([0xfa, 0xaa]);
    expect(keyboard(port, 0xf2)).toEqual([0xfa, 0xab, 0x83]);
    expect(keyboard(port, 0xf0, 0x00)).toEqual([0xfa, 0xfa, 0x02]);
    expect(keyboard(port, 0xf3, 0x20, 0xf4, 0xf5, 0xf6)).toEqual(new Array(5).fill(0xfa));
    expect(keyboard(port, 0xee)).toEqual([0xee]);
    expect(keyboard(port, 0x12)).toEqual([0xfe]);
  });

  it('identifies itself through the translation as Linux knows it', () => {
    expect(keyboard(bench().port, 0xf2)).toEqual([0xfa, 0xab, 0x41]);
  });

  it('repeats its last byte when asked', () => {
    const { port } = bench();
    keyboard(port, 0xf2);
    expect(keyboard(port, 0xfe)).toEqual([0x41]);
  });

  it('stores the LEDs', () => {
    const { port, device } = bench();
    keyboard(port, 0xed, 0x06);
    expect(device.leds).toBe(6);
  });

  it('takes a new command where a parameter was due', () => {
    const { port, device } = bench();
    expect(keyboard(port, 0xed, 0xf2)).toEqual([0xfa, 0xfa, 0xab, 0x41]);
    expect(device.leds).toBe(0);
  });

  it('is opened by a byte sent to it', () => {
    const { port } = bench();
    command(port, 0xad);
    expect(keyboard(port, 0xee)).toEqual([0xee]);
  });

  it('holds its bytes while its interface is off', () => {
    const { port, device } = bench();
    command(port, 0xad);
    device.sendScancodes([0x1c]);
    const held = drain(port);
    command(port, 0x60, 0x45);
    expect([held, drain(port)]).toEqual([[], []]);
    device.sendScancodes([]);
  });
});

describe('keys', () => {
  it('send Ctrl+Alt+Del in set 1 through the translation', () => {
    const { port, device } = bench();
    device.pressCtrlAltDel();
    expect(drain(port)).toEqual([0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d]);
  });

  it('send set 2 untranslated when the translation is off', () => {
    const { port, device } = bench();
    command(port, 0x60, 0x05);
    device.pressCtrlAltDel();
    expect(drain(port)).toEqual([0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14]);
  });

  it('are dropped while scanning is off', () => {
    const { port, device } = bench();
    keyboard(port, 0xf5);
    device.sendScancodes([0x1c]);
    expect(drain(port)).toEqual([]);
  });

  it('end in one overrun code when nobody reads them', () => {
    const { port, device } = bench();
    command(port, 0x60, 0x05);
    device.sendScancodes(new Array(100).fill(0x1c));
    const bytes = drain(port);
    // 16 in the keyboard and one in the controller's output buffer.
    expect(bytes.slice(0, 15)).toEqual(new Array(15).fill(0x1c));
    expect(bytes[bytes.length - 1]).toBe(0x00);
    expect(bytes.length).toBeLessThanOrEqual(17);
  });
});

describe('the interrupt', () => {
  it('has an edge for every byte', () => {
    const { port, irq } = bench();
    port.out(DATA, 0xf2);
    const levels = [0, 1, 2].map(() => {
      const { level } = irq;
      port.in(DATA);
      return level;
    });
    expect([levels, irq.level, irq.edges]).toEqual([[true, true, true], false, 3]);
  });

  it('has an edge for each of several replies', () => {
    const { port, irq } = bench();
    port.out(COMMAND, 0xab);
    port.out(COMMAND, 0xc0);
    port.in(DATA);
    port.in(DATA);
    expect([irq.edges, irq.level]).toEqual([2, false]);
  });

  it('is enabled by the command byte', () => {
    const { port, irq } = bench();
    command(port, 0x60, 0x44);
    port.out(DATA, 0xee);
    expect(irq.level).toBe(false);
    port.out(COMMAND, 0x60);
    port.out(DATA, 0x45);
    expect(irq.level).toBe(true);
  });
});

describe('life cycle', () => {
  it('reset goes back to power-on', () => {
    const { port, device, irq } = bench();
    const fresh = device.save();
    command(port, 0x60, 0x01);
    keyboard(port, 0xed, 0x07);
    command(port, 0xdd);
    port.out(DATA, 0xf2);
    device.reset();
    expect([device.save(), irq.level]).toEqual([fresh, false]);
  });

  it('continues in the middle of a reply and of a command on another machine', () => {
    const { port, device } = bench();
    port.out(DATA, 0xf2);
    port.in(DATA);
    port.out(COMMAND, 0x60);
    const other = bench();
    other.device.restore(structuredClone(device.save()));
    expect([other.irq.level, other.port.in(COMMAND) & OBF]).toEqual([true, OBF]);
    other.port.out(DATA, 0x40);
    expect(drain(other.port)).toEqual([0xab, 0x41]);
    expect(command(other.port, 0x20)).toEqual([0x40]);
  });

  it.each([
    { ram: [1, 2, 3] },
    { output: 256 },
    { replies: new Array(17).fill(0) },
    { a20: 'on' },
    { keyboard: null },
    { keyboard: { replies: [], keys: [], lastSent: 0, awaiting: 0, scanning: true, set: 9, leds: 0 } },
  ])('refuses a state with %j and stays as it was', (change) => {
    const { port, device } = bench();
    const before = device.save();
    expect(() => device.restore({ ...before, awaiting: 0x60, ...change })).toThrow(
      expect.objectContaining({ code: 'TSV_E_STATE' }),
    );
    expect(device.save()).toEqual(before);
    expect(port.stops).toEqual([]);
  });

  it('takes any sequence of accesses and keys, with values in range and a restorable state', () => {
    const step = fc.oneof(
      fc.record({ read: fc.constantFrom(DATA, COMMAND, 1, 3) }),
      fc.record({ write: fc.constantFrom(DATA, COMMAND, 2), value: fc.nat(255) }),
      fc.record({ keys: fc.array(fc.nat(255), { maxLength: 20 }) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 150 }), (steps) => {
        const { port, device, irq } = bench();
        for (const action of steps) {
          if ('read' in action) port.in(action.read);
          else if ('write' in action) port.out(action.write, action.value);
          else device.sendScancodes(action.keys);
          expect(port.in(COMMAND)).toBe(device.read(COMMAND));
        }
        const state = structuredClone(device.save());
        const other = bench();
        other.device.restore(state);
        expect(other.device.save()).toEqual(state);
        expect(other.irq.level).toBe(irq.level);
        expect(drain(other.port)).toEqual(drain(port));
      }),
    );
  });
});
