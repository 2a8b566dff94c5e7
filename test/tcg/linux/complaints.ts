/** What a kernel complains of in its log. */

/** What the kernel says when something is wrong with its processor or its time, at whatever level. */
const SUSPICIOUS =
  /warning|\bbug\b|call trace|oops|unchecked msr|unstable|skewed|lockup|stall|firmware bug|general protection|segfault|trap |invalid opcode|not syncing|failed|spurious|\bmce\b|hung_task|nobody cared|stuck|not responding/i;

/** Messages of that kind, or at the level of a warning, that every machine with this board has. */
const BENIGN: readonly RegExp[] = [
  // Said on every machine with ACPI.
  /PCI: Using host bridge windows from ACPI; if necessary, use "pci=nocrs" and report a bug$/,
  // The board's PCI is that of ports 0xcf8 and 0xcfc, without a window in memory.
  /fail to add MMCONFIG information, can't access extended PCI configuration space under this bridge\.$/,
  // The board's keyboard controller has no mouse.
  /i8042: PNP: PS\/2 appears to have AUX port disabled/,
  // A host with other work lets a vCPU's thread wait in the middle of an interrupt.
  /hrtimer: interrupt took \d+ ns$/,
  // The rest of the line "smpboot: x86: Booting SMP configuration", when something else was said meanwhile.
  /\](\s+#\d+)+$/,
  // A driver for machines with an AMD processor that is loaded on all of them.
  /AMD-Vi: AMD IOMMUv2 functionality not available on this system - This is not a bug\.$/,
];

/** KERN_WARNING (Linux include/linux/kern_levels.h). */
const WARNING = 4;

/**
 * The lines that say that something is wrong.
 * @param log output of `dmesg -r`
 */
export function complaints(log: string): string[] {
  const lines = log.split('\n').filter((line) => line.startsWith('<'));
  if (lines.length < 50) throw new Error(`This is no kernel log:\n${log.slice(0, 500)}`);
  return lines
    .filter((line) => (Number.parseInt(line.slice(1), 10) & 7) <= WARNING || SUSPICIOUS.test(line))
    .filter((line) => !BENIGN.some((pattern) => pattern.test(line)));
}
