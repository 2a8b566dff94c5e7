/** `--trace insn,block,exc,irq`. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { expect, it } from 'vitest';
import { Vm } from '../../src/machine/vm.ts';
import type { TraceTopic } from '../../src/vcpu/protocol.ts';
import { guestsOn } from '../support/guests.ts';

/** Runs a real-mode guest. @returns the trace's lines */
async function trace(
  source: string,
  topics: TraceTopic[],
  board: 'bareVm' | 'pcVm' = 'bareVm',
): Promise<string[]> {
  const lines: string[] = [];
  const listener = (message: unknown) => {
    lines.push(...(message as { lines: string[] }).lines);
  };
  subscribe('tsvisor:trace', listener);
  try {
    const vm = await guestsOn('tcg')[board](source, { trace: topics });
    vm.start();
    await vm.exited;
    await vm.close();
  } finally {
    unsubscribe('tsvisor:trace', listener);
  }
  return lines;
}

it('shows every instruction with what it changes', async () => {
  const lines = await trace('mov ax, 0x1234; inc ax; push ax; pop bx; hlt', ['insn']);

  expect(lines).toEqual([
    'vcpu0 insn 0x7c00 b83412 mov rax=0x1234',
    'vcpu0 insn 0x7c03 40 inc rax=0x1235',
    expect.stringMatching(/^vcpu0 insn 0x7c04 50 push rsp=/),
    expect.stringMatching(/^vcpu0 insn 0x7c05 5b pop rbx=0x1235 rsp=|^vcpu0 insn 0x7c05 5b pop rbx=0x1235/),
    'vcpu0 insn 0x7c06 f4 hlt',
  ]);
});

it('shows where blocks begin', async () => {
  const lines = await trace('mov cx, 3; 1: loop 1b; jmp 2f; nop; 2: hlt', ['block']);

  expect(lines).toEqual([
    'vcpu0 block 0x7c00',
    'vcpu0 block 0x7c03',
    'vcpu0 block 0x7c03',
    'vcpu0 block 0x7c05',
    'vcpu0 block 0x7c08',
  ]);
});

it('shows exceptions', async () => {
  const source = `
    xor ax, ax; mov ds, ax; mov word ptr [0], offset handler; mov word ptr [2], ax
    xor bx, bx; fault: div bx; handler: hlt`;

  const lines = await trace(source, ['exc']);

  expect(lines).toEqual([expect.stringMatching(/^vcpu0 exc #DE error 0x0 at 0x7c/)]);
});

it('shows interrupts', async () => {
  const source = `
    xor ax, ax; mov ds, ax; mov word ptr [8 * 4], offset tick; mov word ptr [8 * 4 + 2], ax
    mov al, 0x11; out 0x20, al; mov al, 8; out 0x21, al; mov al, 4; out 0x21, al; mov al, 1; out 0x21, al
    mov al, 0xfe; out 0x21, al; mov al, 0x34; out 0x43, al; mov al, 0xff; out 0x40, al; out 0x40, al
    sti; 1: hlt; jmp 1b
    tick: mov dx, 0x604; mov ax, 0x3400; out dx, ax; 2: jmp 2b`;

  const lines = await trace(source, ['irq'], 'pcVm');

  expect(lines).toEqual([expect.stringMatching(/^vcpu0 irq vector 0x8 at 0x7c/)]);
});

it('is refused by the kvm engine', async () => {
  const config = { accel: 'kvm', trace: ['insn'], boot: { flat: Uint8Array.of(0xf4) } } as const;

  await expect(Vm.create(config)).rejects.toMatchObject({ code: 'TSV_E_CONFIG' });
});
