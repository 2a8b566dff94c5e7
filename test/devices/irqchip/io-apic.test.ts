import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { InterruptMessage } from '../../../src/devices/irqchip/apic-bus.ts';
import {
  IO_APIC_EOI_MESSAGE,
  IO_APIC_PINS,
  IOREGSEL,
  IOWIN,
  IoApic,
  type IoApicOptions,
} from '../../../src/devices/irqchip/io-apic.ts';
import { DeviceBench } from '../../support/device-bench.ts';

const REMOTE_IRR = 1 << 14;
const LEVEL = 1 << 15;
const MASKED = 1 << 16;

function bench(options: Omit<IoApicOptions, 'deliver'> = {}) {
  const messages: InterruptMessage[] = [];
  let taken = true;
  const deliver = (message: InterruptMessage) => {
    messages.push(message);
    return taken;
  };
  const device = new IoApic({ deliver, ...options });
  const port = new DeviceBench(device);
  const select = (register: number) => port.out(IOREGSEL, register, 4);
  return {
    device,
    port,
    messages,
    setTaken(value: boolean) {
      taken = value;
    },
    read(register: number) {
      select(register);
      return port.in(IOWIN, 4);
    },
    write(register: number, value: number) {
      select(register);
      port.out(IOWIN, value >>> 0, 4);
    },
    low: (pin: number) => {
      select(0x10 + 2 * pin);
      return port.in(IOWIN, 4);
    },
    route(pin: number, low: number, destination = 0) {
      select(0x11 + 2 * pin);
      port.out(IOWIN, (destination << 24) >>> 0, 4);
      select(0x10 + 2 * pin);
      port.out(IOWIN, low, 4);
    },
  };
}

describe('registers', () => {
  it('are those of an 82093AA with 24 pins, all masked', () => {
    const io = bench();
    expect([io.read(0), io.read(1), io.read(2)]).toEqual([0, 0x17_0011, 0]);
    expect(Array.from({ length: IO_APIC_PINS }, (_, pin) => io.low(pin))).toEqual(Array(24).fill(MASKED));
  });

  it('hold what is defined of them and nothing else', () => {
    const io = bench();
    for (const register of [0, 1, 2, 0x10, 0x11, 0x40]) io.write(register, 0xffff_ffff);
    expect([0, 1, 2, 0x10, 0x11, 0x40, 3].map((register) => io.read(register))).toEqual([
      0x0f00_0000, 0x17_0011, 0x0f00_0000, 0x1_afff, 0xff00_0000, 0xffff_ffff, 0xffff_ffff,
    ]);
  });
});

describe('an edge-triggered pin', () => {
  it('sends a message for each edge', () => {
    const { device, messages, route } = bench();
    route(4, 0x0931, 0x12);
    for (const level of [1, 1, 0, 1, 0] as const) device.setPin(4, level);
    const message = {
      destination: 0x12,
      destinationMode: 'logical',
      deliveryMode: 1,
      vector: 0x31,
      triggerMode: 'edge',
    };
    expect(messages).toEqual([message, message]);
  });

  it('forgets edges while it is masked', () => {
    const { device, messages, route } = bench();
    route(4, 0x31 | MASKED);
    device.setPin(4, 1);
    route(4, 0x31);
    expect(messages).toEqual([]);
  });
});

describe('a level-triggered pin', () => {
  it('sends once until its end, and again then if it is still up', () => {
    const { device, messages, route, low, port } = bench();
    route(9, 0x39 | LEVEL);
    device.setPin(9, 1);
    device.setPin(9, 0);
    device.setPin(9, 1);
    const waiting = [messages.length, low(9) & REMOTE_IRR];
    port.out(IO_APIC_EOI_MESSAGE, 0x39, 4);
    device.setPin(9, 0);
    port.out(IO_APIC_EOI_MESSAGE, 0x39, 4);
    expect([waiting, messages.length, low(9) & REMOTE_IRR]).toEqual([[1, REMOTE_IRR], 2, 0]);
  });

  it('is sent when it is unmasked while up', () => {
    const { device, messages, route } = bench();
    route(9, 0x39 | LEVEL | MASKED);
    device.setPin(9, 1);
    route(9, 0x39 | LEVEL);
    expect(messages).toHaveLength(1);
  });

  it('that no local APIC takes does not wait for an end', () => {
    const { device, setTaken, route, low } = bench();
    setTaken(false);
    route(9, 0x39 | LEVEL);
    device.setPin(9, 1);
    expect(low(9) & REMOTE_IRR).toBe(0);
  });

  it('loses its remote IRR when it is made edge-triggered', () => {
    const { device, route, low } = bench();
    route(9, 0x39 | LEVEL);
    device.setPin(9, 1);
    route(9, 0x39 | MASKED);
    expect(low(9)).toBe(0x39 | MASKED);
  });

  it('is not ended by another vector', () => {
    const { device, route, low, port } = bench();
    route(9, 0x39 | LEVEL);
    device.setPin(9, 1);
    device.setPin(9, 0);
    port.out(IO_APIC_EOI_MESSAGE, 0x38, 4);
    expect(low(9) & REMOTE_IRR).not.toBe(0);
    port.out(IO_APIC_EOI_MESSAGE, 0x39, 4);
    expect(low(9) & REMOTE_IRR).toBe(0);
  });

  it('that never drops gives the guest pauses', () => {
    const { device, messages, route, port } = bench();
    route(9, 0x39 | LEVEL);
    device.setPin(9, 1);
    for (let i = 0; i < 10_500; i++) device.endOfInterrupt(0x39);
    const before = messages.length;
    port.clock.advance(10_000_000);
    expect([before, messages.length]).toEqual([10_500, 10_500]);
    for (let i = 0; i < 9_500; i++) device.endOfInterrupt(0x39);
    const stopped = messages.length;
    port.clock.advance(10_000_000);
    expect([stopped, messages.length]).toEqual([19_999, 20_000]);
  });
});

it('tells what its pins’ interrupts have become', () => {
  const routes: [number, number, string][] = [];
  const io = bench({ onRoute: (pin, { vector, triggerMode }) => routes.push([pin, vector, triggerMode]) });
  io.write(0x10 + 2 * 5, 0x8044);
  io.write(0, 0);
  expect(routes).toEqual([[5, 0x44, 'level']]);
});

describe('state', () => {
  it('continues in another I/O APIC', () => {
    const [from, to] = [bench(), bench()];
    from.route(9, 0x39 | LEVEL, 3);
    from.device.setPin(9, 1);
    from.device.setPin(3, 1);
    from.write(0, 5 << 24);
    to.device.restore(structuredClone(from.device.save()));
    expect(to.device.save()).toEqual(from.device.save());
    to.device.endOfInterrupt(0x39);
    expect(to.messages).toHaveLength(1);
  });

  it('in the KVM layout raises the pins it has', () => {
    const [from, to] = [bench(), bench()];
    from.route(9, 0x39 | LEVEL | MASKED, 3);
    from.device.setPin(9, 1);
    to.device.importState(from.device.exportState());
    to.route(9, 0x39 | LEVEL, 3);
    expect(to.messages).toMatchObject([{ vector: 0x39, destination: 3 }]);
  });

  it('that is refused leaves it as it was', () => {
    const { device, route } = bench();
    route(3, 0x44);
    const before = device.save();
    expect(() => device.restore({ ...before, low: [1] })).toThrow(
      expect.objectContaining({ code: 'TSV_E_STATE' }),
    );
    expect(() => device.importState(new Uint8Array(215))).toThrow(/too short/);
    expect(device.save()).toEqual(before);
  });
});

it('withstands any accesses, pins and ends', () => {
  const action = fc.tuple(
    fc.constantFrom('read', 'write', 'select', 'window', 'pin', 'end', 'load'),
    fc.nat(0xff),
    fc.constantFrom(1, 2, 4),
    fc.nat(0xffff_ffff),
  );
  fc.assert(
    fc.property(fc.array(action, { maxLength: 80 }), (actions) => {
      const { device, port, messages } = bench();
      for (const [kind, offset, size, value] of actions) {
        if (kind === 'read') port.in(offset, size as 4);
        else if (kind === 'write') port.out(offset, value, size as 4);
        else if (kind === 'select') port.out(IOREGSEL, offset, 4);
        else if (kind === 'window') port.out(IOWIN, value, size as 4);
        else if (kind === 'pin') device.setPin(offset - 2, (value & 1) as 0 | 1);
        else if (kind === 'end') device.endOfInterrupt(offset);
        else device.importState(new Uint8Array(216).fill(value));
      }
      for (const { vector, deliveryMode, destination } of messages) {
        expect([vector < 256, deliveryMode < 8, destination < 256]).toEqual([true, true, true]);
      }
      const state = device.save();
      const copy = bench();
      copy.setTaken(false);
      copy.device.restore(structuredClone(state));
      expect(copy.device.exportState()).toEqual(device.exportState());
    }),
    { numRuns: 500 },
  );
});
