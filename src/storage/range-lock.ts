/** Shared and exclusive locks on ranges of a disk, so that requests do not meet where they must not. */

interface Holder {
  readonly first: number;
  readonly last: number;
  readonly exclusive: boolean;
  readonly start?: () => void;
}

/** Locks on ranges of whole numbers (clusters). Who comes first goes first where ranges meet. */
export class RangeLock {
  readonly #held = new Set<Holder>();
  #waiting: Holder[] = [];

  /** Takes `first` to `last`. @returns a function that gives them back */
  async take(first: number, last: number, exclusive: boolean): Promise<() => void> {
    let holder: Holder = { first, last, exclusive };
    if (this.#conflicts(holder, this.#waiting)) {
      await new Promise<void>((start) => {
        holder = { first, last, exclusive, start };
        this.#waiting.push(holder);
      });
    } else {
      this.#held.add(holder);
    }
    return () => this.#release(holder);
  }

  /** Whether {@link take} would not have to wait. */
  isFree(first: number, last: number, exclusive: boolean): boolean {
    return !this.#conflicts({ first, last, exclusive }, this.#waiting);
  }

  #release(holder: Holder): void {
    this.#held.delete(holder);
    const still: Holder[] = [];
    for (const waiter of this.#waiting) {
      if (this.#conflicts(waiter, still)) {
        still.push(waiter);
      } else {
        this.#held.add(waiter);
        waiter.start!();
      }
    }
    this.#waiting = still;
  }

  /** True when it must wait for somebody who has a lock or came earlier. */
  #conflicts(wanted: Holder, earlier: readonly Holder[]): boolean {
    for (const held of this.#held) if (meet(held, wanted)) return true;
    return earlier.some((other) => meet(other, wanted));
  }
}

function meet(a: Holder, b: Holder): boolean {
  return (a.exclusive || b.exclusive) && a.first <= b.last && b.first <= a.last;
}
