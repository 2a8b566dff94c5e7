/** Things a guest does that this CPU refuses where a processor would not, or that nobody expects: said once each. */

/** Receives a notice. */
export type NoticeListener = (message: string) => void;

/** Most different notices; a hostile guest can find more. */
const MOST = 64;

export class Notices {
  listener: NoticeListener = () => {};
  readonly #said = new Set<string>();

  /** Tells the listener, unless the same was said before. */
  say(message: string): void {
    if (this.#said.has(message) || this.#said.size >= MOST) return;
    this.#said.add(message);
    this.listener(message);
  }
}
