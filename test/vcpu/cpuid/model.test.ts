import fc from 'fast-check';
import { expect, test } from 'vitest';
import { TsvError } from '../../../src/errors.ts';
import { findFeature, parseCpuModel } from '../../../src/vcpu/cpuid/index.ts';

function failure(text: string): TsvError {
  try {
    parseCpuModel(text);
  } catch (error) {
    if (error instanceof TsvError) return error;
  }
  throw new Error('a TsvError was expected');
}

test('parses a model with added and removed features', () => {
  expect(parseCpuModel('x86-64-v2,+aes, -popcnt')).toEqual({
    model: 'x86-64-v2',
    add: ['aes'],
    remove: ['popcnt'],
  });
});

test('takes the spellings of QEMU', () => {
  expect(parseCpuModel('HOST,+sse4.2,+tsc-deadline,-lzcnt,-SSE3')).toEqual({
    model: 'host',
    add: ['sse4_2', 'tsc_deadline_timer'],
    remove: ['abm', 'pni'],
  });
});

test('names the known models when there is no such model', () => {
  const error = failure('x86-64-v9');

  expect(error.code).toBe('TSV_E_CPU_MODEL');
  expect(error.hint).toMatch(/Did you mean 'x86-64-v\d'\? Known models: host, x86-64-v1/);
});

test('names the nearest feature when there is no such feature', () => {
  expect(failure('host,+popcmt').hint).toMatch(/'popcnt'/);
});

test('lists all features when none is near', () => {
  expect(failure('host,-?').hint).toMatch(/Known features: .*aes.*xsave/);
});

test.each([
  ['host,aes'],
  ['host,'],
  ['host,+'],
  ['host,+aes,-aes'],
  [''],
  ['constructor'],
  ['host,+constructor'],
])('refuses %j', (text) => {
  expect(failure(text).code).toBe('TSV_E_CPU_MODEL');
});

test('never throws anything but a TsvError', () => {
  fc.assert(
    fc.property(fc.string(), (text) => {
      try {
        parseCpuModel(text);
        parseCpuModel(`host,+${text}`);
      } catch (error) {
        expect(error).toBeInstanceOf(TsvError);
      }
    }),
  );
});

test('prototype names are no features', () => {
  expect(findFeature('constructor')).toBeUndefined();
  expect(findFeature('__proto__')).toBeUndefined();
});
