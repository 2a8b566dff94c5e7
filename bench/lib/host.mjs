/** What the host has: its description, a C compiler, QEMU. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, loadavg, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { probeKvm } from '../../dist/index.js';

let directory;

/** A path in a directory that goes with this process. */
export function temporary(name) {
  if (directory === undefined) {
    directory = mkdtempSync(join(tmpdir(), 'tsvisor-bench-'));
    process.on('exit', () => rmSync(directory, { recursive: true, force: true }));
  }
  return join(directory, name);
}

/** The first line a program prints, or undefined when it is not there. */
function versionOf(program) {
  try {
    return execFileSync(program, ['--version'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
      .split('\n')[0]
      .trim();
  } catch {
    return undefined;
  }
}

const QEMU = 'qemu-system-x86_64';
const COMPILER = process.env.CC || 'gcc';

/** { program, version }, or undefined. */
export function findQemu() {
  const version = versionOf(QEMU);
  return version && { program: QEMU, version };
}

/**
 * Compiles a C program of this directory.
 * @param options of the compiler, beside those that all have
 * @returns the path of the executable, or undefined when there is no compiler
 */
export function compile(source, ...options) {
  if (versionOf(COMPILER) === undefined) return undefined;
  const output = temporary(source.replace(/\.c$/, ''));
  const input = fileURLToPath(new URL(`../${source}`, import.meta.url));
  execFileSync(COMPILER, ['-O2', '-pthread', ...options, '-o', output, input], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  return output;
}

/** Why there is no KVM here; undefined when there is. */
export function kvmProblem() {
  try {
    probeKvm();
  } catch (error) {
    return error.message;
  }
}

/** The row that stands for what a host lacks. */
export function impossible(name, reason) {
  return { name, value: `not possible here: ${reason}` };
}

function describeKvm() {
  const problem = kvmProblem();
  if (problem !== undefined) return `missing: ${problem}`;
  const { software, kernelMips, userMips } = probeKvm();
  return software
    ? `software: emulates kernel mode at ${kernelMips.toFixed(1)} million instructions a second`
    : `hardware (kernel mode ${kernelMips.toFixed(0)}, user mode ${userMips.toFixed(0)} million instructions a second)`;
}

/** Facts that the figures depend on. */
export function describeHost() {
  return {
    processors: `${cpus().length} x ${cpus()[0]?.model ?? 'unknown'}`,
    kernel: release(),
    node: process.version,
    kvm: describeKvm(),
    compiler: versionOf(COMPILER) ?? `missing (${COMPILER})`,
    qemu: findQemu()?.version ?? `missing (${QEMU})`,
    load: loadavg()[0].toFixed(1),
  };
}
