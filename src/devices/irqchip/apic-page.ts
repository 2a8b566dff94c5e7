/**
 * A local APIC's state in the layout of struct kvm_lapic_state (KVM api.rst, KVM_GET_LAPIC): the xAPIC page's first
 * kilobyte. In x2APIC mode the ID is in its xAPIC place and the command register in two halves, which is KVM's format
 * as long as KVM_CAP_X2APIC_API is not enabled. IA32_APIC_BASE and IA32_TSC_DEADLINE are state of their own and must be
 * set, the former before, the latter after the page.
 */
import { TsvError } from '../../errors.ts';
import { holdableBits, readRegister } from './apic-access.ts';
import { VECTOR_WORDS } from './apic-mailbox.ts';
import {
  APIC,
  APIC_LVT_TIMER_MASK,
  APIC_REG_SIZE,
  APIC_REGISTER_STEP,
  x2apicLogicalId,
} from './apic-registers.ts';
import type { LocalApic } from './local-apic.ts';

/** Registers that are stored as they are. */
const PLAIN = [
  APIC.TASKPRI,
  APIC.LDR,
  APIC.DFR,
  APIC.SPIV,
  APIC.ESR,
  APIC.ICR,
  APIC.ICR2,
  APIC.LVTT,
  APIC.LVTTHMR,
  APIC.LVTPC,
  APIC.LVT0,
  APIC.LVT1,
  APIC.LVTERR,
] as const;
/** Those that are read but follow from others. */
const DERIVED = [APIC.LVR, APIC.PROCPRI, APIC.TMICT, APIC.TMCCT, APIC.TDCR] as const;

/** What KVM_GET_LAPIC would return. */
export function exportLapicState(apic: LocalApic): Uint8Array {
  // A timer that has expired and an edge on a pin are in no register until they have become a request.
  apic.poll();
  const bytes = new Uint8Array(APIC_REG_SIZE);
  const view = new DataView(bytes.buffer);
  for (const register of [...PLAIN, ...DERIVED]) view.setUint32(register, readRegister(apic, register), true);
  const id = apic.registers[APIC.ID >> 4];
  view.setUint32(APIC.ID, apic.isX2apic ? id << 24 : id, true);
  for (let word = 0; word < VECTOR_WORDS; word++) {
    for (const set of [APIC.ISR, APIC.TMR, APIC.IRR]) {
      const register = set + word * APIC_REGISTER_STEP;
      view.setUint32(register, readRegister(apic, register), true);
    }
  }
  return bytes;
}

/**
 * What KVM_SET_LAPIC would do, in the mode that IA32_APIC_BASE says.
 * @param bytes at least 1 KiB
 * @throws TSV_E_STATE when there are fewer
 */
export function importLapicState(apic: LocalApic, bytes: Uint8Array): void {
  if (bytes.length < APIC_REG_SIZE) {
    throw new TsvError('TSV_E_STATE', `A local APIC's state of ${bytes.length} bytes is too short.`, {
      hint: `Give the ${APIC_REG_SIZE} bytes of struct kvm_lapic_state.`,
    });
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const get = (register: number) => view.getUint32(register, true);
  for (const register of PLAIN) apic.registers[register >> 4] = get(register) & holdableBits(register);
  apic.registers[APIC.LDR >> 4] &= 0xff00_0000;
  apic.registers[APIC.DFR >> 4] = get(APIC.DFR) | 0x0fff_ffff;
  apic.registers[APIC.ID >> 4] = apic.isX2apic ? apic.id : get(APIC.ID) & 0xff00_0000;
  if (apic.isX2apic) apic.registers[APIC.LDR >> 4] = x2apicLogicalId(apic.id);
  for (let word = 0; word < VECTOR_WORDS; word++) {
    const at = word * APIC_REGISTER_STEP;
    const legal = word === 0 ? 0xffff_0000 : 0xffff_ffff;
    apic.inService.setWord(word, get(APIC.ISR + at) & legal);
    apic.mailbox.setWords(word, get(APIC.IRR + at), get(APIC.TMR + at));
  }
  apic.timer.setMode(get(APIC.LVTT) & APIC_LVT_TIMER_MASK);
  apic.timer.load(get(APIC.TMICT), get(APIC.TMCCT), get(APIC.TDCR));
  apic.updatePriority();
  apic.publish();
}
