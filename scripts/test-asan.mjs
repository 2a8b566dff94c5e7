// Runs the tests that load the addon with its AddressSanitizer build (npm run build:asan).
import { execFileSync, spawnSync } from 'node:child_process';
import { join } from 'node:path';

const root = join(import.meta.dirname ?? new URL('.', import.meta.url).pathname, '..');
const addon = join(root, 'build-asan/Debug/tsvisor.node');
// The runtime must be the first library of the process; node itself is not built with it.
const runtime = execFileSync('gcc', ['-print-file-name=libasan.so'], { encoding: 'utf8' }).trim();
const machine = ['assist', 'cpu-model', 'memory', 'pinning', 'vcpu-state', 'vm'].map(
  (name) => `test/machine/${name}.test.ts`,
);
const tests = [
  'test/kvm',
  'test/memory',
  'test/boot/guest-run.test.ts',
  ...machine,
  ...process.argv.slice(2),
];
const vitest = join(root, 'node_modules/vitest/vitest.mjs');
const { status } = spawnSync(process.execPath, [vitest, 'run', ...tests], {
  cwd: root,
  stdio: 'inherit',
  // Leaks are V8's to judge: it frees nothing at exit.
  env: { ...process.env, LD_PRELOAD: runtime, ASAN_OPTIONS: 'detect_leaks=0', TSVISOR_ADDON: addon },
});
process.exitCode = status ?? 1;
