// Builds the native addon at install. A host without a compiler, or that is not x86-64 Linux, still installs: the
// addon is then missing, which `tsvisor doctor` reports together with the reason kept here.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const root = join(import.meta.dirname ?? new URL('.', import.meta.url).pathname, '..');

function report(reason) {
  mkdirSync(join(root, 'build'), { recursive: true });
  writeFileSync(join(root, 'build', 'addon-missing.txt'), `${reason}\n`);
  console.warn(`tsvisor: the native addon was not built: ${reason}`);
  console.warn('tsvisor: installation goes on; `tsvisor doctor` tells what that means.');
}

if (process.platform !== 'linux' || process.arch !== 'x64') {
  report(`it needs x86-64 Linux, this is ${process.arch} ${process.platform}`);
} else {
  const nodeGyp = createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js');
  // Headers that came with this very Node save a download, and work where there is no network.
  const prefix = dirname(dirname(process.execPath));
  const nodedir = existsSync(join(prefix, 'include/node/node_api.h')) ? [`--nodedir=${prefix}`] : [];
  const build = spawnSync(process.execPath, [nodeGyp, 'rebuild', ...nodedir], {
    cwd: root,
    encoding: 'utf8',
  });
  if (build.status !== 0) {
    const lines = `${build.stdout ?? ''}${build.stderr ?? ''}`.split('\n');
    const cause =
      lines.find((line) => /: error|ERR! stack|not found/i.test(line)) ?? `exit status ${build.status}`;
    report(cause.trim());
  } else {
    rmSync(join(root, 'build', 'addon-missing.txt'), { force: true });
  }
}
