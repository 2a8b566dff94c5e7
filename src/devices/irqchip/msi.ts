/** Interrupt messages as the address and data that a device writes (SDM vol. 3, 11.11). */
import type { InterruptMessage } from './apic-bus.ts';
import { DELIVERY } from './apic-registers.ts';

/** What a device writes, and where. */
export interface Msi {
  /** Guest-physical address. */
  address: number;
  /** 32-bit value. */
  data: number;
}

/** Bits 31:20 of the address of every MSI. */
const BASE = 0xfee;
const BASE_SHIFT = 20;
const DESTINATION_SHIFT = 12;
const REDIRECTION_HINT = 1 << 3;
const DESTINATION_LOGICAL = 1 << 2;
const TRIGGER_LEVEL = 1 << 15;
const LEVEL_ASSERT = 1 << 14;
const DELIVERY_MODE_SHIFT = 8;

/**
 * The message that an MSI is. Bits 63:32 and 11:4 of the address are not looked at.
 * @returns undefined for an address that is none of an interrupt's, and for a level that is not asserted
 */
export function decodeMsi({ address, data }: Msi): InterruptMessage | undefined {
  const low = (address % 2 ** 32) >>> 0;
  if (low >>> BASE_SHIFT !== BASE) return undefined;
  const isLevel = (data & TRIGGER_LEVEL) !== 0;
  if (isLevel && (data & LEVEL_ASSERT) === 0) return undefined;
  const isLogical = (low & DESTINATION_LOGICAL) !== 0;
  const deliveryMode = (data >>> DELIVERY_MODE_SHIFT) & 7;
  // With the hint a fixed interrupt for a set of processors goes to one of them.
  const isRedirected = isLogical && (low & REDIRECTION_HINT) !== 0 && deliveryMode === DELIVERY.FIXED;
  return {
    destination: (low >>> DESTINATION_SHIFT) & 0xff,
    destinationMode: isLogical ? 'logical' : 'physical',
    deliveryMode: isRedirected ? DELIVERY.LOWEST : deliveryMode,
    vector: data & 0xff,
    triggerMode: isLevel ? 'level' : 'edge',
  };
}

/** The MSI that says the same; destinations have eight bits. */
export function encodeMsi(message: InterruptMessage): Msi {
  const logical = message.destinationMode === 'logical' ? DESTINATION_LOGICAL : 0;
  const trigger = message.triggerMode === 'level' ? TRIGGER_LEVEL | LEVEL_ASSERT : 0;
  return {
    address: BASE * 2 ** BASE_SHIFT + (((message.destination & 0xff) << DESTINATION_SHIFT) | logical),
    data: trigger | ((message.deliveryMode & 7) << DELIVERY_MODE_SHIFT) | (message.vector & 0xff),
  };
}
