/** What the command says about guests that end in ways only a whole machine can show, and about kernels that are none. */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { probeKvm } from '../../src/index.ts';
import type { EngineName } from '../../src/vcpu/engine.ts';
import { assemble, CODE16 } from '../support/assemble.ts';
import { ENGINES } from '../support/engines.ts';
import { file, MAIN, runCli, scratch } from './support/cli.ts';
import { exit, HALT, kernelElf, print, print64, SPIN } from './support/guests.ts';
import { bzImage } from './support/kernels.ts';
import { OnTerminal } from './support/terminal.ts';

/** mov dx, port; mov ax, value; out dx, ax */
const out16 = (port: number, value: number) => [
  ...[0xba, port & 0xff, port >> 8, 0xb8, value & 0xff, value >> 8, 0xef],
];
/** mov dx, port; mov al, value; out dx, al */
const out8 = (port: number, value: number) => [0xba, port & 0xff, port >> 8, 0xb0, value, 0xee];

const hasKvm = ENGINES.includes('kvm');
const ERROR = (code: string) => new RegExp(`^tsvisor: ${code}: .+\\n {2}\\S`, 'm');

describe('the exit status', () => {
  it('of ACPI power-off is 0', async () => {
    // PM1a control: SLP_TYP 5, SLP_EN.
    const ended = await runCli(['run', '--flat', file([...out16(0x604, 0x3400), ...HALT])]);

    expect(ended.status).toBe(0);
    expect(ended.stderr).toContain('the guest powered off');
  });

  it('of a panic told by pvpanic is 6, with the registers', async () => {
    const ended = await runCli(['run', '--flat', file([...out8(0x505, 1), ...SPIN])]);

    expect(ended.status).toBe(6);
    expect(ended.stderr).toMatch(ERROR('TSV_E_GUEST_PANIC'));
    expect(ended.stderr).not.toContain('..');
    expect(ended.stderr).toContain('RIP=');
  });

  it("of a panic in Linux's words on the console is 6, with the reason and all output", async () => {
    const report =
      'Kernel panic - not syncing: VFS: Unable to mount root fs\r\n---[ end Kernel panic - not syncing: VFS ]---\r\n';
    const ended = await runCli(['run', '--flat', file([...print(report), ...SPIN])]);

    expect(ended).toMatchObject({ status: 6, stdout: report });
    expect(ended.stderr).toMatch(ERROR('TSV_E_GUEST_PANIC'));
    expect(ended.stderr).toContain('VFS: Unable to mount root fs');
  });

  it('is not that of a panic with --no-stop-on-panic, while the guest goes on', async () => {
    const code = [...out8(0x505, 1), ...print('going on\n'), ...SPIN];
    const ended = await runCli(['run', '--flat', file(code), '--no-stop-on-panic', '--timeout', '0.5']);

    expect(ended.stdout).toBe('going on\n');
    expect(ended.status).not.toBe(0);
  });

  // fldpi, which a software KVM cannot emulate; tcg and hardware run it.
  const fldpi = () => file(kernelElf([0xd9, 0xeb, ...print64('ran'), ...exit(1)]), 'vmlinux');

  it('of x87 arithmetic in a kernel is its own', async () => {
    expect(await runCli(['run', '--accel', 'tcg', '--kernel', fldpi()])).toMatchObject({
      status: 3,
      stdout: 'ran',
    });
  });

  it.runIf(hasKvm)(
    'of an instruction that KVM cannot emulate is 6, with its name, bytes, place and registers',
    async () => {
      const ended = await runCli(['run', '--accel', 'kvm', '--kernel', fldpi()]);

      if (probeKvm().software) {
        expect(ended.status).toBe(6);
        expect(ended.stderr).toMatch(ERROR('TSV_E_GUEST_INSTRUCTION'));
        expect(ended.stderr).toMatch(/"fldpi" \(d9 eb.*\) at 0x100000/);
        expect(ended.stderr).toMatch(/RIP=0000000000100000/);
        expect(ended.stderr).toMatch(/Code=d9 eb/);
      } else expect(ended).toMatchObject({ status: 3, stdout: 'ran' });
    },
  );
});

describe('a long report', () => {
  it('arrives whole where both outputs lead to one pipe', () => {
    // 64 register dumps are more than a pipe holds (64 KiB).
    const accel = hasKvm ? 'kvm' : 'tcg';
    const command = `"${process.execPath}" "${MAIN}" run --accel ${accel} --flat "${file(SPIN)}" --cpus 64 --timeout 1 2>&1 | { sleep 3; cat; }`;
    const { stdout } = spawnSync('bash', ['-c', command], { encoding: 'utf8' });

    expect(stdout.match(/^vCPU \d+/gm)).toHaveLength(64);
    expect(stdout).toMatch(ERROR('TSV_E_TIMEOUT'));
  });
});

describe('machine code', () => {
  it('runs in real mode wherever it is put', async () => {
    const path = file(
      assemble(`${CODE16} mov ax, cs; out 0xe9, al; mov al, 0x41; out 0xe9, al; mov al, 3; out 0xf4, al`),
    );
    const ended = await runCli(['run', '--flat', path, '--flat-address', '0x20000']);

    // The code segment is 0x2000, whose low byte is 0.
    expect(ended).toMatchObject({ status: 7, stdout: '\0A' });
  });

  it('runs in 64-bit mode wherever it is put and entered', async () => {
    const code = assemble('hlt; hlt; lea rax, [rip - 9]; shr rax, 20; out 0xe9, al; mov al, 3; out 0xf4, al');
    const ended = await runCli([
      ...['run', '--flat', file(code), '--flat-mode', 'long64'],
      ...['--flat-address', '0x4200000', '--flat-entry', '0x4200002'],
    ]);

    expect(ended).toMatchObject({ status: 7, stdout: '\x42' });
  });
});

describe('--trace', () => {
  const code = assemble(
    'mov rbx, 0xd0000000; mov eax, 0x1234; mov [rbx], eax; mov edi, 0x300000; cmpxchg16b [rdi]; mov al, 1; out 0xf4, al',
  );
  const traced = (accel: EngineName) =>
    runCli([
      ...['run', '--accel', accel, '--flat', file(code), '--flat-mode', 'long64'],
      ...['--trace', 'mmio,exits,assist'],
    ]);

  it.each(ENGINES)('shows MMIO without a device on %s', async (accel) => {
    const ended = await traced(accel);

    expect(ended.status).toBe(3);
    expect(ended.stderr).toMatch(/^vcpu0 exit MMIO$/m);
    expect(ended.stderr).toMatch(/^vcpu0 mmio write 0xd0000000\/4 0x1234 \(unclaimed\)$/m);
    expect(ended.stderr).not.toMatch(/^vcpu0 io /m);
  });

  it.runIf(hasKvm)('shows the instructions that are assisted', async () => {
    const assists = /^vcpu0 assist 0x[\da-f]+ cmpxchg16b completed$/m;

    expect(assists.test((await traced('kvm')).stderr)).toBe(probeKvm().lacking.includes('cx16'));
  });
});

describe('a kernel that is none', () => {
  /** An ELF64 executable for AArch64. */
  const aarch64 = () => {
    const elf = kernelElf([0]);
    elf[18] = 183;
    return file(elf, 'vmlinux');
  };
  const cut = (bytes: Uint8Array, length: number) => file(bytes.subarray(0, length), 'cut');
  const folder = () => {
    const path = join(scratch(), 'boot');
    mkdirSync(path);
    return path;
  };
  const cases: [string, () => string, string][] = [
    ['missing', () => '/nonexistent/vmlinuz', 'TSV_E_FILE'],
    ['a directory', folder, 'TSV_E_FILE'],
    ['a device', () => '/dev/null', 'TSV_E_FILE'],
    ['empty', () => file([], 'empty'), 'TSV_E_FILE'],
    ['for AArch64', aarch64, 'TSV_E_KERNEL_ARCH'],
    ['an ELF file cut off', () => cut(kernelElf(exit(1)), 100), 'TSV_E_KERNEL_TRUNCATED'],
    ['a bzImage cut off', () => cut(bzImage(kernelElf(exit(1))), 1100), 'TSV_E_KERNEL_TRUNCATED'],
  ];

  it.each(cases)('because it is %s is refused, and the terminal stays as it was', async (_, path, code) => {
    const terminal = new OnTerminal(['run', '--kernel', path()]);

    const { status, restored, screen } = await terminal.ended();

    expect({ status, restored, raw: terminal.modes.includes(true) }).toEqual({
      status: 2,
      restored: true,
      raw: false,
    });
    expect(screen.replaceAll('\r', '')).toMatch(ERROR(code));
    expect(screen).not.toContain('    at ');
  });

  it('because it must not be read is refused by name', () => {
    const path = file(kernelElf(exit(1)), 'vmlinux');
    chmodSync(path, 0);
    // Root without these two capabilities reads what its permissions allow.
    const privileges = process.getuid?.() === 0 ? ['--bounding-set=-dac_override,-dac_read_search'] : [];
    const command = [...privileges, process.execPath, MAIN, 'run', '--kernel', path];
    const { status, stderr } = spawnSync('setpriv', command, { encoding: 'utf8' });

    expect(stderr).toMatch(ERROR('TSV_E_FILE'));
    expect(stderr).toContain(path);
    expect(status).toBe(2);
  });
});

describe('kernel extract', () => {
  it('gives a kernel that boots', async () => {
    const output = join(scratch(), 'vmlinux');
    await runCli(['kernel', 'extract', file(bzImage(kernelElf(exit(9))), 'vmlinuz'), '-o', output]);

    expect((await runCli(['run', '--kernel', output])).status).toBe(19);
  });
});
