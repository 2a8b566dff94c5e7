/** `tsvisor doctor` on this host, and on hosts that lack something. */
import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { formatSections } from '../../src/cli/commands/doctor.ts';
import { howToGetAccess } from '../../src/cli/doctor/permissions.ts';
import { ENGINES } from '../support/engines.ts';
import { MAIN, runCli } from './support/cli.ts';
import { canUnshare, WITHOUT_KVM } from './support/hidden.ts';

interface Report {
  usable: boolean;
  status: number;
  checks: { id: string; verdict: string; detail: string; repair?: string; data?: Record<string, unknown> }[];
}

const isRoot = process.getuid?.() === 0;
if (!isRoot) console.warn('doctor: the tests for other users and for missing devices need root');
if (isRoot && !canUnshare) console.warn('doctor: the tests for missing devices need mount namespaces');

/** Runs the doctor through another command. */
function through(
  command: readonly string[],
  env: Record<string, string> = {},
): { status: number | null; report: Report } {
  const [file, ...args] = [...command, process.execPath, MAIN, 'doctor', '--json'];
  const { status, stdout } = spawnSync(file, args, { encoding: 'utf8', env: { ...process.env, ...env } });
  return { status, report: JSON.parse(stdout) };
}

const check = (report: Report, id: string) => report.checks.find((found) => found.id === id);

const hasKvm = ENGINES.includes('kvm');

describe('doctor', () => {
  it('finds this host usable, with a verdict for everything', async () => {
    const ended = await runCli(['doctor', '--json']);

    const report: Report = JSON.parse(ended.stdout);
    expect(ended.status).toBe(0);
    expect(report).toMatchObject({ usable: true, status: 0 });
    for (const id of ['host.kernel', 'host.cpu', 'kvm.addon', 'kvm.device', 'kvm.access']) {
      expect(report.checks.map((found) => found.id)).toContain(id);
    }
    for (const found of report.checks) expect(['ok', 'warn', 'fail']).toContain(found.verdict);
    expect(check(report, 'engine.tcg')).toMatchObject({ verdict: 'ok' });
    expect(check(report, 'engine.tcg')?.data?.mips).toBeGreaterThan(0);
    expect(check(report, 'engine.kvm')?.verdict).toBe(hasKvm ? 'ok' : 'fail');
  });

  it.runIf(hasKvm)("tells KVM's capabilities and speed", async () => {
    const report: Report = JSON.parse((await runCli(['doctor', '--json'])).stdout);

    expect(check(report, 'kvm.api')?.verdict).toBe('ok');
    expect(check(report, 'kvm.capabilities')?.data).toMatchObject({ KVM_CAP_USER_MEMORY: 1 });
    expect(check(report, 'kvm.speed')?.data?.kernelMips).toBeGreaterThan(0);
  });

  it('prints plain text where there is no terminal', async () => {
    const ended = await runCli(['doctor']);

    expect(ended.stdout).toMatch(/^Host$/m);
    expect(ended.stdout).toMatch(/^ {2}ok {4}tcg /m);
    expect(ended.stdout).not.toContain('\x1b');
  });

  it('says why the addon is missing', () => {
    const { status, report } = through(['env'], { TSVISOR_ADDON: '/nonexistent/tsvisor.node' });

    expect(status).toBe(0);
    expect(check(report, 'kvm.addon')).toMatchObject({ verdict: 'fail' });
    expect(check(report, 'kvm.addon')?.detail).toContain('/nonexistent/tsvisor.node');
    expect(check(report, 'engine.kvm')?.verdict).toBe('fail');
    expect(check(report, 'engine.tcg')?.verdict).toBe('ok');
  });

  it.runIf(hasKvm && isRoot)('tells a user without permission what to type', () => {
    const { status, report } = through(['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups']);

    expect(status).toBe(0);
    const access = check(report, 'kvm.access');
    if (access?.verdict === 'ok') return; // this host lets everybody use KVM
    expect(access?.repair).toMatch(/^sudo (setfacl|usermod|chmod) /);
    expect(check(report, 'engine.kvm')?.detail).toContain('TSV_E_KVM_PERMISSION');
  });

  it.runIf(hasKvm && canUnshare)('says that /dev/kvm is missing', () => {
    const { status, report } = through(WITHOUT_KVM);

    expect(status).toBe(0);
    expect(check(report, 'kvm.device')).toMatchObject({ verdict: 'fail', detail: 'it is not there' });
    expect(check(report, 'kvm.device')?.repair).not.toBe('');
    expect(check(report, 'engine.kvm')?.detail).toContain('TSV_E_KVM_MISSING');
    expect(check(report, 'engine.tcg')?.verdict).toBe('ok');
  });

  it.runIf(hasKvm && canUnshare)('notices a /dev/kvm that is something else', () => {
    const { status, report } = through([
      'unshare',
      '-m',
      'sh',
      '-c',
      'mount --bind /dev/zero /dev/kvm && exec "$@"',
      'sh',
    ]);

    expect(status).toBe(0);
    expect(check(report, 'engine.kvm')?.detail).toContain('TSV_E_KVM_CAPABILITY');
  });
});

describe('the command that gives access to /dev/kvm', () => {
  const base = { group: 'kvm', gid: 104, mode: 0o20660, username: 'alice', isMember: false };

  it('adds the user to the group that may use it', () => {
    expect(howToGetAccess('/dev/kvm', base)).toBe('sudo usermod -aG kvm alice, then log in again');
  });

  it('uses an access list where the group is root', () => {
    expect(howToGetAccess('/dev/kvm', { ...base, group: 'root', gid: 0 })).toBe(
      'sudo setfacl -m u:alice:rw /dev/kvm',
    );
  });

  it('opens the device to the group where the group may not use it', () => {
    const closed = { ...base, mode: 0o20600 };
    expect(howToGetAccess('/dev/kvm', { ...closed, isMember: true })).toBe('sudo chmod g+rw /dev/kvm');
    expect(howToGetAccess('/dev/kvm', closed)).toContain('sudo usermod -aG kvm alice');
  });
});

describe("the doctor's text", () => {
  const section = [
    {
      title: 'KVM',
      checks: [{ id: 'a', title: 'Thing', verdict: 'fail' as const, detail: 'broken', repair: 'mend it' }],
    },
  ];

  it('shows how to repair what is wrong', () => {
    expect(formatSections(section, false)).toMatch(/^KVM\n {2}fail {2}Thing +broken\n +-> mend it\n$/);
  });

  it('is coloured only when asked', () => {
    expect(formatSections(section, true)).toContain('\x1b[31mfail\x1b[0m');
  });
});
