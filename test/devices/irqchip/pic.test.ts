import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PIC_ELCR, PIC_INTA, PIC_MASTER, PIC_SLAVE, Pic } from '../../../src/devices/irqchip/pic.ts';
import { DeviceBench } from '../../support/device-bench.ts';

const EOI = 0x20;
const READ_IRR = 0x0a;
const READ_ISR = 0x0b;
const POLL = 0x0c;
const ROTATE_EOI = 0xa0;
const SPECIFIC_EOI = 0x60;
const SET_PRIORITY = 0xc0;
const SPECIAL_MASK = 0x68;
const AEOI = 2;
const SFNM = 0x10;

/** A PIC as Linux sets it up: vectors 0x30 to 0x3f, nothing masked. */
function bench(icw4 = 0) {
  const device = new Pic(() => {});
  const port = new DeviceBench(device);
  const out = (offset: number, ...values: number[]) => {
    for (const value of values) port.out(offset, value);
  };
  for (const [chip, base, wiring] of [
    [PIC_MASTER, 0x30, 4],
    [PIC_SLAVE, 0x38, 2],
  ] as const) {
    out(chip, 0x11);
    out(chip + 1, base, wiring, 1 | icw4, 0);
  }
  return {
    device,
    port,
    out,
    read: (chip: number, what: number) => {
      port.out(chip, what);
      return port.in(chip);
    },
    raise: (...inputs: number[]) => {
      for (const input of inputs) device.setInput(input, 1);
    },
    lower: (...inputs: number[]) => {
      for (const input of inputs) device.setInput(input, 0);
    },
    inta: () => port.in(PIC_INTA),
  };
}

describe('a request', () => {
  it('is output, acknowledged with its vector, and in service until its end', () => {
    const pic = bench();
    pic.raise(4);
    const requested = [pic.device.output, pic.read(PIC_MASTER, READ_IRR)];
    const vector = pic.inta();
    expect([requested, vector]).toEqual([[true, 0x10], 0x34]);
    expect([pic.device.output, pic.read(PIC_MASTER, READ_IRR), pic.read(PIC_MASTER, READ_ISR)]).toEqual([
      false,
      0,
      0x10,
    ]);
    pic.out(PIC_MASTER, EOI);
    expect(pic.read(PIC_MASTER, READ_ISR)).toBe(0);
  });

  it('waits while it is masked', () => {
    const pic = bench();
    pic.out(PIC_MASTER + 1, 0x10);
    pic.raise(4);
    const masked = pic.device.output;
    pic.out(PIC_MASTER + 1, 0);
    expect([masked, pic.device.output, pic.port.in(PIC_MASTER + 1)]).toEqual([false, true, 0]);
  });

  it('of the slave comes through the cascade', () => {
    const pic = bench();
    pic.raise(12);
    expect([pic.inta(), pic.read(PIC_MASTER, READ_ISR), pic.read(PIC_SLAVE, READ_ISR)]).toEqual([
      0x3c, 4, 0x10,
    ]);
  });

  it('that has gone is acknowledged as a spurious one, which is not in service', () => {
    const pic = bench();
    const master = [pic.inta(), pic.read(PIC_MASTER, READ_ISR)];
    pic.raise(10);
    pic.out(PIC_SLAVE + 1, 0xff);
    expect([master, pic.inta(), pic.read(PIC_SLAVE, READ_ISR)]).toEqual([[0x37, 0], 0x3f, 0]);
  });

  it('by edge comes once, by level until the input drops', () => {
    const pic = bench();
    pic.out(PIC_ELCR + 1, 0x04);
    pic.raise(3, 10);
    const vectors = Array.from({ length: 3 }, () => {
      const vector = pic.inta();
      pic.out(PIC_SLAVE, EOI);
      pic.out(PIC_MASTER, EOI);
      return vector;
    });
    pic.lower(10);
    expect([vectors, pic.read(PIC_SLAVE, READ_IRR)]).toEqual([[0x3a, 0x3a, 0x3a], 0]);
  });
});

describe('priorities', () => {
  it('go from 0 to 7 with the slave in the place of 2', () => {
    const pic = bench();
    pic.raise(7, 3, 15, 8, 1);
    const order = Array.from({ length: 5 }, () => {
      const vector = pic.inta();
      if (vector >= 0x38) pic.out(PIC_SLAVE, EOI);
      pic.out(PIC_MASTER, EOI);
      return vector & 15;
    });
    expect(order).toEqual([1, 8, 15, 3, 7]);
  });

  it('hold lower ones back while one is in service, and let higher ones through', () => {
    const pic = bench();
    pic.raise(3);
    pic.inta();
    pic.raise(5);
    const lower = pic.device.output;
    pic.raise(1);
    expect([lower, pic.device.output]).toEqual([false, true]);
  });

  it('rotate with the end of an interrupt, and to where they are set', () => {
    const pic = bench();
    pic.raise(3);
    pic.inta();
    pic.out(PIC_MASTER, ROTATE_EOI);
    pic.lower(3);
    pic.raise(3, 4);
    const rotated = pic.inta();
    pic.out(PIC_MASTER, SPECIFIC_EOI | 4, SET_PRIORITY | 2);
    expect([rotated, pic.inta()]).toEqual([0x34, 0x33]);
  });

  it('let a masked service through in special mask mode, whose end must be specific', () => {
    const pic = bench();
    pic.raise(1);
    pic.inta();
    pic.raise(5);
    pic.out(PIC_MASTER + 1, 0x02);
    const before = pic.device.output;
    pic.out(PIC_MASTER, SPECIAL_MASK);
    const after = pic.device.output;
    pic.out(PIC_MASTER, EOI);
    expect([before, after, pic.read(PIC_MASTER, READ_ISR)]).toEqual([false, true, 2]);
  });

  it('let the slave interrupt itself in special fully nested mode', () => {
    const outputs = [0, SFNM].map((icw4) => {
      const pic = bench(icw4);
      pic.raise(12);
      pic.inta();
      pic.raise(8);
      return pic.device.output;
    });
    expect(outputs).toEqual([false, true]);
  });
});

it('ends interrupts itself in automatic mode', () => {
  const pic = bench(AEOI);
  pic.raise(6);
  expect([pic.inta(), pic.read(PIC_MASTER, READ_ISR)]).toEqual([0x36, 0]);
});

it('rotates in automatic mode', () => {
  const pic = bench(AEOI);
  pic.out(PIC_MASTER, 0x80);
  pic.raise(3, 4);
  const first = pic.inta();
  pic.lower(3);
  pic.raise(3);
  expect([first, pic.inta(), pic.inta()]).toEqual([0x33, 0x34, 0x33]);
});

it('answers a poll with the interrupt and takes it into service', () => {
  const pic = bench();
  pic.raise(5);
  const polls = [pic.read(PIC_MASTER, POLL), pic.read(PIC_MASTER, POLL)];
  expect([polls, pic.read(PIC_MASTER, READ_ISR)]).toEqual([[0x85, 7], 0x20]);
});

it('leaves no request of the slave in the master when the slave is polled', () => {
  const pic = bench();
  pic.raise(11);
  expect([pic.read(PIC_SLAVE, POLL), pic.device.output]).toEqual([0x83, false]);
});

it('makes level-triggered only the inputs that can be', () => {
  const pic = bench();
  pic.out(PIC_ELCR, 0xff);
  pic.out(PIC_ELCR + 1, 0xff);
  expect([pic.port.in(PIC_ELCR), pic.port.in(PIC_ELCR + 1)]).toEqual([0xf8, 0xde]);
});

it('tells its output’s changes, and only changes', () => {
  const levels: boolean[] = [];
  const pic = new Pic((level) => levels.push(level));
  pic.setInput(0, 1);
  pic.setInput(1, 1);
  pic.acknowledge();
  pic.reset();
  expect(levels).toEqual([true, false]);
});

describe('state', () => {
  it('continues in another PIC', () => {
    const from = bench(AEOI);
    from.raise(3, 12);
    from.inta();
    const levels: boolean[] = [];
    const to = new Pic((level) => levels.push(level));
    to.restore(structuredClone(from.device.save()));
    expect([to.save(), to.exportState(), levels]).toEqual([
      from.device.save(),
      from.device.exportState(),
      [true],
    ]);
  });

  it('that is refused leaves it as it was', () => {
    const { device, raise } = bench();
    raise(3);
    const before = device.save();
    const [master] = before.chips as object[];
    expect(() => device.restore({ chips: [master, { ...master, isr: 256 }] })).toThrow(
      expect.objectContaining({ code: 'TSV_E_STATE' }),
    );
    expect(() => device.importState(new Uint8Array(16), new Uint8Array(15))).toThrow(/too short/);
    expect(device.save()).toEqual(before);
  });
});

it('withstands any accesses and inputs', () => {
  const action = fc.tuple(fc.constantFrom('in', 'out', 'set', 'load'), fc.nat(16), fc.nat(255));
  fc.assert(
    fc.property(fc.array(action, { maxLength: 100 }), (actions) => {
      const { device, port } = bench();
      for (const [kind, index, value] of actions) {
        if (kind === 'in') port.in(index % 7);
        else if (kind === 'out') port.out(index % 7, value);
        else if (kind === 'set') device.setInput(index, (value & 1) as 0 | 1);
        else device.importState(new Uint8Array(16).fill(value), new Uint8Array(16).fill(index));
      }
      const copy = new Pic(() => {});
      copy.restore(structuredClone(device.save()));
      expect([copy.save(), copy.output]).toEqual([device.save(), device.output]);
    }),
    { numRuns: 500 },
  );
});
