/**
 * Interrupt lines: each device gets lines of its own, and the level of a global system interrupt (GSI) is the OR of
 * the lines wired to it, as on a shared level-triggered line.
 */
import type { IrqLine } from './device.ts';

/** Wires device lines to GSIs. */
export class IrqLines {
  readonly #set: (gsi: number, level: 0 | 1) => void;
  readonly #pulse: (gsi: number) => void;
  readonly #raised = new Map<number, number>();

  /**
   * @param set drives one GSI of the interrupt controllers
   * @param pulse raises and lowers one that is low; by `set` when absent
   */
  constructor(set: (gsi: number, level: 0 | 1) => void, pulse?: (gsi: number) => void) {
    this.#set = set;
    this.#pulse =
      pulse ??
      ((gsi) => {
        set(gsi, 1);
        set(gsi, 0);
      });
  }

  /** A new line wired to `gsi`. */
  line(gsi: number): IrqLine {
    let raised = false;
    const change = (level: boolean) => {
      if (raised === level) return;
      raised = level;
      const before = this.#raised.get(gsi) ?? 0;
      const after = before + (level ? 1 : -1);
      this.#raised.set(gsi, after);
      if (before === 0 || after === 0) this.#set(gsi, after === 0 ? 0 : 1);
    };
    return {
      raise: () => change(true),
      lower: () => change(false),
      pulse: () => {
        if (raised) change(false);
        else if ((this.#raised.get(gsi) ?? 0) === 0) this.#pulse(gsi);
      },
    };
  }
}

/** A line that goes nowhere, for a device that was given no interrupt. */
export const UNCONNECTED: IrqLine = { raise() {}, lower() {}, pulse() {} };
