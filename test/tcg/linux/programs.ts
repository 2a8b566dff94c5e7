/** Compiles the C programs of fixtures/ for guest and host, and runs them on the host: its output is the oracle. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { HostFile } from '../../../src/boot/initramfs/host-files.ts';

export const FIXTURES = join(import.meta.dirname, 'fixtures');

/**
 * The C library chooses among several versions of its functions, whose results may differ in the last bit, by what the
 * processor has: on the host it must not choose those that the guest's processor cannot run.
 */
const SAME_LIBRARY = { GLIBC_TUNABLES: 'glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX,-AVX512F' };

/** Programs in a directory of their own. */
export class Programs implements Disposable {
  readonly #directory = mkdtempSync(join(tmpdir(), 'tsvisor-programs-'));
  readonly #names: string[] = [];

  /** Compiles fixtures/`source`.c into a static program. */
  compile(source: string, { name = source, flags = [] as string[] } = {}): this {
    const output = join(this.#directory, name);
    const file = join(FIXTURES, `${source}.c`);
    execFileSync('gcc', ['-static', '-O2', '-pthread', ...flags, '-o', output, file, '-lm']);
    this.#names.push(name);
    return this;
  }

  /** What goes into the initramfs: each as /bin/NAME. */
  get files(): HostFile[] {
    return this.#names.map((name) => ({ source: join(this.#directory, name), path: `/bin/${name}` }));
  }

  /** What a program prints on the host. */
  onHost(name: string, ...args: string[]): string {
    return this.#run(name, args).toString();
  }

  /** What sha256sum says of what a program prints on the host. */
  sumOnHost(name: string, ...args: string[]): string {
    return `${createHash('sha256').update(this.#run(name, args)).digest('hex')}  -`;
  }

  #run(name: string, args: readonly string[]): Buffer {
    const path = join(this.#directory, name);
    return execFileSync(path, args, { env: { ...process.env, ...SAME_LIBRARY }, maxBuffer: 1 << 28 });
  }

  [Symbol.dispose](): void {
    rmSync(this.#directory, { recursive: true });
  }
}
