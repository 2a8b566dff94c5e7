/** Frequency and hypervisor leaves. */
import type { CpuidEntry } from '../state.ts';

/** KVM's APIC timer counts nanoseconds (Linux arch/x86/kvm/lapic.h, APIC_BUS_CYCLE_NS). */
export const KVM_APIC_KHZ = 1_000_000;

/** "KVMKVMKVM\0\0\0" (Linux Documentation/virt/kvm/x86/cpuid.rst). */
const KVM_SIGNATURE = { ebx: 0x4b4d_564b, ecx: 0x564b_4d56, edx: 0x0000_004d };

/**
 * Leaves 0x15 and 0x16. The crystal is the APIC timer's clock (within 0.1 %), because that is what Linux takes it
 * for; its product with the numerator stays below 2^32, because Linux multiplies them as 32-bit kHz
 * (native_calibrate_tsc). What the small fraction cannot express of the TSC frequency goes into the crystal's.
 */
export function tscLeaves(tscKhz: number, apicKhz: number = KVM_APIC_KHZ): CpuidEntry[] {
  const MAX_PRODUCT = 0.999 * 2 ** 32;
  const [numerator, denominator] = ratio(tscKhz, apicKhz, Math.floor(MAX_PRODUCT / apicKhz));
  const crystalHz = Math.round((tscKhz * 1000 * denominator) / numerator);
  const mhz = Math.min(Math.round(tscKhz / 1000), 0xffff);
  return [
    {
      function: 0x15,
      index: 0,
      flags: 0,
      eax: denominator,
      ebx: numerator,
      ecx: Math.min(crystalHz, 0xffff_ffff),
      edx: 0,
    },
    { function: 0x16, index: 0, flags: 0, eax: mhz, ebx: mhz, ecx: 100, edx: 0 },
  ];
}

/**
 * The nearest fraction to a/b whose numerator does not exceed `limit`: the last convergent or semiconvergent of the
 * continued fraction that fits.
 */
function ratio(a: number, b: number, limit: number): [number, number] {
  let [p0, q0, p1, q1] = [0, 1, 1, 0];
  let [x, y] = [a, b];
  while (y !== 0) {
    const step = Math.floor(x / y);
    const fits = p1 === 0 ? step : Math.min(step, Math.floor((limit - p0) / p1));
    if (fits === 0 && step > 0) break;
    [p0, q0, p1, q1] = [p1, q1, fits * p1 + p0, fits * q1 + q0];
    if (fits < step) break;
    [x, y] = [y, x % y];
  }
  return q1 === 0 ? [Math.max(1, Math.min(limit, Math.round(a / b))), 1] : [p1, q1];
}

/**
 * Leaves 0x40000000, 0x40000001 (its feature bits are set by the caller) and 0x40000010 with the frequencies of TSC
 * and APIC timer in kHz. The signature is the engine's own where it has one.
 */
export function hypervisorLeaves(
  supported: CpuidEntry | undefined,
  tscKhz?: number,
  apicKhz: number = KVM_APIC_KHZ,
): CpuidEntry[] {
  const { ebx, ecx, edx } = supported ?? KVM_SIGNATURE;
  const entry = (fn: number, eax = 0, registers: Partial<CpuidEntry> = {}): CpuidEntry => {
    return { function: fn, index: 0, flags: 0, eax, ebx: 0, ecx: 0, edx: 0, ...registers };
  };
  const leaves = [
    entry(0x4000_0000, tscKhz === undefined ? 0x4000_0001 : 0x4000_0010, { ebx, ecx, edx }),
    entry(0x4000_0001),
  ];
  if (tscKhz !== undefined) leaves.push(entry(0x4000_0010, tscKhz, { ebx: apicKhz }));
  return leaves;
}
