/** A load of writes that both who does it and who looks at the disk afterwards can tell from its seed. */

/** One write: sectors filled with its own number. */
export interface LoadWrite {
  readonly kind: 'write' | 'zero' | 'discard';
  readonly sector: number;
  readonly sectors: number;
}

/** Writes that are under way at the same time, followed by a flush. */
export type LoadRound = readonly LoadWrite[];

/** The load's rounds, without end. */
export function* load(seed: number, diskSectors: number): Generator<LoadRound> {
  let state = seed >>> 0;
  const random = (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  for (;;) {
    const round: LoadWrite[] = [];
    const lanes = 4;
    const width = Math.floor(diskSectors / lanes);
    // Each in a part of its own, so that it does not matter which is first.
    for (let lane = 0; lane < lanes; lane++) {
      const sectors = 1 + random(random(4) === 0 ? 200 : 16);
      const sector = lane * width + random(width - sectors);
      const kind = (['write', 'write', 'write', 'write', 'zero', 'discard'] as const)[random(6)];
      round.push({ kind, sector, sectors });
    }
    yield round;
  }
}

/** What a write of round `round` puts into each of its sectors. */
export function stamp(round: number, sector: number): Buffer {
  const bytes = Buffer.alloc(512);
  for (let at = 0; at < 512; at += 8) {
    bytes.writeUInt32LE(round + 1, at);
    bytes.writeUInt32LE(sector, at + 4);
  }
  return bytes;
}
