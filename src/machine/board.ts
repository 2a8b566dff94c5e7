/** The devices of a PC, at the addresses a PC has them. */

import { Serial } from '../devices/legacy/serial.ts';
import type { Vm } from './vm.ts';

export interface Board {
  type(bytes: Uint8Array): void;
  sendBreak(): void;
  pressPowerButton(): void;
}
export interface BoardEvents {
  onOutput(bytes: Uint8Array): void;
  onPanic(message: string): void;
}

export function buildBoard(vm: Vm, events: BoardEvents): Board | undefined {
  if (vm.config.board === 'none') return undefined;
  const serial = new Serial({ output: (bytes) => events.onOutput(bytes) });
  vm.addDevice(serial, { pio: [{ base: 0x3f8, size: 8 }], irq: [4] });
  return {
    type: (bytes) => serial.receive(bytes),
    sendBreak: () => serial.sendBreak(),
    pressPowerButton() {},
  };
}
