import { defineConfig } from 'vitest/config';
import { CAPABILITIES, filesNeeding, lacking } from './test/support/capabilities.ts';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    exclude: CAPABILITIES.filter((capability) => lacking(capability) !== undefined).flatMap(filesNeeding),
    globalSetup: ['test/support/global-setup.ts'],
    setupFiles: ['test/support/count-machines.ts'],
    // vCPU threads are worker threads; tests therefore live in processes, not in worker threads themselves.
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 60_000,
  },
});
