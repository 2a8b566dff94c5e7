/** Which engine `auto` takes. */
import { expect, it } from 'vitest';
import { resolveConfig } from '../../src/machine/config.ts';
import { chooseEngine } from '../../src/machine/engine-choice.ts';
import { ENGINES } from '../support/engines.ts';

const boot = { flat: Uint8Array.of(0xf4) };

it.each([
  ['memory', { memory: '5G' }],
  ['memory beside that of its vCPUs', { memory: '3G', cpus: 64 }],
  ['vCPUs', { cpus: 65 }],
])('a machine with more %s than tcg has room for is run by kvm where there is one', (_, options) => {
  const choice = chooseEngine(resolveConfig({ accel: 'auto', boot, ...options }));

  expect(choice.engine).toBe(ENGINES.includes('kvm') ? 'kvm' : 'tcg');
});

it('tcg says what it has no room for', () => {
  const create = (options: object) => () => {
    const config = resolveConfig({ accel: 'tcg', boot, ...options });
    return chooseEngine(config).create(config, undefined as never);
  };

  expect(create({ memory: '5G' })).toThrow(expect.objectContaining({ code: 'TSV_E_MEMORY_SIZE' }));
  expect(create({ memory: '3G', cpus: 64 })).toThrow(expect.objectContaining({ code: 'TSV_E_MEMORY_SIZE' }));
  expect(create({ cpus: 65 })).toThrow(expect.objectContaining({ code: 'TSV_E_CPU_COUNT' }));
});
