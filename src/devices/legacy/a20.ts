/**
 * The A20 gate, which the keyboard controller and port 0x92 share. It is a bit that both show: neither engine masks
 * address line 20, so memory above 1 MiB is always there (as on processors without the A20M# pin).
 */
export class A20Gate {
  /** True: addresses are not wrapped at 1 MiB. Firmware would have enabled it before a kernel runs. */
  enabled = true;
}
