/**
 * What all fuzzers share: a reproducible generator, a time budget, and a corpus of inputs that is replayed first.
 *
 * Environment:
 * - TSVISOR_FUZZ_SECONDS: how long each fuzzer runs, instead of the few seconds it takes for itself in CI.
 * - TSVISOR_FUZZ_SEED: where the generator starts. Case n of a seed is always the same case.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const CORPUS = fileURLToPath(new URL('../../fixtures/fuzz/', import.meta.url));

/** The generator's start; printed with every failure. */
export const SEED = Number(process.env.TSVISOR_FUZZ_SEED ?? 20250301) >>> 0;

/** Milliseconds a fuzzer may take. @param seconds its share of a CI run */
export function budget(seconds: number): number {
  return Number(process.env.TSVISOR_FUZZ_SECONDS ?? seconds) * 1000;
}

/** What Vitest shall wait for a fuzzer: it checks its budget between cases only. */
export function patience(seconds: number): number {
  return budget(seconds) + 60_000;
}

/** Values at which arithmetic breaks sooner than at random ones. */
const EDGES = [
  0, 1, 2, 7, 8, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000,
];

/** Reproducible pseudo-random numbers (splitmix32). */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  u32(): number {
    this.#state = (this.#state + 0x9e3779b9) >>> 0;
    let x = this.#state;
    x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
    x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
    return (x ^ (x >>> 15)) >>> 0;
  }

  u64(): bigint {
    return (BigInt(this.u32()) << 32n) | BigInt(this.u32());
  }

  /** From 0 to `limit` - 1. */
  below(limit: number): number {
    return this.u32() % limit;
  }

  /** True in `percent` of 100 cases. */
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)];
  }

  bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.u32() & 0xff);
  }

  /** 32 bits that are often small, all ones, or next to a power of two. */
  evil32(): number {
    switch (this.below(4)) {
      case 0:
        return this.u32();
      case 1:
        return this.below(256);
      case 2:
        return ~this.pick(EDGES) >>> 0;
      default:
        return (this.pick(EDGES) + this.below(3) - 1) >>> 0;
    }
  }

  /** 64 bits that are often an address, small, non-canonical, or wrap around. */
  evil64(): bigint {
    switch (this.below(5)) {
      case 0:
        return this.u64();
      case 1:
        return BigInt(this.evil32());
      case 2:
        return BigInt.asUintN(64, -BigInt(this.evil32()));
      case 3:
        return 1n << BigInt(this.below(64));
      default:
        return BigInt.asUintN(64, 0x8000_0000_0000n - BigInt(this.below(64)));
    }
  }
}

/** The generator of one case. */
export function randomOf(index: number): Random {
  return new Random((SEED ^ Math.imul(index + 1, 0x85ebca6b)) >>> 0);
}

/** A corpus of inputs of one fuzzer: fixtures/fuzz/<suite>/*.json. */
export class Corpus<T> {
  readonly #directory: string;
  readonly #journal: string;

  constructor(suite: string) {
    this.#directory = join(CORPUS, suite);
    this.#journal = join(tmpdir(), `tsvisor-fuzz-${suite}-${process.pid}.json`);
  }

  /** The inputs kept, by file name. */
  inputs(): [string, T][] {
    if (!existsSync(this.#directory)) return [];
    return readdirSync(this.#directory)
      .filter((name) => name.endsWith('.json'))
      .sort()
      .map((name) => [name, JSON.parse(readFileSync(join(this.#directory, name), 'utf8')) as T]);
  }

  /**
   * Runs one input. It is on disk meanwhile, so that a crash of the process leaves it behind; one that fails is kept
   * in the corpus.
   */
  async attempt(input: T, name: string, run: (input: T) => void | Promise<void>): Promise<void> {
    writeFileSync(this.#journal, JSON.stringify(input));
    try {
      await run(input);
    } catch (error) {
      throw new Error(`Input kept as ${this.keep(input, name)}.`, { cause: error });
    }
    rmSync(this.#journal, { force: true });
  }

  /** Adds an input that fails. @returns its file */
  keep(input: T, name: string): string {
    mkdirSync(this.#directory, { recursive: true });
    const file = join(this.#directory, `failed-${name}.json`);
    writeFileSync(file, `${JSON.stringify(input, null, 1)}\n`);
    return file;
  }

  /**
   * Replays the corpus, then runs made-up inputs until the time is over.
   * @returns how many inputs were run
   */
  async run(
    options: { seconds: number; make: (random: Random, index: number) => T },
    run: (input: T) => void | Promise<void>,
  ): Promise<number> {
    let count = 0;
    for (const [name, input] of this.inputs()) {
      try {
        await run(input);
      } catch (error) {
        throw new Error(`fixtures/fuzz: ${name} fails.`, { cause: error });
      }
      count++;
    }
    const end = performance.now() + budget(options.seconds);
    for (let index = 0; index === 0 || performance.now() < end; index++, count++) {
      const input = options.make(randomOf(index), index);
      await this.attempt(input, `${SEED}-${index}`, run);
    }
    return count;
  }
}

/** Bytes as JSON text. */
export const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
/** Bytes from JSON text. */
export const unhex = (text: string): Uint8Array =>
  new Uint8Array(Buffer.from(text.replaceAll(/\s/g, ''), 'hex'));

/** Memory that nobody may touch: it remembers what it held. */
export class Canary {
  readonly #bytes: Uint8Array;
  readonly #expected: number;

  constructor(bytes: Uint8Array, seed = 1) {
    this.#bytes = bytes;
    const random = new Random(seed);
    for (let i = 0; i < bytes.length; i += 64) bytes[i] = random.u32();
    this.#expected = this.#sum();
  }

  get intact(): boolean {
    return this.#sum() === this.#expected;
  }

  #sum(): number {
    let sum = 0;
    const { buffer, byteOffset, length } = this.#bytes;
    const words = new Uint32Array(buffer, byteOffset, length >>> 2);
    for (let i = 0; i < words.length; i++) sum = (Math.imul(sum, 31) + words[i]) | 0;
    return sum;
  }
}

/**
 * Canaries on everything in guest memory's host buffers that is not guest RAM.
 * @param reserve bytes at the start of memory 0 that are the engine's
 */
export function canariesAround(
  memory: {
    memories: readonly WebAssembly.Memory[];
    regions: readonly { memory: number; offset: number; size: number }[];
  },
  reserve = 0,
): Canary[] {
  return memory.memories.flatMap((host, index) => {
    const own = memory.regions
      .filter((region) => region.memory === index)
      .sort((a, b) => a.offset - b.offset);
    const gaps: [number, number][] = [];
    let at = index === 0 ? reserve : 0;
    for (const { offset, size } of own) {
      gaps.push([at, offset]);
      at = offset + size;
    }
    gaps.push([at, host.buffer.byteLength]);
    return gaps
      .filter(([start, end]) => end > start)
      .map(([start, end]) => new Canary(new Uint8Array(host.buffer, start, end - start), start + 1));
  });
}
