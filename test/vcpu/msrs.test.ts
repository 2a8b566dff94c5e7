import { expect, test } from 'vitest';
import { bootMsrs, MSR, snapshotMsrs } from '../../src/vcpu/msrs.ts';

const LISTED = [
  0x174, 0xc0000081, 0x10, 0x277, 0xc0000102, 0x11, 0x12, 0x4b564d01, 0x6e0, 0x10a, 0x345, 0xc1, 0x8b,
];

test('boot values are those firmware leaves', () => {
  const values = new Map(bootMsrs().map(({ index, data }) => [index, data]));

  expect(values.get(MSR.IA32_PAT)).toBe(0x0007040600070406n);
  expect(values.get(MSR.IA32_MTRR_DEF_TYPE)).toBe(0x806n);
  expect(values.get(MSR.IA32_MISC_ENABLE)).toBe(1n);
});

test('boot values are limited to what the host supports', () => {
  const indices = bootMsrs([MSR.IA32_PAT]).map(({ index }) => index);

  expect(indices).toEqual([MSR.IA32_PAT, MSR.IA32_MTRR_DEF_TYPE]);
});

test('a snapshot restores the TSC first and the deadline last', () => {
  const saved = snapshotMsrs(LISTED);

  expect(saved[0]).toBe(MSR.IA32_TSC);
  expect(saved.at(-1)).toBe(MSR.IA32_TSC_DEADLINE);
  expect(new Set(saved).size).toBe(saved.length);
});

test('a snapshot leaves out host facts, counters and what sregs hold', () => {
  const saved = snapshotMsrs([...LISTED, MSR.IA32_EFER, MSR.IA32_APIC_BASE, MSR.IA32_PRED_CMD]);

  const unwanted = [
    0x10a,
    0x345,
    0xc1,
    0x8b,
    0x11,
    0x12,
    MSR.IA32_EFER,
    MSR.IA32_APIC_BASE,
    MSR.IA32_PRED_CMD,
  ];
  expect(saved.filter((index) => unwanted.includes(index))).toEqual([]);
  expect(saved).toEqual(expect.arrayContaining([0x174, 0xc0000081, 0xc0000102, 0x4b564d01, 0x2ff, 0x20f]));
});
