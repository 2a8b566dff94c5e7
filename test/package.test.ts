/** The package as others get it: what is in it, and whether its types hold in a strict project. */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const ROOT = join(import.meta.dirname, '..');
const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));

interface Packed {
  files: { path: string; mode: number }[];
}

describe('npm pack', () => {
  let packed: Packed;
  let paths: string[];
  beforeAll(() => {
    // Without the scripts: the build has been made before the tests.
    const args = ['pack', '--dry-run', '--json', '--ignore-scripts'];
    const answer = JSON.parse(
      execFileSync('npm', args, { cwd: ROOT, encoding: 'utf8', stdio: ['pipe', 'pipe', 'ignore'] }),
    );
    packed = Array.isArray(answer) ? answer[0] : (Object.values(answer)[0] as Packed);
    paths = packed.files.map(({ path }) => path);
  });

  it('has what running, typing and installing need', () => {
    for (const path of [
      'package.json',
      'README.md',
      'LICENSE',
      'CHANGELOG.md',
      'binding.gyp',
      'scripts/install.mjs',
      'native/addon.cc',
      'native/addon.h',
      'dist/index.js',
      'dist/index.d.ts',
      'dist/bin/main.js',
      'dist/vcpu/worker.js',
      manifest.bin.tsvisor,
    ]) {
      expect(paths).toContain(path);
    }
  });

  it('has every source of the addon', () => {
    const sources = readFileSync(join(ROOT, 'binding.gyp'), 'utf8').match(/native\/\w+\.cc/g) ?? [];
    expect(sources.length).toBeGreaterThan(3);
    expect(paths).toEqual(expect.arrayContaining(sources));
  });

  it('has nothing that is not for others', () => {
    expect(
      paths.filter((path) => /^(test|src|bench|build|fixtures|examples|\.|dist\/examples)/.test(path)),
    ).toEqual([]);
    expect(paths.filter((path) => /node_modules|\.node$|\.log$/.test(path))).toEqual([]);
  });

  it('has a command that can be run', () => {
    expect(readFileSync(join(ROOT, manifest.bin.tsvisor), 'utf8')).toMatch(/^#!\/usr\/bin\/env node\n/);
    const main = packed.files.find(({ path }) => path === manifest.bin.tsvisor);
    expect((main?.mode ?? 0) & 0o111).toBe(0o111);
  });
});

describe('a strict TypeScript project', () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'tsvisor-consumer-'));
    mkdirSync(join(folder, 'node_modules/@types'), { recursive: true });
    symlinkSync(ROOT, join(folder, 'node_modules/tsvisor'));
    symlinkSync(join(ROOT, 'node_modules/@types/node'), join(folder, 'node_modules/@types/node'));
    writeFileSync(join(folder, 'package.json'), '{ "type": "module", "private": true }\n');
    writeFileSync(join(folder, 'main.ts'), PROGRAM);
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  it.each([
    ['without', ['ES2023', 'ESNext.Disposable']],
    ['with', ['ES2023', 'ESNext.Disposable', 'DOM']],
  ])('compiles against the declarations %s the types of the DOM', (_, lib) => {
    const compilerOptions = {
      strict: true,
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
      skipLibCheck: false,
      module: 'NodeNext',
      target: 'ES2022',
      lib,
      types: ['node'],
      noEmit: true,
    };
    writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['main.ts'] }));

    const tsc = join(ROOT, 'node_modules/.bin/tsc');
    const { status, stdout } = spawnSync(tsc, ['-p', folder], { encoding: 'utf8' });

    expect(stdout).toBe('');
    expect(status).toBe(0);
  });

  it('finds the names at run time too', () => {
    const code = 'import * as tsvisor from "tsvisor"; console.log(Object.keys(tsvisor).sort().join(" "))';
    const names = execFileSync(process.execPath, ['--input-type=module', '-e', code], {
      cwd: folder,
      encoding: 'utf8',
    });

    expect(names.trim().split(' ')).toEqual(
      expect.arrayContaining([
        'ERROR_CODES',
        'GuestMemory',
        'PageTableBuilder',
        'TsvError',
        'Vm',
        'probeKvm',
      ]),
    );
    expect(existsSync(join(folder, 'node_modules/tsvisor/dist/index.d.ts'))).toBe(true);
  });
});

const PROGRAM = `
import {
  type Device, type DeviceContext, type DeviceState, DirtyBitmap, ERROR_CODES, formatRegisters, GdtBuilder, GuestMemory,
  PageTableBuilder, probeKvm, softwareKvmProfile, TsvError, type VcpuState, Vm, type VmConfig, type VmExit, writeIdt,
} from 'tsvisor';

class Port implements Device {
  readonly name = 'port';
  #context: DeviceContext | undefined;
  attach(context: DeviceContext): void { this.#context = context; }
  async read(_offset: number, size: number): Promise<number> { return size; }
  write(_offset: number, _size: number, value: number): void {
    if (value === 0) this.#context?.stop({ kind: 'exit', status: 1, by: this.name });
    this.#context?.irq(0).pulse();
  }
  save(): DeviceState { return {}; }
  restore(): void {}
}

const config: VmConfig = { memory: '1M', board: 'none', boot: { flat: Uint8Array.of(0xf4), mode: 'real' } };
await using vm = await Vm.create(config);
vm.addDevice(new Port(), { pio: [{ base: 0x42, size: 1 }] });
vm.start();
const match: RegExpExecArray = await vm.console.expect(/x/, { timeout: 1 });
await vm.pause();
const state: Pick<VcpuState, 'regs' | 'sregs'> = await vm.readVcpu(0, 'regs', 'sregs');
await vm.writeVcpu(0, { regs: { ...state.regs, rip: 0n } });
const exit: VmExit = await vm.exited;
if (exit.error instanceof TsvError) console.log(ERROR_CODES[exit.error.code], exit.registers?.map(formatRegisters));
vm.console.readable.pipe(process.stdout);
const memory: GuestMemory = vm.memory;
console.log(match[0], memory.readU64(0), probeKvm().software, softwareKvmProfile().cpu);
console.log(new PageTableBuilder(memory, { start: 0x1000, end: 0x9000 }).cr3, new DirtyBitmap(10).count());
console.log(GdtBuilder.name, writeIdt(memory, 0, new Map()).limit);
`;
