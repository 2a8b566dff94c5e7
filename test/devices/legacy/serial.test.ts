import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { OUTPUT_HIGH_WATER } from '../../../src/devices/legacy/output-batch.ts';
import { Serial, type SerialOptions } from '../../../src/devices/legacy/serial.ts';
import { SERIAL_INPUT_LIMIT } from '../../../src/devices/legacy/serial-receiver.ts';
import * as uart from '../../../src/devices/legacy/serial-registers.ts';
import { DeviceBench, settle } from '../../support/device-bench.ts';

function bench(options: SerialOptions = {}) {
  const sent: number[] = [];
  const device = new Serial({ output: (bytes) => void sent.push(...bytes), ...options });
  const port = new DeviceBench(device);
  return { port, device, sent, irq: port.irq() };
}

const text = (value: string) => new TextEncoder().encode(value);
const ENABLE_FIFO = uart.FCR_ENABLE | uart.FCR_CLEAR_RECEIVER | 0x04;
/** MCR of a driver that wants interrupts. */
const OPEN = uart.MCR_DTR | uart.MCR_RTS | uart.MCR_OUT2;

/** Reads all that is there, as a driver's receive loop does. */
function drain(port: DeviceBench<Serial>): string {
  let out = '';
  while (port.in(uart.LSR) & uart.LSR_DR) out += String.fromCharCode(port.in(uart.RBR));
  return out;
}

describe('transmitting', () => {
  it('hands a burst to the sink in one piece and never shows a full transmitter', async () => {
    const calls: string[] = [];
    const { port } = bench({ output: (bytes) => void calls.push(new TextDecoder().decode(bytes)) });
    for (const byte of text('Linux version 6.1')) {
      expect(port.in(uart.LSR) & uart.LSR_THRE).toBe(uart.LSR_THRE);
      port.out(uart.THR, byte);
    }
    await settle();
    expect(calls).toEqual(['Linux version 6.1']);
  });

  it('raises THRE once for a burst, after it', async () => {
    const { port, irq } = bench();
    port.out(uart.MCR, OPEN);
    port.out(uart.IER, uart.IER_THRI);
    port.in(uart.IIR);
    const before = irq.edges;
    for (const byte of text('0123456789abcdef')) port.out(uart.THR, byte);
    const during = irq.level;
    await settle();
    expect([during, irq.level, irq.edges - before]).toEqual([false, true, 1]);
  });

  it('acknowledges THRE when IIR reports it, and not when IIR reports something else', () => {
    const { port, device, irq } = bench();
    port.out(uart.MCR, OPEN);
    port.out(uart.IER, uart.IER_THRI | uart.IER_RDI);
    device.receive(text('x'));
    expect(port.in(uart.IIR)).toBe(uart.IIR_RDI);
    port.in(uart.RBR);
    expect(port.in(uart.IIR)).toBe(uart.IIR_THRI);
    expect(port.in(uart.IIR)).toBe(uart.IIR_NO_INT);
    expect(irq.level).toBe(false);
  });

  it('raises THRE again each time it is enabled with an empty transmitter', () => {
    // The test of serial8250_do_startup for UARTs that do not re-assert THRE.
    const { port } = bench();
    const reports: number[] = [];
    for (let i = 0; i < 2; i++) {
      port.out(uart.IER, uart.IER_THRI);
      reports.push(port.in(uart.IIR));
      port.out(uart.IER, 0);
    }
    expect(reports).toEqual([uart.IIR_THRI, uart.IIR_THRI]);
  });

  it('shows a full transmitter to the guest while a slow sink is far behind, and interrupts when it is not', async () => {
    let release = () => {};
    const { port, irq } = bench({
      output: () =>
        new Promise<void>((resolve) => {
          release = resolve;
        }),
    });
    port.out(uart.MCR, OPEN);
    port.out(uart.IER, uart.IER_THRI);
    port.in(uart.IIR);
    port.out(uart.THR, 0);
    await settle();
    port.in(uart.IIR);
    for (let i = 0; i < OUTPUT_HIGH_WATER; i++) port.out(uart.THR, 0x41);
    await settle();
    const congested = port.in(uart.LSR) & (uart.LSR_THRE | uart.LSR_TEMT);
    const quiet = irq.level;
    release();
    await settle();
    expect([congested, quiet]).toEqual([0, false]);
    expect([port.in(uart.LSR) & uart.LSR_THRE, irq.level]).toEqual([uart.LSR_THRE, true]);
  });

  it('delivers everything before close resolves', async () => {
    const { port, device, sent } = bench();
    for (const byte of text('bye')) port.out(uart.THR, byte);
    await device.close();
    expect(String.fromCharCode(...sent)).toBe('bye');
  });
});

describe('receiving', () => {
  it('offers one character at a time without FIFOs and loses none', () => {
    const { port, device } = bench();
    expect(device.receive(text('hello'))).toBe(5);
    expect(drain(port)).toBe('hello');
  });

  it('interrupts at the trigger level as received data, below it as a time-out', () => {
    const { port, device } = bench();
    port.out(uart.FCR, ENABLE_FIFO | 0x80); // 8 bytes
    port.out(uart.IER, uart.IER_RDI);
    device.receive(text('1234567'));
    const below = port.in(uart.IIR);
    device.receive(text('8'));
    expect([below, port.in(uart.IIR)]).toEqual([0xc0 | uart.IIR_CTI, 0xc0 | uart.IIR_RDI]);
  });

  it.each([
    [0x00, 1],
    [0x40, 4],
    [0x80, 8],
    [0xc0, 14],
  ])('has the trigger level of FCR %i', (bits, level) => {
    const { port, device } = bench();
    port.out(uart.FCR, ENABLE_FIFO | bits);
    port.out(uart.IER, uart.IER_RDI);
    const seen: number[] = [];
    for (let i = 1; i <= 16; i++) {
      device.receive(text('x'));
      if ((port.in(uart.IIR) & 0x0f) === uart.IIR_RDI) seen.push(i);
    }
    expect(seen[0]).toBe(level);
  });

  it('drops the interrupt with the last character', () => {
    const { port, device, irq } = bench();
    port.out(uart.MCR, OPEN);
    port.out(uart.FCR, ENABLE_FIFO);
    port.out(uart.IER, uart.IER_RDI);
    device.receive(text('ab'));
    port.in(uart.RBR);
    const one = irq.level;
    port.in(uart.RBR);
    expect([one, irq.level, irq.edges]).toEqual([true, false, 1]);
  });

  it('keeps a bounded amount for a guest that does not read and says when there is room', async () => {
    let called = 0;
    const { port, device } = bench({ onInputSpace: () => called++ });
    const flood = new Uint8Array(SERIAL_INPUT_LIMIT + 100).fill(0x61);
    const accepted = device.receive(flood);
    const more = device.receive(flood);
    const early = called;
    expect(drain(port).length).toBe(accepted + more);
    await settle();
    expect([early, called]).toEqual([0, 1]);
    expect(device.inputSpace).toBe(SERIAL_INPUT_LIMIT);
  });

  it('empties its FIFO by FCR, and when FIFOs are switched', () => {
    const { port, device } = bench();
    port.out(uart.FCR, ENABLE_FIFO);
    device.receive(text('abc'));
    port.out(uart.FCR, ENABLE_FIFO);
    const cleared = drain(port);
    device.receive(text('def'));
    port.out(uart.FCR, 0);
    expect([cleared, drain(port)]).toEqual(['', '']);
  });

  it('reads 0 when there is nothing', () => {
    const { port } = bench();
    expect(port.in(uart.RBR)).toBe(0);
  });
});

describe('line status', () => {
  it('shows a break with the character it comes with, after the input before it', () => {
    const { port, device } = bench();
    port.out(uart.FCR, ENABLE_FIFO);
    device.receive(text('a'));
    device.sendBreak();
    device.receive(text('h'));
    const before = port.in(uart.LSR);
    const first = port.in(uart.RBR);
    const at = port.in(uart.LSR);
    const breakByte = port.in(uart.RBR);
    const after = port.in(uart.LSR);

    expect([first, breakByte]).toEqual([0x61, 0]);
    expect(before & (uart.LSR_BI | uart.LSR_FIFO_ERROR)).toBe(uart.LSR_FIFO_ERROR);
    expect(at & uart.LSR_BI).toBe(uart.LSR_BI);
    expect(after & (uart.LSR_BI | uart.LSR_FIFO_ERROR | uart.LSR_DR)).toBe(uart.LSR_DR);
  });

  it('interrupts with the highest priority until it is read with its character', () => {
    const { port, device, irq } = bench();
    port.out(uart.MCR, OPEN);
    port.out(uart.FCR, ENABLE_FIFO);
    port.out(uart.IER, uart.IER_MASK);
    device.sendBreak();
    const id = port.in(uart.IIR) & 0x0f;
    port.in(uart.LSR);
    port.in(uart.RBR);
    expect([id, port.in(uart.IIR) & 0x0f]).toEqual([uart.IIR_RLSI, uart.IIR_THRI]);
    expect(irq.level).toBe(false);
  });

  it('is acknowledged by IIR, LSR, IIR as well', () => {
    const { port, device } = bench();
    port.out(uart.IER, uart.IER_RLSI);
    device.sendBreak();
    const ids = [port.in(uart.IIR)];
    expect(port.in(uart.LSR) & uart.LSR_BI).toBe(uart.LSR_BI);
    ids.push(port.in(uart.IIR));
    expect(ids).toEqual([uart.IIR_RLSI, uart.IIR_NO_INT]);
    expect(port.in(uart.LSR) & (uart.LSR_BI | uart.LSR_DR)).toBe(uart.LSR_DR);
  });

  it('shows an overrun in loopback: the FIFO keeps its bytes, the single register takes the new one', () => {
    const { port } = bench();
    port.out(uart.MCR, uart.MCR_LOOP);
    port.out(uart.THR, 1);
    port.out(uart.THR, 2);
    const single = [port.in(uart.LSR) & uart.LSR_OE, port.in(uart.RBR), port.in(uart.LSR) & uart.LSR_OE];
    port.out(uart.FCR, ENABLE_FIFO);
    for (let i = 0; i < 17; i++) port.out(uart.THR, 100 + i);
    const overrun = port.in(uart.LSR) & uart.LSR_OE;
    const bytes = drain(port);
    expect(single).toEqual([uart.LSR_OE, 2, 0]);
    expect([overrun, bytes.length, bytes.charCodeAt(15)]).toEqual([uart.LSR_OE, 16, 115]);
  });
});

describe('modem control and loopback', () => {
  it('turns outputs into inputs in loopback and reports the changes once', () => {
    const { port } = bench();
    port.out(uart.MCR, uart.MCR_LOOP);
    const first = port.in(uart.MSR);
    port.out(uart.MCR, uart.MCR_LOOP | uart.MCR_RTS | uart.MCR_OUT2);
    const second = port.in(uart.MSR);
    const third = port.in(uart.MSR);
    // Linux's autoconfig expects exactly DCD and CTS here.
    expect(first & uart.MSR_LINES).toBe(0);
    expect(second).toBe(uart.MSR_DCD | uart.MSR_CTS | uart.MSR_DDCD | uart.MSR_DCTS);
    expect(third).toBe(uart.MSR_DCD | uart.MSR_CTS);
  });

  it('reports the ring indicator at its trailing edge only', () => {
    const { port, device } = bench();
    device.setModemInputs(uart.MSR_RI);
    port.in(uart.MSR);
    device.setModemInputs(0);
    device.setModemInputs(uart.MSR_RI);
    expect(port.in(uart.MSR)).toBe(uart.MSR_RI | uart.MSR_TERI);
  });

  it('interrupts when the carrier is lost', () => {
    const { port, device, irq } = bench();
    port.out(uart.MCR, OPEN);
    port.out(uart.IER, uart.IER_MSI);
    device.setModemInputs(uart.MSR_CTS | uart.MSR_DSR);
    const raised = irq.level;
    expect(port.in(uart.IIR)).toBe(uart.IIR_MSI);
    expect(port.in(uart.MSR)).toBe(uart.MSR_CTS | uart.MSR_DSR | uart.MSR_DDCD);
    expect([raised, irq.level]).toEqual([true, false]);
  });

  it('receives what it transmits in loopback; nothing leaves, and line input waits', async () => {
    const { port, device, sent } = bench();
    port.out(uart.FCR, ENABLE_FIFO);
    port.out(uart.MCR, uart.MCR_LOOP);
    device.receive(text('later'));
    for (const byte of text('loop')) port.out(uart.THR, byte);
    const looped = drain(port);
    port.out(uart.MCR, OPEN);
    const line = drain(port);
    await settle();
    expect([looped, line, sent]).toEqual(['loop', 'later', []]);
  });

  it('connects its interrupt to the bus only with OUT2', () => {
    const { port, device, irq } = bench();
    port.out(uart.IER, uart.IER_RDI);
    device.receive(text('x'));
    const without = irq.level;
    port.out(uart.MCR, uart.MCR_OUT2);
    const withOut2 = irq.level;
    port.out(uart.MCR, 0);
    expect([without, withOut2, irq.level]).toEqual([false, true, false]);
  });

  it('shows the host its modem outputs', () => {
    const { port, device } = bench();
    port.out(uart.MCR, OPEN);
    expect(device.modemOutputs).toBe(uart.MCR_DTR | uart.MCR_RTS);
  });
});

describe('registers', () => {
  it('bank the divisor behind DLAB at offsets 0 and 1', () => {
    const { port } = bench();
    port.out(uart.IER, uart.IER_RDI);
    port.out(uart.LCR, uart.LCR_DLAB | 3);
    port.out(0, 0x34);
    port.out(1, 0x12);
    const divisor = [port.in(0), port.in(1)];
    port.out(uart.LCR, 3);
    expect([...divisor, port.in(1), port.in(uart.LCR)]).toEqual([0x34, 0x12, uart.IER_RDI, 3]);
  });

  it('store the scratch byte, mask what does not exist and ignore writes to LSR and MSR', () => {
    const { port } = bench();
    port.out(uart.SCR, 0xa5);
    port.out(uart.IER, 0xff);
    port.out(uart.MCR, 0xff & ~uart.MCR_LOOP);
    port.out(uart.LSR, 0);
    port.out(uart.MSR, 0);
    expect([port.in(uart.SCR), port.in(uart.IER), port.in(uart.MCR)]).toEqual([0xa5, 0x0f, 0x0f]);
    expect(port.in(uart.LSR)).toBe(uart.LSR_THRE | uart.LSR_TEMT);
    expect(port.in(uart.MSR)).toBe(uart.MSR_CTS | uart.MSR_DSR | uart.MSR_DCD);
  });

  it('identify a 16550A when FIFOs are enabled', () => {
    const { port } = bench();
    const off = port.in(uart.IIR) >> 6;
    port.out(uart.FCR, uart.FCR_ENABLE);
    expect([off, port.in(uart.IIR) >> 6]).toEqual([0, 3]);
  });
});

describe('life cycle', () => {
  it('reset goes back to power-on, interrupt low, and keeps line input', () => {
    const { port, device, irq } = bench();
    const fresh = device.save();
    port.out(uart.LCR, 0x83);
    port.out(1, 9);
    port.out(uart.MCR, OPEN);
    port.out(uart.LCR, 3);
    port.out(uart.FCR, ENABLE_FIFO);
    port.out(uart.IER, uart.IER_MASK);
    port.out(uart.SCR, 1);
    device.receive(text('x'));
    port.in(uart.RBR);
    device.reset();
    expect(device.save()).toEqual(fresh);
    expect(irq.level).toBe(false);
  });

  it('continues in the middle of input, with its interrupt, on another machine', () => {
    const { port, device } = bench();
    port.out(uart.MCR, OPEN);
    port.out(uart.FCR, ENABLE_FIFO | 0x80);
    port.out(uart.IER, uart.IER_RDI | uart.IER_RLSI);
    device.receive(text('abcdefghijklmnopqrstuvwxyz'));
    device.sendBreak();
    port.in(uart.RBR);
    const state = structuredClone(device.save());

    const other = bench();
    other.device.restore(state);
    expect(other.irq.level).toBe(true);
    expect(other.port.in(uart.IIR)).toBe(0xc0 | uart.IIR_RDI);
    expect(drain(other.port)).toBe('bcdefghijklmnopqrstuvwxyz\0');
    expect(other.device.save()).toEqual({
      ...state,
      receiver: { fifo: [], queue: [], overrun: false, reported: false },
    });
  });

  it('reports a burst as sent that was on its way when saved', async () => {
    const { port, device, sent } = bench();
    port.out(uart.IER, uart.IER_THRI);
    port.in(uart.IIR);
    port.out(uart.THR, 0x41);
    const state = device.save();
    const other = bench();
    other.device.restore(state);
    expect(other.port.in(uart.IIR)).toBe(uart.IIR_THRI);
    await settle();
    expect([sent, other.sent]).toEqual([[0x41], []]);
  });

  it.each([
    { ier: 16 },
    { receiver: null },
    { receiver: { fifo: [1, 2], queue: [], overrun: false, reported: false } },
    { receiver: { fifo: ['x'], queue: [], overrun: false, reported: false } },
    { receiver: { fifo: [], queue: [512], overrun: false, reported: false } },
    { receiver: { fifo: [], queue: [], overrun: 1, reported: false } },
    { divisor: -1 },
    { transmitter: 'busy' },
    { deltas: 16 },
  ])('refuses a state with %j and stays as it was', (change) => {
    const { port, device } = bench();
    port.out(uart.SCR, 7);
    const before = device.save();
    expect(() => device.restore({ ...before, scr: 9, ...change })).toThrow(
      expect.objectContaining({ code: 'TSV_E_STATE' }),
    );
    expect(device.save()).toEqual(before);
  });

  it('takes any sequence of accesses and input, with values in range and a restorable state', () => {
    const step = fc.oneof(
      fc.record({ kind: fc.constant('in' as const), offset: fc.nat(7) }),
      fc.record({ kind: fc.constant('out' as const), offset: fc.nat(7), value: fc.nat(255) }),
      fc.record({ kind: fc.constant('receive' as const), bytes: fc.uint8Array({ maxLength: 40 }) }),
      fc.record({ kind: fc.constant('break' as const) }),
      fc.record({ kind: fc.constant('lines' as const), value: fc.nat(255) }),
      fc.record({ kind: fc.constant('reset' as const) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
        const { port, device, irq } = bench();
        for (const action of steps) {
          if (action.kind === 'in') port.in(action.offset);
          else if (action.kind === 'out') port.out(action.offset, action.value);
          else if (action.kind === 'receive') device.receive(action.bytes);
          else if (action.kind === 'break') device.sendBreak();
          else if (action.kind === 'lines') device.setModemInputs(action.value);
          else device.reset();
          // What the guest reads through a latch is what the device would have said.
          for (const [offset, value] of port.latches) expect(device.read(offset)).toBe(value);
        }
        const state = structuredClone(device.save());
        const other = bench();
        other.device.restore(state);
        expect(other.device.save()).toEqual(state);
        const out2 = device.read(uart.MCR) & uart.MCR_OUT2;
        const level = (other.port.in(uart.IIR) & uart.IIR_NO_INT) === 0 && out2 !== 0;
        // A burst under way is restored as sent, so the other may already interrupt.
        if (!level) expect(irq.level).toBe(false);
      }),
    );
  });
});
