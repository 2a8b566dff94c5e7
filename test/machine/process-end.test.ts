/** However a process ends, machines in it must not keep it: real child processes with vCPUs inside the guest. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { ENGINES } from '../support/engines.ts';

const LIBRARY = new URL('../../dist/index.js', import.meta.url).href;
const directory = mkdtempSync(join(tmpdir(), 'tsvisor-end-'));
afterAll(() => rmSync(directory, { recursive: true }));

/** A child that has not ended by then hangs. */
const PATIENCE_MS = 25_000;

interface Ending {
  status: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

let programs = 0;

/** What {@link run} may add. */
interface RunOptions {
  /** Called when it has printed "ready". */
  onReady?(child: ChildProcess): void;
  env?: NodeJS.ProcessEnv;
}

/** Runs a module in a process of its own. */
function run(source: string, { onReady, env }: RunOptions = {}): Promise<Ending> {
  const file = join(directory, `program${programs++}.mjs`);
  writeFileSync(file, `import { Vm } from ${JSON.stringify(LIBRARY)};\n${source}`);
  const child = spawn(process.execPath, ['--expose-gc', file], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  });
  const output = { stdout: '', stderr: '' };
  child.stdout.on('data', (bytes) => {
    const before = output.stdout.includes('ready');
    output.stdout += bytes;
    if (!before && output.stdout.includes('ready')) onReady?.(child);
  });
  child.stderr.on('data', (bytes) => {
    output.stderr += bytes;
  });
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      reject(new Error(`The process hangs.\n${output.stdout}\n${output.stderr}`));
    }, PATIENCE_MS);
    child.on('close', (status, signal) => {
      clearTimeout(timer);
      expect(existsSync(`/proc/${child.pid}`)).toBe(false);
      resolve({ status, signal, ...output });
    });
  });
}

/** cli; jmp $ */
const SPIN = 'Uint8Array.of(0xfa, 0xeb, 0xfe)';
/** sti; again: hlt; jmp again */
const SLEEP = 'Uint8Array.of(0xfb, 0xf4, 0xeb, 0xfd)';
/** in al, 0x42; hlt */
const WAIT = 'Uint8Array.of(0xe4, 0x42, 0xf4)';
const SILENT_DEVICE = `vm.addDevice(
  { name: 'silent', read: () => new Promise(() => {}), save: () => ({}), restore() {} },
  { pio: [{ base: 0x42, size: 1 }] },
);`;
const inGuest = 'await new Promise((resolve) => setTimeout(resolve, 30)); console.log("ready");';

/** How each makes its machine, as source text. */
const GUESTS: Record<string, (accel: string) => string> = {
  'spins with interrupts off': (accel) => `
    const vm = await Vm.create({ accel: '${accel}', memory: '2M', board: 'none', boot: { flat: ${SPIN} } });
    vm.start(); ${inGuest}`,
  'spins on two vCPUs of a PC': (accel) => `
    const boot = { flat: ${SPIN}, mode: 'long64', startAll: true };
    const vm = await Vm.create({ accel: '${accel}', memory: '4M', cpus: 2, boot });
    vm.start(); ${inGuest}`,
  'sleeps, with a vCPU that was never started': (accel) => `
    const vm = await Vm.create({ accel: '${accel}', memory: '4M', cpus: 2, boot: { flat: ${SLEEP} } });
    vm.start(); ${inGuest}`,
  'waits for a device that never answers': (accel) => `
    const vm = await Vm.create({ accel: '${accel}', memory: '2M', board: 'none', boot: { flat: ${WAIT} } });
    ${SILENT_DEVICE}
    vm.start(); ${inGuest}`,
  'waits for a device that may take for ever': (accel) => `
    const boot = { flat: ${WAIT} };
    const vm = await Vm.create({ accel: '${accel}', memory: '2M', board: 'none', deviceTimeout: 0, boot });
    ${SILENT_DEVICE}
    vm.start(); ${inGuest}`,
};

describe.each(ENGINES)('on %s', (accel) => {
  describe.each(Object.entries(GUESTS))('a process whose guest %s', (_, guestOn) => {
    const guest = guestOn(accel);

    it('ends with the status of process.exit', async () => {
      expect(await run(`${guest} process.exit(3);`)).toMatchObject({ status: 3, stderr: '' });
    });

    it('ends with status 1 after an uncaught exception', async () => {
      const end = await run(`${guest} setImmediate(() => { throw new Error('oh no'); });`);

      expect(end.status).toBe(1);
      expect(end.stderr).toContain('oh no');
    });

    it('ends with status 1 after an unhandled rejection', async () => {
      const end = await run(`${guest} Promise.reject(new Error('oh no')); await new Promise(() => {});`);

      expect(end.status).toBe(1);
      expect(end.stderr).toContain('oh no');
    });

    it('is ended by SIGINT', async () => {
      const end = await run(guest, { onReady: (child) => child.kill('SIGINT') });

      expect(end).toMatchObject({ status: null, signal: 'SIGINT' });
    });

    it('ends by itself once the machine is closed', async () => {
      const end = await run(`${guest} await vm.close(); process.exitCode = 5;`);

      expect(end).toMatchObject({ status: 5, signal: null, stderr: '' });
    });

    it('ends by itself once the machine has been paused and stopped', async () => {
      const end = await run(
        `${guest} const paused = vm.pause(); const exit = await vm.stop('timeout'); await paused; process.exitCode = exit.status;`,
      );

      expect(end).toMatchObject({ status: 124, stderr: '' });
    });
  });

  describe('a process that ends in the middle', () => {
    it('of creating a machine', async () => {
      const end = await run(`
        Vm.create({ accel: '${accel}', memory: '2M', boot: { flat: ${SPIN} } });
        setTimeout(() => process.exit(7), 20);`);

      expect(end).toMatchObject({ status: 7, stderr: '' });
    });

    it('of closing one', async () => {
      const end = await run(`${GUESTS['spins with interrupts off'](accel)} vm.close(); process.exit(8);`);

      expect(end).toMatchObject({ status: 8, stderr: '' });
    });

    it('of running one that is never closed and has ended by itself', async () => {
      const end = await run(`
        const vm = await Vm.create({ accel: '${accel}', memory: '2M', board: 'none', boot: { flat: Uint8Array.of(0xf4) } });
        vm.start();`);

      expect(end).toMatchObject({ status: 0, stderr: '' });
    });
  });

  describe('what machines leave behind', () => {
    const COUNT = `
      import { readdirSync } from 'node:fs';
      // Shared memory is freed some time after the collector has found it.
      const settled = async () => {
        for (let i = 0; i < 6; i++) {
          globalThis.gc();
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
        return { fds: readdirSync('/proc/self/fd').length, threads: readdirSync('/proc/self/task').length,
                 rss: process.memoryUsage().rss, timers: process.getActiveResourcesInfo().length };
      };`;

    interface Counts {
      fds: number;
      threads: number;
      rss: number;
      timers: number;
    }
    const counts = (end: Ending): [Counts, Counts] => JSON.parse(end.stdout);

    it('is nothing, twelve machines later', async () => {
      const end = await run(`${COUNT}
        const one = async (i) => {
          const vm = await Vm.create({ accel: '${accel}', memory: '16M', board: i % 2 ? 'none' : 'pc', boot: { flat: ${SPIN} } });
          vm.start();
          vm.memory.fill(0x100000, 0x400000, i);
          await new Promise((resolve) => setTimeout(resolve, 2));
          await vm.close();
        };
        for (let i = 0; i < 3; i++) await one(i);
        const before = await settled();
        for (let i = 0; i < 12; i++) await one(i);
        console.log(JSON.stringify([before, await settled()]));`);

      const [before, after] = counts(end);
      expect(after.fds).toBe(before.fds);
      expect(after.threads).toBe(before.threads);
      expect(after.timers).toBe(before.timers);
      // Each machine wrote 4 MiB of its memory.
      expect(after.rss - before.rss).toBeLessThan(32 * 2 ** 20);
    });

    it('is nothing when machines cannot be created', async () => {
      const end = await run(`${COUNT}
        const bad = [
          { kernel: '/nonexistent' },
          { kernel: '/' },
          { kernel: new Uint8Array(0) },
          { kernel: new Uint8Array(5000) },
          { kernel: '/proc/self/exe' },
          { flat: new Uint8Array(64 << 20) },
          { flat: Uint8Array.of(0xf4), address: 0x7fffffff },
        ];
        const all = async () => {
          const codes = [];
          for (const boot of bad) codes.push(await Vm.create({ accel: '${accel}', memory: '16M', boot }).then(() => 'created', (e) => e.code));
          for (const options of [{ cpu: 'nonsense' }, { memoryBackend: 'file:/nonexistent/x' }, { affinity: [[1000]] }]) {
            const boot = { flat: Uint8Array.of(0xf4) };
            codes.push(await Vm.create({ accel: '${accel}', memory: '16M', boot, ...options }).then(async (vm) => { await vm.close(); return 'created'; }, (e) => e.code));
          }
          return codes;
        };
        const codes = await all();
        const before = await settled();
        await all();
        console.error(JSON.stringify(codes));
        console.log(JSON.stringify([before, await settled()]));`);

      const [before, after] = counts(end);
      const codes = JSON.parse(end.stderr) as string[];
      expect(
        codes.every((code) => /^TSV_E_/.test(code) && code !== 'TSV_E_INTERNAL'),
        end.stderr,
      ).toBe(true);
      expect({ ...after, rss: 0 }).toEqual({ ...before, rss: 0 });
    });
  });
});

describe('with nothing but Node', () => {
  const env = { TSVISOR_ADDON: '/nonexistent' };

  describe.each(Object.entries(GUESTS))('a process whose guest %s', (_, guestOn) => {
    it('ends with the status of process.exit', async () => {
      expect(await run(`${guestOn('tcg')} process.exit(3);`, { env })).toMatchObject({
        status: 3,
        stderr: '',
      });
    });

    it('ends by itself once the machine is closed', async () => {
      const end = await run(`${guestOn('tcg')} await vm.close(); process.exitCode = 5;`, { env });

      expect(end).toMatchObject({ status: 5, signal: null, stderr: '' });
    });
  });
});
