/** Which instructions are compared with the processor one by one (instructions.test.ts). */
import type { InstructionForm } from '../../src/tcg/table/instruction.ts';

/** Not to be compared: results differ by nature, or they are privileged, or they have tests of their own. */
const EXCLUDED = new Set([
  // Estimates.
  'rcpps',
  'rcpss',
  'rsqrtps',
  'rsqrtss',
  'ldmxcsr',
  'stmxcsr',
  // IF and the selectors in FS and GS are the host's, and so are the descriptors where KVM is software.
  'pushf',
  // Sets TF and AC, for which the driver is not made.
  'popf',
  'push_seg4',
  'push_seg5',
  'mov_from_seg',
  'lsl',
  'lar',
  'verr',
  'verw',
]);

/** Whether it is compared, on a host that has its feature. */
export function isComparable({ name, ends }: InstructionForm): boolean {
  if (ends || EXCLUDED.has(name)) return false;
  return !/^(mov_(to|from)|pop_seg|load_far|s[gil]dt|str|smsw|l[gil]dt|ltr|lmsw|cpuid|rd|wr|int|in$|out|ins$|cli|sti|hlt|vmcall|xgetbv|xsetbv|stac|clac|xsave|xrstor|invd|wbinvd|swapgs)/.test(
    name,
  );
}
