// needs: kvm
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import * as abi from '../../src/kvm/abi/index.ts';
import { requestName } from '../../src/kvm/fd.ts';
import { probeKvm } from '../../src/kvm/probe.ts';
import { KvmSystem } from '../../src/kvm/system.ts';
import { featureNames } from '../../src/vcpu/cpuid/index.ts';

describe('/dev/kvm', () => {
  it('answers with its capabilities, CPUID leaves and MSRs', () => {
    using kvm = KvmSystem.open();

    expect(kvm.extension(abi.KVM_CAP_USER_MEMORY)).toBeGreaterThan(0);
    expect(kvm.extension(abi.KVM_CAP_NR_MEMSLOTS)).toBeGreaterThanOrEqual(32);
    expect(kvm.extension(0x7fff)).toBe(0);
    expect(kvm.vcpuMmapSize()).toBeGreaterThanOrEqual(8192);
    expect(featureNames(kvm.supportedCpuid())).toEqual(expect.arrayContaining(['fpu', 'sse2', 'lm', 'nx']));
    expect(Array.isArray(kvm.emulatedCpuid())).toBe(true);
    expect(kvm.msrIndices()).toContain(0xc0000082);
    expect(Array.isArray(kvm.featureMsrs())).toBe(true);
  });

  it('reports a device node that is not there', () => {
    expect(() => KvmSystem.open({ path: '/nonexistent/kvm' })).toThrow(
      expect.objectContaining({ code: 'TSV_E_KVM_MISSING', hint: expect.stringContaining('kvm_intel') }),
    );
  });

  it('reports a file that is no KVM', () => {
    expect(() => KvmSystem.open({ path: '/dev/null' })).toThrow(
      expect.objectContaining({ code: 'TSV_E_KVM_CAPABILITY' }),
    );
  });

  it.each([
    ['EACCES', -13, 'TSV_E_KVM_PERMISSION'],
    ['EBUSY', -16, 'TSV_E_KVM_BUSY'],
    ['ENODEV', -19, 'TSV_E_KVM_MISSING'],
  ])('reports %s with a way out', (_, errno, code) => {
    // root may open everything and nothing here holds KVM exclusively, so the answer of open(2) is given.
    const native = { open: () => errno } as unknown as NonNullable<
      Parameters<typeof KvmSystem.open>[0]
    >['native'];

    expect(() => KvmSystem.open({ native })).toThrow(
      expect.objectContaining({ code, hint: expect.stringMatching(/./) }),
    );
  });

  it('reports a real file without permission to a user who is not root', () => {
    const directory = mkdtempSync(join(tmpdir(), 'tsvisor-kvm-'));
    const path = join(directory, 'kvm');
    writeFileSync(path, '');
    chmodSync(path, 0);
    const uid = process.geteuid!();
    try {
      chmodSync(directory, 0o755);
      if (uid === 0) process.seteuid!(65534);
      expect(() => KvmSystem.open({ path })).toThrow(
        expect.objectContaining({ code: 'TSV_E_KVM_PERMISSION' }),
      );
    } finally {
      process.seteuid!(uid);
      rmSync(directory, { recursive: true });
    }
  });
});

describe('the probe', () => {
  it('measures guest code at both privilege levels', () => {
    const probe = probeKvm();

    expect(probe.kernelMips).toBeGreaterThan(0);
    expect(probe.userMips).toBeGreaterThan(0);
    expect(probe.software).toBe(probe.kernelMips < 50);
    if (!probe.software) expect(probe.lacking).toEqual([]);
  });
});

describe('messages', () => {
  it('names requests', () => {
    expect(requestName(abi.KVM_CREATE_VM)).toBe('KVM_CREATE_VM');
    expect(requestName(abi.KVM_SET_SREGS)).toBe('KVM_SET_SREGS');
    expect(requestName(0x1234)).toBe('ioctl 0x1234');
  });
});
